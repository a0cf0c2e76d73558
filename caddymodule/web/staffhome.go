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

func (StaffPage) file() string { return "staff.html" }

// Section implements StaffSection.
func (StaffPage) Section() Section { return SectionHome }

// Query is empty: the start page has no search yet.
func (StaffPage) Query() string { return "" }

func staffHomeSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffPage{Email: "ann@example.com"},
		StaffPage{Email: "ann@example.com", Linked: 12, Upgraded: 5, Strangers: []StrangerRow{{"ann@example.com", 1, when}, {"bob@example.com", 3, when}}, Waits: "connection refused", Advice: "Look at the server."},
	}
}
