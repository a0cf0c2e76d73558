//go:build servers

package caddymodule_test

import (
	"context"
	"flag"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

var rounds = flag.Int("rounds", 60, "how often one link is pressed at two gates at once")

// gates are two processes of one firm on one Redis server, as behind a load balancer.
type gates struct {
	redis         *redisServer
	first, second *server
	elsewhere     string // the second gate's origin; the first one's is the firm's
}

func openGates(t *testing.T) *gates {
	t.Helper()
	g := &gates{redis: startRedis(t)}
	mails := startMailServer(t)
	own := mails.app() + "\n"
	own += g.redis.lines(t, own, t.TempDir())
	g.first = newServer(t, own, manyContacts(max(100, 2**rounds)))
	g.second = newServer(t, own, manyContacts(1))
	g.elsewhere = g.second.url
	g.second.write("Caddyfile", strings.ReplaceAll(g.second.config, "url "+g.second.url, "url "+g.first.url))
	mails.moveInto(g.first.house)
	g.first.start()
	g.second.start()
	return g
}

// at returns the response that the browser gets for a page at the second gate.
func (g *gates) at(b *browser, path string) answer { return b.open(g.elsewhere + path) }

// neighbour is a third process, which may or may not notify the others.
func (g *gates) neighbour(t *testing.T, tells bool) (*session.Sessions, *directory.Directory) {
	t.Helper()
	s, err := redis.Open(t.Context(), redis.Options{Address: g.redis.at()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	others := &store.Peers{Notify: func(ctx context.Context) {
		if tells {
			s.Publish(ctx, "example", "look")
		}
	}}
	path := g.first.config[strings.Index(g.first.config, "secret {file.")+len("secret {file."):]
	value, err := os.ReadFile(path[:strings.Index(path, "}")])
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.New(value)
	if err != nil {
		t.Fatal(err)
	}
	return &session.Sessions{Firm: "example", Store: s, Keys: keys, Idle: 45 * 24 * time.Hour, Max: 180 * 24 * time.Hour, Peers: others},
		&directory.Directory{Firm: "example", Store: s, Keys: keys, Peers: others}
}

// revoke revokes all sessions of a contact.
func revoke(t *testing.T, s *session.Sessions, b *directory.Directory, contact string) error {
	renewal, err := b.Renew(t.Context(), contact)
	if err != nil {
		return err
	}
	end, err := s.Ending(t.Context(), contact, "", renewal.Generation)
	if err != nil {
		return err
	}
	err = s.Store.Apply(t.Context(), append(end.Ops, renewal.Ops...)...)
	s.Ended(t.Context(), end, err)
	b.Renewed(t.Context(), err)
	return err
}

// until returns how long it took until the browser was signed out at a gate.
func until(t *testing.T, b *browser, page string) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		a := b.open(page)
		took := time.Since(began)
		switch {
		case a.StatusCode == http.StatusUnauthorized:
			return took
		case a.StatusCode != http.StatusOK:
			t.Fatalf("GET %s = %d\n%s", page, a.StatusCode, a.body)
		case took > 30*time.Second:
			t.Fatalf("GET %s is answered for %v", page, took)
		}
	}
}

// A visitor who is signed in at one gate is signed in at the other, and is signed out at both
// within a second, or within five if the notification was lost.
func TestTwoGates(t *testing.T) {
	g := openGates(t)
	person := 0
	enter := func() (*browser, string) {
		email := contact(person)
		person++
		b := g.first.browser()
		b.signIn(email)
		if a := g.at(b, "/x"); a.StatusCode != http.StatusOK || a.body != "for "+email {
			t.Fatalf("signed in at one gate, the other answers %d %q", a.StatusCode, a.body)
		}
		return b, email
	}
	loud, book := g.neighbour(t, true)
	silent, silentBook := g.neighbour(t, false)
	idOf := func(email string, b *directory.Directory) string {
		c, err := b.ByEmail(t.Context(), addressOf(t, email))
		if err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	for _, way := range []struct {
		name string
		most time.Duration
		end  func(b *browser, email string) error
	}{
		{"signed out at the first gate", time.Second, func(b *browser, _ string) error {
			other := *b.client // with the same cookies, but without losing them
			r := b.request("POST", "/-/sign-out", nil, "Origin", b.h.url, "Content-Type", "application/x-www-form-urlencoded", "Cookie", "portal="+b.cookie("portal"))
			other.Jar = nil
			resp, err := other.Do(r)
			if err == nil {
				resp.Body.Close()
			}
			return err
		}},
		{"revoked by a third process", time.Second, func(_ *browser, email string) error {
			return revoke(t, loud, book, idOf(email, book))
		}},
		{"disabled by a third process", time.Second, func(_ *browser, email string) error {
			_, err := book.Disable(t.Context(), addressOf(t, email))
			return err
		}},
		{"revoked, and the message is lost", 5 * time.Second, func(_ *browser, email string) error {
			return revoke(t, silent, silentBook, idOf(email, silentBook))
		}},
		{"revoked, after the roster was lost", 5 * time.Second, func(_ *browser, email string) error {
			id := idOf(email, silentBook)
			if err := silent.Store.Apply(t.Context(), store.Delete(store.Key{Firm: "example", Bucket: "roster", ID: id})); err != nil {
				return err
			}
			return revoke(t, silent, silentBook, id)
		}},
		{"disabled, and the message is lost", 5 * time.Second, func(_ *browser, email string) error {
			_, err := silentBook.Disable(t.Context(), addressOf(t, email))
			return err
		}},
	} {
		var took []time.Duration
		for range 5 {
			b, email := enter()
			if err := way.end(b, email); err != nil {
				t.Fatalf("%s: %v", way.name, err)
			}
			took = append(took, until(t, b, g.elsewhere+"/x"), until(t, b, "/x"))
		}
		slices.Sort(took)
		t.Logf("%s: out at the other gate after %v to %v", way.name, took[0], took[len(took)-1])
		// The median, because this machine may have stalled.
		if got := took[len(took)/2]; got > way.most {
			t.Errorf("%s: out after %v; want %v at most", way.name, got, way.most)
		}
	}
}

// K08: if one link is pressed at both gates at the same time, one sign-in wins.
func TestK08_OneLinkAtTwoGates(t *testing.T) {
	g := openGates(t)
	won := map[int]int{}
	for i := range *rounds {
		l := g.first.browser().ask(contact(i), "/")
		u, err := url.Parse(l.link)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		cookies := make([]string, 2)
		for n, origin := range []string{g.first.url, g.elsewhere} {
			b := g.first.browser()
			all.Go(func() {
				a := b.send(origin+"/-/link", form("t", u.Query().Get("t"), "email", contact(i)), "Origin", origin)
				for _, c := range a.Cookies() {
					if c.Name == "portal" {
						cookies[n] = c.Value
					}
				}
				if cookies[n] == "" && a.StatusCode != http.StatusGone {
					t.Errorf("round %d: who came second gets %d; want 410", i, a.StatusCode)
				}
			})
		}
		all.Wait()
		switch {
		case cookies[0] != "" && cookies[1] != "", cookies[0] == "" && cookies[1] == "":
			t.Errorf("round %d: sessions %q; want one", i, cookies)
		case cookies[0] != "":
			won[1]++
		default:
			won[2]++
		}
	}
	t.Logf("%d rounds: the first gate won %d, the second %d", *rounds, won[1], won[2])
	if won[1] == 0 || won[2] == 0 {
		t.Error("one of the gates has won every round; this shows nothing")
	}
}

// People double-click, and a load balancer may send the second click to another gate: the browser
// that requested the mail is signed in at both gates, by one session.
func TestT03_ADoubleClickAtTwoGates(t *testing.T) {
	g := openGates(t)
	for i := range 20 {
		b := g.first.browser()
		l := b.ask(contact(i), "/orders")
		path := strings.TrimPrefix(l.link, g.first.url)
		if i%2 == 0 { // sequentially, as if the first response had not been read
			first := g.first.browser()
			flow := "portal-flow=" + b.cookie("portal-flow")
			wantIn(t, i, first.open(path, "Cookie", flow), first.open(g.elsewhere+path, "Cookie", flow))
			continue
		}
		var all sync.WaitGroup
		var answers [2]answer
		for n, origin := range []string{g.first.url, g.elsewhere} {
			all.Go(func() { answers[n] = b.open(origin + path) })
		}
		all.Wait()
		wantIn(t, i, answers[:]...)
		if a := g.at(g.first.browser(), path); a.StatusCode != http.StatusGone {
			t.Errorf("round %d: the link in another browser = %d; want 410", i, a.StatusCode)
		}
	}
}

// wantIn checks that all responses redirect, in one session.
func wantIn(t *testing.T, round int, answers ...answer) {
	t.Helper()
	sessions := map[string]bool{}
	for _, a := range answers {
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/orders" {
			t.Errorf("round %d: a click = %d to %q; want 303 to /orders", round, a.StatusCode, a.Header.Get("Location"))
		}
		for _, c := range a.Cookies() {
			if c.Name == "portal" {
				sessions[c.Value] = true
			}
		}
	}
	if len(sessions) != 1 {
		t.Errorf("round %d: %d sessions; want one", round, len(sessions))
	}
}

// K02, K03: while Redis is down or hangs, requests that need it are refused soon, with the time to
// try again; nobody is reported as signed out; and everything works again soon after it is back.
func TestK02_RedisGone(t *testing.T) {
	g := openGates(t)
	in := g.first.browser()
	in.signIn(contact(0))
	cookie := in.cookie("portal")
	for _, trouble := range []struct {
		name      string
		away, end func()
	}{
		{"killed", g.redis.kill, func() { g.redis.start(t) }},
		{"hanging", func() { g.redis.signal(syscall.SIGSTOP) }, func() { g.redis.signal(syscall.SIGCONT) }},
	} {
		if a := in.open("/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("%s, before: %d", trouble.name, a.StatusCode)
		}
		trouble.away()
		refused := time.Time{}
		for began := time.Now(); time.Since(began) < 8*time.Second; time.Sleep(100 * time.Millisecond) {
			asked := time.Now()
			a := in.open("/x")
			switch took := time.Since(asked); {
			case took > 2*time.Second:
				t.Errorf("%s: answered after %v", trouble.name, took)
			case a.StatusCode == http.StatusServiceUnavailable && a.Header.Get("Retry-After") != "":
				if refused.IsZero() {
					refused = time.Now()
					t.Logf("%s: memory is believed for %v", trouble.name, time.Since(began).Round(time.Millisecond))
				}
			case a.StatusCode != http.StatusOK || !refused.IsZero():
				t.Errorf("%s: who is signed in gets %d, Retry-After %q", trouble.name, a.StatusCode, a.Header.Get("Retry-After"))
			}
			if len(a.Cookies()) > 0 {
				t.Errorf("%s: the answer sets cookies: %v", trouble.name, a.Cookies())
			}
		}
		if refused.IsZero() {
			t.Errorf("%s: 8 s later who is signed in is still believed from memory", trouble.name)
		}
		for _, ask := range []struct {
			name string
			a    answer
			want int
		}{
			{"an open page", g.first.browser().open("/open"), http.StatusOK},
			{"the prompt", g.first.browser().open("/y"), http.StatusUnauthorized},
			{"a request for a mail", g.first.browser().send("/-/sign-in", form("email", contact(1))), http.StatusServiceUnavailable},
			{"a cookie that nobody knows", cookieBrowser(g.first.house, strings.Repeat("a", 43)).open("/x"), http.StatusServiceUnavailable},
			{"health", g.first.browser().open("/-/health"), http.StatusServiceUnavailable},
		} {
			if ask.a.StatusCode != ask.want || ask.want == 503 && ask.a.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %s = %d, Retry-After %q; want %d", trouble.name, ask.name, ask.a.StatusCode, ask.a.Header.Get("Retry-After"), ask.want)
			}
		}
		trouble.end()
		back := time.Now()
		for in.open("/x").StatusCode != http.StatusOK {
			if time.Since(back) > 20*time.Second {
				t.Fatalf("%s: not back after 20 s", trouble.name)
			}
			time.Sleep(20 * time.Millisecond)
		}
		took := time.Since(back)
		t.Logf("%s: back after %v", trouble.name, took.Round(time.Millisecond))
		if took > 5*time.Second {
			t.Errorf("%s: back after %v; want 5 s at most", trouble.name, took)
		}
		if in.cookie("portal") != cookie {
			t.Errorf("%s: the session's cookie has changed", trouble.name)
		}
	}
	late := g.first.browser()
	late.signIn(contact(2))
}

// A new password that is set at one gate ends sessions and links at the other, too; and a guess at
// either counts at both.
func TestT18_ANewPasswordAtTwoGates(t *testing.T) {
	g := openGates(t)
	email := contact(0)
	h := g.first.house
	h.has(email, annsPassword)
	there := func(b *browser, plain string) answer {
		return b.send(g.elsewhere+"/-/password", form("email", email, "password", plain), "Origin", g.elsewhere)
	}
	var in []*browser
	for range 3 {
		b := h.browser()
		if a := there(b, annsPassword); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("the password at the other gate = %d; want 303", a.StatusCode)
		}
		in = append(in, b)
	}
	for _, b := range in {
		if a := b.open("/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("signed in at the other gate, here = %d; want 200", a.StatusCode)
		}
	}
	mails := len(h.letters(email))
	asking := in[0] // a known device, which has no delay between mails
	asking.send("/-/sign-in", form("email", email))
	unused := h.nextLetter(email, mails)
	in[1].send("/-/help", form("email", email))
	tok := setPattern.FindStringSubmatch(h.nextLetter(email, mails+1).text)[1]
	phone := h.browser()
	if a := phone.send("/-/password/set", form("t", tok, "password", annsPassword2)); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("POST /-/password/set = %d; want 303\n%s", a.StatusCode, a.body)
	}
	set := time.Now()
	if a := h.browser().open(strings.Replace(unused.link, h.url, g.elsewhere, 1)); a.StatusCode != http.StatusGone {
		t.Errorf("an unused link at the other gate = %d; want 410", a.StatusCode)
	}
	if a := h.browser().send(g.elsewhere+"/-/password/set", form("t", tok, "password", annsPassword), "Origin", g.elsewhere); a.StatusCode != http.StatusGone {
		t.Errorf("the password link once more, at the other gate = %d; want 410", a.StatusCode)
	}
	for _, b := range in {
		until(t, b, g.elsewhere+"/x")
		until(t, b, "/x")
	}
	if took := time.Since(set); took > 5*time.Second {
		t.Errorf("all are out at both gates after %v; want 5 s at most", took)
	} else {
		t.Logf("all are out at both gates after %v", took.Round(time.Millisecond))
	}
	if a := there(h.browser(), annsPassword); a.StatusCode != http.StatusForbidden {
		t.Errorf("the password of before, at the other gate = %d; want 403", a.StatusCode)
	}
	for range 5 {
		there(h.browser(), wrongOne)
		h.browser().manually(email, wrongOne)
	}
	for name, a := range map[string]answer{"the first": h.browser().manually(email, annsPassword2), "the other": there(h.browser(), annsPassword2)} {
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("the right password at %s gate, after eleven wrong ones at both = %d; want 403", name, a.StatusCode)
		}
	}
	if a := there(in[2], annsPassword2); a.StatusCode != http.StatusForbidden {
		t.Errorf("on a device that was known by the password before = %d; want 403", a.StatusCode)
	}
	if a := there(phone, annsPassword2); a.StatusCode != http.StatusSeeOther {
		t.Errorf("where the new one was set, at the other gate = %d; want 303", a.StatusCode)
	}
}

// cookieBrowser returns a browser with a session cookie from another one.
func cookieBrowser(h *house, value string) *browser {
	b := h.browser()
	u, err := url.Parse(h.url)
	if err != nil {
		h.t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: value, Path: "/"}})
	return b
}
