package outbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Dialogue is the SMTP dialogue between Doorpost and a mail server about one message.
type Dialogue struct {
	Server   string    `json:"server"` // host:port, or the folder
	Lines    []Spoken  `json:"lines"`
	Accepted bool      `json:"accepted"`
	Reason   string    `json:"reason,omitempty"` // why it wasn't; see Reason
	Advice   string    `json:"advice,omitempty"` // what to do about it
	At       time.Time `json:"at"`               // when it began
}

// Spoken is one line of a Dialogue. Secrets are left out of it.
type Spoken struct {
	By    Speaker `json:"by"`
	Text  string  `json:"text"`
	Means string  `json:"means,omitempty"` // in plain words
	After float64 `json:"after"`           // seconds since the beginning
}

// Speaker says who sent a line.
type Speaker string

// The speakers. A line of Note wasn't said by anybody: it tells what happened.
const (
	Us   Speaker = "doorpost"
	Them Speaker = "server"
	Note Speaker = "note"
)

// talker is a Sender that can tell how it sent a message.
type talker interface {
	Talk(ctx context.Context, m Message) Dialogue
}

// Talk hands the message to the mail server, with all settings of this queue, over a connection of
// its own: whatever happens there, nothing that waits is held up. Nothing is kept of the message.
func (q *Queue) Talk(ctx context.Context, m Message) (Dialogue, error) {
	if m.ID == "" {
		m.ID = NewID("test", q.now())
	}
	m.Data = redate(m.Data, q.now())
	if q.Sign != nil {
		var err error
		if m.Data, err = q.Sign(m.Data); err != nil {
			return Dialogue{}, fmt.Errorf("sign the mail: %w", err)
		}
	}
	sender, ok := q.Sender.(talker)
	if !ok {
		return Dialogue{}, errors.New("this way out for mail can't tell what it does")
	}
	d := sender.Talk(ctx, m)
	if d.Accepted && q.Server != nil {
		q.Server.TryNow()
	}
	return d, nil
}

// Talk implements talker.
func (p *Pool) Talk(ctx context.Context, m Message) Dialogue { return p.SMTP.Talk(ctx, m) }

// Talk sends as Send does, and tells what was said.
func (s SMTP) Talk(ctx context.Context, m Message) Dialogue {
	s.tape = &tape{begun: time.Now(), server: s, message: m}
	err := s.Send(ctx, m)
	d := Dialogue{Server: s.Address, Lines: s.tape.all(), Accepted: err == nil, At: s.tape.begun}
	if err != nil {
		d.Reason = Reason(err)
		d.Advice = Advice(d.Reason)
	}
	return d
}

// Talk implements talker.
func (f Folder) Talk(ctx context.Context, m Message) Dialogue {
	d := Dialogue{Server: f.Path, At: time.Now()}
	err := f.Send(ctx, m)
	d.Accepted = err == nil
	if err != nil {
		d.Reason = Reason(err)
		return d
	}
	d.Lines = []Spoken{{By: Note, Text: "written to " + fileName(m.ID), Means: "With `mail folder` no email leaves this machine."}}
	return d
}

// tape takes in what is said on a connection, without secrets. A nil tape takes in nothing.
type tape struct {
	begun   time.Time
	server  SMTP
	message Message

	mu    sync.Mutex
	lines []Spoken
	last  string // the command that the server answers next
	login bool   // what is said now is a login
}

func (t *tape) all() []Spoken {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines == nil {
		return []Spoken{}
	}
	return t.lines
}

func (t *tape) add(by Speaker, text, means string) {
	if t.server.Password != "" { // which no server should say
		text = strings.ReplaceAll(text, t.server.Password, hiddenText)
	}
	after := float64(time.Since(t.begun).Milliseconds()) / 1000
	t.lines = append(t.lines, Spoken{by, loggable(text, 500), means, after})
}

// note tells what happened.
func (t *tape) note(text, means string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(Note, text, means)
}

// connects tells that a connection begins.
func (t *tape) connects(to string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = ""
	t.add(Note, "(connecting to "+to+")", "")
}

// said takes in a command of ours.
func (t *tape) said(line string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	switch verb {
	case "AUTH", "EHLO", "HELO", "STARTTLS", "RSET", "MAIL", "RCPT", "DATA", ".", "QUIT":
		t.last = verb
	}
	means := t.meaningOf(line)
	switch {
	case t.login && verb == "AUTH":
		way := strings.SplitN(line, " ", 3)
		if line = strings.Join(way[:2], " "); len(way) > 2 {
			line += " " + hiddenText
		}
	case t.login:
		line = hiddenText
	}
	t.add(Us, line, means)
}

const hiddenText = "(hidden)"

// loginBegins has what is said be hidden, until loginEnds.
func (t *tape) loginBegins() { t.setLogin(true) }
func (t *tape) loginEnds()   { t.setLogin(false) }

func (t *tape) setLogin(on bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.login = on
}

// heard takes in an answer, perhaps of several lines.
func (t *tape) heard(code int, lines []string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(lines) == 0 {
		lines = []string{""}
	}
	for i, line := range lines {
		if t.login && code == 334 {
			line = hiddenText
		}
		between := " "
		if i < len(lines)-1 {
			between = "-"
		}
		means := t.meaningOfAnswer(code, line, i == 0, i == len(lines)-1)
		t.add(Them, strings.TrimRight(fmt.Sprintf("%03d%s%s", code, between, line), " "), means)
	}
}

// meaningOf says what a command of ours is for. t.mu is held.
func (t *tape) meaningOf(line string) string {
	verb, rest, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "HELO":
		if t.server.Helo == "" {
			return "We greet the server with the domain in `from`. `helo` in the block of `mail smtp` sets another name."
		}
		return "We greet the server, with the name in `helo`."
	case "STARTTLS":
		return "We ask to encrypt the connection."
	case "MAIL":
		return "We name the sender."
	case "RCPT":
		return "We name the recipient."
	case "DATA":
		return "We ask to send the email itself."
	case ".":
		return "The email ends."
	case "QUIT":
		return "We take leave."
	case "AUTH":
		way, _, _ := strings.Cut(rest, " ")
		return "We log in as " + t.server.Username + ", by " + way + "."
	}
	if t.last == "AUTH" && t.server.AccessToken != nil {
		return "We have heard why it refuses."
	}
	if t.last == "AUTH" {
		return "Name and password, or a proof that we know them."
	}
	return ""
}

var sizeOffered = regexp.MustCompile(`(?i)^SIZE (\d+)$`)

// meaningOfAnswer says what a line of the server's means. t.mu is held.
func (t *tape) meaningOfAnswer(code int, line string, first, last bool) string {
	if code >= 400 {
		if !last {
			return ""
		}
		step := map[string]string{"MAIL": stepMail, "RCPT": stepRcpt, "DATA": stepData, ".": stepEnd, "RSET": stepReset}[t.last]
		if step == "" {
			step = stepConnect
		}
		r := newReply(step, &textproto.Error{Code: code, Msg: line}, t.message)
		return "It refuses. " + Advice(Reason(r.err()))
	}
	switch {
	case code == 220 && t.last == "":
		if first {
			return "The server greets us."
		}
	case code == 220 && t.last == "STARTTLS":
		return "It is ready to encrypt."
	case code == 250 && (t.last == "EHLO" || t.last == "HELO"):
		return offered(line, first)
	case code == 334:
		return "It asks for the next step of the login."
	case code == 235:
		return "It takes the login."
	case code == 354:
		return "It waits for the email."
	case code/100 == 2 && t.last == "MAIL":
		return "It takes the sender."
	case code/100 == 2 && t.last == "RCPT":
		return "It takes the recipient."
	case code/100 == 2 && t.last == ".":
		if last {
			return "It has accepted the email. From here on its own log says what becomes of it."
		}
	case code == 221:
		return "It takes leave."
	}
	return ""
}

// offered says what a line of the answer to EHLO means.
func offered(line string, first bool) string {
	word, _, _ := strings.Cut(line, " ")
	if first {
		return "It knows us by this name, and can do the following."
	}
	switch strings.ToUpper(word) {
	case "STARTTLS":
		return "It can encrypt the connection."
	case "AUTH":
		return "These are the ways to log in."
	case "SIZE":
		if m := sizeOffered.FindStringSubmatch(line); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err == nil && n > 0 {
				return fmt.Sprintf("It takes emails of up to %d KiB.", n>>10)
			}
		}
		return "It says how large an email may be."
	case "PIPELINING":
		return "It takes several commands at once."
	case "8BITMIME", "SMTPUTF8":
		return "It takes letters beyond ASCII" + map[bool]string{true: " in addresses", false: ""}[strings.EqualFold(word, "SMTPUTF8")] + "."
	case "ENHANCEDSTATUSCODES":
		return "Its refusals have codes that say what they are about."
	}
	return ""
}

// sends tells that the message itself is sent.
func (t *tape) sends(data []byte) {
	if t == nil {
		return
	}
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	signers := signersOf(head)
	means := "It has no DKIM signature of ours; the mail server may add one."
	if len(signers) > 0 {
		means = "It is signed with DKIM: the key belongs into DNS at " + strings.Join(signers, " and ") + "."
	}
	t.note(fmt.Sprintf("(the email: %d bytes)", len(data)), means)
}

var signer = regexp.MustCompile(`[;\s]([ds])=([^;\s]+)`)

// signersOf returns where the keys of a message's DKIM signatures are in DNS.
func signersOf(head []byte) (all []string) {
	unfolded := strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(string(head))
	for line := range strings.SplitSeq(unfolded, "\r\n") {
		value, ok := strings.CutPrefix(line, "DKIM-Signature:")
		if !ok {
			continue
		}
		tags := map[string]string{}
		for _, m := range signer.FindAllStringSubmatch(" "+value, -1) {
			tags[m[1]] = m[2]
		}
		all = append(all, tags["s"]+"._domainkey."+tags["d"])
	}
	return all
}

// secured tells of an encrypted connection.
func (t *tape) secured(state tls.ConnectionState) error {
	if t == nil {
		return nil
	}
	means := ""
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		means = fmt.Sprintf("The connection is encrypted. The certificate is for %s, of %s, and valid until %s.",
			strings.Join(leaf.DNSNames, ", "), leaf.Issuer.CommonName, leaf.NotAfter.Format(time.DateOnly))
	}
	t.note("("+tls.VersionName(state.Version)+", "+tls.CipherSuiteName(state.CipherSuite)+")", means)
	return nil
}
