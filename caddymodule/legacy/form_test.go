package legacy

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

const birch = "birch-secret" // a token that the sender of the forms may not use

var forms = Forms{
	Unauthorized: func(token string) bool { return token == birch },
	Unknown:      func(size int) string { return strings.Repeat("?", size) },
}

func formRules(t testing.TB) *Rules {
	t.Helper()
	r, err := Compile(Config{Prefix: "/-", Links: []Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}, {Old: "/view?client={token}", New: "/overview/{company}"}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	urlencoded = "application/x-www-form-urlencoded"
	parted     = `multipart/form-data; boundary="b"`
)

// field returns a multipart form with one field, as browsers send it.
func field(name, value string) string {
	return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n--b--\r\n"
}

// many is more parameters than people fill in.
const many = 2000

func TestBody(t *testing.T) {
	long, spaces, lines := strings.Repeat("x", maxHeld), strings.Repeat(" ", 2*maxHeld), strings.Repeat("\r\n", maxHeld)
	for _, c := range []struct{ name, contentType, in, want string }{
		{"no token", urlencoded, "client=7&note=a+b%20c;d&&=&x", "client=7&note=a+b%20c;d&&=&x"},
		{"their own", urlencoded, "client=acme-secret", "client=acme-secret"},
		{"foreign", urlencoded, "a=1&client=birch-secret&b=2", "a=1&client=????????????&b=2"},
		{"at the end", urlencoded, "a=1&client=birch-secret", "a=1&client=????????????"},
		{"twice", urlencoded, "client=birch-secret;client=birch-secret", "client=????????????;client=????????????"},
		{"by another name", urlencoded, "note=birch-secret", "note=birch-secret"},
		{"name in capitals", urlencoded, "CLIENT=birch-secret", "CLIENT=????????????"},
		{"name with a bracket", urlencoded, "client[]=birch-secret", "client[]=????????????"},
		{"name with escapes", urlencoded, "%63lient=birch-secret", "%63lient=????????????"},
		{"value with escapes", urlencoded, "client=%62irch-secret", "client=??????????????"},
		{"value escaped twice", urlencoded, "client=%2562irch-secret", "client=????????????????"},
		{"value escaped more often than anybody does", urlencoded, "client=%" + strings.Repeat("25", 40) + "62irch-secret", "client=" + strings.Repeat("?", 94)},
		{"what is trimmed", urlencoded, "client=\tbirch-secret\r\n", "client=???????????????"},
		{"what JavaScript trims", urlencoded, "client=%EF%BB%BFbirch-secret%C2%A0", "client=??????????????????????????????????????????????????"[:len("client=%EF%BB%BFbirch-secret%C2%A0")]},
		{"in capitals, by its type", "Application/X-WWW-Form-URLEncoded; charset=utf-8", "client=birch-secret", "client=????????????"},
		{"long, by another name", urlencoded, "note=" + long + "&client=birch-secret", "note=" + long + "&client=????????????"},
		{"long, without a name", urlencoded, `{"a":"` + long + `"}&client=birch-secret`, `{"a":"` + long + `"}&client=????????????`},
		{"in parts", parted, field("client", birch), field("client", "????????????")},
		{"in parts, no token", parted, field("client", "7"), field("client", "7")},
		{"in parts, more lines", parted, field("client", birch+"\r\nmore"), field("client", birch+"\r\nmore")},
		{"in parts, bare newlines", parted, strings.ReplaceAll(field("client", birch), "\r", ""), strings.ReplaceAll(field("client", "????????????"), "\r", "")},
		{"in parts, what is trimmed", parted, field("client", "\r\n \t"+birch+" \r\n"), field("client", "\r\n \t???????????? \r\n")},
		{"in parts, an escape that is none", parted, field("client", "birch%2Dsecret"), field("client", "??????????????")},
		{"in parts, without an end", parted, "--b\r\nContent-Disposition: form-data; name=client\r\n\r\nbirch-secret", "--b\r\nContent-Disposition: form-data; name=client\r\n\r\n????????????"},
		{"in parts, behind a long line", parted, field("a", long+long) + field("client", birch), field("a", long+long) + field("client", "????????????")},
		{"in parts, what PHP trims", parted, field("client", "\x00"+birch+"\n\x00"), field("client", "\x00????????????\n\x00")},
		{"in parts, spaces around", parted, field("client", spaces+birch+spaces), field("client", spaces+"????????????"+spaces)},
		{"in parts, spaces around, and a line", parted, field("client", spaces+birch+spaces+"\r\n"), field("client", spaces+"????????????"+spaces+"\r\n")},
		{"in parts, a line and spaces behind", parted, field("client", birch+"\r\n"+spaces), field("client", "????????????\r\n"+spaces)},
		{"in parts, blank lines around", parted, field("client", lines+birch+lines), field("client", lines+"????????????"+lines)},
		{"in parts, spaces around, without an end", parted, "--b\r\nContent-Disposition: form-data; name=client\r\n\r\n" + spaces + birch + spaces, "--b\r\nContent-Disposition: form-data; name=client\r\n\r\n" + spaces + "????????????" + spaces},
		{"in parts, cut where no more is held", parted, field("client", spaces[:maxHeld-6]+birch+" "), field("client", spaces[:maxHeld-6]+"???????????? ")},
		{"in parts, a header that PHP ends at NUL", parted, strings.Replace(field("client", birch), "\r\n\r\n", "\r\n\x00x\r\n", 1), strings.Replace(field("client", "????????????"), "\r\n\r\n", "\r\n\x00x\r\n", 1)},
		{"in parts, lines that end as on an old Mac", parted, strings.ReplaceAll(field("client", birch), "\n", ""), strings.ReplaceAll(field("client", "????????????"), "\n", "")},
		{"in parts, two boundaries", parted + "; boundary=c", field("client", birch), field("client", "????????????")},
		{"JSON, as curl sends it", urlencoded, `{"a":[` + long + `]}`, `{"a":[` + long + `]}`},
		{"in parts, a text with rules", parted, field("a", "\n\nTitle\n-----\n\n\nText\n"), field("a", "\n\nTitle\n-----\n\n\nText\n")},
		{"no form", "application/json", `client=birch-secret`, `client=birch-secret`},
		{"no type", "", `client=birch-secret`, `client=birch-secret`},
		{"behind many", urlencoded, strings.Repeat("client=1&", many) + "client=birch-secret", strings.Repeat("client=1&", many) + "client=????????????"},
		{"behind many that are read in several ways", urlencoded, strings.Repeat("client=%252561%252B+x+%2509&", many) + "client=birch-secret", strings.Repeat("client=%252561%252B+x+%2509&", many) + "client=????????????"},
		{"in parts, behind many", parted, strings.Repeat(field("a", "1"), many) + field("client", birch), strings.Repeat(field("a", "1"), many) + field("client", "????????????")},
		{"empty", urlencoded, "", ""},
		{"empty, in parts", parted, "", ""},
	} {
		for how, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with its end": iotest.DataErrReader} {
			in := io.NopCloser(reader(strings.NewReader(c.in)))
			got, err := io.ReadAll(formRules(t).Body(in, c.contentType, forms))
			if string(got) != c.want || err != nil {
				t.Errorf("%s, %s: %.200q, %v; want %.200q", c.name, how, got, err, c.want)
			}
		}
	}
}

// A part with a token that can't be checked isn't passed on.
func TestBody_Errors(t *testing.T) {
	long := strings.Repeat("+", maxHeld)
	for _, c := range []struct {
		name, contentType, in string
	}{
		{"a long name that may end as it", urlencoded, long + "client=birch-secret"},
		{"a long name that begins as it", urlencoded, "client[" + long + "]=birch-secret"},
		{"a long value", urlencoded, "client=" + long + "birch-secret"},
		{"too many odd names", urlencoded, strings.Repeat("é=1&", maxNameCost/costPerName+10_000) + "client=birch-secret"},
	} {
		got, err := io.ReadAll(formRules(t).Body(io.NopCloser(strings.NewReader(c.in)), c.contentType, forms))
		if !errors.Is(err, ErrForm) || bytes.Contains(got, []byte(birch)) {
			t.Errorf("%s: %v, and the token is read: %t; want ErrForm, and that it isn't", c.name, err, bytes.Contains(got, []byte(birch)))
		}
	}
}

// A file isn't treated as a form, even if many of its lines look like boundaries.
func TestBody_FileWithManyLines(t *testing.T) {
	looked := 0
	f := Forms{func(string) bool { looked++; return false }, forms.Unknown}
	dump := strings.Repeat("\n\n-- Name: orders; Type: TABLE\n--\n\nCREATE TABLE orders\n\n--\n", many)
	contentType := "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"
	in := "------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name=\"f\"; filename=\"dump.sql\"\r\n\r\n" + dump + "\r\n------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n"
	got, err := io.ReadAll(formRules(t).Body(io.NopCloser(strings.NewReader(in)), contentType, f))
	if string(got) != in || err != nil || looked > 10 {
		t.Errorf("%d bytes of %d, %v, %d look-ups; want it as it is, and a few", len(got), len(in), err, looked)
	}
}

// If no pattern has its token in the query, forms aren't checked.
func TestBody_WithoutTokensInTheQuery(t *testing.T) {
	paths, err := Compile(Config{Prefix: "/-", Links: []Link{{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}}})
	if err != nil {
		t.Fatal(err)
	}
	body := io.NopCloser(strings.NewReader("x"))
	for _, r := range []*Rules{nil, paths} {
		if got := r.Body(body, urlencoded, forms); got != body {
			t.Errorf("Body = %T; want what came", got)
		}
		if r.Cookie("client", birch, forms) || r.NamesCookie("client="+birch) {
			t.Error("a cookie counts as a parameter; want none, as no pattern has its token in the query")
		}
	}
}

func TestCookie(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{"client", birch, true}, {"Client", birch, true}, {"client", "%62irch-secret", true}, {"client", `acme-secret`, false}, {"theme", birch, false}, {"client", "", false},
	} {
		if got := formRules(t).Cookie(c.name, c.value, forms); got != c.want {
			t.Errorf("Cookie(%s, %s) = %t; want %t", c.name, c.value, got, c.want)
		}
		if names := formRules(t).NamesCookie("a=1; " + c.name + "=" + c.value); names != (c.name != "theme") {
			t.Errorf("NamesCookie(a=1; %s=%s) = %t", c.name, c.value, names)
		}
	}
}

// The output contains no unauthorized token for any kind of portal, has the length of the input,
// and is the same however the input is split.
func FuzzBody(f *testing.F) {
	for _, body := range []string{"client=birch-secret", "a=1&client=birch-secret&client=birch-secret", "%63lient=%62irch-secret;x", "client=+birch-secret+", "=&;&client"} {
		f.Add(false, body, uint16(3))
	}
	for _, body := range []string{field("client", birch), field("client", "\n"+birch+" \n"), "\n\nbirch-secret\n\n--b\n", field("a", "") + field("client", birch)} {
		f.Add(true, body, uint16(5))
	}
	rules := formRules(f)
	f.Fuzz(func(t *testing.T, parts bool, in string, size uint16) {
		contentType := urlencoded
		if parts {
			contentType = parted
		}
		got, err := io.ReadAll(rules.Body(io.NopCloser(strings.NewReader(in)), contentType, forms))
		again, err2 := io.ReadAll(rules.Body(io.NopCloser(&chunks{in, int(size%64) + 1}), contentType, forms))
		if err != nil || err2 != nil || !bytes.Equal(got, again) {
			t.Fatalf("%q, %v; in pieces %q, %v", got, err, again, err2)
		}
		if len(got) != len(in) {
			t.Fatalf("%d bytes; want %d", len(got), len(in))
		}
		for _, value := range valuesOf(parts, string(got)) {
			if strings.TrimFunc(value, trimmed) == birch {
				t.Errorf("%q: the portal reads %q", got, value)
			}
		}
		if !strings.ContainsAny(in, "%+") && !strings.Contains(in, birch) && string(got) != in {
			t.Errorf("%q becomes %q", in, got)
		}
	})
}

// chunks is a reader that returns a fixed number of bytes at a time.
type chunks struct {
	rest string
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.rest == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// valuesOf returns the values that portals read under the name client.
func valuesOf(parts bool, body string) (all []string) {
	if !parts {
		for _, body := range []string{body, strings.ReplaceAll(body, ";", "&"), strings.ReplaceAll(body, ";", "%3B")} {
			values, _ := url.ParseQuery(body)
			for name, of := range values {
				if strings.EqualFold(strings.TrimSpace(name), "client") || name == "client[]" {
					all = append(all, of...)
				}
			}
		}
		return all
	}
	r := multipart.NewReader(strings.NewReader(body), "b")
	for {
		part, err := r.NextPart()
		if err != nil {
			return all
		}
		value, err := io.ReadAll(part)
		if part.FormName() == "client" && err == nil {
			all = append(all, string(value))
		}
	}
}

// Non-plain names don't cause an error, however large the form is, unless they make up most of it.
func TestBody_OddNames(t *testing.T) {
	for name, in := range map[string]string{
		"rows of a table": strings.Repeat("rows%5B%5D%5Bname%5D=1&", 20_000),
		"other letters":   strings.Repeat("%D0%B8%D0%BC%D1%8F=%D0%98%D1%80%D0%B8%D0%BD%D0%B0&", 20_000),
		"HTML":            strings.Repeat(`<p class="a">&nbsp;one line of a text that somebody writes, with &amp; and an <a href="/x">address</a></p>`+"\n", 20_000),
	} {
		got, err := io.ReadAll(formRules(t).Body(io.NopCloser(strings.NewReader(in)), urlencoded, forms))
		if err != nil || string(got) != in {
			t.Errorf("%s: %d bytes of %d, %v; want it as it is", name, len(got), len(in), err)
		}
	}
}

// BenchmarkBody_Parameters filters a form of a megabyte without files. No kind of input may take
// several times as long as the others.
func BenchmarkBody_Parameters(b *testing.B) {
	for _, parameter := range []string{"note=one line of a text&", "a=1&", "a=&", "a&", "&", ";", "%61=1&"} {
		b.Run(parameter, func(b *testing.B) {
			in := strings.Repeat(parameter, 1<<20/len(parameter))
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if _, err := io.Copy(io.Discard, formRules(b).Body(io.NopCloser(strings.NewReader(in)), urlencoded, forms)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBody filters a form with a file of a megabyte. No kind of content may take several times
// as long as text.
func BenchmarkBody(b *testing.B) {
	text := strings.Repeat("one line of a text, as people send it\r\n", 1<<20/39)
	for name, file := range map[string]string{
		"text": text, "bytes": strings.Repeat("\x00", 1<<20),
		"line breaks": strings.Repeat("\n", 1<<20), "blank lines": strings.Repeat(" \r\n", 1<<20/3),
		"short lines": strings.Repeat("a\n", 1<<19), "short lines between blank ones": strings.Repeat("a\n\n", 1<<20/3),
		"spaces": strings.Repeat(" ", 1<<20), "wide spaces": strings.Repeat("\u2003\n", 1<<20/4),
	} {
		b.Run(name, func(b *testing.B) {
			in := field("client", "acme-secret") + field("file", file)
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if _, err := io.Copy(io.Discard, formRules(b).Body(io.NopCloser(strings.NewReader(in)), parted, forms)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
