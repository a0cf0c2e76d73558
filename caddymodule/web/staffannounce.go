package web

import "time"

// StaffAnnouncePage begins an announcement to contacts, and shows how far it is. Its form: POST {prefix}/staff/announce with
// do, company, again, key.
type StaffAnnouncePage struct {
	Company, CompanyName string // ID and name of the company whose contacts are meant; empty: all

	State     string // of the latest announcement: running, stopped or done; empty if there was none
	Progress  string // in words
	Left      string // about how long it goes on; empty if unknown
	Sent, All int
	Begun     time.Time
	Unsent    []UnsentRow

	Plan   *AnnouncePlan // who would be told; nil: nobody asked
	Failed string        // why the last action failed; empty if it didn't
}

// AnnouncePlan says who would be told.
type AnnouncePlan struct {
	Contacts int
	First    []string // some of them
	Skipped  []string // who isn't told, and why
	Again    bool     // also those who were told before
	Key      string   // by which the same form begins one announcement only
}

// UnsentRow is a contact whose email wasn't sent.
type UnsentRow struct{ ID, Text string }

func (StaffAnnouncePage) file() string { return "staff-announce.html" }

// Section implements StaffSection.
func (StaffAnnouncePage) Section() Section { return SectionCompanies }

func staffAnnounceSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffAnnouncePage{},
		StaffAnnouncePage{Company: "acme", CompanyName: "Acme Ltd", State: "running", Progress: "120 of 400 sent, 280 to go", Left: "about 3 minutes", Sent: 120, All: 400, Begun: when},
		StaffAnnouncePage{State: "stopped", Progress: "120 of 400 sent, 280 to go", Sent: 120, All: 400, Begun: when, Failed: "Another announcement is going out.",
			Unsent: []UnsentRow{{"7", "ann@example.com, who was disabled"}, {"", "somebody who was removed"}}},
		StaffAnnouncePage{State: "done", Progress: "400 of 400 sent", Sent: 400, All: 400, Begun: when, Plan: &AnnouncePlan{Contacts: 1, First: []string{"Ann Lee ann@example.com"}, Skipped: []string{"2 contacts are disabled"}, Again: true, Key: "k"}},
		StaffAnnouncePage{Plan: &AnnouncePlan{}},
	}
}
