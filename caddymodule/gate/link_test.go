package gate

import (
	"io"
	"net/url"
	"strings"
	"testing"
)

// Text typed on a link's page stays in its field for correction. Only an address other than the
// link's is recorded in the history: scanners fill in forms with anything.
func TestLinkPageKeepsWhatWasTyped(t *testing.T) {
	h := openAwayHouse(t)
	for _, c := range []struct {
		typed string
		wrong int // events so far
	}{{"ann@exmaple.com", 1}, {"ann@", 1}, {"", 1}, {"bob@example.com", 2}} {
		resp := h.do("/-/link", url.Values{"t": {h.token}, "email": {c.typed}}.Encode(), "")
		page, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		field := "none"
		for _, n := range nodes(t, string(page)) {
			if attr(n, "id") == "email" {
				field = attr(n, "value")
			}
		}
		if resp.StatusCode != 403 || field != c.typed {
			t.Errorf("%q typed = %d, with %q in the field; want 403 and what was typed", c.typed, resp.StatusCode, field)
		}
		if n := strings.Count(h.log.String(), `"event":"wrong-mail"`); n != c.wrong {
			t.Errorf("after %q: %d events of wrong-mail; want %d", c.typed, n, c.wrong)
		}
	}
}
