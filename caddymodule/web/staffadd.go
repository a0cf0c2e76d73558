package web

// StaffAddPage adds a contact. Its form: POST {prefix}/staff/add with email, first, last, company.
type StaffAddPage struct {
	Address, First, Last, Company string // as typed, if the form is shown again
	Problem                       string // why no contact was added; empty if none
	Wrong                         string // the field with the problem: email or company; empty if none
}

func (StaffAddPage) file() string { return "staff-add.html" }

// Section implements StaffSection.
func (StaffAddPage) Section() Section { return SectionContacts }

func staffAddSamples() []Page {
	return []Page{
		StaffAddPage{},
		StaffAddPage{Address: "ann@example", First: "Ann", Last: "Lee", Company: "Harbor", Problem: "This is no address.", Wrong: "email"},
		StaffAddPage{Address: "ann@example.com", Company: "Harbor", Problem: "There is no such company.", Wrong: "company"},
	}
}
