package caddymodule_test

// Passwords, in classes T, S, N, D and E: guessing them in every way, links that set them, and
// what a new password ends. All checks are real requests; only their cost is
// reduced where a test isn't about time or memory.
//
// Not here: the answers' bytes (password_test.go) and time (uniform_test.go), a thousand at once
// (passwords_load_test.go), two gates on one server (redis_gates_test.go), and unit tests of
// package password.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const wrongOne = "wrong wrong wrong wrong"

// openGuessHouse opens a house that can be reached from many networks, whose hashes cost almost
// nothing until a reload.
func openGuessHouse(t *testing.T, l layout) *house {
	t.Helper()
	l.global += behindProxy
	h, _ := openFastHouse(t, l)
	caddymodule.PasswordsOf(t, "example").Cost = password.Cost{Memory: 64, Time: 1, Threads: 1}
	return h
}

// idOf returns a contact's ID, once the file is loaded: on a busy machine that may continue
// during the first requests.
func (h *house) idOf(email string) string {
	h.t.Helper()
	typed, err := address.Parse(email)
	if err != nil {
		h.t.Fatal(err)
	}
	var c directory.Contact
	h.eventually(email+" is a contact", func() bool {
		c, err = caddymodule.BookOf(h.t, "example").ByEmail(h.t.Context(), typed)
		return !errors.Is(err, directory.ErrUnknown)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return c.ID
}

// holds sets a contact's password, without the mails of has.
func (h *house) holds(email, plain string) {
	h.t.Helper()
	h.apply(caddymodule.PasswordsOf(h.t, "example").Set(h.t.Context(), h.idOf(email), plain, password.ContactInfo{}))
}

// brings imports a contact's hash.
func (h *house) brings(email, hash string) {
	h.t.Helper()
	h.apply(caddymodule.PasswordsOf(h.t, "example").Import(h.t.Context(), h.idOf(email), hash))
}

func (h *house) apply(ops []store.Op, err error) {
	h.t.Helper()
	if err == nil {
		err = caddymodule.OpenStore(h.t).Apply(h.t.Context(), ops...)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// comparedPasswords returns how many passwords from unknown devices were compared for a contact in the last
// thirty days.
func (h *house) comparedPasswords(email string) int {
	h.t.Helper()
	id := h.idOf(email)
	p := caddymodule.PasswordsOf(h.t, "example")
	tries := sealed.Bucket[struct{ Owed int64 }]{Store: p.Store, Keys: p.Keys, Firm: p.Firm, Name: "password-guesses", Now: p.Now, Format: 1}
	rec, err := tries.Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatalf("the tries of %s: %v", email, err)
	}
	return int((time.Unix(rec.Value.Owed, 0).Sub(p.Now()) + password.ForUnknown.Every - 1) / password.ForUnknown.Every)
}

// stolen returns a browser with a copy of another's session, and nothing else.
func (b *browser) stolen() *browser {
	thief := b.h.browser()
	u, err := url.Parse(b.h.url)
	if err != nil {
		b.h.t.Fatal(err)
	}
	thief.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: b.cookie("portal"), Path: "/"}})
	return thief
}

// patiently is manually, repeated while the answer is to try again.
func (b *browser) patiently(email, password string, headers ...string) answer {
	b.h.t.Helper()
	for {
		if a := b.manually(email, password, headers...); a.StatusCode != http.StatusServiceUnavailable {
			return a
		}
	}
}

// CVE-2025-24806, CVE-2026-47203: an account has one budget for all spellings.
func TestE07_CVE_2025_24806_FiftyWrongPasswordsInEverySpelling(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	h.holds("bob@example.com", annsPassword)
	spellings := []string{"ann@example.com", "Ann@example.com", "ANN@EXAMPLE.COM", " ann@example.com ", "\tann@eXample.com", "mailto:ann@example.com",
		"ａｎｎ@example.com", "ann@ｅxample.com", "ann.b@example.org", "Ann.B@Example.Org"}
	for i := range 50 {
		from := from(ithNetwork(i))
		if a := h.browser().manually(spellings[i%len(spellings)], wrongOne, from...); a.StatusCode != 403 {
			t.Errorf("a wrong password for %q = %d; want 403", spellings[i%len(spellings)], a.StatusCode)
		}
		if i < 20 {
			h.browser().manually("bob@example.com", wrongOne, from...)
		}
	}
	if ann, bob := h.comparedPasswords("ann@example.com"), h.comparedPasswords("bob@example.com"); ann != 10 || bob != 10 {
		t.Errorf("of 50 wrong passwords in ten spellings %d were judged, of 20 in one %d; want 10 of each", ann, bob)
	}
	for i, spelling := range spellings {
		if a := h.browser().manually(spelling, annsPassword, from(ithNetwork(60+i))...); a.StatusCode != 403 {
			t.Errorf("after that, the right one for %q = %d; want 403", spelling, a.StatusCode)
		}
	}
	if a := h.browser().manually("ann@example.com.", annsPassword, from(ithNetwork(75))...); a.StatusCode != 400 {
		t.Errorf("what is no address = %d; want 400", a.StatusCode)
	}
	caddymodule.Advance(t, 8*time.Hour)
	if a := h.browser().manually(spellings[4], annsPassword, from(ithNetwork(80))...); a.StatusCode != 303 {
		t.Errorf("eight hours later, the right one = %d; want 303", a.StatusCode)
	}
}

// CVE-2024-4629: concurrent guesses are counted before they are compared.
func TestD10_CVE_2024_4629_AHundredWrongPasswordsAtOnce(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	var all sync.WaitGroup
	for i := range 100 {
		b := h.browser()
		all.Go(func() {
			if a := b.manually("ann@example.com", wrongOne, from(ithNetwork(i))...); a.StatusCode != 403 && (a.StatusCode != 503 || a.Header.Get("Retry-After") == "") {
				t.Errorf("a wrong password among a hundred = %d, Retry-After %q; want 403, or 503 with a time to come again", a.StatusCode, a.Header.Get("Retry-After"))
			}
		})
	}
	all.Wait()
	if n := h.comparedPasswords("ann@example.com"); n > 10 || n == 0 {
		t.Errorf("%d of a hundred wrong passwords were judged; want some, and 10 at most", n)
	}
	for range 10 { // if so many were rejected as busy that some are left
		h.browser().manually("ann@example.com", wrongOne, from(ithNetwork(100))...)
	}
	if a := h.browser().manually("ann@example.com", annsPassword, from(ithNetwork(101))...); a.StatusCode != 403 {
		t.Errorf("the right one after them = %d; want 403", a.StatusCode)
	}
}

// The same password on one account after the other, from many networks: soon each network has
// only three guesses. Contacts on other networks can still sign in.
func TestD08_WrongPasswordsFromManyNetworksLimitOnlyThese(t *testing.T) {
	log := newLogFile(t)
	h := openGuessHouse(t, layout{global: log.global})
	h.holds("ann@example.com", annsPassword)
	h.holds("bob@example.com", annsPassword)
	known := h.browser()
	if a := known.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Fatalf("the right password = %d; want 303", a.StatusCode)
	}
	known.send("/-/sign-out", url.Values{})
	said := func(a answer, typed string) string {
		return lengthLine.ReplaceAllString(strings.ReplaceAll(a.shape(), typed, "ADDRESS"), "")
	}
	var mu sync.Mutex
	answers := map[string]int{}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < 230; i += 8 {
				email := fmt.Sprintf("c%04d@example.com", i)
				a := said(h.browser().patiently(email, wrongOne, from(ithNetwork(i))...), email)
				mu.Lock()
				answers[a]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(answers) != 1 {
		t.Errorf("230 wrong passwords have %d answers: %v", len(answers), answers)
	}
	if a := h.browser().manually("ann@example.com", annsPassword, from(ithNetwork(300))...); a.StatusCode != 303 {
		t.Errorf("the right password from a network of their own = %d; want 303", a.StatusCode)
	}
	for i := range 3 {
		email := fmt.Sprintf("d%04d@example.com", i)
		h.browser().patiently(email, wrongOne, from(ithNetwork(301))...)
	}
	a := h.browser().manually("bob@example.com", annsPassword, from(ithNetwork(301))...)
	if got := said(a, "bob@example.com"); a.StatusCode != 403 || answers[got] == 0 {
		t.Errorf("the right password after three wrong ones from its network is answered\n%s\nand wrong ones %v", got, answers)
	}
	if n := h.comparedPasswords("bob@example.com"); n != 1 {
		t.Errorf("bob's tries: %d; want the one", n)
	}
	if a := known.manually("ann@example.com", annsPassword, from(ithNetwork(301))...); a.StatusCode != 303 {
		t.Errorf("from there, on a known device = %d; want 303", a.StatusCode)
	}
	h.browser().signIn("bob@example.com")
	if n := strings.Count(log.text(t), "passwords are tried from everywhere"); n != 1 {
		t.Errorf("the log says it %d times; want once", n)
	}
	caddymodule.Advance(t, 5*time.Minute)
	if a := h.browser().manually("bob@example.com", annsPassword, from(ithNetwork(301))...); a.StatusCode != 303 {
		t.Errorf("from there, five minutes later = %d; want 303", a.StatusCode)
	}
}

// A client that disconnects before the answer still causes a check, which counts for its
// network.
func TestD03_CanceledChecksAreCounted(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	caddymodule.PasswordsOf(t, "example").Cost = password.Cost{Memory: 19 * 1024, Time: 4, Threads: 1} // more than 10 ms
	hangUp := func() {
		b := h.browser()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		r := b.request("POST", "/-/password", strings.NewReader(form("email", "bob@example.com", "password", wrongOne).Encode()),
			"Content-Type", "application/x-www-form-urlencoded", "Origin", h.url, "Sec-Fetch-Site", "same-origin")
		if a, err := b.client.Do(r.WithContext(ctx)); err == nil {
			a.Body.Close()
		}
	}
	h.eventually("a network that hangs up is over its limit", func() bool {
		var all sync.WaitGroup
		for range 20 {
			all.Go(hangUp)
		}
		all.Wait()
		return h.browser().manually("ann@example.com", annsPassword).StatusCode == 429 // a right one is refunded
	})
}

// All forms that accept a password share one budget, and nothing else gives access: no other way
// of sending it, and no guessed code.
func TestD11_CVE_2026_9798_OneBudgetOverAllForms(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	owner := h.in("ann@example.com")
	caddymodule.Advance(t, time.Hour) // so that the sign-in isn't recent
	thief := owner.stolen()
	if thief.me() == nil {
		t.Fatal("the stolen session is none")
	}
	current := func(b *browser, path, plain string, ip string) answer {
		return b.send(path, form("current", plain, "password", annsPassword2), from(ip)...)
	}
	for i := range 4 {
		h.browser().manually("ann@example.com", wrongOne, from(ithNetwork(i))...)
		for _, path := range []string{"/-/password/change", "/-/password/remove"} {
			if a := current(thief, path, wrongOne, ithNetwork(i)); a.StatusCode != 403 {
				t.Errorf("POST %s with a wrong password = %d; want 403", path, a.StatusCode)
			}
		}
	}
	if n := h.comparedPasswords("ann@example.com"); n != 10 {
		t.Errorf("%d of 12 wrong passwords were judged; want 10", n)
	}
	stranger := h.browser()
	for name, a := range map[string]answer{
		"signing in": stranger.manually("ann@example.com", annsPassword, from(ithNetwork(20))...),
		"a change":   current(thief, "/-/password/change", annsPassword, ithNetwork(21)),
		"a removal":  current(thief, "/-/password/remove", annsPassword, ithNetwork(22)),
	} {
		if a.StatusCode != 403 {
			t.Errorf("%s with the right password, after too many wrong ones = %d; want 403", name, a.StatusCode)
		}
	}
	r := stranger.request("GET", "/x", nil)
	r.SetBasicAuth("ann@example.com", annsPassword)
	if a := stranger.do(r); a.StatusCode != 401 || stranger.me() != nil {
		t.Errorf("the password as Basic authentication = %d; want 401", a.StatusCode)
	}
	// Codes have five guesses of their own, unaffected by all this.
	l := stranger.ask("ann@example.com", "/")
	for range 4 {
		stranger.send("/-/code", form("code", "0000-0000"))
	}
	if a := stranger.send("/-/code", form("code", l.code)); a.StatusCode != 303 || stranger.me() == nil {
		t.Errorf("the right code, after four wrong ones and too many passwords = %d; want 303", a.StatusCode)
	}
	if a := h.browser().manually("ann@example.com", annsPassword, from(ithNetwork(24))...); a.StatusCode != 403 {
		t.Errorf("the right password on a new device, after a code = %d; want 403: a code is no password", a.StatusCode)
	}
	if a := current(owner, "/-/password/change", annsPassword, ithNetwork(25)); a.StatusCode != 303 {
		t.Errorf("a change by the owner = %d; want 303\n%s", a.StatusCode, a.body)
	}
	if thief.me() == nil {
		t.Error("want the session that made the change to go on")
	}
}

// Of many concurrent uses of a link one sets its password.
func TestT03_APasswordLinkWorksOnce(t *testing.T) {
	h := openGuessHouse(t, layout{})
	_, tok := h.browser().help("ann@example.com", "/")
	var mu sync.Mutex
	var set []string
	var all sync.WaitGroup
	for i := range 20 {
		b, plain := h.browser(), fmt.Sprintf("%d quiet rivers and old boats", 100+i)
		all.Go(func() {
			a := b.send("/-/password/set", form("t", tok, "password", plain))
			mu.Lock()
			defer mu.Unlock()
			switch a.StatusCode {
			case 303:
				set = append(set, plain)
			case 410, 503: // used, or too many at once
			default:
				t.Errorf("POST /-/password/set among twenty = %d; want 303, 410 or 503", a.StatusCode)
			}
		})
	}
	all.Wait()
	if len(set) != 1 {
		t.Fatalf("%d passwords were set by one link: %q; want 1", len(set), set)
	}
	if a := h.browser().manually("ann@example.com", set[0]); a.StatusCode != 303 {
		t.Errorf("the password that was set = %d; want 303", a.StatusCode)
	}
	if a := h.browser().send("/-/password/set", form("t", tok, "password", annsPassword2)); a.StatusCode != 410 || !strings.Contains(a.body, "Send a new link") {
		t.Errorf("the link once more = %d; want 410 and a new one offered", a.StatusCode)
	}
	if a := h.browser().manually("ann@example.com", annsPassword2); a.StatusCode != 403 {
		t.Errorf("the password of a used link = %d; want 403", a.StatusCode)
	}
}

func TestT14_TheLifeOfAPasswordLink(t *testing.T) {
	log := newLogFile(t)
	h := openGuessHouse(t, layout{global: log.global})
	b := h.browser()
	link, tok := b.help("ann@example.com", "/")
	h.eventually("the mail is handed over, from when on its link lives", func() bool { return log.events(t)["sent"] > 0 })
	caddymodule.Advance(t, 9*time.Minute+30*time.Second)
	if a := b.open(link); a.StatusCode != 200 {
		t.Errorf("after nine and a half minutes = %d; want 200", a.StatusCode)
	}
	caddymodule.Advance(t, 45*time.Second)
	for _, one := range []*browser{b, h.browser()} {
		if a := one.open(link); a.StatusCode != 410 || !strings.Contains(a.body, "Send a new link") {
			t.Errorf("after ten minutes = %d; want 410 and a new one offered", a.StatusCode)
		}
		if a := one.send("/-/password/set", form("t", tok, "password", annsPassword)); a.StatusCode != 410 {
			t.Errorf("a password after ten minutes = %d; want 410", a.StatusCode)
		}
	}
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 403 {
		t.Errorf("that password = %d; want 403", a.StatusCode)
	}
}

// Ghost #12347 and similar: a scanner that opens a link and submits the page's forms unchanged
// sets no password, gets no cookie, and doesn't consume the link.
func TestT01_ScannersSetNoPassword(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	in := h.in("ann@example.com")
	unused := h.browser().ask("ann@example.com", "/")
	passwords, ann := caddymodule.PasswordsOf(t, "example"), h.idOf("ann@example.com")
	state, err := passwords.State(t.Context(), ann)
	if err != nil || !state.Has() {
		t.Fatalf("ann's password is %v, %v", state, err)
	}
	link, tok := h.browser().help("ann@example.com", "/")
	mails := len(h.letters("ann@example.com"))
	for _, scanner := range []*browser{h.browser(), h.browser()} {
		for _, method := range []string{"HEAD", "GET", "GET", "HEAD", "OPTIONS"} {
			a := scanner.do(scanner.request(method, link, nil, keyless...))
			if len(a.Cookies()) != 0 || method != "OPTIONS" && a.StatusCode != 200 {
				t.Errorf("%s by a scanner = %d, sets %v; want 200, and no cookie", method, a.StatusCode, a.Cookies())
			}
		}
		for _, typed := range []string{"", "x", "test@example.com"} {
			if a := scanner.send("/-/password/set", form("t", tok, "password", typed)); a.StatusCode != 400 || len(a.Cookies()) != 0 {
				t.Errorf("its form with %q = %d, sets %v; want 400, and no cookie", typed, a.StatusCode, a.Cookies())
			}
		}
	}
	if in.me() == nil {
		t.Error("a session has ended")
	}
	if a := h.browser().open(unused.link); a.StatusCode != 200 {
		t.Errorf("an unused link to sign in, opened elsewhere = %d; want 200", a.StatusCode)
	}
	if now, err := passwords.State(t.Context(), ann); now != state || err != nil {
		t.Errorf("the password is %v, %v; want it as it was, %v", now, err, state)
	}
	if a := h.browser().send("/-/password/set", form("t", tok, "password", annsPassword2)); a.StatusCode != 303 {
		t.Errorf("the link after all that = %d; want 303", a.StatusCode)
	}
	if l := h.nextLetter("ann@example.com", mails); !strings.Contains(l.Get("Subject"), "password") {
		t.Errorf("the first mail since then is %q; want that about the new password", l.Get("Subject"))
	}
}

// CVE-2026-34454: a sign-in by password never keeps an earlier session ID.
func TestS01_CVE_2026_34454_ASignInByPasswordGetsANewID(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	h.holds("bob@example.com", annsPassword2)
	b := h.browser()
	u, _ := url.Parse(h.url)
	planted := strings.Repeat("A", 43)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: planted, Path: "/"}})
	before := planted
	for _, who := range []struct{ email, password string }{{"ann@example.com", annsPassword}, {"ann@example.com", annsPassword}, {"bob@example.com", annsPassword2}} {
		if a := b.manually(who.email, who.password); a.StatusCode != 303 || b.cookie("portal") == before || b.me()["email"] != who.email {
			t.Errorf("as %s = %d, in as %v, with a new id: %t", who.email, a.StatusCode, b.me()["email"], b.cookie("portal") != before)
		}
		if a := h.get("/x", "Cookie: portal="+before); a.status != 401 {
			t.Errorf("then the id before = %d; want 401", a.status)
		}
		before = b.cookie("portal")
	}
	// A wrong password neither ends a session nor begins one.
	if a := b.manually("ann@example.com", wrongOne); a.StatusCode != 403 || b.me()["email"] != "bob@example.com" || b.cookie("portal") != before {
		t.Errorf("a wrong password, signed in = %d, in as %v; want 403, and nothing changed", a.StatusCode, b.me()["email"])
	}
	// On a shared computer the cookie ends with the browser, and the device doesn't become
	// known.
	c := h.browser()
	for _, cookie := range c.send("/-/password", form("email", "ann@example.com", "password", annsPassword, "shared", "1")).Cookies() {
		if cookie.Name == "portal-device" || cookie.Name == "portal" && (cookie.MaxAge != 0 || !cookie.Expires.IsZero()) {
			t.Errorf("on a shared computer: Set-Cookie: %s", cookie.Raw)
		}
	}
}

// A contact can flood neither their own mailbox nor the shared outbox. A link that was mailed
// still sets a password.
func TestD01_PasswordChangesAreLimited(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	b, was := h.in("ann@example.com"), annsPassword
	for i := range 12 {
		want, now := 303, fmt.Sprintf("%d quiet rivers and old boats", i)
		if i >= 10 {
			want = 429
		}
		a := b.send("/-/password/change", form("current", was, "password", now))
		if a.StatusCode == 303 {
			was = now
		}
		if a.StatusCode != want || (a.Header.Get("Retry-After") != "") != (want == 429) {
			t.Errorf("change %d in a row = %d, Retry-After %q; want %d", i+1, a.StatusCode, a.Header.Get("Retry-After"), want)
		}
	}
	if a := b.send("/-/password/remove", form("current", was)); a.StatusCode != 429 {
		t.Errorf("a removal after them = %d; want 429", a.StatusCode)
	}
	caddymodule.Advance(t, time.Minute)
	h.browser().send("/-/help", form("email", "ann@example.com"))
	var link []string
	h.eventually("a mail with a link", func() bool {
		for _, l := range h.letters("ann@example.com") {
			if m := setPattern.FindStringSubmatch(l.text); m != nil {
				link = m
			}
		}
		return link != nil
	})
	if a := h.browser().send("/-/password/set", form("t", link[1], "password", annsPassword2)); a.StatusCode != 303 {
		t.Errorf("by a mailed link, after that = %d; want 303", a.StatusCode)
	}
}

// An attacker who uses up all mails and guesses of a contact locks them out only until they read
// one of those mails: the browser that sets a password by it can sign in with it.
func TestD09_SettingAPasswordByMailEndsALockout(t *testing.T) {
	log := newLogFile(t)
	h := openGuessHouse(t, layout{global: log.global})
	for i, path := range []string{"/-/help", "/-/sign-in", "/-/help", "/-/help", "/-/sign-in", "/-/help", "/-/help", "/-/sign-in"} {
		none := func() int { all := log.events(t); return all["limited"] + all["delayed"] }
		had, before := len(h.letters("ann@example.com")), none()
		h.browser().send(path, form("email", "ann@example.com", "to", "/"), from(ithNetwork(i))...)
		h.eventually("it comes to a mail, or to none", func() bool {
			return len(h.letters("ann@example.com")) > had || none() > before
		})
		caddymodule.Advance(t, 61*time.Second)
	}
	if log.events(t)["limited"] == 0 {
		t.Fatal("not all mails are used up")
	}
	var tok string
	for _, l := range h.letters("ann@example.com") {
		if m := setPattern.FindStringSubmatch(l.text); m != nil {
			tok = m[1]
		}
	}
	b := h.browser()
	if a := b.send("/-/password/set", form("t", tok, "password", annsPassword)); a.StatusCode != 303 {
		t.Fatalf("POST /-/password/set with the newest link = %d; want 303\n%s", a.StatusCode, a.body)
	}
	for i := range 10 {
		h.browser().manually("ann@example.com", wrongOne, from(ithNetwork(i))...)
	}
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 403 {
		t.Errorf("the new password on another device, after ten wrong ones = %d; want 403", a.StatusCode)
	}
	if a := b.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("the new password in the browser that set it = %d; want 303", a.StatusCode)
	}
}

// After a new password set by mail, nobody who knew the old one has an advantage: all devices
// except the current one become unknown. After a change by the contact, devices stay known.
func TestT18_ANewPasswordByMailMakesDevicesUnknown(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	thief, owner := h.browser(), h.browser()
	thief.manually("ann@example.com", annsPassword)
	owner.manually("ann@example.com", annsPassword)
	signsIn := func(b *browser, plain string, want int, what string) {
		t.Helper()
		for i := range 10 {
			h.browser().manually("ann@example.com", wrongOne, from(ithNetwork(i))...)
		}
		if a := b.manually("ann@example.com", plain); a.StatusCode != want {
			t.Errorf("%s, after ten wrong passwords of others = %d; want %d", what, a.StatusCode, want)
		}
	}
	owner.send("/-/password/change", form("current", annsPassword, "password", annsPassword2))
	signsIn(thief, annsPassword2, 303, "another device, after a change")
	_, tok := owner.help("ann@example.com", "/")
	caddymodule.Advance(t, 5*time.Minute)
	if a := owner.send("/-/password/set", form("t", tok, "password", annsPassword)); a.StatusCode != 303 {
		t.Fatalf("POST /-/password/set = %d; want 303", a.StatusCode)
	}
	signsIn(thief, annsPassword, 403, "another device, after a new one by mail")
	signsIn(owner, annsPassword, 303, "the device that set it")
}

// Setting a password in a browser where another contact is signed in doesn't lead to that
// contact's pages.
func TestSettingAPasswordInAnotherContactsBrowser(t *testing.T) {
	h := openGuessHouse(t, layout{})
	bob := h.in("bob@example.com")
	_, tok := h.browser().help("ann@example.com", "/orders/7")
	next := bob.send("/-/password/set", form("t", tok, "password", annsPassword)).Header.Get("Location")
	if a := bob.open(next); a.StatusCode != 200 || !strings.Contains(a.body, `value="ann@example.com"`) {
		t.Errorf("after setting it, %s = %d; want 200 and ann's address filled in", next, a.StatusCode)
	}
	if a := bob.manually("ann@example.com", annsPassword); a.StatusCode != 303 || bob.me()["email"] != "ann@example.com" {
		t.Errorf("signing in there = %d, as %v; want 303, as ann", a.StatusCode, bob.me()["email"])
	}
	if a := bob.open(next); a.StatusCode != 303 || a.Header.Get("Location") != "/orders/7" {
		t.Errorf("then %s = %d to %q; want 303 to /orders/7", next, a.StatusCode, a.Header.Get("Location"))
	}
}

// D15 and similar: only fields in the body count, each once, and a password of any characters is
// checked or rejected as a whole.
func TestD15_OddFormsOfPasswords(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	right := form("email", "ann@example.com", "password", annsPassword).Encode()
	for i, c := range []struct {
		name, path, body string
		headers          []string
		want             int
	}{
		{"in the query", "/-/password?" + right, "", nil, 400},
		{"an address twice", "/-/password", right + "&email=bob%40example.com", nil, 400},
		{"a password twice", "/-/password", "password=x&" + right, nil, 400},
		{"a list", "/-/password", right + "&password%5B%5D=x", nil, 400},
		{"semicolons", "/-/password", strings.Replace(right, "&", ";", 1), nil, 400},
		{"JSON", "/-/password", `{"email":"ann@example.com"}`, []string{"Content-Type", "application/json"}, 400},
		{"multipart", "/-/password", right, []string{"Content-Type", "multipart/form-data; boundary=x"}, 400},
		{"NUL behind the right one", "/-/password", right + "%00", nil, 400},
		{"a blank behind it", "/-/password", right + "+", nil, 403},
		{"no UTF-8", "/-/password", "email=ann%40example.com&password=%ff%fe%80", nil, 403},
		{"no UTF-8 behind the right one", "/-/password", right + "%ff", nil, 403},
		{"15,000 bytes", "/-/password", right + strings.Repeat("a", 15000), nil, 403},
		{"17,000 bytes", "/-/password", right + strings.Repeat("a", 17000), nil, 413},
		{"what NFKC blows up", "/-/password", form("email", "ann@example.com", "password", strings.Repeat("\ufdfa", 1300)).Encode(), nil, 403},
		{"a sibling's page", "/-/password", right, []string{"Origin", "http://evil.localhost", "Sec-Fetch-Site", "same-site"}, 403},
		{"a sandbox", "/-/password", right, []string{"Origin", "null", "Sec-Fetch-Site", ""}, 403},
		{"as it should be", "/-/password", right, nil, 303},
	} {
		b := h.browser()
		headers := append([]string{"Content-Type", "application/x-www-form-urlencoded", "Origin", h.url, "Sec-Fetch-Site", "same-origin"}, from(ithNetwork(i))...)
		a := b.do(b.request("POST", c.path, strings.NewReader(c.body), append(headers, c.headers...)...))
		if a.StatusCode != c.want || a.Header.Get("Cache-Control") != "no-store, no-transform" || (b.me() != nil) != (c.want == 303) {
			t.Errorf("%s = %d, Cache-Control %q; want %d, and no-store, no-transform", c.name, a.StatusCode, a.Header.Get("Cache-Control"), c.want)
		}
	}
	h.holds("bob@example.com", "ﬁve ｇreen Åpples at sea")
	if a := h.browser().manually("bob@example.com", "five green A\u030apples at sea", from(ithNetwork(40))...); a.StatusCode != 303 {
		t.Errorf("the same characters in another form = %d; want 303", a.StatusCode)
	}
}

// A sign-in with a password that is being replaced fails, or its session ends.
func TestT18_SigningInWhileThePasswordChanges(t *testing.T) {
	h := openGuessHouse(t, layout{})
	caddymodule.PasswordsOf(t, "example").Cost = password.Cost{Memory: 1024, Time: 1, Threads: 1}
	h.holds("ann@example.com", annsPassword)
	owner, was := h.in("ann@example.com"), annsPassword
	for round := range 4 {
		now := fmt.Sprintf("%d quiet rivers and old boats", round)
		var all sync.WaitGroup
		others := make([]*browser, 4)
		for i := range others {
			others[i] = h.browser()
			old := was
			all.Go(func() { others[i].manually("ann@example.com", old, from(ithNetwork(round*4+i))...) })
		}
		all.Go(func() {
			change := form("current", was, "password", now)
			a := owner.send("/-/password/change", change)
			for a.StatusCode == 503 { // the others were first every time
				a = owner.send("/-/password/change", change)
			}
			if a.StatusCode != 303 {
				t.Errorf("a change = %d; want 303", a.StatusCode)
			}
		})
		all.Wait()
		for _, b := range others {
			if b.me() != nil {
				t.Errorf("round %d: a session by the old password goes on", round)
			}
		}
		if owner.me() == nil {
			t.Fatal("who changed it is out")
		}
		was = now
	}
}

// moving is a store in which a password is resealed right after each read.
type moving struct {
	store.Store
	move func()
}

func (m moving) Get(ctx context.Context, k store.Key) (store.Record, error) {
	rec, err := m.Store.Get(ctx, k)
	if err == nil && k.Bucket == "password" {
		m.move()
	}
	return rec, err
}

// If conflicts persist, the right password isn't reported as wrong, nor the server as busy.
func TestT18_APersistentConflictIsNotAWrongPassword(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	owner := h.in("ann@example.com")
	caddymodule.Advance(t, time.Hour)
	_, tok := h.browser().help("ann@example.com", "/")
	passwords := caddymodule.PasswordsOf(t, "example")
	still := *passwords
	still.Semaphore = password.NewSemaphore() // its reader holds the only one
	passwords.Store = moving{still.Store, func() {
		h.apply(still.Set(t.Context(), h.idOf("ann@example.com"), annsPassword, password.ContactInfo{}))
	}}
	for what, a := range map[string]answer{
		"signing in":    h.browser().manually("ann@example.com", annsPassword),
		"a change":      owner.send("/-/password/change", form("current", annsPassword, "password", annsPassword2)),
		"a removal":     owner.send("/-/password/remove", form("current", annsPassword)),
		"a mailed link": h.browser().send("/-/password/set", form("t", tok, "password", annsPassword2)),
	} {
		if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || strings.Contains(a.body, "any people are") {
			t.Errorf("%s, while the password changes each time = %d; want 503, and no word of many people", what, a.StatusCode)
		}
	}
	passwords.Store = still.Store
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("signing in after that = %d; want 303", a.StatusCode)
	}
}

// interrupted is a store that runs a function before the n-th read of a password.
type interrupted struct {
	store.Store
	left *atomic.Int32
	do   func()
}

func (s interrupted) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if k.Bucket == "password" && s.left.Add(-1) == 0 {
		s.do()
	}
	return s.Store.Get(ctx, k)
}

// Knowing the old password doesn't allow changing a password that its owner has set meanwhile,
// not even between comparison and change.
func TestT18_AChangeAfterAResetFails(t *testing.T) {
	for _, moment := range []int32{1, 3} { // before the comparison, and after it
		h := openGuessHouse(t, layout{})
		h.holds("ann@example.com", annsPassword)
		thief := h.in("ann@example.com")
		caddymodule.Advance(t, time.Hour) // so that it asks for the password
		_, tok := h.browser().help("ann@example.com", "/")
		passwords, owner := caddymodule.PasswordsOf(t, "example"), h.browser()
		was, left := passwords.Store, new(atomic.Int32)
		left.Store(moment)
		passwords.Store = interrupted{was, left, func() {
			if a := owner.send("/-/password/set", form("t", tok, "password", annsPassword2)); a.StatusCode != 303 {
				t.Errorf("by the mailed link = %d; want 303", a.StatusCode)
			}
		}}
		a := thief.send("/-/password/change", form("current", annsPassword, "password", "the thief's very own words"))
		passwords.Store = was
		if a.StatusCode == 303 && goes(a) == "/-/account?done=set" || left.Load() > 0 {
			t.Errorf("at moment %d, %d to go, the change = %d to %q", moment, left.Load(), a.StatusCode, goes(a))
		}
		if a := owner.manually("ann@example.com", annsPassword2); a.StatusCode != 303 {
			t.Errorf("at moment %d: then the owner's password = %d; want 303", moment, a.StatusCode)
		}
	}
}
