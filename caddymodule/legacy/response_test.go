package legacy

import (
	"net/http"
	"slices"
	"testing"
)

// outgoing returns the Outgoing for the response to a page of acme. seen is the old URL that the
// portal received.
func outgoing(t testing.TB, r *Rules, seen string, moved bool) *Outgoing {
	t.Helper()
	return &Outgoing{
		Rules: r,
		Hosts: []string{"clients.example.com", "localhost:8080"},
		Seen:  request(t, seen),
		Moved: moved,
		Company: func(token string) (string, bool) {
			id, ok := map[string]string{"secret-of-acme": "acme", "other-of-acme": "acme", "secret-of-bolt": "bolt", "7": "seven"}[token]
			return id, ok
		},
	}
}

func TestOutgoingURL(t *testing.T) {
	o := outgoing(t, compile(t, portal), "/one-click/secret-of-acme/orders/list", true)
	for in, want := range map[string]string{
		"/one-click/secret-of-acme/":                                 "/portal/acme/",
		"/one-click/secret-of-acme/a%20b?x=1#top":                    "/portal/acme/a%20b?x=1#top",
		"/one-click/other-of-acme/x":                                 "/portal/acme/x",
		"/one-click/secret-of-bolt/x":                                "/portal/bolt/x",
		"/one-click/nobody/x":                                        "/one-click/nobody/x",
		"/one-click/secret%2Dof%2Dacme/x":                            "/portal/acme/x",
		"/one%2dclick/secret-of-acme/x":                              "/portal/acme/x",
		"/ONE-CLICK/secret-of-acme/x":                                "/portal/acme/x",
		"/one-click//secret-of-acme///x/":                            "/portal/acme/x/",
		`\one-click\secret-of-acme\x`:                                "/portal/acme/x",
		"/one-click/secret-of-acme/a;b":                              "/portal/acme/a;b",
		"/one-click/secret-of-acme/50%.pdf":                          "/portal/acme/50%25.pdf",
		"/one-click/secret-of-acme/x/../y":                           "/portal/acme/y",
		"https://clients.example.com/one-click/secret-of-acme/":      "https://clients.example.com/portal/acme/",
		"HTTP://Clients.Example.com:443/one-click/secret-of-acme/":   "http://Clients.Example.com:443/portal/acme/",
		"http://clients.example.com:80/one-click/secret-of-acme/":    "http://clients.example.com:80/portal/acme/",
		"http://localhost:8080/one-click/secret-of-acme/":            "http://localhost:8080/portal/acme/",
		"//clients.example.com/one-click/secret-of-acme/":            "//clients.example.com/portal/acme/",
		"https://clients.example.com:8443/one-click/secret-of-acme/": "https://clients.example.com:8443/one-click/secret-of-acme/",
		"https://elsewhere.example/one-click/secret-of-acme/":        "https://elsewhere.example/one-click/secret-of-acme/",
		"https://u@clients.example.com/one-click/secret-of-acme/":    "https://u@clients.example.com/one-click/secret-of-acme/",
		"https://clients.example.com?client=secret-of-acme":          "https://clients.example.com?client=secret-of-acme",
		"mailto:a@b.de":                   "mailto:a@b.de",
		"javascript:alert(1)":             "javascript:alert(1)",
		"edit.php":                        "/portal/acme/orders/edit.php",
		"../edit.php?x=1#y":               "/portal/acme/edit.php?x=1#y",
		"../../../login.php":              "/login.php",
		"?page=2":                         "/portal/acme/orders/list?page=2",
		"#there":                          "/portal/acme/orders/list#there",
		"":                                "",
		"/dashboard.php":                  "/dashboard.php",
		"/view?client=secret-of-acme&x=1": "/portal/acme?x=1",
		"/c-secret-of-acme.html":          "/card/acme",
		"/login?next=%2Fone-click%2Fsecret-of-acme%2Fx&y=1":            "/login?next=%2Fportal%2Facme%2Fx&y=1",
		"/one-click/secret-of-acme/x?next=/one-click/secret-of-bolt/y": "/portal/acme/x?next=%2Fportal%2Fbolt%2Fy",
		"/one-click/secret-of-acme/x#/one-click/secret-of-acme/y":      "/portal/acme/x",
	} {
		if got := o.URL(in); got != want {
			t.Errorf("URL(%s) = %s; want %s", in, got, want)
		}
	}
	// If the browser has the same URL as the portal, relative references stay.
	o = outgoing(t, compile(t, portal), "/dashboard.php", false)
	for in, want := range map[string]string{
		"edit.php": "edit.php", "one-click/secret-of-acme/": "/portal/acme/", "?x=1": "?x=1",
	} {
		if got := o.URL(in); got != want {
			t.Errorf("at the same URL: URL(%s) = %s; want %s", in, got, want)
		}
	}
}

func TestOutgoingHeader(t *testing.T) {
	r := compile(t, portal)
	const seen = "/one-click/secret-of-acme/orders/list"
	for _, c := range []struct{ name, in, want string }{
		{"Location", "/one-click/secret-of-acme/", "/portal/acme/"},
		{"Content-Location", "list.json", "/portal/acme/orders/list.json"},
		{"Refresh", "5; url=/one-click/secret-of-acme/", "5; url=/portal/acme/"},
		{"Refresh", "0;URL='/one-click/secret-of-acme/'", "0;URL='/portal/acme/'"},
		{"Refresh", `0.5 , url = "next.php" `, `0.5 , url = "/portal/acme/orders/next.php" `},
		{"Refresh", "5;/one-click/secret-of-acme/x", "5;/portal/acme/x"},
		{"Refresh", "5 url=/one-click/secret-of-acme/x", "5 url=/portal/acme/x"},
		{"Refresh", "5;url.php", "5;/portal/acme/orders/url.php"},
		{"Refresh", "5", "5"},
		{"Refresh", "5;", "5;"},
		{"Refresh", "5;url=", "5;url="},
		{"Refresh", "url=/one-click/secret-of-acme/x", "url=/one-click/secret-of-acme/x"},
		{"Set-Cookie", "a=1; Path=/one-click/secret-of-acme/; HttpOnly", "a=1; Path=/portal/acme/; HttpOnly"},
		{"Set-Cookie", "a=1; path=/one-click/secret-of-acme", "a=1; Path=/portal/acme"},
		{"Set-Cookie", "a=1; Path=/one-click/secret%2Dof-acme/orders", "a=1; Path=/portal/acme/orders"},
		{"Set-Cookie", "a=1; Path=/x; PATH = /one-click/secret-of-acme", "a=1; Path=/x; Path=/portal/acme"},
		{"Set-Cookie", "a=1; Path=/one-click/", "a=1; Path=/"},
		{"Set-Cookie", "a=1; Path=/one-click/nobody/", "a=1; Path=/one-click/nobody/"},
		{"Set-Cookie", "a=1; Path=/", "a=1; Path=/"},
		{"Set-Cookie", "a=1; Path=/files", "a=1; Path=/files"},
		{"Set-Cookie", "a=path; Secure", "a=path; Secure; Path=/portal/acme/orders"},
		{"Set-Cookie", "a=1; Path=x", "a=1; Path=/portal/acme/orders"},
		{"Set-Cookie", "Path=/one-click/secret-of-acme/", "Path=/one-click/secret-of-acme/; Path=/portal/acme/orders"},
		{"Link", "</one-click/secret-of-acme/x>; rel=next", "</one-click/secret-of-acme/x>; rel=next"},
	} {
		h := http.Header{c.name: {c.in, c.in}}
		outgoing(t, r, seen, true).Header(h)
		if want := []string{c.want, c.want}; !slices.Equal(h[c.name], want) {
			t.Errorf("%s: %s → %q; want %q", c.name, c.in, h[c.name], c.want)
		}
	}
	// A cookie for the folder that old and new links share stays. If they share none, it gets the
	// path / . Without a path, the page's default path counts, if the page has moved.
	c := compile(t, Config{Prefix: "/-", Links: []Link{{Old: "/app/t/{token}/*", New: "/app/c/{company}/*"}, {Old: "/app/v?k={token}", New: "/v/{company}"}}})
	for _, one := range []struct {
		seen     string
		moved    bool
		in, want string
	}{
		{"/app/t/7/x", true, "a=1; Path=/app/t", "a=1; Path=/app"},
		{"/app/t/7/x", true, "a=1; Path=/app", "a=1; Path=/"},
		{"/app/v?k=7", true, "a=1", "a=1; Path=/"},
		{"/app/v?k=7", false, "a=1", "a=1"},
		{"/app/v?k=7", true, "a=1; Path=/app/v", "a=1; Path=/"},
		{"/x", true, "a=1", "a=1; Path=/"},
	} {
		h := http.Header{"Set-Cookie": {one.in}}
		outgoing(t, c, one.seen, one.moved).Header(h)
		if got := h.Get("Set-Cookie"); got != one.want {
			t.Errorf("at %s: %s → %s; want %s", one.seen, one.in, got, one.want)
		}
	}
}

func TestOutgoingAtRoot(t *testing.T) {
	o := outgoing(t, compile(t, portal), "/one-click/secret-of-acme/orders/list", true)
	o.Root = true
	for in, want := range map[string]string{
		"/": "/?", "/?": "/?", "/?x=1": "/?&x=1", "/?&x=1": "/?&x=1", "/#top": "/?#top", "/?x=1#top": "/?&x=1#top", "../../../": "../../../?",
		"http://clients.example.com": "http://clients.example.com?", "HTTP://clients.example.com/?x": "HTTP://clients.example.com/?&x", "//clients.example.com/": "//clients.example.com/?",
		"/x/..": "/x/..?", `\`: `\?`, "https://elsewhere.example/": "https://elsewhere.example/", "https://elsewhere.example": "https://elsewhere.example",
		"/x": "/x", "": "", "#top": "#top", "?x=1": "?x=1", "mailto:a@b.de": "mailto:a@b.de", "/one-click/secret-of-acme/": "/one-click/secret-of-acme/",
	} {
		if got := o.URL(in); got != want {
			t.Errorf("URL(%q) = %q; want %q", in, got, want)
		}
	}
	h := http.Header{"Location": {"/"}, "Refresh": {"0; url=/"}}
	if o.Header(h); h.Get("Location") != "/?" || h.Get("Refresh") != "0; url=/?" {
		t.Errorf("the header is %v", h)
	}
}
