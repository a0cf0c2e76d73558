package caddymodule_test

// No cache may give an answer for a signed-in visitor, or in a visit, to anybody else: neither a
// shared cache, whichever header it reads, nor the browser's own after the contact has left.

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// signInShared is signIn on a shared computer.
func (b *browser) signInShared(email string) {
	b.h.t.Helper()
	before := len(b.h.letters(email))
	b.h.mayMailAgain(before)
	b.send("/-/sign-in", form("email", email, "to", "/", "shared", "1"))
	if a := b.open(b.h.nextLetter(email, before).link); a.StatusCode != http.StatusSeeOther {
		b.h.t.Fatalf("GET link = %d; want 303\n%s", a.StatusCode, a.body)
	}
}

// freshness are headers with which portals allow caching.
var freshness = map[string]http.Header{
	"nothing":             {"Last-Modified": {"Mon, 01 Sep 2025 10:00:00 GMT"}},
	"public":              {"Cache-Control": {"public, max-age=600"}},
	"max-age alone":       {"Cache-Control": {"max-age=600"}},
	"in two lines":        {"Cache-Control": {"max-age=600", "public"}},
	"in capitals":         {"Cache-Control": {"PUBLIC, S-MAXAGE=600"}},
	"for some headers":    {"Cache-Control": {`private="Set-Cookie", no-cache="Set-Cookie", max-age=600`}},
	"for ever":            {"Cache-Control": {"max-age=31536000, immutable"}},
	"stale, too":          {"Cache-Control": {"max-age=1, stale-while-revalidate=600, stale-if-error=600"}},
	"private for a while": {"Cache-Control": {"private, max-age=600"}},
	"by Expires":          {"Expires": {"Thu, 01 Jan 2099 00:00:00 GMT"}},
	"by Pragma":           {"Pragma": {"public"}},
	"for a CDN": {"Cache-Control": {"no-cache"}, "Cdn-Cache-Control": {"max-age=600"}, "Cloudflare-Cdn-Cache-Control": {"max-age=600"},
		"Vercel-Cdn-Cache-Control": {"max-age=600"}, "Netlify-Cdn-Cache-Control": {"public, durable, s-maxage=600"}},
	"for other proxies": {"Surrogate-Control": {"max-age=600"}, "Edge-Control": {"cache-maxage=10m"}, "X-Accel-Expires": {"600"},
		"X-Litespeed-Cache-Control": {"public,max-age=600"}},
}

// wantPersonal fails the test if a cache may store the answer for another visitor, or use it
// without asking the gate.
func wantPersonal(t *testing.T, what string, header http.Header, want string) {
	t.Helper()
	if got := header["Cache-Control"]; !slices.Equal(got, []string{want}) {
		t.Errorf("%s: Cache-Control: %q; want %q", what, got, want)
	}
	for name, values := range header {
		switch {
		case name == "Expires" && values[0] == "0", name == "Pragma" && values[0] == "no-cache":
		case name == "Cache-Control":
		case strings.HasSuffix(strings.ToLower(name), "cache-control"), slices.Contains([]string{"Surrogate-Control", "Edge-Control", "X-Accel-Expires", "Expires", "Pragma"}, name):
			t.Errorf("%s: %s: %q; want no header that lets a cache keep the page", what, name, values)
		}
	}
}

func TestPersonalAnswersArePrivateInEveryHeader(t *testing.T) {
	h := openOldHouse(t)
	ann, shared, visitor := h.in("ann@example.com"), h.browser(), h.browser()
	shared.signInShared("bob@example.com")
	var send http.Header
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		for name, values := range send {
			w.Header()[name] = values
		}
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
		}
	}
	visitor.open("/one-click/acme-secret-token-1/x")
	for name, header := range freshness {
		send = header
		for _, path := range []string{"/orders/x.css", "/portal/acme/x"} {
			wantPersonal(t, name+", signed in, "+path, ann.open(path).Header, "private, no-cache")
			wantPersonal(t, name+", on a shared computer, "+path, shared.open(path).Header, "private, no-store")
		}
		a := ann.open("/orders/x.css", "If-None-Match", `"7"`)
		if a.StatusCode != http.StatusNotModified {
			t.Fatalf("If-None-Match = %d; want the portal's 304", a.StatusCode)
		}
		wantPersonal(t, name+", 304", a.Header, "private, no-cache")
		for _, path := range []string{"/one-click/acme-secret-token-1/x", "/orders/x.css"} {
			wantPersonal(t, name+", by a visit, "+path, visitor.open(path).Header, "private, no-cache")
		}
		// Public pages may be cached by everybody, as long as the portal allows.
		for _, who := range []*browser{h.browser(), ann, shared, visitor} {
			a := who.open("/assets/x.css")
			for k, v := range header {
				if !slices.Equal(a.Header[k], v) {
					t.Errorf("%s, an open page: %s: %q; want the portal's %q", name, k, a.Header[k], v)
				}
			}
			if got := a.Header.Get("Cache-Control"); header["Cache-Control"] == nil && header["Expires"] == nil && who != ann && who != shared && who != visitor && got != "" {
				t.Errorf("%s, an open page, signed out: Cache-Control: %q; want none", name, got)
			}
		}
	}
	for given, want := range map[string]string{"no-store": "private, no-store", "no-store, no-cache, must-revalidate": "private, no-store", "No-Store,Must-Understand": "private, no-store",
		"no-transform, max-age=5": "private, no-cache, no-transform", "no-transform,no-store": "private, no-store, no-transform", "private": "private, no-cache", "no-cache": "private, no-cache"} {
		send = http.Header{"Cache-Control": {given}}
		wantPersonal(t, given, ann.open("/orders/x").Header, want)
	}
}

// Early hints and trailers can't tell a cache otherwise.
func TestPersonalAnswersArePrivateInEarlyHintsAndTrailers(t *testing.T) {
	h := openHouse(t, layout{})
	ann := h.in("ann@example.com")
	var announced string
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Cache-Control", "Cdn-Cache-Control"} {
			w.Header().Set(name, "public, max-age=600")
		}
		w.WriteHeader(http.StatusEarlyHints)
		if announced != "" {
			w.Header().Set("Trailer", announced)
		}
		io.WriteString(w, "ok")
		w.(http.Flusher).Flush()
		for _, name := range []string{"Cache-Control", "Surrogate-Control", "Expires", "X-Sum"} {
			for _, prefix := range []string{"", http.TrailerPrefix} {
				w.Header().Set(prefix+name, "public, max-age=600")
			}
		}
	}
	for _, announced = range []string{"", "Cache-Control", "X-Sum, cache-control, Surrogate-Control, Expires"} {
		conn := h.dial()
		io.WriteString(conn, h.message("GET", "/x", ann.session(), "TE: trailers"))
		all, _ := io.ReadAll(conn)
		for line := range strings.SplitSeq(string(all), "\r\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.Contains(value, "600") && !strings.EqualFold(name, "X-Sum") {
				t.Errorf("announced %q: %s", announced, line)
			}
		}
		if !strings.Contains(string(all), "103 Early Hints") || !strings.Contains(string(all), "X-Sum") {
			t.Errorf("announced %q: %q; want the rest of it", announced, all)
		}
	}
}

// If a portal responds with one of Caddy's errors, handle_errors serves the page: it is personal
// as well.
func TestPersonalErrorPagesArePrivate(t *testing.T) {
	h := openHouse(t, layout{site: "handle_errors {\n\t\trespond \"Sorry, {http.auth.user.email}\"\n\t}\n\treverse_proxy " + freeAddress(t)})
	a := h.in("ann@example.com").open("/x")
	if a.StatusCode != http.StatusBadGateway || a.body != "Sorry, ann@example.com" {
		t.Fatalf("GET with the portal away = %d %q; want the error page", a.StatusCode, a.body)
	}
	wantPersonal(t, "an error page", a.Header, "private, no-cache")
}

// The browser's cache is cleared when the person changes: at sign-out, and when a contact signs in
// who isn't known on the device.
func TestTheBrowsersCacheIsClearedAtAChangeOfPerson(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	b := h.browser()
	clears := func(what string, a answer, want string) {
		t.Helper()
		if got := a.Header.Get("Clear-Site-Data"); got != want {
			t.Errorf("%s: Clear-Site-Data: %q; want %q", what, got, want)
		}
	}
	const cache = `"cache"`
	clears("the first sign-in on this device", b.open(b.ask("ann@example.com", "/").link), cache)
	clears("the same person again", b.open(b.ask("ann@example.com", "/").link), "")
	over := func(email string) answer {
		return b.send("/-/link", form("t", secretOf(b.ask(email, "/").link), "email", email))
	}
	clears("another person, over the session of the first", over("bob@example.com"), cache)
	clears("the first one, over the session of the other", over("ann@example.com"), cache)
	clears("a page of the portal's", b.open("/x"), "")
	clears("sign-out", b.send("/-/sign-out", nil), cache)
	clears("sign-out of somebody signed out", b.send("/-/sign-out", nil), cache)
	clears("the prompt", b.open("/x"), "")
	clears("back again, after sign-out", b.open(b.ask("ann@example.com", "/").link), "")
	b.send("/-/sign-out", nil)
	clears("the other one, who was here before", b.open(b.ask("bob@example.com", "/").link), cache)
	clears("by a code, over the session of the other", b.send("/-/code", form("code", b.ask("ann@example.com", "/").code)), cache)
	s := h.browser()
	for range 2 {
		before := len(h.letters("nameless@example.com"))
		h.mayMailAgain(before)
		s.send("/-/sign-in", form("email", "nameless@example.com", "to", "/", "shared", "1"))
		clears("on a shared computer", s.open(h.nextLetter("nameless@example.com", before).link), cache)
		s.client.Jar = h.browser().client.Jar // as if the browser was closed
	}
}

// If a portal's scripts store the signed-in user outside of cookies, that is cleared, too.
func TestScriptsStorageIsClearedAtAChangeOfPerson(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "clear_site_data storage"})
	b := h.browser()
	const all = `"cache", "storage"`
	for what, a := range map[string]answer{"the first sign-in on this device": b.open(b.ask("ann@example.com", "/").link), "sign-out": b.send("/-/sign-out", nil)} {
		if got := a.Header.Get("Clear-Site-Data"); got != all {
			t.Errorf("%s: Clear-Site-Data: %q; want %q", what, got, all)
		}
	}
	if a := b.open(b.ask("ann@example.com", "/").link); a.Header.Get("Clear-Site-Data") != "" {
		t.Errorf("the same person again: Clear-Site-Data: %q; want none", a.Header.Get("Clear-Site-Data"))
	}
}
