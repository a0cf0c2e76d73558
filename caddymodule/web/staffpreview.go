package web

// StaffPreviewPage shows an email as clients get it, in a frame: {prefix}/staff/preview/frame with kind, language, variant. Its
// forms: GET {prefix}/staff/preview with the same; POST {prefix}/staff/emails with do, kind, language.
type StaffPreviewPage struct {
	Email                      string // the visitor's address
	Kinds, Languages, Variants []Option
	Kind, Language, Variant    string // of the email that is shown
	From, Subject, Text        string
}

func (StaffPreviewPage) file() string { return "staff-preview.html" }

// Section implements StaffSection.
func (StaffPreviewPage) Section() Section { return SectionEmails }

func staffPreviewSamples() []Page {
	one := StaffPreviewPage{Email: "owner@example.com", Kinds: []Option{{"sign-in", "Sign-in link"}}, Languages: []Option{{"en", "en"}, {"es", "es"}}, Variants: []Option{{"0", "usual"}},
		Kind: "sign-in", Language: "es", Variant: "0", From: "Firm <hello@example.com>", Subject: "Sign in", Text: "Hello,\nopen this."}
	several := one
	several.Variants = []Option{{"0", "usual"}, {"1", "removed"}}
	return []Page{one, several}
}
