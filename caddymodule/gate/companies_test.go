package gate

import (
	"io"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// If the directory has no company, staff are told so and get no search field.
func TestCompaniesOfAnEmptyFirm(t *testing.T) {
	h := openAwayHouse(t)
	h.Directory.Staff = []address.Address{"ann@example.com"}
	for path, want := range map[string]string{"/-/companies": "There is no company here yet.", "/-/companies?q=ced": "No company has “ced” in its name."} {
		resp := h.do(path, "", h.session)
		page, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := words(t, string(page)); resp.StatusCode != 200 || !strings.Contains(got, want) || strings.Contains(got, "Search") != strings.Contains(path, "q=") {
			t.Errorf("GET %s = %d %q; want %q", path, resp.StatusCode, got, want)
		}
	}
}
