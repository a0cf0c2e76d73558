package caddymodule_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// streams is a portal with endless responses.
func streams(t *testing.T) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("the portal's WebSocket: %v", err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "hello %s\n", r.Header.Get("Remote-User"))
		io.Copy(conn, rw) // echo
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		drip(w, r, "data: hello\n\n")
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		drip(w, r, strings.Repeat("slow", 256))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Remote-User")) })
	s := httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return strings.TrimPrefix(s.URL, "http://")
}

// drip sends a little now, and then nothing for a long time.
func drip(w http.ResponseWriter, r *http.Request, text string) {
	io.WriteString(w, text)
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

var kindsOfStream = map[string]string{"websocket": "/ws", "events": "/events", "download": "/download"}

// stream is an open response on its own connection.
type stream struct {
	name string
	conn net.Conn
	in   *bufio.Reader
	end  chan end // receives once when and how it ended
}

type end struct {
	at       time.Time
	complete bool // to the browser the response looks complete
}

// opens opens a stream and reads its first bytes, which arrive at once.
func (b *browser) opens(kind string) *stream {
	b.h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.h.url, "http://"))
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { conn.Close() })
	begun := time.Now()
	conn.SetDeadline(begun.Add(5 * time.Second))
	upgrade := "Connection: close\r\n"
	if kind == "websocket" {
		upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: portal=%s\r\n%s\r\n", kindsOfStream[kind],
		strings.TrimPrefix(b.h.url, "http://"), b.cookie("portal"), upgrade)
	s := &stream{kind, conn, bufio.NewReader(conn), make(chan end, 1)}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		b.h.t.Fatalf("%s: %v", kind, err)
	}
	first := make([]byte, 5)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_, err = io.ReadFull(s.in, first)
	} else if resp.StatusCode == http.StatusOK {
		_, err = io.ReadFull(resp.Body, first)
	} else {
		b.h.t.Fatalf("%s: %s; want an answer that goes on", kind, resp.Status)
	}
	if err != nil {
		b.h.t.Fatalf("%s: its first bytes, after %v: %v", kind, time.Since(begun), err)
	}
	if kind == "websocket" {
		s.in.ReadString('\n')
		conn.Write([]byte("echo\n"))
		if line, err := s.in.ReadString('\n'); line != "echo\n" {
			b.h.t.Fatalf("the WebSocket's echo = %q, %v; want echo", line, err)
		}
	}
	conn.SetDeadline(time.Time{})
	go func() {
		rest, _ := io.ReadAll(s.in)
		s.end <- end{time.Now(), kind != "websocket" && bytes.HasSuffix(rest, []byte("0\r\n\r\n"))}
	}()
	return s
}

func (b *browser) opensAll() []*stream {
	b.h.t.Helper()
	var all []*stream
	for kind := range kindsOfStream {
		all = append(all, b.opens(kind))
	}
	return all
}

// goOn fails the test if one of the streams has ended.
func goOn(t *testing.T, what string, all []*stream) {
	t.Helper()
	for _, s := range all {
		select {
		case e := <-s.end:
			t.Errorf("%s: the %s has ended; want it to go on", what, s.name)
			s.end <- e
		default:
		}
	}
}

// slack is added to the promised second for a busy machine.
const slack = 3 * time.Second

// endBy checks that every stream ends within a second of the given time, and that no download looks
// complete.
func endBy(t *testing.T, what string, all []*stream, moment time.Time) {
	t.Helper()
	for _, s := range all {
		select {
		case e := <-s.end:
			if late := e.at.Sub(moment); late > time.Second+slack {
				t.Errorf("%s: the %s ended after %v; want within a second", what, s.name, late)
			}
			if e.complete {
				t.Errorf("%s: the %s was cut short, and looks complete", what, s.name)
			}
			s.end <- e
		case <-time.After(time.Until(moment) + 10*time.Second):
			t.Errorf("%s: the %s goes on; want its end within a second", what, s.name)
		}
	}
}

// operator sends the commands' requests to the admin endpoint.
func (h *house) operator(path, email string) {
	h.t.Helper()
	body, err := json.Marshal(map[string]string{"email": email})
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.Post("http://"+h.admin+"/doorpost/example/"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		h.t.Fatalf("%s %s = %s\n%s", path, email, resp.Status, text)
	}
}

// manyContacts is a CSV file with c0@example.com and so on.
func manyContacts(n int) string {
	var text strings.Builder
	text.WriteString("email,first_name,companies\n")
	for i := range n {
		fmt.Fprintf(&text, "c%d@example.com,Name%d,acme\n", i, i)
	}
	return text.String()
}

func contact(i int) string { return fmt.Sprintf("c%d@example.com", i) }

// Every kind of stream ends within a second of its session, whatever ended the session.
func TestH17_StreamsEndWithTheirSession(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t), contacts: manyContacts(4), site: "reverse_proxy " + streams(t)})
	stays := h.browser()
	stays.signIn(contact(3))
	staying := stays.opensAll()
	for i, c := range []struct {
		name string
		end  func(b *browser)
	}{
		{"signed out in another tab", func(b *browser) { b.send("/-/sign-out", url.Values{}) }},
		{"revoked by the operator", func(*browser) { h.operator("sessions/revoke", contact(1)) }},
		{"contact disabled", func(*browser) { h.operator("contacts/disable", contact(2)) }},
	} {
		b := h.browser()
		b.signIn(contact(i))
		open := b.opensAll()
		goOn(t, c.name+", before", open)
		moment := time.Now()
		c.end(b)
		endBy(t, c.name, open, moment)
	}
	goOn(t, "somebody else's", staying)
	moment := time.Now()
	h.operator("contacts/remove", contact(3))
	endBy(t, "contact removed", staying, moment)
}

// The session limits end streams too: the idle limit one that only listens, the other limit one
// whose browser continues to send requests.
func TestS03_StreamsEndByTheLimits(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(2), site: "reverse_proxy " + streams(t),
		firm: "session {\n idle 2s\n max 4s\n }"})
	quiet, busy := h.browser(), h.browser()
	quiet.signIn(contact(0))
	quietOnes, quietSince := quiet.opensAll(), time.Now()
	busy.signIn(contact(1))
	busySince := time.Now()
	busyOnes := busy.opensAll()
	for time.Since(busySince) < 3*time.Second {
		busy.open("/")
		time.Sleep(200 * time.Millisecond)
	}
	if time.Since(busySince) < 3500*time.Millisecond { // otherwise a busy machine came close to the other limit
		goOn(t, "a session in use, beyond its idle limit", busyOnes)
	}
	endBy(t, "idle limit", quietOnes, quietSince.Add(2*time.Second))
	endBy(t, "absolute limit", busyOnes, busySince.Add(4*time.Second))
}

// A stream that began under a replaced config ends with its session all the same, by the current
// limits.
func TestK16_StreamsEndWithTheirSessionAfterAReload(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t), contacts: manyContacts(6),
		site: "reverse_proxy " + streams(t) + " {\n stream_close_delay 1m\n }",
		firm: "session {\n idle 1h\n max 2h\n }"})
	var all [6][]*stream
	var people [6]*browser
	for i := range people {
		people[i] = h.browser()
		people[i].signIn(contact(i))
		all[i] = people[i].opensAll()
	}
	revoke := func(what string, i int) {
		t.Helper()
		goOn(t, what+", before", all[i])
		moment := time.Now()
		h.operator("sessions/revoke", contact(i))
		endBy(t, what, all[i], moment)
	}
	h.start() // forced: the same config is loaded again
	revoke("revoked after a reload", 0)
	h.change("idle 1h", "idle 2h")
	revoke("revoked after a reload with another limit", 1)
	h.start()
	moment := time.Now()
	h.operator("contacts/disable", contact(2))
	endBy(t, "disabled after reloads", all[2], moment)
	moment = time.Now()
	people[3].send("/-/sign-out", url.Values{})
	endBy(t, "signed out after reloads", all[3], moment)

	good := h.config
	h.config = strings.Replace(good, "idle 2h", "idle nonsense", 1)
	if err := h.load(); err == nil {
		t.Fatal("a config with nonsense was loaded")
	}
	h.config = good
	revoke("revoked after a reload that failed", 4)

	moment = time.Now()
	h.change("idle 2h", "idle 1s")
	endBy(t, "the idle limit of a later config", all[5], moment)
}

// The firm is removed from the config: streams that began under it still end with the lifetime of
// their sessions.
func TestStreamsEndByTheLimitsWhenTheFirmIsGone(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(1),
		site: "reverse_proxy " + streams(t) + " {\n stream_close_delay 1m\n }",
		firm: "session {\n idle 3s\n }"})
	b := h.browser()
	b.signIn(contact(0))
	open, since := b.opensAll(), time.Now()
	whole := h.config
	h.config = "{\n admin off\n persist_config off\n auto_https off\n}\n" + h.url + " {\n respond gone\n}\n"
	h.start()
	goOn(t, "without the firm, within the idle limit", open)
	endBy(t, "without the firm", open, since.Add(3*time.Second))
	h.config = whole
	h.start()
	b.signIn(contact(0))
}

var large = flag.Bool("large", false, "transfer 1 GiB rather than 256 MiB")

// noise returns a reader of n bytes that depend only on the seed.
func noise(seed uint64, n int64) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// Uploads and downloads of any size pass through with constant memory.
func TestLargeTransfersPassThrough(t *testing.T) {
	size := int64(256 << 20)
	if *large {
		size = 1 << 30
	}
	sum := sha256.New()
	io.Copy(sum, noise(1, size))
	want := fmt.Sprintf("%x", sum.Sum(nil))
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			sum := sha256.New()
			n, err := io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.Copy(w, noise(1, size))
	}))
	defer portal.Close()
	h := openHouse(t, layout{site: "reverse_proxy " + strings.TrimPrefix(portal.URL, "http://")})
	b := h.browser()
	b.signIn("ann@example.com")
	b.client.Timeout = 5 * time.Minute

	before, most := resident(t), make(chan int64)
	done := make(chan struct{})
	go func() {
		var peak int64
		for {
			select {
			case <-done:
				most <- peak
				return
			case <-time.After(20 * time.Millisecond):
				peak = max(peak, resident(t))
			}
		}
	}()
	begun := time.Now()
	r := b.request("POST", "/upload", noise(1, size), "Sec-Fetch-Site", "same-origin", "Origin", h.url, "Content-Type", "application/octet-stream")
	r.ContentLength = size
	if a := b.do(r); a.body != fmt.Sprintf("%d %s <nil>", size, want) {
		t.Errorf("the portal got %q; want all %d bytes with the sum %s", a.body, size, want)
	}
	up := time.Since(begun)
	begun = time.Now()
	resp, err := b.client.Do(b.request("GET", "/download", nil))
	if err != nil {
		t.Fatal(err)
	}
	sum.Reset()
	n, err := io.Copy(sum, resp.Body)
	resp.Body.Close()
	if got := fmt.Sprintf("%x", sum.Sum(nil)); n != size || err != nil || got != want {
		t.Errorf("the download = %d bytes with the sum %s, %v; want %d and %s", n, got, err, size, want)
	}
	down := time.Since(begun)
	close(done)
	grown := <-most - before
	t.Logf("%d MiB: up %v, down %v; the process (browser and portal are in it) grew by %d MiB", size>>20, up, down, grown>>20)
	if grown > 64<<20 {
		t.Errorf("the process grew by %d MiB; want less than 64", grown>>20)
	}
}

// resident returns the memory of this process.
func resident(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		var m runtime.MemStats // a machine without /proc
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	var total, pages int64
	if _, err := fmt.Sscan(string(text), &total, &pages); err != nil {
		t.Errorf("reading statm: %v", err)
	}
	return pages * int64(os.Getpagesize())
}
