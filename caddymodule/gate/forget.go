package gate

import "net/http"

// clearSite has the browser forget the pages that it has kept of this site, as the person at it
// changes, and what the portal's scripts have stored, where the firm wants that.
func (g *Gate) clearSite(h http.Header) {
	what := `"cache"`
	if g.ClearStorage {
		what = `"cache", "storage"`
	}
	h.Set("Clear-Site-Data", what)
}
