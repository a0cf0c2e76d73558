package brand

import (
	"bytes"
	"mime"
	"slices"
	"strings"
	"testing"
)

// Whatever a contact and a company are called, the letter goes to one recipient, with the
// headers that it always has, in lines that only CRLF ends, and leads nowhere else.
func FuzzSignIn(f *testing.F) {
	letters, err := NewMessages(Brand{Name: "Example Bookkeeping", From: "Example Bookkeeping <hello@example.com>", Support: "help@example.com"}, "")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][4]string{{"Ann", "Baker", "Acme", "Safari on iPhone"}, {"Ann\r\nBcc: eve@evil.example", "\n.\n", "\r.\r", "x"}, {"{{.Link}}", "{env.HOME}", "<script>", "<b>"}, {"\x00", "\u2028", "\u202e", "\xff"},
		{strings.Repeat("é", 300), "=?utf-8?q?x?=", "--part-", "https evil example"}, {"", "", "", ""}, {".", "..", "From ", ">From"}, {"https://evil.example/", "www.evil.example", "javascript:x", ""}} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	plain := make([]string, 0, 20)
	f.Fuzz(func(t *testing.T, first, last, company, agent string) {
		d := full
		d.FirstName, d.LastName, d.Companies, d.Agent = first, last, []string{company}, agent
		letter, err := letters.SignIn(d)
		if err != nil {
			t.Fatalf("SignIn(%q, %q, %q, %q): %v", first, last, company, agent, err)
		}
		data, err := letter.Bytes(asked)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(bytes.ReplaceAll(data, []byte("\r\n"), nil), "\r\n") {
			t.Fatalf("%q: a line ends by itself", data)
		}
		for line := range bytes.SplitSeq(data, []byte("\r\n")) {
			if len(line) > 998 || bytes.ContainsFunc(line, func(c rune) bool { return c >= 0x7f || c < ' ' && c != '\t' }) {
				t.Fatalf("the line %q can't travel everywhere", line)
			}
		}
		header, text, html := read(t, data)
		var names []string
		for name, values := range header {
			if names = append(names, name); len(values) != 1 {
				t.Fatalf("%s: %q", name, values)
			}
		}
		slices.Sort(names)
		if len(plain) == 0 {
			plain = append(plain, names...)
		}
		if !slices.Equal(names, plain) || header.Get("To") != "<ann@example.org>" {
			t.Fatalf("%q: the headers are %q, To: %s", first, names, header.Get("To"))
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
		if err != nil || strings.Contains(subject, d.Code) {
			t.Fatalf("Subject: %q, %v", subject, err)
		}
		if strings.Count(text, d.Link) != 2 || !strings.Contains(html, d.Link) || strings.Contains(html, "<script") || !ours.MatchString(agent) && agent != "" && len(agent) > 3 && !strings.Contains(first+last+company, agent) && strings.Contains(text, agent) && !strings.Contains(letterOf(letters), agent) {
			t.Fatalf("%q, %q: the letter is %s\n%s", first, agent, text, html)
		}
	})
}

// letterOf is the letter to somebody without a name.
func letterOf(l *Messages) string {
	d := full
	d.FirstName, d.LastName, d.Companies, d.Agent = "", "", nil, ""
	letter, _ := l.SignIn(d)
	return letter.Text
}
