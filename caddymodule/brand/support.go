package brand

import (
	"html/template"
	"regexp"
	"strings"
)

// Span is a piece of text, a link where URL isn't empty.
type Span struct {
	Text string
	URL  template.URL
}

var supportLink = regexp.MustCompile(`https?://[^\s<>"]*[^\s<>".,;:!?)]|[^\s<>"(),;:]+@[^\s<>"(),;:]*[^\s<>"(),;:.]|` +
	`(?:\+[0-9]{1,3}[ ./-]?)?(?:\([0-9]{1,5}\)[ ./-]?)?[0-9](?:[ ./-]?[0-9]){4,}`)

// Phone reports whether it is a phone number, which is to stay on one line.
func (s Span) Phone() bool { return strings.HasPrefix(string(s.URL), "tel:") }

// SupportLine cuts a support line into text and links: to pages, email addresses and phone
// numbers, which can be tapped.
func SupportLine(s string) []Span { return Linkify(supportLink, s) }

// Linkify cuts s into text and the links that pattern finds.
func Linkify(pattern *regexp.Regexp, s string) []Span {
	var spans []Span
	for s != "" {
		at := pattern.FindStringIndex(s)
		if at == nil {
			return append(spans, Span{Text: s})
		}
		if at[0] > 0 {
			spans = append(spans, Span{Text: s[:at[0]]})
		}
		link := s[at[0]:at[1]]
		spans = append(spans, Span{Text: link, URL: linkURL(link)})
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
