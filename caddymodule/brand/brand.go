// Package brand is how a firm looks and speaks: its name, colours and picture on pages
// and in mails, and the messages themselves.
//
// A message is a pair of templates, which a firm may replace one by one: mails/sign-in.txt
// in its folder of templates, whose first line is "Subject: …", and mails/sign-in.html; and so on.
// They are Go's text/template and html/template; the merge tags are those of type tags.
package brand

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // so that image.DecodeConfig knows them
	_ "image/png"
	"io"
	"net/mail"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// Brand is how a firm is seen by its clients. No page or mail names anybody else.
type Brand struct {
	// Name of the firm, as its clients know it. Required; up to 100 characters.
	Name string `json:"name"`
	// From is the sender of all mails: `Name <name@domain>` or name@domain. The mail
	// server must be allowed to send for it. Required.
	From string `json:"from"`
	// ReplyTo is where answers go: one address. Default: From.
	ReplyTo string `json:"reply_to,omitempty"`
	// Logo is the path of a picture for the pages: SVG, PNG, JPEG or WebP, up to
	// 256 KiB. Default: the firm's initial.
	Logo string `json:"logo,omitempty"`
	// Accent is the colour of buttons, as #rgb or #rrggbb. Where text could not be
	// read on it, or it on the page, it is darkened or lightened. Default: #0b6e4f.
	Accent string `json:"accent,omitempty"`
	// Support says in a line how to reach a person: an address, a phone number. It
	// stands on every page and in every mail. Default: none.
	Support string `json:"support,omitempty"`
	// DKIM are the keys that mails are signed with: one RSA key, one Ed25519 key, or both. Default:
	// none, for mail servers that sign.
	DKIM []DKIM `json:"dkim,omitempty"`
}

// Validate reports what is wrong with the settings, each with its name and what to
// write instead. It reads no file; see ReadLogo.
func (b Brand) Validate() error {
	if err := plainText("name", b.Name, 100); err != nil {
		return err
	}
	if strings.TrimSpace(b.Name) == "" {
		return errors.New(`name is missing; write the firm's name as its clients know it: name "Example Bookkeeping"`)
	}
	if _, err := b.Sender(); err != nil {
		return err
	}
	if b.ReplyTo != "" {
		if _, err := address.Parse(b.ReplyTo); err != nil {
			return fmt.Errorf("reply_to: %w; write one address, such as help@example.com", err)
		}
	}
	if err := b.validateDKIM(); err != nil {
		return err
	}
	if b.Accent != "" {
		if _, err := parseColour(b.Accent); err != nil {
			return err
		}
	}
	return plainText("support", b.Support, 200)
}

// Sender is the parsed From: the name (perhaps "") and the address, which is also the
// envelope sender.
func (b Brand) Sender() (mail.Address, error) {
	const remedy = `write from "Example Bookkeeping <hello@example.com>"`
	if b.From == "" {
		return mail.Address{}, errors.New("from is missing; " + remedy)
	}
	if err := plainText("from", b.From, 300); err != nil {
		return mail.Address{}, err
	}
	name, rest := "", strings.TrimSpace(b.From)
	if i := strings.LastIndexByte(rest, '<'); i >= 0 && strings.HasSuffix(rest, ">") {
		name, rest = strings.TrimSpace(rest[:i]), rest[i+1:len(rest)-1]
		name = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(name, `"`), `"`))
	}
	if strings.ContainsAny(name, `<>@"`) {
		return mail.Address{}, fmt.Errorf("from: the name before the address has a character that mail servers stumble over; %s", remedy)
	}
	a, err := address.Parse(rest)
	if err != nil {
		return mail.Address{}, fmt.Errorf("from: %w; %s", err, remedy)
	}
	return mail.Address{Name: name, Address: string(a)}, nil
}

// plainText refuses what would break a header or a line: control characters, and more
// than a line's worth of text.
func plainText(setting, s string, most int) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s: not UTF-8; save the file as UTF-8", setting)
	}
	if n := utf8.RuneCountInString(s); n > most {
		return fmt.Errorf("%s: %d characters; write at most %d", setting, n, most)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return fmt.Errorf("%s: has a line break or another control character (%U); write it on one line", setting, r)
		}
	}
	return nil
}

// Logo is a firm's picture.
type Logo struct {
	Type string // its media type
	Data []byte
}

const maxLogo = 256 << 10

// ReadLogo reads the picture that Logo names; nil if none is named. Its type is detected from its
// content.
func (b Brand) ReadLogo() (*Logo, error) {
	if b.Logo == "" {
		return nil, nil
	}
	info, err := os.Stat(b.Logo)
	if err != nil {
		return nil, fmt.Errorf("logo: %w; write the path of a picture that Caddy may read", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxLogo {
		return nil, fmt.Errorf("logo: %s: write the path of a picture of at most %d KiB", b.Logo, maxLogo>>10)
	}
	data, err := os.ReadFile(b.Logo)
	if err != nil {
		return nil, fmt.Errorf("logo: %w; write the path of a picture that Caddy may read", err)
	}
	kind := pictureType(data)
	if kind == "" {
		return nil, fmt.Errorf("logo: %s is no whole SVG, PNG, JPEG or WebP picture; write the path of one", b.Logo)
	}
	return &Logo{Type: kind, Data: data}, nil
}

// pictureType returns the media type of a picture that browsers can show; "" for
// anything else, whatever the name of its file.
func pictureType(data []byte) string {
	if len(data) > 12 && string(data[:4]) == "RIFF" && string(data[8:12]) == "WEBP" {
		return "image/webp"
	}
	if _, format, err := image.DecodeConfig(bytes.NewReader(data)); err == nil {
		return "image/" + format
	}
	if isSVG(data) {
		return "image/svg+xml"
	}
	return ""
}

// isSVG reports whether data is well-formed XML with svg as its root. What else is in
// there does no harm: pages show it as a picture, in which scripts don't run.
func isSVG(data []byte) bool {
	d := xml.NewDecoder(bytes.NewReader(data))
	// Browsers know encodings that this package doesn't; it is the structure that counts.
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	root := ""
	for {
		token, err := d.Token()
		if err != nil {
			return errors.Is(err, io.EOF) && root == "svg"
		}
		if start, ok := token.(xml.StartElement); ok && root == "" {
			root = start.Name.Local
		}
	}
}
