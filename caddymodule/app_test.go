package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// siteBlock is a Caddyfile with one firm on a free port of this machine.
type siteBlock struct {
	global  string // lines of the global option, besides mail
	options string // further global options
	firm    string // lines of the firm, besides url and brand
	before  string // lines of the site before doorpost
	within  string // a directive whose block contains doorpost and the portal
	portal  string // the portal; default: respond "the portal"
	more    string // further site blocks
}

func (s siteBlock) caddyfile() string {
	if s.portal == "" {
		s.portal = `respond "the portal"`
	}
	if s.within != "" {
		s.within, s.portal = s.within+" {", s.portal+"\n\t}"
	}
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	%s
	doorpost {
		mail folder ./mail
		%s
	}
}
http://:0 {
	bind 127.0.0.1
	%s
	%s
	doorpost example {
		url http://localhost:8080
		brand {
			name "Example Bookkeeping"
			from hello@example.com
		}
		public /open /kept/*
		%s
	}
	%s
}
%s
`, s.options, s.global, s.before, s.within, s.firm, s.portal, s.more)
}

func adapt(t *testing.T, caddyfile string) []byte {
	t.Helper()
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// load loads the config into the one Caddy of this process, until the test ends.
func load(t *testing.T, s siteBlock) error {
	t.Helper()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("caddy.Stop() = %v", err)
		}
	})
	return caddy.Load(adapt(t, s.caddyfile()), true)
}

// serve loads the config and returns the base URL of its site.
func serve(t *testing.T, s siteBlock) string {
	t.Helper()
	if err := load(t, s); err != nil {
		t.Fatal(err)
	}
	return base(t)
}

func base(t *testing.T) string {
	t.Helper()
	v, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range v.(*caddyhttp.App).Servers {
		return "http://" + srv.Listeners()[0].Addr().String()
	}
	t.Fatal("no server")
	return ""
}

func get(t *testing.T, url string) (status int, body string, header http.Header) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func validate(t *testing.T, caddyfile string) error {
	t.Helper()
	var cfg caddy.Config
	if err := json.Unmarshal(adapt(t, caddyfile), &cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

// home gives the test a data folder that doesn't exist yet, and returns Doorpost's folder
// in it.
func home(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	t.Setenv("XDG_DATA_HOME", dir)
	t.Chdir(filepath.Dir(dir))
	return config.DataDir()
}

func TestServes(t *testing.T) {
	home(t)
	url := serve(t, siteBlock{})
	if status, body, _ := get(t, url+"/open"); status != 200 || body != "the portal" {
		t.Errorf("GET /open = %d %q; want 200 \"the portal\"", status, body)
	}
}

func TestModules(t *testing.T) {
	for _, id := range []string{"doorpost", "http.handlers.doorpost"} {
		if _, err := caddy.GetModule(id); err != nil {
			t.Errorf("GetModule(%s) = %v; want it registered", id, err)
		}
	}
}

// TestValidateCreatesNoFiles: validate creates neither files nor folders.
func TestValidateCreatesNoFiles(t *testing.T) {
	dir := home(t)
	if err := validate(t, siteBlock{}.caddyfile()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil || len(entries) != 0 {
		t.Errorf("validate made %v in the folder of %s (%v); want nothing", entries, dir, err)
	}
}

// TestValidateBesideARunningServer: validate doesn't open the store, which a server in
// another process or in this one may use.
func TestValidateBesideARunningServer(t *testing.T) {
	dir := home(t)
	db, err := bolt.Open(filepath.Join(dir, "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := validate(t, siteBlock{}.caddyfile()); err != nil {
		t.Errorf("validate = %v; want nil", err)
	}
	if err := load(t, siteBlock{}); !errors.Is(err, bolt.ErrHeld) && !strings.Contains(fmt.Sprint(err), bolt.ErrHeld.Error()) {
		t.Errorf("load = %v; want ErrHeld", err)
	}
	if n, open := engines.References(config.Location{Path: filepath.Join(dir, "doorpost.db")}); open {
		t.Errorf("after a failed start the engine has %d users; want none", n)
	}
}

func TestReloadKeepsTheStoreOpen(t *testing.T) {
	dir := home(t)
	path := filepath.Join(dir, "doorpost.db")
	serve(t, siteBlock{})
	first := activeApp(t).server.Engine
	first.Keep("example\x00limiter", func() any { return "full" })
	for i := range 20 {
		url := serve(t, siteBlock{firm: fmt.Sprintf("link_lifetime %dm", i+1)})
		if status, _, _ := get(t, url+"/open"); status != 200 {
			t.Fatalf("after reload %d: GET /open = %d; want 200", i, status)
		}
	}
	now := activeApp(t).server.Engine
	if now != first {
		t.Error("the engine is another one after a reload")
	}
	if v := now.Keep("example\x00limiter", func() any { return "empty" }); v != "full" {
		t.Errorf("kept = %v; want full", v)
	}
	if n, _ := engines.References(config.Location{Path: path}); n != 1 {
		t.Errorf("the engine has %d users; want 1", n)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, open := engines.References(config.Location{Path: path}); open {
		t.Error("the engine is still open after Stop")
	}
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatalf("opening the store after Stop: %v", err)
	}
	db.Close()
}

func activeApp(t *testing.T) *App {
	t.Helper()
	v, err := caddy.ActiveContext().AppIfConfigured("doorpost")
	if err != nil {
		t.Fatal(err)
	}
	return v.(*App)
}

// TestOldRequestKeepsItsStore: if Caddy cleans up the old configuration during one of its
// requests, the store stays open until the request ends.
func TestOldRequestKeepsItsStore(t *testing.T) {
	dir := home(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(inside)
		<-goOn
		io.WriteString(w, "late")
	}))
	defer portal.Close()
	oldPath, newPath := filepath.Join(dir, "old.db"), filepath.Join(dir, "new.db")
	url := serve(t, siteBlock{global: "store bolt " + oldPath, portal: "reverse_proxy " + portal.Listener.Addr().String()})
	old := activeApp(t)
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get(url + "/open")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	select {
	case <-inside:
	case got := <-answer:
		t.Fatalf("the portal wasn't asked; the answer was %q", got)
	}
	serve(t, siteBlock{global: "store bolt " + newPath})
	if n, _ := engines.References(config.Location{Path: oldPath}); n != 1 {
		t.Errorf("with a request inside, the old engine has %d users; want 1", n)
	}
	if _, err := old.server.Engine.Store.Get(t.Context(), canary); err != nil {
		t.Errorf("with a request inside, the old store says %v; want the canary", err)
	}
	close(goOn)
	if got := <-answer; got != "late" {
		t.Errorf("the old request got %q; want \"late\"", got)
	}
	for range 100 { // the handler returns shortly after the answer
		if _, open := engines.References(config.Location{Path: oldPath}); !open {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, open := engines.References(config.Location{Path: oldPath}); open {
		t.Error("the old engine is still open after its last request")
	}
	// Caddy starts a few requests with the old configuration even now.
	f, leave, err := old.enter(t.Context(), "example")
	if err != nil || f != activeApp(t).firms["example"] {
		t.Fatalf("enter after Cleanup = %p, %v; want the firm of the config that runs now", f, err)
	}
	leave()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := old.enter(t.Context(), "example"); !errors.Is(err, errStopped) {
		t.Errorf("enter after all is over = %v; want errStopped", err)
	}
}

func TestSecretFile(t *testing.T) {
	dir := home(t)
	serve(t, siteBlock{})
	path := filepath.Join(dir, "secret")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the secret file = %o; want 600", got)
	}
	if folder, err := os.Stat(dir); err != nil || folder.Mode().Perm() != 0o700 {
		t.Errorf("mode of %s = %v, %v; want 700", dir, folder.Mode(), err)
	}
	first, err := config.ReadSecretFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stop(t)
	serve(t, siteBlock{})
	if again, _ := config.ReadSecretFile(path); string(again) != string(first) {
		t.Error("a second start made another secret")
	}
	stop(t)

	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	want := "every user of this machine can read " + path + "; run: chmod 600 " + path
	for name, err := range map[string]error{"validate": validate(t, siteBlock{}.caddyfile()), "load": load(t, siteBlock{})} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s with a secret that all can read = %v; want %q", name, err, want)
		}
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	err = load(t, siteBlock{})
	if want := "secret: " + path + " is gone, and the store"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("load without the secret file of a store = %v; want %q", err, want)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a new secret was made for a store that another one closed")
	}
}

func stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
}

// canaryOf returns the canary of a closed store.
func canaryOf(t *testing.T, path string) []byte {
	t.Helper()
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rec, err := db.Get(t.Context(), canary)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Value
}

func TestSecretChange(t *testing.T) {
	path := filepath.Join(home(t), "doorpost.db")
	first, second := secret.Random(), secret.Random()
	t.Setenv("DOORPOST_TEST_FIRST", first)
	t.Setenv("DOORPOST_TEST_SECOND", second)
	serve(t, siteBlock{global: "secret {env.DOORPOST_TEST_FIRST}"})
	stop(t)
	before := canaryOf(t, path)

	err := load(t, siteBlock{global: "secret {env.DOORPOST_TEST_SECOND}"})
	if want := "sealed with another secret, or damaged; write the secret that it was sealed with first, or behind the new one"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("load with a wrong secret = %v; want %q", err, want)
	}
	stop(t)
	if after := canaryOf(t, path); string(after) != string(before) {
		t.Error("a wrong secret changed the store")
	}

	serve(t, siteBlock{global: "secret {env.DOORPOST_TEST_FIRST} {env.DOORPOST_TEST_SECOND}"})
	stop(t)
	if after := canaryOf(t, path); string(after) != string(before) {
		t.Error("the newest secret opens the store, but the canary was written anew")
	}

	serve(t, siteBlock{global: "secret {env.DOORPOST_TEST_SECOND} {env.DOORPOST_TEST_FIRST}"})
	resealed(t)
	stop(t)
	if after := canaryOf(t, path); string(after) == string(before) {
		t.Error("an older secret opened the store, but the newest didn't close it again")
	}
	serve(t, siteBlock{global: "secret {env.DOORPOST_TEST_SECOND}"})
}

// resealed waits until everything is sealed with the newest secret.
func resealed(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		behind := false
		for _, f := range activeApp(t).firms {
			behind = behind || f.Anchor.Err() != nil || f.Anchor.Status().Behind > 0
		}
		if !behind {
			return
		}
		if time.Now().After(end) {
			t.Fatal("not everything is sealed with the newest secret after 20 s")
		}
	}
}

func TestNewerStore(t *testing.T) {
	path := filepath.Join(home(t), "doorpost.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Apply(t.Context(), store.Put(canary, []byte{0xff}, time.Time{})); err != nil {
		t.Fatal(err)
	}
	db.Close()
	t.Setenv("DOORPOST_TEST_FIRST", secret.Random())
	err = load(t, siteBlock{global: "secret {env.DOORPOST_TEST_FIRST}"})
	if want := "was written by a newer Doorpost"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("load = %v; want %q", err, want)
	}
}

// TestFailedReload: the old configuration stays in use, and nothing of the new one
// remains.
func TestFailedReload(t *testing.T) {
	dir := home(t)
	url := serve(t, siteBlock{})
	t.Setenv("DOORPOST_TEST_FIRST", secret.Random())
	for range 5 {
		if err := load(t, siteBlock{global: "secret {env.DOORPOST_TEST_FIRST}"}); err == nil {
			t.Fatal("a reload with a wrong secret succeeded")
		}
		if status, _, _ := get(t, url+"/open"); status != 200 {
			t.Errorf("after a failed reload GET /open = %d; want 200", status)
		}
	}
	if n, _ := engines.References(config.Location{Path: filepath.Join(dir, "doorpost.db")}); n != 1 {
		t.Errorf("the engine has %d users; want 1", n)
	}
}

// TestSecretsAreNotExposed: neither the configuration, nor the log at level debug, nor an
// exported field contains the value of a placeholder.
func TestSecretsAreNotExposed(t *testing.T) {
	home(t)
	t.Setenv("DOORPOST_TEST_KEY", secret.Random())
	t.Setenv("DOORPOST_TEST_PASSWORD", "sesame-open-the-door")
	if err := os.WriteFile("user", []byte("portal-user\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, siteBlock{
		options: "debug\nlog {\n\t\toutput file " + abs(t, "caddy.log") + "\n\t}\nservers {\n\t\ttrace\n\t}",
		global:  `secret {env.DOORPOST_TEST_KEY}`,
		more: `
http://localhost:0 {
	bind 127.0.0.1
	respond "other"
}`,
	})
	app := activeApp(t)
	if string(app.resolved.Secrets[0]) != os.Getenv("DOORPOST_TEST_KEY") {
		t.Fatal("the secret wasn't filled in")
	}
	mail := &App{log: app.log, Server: config.Server{Mail: &config.Mail{Transport: "smtp", Address: "smtp.example.com:587", Username: "{file./" + abs(t, "user")[1:] + "}", Password: "{env.DOORPOST_TEST_PASSWORD}"}}}
	filled, err := mail.Server.Resolve(app.log)
	if err != nil {
		t.Fatal(err)
	}
	if filled.Mail.Password != "sesame-open-the-door" || filled.Mail.Username != "portal-user" {
		t.Errorf("filled in = %q, %q; want the values", filled.Mail.Username, filled.Mail.Password)
	}
	mail.resolved = filled
	for name, v := range map[string]any{"the app": app, "the app with mail": mail} {
		shown, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{os.Getenv("DOORPOST_TEST_KEY"), "sesame", "portal-user"} {
			if strings.Contains(string(shown), value) {
				t.Errorf("%s shows %q: %s", name, value, shown)
			}
		}
	}
	logged, err := os.ReadFile("caddy.log")
	if err != nil || !strings.Contains(string(logged), `"level":"debug"`) {
		t.Fatalf("the log has no debug line: %v", err)
	}
	if strings.Contains(string(logged), os.Getenv("DOORPOST_TEST_KEY")) {
		t.Error("the log shows the secret")
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProvisionErrors: errors that depend on the machine name setting and path.
func TestProvisionErrors(t *testing.T) {
	home(t)
	if err := os.WriteFile("plain", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("folder", 0o700); err != nil {
		t.Fatal(err)
	}
	wd := abs(t, ".")
	t.Setenv("DOORPOST_TEST_SHORT", "short")
	t.Setenv("DOORPOST_TEST_AGAIN", "{env.HOME}")
	t.Setenv("DOORPOST_TEST_OWNER", "The Owner")
	for _, c := range []struct {
		site siteBlock
		want string
	}{
		{siteBlock{firm: "contacts missing.csv"}, "firm example: contacts: stat missing.csv: no such file or directory (Caddy was started in " + wd + "; an absolute path is good from anywhere)"},
		{siteBlock{firm: "companies folder"}, "firm example: companies: folder is no file; write the path of one"},
		{siteBlock{firm: "templates plain"}, "firm example: templates: plain is no folder; write the path of one"},
		{siteBlock{firm: "templates /nowhere/templates"}, "firm example: templates: open /nowhere/templates: no such file or directory; correct the path, or put there what belongs there"},
		{siteBlock{firm: "staff {env.DOORPOST_TEST_NOT_SET}"}, `firm example: staff: evaluated placeholder {env.DOORPOST_TEST_NOT_SET} is empty; write {env.NAME} or {file./PATH}, and \{ for a brace that is meant as one`},
		{siteBlock{firm: "templates {evn.CONFIG}"}, `firm example: templates: unrecognized placeholder {evn.CONFIG}`},
		{siteBlock{firm: "staff {env.DOORPOST_TEST_OWNER}"}, `firm example: staff: "The Owner": not an email address`},
		{siteBlock{firm: "templates {env.DOORPOST_TEST_AGAIN}"}, "firm example: templates: what the placeholder stands for is a placeholder again"},
		{siteBlock{global: "secret {file./nowhere/secret}"}, "secret: {file./nowhere/secret}: stat /nowhere/secret: no such file or directory"},
		{siteBlock{global: "secret {env.DOORPOST_TEST_SHORT}"}, "secret: a secret needs at least 32 random characters"},
		{siteBlock{global: "store bolt folder"}, "store: " + wd + "/folder is a folder; write the path of a file in it, such as " + wd + "/folder/doorpost.db"},
		{siteBlock{global: "store bolt plain/doorpost.db"}, "store: " + wd + "/plain is no folder; write a path in one"},
		{siteBlock{more: "http://other:0 {\n\tdoorpost exampel\n}"}, `firm exampel is named, but no site block defines it; write "doorpost exampel { url …, brand … }" in one of them`},
	} {
		err := validate(t, c.site.caddyfile())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("validate(%+v) = %v; want %q", c.site, err, c.want)
		}
	}
}

// TestExplain: errors of unreadable files say how to make them readable for Caddy's user.
// A root user can read everything, so the test makes the errors.
func TestExplain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "contacts.csv")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	behind := filepath.Join(file, "contacts.csv") // a file in the path fails like an inaccessible folder
	for _, c := range []struct {
		path string
		err  error
		want string
	}{
		{file, syscall.EACCES, "open " + file + ": permission denied; let Caddy's user read it: chgrp caddy " + file + " && chmod 640 " + file},
		{dir, syscall.EACCES, "open " + dir + ": permission denied; let Caddy's user read it: chgrp caddy " + dir + " && chmod 750 " + dir},
		{behind, syscall.EACCES, "open " + behind + ": permission denied; Caddy's user can't enter every folder on the way to it; put it where it can, such as in /etc/doorpost"},
		{"/x", syscall.ENOENT, "open /x: no such file or directory; correct the path, or put there what belongs there"},
		{"/x", syscall.EIO, "open /x: input/output error"},
	} {
		err := config.WithAdvice(&fs.PathError{Op: "open", Path: c.path, Err: c.err})
		if err.Error() != c.want || !errors.Is(err, c.err) {
			t.Errorf("explain(open %s: %v) = %v; want %s", c.path, c.err, err, c.want)
		}
	}
}

// TestFurtherSiteBlocks: the block that defines the firm may come first or last, in any
// order in which Caddy provisions its servers.
func TestFurtherSiteBlocks(t *testing.T) {
	home(t)
	more := `
http://127.0.0.1:0 {
	bind 127.0.0.2
	route {
		doorpost example
		respond "here"
	}
}
http://localhost:0 {
	bind 127.0.0.3
	handle {
		doorpost example
	}
}`
	for range 20 {
		if err := validate(t, siteBlock{more: more}.caddyfile()); err != nil {
			t.Fatal(err)
		}
		alone := siteBlock{more: more}.caddyfile()
		alone = alone[:strings.Index(alone, "http://:0 {")] + more
		if err := validate(t, alone); err == nil || !strings.Contains(err.Error(), "no site block defines it") {
			t.Fatalf("validate without a definition = %v; want an error", err)
		}
	}
}

// TestWarnings: a secret readable by too many users is logged.
func TestWarnings(t *testing.T) {
	home(t)
	for name, mode := range map[string]os.FileMode{"open": 0o644, "shut": 0o640} {
		if err := os.WriteFile(name, []byte(secret.Random()), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DOORPOST_TEST_KEY", secret.Random())
	for _, c := range []struct{ secret, want string }{
		{"{file." + abs(t, "open") + "}", "every user of this machine can read the secret; run: chgrp caddy " + abs(t, "open") + " && chmod 640 " + abs(t, "open")},
		{"{file." + abs(t, "shut") + "}", ""},
		{"{env.DOORPOST_TEST_KEY}", ""},
		{secret.Random(), "secret is written out in the config, where /config and autosave.json show it"},
	} {
		var logged strings.Builder
		s := config.Server{Secret: []string{c.secret}, Mail: &config.Mail{Transport: "folder", Path: "mail"}}
		filled, err := s.Resolve(slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" && logged.Len() > 0 || !strings.Contains(logged.String(), c.want) {
			t.Errorf("secret %s is logged as %q; want %q", c.secret, logged.String(), c.want)
		}
		if strings.Contains(logged.String(), string(filled.Secrets[0])) {
			t.Errorf("the log shows the secret: %s", logged.String())
		}
	}
}

func TestTwoDefinitionsInJSON(t *testing.T) {
	a := &App{named: map[string]*config.Firm{}}
	one, two := &config.Firm{URL: "https://one.example.com"}, &config.Firm{URL: "https://two.example.com"}
	for _, c := range []struct {
		def  *config.Firm
		fail bool
	}{
		{nil, false}, {one, false}, {nil, false},
		{&config.Firm{URL: "https://one.example.com"}, false}, // one site block, two servers
		{two, true}, {nil, false},
	} {
		if err := a.name("example", c.def); (err != nil) != c.fail {
			t.Errorf("name(%+v) = %v; want an error: %v", c.def, err, c.fail)
		}
	}
	if a.named["example"].URL != one.URL {
		t.Errorf("the definition is %+v; want the first", a.named["example"])
	}
}

// TestAPathChangedBeforeDoorpostIsRefused: if another directive changed the path before doorpost, the request is
// refused. The log says what to do; the page doesn't.
func TestAPathChangedBeforeDoorpostIsRefused(t *testing.T) {
	home(t)
	url := serve(t, siteBlock{
		options: "log {\n\t\toutput file " + abs(t, "caddy.log") + "\n\t}",
		before: `route /in/* {
		uri strip_prefix /in
		doorpost example
	}
	handle_path /cut/* {
		doorpost example
	}
	handle /-/* {
		doorpost example
	}`,
		within: "handle /kept/*",
		portal: `rewrite /kept/late /later
		respond "{path}"`,
	})
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/in/orders", 500, "This site is misconfigured; its log says how.\n"},
		{"/cut/orders?t=TOKEN", 500, "This site is misconfigured; its log says how.\n"},
		{"/cut/orders?t=TOKEN", 500, "This site is misconfigured; its log says how.\n"},
		{"/kept/orders", 200, "/kept/orders"},
		{"/kept/late", 200, "/later"}, // rewrite runs after doorpost
	} {
		status, body, header := get(t, url+c.path)
		if status != c.status || body != c.body {
			t.Errorf("GET %s = %d %q; want %d %q", c.path, status, body, c.status, c.body)
		}
		if status == 500 && header.Get("Cache-Control") != "no-store, no-transform" {
			t.Errorf("GET %s may be cached: %v", c.path, header)
		}
	}
	logged, err := os.ReadFile("caddy.log")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(logged), "something changed the path or the query before doorpost saw it"); n != 2 {
		t.Errorf("the log says it %d times; want once for each of the two places", n)
	}
	if strings.Contains(string(logged), "TOKEN") {
		t.Errorf("the log shows the token: %s", logged)
	}
}

// TestARequestBeforeStartWaits: a request before Start waits for it, for a limited time.
func TestARequestBeforeStartWaits(t *testing.T) {
	newHandler := func() *Handler {
		a := &App{ready: make(chan struct{}), share: &share{}, firms: map[string]*firm{"example": {}}}
		a.share.users.Store(1)
		return &Handler{Site: config.Site{Firm: "example"}, app: a}
	}
	t.Run("soon", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, began := newHandler().app, time.Now()
			time.AfterFunc(time.Second, func() { close(a.ready) })
			f, leave, err := a.enter(t.Context(), "example")
			if f != a.firms["example"] || err != nil || time.Since(began) != time.Second {
				t.Fatalf("enter = %p, %v after %s; want the firm after 1s", f, err, time.Since(began))
			}
			if n := a.share.users.Load(); n != 2 {
				t.Errorf("%d users with a request inside; want 2", n)
			}
			leave()
			if n := a.share.users.Load(); n != 1 {
				t.Errorf("%d users after the request; want 1", n)
			}
		})
	})
	t.Run("never", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, w, began := newHandler(), httptest.NewRecorder(), time.Now()
			if err := h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil), nil); err != nil {
				t.Errorf("GET / = %v; want nil, as Caddy would log the URL", err)
			}
			if w.Code != 503 || w.Header().Get("Retry-After") != "1" || time.Since(began) != startWait {
				t.Errorf("GET / = %d, Retry-After %q after %s; want 503, 1 after %s", w.Code, w.Header().Get("Retry-After"), time.Since(began), startWait)
			}
		})
	})
	t.Run("gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, _, err := newHandler().app.enter(ctx, "example"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("enter for a visitor who has gone = %v; want DeadlineExceeded", err)
			}
		})
	})
	t.Run("replaced", func(t *testing.T) {
		h, w := newHandler(), httptest.NewRecorder()
		close(h.app.ready)
		h.app.share.users.Store(0)
		if err := h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil), nil); err != nil || w.Code != 503 {
			t.Errorf("GET / of a config that was cleaned up = %d, %v; want 503", w.Code, err)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		a := newHandler().app
		close(a.ready)
		if _, _, err := a.enter(t.Context(), "other"); !errors.Is(err, errNoFirm) || a.share.users.Load() != 1 {
			t.Errorf("enter(other) = %v, %d users; want errNoFirm and 1", err, a.share.users.Load())
		}
	})
}

func TestAChangedPathIsDetected(t *testing.T) {
	for _, c := range []struct {
		asked, now string
		want       bool
	}{
		{"/orders/7", "/orders/7", false},
		{"/orders/7?a=b", "/orders/7?c=d", false}, // only the path counts
		{"/in/orders/7", "/orders/7", true},
		{"/a%2Fb", "/a%2Fb", false},
		{"/a%2Fb", "/a/b", true},
		{"/A", "/a", true},
	} {
		asked, r := httptest.NewRequest("GET", c.asked, nil), httptest.NewRequest("GET", c.now, nil)
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, http.Request{URL: asked.URL}))
		if got := urlChanged(r, nil); got != c.want {
			t.Errorf("urlChanged(%s to %s) = %v; want %v", c.asked, c.now, got, c.want)
		}
	}
}

// A user name or password from a file is rejected if an editor added invisible
// characters: the server would only report a wrong password.
func TestPasswordFilesWithInvisibleCharactersAreRejected(t *testing.T) {
	home(t)
	for text, want := range map[string]string{
		"hush": "", "hush\n": "", "hu sh\n": "",
		"\ufeffhush\n": "begins with a byte order mark",
		"hush\r\n":     "", // Caddy removes these
		"hush\r\n\r\n": "line breaks of Windows",
		"hush\n\n":     "more than one line break",
		"hush ":        "begins or ends with a blank",
		" hush\n":      "begins or ends with a blank",
		"hush\t\n":     "begins or ends with a blank",
	} {
		if err := os.WriteFile("password", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for setting, global := range map[string]string{
			"mail password":  "mail smtp smtp.example.com:587 {\n\t\t\tusername portal\n\t\t\tpassword {file." + abs(t, "password") + "}\n\t\t}",
			"mail username":  "mail smtp smtp.example.com:587 {\n\t\t\tusername {file." + abs(t, "password") + "}\n\t\t\tpassword {env.HOME}\n\t\t}",
			"store password": "secret {env.DOORPOST_TEST_KEY}\n\t\tstore redis redis://localhost {\n\t\t\tpassword {file." + abs(t, "password") + "}\n\t\t}",
		} {
			t.Setenv("DOORPOST_TEST_KEY", secret.Random())
			err := validate(t, strings.Replace(siteBlock{global: global}.caddyfile(), "mail folder ./mail\n", map[bool]string{true: "mail folder ./mail\n", false: "\n"}[strings.HasPrefix(setting, "store")], 1))
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), setting) || strings.Contains(err.Error(), "hush")) {
				t.Errorf("%s of %q: validate = %v; want %q", setting, text, err, want)
			}
		}
	}
}
