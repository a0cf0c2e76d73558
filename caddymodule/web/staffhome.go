package web

import "time"

// StaffPage is the start page of the firm's staff. Its forms: POST {prefix}/staff/contacts with q;
// POST {prefix}/staff/look with email.
type StaffPage struct {
	Email     string         // the visitor's address
	Overview  *StaffOverview // nil: the numbers aren't there yet
	Attention []AttentionRow
	Strangers []StrangerRow
	Waits     string // why mail isn't being sent; empty if unknown
	Advice    string // what to do about it
}

// StaffOverview says how far the move from old links is.
type StaffOverview struct {
	At        time.Time // when it was counted
	Contacts  int       // clients who may sign in
	SignedIn  int       // those of Contacts who have at least once
	Companies int
	Linked    int // companies with old links
	Upgraded  int // those of Linked whose old links ask for sign-in
	Weeks     WeekChart
	Sent      int // emails that were sent in the last 7 days
	NotSent   int // emails that ended unsent
}

// Never is how many contacts have never signed in.
func (o StaffOverview) Never() int { return o.Contacts - o.SignedIn }

// AttentionRow is something that somebody ought to look after.
type AttentionRow struct {
	Text  string
	Links []PageLink
	More  string // how many further ones there are; empty if none
}

// PageLink is a link to a page of the gate.
type PageLink struct{ Path, Label string } // Path is under the prefix

// StrangerRow is an unknown address that was used to request a mail.
type StrangerRow struct {
	Address string
	Count   int
	Last    time.Time
}

func (StaffPage) file() string { return "staff.html" }

// Section implements StaffSection.
func (StaffPage) Section() Section { return SectionHome }

// Query is empty: the start page has no search yet.
func (StaffPage) Query() string { return "" }

func staffHomeSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffPage{Email: "ann@example.com"},
		StaffPage{Email: "ann@example.com", Overview: &StaffOverview{At: when}},
		StaffPage{Email: "ann@example.com", Strangers: []StrangerRow{{"ann@example.com", 1, when}, {"bob@example.com", 3, when}}, Waits: "connection refused", Advice: "Look at the server.",
			Overview:  &StaffOverview{At: when, Contacts: 40, SignedIn: 12, Companies: 20, Linked: 12, Upgraded: 5, Weeks: WeekChart{{Begin: when, People: 3, Programs: 1}}, Sent: 30, NotSent: 2},
			Attention: []AttentionRow{{Text: "2 emails failed in the last two days.", Links: []PageLink{{"/staff/emails", "See why"}}}, {Text: "7 companies have no contact.", Links: []PageLink{{"/staff/company?id=oak", "Oak"}, {"/staff/company?id=elm", "Elm"}}, More: "and 5 more"}}},
		StaffPage{Email: "ann@example.com", Overview: &StaffOverview{At: when, Contacts: 1, SignedIn: 1, Linked: 1, Upgraded: 1}},
	}
}
