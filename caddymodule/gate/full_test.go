package gate

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/limit"
)

// D09, D12: an attacker with enough networks to use up all counters prevents other networks from
// requesting mail, but no visitor on a device on which they have signed in before.
func TestAKnownDeviceAsksForMailWhileAllCountersAreInUse(t *testing.T) {
	g, _, db := benchGate(t)
	now := time.Now() // a stopped clock, so that no counter expires
	g.Networks = &limit.Networks{Firm: "example", Store: db, Keys: g.Tokens.Keys, Now: func() time.Time { return now }}
	g.ClientIP = func(*http.Request) netip.Addr { return netip.MustParseAddr("2001:db8::1") }
	g.remake()
	for i := range 180_000 { // two counters each
		g.Networks.Allow(limit.Token, netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}))
	}
	ask := func(cookie string) (added int) {
		t.Helper()
		before, _, err := g.Queue.List(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "https://portal.example/-/sign-in", strings.NewReader("email=ann@example.com"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if cookie != "" {
			r.Header.Set("Cookie", "__Host-portal-device="+cookie)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r, http.NotFoundHandler())
		if w.Code != http.StatusSeeOther {
			t.Fatalf("asking for a mail = %d; want 303", w.Code)
		}
		after, _, err := g.Queue.List(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(after) - len(before)
	}
	if added := ask(""); added != 0 {
		t.Fatalf("a new network has %d requests accepted; want none while all counters are in use", added)
	}
	device, _ := g.Devices.New()
	for i := range 7 {
		if added := ask(device); (added == 1) != (i < 6) {
			t.Errorf("request %d of a known device: %d accepted; want six in all", i+1, added)
		}
	}
}
