package web

import (
	"mime"
	"strings"
	"testing"
)

func TestAttachmentsNameTheirFile(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"July statement.pdf", `attachment; filename="July statement.pdf"`},
		{"a,b (1) 'c'.pdf", `attachment; filename="a,b (1) 'c'.pdf"`},
		{"Übersicht.pdf", `attachment; filename="_bersicht.pdf"; filename*=UTF-8''%C3%9Cbersicht.pdf`},
		{"100%25 sure.pdf", `attachment; filename="100_25 sure.pdf"; filename*=UTF-8''100%2525%20sure.pdf`},
		{"a;b=c'd*e(f),g@h$i:é.pdf", `attachment; filename="a_b=c'd*e(f),g@h$i:_.pdf"; filename*=UTF-8''a%3Bb%3Dc%27d%2Ae%28f%29%2Cg%40h%24i%3A%C3%A9.pdf`},
		{"two\r\nlines.pdf", `attachment; filename="two__lines.pdf"; filename*=UTF-8''two%0D%0Alines.pdf`},
		{`quo"te\.pdf`, `attachment; filename="quo_te_.pdf"; filename*=UTF-8''quo%22te%5C.pdf`},
		{"日本語.xlsx", `attachment; filename="___.xlsx"; filename*=UTF-8''%E6%97%A5%E6%9C%AC%E8%AA%9E.xlsx`},
	} {
		got := Attachment(c.name)
		if got != c.want {
			t.Errorf("Attachment(%q) = %s; want %s", c.name, got, c.want)
		}
		kind, params, err := mime.ParseMediaType(got)
		if err != nil || kind != "attachment" {
			t.Errorf("Attachment(%q) is read as %s, %v", c.name, kind, err)
		}
		if strings.Contains(c.want, "filename*") {
			if _, rest, _ := strings.Cut(got, "filename*="); rest != "" {
				_, params, err = mime.ParseMediaType("attachment; filename*=" + rest)
			}
		}
		if err != nil || params["filename"] != c.name {
			t.Errorf("Attachment(%q) is read as the name %q, %v", c.name, params["filename"], err)
		}
	}
}
