//go:build unix

package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Validate rejects settings that are well-formed but can't work.
func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	dir := home(t)
	write := func(name, text string) string {
		path := filepath.Join(filepath.Dir(dir), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens := write("tokens.csv", "id,legacy_tokens\nacme,tok-1\nbirch,\n")
	plain := write("plain.csv", "id,name\nacme,Acme\n")
	password := write("password", "something")
	write("own/mails/.keep", "")
	write("pages/pages/.keep", "")
	for _, pipe := range []string{"own/mails/sign-in.txt", "pages/pages/prompt.html", "pipe"} {
		if err := syscall.Mkfifo(filepath.Join(filepath.Dir(dir), pipe), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(filepath.Dir(dir), name) }
	const links = "\nlegacy_link /one-click/{token}/* /portal/{company}/*"
	for _, c := range []struct{ name, global, firm, want string }{
		{"tokens without legacy_link", "", "companies " + tokens, "companies: " + tokens + " has tokens of old links, but there is no legacy_link"},
		{"tokens with legacy_link", "", "companies " + tokens + links, ""},
		{"no tokens", "", "companies " + plain, ""},
		{"public within a company's path", "", "companies " + plain + "\ncompany_path /files/{company}/*\npublic /files/acme/x", "public: /files/acme/x is a path of the company acme, which stays closed"},
		{"public beside companies' paths", "", "companies " + plain + "\ncompany_path /files/{company}/*\npublic /files/help/*", ""},
		{"a password that is a file", "mail smtp localhost:25 {\n username a\n password " + password + "\n tls off\n }", "", "mail password: " + password + " is a file, and what is written here would be taken as the secret itself; write {file." + password + "}"},
		{"a password that is a placeholder without braces", "mail smtp localhost:25 {\n username a\n password file." + password + "\n tls off\n }", "", "mail password: file." + password + " would be taken as the secret itself; write {file." + password + "}"},
		{"a password of Redis that is a variable without braces", "secret {env.DOORPOST_TEST_SECRET}\nstore redis redis://localhost {\n password env.REDIS_PASSWORD\n }", "", "store password: env.REDIS_PASSWORD would be taken as the secret itself; write {env.REDIS_PASSWORD}"},
		{"a password that is a variable of the shell", "mail smtp localhost:25 {\n username a\n password $DOORPOST_TEST_SECRET\n tls off\n }", "", "write {env.DOORPOST_TEST_SECRET}"},
		{"a password that looks like a variable", "mail smtp localhost:25 {\n username a\n password $ECRET\n tls off\n }", "", ""},
		{"a password of Redis that is a file", "secret {env.DOORPOST_TEST_SECRET}\nstore redis redis://localhost {\n password " + password + "\n }", "", "store password: " + password + " is a file"},
		{"a mail template that is a pipe", "", "templates " + at("own"), "own/mails/sign-in.txt is no file"},
		{"a page that is a pipe", "", "templates " + at("pages"), "pages/pages/prompt.html is no file"},
		{"contacts that are a pipe", "", "contacts " + at("pipe"), "pipe is no file"},
		{"a placeholder that is a pipe", "", "staff {file." + at("pipe") + "}", "pipe is no file"},
		{"a placeholder that is a device", "", "staff {file./dev/zero}", "/dev/zero is no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("DOORPOST_TEST_SECRET", strings.Repeat("0123456789abcdef", 4))
			s := siteBlock{global: c.global, firm: c.firm}
			config := s.caddyfile()
			if strings.HasPrefix(c.global, "mail") {
				config = strings.Replace(config, "mail folder ./mail\n", "", 1)
			}
			done := make(chan error, 1)
			go func() { done <- validate(t, config) }()
			select {
			case err := <-done:
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("validate = %v; want %q", err, c.want)
				}
			case <-time.After(time.Minute):
				t.Fatal("validate doesn't end")
			}
		})
	}
}

// If nobody can sign in, a start logs this, and what to write.
func TestAStartWithoutContactsIsLogged(t *testing.T) {
	home(t)
	started := func(firm string) string {
		t.Helper()
		log := filepath.Join(t.TempDir(), "log")
		if err := caddy.Load(adapt(t, siteBlock{options: fmt.Sprintf("log {\n output file %s\n }", log), firm: firm}.caddyfile()), true); err != nil {
			t.Fatal(err)
		}
		stop(t)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	got := started("")
	for _, want := range []string{"the Caddyfile names no contacts and no staff", "nobody can sign in: there is no contact", `write \"staff owner@example.com\"`} {
		if !strings.Contains(got, want) {
			t.Errorf("the log doesn't say %q:\n%s", want, got)
		}
	}
	if got := started("staff owner@example.com"); strings.Contains(got, "nobody can sign in") || strings.Contains(got, "names no contacts") {
		t.Errorf("with staff, the log says\n%s", got)
	}
}

// The example stores everything in its folder, including the secret; a store created with
// the secret of the data folder can still be used.
func TestExampleKeepsEverythingInItsFolder(t *testing.T) {
	dir := home(t)
	example := abs(t, "example")
	config := adapt(t, strings.Replace(siteBlock{global: "store bolt ./example/doorpost.db", firm: "staff owner@example.com"}.caddyfile(), "./mail", "./example/mail", 1))
	run := func() {
		t.Helper()
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
		stop(t)
	}
	run()
	if _, err := os.Stat(filepath.Join(example, "secret")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("there is a folder %s beside the example's", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(example, "secret"), filepath.Join(dir, "secret")); err != nil {
		t.Fatal(err)
	}
	run() // or the store couldn't be read
	if _, err := os.Stat(filepath.Join(example, "secret")); err == nil {
		t.Error("a second secret was made")
	}
}

// An accent before the @ is named on the page, too.
func TestAccentBeforeTheAtIsNamedOnThePage(t *testing.T) {
	home(t)
	base := serve(t, siteBlock{firm: "staff owner@example.com"})
	res, err := http.PostForm(base+"/-/sign-in", url.Values{"email": {"jérôme@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "can’t have the letter “é” before the @") {
		t.Errorf("POST /-/sign-in = %d, %v\n%s\nwant that é is named", res.StatusCode, err, body)
	}
}
