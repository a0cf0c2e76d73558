package web

import "time"

// StaffCodePage makes a code to read to a contact over the phone, and shows it. Its form: POST {prefix}/staff/code with
// id, request.
type StaffCodePage struct {
	ID, Name, Phone string
	SignIn          string // where the contact signs in
	Waiting         []WaitingRow
	More            int    // browsers that wait beside these
	Failed          string // why no code was made; empty if none was to be

	Code  string // that was made; empty if none
	Spelt []SpeltRow
	Agent string // of the browser that it works in
	Until time.Time
}

// WaitingRow is a browser that a code may be made for.
type WaitingRow struct {
	Request, Agent, Email string
	At                    time.Time
	Known                 bool // the contact has signed in on it before
}

// SpeltRow is a character of a code, and how to say it.
type SpeltRow struct{ Char, Word string }

func (StaffCodePage) file() string { return "staff-code.html" }

// Section implements StaffSection.
func (StaffCodePage) Section() Section { return SectionContacts }

func staffCodeSamples() []Page {
	at := time.Date(2026, 3, 2, 14, 5, 0, 0, time.UTC)
	return []Page{
		StaffCodePage{ID: "7", Name: "Ann Lee", Phone: "+1 555 0100", SignIn: "https://clients.example.com"},
		StaffCodePage{ID: "7", Name: "Ann Lee", SignIn: "https://clients.example.com", Waiting: []WaitingRow{{"a", "Safari on iPhone", "ann@example.com", at, true}, {"b", "Firefox on Windows", "ann@example.com", at, false}}, More: 3, Failed: "This browser waits no more."},
		StaffCodePage{ID: "7", Name: "Ann Lee", Code: "4k7d-x2qp", Spelt: []SpeltRow{{"4", "four"}, {"k", "k as in Kilo"}}, Agent: "Safari on iPhone", Until: at},
	}
}
