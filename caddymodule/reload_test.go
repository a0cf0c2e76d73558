package caddymodule_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	long    = flag.Bool("long", false, "reload under load for 60 s rather than 5 s")
	reloads = flag.Int("reloads", 60, "how many reloads must leave nothing behind")
)

// again reloads, and lets go of connections to the old server: Caddy may close one in
// the very moment that a request goes out on it.
func (h *house) again() {
	h.t.Helper()
	h.start()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	time.Sleep(50 * time.Millisecond)
}

// Whatever somebody was in the middle of goes on over reloads.
func TestReloadKeepsWhatIsUnderWay(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(5)})
	in, linked, coded, elsewhere := h.browser(), h.browser(), h.browser(), h.browser()
	in.signIn(contact(0))
	link, code := linked.ask(contact(1), "/a"), coded.ask(contact(2), "/b")
	other := elsewhere.ask(contact(3), "/c")

	h.again()
	h.change("contacts "+h.path("contacts.csv"), "link_lifetime 20m\n contacts "+h.path("contacts.csv"))
	h.again()

	if me := in.me(); me == nil || me["email"] != contact(0) {
		t.Errorf("/-/me after reloads = %v; want %s", me, contact(0))
	}
	if a := in.open("/-/sign-in?to=/x"); a.StatusCode != 303 || a.Header.Get("Location") != "/x" {
		t.Errorf("the prompt for who is signed in = %d; want 303 to /x", a.StatusCode)
	}
	if a := linked.open("/-/sent"); a.StatusCode != 200 || !strings.Contains(a.body, contact(1)) {
		t.Errorf("/-/sent of the asking browser = %d; want 200 and the address", a.StatusCode)
	}
	if a := linked.open(link.link); a.StatusCode != 303 || a.Header.Get("Location") != "/a" {
		t.Errorf("a link from before, in the asking browser = %d to %q; want 303 to /a", a.StatusCode, a.Header.Get("Location"))
	}
	if a := coded.send("/-/code", url.Values{"code": {code.code}}); a.StatusCode != 303 || a.Header.Get("Location") != "/b" {
		t.Errorf("a code from before = %d to %q; want 303 to /b", a.StatusCode, a.Header.Get("Location"))
	}
	phone := h.browser()
	if a := phone.open(other.link); a.StatusCode != 200 {
		t.Errorf("a link from before, elsewhere = %d; want 200 and the question for the address", a.StatusCode)
	}
	h.again()
	tok := other.link[strings.Index(other.link, "t=")+2:]
	if a := phone.send("/-/link", url.Values{"t": {tok}, "email": {contact(3)}}); a.StatusCode != 303 || a.Header.Get("Location") != "/c" {
		t.Errorf("the address for it, after another reload = %d; want 303 to /c", a.StatusCode)
	}
	h.again()
	for _, b := range []*browser{in, linked, coded, phone} {
		if b.me() == nil {
			t.Error("a session is gone after a reload")
		}
	}
	for _, l := range []letter{link, code} {
		if a := h.browser().open(l.link); a.StatusCode != http.StatusGone {
			t.Errorf("a used link after a reload = %d; want 410", a.StatusCode)
		}
	}
}

// A mail that was promised while the mail server was away goes out by the mail server
// of a later config.
func TestReloadKeepsTheQueue(t *testing.T) {
	h := openHouse(t, layout{app: "mail smtp " + freeAddress(t) + " {\n tls off\n }", contacts: manyContacts(3)})
	b := h.browser()
	for i := range 3 {
		if a := b.send("/-/sign-in", url.Values{"email": {contact(i)}}); a.StatusCode != 303 {
			t.Fatalf("POST /-/sign-in without a mail server = %d; want 303", a.StatusCode)
		}
	}
	h.start()
	h.config = strings.Replace(h.config, h.config[strings.Index(h.config, "mail smtp"):strings.Index(h.config, "tls off")]+"tls off\n }", "mail folder "+h.path("mail"), 1)
	h.start()
	begun := time.Now()
	for i := range 3 {
		for len(h.letters(contact(i))) == 0 {
			if time.Since(begun) > 60*time.Second {
				t.Fatalf("no mail to %s a minute after there was a way out again", contact(i))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Logf("all mails %v after the reload", time.Since(begun))
	if a := b.open(h.letters(contact(1))[0].link); a.StatusCode != 303 {
		t.Errorf("GET its link = %d; want 303", a.StatusCode)
	}
}

// A config that is wrong, wherever that shows, leaves the old one running as it was.
func TestReloadWithABadConfig(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(2)})
	in, asking := h.browser(), h.browser()
	in.signIn(contact(0))
	link := asking.ask(contact(1), "/")
	good := h.config
	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	h.write("broken/mails/sign-in.txt", "{{.Nonsense")
	for _, bad := range []struct{ name, old, new string }{
		{"grammar", "brand {", "brandy {"},
		{"a wrong setting", "url http://", "url ftp://"},
		{"a file that isn't there", h.path("contacts.csv"), h.path("none.csv")},
		{"a template that can't be read", "contacts ", "templates " + h.path("broken") + "\n contacts "},
		{"a port that is taken", h.url + " {", h.url + ", " + busy.URL + " {"},
		{"a store that can't be", "doorpost {", "doorpost {\n store bolt " + h.path("contacts.csv")},
		{"another secret", "doorpost {", "doorpost {\n secret aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
	} {
		if h.config = strings.Replace(good, bad.old, bad.new, 1); h.config == good {
			t.Fatalf("%s: nothing was changed", bad.name)
		}
		if err := h.load(); err == nil {
			t.Errorf("%s: loading it = nil; want an error", bad.name)
		}
		if a := in.open("/x"); a.StatusCode != 200 || !strings.Contains(a.body, "for "+contact(0)) {
			t.Errorf("after %s: GET /x, signed in = %d; want the portal's page", bad.name, a.StatusCode)
		}
	}
	h.config = good
	if a := asking.open(link.link); a.StatusCode != 303 {
		t.Errorf("a link from before = %d; want 303", a.StatusCode)
	}
	fresh := h.browser()
	fresh.client.Timeout = 5 * time.Second
	if a := fresh.send("/-/sign-in", url.Values{"email": {"nobody@example.com"}}); a.StatusCode != 303 {
		t.Errorf("POST /-/sign-in = %d; want 303", a.StatusCode)
	}
}

// Who was staff by the Caddyfile isn't any more after the reload that says so, however
// many requests were under way meanwhile.
func TestReloadTakesStaffAway(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(1), firm: "staff " + contact(0)})
	b := h.browser()
	b.signIn(contact(0))
	role := func() any { return b.me()["role"] }
	if got := role(); got != "staff" {
		t.Fatalf("role = %v; want staff", got)
	}
	with := h.config
	for range 5 {
		stop, all := make(chan struct{}), sync.WaitGroup{}
		for range 4 {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						// A reload may cut a connection, as it does with plain Caddy.
						if resp, err := b.client.Do(b.request("GET", "/-/me", nil, "Accept", "application/json")); err == nil {
							resp.Body.Close()
						}
					}
				}
			})
		}
		h.config = strings.Replace(with, "staff "+contact(0), "", 1)
		h.start()
		close(stop)
		all.Wait()
		if got := role(); got != "client" {
			t.Fatalf("role after the reload = %v; want client", got)
		}
		h.config = with
		h.start()
		if got := role(); got != "staff" {
			t.Fatalf("role after the reload back = %v; want staff", got)
		}
	}
}

// load is requests of one kind at an even pace, and what came of them.
type load struct {
	name   string
	client *http.Client
	make   func() *http.Request
	judge  func(status int, body string) string // what is wrong; "": nothing

	sent, failed atomic.Int64
	mu           sync.Mutex
	wrong        map[string]int
}

func (l *load) run(ctx context.Context, perSecond int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			all.Go(l.one)
		}
	}
}

func (l *load) one() {
	l.sent.Add(1)
	resp, err := l.client.Do(l.make())
	if err != nil {
		l.failed.Add(1)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		l.failed.Add(1)
		return
	}
	if wrong := l.judge(resp.StatusCode, string(body)); wrong != "" {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.wrong == nil {
			l.wrong = make(map[string]int)
		}
		l.wrong[wrong]++
	}
}

// While configs change under load, nobody who is signed in is told that they aren't,
// and no more requests fail than of a plain Caddy beside it.
func TestK16_ReloadUnderLoad(t *testing.T) {
	plain := freeAddress(t)
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", body, r.Header.Get("Remote-User"))
	}))
	defer portal.Close()
	address := strings.TrimPrefix(portal.URL, "http://")
	h := openHouse(t, layout{contacts: manyContacts(1), site: "reverse_proxy " + address,
		more: "http://" + plain + " {\n reverse_proxy " + address + "\n}\n", firm: "link_lifetime 10m"})
	b := h.browser()
	b.signIn(contact(0))
	cookie := b.cookie("portal")

	want := map[string]string{h.url: contact(0), "http://" + plain: ""}
	var loads []*load
	for base, user := range want {
		for _, method := range []string{"GET", "POST"} {
			for _, fresh := range []bool{true, false} {
				transport := &http.Transport{DisableKeepAlives: fresh, MaxIdleConnsPerHost: 20}
				defer transport.CloseIdleConnections()
				loads = append(loads, &load{
					name:   fmt.Sprintf("%s %s, fresh connections: %v", method, map[bool]string{true: "plain", false: "gate"}[user == ""], fresh),
					client: &http.Client{Transport: transport, Timeout: 20 * time.Second},
					make: func() *http.Request {
						var body io.Reader
						if method == "POST" {
							body = struct{ io.Reader }{strings.NewReader("body")} // can't be sent again
						}
						r, err := http.NewRequest(method, base+"/x", body)
						if err != nil {
							panic(err)
						}
						r.AddCookie(&http.Cookie{Name: "portal", Value: cookie})
						return r
					},
					judge: func(status int, body string) string {
						if status != 200 || !strings.HasSuffix(body, " "+user) {
							return fmt.Sprintf("%d %.60q", status, body)
						}
						return ""
					},
				})
			}
		}
	}
	span := 5 * time.Second
	if *long {
		span = time.Minute
	}
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	var all sync.WaitGroup
	for _, l := range loads {
		all.Go(func() { l.run(ctx, 50) })
	}
	n := 0
	for every := time.NewTicker(time.Second); ctx.Err() == nil; n++ {
		h.change(fmt.Sprintf("link_lifetime %dm", n%5+10), fmt.Sprintf("link_lifetime %dm", (n+1)%5+10))
		select {
		case <-every.C:
		case <-ctx.Done():
		}
	}
	all.Wait()
	var gate, beside, sent int64
	for _, l := range loads {
		t.Logf("%-38s %5d sent, %d failed, wrong: %v", l.name, l.sent.Load(), l.failed.Load(), l.wrong)
		if strings.Contains(l.name, "gate") {
			gate, sent = gate+l.failed.Load(), sent+l.sent.Load()
		} else {
			beside += l.failed.Load()
		}
		if len(l.wrong) > 0 {
			t.Errorf("%s: %v; want none", l.name, l.wrong)
		}
	}
	t.Logf("%d reloads in %v: of %d requests %d failed at the gate, %d beside it", n, span, sent, gate, beside)
	if gate > 2*beside+3 { // both are few, and chance
		t.Errorf("%d requests failed at the gate, %d at plain Caddy beside it; want no more", gate, beside)
	}
}

// Reloads leave nothing behind: no goroutine, no open file, no memory. (No proxy stands
// behind the gate: Caddy's own keeps connections of a config that is gone for minutes.)
func TestK17_ReloadsLeaveNothingBehind(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(20), firm: "link_lifetime 10m", site: "respond ok"})
	b := h.browser()
	b.signIn(contact(0))
	failed := 0
	reload := func(times int) {
		for i := range times {
			h.change(fmt.Sprintf("link_lifetime %dm", i%2+10), fmt.Sprintf("link_lifetime %dm", (i+1)%2+10))
			resp, err := b.client.Do(b.request("GET", "/x", nil))
			if err != nil {
				failed++ // Caddy may close a connection in the moment that a request goes out on it
				continue
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Fatalf("GET /x after %d reloads = %d; want 200", i, resp.StatusCode)
			}
		}
		b.client.CloseIdleConnections()
	}
	reload(20)
	goroutines, files, heap := settle(t)
	begun := time.Now()
	reload(*reloads)
	span := time.Since(begun)
	var gNow, fNow int
	var hNow uint64
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if gNow, fNow, hNow = settle(t); gNow <= goroutines+8 && fNow <= files+4 && hNow <= heap+heap/20+2<<20 || time.Now().After(deadline) {
			break
		}
	}
	t.Logf("%d reloads, %v each: goroutines %d → %d, files %d → %d, heap %d → %d KiB",
		*reloads, span/time.Duration(*reloads), goroutines, gNow, files, fNow, heap>>10, hNow>>10)
	if failed > *reloads/5 {
		t.Errorf("%d of %d requests failed; want hardly any", failed, *reloads)
	}
	if gNow > goroutines+8 {
		var stacks bytes.Buffer
		buf := make([]byte, 1<<20)
		stacks.Write(buf[:runtime.Stack(buf, true)])
		t.Errorf("%d goroutines after %d reloads; want about %d\n%.4000s", gNow, *reloads, goroutines, &stacks)
	}
	if fNow > files+4 {
		t.Errorf("%d open files after %d reloads; want about %d", fNow, *reloads, files)
	}
	if hNow > heap+heap/20+2<<20 {
		t.Errorf("%d KiB of heap after %d reloads; want about %d", hNow>>10, *reloads, heap>>10)
	}
}

// settle returns what the process holds once the garbage is gone. Files are 0 on a
// machine that doesn't show them.
func settle(t *testing.T) (goroutines, files int, heap uint64) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for range 3 {
		debug.FreeOSMemory()
		time.Sleep(20 * time.Millisecond)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		files = len(names)
	}
	return runtime.NumGoroutine(), files, m.HeapAlloc
}
