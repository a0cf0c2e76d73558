package caddymodule_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

var (
	long    = flag.Bool("long", false, "reload under load for 60 s rather than 3 s")
	reloads = flag.Int("reloads", 60, "how many reloads must leave nothing behind")
)

// again reloads and drops connections to the old server: Caddy may close one just when a request is
// sent on it.
func (h *house) again() {
	h.t.Helper()
	h.start()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	time.Sleep(50 * time.Millisecond)
}

// Sign-ins in progress continue over reloads.
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

// A second click after a reload signs in with the first one's session, and only in the same
// browser.
func TestReloadKeepsADoubleClick(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	b := h.browser()
	l := b.ask("ann@example.com", "/orders")
	began := time.Now()
	if a := b.open(l.link); a.StatusCode != 303 {
		t.Fatalf("the first click = %d; want 303", a.StatusCode)
	}
	session := b.cookie("portal")
	u, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", MaxAge: -1}}) // its response was never read
	h.again()
	if a := h.browser().open(l.link); a.StatusCode != http.StatusGone {
		t.Errorf("the link in another browser = %d; want 410", a.StatusCode)
	}
	a := b.open(l.link)
	if time.Since(began) > 9*time.Second {
		t.Logf("this machine stood still: %v between the clicks", time.Since(began))
		return
	}
	if a.StatusCode != 303 || b.cookie("portal") != session {
		t.Errorf("the second click, after a reload = %d, the same session: %v; want 303, true", a.StatusCode, b.cookie("portal") == session)
	}
}

// A mail that was promised while the mail server was down is sent by the mail server of a later
// config.
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

// An invalid config, wherever the error appears, leaves the old one running unchanged.
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

// A contact whom the Caddyfile no longer lists as staff isn't staff after the reload, however many
// requests are in flight.
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
						// A reload may cut a connection, as in plain Caddy.
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

// load is requests of one kind with their results. They are sent at random times: at regular times,
// the same one of two loads would always be first, and a reload would always meet the same one.
type load struct {
	name   string
	gate   bool // true for the gate, false for plain Caddy
	client *http.Client
	make   func(id int64) *http.Request
	judge  func(status int, body string) string // returns what is wrong with a response, or ""
	clock  *reloadClock
	seen   *sync.Map // IDs of requests that the portal received

	sent   atomic.Int64
	mu     sync.Mutex
	wrong  map[string]int
	failed []failure
}

// failure is a request without a response.
type failure struct {
	cause  string
	reload int           // the latest one, from 1
	after  time.Duration // time since it began
	passed bool          // it had reached the portal, and the cause isn't a timeout
}

// errProxy means that Caddy's proxy didn't reach the portal in time, as on a busy machine.
var errProxy = errors.New("502 by the proxy")

// reloadClock records which reload was the latest, and when it began.
type reloadClock struct {
	mu    sync.Mutex
	n     int
	began time.Time
}

func (c *reloadClock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n, c.began = c.n+1, time.Now()
}

func (c *reloadClock) now() (n int, since time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, time.Since(c.began)
}

func (l *load) run(ctx context.Context, perSecond float64) {
	var all sync.WaitGroup
	defer all.Wait()
	for at := time.Now(); ; {
		at = at.Add(time.Duration(rand.ExpFloat64() / perSecond * float64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at)):
			all.Go(l.one)
		}
	}
}

func (l *load) one() {
	r := l.make(l.sent.Add(1))
	var kept, answered atomic.Bool
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn:              func(c httptrace.GotConnInfo) { kept.Store(c.Reused) },
		GotFirstResponseByte: func() { answered.Store(true) },
	}))
	resp, err := l.client.Do(r)
	var body []byte
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && resp.StatusCode == http.StatusBadGateway && len(body) == 0 {
		err = errProxy
	}
	if err != nil {
		n, since := l.clock.now()
		_, passed := l.seen.Load(r.Header.Get("X-Number"))
		slow := errors.Is(err, os.ErrDeadlineExceeded) || err == errProxy
		l.failed = append(l.failed, failure{causeOf(err, kept.Load(), answered.Load()), n, since, passed && !slow})
		return
	}
	if wrong := l.judge(resp.StatusCode, string(body)); wrong != "" {
		if l.wrong == nil {
			l.wrong = make(map[string]int)
		}
		l.wrong[wrong]++
	}
}

// causeOf returns how a request ended without a response.
func causeOf(err error, kept, answered bool) string {
	cause := err.Error()
	for _, known := range []struct {
		err  error
		text string
	}{
		{syscall.ECONNREFUSED, "refused"}, {syscall.ECONNRESET, "reset"}, {syscall.EPIPE, "broken pipe"},
		{io.EOF, "closed"}, {io.ErrUnexpectedEOF, "cut off"}, {os.ErrDeadlineExceeded, "timeout"},
	} {
		if errors.Is(err, known.err) {
			cause = known.text
			break
		}
	}
	if strings.Contains(cause, "server closed idle connection") {
		cause = "closed"
	}
	cause += map[bool]string{true: ", kept connection", false: ", new connection"}[kept]
	if answered {
		cause += ", in the middle of the answer"
	}
	return cause
}

// While configs change under load, no signed-in visitor is reported as signed out, and no more
// requests fail than with a plain Caddy beside it.
func TestK16_ReloadUnderLoad(t *testing.T) {
	plain := freeAddress(t)
	var seen sync.Map
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("X-Number"), nil)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", body, r.Header.Get("Remote-User"))
	}))
	defer portal.Close()
	address := strings.TrimPrefix(portal.URL, "http://")
	h := openHouse(t, layout{contacts: manyContacts(1), site: "reverse_proxy " + address,
		more: "http://" + plain + " {\n reverse_proxy " + address + "\n}\n", firm: "link_lifetime 10m"})
	b := h.browser()
	b.signIn(contact(0))
	clock := &reloadClock{began: time.Now()}
	var loads []*load
	for _, method := range []string{"GET", "POST"} {
		for _, fresh := range []bool{true, false} {
			for _, gate := range []bool{true, false} {
				base, user := h.url, contact(0)
				if !gate {
					base, user = "http://"+plain, ""
				}
				transport := &http.Transport{DisableKeepAlives: fresh, MaxIdleConnsPerHost: 20}
				defer transport.CloseIdleConnections()
				name := fmt.Sprintf("%s %s, fresh connections: %v", method, map[bool]string{true: "gate", false: "plain"}[gate], fresh)
				loads = append(loads, &load{name: name, gate: gate, clock: clock, seen: &seen,
					client: &http.Client{Transport: transport, Timeout: 20 * time.Second},
					make: func(id int64) *http.Request {
						return k16Request(method, base, b.cookie("portal"), fmt.Sprint(name, id))
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
	span := 3 * time.Second
	if *long {
		span = time.Minute
	}
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	var all sync.WaitGroup
	for _, l := range loads {
		all.Go(func() { l.run(ctx, 50) })
	}
	var took []time.Duration
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		clock.begin()
		h.change(fmt.Sprintf("link_lifetime %dm", n%5+10), fmt.Sprintf("link_lifetime %dm", (n+1)%5+10))
		took = append(took, time.Since(began))
		select {
		case <-time.After(time.Second - time.Since(began)):
		case <-ctx.Done():
		}
	}
	all.Wait()
	t.Logf("%d reloads in %v, %v each", len(took), span, quantile(took, 0.5).Round(time.Millisecond))
	judgeLoads(t, loads, len(took))
}

// k16Request is a request of a signed-in visitor. A body can't be sent again, so each failure of a
// POST shows.
func k16Request(method, base, cookie, id string) *http.Request {
	var body io.Reader
	if method == "POST" {
		body = struct{ io.Reader }{strings.NewReader("body")}
	}
	r, err := http.NewRequest(method, base+"/x", body)
	if err != nil {
		panic(err)
	}
	r.AddCookie(&http.Cookie{Name: "portal", Value: cookie})
	r.Header.Set("X-Number", id)
	return r
}

// judgeLoads prints what failed, and how. It fails the test if a response was wrong, or if more
// requests failed at the gate than can be chance.
func judgeLoads(t *testing.T, loads []*load, reloads int) {
	more := make([]float64, reloads+1) // failures at the gate minus those beside it, by reload
	var gate, beside, sent int64
	type kind struct {
		gate  bool
		cause string
	}
	causes := map[kind][]time.Duration{}
	for _, l := range loads {
		t.Logf("%-38s %5d sent, %d failed, wrong: %v", l.name, l.sent.Load(), len(l.failed), l.wrong)
		if len(l.wrong) > 0 {
			t.Errorf("%s: %v; want none", l.name, l.wrong)
		}
		for _, f := range l.failed {
			causes[kind{l.gate, f.cause}] = append(causes[kind{l.gate, f.cause}], f.after)
			if l.gate {
				more[f.reload]++
			} else {
				more[f.reload]--
			}
			if f.passed {
				t.Errorf("%s: the portal got a request whose answer never came: %s, %v after reload %d began", l.name, f.cause, f.after, f.reload)
			}
		}
		if l.gate {
			gate, sent = gate+int64(len(l.failed)), sent+l.sent.Load()
		} else {
			beside += int64(len(l.failed))
		}
	}
	for k, after := range causes {
		t.Logf("%s: %d %s; after a reload began: %v to %v", map[bool]string{true: "gate", false: "plain"}[k.gate], len(after), k.cause,
			quantile(after, 0).Round(time.Millisecond), quantile(after, 1).Round(time.Millisecond))
	}
	low, high := interval(more[1:])
	t.Logf("of %d requests %d failed at the gate, of as many %d at plain Caddy beside it: by reload %.2f more [%.2f, %.2f]",
		sent, gate, beside, mean(more[1:]), low, high)
	// The few failures of a short run are chance.
	if low > 0 && gate > 2*beside+3 || *long && low > 0.1 {
		t.Errorf("%d requests failed at the gate, %d at plain Caddy beside it; want no more", gate, beside)
	}
}

// Reloads leave nothing behind: no goroutine, no open file, no memory. (There is no proxy behind
// the gate: Caddy's own keeps connections of an old config for minutes.)
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
				failed++ // Caddy may close a connection just when a request is sent on it
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

// settle returns the resources that the process holds after a garbage collection. The number of
// files is 0 on a machine that doesn't show it.
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

// A mail server's rate limit continues over reloads: mails sent by the old and by the new
// configuration count together. Another limit counts from the reload on.
func TestReloadsDoNotLoosenTheRateOfMails(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: strings.Replace(m.app(), "10000/s", "20/h", 1), contacts: manyContacts(4)})
	m.moveInto(h)
	for i := range 2 { // the limit allows this many at once
		h.browser().send("/-/sign-in", url.Values{"email": {contact(i)}})
	}
	h.eventually("two mails are handed over", func() bool { return len(m.recipients()) == 2 })
	for range 2 {
		h.config = strings.Replace(h.config, "Example Bookkeeping", "Example Bookkeepers", 1)
		h.start()
		if left := caddymodule.MailServerOf(t, "example").Tokens(); left >= 1 {
			t.Fatalf("after a reload %.1f more mails may go at once; want none", left)
		}
	}
	h.browser().send("/-/sign-in", url.Values{"email": {contact(2)}})
	good := h.config
	h.config = strings.Replace(strings.Replace(good, "20/h", "10000/s", 1), "contacts ", "contacts "+h.path("none.csv")+"\n contacts ", 1)
	if err := h.load(); err == nil {
		t.Fatal("loading a wrong config = nil; want an error")
	}
	if n := len(m.recipients()); n != 2 || caddymodule.MailServerOf(t, "example").Tokens() >= 1 {
		t.Errorf("%d mails were handed over; want 2, and a config that failed to change nothing", n)
	}
	h.config = strings.Replace(good, "20/h", "10000/s", 1)
	h.start()
	h.eventually("with the higher rate the third is handed over", func() bool { return len(m.recipients()) == 3 })
}
