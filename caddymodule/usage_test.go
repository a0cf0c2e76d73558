package caddymodule_test

import (
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// Counts survive a reload and a restart, including those of a request that begins before and ends
// after a reload.
func TestUsesSurviveReloadAndRestart(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	check := func(when string, hits, browsers int) {
		t.Helper()
		out, err := h.office().LegacyUsage(t.Context(), "example", admin.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Companies) != 1 || out.Companies[0].ID != "acme" || out.CountedSince.IsZero() {
			t.Fatalf("%s: %+v; want acme alone", when, out)
		}
		if got := out.Companies[0].Recent; got.Hits != hits || got.Browsers != browsers {
			t.Errorf("%s: %+v; want %d hits by %d browsers", when, got, hits, browsers)
		}
	}
	first := caddymodule.UsageOf(t, "example")
	first.Note("acme", usage.Use{Browser: "a"})
	check("at once", 1, 1)
	first.Note("acme", usage.Use{Browser: "a"})
	h.start()
	h.settled()
	check("after a reload", 2, 1)
	first.Note("acme", usage.Use{Browser: "b"}) // by a request that outlives its config
	caddymodule.UsageOf(t, "example").Note("acme", usage.Use{})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.settled()
	check("after a restart", 4, 2)
}
