package brand

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var example = Brand{
	Name: "Example Bookkeeping", From: "Example Bookkeeping <hello@example.com>", ReplyTo: "help@example.com",
	Accent: "#0b6e4f", Support: "help@example.com, +1 555 0100",
}

func with(change func(*Brand)) Brand {
	b := example
	change(&b)
	return b
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		b    Brand
		want string // what the error begins with, and says; "": valid
	}{
		{"all of it", example, ""},
		{"the least", Brand{Name: "Müller & Söhne", From: "hello@example.com"}, ""},
		{"quoted name", with(func(b *Brand) { b.From = `"Example, Inc." <hello@example.com>` }), ""},
		{"no name", with(func(b *Brand) { b.Name = "" }), `name is missing; write the firm's name`},
		{"blank name", with(func(b *Brand) { b.Name = " \t" }), `name`},
		{"two-line name", with(func(b *Brand) { b.Name = "Example\r\nBcc: x@y.example" }), `name: has a line break`},
		{"turned name", with(func(b *Brand) { b.Name = "Example \u202egnp.exe" }), `name: has a line break or another control character (U+202E)`},
		{"long name", with(func(b *Brand) { b.Name = strings.Repeat("x", 101) }), `name: 101 characters; write at most 100`},
		{"not UTF-8", with(func(b *Brand) { b.Name = "M\xfcller" }), `name: not UTF-8`},
		{"no from", with(func(b *Brand) { b.From = "" }), `from is missing; write from "Example Bookkeeping <hello@example.com>"`},
		{"from: name only", with(func(b *Brand) { b.From = "Example Bookkeeping" }), `from: not an email address: it has no @; write from`},
		{"from: two", with(func(b *Brand) { b.From = "a@example.com, b@example.com" }), `from: not an email address`},
		{"from: two mailboxes", with(func(b *Brand) { b.From = "A <a@example.com>, B <b@example.com>" }), `from: the name before the address`},
		{"from: header", with(func(b *Brand) { b.From = "A <a@example.com>\nBcc: b@example.com" }), `from: has a line break`},
		{"from: no domain", with(func(b *Brand) { b.From = "A <portal@localhost>" }), `from: not an email address`},
		{"from: quoted part", with(func(b *Brand) { b.From = `A <"a b"@example.com>` }), `from: not an email address`},
		{"reply_to with a name", with(func(b *Brand) { b.ReplyTo = "Help <help@example.com>" }), `reply_to: not an email address`},
		{"accent in words", with(func(b *Brand) { b.Accent = "green" }), `accent: "green" is no colour; write it as #rgb or #rrggbb, in quotes: accent "#0b6e4f"`},
		{"accent without #", with(func(b *Brand) { b.Accent = "0b6e4f" }), `accent: "0b6e4f"`},
		{"accent with CSS", with(func(b *Brand) { b.Accent = "#0b6e4f;}" }), `accent:`},
		{"two-line support", with(func(b *Brand) { b.Support = "a\nb" }), `support: has a line break`},
	} {
		err := c.b.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: Validate() = %v; want %q", c.name, err, c.want)
		}
	}
}

func TestSender(t *testing.T) {
	for from, want := range map[string]string{
		"hello@example.com":                    "<hello@example.com>",
		"Example <Hello@EXAMPLE.com>":          `"Example" <hello@example.com>`,
		`"Example, Inc." <hello@example.com>`:  `"Example, Inc." <hello@example.com>`,
		"Müller <hello@bücher.example>":        "=?utf-8?q?M=C3=BCller?= <hello@xn--bcher-kva.example>",
		" Example Bookkeeping<a@example.com> ": `"Example Bookkeeping" <a@example.com>`,
	} {
		got, err := Brand{From: from}.Sender()
		if err != nil || got.String() != want {
			t.Errorf("Sender of %q = %s %v; want %s", from, got.String(), err, want)
		}
	}
}

func TestReadLogo(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var asPNG, asJPEG bytes.Buffer
	if err := png.Encode(&asPNG, image.NewGray(image.Rect(0, 0, 2, 2))); err != nil {
		t.Fatal(err)
	}
	if err := jpeg.Encode(&asJPEG, image.NewGray(image.Rect(0, 0, 2, 2)), nil); err != nil {
		t.Fatal(err)
	}
	svg := `<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x"><!-- c --><svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>`
	for _, c := range []struct {
		path string
		want string // type, or what the error says
	}{
		{write("a.png", asPNG.Bytes()), "image/png"},
		{write("wrong-name.svg", asPNG.Bytes()), "image/png"},
		{write("a.jpg", asJPEG.Bytes()), "image/jpeg"},
		{write("a.webp", []byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00")), "image/webp"},
		{write("a.svg", []byte(svg)), "image/svg+xml"},
		{write("page.svg", []byte("<html><body><svg></svg></body></html>")), "is no whole SVG"},
		{write("half.svg", []byte("<svg><rect>")), "is no whole SVG"},
		{write("half.png", asPNG.Bytes()[:12]), "is no whole SVG"},
		{write("text.png", []byte("not a picture")), "is no whole SVG"},
		{write("empty.png", nil), "is no whole SVG"},
		{write("large.svg", []byte("<svg>"+strings.Repeat(" ", maxLogo)+"</svg>")), "at most 256 KiB"},
		{dir, "at most 256 KiB"},
		{filepath.Join(dir, "missing.png"), "no such file"},
	} {
		logo, err := Brand{Logo: c.path}.ReadLogo()
		switch {
		case err != nil:
			if !strings.HasPrefix(err.Error(), "logo: ") || !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ReadLogo of %s = %v; want logo: the path, and %q", c.path, err, c.want)
			}
		case logo.Type != c.want || len(logo.Data) == 0:
			t.Errorf("ReadLogo of %s = %s, %d bytes; want %s", c.path, logo.Type, len(logo.Data), c.want)
		}
	}
	if logo, err := (Brand{}).ReadLogo(); logo != nil || err != nil {
		t.Errorf("ReadLogo of no path = %v %v; want nil", logo, err)
	}
}

// Whatever the accent: it can be read on the page, and text on it.
func TestLookIsReadable(t *testing.T) {
	parse := func(s string) colour {
		c, err := parseColour(s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	light, dark := []string{"#ffffff", "#f3f4f1"}, []string{"#0d0f0e", "#171a18", "#222725"}
	for r := 0; r <= 255; r += 36 {
		for g := 0; g <= 255; g += 36 {
			for b := 0; b <= 255; b += 36 {
				accent := fmt.Sprintf("#%02x%02x%02x", r, g, b)
				l := Brand{Accent: accent}.Look()
				if c := contrast(parse(l.LightAccent), parse(l.LightOnAccent)); c < 4.5 {
					t.Fatalf("accent %s: text on it, light: %.2f", accent, c)
				}
				if c := contrast(parse(l.DarkAccent), parse(l.DarkOnAccent)); c < 4.5 {
					t.Fatalf("accent %s: text on it, dark: %.2f", accent, c)
				}
				for _, page := range light {
					if c := contrast(parse(l.LightAccent), parse(page)); c < 4.5 {
						t.Fatalf("accent %s on %s: %.2f", accent, page, c)
					}
				}
				for _, page := range dark {
					if c := contrast(parse(l.DarkAccent), parse(page)); c < 4.5 {
						t.Fatalf("accent %s on %s: %.2f", accent, page, c)
					}
				}
			}
		}
	}
	for accent, want := range map[string]string{
		"":        "#0b6e4f",
		"#0B6E4F": "#0b6e4f", // good enough as it is
		"#fff":    "#6f6f6f", // an invisible one becomes grey
		"bad":     "#0b6e4f",
	} {
		if got := (Brand{Accent: accent}).Look().LightAccent; got != want {
			t.Errorf("Look of %q = %s; want %s", accent, got, want)
		}
	}
}

// The fixed colours of the letter, as they stand in its template.
func TestLetterIsReadable(t *testing.T) {
	html, err := builtIn.ReadFile("mails/sign-in.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"#1b1f1d", "#ffffff"}, {"#545b57", "#ffffff"}, {"#1b1f1d", "#f3f4f1"}, // light
		{"#eef1ef", "#171a18"}, {"#adb5b0", "#171a18"}, {"#eef1ef", "#222725"}, // dark
	} {
		text, _ := parseColour(c[0])
		page, _ := parseColour(c[1])
		if ratio := contrast(text, page); ratio < 4.5 {
			t.Errorf("%s on %s: %.2f; want 4.5", c[0], c[1], ratio)
		}
		html = bytes.ReplaceAll(bytes.ReplaceAll(html, []byte(c[0]), nil), []byte(c[1]), nil)
	}
	for _, decoration := range []string{"#dee1dc", "#303633", "#0d0f0e"} { // lines, and paper without text
		html = bytes.ReplaceAll(html, []byte(decoration), nil)
	}
	if left := regexp.MustCompile(`#[0-9a-f]{6}`).Find(html); left != nil {
		t.Errorf("%s is in the letter, and not in this test", left)
	}
}

func TestContrast(t *testing.T) {
	for _, c := range []struct {
		a, b color.RGBA
		want float64
	}{
		{color.RGBA{0, 0, 0, 255}, color.RGBA{255, 255, 255, 255}, 21},
		{color.RGBA{119, 119, 119, 255}, color.RGBA{255, 255, 255, 255}, 4.48}, // WCAG's well-known near miss
	} {
		of := func(c color.RGBA) colour { return colour{float64(c.R) / 255, float64(c.G) / 255, float64(c.B) / 255} }
		if got := contrast(of(c.a), of(c.b)); got < c.want-.01 || got > c.want+.01 {
			t.Errorf("contrast(%v, %v) = %.3f; want %.2f", c.a, c.b, got, c.want)
		}
	}
}
