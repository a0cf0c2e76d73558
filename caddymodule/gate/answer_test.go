package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Informational responses of the portal (103 Early Hints) don't change the cookies of the final
// response: sealed twice, they would be returned to the portal with one seal.
func TestBoundCookies_OnceAfterEarlyHints(t *testing.T) {
	g, cookie, _ := benchGate(t)
	got := ""
	portal := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("sid"); err == nil {
			got = c.Value
		}
		w.Header().Add("Set-Cookie", "sid=abc; HttpOnly")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	line := "__Host-portal=" + cookie
	for range 2 {
		r := httptest.NewRequest("GET", "https://portal.example/x", nil)
		r.Header.Set("Cookie", line)
		w := &blank{http.Header{}}
		g.ServeHTTP(w, r, portal)
		line += "; " + sent(strings.Join(w.header["Set-Cookie"], "|"))
	}
	if got != "abc" {
		t.Errorf("the portal's cookie came back as %q; want abc", got)
	}
}
