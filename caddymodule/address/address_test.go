package address

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParseAccepts(t *testing.T) {
	long := strings.Repeat("a", 64)
	domain189 := strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 57) + ".com"
	for _, c := range []struct{ in, want string }{
		{"ann@example.com", "ann@example.com"},
		// Case, in both parts.
		{"Ann.Baker@EXAMPLE.Com", "ann.baker@example.com"},
		// Characters around the address.
		{"  ann@example.com\t", "ann@example.com"},
		{"\u00a0ann@example.com\u3000", "ann@example.com"},
		{"\u200b\ufeffann@example.com\u200d\u2060", "ann@example.com"},
		{"\u202aann@example.com\u202c", "ann@example.com"}, // pasted from a phone's address book
		{"mailto:ann@example.com", "ann@example.com"},
		{" MailTo: ann@example.com", "ann@example.com"},
		// Full-width letters and signs.
		{"ａｎｎ＠ｅｘａｍｐｌｅ．ｃｏｍ", "ann@example.com"},
		{"ann\ufe6bexample.com", "ann@example.com"}, // small commercial at
		{"\u212aim@example.com", "kim@example.com"}, // kelvin sign
		// Characters allowed in an atom. Braces are not placeholders here.
		{"ann+tag@example.com", "ann+tag@example.com"},
		{"!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~@example.com"},
		{"{env.HOME}@example.com", "{env.home}@example.com"},
		{"o'brien@example.com", "o'brien@example.com"},
		{"123@123.com", "123@123.com"},
		{"xn--ann@example.com", "xn--ann@example.com"},
		// Domains.
		{"ann@m.example", "ann@m.example"},
		{"ann@c--n.com", "ann@c--n.com"},
		{"ann@münchen.example", "ann@xn--mnchen-3ya.example"},
		{"ann@MU\u0308NCHEN.example", "ann@xn--mnchen-3ya.example"},
		{"ann@xn--mnchen-3ya.example", "ann@xn--mnchen-3ya.example"},
		{"ann@XN--MNCHEN-3YA.example", "ann@xn--mnchen-3ya.example"},
		{"ann@straße.example", "ann@xn--strae-oqa.example"},
		{"ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"},
		// Maximum lengths.
		{long + "@example.com", long + "@example.com"},
		{long + "@" + domain189[3:], long + "@" + domain189[3:]},
	} {
		if got, err := Parse(c.in); string(got) != c.want || err != nil {
			t.Errorf("Parse(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for class, in := range map[string][]string{
		"nothing":        {"", " ", "\u200b", "mailto:", "@", "ann", "ann@", "@example.com", "mailto:@example.com", "."},
		"several @":      {"a@b@example.com", "ann@@example.com", "ann＠b@example.com", "ann@b＠example.com", "ann@b\ufe6bexample.com", "@a.com,@b.com:ann@example.com"},
		"several":        {"ann@example.com,eve@example.org", "ann@example.com;eve@example.org", "ann@example.com eve@example.org", "ann@example.com\neve@example.org", "ann@example.com\u2028eve@example.org", "ann@example.com,", "ann,eve@example.org", "ann;eve@example.org"},
		"quoted":         {`"ann"@example.com`, `""@example.com`, `"eve@example.org"@example.com`, `"ann b"@example.com`, `ann"@example.com`, `"ann"b@example.com`, `a\@b@example.com`, `ann\@example.com`, "＂ann＂@example.com"},
		"comment":        {"ann(x)@example.com", "(x)ann@example.com", "ann@(x)example.com", "ann@example.com(x)", "ann@example.com (x)", "⑴ann@example.com"},
		"name and angle": {"Ann <ann@example.com>", "<ann@example.com>", "ann@example.com>", "ann@example.com> ORCPT=x", "＜ann@example.com＞"},
		"group":          {"all:ann@example.com;", "all: ann@example.com"},
		"encoded word":   {"=?utf-8?q?ann=40example.com?=", "=?utf-8?q?ann?= <ann@example.com>", "ann@=?utf-8?q?example.com?="},
		"mailto headers": {"mailto:ann@example.com?subject=x", "mailto:mailto:ann@example.com", "mailto:ann@example.com,eve@example.org", "//ann@example.com@x"},
		"controls":       {"ann@example.com\r\nBcc:eve@example.org", "ann@example.com\n", "\r\nann@example.com", "ann@example.com\r", "ann@example.com\x00", "\x00ann@example.com", "an\x00n@example.com", "ann@exam\x00ple.com", "ann\x7f@example.com", "ann@example.com\r\n\tx", "\u0085ann@example.com", "ann@example.com\u2029", "a\x1b[2Jnn@example.com"},
		"inner spaces":   {"an n@example.com", "ann @example.com", "ann@ example.com", "ann@exam ple.com", "an\tn@example.com", "an\u00a0n@example.com", "ann@\u3000example.com"},
		"invisible":      {"an\u200bn@example.com", "ann\u200b@example.com", "ann@exam\u200bple.com", "ann@exam\u00adple.com", "ann@exam\u200cple.com", "ann@exam\u2060ple.com", "ann@\ufeffexample.com", "a\u202enn@example.com"},
		"encoded words":  {"=?utf-8?q?a?=@example.com", "=?UTF-8?B?YQ==?=@example.com", "x=?utf-8?q?=40?=@example.com"},
		"dots":           {".ann@example.com", "ann.@example.com", "a..b@example.com", "ann@.example.com", "ann@example..com", "ann@example.com.", "ann@example.com..", "ann@example.com.。", "ann@.", "ann@..", "ann@。example.com", "ann．．b@example.com"},
		"letters":        {"änn@example.com", "a\u0308nn@example.com", "аnn@example.com", "İnn@example.com", "ınn@example.com", "例@example.com", "ann😀@example.com", "\xe4nn@example.com", "ann\xff@example.com"},
		"domain bytes":   {"ann@exam_ple.com", "ann@example.com/x", "ann@example.com:25", "ann@example!com", "ann@exa%6dple.com", "ann@example.c\\om", "ann@ex\xe4mple.com", "ann@example.com#", "ann@{host}.com", "ann@ⅹ／y.com"},
		"hyphens":        {"ann@-example.com", "ann@example-.com", "ann@example.com-", "ann@ab--cd.com", "ann@-.com"},
		"A-labels":       {"ann@xn--.com", "ann@xn--a.com", "ann@xn--example-.com", "ann@xn--ann-ann.com", "ann@xn--MNCHEN-3YA\u0308.example", "ann@xn--zca\u200d.com", "ann@xn--99999999999.com", "ann@xn--exmple-c078a.com", "ann@ex\ufffdmple.com"},
		"no public host": {"ann@localhost", "ann@mail.localhost", "ann@LOCALHOST.", "ann@io", "ann@com.", "ann@127.0.0.1", "ann@[127.0.0.1]", "ann@[IPv6:::1]", "ann@::1", "ann@127.1", "ann@0x7f.0x1", "ann@example.123", "ann@example.1com", "ann@１２７.0.0.1", "ann@①.②"},
		"length":         {strings.Repeat("a", 65) + "@example.com", "ann@" + strings.Repeat("b", 64) + ".com", "ann@" + strings.Repeat("b.", 126) + "com", strings.Repeat(" ", 1025) + "ann@example.com", "ann@" + strings.Repeat("ü", 60) + ".com"},
	} {
		for _, in := range in {
			if got, err := Parse(in); got != "" || !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: Parse(%q) = %q, %v; want ErrInvalid", class, in, got, err)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "empty",
		"ann":                               "no @",
		"a@b@example.com":                   "more than one @",
		"Ann <ann@example.com>":             "' '",
		"änn@example.com":                   "without accents",
		".ann@example.com":                  "a dot before the @",
		"@example.com":                      "nothing stands before the @",
		"ann@localhost":                     "needs a dot",
		"ann@1.2.3.4":                       "public domain",
		"ann@-":                             "no valid domain",
		strings.Repeat("a", 65) + "@b.de":   "64 characters",
		"ann@exam\u200bple.com":             "invisible",
		strings.Repeat(" ", 1025) + "a@b.c": "too long",
		"ann@\xff.com":                      "UTF-8",
	} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v; want a reason with %q", in, err, want)
		}
	}
}

// Errors may be logged.
func TestErrorsDontContainTheAddress(t *testing.T) {
	for _, in := range []string{"secret.person@localhost", "secret.person@@x", "secret.person", `"secret.person"@example.com`} {
		if _, err := Parse(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Parse(%q): %v; want an error without the address", in, err)
		}
	}
}

func TestParts(t *testing.T) {
	for _, c := range []struct {
		a              Address
		domain, masked string
	}{
		{"ann.baker@example.com", "example.com", "a•••@example.com"},
		{"a@example.com", "example.com", "a•••@example.com"},
		{"", "", ""},
	} {
		if d, m := c.a.Domain(), c.a.Masked(); d != c.domain || m != c.masked {
			t.Errorf("Address(%q): Domain %q, Masked %q; want %q, %q", c.a, d, m, c.domain, c.masked)
		}
	}
}

func TestDecodingIsStrict(t *testing.T) {
	var a Address
	if err := json.Unmarshal([]byte(`"Ann@Example.com"`), &a); a != "ann@example.com" || err != nil {
		t.Errorf("decoded %q, %v; want ann@example.com", a, err)
	}
	if err := json.Unmarshal([]byte(`"Ann <ann@example.com>"`), &a); a != "" || !errors.Is(err, ErrInvalid) {
		t.Errorf("decoded %q, %v; want ErrInvalid", a, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"ann@example.com", " MAILTO:Ann+x@Münch​en.example. ", "ann＠例え。テスト", `"a@b"@example.com`,
		"a@xn--mnchen-3ya.de", "a@xn--a.de", "a..b@c", "ſ@ſ.ſſ", "a@b\u200dc.com", "a@\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.com", "İ@İ.com", "\xff@\xff.\xff", "a@1.2.3.4", "a@b.c\r\nBcc: d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			if a != "" || !errors.Is(err, ErrInvalid) {
				t.Fatalf("Parse(%q) = %q, %v; want nothing and ErrInvalid", s, a, err)
			}
			return
		}
		if again, err := Parse(string(a)); again != a || err != nil {
			t.Fatalf("Parse(%q) = %q; once more: %q, %v", s, a, again, err)
		}
		if len(a) > 254 || strings.Count(string(a), "@") != 1 || !strings.Contains(a.Domain(), ".") {
			t.Fatalf("Parse(%q) = %q", s, a)
		}
		const safe = "abcdefghijklmnopqrstuvwxyz0123456789@.!#$%&'*+-/=?^_`{|}~"
		if i := strings.IndexFunc(string(a), func(r rune) bool { return !strings.ContainsRune(safe, r) }); i >= 0 {
			t.Fatalf("Parse(%q) = %q with %q", s, a, a[i])
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse("Ann.Baker+books@clients.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDisplay(t *testing.T) {
	for typed, want := range map[string]string{
		"ann@example.com":            "ann@example.com",
		"info@bücher.example":        "info@bücher.example",
		"info@straße.example":        "info@straße.example",
		"info@łódź.example.com":      "info@łódź.example.com",
		"почта@пример.рф":            "", // not an address for Doorpost
		"post@пример.рф":             "post@пример.рф",
		"post@例え.example":            "post@xn--r8jz45g.example",
		"ann@ex\u0430mple.com":       "ann@xn--exmple-4nf.com", // a Cyrillic а among Latin letters
		"ann@\u0430\u0440\u0440.com": "ann@xn--80a6aa.com",     // Cyrillic letters that look Latin
		"ann@ex\u0251mple.com":       "ann@xn--exmple-cxc.com", // a Latin letter that looks like another
		"ann@xn--bcher-kva.example":  "ann@bücher.example",
	} {
		a, err := Parse(typed)
		if err != nil {
			if want != "" {
				t.Errorf("Parse(%q) = %v", typed, err)
			}
			continue
		}
		got := a.Display()
		if got != want {
			t.Errorf("Parse(%q).Display() = %q; want %q", typed, got, want)
		}
		if back, err := Parse(got); err != nil || back != a {
			t.Errorf("Parse(%q) = %q, %v; want what it was made of, %q", got, back, err, a)
		}
	}
}
