package web

import "time"

// StaffPage is the home of the firm's staff. Its forms: POST {prefix}/staff/contacts with q;
// POST {prefix}/staff/look with email.
type StaffPage struct {
	Email     string // who is signed in
	Linked    int    // companies that have old links
	Upgraded  int    // of those: their old links ask for sign-in
	Strangers []StrangerRow
	Waits     string // why no mail goes out; empty: nothing is known
	Advice    string // what to do about that
}

// StrangerRow is an address that somebody asked with, and that is no contact's.
type StrangerRow struct {
	Address string
	Count   int
	Last    time.Time
}

// StaffContactsPage lists contacts. Its form is that of StaffPage.
type StaffContactsPage struct {
	Query    string // as it was typed
	Contacts []ContactRow
	Next     string // where the next page begins; empty: there is none
}

// ContactRow is a contact in a list.
type ContactRow struct {
	ID, Name, Email string
	Companies       string // names, in a sentence
	Disabled, Staff bool
}

// StaffContactPage says what happened around an address, and what to do. Its forms: POST {prefix}/staff/contact
// with id, do, email, company, which names the contact as it is shown here; and that of StaffPage.
type StaffContactPage struct {
	Contact   *ContactRow // nil: the address is no contact's
	Email     string      // the address that is meant
	Emails    []string    // all of the contact's
	Story     []string    // what happened, a line each
	Advice    []AdviceRow
	Passwords bool   // a link to set a password may be sent
	Sessions  int    // browsers that the contact is signed in with
	Done      string // what was just done; empty: nothing
	Failed    string // why it wasn't; empty: nothing
}

// AdviceRow is a sentence, and the button that does what it says.
type AdviceRow struct {
	Text   string
	Do     string // of the form; empty: there is no button
	Button string
	ID     string // of the contact whom the button is about
	Email  string // the address that is meant
	Field  string // the label of what has to be typed for it: a company or an address; empty: nothing
}

// StaffAddPage adds a contact. Its form: POST {prefix}/staff/add with email, first, last, company.
type StaffAddPage struct {
	Address, First, Last, Company string // as they were typed, when the form is shown again
	Problem                       string // why nobody was added; empty: nothing
	Wrong                         string // the field that Problem is about: email or company; empty: none of them
}

// StaffCompaniesPage lists companies with their old links. Its form: POST {prefix}/staff/companies with id, do.
type StaffCompaniesPage struct {
	Query     string
	Companies []StaffCompanyRow
	Next      string
	Done      string
	Failed    string // why something wasn't done; empty: nothing
}

// StaffCompanyRow is a company in the list of staff.
type StaffCompanyRow struct {
	ID, Name string
	Links    int // old links that it has
	Upgraded bool
	Used     time.Time // when one was last used; zero: never
}

// StaffUpgradePage says what an upgrade would do, before it is done. Its form: POST {prefix}/staff/companies with id, do.
type StaffUpgradePage struct {
	ID, Name string
	Asked    []string // addresses of those who will be asked to sign in
	Refused  bool     // nobody who may sign in belongs to the company
	Recent   int      // uses of its old links in the last 90 days
	Programs int      // of those: by what is no browser, and can't sign in
}

func (StaffPage) file() string          { return "staff.html" }
func (StaffContactsPage) file() string  { return "staff-contacts.html" }
func (StaffContactPage) file() string   { return "staff-contact.html" }
func (StaffAddPage) file() string       { return "staff-add.html" }
func (StaffCompaniesPage) file() string { return "staff-companies.html" }
func (StaffUpgradePage) file() string   { return "staff-upgrade.html" }

// Query is nothing: the home page searches for nobody yet.
func (StaffPage) Query() string { return "" }
