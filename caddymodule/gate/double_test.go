package gate

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// A second click that reaches another gate on the store gets the session that the first one began:
// in the requesting browser, for ten seconds.
func TestADoubleClickAtTwoGates(t *testing.T) {
	for _, c := range []struct {
		name string
		ago  time.Duration // time since the first click
		flow string        // of the second click; "" if it is the same
		want int
	}{
		{"at once", 0, "", http.StatusSeeOther},
		{"nine seconds later", 9 * time.Second, "", http.StatusSeeOther},
		{"eleven seconds later", 11 * time.Second, "", http.StatusGone},
		{"in another browser", 0, "__Host-portal-flow=" + secret.Random(), http.StatusGone},
		{"in a browser without cookies", 0, "none=1", http.StatusGone},
	} {
		h := openAwayHouse(t)
		other := *h
		other.madeGate = h.another()
		h.Now = func() time.Time { return time.Now().Add(-c.ago) }
		h.remake()
		first := h.do("/-/link?t="+h.token, "", h.flow)
		began := sessionOf(first)
		if first.StatusCode != http.StatusSeeOther || began == "" {
			t.Fatalf("%s: the first click = %d; want 303 and a session", c.name, first.StatusCode)
		}
		if c.flow == "" {
			c.flow = h.flow
		}
		second := other.do("/-/link?t="+h.token, "", c.flow)
		if second.StatusCode != c.want || (sessionOf(second) != "") != (c.want == http.StatusSeeOther) {
			t.Errorf("%s: the second click = %d, cookies %q; want %d", c.name, second.StatusCode, second.Header["Set-Cookie"], c.want)
			continue
		}
		if c.want != http.StatusSeeOther {
			continue
		}
		if got := sessionOf(second); got != began || second.Header.Get("Location") != "/orders" {
			t.Errorf("%s: the second click leads to %q, in the same session: %v; want /orders, true", c.name, second.Header.Get("Location"), got == began)
		}
		if resp := other.do("/orders", "", "__Host-portal="+began); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: the portal = %d; want 200", c.name, resp.StatusCode)
		}
		h.store.away.Store(true)
		h.wantAway(c.name+", the store away", other.do("/-/link?t="+h.token, "", h.flow))
	}
}

// sessionOf returns the session cookie that a response sets, or "".
func sessionOf(resp *http.Response) string {
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-portal" {
			return c.Value
		}
	}
	return ""
}

// Neither the store nor the secret suffices to open the record for a second click.
func TestADoubleClickIsSealedForItsBrowser(t *testing.T) {
	h := openAwayHouse(t)
	began := sessionOf(h.do("/-/link?t="+h.token, "", h.flow))
	recs, err := h.store.Scan(t.Context(), h.Settings.Firm, "double", "", "", 10)
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d records, %v; want one", len(recs), err)
	}
	rec := recs[0]
	if strings.Contains(string(rec.Value), began) {
		t.Error("the session's cookie is in the store")
	}
	if plain, err := h.Tokens.Keys.Open("double", rec.Key.ID, rec.Value[1:]); err == nil {
		t.Errorf("the secret alone opens it: %q", plain)
	}
	flow := strings.TrimPrefix(h.flow, "__Host-portal-flow=")
	if plain, err := h.Tokens.Keys.OpenFor(flow, "double", rec.Key.ID, rec.Value[1:]); err != nil || string(plain) != began {
		t.Errorf("its browser's cookie opens it = %q, %v; want the session's", plain, err)
	}
	if left := time.Until(rec.Expires); left > action.ReplayTime || left < 0 {
		t.Errorf("it lives for %v; want ten seconds at most", left)
	}
	other := *h
	other.madeGate = h.another()
	newer := append([]byte{rec.Value[0] + 1}, rec.Value[1:]...)
	if err := h.store.Apply(t.Context(), store.Put(rec.Key, newer, rec.Expires)); err != nil {
		t.Fatal(err)
	}
	if again := other.do("/-/link?t="+h.token, "", h.flow); again.StatusCode != http.StatusGone {
		t.Errorf("by what a newer gate wrote, the second click = %d; want 410", again.StatusCode)
	}
}
