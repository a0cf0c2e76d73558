package caddymodule_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// office returns the admin client of a house with an admin endpoint.
func (h *house) office() *admin.Client {
	return &admin.Client{Base: "http://" + h.admin, HTTP: http.DefaultClient}
}

// history returns all events in order of time.
func (h *house) history() (all []admin.Event) {
	h.t.Helper()
	in := admin.ListEvents{Limit: 1000}
	for {
		page, err := h.office().Events(h.t.Context(), "example", in)
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, page.Events...)
		if in.After = page.Next; in.After == "" {
			return all
		}
	}
}

// metrics returns /metrics of the admin endpoint.
func (h *house) metrics() string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.admin + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("GET /metrics = %d, %v", resp.StatusCode, err)
	}
	return string(body)
}

// caddy runs this program as Caddy, with the arguments.
func (h *house) caddy(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join(append(args, "--address", h.admin), "\n"))
	return cmd
}

func seriesOf(event string, n int) string {
	return fmt.Sprintf("doorpost_events_total{event=%q,firm=\"example\"} %d\n", event, n)
}

// The counters are registered with Caddy from the start, and keep their values over
// reloads, each of which creates a new registry.
func TestCountersSurviveAReload(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	if got := h.metrics(); !strings.Contains(got, seriesOf("signed-in", 0)) || !strings.Contains(got, `doorpost_events_lost_total{firm="example"} 0`) {
		t.Fatalf("/metrics has no counters:\n%s", got)
	}
	h.browser().signIn("ann@example.com")
	for range 3 {
		h.start() // a reload
		h.settled()
		for _, event := range []string{"asked", "queued", "sent", "signed-in"} {
			if got := h.metrics(); !strings.Contains(got, seriesOf(event, 1)) {
				t.Errorf("after a reload, /metrics has no %s", seriesOf(event, 1))
			}
		}
	}
	h.browser().signIn("bob@example.com")
	if got := h.metrics(); !strings.Contains(got, seriesOf("signed-in", 2)) {
		t.Errorf("after another sign-in, /metrics has no %s", seriesOf("signed-in", 2))
	}
	h.config += "\nbroken {"
	if err := h.load(); err == nil {
		t.Fatal("a broken config was loaded")
	}
	if got := h.metrics(); !strings.Contains(got, seriesOf("signed-in", 2)) {
		t.Errorf("after a reload that failed, /metrics has no %s", seriesOf("signed-in", 2))
	}
	kinds := map[string]int{}
	for _, e := range h.history() {
		kinds[string(e.Kind)]++
	}
	want := map[string]int{"asked": 2, "queued": 2, "sent": 2, "signed-in": 2, "changed": 2} // the files, once
	if !maps.Equal(kinds, want) {
		t.Errorf("the history over reloads = %v; want %v", kinds, want)
	}
}

// X08: more than a thousand mixed events have one record each, with the visitor's address,
// the contact, and the outcome.
func TestX08_AThousandEventsEachHaveOneRecord(t *testing.T) {
	const clients, strangers, disabled = 120, 150, 30
	var csv strings.Builder
	csv.WriteString("email,first_name,companies,disabled\n")
	for i := range clients + disabled {
		fmt.Fprintf(&csv, "client%03d@example.com,C,acme,%t\n", i, i >= clients)
	}
	h, m := openFastHouse(t, layout{admin: freeAddress(t), contacts: csv.String(),
		global: "servers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t\ttrusted_proxies_strict\n\t}"})
	ipOf := func(i int) string { return fmt.Sprintf("10.%d.%d.7", 1+i/200, i%200) }
	all := make([]*browser, clients)
	for i := range clients + disabled + strangers {
		b := h.browser()
		email := fmt.Sprintf("client%03d@example.com", i)
		if i < clients {
			all[i] = b
		}
		if a := b.send("/-/sign-in", form("email", email), "X-Forwarded-For", ipOf(i)); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("asking as %s = %d", email, a.StatusCode)
		}
	}
	h.eventually("all mails", func() bool { return len(m.recipients()) == clients })
	letters := map[string]letter{}
	h.eventually("all mails in the folder", func() bool {
		for _, l := range h.letters("@example.com") {
			to := l.Get("To")
			letters[to[strings.LastIndex(to, "client"):][:len("client000@example.com")]] = l
		}
		return len(letters) == clients
	})
	want := map[string]int{"asked": clients + disabled + strangers, "queued": clients, "sent": clients, "unknown": strangers, "disabled": disabled}
	for i, b := range all {
		l := letters[fmt.Sprintf("client%03d@example.com", i)]
		from := []string{"X-Forwarded-For", ipOf(i)}
		if i%2 == 0 {
			b.open(l.link, from...)
		} else {
			b.send("/-/code", form("code", "0000-0000"), from...)
			b.send("/-/code", form("code", l.code), from...)
			want["wrong-code"]++
		}
		want["signed-in"]++
		if i%6 == 0 {
			h.browser().open(l.link, from...)
			want["opened-old"]++
		}
		b.send("/-/sign-out", url.Values{}, from...)
		want["signed-out"]++
	}

	var events []admin.Event
	total := 0
	for _, n := range want {
		total += n
	}
	if total < 1000 {
		t.Fatalf("only %d events", total)
	}
	h.eventually("all is written down", func() bool { events = h.history(); return len(events) >= total })
	got, ids, accounts := map[string]int{}, map[string]bool{}, map[string]string{}                             // accounts is by IP
	slices.SortStableFunc(events, func(a, b admin.Event) int { return strings.Compare(b.Contact, a.Contact) }) // those that name one first
	for _, e := range events {
		if e.Kind == "changed" { // the file of the contacts
			continue
		}
		got[string(e.Kind)]++
		if ids[e.ID] {
			t.Errorf("two events have the ID %s", e.ID)
		}
		ids[e.ID] = true
		if !e.IP.IsValid() && e.Kind != "sent" { // caused by no visitor
			t.Errorf("%s has no IP", e.Kind)
		}
		switch who := accounts[e.IP.String()]; {
		case e.Contact == "" && slices.Contains([]string{"queued", "disabled", "opened-old", "signed-in", "signed-out"}, string(e.Kind)):
			t.Errorf("%s names no contact", e.Kind)
		case e.Contact != "" && who == "":
			accounts[e.IP.String()] = e.Contact
		case e.Contact != "" && who != e.Contact:
			t.Errorf("%s by %s is about %s; want %s", e.Kind, e.IP, e.Contact, who)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("events = %v; want %v", got, want)
	}
	if len(accounts) != clients+disabled {
		t.Errorf("%d accounts by IP; want %d", len(accounts), clients+disabled)
	}
	for event, n := range want {
		if s := seriesOf(event, n); !strings.Contains(h.metrics(), s) {
			t.Errorf("/metrics has no %s", s)
		}
	}
}

// T10, X07: for any input, no event, metric or output of a command contains a credential,
// a whole address, or a control character.
func TestNoEventContainsASecret(t *testing.T) {
	log := newLogFile(t)
	h, _ := openFastHouse(t, layout{admin: freeAddress(t), global: log.global})
	evil := []string{"User-Agent", "Mozilla/5.0 \x1b[2J <b>forged</b> Chrome/1", "Referer", h.url + "/forged"}
	for i, v := range evil {
		evil[i] = strings.ReplaceAll(v, "\x1b", "\u009b") // allowed in a header
	}
	asking, elsewhere := h.browser(), h.browser()
	l := asking.ask("ann@example.com", "/forged")
	secrets := []string{secretOf(l.link), l.code, strings.ReplaceAll(l.code, "-", ""), asking.cookie("portal-flow"), "forged", "\x1b", "\u009b"}
	elsewhere.open(l.link, evil...)
	elsewhere.open("/-/link?t="+strings.Repeat("x", 43), evil...)
	elsewhere.send("/-/link", form("t", secretOf(l.link), "email", "mallory@example.com"), evil...)
	asking.send("/-/code", form("code", "0000-0000"), evil...)
	asking.open(l.link)
	secrets = append(secrets, asking.cookie("portal"))
	asking.send("/-/sign-out", url.Values{}, evil...)
	elsewhere.open(l.link, evil...)
	elsewhere.send("/-/sign-in", form("email", "stranger@example.net\r\nx: \x1b[2J"), evil...)
	elsewhere.send("/-/sign-in", form("email", "stranger@example.net"), evil...)
	h.eventually("all is written down", func() bool {
		return slices.ContainsFunc(h.history(), func(e admin.Event) bool { return e.Kind == "unknown" })
	})

	events, err := json.Marshal(h.history())
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{"the events": string(events), "/metrics": h.metrics(), "the log": log.text(t)}
	for _, args := range []string{"audit", "audit --json", "contacts timeline ann@example.com", "contacts timeline ann@example.com --json"} {
		out, err := h.caddy(append([]string{"doorpost"}, strings.Fields(args)...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
		told[args] = string(out)
	}
	for _, kind := range []string{"opened", "unknown-link", "wrong-mail", "wrong-code", "signed-in", "signed-out", "opened-old", "unknown"} {
		if !strings.Contains(told["the events"], `"event":"`+kind+`"`) {
			t.Errorf("the history has no %s:\n%s", kind, told["the events"])
		}
	}
	for where, text := range told {
		for _, s := range secrets {
			if s == "forged" && where == "the log" { // the access log has paths and headers
				continue
			}
			if strings.Contains(text, s) {
				t.Errorf("%s: there is %q in it:\n%.2000s", where, s, text)
			}
		}
		whole := regexp.MustCompile(`(ann|stranger|mallory)@example`)
		if where == "the log" {
			whole = regexp.MustCompile(`"logger":"doorpost".*(ann|stranger|mallory)@example`)
		}
		if strings.Contains(where, "timeline") { // the operator's own input
			whole = regexp.MustCompile(`(stranger|mallory)@example`)
		}
		if s := whole.FindString(text); s != "" {
			t.Errorf("%s: there is a whole address in it, %s", where, s)
		}
	}
	// The only place with the whole address.
	out, err := h.caddy("doorpost", "audit", "--unknown").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "stranger@example.net") {
		t.Errorf("audit --unknown = %v\n%s; want the address", err, out)
	}
	// The store contains nothing of it unencrypted.
	raw := h.store()
	for _, s := range []string{"stranger@", "Chrome on", "signed-out"} {
		if strings.Contains(raw, s) {
			t.Errorf("the store has %q in the clear", s)
		}
	}
}

// The server that finds a restored copy logs it once. Redis has its own backups.
func TestARestoreIsRecorded(t *testing.T) {
	db := filepath.Join(t.TempDir(), "doorpost.db")
	h := openHouse(t, layout{admin: freeAddress(t), app: startMailServer(t).app() + "\n\t\tstore bolt " + db})
	told := func() (all []string) {
		for _, e := range h.history() {
			if e.Kind == "changed" && e.By == "admin" {
				all = append(all, e.What)
			}
		}
		return all
	}
	run := func(args ...string) {
		t.Helper()
		cmd := h.caddy(args...)
		if args[1] == "restore" {
			cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join(args, "\n"))
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("doorpost", "backup", h.path("copy.db"))
	if got := told(); !slices.Equal(got, []string{"backup"}) {
		t.Errorf("changes = %v; want the backup", got)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	run("doorpost", "restore", h.path("copy.db"), "--store", db)
	for range 2 {
		h.start()
		h.settled()
		if got := told(); !slices.Equal(got, []string{"restore"}) { // the copy is from before the backup
			t.Errorf("changes = %v; want the restore, once", got)
		}
	}
}

// audit --follow prints events, across a reload, until it is interrupted.
func TestAuditFollows(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t)})
	cmd := h.caddy("doorpost", "audit", "--follow", "--json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			lines <- s.Text()
		}
	}()
	seen := map[string]bool{}
	next := func(kind, contact string) {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			select {
			case line, ok := <-lines:
				var e admin.Event
				if err := json.Unmarshal([]byte(line), &e); err != nil || !ok {
					t.Fatalf("a line isn't an event: %v %q\n%s", err, line, &stderr)
				}
				if seen[e.ID] {
					t.Errorf("told twice: %s", line)
				}
				seen[e.ID] = true
				if string(e.Kind) == kind {
					return
				}
			case <-late:
				t.Fatalf("no %s was told", kind)
			}
		}
	}
	h.browser().signIn("ann@example.com")
	next("signed-in", "ann")
	h.start() // a reload
	h.settled()
	h.browser().signIn("bob@example.com")
	next("signed-in", "bob")
	time.Sleep(2 * time.Second) // two more polls, which must repeat nothing
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for line := range lines {
		var e admin.Event
		if json.Unmarshal([]byte(line), &e) == nil && seen[e.ID] {
			t.Errorf("told twice: %s", line)
		}
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("after Ctrl-C = %v\n%s; want a quiet end", err, &stderr)
	}
}
