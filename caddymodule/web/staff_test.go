package web

import (
	"slices"
	"testing"

	"golang.org/x/net/html"
)

// Each page of staff has the menu once, outside the main part, with one current entry; pages for clients have none.
func TestStaffPagesHaveTheMenu(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, page := range samplePages() {
		all := nodes(t, body(t, p, page))
		menus := slices.DeleteFunc(slices.Clone(all), func(n *html.Node) bool { return n.Data != "nav" })
		s, ok := page.(StaffSection)
		if want := ok && s.Section() != ""; len(menus) != 1 && want || len(menus) != 0 && !want {
			t.Errorf("%T has %d menus; is it staff's: %t", page, len(menus), want)
			continue
		}
		if len(menus) == 0 {
			continue
		}
		current := slices.DeleteFunc(slices.Collect(menus[0].Descendants()), func(n *html.Node) bool { return !has(n, "aria-current") })
		if len(current) != 1 || menus[0].Parent.Data == "main" {
			t.Errorf("%T has a menu with %d current entries in %s; want one, outside main", page, len(current), menus[0].Parent.Data)
		}
	}
}
