package web

// StaffEditPage changes a contact. Its forms: POST {prefix}/staff/edit with id, do and value, which adds or removes
// one address or company; and with id, version, was, first, last, email, phone, role, locale.
type StaffEditPage struct {
	ID, Name string
	Version  string // of the contact that the form shows
	Was      string // the values that the form showed, for the handler

	First, Last, Email, Phone string // as typed
	Staff                     bool   // the role that is chosen
	RoleFixed                 bool   // the Caddyfile decides on the role
	CanText, NoTexts          bool   // text messages are sent; the contact gets none
	Locales                   []LocaleRow

	Others    []string         // further addresses
	Companies []CompanyNameRow // that the contact belongs to

	Changed []ChangedRow // what somebody else has changed meanwhile; empty if nothing
	Problem string       // why nothing was changed; empty if none
	Wrong   string       // the field with the problem, by its name in the form; empty if none
	Done    string       // message about the last change; empty if none
	Value   string       // of the field that adds an address or company, if it is shown again
}

// LocaleRow is a language that a contact may have.
type LocaleRow struct {
	Tag, Name string
	Chosen    bool
}

// CompanyNameRow is a company of a contact.
type CompanyNameRow struct{ ID, Name string }

// ChangedRow is a field that somebody else has changed since the form was shown.
type ChangedRow struct {
	Label, Was, Now string
	Typed           string // what the visitor has typed there instead; empty if nothing
}

// StaffRemovePage asks whether a contact is to be removed. Its form: POST {prefix}/staff/remove with id, version.
type StaffRemovePage struct {
	ID, Name, Email, Version string
	Companies                []string
	Sessions                 int    // browsers that it signs out
	Changed                  bool   // somebody has changed the contact since the visitor last saw them
	Failed                   string // why the contact wasn't removed; empty if they weren't to be yet
}

func (StaffEditPage) file() string   { return "staff-edit.html" }
func (StaffRemovePage) file() string { return "staff-remove.html" }

// Section implements StaffSection.
func (StaffEditPage) Section() Section { return SectionContacts }

// Section implements StaffSection.
func (StaffRemovePage) Section() Section { return SectionContacts }

func staffEditSamples() []Page {
	whole := StaffEditPage{ID: "7", Name: "Ann Lee", Version: "v", Was: "{}", First: "Ann", Last: "Lee", Email: "ann@example.com", Phone: "+1 555 0100", CanText: true,
		Locales: []LocaleRow{{"", "As their browser asks", true}, {"en", "English", false}}, Others: []string{"ann@example.org"}, Companies: []CompanyNameRow{{"harbor", "Harbor Bakery"}},
		Done: "The changes are saved."}
	changed := whole
	changed.Done, changed.Changed = "", []ChangedRow{{"Phone", "+1 555 0100", "+1 555 0199", "+1 555 0111"}, {"Last name", "Lee", "", ""}}
	staff := StaffEditPage{ID: "8", Name: "owner@example.com", Email: "owner@example.com", Staff: true, RoleFixed: true}
	wrong := []Page{}
	for _, field := range []string{"email", "first", "last", "phone", "locale", "other", "company", ""} {
		one := whole
		one.Done, one.Problem, one.Wrong, one.Value = "", "This is no address.", field, "typed"
		wrong = append(wrong, one)
	}
	return append(wrong, whole, changed, staff,
		StaffRemovePage{ID: "7", Name: "Ann Lee", Email: "ann@example.com", Version: "v", Companies: []string{"Harbor Bakery"}, Sessions: 2},
		StaffRemovePage{ID: "7", Name: "ann@example.com", Email: "ann@example.com", Sessions: 1, Changed: true},
		StaffRemovePage{ID: "7", Name: "ann@example.com", Email: "ann@example.com", Failed: "The Caddyfile names them."})
}
