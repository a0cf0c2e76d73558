package web

import (
	"net/http"
	"time"
)

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
// Its form: POST {prefix}/sign-in with email, to, shared ("1" where ticked); its second button sends
// the same to {prefix}/password, with go ("password"), which leads to where people sign in manually.
type PromptPage struct {
	To      string // path on this site to go on to; the page's script adds the fragment of its own URL
	Email   string // as it was typed, when the form is shown again
	Problem string // what is wrong with Email; empty: nothing
	Shared  bool   // "This is a shared device" is ticked
	OldLink bool   // they come by what looks like an old link, which asks who they are by now
}

// SentPage says that a mail is on its way if the address is known, and takes the code.
// It reads the same for every address. Its forms: POST {prefix}/code with code;
// POST {prefix}/sign-in with email (or t), to, shared: the mail again.
type SentPage struct {
	Address  string // as typed; or in part, if Masked
	Masked   bool   // the address was not typed: it is that of a link
	To       string // path on this site to go on to
	Shared   bool
	T        string // the link whose address is meant, in place of an address typed; empty: Address is sent again
	ResendIn int    // seconds until the mail may be asked for again
	HelpIn   int    // seconds until other ways are shown; 0: two minutes
	Waited   bool   // other ways are shown at once
	Again    bool   // they have asked for one more email
	Code     string // as it was typed, when the form is shown again
	Problem  string // what is wrong with Code; empty: nothing
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
// Its form: POST {prefix}/password with email, password, to, shared; two further buttons send the same
// with go ("help", "link"), which leads to a form that has the address filled in.
type PasswordPage struct {
	To      string // path on this site to go on to
	Email   string // as it was typed, when the form is shown again
	Shared  bool
	Set     bool   // they have just chosen a password
	Problem string // why it did not work; empty: nothing
	Wrong   string // the field that Problem is about: email, password, or both; empty: none of them
}

// HelpPage is for who has no password, or has lost it: "get help signing in".
// Its form: POST {prefix}/help with email, to; two further buttons are those of PasswordPage.
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
	To       string
	T        string // the link whose address is meant, in place of an address typed
	ResendIn int    // seconds until the mail may be asked for again
	Again    bool   // they have asked for one more email
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

// NotHerePage tells somebody who is signed in that there is nothing for them at a URL: the same
// for an old link that never was one and for another company's page. It says as whom they are
// signed in. Its form: POST {prefix}/sign-out with switch ("1"), which leads to the prompt, and to,
// which the page's script fills in with the URL that the page stands at.
type NotHerePage struct {
	Email string // who is signed in
}

// AccountPage is what somebody who is signed in can see and change of themselves. Its forms:
// POST {prefix}/devices with handle, or others ("1"); POST {prefix}/password/change with
// current, password; POST {prefix}/password/remove with current; POST {prefix}/help with email.
type AccountPage struct {
	Name      string
	Emails    []string // the main one first
	Companies []CompanyRow
	More      bool // they have more than those
	Reports   ReportsLink
	Devices   []DeviceRow
	Staff     bool      // they are of the firm's staff, whose pages are linked
	Since     time.Time // when the password was chosen; zero: there is none
	ByLink    bool      // it comes from elsewhere, so a mailed link has to come before any change
	Least     int       // characters that a password needs
	Done      string    // what was just done; empty: nothing
	Problem   string    // why the password was neither changed nor removed; empty: nothing
	Wrong     string    // the field that Problem is about: current, password, or gone (the current one, to remove it); empty: none of them
}

// FramePage stands in a frame, where signing in can't be: one link opens URL in the whole window.
// It is the one page that may be framed. It holds nothing of anybody's, and nothing to press but that link.
type FramePage struct {
	URL     string
	NotSent bool // something was sent from the frame, and has not arrived: URL opens in a new tab
}

// NotSentPage tells somebody who isn't signed in (any more) that what their window sent has
// not arrived, and how to send it again. It holds nothing of what was sent.
type NotSentPage struct {
	SignInURL     string // opened in a new tab
	FromElsewhere bool   // another website sent it, in their window
}

// NoCookiesPage tells somebody that their browser keeps no cookies of ours, and what to do.
type NoCookiesPage struct{}

// SignedInPage tells somebody who signed in beside a form in another tab to go back to it.
type SignedInPage struct {
	Email string // who is signed in
}

// Field is one name and value of a form.
type Field struct{ Name, Value string }

// HeldFormPage keeps a form that was sent by somebody who isn't signed in (any more): they sign in in a
// new tab, and send it from here. The fields keep their order, repeated names, and bytes: values that
// aren't UTF-8 leave as they came, but for NUL, which HTML can't hold, and single CR or LF, which leave
// as CR LF, as from every form.
type HeldFormPage struct {
	Action    string // path and query that the form was meant for, and the mark of a kept form
	Fields    []Field
	SignInURL string // opened in a new tab
	As        string // who is signed in by now and would send it, though somebody else may have typed it; empty: nobody is
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

	Notice   string    // the kind of the latest notice that they haven't looked after; empty: there is none
	NoticeAt time.Time // when they had it
}

// CompaniesPage lists the companies of the visitor.
// Its form: GET {prefix}/companies with q.
type CompaniesPage struct {
	Email     string // who is signed in
	None      bool   // they have no company at all
	Companies []CompanyRow
	Search    bool   // there are enough to search among
	Query     string // as it was typed
	More      bool   // there are more than are shown
	Reports   ReportsLink
}

// ReportsLink is what a page says of the visitor's reports. Of nothing it says nothing.
type ReportsLink struct {
	There  bool
	Unread int // of the newest: so many weren't downloaded yet
}

// ReportsPage lists the reports that the visitor may download.
type ReportsPage struct {
	Email   string // who is signed in
	Staff   bool   // they are of the firm's staff, and see those of all companies
	Reports []ReportRow
	Next    string // where older ones go on; empty: there are none
	Later   bool   // there are newer ones than these
}

// ReportRow is a report of ReportsPage.
type ReportRow struct {
	URL       string
	Title     string
	Company   string // its name; empty: the visitor has one alone
	Kind      string // such as "PDF"
	Size      string // in words
	Published time.Time
	Unread    bool // the visitor hasn't downloaded it
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
	Text              string // the plain text part; empty: there is none
	HTMLURL           string // where WriteMailHTML gives the HTML part; empty: there is none
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

// MessageFor returns the page for an error that has no page of its own. What caused it is the
// operator's to read, in the log; here it is what a visitor can do.
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

// samplePages returns every page, full of made-up data and empty.
func samplePages() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	const masked, full = "a•••@example.com", "ann@example.com"
	return []Page{
		StaffPage{Email: full},
		StaffPage{Email: full, Linked: 12, Upgraded: 5, Strangers: []StrangerRow{{full, 1, when}, {"bob@example.com", 3, when}}, Waits: "connection refused", Advice: "Look at the server."},
		StaffContactsPage{},
		StaffContactsPage{Query: "nobody"},
		StaffContactsPage{Query: "ann", Next: "7", Contacts: []ContactRow{{ID: "7", Name: "Ann Lee", Email: full, Companies: "Harbor Bakery"}, {ID: "8", Email: "bob@example.com", Disabled: true}, {ID: "9", Email: "owner@example.com", Staff: true}}},
		StaffContactPage{Email: "anm@example.com", Failed: "This is no address."},
		StaffContactPage{Contact: &ContactRow{ID: "7", Name: "Ann Lee", Email: full, Companies: "Harbor Bakery"}, Email: full, Emails: []string{full, "ann@example.org"}, Story: []string{"10:02  asked for a sign-in mail"},
			Advice:    []AdviceRow{{Text: "No mail reaches this address."}, {Text: "Check the spelling with them, then:", Do: "change-address", Button: "Use this address instead", ID: "7", Field: "Their new address"}},
			Passwords: true, Sessions: 2, Done: "They are signed out everywhere."},
		StaffAddPage{},
		StaffAddPage{Address: "ann@example", First: "Ann", Last: "Lee", Company: "Harbor", Problem: "This is no address.", Wrong: "email"},
		StaffAddPage{Address: full, Company: "Harbor", Problem: "There is no such company.", Wrong: "company"},
		StaffCompaniesPage{},
		StaffCompaniesPage{Query: "har", Next: "oak", Done: "Its old links ask who is there from now on.", Companies: []StaffCompanyRow{{ID: "harbor-bakery", Name: "Harbor Bakery", Links: 1, Used: when}, {ID: "oak", Links: 2, Upgraded: true}, {ID: "elm"}}},
		StaffCompaniesPage{Failed: "Nobody belongs to it."},
		StaffUpgradePage{ID: "harbor-bakery", Name: "Harbor Bakery", Asked: []string{full}, Recent: 7, Programs: 2},
		StaffUpgradePage{ID: "oak", Refused: true},
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
	}
}
