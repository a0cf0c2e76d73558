package web

// StaffContactsPage lists contacts. Its form is that of StaffPage.
type StaffContactsPage struct {
	Query    string // as typed
	Contacts []ContactRow
	Next     string // start of the next page; empty if there is none
	Done     string // message about the last change; empty if none
}

// ContactRow is a contact in a list.
type ContactRow struct {
	ID, Name, Email string
	Companies       string // names, formatted for a sentence
	Disabled, Staff bool
}

func (StaffContactsPage) file() string { return "staff-contacts.html" }

// Section implements StaffSection.
func (StaffContactsPage) Section() Section { return SectionContacts }

func staffContactsSamples() []Page {
	return []Page{
		StaffContactsPage{Done: "The contact is removed."},
		StaffContactsPage{Query: "nobody"},
		StaffContactsPage{Query: "ann", Next: "7", Contacts: []ContactRow{{ID: "7", Name: "Ann Lee", Email: "ann@example.com", Companies: "Harbor Bakery"}, {ID: "8", Email: "bob@example.com", Disabled: true}, {ID: "9", Email: "owner@example.com", Staff: true}}},
	}
}
