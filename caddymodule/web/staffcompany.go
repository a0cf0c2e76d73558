package web

import "time"

// StaffCompanyPage shows a company. Its forms: POST {prefix}/staff/company with id, do; POST {prefix}/staff/report with
// company, title, notify, file.
type StaffCompanyPage struct {
	ID, Name string
	NewName  string // as typed, if the name wasn't changed; otherwise Name
	Version  string // of what the page shows
	Links    int    // number of its old links
	Upgraded bool
	Use      OldLinkUse
	Contacts []CompanyContactRow
	More     int // contacts that aren't shown

	CanNotify bool
	CanText   bool     // notices can go to phones, too
	Templates []string // of notices, without the usual one
	Key       string   // by which the same form sends one notice only, even if it is sent twice

	Reports     []StaffReportRow
	MoreReports bool // there are older ones than these

	Done   string // message about the last action; empty if none
	Failed string // why the last action failed; empty if it didn't
}

// OldLinkUse is the use of a company's old links.
type OldLinkUse struct {
	Last     time.Time // zero: never
	Recent   int       // uses in the last 90 days
	Browsers int       // different browsers of these
	AtLeast  bool      // there were more than Browsers
	Programs int       // of Recent, those by programs
	Since    time.Time // uses before aren't known; zero: nothing is counted
	Weeks    WeekChart
}

// CompanyContactRow is a contact of a company.
type CompanyContactRow struct {
	ContactRow
	Told time.Time // of the latest notice since they last opened the company's page; zero if none
}

// StaffReportRow is a published report of a company.
type StaffReportRow struct {
	ReportRow
	ID string
}

func (StaffCompanyPage) file() string { return "staff-company.html" }

// Section implements StaffSection.
func (StaffCompanyPage) Section() Section { return SectionCompanies }

func staffCompanySamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	weeks := WeekChart{{Begin: when.AddDate(0, 0, -14)}, {Begin: when.AddDate(0, 0, -7), People: 3, Programs: 2}, {Begin: when, People: 40}}
	return []Page{
		StaffCompanyPage{ID: "oak", Name: "Oak", NewName: "Oak"},
		StaffCompanyPage{ID: "oak", Name: "Oak", NewName: "Oak & Sons", Links: 2, Upgraded: true, Failed: "Somebody else has changed it meanwhile."},
		StaffCompanyPage{ID: "harbor-bakery", Name: "Harbor Bakery", NewName: "Harbor Bakery", Links: 1, CanNotify: true, CanText: true, Templates: []string{"year-end"}, Key: "k", More: 3, MoreReports: true, Done: "They are told.",
			Use:      OldLinkUse{Last: when, Recent: 45, Browsers: 2, AtLeast: true, Programs: 2, Since: when, Weeks: weeks},
			Contacts: []CompanyContactRow{{ContactRow{ID: "7", Name: "Ann Lee", Email: "ann@example.com"}, when}, {ContactRow{ID: "8", Email: "bob@example.com", Disabled: true}, time.Time{}}},
			Reports:  []StaffReportRow{{ReportRow{"/-/reports/abc", "July statement", "", "PDF", "1.2 MB", when, false}, "abc"}}},
		StaffCompanyPage{ID: "elm", Name: "Elm", NewName: "Elm", Links: 1, Use: OldLinkUse{Since: when, Weeks: weeks[:1]}, Contacts: []CompanyContactRow{{ContactRow{ID: "9", Email: "eve@example.com"}, time.Time{}}}},
	}
}
