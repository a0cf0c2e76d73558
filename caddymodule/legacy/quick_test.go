package legacy

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// ordinary are patterns as in most portals, so that URLs are classified by their literals.
var ordinary = []Config{
	{Prefix: "/-", Links: []Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"},
		{Old: "/view?client={token}", New: "/overview/{company}"},
	}, CompanyPaths: []string{"/files/{company}/*"}},
	{Prefix: "/-", Links: []Link{{Old: "/index.php/one-click/{token}/*", New: "/portal/{company}/*", ForwardNew: true}}, CompanyPaths: []string{"/index.php/files/{company}/*", "/data/{company}"}},
	{Prefix: "/-", Links: []Link{{Old: "/view.php?page=tax&client_id={token}", New: "/tax/{company}"}, {Old: "/c/inv-{token}.html", New: "/invoice/{company}"}}},
}

// pathsToTry returns paths made of parts of the patterns and of other words.
func pathsToTry() (all []string) {
	words := []string{"one-click", "oneclick", "portal", "overview", "files", "view", "view.php", "index.php", "index", "client", "client_id", "client.id", "c", "inv-hb7Qm2xVt9Kp4Rz.html", "invoice", "tax", "data",
		"acme", "hb7Qm2xVt9Kp4Rz", "orders", "7", "a.php", "report.pdf", "acme.json", "files-inc", "app", "PORTAL", "Acme", "x=1"}
	for _, a := range words {
		all = append(all, "/"+a, "/"+a+"/")
		for _, b := range words {
			all = append(all, "/"+a+"/"+b)
			for _, c := range words {
				all = append(all, "/"+a+"/"+b+"/"+c)
			}
		}
	}
	return append(all, "/portal/acme/files/birch", "/portal/acme/files/birch/x", "/files/acme/x/files/birch", "/portal/acme/x/portal/birch/y", "/data/acme/files/birch", "/index.php/files/acme/data/birch",
		"/invoice/acme/tax/birch", "//portal/acme/x", "/x//files/acme", "/portal//acme/x", "/portal/acme//x", "/files//acme", "/portal/./acme/x", "/portal/acme/../files/birch", "/portal./acme/x", "/portal/acme./x", "/portal/acme/x.")
}

// The fast path returns the same verdicts as the full match.
func TestQuickMatchAgreesWithMatch(t *testing.T) {
	quick := 0
	queries := []string{"", "page=2", "client=hb7Qm2xVt9Kp4Rz", "q=/files/acme/x", "next=/one-click/hb7Qm2xVt9Kp4Rz", "t=hb7Qm2xVt9Kp4Rz", "client.id=hb7Qm2xVt9Kp4Rz&page=tax", "x=portal/acme"}
	for _, c := range ordinary {
		r := compile(t, c)
		if !r.literals.known {
			t.Fatalf("%v has no anchors", c)
		}
		for i, p := range pathsToTry() {
			query := queries[i%len(queries)]
			for _, q := range slices.Compact([]string{"", query}) {
				quick += agrees(t, r, &url.URL{Path: p, RawQuery: q})
			}
		}
	}
	if quick < 1000 {
		t.Errorf("only %d URLs were judged quickly", quick)
	}
}

// agrees compares the two for a URL, and returns 1 if the fast path classified it.
func agrees(t *testing.T, r *Rules, u *url.URL) int {
	t.Helper()
	got, ok := r.quickMatch(u)
	if !ok {
		return 0
	}
	want := r.match(u)
	if got.Kind == None && want.Kind == Bad && strings.Count(u.Path, ".") > maxPrograms {
		return 1 // too many programs for the full match
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s?%s: the quick look = %+v; the close one %+v", u.Path, u.RawQuery, got, want)
	}
	return 1
}

func TestQuickMatchIsOffIfPatternsMatchAnyPath(t *testing.T) {
	for _, c := range []Config{
		{Links: []Link{{Old: "/{token}", New: "/portal/{company}"}}},
		{Links: []Link{{Old: "/?k={token}", New: "/portal/{company}"}}},
		{CompanyPaths: []string{"/{company}/*"}},
	} {
		if r := compile(t, c); r.literals.known {
			t.Errorf("%v has anchors %v; want none", c, r.literals)
		}
	}
}

func FuzzQuickMatch(f *testing.F) {
	for _, seed := range []string{"/", "/orders/7", "/portal/acme/x", "/portal/acme/files/birch", "/files/acme/x?y=1", "/a.php/b.php/c", "/View/x?CLIENT=y", "/x?q=one-click/t", "/c/inv-x", "/~a/b_c,d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil {
			return
		}
		for _, c := range ordinary {
			agrees(t, compile(t, c), u)
		}
	})
}

// A portal also accepts an open company's token in places other than the pattern's, so no log may
// contain such a URL.
func TestSecretForATokenOutsideItsPattern(t *testing.T) {
	r := compile(t, ordinary[1]) // its pattern names a program, which portals often don't need
	for path, want := range map[string]bool{
		"/index.php/one-click/hb7Qm2xVt9Kp4Rz/x": true, "/one-click/hb7Qm2xVt9Kp4Rz/x": true, "/index/one-click/hb7Qm2xVt9Kp4Rz": true,
		"/orders/7": false, "/one": false, "/index.php/orders": false, "/portal/acme": false,
	} {
		if got := r.MayHoldToken(request(t, path)); got != want {
			t.Errorf("Secret(%s) = %t; want %t", path, got, want)
		}
	}
}
