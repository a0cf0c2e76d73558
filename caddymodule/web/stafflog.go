package web

import "time"

// StaffLogPage lists what happened, the latest first. Its forms: POST {prefix}/staff/log and {prefix}/staff/log.csv with
// who, topic, days, company, contact, before.
type StaffLogPage struct {
	Who, Topic, Days string // the filter, as chosen
	Company          string // ID of the company that it is about; empty: any
	CompanyName      string
	Contact          string // ID of the contact, if Who is none; empty: anybody
	ContactName      string
	Topics           []Option
	Events           []LogRow
	Next             string    // start of the next page; empty if there is none
	Back             time.Time // with Next: how far the search has looked back
	Failed           string    // what is wrong with the filter; empty if nothing
}

// Option is a choice of a list.
type Option struct{ Value, Label string }

// LogRow is one thing that happened.
type LogRow struct {
	At   time.Time
	What string
	ID   string // of the contact; empty if there is none
	Who  string // the contact, or a masked address; empty if unknown
	From string // IP address; empty if unknown
}

// LogDays are the periods by which the log is searched.
func (StaffLogPage) LogDays() []Option {
	return []Option{{"1", "the last day"}, {"7", "the last 7 days"}, {"30", "the last 30 days"}, {"", "the last 90 days"}}
}

func (StaffLogPage) file() string { return "staff-log.html" }

// Section implements StaffSection.
func (StaffLogPage) Section() Section { return SectionLog }

func staffLogSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	topics := []Option{{"changes", "Changes"}}
	return []Page{
		StaffLogPage{Topics: topics},
		StaffLogPage{Topics: topics, Who: "nobody@example.com", Topic: "changes", Days: "7", Failed: "No contact has this address."},
		StaffLogPage{Topics: topics, Company: "acme", CompanyName: "Acme Ltd", Contact: "7", ContactName: "Ann Lee", Next: "x", Back: when},
		StaffLogPage{Topics: topics, Events: []LogRow{{when, "signed in by link", "7", "Ann Lee", "192.0.2.1"}, {At: when, What: "asked for a sign-in email", Who: "b•••@example.com"}}, Next: "x", Back: when},
	}
}
