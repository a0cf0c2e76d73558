package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// The portal has questions for a company: its contacts get an email, the link leads to the
// company's page, and the list of companies marks the company until they have opened that page.
func TestNoticeBringsAContactToThePage(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t), firm: "home /portal/{company}"})
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	anns, bobs := len(h.letters("ann@example.com")), len(h.letters("bob@example.com"))
	office := h.office()
	notify := func(in admin.Notify) admin.Notified {
		t.Helper()
		out, err := office.Notify(t.Context(), "example", in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	in := admin.Notify{Company: "acme", To: []string{"ann.b@example.org", "ann@example.com", "eve@example.com"}, Data: admin.NoticeData{"count": "2", "note": "<b>{env.HOME}</b>"}, Key: "march"}
	out := notify(in)
	if len(out.Queued) != 1 || out.Queued[0].Email != "ann.b@example.org" || len(out.Skipped) != 1 || out.Skipped[0].Code != "disabled" {
		t.Fatalf("Notify = %+v; want Ann told once, where she was named first, and Eve skipped", out)
	}
	l := h.nextLetter("ann.b@example.org", 0)
	if !strings.Contains(l.text, "2 new questions") || !strings.Contains(l.text, "\n"+h.url+"/portal/acme\r\n") || !strings.Contains(l.text, "<b>{env.HOME}</b>") || strings.Contains(l.html, "<b>") || !strings.Contains(l.html, "{env.HOME}") {
		t.Errorf("the email is\n%s\n%s", l.text, l.html)
	}
	if again := notify(in); again.Queued[0].Request != out.Queued[0].Request {
		t.Errorf("the same key told Ann again: %+v", again)
	}

	// Both contacts of the company get the email; Bob hasn't opened the page yet.
	notify(admin.Notify{Company: "acme"})
	h.nextLetter("ann@example.com", anns)
	h.nextLetter("bob@example.com", bobs)
	shown := func(b *browser) bool { return strings.Contains(b.open("/-/companies").body, "New questions since") }
	if !shown(ann) || !shown(bob) {
		t.Error("the list of companies doesn't show the notice")
	}
	ann.open("/portal/birch")
	ann.open("/portal/acme/data", "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty")
	if !shown(ann) {
		t.Error("the notice is gone, though nobody has opened the page")
	}
	if a := ann.open("/portal/acme"); a.StatusCode != http.StatusOK {
		t.Fatalf("GET /portal/acme = %d", a.StatusCode)
	}
	if shown(ann) || !shown(bob) {
		t.Error("after Ann has opened the page, the notice is there for her, or gone for Bob")
	}
	notify(admin.Notify{Company: "acme", To: []string{"ann@example.com"}})
	if !shown(ann) {
		t.Error("a later notice isn't shown")
	}

	// The email's progress is in her timeline, and isn't advice about signing in.
	h.eventually("the timeline says that the email was taken", func() bool {
		line, err := office.Timeline(t.Context(), "example", admin.TimelineOf{Email: "ann@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		sent := map[string]int{}
		notices := admin.NoticeRequests(line.Events)
		for _, e := range line.Events {
			if notices[e.Request] {
				sent[string(e.Kind)]++
			}
		}
		return sent["notified"] == 3 && sent["sent"] == 3
	})
}
