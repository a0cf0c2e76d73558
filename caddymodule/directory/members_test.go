package directory

import (
	"slices"
	"testing"
)

// Members finds whom ContactsOf finds, also after changes.
func TestMembersAreThoseOfTheCompany(t *testing.T) {
	b := newBook(t, "owner@example.com")
	fillBook(t, b, 60)
	same := func() {
		t.Helper()
		for _, c := range append(must(b.allCompanies(t.Context())), Company{ID: "nobody-at-all"}) {
			want := must(b.ContactsOf(t.Context(), c.ID))
			for _, limit := range []int{1, 7, 1000} {
				got, more, err := b.Members(t.Context(), c.ID, limit)
				first := want[:min(limit, len(want))]
				if err != nil || more != len(want)-len(first) || !slices.EqualFunc(got, first, func(a, b Contact) bool { return a.ID == b.ID }) {
					t.Errorf("%d members of %s: %d and %d more, %v; want %d of %d", limit, c.ID, len(got), more, err, len(first), len(want))
				}
			}
		}
	}
	same()
	one := must(b.Contacts(t.Context(), "", "", 1))[0]
	must(b.SetContact(t.Context(), one.Email(), Change{Companies: &[]string{}}))
	same()
	must(b.SetContact(t.Context(), one.Email(), Change{Companies: &[]string{must(b.allCompanies(t.Context()))[0].ID}}))
	same()
}
