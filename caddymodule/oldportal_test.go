//go:build browser

package caddymodule_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"mime/multipart"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The portal in testdata/oldportal is a typical PHP portal under php-fpm: it knows nothing of the
// gate, and works behind it as without it.

// startFPM starts php-fpm and returns its socket. It ends with the test.
func startFPM(t *testing.T) (socket string) {
	t.Helper()
	binary, err := exec.LookPath("php-fpm")
	if err != nil {
		found, _ := filepath.Glob("/usr/sbin/php-fpm*") // Debian includes the version in the name
		if len(found) == 0 {
			t.Fatal("no php-fpm here; ./test.sh installs it")
		}
		binary = slices.Max(found)
	}
	dir := t.TempDir()
	socket = filepath.Join(dir, "fpm.sock")
	config := fmt.Sprintf(`[global]
error_log = %[1]s/fpm.log
[portal]
listen = %[2]s
pm = static
pm.max_children = 4
catch_workers_output = yes
php_admin_value[session.save_path] = %[1]s
php_admin_value[error_log] = %[1]s/php.log
php_admin_flag[log_errors] = on
php_admin_value[upload_max_filesize] = 64M
php_admin_value[post_max_size] = 64M
`, dir, socket)
	args := []string{"--nodaemonize", "--fpm-config", filepath.Join(dir, "fpm.conf")}
	if os.Getuid() == 0 {
		config += "user = root\n" // other users can't read this test's folder
		args = append(args, "--allow-to-run-as-root")
	}
	if err := os.WriteFile(args[2], []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if log, err := os.ReadFile(filepath.Join(dir, "php.log")); err == nil {
			t.Errorf("PHP complains:\n%s", log)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("php-fpm ended: %v\n%s", err, &said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("php-fpm has no socket after 10 s\n%s", &said)
		}
	}
}

// phpHouse is a house in front of the old portal. direct is the portal's URL without the gate.
type phpHouse struct {
	*house
	direct string
}

// openPHPHouse opens it, with the portal behind php_fastcgi or reverse_proxy. A layout without an
// app gets a mail server.
func openPHPHouse(t *testing.T, behind string, l layout) *phpHouse {
	t.Helper()
	root, err := filepath.Abs("testdata/oldportal")
	if err != nil {
		t.Fatal(err)
	}
	serves := fmt.Sprintf("root %s\n\tphp_fastcgi unix/%s\n\tfile_server", root, startFPM(t))
	direct := freeAddress(t)
	l.more += fmt.Sprintf("http://%s {\n\t%s\n}\n", direct, serves)
	if behind == "reverse_proxy" {
		serves = "reverse_proxy " + direct
	}
	l.firm, l.companies, l.admin, l.site = oldLinks, oldCompanies, freeAddress(t), l.site+serves
	if l.app != "" {
		return &phpHouse{openHouse(t, l), "http://" + direct}
	}
	h, _ := openFastHouse(t, l)
	return &phpHouse{h, "http://" + direct}
}

// eachWay runs a test with the portal in each of the two ways behind the gate.
func eachWay(t *testing.T, test func(t *testing.T, behind string)) {
	for _, behind := range []string{"php_fastcgi", "reverse_proxy"} {
		t.Run(behind, func(t *testing.T) { test(t, behind) })
	}
}

// goesOn follows a redirect as a browser does.
func (b *browser) goesOn(a answer) answer {
	b.h.t.Helper()
	for range 10 {
		if a.StatusCode < 300 || a.StatusCode > 399 {
			return a
		}
		to, err := a.Location()
		if err != nil {
			b.h.t.Fatal(err)
		}
		a = b.open(to.String())
	}
	b.h.t.Fatalf("it leads on and on, at last to %s", goes(a))
	return a
}

// at returns the path and query of a response's page.
func at(a answer) string { return a.Request.URL.RequestURI() }

// uploads sends a file in a form.
func (b *browser) uploads(path string, size int) (a answer, sum string) {
	b.h.t.Helper()
	file := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreateFormFile("file", "large.bin")
	if err == nil {
		_, err = part.Write(file)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		b.h.t.Fatal(err)
	}
	is := md5.Sum(file)
	return b.do(b.request("POST", path, &body, "Content-Type", w.FormDataContentType(), "Origin", b.h.url, "Sec-Fetch-Site", "same-origin")), hex.EncodeToString(is[:])
}

var script = []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}

// events opens server-sent events and returns the first ones.
func (b *browser) events(path string) string {
	b.h.t.Helper()
	ctx, cancel := context.WithTimeout(b.h.t.Context(), 10*time.Second)
	defer cancel()
	resp, err := b.client.Do(b.request("GET", path, nil, append(script, "Accept", "text/event-stream")...).WithContext(ctx))
	if err != nil {
		b.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 64)
	n, err := resp.Body.Read(first)
	return fmt.Sprintf("%d %s %s %v", resp.StatusCode, resp.Header.Get("Content-Type"), strings.TrimSpace(string(first[:n])), err)
}

// walk does what a client of acme does with the portal at base, and returns what the client saw.
func walk(b *browser, base string) []string {
	const old = "/one-click/acme-secret-token-1/"
	var saw []string
	sees := func(what string, a answer) {
		saw = append(saw, fmt.Sprintf("%s: %d %s %q %q\n%s", what, a.StatusCode, strings.ReplaceAll(goes(a), base, ""),
			a.Header.Get("Content-Disposition"), strings.Join(a.Header["Refresh"], ""), strings.ReplaceAll(a.body, base, "")))
	}
	sees("the dashboard before", b.open(base+"/logout.php"))
	sees("the old link", b.open(base+old))
	for range 2 {
		sees("the dashboard", b.open(base+"/dashboard.php"))
	}
	sees("an order", b.open(base+old+"orders/7?tab=2&x=%C3%A9"))
	sees("a form", b.send(base+old+"note", form("note", "Zwölf <Kästen>")))
	sees("what was sent", b.open(base+old+"orders/7?saved=1"))
	sees("a fetch", b.open(base+old+"notes.json", script...))
	sees("a download", b.open(base+old+"statement.csv"))
	sees("a relative redirect", b.open(base+old+"latest"))
	sees("cookie and refresh", b.open(base+old+"remember"))
	a, sum := b.uploads(base+old+"upload", 8<<20)
	sees("an upload", a)
	saw = append(saw, sum, b.events(base+old+"events"))
	sees("HEAD", b.do(b.request("HEAD", base+old, nil)))
	sees("a page that isn't", b.open(base+old+"nothing"))
	sees("the stylesheet", b.open(base+"/assets/portal.css", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "style", "Accept", "text/css"))
	sees("another old link of theirs", b.open(base+"/one-click/acme-secret-token-2/"))
	sees("the dashboard", b.open(base+"/dashboard.php"))
	sees("another company's", b.open(base+"/one-click/birch-secret-token/"))
	sees("the dashboard", b.open(base+"/dashboard.php"))
	sees("leaving", b.open(base+"/logout.php"))
	sees("the dashboard after", b.open(base+"/dashboard.php"))
	return saw
}

// Before the upgrade, the portal behind the gate gives every client the same responses as without
// the gate.
func TestPHPBeforeTheUpgrade(t *testing.T) {
	eachWay(t, func(t *testing.T, behind string) {
		h := openPHPHouse(t, behind, layout{})
		b := h.browser()
		b.open("/one-click/acme-secret-token-1/") // a visit: without one, /logout.php is for signed-in visitors
		without, with := walk(h.browser(), h.direct), walk(b, h.url)
		for i := range without {
			if with[i] != without[i] {
				t.Errorf("with the gate, %s\n\nwithout it, %s", with[i], without[i])
			}
		}
		if seen := strings.Join(with, "\n"); !strings.Contains(seen, `<p id="client">Acme Ltd</p>`) || !strings.Contains(seen, "<li>Zwölf &lt;Kästen&gt;</li>") || !strings.Contains(seen, `<p id="client">Birch &amp; Sons</p>`) {
			t.Errorf("the portal doesn't work:\n%s", seen)
		}
		if a := h.browser().open("/dashboard.php"); a.StatusCode != 401 {
			t.Errorf("the dashboard of who never had a link = %d; want 401", a.StatusCode)
		}
	})
}

// mute fails the test if a header of a response contains a token of an upgraded company.
func mute(t *testing.T, a answer) {
	t.Helper()
	for name, values := range a.Header {
		if text := strings.Join(values, "\n"); strings.Contains(text, "secret-token") {
			t.Errorf("%s: %s has a token: %s", a.Request.URL, name, text)
		}
	}
}

// After the upgrade the same link leads to the same page after sign-in, and the unchanged portal
// works for the member as before.
func TestPHPAfterTheUpgrade(t *testing.T) {
	eachWay(t, func(t *testing.T, behind string) {
		h := openPHPHouse(t, behind, layout{})
		b := h.browser()
		const old = "/one-click/acme-secret-token-1/"
		if a := b.goesOn(b.open(old)); at(a) != "/dashboard.php" || !strings.Contains(a.body, "Acme Ltd") {
			t.Fatalf("before the upgrade the old link leads to %s\n%s", at(a), a.body)
		}
		h.upgrade("acme")
		if a := b.open("/dashboard.php"); a.StatusCode != 401 || strings.Contains(a.body, "Acme") {
			t.Errorf("the dashboard, with the visit and the session from before the upgrade = %d; want 401", a.StatusCode)
		}
		const page = "orders/7?tab=2&x=%C3%A9"
		a := b.goesOn(b.open(old + page))
		gone := at(a)
		if a.StatusCode != 401 || !goneForm.MatchString(gone) {
			t.Fatalf("the old link leads to %s (%d); want the prompt at /-/go", gone, a.StatusCode)
		}
		a = b.goesOn(b.open(b.ask("bob@example.com", gone).link))
		if at(a) != "/portal/acme/"+page || !strings.Contains(a.body, `<p id="at">`+old+"orders/7?tab=2&amp;x=%C3%A9</p>") {
			t.Fatalf("after proof it leads to %s; want the same page by its new link, and REQUEST_URI the old one\n%s", at(a), a.body)
		}
		gets := func(path, lands, shows string, headers ...string) answer {
			t.Helper()
			a := b.open(path, headers...)
			mute(t, a)
			a = b.goesOn(a)
			mute(t, a)
			if a.StatusCode != 200 || at(a) != lands || !strings.Contains(a.body, shows) {
				t.Errorf("%s leads to %s (%d); want %s, with %q\n%s", path, at(a), a.StatusCode, lands, shows, a.body)
			}
			return a
		}
		gets("/", "/dashboard.php", "Acme Ltd")
		gets(old, "/dashboard.php", `<p id="seen">2</p>`) // by its new link; the portal sees the old one
		gets(old+"orders/8", "/portal/acme/orders/8", "Order 8")
		gets("/one-click/acme-secret-token-2/orders/8", "/portal/acme/orders/8", old+"orders/8")
		gets("/view?client=acme-secret-token-2&y=1", "/overview/acme?y=1", "/view?client=acme-secret-token-1&amp;y=1")
		gets(old+"statement.csv", "/portal/acme/statement.csv", `"Acme Ltd",100`)
		gets(old+"notes.json", old+"notes.json", `"at":"`+old+`notes.json"`, script...)
		gets("/portal/acme/notes.json", "/portal/acme/notes.json", `"at":"`+old+`notes.json"`, script...)
		gets("/portal/acme/latest", "/portal/acme/orders/7", "Order 7")
		if a := gets("/portal/acme/remember", "/portal/acme/remember", "One moment"); !slices.Contains(a.Header["Set-Cookie"], "seen=yes; path=/portal/acme/") && !slices.Contains(a.Header["Set-Cookie"], "seen=yes; Path=/portal/acme/") ||
			a.Header.Get("Refresh") != "0; url=/portal/acme/orders/7" || a.Header.Get("Content-Location") != "/portal/acme/remembered" {
			t.Errorf("cookie and refresh: %v; want them by the new link", a.Header)
		}
		a = b.send(old+"note", form("note", "Zwölf <Kästen>"))
		mute(t, a)
		if goes(a) != h.url+"/portal/acme/orders/7?saved=1" {
			t.Errorf("a form sent to an old URL leads to %q (%d)", goes(a), a.StatusCode)
		}
		if a = b.goesOn(a); !strings.Contains(a.body, "<li>Zwölf &lt;Kästen&gt;</li>") {
			t.Errorf("what was sent isn't there\n%s", a.body)
		}
		for _, path := range []string{old, "/portal/acme/"} {
			if a, sum := b.uploads(path+"upload", 32<<20); a.StatusCode != 200 || !strings.Contains(a.body, fmt.Sprintf("large.bin %d %s", 32<<20, sum)) {
				t.Errorf("an upload to %s = %d\n%s", path, a.StatusCode, a.body)
			}
			if got := b.events(path + "events"); got != "200 text/event-stream;charset=UTF-8 data: Acme Ltd <nil>" {
				t.Errorf("events at %s: %s", path, got)
			}
		}
		if a := b.do(b.request("HEAD", old+"orders/7", nil)); a.StatusCode != 302 || goes(a) != "/portal/acme/orders/7" {
			t.Errorf("HEAD of an old link = %d to %q; want what GET gets", a.StatusCode, goes(a))
		}
		if a := b.do(b.request("HEAD", "/portal/acme/", nil)); a.StatusCode != 302 || goes(a) != "/dashboard.php" {
			t.Errorf("HEAD of a new link = %d to %q; want what GET gets", a.StatusCode, goes(a))
		}
		h.command("upgrade", "--undo", "acme")
		if a := h.browser(); at(a.goesOn(a.open(old))) != "/dashboard.php" {
			t.Error("undone, the old link doesn't work as before the upgrade")
		}
	})
}

// The portal's session belongs to the contact for whom it began, although the portal doesn't know
// contacts.
func TestPHPSessionBelongsToItsContact(t *testing.T) {
	eachWay(t, func(t *testing.T, behind string) {
		h := openPHPHouse(t, behind, layout{})
		h.upgrade("acme", "birch")
		b := h.browser()
		shows := func(path string, status int, text string) {
			t.Helper()
			if a := b.goesOn(b.open(path)); a.StatusCode != status || !strings.Contains(a.body, text) {
				t.Errorf("%s leads to %s (%d); want %d with %q\n%s", path, at(a), a.StatusCode, status, text, a.body)
			}
		}
		b.signIn("ann@example.com")
		shows("/portal/acme/", 200, "Acme Ltd")
		shows("/dashboard.php", 200, `<p id="seen">2</p>`)
		shows("/portal/birch/", 200, "Birch &amp; Sons") // she switches
		shows("/dashboard.php", 200, "Birch &amp; Sons")
		shows("/portal/acme/orders/7", 200, "Acme Ltd") // and back
		shows("/dashboard.php", 200, "Acme Ltd")
		if sid := b.cookie("PHPSESSID"); !strings.HasPrefix(sid, "~.") {
			t.Errorf("PHPSESSID is %q; want it bound", sid)
		}
		anns := b.cookie("PHPSESSID")

		b.send("/-/sign-out", url.Values{}) // Bob uses the same machine
		shows("/dashboard.php", 401, `name="email"`)
		b.signIn("bob@example.com")
		shows("/dashboard.php", 403, "Who are you?")
		shows("/portal/acme/", 200, `<p id="seen">1</p>`)
		shows("/dashboard.php", 200, `<p id="seen">2</p>`)
		if a := b.send("/overview/acme", form("note", "hello")); !strings.Contains(a.body, `<p id="client">Acme Ltd</p>`) {
			t.Errorf("a form at /overview/acme = %d\n%s", a.StatusCode, a.body)
		}
		for _, to := range []string{"/overview/acme", "/view?client=acme-secret-token-1", "/view"} { // PHP prefers values in the form
			if a := b.send(to, form("client", "birch-secret-token")); a.StatusCode != 404 || strings.Contains(a.body, "Birch") {
				t.Errorf("a form at %s with another company's token = %d; want PHP's 404\n%s", to, a.StatusCode, a.body)
			}
		}
		for name, stolen := range map[string]string{"bound": anns, "bare": anns[strings.LastIndexByte(anns, '.')+1:]} {
			if a := h.get("/dashboard.php", b.session()+"; PHPSESSID="+stolen); a.status != 403 {
				t.Errorf("with Ann's PHPSESSID (%s), the dashboard for Bob = %d\n%s", name, a.status, a.body)
			}
		}

		h.command("contacts", "set", "bob@example.com", "--companies", "birch")
		shows("/dashboard.php", 403, "Who are you?") // although the portal still has the session
		shows("/portal/acme/", 404, "not in your portal")
		shows("/portal/birch/", 200, "Birch &amp; Sons")

		h.command("upgrade", "--undo", "acme") // a visitor by an open company's link, after him
		b.send("/-/sign-out", url.Values{})
		shows("/one-click/acme-secret-token-1/orders/7", 200, "Acme Ltd")
		shows("/dashboard.php", 200, "Acme Ltd")
		if a := h.get("/dashboard.php", "Cookie: portal-visit="+b.cookie("portal-visit")+"; PHPSESSID="+anns); a.status != 403 {
			t.Errorf("with Ann's PHPSESSID, the dashboard for a visitor = %d\n%s", a.status, a.body)
		}
	})
}

// No log contains a token, in either setup: neither at the default level, nor at the most detailed
// level without the request and response logs of Caddy's own handlers.
func TestPHPNoLogHasACompanysToken(t *testing.T) {
	for _, level := range []string{"INFO", "DEBUG\n\t\texclude http.handlers.reverse_proxy http.handlers.rewrite http.reverse_proxy.transport.fastcgi"} {
		eachWay(t, func(t *testing.T, behind string) {
			log := newLogFile(t)
			global := strings.ReplaceAll(strings.TrimPrefix(log.global, "debug\n\t"), "level DEBUG", "level "+level)
			h := openPHPHouse(t, behind, layout{global: global, site: log.site + "\n\t"})
			b := h.browser()
			b.goesOn(b.open("/one-click/acme-secret-token-1/"))
			h.upgrade("acme")
			b.signIn("bob@example.com")
			for _, path := range []string{"/portal/acme/", "/portal/acme/orders/7", "/one-click/acme-secret-token-1/orders/7", "/view?client=acme-secret-token-1", "/overview/acme"} {
				b.goesOn(b.open(path))
			}
			b.send("/one-click/acme-secret-token-1/note", form("note", "x"))
			text := log.text(t)
			for line := range strings.Lines(text) {
				if strings.Contains(line, "secret-token") {
					t.Errorf("a log line has the token: %s", line)
				}
			}
			if !strings.Contains(text, `"uri":"/portal/acme/orders/7"`) || !strings.Contains(text, `"uri":"/one-click/{token}/*"`) {
				t.Errorf("the log doesn't tell of the requests:\n%s", text)
			}
		})
	}
}
