package web

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/doorpost-auth/doorpost/caddymodule/brand"
)

var testChrome = Chrome{
	Name: "Example Bookkeeping", Support: "help@example.com, +1 555 0100", LogoURL: "/-/logo", Prefix: "/-",
	LightAccent: "#0b6e4f", LightOnAccent: "#fff", DarkAccent: "#5fd0a5", DarkOnAccent: "#08130e",
	MailFrom: "hello@example.com", Passwords: true,
}

func newTestPages(t testing.TB, c Chrome, dir string) *Pages {
	t.Helper()
	p, err := NewPages(c, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// write returns the response with a page.
func write(t testing.TB, p *Pages, status int, page Page) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	if err := p.Write(w, new(http.Request), status, page); err != nil {
		t.Fatalf("Write(%T) = %v", page, err)
	}
	return w.Result()
}

// body returns the page as the browser gets it.
func body(t testing.TB, p *Pages, page Page) string {
	t.Helper()
	b, err := io.ReadAll(write(t, p, 200, page).Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// nodes returns the elements of a page in order.
func nodes(t testing.TB, page string) []*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Collect(root.Descendants()), func(n *html.Node) bool { return n.Type != html.ElementNode })
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

// words returns the text of a page that a person reads or hears.
func words(t testing.TB, page string) string {
	var b strings.Builder
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" && n.Parent.Data != "script" {
			b.WriteString(n.Data)
		}
		b.WriteString(attr(n, "alt") + " " + attr(n, "title") + " " + attr(n, "placeholder") + " ")
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestPagesEveryPageIsASample(t *testing.T) {
	t.Parallel()
	// A template without a sample would first be parsed for a visitor.
	sampled := map[string]bool{"layout.html": true, "parts.html": true, "page.css": true, "staff.css": true, "page.js": true}
	for _, page := range samplePages() {
		sampled[page.file()] = true
	}
	files, err := pageFiles.ReadDir("pages")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !sampled[f.Name()] {
			t.Errorf("pages/%s: no sample in samplePages", f.Name())
		}
	}
}

func TestPagesHeaders(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, page := range samplePages() {
		resp := write(t, p, 401, page)
		if resp.StatusCode != 401 {
			t.Errorf("%T: status = %d; want 401", page, resp.StatusCode)
		}
		want := map[string]string{
			"Content-Type":               "text/html; charset=utf-8",
			"Cache-Control":              "no-store, no-transform",
			"Cross-Origin-Opener-Policy": "same-origin",
			"Referrer-Policy":            "strict-origin",
			"X-Content-Type-Options":     "nosniff",
			"X-Frame-Options":            "DENY",
			"X-Robots-Tag":               "noindex",
		}
		ancestors := "frame-ancestors 'none'"
		if page.file() == "frame.html" { // meant to be framed
			want["X-Frame-Options"], ancestors = "", "form-action 'none'"
		}
		for name, value := range want {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%T: %s = %q; want %q", page, name, got, value)
			}
		}
		if resp.Header.Get("Permissions-Policy") == "" {
			t.Errorf("%T: no Permissions-Policy", page)
		}
		csp := strings.Split(resp.Header.Get("Content-Security-Policy"), "; ")
		for _, directive := range []string{"default-src 'none'", "img-src 'self'", "base-uri 'none'", ancestors} {
			if !slices.Contains(csp, directive) {
				t.Errorf("%T: Content-Security-Policy = %q; want %q in it", page, csp, directive)
			}
		}
		for _, loose := range []string{"unsafe", "*", "data:", "http:"} {
			if strings.Contains(strings.Join(csp, ";"), loose) {
				t.Errorf("%T: Content-Security-Policy = %q; want no %q", page, csp, loose)
			}
		}
		b, _ := io.ReadAll(resp.Body)
		if got := resp.Header.Get("Content-Length"); got != fmt.Sprint(len(b)) {
			t.Errorf("%T: Content-Length = %s; want %d", page, got, len(b))
		}
	}
}

func TestPagesFormAction(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, page := range samplePages() {
		want := "form-action 'self'"
		switch page.file() {
		case "frame.html":
			want = "form-action 'none'"
		case "held.html", "sent.html", "link.html", "password.html":
			want = "form-action 'self' https:" // the portal page that follows may redirect elsewhere
		}
		csp := strings.Split(write(t, p, 200, page).Header.Get("Content-Security-Policy"), "; ")
		if !slices.Contains(csp, want) {
			t.Errorf("%T: Content-Security-Policy = %q; want %q", page, csp, want)
		}
	}
}

func TestPagesHashesMatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	override(t, dir, "page.css", "p{color:red}\r\na{}\rb{}")
	override(t, dir, "page.js", "'</b>'\r\n")
	for name, p := range map[string]*Pages{"built in": newTestPages(t, testChrome, ""), "override": newTestPages(t, testChrome, dir)} {
		for _, page := range samplePages() {
			resp := write(t, p, 200, page)
			b, _ := io.ReadAll(resp.Body)
			csp := resp.Header.Get("Content-Security-Policy")
			seen := 0
			for _, n := range nodes(t, string(b)) {
				if n.Data != "style" && n.Data != "script" {
					continue
				}
				seen++
				if want := n.Data + "-src " + cspHash(n.FirstChild.Data); !strings.Contains(csp, want) {
					t.Errorf("%s, %T: Content-Security-Policy = %q; want %q", name, page, csp, want)
				}
			}
			if seen != 2 {
				t.Errorf("%s, %T: %d styles and scripts; want one of each", name, page, seen)
			}
		}
	}
}

func TestPagesHEAD(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Write(w, new(http.Request), 401, PromptPage{To: "/"}); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	get, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer get.Body.Close()
	head, err := srv.Client().Head(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer head.Body.Close()
	if b, _ := io.ReadAll(head.Body); len(b) != 0 {
		t.Errorf("HEAD: body of %d bytes; want none", len(b))
	}
	if head.StatusCode != 401 || head.ContentLength != get.ContentLength || head.ContentLength <= 0 {
		t.Errorf("HEAD = %d with length %d; want 401 with the length of GET, %d", head.StatusCode, head.ContentLength, get.ContentLength)
	}
}

// broken is a page whose template fails after the first bytes.
type broken struct{ PromptPage }

func (broken) file() string { return "sent.html" }

func TestPagesNeverHalfAPage(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	w := httptest.NewRecorder()
	err := p.Write(w, new(http.Request), 200, broken{})
	if err == nil || !strings.Contains(err.Error(), "sent.html") {
		t.Errorf("Write = %v; want an error that names sent.html", err)
	}
	if w.Code != 500 || strings.Contains(w.Body.String(), "Example") || !strings.Contains(w.Body.String(), "Something went wrong") {
		t.Errorf("Write = %d %q; want a plain 500", w.Code, w.Body)
	}
	if got := w.Header().Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
		t.Errorf("Content-Security-Policy = %q; want it on the 500 too", got)
	}
}

// fill returns page with s in every text it contains, at any depth.
func fill(page Page, s string) Page {
	var set func(v reflect.Value)
	set = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(s)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			for i := range 2 {
				set(v.Index(i))
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for i := range v.NumField() {
				set(v.Field(i))
			}
		}
	}
	v := reflect.New(reflect.TypeOf(page)).Elem()
	v.Set(reflect.ValueOf(page))
	set(v)
	return v.Interface().(Page)
}

var hostile = []string{
	`"><script>alert(document.domain)</script>`,
	`'><img src=x onerror=alert(1)>`,
	`</title></style></script></textarea><svg/onload=alert(1)>`,
	`javascript:alert(document.domain)//X`,
	"java\tscript:alert(1)",
	" \x01javascript:alert(1)",
	`data:text/html,<script>alert(1)</script>`,
	`vbscript:msgbox(1)`,
	`//evil.example/`,
	`" autofocus onfocus=alert(1) x="`,
	"` onmouseover=alert(1) `",
	`<!--<script>`, `]]>`, `&lt;script&gt;`, `&#x22;&gt;&lt;b&gt;`,
	`{{.Firm.Prefix}}{{template "layout" .}}`, `{env.HOME}{file./etc/passwd}`,
	"\xff\xfe\x00\x80\xc0\xaf", "\u202e\u2066moc.elpmaxe", "a\r\nSet-Cookie: x=1", "\x1b[2J",
	strings.Repeat("<b>", 20000),
	"Ω≈ç√∫˜µ≤≥÷", "﷽", "👩‍👩‍👧", "＜script＞", "\u2028\u2029", "%00%3Cscript%3E", `\u003cscript\u003e`, `+ADw-script+AD4-`,
	`${alert(1)}`, `';alert(1)//`, `*/alert(1)/*`, `expression(alert(1))`, `\";alert('XSS');//`,
}

// shape returns the elements of a page with the names of their attributes, without their values.
func shape(t testing.TB, page string) string {
	var b strings.Builder
	for _, n := range nodes(t, page) {
		b.WriteString(n.Data)
		for _, a := range n.Attr {
			b.WriteString(" " + a.Key)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestCVE_2023_52430_HostileValuesAreText(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	style, script := regexp.MustCompile(`(?s)<style>.*?</style>`), regexp.MustCompile(`(?s)<script>.*?</script>`)
	seen := map[string]bool{}
	for i, page := range samplePages() {
		benign := body(t, p, fill(page, "quiet"))
		w := shape(t, benign)
		first := !seen[page.file()]
		seen[page.file()] = true
		for j, s := range hostile {
			if !first && i%8 != j%8 { // each value once in each page, and an eighth of them in its further variants
				continue
			}
			got := body(t, p, fill(page, s))
			if g := shape(t, got); w != g && !(page.file() == "held.html" && acceptsOtherCharset(w, g)) {
				t.Errorf("%T with %.60q: markup =\n%s\nwant\n%s", page, s, g, w)
			}
			checkURLs(t, page, s, got)
			if style.FindString(got) != style.FindString(benign) || script.FindString(got) != script.FindString(benign) {
				t.Errorf("%T with %.60q: style or script changed", page, s)
			}
		}
	}
}

// acceptsOtherCharset reports whether two shapes differ only in the accept-charset for bytes other
// than UTF-8.
func acceptsOtherCharset(want, got string) bool {
	return strings.ReplaceAll(got, " accept-charset", "") == want
}

// checkURLs finds links and form addresses that run scripts or lead to another site.
func checkURLs(t *testing.T, page Page, value, got string) {
	t.Helper()
	for _, n := range nodes(t, got) {
		for _, name := range []string{"href", "src", "action", "formaction", "content", "srcdoc"} {
			url := strings.ToLower(strings.Map(func(r rune) rune {
				if r <= ' ' {
					return -1
				}
				return r
			}, attr(n, name)))
			for _, scheme := range []string{"javascript:", "data:", "vbscript:"} {
				if strings.HasPrefix(url, scheme) {
					t.Errorf("%T with %.60q: <%s %s=%q>", page, value, n.Data, name, url)
				}
			}
		}
	}
}

func TestPagesHostileBrand(t *testing.T) {
	t.Parallel()
	benign := newTestPages(t, testChrome, "")
	for _, s := range hostile {
		if !strings.ContainsAny(s, `<"'`+"`") || len(s) > 1000 {
			continue
		}
		c := testChrome
		c.Name, c.LogoURL, c.MailFrom, c.Lang = s, s, s, s
		p := newTestPages(t, c, "")
		for _, page := range samplePages() {
			got := body(t, p, page)
			if w, g := shape(t, body(t, benign, page)), shape(t, got); w != g {
				t.Errorf("%T of firm %.60q: markup =\n%s\nwant\n%s", page, s, g, w)
			}
			checkURLs(t, page, s, got)
		}
		c = testChrome
		c.LightAccent = s
		if _, err := NewPages(c, ""); err == nil {
			t.Errorf("NewPages with accent %.60q = nil; want an error", s)
		}
	}
}

func TestPagesPlainPromptIsThePrompt(t *testing.T) {
	t.Parallel()
	quick := newTestPages(t, testChrome, "")
	if len(quick.english.prompt) < 2 {
		t.Fatalf("the prompt is cut into %d parts; want it to have a place for To", len(quick.english.prompt))
	}
	slow := newTestPages(t, testChrome, "")
	slow.english.prompt = nil
	for _, to := range append([]string{"", "/", "/a?b=1&c=2#d", "hereGoesTo"}, hostile...) {
		var want, got []html.Node
		for _, n := range nodes(t, body(t, slow, PromptPage{To: to})) {
			want = append(want, html.Node{Data: n.Data, Attr: n.Attr})
		}
		for _, n := range nodes(t, body(t, quick, PromptPage{To: to})) {
			got = append(got, html.Node{Data: n.Data, Attr: n.Attr})
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("To = %.60q: the quick prompt is not the one rendered", to)
		}
	}
	// A firm's own template may put To where it needs another kind of escaping.
	dir := t.TempDir()
	override(t, dir, "prompt.html", `{{define "title"}}{{end}}{{define "main"}}<h1></h1><a href="/x?to={{.Page.To}}">x</a>{{end}}`)
	if got := body(t, newTestPages(t, testChrome, dir), PromptPage{To: "/a&b"}); !strings.Contains(got, `href="/x?to=%2fa%26b"`) {
		t.Errorf("own prompt = %q; want To escaped as in a query", got)
	}
}

func TestPagesSupportLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"help@example.com, +1 555 0100":       "<a mailto:help@example.com>help@example.com</a>, <a tel:+15550100>+1 555 0100</a>",
		"Call (555) 010-0123 (9 to 5).":       "Call <a tel:5550100123>(555) 010-0123</a> (9 to 5).",
		"see https://example.com/help.":       "see <a https://example.com/help>https://example.com/help</a>.",
		"mail ann.lee@example.com.":           "mail <a mailto:ann.lee@example.com>ann.lee@example.com</a>.",
		"ask at the desk, room 12":            "ask at the desk, room 12",
		"javascript:alert(1)":                 "javascript:alert(1)",
		`"onclick=x@y" <script>`:              `"<a mailto:onclick=x@y>onclick=x@y</a>" <script>`,
		"":                                    "",
		"+49 (0)30 123456 oder @example here": "<a tel:+4930123456>+49 (0)30 123456</a> oder @example here",
	} {
		var got strings.Builder
		for _, s := range brand.SupportLine(in) {
			if s.URL != "" {
				fmt.Fprintf(&got, "<a %s>%s</a>", s.URL, s.Text)
			} else {
				got.WriteString(s.Text)
			}
		}
		if got.String() != want {
			t.Errorf("SupportLine(%q) = %s; want %s", in, &got, want)
		}
	}
	c := testChrome
	c.Support = `"><script>alert(1)</script> x"onclick="y@example.com +1 555 0100`
	for _, page := range samplePages() {
		for _, n := range nodes(t, body(t, newTestPages(t, c, ""), page)) {
			if has(n, "onclick") || n.Data == "script" && strings.Contains(n.FirstChild.Data, "alert") {
				t.Fatalf("%T: support line made <%s>", page, n.Data)
			}
		}
	}
	c.Support = ""
	if got := words(t, body(t, newTestPages(t, c, ""), SentPage{})); strings.Contains(got, "help?") || strings.Contains(got, "ask us") {
		t.Errorf("without a support line: %q; want no word of it", got)
	}
}

func TestPagesWords(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	pages := samplePages()
	for _, status := range []int{400, 403, 404, 405, 413, 429, 500, 503} {
		m := MessageFor(status)
		if m.Title == "" || m.Text == "" {
			t.Errorf("MessageFor(%d) = %+v; want words", status, m)
		}
		pages = append(pages, m)
	}
	for _, page := range pages {
		got := body(t, p, page)
		for _, word := range []string{"tenant", "token", "legacy", "doorpost"} {
			if strings.Contains(strings.ToLower(got), word) {
				t.Errorf("%T holds %q", page, word)
			}
		}
		if text := words(t, got); strings.Contains(text, "!") || strings.Contains(strings.ToLower(text), "invalid") || strings.Contains(text, "{{") {
			t.Errorf("%T reads %q; want calm words", page, text)
		}
	}
}

// TestPagesAccessible checks what is visible in HTML; colors, sizes and the keyboard need a
// browser.
func TestPagesAccessible(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, page := range samplePages() {
		all := nodes(t, body(t, p, page))
		count := map[string]int{}
		ids, labels := map[string]bool{}, map[string]bool{}
		for _, n := range all {
			count[n.Data]++
			if id := attr(n, "id"); id != "" {
				if ids[id] {
					t.Errorf("%T: id %q twice", page, id)
				}
				ids[id] = true
			}
			labels[attr(n, "for")] = labels[attr(n, "for")] || n.Data == "label"
		}
		for _, one := range []string{"title", "h1", "main", "header"} {
			if count[one] != 1 {
				t.Errorf("%T: %d <%s>; want 1", page, count[one], one)
			}
		}
		for _, n := range all {
			switch {
			case n.Data == "html" && attr(n, "lang") != "en":
				t.Errorf("%T: lang = %q", page, attr(n, "lang"))
			case n.Data == "img" && !has(n, "alt"), n.Data == "iframe" && attr(n, "title") == "":
				t.Errorf("%T: <%s> without words", page, n.Data)
			case n.Data == "input" && has(n, "hidden"): // only for password managers
			case n.Data == "input" && slices.Contains([]string{"email", "text", "password"}, attr(n, "type")):
				if !labels[attr(n, "id")] || attr(n, "autocomplete") == "" || attr(n, "spellcheck") != "false" || attr(n, "autocapitalize") != "none" && attr(n, "autocapitalize") != "words" {
					t.Errorf("%T: input %q lacks its label, or help with typing", page, attr(n, "name"))
				}
			}
			for id := range strings.FieldsSeq(attr(n, "aria-describedby")) {
				if !ids[id] {
					t.Errorf("%T: aria-describedby = %q, which isn't there", page, id)
				}
			}
		}
		problem := reflect.ValueOf(page).FieldByName("Problem")
		if problem.IsValid() && problem.String() != "" {
			focused := false
			for _, n := range all {
				if attr(n, "aria-invalid") == "true" {
					focused = focused || has(n, "autofocus")
					if !slices.Contains(strings.Fields(attr(n, "aria-describedby")), "problem") {
						t.Errorf("%T: the problem isn't tied to its field %s", page, attr(n, "id"))
					}
				}
			}
			wrong := reflect.ValueOf(page).FieldByName("Wrong")
			if aboutNone := wrong.IsValid() && wrong.String() == ""; focused == aboutNone || !ids["problem"] {
				t.Errorf("%T: the problem isn't shown, or its field isn't focused: %+v", page, page)
			}
		}
	}
}

// The wrong field is marked, and the first field that is still empty has the focus.
func TestPasswordPage_FieldsThatAreWrong(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, c := range []struct {
		page          PasswordPage
		marked, focus string
	}{
		{PasswordPage{}, "", "email"},
		{PasswordPage{Email: "ann@example.com", Set: true}, "", "password"},
		{PasswordPage{Email: "ann", Problem: "no address", Wrong: "email"}, "email", "email"},
		{PasswordPage{Email: "ann@example.com", Problem: "none typed", Wrong: "password"}, "password", "password"},
		{PasswordPage{Email: "ann@example.com", Problem: "wrong", Wrong: "both"}, "email password", "password"},
		{PasswordPage{Email: "ann@example.com", Problem: "too many"}, "", "password"},
	} {
		var marked, focus []string
		for _, n := range nodes(t, body(t, p, c.page)) {
			if attr(n, "aria-invalid") == "true" {
				marked = append(marked, attr(n, "id"))
			}
			if has(n, "autofocus") {
				focus = append(focus, attr(n, "id"))
			}
		}
		if strings.Join(marked, " ") != c.marked || strings.Join(focus, " ") != c.focus {
			t.Errorf("%+v marks %q, and focuses %q; want %q and %q", c.page, marked, focus, c.marked, c.focus)
		}
	}
}

// form returns the fields of the page's form that is sent to action.
func form(t *testing.T, page, action string) map[string][]string {
	t.Helper()
	var fields map[string][]string
	for _, n := range nodes(t, page) {
		if n.Data != "form" || attr(n, "action") != action || attr(n, "method") != "post" {
			continue
		}
		if fields != nil {
			t.Fatalf("two forms to %s", action)
		}
		fields = map[string][]string{}
		for f := range n.Descendants() {
			if name := attr(f, "name"); name != "" && f.Data != "button" && (attr(f, "type") != "checkbox" || has(f, "checked")) {
				fields[name] = append(fields[name], attr(f, "value"))
			}
		}
	}
	return fields
}

func TestPagesForms(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	type fields = map[string][]string
	for _, c := range []struct {
		page   Page
		action string
		want   fields
	}{
		{PromptPage{To: "/a?b=1&c=2#d", Email: "x", Shared: true}, "/-/sign-in", fields{"to": {"/a?b=1&c=2#d"}, "email": {"x"}, "shared": {"1"}}},
		{PromptPage{}, "/-/sign-in", fields{"to": {""}, "email": {""}}},
		{SentPage{Address: "ann@example.com", To: "/a", T: ""}, "/-/sign-in", fields{"to": {"/a"}, "email": {"ann@example.com"}, "again": {"1"}}},
		{SentPage{Address: "a•••@example.com", Masked: true, To: "/a", T: "abc", Shared: true}, "/-/sign-in", fields{"to": {"/a"}, "t": {"abc"}, "shared": {"1"}, "again": {"1"}}},
		{SentPage{}, "/-/code", fields{"code": {""}}},
		{LinkPage{T: "abc", Email: "ann"}, "/-/link", fields{"t": {"abc"}, "email": {"ann"}, "cookies": {"check"}}},
		{SpentLinkPage{T: "abc"}, "/-/sign-in", fields{"t": {"abc"}}},
		{SpentLinkPage{T: "abc", Shared: true}, "/-/sign-in", fields{"t": {"abc"}, "shared": {"1"}}},
		{UnknownLinkPage{To: "/a"}, "/-/sign-in", fields{"to": {"/a"}, "email": {""}}},
		{SignOutPage{}, "/-/sign-out", fields{}},
		{PasswordPage{To: "/a?b=1#d", Email: "x", Shared: true}, "/-/password", fields{"to": {"/a?b=1#d"}, "email": {"x"}, "password": {""}, "shared": {"1"}, "cookies": {"check"}}},
		{HelpPage{To: "/a", Email: "x"}, "/-/help", fields{"to": {"/a"}, "email": {"x"}}},
		{HelpSentPage{Address: "ann@example.com", To: "/a"}, "/-/help", fields{"to": {"/a"}, "email": {"ann@example.com"}, "again": {"1"}}},
		{HelpSentPage{Address: "a•••@example.com", Masked: true, T: "abc", To: "/a"}, "/-/help", fields{"to": {"/a"}, "t": {"abc"}, "again": {"1"}}},
		{SetPasswordPage{T: "abc"}, "/-/password/set", fields{"t": {"abc"}, "password": {""}}},
		{SpentPasswordPage{T: "abc"}, "/-/help", fields{"t": {"abc"}}},
		{HeldFormPage{Action: "/o?a=1&b=2", Fields: []Field{{"n", "1\r\n2"}, {"m", "\x00\"<&"}, {"n", "3"}}}, "/o?a=1&b=2", fields{"n": {"1\n2", "3"}, "m": {"\ufffd\"<&"}}},
		{&HeldFormPage{Action: "/o", Fields: []Field{{"n", "é"}}}, "/o", fields{"n": {"é"}}},
		{HeldFormPage{Action: "/o", Fields: []Field{{"caf\xe9", "\x80\x81\xff"}, {"u", "é"}}}, "/o", fields{"café": {"€\u0081ÿ"}, "u": {"Ã©"}}},
		{&HeldFormPage{Action: "/o", Fields: []Field{{"n", "\xe9"}}}, "/o", fields{"n": {"é"}}},
	} {
		if got := form(t, body(t, p, c.page), c.action); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: form to %s = %q; want %q", c.page, c.action, got, c.want)
		}
	}
	held := HeldFormPage{Action: "/o", Fields: []Field{{"n", "\xe9"}}}
	if got := body(t, p, held); !strings.Contains(got, `accept-charset="windows-1252"`) || held.Fields[0].Value != "\xe9" {
		t.Errorf("bytes that aren't UTF-8: want accept-charset, and the caller's fields as they were: %q", held.Fields)
	}
	if got := body(t, p, HeldFormPage{Fields: []Field{{"n", "é"}}}); strings.Contains(got, "accept-charset") {
		t.Error("UTF-8 fields: want no accept-charset")
	}
}

func TestPagesSay(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, c := range []struct {
		page      Page
		want, not []string
	}{
		{PromptPage{}, []string{"Sign in – Example Bookkeeping", "Email address", "This is a shared device", "help@example.com"}, []string{"Please check"}},
		{PromptPage{Problem: "It lacks an @."}, []string{"Please check: Sign in", "It lacks an @."}, nil},
		{SentPage{Address: "ann@example.com"}, []string{"You entered ann@example.com . Change", "If we have this address on file, an email from hello@example.com is on its way. It can take a minute. Open it and press “Sign in”.", "Capitals and the hyphen don’t matter", "in this browser, on this device", "Use this code"}, []string{"asked for another"}},
		{SentPage{Address: "ann@example.com", Again: true}, []string{"You asked for another email."}, nil},
		{SentPage{Address: "a•••@example.com", Masked: true}, []string{"a•••@example.com", "If we have this address on file"}, []string{"You entered"}},
		{LinkPage{Masked: "a•••@example.com"}, []string{"a•••@example.com", "You opened it in another browser, such as your email app", "enter the code", "You can close this page"}, []string{"You’re signed in here", "Switch"}},
		{LinkPage{Masked: "a•••@example.com", SignedInAs: "bob@example.com"}, []string{"You’re signed in here as bob@example.com . If you go on, you’ll be signed in as a•••@example.com instead."}, nil},
		{CompaniesPage{}, []string{"There is no company here yet."}, []string{"in its name", "Search"}},
		{CompaniesPage{Search: true, Query: "zzz"}, []string{"No company has “zzz” in its name.", "Show all"}, []string{"no company here"}},
		{SpentLinkPage{Masked: "a•••@example.com"}, []string{"This link no longer works", "works only once and only for a short time", "Send a new link to a•••@example.com"}, nil},
		{HeldFormPage{}, []string{"Come back to this page and press “Send my form”"}, []string{"Is this your form?"}},
		{HeldFormPage{As: "bob@example.com"}, []string{"You’re signed in as bob@example.com", "maybe by someone else", "Send it as bob@example.com", "Nothing will be sent"}, []string{"Send my form"}},
		{NotHerePage{Email: "bob@example.com"}, []string{"not in your portal", "You’re signed in as bob@example.com", "Sign in with another address", "Go to your own portal", "Your account"}, nil},
		{PromptPage{OldLink: true}, []string{"This link now asks who you are. Then it opens its page."}, nil},
		{SignOutPage{Email: "ann@example.com"}, []string{"ann@example.com", "Stay signed in"}, nil},
		{PromptPage{}, []string{"Sign in manually"}, nil},
		{PasswordPage{}, []string{"Sign in manually", "Get help signing in", "Send me a link instead"}, []string{"Your password is set"}},
		{PasswordPage{Set: true}, []string{"Your password is set. Please sign in with it"}, nil},
		{HelpPage{}, []string{"Get help signing in", "Reset Password", "You don’t need to have one already"}, []string{"doesn’t work"}},
		{HelpPage{NoLink: true}, []string{"This link doesn’t work", "Reset Password"}, nil},
		{HelpSentPage{Address: "ann@example.com"}, []string{"You entered ann@example.com", "If we have this address on file"}, nil},
		{SetPasswordPage{Masked: "a•••@example.com", Least: 15}, []string{"a•••@example.com", "At least 15 characters", "Nothing will change"}, nil},
		{SpentPasswordPage{Masked: "a•••@example.com"}, []string{"This link no longer works", "Send a new link to a•••@example.com"}, nil},
		{AccountPage{Emails: []string{"ann@example.com"}}, []string{"ann@example.com", "You don’t have a password. You sign in with a link we email you.", "Email me a link to set one"}, []string{"Current password", "Remove"}},
		{AccountPage{Emails: []string{"ann@example.com"}, Since: time.Unix(1, 0)}, []string{"Current password", "Change the password", "Remove the password", "email me a link"}, nil},
		{MailboxPage{}, []string{"No email yet"}, nil},
		{MessageFor(404), []string{"There is no page here", "mistyped", "Go to the start page"}, nil},
		{MessageFor(405), []string{"or start again", "Go to the start page"}, nil},
		{MessagePage{Text: "Later.", URL: "/x"}, []string{"Later.", "Try again"}, nil},
		{MessageFor(429), []string{"wait a few minutes"}, []string{"Try again"}},
	} {
		got := words(t, body(t, p, c.page))
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%+v reads %q; want %q in it", c.page, got, w)
			}
		}
		for _, w := range c.not {
			if strings.Contains(got, w) {
				t.Errorf("%+v reads %q; want no %q", c.page, got, w)
			}
		}
	}
}

func TestPagesSentWaits(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, c := range []struct {
		page SentPage
		want string // data-wait, data-open-in, open
	}{
		{SentPage{}, " 120 false"},
		{SentPage{ResendIn: 45}, "45 120 false"},
		{SentPage{ResendIn: -1, HelpIn: 7}, " 7 false"},
		{SentPage{Waited: true}, "  true"},
	} {
		var wait, in string
		var open bool
		for _, n := range nodes(t, body(t, p, c.page)) {
			wait += attr(n, "data-wait")
			in += attr(n, "data-open-in")
			open = open || n.Data == "details" && has(n, "open")
		}
		if got := fmt.Sprint(wait, " ", in, " ", open); got != c.want {
			t.Errorf("%+v: %q; want %q", c.page, got, c.want)
		}
	}
}

func TestPagesFrameLinksToTheWholeWindow(t *testing.T) {
	t.Parallel()
	links := 0
	for _, n := range nodes(t, body(t, newTestPages(t, Chrome{Name: "Example", Prefix: "/-"}, ""), FramePage{URL: "/orders/7?a=1"})) {
		if n.Data == "a" {
			links++
			if attr(n, "href") != "/orders/7?a=1" || attr(n, "target") != "_top" || attr(n, "rel") != "noopener" {
				t.Errorf("link = %v", n.Attr)
			}
		}
		if n.Data == "form" || n.Data == "button" {
			t.Errorf("<%s> in a page that may be framed", n.Data)
		}
	}
	if links != 1 {
		t.Errorf("%d links; want 1", links)
	}
}

func TestPagesMailHTML(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for in, want := range map[string]string{
		`<!doctype html><html><HEAD lang="en"><title>x</title></head><header>`: `<!doctype html><html><HEAD lang="en"><base target="_top"><title>x</title></head><header>`,
		`<header>x</header>`: `<!doctype html><base target="_top"><header>x</header>`,
		"":                   `<!doctype html><base target="_top">`,
	} {
		w := httptest.NewRecorder()
		p.WriteMailHTML(w, []byte(in))
		if got := w.Body.String(); got != want {
			t.Errorf("WriteMailHTML(%q) = %q; want %q", in, got, want)
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "sandbox ") || strings.Contains(csp, "allow-scripts") || strings.Contains(csp, "allow-same-origin") || !strings.Contains(csp, "frame-ancestors 'self'") {
			t.Errorf("Content-Security-Policy = %q; want a sandbox without scripts, of another origin", csp)
		}
	}
	page := MailPage{Text: "Press https://example.com/-/link?t=abc.\nThen <b>javascript:alert(1)</b>", HTMLURL: "/-/mailbox/1/html"}
	var links []string
	for _, n := range nodes(t, body(t, p, page)) {
		if n.Data == "a" && n.Parent.Data == "pre" {
			links = append(links, attr(n, "href"))
		}
		if n.Data == "iframe" && (strings.Contains(attr(n, "sandbox"), "allow-same-origin") || strings.Contains(attr(n, "sandbox"), "allow-scripts") || !has(n, "sandbox")) {
			t.Errorf("iframe sandbox = %q", attr(n, "sandbox"))
		}
	}
	if !slices.Equal(links, []string{"https://example.com/-/link?t=abc"}) {
		t.Errorf("links of the text = %q", links)
	}
}

// override writes a firm's own page file.
func override(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "pages"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pages", name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPagesOverride(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newTestPages(t, testChrome, dir) // without a folder pages
	newTestPages(t, testChrome, filepath.Join(dir, "none"))
	override(t, dir, "sign-out.html", `{{define "title"}}Bye{{end}}{{define "main"}}<h1>Bye from {{.Firm.Name}}, {{.Page.Email}}</h1>{{end}}`)
	override(t, dir, ".sign-out.html.swp", "\x00")
	override(t, dir, "sign-out.html~", "{{")
	p := newTestPages(t, testChrome, dir)
	if got := words(t, body(t, p, SignOutPage{Email: "ann@example.com"})); !strings.Contains(got, "Bye from Example Bookkeeping, ann@example.com") {
		t.Errorf("sign-out.html reads %q; want the firm's own", got)
	}
	if got := words(t, body(t, p, SignedOutPage{})); !strings.Contains(got, "You’re signed out") {
		t.Errorf("signed-out.html reads %q; want the built-in one", got)
	}
}

func TestPagesOverrideErrors(t *testing.T) {
	t.Parallel()
	const ends = `{{define "title"}}x{{end}}{{define "main"}}x{{end}}`
	for _, c := range []struct{ name, text, want string }{
		{"promt.html", ends, "promt.html: no page has this name; pages are account.html, companies.html, frame.html"},
		{"prompt.html", "\n\n{{define \"main\"}}{{if}}{{end}}", "prompt.html:3: "},
		{"prompt.html", "\n{{define \"title\"}}{{end}}\n{{define \"main\"}}\n{{.Page.Emial}}{{end}}", "prompt.html:4:"},
		{"prompt.html", "\n{{define \"title\"}}{{end}}\n{{define \"main\"}}\n<a href={{.Page.Email}}{{if .Page.To}}\"{{end}}>{{end}}", "prompt.html: "},
		{"prompt.html", `{{define "title"}}x{{end}}`, `prompt.html:1: the file must {{define "main"}}`},
		{"prompt.html", `{{define "main"}}x{{end}}`, `prompt.html:1: the file must {{define "title"}}`},
		{"layout.html", `x`, `layout.html:1: the file must {{define "layout"}}`},
		{"held.html", "{{define \"title\"}}x{{end}}\n{{define \"main\"}}{{range .Page.Fields}}{{.Nmae}}{{end}}{{end}}", "held.html:2:"},
		{"page.css", "a{}\n</STYLE>", "page.css:2: "},
		{"page.js", "\n\n'</script>'", "page.js:3: "},
	} {
		dir := t.TempDir()
		override(t, dir, c.name, c.text)
		_, err := NewPages(testChrome, dir)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "pages")) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewPages with %s = %q: %v; want the path and %q", c.name, c.text, err, c.want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pages"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPages(testChrome, dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("NewPages with a file for a folder: %v; want an error that names it", err)
	}
}

func TestPagesColours(t *testing.T) {
	t.Parallel()
	for colour, ok := range map[string]bool{
		"": true, "#fff": true, "#0b6e4f": true, "#0b6e4fff": true, "teal": true, "rgb(11 110 79 / 1)": true, "hsl(160, 82%, 24%)": true,
		"#ggg": false, "red;}body{": false, "url(x)": true, "url(//evil.example/x)": true, "expression(alert(1))": false, "</style>": false, "#fff}": false, `"x"`: false,
	} {
		c := testChrome
		c.DarkOnAccent = colour
		if _, err := NewPages(c, ""); (err == nil) != ok {
			t.Errorf("NewPages with colour %q: %v; want ok = %v", colour, err, ok)
		}
	}
	if got := body(t, newTestPages(t, Chrome{Name: "éa"}, ""), SignedOutPage{}); !strings.Contains(got, ">É<") || !strings.Contains(got, "--accent:#0b6e4f") {
		t.Error("without logo and accent: want the initial on the quiet green")
	}
}

// luminance and contrast are as defined in WCAG 2.2.
func luminance(t *testing.T, colour string) float64 {
	if len(colour) == 4 {
		colour = "#" + colour[1:2] + colour[1:2] + colour[2:3] + colour[2:3] + colour[3:] + colour[3:]
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(colour, "#"), 16, 24)
	if err != nil || len(colour) != 7 {
		t.Fatalf("colour %q: want #rrggbb", colour)
	}
	linear := func(v uint64) float64 {
		c := float64(v&255) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(n>>16) + 0.7152*linear(n>>8) + 0.0722*linear(n)
}

func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func TestPagesContrast(t *testing.T) {
	t.Parallel()
	css, err := pageFiles.ReadFile("pages/page.css")
	if err != nil {
		t.Fatal(err)
	}
	themes := regexp.MustCompile(`:root\{([^}]*)\}`).FindAllStringSubmatch(string(css), -1)
	if len(themes) != 2 {
		t.Fatalf("page.css has %d themes; want light and dark", len(themes))
	}
	for i, name := range []string{"light", "dark"} {
		theme := map[string]string{}
		for _, m := range regexp.MustCompile(`--(\w+):(#\w+)`).FindAllStringSubmatch(themes[i][1], -1) {
			theme[m[1]] = m[2]
		}
		check := func(what, over string, least float64) {
			for _, surface := range []string{"paper", "sheet", "note"} {
				if got := contrast(t, over, theme[surface]); got < least {
					t.Errorf("%s: %s %s on %s %s has a contrast of %.2f; want %.1f", name, what, over, surface, theme[surface], got, least)
				}
			}
		}
		check("ink", theme["ink"], 7)
		check("soft", theme["soft"], 4.5)
		check("bad", theme["bad"], 4.5)
		if got := contrast(t, theme["edge"], theme["sheet"]); got < 3 {
			t.Errorf("%s: the edge of a field has a contrast of %.2f; want 3", name, got)
		}
		for _, accent := range []string{"#ffff00", "#ffffff", "#000000", "#777777", "#ff0000", "#0000ff", "#00ff00", "#0b6e4f", ""} {
			look := brand.Brand{Accent: accent}.Look()
			colour, on := look.LightAccent, look.LightOnAccent
			if name == "dark" {
				colour, on = look.DarkAccent, look.DarkOnAccent
			}
			check("accent", colour, 4.5)
			if got := contrast(t, on, colour); got < 4.5 {
				t.Errorf("%s: text %s on accent %s has a contrast of %.2f; want 4.5", name, on, colour, got)
			}
		}
	}
}

func TestPagesConcurrently(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for i := range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for j := range 200 {
				to := fmt.Sprintf("/%d/%d", i, j)
				if got := body(t, p, PromptPage{To: to}); strings.Count(got, `value="`+to+`"`) != 1 || !strings.HasSuffix(got, "</html>\n") {
					t.Fatalf("prompt for %s = %q", to, got)
				}
			}
		})
	}
}

// nowhere is a ResponseWriter that discards everything.
type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

func BenchmarkPages(b *testing.B) {
	p := newTestPages(b, testChrome, "")
	for name, page := range map[string]Page{
		"prompt":  PromptPage{To: "/portal/acme/orders?id=7"},
		"problem": PromptPage{To: "/portal/acme/orders?id=7", Email: "ann@example", Problem: "Please enter the whole address."},
		"sent":    SentPage{Address: "ann@example.com", To: "/portal/acme/orders?id=7", ResendIn: 45},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Write(nowhere{http.Header{}}, new(http.Request), 401, page); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestPagesPromptIsCheap counts allocations instead of time, which depends on the load.
func TestPagesPromptIsCheap(t *testing.T) {
	p := newTestPages(t, testChrome, "")
	got := testing.AllocsPerRun(100, func() {
		_ = p.Write(nowhere{http.Header{}}, new(http.Request), 401, PromptPage{To: "/portal/acme/orders?id=7"})
	})
	if got > 40 {
		t.Errorf("a prompt makes %.0f allocations; want at most 40", got)
	}
}

func TestPagesLargeFormLeavesThePool(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	large := bytes.NewBuffer(make([]byte, 0, 1<<20))
	p.release(large)
	for range 100 {
		if buf := p.buffers.Get().(*bytes.Buffer); buf.Cap() > 128<<10 {
			t.Fatal("a buffer of a megabyte is kept")
		}
	}
}
