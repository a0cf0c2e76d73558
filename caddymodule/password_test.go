package caddymodule_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/bcrypt"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

const (
	annsPassword  = "quiet rivers carry old boats"
	annsPassword2 = "seven green lamps at the harbour"
)

var setPattern = regexp.MustCompile(`https?://\S+/-/password/set\?t=([a-z2-7]{26})`)

// help requests a link to set a password and returns it, with its secret.
func (b *browser) help(email, to string) (link, t string) {
	b.h.t.Helper()
	before := len(b.h.letters(email))
	b.h.mayMailAgain(before)
	if a := b.send("/-/help", url.Values{"email": {email}, "to": {to}}); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/-/sent" {
		b.h.t.Fatalf("POST /-/help = %d to %q; want 303 to /-/sent\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	l := b.h.nextLetter(email, before)
	m := setPattern.FindStringSubmatch(l.text)
	if m == nil {
		b.h.t.Fatalf("the mail has no link to set a password:\n%s", l.text)
	}
	return m[0], m[1]
}

// has sets a password for a contact, by mail.
func (h *house) has(email, password string) {
	h.t.Helper()
	b, before := h.browser(), len(h.letters(email))
	_, t := b.help(email, "/")
	if a := b.send("/-/password/set", url.Values{"t": {t}, "password": {password}}); a.StatusCode != http.StatusSeeOther {
		h.t.Fatalf("POST /-/password/set = %d; want 303\n%s", a.StatusCode, a.body)
	}
	h.nextLetter(email, before+1) // the notification about it
}

// manually signs in by password.
func (b *browser) manually(email, password string, headers ...string) answer {
	b.h.t.Helper()
	return b.send("/-/password", url.Values{"email": {email}, "password": {password}, "to": {"/orders/7?a=1"}}, headers...)
}

// The whole process: help, mail, password, signing in with it.
func TestPasswordFromHelpToSignIn(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	a := b.open("/orders/7")
	if !strings.Contains(a.body, "Sign in manually") || !strings.Contains(a.body, `action="/-/password"`) {
		t.Errorf("the prompt doesn't lead to /-/password\n%s", a.body)
	}
	a = b.open("/-/password?to=/orders/7%3Fa%3D1")
	for _, want := range []string{`value="/orders/7?a=1"`, `autocomplete="username"`, `autocomplete="current-password"`, `name="go" value="help"`, `name="go" value="link"`} {
		if a.StatusCode != 200 || !strings.Contains(a.body, want) {
			t.Errorf("GET /-/password = %d without %s\n%s", a.StatusCode, want, a.body)
		}
	}
	link, tok := b.help("ann@example.com", "/orders/7?a=1")
	if a := b.open("/-/sent"); !strings.Contains(a.body, "Choose a password") || strings.Contains(a.body, `name="code"`) {
		t.Errorf("GET /-/sent = %d; want the page for a password link, without a code\n%s", a.StatusCode, a.body)
	}
	phone := h.browser()
	for range 2 { // a scanner, and then the person, on another device
		a = phone.open(link)
		if a.StatusCode != 200 || !strings.Contains(a.body, "a•••@example.com") || strings.Contains(a.body, "ann@") || !strings.Contains(a.body, `autocomplete="new-password"`) || len(a.Cookies()) != 0 {
			t.Fatalf("GET link = %d; want the address in part, a field, no cookie\n%s", a.StatusCode, a.body)
		}
	}
	for _, c := range []struct{ password, why string }{{"short", "at least 15"}, {"annbakeratbookkeeping", "name"}, {"passwordpassword", "many people use"}} {
		a = phone.send("/-/password/set", url.Values{"t": {tok}, "password": {c.password}})
		if a.StatusCode != 400 || !strings.Contains(a.body, c.why) || strings.Contains(a.body, `value="`+c.password) {
			t.Errorf("POST of %q = %d; want 400 and %q\n%s", c.password, a.StatusCode, c.why, a.body)
		}
	}
	before := len(h.letters("ann@example.com"))
	a = phone.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}})
	next := a.Header.Get("Location")
	if a.StatusCode != 303 || !strings.HasPrefix(next, "/-/password?") || strings.Contains(next, "ann") || phone.me() != nil {
		t.Fatalf("POST of a good password = %d to %q; want 303 to /-/password without the address, nobody signed in\n%s", a.StatusCode, next, a.body)
	}
	if a := phone.open(next); !strings.Contains(a.body, `value="ann@example.com"`) || !strings.Contains(a.body, "Your password is set") || !strings.Contains(a.body, `value="/orders/7?a=1"`) {
		t.Errorf("GET %s = %d; want the address filled in, and the way back\n%s", next, a.StatusCode, a.body)
	}
	if l := h.nextLetter("ann@example.com", before); !strings.Contains(l.Get("Subject"), "password") || !strings.Contains(l.text, "It wasn’t you?") || !strings.Contains(l.text, h.url+"/-/help") {
		t.Errorf("the mail about it is %q\n%s", l.Get("Subject"), l.text)
	}
	if a := phone.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword2}}); a.StatusCode != 410 || !strings.Contains(a.body, "Send a new link") {
		t.Errorf("the link a second time = %d; want 410 and a new one offered\n%s", a.StatusCode, a.body)
	}
	if a := phone.open(link); a.StatusCode != 410 {
		t.Errorf("GET of the used link = %d; want 410", a.StatusCode)
	}
	if a := phone.manually("Ann@Example.com", annsPassword); a.StatusCode != 303 || a.Header.Get("Location") != "/orders/7?a=1" || phone.me() == nil {
		t.Fatalf("POST /-/password = %d to %q; want 303 to /orders/7?a=1\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	if phone.cookie("portal-device") == "" {
		t.Error("the phone is no known device")
	}
	if a := phone.open("/-/password"); a.StatusCode != 303 {
		t.Errorf("GET /-/password, signed in = %d; want 303", a.StatusCode)
	}
	if a := h.browser().manually("ann.b@example.org", annsPassword); a.StatusCode != 303 {
		t.Errorf("by the other address = %d; want 303", a.StatusCode)
	}
	mails := len(h.letters("ann@example.com"))
	caddymodule.Advance(t, time.Hour)
	if a := phone.send("/-/help", url.Values{"t": {tok}}); a.StatusCode != 303 {
		t.Errorf("POST /-/help with a used link = %d; want 303", a.StatusCode)
	}
	if a := phone.open("/-/sent"); !strings.Contains(a.body, "a•••@example.com") || strings.Contains(a.body, "ann@") {
		t.Errorf("GET /-/sent = %d; want the address in part\n%s", a.StatusCode, a.body)
	}
	if l := h.nextLetter("ann@example.com", mails); !setPattern.MatchString(l.text) {
		t.Errorf("the new mail is\n%s", l.text)
	}
}

// Whenever a password doesn't sign in, the response is the same in bytes and cookies, for every
// address; so is the response to a request for help.
func TestN01_PasswordAnswersAreAlike(t *testing.T) {
	h := openGuessHouse(t, layout{contacts: strings.Replace(someContacts, "eve@", "bcrypt@example.com,,Bea,Crypt,,,\nolder@example.com,,Olga,Der,,,\neve@", 1)})
	h.holds("ann@example.com", annsPassword)
	h.brings("bcrypt@example.com", bcryptHash(t, annsPassword, bcrypt.MinCost))
	h.brings("older@example.com", argon2Hash(t, annsPassword, 128, 2))
	h.brings("eve@example.com", argon2Hash(t, annsPassword, 128, 2))
	networks := 0
	elsewhere := func() []string { networks++; return from(ithNetwork(networks)) }
	throttle := func(email string) {
		for range 10 {
			h.browser().manually(email, wrongOne, elsewhere()...)
		}
	}
	like := map[string]string{}
	judge := func(path, class string, form url.Values) {
		t.Helper()
		a := h.browser().send(path, form, elsewhere()...)
		a.Header.Del("Date")
		email := form.Get("email")
		a.Header.Del("Content-Length") // the page shows the typed text
		said := fmt.Sprint(a.StatusCode, sortedHeader(a.Header), strings.ReplaceAll(a.body, email, "ADDRESS"))
		said = regexp.MustCompile(`portal-flow=[^;]*|Expires=[^;]*`).ReplaceAllString(said, "")
		if was, ok := like[path]; ok && said != was {
			t.Errorf("%s, %s is answered\n%s\nand others\n%s", path, class, said, was)
		}
		like[path] = said
	}
	wrong := func(email string) url.Values {
		return url.Values{"email": {email}, "password": {"wrong wrong wrong wrong"}}
	}
	judge("/-/password", "wrong", wrong("ann@example.com"))
	judge("/-/password", "none set", wrong("bob@example.com"))
	judge("/-/password", "unknown", wrong("stranger@example.com"))
	judge("/-/password", "a wrong one of bcrypt", wrong("bcrypt@example.com"))
	judge("/-/password", "a wrong one of older costs", wrong("older@example.com"))
	judge("/-/password", "disabled", wrong("eve@example.com"))
	judge("/-/password", "right, but disabled", url.Values{"email": {"eve@example.com"}, "password": {annsPassword}})
	judge("/-/password", "too long", url.Values{"email": {"ann@example.com"}, "password": {strings.Repeat("x", 5000)}})
	if !strings.HasPrefix(like["/-/password"], "403") {
		t.Errorf("a wrong password = %.100s; want 403", like["/-/password"])
	}
	throttle("ann@example.com")
	judge("/-/password", "wrong, and throttled", wrong("ann@example.com"))
	judge("/-/password", "right, but throttled", url.Values{"email": {"ann@example.com"}, "password": {annsPassword}})
	judge("/-/password", "right, but throttled, in another spelling", url.Values{"email": {" ANN@Example.com "}, "password": {annsPassword}})
	judge("/-/password", "right, but throttled, by the other address", url.Values{"email": {"ann.b@example.org"}, "password": {annsPassword}})
	throttle("bcrypt@example.com")
	judge("/-/password", "right, of bcrypt, but throttled", url.Values{"email": {"bcrypt@example.com"}, "password": {annsPassword}})
	judge("/-/password", "wrong, of bcrypt, and throttled", wrong("bcrypt@example.com"))
	if a := h.browser().manually("older@example.com", annsPassword, elsewhere()...); a.StatusCode != 303 {
		t.Errorf("the right one of older costs = %d; want 303", a.StatusCode)
	}
	for class, email := range map[string]string{"known": "ann@example.com", "unknown": "stranger@example.com", "disabled": "eve@example.com", "just asked": "ann@example.com"} {
		judge("/-/help", class, url.Values{"email": {email}})
	}
	if h.browser().me() != nil {
		t.Error("somebody is in")
	}
}

func bcryptHash(t *testing.T, plain string, cost int) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(plain), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// argon2Hash returns an argon2id hash with this memory in KiB and this number of passes.
func argon2Hash(t *testing.T, plain string, memory, passes uint32) string {
	t.Helper()
	hash, err := argon2id.CreateHash(plain, &argon2id.Params{Memory: memory, Iterations: passes, Parallelism: 1, SaltLength: 16, KeyLength: 32})
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func sortedHeader(h http.Header) []string {
	var all []string
	for name, values := range h {
		all = append(all, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(all)
	return all
}

// A link works only for its purpose.
func TestT17_ALinkSignsInOrSetsAPassword(t *testing.T) {
	other := "http://" + freeAddress(t)
	h, _ := openFastHouse(t, layout{more: fmt.Sprintf("%s {\n doorpost other {\n url %s\n brand {\n name Other\n from other@example.com\n }\n staff ann@example.com\n }\n respond ok\n}", other, other)})
	b := h.browser()
	signIn := b.ask("ann@example.com", "/")
	tok := signIn.link[strings.Index(signIn.link, "t=")+2:]
	if a := b.open("/-/password/set?t=" + tok); a.StatusCode != 400 {
		t.Errorf("GET /-/password/set with a sign-in link = %d; want 400", a.StatusCode)
	}
	if a := b.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}}); a.StatusCode != 400 {
		t.Errorf("POST /-/password/set with a sign-in link = %d; want 400", a.StatusCode)
	}
	if a := b.send("/-/help", url.Values{"t": {tok}}); a.StatusCode != 400 {
		t.Errorf("POST /-/help with a sign-in link = %d; want 400", a.StatusCode)
	}
	_, set := b.help("ann@example.com", "/")
	if a := b.open("/-/link?t=" + set); a.StatusCode != 400 || b.me() != nil {
		t.Errorf("GET /-/link with a set-password link = %d; want 400", a.StatusCode)
	}
	if a := b.send("/-/link", url.Values{"t": {set}, "email": {"ann@example.com"}}); a.StatusCode != 400 || b.me() != nil {
		t.Errorf("POST /-/link with a set-password link = %d; want 400", a.StatusCode)
	}
	if a := b.send("/-/sign-in", url.Values{"t": {set}}); a.StatusCode != 400 {
		t.Errorf("POST /-/sign-in with a set-password link = %d; want 400", a.StatusCode)
	}
	flow := b.cookie("portal-flow")
	for name, secret := range map[string]string{"a browser": flow, "a code": signIn.code, "another case": strings.ToUpper(set), "a part": set[:25], "more": set + "a", "nothing": ""} {
		if a := b.send("/-/password/set", url.Values{"t": {secret}, "password": {annsPassword}}); a.StatusCode != 400 {
			t.Errorf("POST /-/password/set with %s = %d; want 400", name, a.StatusCode)
		}
	}
	// The other firm, where ann is also a contact.
	there := func(path string, pairs ...string) *http.Request {
		return b.request("POST", other+path, strings.NewReader(form(pairs...).Encode()), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
	}
	for _, r := range []*http.Request{b.request("GET", other+"/-/password/set?t="+set, nil), there("/-/password/set", "t", set, "password", annsPassword), there("/-/help", "t", set)} {
		if a := b.do(r); a.StatusCode != 400 {
			t.Errorf("%s %s of another firm's link = %d; want 400", r.Method, r.URL.Path, a.StatusCode)
		}
	}
	if a := b.manually("ann@example.com", annsPassword); a.StatusCode != 403 {
		t.Errorf("a password that was never set = %d; want 403", a.StatusCode)
	}
	h.holds("ann@example.com", annsPassword2)
	if a := b.do(there("/-/password", "email", "ann@example.com", "password", annsPassword2)); a.StatusCode != 403 {
		t.Errorf("the password of another firm = %d; want 403", a.StatusCode)
	}
	if a := b.open(signIn.link); a.StatusCode != 303 || b.me() == nil {
		t.Errorf("the sign-in link = %d; want 303", a.StatusCode)
	}
}

// The history distinguishes links that set a password from links that sign in.
func TestHistoryOfPasswordLinks(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t)})
	phone := h.browser()
	link, tok := phone.help("ann@example.com", "/")
	phone.open(link)
	phone.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}})
	phone.open(link)
	h.browser().open(phone.ask("bob@example.com", "/").link)
	want := []string{"asked ", "asked set-password", "opened ", "opened set-password", "opened-old set-password",
		"queued ", "queued set-password"}
	h.eventually(fmt.Sprintf("the history has %q", want), func() bool {
		var got []string
		for _, e := range h.history() {
			switch e.Kind {
			case "asked", "queued", "opened", "opened-old":
				got = append(got, string(e.Kind)+" "+e.What)
			}
		}
		return slices.Equal(slices.Sorted(slices.Values(got)), want)
	})
}

// A new password ends all other sessions, and all active links and codes.
func TestT18_ANewPasswordEndsEverythingElse(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	first, second, third, mine := h.browser(), h.browser(), h.browser(), h.browser()
	h.holds("ann@example.com", annsPassword2)
	for _, b := range []*browser{first, second, third, mine} {
		b.manually("ann@example.com", annsPassword2)
	}
	other := h.browser()
	other.signIn("bob@example.com")
	older, olderTok := h.browser().help("ann@example.com", "/")
	waiting, patient := h.browser(), h.browser()
	unused, unusedToo := waiting.ask("ann@example.com", "/"), patient.ask("ann@example.com", "/")
	mine.send("/-/help", url.Values{"email": {"ann@example.com"}}) // a known device has no delay after another one's mails
	tok := setPattern.FindStringSubmatch(h.nextLetter("ann@example.com", 3).text)[1]
	if first.me() == nil || second.me() == nil || third.me() == nil || mine.me() == nil {
		t.Fatal("asking for a password link has signed somebody out")
	}
	for _, link := range []string{older, unused.link, unusedToo.link} {
		if a := h.browser().open(link); a.StatusCode != 200 {
			t.Fatalf("GET %s, in time = %d; want 200", link, a.StatusCode)
		}
	}
	mails := len(h.letters("ann@example.com"))
	a := mine.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}})
	if a.StatusCode != 303 || a.Header.Get("Location") != "/-/account?done=set" {
		t.Fatalf("POST /-/password/set = %d to %q; want 303 to the account\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	if first.me() != nil || second.me() != nil || third.me() != nil {
		t.Error("another session goes on")
	}
	if mine.me() == nil || other.me() == nil {
		t.Error("the session that set it, or somebody else's, is over")
	}
	if a := waiting.open(unused.link); a.StatusCode != 410 {
		t.Errorf("an unused link = %d; want 410", a.StatusCode)
	}
	if a := patient.open(unusedToo.link); a.StatusCode != 410 || patient.me() != nil {
		t.Errorf("another unused link = %d; want 410", a.StatusCode)
	}
	if a := h.browser().send("/-/password/set", url.Values{"t": {olderTok}, "password": {annsPassword2}}); a.StatusCode != 410 {
		t.Errorf("an older password link = %d; want 410", a.StatusCode)
	}
	if l := h.nextLetter("ann@example.com", mails); !strings.Contains(l.text, "It wasn’t you?") {
		t.Errorf("the mail about it is %q\n%s", l.Get("Subject"), l.text)
	}
	if a := waiting.send("/-/code", url.Values{"code": {unused.code}}); a.StatusCode == 303 || waiting.me() != nil {
		t.Errorf("an unused code = %d to %q; want it not to work", a.StatusCode, a.Header.Get("Location"))
	}
	if a := mine.open("/-/account?done=set"); !strings.Contains(a.body, "Your password is set") {
		t.Errorf("GET /-/account = %d\n%s", a.StatusCode, a.body)
	}
}

// Many passwords from one network are refused before any is checked; a known device and a mailed
// link still sign in.
func TestD08_ManyPasswordsOfANetwork(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	known := h.browser()
	if a := known.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Fatalf("the right password = %d; want 303", a.StatusCode)
	}
	known.send("/-/sign-out", url.Values{})
	counts := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 40 {
		b := h.browser()
		all.Go(func() {
			a := b.patiently(fmt.Sprintf("stranger%d@example.com", i), wrongOne)
			mu.Lock()
			defer mu.Unlock()
			counts[a.StatusCode]++
		})
	}
	all.Wait()
	if counts[403] != 15 || counts[429] != 25 {
		t.Errorf("40 wrong passwords from one address = %v; want 15 judged, 25 refused", counts)
	}
	a := h.browser().manually("ann@example.com", annsPassword)
	if a.StatusCode != 429 || a.Header.Get("Retry-After") == "" || !strings.Contains(a.body, "have us email you a link") {
		t.Errorf("the right password from that network = %d; want 429\n%s", a.StatusCode, a.body)
	}
	if a := known.manually("bob@example.com", "wrong wrong wrong wrong"); a.StatusCode != 429 {
		t.Errorf("somebody else's from a device of ann's = %d; want 429", a.StatusCode)
	}
	if a := known.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("the right password on a known device = %d; want 303", a.StatusCode)
	}
	h.browser().signIn("bob@example.com")
}

// Whatever fails, and for however long, a known device and a mailed link still sign in.
func TestD09_NobodyIsLockedOut(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	known := h.browser()
	known.manually("ann@example.com", annsPassword)
	known.send("/-/sign-out", url.Values{})
	for range 10 {
		h.browser().manually("ann@example.com", "wrong wrong wrong wrong")
	}
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 403 {
		t.Errorf("the right password after ten wrong ones = %d; want 403", a.StatusCode)
	}
	if a := known.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("the same on a known device = %d; want 303", a.StatusCode)
	}
	h.browser().signIn("ann@example.com")
}

// The account page shows visitors their data, and lets them change it.
func TestAccount(t *testing.T) {
	h := openHouse(t, layout{})
	b, phone, laptop := h.browser(), h.browser(), h.browser()
	if a := b.open("/-/account"); a.StatusCode != 401 || !strings.Contains(a.body, `value="/-/account"`) {
		t.Errorf("GET /-/account, signed out = %d; want 401 and the prompt that leads back", a.StatusCode)
	}
	for _, one := range []*browser{b, phone, laptop} {
		one.signIn("ann@example.com")
	}
	other := h.browser()
	other.signIn("bob@example.com")
	a := b.open("/-/account")
	for _, want := range []string{"Ann Baker", "ann@example.com", "ann.b@example.org", "Acme Ltd", "Birch &amp; Sons", "Safari on iPhone", "this one", "Sign out all others"} {
		if a.StatusCode != 200 || !strings.Contains(a.body, want) {
			t.Errorf("GET /-/account = %d without %q\n%s", a.StatusCode, want, a.body)
		}
	}
	handles := regexp.MustCompile(`name="handle" value="([^"]+)"`).FindAllStringSubmatch(a.body, -1)
	if len(handles) != 2 {
		t.Fatalf("%d other devices; want 2\n%s", len(handles), a.body)
	}
	if a := other.send("/-/devices", url.Values{"handle": {handles[0][1]}}); a.StatusCode != 303 || phone.me() == nil || laptop.me() == nil {
		t.Errorf("somebody else signing out a device = %d; want that nothing happens", a.StatusCode)
	}
	b.send("/-/devices", url.Values{"handle": {handles[0][1]}})
	if (phone.me() == nil) == (laptop.me() == nil) || b.me() == nil {
		t.Error("want one of the two others signed out")
	}
	b.send("/-/devices", url.Values{"others": {"1"}})
	if phone.me() != nil || laptop.me() != nil || b.me() == nil || other.me() == nil {
		t.Error("want all others of ann's signed out, and nobody else")
	}
	mails := len(h.letters("ann@example.com"))
	// However recently they signed in, a first password requires a mailed link.
	if a := b.send("/-/password/change", url.Values{"password": {annsPassword}}); a.StatusCode != 403 || !strings.Contains(a.body, "Email me a link to set one") {
		t.Fatalf("a password, just signed in by mail = %d; want 403 and the way by mail\n%s", a.StatusCode, a.body)
	}
	_, tok := b.help("ann@example.com", "/-/account")
	if a := b.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}}); a.StatusCode != 303 || a.Header.Get("Location") != "/-/account?done=set" || b.me() == nil {
		t.Fatalf("a password by a mailed link = %d to %q; want 303 to the account\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	mails++
	h.nextLetter("ann@example.com", mails)
	if a := b.send("/-/password/change", url.Values{"current": {annsPassword}, "password": {"short"}}); a.StatusCode != 400 || !strings.Contains(a.body, "at least 15") {
		t.Errorf("a short password = %d; want 400", a.StatusCode)
	}
	phone.manually("ann@example.com", annsPassword)
	if a := phone.send("/-/password/change", url.Values{"password": {annsPassword2}}); a.StatusCode != 403 {
		t.Errorf("a change, signed in by password, without the current one = %d; want 403", a.StatusCode)
	}
	if a := phone.send("/-/password/change", url.Values{"current": {annsPassword2}, "password": {annsPassword2}}); a.StatusCode != 403 || !strings.Contains(a.body, "not your current password") {
		t.Errorf("a change with a wrong current one = %d; want 403", a.StatusCode)
	}
	if a := phone.send("/-/password/remove", url.Values{}); a.StatusCode != 403 {
		t.Errorf("a removal without the current one = %d; want 403", a.StatusCode)
	}
	if a := phone.send("/-/password/change", url.Values{"current": {annsPassword}, "password": {annsPassword2}}); a.StatusCode != 303 || phone.me() == nil || b.me() != nil {
		t.Errorf("a change = %d; want 303, this session going on, the other not\n%s", a.StatusCode, a.body)
	}
	h.nextLetter("ann@example.com", mails+1)
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 403 {
		t.Errorf("the password before = %d; want 403", a.StatusCode)
	}
	laptop.manually("ann@example.com", annsPassword2)
	if laptop.me() == nil {
		t.Error("the new password doesn't sign in")
	}
	if a := phone.send("/-/password/remove", url.Values{"current": {annsPassword2}}); a.StatusCode != 303 || phone.me() == nil || laptop.me() != nil {
		t.Errorf("a removal = %d; want 303, this session going on, the other not\n%s", a.StatusCode, a.body)
	}
	if l := h.nextLetter("ann@example.com", mails+2); !strings.Contains(l.Get("Subject"), "removed") {
		t.Errorf("the mail about the removal is %q", l.Get("Subject"))
	}
	if a := h.browser().manually("ann@example.com", annsPassword2); a.StatusCode != 403 {
		t.Errorf("the password that was removed = %d; want 403", a.StatusCode)
	}
	// A page of another site can do none of it.
	for _, path := range []string{"/-/devices", "/-/password/change", "/-/password/remove", "/-/password", "/-/password/set", "/-/help"} {
		if a := phone.send(path, url.Values{"others": {"1"}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); a.StatusCode != 403 || !strings.Contains(a.body, "came from another website") {
			t.Errorf("POST %s from another site = %d; want 403", path, a.StatusCode)
		}
	}
}

// A visitor who tries new passwords until one is acceptable uses up no attempts for the current
// one.
func TestAccount_TryingNewPasswordsOut(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	b := h.browser()
	b.send("/-/password", form("email", "ann@example.com", "password", annsPassword, "shared", "1"))
	for i := range 11 { // one more than an unknown device may try
		if a := b.send("/-/password/change", form("current", annsPassword, "password", "short"), from(ithNetwork(i))...); a.StatusCode != 400 {
			t.Fatalf("the right one, and a short new one, time %d = %d; want 400", i+1, a.StatusCode)
		}
	}
}

// A person who knows an imported password can sign in with it, but can't turn it into the contact's
// own or remove it without reading a mail.
func TestAccount_APasswordFromElsewhere(t *testing.T) {
	h := openGuessHouse(t, layout{})
	h.brings("ann@example.com", argon2Hash(t, annsPassword, 128, 2))
	b := h.browser()
	b.manually("ann@example.com", annsPassword)
	for _, path := range []string{"/-/password/change", "/-/password/remove"} {
		a := b.send(path, form("current", annsPassword, "password", annsPassword2))
		if a.StatusCode != 403 || !strings.Contains(a.body, "Your password comes from our earlier portal.") || strings.Contains(a.body, `name="current"`) || !strings.Contains(a.body, "Email me a link to set a new one") {
			t.Errorf("POST %s = %d; want 403, and the way by mail alone\n%s", path, a.StatusCode, a.body)
		}
	}
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("signing in once more = %d; want 303", a.StatusCode)
	}
	if a := h.in("ann@example.com").send("/-/password/change", form("password", annsPassword2)); a.StatusCode != 403 {
		t.Errorf("a change, just signed in by mail = %d; want 403", a.StatusCode)
	}
	h.has("ann@example.com", annsPassword2)
	b.manually("ann@example.com", annsPassword2)
	if a := b.send("/-/password/change", form("current", annsPassword2, "password", annsPassword)); a.StatusCode != 303 {
		t.Errorf("a change of the chosen one = %d; want 303", a.StatusCode)
	}
}

// A link from somebody else can't make the page say something untrue about a password.
func TestAccount_SaysNothingUntrue(t *testing.T) {
	h := openGuessHouse(t, layout{})
	b := h.in("ann@example.com")
	says := func(when, word string, want bool) {
		t.Helper()
		if a := b.open("/-/account?done=" + word); a.StatusCode != 200 || strings.Contains(a.body, `role="status">Your password is `+word) != want {
			t.Errorf("%s, done=%s = %d; want it said: %t", when, word, a.StatusCode, want)
		}
	}
	says("without a password", "set", false)
	h.holds("ann@example.com", annsPassword)
	says("with one", "set", true)
	says("with one", "removed", false)
	caddymodule.Advance(t, 6*time.Minute)
	says("with one of six minutes ago", "set", false)
	b.send("/-/password/remove", form("current", annsPassword))
	says("once it is removed", "removed", true)
}

// A problem appears once, at the field that has it.
func TestAccount_ShowsProblemsAtTheirField(t *testing.T) {
	h := openGuessHouse(t, layout{})
	b := h.in("ann@example.com")
	problem := func(what string, a answer, status int, says, field string) {
		t.Helper()
		at := regexp.MustCompile(`id="(\w+)"[^>]* aria-invalid="true" aria-describedby="problem[^>]* autofocus`).FindStringSubmatch(a.body)
		if a.StatusCode != status || strings.Count(a.body, `id="problem" role="alert"`) != 1 || !strings.Contains(a.body, says) || (at == nil) != (field == "") || at != nil && at[1] != field {
			t.Errorf("%s = %d, at %q; want %d, at %q, and once %q\n%s", what, a.StatusCode, at, status, field, says, a.body)
		}
	}
	problem("a first password", b.send("/-/password/change", form("password", annsPassword)), 403, "use a link that we email you", "")
	h.holds("ann@example.com", annsPassword)
	problem("a short new password", b.send("/-/password/change", form("current", annsPassword, "password", "short")), 400, "at least 15", "password")
	problem("a change without the current one", b.send("/-/password/change", form("password", annsPassword2)), 403, "your current password", "current")
	problem("a wrong current one", b.send("/-/password/change", form("current", wrongOne, "password", annsPassword2)), 403, "not your current password", "current")
	a := b.send("/-/password/remove", form("current", wrongOne))
	problem("a wrong one to remove it", a, 403, "not your current password", "gone")
	if !strings.Contains(a.body, `<details class="part" open>`) {
		t.Errorf("what is wrong can't be seen\n%s", a.body)
	}
	for range 20 {
		a = b.send("/-/password/change", form("current", wrongOne, "password", annsPassword2), from(ithNetwork(1))...)
	}
	problem("too many of a network, on an unknown device", b.stolen().send("/-/password/change", form("current", wrongOne), from(ithNetwork(1))...), 429, "from your network", "")
}

// If the firm has passwords off, no page leads to one.
func TestPasswordsOff(t *testing.T) {
	h := openHouse(t, layout{})
	h.has("ann@example.com", annsPassword)
	asked := h.browser()
	link, tok := asked.help("ann@example.com", "/")
	h.change("contacts "+h.path("contacts.csv"), "passwords off\n\t\tcontacts "+h.path("contacts.csv"))
	b := h.browser()
	if a := asked.open("/-/sent"); a.StatusCode != 303 || a.Header.Get("Location") != "/-/sign-in" {
		t.Errorf("GET /-/sent, after asking for a password link = %d to %q; want 303 to /-/sign-in", a.StatusCode, a.Header.Get("Location"))
	}
	if a := b.open("/x"); strings.Contains(a.body, "manually") {
		t.Errorf("the prompt still leads to /-/password\n%s", a.body)
	}
	for _, path := range []string{"/-/password", "/-/help", link} {
		if a := b.open(path); a.StatusCode != 404 {
			t.Errorf("GET %s = %d; want 404", path, a.StatusCode)
		}
	}
	for _, path := range []string{"/-/password", "/-/help", "/-/password/set", "/-/password/change", "/-/password/remove"} {
		if a := b.send(path, url.Values{"email": {"ann@example.com"}, "password": {annsPassword}, "t": {tok}}); a.StatusCode != 404 {
			t.Errorf("POST %s = %d; want 404", path, a.StatusCode)
		}
	}
	b.signIn("ann@example.com")
	if a := b.open("/-/account"); a.StatusCode != 200 || strings.Contains(a.body, "password") && strings.Contains(a.body, "Your password") {
		t.Errorf("GET /-/account = %d; want 200 without a word of passwords\n%s", a.StatusCode, a.body)
	}
	h.change("passwords off", "passwords {\n\t\t\tmin_length 8\n\t\t}")
	b = h.browser()
	if a := b.manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("the password from before = %d; want 303", a.StatusCode)
	}
	_, tok = b.help("ann@example.com", "/")
	if a := b.send("/-/password/set", url.Values{"t": {tok}, "password": {"kx4 ubzq"}}); a.StatusCode != 303 {
		t.Errorf("eight characters, where eight are enough = %d; want 303\n%s", a.StatusCode, a.body)
	}
}

// A change of the secret while passwords are off keeps all passwords, and keeps the record that a
// contact has removed theirs.
func TestPasswordsOffOutliveTheSecret(t *testing.T) {
	const first, both, second = "secret {env.FIRST}", "secret {env.SECOND} {env.FIRST}", "secret {env.SECOND}"
	t.Setenv("FIRST", secret.Random())
	t.Setenv("SECOND", secret.Random())
	h := openHouse(t, layout{app: "mail folder " + t.TempDir() + "\n" + first, admin: freeAddress(t)})
	hash := bcryptHash(t, annsPassword, bcrypt.MinCost)
	h.brings("ann@example.com", hash)
	h.brings("bob@example.com", hash)
	h.apply(caddymodule.PasswordsOf(t, "example").Remove(t.Context(), h.idOf("bob@example.com")))
	sealed := func() (all []string) {
		recs, err := caddymodule.OpenStore(t).Scan(t.Context(), "example", "password", "", "", 10)
		if err != nil || len(recs) != 2 {
			t.Fatalf("%d records of passwords, %v; want 2", len(recs), err)
		}
		return []string{string(recs[0].Value), string(recs[1].Value)}
	}
	before := sealed()
	h.config = strings.Replace(h.config, "contacts "+h.path("contacts.csv"), "passwords off\ncontacts "+h.path("contacts.csv"), 1)
	h.change(first, both)
	h.eventually("both are sealed anew", func() bool {
		now := sealed()
		return now[0] != before[0] && now[1] != before[1]
	})
	h.sealedAnew()
	h.config = strings.Replace(h.config, "passwords off\n", "\n", 1)
	h.change(both, second)
	ctx, bob := t.Context(), h.idOf("bob@example.com")
	if ops, err := caddymodule.PasswordsOf(t, "example").Import(ctx, bob, hash); !errors.Is(err, password.ErrNotImportable) {
		t.Errorf("an import for who has removed their password = %d ops, %v; want ErrOwn", len(ops), err)
	}
	if a := h.browser().manually("ann@example.com", annsPassword); a.StatusCode != 303 {
		t.Errorf("the password from before = %d; want 303", a.StatusCode)
	}
}

// A disabled contact has no working password any more, and no link to set one.
func TestS15_SwitchedOffWithAPassword(t *testing.T) {
	h := openHouse(t, layout{})
	h.has("bob@example.com", annsPassword)
	b := h.browser()
	if a := b.manually("bob@example.com", annsPassword); a.StatusCode != 303 {
		t.Fatalf("the right password = %d; want 303", a.StatusCode)
	}
	_, tok := h.browser().help("bob@example.com", "/")
	h.write("contacts.csv", strings.Replace(someContacts, "bob@example.com,,Bob,Cole,acme,,", "bob@example.com,,Bob,Cole,acme,,true", 1))
	h.change("contacts "+h.path("contacts.csv"), "contacts  "+h.path("contacts.csv"))
	h.eventually("bob is signed out", func() bool { return b.me() == nil })
	right, wrong := b.manually("bob@example.com", annsPassword), b.manually("bob@example.com", "wrong wrong wrong wrong")
	if right.StatusCode != 403 || right.body != wrong.body {
		t.Errorf("the right password = %d; want 403, and the answer to a wrong one\n%s", right.StatusCode, right.body)
	}
	if a := b.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword2}}); a.StatusCode != 410 {
		t.Errorf("a link to set one = %d; want 410", a.StatusCode)
	}
}
