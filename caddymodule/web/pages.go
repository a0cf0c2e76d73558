package web

import (
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

// Chrome has the data that all pages of a firm share: its look and the URLs of its pages.
type Chrome struct {
	// Name is the firm's name, at the top of every page and in its title.
	Name string
	// Support says how to reach the firm; addresses and phone numbers in it become links. If empty,
	// pages have no support line.
	Support string
	// LogoURL is a path on this site. If empty, pages show the firm's initial.
	LogoURL string
	// Prefix is the path of the gate's own pages, such as "/-", without a slash at the end.
	Prefix string
	// CSS colors of buttons and underlines, and of the text on them, for light and dark pages. An
	// On… color must be readable on its accent. Default: green.
	LightAccent, LightOnAccent, DarkAccent, DarkOnAccent string
	// Lang is the language of the texts (BCP 47), set by Pages.
	Lang string
	// Passwords means that contacts can sign in by password, so that pages link to that form.
	Passwords bool
	// MailFrom is the sender of mails, shown on SentPage. If empty, the page doesn't show it.
	MailFrom string
}

// Text is a text in English, which pages show in the language of their reader; see package language.
type Text = language.Text

// Page is implemented by the page structs below.
type Page interface {
	file() string // name of its template in pages/
}

// PromptPage is the prompt for signing in. It appears at the requested URL, with status 401, or at
// {prefix}/sign-in. Its form: POST {prefix}/sign-in with email, to, shared ("1" if ticked). Its
// second button sends the same fields to {prefix}/password with go ("password"), which redirects to
// the form for signing in manually.
type PromptPage struct {
	To      string // path on this site to go to afterwards; the page's script adds the fragment of its own URL
	Email   string // as typed, if the form is shown again
	Problem Text   // with Email; empty if none
	Shared  bool   // "This is a shared device" is ticked
	OldLink bool   // the visitor used an apparent old link, which asks for sign-in now
}

// SentPage says that a mail is on its way if the address is known, and takes the code. It is the
// same for every address. Its forms: POST {prefix}/code with code; POST {prefix}/sign-in with email
// (or t), to, shared, to send the mail again.
type SentPage struct {
	Address  string // as typed, or masked if Masked
	Masked   bool   // the address wasn't typed: it is that of a link
	To       string // path on this site to go to afterwards
	Shared   bool
	T        string // link whose address is used instead of a typed one; if empty, Address is sent again
	ResendIn int    // seconds until another mail may be requested
	HelpIn   int    // seconds until other ways are shown; 0 means two minutes
	Waited   bool   // other ways are shown at once
	Again    bool   // the visitor requested another email
	Code     string // as typed, if the form is shown again
	Problem  Text   // with Code; empty if none
}

// LinkPage asks for the address of a link that was opened in a browser other than the one that
// requested it. Its form: POST {prefix}/link with t, email.
type LinkPage struct {
	T          string
	Masked     string // the link's address, masked
	Email      string // as typed, if the form is shown again
	SignedInAs string // address of another contact, who is signed in here and would be signed out; empty if none
	Problem    Text   // with Email; empty if none
}

// SpentLinkPage is shown for a link that is no longer valid, and sends a new one to the same
// address. Its form: POST {prefix}/sign-in with t, shared.
type SpentLinkPage struct {
	T      string
	Masked string // the link's address, masked
	To     string // path on this site to go to afterwards, for visitors who use another address
	Shared bool
}

// UnknownLinkPage is shown for an unknown link; it contains no address. Its form: POST
// {prefix}/sign-in with email, to, shared.
type UnknownLinkPage struct {
	To string
}

// PasswordPage asks for address and password: "sign in manually". Its form: POST {prefix}/password
// with email, password, to, shared. Two more buttons send the same fields with go ("help", "link"),
// which redirects to a form with the address filled in.
type PasswordPage struct {
	To      string // path on this site to go to afterwards
	Email   string // as typed, if the form is shown again
	Shared  bool
	Set     bool   // the visitor has just chosen a password
	Problem Text   // why it failed; empty if it didn't
	Wrong   string // the field with the problem: email, password, or both; empty if none
}

// HelpPage is for visitors who have no password or have lost it: "get help signing in". Its form:
// POST {prefix}/help with email, to; two more buttons are those of PasswordPage.
type HelpPage struct {
	To      string
	Email   string // as typed, if the form is shown again
	NoLink  bool   // the visitor used an unknown link to set a password
	Problem Text   // with Email; empty if none
}

// HelpSentPage says that a mail with a link to set a password is on its way if the address is
// known. It is the same for every address. Its form: POST {prefix}/help with email (or t), to, to
// send the mail again.
type HelpSentPage struct {
	Address  string // as typed, or masked if Masked
	Masked   bool
	To       string
	T        string // link whose address is used instead of a typed one
	ResendIn int    // seconds until another mail may be requested
	Again    bool   // the visitor requested another email
}

// SetPasswordPage asks for a new password. Its form: POST {prefix}/password/set with t, password.
type SetPasswordPage struct {
	T       string
	Masked  string // the contact's address, masked
	Least   int    // minimum length in characters
	Problem Text   // why the typed password isn't acceptable; empty if none
}

// SpentPasswordPage is shown for a link to set a password that is no longer valid, and sends a new
// one to the same address. Its form: POST {prefix}/help with t.
type SpentPasswordPage struct {
	T      string
	Masked string // the link's address, masked
	To     string // path on this site to go to afterwards, for visitors who use another address
}

// DeviceRow is a browser in which the contact is signed in.
type DeviceRow struct {
	Handle      string
	Agent       string // such as "Safari on iPhone"
	First, Last time.Time
	Here        bool // it is the one that shows the page
}

// NotHerePage tells a signed-in visitor that a URL has nothing for them: the same for an unknown
// old link and for another company's page. It names the visitor's address. Its form: POST
// {prefix}/sign-out with switch ("1"), which redirects to the prompt, and to, which the page's
// script sets to the page's URL.
type NotHerePage struct {
	Email string // the visitor's address
}

// AccountPage shows a signed-in visitor's own data and access. Its forms: POST {prefix}/devices
// with handle, or others ("1"); POST {prefix}/password/change with current, password; POST
// {prefix}/password/remove with current; POST {prefix}/help with email.
type AccountPage struct {
	Name      string
	Emails    []string // the main one first
	Companies []CompanyRow
	More      bool // there are more companies
	Reports   ReportsLink
	Devices   []DeviceRow
	Staff     bool      // the visitor is staff; the page links to the staff pages
	Since     time.Time // when the password was chosen; zero if there is none
	ByLink    bool      // the password was imported, so a mailed link is needed to change it
	Least     int       // minimum length of a password in characters
	Done      Text      // message about the last change; empty if none
	Problem   Text      // why the password wasn't changed or removed; empty if none
	Wrong     string    // the field with the problem: current, password, or gone (the current one, to remove it); empty if none
}

// FramePage appears in a frame, where visitors can't sign in: a link opens URL in the whole window.
// It is the only page that may be framed. It contains no personal data, and no control other than
// that link.
type FramePage struct {
	URL     string
	NotSent bool // a form from the frame wasn't accepted: URL opens in a new tab
}

// NotSentPage tells a visitor who is no longer signed in that their form wasn't accepted, and how
// to send it again. It contains nothing from the form.
type NotSentPage struct {
	SignInURL     string // opens in a new tab
	FromElsewhere bool   // a page of another website sent the form
}

// NoCookiesPage tells a visitor that their browser doesn't keep the gate's cookies, and what to do.
type NoCookiesPage struct{}

// SignedInPage tells a visitor who signed in beside a form in another tab to return to it.
type SignedInPage struct {
	Email string // the visitor's address
}

// Field is a name and value of a form.
type Field struct{ Name, Value string }

// HeldFormPage keeps a form from a visitor who is no longer signed in: the visitor signs in in a
// new tab, and sends the form from this page. The fields keep their order, repeated names and
// bytes. Values that aren't UTF-8 stay the same, except for NUL, which HTML can't contain, and
// single CR or LF, which become CR LF, as in every form.
type HeldFormPage struct {
	Action    string // the form's path and query, with the mark of a kept form
	Fields    []Field
	SignInURL string // opens in a new tab
	As        string // the signed-in contact who would send the form although another person may have typed it; empty if none
}

// SignOutPage asks before signing out. Its form: POST {prefix}/sign-out.
type SignOutPage struct {
	Email string // the visitor's address; empty if it isn't shown
}

// SignedOutPage confirms the sign-out and links to the prompt.
type SignedOutPage struct{}

// CompanyRow is a company on CompaniesPage.
type CompanyRow struct {
	Name string
	URL  string // of its page; empty if it has none

	Notice   string    // kind of the latest notice since the visitor's last look at the company; empty if none
	NoticeAt time.Time // when the notice was sent
}

// CompaniesPage lists the companies of the visitor. Its form: GET {prefix}/companies with q.
type CompaniesPage struct {
	Email     string // the visitor's address
	None      bool   // the visitor has no company at all
	Companies []CompanyRow
	Search    bool   // there are enough companies for a search field
	Query     string // as typed
	More      bool   // there are more than are shown
	Reports   ReportsLink
}

// ReportsLink describes the visitor's reports for other pages. The zero value shows nothing.
type ReportsLink struct {
	There  bool
	Unread int // number of the newest ones that weren't downloaded yet
}

// ReportsPage lists the reports that the visitor may download.
type ReportsPage struct {
	Email   string // the visitor's address
	Staff   bool   // the visitor is staff, and sees the reports of all companies
	Reports []ReportRow
	Next    string // start of the next page; empty if there is none
	Later   bool   // there are newer ones than these
}

// Section returns the entry of the staff's menu that the page is part of; clients see no menu.
func (p ReportsPage) Section() Section {
	if p.Staff {
		return SectionReports
	}
	return ""
}

// ReportRow is a report on ReportsPage.
type ReportRow struct {
	URL       string
	Title     string
	Company   string // its name; empty if the visitor has only one company
	Kind      string // such as "PDF"
	Size      string // for people
	Published time.Time
	Unread    bool // the visitor hasn't downloaded it
}

// MessagePage says what went wrong and what to do. MessageFor returns the usual ones.
type MessagePage struct {
	Title, Text Text
	URL         string // target of the only button; empty if there is none
	Link        Text   // label of the button; default "Try again"
}

// MailRow is one mail on MailboxPage.
type MailRow struct {
	URL               string // of its MailPage
	From, To, Subject string
	Time              time.Time
}

// MailboxPage lists the mails of a mail folder, in the given order.
type MailboxPage struct {
	URL   string // of the page itself, to reload it
	Mails []MailRow
}

// MailPage shows one mail of a mail folder with clickable links.
type MailPage struct {
	MailboxURL        string
	From, To, Subject string
	Time              time.Time
	Text              string // the plain-text part; empty if there is none
	HTMLURL           string // URL that WriteMailHTML serves for the HTML part; empty if there is none
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
func (NotHerePage) file() string       { return "not-here.html" }
func (AccountPage) file() string       { return "account.html" }
func (FramePage) file() string         { return "frame.html" }
func (ReportsPage) file() string       { return "reports.html" }
func (NotSentPage) file() string       { return "not-sent.html" }
func (NoCookiesPage) file() string     { return "no-cookies.html" }
func (SignedInPage) file() string      { return "signed-in.html" }
func (HeldFormPage) file() string      { return "held.html" }
func (SignOutPage) file() string       { return "sign-out.html" }
func (SignedOutPage) file() string     { return "signed-out.html" }
func (CompaniesPage) file() string     { return "companies.html" }
func (MessagePage) file() string       { return "message.html" }
func (MailboxPage) file() string       { return "mailbox.html" }
func (MailPage) file() string          { return "mail.html" }

// MessageFor returns the page for an error without its own page. It says what the visitor can do;
// the cause is in the log, for the operator.
func MessageFor(status int) MessagePage {
	home := MessagePage{URL: "/", Link: "Go to the start page"}
	switch status {
	case http.StatusBadRequest:
		home.Title, home.Text = "This didn’t work", "We couldn’t read something in this address or form. Please go back and try again."
	case http.StatusForbidden:
		home.Title, home.Text = "This was stopped", "It came from another website, so we stopped to keep you safe. If it was you, please start again on our own page."
	case http.StatusNotFound:
		home.Title, home.Text = "There is no page here", "The address may be mistyped, or the page may have moved."
	case http.StatusMethodNotAllowed:
		home.Title, home.Text = "This page can’t do that", "Please go back and try again, or start again."
	case http.StatusRequestEntityTooLarge:
		home.Title, home.Text = "This is too large", "We can’t take this much at once. Please go back and send less."
	case http.StatusTooManyRequests:
		return MessagePage{Title: "Please wait a little", Text: "There were many tries in a short time. Please wait a few minutes, then try again. Nothing is lost."}
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return MessagePage{Title: "Please try again soon", Text: "The portal isn’t answering right now. Please wait a minute, then reload this page."}
	case http.StatusServiceUnavailable:
		return MessagePage{Title: "Please try again soon", Text: "We can’t do this right now. Please wait a minute, then reload this page."}
	default:
		return MessagePage{Title: "Something went wrong", Text: "This is our mistake, not yours. Please wait a minute, then reload this page."}
	}
	return home
}

// samplePages returns every page, filled with made-up data and empty.
func samplePages() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	const masked, full = "a•••@example.com", "ann@example.com"
	return append(staffSamples(),
		PromptPage{},
		PromptPage{To: "/orders/7?a=1", Email: "ann@example", Problem: "Please enter the whole address.", Shared: true},
		PromptPage{To: "/-/go?x=abc", OldLink: true},
		SentPage{Address: full},
		SentPage{Address: full, To: "/orders/7", Shared: true, ResendIn: 45, HelpIn: 60, Again: true},
		SentPage{Address: masked, Masked: true, T: "abc", To: "/", Waited: true, Code: "abcd-efg", Problem: "Please check the code."},
		LinkPage{T: "abc", Masked: masked},
		LinkPage{T: "abc", Masked: masked, Email: full, SignedInAs: "bob@example.com", Problem: "Please check the address."},
		SpentLinkPage{T: "abc", Masked: masked, To: "/orders/7", Shared: true},
		SpentLinkPage{},
		PasswordPage{},
		PasswordPage{To: "/orders/7?a=1", Email: full, Shared: true, Problem: "We could not sign you in.", Wrong: "both"},
		PasswordPage{Email: full, Problem: "Please enter your password, too.", Wrong: "password"},
		PasswordPage{Email: "ann@example", Problem: "Please enter the whole address.", Wrong: "email"},
		PasswordPage{Email: full, Problem: "Many passwords were tried."},
		PasswordPage{Email: full, Set: true},
		HelpPage{},
		HelpPage{To: "/orders/7", Email: "ann@example", NoLink: true, Problem: "Please enter the whole address."},
		HelpSentPage{Address: full},
		HelpSentPage{Address: masked, Masked: true, T: "abc", To: "/orders/7", ResendIn: 45, Again: true},
		NotHerePage{Email: full},
		SetPasswordPage{T: "abc", Masked: masked, Least: 15},
		SetPasswordPage{T: "abc", Masked: masked, Least: 8, Problem: "Please use at least 8 characters; so far there are 7."},
		SpentPasswordPage{T: "abc", Masked: masked, To: "/orders/7"},
		AccountPage{Emails: []string{full}, Devices: []DeviceRow{{"H1", "a browser", when, when, true}}},
		AccountPage{Name: "Ann Baker", Emails: []string{full, "ann.b@example.org"}, Companies: []CompanyRow{{Name: "Acme Ltd", URL: "/portal/acme"}, {Name: "Birch & Sons"}}, More: true,
			Devices: []DeviceRow{{"H1", "Safari on iPhone", when, when, true}, {"H2", "Chrome on Windows", when, when, false}},
			Since:   when, Least: 15, Done: "Your password is changed.", Problem: "That is not your current password.", Wrong: "current"},
		AccountPage{Emails: []string{full}, Since: when, Least: 15, Problem: "That is not your current password.", Wrong: "gone"},
		AccountPage{Emails: []string{full}, Since: when, ByLink: true, Least: 15},
		AccountPage{Emails: []string{full}, Least: 15, Problem: "Please use a link that we email you."},
		AccountPage{Emails: []string{full}, Since: when, Least: 15, Problem: "Please choose another password.", Wrong: "password"},
		AccountPage{Emails: []string{full}, Reports: ReportsLink{There: true}},
		ReportsPage{Email: full},
		ReportsPage{Email: full, Later: true},
		ReportsPage{Email: full, Next: "abc", Later: true, Reports: []ReportRow{{"/-/reports/abc", "July statement", "Acme Ltd", "PDF", "1.2 MB", when, true}, {"/-/reports/def", "June statement", "", "XLSX", "812 bytes", when, false}}},
		ReportsPage{Email: full, Staff: true, Reports: []ReportRow{{"/-/reports/abc", "July statement", "acme (removed)", "PDF", "1.2 MB", when, false}}},
		CompaniesPage{Email: full, None: true},
		CompaniesPage{Email: full, Companies: []CompanyRow{{Name: "Acme Ltd", URL: "/portal/acme"}}, Reports: ReportsLink{There: true, Unread: 2}},
		CompaniesPage{Email: full, Companies: []CompanyRow{{Name: "Acme Ltd", URL: "/portal/acme", Notice: "new-questions", NoticeAt: when}, {Name: "Birch & Sons"}}},
		CompaniesPage{Email: full, Companies: []CompanyRow{{Name: "Acme Ltd", URL: "/portal/acme", Notice: "of-ours", NoticeAt: when}}, Search: true, Query: "a", More: true},
		CompaniesPage{Email: full, Search: true, Query: "zzz"},
		CompaniesPage{Email: full},
		UnknownLinkPage{},
		UnknownLinkPage{To: "/orders/7"},
		FramePage{URL: "/orders/7"},
		FramePage{URL: "/-/sign-in", NotSent: true},
		NotSentPage{SignInURL: "/-/sign-in"},
		NotSentPage{SignInURL: "/-/sign-in", FromElsewhere: true},
		SignedInPage{Email: full},
		NoCookiesPage{},
		HeldFormPage{Action: "/orders/7", SignInURL: "/-/sign-in"},
		HeldFormPage{Action: "/orders/7", As: full, Fields: []Field{{"note", "a"}}},
		HeldFormPage{Action: "/orders/7", SignInURL: "/-/sign-in", Fields: []Field{{"note", "two\r\nlines"}, {"caf\xe9", "\x80"}}},
		SignOutPage{},
		SignOutPage{Email: full},
		SignedOutPage{},
		MessagePage{},
		MessageFor(http.StatusNotFound),
		MailboxPage{URL: "/-/mailbox/"},
		MailboxPage{URL: "/-/mailbox/", Mails: []MailRow{{URL: "/-/mailbox/1", From: "hello@example.com", To: full, Subject: "Your sign-in link", Time: when}}},
		MailPage{MailboxURL: "/-/mailbox/"},
		MailPage{MailboxURL: "/-/mailbox/", From: "hello@example.com", To: full, Subject: "Your sign-in link", Time: when, Text: "Go to https://example.com/-/link?t=abc", HTMLURL: "/-/mailbox/1/html"},
	)
}
