package brand

import (
	"cmp"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"
	"unicode"

	"golang.org/x/text/unicode/bidi"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

//go:embed mails
var builtIn embed.FS

// The kinds of messages.
const (
	KindSignIn          = "sign-in"          // with the sign-in link
	KindSetPassword     = "set-password"     // with the link to set a password
	KindPasswordChanged = "password-changed" // tells that it was set or removed
	KindNewDevice       = "new-device"       // tells of a sign-in on a device not seen before
	KindNewQuestions    = "new-questions"    // a notice: something waits in the portal
	KindReportPublished = "report-published" // a notice: a report was published
	KindPortalUpdate    = "portal-update"    // the announcement: old links ask for sign-in
)

// Messages writes a firm's mails. It is safe for use by many goroutines.
type Messages struct {
	firm   firmTags
	from   string // address
	name   string // before it
	answer string // Reply-To
	look   Look

	templateSet

	trying bool // no built-in template takes the place of one that fails

	// Log is told of a template that failed for one mail; the built-in one was used in its place.
	// nil: nobody is.
	Log *slog.Logger
}

// pair is a message in both its forms. The first line of the text is the subject.
type pair struct {
	text    *texttemplate.Template
	html    *htmltemplate.Template
	wrap    bool  // long lines of the text are broken
	builtIn *pair // takes the place of one that fails; nil: nothing does
}

// NewMessages reads the templates of the messages. Each kind has two, KIND.txt, whose first
// line is "Subject: …", and KIND.html; a file of that name in folder/mails replaces
// the built-in one. frame.html is the common part of the built-in .html files; those in folder
// need not use it. folder may be empty, and so may folder/mails.
//
// Each template is tried with made-up data, so that errors appear now. They name the file, usually
// the line, and the remedy.
func NewMessages(b Brand, folder string) (*Messages, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	sender, err := b.Sender()
	if err != nil {
		return nil, err
	}
	l := &Messages{firm: firmTags{b.Name, b.Support}, from: sender.Address, name: sender.Name, look: b.Look()}
	if l.name == "" {
		l.name = b.Name
	}
	if b.ReplyTo != "" {
		a, err := address.Parse(b.ReplyTo)
		if err != nil {
			return nil, fmt.Errorf("reply_to: %w", err)
		}
		l.answer = string(a)
	}
	if folder == "" {
		l.templateSet, err = builtInTemplates()
		return l, err
	}
	if l.templateSet, err = readTemplates(folder); err != nil {
		return nil, err
	}
	l.trying = true
	err = l.tryOut()
	l.trying = false
	return l, err
}

// templateSet has the templates of all messages.
type templateSet struct {
	languages *language.Languages
	pairs     map[string]map[string]pair         // by language and kind, or the name of a template of the firm's own
	texts     map[string]map[string]textTemplate // by language and the name of the notice
}

// builtInTemplates are those of every firm without templates of its own. That they work, tests show.
var builtInTemplates = sync.OnceValues(func() (templateSet, error) { return readTemplates("") })

func readTemplates(folder string) (t templateSet, err error) {
	if t.languages, err = language.Load(folder); err != nil {
		return t, err
	}
	own, err := ownTemplates(folder)
	if err != nil {
		return t, err
	}
	t.pairs = map[string]map[string]pair{}
	for _, lang := range t.languages.All() {
		if t.pairs[lang.Tag], err = readPairs(lang, folder, own); err != nil {
			return t, err
		}
	}
	t.texts, err = readTexts(folder, t)
	return t, err
}

// readPairs reads all messages in one language. own are the names of the folder's templates that are none of the
// built-in ones.
func readPairs(lang *language.Language, folder string, own []string) (map[string]pair, error) {
	all := map[string]pair{}
	for _, kind := range slices.Concat(otherKinds, noticeKinds) {
		builtIn, err := readPair(lang, "", kind)
		if err != nil {
			return nil, err
		}
		p := builtIn
		if folder != "" && kind != kindTest {
			if p, err = readPair(lang, folder, kind); err != nil {
				return nil, err
			}
			p.builtIn = &builtIn
		}
		all[kind] = p
	}
	for _, name := range own {
		p, err := readPair(lang, folder, name)
		if err != nil {
			return nil, err
		}
		builtIn := all[KindNewQuestions]
		if builtIn.builtIn != nil {
			builtIn = *builtIn.builtIn
		}
		p.builtIn = &builtIn
		all[name] = p
	}
	return all, nil
}

func readPair(lang *language.Language, folder, kind string) (p pair, err error) {
	funcs := map[string]any{"list": func(items list) string { return lang.List(items) }}
	text, name, err := readTemplate(folder, kind+".txt")
	if err != nil {
		return p, err
	}
	p.wrap = strings.HasPrefix(name, builtInFolder)
	if p.text, err = texttemplate.New(name).Option("missingkey=zero").Funcs(funcs).Parse(lang.Source(language.Plain, text)); err != nil {
		return p, templateError(err)
	}
	frame, name, err := readTemplate(folder, "frame.html")
	if err != nil {
		return p, err
	}
	if p.html, err = htmltemplate.New(name).Option("missingkey=zero").Funcs(funcs).Parse(lang.Source(language.HTML, frame)); err != nil {
		return p, templateError(err)
	}
	html, name, err := readTemplate(folder, kind+".html")
	if err != nil {
		return p, err
	}
	p.html, err = p.html.New(name).Parse(lang.Source(language.HTML, html))
	return p, templateError(err)
}

// builtInFolder begins the names of built-in templates.
const builtInFolder = "mails/"

// readTemplate returns a template and its path, for errors.
func readTemplate(folder, file string) (text, name string, err error) {
	if folder != "" {
		name = filepath.Join(folder, "mails", file)
		b, err := ReadTemplateFile(name)
		if err == nil {
			return string(b), name, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", name, fmt.Errorf("reading a mail template: %w", err)
		}
	}
	b, err := builtIn.ReadFile(builtInFolder + file)
	return string(b), builtInFolder + file, err
}

// maxTemplate is the size of a template in bytes, far above what pages and mails need.
const maxTemplate = 1 << 20

// ReadTemplateFile reads a template. It reads only regular files: a device or a pipe may never end.
func ReadTemplateFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case info.Size() > maxTemplate:
		return nil, fmt.Errorf("%s is larger than %d KiB", path, maxTemplate>>10)
	}
	return os.ReadFile(path)
}

// tryOut writes each message in each language for somebody of whom everything is known, and for somebody
// of whom nothing is.
func (l *Messages) tryOut() error {
	for _, lang := range l.languages.All() {
		for name, p := range l.pairs[lang.Tag] {
			if name == kindTest {
				continue
			}
			for _, poor := range []bool{false, true} {
				samples, err := l.samples(name, lang.Tag, poor, trialLinks)
				if err != nil {
					return err
				}
				for _, one := range samples {
					switch why := needsLink[name]; {
					case name == KindPasswordChanged || name == KindNewDevice:
					case !strings.Contains(one.Message.Text, one.link):
						return fmt.Errorf("%s: {{.Link}} is missing; %s", p.text.Name(), cmp.Or(why, noticeLink))
					case !strings.Contains(one.Message.HTML, one.link):
						return fmt.Errorf("%s: {{.Link}} is missing; %s", p.html.Name(), cmp.Or(why, noticeLink))
					}
				}
			}
		}
	}
	return l.tryOutTexts()
}

// needsLink says why the link has to be in a message.
var needsLink = map[string]string{KindSignIn: "without it nobody gets in", KindSetPassword: "without it nobody can set a password", KindPortalUpdate: "without it nobody finds their pages"}

const noticeLink = "without it nobody finds what waits for them"

// Mail has the data of a message, and its recipient.
type Mail struct {
	To                  string        // the stored address, in the form of package address
	FirstName, LastName string        // either may be empty
	Companies           []string      // their names
	Link                string        // an absolute URL, short and without "&", which some mail programs break
	Code                string        // as it is shown: abcd-efgh
	Life                time.Duration // of link and code, from the hand-over
	AskedAt             time.Time     // in the time zone that the message is to name it in
	Agent               string        // the browser in our words, such as "Safari on iPhone"; others are left out
	Language            string        // a tag that Language returned; "": English
}

// Language returns the tag of the language for a contact: that of their locale, else the best of those that their
// browser accepts, else English. accept has the form of the header Accept-Language; it may be a tag.
func (l *Messages) Language(locale, accept string) string {
	return l.languages.Choose(locale, accept).Tag
}

// Languages returns the tags of all languages, English first.
func (l *Messages) Languages() (tags []string) {
	for _, lang := range l.languages.All() {
		tags = append(tags, lang.Tag)
	}
	return tags
}

// SignIn is the message with the sign-in link.
type SignIn Mail

// SetPassword is the message with the link to set a password.
type SetPassword struct {
	Mail
	ByStaff bool // the contact didn't ask for it: the firm did
}

// PasswordChanged is the message that tells of a password that was set, or removed.
type PasswordChanged struct {
	Mail
	Removed bool
}

// NewDevice is the message that tells of a sign-in on a device not seen before.
type NewDevice struct {
	Mail
	ByPassword bool // they signed in with the password, not by a mail
}

// PortalUpdate is the announcement that old links ask for sign-in. Its Link is that of the contact's pages.
type PortalUpdate struct {
	Mail
	Open bool // old links of a company of theirs don't ask yet
}

// tags are what templates may say; docs/caddyfile.md lists them.
type tags struct {
	Contact   contactTags
	Company   companyTags // the contact's only one; of several, or none, it is empty
	Companies list
	Firm      firmTags
	Link      string
	Code      string
	ExpiresIn string // "10 minutes"
	Asked     string // "at 10:02 from Safari on iPhone"
	Time      string // "10:02:31": when it was asked for, so that no two subjects are the same
	Site      string // "clients.example.com": where the link leads, and the code belongs
	Day       string // "29 November": of Time
	Look      Look
	Language  string // the tag of the message's language, such as "es"

	Data map[string]string // in a notice: what it brings

	ByStaff    bool // in set-password: the firm has asked for it
	Removed    bool // in password-changed: there is no password any more
	ByPassword bool // in new-device: it was with the password
	Open       bool // in portal-update: old links of a company of theirs don't ask for sign-in yet
}

type (
	contactTags struct{ FirstName, LastName, Email string }
	companyTags struct{ Name string }
	firmTags    struct{ Name, Support string }
	list        []string // {{.Companies}} is "Acme, Baker", {{range .Companies}} is one by one
)

func (l list) String() string { return strings.Join(l, ", ") }

// SupportLine is Support in pieces, of which some are links.
func (f firmTags) SupportLine() []Span { return SupportLine(f.Support) }

// CodeParts is the code in pieces that stand beside one another without a character between
// them, so that a double click takes all of it.
func (t tags) CodeParts() []string { return strings.Split(t.Code, "-") }

// isolated are the tags for plain text, where a name that is written from right to left
// mustn't turn the line around it (Unicode UAX 9: first strong isolate).
func (t tags) isolated() tags {
	t.Firm.Name, t.Contact.FirstName, t.Contact.LastName, t.Company.Name = isolate(t.Firm.Name), isolate(t.Contact.FirstName), isolate(t.Contact.LastName), isolate(t.Company.Name)
	t.Companies = slices.Clone(t.Companies)
	for i, c := range t.Companies {
		t.Companies[i] = isolate(c)
	}
	t.Data = maps.Clone(t.Data)
	for name, value := range t.Data {
		t.Data[name] = isolate(value)
	}
	return t
}

func isolate(s string) string {
	const begin, end = "\u2068", "\u2069"
	if !strings.ContainsFunc(s, fromRight) {
		return s
	}
	return begin + s + end
}

// fromRight reports whether a letter is written from right to left.
func fromRight(r rune) bool {
	p, _ := bidi.LookupRune(r)
	return p.Class() == bidi.R || p.Class() == bidi.AL
}

const tagNames = "{{.Contact.FirstName}}, {{.Contact.LastName}}, {{.Contact.Email}}, {{.Company.Name}}, {{.Companies}}, " +
	"{{.Firm.Name}}, {{.Firm.Support}}, {{.Link}}, {{.Code}}, {{.ExpiresIn}}, {{.Asked}}, {{.Time}}, {{.Day}}, {{.Site}}, {{.Language}}, and {{.Data.NAME}} in a notice"

// ours matches the names that a browser may have. Nothing that a visitor can write into a request
// may get into a mail from the firm (CVE-2022-31127).
var ours = regexp.MustCompile(`^[A-Za-z0-9 ]{1,60}$`)

// SignIn writes the message with the sign-in link.
func (l *Messages) SignIn(d SignIn) (Message, error) {
	t, err := l.tags(d)
	if err != nil {
		return Message{}, err
	}
	return l.write(KindSignIn, d.To, t)
}

// SetPassword writes the message with the link to set a password; it has no code.
func (l *Messages) SetPassword(d SetPassword) (Message, error) {
	t, err := l.tags(SignIn(d.Mail))
	if err != nil {
		return Message{}, err
	}
	t.ByStaff = d.ByStaff
	return l.write(KindSetPassword, d.To, t)
}

// PasswordChanged writes the message that tells of a password that was set or removed. Its
// Link leads to where who didn't do that sets another; its time is when it was done.
func (l *Messages) PasswordChanged(d PasswordChanged) (Message, error) {
	t, err := l.tags(SignIn(d.Mail))
	if err != nil {
		return Message{}, err
	}
	t.Removed = d.Removed
	return l.write(KindPasswordChanged, d.To, t)
}

// NewDevice writes the message that tells of a sign-in on a device not seen before. Its
// Link leads to where who didn't do that keeps others out; its time is that of the sign-in.
func (l *Messages) NewDevice(d NewDevice) (Message, error) {
	t, err := l.tags(SignIn(d.Mail))
	if err != nil {
		return Message{}, err
	}
	t.ByPassword = d.ByPassword
	return l.write(KindNewDevice, d.To, t)
}

// PortalUpdate writes the announcement.
func (l *Messages) PortalUpdate(d PortalUpdate) (Message, error) {
	t, err := l.tags(SignIn(d.Mail))
	if err != nil {
		return Message{}, err
	}
	t.Open = d.Open
	return l.write(KindPortalUpdate, d.To, t)
}

// Test writes a message that says only that it is a test, for operators. No template of a folder
// stands in for it.
func (l *Messages) Test(to string, at time.Time) (Message, error) {
	return l.write(kindTest, to, tags{Contact: contactTags{Email: to}, Firm: l.firm, Time: at.Format("15:04:05"), Look: l.look, Language: language.English.Tag})
}

// tags fills in what all messages say.
func (l *Messages) tags(d SignIn) (tags, error) {
	host, ok := wholeLink(d.Link)
	if !ok {
		return tags{}, errors.New("the link is not one that mail programs leave whole")
	}
	zone := ""
	if name, _ := d.AskedAt.Zone(); name == "UTC" {
		zone = " UTC" // a server's clock, not that of the people around it
	}
	lang := l.languages.Choose(d.Language, "")
	t := tags{
		Contact: contactTags{oneLine(d.FirstName), oneLine(d.LastName), d.To},
		Firm:    l.firm, Link: d.Link, Code: oneLine(d.Code), ExpiresIn: inWords(lang, d.Life),
		Time: d.AskedAt.Format("15:04:05") + zone, Day: lang.Date(d.AskedAt, "2 January"), Site: host, Look: l.look, Language: lang.Tag,
	}
	asked := d.AskedAt.Format("15:04") + zone
	if t.Asked = lang.Text(language.Say("at {1}", asked)); ours.MatchString(d.Agent) {
		t.Asked = lang.Text(language.Say("at {1} from {2}", asked, lang.Browser(d.Agent)))
	}
	for _, c := range d.Companies {
		t.Companies = append(t.Companies, oneLine(c))
	}
	if len(t.Companies) == 1 {
		t.Company.Name = t.Companies[0]
	}
	return t, nil
}

// LeavesWhole reports whether mail programs leave a link as it is: an absolute URL, short and without
// "&", quotes and the like.
func LeavesWhole(link string) bool {
	_, ok := wholeLink(link)
	return ok
}

func wholeLink(link string) (host string, ok bool) {
	u, err := url.Parse(link)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" ||
		len(link) > 250 || strings.ContainsFunc(link, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`&"'<>\`, r) }) {
		return "", false
	}
	return u.Host, true
}

// write writes a message. Where the firm's own template fails, which it didn't with made-up data, the
// built-in one is used.
func (l *Messages) write(kind, to string, t tags) (Message, error) {
	p, ok := l.pairs[t.Language][kind]
	if !ok {
		return Message{}, fmt.Errorf("%w: %q", ErrTemplate, kind)
	}
	letter, err := l.fill(p, to, t)
	if err == nil || p.builtIn == nil || l.trying {
		return letter, err
	}
	if l.Log != nil {
		l.Log.Error("a mail template failed, so the built-in one was used for this mail", "error", err, "what_to_do", "correct the template and reload")
	}
	return l.fill(*p.builtIn, to, t)
}

func (l *Messages) fill(p pair, to string, t tags) (Message, error) {
	if a, err := address.Parse(to); err != nil || string(a) != to {
		return Message{}, errors.New("the recipient's address isn't in its canonical form")
	}
	var text, html strings.Builder
	if err := p.text.Execute(&text, t.isolated()); err != nil {
		return Message{}, templateError(err)
	}
	if err := p.html.Execute(&html, t); err != nil {
		return Message{}, templateError(err)
	}
	first, rest, _ := strings.Cut(text.String(), "\n")
	if p.wrap {
		rest = wrapLines(rest)
	}
	subject, ok := strings.CutPrefix(first, "Subject:")
	if subject = oneLine(subject); !ok || subject == "" {
		return Message{}, fmt.Errorf("%s:1: the first line is the subject: write Subject: Your sign-in link for {{.Firm.Name}} ({{.Time}})", p.text.Name())
	}
	return Message{
		FromName: l.name, From: l.from, ReplyTo: l.answer, To: to,
		Subject: subject, Text: strings.TrimSpace(rest) + "\n", HTML: strings.TrimSpace(html.String()) + "\n",
		MessageID: strings.ToLower(rand.Text()) + "@" + address.Address(l.from).Domain(),
	}, nil
}

// noField is how the template packages say that a tag doesn't exist.
var noField = regexp.MustCompile(`^template: (.+:\d+):\d+: executing .* at <([^>]*)>: can't evaluate field`)

// templateError puts an error of the template packages as the operator needs it: the
// file and line first.
func templateError(err error) error {
	if err == nil {
		return nil
	}
	if m := noField.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("%s: {{%s}} is no merge tag; there are %s", m[1], m[2], tagNames)
	}
	s := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "html/"), "template:")
	return errors.New(strings.TrimSpace(s))
}

// oneLine removes what would begin a new line, or hide or turn round what follows, from
// a value that isn't ours.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), r == unicode.ReplacementChar, unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// inWords says how long, as a person would.
func inWords(l *language.Language, d time.Duration) string {
	n := func(english string, n time.Duration) string {
		return l.Text(language.Say(english, strconv.Itoa(int(n))))
	}
	switch minutes := d / time.Minute; {
	case minutes < 1:
		return n("{1} seconds", d/time.Second)
	case minutes == 1:
		return l.Text("1 minute")
	case minutes == 60:
		return l.Text("1 hour")
	case minutes > 60 && minutes%60 == 0:
		return n("{1} hours", minutes/60)
	default:
		return n("{1} minutes", minutes)
	}
}
