package web

import "time"

// StaffCompaniesPage lists companies with their old links. Its forms: POST {prefix}/staff/company with id, do, and
// POST {prefix}/staff/companies with name, id, which adds a company.
type StaffCompaniesPage struct {
	Query     string
	NewName   string // as typed, if no company was added
	NewID     string
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
// {prefix}/staff/company with id, do.
type StaffUpgradePage struct {
	ID, Name string
	Asked    []string // addresses of the contacts who will be asked to sign in
	Refused  bool     // no contact who may sign in belongs to the company
	Recent   int      // uses of its old links in the last 90 days
	Programs int      // those by programs other than browsers, which can't sign in
}

func (StaffCompaniesPage) file() string { return "staff-companies.html" }
func (StaffUpgradePage) file() string   { return "staff-upgrade.html" }

// Section implements StaffSection.
func (StaffCompaniesPage) Section() Section { return SectionCompanies }

// Section implements StaffSection.
func (StaffUpgradePage) Section() Section { return SectionCompanies }

func staffCompaniesSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffCompaniesPage{},
		StaffCompaniesPage{Query: "har", Next: "oak", Done: "Its old links ask who is there from now on.", Companies: []StaffCompanyRow{{ID: "harbor-bakery", Name: "Harbor Bakery", Links: 1, Used: when}, {ID: "oak", Links: 2, Upgraded: true}, {ID: "elm"}}},
		StaffCompaniesPage{Failed: "Nobody belongs to it.", NewName: "Oak", NewID: "oak"},
		StaffUpgradePage{ID: "harbor-bakery", Name: "Harbor Bakery", Asked: []string{"ann@example.com"}, Recent: 7, Programs: 2},
		StaffUpgradePage{ID: "oak", Refused: true},
	}
}
