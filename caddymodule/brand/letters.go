package brand

import (
	"bytes"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"

	"github.com/wneessen/go-mail"
)

//go:embed letters
var letterFiles embed.FS

// Kinds of letters: each is a pair of templates, KIND.txt, whose first line is
// "Subject: …", and KIND.html.
const KindSignIn = "sign-in"

var kinds = []string{KindSignIn}

// Letters writes a firm's mails. It is safe for use by many goroutines.
type Letters struct {
	brand Brand
	look  Look
	pairs map[string]pair
}

type pair struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

// NewLetters parses the templates and writes each letter once with made-up data, so
// that what is wrong with one shows now. A file mails/KIND.txt or mails/KIND.html in
// the folder stands in for the built-in one; folder may be empty. An error names file
// and line.
func NewLetters(b Brand, folder string) (*Letters, error) {
	l := &Letters{brand: b, look: b.Look(), pairs: make(map[string]pair)}
	for _, kind := range kinds {
		text, textPath, err := readTemplate(folder, kind+".txt")
		if err != nil {
			return nil, err
		}
		html, htmlPath, err := readTemplate(folder, kind+".html")
		if err != nil {
			return nil, err
		}
		var p pair
		if p.text, err = texttemplate.New(textPath).Option("missingkey=error").Parse(text); err != nil {
			return nil, explain(err)
		}
		if p.html, err = htmltemplate.New(htmlPath).Option("missingkey=error").Parse(html); err != nil {
			return nil, explain(err)
		}
		l.pairs[kind] = p
	}
	sample := SignIn{To: "ann@example.com", FirstName: "Ann", LastName: "Baker", Companies: []string{"Acme"},
		Link: "https://portal.example/-/link?t=x", Code: "abcd-efgh", Life: 10 * time.Minute, AskedAt: time.Unix(0, 0), Agent: "Safari on iPhone"}
	if _, err := l.SignIn(sample); err != nil {
		return nil, explain(err)
	}
	return l, nil
}

func explain(err error) error {
	return fmt.Errorf("%w; the merge tags are {{.Contact.FirstName}}, {{.Contact.LastName}}, {{.Contact.Email}}, {{.Company.Name}}, {{.Companies}}, "+
		"{{.Firm.Name}}, {{.Firm.Support}}, {{.Link}}, {{.Code}}, {{.ExpiresIn}} and {{.Asked}}", err)
}

func readTemplate(folder, name string) (text, path string, err error) {
	if folder != "" {
		path = filepath.Join(folder, "mails", name)
		b, err := os.ReadFile(path)
		if err == nil {
			return string(b), path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", path, fmt.Errorf("templates: %w", err)
		}
	}
	b, err := letterFiles.ReadFile("letters/" + name)
	return string(b), name, err
}

// SignIn is what a sign-in mail says.
type SignIn struct {
	To                  string // the stored address
	FirstName, LastName string
	Companies           []string // names
	Link, Code          string
	Life                time.Duration // of link and code, from the hand-over
	AskedAt             time.Time
	Agent               string // the browser in words, such as "Safari on iPhone"
}

// fields are the merge tags.
type fields struct {
	Contact struct{ FirstName, LastName, Email string }
	Company struct{ Name string } // the only company, where there is one
	Firm    struct{ Name, Support string }

	Companies, Link, Code, ExpiresIn, Asked string
	AskedTime                               string // with seconds, so that no two subjects are the same

	Look Look
}

// SignIn writes the sign-in mail.
func (l *Letters) SignIn(d SignIn) (Letter, error) {
	f := fields{Link: d.Link, Code: d.Code, ExpiresIn: inWords(d.Life), Look: l.look,
		Asked: "at " + d.AskedAt.Format("15:04") + " from " + d.Agent, AskedTime: d.AskedAt.Format("15:04:05")}
	f.Contact.FirstName, f.Contact.LastName, f.Contact.Email = oneLine(d.FirstName), oneLine(d.LastName), d.To
	f.Firm.Name, f.Firm.Support = l.brand.Name, l.brand.Support
	f.Companies = oneLine(strings.Join(d.Companies, ", "))
	if len(d.Companies) == 1 {
		f.Company.Name = f.Companies
	}
	return l.write(KindSignIn, d.To, f)
}

func (l *Letters) write(kind, to string, f fields) (Letter, error) {
	sender, err := l.brand.Sender()
	if err != nil {
		return Letter{}, err
	}
	var text, html bytes.Buffer
	if err := l.pairs[kind].text.Execute(&text, f); err != nil {
		return Letter{}, err
	}
	if err := l.pairs[kind].html.Execute(&html, f); err != nil {
		return Letter{}, err
	}
	first, rest, _ := strings.Cut(text.String(), "\n")
	subject, ok := strings.CutPrefix(first, "Subject:")
	if !ok {
		return Letter{}, fmt.Errorf("%s: the first line must begin with \"Subject:\"", l.pairs[kind].text.Name())
	}
	domain := sender.Address[strings.LastIndexByte(sender.Address, '@')+1:]
	return Letter{
		FromName: sender.Name, From: sender.Address, ReplyTo: l.brand.ReplyTo, To: to,
		Subject: oneLine(subject), Text: strings.TrimSpace(rest) + "\n", HTML: html.String(),
		MessageID: rand.Text() + "@" + domain,
	}, nil
}

// Letter is a mail that is written, but not yet in the form that travels.
type Letter struct {
	FromName, From, ReplyTo, To string // addresses without names; ReplyTo may be empty
	Subject, Text, HTML         string
	MessageID                   string // without the angle brackets
}

// Bytes returns the message as it travels (RFC 5322, CRLF): text and HTML, and headers
// that ask mail services to leave the link as it is and answering machines to be quiet.
func (l Letter) Bytes(date time.Time) ([]byte, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	var err error
	if l.FromName != "" {
		err = m.FromFormat(l.FromName, l.From)
	} else {
		err = m.From(l.From)
	}
	if err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if err := m.To(l.To); err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	if l.ReplyTo != "" {
		if err := m.ReplyTo(l.ReplyTo); err != nil {
			return nil, fmt.Errorf("reply_to: %w", err)
		}
	}
	m.Subject(l.Subject)
	m.SetDateWithValue(date)
	m.SetMessageIDWithValue(l.MessageID)
	for _, h := range [][2]string{
		{"Auto-Submitted", "auto-generated"}, // RFC 3834
		{"X-Auto-Response-Suppress", "All"},  // Exchange
		{"X-Entity-Ref-ID", l.MessageID},     // Gmail: its own thread, so the newest link isn't hidden under an old one
		// A service that rewrites links to count clicks would burn or log them.
		{"X-SES-Configuration-Tracking", "off"},
		{"X-PM-TrackLinks", "None"},
		{"X-PM-TrackOpens", "false"},
		{"X-Mailgun-Track", "no"},
		{"X-MC-Track", "none"},
		{"X-Mailjet-TrackClick", "0"},
		{"X-Mailjet-TrackOpen", "0"},
		{"X-MSYS-API", `{"options":{"click_tracking":false,"open_tracking":false}}`},
		{"X-SMTPAPI", `{"filters":{"clicktrack":{"settings":{"enable":0}},"opentrack":{"settings":{"enable":0}}}}`},
	} {
		m.SetGenHeader(mail.Header(h[0]), h[1])
	}
	m.SetBodyString(mail.TypeTextPlain, l.Text)
	m.AddAlternativeString(mail.TypeTextHTML, l.HTML)
	var buf bytes.Buffer
	if _, err := m.WriteTo(&buf); err != nil {
		return nil, fmt.Errorf("making the message: %w", err)
	}
	return buf.Bytes(), nil
}

// oneLine removes what would begin a new line or hide text, in a value that isn't ours.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
}

// inWords says how long, as a person would.
func inWords(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("%d seconds", int(d/time.Second))
	}
	if d%time.Hour == 0 && d == time.Hour {
		return "one hour"
	}
	return fmt.Sprintf("%d minutes", int(d/time.Minute))
}
