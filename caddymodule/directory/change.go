package directory

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/phone"
)

// Limits of a contact and a company; lengths in characters.
const (
	maxName      = 100
	maxPhone     = 40
	maxCompany   = 200 // a company's name
	maxToken     = 500 // one token of an old link
	maxTokens    = 50  // of one company
	maxOthers    = 20  // other addresses of one contact
	maxCompanies = 250 // of one contact; their ids must fit into a request header
)

// Change is a change of a contact. A nil field stays as it is.
type Change struct {
	// Version is the Contact.Version that the change is based on: a contact in another state isn't changed
	// (ErrChanged). "" changes the contact in whatever state it is.
	Version string `json:"version,omitempty"`

	Email       *string   `json:"email,omitempty"`        // new main address, replaces the old one
	OtherEmails *[]string `json:"other_emails,omitempty"` // replaces all other addresses
	FirstName   *string   `json:"first_name,omitempty"`
	LastName    *string   `json:"last_name,omitempty"`
	Phone       *string   `json:"phone,omitempty"`
	Companies   *[]string `json:"companies,omitempty"` // ids or unique names; replaces the whole list
	Role        *Role     `json:"role,omitempty"`
	Locale      *string   `json:"locale,omitempty"`
	Disabled    *bool     `json:"disabled,omitempty"`
	Texts       *string   `json:"texts,omitempty"` // "on" or "off": text messages

	// Values to add to the contact's lists and to remove from them. Each excludes the whole list
	// above.
	AddEmails       []string `json:"add_emails,omitempty"`
	RemoveEmails    []string `json:"remove_emails,omitempty"`
	AddCompanies    []string `json:"add_companies,omitempty"` // ids or unique names
	RemoveCompanies []string `json:"remove_companies,omitempty"`
}

// CompanyChange is a change of a company. A nil field stays as it is.
type CompanyChange struct {
	// Version is the Directory.VersionOf that the change is based on; see Change.
	Version string `json:"version,omitempty"`

	Name         *string   `json:"name,omitempty"`
	LegacyTokens *[]string `json:"legacy_tokens,omitempty"` // replaces the whole list
}

// FieldError reports a problem with one field of a change, and how to solve it.
type FieldError struct {
	Field  string `json:"field"`  // the name in CSV and JSON, such as first_name
	Reason string `json:"reason"` // for the operator
	Err    error  `json:"-"`      // ErrTaken, ErrStaff, ErrUnknown, or nil if the value itself is wrong
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }
func (e *FieldError) Unwrap() error { return e.Err }

// field is a field of a contact: its index in contactColumns.
type field uint8

const (
	fEmail field = iota
	fOthers
	fFirst
	fLast
	fPhone
	fCompanies
	fRole
	fLocale
	fDisabled
	fTexts
	fPassword // only in files: nobody sets a password for somebody else
)

// contactColumns are the names of the fields in CSV and JSON.
var contactColumns = []string{"email", "other_emails", "first_name", "last_name", "phone", "companies", "role", "locale", "disabled", "texts", "password_hash"}

func (f field) String() string { return contactColumns[f] }

type fieldSet uint16

func (s fieldSet) has(f field) bool { return s&(1<<f) != 0 }
func (s *fieldSet) add(f field)     { *s |= 1 << f }
func (s *fieldSet) drop(f field)    { *s &^= 1 << f }

// tri is a boolean that may be unset.
type tri uint8

const (
	unset tri = iota
	no
	yes
)

// edit is a checked change of a contact, from a Change or a CSV row.
type edit struct {
	has                        fieldSet
	email                      address.Address
	others                     []address.Address
	first, last, phone, locale string
	companies                  []string // as written; ids after they are resolved
	role                       Role     // "" if unset
	disabled                   tri
	texts                      texts  // "" if unset
	hash                       string // hash of a password from an earlier portal; "" if unset
	hashLine                   int    // line of the file that has the hash
	overrides                  bool   // the row differs from the last load, so it may undo manual changes
}

// set checks the text of one field and stores the value; an empty text clears the field.
func (e *edit) set(f field, text string) (err error) {
	e.has.add(f)
	switch f {
	case fEmail:
		e.email, err = address.Parse(text)
	case fFirst:
		e.first, err = cleanText(text, maxName)
	case fLast:
		e.last, err = cleanText(text, maxName)
	case fPhone:
		e.phone, err = cleanText(text, maxPhone)
	case fLocale:
		e.locale, err = cleanLocale(text)
	case fRole:
		e.role, err = cleanRole(text)
	case fDisabled:
		e.disabled, err = cleanBool(text)
	case fTexts:
		if e.texts, err = cleanTexts(text); e.texts == "" {
			e.has.drop(f) // nobody gets texts again by an empty cell
		}
	case fPassword:
		e.hash = strings.TrimSpace(text) // checked by the plan, which knows the usable formats
	case fOthers:
		return e.setList(f, splitList(text))
	case fCompanies:
		return e.setList(f, splitList(text))
	}
	return err
}

// setList is set for the two fields with several values.
func (e *edit) setList(f field, values []string) error {
	e.has.add(f)
	if f == fCompanies {
		list, err := cleanList(values, maxCompanies, maxCompany)
		e.companies = list
		return err
	}
	if len(values) > maxOthers {
		return fmt.Errorf("more than %d", maxOthers)
	}
	e.others = make([]address.Address, 0, len(values))
	for _, v := range values {
		a, err := address.Parse(v)
		if err != nil {
			return fmt.Errorf("%w (several are separated by ;)", err)
		}
		if !slices.Contains(e.others, a) {
			e.others = append(e.others, a)
		}
	}
	return nil
}

// parse checks a manual Change.
func (c Change) parse() (e edit, err error) {
	for f, text := range []*string{fEmail: c.Email, fFirst: c.FirstName, fLast: c.LastName, fPhone: c.Phone, fRole: (*string)(c.Role), fLocale: c.Locale, fTexts: c.Texts} {
		if text != nil {
			if err := e.set(field(f), *text); err != nil {
				return e, &FieldError{Field: field(f).String(), Reason: err.Error()}
			}
		}
	}
	for f, list := range []*[]string{fOthers: c.OtherEmails, fCompanies: c.Companies} {
		if list != nil {
			if err := e.setList(field(f), *list); err != nil {
				return e, &FieldError{Field: field(f).String(), Reason: err.Error()}
			}
		}
	}
	if c.Disabled != nil {
		e.has.add(fDisabled)
		e.disabled = no
		if *c.Disabled {
			e.disabled = yes
		}
	}
	return e, nil
}

// edited returns the contact after a change whose companies are resolved. With manual, a new main
// address replaces the old one, and the change decides whether the contact is disabled. From a
// file, the address in the row's email column becomes the main one and the old main address is
// kept, and a contact that was disabled manually stays disabled.
func (e storedContact) edited(d edit, manual bool) storedContact {
	main, rest := e.Email(), slices.Clone(e.Emails[min(1, len(e.Emails)):])
	if d.has.has(fEmail) && d.email != main {
		if !manual && main != "" {
			rest = append(rest, main)
		}
		main = d.email
	}
	if d.has.has(fOthers) {
		rest = slices.Clone(d.others)
	}
	rest = slices.DeleteFunc(rest, func(a address.Address) bool { return a == main })
	e.Emails = append([]address.Address{main}, rest...)
	for _, t := range []struct {
		f  field
		to *string
		is string
	}{{fFirst, &e.FirstName, d.first}, {fLast, &e.LastName, d.last}, {fPhone, &e.Phone, d.phone}, {fLocale, &e.Locale, d.locale}} {
		if d.has.has(t.f) {
			*t.to = t.is
		}
	}
	if d.has.has(fPhone) && strings.HasPrefix(e.Phone, "+") {
		if n, err := phone.Parse(e.Phone, ""); err == nil { // others stay as they are: people dial them
			e.Phone = string(n)
		}
	}
	if d.has.has(fTexts) {
		e.NoTexts = d.texts == textsOff
	}
	if d.has.has(fCompanies) {
		e.Companies = slices.Compact(slices.Sorted(slices.Values(d.companies)))
	}
	if d.has.has(fRole) {
		e.Role = cmp.Or(d.role, Client)
	}
	if d.has.has(fDisabled) {
		e.disabledBy = d.decides(e.disabledBy, manual)
		e.Disabled = e.disabledBy != notDisabled
	}
	return e
}

func (d edit) decides(was disabledBy, manual bool) disabledBy {
	switch {
	case manual && d.disabled == yes:
		return disabledManually
	case manual:
		return notDisabled
	case was == disabledManually && !(d.overrides && d.disabled == no):
		return disabledManually
	case d.disabled == yes:
		return disabledByFile
	default:
		return notDisabled
	}
}

// differences returns the names of the fields that differ between two states of a contact.
func differences(a, b *storedContact) (names []string) {
	for f, same := range []bool{
		fEmail:     a.Email() == b.Email(),
		fOthers:    slices.Equal(a.Emails[1:], b.Emails[1:]),
		fFirst:     a.FirstName == b.FirstName,
		fLast:      a.LastName == b.LastName,
		fPhone:     a.Phone == b.Phone,
		fCompanies: slices.Equal(a.Companies, b.Companies),
		fRole:      a.Role == b.Role,
		fLocale:    a.Locale == b.Locale,
		fDisabled:  a.disabledBy == b.disabledBy,
		fTexts:     a.NoTexts == b.NoTexts,
	} {
		if !same {
			names = append(names, field(f).String())
		}
	}
	return names
}

// emptied returns the names of the fields that have a value in a but not in b.
func emptied(a, b *storedContact) (names []string) {
	for f, gone := range []bool{
		fOthers:    len(a.Emails) > 1 && len(b.Emails) == 1,
		fFirst:     a.FirstName != "" && b.FirstName == "",
		fLast:      a.LastName != "" && b.LastName == "",
		fPhone:     a.Phone != "" && b.Phone == "",
		fCompanies: len(a.Companies) > 0 && len(b.Companies) == 0,
		fLocale:    a.Locale != "" && b.Locale == "",
	} {
		if gone {
			names = append(names, field(f).String())
		}
	}
	return names
}

// subtract returns the addresses of a that aren't in b.
func subtract(a, b []address.Address) (out []address.Address) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

// splitList splits the text of a cell that holds a list; it drops empty values.
func splitList(s string) (list []string) {
	for v := range strings.SplitSeq(s, ";") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

func cleanList(values []string, maxValues, maxLength int) ([]string, error) {
	if len(values) > maxValues {
		return nil, fmt.Errorf("more than %d", maxValues)
	}
	out := make([]string, 0, len(values))
	for _, v := range values {
		v, err := cleanText(v, maxLength)
		if err != nil {
			return nil, err
		}
		if v != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// cleanText refuses characters that would start a new line or header when the text is displayed
// (control characters, line separators), and characters that would reverse the text beside it
// (direction overrides).
func cleanText(s string, maxLength int) (string, error) {
	s = strings.TrimSpace(s)
	if isPlain(s) && len(s) <= maxLength {
		return s, nil
	}
	s = norm.NFC.String(s)
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("is not UTF-8")
	}
	for _, r := range s {
		turns := r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) || turns {
			return "", fmt.Errorf("holds the character %U, a line break or another one that can't be seen; take it out", r)
		}
	}
	if n := utf8.RuneCountInString(s); n > maxLength {
		return "", fmt.Errorf("has %d characters, at most %d can be kept", n, maxLength)
	}
	return s, nil
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// quoted returns the text, or the beginning of a long one, in quotes for an error message.
func quoted(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strconv.Quote(s)
}

func cleanRole(s string) (Role, error) {
	switch r := Role(strings.ToLower(strings.TrimSpace(s))); r {
	case "", Client, Staff:
		return r, nil
	}
	return "", fmt.Errorf("%s is none of client, staff", quoted(s))
}

func cleanBool(s string) (tri, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "":
		return unset, nil
	case "true", "yes", "1", "x":
		return yes, nil
	case "false", "no", "0":
		return no, nil
	}
	return unset, fmt.Errorf("%s is none of true, false", quoted(s))
}

func cleanTexts(s string) (texts, error) {
	switch t := texts(strings.ToLower(strings.TrimSpace(s))); t {
	case "", textsOn, textsOff:
		return t, nil
	}
	return "", fmt.Errorf("%s is none of on, off", quoted(s))
}

func cleanLocale(s string) (string, error) {
	if s = strings.TrimSpace(s); s == "" {
		return "", nil
	}
	tag, err := language.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%s is no language tag, such as en or en-GB", quoted(s))
	}
	return tag.String(), nil
}

// cleanTokens checks the tokens of old links. Its errors never contain a token.
func cleanTokens(values []string) ([]string, error) {
	if len(values) > maxTokens {
		return nil, fmt.Errorf("more than %d", maxTokens)
	}
	out := make([]string, 0, len(values))
	for _, v := range values {
		v = decodeToken(strings.TrimSpace(v))
		switch {
		case v == "":
			continue
		case len(v) > maxToken:
			return nil, fmt.Errorf("one is longer than %d characters", maxToken)
		case !isPlain(v) || strings.Contains(v, " "):
			return nil, fmt.Errorf("one holds a space or a character that isn't ASCII; write it as it is in the link")
		case !slices.Contains(out, v):
			out = append(out, v)
		}
	}
	return out, nil
}
