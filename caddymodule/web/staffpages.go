package web

import "time"

// StaffPage is the start page of the firm's staff. Its forms: POST {prefix}/staff/contacts with q;
// POST {prefix}/staff/look with email.
type StaffPage struct {
	Email     string // the visitor's address
	Linked    int    // companies with old links
	Upgraded  int    // those of Linked whose old links ask for sign-in
	Strangers []StrangerRow
	Waits     string // why mail isn't being sent; empty if unknown
	Advice    string // what to do about it
}

// StrangerRow is an unknown address that was used to request a mail.
type StrangerRow struct {
	Address string
	Count   int
	Last    time.Time
}

// StaffContactsPage lists contacts. Its form is that of StaffPage.
type StaffContactsPage struct {
	Query    string // as typed
	Contacts []ContactRow
	Next     string // start of the next page; empty if there is none
}

// ContactRow is a contact in a list.
type ContactRow struct {
	ID, Name, Email string
	Companies       string // names, formatted for a sentence
	Disabled, Staff bool
}

// StaffContactPage shows the events of an address, and what to do. Its forms: POST
// {prefix}/staff/contact with id, do, email, company, which identifies the contact on this page;
// and that of StaffPage.
type StaffContactPage struct {
	Contact   *ContactRow // nil if the address belongs to no contact
	Email     string      // the address
	Emails    []string    // all addresses of the contact
	Story     []string    // the events, one per line
	Advice    []AdviceRow
	Passwords bool   // a link to set a password may be sent
	Sessions  int    // number of browsers in which the contact is signed in
	Done      string // message about the last action; empty if none
	Failed    string // why the last action failed; empty if it didn't
}

// AdviceRow is a sentence, with a button for the step that it suggests.
type AdviceRow struct {
	Text   string
	Do     string // value of the form's field do; empty if there is no button
	Button string
	ID     string // of the contact that the button applies to
	Email  string // the address to use
	Field  string // label of the required text field: a company or an address; empty if none
}

// StaffAddPage adds a contact. Its form: POST {prefix}/staff/add with email, first, last, company.
type StaffAddPage struct {
	Address, First, Last, Company string // as typed, if the form is shown again
	Problem                       string // why no contact was added; empty if none
	Wrong                         string // the field with the problem: email or company; empty if none
}

// StaffCompaniesPage lists companies with their old links. Its form: POST {prefix}/staff/companies
// with id, do.
type StaffCompaniesPage struct {
	Query     string
	Companies []StaffCompanyRow
	Next      string
	Done      string
	Failed    string // why an action failed; empty if it didn't
}

// StaffCompanyRow is a company in the staff's list.
type StaffCompanyRow struct {
	ID, Name string
	Links    int // number of its old links
	Upgraded bool
	Used     time.Time // when one was last used; zero if never
}

// StaffUpgradePage shows the effect of an upgrade before it is done. Its form: POST
// {prefix}/staff/companies with id, do.
type StaffUpgradePage struct {
	ID, Name string
	Asked    []string // addresses of the contacts who will be asked to sign in
	Refused  bool     // no contact who may sign in belongs to the company
	Recent   int      // uses of its old links in the last 90 days
	Programs int      // those by programs other than browsers, which can't sign in
}

func (StaffPage) file() string          { return "staff.html" }
func (StaffContactsPage) file() string  { return "staff-contacts.html" }
func (StaffContactPage) file() string   { return "staff-contact.html" }
func (StaffAddPage) file() string       { return "staff-add.html" }
func (StaffCompaniesPage) file() string { return "staff-companies.html" }
func (StaffUpgradePage) file() string   { return "staff-upgrade.html" }

// Query is empty: the start page has no search yet.
func (StaffPage) Query() string { return "" }
