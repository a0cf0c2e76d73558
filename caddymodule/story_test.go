package caddymodule_test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The whole way of a client, from the portal's page through sign-in back to it.
func TestSignInLeadsBackToThePage(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()

	a := b.open("/orders/7?tab=2")
	if a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.body, `name="email"`) {
		t.Fatalf("GET /orders/7, signed out = %d; want 401 and the prompt\n%s", a.StatusCode, a.body)
	}
	if len(a.Cookies()) != 0 {
		t.Errorf("the prompt sets %v; want no cookie", a.Cookies())
	}
	if _, n := h.portal.last(); n != 0 {
		t.Errorf("the portal saw %d requests of somebody signed out; want none", n)
	}

	l := b.ask("Ann@Example.com", "/orders/7?tab=2")
	if a := b.open("/-/sent"); a.StatusCode != 200 || !strings.Contains(a.body, "ann@example.com") {
		t.Errorf("GET /-/sent = %d; want 200 and the address\n%s", a.StatusCode, a.body)
	}
	a = b.open(l.link)
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/orders/7?tab=2" {
		t.Fatalf("GET link = %d to %q; want 303 to /orders/7?tab=2\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	if a := b.open("/orders/7?tab=2"); a.body != "portal: GET /orders/7?tab=2 for ann@example.com" {
		t.Errorf("GET /orders/7, signed in = %d %q; want the portal's page", a.StatusCode, a.body)
	}
	got, _ := h.portal.last()
	for name, want := range map[string]string{
		"Remote-User": "ann@example.com", "Remote-Email": "ann@example.com", "Remote-Name": "Ann Baker",
		"Remote-Groups": "acme,birch", "Portal-Role": "client", "Portal-Firm": "example", "Cookie": "",
	} {
		if g := got.Header.Get(name); g != want {
			t.Errorf("portal got %s: %q; want %q", name, g, want)
		}
	}
	if me := b.me(); me == nil || me["email"] != "ann@example.com" || me["role"] != "client" {
		t.Errorf("/-/me = %v; want ann", me)
	}

	if a := b.open(l.link); a.StatusCode != http.StatusSeeOther {
		t.Errorf("GET used link, signed in = %d; want 303 to where it led", a.StatusCode)
	}
	if a := b.send("/-/sign-out", url.Values{}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("POST /-/sign-out = %d; want 303", a.StatusCode)
	}
	if me := b.me(); me != nil {
		t.Errorf("/-/me after sign-out = %v; want 401", me)
	}
}

// On another device, the link asks for the address again; the code signs in the device that
// requested the mail.
func TestAnotherDevice(t *testing.T) {
	h := openHouse(t, layout{})
	laptop, phone := h.browser(), h.browser()
	l := laptop.ask("ann@example.com", "/x")

	a := phone.open(l.link)
	if a.StatusCode != 200 || phone.me() != nil || !strings.Contains(a.body, "a•••@example.com") || strings.Contains(a.body, "ann@") {
		t.Fatalf("GET link elsewhere = %d; want 200, the address in part, nobody signed in\n%s", a.StatusCode, a.body)
	}
	tok := l.link[strings.Index(l.link, "t=")+2:]
	if a := phone.send("/-/link", url.Values{"t": {tok}, "email": {"bob@example.com"}}); a.StatusCode != 403 || phone.me() != nil {
		t.Errorf("POST link with another's address = %d; want 403", a.StatusCode)
	}
	if a := phone.send("/-/link", url.Values{"t": {tok}, "email": {" ANN@example.com "}}); a.StatusCode != 303 || a.Header.Get("Location") != "/x" {
		t.Fatalf("POST link with the address = %d; want 303 to /x\n%s", a.StatusCode, a.body)
	}
	if phone.me() == nil {
		t.Error("the phone isn't signed in")
	}
	// The link was used on the phone; the code still works on the laptop that requested the mail.
	if a := phone.send("/-/code", url.Values{"code": {l.code}}); a.StatusCode != 303 || a.Header.Get("Location") != "/-/sign-in" {
		t.Errorf("POST code on the phone, which didn't ask = %d; want 303 to the prompt", a.StatusCode)
	}
	typed := strings.ToUpper(strings.ReplaceAll(l.code, "-", " "))
	if a := laptop.send("/-/code", url.Values{"code": {typed}}); a.StatusCode != 303 || laptop.me() == nil {
		t.Errorf("POST code %q on the laptop = %d; want 303 and signed in\n%s", typed, a.StatusCode, a.body)
	}
	if a := laptop.send("/-/code", url.Values{"code": {l.code}}); a.StatusCode == 303 && strings.HasPrefix(a.Header.Get("Location"), "/x") {
		t.Error("the code worked twice")
	}
}

// The rest of the Caddyfile can use the signed-in contact; without one, or without a value, a
// placeholder is empty and never appears literally.
func TestPlaceholders(t *testing.T) {
	const names = "id email name company companies role firm"
	site := "reverse_proxy {PORTAL} {\n"
	for name := range strings.FieldsSeq(names) {
		site += "\t\theader_up X-" + name + " \"<{http.auth.user." + name + "}>\"\n"
	}
	p := newPortal(t)
	h := openHouse(t, layout{firm: "public /open", site: strings.Replace(site, "{PORTAL}", strings.TrimPrefix(p.URL, "http://"), 1) + "\t}"})
	b := h.browser()
	got := func(path string) map[string]string {
		b.open(path)
		last, _ := p.last()
		all := map[string]string{}
		for name := range strings.FieldsSeq(names) {
			all[name] = strings.Trim(last.Header.Get("X-"+name), "<>")
		}
		return all
	}
	for name, value := range got("/open") {
		if value != "" {
			t.Errorf("signed out, {http.auth.user.%s} = %q; want nothing", name, value)
		}
	}
	b.signIn("ann@example.com")
	all := got("/x")
	want := map[string]string{"id": all["id"], "email": "ann@example.com", "name": "Ann Baker", "company": "",
		"companies": "acme,birch", "role": "client", "firm": "example"}
	if !maps.Equal(all, want) || all["id"] == "" || strings.Contains(all["id"], "ann") {
		t.Errorf("signed in, {http.auth.user.…} = %v; want %v and an opaque id", all, want)
	}
}
