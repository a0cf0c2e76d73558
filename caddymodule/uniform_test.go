//go:build measure

package caddymodule_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

// Does a response reveal whether an address is known? Neither its bytes nor its time may. Run
// manually, which takes a while:
//
//	go test -tags measure ./caddymodule -run TestUniform -samples 2000 -v -timeout 4h [-store redis]
//
// As part of all tests, it checks the bytes, and finds only large differences in time.
var samples = flag.Int("samples", 0, "how many answers of each kind TestUniform times; 0: a few")

const (
	maxAUC = 0.55             // for two classes that must be indistinguishable
	maxGap = time.Millisecond // between their medians, or 2 % of them

	// With few samples chance differs more: these are many times its standard deviation.
	fewSamples = 20
	grossAUC   = 0.85
	grossGap   = 20 * time.Millisecond
)

// ledger records the responses, by class of the address.
type ledger struct {
	t     *testing.T
	title string
	took  map[string][]time.Duration
	like  map[string]string // class → its response
	tells bool              // the response may differ by class, as long as its time doesn't differ much
}

func newLedger(t *testing.T, title string) *ledger {
	return &ledger{t: t, title: title, took: make(map[string][]time.Duration), like: make(map[string]string)}
}

// time sends a request and records the response. It must equal all others of its class, and unless
// tells is set, of all classes.
func (l *ledger) time(class string, w *wire, request []byte) {
	l.t.Helper()
	start := time.Now()
	if _, err := w.ask(request); err != nil {
		l.t.Fatalf("%s, %s: %v", l.title, class, err)
	}
	l.took[class] = append(l.took[class], time.Since(start))
	said := w.said()
	for other, like := range l.like {
		if said != like && (other == class || !l.tells) {
			a, b := firstDifference(said, like)
			l.t.Fatalf("%s: %s is answered\n%s\nand %s\n%s", l.title, class, a, other, b)
		}
	}
	l.like[class] = said
}

// report prints how well each pair of classes can be distinguished, and fails the test if that is
// too well.
func (l *ledger) report(classes ...string) {
	l.t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", l.title)
	for _, class := range classes {
		fmt.Fprintf(&out, "  %-22s %5d answers, median %v, 99th of a hundred %v\n", class, len(l.took[class]),
			quantile(l.took[class], 0.5).Round(time.Microsecond), quantile(l.took[class], 0.99).Round(time.Microsecond))
	}
	for i, a := range classes {
		for _, b := range classes[i+1:] {
			area, gap := auc(l.took[a], l.took[b]), (quantile(l.took[a], 0.5) - quantile(l.took[b], 0.5)).Abs()
			verdict, most := "", max(maxGap, quantile(l.took[a], 0.5)/50)
			if *samples > 0 && (area > maxAUC && !l.tells || gap > most) || *samples == 0 && (area > grossAUC && !l.tells && gap > grossGap/20 || gap > grossGap) {
				verdict = "  TOO WELL"
				l.t.Errorf("%s: %s and %s can be told apart: AUC %.3f, medians %v apart", l.title, a, b, area, gap)
			}
			fmt.Fprintf(&out, "  %-45s AUC %.3f, medians %v apart%s\n", a+" / "+b, area, gap.Round(100*time.Nanosecond), verdict)
		}
	}
	l.t.Log("\n" + out.String())
}

var (
	secretPattern = regexp.MustCompile(`[A-Za-z0-9_-]{43}\b|\b[a-z2-7]{26}\b`) // cookies, and tokens in forms
	datePattern   = regexp.MustCompile(`[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT`)
	personPattern = regexp.MustCompile(`[a-z][0-9]{5}@example\.com`)
	// The countdowns of a page, which disappear at their end.
	secondsPattern = regexp.MustCompile(` data-wait="[0-9]+"| data-open-in="[0-9]+"|data-seconds>[0-9]+|<details class="part" open`)
)

// said returns the last response, without the parts that vary with time or browser.
func (w *wire) said() string {
	lines := strings.Split(strings.TrimSpace(string(w.head)), "\r\n")
	slices.Sort(lines[1:])
	head := datePattern.ReplaceAllString(strings.Join(lines, "\n"), "DATE")
	head = secretPattern.ReplaceAllString(head, "SECRET")
	body := personPattern.ReplaceAllString(string(w.body), "PERSON")
	if counted := secondsPattern.ReplaceAllString(body, ""); counted != body {
		body, head = strings.ReplaceAll(counted, `<details class="part"`, ""), lengthLine.ReplaceAllString(head, "Content-Length")
	}
	return head + "\n\n" + secretPattern.ReplaceAllString(body, "SECRET")
}

// firstDifference returns the first lines in which two texts differ.
func firstDifference(a, b string) (string, string) {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return x[i], y[i]
		}
	}
	return fmt.Sprint(len(x), " lines"), fmt.Sprint(len(y), " lines")
}

// cookie returns the value of a cookie that the last response sets.
func (w *wire) cookie(name string) string {
	_, rest, _ := strings.Cut(string(w.head), "\r\nSet-Cookie: "+name+"=")
	value, _, _ := strings.Cut(rest, ";")
	return value
}

// The classes of addresses, by their first letter.
const (
	known    = "known"
	unknown  = "unknown"
	disabled = "disabled"
	limited  = "over its limit"
	crowded  = "network over its limit"
)

var askers = []string{known, unknown, disabled, limited, crowded}

// uniformHouse is a server, with as many contacts as needed: k….@ are known, d….@ are disabled,
// u….@ are unknown, and l00000@ is over its limit.
type uniformHouse struct {
	*server
	host string
	w    *wire
	next map[string]int // by class
}

func openUniformHouse(t *testing.T, mails *mailServer, app string, people int, further ...string) *uniformHouse {
	t.Helper()
	var contacts strings.Builder
	contacts.WriteString("email,disabled\nl00000@example.com,\ns00000@example.com,\n")
	for i := range people {
		fmt.Fprintf(&contacts, "k%05d@example.com,\nd%05d@example.com,true\n", i, i)
	}
	s := newServer(t, app, contacts.String())
	mails.moveInto(s.house)
	s.write("Caddyfile", s.behindProxies()+strings.Join(further, "\n"))
	s.start()
	h := &uniformHouse{server: s, host: strings.TrimPrefix(s.url, "http://"), next: make(map[string]int)}
	h.w = dialWire(t, h.host)
	for range 30 { // far beyond every limit of an address and of a network
		h.asks("l00000@example.com", network(rand.N(1<<24)))
		h.asks("l00000@example.com", crowdedNetwork)
		h.asks(fmt.Sprintf("u%05d@example.com", 90000+rand.N(10000)), crowdedNetwork)
	}
	for range 300 {
		h.asks(fmt.Sprintf("u%05d@example.com", 90000+rand.N(10000)), crowdedNetwork)
	}
	idle(s.cmd.Process.Pid)
	return h
}

const crowdedNetwork = "X-Forwarded-For: 192.0.2.77"

// network returns a header line that makes a request come from the i-th of many networks.
func network(i int) string {
	return fmt.Sprintf("X-Forwarded-For: 10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
}

// someone returns an address of the class that wasn't used before, and the network to use.
func (h *uniformHouse) someone(class string) (email, from string) {
	i := h.next[class]
	h.next[class]++
	from = network(rand.N(1 << 24))
	switch class {
	case limited:
		return "l00000@example.com", from
	case crowded:
		return fmt.Sprintf("k%05d@example.com", 50000+i), crowdedNetwork
	}
	return fmt.Sprintf("%c%05d@example.com", class[0], i), from
}

// asks requests a mail and returns the flow cookie.
func (h *uniformHouse) asks(email, from string) string {
	h.t.Helper()
	if status, err := h.w.ask(h.asking(email, from)); status != 303 || err != nil {
		h.t.Fatalf("POST /-/sign-in = %d, %v; want 303", status, err)
	}
	return h.w.cookie("portal-flow")
}

func (h *uniformHouse) asking(email, from string) []byte {
	return formBytes(h.host, "/-/sign-in", "email="+strings.Replace(email, "@", "%40", 1)+"&to=%2Forders", from)
}

// busy keeps a server busy with this many signed-in clients until stop is called.
func busy(t *testing.T, host, cookie string, clients int) (stop func()) {
	t.Helper()
	request := pageBytes(host, "/orders", "Cookie: portal="+cookie)
	end := make(chan struct{})
	var all sync.WaitGroup
	for range clients {
		w := dialWire(t, host)
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if status, err := w.ask(request); status != 200 || err != nil {
					t.Errorf("GET /orders, signed in = %d, %v; want 200", status, err)
					return
				}
			}
		})
	}
	return func() { close(end); all.Wait() }
}

// shuffled returns every class n times, in random order.
func shuffled(n int, classes ...string) []string {
	var all []string
	for range n {
		all = append(all, classes...)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// howMany returns the number of responses per class.
func howMany() int {
	if *samples == 0 {
		return fewSamples
	}
	return *samples
}

// asking measures the response to a mail request, and the page after it.
func (h *uniformHouse) measureAsking(when string) {
	posts, pages := newLedger(h.t, "POST /-/sign-in, "+when), newLedger(h.t, "GET /-/sent after it, "+when)
	for _, class := range shuffled(howMany(), askers...) {
		email, from := h.someone(class)
		posts.time(class, h.w, h.asking(email, from))
		pages.time(class, h.w, pageBytes(h.host, "/-/sent", from, "Cookie: portal-flow="+h.w.cookie("portal-flow")))
	}
	posts.report(askers...)
	pages.report(askers...)
}

// measureHelping measures the response to a request for a link to set a password.
func (h *uniformHouse) measureHelping(when string) {
	posts, pages := newLedger(h.t, "POST /-/help, "+when), newLedger(h.t, "GET /-/sent after it, "+when)
	for _, class := range shuffled(howMany(), askers...) {
		email, from := h.someone(class)
		posts.time(class, h.w, formBytes(h.host, "/-/help", "email="+strings.Replace(email, "@", "%40", 1)+"&to=%2Forders", from))
		pages.time(class, h.w, pageBytes(h.host, "/-/sent", from, "Cookie: portal-flow="+h.w.cookie("portal-flow")))
	}
	posts.report(askers...)
	pages.report(askers...)
}

// measureGuessing measures the response to a wrong code. It may reveal whether the attempts are
// used up, which the guesser knows, but not for whom the mail was requested.
func (h *uniformHouse) measureGuessing(when string) {
	const tries = 5
	type guesser struct{ class, from, cookie string }
	var guessers, guesses []guesser
	for _, class := range shuffled((howMany()+tries-1)/tries, askers...) {
		email, from := h.someone(class)
		guessers = append(guessers, guesser{class, from, h.asks(email, from)})
	}
	time.Sleep(2 * time.Second) // known ones have a code by then
	for range tries {
		guesses = append(guesses, guessers...)
	}
	for _, stage := range []string{"a wrong code", "one more, its tries used up"} {
		l := newLedger(h.t, "POST /-/code, "+stage+", "+when)
		rand.Shuffle(len(guesses), func(i, j int) { guesses[i], guesses[j] = guesses[j], guesses[i] })
		for _, g := range guesses {
			l.time(g.class, h.w, formBytes(h.host, "/-/code", "code=0000-000z", g.from, "Cookie: portal-flow="+g.cookie))
		}
		l.report(askers...)
	}
}

// Mail requests and wrong codes.
func TestUniformAnswers(t *testing.T) {
	quiet := startMailServer(t)
	gone := "mail smtp " + freeAddress(t) + " {\ntls off\nrate 10000/s\n}"
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections, but never replies
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for _, one := range []struct{ when, mail string }{
		{"idle", quiet.app()},
		{"under load", quiet.app()},
		{"no mail server", gone},
		{"a mail server that hangs", strings.Replace(quiet.app(), quiet.address, silent.Addr().String(), 1)},
	} {
		if *samples == 0 && one.when != "idle" {
			continue // takes long, and only its time matters
		}
		t.Run(one.when, func(t *testing.T) {
			h := openUniformHouse(t, quiet, one.mail, howMany()*3)
			if one.when == "under load" {
				b := h.browser()
				b.signIn("s00000@example.com")
				defer busy(t, h.host, b.cookie("portal"), 64)()
			}
			when := fmt.Sprintf("%s, %s, %d cores", one.when, *onStore, runtime.NumCPU())
			h.measureAsking(when)
			h.measureHelping(when)
			h.measureGuessing(when)
		})
	}
}

// A browser's mail request is evicted after thousands of others, which anybody can send. That must
// not reveal either for whom a mail was made.
func TestUniformAfterAFlood(t *testing.T) {
	mails := startMailServer(t)
	h := openUniformHouse(t, mails, mails.app(), 100)
	askedBy := make(map[string]string) // class → flow cookie
	for _, class := range askers {
		askedBy[class] = h.asks(h.someone(class))
	}
	time.Sleep(500 * time.Millisecond) // known ones have a code by then
	var flood sync.WaitGroup
	const clients, each = 16, 700
	for range clients {
		w := dialWire(t, h.host)
		flood.Go(func() {
			for i := range each {
				from := network(rand.N(1 << 24))
				if i%8 == 0 {
					from = crowdedNetwork
				}
				request := h.asking(fmt.Sprintf("u%05d@example.com", rand.N(90000)), from)
				if status, err := w.ask(request); status != 303 || err != nil {
					t.Errorf("POST /-/sign-in = %d, %v; want 303", status, err)
					return
				}
			}
		})
	}
	flood.Wait()
	pages, codes := newLedger(t, "GET /-/sent after a flood"), newLedger(t, "POST /-/code after a flood")
	for _, class := range askers {
		cookie := "Cookie: portal-flow=" + askedBy[class]
		pages.time(class, h.w, pageBytes(h.host, "/-/sent", cookie))
		codes.time(class, h.w, formBytes(h.host, "/-/code", "code=0000-000z", cookie))
	}
	if !strings.Contains(pages.like[unknown], "Location: /-/sign-in") {
		t.Errorf("GET /-/sent after a flood is answered\n%s\nwant what is said where nothing was asked for: it was no flood", pages.like[unknown])
	}
}

// A link that is opened elsewhere: a wrong typed address reveals nothing, whoever it belongs to;
// and only somebody with the link can tell what has become of it.
func TestUniformLinks(t *testing.T) {
	const tries = 5
	typed := []string{known, unknown, disabled, limited}
	people := (len(typed)*howMany() + tries - 1) / tries
	mails, brief := startMailServer(t), freeAddress(t)
	h := openUniformHouse(t, mails, mails.app(), people, fmt.Sprintf("http://%s {\n doorpost brief {\n url http://%s\n link_lifetime 1s\n"+
		" brand {\n name Example\n from hello@example.com\n }\n staff s00000@example.com\n }\n respond ok\n}\n", brief, brief))
	for range people {
		h.asks(h.someone(known))
	}
	h.eventually("all mails are there", func() bool { return len(h.letters("k")) == people })
	var tokens []string
	for _, l := range h.letters("k") {
		for range tries {
			tokens = append(tokens, secretOf(l.link))
		}
	}
	rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })

	elsewhere := func(host, token, email string) []byte {
		return formBytes(host, "/-/link", "t="+token+"&email="+strings.Replace(email, "@", "%40", 1), network(rand.N(1<<24)))
	}
	wrong := newLedger(t, "POST /-/link, an address that isn't the link's, "+*onStore)
	for i, class := range shuffled(howMany(), typed...) {
		email, _ := h.someone(class)
		wrong.time(class, h.w, elsewhere(h.host, tokens[i], email))
	}
	wrong.report(typed...)

	b := h.browser()
	used := secretOf(b.ask("s00000@example.com", "/").link)
	b.open("/-/link?t=" + used)
	before := len(h.letters("s00000"))
	w := dialWire(t, brief)
	if status, err := w.ask(formBytes(brief, "/-/sign-in", "email=s00000%40example.com")); status != 303 || err != nil {
		t.Fatalf("POST /-/sign-in = %d, %v; want 303", status, err)
	}
	expired := secretOf(h.nextLetter("s00000", before).link)
	time.Sleep(1100 * time.Millisecond)
	const never, over, late = "never was", "used", "ran out"
	links := newLedger(t, "POST /-/link, a link that doesn't work, "+*onStore)
	links.tells = true // a client with a whole link that was once active may request another
	for _, class := range shuffled(howMany(), never, over, late) {
		switch class {
		case never:
			links.time(class, h.w, elsewhere(h.host, secret.Random(), "s00000@example.com"))
		case over:
			links.time(class, h.w, elsewhere(h.host, used, "s00000@example.com"))
		case late:
			links.time(class, w, elsewhere(brief, expired, "s00000@example.com"))
		}
	}
	links.report(never, over, late)
}

// Further classes for signing in by password.
const (
	noneSet     = "none set"
	wrongSet    = "wrong"
	wrongBcrypt = "wrong, of bcrypt"
	wrongOlder  = "wrong, of older costs"
	overWrong   = "throttled, wrong"
	overRight   = "throttled, right"
	overBcrypt  = "throttled, right, of bcrypt"
)

var passwordAskers = []string{wrongSet, noneSet, unknown, disabled, wrongBcrypt, wrongOlder, overWrong, overRight, overBcrypt}

// passwordClasses is a house with contacts of each class.
type passwordClasses struct {
	*house
	w      *wire
	people int // of each class that gets wrong passwords
	n      int // passwords tried so far
}

func openPasswordClasses(t *testing.T) *passwordClasses {
	t.Helper()
	h := &passwordClasses{people: 2}
	if *samples > 0 {
		h.people = 20 + *samples/8
	}
	var contacts strings.Builder
	contacts.WriteString("email,disabled\ns00000@example.com,\nt00000@example.com,\nv00000@example.com,\n")
	for i := range h.people {
		fmt.Fprintf(&contacts, "n%05d@example.com,\nw%05d@example.com,\nb%05d@example.com,\no%05d@example.com,\nd%05d@example.com,true\n", i, i, i, i, i)
	}
	h.house, _ = openFastHouse(t, layout{global: behindProxy, contacts: contacts.String()})
	h.eventually("the contacts are read", func() bool {
		_, err := caddymodule.BookOf(t, "example").ByEmail(t.Context(), "v00000@example.com")
		return err == nil
	})
	h.holds("t00000@example.com", annsPassword)
	for i := range password.ForUnknown.Burst {
		for email, err := range h.throttles() {
			if !errors.Is(err, password.ErrWrong) || errors.Is(err, password.ErrThrottled) {
				t.Fatalf("the %dth password of %s is %v; want it wrong", i+1, email, err)
			}
		}
	}
	bcrypt, older := bcryptHash(t, annsPassword, 8), argon2Hash(t, annsPassword, 4096, 3)
	h.brings("v00000@example.com", bcrypt)
	for i := range h.people {
		h.holds(fmt.Sprintf("w%05d@example.com", i), annsPassword)
		h.brings(fmt.Sprintf("d%05d@example.com", i), bcrypt)
		h.brings(fmt.Sprintf("b%05d@example.com", i), bcrypt)
		h.brings(fmt.Sprintf("o%05d@example.com", i), older)
	}
	h.w = dialWire(t, h.host())
	return h
}

// throttles tries one more wrong password for each contact that is to be over its limit.
func (h *passwordClasses) throttles() map[string]error {
	h.t.Helper()
	all := map[string]error{}
	for _, email := range []string{"t00000@example.com", "v00000@example.com"} {
		_, all[email] = caddymodule.PasswordsOf(h.t, "example").Check(h.t.Context(), password.Attempt{Contact: h.idOf(email), Password: wrongOne})
	}
	return all
}

// trying returns the form of a contact of the class.
func (h *passwordClasses) trying(class string) []byte {
	h.n++
	of := map[string]string{wrongSet: "w", noneSet: "n", disabled: "d", wrongBcrypt: "b", wrongOlder: "o", overWrong: "t", overRight: "t", overBcrypt: "v", unknown: "u"}[class]
	email, plain := fmt.Sprintf("%s%05d%%40example.com", of, h.n%h.people), wrongOne
	switch class {
	case overWrong, overRight, overBcrypt:
		email = of + "00000%40example.com"
	case unknown:
		email = fmt.Sprintf("u%05d%%40example.com", rand.N(100000))
	}
	if class == overRight || class == overBcrypt {
		plain = annsPassword
	}
	return formBytes(h.host(), "/-/password", "email="+email+"&password="+strings.ReplaceAll(plain, " ", "+")+"&to=%2Forders", network(rand.N(1<<24)))
}

// measure times the responses of a firm whose passwords are checked, or of one that is over its
// limit so that none is.
func (h *passwordClasses) measure(when string, sprayed bool) {
	h.t.Helper()
	n := howMany()
	if *samples == 0 {
		n = 3 // a check takes a while
	}
	l := newLedger(h.t, fmt.Sprintf("POST /-/password, %s, %s, %d cores", when, *onStore, runtime.NumCPU()))
	for i, class := range shuffled(n, passwordAskers...) {
		if i%150 == 149 && !sprayed {
			caddymodule.Advance(h.t, time.Hour) // before the firm, or one of its contacts, is over its limit
			h.throttles()
		}
		l.time(class, h.w, h.trying(class))
	}
	for class, said := range l.like {
		if !strings.HasPrefix(said, "HTTP/1.1 403") {
			h.t.Errorf("%s is answered %.100s; want 403", class, said)
		}
	}
	if *samples > 0 { // with few samples chance is too large: a check takes tens of milliseconds
		l.report(passwordAskers...)
	}
}

// Failed sign-ins by password: the response is the same for every address, and for every kind of
// hash to compare with.
func TestUniformPasswords(t *testing.T) {
	h := openPasswordClasses(t)
	h.measure("idle", false)
	if *samples == 0 {
		return
	}
	for range 220 {
		if _, err := h.w.ask(h.trying(unknown)); err != nil {
			t.Fatal(err)
		}
	}
	h.measure("sprayed", true)
	b := h.browser()
	b.signIn("s00000@example.com")
	caddymodule.Advance(t, time.Hour)
	defer busy(t, h.house.host(), b.cookie("portal"), 8)()
	h.measure("under load", false)
}
