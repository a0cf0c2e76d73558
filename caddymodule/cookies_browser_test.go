//go:build browser

package caddymodule_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// firefox is a browser with an empty profile, controlled through its built-in Marionette.
type firefox struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	id   int
}

func startFirefox(t *testing.T) *firefox {
	t.Helper()
	binary := ""
	for _, name := range []string{"firefox-esr", "firefox"} {
		if p, err := exec.LookPath(name); err == nil {
			binary = p
			break
		}
	}
	if binary == "" {
		t.Fatal("no Firefox here; ./test.sh installs it")
	}
	profile := t.TempDir()
	prefs := "user_pref(\"marionette.port\", 0);\nuser_pref(\"datareporting.policy.dataSubmissionEnabled\", false);\nuser_pref(\"app.update.enabled\", false);\nuser_pref(\"network.captive-portal-service.enabled\", false);\nuser_pref(\"network.connectivity-service.enabled\", false);\n"
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(prefs), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--headless", "--marionette", "--no-remote", "--profile", profile)
	cmd.Env = append(os.Environ(), "HOME="+profile, "MOZ_CRASHREPORTER_DISABLE=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &firefox{t: t}
	t.Cleanup(func() {
		if f.conn != nil {
			f.command("Marionette:Quit", map[string]any{"flags": []string{"eForceQuit"}})
			f.conn.Close()
		}
		ended := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		ended.Stop()
	})
	for deadline := time.Now().Add(time.Minute); f.conn == nil; time.Sleep(50 * time.Millisecond) {
		if port, err := os.ReadFile(filepath.Join(profile, "MarionetteActivePort")); err == nil {
			f.conn, _ = net.Dial("tcp", "127.0.0.1:"+strings.TrimSpace(string(port)))
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatal("Firefox doesn't listen after a minute")
		}
	}
	f.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	f.in = bufio.NewReader(f.conn)
	f.message() // its greeting
	f.command("WebDriver:NewSession", map[string]any{})
	return f
}

// message reads a message: its length, a colon, and JSON.
func (f *firefox) message() []byte {
	f.t.Helper()
	length, err := f.in.ReadString(':')
	if err != nil {
		f.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		f.t.Fatal(err)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(f.in, body); err != nil {
		f.t.Fatal(err)
	}
	return body
}

// command sends a command and returns its result.
func (f *firefox) command(name string, params map[string]any) json.RawMessage {
	f.t.Helper()
	f.id++
	body, err := json.Marshal([]any{0, f.id, name, params})
	if err != nil {
		f.t.Fatal(err)
	}
	fmt.Fprintf(f.conn, "%d:%s", len(body), body)
	var answer [4]json.RawMessage // type, ID, error, result
	if err := json.Unmarshal(f.message(), &answer); err != nil {
		f.t.Fatal(err)
	}
	if string(answer[2]) != "null" {
		f.t.Fatalf("Firefox, %s: %s", name, answer[2])
	}
	return answer[3]
}

// In Chromium and Firefox, portal cookies of every size that the browser accepts without the gate
// also work behind it, also if concurrent answers set different ones.
func TestBrowserKeepsLargePortalCookies(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	h.portal.mu.Lock()
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if name := r.URL.Query().Get("set"); name != "" {
			n, _ := strconv.Atoi(r.URL.Query().Get("size"))
			w.Header().Add("Set-Cookie", name+"="+strings.Repeat("v", n-len(name))+"; Path=/; HttpOnly; SameSite=Lax")
		}
		fmt.Fprint(w, `<!doctype html><title>Portal</title><p id="who">`)
		for _, c := range r.Cookies() {
			fmt.Fprintf(w, "%s:%d ", c.Name, len(c.Name)+len(c.Value))
		}
	}
	h.portal.mu.Unlock()
	const script = `(async () => {
		const text = async (path) => (await (await fetch(path)).text()).replace(/.*>/, "");
		let lost = "";
		for (const size of [3600, 3700, 3800, 3900, 3950, 3990, 4000, 4050, 4095, 4096]) {
			await text("/set?set=sid&size=" + size);
			const got = await text("/get");
			if (!got.includes("sid:" + size + " ")) lost += size + " came back as " + got + "; ";
		}
		await Promise.all(["a", "b", "c"].flatMap((name) => [4000, 4096].map((size) => text("/set?set=" + name + "&size=" + size))));
		const got = await text("/get");
		for (const name of ["a", "b", "c", "sid"]) if (!got.includes(name + ":")) lost += name + " of several at a time is lost: " + got;
		return lost || "all came back";
	})()`
	t.Run("Chromium", func(t *testing.T) {
		ctx := chromium(t)
		run(t, ctx, chromedp.Navigate(h.url+"/x"), chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"), where("/-/sent"))
		run(t, ctx, chromedp.Navigate(h.nextLetter("ann@example.com", 0).link), chromedp.WaitVisible(css("#who")))
		if got := get(t, ctx, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise)); got != "all came back" {
			t.Error(got)
		}
	})
	t.Run("Firefox", func(t *testing.T) {
		f := startFirefox(t)
		f.command("WebDriver:Navigate", map[string]any{"url": h.url + "/-/sign-in"})
		f.command("WebDriver:ExecuteScript", map[string]any{"script": `document.querySelector("input[name=email]").value = "bob@example.com"; document.querySelector("form").submit();`, "args": []any{}})
		link := h.nextLetter("bob@example.com", 0).link
		f.command("WebDriver:Navigate", map[string]any{"url": link})
		result := f.command("WebDriver:ExecuteAsyncScript", map[string]any{"script": "const done = arguments[arguments.length - 1]; " + script + ".then(done, (e) => done(String(e)))", "args": []any{}})
		var got struct{ Value string }
		if err := json.Unmarshal(result, &got); err != nil || got.Value != "all came back" {
			t.Errorf("%s%s", got.Value, result)
		}
	})
}
