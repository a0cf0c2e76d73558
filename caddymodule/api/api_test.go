package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A request without TLS is refused before its token is looked at: others may have read the token.
func TestRequestsWithoutTLSAreRefused(t *testing.T) {
	h := &Handler{Insecure: func(*http.Request) bool { return true }} // without tokens, which would be read otherwise
	r := httptest.NewRequest(http.MethodPost, "/-/api/notify", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer doorpost_aaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r, "notify")
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"code":"insecure"`) {
		t.Errorf("without TLS = %d %s; want 403 insecure", w.Code, w.Body)
	}
}
