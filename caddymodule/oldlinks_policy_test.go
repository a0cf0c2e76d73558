package caddymodule_test

import "testing"

// A Referrer-Policy for the whole site, set by a header block that runs on the response, doesn't
// reveal old links to other sites, whether they are open or unknown; a stricter one is kept.
func TestAPolicyOfTheWholeSiteTellsNoOldLink(t *testing.T) {
	h := openHouse(t, layout{firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	const gate = "\tdoorpost example {"
	policy := func(value string) string {
		return "\theader {\n\t\t-Server\n\t\tReferrer-Policy " + value + "\n\t}\n" + gate
	}
	before := gate
	for value, want := range map[string]string{"no-referrer-when-downgrade": "strict-origin-when-cross-origin", "unsafe-url": "strict-origin-when-cross-origin", "no-referrer": "no-referrer"} {
		h.change(before, policy(value))
		before = policy(value)
		a := h.browser().open("/one-click/acme-secret-token-1/")
		if got := a.Header["Referrer-Policy"]; a.StatusCode != 200 || len(got) != 1 || got[0] != want {
			t.Errorf("with %s, an open company's old link = %d with the policy %q; want %s", value, a.StatusCode, got, want)
		}
	}
}
