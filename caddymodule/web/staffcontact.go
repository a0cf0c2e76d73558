package web

// StaffContactPage shows the events of an address, and what to do. Its forms: POST
// {prefix}/staff/contact with id, do, email, company, which identifies the contact on this page;
// and that of StaffPage.
type StaffContactPage struct {
	Contact   *ContactRow // nil if the address belongs to no contact
	Email     string      // the address
	Emails    []string    // all addresses of the contact
	Phone     string      // of the contact; empty if unknown
	Link      string      // the contact's lasting link
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

func (StaffContactPage) file() string { return "staff-contact.html" }

// Section implements StaffSection.
func (StaffContactPage) Section() Section { return SectionContacts }

func staffContactSamples() []Page {
	return []Page{
		StaffContactPage{Email: "anm@example.com", Failed: "This is no address."},
		StaffContactPage{Contact: &ContactRow{ID: "7", Name: "Ann Lee", Email: "ann@example.com", Companies: "Harbor Bakery"}, Email: "ann@example.com", Emails: []string{"ann@example.com", "ann@example.org"}, Phone: "+1 555 0100", Link: "https://clients.example.com/-/companies", Story: []string{"10:02  asked for a sign-in mail"},
			Advice:    []AdviceRow{{Text: "No mail reaches this address."}, {Text: "Check the spelling with them, then:", Do: "change-address", Button: "Use this address instead", ID: "7", Field: "Their new address"}},
			Passwords: true, Sessions: 2, Done: "They are signed out everywhere."},
	}
}
