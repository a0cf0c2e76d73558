package caddymodule_test

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

var (
	keptAction = regexp.MustCompile(`<form method="post" action="(/note[^"]*)"`)
	keptField  = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// keptForm returns the action and the fields of the form that a page keeps.
func keptForm(t *testing.T, a answer) (action string, fields url.Values) {
	t.Helper()
	m := keptAction.FindStringSubmatch(a.body)
	if m == nil {
		t.Fatalf("%d, no form is kept\n%s", a.StatusCode, a.body)
	}
	fields = url.Values{}
	_, rest, _ := strings.Cut(a.body, m[0])
	rest, _, _ = strings.Cut(rest, "</form>")
	for _, f := range keptField.FindAllStringSubmatch(rest, -1) {
		fields.Add(html.UnescapeString(f[1]), html.UnescapeString(f[2]))
	}
	return html.UnescapeString(m[1]), fields
}

// A kept form isn't sent as another contact who signs in afterwards, unless that contact
// confirms: the page says as whom it would be sent. The contact who filled it in only presses
// a button.
func TestAKeptFormOfAnotherContactNeedsConfirmation(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	typed := url.Values{"note": {"Zwölf & more"}, "x": {"", "2"}}
	got := func(want string) {
		t.Helper()
		last, _ := h.portal.last()
		sent, err := url.ParseQuery(last.Body)
		if err != nil || last.Method != "POST" || last.URI != "/note?x=1" || sent.Encode() != typed.Encode() || last.Header.Get("Remote-User") != want {
			t.Errorf("the portal got %s %s %q of %s; want the form as it was typed, of %s", last.Method, last.URI, last.Body, last.Header.Get("Remote-User"), want)
		}
	}
	for name, ends := range map[string]func(b *browser){
		"signing out":            func(b *browser) { b.send("/-/sign-out", form()) },
		"the firm's revocation":  func(b *browser) { h.operator("sessions/revoke", "ann@example.com") },
		"the end of a long wait": func(b *browser) { caddymodule.Advance(t, 46*24*60*60*1e9) },
	} {
		b := h.in("ann@example.com")
		ends(b)
		if b.me() != nil {
			t.Fatalf("%s: ann is still signed in", name)
		}
		action, fields := keptForm(t, b.send("/note?x=1", typed))

		b.signIn("bob@example.com")
		var asked answer
		h.portal.unseen(t, name, func() { asked = b.send(action, fields) })
		if asked.StatusCode != 409 || !strings.Contains(asked.body, "signed in as <strong class=\"address\">bob@example.com") || !strings.Contains(asked.body, "Send it as") {
			t.Errorf("%s: the form of another = %d; want 409 and a question that names bob\n%s", name, asked.StatusCode, asked.body)
		}
		sure, same := keptForm(t, asked)
		if a := b.send(sure, same); a.StatusCode != 200 {
			t.Errorf("%s: the form, after the question = %d; want 200", name, a.StatusCode)
		}
		got("bob@example.com")

		// Bob's confirmation doesn't count for others.
		b.send("/-/sign-out", form())
		again, fields2 := keptForm(t, b.send(sure, same)) // kept once more
		b.signIn("ann@example.com")
		h.portal.unseen(t, name, func() {
			for _, to := range []string{sure, again} {
				if a := b.send(to, fields2); a.StatusCode != 409 {
					t.Errorf("%s: the form that bob agreed to, as ann = %d; want 409", name, a.StatusCode)
				}
			}
		})
		// Ann sends her own input with one press.
		if a := b.send(action, fields); a.StatusCode != 200 {
			t.Errorf("%s: ann's own form = %d; want 200", name, a.StatusCode)
		}
		got("ann@example.com")
	}
	// In a browser without an earlier sign-in, the form belongs to the next contact who signs
	// in.
	b := h.browser()
	action, fields := keptForm(t, b.send("/note?x=1", typed))
	b.signIn("bob@example.com")
	if a := b.send(action, fields); a.StatusCode != 200 {
		t.Errorf("the form of a new browser = %d; want 200", a.StatusCode)
	}
	got("bob@example.com")
	// On a shared device no contact is remembered, so everybody must confirm.
	shared := h.browser()
	before := len(h.letters("ann@example.com"))
	h.mayMailAgain(before)
	shared.send("/-/sign-in", form("email", "ann@example.com", "shared", "1"))
	shared.open(h.nextLetter("ann@example.com", before).link)
	shared.send("/-/sign-out", form())
	action, fields = keptForm(t, shared.send("/note?x=1", typed))
	shared.signIn("bob@example.com")
	if a := shared.send(action, fields); a.StatusCode != 409 {
		t.Errorf("the form of a shared device = %d; want 409", a.StatusCode)
	}
}

// The mark of a kept form is removed in every spelling of the form's URL, but only if we added
// it. From another site's page it has no effect: that page could otherwise have its form shown
// as ours.
func TestTheMarkOfAKeptFormIsRemoved(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.in("ann@example.com")
	b.send("/-/sign-out", form())
	for _, path := range []string{"/note", "/note?", "/note?a", "/note?a=1&b=2&", "/note?portal-form=abc", "/note?q=portal-form="} {
		action, fields := keptForm(t, b.send(path, form("n", "1")))
		if action == path || !strings.HasPrefix(action, path) {
			t.Errorf("%s is kept for %s; want a mark at the end", path, action)
		}
		h.in("ann@example.com") // so that one more mail may be sent
		b.signIn("ann@example.com")
		if a := b.send(action, fields); a.StatusCode != 200 {
			t.Errorf("%s = %d; want 200", action, a.StatusCode)
		}
		if last, _ := h.portal.last(); last.URI != path {
			t.Errorf("the portal got %s; want %s", last.URI, path)
		}
		for _, forged := range []string{path + "?portal-form=x", path + "?portal-form=" + strings.Repeat("A", 60), path + "&portal-form=" + strings.Repeat("A", 60)} {
			a := b.send(forged, fields, "Origin", "https://evil.example", "Sec-Fetch-Site", "same-site")
			if a.StatusCode != 200 {
				t.Errorf("POST %s from another site = %d; want it to go on as any other", forged, a.StatusCode)
			}
		}
		b.send("/-/sign-out", form())
	}
}
