package gate

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

//go:embed pages
var pageFiles embed.FS

// Chrome is what all pages of a firm share: how the firm looks, and where its pages lie.
type Chrome struct {
	// Name of the firm. On top of every page and in its title.
	Name string
	// Support says how to reach a person; addresses and phone numbers in it become links.
	// Empty: pages have no support line.
	Support string
	// LogoURL is a path on this site. Empty: the firm's initial stands in its place.
	LogoURL string
	// Prefix of the gate's own pages, such as "/-"; without a slash at the end.
	Prefix string
	// CSS colours of buttons and underlines, and of the text on them, on a light and on a
	// dark page. An On… colour must be readable on its accent. Empty: a quiet green.
	LightAccent, LightOnAccent, DarkAccent, DarkOnAccent string
	// Lang is the language of the texts (BCP 47). Empty: "en".
	Lang string
	// Passwords: people can sign in by password, so pages lead to where they do.
	Passwords bool
	// MailFrom is the address that mails come from, as SentPage shows it. Empty: it says nothing of it.
	MailFrom string
}

// Page is one of the page structs below.
type Page interface {
	file() string // its template in pages/
}

// PromptPage asks who is there. It stands at the very URL asked for, with 401, or at {prefix}/sign-in.
// Its form: POST {prefix}/sign-in with email, to, shared ("1" where ticked).
type PromptPage struct {
	To      string // path on this site to go on to; the page's script adds the fragment of its own URL
	Email   string // as it was typed, when the form is shown again
	Problem string // what is wrong with Email; empty: nothing
	Shared  bool   // "This is a shared computer" is ticked
	Heading string // empty: "Sign in"
	Text    string // under the heading; empty: what will happen
}

// SentPage says that a mail is on its way if the address is known, and takes the code.
// It reads the same for every address. Its forms: POST CodeAction with code;
// POST {prefix}/sign-in with email (or t), to, shared: the mail again.
type SentPage struct {
	Address    string // as typed; or in part, if Masked
	Masked     bool   // the address was not typed: it is that of a link
	From       string // where the mail comes from; empty: Chrome.MailFrom
	To         string // path on this site to go on to
	Shared     bool
	T          string // the link whose address is meant, in place of an address typed; empty: Address is sent again
	ResendIn   int    // seconds until the mail may be asked for again
	HelpIn     int    // seconds until other ways are shown; 0: two minutes
	Waited     bool   // other ways are shown at once
	Problem    string // what is wrong with the code typed; empty: nothing
	CodeAction string // where the code goes; empty: {prefix}/code
}

// LinkPage asks for the address of a link that was opened in a browser that didn't ask for it.
// Its form: POST {prefix}/link with t, email.
type LinkPage struct {
	T          string
	Masked     string // the link's address, in part
	Email      string // as it was typed, when the form is shown again
	SignedInAs string // somebody else's address, who is signed in here and would not be any more; empty: nobody
	Problem    string // what is wrong with Email; empty: nothing
}

// SpentLinkPage is shown for a link that was good once, and sends a new one to the same address.
// Its form: POST {prefix}/sign-in with t, shared.
type SpentLinkPage struct {
	T      string
	Masked string // the link's address, in part
	To     string // path on this site to go on to, for who uses another address
	Shared bool
}

// UnknownLinkPage is shown for a link that leads nowhere; it names nobody.
// Its form: POST {prefix}/sign-in with email, to, shared.
type UnknownLinkPage struct {
	To string
}

// PasswordPage asks for address and password: "sign in manually".
// Its form: POST {prefix}/password with email, password, to, shared.
type PasswordPage struct {
	To      string // path on this site to go on to
	Email   string // as it was typed, when the form is shown again
	Shared  bool
	Set     bool   // they have just chosen a password
	Problem string // why it did not work; empty: nothing
}

// HelpPage is for who has no password, or has lost it: "get help signing in".
// Its form: POST {prefix}/help with email, to.
type HelpPage struct {
	To      string
	Email   string // as it was typed, when the form is shown again
	NoLink  bool   // they come from a link to set a password that leads nowhere
	Problem string // what is wrong with Email; empty: nothing
}

// HelpSentPage says that a mail with a link to set a password is on its way if the address
// is known. It reads the same for every address.
// Its form: POST {prefix}/help with email (or t), to: the mail again.
type HelpSentPage struct {
	Address  string // as typed; or in part, if Masked
	Masked   bool
	From     string // where the mail comes from; empty: Chrome.MailFrom
	To       string
	T        string // the link whose address is meant, in place of an address typed
	ResendIn int    // seconds until the mail may be asked for again
}

// SetPasswordPage asks for a new password. Its form: POST {prefix}/password/set with t, password.
type SetPasswordPage struct {
	T       string
	Masked  string // whose it will be: the address, in part
	Least   int    // characters that it needs
	Problem string // why the one typed may not be chosen; empty: nothing
}

// SpentPasswordPage is shown for a link to set a password that was good once, and sends a
// new one to the same address. Its form: POST {prefix}/help with t.
type SpentPasswordPage struct {
	T      string
	Masked string // the link's address, in part
	To     string // path on this site to go on to, for who uses another address
}

// DeviceRow is a browser that somebody is signed in on.
type DeviceRow struct {
	Handle      string
	Agent       string // in words, such as "Safari on iPhone"
	First, Last time.Time
	Here        bool // it is the one that shows the page
}

// AccountPage is what somebody who is signed in can see and change of themselves. Its forms:
// POST {prefix}/devices with handle, or others ("1"); POST {prefix}/password/change with
// current, password; POST {prefix}/password/remove with current; POST {prefix}/help with email.
type AccountPage struct {
	Name      string
	Emails    []string // the main one first
	Companies []string // names
	More      bool     // they have more than those
	Devices   []DeviceRow
	Since     time.Time // when the password was chosen; zero: there is none
	Fresh     bool      // they have just signed in by mail, so nobody asks for the current password
	Least     int       // characters that a password needs
	Done      string    // what was just done; empty: nothing
	Problem   string    // why the password was not changed; empty: nothing
	WrongNew  bool      // Problem is about the new password, not the current one
}

// FramePage stands in a frame, where signing in can't be: one link opens URL in the whole window.
// It is the one page that may be framed. It holds nothing of anybody's, and nothing to press but that link.
type FramePage struct {
	URL string
}

// Field is one name and value of a form, or of a mail's header.
type Field struct{ Name, Value string }

// HeldFormPage keeps a form that was sent by somebody who isn't signed in (any more): they sign in in a
// new tab, and send it from here. The fields keep their order, repeated names, and bytes: values that
// aren't UTF-8 leave as they came, but for NUL, which HTML can't hold, and single CR or LF, which leave
// as CR LF, as from every form.
type HeldFormPage struct {
	Action    string // path and query that the form was meant for
	Fields    []Field
	SignInURL string // opened in a new tab
}

// SignOutPage asks before it signs out. Its form: POST {prefix}/sign-out.
type SignOutPage struct {
	Email string // who is signed in; empty: it isn't said
}

// SignedOutPage says that it's done, and leads to the prompt.
type SignedOutPage struct{}

// CompanyRow is a company of CompaniesPage.
type CompanyRow struct {
	Name string
	URL  string // of its page; empty: it has none
}

// CompaniesPage lists the companies of who is signed in.
// Its form: GET {prefix}/companies with q.
type CompaniesPage struct {
	Email     string // who is signed in
	None      bool   // they have no company at all
	Companies []CompanyRow
	Search    bool   // there are enough to search among
	Query     string // as it was typed
	More      bool   // there are more than are shown
}

// MessagePage says what went wrong and what to do. MessageFor has the usual ones.
type MessagePage struct {
	Title, Text string
	URL         string // of one button; empty: there is none
	Link        string // what the button says; empty: "Try again"
}

// MailRow is one mail of MailboxPage.
type MailRow struct {
	URL               string // of its MailPage
	From, To, Subject string
	Time              time.Time
}

// MailboxPage lists the mails of a mail folder, in the order given.
type MailboxPage struct {
	URL   string // its own, to look again
	Mails []MailRow
}

// MailPage shows one mail of a mail folder, its links ready to be followed.
type MailPage struct {
	MailboxURL        string
	From, To, Subject string
	Time              time.Time
	Headers           []Field // further ones to show
	Text              string  // the plain text part; empty: there is none
	HTMLURL           string  // where WriteMailHTML gives the HTML part; empty: there is none
}

func (PromptPage) file() string        { return "prompt.html" }
func (SentPage) file() string          { return "sent.html" }
func (LinkPage) file() string          { return "link.html" }
func (SpentLinkPage) file() string     { return "spent.html" }
func (UnknownLinkPage) file() string   { return "unknown.html" }
func (PasswordPage) file() string      { return "password.html" }
func (HelpPage) file() string          { return "help.html" }
func (HelpSentPage) file() string      { return "help-sent.html" }
func (SetPasswordPage) file() string   { return "set-password.html" }
func (SpentPasswordPage) file() string { return "spent-password.html" }
func (AccountPage) file() string       { return "account.html" }
func (FramePage) file() string         { return "frame.html" }
func (HeldFormPage) file() string      { return "held.html" }
func (SignOutPage) file() string       { return "sign-out.html" }
func (SignedOutPage) file() string     { return "signed-out.html" }
func (CompaniesPage) file() string     { return "companies.html" }
func (MessagePage) file() string       { return "message.html" }
func (MailboxPage) file() string       { return "mailbox.html" }
func (MailPage) file() string          { return "mail.html" }

// MessageFor returns the page for an error that has no page of its own. What caused it is the
// operator's to read, in the log; here it is what a visitor can do.
func MessageFor(status int) MessagePage {
	home := MessagePage{URL: "/", Link: "Go to the start page"}
	switch status {
	case http.StatusBadRequest:
		home.Title, home.Text = "This did not work", "Something in this address or form could not be read. Please go back and try once more."
	case http.StatusForbidden:
		home.Title, home.Text = "This was stopped", "It came from another website, so we did not go on, to keep you safe. If it was you, please begin on our own page."
	case http.StatusNotFound:
		home.Title, home.Text = "There is no page here", "The address may have been typed wrong, or the page has moved."
	case http.StatusMethodNotAllowed:
		home.Title, home.Text = "This page can’t do that", "Please go back and try once more, or begin again."
	case http.StatusRequestEntityTooLarge:
		home.Title, home.Text = "This is too large", "We can’t take this much at once. Please go back and send less."
	case http.StatusTooManyRequests:
		return MessagePage{Title: "Please wait a little", Text: "There were many tries in a short time. Please wait a few minutes, then try once more. Nothing is lost."}
	case http.StatusServiceUnavailable:
		return MessagePage{Title: "Please try again soon", Text: "We can’t do this at the moment. Please wait a minute, then load this page once more."}
	default:
		return MessagePage{Title: "Something went wrong", Text: "This is our mistake, not yours. Please wait a minute, then load this page once more."}
	}
	return home
}

// Pages renders the gate's own pages in the firm's look. It is safe for use by many goroutines.
type Pages struct {
	templates map[string]*template.Template // by Page.file
	policies  map[string]string             // Content-Security-Policy by Page.file
	firm      pageFirm
	prompt    []string  // the PromptPage that has To alone, cut where To goes; nil: it is rendered as any page
	buffers   sync.Pool // of *bytes.Buffer
}

// NewPages parses the pages and renders each with made-up data, so that what is wrong with one shows
// now. A file pages/NAME in overrideDir stands in for the built-in one of that name (the .html files,
// page.css, page.js); overrideDir may be empty, and needn't have a folder pages. Templates see
// {{.Firm}}, the Chrome, and {{.Page}}, the page's struct; pages define "title" and "main". A style or
// script of their own, outside page.css and page.js, is refused by the browser. An error names file and line.
func NewPages(c Chrome, overrideDir string) (*Pages, error) {
	source, err := readPageFiles(overrideDir)
	if err != nil {
		return nil, err
	}
	p := &Pages{templates: map[string]*template.Template{}, policies: map[string]string{}}
	p.buffers.New = func() any { return new(bytes.Buffer) }
	if p.firm, err = newPageFirm(c, source); err != nil {
		return nil, err
	}
	policy := "default-src 'none'; style-src " + cspHash(string(p.firm.CSS)) + "; script-src " + cspHash(string(p.firm.JS)) +
		"; img-src 'self'; base-uri 'none'"
	for _, page := range samplePages() {
		file := page.file()
		if p.templates[file] == nil {
			if p.templates[file], err = parsePage(source, file); err != nil {
				return nil, err
			}
			p.policies[file] = policy + policyOf(page)
		}
		if err := p.render(new(bytes.Buffer), page); err != nil {
			return nil, fmt.Errorf("%s: %w", source[file].path, err)
		}
	}
	if source["layout.html"].own || source["parts.html"].own || source["prompt.html"].own {
		return p, nil // such a template may do anything with To
	}
	p.prompt, err = p.cutPrompt()
	return p, err
}

// cutPrompt renders, once, the page that everybody who isn't signed in gets, and a flood of them: all
// but To is the same for everyone.
func (p *Pages) cutPrompt() ([]string, error) {
	const to = "hereGoesTo"
	var buf bytes.Buffer
	if err := p.render(&buf, PromptPage{To: to}); err != nil {
		return nil, err
	}
	return strings.Split(buf.String(), to), nil
}

// Write answers with a page and its headers; net/http leaves out the body for HEAD. The error is for
// the log: the page couldn't be rendered, and a plain 500 was sent in its place. That the visitor went
// away is no error.
func (p *Pages) Write(w http.ResponseWriter, status int, page Page) error {
	buf := p.buffers.Get().(*bytes.Buffer)
	defer p.release(buf)
	err := p.render(buf, page)
	if err != nil {
		status = http.StatusInternalServerError
		buf.Reset()
		buf.WriteString("<!doctype html><title>Something went wrong</title><h1>Something went wrong</h1><p>Please wait a minute, then load this page once more.</p>")
		page = MessagePage{} // of no kind that has a policy of its own
	}
	h := w.Header()
	h.Set("Content-Security-Policy", p.policies[page.file()])
	if page.file() != (FramePage{}).file() {
		h.Set("X-Frame-Options", "DENY")
	}
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	// Not no-referrer: browsers would then send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "strict-origin")
	writeHTML(w, status, buf.Bytes())
	return err
}

// WriteMailHTML answers with the HTML part of a mail, as MailPage frames it: without scripts, without
// anything from elsewhere, of an origin of its own, its links opening in the whole window.
func (p *Pages) WriteMailHTML(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'; "+
		"sandbox allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "no-referrer")
	const base = `<base target="_top">`
	if at := mailHead.FindIndex(body); at != nil {
		body = slices.Concat(body[:at[1]], []byte(base), body[at[1]:])
	} else {
		body = slices.Concat([]byte("<!doctype html>"+base), body)
	}
	writeHTML(w, http.StatusOK, body)
}

var mailHead = regexp.MustCompile(`(?i)<head(\s[^>]*)?>`)

// writeHTML sends a body with the headers that all of ours have.
func writeHTML(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Permissions-Policy", "browsing-topics=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the visitor may be gone: nobody is left to tell
}

// policyOf returns the directives of the Content-Security-Policy that differ by page.
func policyOf(page Page) string {
	switch page.file() {
	case (FramePage{}).file():
		return "; form-action 'none'"
	case (HeldFormPage{}).file(), (SentPage{}).file(), (LinkPage{}).file(), (PasswordPage{}).file():
		// Chromium holds the redirects that follow a form against form-action, too. A portal that answers a
		// held form by sending the visitor to pay elsewhere would seem not to have taken it, and get it
		// twice; and who signs in by a code, an address or a password goes on to a page of the portal, which may send
		// them to another site: they would be in, and stuck on the page that they had just filled in. The
		// forms' own actions are ours, and nobody can put another into these pages.
		return "; form-action 'self' https:; frame-ancestors 'none'"
	case (MailPage{}).file():
		return "; form-action 'self'; frame-src 'self'; frame-ancestors 'none'"
	}
	return "; form-action 'self'; frame-ancestors 'none'"
}

// render writes a page into buf.
func (p *Pages) render(buf *bytes.Buffer, page Page) error {
	t := p.templates[page.file()]
	switch typed := page.(type) {
	case PromptPage:
		if p.prompt != nil && typed == (PromptPage{To: typed.To}) {
			for i, part := range p.prompt {
				if i > 0 {
					template.HTMLEscape(buf, []byte(typed.To))
				}
				buf.WriteString(part)
			}
			return nil
		}
	case HeldFormPage:
		page = asHeldForm(typed)
	case *HeldFormPage:
		page = asHeldForm(*typed)
	}
	if err := t.ExecuteTemplate(buf, "layout", pageView{Firm: &p.firm, Page: page}); err != nil {
		return fmt.Errorf("rendering page %s: %w", page.file(), err)
	}
	return nil
}

// release puts a buffer back, but for one that a large form has blown up.
func (p *Pages) release(buf *bytes.Buffer) {
	if buf.Cap() > 128<<10 {
		return
	}
	buf.Reset()
	p.buffers.Put(buf)
}

// pageView is what templates see.
type pageView struct {
	Firm *pageFirm
	Page Page
}

// pageFirm is the Chrome, worked out once for all pages.
type pageFirm struct {
	Chrome
	Initial     string // of Name, in capitals
	SupportLine []span // Support
	CSS         template.CSS
	JS          template.JS
}

func newPageFirm(c Chrome, source map[string]pageFile) (pageFirm, error) {
	if c.Lang == "" {
		c.Lang = "en"
	}
	colours := []struct {
		value    *string
		fallback string
	}{{&c.LightAccent, "#0b6e4f"}, {&c.LightOnAccent, "#ffffff"}, {&c.DarkAccent, "#5fd0a5"}, {&c.DarkOnAccent, "#08130e"}}
	for _, colour := range colours {
		if *colour.value == "" {
			*colour.value = colour.fallback
		}
		if !cssColour.MatchString(*colour.value) {
			return pageFirm{}, fmt.Errorf("%q is not a CSS colour: write it as #0b6e4f", *colour.value)
		}
	}
	for name, end := range map[string]string{"page.css": "</style", "page.js": "</script"} {
		if at := strings.Index(strings.ToLower(source[name].text), end); at >= 0 {
			line := 1 + strings.Count(source[name].text[:at], "\n")
			return pageFirm{}, fmt.Errorf("%s:%d: holds %q, which would end it early: take it out", source[name].path, line, end)
		}
	}
	css := fmt.Sprintf(":root{--accent:%s;--on-accent:%s}\n@media (prefers-color-scheme:dark){:root{--accent:%s;--on-accent:%s}}\n%s",
		c.LightAccent, c.LightOnAccent, c.DarkAccent, c.DarkOnAccent, source["page.css"].text)
	initial, _ := utf8.DecodeRuneInString(strings.TrimSpace(c.Name))
	return pageFirm{
		Chrome:      c,
		Initial:     string(unicode.ToUpper(initial)),
		SupportLine: linkify(supportLink, c.Support),
		CSS:         template.CSS(browserText(css)),
		JS:          template.JS(browserText(source["page.js"].text)),
	}, nil
}

var cssColour = regexp.MustCompile(`^(#[0-9a-fA-F]{3,8}|[a-zA-Z]+|[a-z]+\([0-9a-zA-Z .,%/+-]*\))$`)

// browserText returns s with its lines ended as browsers hash them.
func browserText(s string) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
}

func cspHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

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

// pageFile is the text of a template, stylesheet or script, and the path that errors name.
type pageFile struct {
	path, text string
	own        bool // of the firm, in place of the built-in one
}

// readPageFiles returns all files of pages/ by name, those in dir/pages in place of the built-in ones.
func readPageFiles(dir string) (map[string]pageFile, error) {
	files := map[string]pageFile{}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		return nil, fmt.Errorf("reading the built-in pages: %w", err)
	}
	var names []string
	for _, e := range entries {
		text, err := pageFiles.ReadFile(path.Join("pages", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the built-in pages: %w", err)
		}
		files[e.Name()] = pageFile{path: path.Join("pages", e.Name()), text: string(text)}
		names = append(names, e.Name())
	}
	if dir == "" {
		return files, nil
	}
	overrides, err := os.ReadDir(filepath.Join(dir, "pages"))
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading page templates: %w", err)
	}
	for _, e := range overrides {
		full := filepath.Join(dir, "pages", e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue // an editor's
		}
		if _, ok := files[e.Name()]; !ok {
			return nil, fmt.Errorf("%s: no page has this name; pages are %s", full, strings.Join(names, ", "))
		}
		text, err := os.ReadFile(full)
		if err != nil {
			return nil, fmt.Errorf("reading page templates: %w", err)
		}
		files[e.Name()] = pageFile{path: full, text: string(text), own: true}
	}
	return files, nil
}

// parsePage returns the template of one page, with the layout and parts it stands on.
func parsePage(source map[string]pageFile, name string) (*template.Template, error) {
	t := template.New("")
	for _, f := range []pageFile{source["layout.html"], source["parts.html"], source[name]} {
		// The name is what errors call the file; what is executed is defined within it.
		if _, err := t.New(f.path).Parse(f.text); err != nil {
			return nil, fmt.Errorf("parsing a page: %w", err)
		}
	}
	for _, need := range []struct{ file, name string }{{"layout.html", "layout"}, {name, "title"}, {name, "main"}} {
		if t.Lookup(need.name) == nil {
			return nil, fmt.Errorf("%s:1: the file must {{define %q}}", source[need.file].path, need.name)
		}
	}
	return t, nil
}

// samplePages returns every page, full of made-up data and empty.
func samplePages() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	const masked, full = "a•••@example.com", "ann@example.com"
	return []Page{
		PromptPage{},
		PromptPage{To: "/orders/7?a=1", Email: "ann@example", Problem: "Please type the whole address.", Shared: true, Heading: "Welcome back", Text: "Please sign in."},
		SentPage{Address: full},
		SentPage{Address: full, From: "hello@example.com", To: "/orders/7", Shared: true, ResendIn: 45, HelpIn: 60},
		SentPage{Address: masked, Masked: true, T: "abc", To: "/", Waited: true, Problem: "Please look at the code once more.", CodeAction: "/code"},
		LinkPage{T: "abc", Masked: masked},
		LinkPage{T: "abc", Masked: masked, Email: full, SignedInAs: "bob@example.com", Problem: "Please look at the address once more."},
		SpentLinkPage{T: "abc", Masked: masked, To: "/orders/7", Shared: true},
		SpentLinkPage{},
		PasswordPage{},
		PasswordPage{To: "/orders/7?a=1", Email: full, Shared: true, Problem: "We could not sign you in."},
		PasswordPage{Email: full, Set: true},
		HelpPage{},
		HelpPage{To: "/orders/7", Email: "ann@example", NoLink: true, Problem: "Please type the whole address."},
		HelpSentPage{Address: full},
		HelpSentPage{Address: masked, Masked: true, From: "hello@example.com", T: "abc", To: "/orders/7", ResendIn: 45},
		SetPasswordPage{T: "abc", Masked: masked, Least: 15},
		SetPasswordPage{T: "abc", Masked: masked, Least: 8, Problem: "Please use at least 8 characters; so far there are 7."},
		SpentPasswordPage{T: "abc", Masked: masked, To: "/orders/7"},
		AccountPage{Emails: []string{full}, Devices: []DeviceRow{{"H1", "a browser", when, when, true}}},
		AccountPage{Name: "Ann Baker", Emails: []string{full, "ann.b@example.org"}, Companies: []string{"Acme Ltd", "Birch & Sons"}, More: true,
			Devices: []DeviceRow{{"H1", "Safari on iPhone", when, when, true}, {"H2", "Chrome on Windows", when, when, false}},
			Since:   when, Least: 15, Done: "Your password is changed.", Problem: "That is not your current password."},
		AccountPage{Emails: []string{full}, Fresh: true, Least: 15, Problem: "Please choose another password.", WrongNew: true},
		CompaniesPage{Email: full, None: true},
		CompaniesPage{Email: full, Companies: []CompanyRow{{"Acme Ltd", "/portal/acme"}, {"Birch & Sons", ""}}},
		CompaniesPage{Email: full, Companies: []CompanyRow{{"Acme Ltd", "/portal/acme"}}, Search: true, Query: "a", More: true},
		CompaniesPage{Email: full, Search: true, Query: "zzz"},
		UnknownLinkPage{},
		UnknownLinkPage{To: "/orders/7"},
		FramePage{URL: "/orders/7"},
		HeldFormPage{Action: "/orders/7", SignInURL: "/-/sign-in"},
		HeldFormPage{Action: "/orders/7", SignInURL: "/-/sign-in", Fields: []Field{{"note", "two\r\nlines"}, {"caf\xe9", "\x80"}}},
		SignOutPage{},
		SignOutPage{Email: full},
		SignedOutPage{},
		MessagePage{},
		MessageFor(http.StatusNotFound),
		MailboxPage{URL: "/-/mailbox/"},
		MailboxPage{URL: "/-/mailbox/", Mails: []MailRow{{URL: "/-/mailbox/1", From: "hello@example.com", To: full, Subject: "Your sign-in link", Time: when}}},
		MailPage{MailboxURL: "/-/mailbox/"},
		MailPage{MailboxURL: "/-/mailbox/", From: "hello@example.com", To: full, Subject: "Your sign-in link", Time: when,
			Headers: []Field{{"Message-ID", "<1@example.com>"}}, Text: "Go to https://example.com/-/link?t=abc", HTMLURL: "/-/mailbox/1/html"},
	}
}
