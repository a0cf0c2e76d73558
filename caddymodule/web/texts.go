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

// span is a piece of text, a link where URL isn't empty.
type span = brand.Span

// MaskedAddress returns as much of an address as a page may show of one that wasn't typed there:
// its first character, dots that don't tell its length, and the domain.
func MaskedAddress(a address.Address) string {
	if a == "" {
		return ""
	}
	_, domain, _ := strings.Cut(a.Display(), "@")
	return string(a[:1]) + "•••@" + domain
}

var webLink = regexp.MustCompile(`https?://[^\s<>"]*[^\s<>".,;:!?)]`)

// TextLine returns the plain text part, its web links ready to be followed.
func (m MailPage) TextLine() []span { return brand.Linkify(webLink, m.Text) }

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

// NetworkLimited is what a page says where a network has tried too many passwords. It is said
// before anything is looked at, so it says nothing about anybody.
const NetworkLimited = "Many passwords were tried from your network, so we take no more for a few minutes. " +
	"You don’t have to wait: have us email you a link. That always works."
