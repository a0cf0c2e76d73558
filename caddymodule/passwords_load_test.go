//go:build measure

package caddymodule_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// A thousand clients try passwords at the same time: how much of the machine does it take, and who
// else gets through? Run manually, it prints the figures and checks them against limits:
//
//	go test -tags measure ./caddymodule -run TestSpeedOfPasswords -segments 24 -v [-store redis]
//
// Without -segments it only checks what doesn't depend on the machine: the responses.

const (
	crowdSize = 1000
	gaveUp    = 50 * time.Millisecond // every second client disconnects after this time
	hashSize  = 19.0                  // MiB of a hash of today's cost
)

// crowd is a thousand clients, each with its own connection and network.
type crowd struct {
	mu      sync.Mutex
	status  map[int]int
	refused []time.Duration // waiting times of the clients that were told to try again
	bad     []string        // responses that nobody should get
}

// come makes all clients send a form at the same time, and waits until each has its response or has
// disconnected.
func (c *crowd) come(t *testing.T, host string, goAway bool, form func(i int) []byte) {
	t.Helper()
	wires := make([]*wire, crowdSize)
	for i := range wires {
		wires[i] = dialWire(t, host)
	}
	start := make(chan struct{})
	var all sync.WaitGroup
	for i, w := range wires {
		request := form(i)
		all.Go(func() {
			defer w.conn.Close()
			<-start
			if goAway && i%2 == 0 {
				w.conn.Write(request)
				time.Sleep(gaveUp)
				return
			}
			began := time.Now()
			status, err := w.ask(request)
			c.note(status, err, string(w.head), time.Since(began))
		})
	}
	close(start)
	all.Wait()
}

func (c *crowd) note(status int, err error, head string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == nil {
		c.status = make(map[int]int)
	}
	c.status[status]++
	switch {
	case err != nil:
		c.bad = append(c.bad, err.Error())
	case status == 503 && strings.Contains(head, "\r\nRetry-After: 2\r\n"):
		c.refused = append(c.refused, took)
	case status != 403 && status != 400:
		c.bad = append(c.bad, head)
	}
}

// passwordHouse is a server with a contact who has a password and a known device, and with
// signed-in visitors.
type passwordHouse struct {
	*server
	host   string
	device string   // Cookie line of the known device
	inside [][]byte // requests of signed-in visitors
}

const readers = 4 // clients that read pages all the time

func openPasswordHouse(t *testing.T) *passwordHouse {
	t.Helper()
	mails := startMailServer(t)
	s := newServer(t, mails.app(), manyContacts(1+readers))
	mails.moveInto(s.house)
	s.write("Caddyfile", s.behindProxies())
	s.start()
	h := &passwordHouse{server: s, host: strings.TrimPrefix(s.url, "http://")}
	h.has(contact(0), annsPassword)
	b := h.browser()
	if a := b.manually(contact(0), annsPassword); a.StatusCode != 303 {
		t.Fatalf("the right password = %d; want 303", a.StatusCode)
	}
	h.device = "Cookie: portal-device=" + b.cookie("portal-device")
	for i := range readers {
		b := h.browser()
		b.signIn(contact(1 + i))
		h.inside = append(h.inside, pageBytes(h.host, "/orders", "Cookie: portal="+b.cookie("portal")))
	}
	idle(s.cmd.Process.Pid)
	return h
}

// tries returns the form of the i-th client, which tries a password of a contact.
func (h *passwordHouse) tries(i int) []byte {
	return formBytes(h.host, "/-/password", fmt.Sprintf("email=who%d%%40example.com&password=wrong+wrong+wrong&to=%%2Forders", i), network(i<<8))
}

// mistypes is the same for an unknown address: all work is done except the check.
func (h *passwordHouse) mistypes(i int) []byte {
	return bytes.Replace(h.tries(i), []byte("%40"), []byte("%20"), 1)
}

// others are the clients that the crowd should not affect.
type others struct {
	mu    sync.Mutex
	pages []time.Duration // page loads of signed-in visitors
	later []time.Duration // those of them that were due after the crowd had come, while passwords were checked
	known []time.Duration // sign-ins by password on a known device
	bad   []string
}

// whileThey runs the other clients while do runs: each reads a page every 10 ms, and the known
// device signs in four times a second. Latency counts from the time when a request was due.
func (h *passwordHouse) whileThey(o *others, do func()) {
	h.t.Helper()
	var end atomic.Bool
	var all sync.WaitGroup
	began := time.Now()
	every := func(pause time.Duration, status int, request []byte, into *[]time.Duration) {
		w := dialWire(h.t, h.host)
		all.Go(func() {
			defer w.conn.Close()
			for due := time.Now(); !end.Load(); due = due.Add(pause) {
				time.Sleep(time.Until(due))
				got, err := w.ask(request)
				o.mu.Lock()
				took := time.Since(due) // a late reader wanted the page when it was due
				if *into = append(*into, took); into == &o.pages && due.Sub(began) > time.Second {
					o.later = append(o.later, took)
				}
				if got != status || err != nil {
					o.bad = append(o.bad, fmt.Sprintf("%d, %v; want %d", got, err, status))
				}
				o.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	for _, request := range h.inside {
		every(10*time.Millisecond, 200, request, &o.pages)
	}
	email := strings.Replace(contact(0), "@", "%40", 1)
	every(250*time.Millisecond, 303, formBytes(h.host, "/-/password", "email="+email+"&password="+strings.ReplaceAll(annsPassword, " ", "+"), h.device, network(1<<20)), &o.known)
	do()
	end.Store(true)
	all.Wait()
}

// D03: passwords cost at most what the semaphore allows, whatever the load; refused clients soon
// learn when to try again; known devices sign in, and signed-in visitors notice nothing.
func TestSpeedOfPasswords(t *testing.T) {
	h := openPasswordHouse(t)
	pid := h.cmd.Process.Pid
	_, rounds := segment()
	var quiet, mistyped, tried others
	var typos, attack crowd
	var extra []float64
	for range rounds {
		length := 50 * time.Millisecond
		if *segments > 0 {
			length = 3 * time.Second
		}
		h.whileThey(&quiet, func() { time.Sleep(length) })
		// The cost of a thousand connections, whatever they request, isn't the cost of passwords.
		forgetPeak(t, pid)
		h.whileThey(&mistyped, func() {
			typos.come(t, h.host, true, h.mistypes)
			if *segments > 0 {
				typos.come(t, h.host, false, h.mistypes)
			}
		})
		before := peakOf(pid)
		forgetPeak(t, pid)
		h.whileThey(&tried, func() { attack.come(t, h.host, true, h.tries) })
		extra = append(extra, peakOf(pid)-before)
		if *segments > 0 {
			idle(pid)
		}
	}
	for name, bad := range map[string][]string{"who reads": quiet.bad, "who reads while others mistype": mistyped.bad, "who reads while others try passwords": tried.bad,
		"who mistypes": typos.bad, "who tries passwords": attack.bad} {
		if len(bad) > 0 {
			t.Errorf("%s, among others (%d): %s", name, len(bad), bad[0])
		}
	}
	if attack.status[403] == 0 || attack.status[503] < crowdSize/4 {
		t.Errorf("a thousand passwords at once are answered %v; want some judged, and most told to come again", attack.status)
	}
	permits := min(max(runtime.NumCPU()-1, 1), 4)
	allowed := float64(permits) * hashSize * 1.1
	p99 := func(pages []time.Duration) time.Duration {
		return quantile(pages, 0.99).Round(10 * time.Microsecond)
	}
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%d cores on %s, %d rounds of %d passwords at once, half of them given up after %v: answers %v; told to come again after %v (median), %v (99th of a hundred), %v (last)\n"+
		"  memory beyond that of %d who mistype an address: %.1f MiB (median), %.1f MiB (most); %d at a time are %.1f MiB, and may take %.1f\n"+
		"  a page of who is signed in, 99th of a hundred: idle %v; while %d mistype an address %v; while %d try passwords %v (medians %v, %v, %v); from a second after they came %v, and idle %v\n"+
		"  by password on a known device: %d of %d; idle %v (median), meanwhile %v (median), %v (last)",
		runtime.NumCPU(), *onStore, rounds, crowdSize, gaveUp, attack.status, ms(quantile(attack.refused, 0.5)), ms(quantile(attack.refused, 0.99)), ms(quantile(attack.refused, 1)),
		crowdSize, quantile(extra, 0.5), quantile(extra, 1), permits, float64(permits)*hashSize, allowed,
		p99(quiet.pages), crowdSize, p99(mistyped.pages), crowdSize, p99(tried.pages), quantile(quiet.pages, 0.5), quantile(mistyped.pages, 0.5), quantile(tried.pages, 0.5),
		p99(tried.later), p99(quiet.later),
		len(tried.known)-len(tried.bad), len(tried.known), ms(quantile(quiet.known, 0.5)), ms(quantile(tried.known, 0.5)), ms(quantile(tried.known, 1)))
	if *segments == 0 {
		return
	}
	if most := quantile(extra, 0.5); most > allowed {
		t.Errorf("%.1f MiB more; want %.1f at most", most, allowed)
	}
	if last := quantile(attack.refused, 0.99); last > 3*time.Second {
		t.Errorf("told to come again after %v; want about 2 s at most", last)
	}
	if got, want := p99(tried.later), p99(quiet.later); got > 2*want {
		t.Errorf("while passwords are checked, a page takes %v; want less than twice %v", got, want)
	}
	if got, want := p99(tried.pages), p99(mistyped.pages); got > 2*want {
		t.Errorf("with those who come all at once, a page takes %v; want less than twice %v, as with any thousand", got, want)
	}
}

// forgetPeak resets peakOf.
func forgetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil && *segments > 0 {
		t.Fatalf("the memory of a process can't be measured here: %v", err)
	}
}

// peakOf returns the peak memory of a process, in MiB.
func peakOf(pid int) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if fields := strings.Fields(rest); len(fields) > 0 {
		kB, _ := strconv.Atoi(fields[0])
		return float64(kB) / 1024
	}
	return 0
}

// A check continues after its client has disconnected, and keeps its place in the semaphore: a
// client that gives up and returns doesn't get more of the machine than one that waits.
func TestD03_APermitOutlivesItsClient(t *testing.T) {
	h, _ := openFastHouse(t, layout{global: behindProxy})
	h.brings("bob@example.com", bcryptHash(t, annsPassword, 11)) // makes every check slow
	passwords := min(max(runtime.GOMAXPROCS(0)-1, 1), 4)         // at a time
	stacks := make([]byte, 4<<20)
	var mu sync.Mutex // guards stacks
	running := func() int {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("password.(*comparison).compare("))
	}
	most, over := 0, make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
				most = max(most, running())
			}
		}
	})
	for round := range 4 {
		var wires []*wire
		for i := range 10 {
			w := dialWire(t, h.host())
			w.conn.Write(formBytes(h.host(), "/-/password", fmt.Sprintf("email=who%d%%40example.com&password=wrong", i), network(round<<12+i<<8)))
			wires = append(wires, w)
		}
		h.eventually("a check is under way", func() bool { return running() > 0 })
		for _, w := range wires {
			w.conn.Close()
		}
	}
	h.eventually("the last check has ended", func() bool { return running() == 0 })
	close(over)
	watch.Wait()
	if most > passwords || most == 0 {
		t.Errorf("%d checks at a time, of clients who go away; want %d", most, passwords)
	}
	if a := h.browser().manually("bob@example.com", annsPassword, from("192.0.2.1")...); a.StatusCode != 303 {
		t.Errorf("then the right password = %d; want 303", a.StatusCode)
	}
	if state, err := caddymodule.PasswordsOf(t, "example").State(t.Context(), h.idOf("bob@example.com")); err != nil || state.Imported {
		t.Errorf("the hash from elsewhere, once used, is %+v, %v; want one of ours", state, err)
	}
}
