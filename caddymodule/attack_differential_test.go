package caddymodule_test

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// mutations are spellings of a path that some software treats as equal.
var mutations = []func(string) string{
	func(p string) string { return p },
	strings.ToUpper,
	func(p string) string { return p[:1] + fmt.Sprintf("%%%02x", p[1]) + p[2:] },
	func(p string) string { return p[:1] + fmt.Sprintf("%%25%02X", p[1]) + p[2:] },
	func(p string) string { return "/" + p },
	func(p string) string { return "/." + p },
	func(p string) string { return "/x/.." + p },
	func(p string) string { return "/x/%2e%2e" + p },
	func(p string) string { return "/x%2f.." + p },
	func(p string) string { return "/index.php" + p },
	func(p string) string { return "/index" + p },
	func(p string) string { return "/portal/acme/.." + p },
	func(p string) string { return "/portal/acme/..;" + p },
	func(p string) string { return "/assets/..%5c" + p[1:] },
	func(p string) string { return "/assets/.." + p },
	func(p string) string { return "/assets" + p },
	func(p string) string { return "/_door/.." + p },
	func(p string) string { return strings.Replace(p, "birch", "birch.", 1) },
	func(p string) string { return strings.Replace(p, "birch", "birch%20", 1) },
	func(p string) string { return strings.Replace(p, "birch", "birch;x", 1) },
	func(p string) string { return strings.Replace(p, "birch", "b%69rch", 1) },
	func(p string) string { return strings.Replace(p, "birch", "BIRCH%00", 1) },
	func(p string) string { return strings.Replace(p, "birch", "birch/../birch", 1) },
	func(p string) string { return strings.Replace(p, "/birch", "%2fbirch", 1) },
	func(p string) string { return strings.Replace(p, "/birch", "/./birch", 1) },
	func(p string) string { return strings.Replace(p, "/birch", "\\birch", 1) },
	func(p string) string { return strings.Replace(p, "/birch", ".php/birch", 1) },
	func(p string) string { return strings.Replace(p, "/birch", "/acme/../birch", 1) },
	func(p string) string { return strings.Replace(p, "client_id", "client[id", 1) },
	func(p string) string { return strings.Replace(p, "client_id", "Client.Id", 1) },
	func(p string) string { return strings.Replace(p, "client_id", "[client_id]", 1) },
	func(p string) string { return strings.Replace(p, "client_id", "%63lient%5Fid", 1) },
	func(p string) string {
		return strings.Replace(p, "client_id=", "client_id=dune-secret-token&client_id=", 1)
	},
	func(p string) string { return p + "?client_id=birch-secret-token" },
	func(p string) string { return p + "&client_id=dune-secret-token" },
	func(p string) string { return p + ";x=1" },
	func(p string) string { return p + "#/portal/acme/" },
	func(p string) string { return p + "%23" },
	func(p string) string { return p + "%3fx" },
}

var (
	birchsPage  = regexp.MustCompile(`^/(?:portal|(?:[^/]+/)?(?:overview|files))(?:\.php)?/birch(?:/|$)`) // the portal itself doesn't know /portal
	belowAssets = regexp.MustCompile(`^/assets/[a-z]+/birch[a-z./]*$`)                                    // public pages belong to no company
	birchsToken = regexp.MustCompile(`(?:^|/)one-click(?:\.php)?/birch-secret-token(?:/|$)`)
)

// portalReads returns how portals may read a URL: decoded up to three times, cleaned,
// truncated.
func portalReads(uri string) (paths, tokens []string) {
	raw, query, _ := strings.Cut(uri, "?")
	p := raw
	for range 3 {
		p, _ = url.PathUnescape(p)
		slashed := strings.ToLower(strings.ReplaceAll(p, `\`, "/"))
		cut, _, _ := strings.Cut(slashed, "\x00")
		segments := strings.Split(cut, "/")
		for i, s := range segments {
			s, _, _ = strings.Cut(s, ";")
			if s != "." && s != ".." {
				s = strings.TrimRight(s, ". ")
			}
			segments[i] = s
		}
		paths = append(paths, path.Clean("/"+slashed), path.Clean("/"+cut), path.Clean(strings.Join(segments, "/")))
	}
	for pair := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		name, _ = url.QueryUnescape(name)
		value, _ = url.QueryUnescape(value)
		if strings.Trim(strings.NewReplacer(".", "_", "[", "_", "]", "").Replace(strings.ToLower(name)), "_ ") == "client_id" {
			tokens = append(tokens, value)
		}
	}
	return paths, tokens
}

// For any spelling of a URL: the portal gets birch's pages and birch's token only from
// visitors with access to birch, it is never told a company that the visitor has no access
// to, and none of our headers contains a token.
func TestP07_CVE_2026_40912_EverySpellingOfEveryPath(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), global: clearHTTP2, firm: `prefix /_door
		legacy_link /one-click/{token}/* /portal/{company}/*
		legacy_link /view?client_id={token} /overview/{company} forward_new
		company_path /files/{company}/*
		public /assets/* /portal/help`,
		companies: "id,name,legacy_tokens\nacme,Acme,acme-secret-token\nbirch,Birch,birch-secret-token\ndune,Dune,dune-secret-token\n",
		contacts:  "email,companies,role\nbob@example.com,acme,\nann@example.com,acme;birch,\nowner@example.com,,staff\n"})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	visitor := h.browser()
	if a := visitor.open("/one-click/dune-secret-token/"); a.StatusCode != 200 || visitor.cookie("portal-visit") == "" {
		t.Fatalf("an open company's link = %d", a.StatusCode)
	}
	bob, ann, owner := h.in2("bob@example.com", "/_door"), h.in2("ann@example.com", "/_door"), h.in2("owner@example.com", "/_door")
	people := []struct {
		name, cookie string
		birchs       bool
		reaches      []string
	}{
		{"nobody", "a=b", false, nil}, {"who visits dune", "portal-visit=" + visitor.cookie("portal-visit"), false, nil}, {"of acme", "portal=" + bob.cookie("portal"), false, []string{"acme"}},
		{"of both", "portal=" + ann.cookie("portal"), true, []string{"acme", "birch"}}, {"staff", "portal=" + owner.cookie("portal"), true, []string{"acme", "birch", "dune"}},
	}
	var all sync.WaitGroup
	atOnce := make(chan struct{}, 32) // most answers take their time, so run them concurrently
	for _, base := range []string{"/portal/birch/x", "/overview/birch", "/files/birch/a.pdf", "/one-click/birch-secret-token/x", "/view?client_id=birch-secret-token"} {
		for i, mutate := range mutations {
			target := mutate(base)
			for n, who := range people {
				all.Go(func() {
					atOnce <- struct{}{}
					defer func() { <-atOnce }()
					var location string
					if i%2 == 0 {
						location = h.get(target, "Cookie: "+who.cookie, fmt.Sprint("X-Who: ", n)).header.Get("Location")
					} else {
						_, header, _ := h.overHTTP2(t).ask("", nil, h.fields(target, "cookie", who.cookie, "x-who", fmt.Sprint(n))...)
						_, location, _ = strings.Cut(header, "location: ")
					}
					if location, _, _ = strings.Cut(location, "\n"); strings.Contains(location, "birch-secret-token") || location != "" && !strings.HasPrefix(location, "/") {
						t.Errorf("%s, %s: Location: %s", target, who.name, location)
					}
				})
			}
		}
	}
	all.Wait()
	through := make([]int, len(people))
	h.portal.mu.Lock()
	defer h.portal.mu.Unlock()
	for _, got := range h.portal.seen {
		n, err := strconv.Atoi(got.Header.Get("X-Who"))
		if err != nil {
			continue // redirect that begins the visit
		}
		who := people[n]
		through[n]++
		if c := got.Header.Get("Portal-Company"); c != "" && !slices.Contains(who.reaches, c) {
			t.Errorf("%s, %s: Portal-Company: %s", got.URI, who.name, c)
		}
		paths, tokens := portalReads(got.URI)
		if birchs := slices.Contains(tokens, "birch-secret-token") || slices.ContainsFunc(paths, birchsPage.MatchString) || slices.ContainsFunc(paths, birchsToken.MatchString); birchs && !who.birchs && !belowAssets.MatchString(got.URI) {
			t.Errorf("%s: the portal gets %s", who.name, got.URI)
		}
	}
	t.Logf("what came through to the portal: %v of %d each", through, 5*len(mutations))
	if through[2] == 0 || through[3] < 20 || through[4] < 20 {
		t.Errorf("what came through to the portal: %v; this shows nothing", through)
	}
}
