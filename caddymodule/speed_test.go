//go:build measure

package caddymodule_test

import (
	"bufio"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"
)

// How fast is Doorpost compared with plain Caddy? Machines drift, so compared variants are measured
// within a second of each other, in pairs, in random order, in one process. Run manually:
//
//	go test -tags measure ./caddymodule -run TestSpeed -segments 24 -v [-store redis]
//
// Without -segments these tests only show that everything works.
var segments = flag.Int("segments", 0, "how many one-second segments of each variant TestSpeed measures; 0: a short one")

// segment is how long one variant is measured at a time, and rounds is how often.
func segment() (length time.Duration, rounds int) {
	if *segments == 0 {
		return 50 * time.Millisecond, 1
	}
	return time.Second, *segments
}

// visitors is the number of connections of the load, each of another person.
const visitors = 32

// variant is one way of serving requests.
type variant struct {
	name     string
	beside   *variant // the variant to compare with; nil if none
	status   int
	requests [][]byte // one per connection
	wires    []*wire

	rates, costs []float64 // by segment: requests per second, CPU seconds per request
	rate, cost   []float64 // by pair: logarithms of the ratio to the one beside it
	mu           sync.Mutex
	waits        []time.Duration
}

// measure sends requests on all connections for a given time.
func (v *variant) measure(t *testing.T, length time.Duration, pid int) {
	t.Helper()
	cpu, start := cpuTime(pid), time.Now()
	var all sync.WaitGroup
	var done atomic.Int64
	for i, w := range v.wires {
		all.Go(func() {
			var waits []time.Duration
			for at := start; at.Sub(start) < length; {
				status, err := w.ask(v.requests[i])
				if err != nil || status != v.status {
					t.Errorf("%s: answered %d, %v; want %d", v.name, status, err, v.status)
					return
				}
				now := time.Now()
				waits = append(waits, now.Sub(at))
				at = now
			}
			done.Add(int64(len(waits)))
			v.mu.Lock()
			defer v.mu.Unlock()
			v.waits = append(v.waits, waits...)
		})
	}
	all.Wait()
	n := float64(done.Load())
	v.rates = append(v.rates, n/time.Since(start).Seconds())
	v.costs = append(v.costs, (cpuTime(pid)-cpu).Seconds()/n)
}

// compare measures the variants, each within a second of the one beside it.
func compare(t *testing.T, variants []*variant, pid int) {
	t.Helper()
	length, rounds := segment()
	var pairs []*variant
	for range rounds {
		for _, v := range variants {
			if v.beside != nil {
				pairs = append(pairs, v)
			}
		}
	}
	rand.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	for _, v := range variants {
		v.measure(t, length/2, pid) // to warm up
		v.rates, v.costs, v.waits = nil, nil, nil
	}
	for _, v := range pairs {
		order := []*variant{v, v.beside}
		if rand.N(2) == 0 {
			slices.Reverse(order)
		}
		for _, one := range order {
			one.measure(t, length, pid)
		}
		if t.Failed() {
			return
		}
		last := func(of []float64) float64 { return of[len(of)-1] }
		v.rate = append(v.rate, math.Log(last(v.rates)/last(v.beside.rates)))
		v.cost = append(v.cost, math.Log(last(v.costs)/last(v.beside.costs)))
	}
}

func report(t *testing.T, title string, variants []*variant) {
	length, rounds := segment()
	var out strings.Builder
	fmt.Fprintf(&out, "%s: %d cores, %d connections, %d segments of %v\n", title, runtime.NumCPU(), visitors, rounds, length)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\trequests/s\tCPU a request\tp99\trequests/s, ratio\tCPU, ratio\tbeside")
	for _, v := range variants {
		rates, cpu, beside, p99 := "", "", "", quantile(v.waits, 0.99).Round(10*time.Microsecond)
		if v.beside != nil {
			rates, cpu, beside = ratioOf(v.rate).String(), ratioOf(v.cost).String(), v.beside.name
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f µs\t%v\t%s\t%s\t%s\n", v.name, mean(v.rates), mean(v.costs)*1e6, p99, rates, cpu, beside)
	}
	w.Flush()
	t.Log("\n" + out.String())
}

// tinyPortal is an application that costs almost nothing: it gives the same response to every
// request.
type tinyPortal struct {
	address string
	mu      sync.Mutex
	heads   map[string]string // head of the latest request, by path
}

func newTinyPortal(t *testing.T) *tinyPortal {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &tinyPortal{address: l.Addr().String(), heads: make(map[string]string)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

var tinyAnswer = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("portal\n\n", 128))

func (p *tinyPortal) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 16<<10)
	for first := true; ; first = false {
		var head []byte
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			if first {
				head = append(head, line...)
			}
			if len(line) <= 2 {
				break
			}
		}
		if first { // first of a connection: keeping all heads would be expensive
			_, rest, _ := strings.Cut(string(head), " ")
			path, _, _ := strings.Cut(rest, " ")
			p.mu.Lock()
			p.heads[path] = string(head)
			p.mu.Unlock()
		}
		if _, err := conn.Write(tinyAnswer); err != nil {
			return
		}
	}
}

// head returns the head, as the portal received it, of the latest request for a path that was the
// first of its connection.
func (p *tinyPortal) head(path string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heads[path]
}

// street is a server with several sites in one process: plain Caddy, Caddy that sets the same
// headers as Doorpost, and Doorpost.
type street struct {
	*server
	portal  *tinyPortal
	cookies []string // of signed-in visitors

	plain, reference, referenceWithout, doorpost, without string // addresses of the sites
}

// sid is a cookie of the portal, which passes through the gate.
const sid = "sid=0123456789abcdef0123456789abcdef"

func openStreet(t *testing.T) *street {
	t.Helper()
	mails := startMailServer(t)
	s := &street{server: newServer(t, mails.app(), manyContacts(visitors)), portal: newTinyPortal(t), plain: freeAddress(t),
		reference: freeAddress(t), referenceWithout: freeAddress(t), without: freeAddress(t)}
	s.doorpost = strings.TrimPrefix(s.url, "http://")
	s.config = strings.Replace(s.config, `respond "for {http.auth.user.email}"`, "reverse_proxy "+s.portal.address, 1)
	s.write("Caddyfile", s.config)
	mails.moveInto(s.house)
	s.start()
	for i := range visitors {
		b := s.browser()
		b.signIn(contact(i))
		s.cookies = append(s.cookies, b.cookie("portal"))
	}
	// The reference sets the same headers as Doorpost, so those must be known first.
	w := dialWire(t, s.doorpost)
	if status, err := w.ask(s.page(s.doorpost, "/heard", 0)); status != 200 {
		t.Fatalf("GET /heard, signed in = %d, %v; want 200", status, err)
	}
	s.kill()
	s.write("Caddyfile", s.config+s.sites(s.portal.head("/heard")))
	s.start()
	return s
}

var identityLine = regexp.MustCompile(`(?m)^((?:Remote|Portal)-[A-Za-z]+): (.*)\r$`)

// sites returns the other sites: head is the head that the portal receives from Doorpost.
func (s *street) sites(head string) string {
	set := ""
	for _, line := range identityLine.FindAllStringSubmatch(head, -1) {
		set += fmt.Sprintf("\t\theader_up %s %q\n", line[1], line[2])
	}
	like := "http://%s {\n\theader Cache-Control private\n\treverse_proxy %s {\n\t\theader_up Cookie \"" + sid + "\"\n%s\t}\n}\n"
	withoutAssertion := regexp.MustCompile(`(?m)^.*Portal-Assertion.*\n`).ReplaceAllString(set, "")
	return fmt.Sprintf("http://%s {\n\treverse_proxy %s\n}\n", s.plain, s.portal.address) +
		fmt.Sprintf(like, s.reference, s.portal.address, set) +
		fmt.Sprintf(like, s.referenceWithout, s.portal.address, withoutAssertion) +
		fmt.Sprintf("http://%s {\n\tdoorpost example\n\treverse_proxy %s {\n\t\theader_up -Portal-Assertion\n\t}\n}\n", s.without, s.portal.address)
}

// page returns a request of the i-th visitor, who is signed in.
func (s *street) page(host, path string, i int) []byte {
	return pageBytes(host, path, "Cookie: portal="+s.cookies[i]+"; "+sid)
}

func (s *street) variants() []*variant {
	made := func(name, address, path string, cookie bool, status int, beside *variant) *variant {
		v := &variant{name: name, beside: beside, status: status}
		for i := range visitors {
			v.wires = append(v.wires, dialWire(s.t, address))
			request := pageBytes(address, path)
			if cookie {
				request = s.page(address, path, i)
			}
			v.requests = append(v.requests, request)
		}
		return v
	}
	reference := made("reference: plain Caddy, cookie, same headers", s.reference, "/reference", true, 200, nil)
	referenceWithout := made("reference without assertion", s.referenceWithout, "/without", true, 200, nil)
	plain := made("plain Caddy, no cookie", s.plain, "/plain", false, 200, reference)
	return []*variant{
		reference, referenceWithout, plain,
		made("signed in", s.doorpost, "/in", true, 200, reference),
		made("signed in, without assertion", s.without, "/without", true, 200, referenceWithout),
		made("open path", s.doorpost, "/open", false, 200, plain),
		made("the prompt", s.doorpost, "/prompt", false, 401, reference),
	}
}

// The speed of Doorpost compared with plain Caddy in the same process.
func TestSpeed(t *testing.T) {
	s := openStreet(t)
	all := s.variants()
	compare(t, all, s.cmd.Process.Pid)
	s.comparable()
	report(t, "Doorpost on "+*onStore+" and plain Caddy in one process", all)
}

// comparable fails the test unless the portal receives the same bytes from Doorpost and from the
// reference, except those that differ by person.
func (s *street) comparable() {
	s.t.Helper()
	lines := func(path string) (all []string) {
		for line := range strings.SplitSeq(s.portal.head(path), "\r\n") {
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "Remote-User", "Remote-Email", "Remote-Name":
				value = strings.TrimRight(value, "0123456789@example.com")
			case "Portal-Assertion":
				value = fmt.Sprint(len(value)/16, " times 16 bytes")
			case "Host", "X-Forwarded-Host":
				value = ""
			}
			all = append(all, name+": "+value)
		}
		all = all[1:] // the request line
		slices.Sort(all)
		return all
	}
	if got, want := lines("/in"), lines("/reference"); !slices.Equal(got, want) || len(got) < 15 {
		s.t.Errorf("the portal is told\n%s\nand by the reference\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Requests for a sign-in mail, each of which is on the disk before the response, compared with the
// disk's own rate.
func TestSpeedOfAsking(t *testing.T) {
	const clients = 64
	s := newServer(t, "", manyContacts(1))
	host := strings.TrimPrefix(s.url, "http://")
	s.write("Caddyfile", s.behindProxies())
	s.start()
	length, rounds := segment()
	rounds = min(rounds, 8) // each is followed by the work that it has caused
	var wires []*wire
	for range clients {
		wires = append(wires, dialWire(t, host))
	}
	var asked atomic.Int64
	var syncs, rates []float64
	for range rounds {
		syncs = append(syncs, syncRate(t, s.path("sync"), length))
		start, before := time.Now(), asked.Load()
		var all sync.WaitGroup
		for _, w := range wires {
			all.Go(func() {
				for time.Since(start) < length {
					// An unknown address, so that no mail is written, from a separate network.
					i := asked.Add(1)
					status, err := w.ask(formBytes(host, "/-/sign-in", fmt.Sprintf("email=n%d@example.net&to=%%2Forders", i),
						fmt.Sprintf("X-Forwarded-For: 10.%d.%d.1", i>>8&255, i&255)))
					if err != nil || status != 303 {
						t.Errorf("POST /-/sign-in = %d, %v; want 303", status, err)
						return
					}
				}
			})
		}
		all.Wait()
		rates = append(rates, float64(asked.Load()-before)/time.Since(start).Seconds())
		idle(s.cmd.Process.Pid) // finish the requested work before the next round
	}
	t.Logf("%d cores, %d clients, %d segments of %v on %s: %.0f sign-in requests a second, all of them durable (the slowest second %.0f); the disk alone: %.0f fsyncs a second",
		runtime.NumCPU(), clients, rounds, length, *onStore, mean(rates), slices.Min(rates), mean(syncs))
}

// behindProxies is the Caddyfile of a server that trusts this machine as a proxy.
func (s *server) behindProxies() string {
	return strings.Replace(s.config, "auto_https off\n", "auto_https off\n servers {\n trusted_proxies static 127.0.0.1/32\n trusted_proxies_strict\n }\n", 1)
}

// syncRate returns how many times per second the disk can make a page durable.
func syncRate(t *testing.T, path string, length time.Duration) float64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, n, start := make([]byte, 4096), 0, time.Now()
	for ; time.Since(start) < length; n++ {
		if _, err := f.WriteAt(page, int64(n%256)*4096); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds()
}

// The time of a start, and the resources of an idle process, with a large and with a small
// directory, compared with plain Caddy.
func TestSpeedOfStarting(t *testing.T) {
	_, rounds := segment()
	many := 2000
	if *segments > 0 {
		many = 100_000
	}
	rounds = min(rounds, 10)
	plain := newServer(t, "", "")
	plain.write("Caddyfile", "{\n admin off\n persist_config off\n auto_https off\n}\n"+plain.url+" {\n respond /-/health 204\n}\n")
	servers := []*server{plain}
	for _, n := range []int{100, many} {
		servers = append(servers, newServer(t, "", manyContacts(n)))
	}
	var took [3][]time.Duration
	var held [3][]float64
	for round := range 1 + rounds {
		for i, s := range servers {
			start := time.Now()
			s.start()
			if round > 0 { // the first one reads the file of contacts
				took[i] = append(took[i], time.Since(start))
			} else if i > 0 {
				t.Logf("the first start, which goes on to read %d contacts: serves after %v", []int{0, 100, many}[i], time.Since(start).Round(time.Millisecond))
			}
			idle(s.cmd.Process.Pid) // the file is read while the server runs
			held[i] = append(held[i], memoryOf(s.cmd.Process.Pid))
			s.kill()
		}
	}
	for i, name := range []string{"plain Caddy", "100 contacts", fmt.Sprint(many, " contacts")} {
		if i > 0 {
			name += " on " + *onStore
		}
		t.Logf("%s: serves after %v, holds %.1f MB idle (medians of %d)", name, quantile(took[i], 0.5).Round(time.Millisecond), quantile(held[i][1:], 0.5), len(took[i]))
	}
}

// A signed-in request on the store of this run, beside one on bolt, in two processes.
func TestSpeedBesideBolt(t *testing.T) {
	if *onStore == "bolt" {
		t.Skip("it compares another store with bolt")
	}
	signedIn := func(store string) (*street, *variant) {
		was := *onStore
		*onStore = store
		defer func() { *onStore = was }()
		s := openStreet(t)
		for _, v := range s.variants() {
			if v.name == "signed in" {
				v.name, v.beside = "signed in on "+store, nil
				return s, v
			}
		}
		panic("no such variant")
	}
	_, bolt := signedIn("bolt")
	s, other := signedIn(*onStore)
	other.beside = bolt
	all := []*variant{bolt, other}
	compare(t, all, s.cmd.Process.Pid)
	report(t, "Doorpost on bolt and on "+*onStore+", side by side (the CPU time is the latter's)", all)
}
