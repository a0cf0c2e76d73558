package web

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
)

// span is a piece of text, and a link if URL isn't empty.
type span = brand.Span

// MaskedAddress returns an address in the form for pages on which it wasn't typed: its first
// character, dots that don't reveal its length, and the domain.
func MaskedAddress(a address.Address) string {
	if a == "" {
		return ""
	}
	_, domain, _ := strings.Cut(a.Display(), "@")
	return string(a[:1]) + "•••@" + domain
}

var webLink = regexp.MustCompile(`https?://[^\s<>"]*[^\s<>".,;:!?)]`)

// TextLine returns the plain-text part with clickable links.
func (m MailPage) TextLine() []span { return brand.Linkify(webLink, m.Text) }

// heldForm is a HeldFormPage that is ready to be rendered.
type heldForm struct {
	HeldFormPage
	Charset string // accept-charset of the form; empty for the page's own
}

// asHeldForm preserves bytes that aren't UTF-8, from older portals: all fields are read as
// Windows-1252, in which every byte is a character, and sent in that encoding.
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
			runes[i] = rune(s[i]) // five bytes have no character; browsers use C1 controls for them in both directions
		}
	}
	return string(runes)
}

// NetworkLimited is the message if a network has tried too many passwords. It is sent before
// anything is looked up, so it reveals nothing about any address.
const NetworkLimited = "Many passwords were tried from your network, so we take no more for a few minutes. " +
	"You don’t have to wait: have us email you a link. That always works."
