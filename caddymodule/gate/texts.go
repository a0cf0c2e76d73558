package gate

import (
	"html/template"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// span is a piece of text, a link where URL isn't empty.
type span struct {
	Text string
	URL  template.URL
}

var (
	supportLink = regexp.MustCompile(`https?://[^\s<>"]*[^\s<>".,;:!?)]|[^\s<>"(),;:]+@[^\s<>"(),;:]*[^\s<>"(),;:.]|` +
		`(?:\+[0-9]{1,3}[ ./-]?)?(?:\([0-9]{1,5}\)[ ./-]?)?[0-9](?:[ ./-]?[0-9]){4,}`)
	webLink = regexp.MustCompile(`https?://[^\s<>"]*[^\s<>".,;:!?)]`)
)

// linkify cuts s into text and the links that pattern finds.
func linkify(pattern *regexp.Regexp, s string) []span {
	var spans []span
	for s != "" {
		at := pattern.FindStringIndex(s)
		if at == nil {
			return append(spans, span{Text: s})
		}
		if at[0] > 0 {
			spans = append(spans, span{Text: s[:at[0]]})
		}
		link := s[at[0]:at[1]]
		spans = append(spans, span{Text: link, URL: linkURL(link)})
		s = s[at[1]:]
	}
	return spans
}

// linkURL returns the URL of what supportLink matched. That it is one of three schemes makes it
// safe as a link; the template escapes it all the same.
func linkURL(s string) template.URL {
	switch {
	case strings.HasPrefix(s, "http://"), strings.HasPrefix(s, "https://"):
		return template.URL(s)
	case strings.Contains(s, "@"):
		return template.URL("mailto:" + s)
	}
	if strings.HasPrefix(s, "+") {
		s = strings.Replace(s, "(0)", "", 1) // dialled within the country only
	}
	digits := strings.Map(func(r rune) rune {
		if r == '+' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
	return template.URL("tel:" + digits)
}

// TextLine returns the plain text part, its web links ready to be followed.
func (m MailPage) TextLine() []span { return linkify(webLink, m.Text) }

// heldForm is a HeldFormPage that is ready to be rendered.
type heldForm struct {
	HeldFormPage
	Charset string // accept-charset of the form; empty: the page's own
}

// asHeldForm makes bytes that aren't UTF-8, from a portal of the days before it, survive the page: all is
// read as Windows-1252, in which every byte is some character, and is sent as that.
func asHeldForm(p HeldFormPage) heldForm {
	isUTF8 := func(f Field) bool { return utf8.ValidString(f.Name) && utf8.ValidString(f.Value) }
	if !slices.ContainsFunc(p.Fields, func(f Field) bool { return !isUTF8(f) }) {
		return heldForm{HeldFormPage: p}
	}
	p.Fields = slices.Clone(p.Fields)
	for i, f := range p.Fields {
		p.Fields[i] = Field{Name: fromWindows1252(f.Name), Value: fromWindows1252(f.Value)}
	}
	return heldForm{HeldFormPage: p, Charset: "windows-1252"}
}

func fromWindows1252(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = charmap.Windows1252.DecodeByte(s[i])
		if runes[i] == utf8.RuneError {
			runes[i] = rune(s[i]) // five bytes have no character; browsers take C1 controls for them, both ways
		}
	}
	return string(runes)
}
