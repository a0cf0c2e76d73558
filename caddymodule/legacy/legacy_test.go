package legacy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// portal is a firm with all forms of links.
var portal = Config{
	Prefix: "/-",
	Links: []Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"},
		{Old: "/view?client={token}", New: "/portal/{company}"},
		{Old: "/c-{token}.html", New: "/card/{company}"},
		{Old: "/index.php?do=open&key={token}", New: "/open/{company}"},
		{Old: "/app/*?k={token}", New: "/a/{company}/*"},
		{Old: "/new/{token}", New: "/known/{company}", ForwardNew: true},
	},
	CompanyPaths: []string{"/files/{company}/*", "/faq/{company}"},
	Home:         "/portal/{company}",
}

func compile(t testing.TB, c Config) *Rules {
	t.Helper()
	r, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// request parses a URL as a server parses it from a request line.
func request(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.ParseRequestURI(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return u
}

func (k Kind) String() string { return []string{"Bad", "None", "Old", "New", "Company"}[k] }

func (v Verdict) String() string {
	s := v.Kind.String()
	if v.Kind == Old {
		s += fmt.Sprintf(" %d %q", v.link, v.Token)
	}
	if v.Kind == New {
		s += fmt.Sprint(" ", v.link)
	}
	for name, text := range map[string]string{"": v.Company} {
		if text != "" {
			s += " " + name + text
		}
	}
	if v.Tail != "" {
		s += " tail=" + v.Tail
	}
	if v.Query != "" {
		s += " query=" + v.Query
	}
	if v.Session != "" {
		s += " session=" + v.Session
	}
	if v.Lenient {
		s += " loose"
	}
	if v.MisplacedTokens != nil {
		s += fmt.Sprintf(" strays%q", v.MisplacedTokens)
	}
	if v.PossibleTokens != nil {
		s += fmt.Sprintf(" beside%q", v.PossibleTokens)
	}
	return s
}

func TestMatch(t *testing.T) {
	r := compile(t, portal)
	for in, want := range map[string]string{
		"/":                   "None",
		"/orders/7?page=2":    "None",
		"/assets/one-click.j": "None",
		"/one-click":          "None",
		"/one-click/":         "None",
		"/one-clicks/T/":      "None",

		"/one-click/T/":              `Old 0 "T"`,
		"/one-click/t/":              `Old 0 "t"`,
		"/ONE-Click/T/a/b.pdf?x=1":   `Old 0 "T" tail=a/b.pdf query=x=1`,
		"/one%2dclick/%54/%41?x=%41": `Old 0 "T" tail=%41 query=x=%41`,
		"/one-click/T/B%C3%BCro/x":   `Old 0 "T" tail=B%C3%BCro/x`,
		"/one-click/a.b/":            `Old 0 "a.b"`,
		"/one-click/a+b/":            `Old 0 "a+b"`,
		"/one-click/T":               `Old 0 "T" loose`,

		"/view?client=T":                 `Old 1 "T"`,
		"/View?client=T":                 `Old 1 "T"`,
		"/view/?client=T":                `Old 1 "T"`,
		"/view?a=1&client=T&b=x;y":       `Old 1 "T" query=a=1&b=x;y`,
		"/view?%63lient=%54":             `Old 1 "T"`,
		"/view?client=a%2Fb%3D":          `Old 1 "a/b="`,
		"/view?client=a+b":               `Old 1 "a+b"`,
		"/view?client=..":                `Old 1 ".."`,
		"/view?client=":                  `Old 1 ""`,
		"/view?client=a%00b":             "Old 1 \"a\\x00b\"",
		"/view":                          "None",
		"/view?x=1":                      "None",
		"/orders?client=T":               `None strays["T"]`,
		"/orders?Client[]=T&client=U":    `None strays["T" "U"]`,
		"/orders?[client]=T&]client[=U":  `None strays["T" "U"]`, // Rack, qs
		"/orders?client=a+b&client=%20c": `None strays["a+b" "a b" " c" "c" "+c"]`,
		"/orders?client=%2554&client=%u0054&client=T%20": `None strays["%54" "T" "%u0054" "T" "T " "T" "T+"]`,

		"/c-T.html":    `Old 2 "T"`,
		"/c-.html":     "None",
		"/C-T.HTML?x":  `Old 2 "T" query=x`,
		"/c-T.html/":   `Old 2 "T"`,
		"/c-T.html/on": `None strays["T"]`,

		"/index.php?do=open&key=T&x=2": `Old 3 "T" query=x=2`,
		"/index.php?key=T&do=open":     `Old 3 "T"`,
		"/index.php?do=list&key=T":     `None strays["T"]`,
		"/index.php?key=T":             `None strays["T"]`,
		"/index.php?do=list":           "None",

		"/app/?k=T":      `Old 4 "T"`,
		"/app/x/y?k=T&z": `Old 4 "T" tail=x/y query=z`,
		"/app/x/y":       "None",
		"/new/T":         `Old 5 "T"`,
		"/new/T/":        `Old 5 "T"`,
		"/new/T/x":       `None strays["T"]`,

		"/portal/acme/":                 "New 0 acme",
		"/portal/ACME/x%20y?z=1":        "New 0 acme tail=x%20y query=z=1",
		"/portal/acme":                  "New 1 acme",
		"/card/acme":                    "New 2 acme",
		"/card/acme/":                   "Company acme",
		"/open/acme?x=1":                "New 3 acme query=x=1",
		"/a/acme":                       "Company acme loose",
		"/known/acme?x=1":               "Company acme",
		"/files/acme/x?client=T":        `Company acme strays["T"]`,
		"/files/Acme":                   "Company acme loose",
		"/files/some%20page":            "None",
		"/files":                        "None",
		"/faq/acme":                     "Company acme",
		"/faq/acme/":                    "Company acme",
		"/portal/acme/one-click/T/x":    `New 0 acme tail=one-click/T/x beside["T"]`,
		"/portal/acme/x?key=T":          `New 0 acme tail=x query=key=T strays["T"]`,
		"/one-click/T/?client=U":        `Old 0 "T" query=client=U strays["U"]`,
		"/.well-known/acme-challenge/x": "None",
		"/index/one-click/T/x":          `None beside["T"]`,
		"/x/y/new/T":                    `None beside["T"]`,
		"/one-click/T/one-click/U/":     `Old 0 "T" tail=one-click/U/ beside["U"]`,
		"/index/files/acme/x":           "Company acme loose",
		"/index/known/Acme":             "Company acme loose",
		"/index/portal/acme/x":          "None",

		// The segments after the company or the token may be any name that people give to files.
		"/portal/acme/Invoice%20%23123.pdf":           "New 0 acme tail=Invoice%20%23123.pdf",
		"/portal/acme/%23123.pdf":                     "New 0 acme tail=%23123.pdf",
		"/portal/acme/Discount%205%25.pdf":            "New 0 acme tail=Discount%205%25.pdf",
		"/one-click/T/What%20is%20due%3F.txt?x":       `Old 0 "T" tail=What%20is%20due%3F.txt query=x`,
		"/files/acme/Smith%20%26%20Co./a;b%20.txt%20": "Company acme",
		"/one-click/T/Acme%20Inc./x":                  `Old 0 "T" tail=Acme%20Inc./x`,
		"/files/acme/orders;v=1.0/7;v=2":              "Company acme",
		"/files/acme/Foo::Bar(2).html":                "Company acme",
		"/files/acme/(S)%20100%25%20(A).html":         "Company acme",
		"/files/acme/B%C3%BCro%20%23%C3%A9.pdf":       "Company acme",
		"/files/acme/B%FCro%25.pdf":                   "Company acme",
		"/files/acme/x(S(1)).pdf":                     "Company acme", // ASP.NET reads x.pdf
		"/portal/acme/x%3Fclient=U":                   `New 0 acme tail=x%3Fclient=U strays["U"]`,
		"/portal/acme/one-click%3B/U;x/y":             `New 0 acme tail=one-click%3B/U;x/y beside["U;x" "U"]`,
		"/help/portal/What%3F.html":                   "None", // a page of no company
		"/help/view;x?a=b":                            "None",
		"/files/What%20is%20due%3F.html":              "None",
		"/help/files/What%20is%3F/x":                  "None",
		"/help/new/What%3F":                           `None beside["What?" "What"]`,

		// The id of a servlet container's session follows the path.
		"/one-click/T/orders;jsessionid=A1.node1":         `Old 0 "T" tail=orders session=;jsessionid=A1.node1`,
		"/one-click/T;jsessionid=A1":                      `Old 0 "T" session=;jsessionid=A1 loose`,
		"/view;JSESSIONID=A1!2!3?client=T":                `Old 1 "T" session=;JSESSIONID=A1!2!3`,
		"/portal/acme;jsessionid=0000A:1?x":               "New 1 acme query=x session=;jsessionid=0000A:1",
		"/portal/acme/;jsessionid=A1":                     "New 0 acme session=;jsessionid=A1",
		"/files/acme/x;v=1;jsessionid=A1":                 "Company acme session=;jsessionid=A1",
		"/;jsessionid=A1":                                 "None session=;jsessionid=A1",
		"/orders;jsessionid=A1?client=T":                  `None session=;jsessionid=A1 strays["T"]`,
		"/files/acme/x;jsessionid=A1;jsessionid=B2?z=%41": "Company acme session=;jsessionid=B2",
	} {
		if got := r.Match(request(t, in)).String(); got != want {
			t.Errorf("Match(%s) = %s; want %s", in, got, want)
		}
	}
}

// Each of these is read as an old link or a company's path by some portal only.
func TestMatchIsBadWherePortalsDisagree(t *testing.T) {
	r := compile(t, portal)
	many := strings.Repeat("x=1&", 10_000)
	for _, in := range []string{
		"/one-click//T/", "//one-click/T/", "/x/../one-click/T/", "/one-click/./T/", "/one-click/T/..", "/one-click/T/../U/x",
		"/one-click%2fT/", "/one-click/T%2f", "/one-click/a%2Fb/", "/one-click%5cT/", `/one-click\T/`, "/one-click/T%5c",
		"/one-click;x/T/", "/one-click/T;x/", "/one-click/T/;x=1", "/one-click%3bx/T/", "/one-click/T%00/", "/one-click/T%7f/", "/one-click/T/%0a",
		"/one-click./T/", "/one-click/T./", "/one-click%20/T/", "/one-click/T/..%2f",
		"/one%252dclick/T/", "/%256fne-click/T/", "/one-click/%2554/", "/one-click%252fT/",
		"/index.php/one-click/T/x", "/app.PHP/one-click/T", "/one-click.php/T/", "/index.php/new/T/x", "/one-click::$DATA/T/",
		"/%EF%BD%8Fne-click/T/", "/one-click%EF%BC%8FT%EF%BC%8F", "/one-click/T/x%c0%af%2e%2e/",

		"/view?client=T&client=U", "/view?client=T&Client=U", "/view?client[]=T", "/view?client%5B%5D=T", "/view?client%00=T", "/view?+client=T",
		"/view?client=T;client=U", "/view?x;client=T", "/view?client=T;x", "/view?client=T&x=1;client=U", "/view?%2563lient=T", "/view?CLIENT=T",
		"/view?client=T&client%00x=U", "/view?cl%C3%ADent=T", "/view?" + many + "client=T", "/view?client=T&" + many, "/view??client=T",
		"/view/index.php?client=T", "/view.php?client=T", "/view/x?client=T", "/view/.?client=T", "/VIEW./?client=T", "//view?client=T",
		"/view;x?client=T", "/view%2f?client=T", "/view?x=1&amp;client=T",
		"/view?[client]=T", "/view?]client=T", "/view?%5Bclient=T", "/view?client[=T", "/view?client=T&[client][a]=U",
		"/?do=open&key=T", "/index.html?key=T", "/index.php?do=open&do=list&key=T", "/index.php?do=OPEN&key=T", "/index.php?DO=open&key=T",
		"/app?k=T", "/app/x?k=T&k=U", "/app/x/../y?k=T", "/App.php?k=T",

		"/portal/acme/..", "/portal//acme/", "/portal/acme/../other/x", "/portal/acme;x/y", "/portal/acme%2fx", "/portal/acme.", "/portal/acme./x",
		"/portal/acme%5cx", `/portal/acme\x`, "/portal%20/acme/", "/portal/acme%20/x", "/portal/acme%00/x", "/portal/acm%C3%A9/x", "/portal/%61cm%EF%BD%85/x",
		"/portal/acme/a%2Fb.pdf", "/portal/_cme/x", "/portal/%25cme/x", "/./portal/acme", "/portal/./acme", "/%2e/portal/acme/x",
		"/c-%23.html", "/c-T;x.html", "/C-a%2fb.html", "/portal/acme?client=T", "/portal/acme?Client=T", "/portal/acme?x;client=T", "/portal/acme?client[a]=T", "/open/acme?key=T", "/open/acme?do=list", "/a/acme/?k=T",
		"/FILES//acme/x", "/files.php/acme/x", "/index.php/files/acme/x", "/files/acm%65%2e/x", "/p%C3%B3rtal/acme/x", "/files/acme%3a%3a$INDEX/x",
		// After the company's segment: text that some portals read as going up, or as a slash.
		"/portal/acme/..;x/birch", "/portal/acme/..;/birch", "/portal/acme/..%3fx/birch", "/portal/acme/...;/x", "/portal/acme/;x=1/birch", "/portal/acme/..%20/birch", "/portal/acme/.%20./birch",
		"/portal/acme/%252e%252e/birch", "/portal/acme/%25252e%25252e/birch", "/portal/acme/x%252f..%252fbirch", "/portal/acme/x%255c..", "/portal/acme/%25u002e%25u002e/birch", "/portal/acme/..%253bx/birch",
		"/portal/acme/%c0%ae%c0%ae/birch", "/portal/acme/%EF%BC%8E%EF%BC%8E/birch", "/portal/acme/x%EF%BC%8Fy", "/portal/acme/%E2%80%A5/birch", "/portal/acme/..::$DATA/birch", "/files/acme/x%2500/y", "/portal/acme/100%25%0a",
		// A session id is cut off only if it is clearly one, and only at the end.
		"/portal;jsessionid=A1/acme/x", "/portal/acme;jsessionid=A1/x", "/portal/..;jsessionid=A1", "/one-click/T%3bjsessionid=A1", "/view;jsessionid=?client=T", "/one-click/T;jsessionid=a%2fb", "/one-click/T;v=1;jsessionid=A1",
		// ASP.NET removes a part of these paths.
		"/(S(abc))/one-click/T/", "/(S(abc))/portal/acme/x", "/portal/(S(abc))/acme/x", "/por/(S(abc))tal/acme/x", "/files/ac/(S(abc))me/x", "/(A(x)S(abc))/files/acme/x", "/(S(a))/x/(S(b))y", "/(abcdefghijklmnopqrstuvwx)/files/acme/x",
		"/portal/acme/.(S(a))./birch", "/por/(S(abc))tal/acme/x%2fy", "/por/%2528S(abc))tal/acme/x", "/one-(S(a))click/T/x",
		"/faq/acme.", "/faq;/acme", "/faq/%2e%2e/faq/acme", "/portal/" + strings.Repeat("a", 64) + "/",
	} {
		if got := r.Match(request(t, in)); got.Kind != Bad {
			t.Errorf("Match(%.60s) = %.200s; want Bad", in, got)
		}
	}
	under := compile(t, Config{Prefix: "/-", Links: []Link{{Old: "/view?client_id={token}", New: "/portal/{company}"}}})
	for _, name := range []string{"client[id", "client%5Bid", "client.id", "client%20id", "client+id", "client-id", "%20client_id", "client_id%00x", "client_id[x]", "[client_id]", "client%255Bid", "CLIENT[ID"} {
		if got := under.Match(request(t, "/view?"+name+"=T")); got.Kind != Bad {
			t.Errorf("/view?%s=T is %s; want Bad, since PHP or another takes it for client_id", name, got)
		}
		if got := under.Match(request(t, "/x?"+name+"=T")); len(got.MisplacedTokens) != 1 || got.MisplacedTokens[0] != "T" {
			t.Errorf("/x?%s=T is %s; want a stray T", name, got)
		}
		if got := under.Masked("a=1&"+name+"=%2554", []string{"T"}, func(string) string { return "x" }); got != "a=1&"+name+"=x" {
			t.Errorf("Masked(%s=%%2554) = %s; want no T, however it is escaped", name, got)
		}
	}
	for _, n := range []int{1, 500, 501, 4096, 1 << 20} {
		token := strings.Repeat("T", n)
		for _, in := range []string{"/one-click/" + token + "/x", "/view?client=" + token} {
			if got := r.Match(request(t, in)); got.Kind != Old || got.Token != token {
				t.Errorf("a token of %d characters: %.60s", n, got)
			}
		}
	}
	// Odd paths that no pattern could match belong to the portal.
	for _, in := range []string{"/b//c", "/x;y", "/x%2fy", "/x/", "/orders.", "/b/../c", "/v1.2/x/y", "/x.php/y/z", "/%F0%9F%98%80/x", "/overview?client=T"} {
		if got := r.Match(request(t, in)); got.Kind != None {
			t.Errorf("Match(%s) = %s; want None", in, got)
		}
	}
}

func TestMatchWithoutPatterns(t *testing.T) {
	var none *Rules
	if got := none.Match(request(t, "/one-click/T/")).Kind; got != None {
		t.Errorf("nil Rules: %s; want None", got)
	}
	if none.HasLinks() || none.Page("acme") != "" || none.Home("acme") != "" || none.OpenedBy("/x/*") != "" {
		t.Error("nil Rules have something")
	}
	r := compile(t, Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*"}})
	if r.HasLinks() {
		t.Error("a company path alone is no old link")
	}
	if got := r.Page("acme"); got != "/files/acme/" {
		t.Errorf("Page = %q", got)
	}
	root := compile(t, Config{Prefix: "/-", Links: []Link{{Old: "/?client={token}", New: "/c/{company}"}, {Old: "/{token}", New: "/d/{company}"}}})
	for in, want := range map[string]string{
		"/?client=T":          `Old 0 "T"`,
		"/index.php?client=T": "Bad",
		"/orders/7?client=T":  `None strays["orders" "T"]`,
		"/T":                  `Old 1 "T"`,
		"/":                   "None",
		"/c/acme":             "New 0 acme",
	} {
		if got := root.Match(request(t, in)).String(); got != want {
			t.Errorf("root: Match(%s) = %s; want %s", in, got, want)
		}
	}
}

func TestSecretHidesTokensFromLogs(t *testing.T) {
	r := compile(t, portal)
	for in, want := range map[string]bool{
		"/one-click/T/x": true, "/one-click/T": true, "/one-click/a%2Fb/": true, "/view?client=T": true, "/orders?client=T": true, "/c-T.html/on": true,
		"/portal/acme/x?k=T": true, "/portal/acme/x": false, "/files/acme/x": false, "/orders/7?page=2": false, "/": false,
	} {
		if got := r.MayHoldToken(request(t, in)); got != want {
			t.Errorf("Secret(%s) = %t; want %t", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"/one-click/T/x": "/one-click/{token}/*", "/portal/acme": "/portal/{company}", "/files/acme/x": "", "/": "",
	} {
		if got := r.Pattern(r.Match(request(t, in))); got != want {
			t.Errorf("Pattern(%s) = %q; want %q", in, got, want)
		}
	}
	// Without old links there are no tokens to hide from the log.
	r = compile(t, Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*"}})
	if r.MayHoldToken(request(t, "/files//acme/x")) {
		t.Error("a company's path is kept from the log")
	}
}

func TestRewrite(t *testing.T) {
	r := compile(t, portal)
	for _, c := range []struct{ in, want string }{
		{"/one-click/secret-token/", "/portal/acme/"},
		{"/one-click/secret-token", "/portal/acme/"},
		{"/one-click/secret-token/a%20b/c.pdf?x=1&y=%2F", "/portal/acme/a%20b/c.pdf?x=1&y=%2F"},
		{"/one-click/secret-token/of/secret-token?x=1", "/portal/acme/?x=1"},
		{"/one-click/secret-token/x?back=%2Fone-click%2Fsecret%252Dtoken%2F&y=1", "/portal/acme/x?y=1"},
		{"/view?client=secret-token&page=2", "/portal/acme?page=2"},
		{"/view?client=7&page=7", "/portal/acme?page=7"},
		{"/c-secret-token.html", "/card/acme"},
		{"/index.php?do=open&key=secret-token&x", "/open/acme?x"},
		{"/app/b/c?k=secret-token", "/a/acme/b/c"},
		{"/new/secret-token", "/known/acme"},
		{"/one-click/secret-token/a%23b/x;v=1;jsessionid=A1?x=1", "/portal/acme/a%23b/x;v=1;jsessionid=A1?x=1"},
		{"/view;jsessionid=A1?client=secret-token", "/portal/acme;jsessionid=A1"},
		{"/one-click/secret-token/x;jsessionid=secret-token", "/portal/acme/x"},
	} {
		v := r.Match(request(t, c.in))
		if v.Kind != Old {
			t.Errorf("Match(%s) = %s", c.in, v)
			continue
		}
		if got := r.NewURL(v, "acme"); got != c.want {
			t.Errorf("NewURL(%s) = %s; want %s", c.in, got, c.want)
		}
	}
	for _, c := range []struct{ in, token, want string }{
		{"/portal/acme/a%20b/?x=1", "T", "/one-click/T/a%20b/?x=1"},
		{"/portal/ACME/", "a b+c", "/one-click/a%20b+c/"},
		{"/portal/acme", "a/b+c=", "/view?client=a%2Fb%2Bc%3D"},
		{"/portal/acme?x=1", "T", "/view?client=T&x=1"},
		{"/card/acme", "T", "/c-T.html"},
		{"/open/acme?x=1", "T", "/index.php?do=open&key=T&x=1"},
		{"/a/acme/b", "T", "/app/b?k=T"},
		{"/portal/acme/5%25%20%23%3F./x;v=1;jsessionid=A1?y", "T", "/one-click/T/5%25%20%23%3F./x;v=1;jsessionid=A1?y"},
		{"/portal/acme;jsessionid=A1", "T", "/view;jsessionid=A1?client=T"},
		{"/portal/acme/", "a/b", ""},
		{"/portal/acme/", "..", ""},
		{"/portal/acme/", "", ""},
		{"/portal/acme/", "a.", ""},
		{"/portal/acme/", "a;b", ""},
		{"/portal/acme/", "a%2fb", ""},
		{"/portal/acme", "", ""},
	} {
		u := request(t, c.in)
		got := ""
		if old, ok := r.OldURL(u, r.Match(u), c.token); ok {
			got = old.RequestURI()
		}
		if got != c.want {
			t.Errorf("OldURL(%s, %q) = %q; want %q", c.in, c.token, got, c.want)
		}
	}
	if got := r.Home("acme"); got != "/portal/acme" {
		t.Errorf("Home = %q", got)
	}
}

func TestCompileErrors(t *testing.T) {
	old := func(s string) Config { return Config{Prefix: "/-", Links: []Link{{Old: s, New: "/p/{company}"}}} }
	to := func(o, n string) Config { return Config{Prefix: "/-", Links: []Link{{Old: o, New: n}}} }
	two := func(a, b string) Config {
		return Config{Prefix: "/-", Links: []Link{{Old: a, New: "/p/{company}"}, {Old: b, New: "/q/{company}"}}}
	}
	for _, c := range []struct {
		in   Config
		want string
	}{
		{old("one-click/{token}"), `legacy_link 1: "one-click/{token}" is no path; write it from the root`},
		{old("https://x/{token}"), "is no path"},
		{old("/one-click/*"), "/one-click/* has no {token}; write it where"},
		{old("/{token}/{token}"), "has {token} 2 times; write it once"},
		{old("/{company}/{token}"), "only {token} has a meaning here"},
		{old("/a/*/{token}"), "a * stands only at the end and after a slash, such as /a/{token}/*"},
		{old("/a/{token}*"), "a * stands only at the end"},
		{old("/a//{token}"), "isn't in its shortest form; write /a/{token}"},
		{old("/a/../{token}"), "isn't in its shortest form"},
		{old("/a%20b/{token}"), "write it as it reads when decoded"},
		{old("/a;b/{token}"), "write it as it reads when decoded"},
		{old("/a./{token}"), "drop a dot at the end"},
		{old("/a?{token}=1"), "is no name of a parameter"},
		{old("/a?x[]={token}"), "is no name of a parameter"},
		{old("/a?x={token}&X=1"), "the parameter X twice"},
		{old("/a?{token}"), "is no name of a parameter"},
		{old("/" + strings.Repeat("a", 1025) + "{token}"), "longer than 1024"},
		{to("/a/{token}", "/p"), "/p has no {company}; write it where the link has the id of the company"},
		{to("/a/{token}", "/p?c={company}"), "{company} stands in the path"},
		{to("/a/{token}", "/p/{company}?x=1"), "the query of an old link is carried over by itself; write /p/{company}"},
		{to("/a/{token}", "/c-{company}"), "needs a segment of its own"},
		{to("/a/{token}/*", "/p/{company}"), "all that follows would be lost; write /p/{company}/*"},
		{to("/a/{token}", "/p/{company}/*"), "write /a/{token}/*, or /p/{company}/* without the *"},
		{to("/v?c={token}", "/p/{company}/*"), "write /v/*?c={token}, or"},
		{to("/-/{token}", "/p/{company}"), "/-/{token} is under /-, where the gate's own pages are"},
		{to("/a/{token}", "/-/{company}"), "/-/{company} is under /-"},
		{Config{Prefix: "/door", Links: []Link{{Old: "/a/{token}", New: "/{company}"}}}, "/{company}: the gate's own pages, under /door, are where those of a company called door would be"},
		{two("/a/{token}", "/a/{token}"), "legacy_link 2: /a/{token} and /a/{token} match the same links, and only one of them can; write it once"},
		{two("/a/{token}", "/A/x{token}"), "match the same links"},
		{two("/a/{token}", "/a/b?c={token}"), "/a/{token} and /a/b?c={token} match the same links, and only one of them can; remove the narrower"},
		{two("/v?c={token}", "/v?C={token}"), "match the same links"},
		{two("/v?c={token}", "/v?c={token}&x=1"), "match the same links"},
		{to("/a/{token}", "/a/{company}"), "the new link /a/{company} could match the old one /a/{token}, which would lead in a circle"},
		{to("/{token}", "/{company}"), "in a circle"},
		{to("/v/*?c={token}", "/v/{company}/*"), "in a circle"},
		{Config{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}"}, {Old: "/b/{token}", New: "/p/{company}"}}},
			"legacy_link 2: two old links have the new link /p/{company}, so which of them to put back can't be said"},
		{Config{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}"}}, CompanyPaths: []string{"/p/{company}"}},
			"company_path 1: /p/{company} and the new link /p/{company} match the same paths"},
		{Config{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}"}}, CompanyPaths: []string{"/a/{company}"}},
			"company_path 1: /a/{company} could match the old link /a/{token}"},
		{Config{Prefix: "/-", CompanyPaths: []string{"/f/{company}/*", "/f/{company}/x/*"}}, "company_path 2: /f/{company}/* and /f/{company}/x/* match the same paths; write the wider one alone"},
		{Config{Prefix: "/-", Home: "/p/{company}/*"}, "home 1: /p/{company}/* is no one page; write it without the *"},
		{Config{Prefix: "/-", Home: "/p"}, "home 1: /p has no {company}"},
		{Config{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}"}}, Home: "/a/{company}"}, "home 1: /a/{company} could be an old link, /a/{token}"},
	} {
		_, err := Compile(c.in)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Compile(%+v) = %v; want %q", c.in, err, c.want)
		}
	}
	for _, good := range []Config{
		{},
		two("/v?c={token}", "/v?d={token}"),
		two("/v?a=x&c={token}", "/v?a=y&c={token}"),
		two("/a/{token}", "/a/{token}/x"),
		to("/{token}", "/p/{company}"),
		{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}", ForwardNew: true}, {Old: "/b/{token}", New: "/p/{company}", ForwardNew: true}}},
		{Prefix: "/-", Links: []Link{{Old: "/a/{token}", New: "/p/{company}"}}, CompanyPaths: []string{"/p/{company}/*"}, Home: "/p/{company}/"},
	} {
		if _, err := Compile(good); err != nil {
			t.Errorf("Compile(%+v): %v", good, err)
		}
	}
}

func TestOpenedBy(t *testing.T) {
	r := compile(t, portal)
	for in, want := range map[string]string{
		"/assets/*": "", "/favicon.ico": "", "/index.php": "/index.php?do=open&key={token}",
		"/one-click/*": "/one-click/{token}/*", "/portal/*": "/portal/{company}/*", "/files/*": "/files/{company}/*",
		"/files/acme/*": "", "/portal/help": "", "/one-click/logo.png": "", "/view": "/view?client={token}", "/view/": "", "/app/x.css": "/app/*?k={token}",
	} {
		if got := r.OpenedBy(in); got != want {
			t.Errorf("Opens(%s) = %q; want %q", in, got, want)
		}
	}
}

// A company's path in a query is among the Routes in every spelling, even after many other paths.
func TestMatch_Routes(t *testing.T) {
	r := compile(t, Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*", "/tax/{company}", "/{company}"}, Links: []Link{{Old: "/one-click/{token}/*", New: "/overview/{company}/*"}}})
	for query, want := range map[string]string{
		"/files/birch/x":              "birch",
		"q=files/birch":               "birch",
		"a=1&q=%2FFiles%2FBirch%2F&b": "birch",
		"q=%252ffiles%252fbirch":      "birch",
		"u=https://x/files/birch?a=b": "birch",
		"q=/overview/birch?a=b":       "birch",
		"q=/tax/birch?a=b":            "birch",
		"q=/files/b%C3%ADrch%20/x":    "birch",
		"q=/files/acme/files/birch/x": "acme birch",
		"q=/files/my+own/x":           "",
		"q=/birch":                    "",
		"q=birch":                     "",
	} {
		if v := r.Match(&url.URL{Path: "/x/y", RawQuery: query}); v.Kind != None || strings.Join(v.Routes, " ") != want {
			t.Errorf("Match(/x/y?%s) = %+v; want None with %q", query, v, want)
		}
	}
	many := ""
	for i := range maxTokens {
		many += fmt.Sprintf("q=/files/c%d&", i)
	}
	if v := r.Match(&url.URL{Path: "/x/y", RawQuery: many}); v.Kind != Bad {
		t.Errorf("with %d companies Match = %+v; want Bad", maxTokens, v)
	}
}
