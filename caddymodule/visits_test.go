package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// openVisitedHouse returns a house with old links whose portal works like many old ones: the
// one-click URL begins a session, and the other pages use only that session.
func openVisitedHouse(t *testing.T, upgraded ...string) *house {
	t.Helper()
	h := openOldHouse(t, upgraded...)
	begun := 0
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: first\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		session := "nobody"
		if c, err := r.Cookie("PHPSESSID"); err == nil {
			session = c.Value
		}
		if token, ok := strings.CutPrefix(r.URL.Path, "/one-click/"); ok {
			company, _, _ := strings.Cut(token, "-")
			if !strings.HasPrefix(session, company) {
				begun++
				session = fmt.Sprintf("%s-%d", company, begun)
				w.Header().Add("Set-Cookie", "PHPSESSID="+session+"; path=/; HttpOnly")
			}
		}
		fmt.Fprintf(w, "session=%s name=%s company=%s", session, r.Header.Get("Remote-User"), r.Header.Get("Portal-Company"))
	}
	return h
}

// endless opens an endless response, and returns a channel that is closed when it ends.
func (b *browser) endless(path string) <-chan struct{} {
	b.h.t.Helper()
	r := b.request("GET", path, nil, "Accept", "text/event-stream", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin")
	resp, err := (&http.Client{Jar: b.client.Jar}).Do(r)
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, len("data: first"))); err != nil || resp.StatusCode != 200 {
		b.h.t.Fatalf("%s = %d, %v; want an answer that goes on", path, resp.StatusCode, err)
	}
	over := make(chan struct{})
	go func() { io.Copy(io.Discard, resp.Body); close(over) }()
	return over
}

func ended(over <-chan struct{}, patience time.Duration) bool {
	select {
	case <-over:
		return true
	case <-time.After(patience):
		return false
	}
}

// A visit ends for good with its cause: the old link's token, the state of its company, the company
// itself. Nothing restores it.
func TestVisitEndsWithItsCause(t *testing.T) {
	h := openVisitedHouse(t)
	const first, second = "/one-click/acme-secret-token-1/", "/one-click/acme-secret-token-2/"
	for _, end := range []struct {
		name  string
		both  bool // also that of the other old link
		other int  // status of the old link afterwards
		do    [][]string
	}{
		{"its token is taken away", false, 302, [][]string{{"companies", "set", "acme", "--legacy-tokens", "acme-secret-token-2"}}},
		{"an upgrade that is undone", true, 200, [][]string{{"upgrade", "acme"}, {"upgrade", "acme", "--undo"}}},
		{"the company is removed and added again", true, 200, [][]string{{"companies", "remove", "acme", "--yes"}, {"companies", "add", "acme", "--legacy-tokens", "acme-secret-token-1,acme-secret-token-2"},
			{"contacts", "set", "ann@example.com", "--companies", "acme,birch"}}},
	} {
		h.command("companies", "set", "acme", "--legacy-tokens", "acme-secret-token-1,acme-secret-token-2")
		b, other, bare := h.browser(), h.browser(), h.browser()
		b.open(first)
		session := other.open(second).body
		for _, one := range []*browser{b, other} {
			if a := one.open("/dashboard.php"); a.StatusCode != 200 || strings.Contains(a.body, "session=nobody") {
				t.Fatalf("%s: before, the visit's page = %d %s", end.name, a.StatusCode, a.body)
			}
		}
		visits, byURL, others := b.endless("/events"), bare.endless(first+"events"), other.endless("/events")
		for _, command := range end.do {
			h.command(command...)
		}
		for _, path := range []string{"/dashboard.php", "/portal/acme/", "/files/acme/a.pdf"} {
			if a := b.open(path); a.StatusCode != 401 {
				t.Errorf("%s: then %s in the visit = %d; want 401", end.name, path, a.StatusCode)
			}
		}
		if a := b.open(first); a.StatusCode != end.other {
			t.Errorf("%s: then the old link = %d; want %d", end.name, a.StatusCode, end.other)
		} else if a.StatusCode == 200 && (strings.Contains(a.body, session) || b.open("/dashboard.php").StatusCode != 200) {
			t.Errorf("%s: then the old link gives no new visit: %s", end.name, a.body)
		}
		want := 200
		if end.both {
			want = 401
		}
		if a := other.open("/dashboard.php"); a.StatusCode != want {
			t.Errorf("%s: then a visit by the company's other old link = %d; want %d", end.name, a.StatusCode, want)
		}
		const patience = 30 * time.Second
		if !ended(visits, patience) || !ended(byURL, patience) {
			t.Errorf("%s: what was opened by the old link goes on", end.name)
		}
		if end.both && !ended(others, patience) || !end.both && ended(others, 0) {
			t.Errorf("%s: what was opened by the other old link goes on: %t", end.name, !end.both)
		}
	}
}

// A signed-in visitor who opens another company's open old link sees its pages like anyone else,
// and is back at their own company as soon as they open one of its pages.
func TestVisitOfASignedInVisitor(t *testing.T) {
	h := openVisitedHouse(t, "birch")
	h.command("companies", "add", "elm", "--legacy-tokens", "elm-secret-token")
	ann := h.in("ann@example.com") // of acme and birch
	says := func(b *browser, path, want string) {
		t.Helper()
		if a := b.open(path); a.StatusCode != 200 || a.body != want {
			t.Errorf("%s = %d %q; want %q", path, a.StatusCode, a.body, want)
		}
	}
	says(ann, "/portal/birch/", "session=birch-1 name=ann@example.com company=birch")
	says(ann, "/one-click/elm-secret-token/", "session=elm-2 name= company=")
	says(ann, "/dashboard.php", "session=elm-2 name= company=")
	says(ann, "/portal/elm/", "session=elm-2 name= company=")
	says(ann, "/files/elm/a.pdf", "session=elm-2 name= company=")
	if a := ann.open("/portal/cedar/"); a.StatusCode != 404 {
		t.Errorf("a third company's page in the visit = %d; want 404", a.StatusCode)
	}
	if a := ann.open("/"); a.StatusCode != 303 || goes(a) != "/-/companies" {
		t.Errorf("/ in the visit = %d to %q; want her own companies", a.StatusCode, goes(a))
	}
	if me := ann.me(); me == nil || me["email"] != "ann@example.com" {
		t.Errorf("in the visit /-/me says %v", me)
	}
	stays := ann.endless("/events")
	says(ann, "/portal/birch/", "session=birch-3 name=ann@example.com company=birch")
	if c := ann.cookie("portal-visit"); c != "" {
		t.Errorf("back at her own company, she has the visit %q", c)
	}
	says(ann, "/dashboard.php", "session=birch-3 name=ann@example.com company=birch")
	if a := ann.open("/files/elm/a.pdf"); a.StatusCode != 404 {
		t.Errorf("the other company's page after that = %d; want 404", a.StatusCode)
	}
	// The visit belongs only to her: it ends when she signs out, even if the cookie is kept.
	says(ann, "/one-click/elm-secret-token/", "session=elm-4 name= company=")
	visit, session := ann.cookie("portal-visit"), ann.cookie("PHPSESSID")
	ann.send("/-/sign-out", nil)
	if c := ann.cookie("portal-visit"); c != "" {
		t.Errorf("signed out, she has the visit %q", c)
	}
	if !ended(stays, 30*time.Second) {
		t.Error("signed out, what she opened in the visit goes on")
	}
	bob := h.in("bob@example.com")
	for name, cookie := range map[string]string{"nobody": "", "somebody else": "; portal=" + bob.cookie("portal")} {
		a := h.get("/files/elm/a.pdf", "Cookie: portal-visit="+visit+"; PHPSESSID="+session+cookie)
		if a.status == 200 {
			t.Errorf("her visit lets %s in", name)
		}
		if a := h.get("/dashboard.php", "Cookie: portal-visit="+visit+"; PHPSESSID="+session+cookie); strings.Contains(a.body, "elm") {
			t.Errorf("with her visit %s gets %q", name, a.body)
		}
	}
	// As soon as she belongs to the company, she visits it as herself.
	ann.signIn("ann@example.com")
	says(ann, "/one-click/elm-secret-token/", "session=elm-5 name= company=")
	h.command("contacts", "set", "ann@example.com", "--companies", "acme,birch,elm")
	says(ann, "/dashboard.php", "session=nobody name=ann@example.com company=")
	says(ann, "/files/elm/a.pdf", "session=nobody name=ann@example.com company=elm")
}

// A visit from before a sign-in doesn't belong to the contact, and ends at the sign-out.
func TestAVisitFromBeforeTheSignIn(t *testing.T) {
	h := openVisitedHouse(t)
	b := h.browser()
	b.open("/one-click/acme-secret-token-1/")
	visit := b.cookie("portal-visit")
	b.signIn("bob@example.com")
	if a := b.open("/dashboard.php"); a.body != "session=nobody name=bob@example.com company=" {
		t.Errorf("signed in, the visit's page says %q; want them as themselves", a.body)
	}
	if b.cookie("portal-visit") != visit {
		t.Error("the sign-in took the visit away")
	}
	b.send("/-/sign-out", nil)
	if a := b.open("/dashboard.php"); a.StatusCode != 401 || b.cookie("portal-visit") != "" {
		t.Errorf("signed out, the visit's page = %d, with the visit %q; want neither", a.StatusCode, b.cookie("portal-visit"))
	}
}
