package visitor

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

func testSigner(t *testing.T) *assertion.Signer {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	return &assertion.Signer{Firm: "example", Origin: "https://portal.example", Store: db, Keys: keys}
}

// Whatever the lengths of names and ids, the identity stays within common server limits, never
// contains a truncated list, and has the computed size.
func TestH14_ListsAreSentWholeOrNotAtAll(t *testing.T) {
	signer := testSigner(t)
	for _, name := range []string{"", "Ann Baker", strings.Repeat("é", 200), strings.Repeat("<", 200)} {
		for _, id := range []int{3, 20, 63} {
			told := false
			for n := 400; n >= 0; n = n * 9 / 10 {
				var companies []string
				for i := range n {
					companies = append(companies, (fmt.Sprintf("%03d", i) + strings.Repeat("x", 60))[:id])
				}
				c := directory.Contact{ID: strings.Repeat("i", 32), Emails: []address.Address{"ann@example.com"}, FirstName: name, Role: directory.Client, Companies: companies}
				v := &Visitor{Live: &session.Cached{Session: session.Session{Handle: strings.Repeat("h", 26), Method: "password"}}, Contact: c, Firm: "example"}
				v.identify(signer.Origin, nil)
				jwt, err := signer.Sign(t.Context(), v.claims(upstream.LongestID))
				if err != nil {
					t.Fatal(err)
				}
				h := http.Header{}
				v.Identity.SetOn(h, jwt, upstream.LongestID)
				var sent bytes.Buffer
				h.Write(&sent)
				groups, companiesTold := h.Get("Remote-Groups"), len(v.companies) > 0
				if sent.Len() > upstream.MaxIdentity || groups != "" && groups != strings.Join(companies, ",") || companiesTold != (groups != "") || (v.omitted > 0) != (n > 0 && groups == "") {
					t.Fatalf("a name of %d bytes, %d ids of %d: %d bytes of headers, Remote-Groups of %d, %d left out", len(name), n, id, sent.Len(), len(groups), v.omitted)
				}
				if told = told || groups != ""; told && n > 0 && groups == "" {
					t.Fatalf("a name of %d bytes, ids of %d: fewer than were told aren't", len(name), id)
				}
				if size := assertion.SizeOf(v.claims(upstream.LongestID), signer.Origin); size < len(jwt) || size > len(jwt)+60 {
					t.Fatalf("SizeOf = %d of an assertion of %d bytes", size, len(jwt))
				}
				if n == 0 {
					break
				}
			}
			if !told {
				t.Errorf("a name of %d bytes, ids of %d: not even one company is told", len(name), id)
			}
		}
	}
}

// Headers that the firm doesn't want take no space from the others, and the list in the assertion
// is complete.
func TestH14_UnwantedHeadersTakeNoSpace(t *testing.T) {
	signer := testSigner(t)
	var companies []string
	for i := range 90 {
		companies = append(companies, fmt.Sprintf("company-%03d-%s", i, strings.Repeat("x", 30)))
	}
	c := directory.Contact{ID: strings.Repeat("i", 32), Emails: []address.Address{"ann@example.com"}, Role: directory.Client, Companies: companies}
	for _, one := range []struct {
		wanted          upstream.Wanted
		listed, claimed bool
	}{
		{nil, false, false},
		{upstream.Wanted{"Remote-User", "Remote-Groups"}, true, true},
		{upstream.Wanted{"Remote-User", "Portal-Assertion"}, false, true},
		{upstream.Wanted{"Remote-User"}, false, true},
	} {
		v := &Visitor{Live: &session.Cached{Session: session.Session{Handle: strings.Repeat("h", 26), Method: "link"}}, Contact: c, Firm: "example"}
		v.identify(signer.Origin, one.wanted)
		h := http.Header{}
		v.Identity.SetOn(h, "", "")
		omitted := one.wanted.Has("Remote-Groups") && !one.listed
		if listed := h.Get("Remote-Groups") != ""; listed != one.listed || (len(v.companies) > 0) != one.claimed || (h.Get("Portal-Groups-Omitted") != "") != omitted {
			t.Errorf("wanted %v: %d bytes of Remote-Groups, %d companies in the assertion, Portal-Groups-Omitted: %q", one.wanted, len(h.Get("Remote-Groups")), len(v.companies), h.Get("Portal-Groups-Omitted"))
		}
	}
}
