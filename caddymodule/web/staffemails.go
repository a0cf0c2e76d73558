package web

import "time"

// StaffEmailsPage shows the emails that wait or failed. Its form: POST {prefix}/staff/emails with do, id, email.
type StaffEmailsPage struct {
	Email       string // the visitor's address, for a test
	Waiting     []EmailRow
	Unsent      []EmailRow // in the last 48 hours
	MoreWaiting bool
	MoreUnsent  bool
	Outage      string    // why none goes out now; empty if nothing is known
	OutageSince time.Time // with Outage
	Advice      string    // what to do about it
	Test        *EmailTest
	Done        string // message about the last action; empty if none
	Failed      string // why the last action failed; empty if it didn't
}

// EmailRow is an email that isn't sent.
type EmailRow struct {
	ID, What, To string    // To is masked; empty if the email isn't written yet
	Asked        time.Time // when it was asked for
	Tries        int       // that failed
	Reason       string    // in the mail server's words; empty if there was no try
	Advice       string
	Next         time.Time // of the next try; zero: now, or none
	Until        time.Time // when it is given up
	Ended        time.Time // when it failed
	Retry        bool      // it can be tried again
}

// EmailTest is what became of a test email.
type EmailTest struct {
	To, Server     string
	Accepted       bool
	Reason, Advice string // why it wasn't accepted
	Lines          []TestLine
}

// TestLine is a line of the dialogue with the mail server.
type TestLine struct{ By, Text, Means string }

func (StaffEmailsPage) file() string { return "staff-emails.html" }

// Section implements StaffSection.
func (StaffEmailsPage) Section() Section { return SectionEmails }

func staffEmailsSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffEmailsPage{Email: "owner@example.com"},
		StaffEmailsPage{Email: "owner@example.com", Outage: "connect: connection refused", OutageSince: when, Advice: "Look at the server.", MoreWaiting: true, MoreUnsent: true, Done: "It is tried again now.",
			Waiting: []EmailRow{{ID: "1", What: "Sign-in link", To: "a•••@example.com", Asked: when, Tries: 1, Reason: "RCPT TO: 450 4.2.0 Mailbox busy", Advice: "It is tried again.", Next: when, Until: when, Retry: true}, {ID: "2", What: "Notice", Asked: when}},
			Unsent:  []EmailRow{{ID: "3", What: "Sign-in link", To: "b•••@example.com", Asked: when, Ended: when, Reason: "RCPT TO: 550 5.1.1 no such user", Advice: "No email reaches this address.", Retry: true}, {ID: "4", What: "Sign-in link", Ended: when}}},
		StaffEmailsPage{Email: "owner@example.com", Failed: "Write it as name@example.com.", Test: &EmailTest{To: "owner@example.com", Server: "smtp.example.com:587", Accepted: true, Lines: []TestLine{{"The mail server", "220 ready", "It is there."}, {"We", "QUIT", ""}}}},
		StaffEmailsPage{Email: "owner@example.com", Test: &EmailTest{To: "owner@example.com", Server: "smtp.example.com:587", Reason: "AUTH: 535 no", Advice: "Check the login."}},
	}
}
