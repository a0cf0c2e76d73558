package legacy

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

// The readers below are model portals, each with the habits of a real one. Whatever any of them
// reads as a token or a company, Match must have found.

var (
	readsOneClick = regexp.MustCompile(`(?i)^(?:/[^/]+)?/one-click(?:\.php)?/([^/]+)(?:/|$)`)
	readsCard     = regexp.MustCompile(`(?i)^(?:/index\.php)?/c-([^/]+)\.html(?:/|$)`)
	readsView     = regexp.MustCompile(`(?i)^/view(?:\.php)?(?:/|$)`)
	readsFiles    = regexp.MustCompile(`(?i)^(?:/index\.php)?/files(?:\.php)?/([^/]+)/`)
	readsBehind   = regexp.MustCompile(`(?i)^/[^/]+/files/([^/]+)/`)
	readsPortal   = regexp.MustCompile(`(?i)^(?:/index\.php)?/portal/([^/]+)(?:/|$)`)
)

var slashCookieless = regexp.MustCompile("/" + cookieless.String())

// readings returns the paths that portals read in a raw path.
func readings(raw string) []string {
	all := []string{raw}
	add := func(f func(string) string) {
		for _, p := range slices.Clone(all) {
			if q := f(p); !slices.Contains(all, q) {
				all = append(all, q)
			}
		}
	}
	decode := func(p string) string { q, _ := unescape(p, false); return q }
	eachSegment := func(f func(string) string) func(string) string {
		return func(p string) string {
			segs := strings.Split(p, "/")
			for i := range segs {
				segs[i] = f(segs[i])
			}
			return strings.Join(segs, "/")
		}
	}
	all[0] = decode(raw) // every portal decodes once
	add(decode)
	add(decodedLong)
	add(func(p string) string { return norm.NFKD.String(unescapeWide(p)) }) // Windows and ASP.NET
	add(func(p string) string { return strings.NewReplacer("¥", `\`, "₩", `\`).Replace(p) })
	add(func(p string) string { return strings.ReplaceAll(p, "ı", "I") }) // portals that compare in upper case
	add(func(p string) string { return cookieless.ReplaceAllString(p, "") })
	add(func(p string) string { return slashCookieless.ReplaceAllString(p, "") })
	add(func(p string) string { return strings.ReplaceAll(p, `\`, "/") })
	add(eachSegment(func(s string) string { s, _, _ = strings.Cut(s, ";"); return s }))
	add(eachSegment(func(s string) string {
		if strings.Contains(s, "::") || strings.Contains(s, ":$") {
			s, _, _ = strings.Cut(s, ":")
		}
		return s
	}))
	add(func(p string) string { p, _, _ = strings.Cut(p, "\x00"); return p })
	add(func(p string) string { p, _, _ = strings.Cut(p, "?"); return p })
	add(eachSegment(func(s string) string {
		if s == "." || s == ".." {
			return s
		}
		return strings.TrimRight(s, ". ")
	}))
	add(func(p string) string {
		if strings.HasSuffix(p, "/") && path.Clean(p) != "/" {
			return path.Clean(p) + "/"
		}
		return path.Clean(p)
	})
	return all
}

// decodedLong decodes UTF-8 of two and three bytes, including overlong forms.
func decodedLong(p string) string {
	var b []byte
	for i := 0; i < len(p); i++ {
		next := func(n int) bool { return i+n < len(p) && p[i+n]&0xc0 == 0x80 }
		switch c := p[i]; {
		case c&0xe0 == 0xc0 && next(1):
			b = utf8.AppendRune(b, rune(c&0x1f)<<6|rune(p[i+1]&0x3f))
			i++
		case c&0xf0 == 0xe0 && next(1) && next(2):
			b = utf8.AppendRune(b, rune(c&0x0f)<<12|rune(p[i+1]&0x3f)<<6|rune(p[i+2]&0x3f))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func decoded(p string) string { p, _ = unescape(p, false); return p }

// parameter returns the values that portals read under the name: PHP (the last one; names are cut
// at NUL and [, dots and spaces become underscores; 1,000 parameters at most), Rack (with or
// without brackets), others (the first one), some that also split at semicolons, some that ignore
// case.
func parameter(query, want string) (seen []string) {
	for _, separators := range []string{"&", "&;"} {
		pairs := strings.FieldsFunc(query, func(r rune) bool { return strings.ContainsRune(separators, r) })
		first, last, folded := "", "", ""
		for i, pair := range pairs {
			name, value, _ := strings.Cut(pair, "=")
			name, _ = unescape(name, true)
			value, _ = unescape(value, false)
			if name == want && first == "" {
				first = value
			}
			if strings.EqualFold(name, want) && folded == "" {
				folded = value
			}
			if rack, _, _ := strings.Cut(strings.TrimLeft(name, "[]"), "["); strings.TrimRight(rack, "]") == want {
				seen = append(seen, value)
			}
			name, _, _ = strings.Cut(strings.TrimLeft(name, " "), "\x00")
			if at := strings.IndexByte(name, '['); at > 0 {
				name = name[:at]
			}
			if strings.NewReplacer(".", "_", " ", "_").Replace(name) == want && i < 1000 {
				last = value
			}
		}
		seen = append(seen, first, last, folded)
	}
	return slices.DeleteFunc(seen, func(s string) bool { return s == "" })
}

var fuzzed = Config{
	Prefix: "/-",
	Links: []Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"},
		{Old: "/view?client={token}", New: "/portal/{company}"},
		{Old: "/c-{token}.html", New: "/card/{company}"},
	},
	CompanyPaths: []string{"/files/{company}/*"},
}

// FuzzMatch checks that a token which any portal reads is the verdict's token, a stray one, or one
// found in the text; or that the verdict is Bad. A company that any portal reads must be the
// verdict's company, or the verdict is Bad.
func FuzzMatch(f *testing.F) {
	for _, s := range []string{
		"/", "/one-click/T/x", "/view?client=T", "/c-T.html", "/portal/acme/x", "/portal/acme", "/files/acme/x?client=T", "/one-click/a/?client=b",
		"/one-click%2fT/", "/x/..%2fone-click/T/", "/one%252dclick/T/", "/one-click;x/T;y/", `/one-click\T\`, "/index.php/one-click/T/x", "/FILES./acme/x",
		"/files/acme%00/x", "/files/acme;/x", "/view?client=a&client=b", "/view?client[]=a", "/view?x;client=a&client=b", "/view.php?Client=a", "/view/?+client=a",
		"/view?cl%69ent=a&client%00=b", "/files.php/acme/x", "/files/a::$DATA/x", "/portal/%61cme/./x", "/c-%2e.html", "/c-x.html.html", "/one-click/T.",
		"/portal/acme/?client=T", "/portal//acme/", "/%66iles/acme/%2e%2e/bolt/x", "/view?a.b=1&client=T;", "/C-%23.html", "/index/one-click/T", "/x/files/acme/y", "/view/.%2f?client=T",
		"/portal/acme/Invoice%20%23123.pdf", "/one-click/T/5%25%3F./x;v=1", "/files/acme/..;x/y/", "/files/acme/%252e%252e/bolt/x", "/one-click/T;jsessionid=A1", "/files/acme/x;jsessionid=A1", "/por/(S(a))tal/acme/x", "/(S(a))/one-click/T/",
		"/files/acme/%EF%BC%8E%EF%BC%8E/bolt/x", "/help/files/x%3F/y", "/f%C1%A9les/acme/x", "/files:$a:$b/acme/x", "/f%C4%B1les/acme/x", "/files%C2%A5acme%C2%A5x", "/files/acme/%C2%A5100.pdf", "/files/acme/x%3Fclient=T", "/files./acme/x%23", "/x;/files/acme/y", "/portal/acme;x", "/c-T%3B.html", "/files/a%2560b/x",
	} {
		f.Add(s)
	}
	r := compile(f, fuzzed)
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(u.Path, "/") || len(s) > 2000 {
			return
		}
		allReadingsAgree(t, r, s, u)
	})
}

// allReadingsAgree checks FuzzMatch's property for the URL s, parsed as u.
func allReadingsAgree(t *testing.T, r *Rules, s string, u *url.URL) {
	t.Helper()
	v := r.Match(u)
	if v.Kind == Bad {
		return
	}
	token := func(reader, seen string) {
		seen = strings.ReplaceAll(seen, `\`, "") // some portals read a currency sign as a backslash
		var index tokensearch.Index              // of a company that has such a token
		index.Replace(map[string][]tokensearch.Token{"acme": {{Text: seen, Bits: tokensearch.SureBits}}}, nil)
		is := func(token string) bool { return token == seen || len(index.Companies(token)) > 0 }
		found := len(tokensearch.Fold(seen)) < tokensearch.MinLength || len(index.Find(u.Path))+len(index.Find(u.RawQuery)) > 0
		if seen != "" && !(v.Kind == Old && is(v.Token)) && !slices.ContainsFunc(slices.Concat(v.MisplacedTokens, v.PossibleTokens), is) && !found {
			t.Errorf("%q is %s; a portal reads the token %q (%s)", s, v, seen, reader)
		}
	}
	company := func(reader, seen string) {
		// Text that isn't a valid id belongs to no company, and the patterns need the slash.
		if isID(seen) && v.Company != strings.ToLower(seen) {
			t.Errorf("%q is %s; a portal reads the company %q (%s)", s, v, seen, reader)
		}
	}
	for _, p := range readings(u.EscapedPath()) {
		if m := readsOneClick.FindStringSubmatch(p); m != nil {
			token("one-click", m[1])
		}
		if m := readsCard.FindStringSubmatch(p); m != nil {
			token("card", m[1])
		}
		if m := readsFiles.FindStringSubmatch(p); m != nil {
			company("files", m[1])
		}
		if m := readsBehind.FindStringSubmatch(p); m != nil && v.Kind == None && !slices.Contains(v.Routes, strings.ToLower(m[1])) {
			company("files behind another path", m[1])
		}
		if m := readsPortal.FindStringSubmatch(p); m != nil {
			company("portal", m[1])
		}
		if readsView.MatchString(p) {
			for _, seen := range parameter(u.RawQuery, "client") {
				token("view", seen)
			}
		}
	}
	for _, p := range []string{u.Path, decoded(u.Path)} { // portals that decode before parsing
		if path, query, found := strings.Cut(p, "?"); found && readsView.MatchString(path) {
			for _, seen := range parameter(query, "client") {
				token("view, decoded first", seen)
			}
		}
	}
}

// TestMatch_ReadingsOfOddNames checks FuzzMatch's property for names that are odd to some portal,
// at any place around a pattern's words.
func TestMatch_ReadingsOfOddNames(t *testing.T) {
	r := compile(t, fuzzed)
	parts := []string{"one-click", "portal", "files", "view", "acme", "T", "c-T.html", "x", "index", "index.php", "..", ".", "%2e%2e", "%252e%252e", "%2f", "%252f", "%5c", ";", "%3b", ";x", "..;", "?", "%3f",
		"%253f", "%23", "%25", "%2525", "::$DATA", ".php", "%20", "%00", "(S(a))", "%EF%BC%8E%EF%BC%8E", "%EF%BC%8F", "%25u002e", ";jsessionid=A1", "client=T", ":$a", ":$a:$b", "one%C1%ADclick", "f%C1%A9les", "%C0%AF", "%C0%AE", "%E0%80%AF", "%C2%A5", "%EF%BF%A6", "f%C4%B1les", "&", "p", "ortal", "-"}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := ""
		for range 1 + random.IntN(5) {
			s += "/"
			for range 1 + random.IntN(3) {
				s += parts[random.IntN(len(parts))]
			}
		}
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Host != "" {
			continue
		}
		allReadingsAgree(t, r, s, u)
	}
}

// FuzzRewrite checks that a new link contains no token and matches as the new link of that company,
// and that the URL for the portal matches as the old link with that token.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{
		"/one-click/secret-token/x/y?z=1", "/view?a=1&client=secret-token&b=2", "/c-secret-token.html?x", "/one-click/secret-token/secret-token",
		"/one-click/secret-token/?back=%2Fone-click%2Fsecret-token%2F", "/view?client=secret%2Ftoken&client2=x", "/one-click/b%C3%BCro-token/%5B?q", "/view?client=secret-token&x=secret%252Dtoken",
		"/one-click/secret-token/5%25%20%23%3F./x;v=1;jsessionid=A1?y", "/view;jsessionid=A1?client=secret-token", "/portal/acme;jsessionid=B2", "/portal/acme/a;b/%252541",
		"/view?client=secret%26token&secret&token", "/one-click/secret+token/x?a=secret+token", "/portal/acme/x?y", "/portal/acme?client2=1;2", "/card/acme?",
	} {
		f.Add(s, "another-secret")
	}
	f.Add("/portal/acme/x", "a/b")
	f.Add("/portal/acme?x", "a&b=c;d#e%2f")
	f.Add("/card/acme", "..")
	f.Add("/view?client=?0000000&0000000", "another-secret")
	r := compile(f, fuzzed)
	f.Fuzz(func(t *testing.T, s, token string) {
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Host != "" || u.Scheme != "" {
			return
		}
		v := r.Match(u)
		if v.Kind == Old {
			to := r.NewURL(v, "acme")
			path, query, _ := strings.Cut(to, "?") // a token may begin with the separator
			if len(v.Token) >= minSearchable && (containsToken(path, v.Token) || containsToken(query, v.Token)) && !containsToken(r.links[v.link].to.path("acme", ""), v.Token) {
				t.Errorf("the token %q of %q is in its new link, %q", v.Token, s, to)
			}
			u, err := url.ParseRequestURI(to)
			if err != nil {
				t.Fatalf("NewURL(%q) = %q: %v", s, to, err)
			}
			if v := r.Match(u); v.Kind != New || v.Company != "acme" {
				t.Fatalf("NewURL(%q) = %q, which is %s", s, to, v)
			} else if back, ok := r.OldURL(u, v, token); ok {
				same(t, r, to, back, v, token)
			}
		}
		if v.Kind == New {
			if back, ok := r.OldURL(u, v, token); ok {
				same(t, r, s, back, v, token)
			}
		}
	})
}

// same checks that the URL for the portal, as sent over the wire, is the link with that token.
func same(t *testing.T, r *Rules, s string, back *url.URL, v Verdict, token string) {
	t.Helper()
	sent := back.RequestURI()
	u, err := url.ParseRequestURI(sent)
	if err != nil {
		t.Fatalf("OldURL(%q, %q) = %q: %v", s, token, sent, err)
	}
	got := r.Match(u)
	if got.Kind != Old || got.Token != token || got.link != v.link || got.Tail != v.Tail || !slices.Equal(said(got.Query), said(v.Query)) || got.Lenient {
		t.Errorf("OldURL(%q, %q) = %q, which is %s; want that of %s", s, token, sent, got, v)
	}
}

// said returns the pairs of a query, without the empty ones between two separators.
func said(query string) []string {
	return strings.FieldsFunc(query, func(c rune) bool { return c == '&' || c == ';' })
}

// FuzzOutgoing checks that no rewritten header contains a token that gives access, neither in the
// URL that a browser would request nor in its text, and that references to other pages stay the
// same.
func FuzzOutgoing(f *testing.F) {
	for _, s := range []string{
		"/one-click/secret-of-acme/x", "edit.php", "../x?y#z", `\one-click\secret-of-acme\`, "https://clients.example.com/one-click/secret-of-acme/", "//clients.example.com:443/view?client=secret-of-acme",
		"/one-click//secret-of-acme/a;b", "/one%2dclick/secret%2Dof-acme/100%", "?client=secret-of-acme", "/login?next=/one-click/secret-of-acme/", "/x#/one-click/secret-of-acme/", "http://[::1/", "https://elsewhere.example/one-click/secret-of-acme/",
		"5; url=/one-click/secret-of-acme/", "0;URL='x'", "a=1; Path=/one-click/secret-of-acme", "a=secret-of-acme; path=", "a=1",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Add("A://clients.example.com/one-CliCk/secret-of-acme", true)
	f.Add(" /..", false)
	f.Add(" ", false)
	f.Add(" #", false)
	f.Add(`\/..`, false)
	r := compile(f, fuzzed)
	f.Fuzz(func(t *testing.T, s string, moved bool) {
		seen := "/one-click/secret-of-acme/orders/list"
		o := outgoing(t, r, seen, moved)
		h := http.Header{"Location": {s}, "Refresh": {"0; url=" + s}, "Set-Cookie": {s}}
		o.Header(h)
		to := h.Get("Location")
		if to != s && containsToken(to, "secret-of-acme") && !strings.Contains(s, "client") && !strings.Contains(s, "?") {
			t.Errorf("Location: %q → %q", s, to)
		}
		at := "/portal/acme/orders/list"
		if !moved {
			at = seen
		}
		bare := asBrowsersRead(strings.Trim(to, " \t"))
		ref, err := url.Parse(bare)
		if err != nil || bare == "" {
			return
		}
		if page := request(t, at).ResolveReference(ref); ref.User == nil && (ref.Host == "" && ref.Scheme == "" || o.isSite(ref)) {
			page.Scheme, page.Host = "", ""
			if v := r.Match(page); v.Kind == Old && v.Token == "secret-of-acme" && !(to == s && strings.HasPrefix(bare, "#")) {
				t.Errorf("Location: %q → %q, at which a browser asks for the old link", s, to)
			}
		}
		if again := o.URL(to); moved && again != to && strings.HasPrefix(to, "/") && !strings.Contains(to, "?") {
			t.Errorf("Location: %q → %q → %q", s, to, again)
		}
	})
}
