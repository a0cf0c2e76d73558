package brand

import (
	"bytes"
	"fmt"
	"mime"
	netmail "net/mail"
	"slices"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
)

// Message is a mail that is written, but not yet in the form that travels.
type Message struct {
	FromName  string // before the address of From; may be empty
	From      string // address, of the envelope too
	ReplyTo   string // address; empty: answers go to From
	To        string // the one recipient's address
	Subject   string
	Text      string // lines end in LF, here and in HTML
	HTML      string
	MessageID string // without angle brackets; at the domain of From
}

// The headers that ask not to answer the message, not to hide it under the one before,
// and not to lead its link over somebody else's server: who counts clicks gets to see
// the links, and rewritten ones are often broken. Services that a header doesn't belong
// to ignore it. (Amazon SES has none; there it is the ses:no-track of the HTML.)
var fixedHeaders = [][2]string{
	{"Auto-Submitted", "auto-generated"}, // RFC 3834
	{"X-Auto-Response-Suppress", "All"},  // Exchange
	{"X-Mailgun-Track", "no"},
	{"X-Mailgun-Track-Clicks", "no"},
	{"X-Mailgun-Track-Opens", "no"},
	{"X-Mailjet-TrackClick", "0"},
	{"X-Mailjet-TrackOpen", "0"},
	{"X-MSYS-API", `{"options": {"click_tracking": false, "open_tracking": false}}`}, // SparkPost
	{"X-PM-TrackLinks", "None"}, // Postmark
	{"X-PM-TrackOpens", "false"},
	{"X-SMTPAPI", `{"filters": {"clicktrack": {"settings": {"enable": 0, "enable_text": false}}, "opentrack": {"settings": {"enable": 0}}}}`}, // SendGrid
}

// Bytes returns the message as it is sent (RFC 5322): text and HTML, lines of at most 76 characters
// where they can be folded, ended by CRLF. The same message and date give the same bytes.
func (l Message) Bytes(date time.Time) ([]byte, error) {
	id, _, _ := strings.Cut(l.MessageID, "@")
	m := mail.NewMsg(mail.WithNoDefaultUserAgent(), mail.WithBoundary("part-"+id))
	m.FromMailAddress(&netmail.Address{Name: l.FromName, Address: l.From})
	m.ToMailAddress(&netmail.Address{Address: l.To})
	if l.ReplyTo != "" {
		m.ReplyToMailAddress(&netmail.Address{Address: l.ReplyTo})
	}
	m.Subject(l.Subject)
	m.SetDateWithValue(date)
	m.SetMessageIDWithValue(l.MessageID)
	// Gmail shows mails with the same one as a thread, and folds the newest link away.
	m.SetGenHeader("X-Entity-Ref-ID", id)
	for _, h := range fixedHeaders {
		m.SetGenHeader(mail.Header(h[0]), h[1])
	}
	m.SetBodyString(mail.TypeTextPlain, l.Text)
	m.AddAlternativeString(mail.TypeTextHTML, l.HTML)
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("making the message: %w", err)
	}
	return fillFirstLines(b.Bytes()), nil
}

// wordedHeaders are those that may hold encoded words (RFC 2047).
var wordedHeaders = []string{"From", "Reply-To", "Subject"}

// fillFirstLines has no header begin with an empty line: go-mail leaves one where an encoded
// word of the greatest length doesn't fit behind the name. Some filters count that against
// the mail.
func fillFirstLines(data []byte) []byte {
	for _, name := range wordedHeaders {
		begin := []byte("\r\n" + name + ":\r\n ")
		at := bytes.Index(data, begin)
		if end := bytes.Index(data, []byte("\r\n\r\n")); at < 0 || end < at {
			continue
		}
		value, rest := data[at+len(begin):], []byte(nil)
		for i := range value {
			if value[i] == '\r' && i+2 < len(value) && value[i+2] != ' ' {
				value, rest = value[:i], value[i:]
				break
			}
		}
		var decoder mime.WordDecoder
		words, tail := string(value), ""
		if i := bytes.LastIndexByte(value, '<'); i >= 0 {
			words, tail = string(value[:i]), string(value[i:])
		}
		text, err := decoder.DecodeHeader(strings.ReplaceAll(strings.TrimSpace(words), "\r\n", ""))
		if err != nil {
			continue
		}
		line := name + ": " + encodedWords(text, len(name)+2)
		if tail != "" {
			if last := line[strings.LastIndex(line, "\n")+1:]; len(last)+1+len(tail) > 76 {
				line += "\r\n"
			}
			line += " " + tail
		}
		data = slices.Concat(data[:at+2], []byte(line), rest)
	}
	return data
}

// encodedWords writes text as encoded words, one a line of at most 76 characters, of which
// the first has so many used already.
func encodedWords(text string, used int) string {
	const begin, end = "=?utf-8?q?", "?="
	var out, word strings.Builder
	for _, r := range text {
		q := mime.QEncoding.Encode("utf-8", string(r))
		if strings.HasPrefix(q, begin) {
			q = q[len(begin) : len(q)-len(end)]
		} else if r == ' ' {
			q = "_"
		} else if !letterOrDigit(r) {
			q = fmt.Sprintf("=%02X", r)
		}
		if used+len(begin)+word.Len()+len(q)+len(end) > 76 {
			fmt.Fprintf(&out, "%s%s%s\r\n ", begin, word.String(), end)
			word.Reset()
			used = 1
		}
		word.WriteString(q)
	}
	return out.String() + begin + word.String() + end
}

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
