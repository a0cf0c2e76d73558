package caddymodule_test

// Class D: floods. Nobody is flooded with mail, guessing is limited, memory and disk are bounded,
// and contacts can still sign in meanwhile.
//
// Not here: passwords (attack_passwords_test.go, passwords_load_test.go, and D04 in package
// password), D14 and D15 (attack_wire_test.go), D17 (audit).

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// behindProxy are the global options for a proxy on this machine, so that a test can use many
// networks.
const behindProxy = "servers {\n\t\ttrusted_proxies static 127.0.0.0/8\n\t\ttrusted_proxies_strict\n\t}\n"

// from returns the header line that sends a request from the address.
func from(ip string) []string { return []string{"X-Forwarded-For", ip} }

// ithNetwork returns an address in the i-th of many networks.
func ithNetwork(i int) string { return fmt.Sprintf("10.%d.%d.1", i/256%256, i%256) }

// at makes all the browser's requests come from the address.
func (b *browser) at(ip string) *browser {
	b.client.Transport = fromTransport{ip}
	return b
}

type fromTransport struct{ ip string }

func (f fromTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", f.ip)
	return http.DefaultTransport.RoundTrip(r)
}

// events counts the logged events by kind.
func (l logFile) events(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for line := range strings.SplitSeq(l.text(t), "\n") {
		var e struct{ Logger, Event string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Logger == "doorpost" && e.Event != "" {
			all[e.Event]++
		}
	}
	return all
}

// flood requests mails for an address from many networks, and waits until the workers are done.
func (h *house) flood(email string, first, n int, log logFile) (shapes map[string]int) {
	h.t.Helper()
	before := log.events(h.t)
	shapes = map[string]int{}
	for i := range n {
		a := h.browser().send("/-/sign-in", form("email", email), from(ithNetwork(first+i))...)
		shapes[a.shape()]++
	}
	h.eventually("the flood is dealt with", func() bool {
		now := log.events(h.t)
		done := 0
		for _, kind := range []string{"queued", "limited", "delayed", "unknown"} {
			done += now[kind] - before[kind]
		}
		return done >= n
	})
	return shapes
}

func TestD01_CVE_2025_35432_MailsToOneContactAreLimited(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global + behindProxy, app: m.app()})
	m.moveInto(h)
	device := h.in("ann@example.com")
	device.send("/-/sign-out", url.Values{})
	caddymodule.Advance(t, 61*time.Minute) // that mail counts for another hour
	before := len(h.letters(""))

	shapes, asked := map[string]int{}, 0
	for minute := range 31 { // the rest of an hour; the limit for it is used up by then
		for shape, n := range h.flood([]string{"ann@example.com", "ANN.B@example.org"}[minute%2], asked, 6, log) {
			shapes[shape] += n
		}
		asked += 6
		if n := len(h.letters("")) - before; n > minute+1 {
			t.Errorf("%d mails by minute %d; want them a minute apart", n, minute)
		}
		caddymodule.Advance(t, time.Minute)
	}
	if mails := len(h.letters("")) - before; mails != 5 {
		t.Errorf("%d mails in the hour; want 5", mails)
	}
	if len(shapes) != 1 {
		t.Errorf("%d different answers: %v", len(shapes), shapes)
	}

	// The owner gets a mail at once on a device with an earlier sign-in. Another contact has no
	// advantage on that device.
	mails := len(h.letters("ann@example.com"))
	device.at("203.0.113.1").send("/-/sign-in", form("email", "ann@example.com", "to", "/orders")) // not ask, which advances the clock
	l := h.nextLetter("ann@example.com", mails)
	if a := device.open(l.link); a.StatusCode != 303 || device.me() == nil {
		t.Errorf("the link of a known device = %d; want to be in", a.StatusCode)
	}
	// A sign-in refills the day's budget, but not the hour's.
	h.flood("ann@example.com", asked, 6, log)
	asked += 6
	caddymodule.Advance(t, 61*time.Second)
	h.flood("ann@example.com", asked, 6, log)
	asked += 6
	n := len(h.letters(""))
	if mails := n - before; mails != 5+1+1 {
		t.Errorf("%d mails in the hour, one of them to the known device; want 6, and that one", mails)
	}
	// On any other device, an owner with any of our mails gets one more by the button on its link's
	// page.
	tablet := h.browser().at("203.0.113.3")
	if a := tablet.open(l.link); a.StatusCode != 410 {
		t.Errorf("a link that was used = %d; want 410", a.StatusCode)
	}
	tablet.send("/-/sign-in", form("t", secretOf(l.link)))
	h.eventually("the mail by an old link's button", func() bool { return len(h.letters("")) > n })
	// An owner without a mail can sign in with any mail that the flood has caused.
	caddymodule.Advance(t, 3*time.Hour)
	n = len(h.letters(""))
	h.flood("ann@example.com", asked, 6, log)
	h.eventually("a mail three hours later", func() bool { return len(h.letters("")) > n })
	all := h.letters("")
	phone := h.browser().at("203.0.113.2")
	if a := phone.send("/-/link", form("t", secretOf(all[len(all)-1].link), "email", "ann@example.com")); a.StatusCode != 303 || phone.me() == nil {
		t.Errorf("a link that the flood brought = %d; want to be in", a.StatusCode)
	}
}

func TestD06_CVE_2024_21494_ClientHeadersDontSetTheNetwork(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app()})
	m.moveInto(h)
	free := walkIn(h, "who@example.com")
	for i := range 160 {
		ip := ithNetwork(i)
		h.browser().send("/-/sign-in", form("email", fmt.Sprintf("who%d@example.com", i)), "X-Forwarded-For", []string{ip, "1.1.1.1, " + ip}[i%2],
			"X-Real-Ip", ip, "Cf-Connecting-Ip", ip, "Forwarded", "for="+ip, "True-Client-Ip", ip)
	}
	limited := func() int { return log.events(t)["limited"] }
	h.eventually("some of 161 asks of one address are limited", func() bool { return limited() >= 5 })
	if n := limited(); n > 30 {
		t.Errorf("%d of 161 asks of one address are limited; want some ten", n)
	}
	still := func(when string) {
		t.Helper()
		was := limited()
		if got := walkIn(h, "ann@example.com"); got != free {
			t.Errorf("%s, the answers over the limit are\n%s\nand below\n%s", when, got, free)
		}
		h.eventually("somebody is limited "+when, func() bool { return limited() > was })
	}
	still("at once")
	h.start()
	inARow := 0 // a reload may close connections, as in plain Caddy
	h.eventually("the old servers are gone", func() bool {
		http.DefaultClient.CloseIdleConnections()
		resp, err := http.Get(h.url + "/-/health")
		if inARow++; err != nil {
			inARow = 0
			return false
		}
		resp.Body.Close()
		return inARow == 10
	})
	still("after a reload")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.settled()
	still("after a restart")
	if n := len(m.recipients()); n != 0 {
		t.Errorf("%d mails; want none", n)
	}
}

var anySeconds = regexp.MustCompile(`data-(wait|open-in)="\d+"|<span data-seconds>\d+</span>`)

// walkIn requests a mail, looks at the page after it, and enters a wrong code; it returns the
// answers, without expected differences.
func walkIn(h *house, email string) string {
	b := h.browser()
	b.client.CloseIdleConnections() // a reload may have closed them
	all := b.send("/-/sign-in", form("email", email)).shape() + b.open("/-/sent").shape() + b.send("/-/code", form("code", "0000-0000")).shape()
	for _, name := range []string{"who@example.com", "ann@example.com"} {
		all = strings.ReplaceAll(all, name, "ADDRESS")
	}
	return anySeconds.ReplaceAllString(all, "SECONDS")
}

func TestT11_ANetworkOverItsLimitGetsTheAnswerForWrongCodes(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{global: behindProxy, app: m.app()})
	m.moveInto(h)
	ann := h.in("ann@example.com")
	ann.send("/-/sign-out", url.Values{})
	annCode := ann.ask("ann@example.com", "/").code
	bob := h.browser()
	l := bob.ask("bob@example.com", "/")
	const bad = "192.0.2.7"
	wrong := ""
	for i := range 32 {
		b := h.browser()
		b.send("/-/sign-in", form("email", "who@example.com"), from(ithNetwork(i))...)
		for range 5 {
			wrong = anySeconds.ReplaceAllString(strings.ReplaceAll(b.send("/-/code", form("code", "0000-0000"), from(bad)...).shape(), "who@", "bob@"), "SECONDS")
		}
	}
	right := bob.send("/-/code", form("code", l.code), from(bad)...)
	// Except for the entered text, which stays in the field.
	if got := strings.ReplaceAll(anySeconds.ReplaceAllString(right.shape(), "SECONDS"), l.code, "0000-0000"); right.StatusCode != 403 || got != wrong {
		t.Errorf("the right code from where too many were wrong = %s\na wrong one = %s", got, wrong)
	}
	if a := h.browser().send("/-/link", form("t", secretOf(l.link), "email", "bob@example.com"), from(bad)...); a.StatusCode != 403 {
		t.Errorf("the right address from there = %d; want 403, as for a wrong one", a.StatusCode)
	}
	if a := ann.send("/-/code", form("code", annCode), from(bad)...); a.StatusCode != 303 {
		t.Errorf("the right code from there, on a device that has signed in before = %d; want 303", a.StatusCode)
	}
	if a := bob.send("/-/code", form("code", l.code), from("198.51.100.1")...); a.StatusCode != 303 {
		t.Errorf("the right code from elsewhere = %d; want 303", a.StatusCode)
	}
	bob.send("/-/sign-out", url.Values{})
	l = bob.ask("bob@example.com", "/")
	if a := bob.open(l.link, from(bad)...); a.StatusCode != 303 {
		t.Errorf("the link from there, in the browser that asked = %d; want 303: links go on working", a.StatusCode)
	}
}

func TestD09_AnOfficeOfSixtyCanSignIn(t *testing.T) {
	m := startMailServer(t)
	var contacts strings.Builder
	contacts.WriteString("email\n")
	for i := range 60 {
		fmt.Fprintf(&contacts, "person%d@example.com\n", i)
	}
	h := openHouse(t, layout{global: behindProxy, app: m.app(), contacts: contacts.String()})
	m.moveInto(h)
	people := make([]*browser, 60)
	codes := make([]string, 60)
	for i := range people {
		email := fmt.Sprintf("person%d@example.com", i)
		people[i] = h.browser().at("192.0.2.1")
		codes[i] = people[i].ask(email, "/").code
		people[i].send("/-/sign-in", form("email", email)) // impatient
		caddymodule.Advance(t, 3*time.Second)
	}
	for i, b := range people {
		for range 2 {
			if a := b.send("/-/code", form("code", "0000-0000")); a.StatusCode != 403 {
				t.Errorf("person %d: a wrong code = %d; want 403", i, a.StatusCode)
			}
		}
		caddymodule.Advance(t, 3*time.Second)
	}
	for i, b := range people {
		if a := b.send("/-/code", form("code", codes[i])); a.StatusCode != 303 || b.me() == nil {
			t.Errorf("person %d: the right code = %d; want to be in", i, a.StatusCode)
		}
		caddymodule.Advance(t, time.Second)
	}
}

func TestDevice_IsKnownOnlyForItsContacts(t *testing.T) {
	h, m := openFastHouse(t, layout{admin: freeAddress(t), firm: "public /public/*"})
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	if a := b.send("/-/sign-in", form("email", "x@example.com")); b.cookie("portal-device") != "" || len(a.Header["Set-Cookie"]) != 0 {
		t.Error("a device is known that nobody has signed in on")
	}
	b.open(l.link)
	device := b.cookie("portal-device")
	if device == "" || strings.Contains(h.store(), device) || strings.Contains(h.store(), device[:43]) {
		t.Errorf("the device's cookie is %q, or the store has it", device)
	}
	b.open("/orders")
	b.open("/public/x")
	for _, seen := range h.portal.seen {
		if strings.Contains(seen.Header.Get("Cookie"), "device") {
			t.Errorf("the portal got Cookie: %s", seen.Header.Get("Cookie"))
		}
	}
	b.send("/-/sign-out", url.Values{})
	if b.cookie("portal-device") != device {
		t.Error("the device's cookie ended with the session")
	}
	shared := h.browser()
	caddymodule.Advance(t, time.Minute)
	shared.send("/-/sign-in", form("email", "ann@example.com", "shared", "1"))
	shared.open(h.nextLetter("ann@example.com", 1).link)
	if shared.me() == nil || shared.cookie("portal-device") != "" {
		t.Error("a shared computer is a known device")
	}

	// Other clients have used up what that device could use: three in the hour by one network.
	caddymodule.Advance(t, time.Minute)
	h.browser().ask("ann@example.com", "/")
	before := len(m.recipients())
	h.browser().send("/-/sign-in", form("email", "ann@example.com"))
	time.Sleep(150 * time.Millisecond) // time in which no mail may come
	if n := len(m.recipients()); n != before {
		t.Errorf("%d mails more than one network may have in an hour", n-before)
	}
	with := b.send("/-/sign-in", form("email", "ann@example.com"))
	without := shared.send("/-/sign-in", form("email", "ann@example.com"))
	if with.shape() != without.shape() {
		t.Errorf("the answer to a known device is\n%s\nto another\n%s", with.shape(), without.shape())
	}
	h.eventually("the mail to a known device", func() bool { return len(m.recipients()) == before+1 })

	// A device that knows ann doesn't know bob, and an invented one knows nobody.
	for i := range 3 {
		h.mayMailAgain(i)
		h.browser().ask("bob@example.com", "/")
	}
	caddymodule.Advance(t, time.Minute)
	before = len(m.recipients())
	b.send("/-/sign-in", form("email", "bob@example.com"))
	h.browser().send("/-/sign-in", form("email", "bob@example.com"), "Cookie", "portal-device="+strings.Repeat("A", 86))
	time.Sleep(150 * time.Millisecond)
	if n := len(m.recipients()); n != before {
		t.Errorf("%d mails to bob by a device that knows ann, or is made up; want none", n-before)
	}
	h.remove("ann@example.com")
	recs, err := caddymodule.OpenStore(t).Scan(t.Context(), "example", "known-device", "", "", 10)
	if err != nil || len(recs) != 0 {
		t.Errorf("%d devices, %v, after the contact was removed; want none", len(recs), err)
	}
}

// remove removes a contact through the admin endpoint.
func (h *house) remove(email string) {
	h.t.Helper()
	body, err := json.Marshal(map[string]string{"email": email})
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.Post("http://"+h.admin+"/doorpost/example/contacts/remove", "application/json", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("removing %s = %d", email, resp.StatusCode)
	}
}

func TestD12_RequestsForUnknownAddressesAreBounded(t *testing.T) {
	h, m := openFastHouse(t, layout{global: behindProxy})
	ann := h.browser()
	l := ann.ask("ann@example.com", "/")
	asks, clients := 6_000, 16
	if *long {
		asks = 20_000
	}
	before := heapInUse()
	var next atomic.Int64
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range clients {
		all.Go(func() {
			for {
				i := int(next.Add(1))
				if i > asks {
					return
				}
				r, err := http.NewRequest("POST", h.url+"/-/sign-in", strings.NewReader(fmt.Sprintf("email=who%d%%40example.com&to=/x%s", i, strings.Repeat("y", 4000))))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {h.url}, "X-Forwarded-For": {ithNetwork(i)}}
				resp, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 303 && resp.StatusCode != 503 {
					t.Errorf("ask %d = %d; want 303, or 503 while too many wait", i, resp.StatusCode)
				}
			}
		})
	}
	all.Wait()
	client.CloseIdleConnections()
	count := func(bucket string) (n int) {
		for after := ""; ; {
			recs, err := caddymodule.OpenStore(t).Scan(t.Context(), "example", bucket, "", after, 5000)
			if err != nil {
				t.Fatal(err)
			}
			if n += len(recs); len(recs) < 5000 {
				return n
			}
			after = recs[len(recs)-1].Key.ID
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); count("queue") > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests still wait two minutes later", count("queue"))
		}
	}
	if n := count("flow"); n > 4096+1 || n < 4000 {
		t.Errorf("%d browsers are remembered after %d; want 4096, and one with a mail", n, asks)
	}
	if info, err := os.Stat(h.path("data/doorpost/doorpost.db")); h.redis == nil && (err != nil || info.Size() > 64<<20) {
		t.Errorf("the store has %d bytes, %v; want at most 64 MiB", info.Size(), err)
	} else if h.redis == nil {
		t.Logf("the store has %d KiB", info.Size()>>10)
	}
	grown := int64(heapInUse()) - int64(before)
	t.Logf("the heap has grown by %d KiB", grown>>10)
	if grown > 64<<20 {
		t.Errorf("the heap has grown by %d bytes; want at most 64 MiB", grown)
	}
	if a := ann.open(l.link); a.StatusCode != 303 || ann.me() == nil {
		t.Errorf("the link of who was mailed before = %d; want to be in", a.StatusCode)
	}
	if n := len(m.recipients()); n != 1 {
		t.Errorf("%d mails; want one", n)
	}
}

// All spellings of a link have one budget for its button: a visitor with a used link gets no more
// of the slots reserved for known devices and such buttons, and can't exceed a network's limit.
func TestD12_SpellingsOfOneLinkHaveOneBudget(t *testing.T) {
	h := openHouse(t, layout{global: behindProxy})
	ann := h.browser()
	l := ann.ask("ann@example.com", "/")
	ann.open(l.link)
	secret := secretOf(l.link)
	reserved := func() int {
		recs, err := caddymodule.OpenStore(t).Scan(t.Context(), "example", "ring", "known-", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(recs)
	}
	for i := range 40 {
		spelled := secret[:i%26] + strings.Repeat(".", i/26) + " " + secret[i%26:] + ">"
		if a := h.browser().send("/-/sign-in", form("t", spelled)); a.StatusCode != 303 {
			t.Fatalf("POST /-/sign-in with the link spelled %q = %d; want 303", spelled, a.StatusCode)
		}
	}
	if n := reserved(); n != 6 {
		t.Errorf("40 spellings of one link took %d of the reserved places; want 6", n)
	}
}

// commits returns how often the store has been written, from the bbolt file: the higher transaction
// ID of its two meta pages.
func (h *house) commits() (n uint64) {
	h.t.Helper()
	const txid = 64 // after the page's header, magic, version, page size, flags, root, freelist and page count
	data, err := os.ReadFile(h.path("data/doorpost/doorpost.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, page := range []int{0, os.Getpagesize()} {
		n = max(n, binary.LittleEndian.Uint64(data[page+txid:]))
	}
	return n
}

// 5,000 requests a second for unknown addresses lock out nobody who requests a mail on a known
// device, by an old link's button, or from another network.
func TestD12_AFloodForUnknownAddressesLocksNobodyOut(t *testing.T) {
	h, m := openFastHouse(t, layout{global: behindProxy})
	device := h.in("ann@example.com")
	tries, each := 2, 800
	if *long {
		tries, each = 41, 5_000
	}
	next := 0
	fast, start := h.browser(), time.Now()
	unknown := func(n int) {
		first := next
		next += n
		h.storm(n, func(i int) *http.Request {
			body := form("email", fmt.Sprintf("who%d@example.com", first+i), "to", "/orders").Encode()
			return fast.request("POST", "/-/sign-in", strings.NewReader(body), "Content-Type", "application/x-www-form-urlencoded", "Origin", h.url)
		})
	}
	before := uint64(0)
	if h.redis == nil {
		before = h.commits()
	}
	var slowest time.Duration
	for i := range tries {
		device.send("/-/sign-out", url.Values{})
		caddymodule.Advance(t, 61*time.Minute) // what the device may request in an hour
		mails := len(m.recipients())
		done := make(chan struct{})
		go func() { defer close(done); unknown(each) }()
		h.eventually("the flood has begun", func() bool { return h.waiting(t) > 0 })
		began := time.Now()
		if a := device.at("203.0.113.1").send("/-/sign-in", form("email", "ann@example.com", "to", "/orders")); a.StatusCode != 303 {
			t.Fatalf("try %d on a known device in the flood = %d; want 303", i+1, a.StatusCode)
		}
		h.eventually("the mail to the known device", func() bool { return len(m.recipients()) > mails })
		slowest = max(slowest, time.Since(began))
		if a := device.open(h.nextLetter("ann@example.com", mails).link); a.StatusCode != 303 || device.me() == nil {
			t.Errorf("the link of try %d = %d; want to be in", i+1, a.StatusCode)
		}
		<-done
	}
	took := time.Since(start)
	h.eventually("the flood is worked off", func() bool { return h.waiting(t) == 0 })
	if n := len(m.recipients()); n != tries+1 {
		t.Errorf("%d mails; want %d", n, tries+1)
	}
	t.Logf("%d requests in %v (%.0f a second); slowest mail to the known device %v", next, took.Round(time.Millisecond), float64(next)/took.Seconds(), slowest.Round(time.Millisecond))
	if h.redis == nil {
		cost := float64(h.commits()-before) / float64(next)
		t.Logf("%.2f commits a request", cost)
		if cost > 0.5 {
			t.Errorf("a request of the flood costs %.2f commits; want many to share one", cost)
		}
	}
}

// waiting returns the length of the mail queue.
func (h *house) waiting(t *testing.T) int {
	t.Helper()
	recs, err := caddymodule.OpenStore(t).Scan(t.Context(), "example", "queue", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(recs)
}

// Causing mails to a contact and entering wrong codes in other browsers uses up no guesses of the
// contact's known devices.
func TestD09_WrongCodesElsewhereLeaveKnownDevicesTheirGuesses(t *testing.T) {
	h := openHouse(t, layout{global: behindProxy})
	const owner = "owner@example.com"
	b := h.in(owner)
	for i := range 8 { // staff get up to twelve mails an hour
		caddymodule.Advance(t, time.Minute)
		before := len(h.letters(owner))
		attacker := h.browser().at(ithNetwork(i))
		attacker.send("/-/sign-in", form("email", owner))
		h.nextLetter(owner, before)
		for range 5 {
			if a := attacker.send("/-/code", form("code", "0000-0000")); a.StatusCode != 403 {
				t.Fatalf("a wrong code = %d; want 403", a.StatusCode)
			}
		}
		caddymodule.Advance(t, 4*time.Minute) // three links are active at a time
	}
	b.send("/-/sign-out", form())
	before := len(h.letters(owner))
	b.send("/-/sign-in", form("email", owner))
	l := h.nextLetter(owner, before)
	if a := b.send("/-/code", form("code", l.code)); a.StatusCode != 303 || b.me() == nil {
		t.Errorf("the right code on a known device, after 40 wrong ones of others = %d; want to be in", a.StatusCode)
	}
}
