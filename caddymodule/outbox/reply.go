package outbox

import (
	"errors"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// The steps of a hand-over at which a mail server can refuse, as errors name them.
const (
	stepConnect = "connecting"
	stepReset   = "RSET"
	stepMail    = "MAIL FROM"
	stepRcpt    = "RCPT TO"
	stepData    = "DATA"
	stepEnd     = "end of the message"
)

// reply is a negative reply of a mail server.
type reply struct {
	step     string
	code     int    // such as 550
	enhanced string // RFC 3463, such as "5.7.1"; "": it gave none
	text     string // its words, without addresses and links (see quote)
}

var enhancedCode = regexp.MustCompile(`^([245])\.([0-9]{1,3})\.([0-9]{1,3})\b`)

// newReply takes an answer apart. m is the message it was about, nothing of which is kept.
func newReply(step string, e *textproto.Error, m Message) reply {
	enhanced := enhancedCode.FindString(e.Msg)
	return reply{step, e.Code, enhanced, quote(strings.TrimPrefix(e.Msg, enhanced), m)}
}

// codes returns the code and the enhanced code, such as "550 5.1.1".
func (r reply) codes() string { return strings.TrimSpace(strconv.Itoa(r.code) + " " + r.enhanced) }

// String returns the reply as logs and the timeline show it, such as
// "RCPT TO: 554 5.7.1 Relay access denied".
func (r reply) String() string { return strings.TrimSpace(r.step + ": " + r.codes() + " " + r.text) }

// policy names the rule that a refusal goes by, as far as it can be told apart from others.
func (r reply) policy() string { return r.step + " " + r.codes() }

// subject says what a reply is about: the recipient, us or the server. It doesn't follow from the
// step of the reply: many servers reject at RCPT for reasons known since the connection was opened.
type subject int

const (
	aboutPolicy      subject = iota // our login, our sender, the message, or limits: perhaps of one recipient only
	aboutServer                     // the connection or the login: the same for every message
	aboutConnections                // we have opened more than it takes at a time
	aboutAddress                    // the recipient's address or mailbox
)

var (
	tooManyConnections = regexp.MustCompile(`(?i)too many (concurrent |simultaneous |smtp |open )*(connections|sessions)|concurrent|simultaneous|thread limit|connections? limit|(maximum|max) (number of )?(smtp )?(connections|sessions)`)
	greylisting        = regexp.MustCompile(`(?i)gr[ea]y.?list`)
	ofTheSender        = regexp.MustCompile(`(?i)\bsender\b|send.?as\b|sendas|\bmail from\b`)
	ofOurs             = regexp.MustCompile(`(?i)relay|authenti|log.?in|sender|helo\b|ehlo\b|client|policy|prohibit|permi|denied|block|blacklist|denylist|spam|reputation|rate|limit|too many|too much|throttl|try (again|later)`)
)

// throttles reports whether the server takes nothing from us for now, by a rule: servers say so at
// any step. Some say the same of one recipient, whom they want to see once more; see
// Server.evaluate.
func (r reply) throttles() bool {
	return r.code == 450 && strings.HasPrefix(r.enhanced, "4.7.") && !greylisting.MatchString(r.text)
}

// subject goes by the enhanced code: in RFC 3463, X.1 and X.2 are about the recipient's
// address and mailbox, all others about systems, networks, protocols and policy. Without
// one it goes by RFC 5321, and by the server's words.
func (r reply) subject() subject {
	early := r.step == stepConnect || r.step == stepMail
	switch {
	case r.code < 500 && tooManyConnections.MatchString(r.text):
		return aboutConnections
	case early || slices.Contains([]int{421, 530, 534, 535, 538}, r.code):
		return aboutServer
	case r.code < 500 && greylisting.MatchString(r.text):
		return aboutAddress // it wants to see this recipient once more, later
	case r.throttles():
		return aboutServer
	}
	if m := enhancedCode.FindStringSubmatch(r.enhanced); m != nil {
		kind, detail := m[2], m[3]
		switch {
		case kind != "1" && kind != "2", kind == "1" && (detail == "7" || detail == "8"), ofTheSender.MatchString(r.text):
			return aboutPolicy
		}
		return aboutAddress
	}
	if r.step == stepRcpt && slices.Contains([]int{450, 550, 551, 552, 553}, r.code) && !ofOurs.MatchString(r.text) {
		return aboutAddress
	}
	return aboutPolicy
}

// replyError is an error that is a mail server's reply.
type replyError struct {
	means error // ErrServer, ErrPolicy or ErrRefused; nil: this message is tried again, on its own
	reply reply
}

func (r reply) err() error {
	switch about := r.subject(); {
	case about == aboutServer, about == aboutConnections:
		return &replyError{ErrServer, r}
	case about == aboutPolicy:
		return &replyError{ErrPolicy, r}
	case r.code >= 500:
		return &replyError{ErrRefused, r}
	}
	return &replyError{nil, r}
}

func (e *replyError) Error() string {
	if e.means == nil {
		return e.reply.String()
	}
	return e.means.Error() + ": " + e.reply.String()
}

func (e *replyError) Unwrap() error { return e.means }

// replyOf returns the reply that the error is.
func replyOf(err error) (reply, bool) {
	e, ok := errors.AsType[*replyError](err)
	if !ok {
		return reply{}, false
	}
	return e.reply, true
}

// Reason returns why a hand-over failed, in the words for operators: without this
// package's own, which say what it did about it.
func Reason(err error) string {
	text := err.Error()
	for _, means := range []error{ErrServer, ErrPolicy, ErrRefused, ErrLate} {
		text = strings.TrimPrefix(text, means.Error()+": ")
	}
	return text
}

// quote returns what a server said, fit for a log: one line, at most 200 characters, and
// no address, link or other piece of the message, which servers like to repeat.
func quote(said string, m Message) string {
	to := address.Address(m.To)
	local := strings.TrimSuffix(m.To, "@"+to.Domain())
	body := strings.NewReplacer("=\r\n", "", "=3D", "=").Replace(string(m.Data))
	var out []string
	for _, field := range strings.FieldsFunc(said, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		word := strings.Trim(field, `<>()[]{}"'“”,;:.!?`)
		if word != "" && (strings.EqualFold(word, local) || hides(word, body)) {
			field = "…"
		}
		if field == "…" && len(out) > 0 && out[len(out)-1] == "…" {
			continue
		}
		out = append(out, field)
	}
	if len(out) == 1 && out[0] == "…" {
		return ""
	}
	return loggable(strings.Join(out, " "), 200)
}

var (
	looksLikeCode = regexp.MustCompile(`^(?i)[0-9a-z]{4}-?[0-9a-z]{4}$`)
	letters       = regexp.MustCompile(`^[\pL-]+$`)
)

// hides reports whether a word may be an address, a link or a secret.
func hides(word, body string) bool {
	switch {
	case strings.Contains(word, "@"), strings.Contains(word, "://"), strings.Contains(word, ".") && strings.Contains(word, "/"), strings.Contains(word, "=") && len(word) > 8:
		return true
	case len(word) >= 20 && !letters.MatchString(word):
		return true
	case looksLikeCode.MatchString(word) && strings.Contains(body, word):
		return true
	}
	return len(word) >= 6 && !letters.MatchString(word) && strings.Contains(body, word)
}

// loggable makes what a server said fit for a log: one line, at most so many characters.
func loggable(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

var codesIn = regexp.MustCompile(`(?:^|: )([45][0-9]{2})(?: ([245]\.[0-9]{1,3}\.[0-9]{1,3}))?(?: (.*))?$`)

// Advice returns what an operator does about a reason (see Reason), or "" where it says
// nothing that helps.
func Advice(reason string) string {
	step, rest, _ := strings.Cut(reason, ": ")
	if step == stepWebhook || step == stepReach {
		code, _, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(code)
		return adviceOnWebhook(n)
	}
	m := codesIn.FindStringSubmatch(reason)
	if m == nil {
		if step == stepConnect {
			return adviceOnConnecting(reason)
		}
		return ""
	}
	code, _ := strconv.Atoi(m[1])
	r := reply{step, code, m[2], m[3]}
	detail := enhancedCode.FindStringSubmatch(r.enhanced)
	is := func(kind, number string) bool {
		return detail != nil && detail[2] == kind && (number == "" || detail[3] == number)
	}
	says := func(pattern string) bool { return regexp.MustCompile("(?i)" + pattern).MatchString(r.text) }
	switch about := r.subject(); {
	case about == aboutConnections:
		return "The mail server takes fewer connections at a time; fewer are opened for a while. Nothing has to be done."
	case about == aboutAddress && code >= 500:
		return "No email reaches this address. Check its spelling."
	case about == aboutAddress:
		return "The mail server can't deliver to this address now, or wants to see the email once more later. It is tried again."
	case says("SmtpClientAuthentication is disabled"):
		return "SMTP AUTH is switched off in Microsoft 365. Let its admin allow it for this mailbox: Microsoft 365 admin center, the user, Mail, Manage email apps, Authenticated SMTP; and in Exchange where it is off for the whole tenant."
	case code == 535 && strings.Contains(r.text, strings.TrimSpace(byOAuth)):
		return "The mail server doesn't take the access token. `username` has to be the mailbox that `refresh_token` is for, and the token has to be for sending by SMTP (SMTP.Send at Microsoft, https://mail.google.com/ at Google)."
	case code == 534 || code == 535 || is("7", "8"):
		return "The mail server doesn't take our login. Check username and password in the block of `mail smtp`."
	case code == 530 || code == 538 || says("authenti|log.?in required"):
		return "The mail server wants a login. Write username and password in the block of `mail smtp`."
	case says("relay"):
		return "The mail server doesn't send for us to other domains. Write username and password in the block of `mail smtp`, or let its admin allow this machine to relay."
	case says("sender|send.?as|mail from") || is("1", "7") || is("1", "8") || is("7", "60"):
		return "The mail server doesn't let us send from the address in `from` of the brand. Allow it there, or write another `from`."
	case code == 552 || is("3", "4") || is("2", "3"):
		return "The mail server says that the email is too large. Let its admin allow 100 KB, or use a smaller template."
	case code == 421 || code < 500 && (is("7", "") || says("rate|limit|too (many|much)|throttl")):
		return "The mail server takes no more from us for now. It is tried again; if that happens often, write a lower `rate` in the block of `mail smtp`."
	case code == 452 || is("3", "1"):
		return "The mail server has no room for now. It is tried again."
	case is("4", ""):
		return "The mail server can't pass the email on: a matter of its network or of DNS. Ask its admin."
	case is("7", ""):
		return "It is a rule of the mail server. Ask its admin, with these words."
	}
	return "Ask the mail server's admin, with these words."
}

func adviceOnConnecting(reason string) string {
	for _, c := range []struct{ says, advice string }{
		{"; write ", ""}, // it says so itself
		{"OAuth: ", "Check the block `oauth` of `mail smtp`."},
		{"connection refused", "Nothing answers there. Check host and port of `mail smtp`, and whether the mail server runs."},
		{"no such host", "There is no host of this name. Check host and port of `mail smtp`, and this machine's DNS."},
		{"certificate", "Check the host name in `mail smtp`, and the mail server's certificate."},
		{"timeout", "Nothing answers in time. Check host and port of `mail smtp`, and whether a firewall is between."},
		{"deadline", "Nothing answers in time. Check host and port of `mail smtp`, and whether a firewall is between."},
		{"unreachable", "There is no way there. Check host and port of `mail smtp`, and this machine's network."},
	} {
		if strings.Contains(reason, c.says) {
			return c.advice
		}
	}
	return "Check the block of `mail smtp`, and whether the mail server runs."
}

// errNotSMTP: the server's answer can't be read.
var errNotSMTP = errors.New("the server's answer isn't SMTP")

// readLines reads one answer. Its text may be missing (RFC 5321, section 4.2), so it is
// read here: textproto takes a bare "250" for an error, after the server has accepted the
// message.
func readLines(r *textproto.Reader) (code int, lines []string, err error) {
	for {
		line, err := r.ReadLine()
		if err != nil {
			return 0, nil, err
		}
		if len(line) < 3 || !digits(line[:3]) || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return 0, nil, errNotSMTP
		}
		if code, err = strconv.Atoi(line[:3]); err != nil {
			return 0, nil, errNotSMTP
		}
		if len(line) > 4 {
			lines = append(lines, line[4:])
		}
		if len(line) == 3 || line[3] == ' ' {
			return code, lines, nil
		}
	}
}

// joined returns the lines of an answer as one, of which each but the first may begin with the
// enhanced code once more.
func joined(lines []string) string {
	all := slices.Clone(lines)
	for i := 1; i < len(all); i++ {
		all[i] = strings.TrimSpace(strings.TrimPrefix(all[i], enhancedCode.FindString(lines[0])))
	}
	return strings.Join(all, " ")
}

func digits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
