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
)

// The limits of a contact and a company; lengths in characters.
const (
	maxName      = 100
	maxPhone     = 40
	maxCompany   = 200 // a company's name
	maxToken     = 500 // one token of an old link
	maxTokens    = 50  // of one company
	maxOthers    = 20  // other addresses of one contact
	maxCompanies = 250 // of one contact: their ids must fit into a request's header
)

// Change is what is to become of a contact; a nil field stays as it is.
type Change struct {
	Email       *string   `json:"email,omitempty"`        // the new main address, in place of the old one
	OtherEmails *[]string `json:"other_emails,omitempty"` // in place of all the other ones
	FirstName   *string   `json:"first_name,omitempty"`
	LastName    *string   `json:"last_name,omitempty"`
	Phone       *string   `json:"phone,omitempty"`
	Companies   *[]string `json:"companies,omitempty"` // ids or unique names, in place of all the present ones
	Role        *Role     `json:"role,omitempty"`
	Locale      *string   `json:"locale,omitempty"`
	Disabled    *bool     `json:"disabled,omitempty"`

	// Those that are added to, or taken from, what the contact has. Not with a whole list
	// of the same.
	AddEmails       []string `json:"add_emails,omitempty"`
	RemoveEmails    []string `json:"remove_emails,omitempty"`
	AddCompanies    []string `json:"add_companies,omitempty"` // ids or unique names
	RemoveCompanies []string `json:"remove_companies,omitempty"`
}

// CompanyChange is what is to become of a company; a nil field stays as it is.
type CompanyChange struct {
	Name         *string   `json:"name,omitempty"`
	LegacyTokens *[]string `json:"legacy_tokens,omitempty"` // in place of all the present ones
}

// FieldError says what is wrong with one field of a change, and what to do about it.
type FieldError struct {
	Field  string `json:"field"`  // as in CSV and JSON: first_name
	Reason string `json:"reason"` // for the operator
	Err    error  `json:"-"`      // ErrTaken, ErrStaff, ErrUnknown, or nil: the value itself is wrong
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }
func (e *FieldError) Unwrap() error { return e.Err }

// field is one of a contact, by its place in contactColumns.
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
	fPassword // in files alone: nobody sets one for somebody else
)

// contactColumns are the names of the fields, in CSV and JSON.
var contactColumns = []string{"email", "other_emails", "first_name", "last_name", "phone", "companies", "role", "locale", "disabled", "password_hash"}

func (f field) String() string { return contactColumns[f] }

type fieldSet uint16

func (s fieldSet) has(f field) bool { return s&(1<<f) != 0 }
func (s *fieldSet) add(f field)     { *s |= 1 << f }
func (s *fieldSet) drop(f field)    { *s &^= 1 << f }

// tri is a yes or no that may be missing.
type tri uint8

const (
	unsaid tri = iota
	no
	yes
)

// edit is a change of a contact that has been checked, from a Change or a CSV row.
type edit struct {
	has                        fieldSet
	email                      address.Address
	others                     []address.Address
	first, last, phone, locale string
	companies                  []string // as written; ids once they are resolved
	role                       Role     // "": unsaid
	disabled                   tri
	hash                       string // of a password that they had elsewhere; "": unsaid
	hashLine                   int    // of the file, which names it
	overrides                  bool   // a row that says something else than at its last load: it may undo what was done by hand
}

// set checks one field's text and takes it over; empty text empties the field.
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
	case fPassword:
		e.hash = strings.TrimSpace(text) // judged by the plan, which may know what can be used
	case fOthers:
		return e.setList(f, splitList(text))
	case fCompanies:
		return e.setList(f, splitList(text))
	}
	return err
}

// setList is set for the two fields that hold several values.
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

// parse checks a Change that was made by hand.
func (c Change) parse() (e edit, err error) {
	for f, text := range []*string{fEmail: c.Email, fFirst: c.FirstName, fLast: c.LastName, fPhone: c.Phone, fRole: (*string)(c.Role), fLocale: c.Locale} {
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

// edited returns the entry after a change whose companies are resolved. By hand, a new
// main address takes the place of the old one, and disabled is what the hand says. From
// a file, an address of the contact that the row begins with becomes the main one, and
// who was disabled by hand stays so.
func (e entry) edited(d edit, hand bool) entry {
	main, rest := e.Email(), slices.Clone(e.Emails[min(1, len(e.Emails)):])
	if d.has.has(fEmail) && d.email != main {
		if !hand && main != "" {
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
	if d.has.has(fCompanies) {
		e.Companies = slices.Compact(slices.Sorted(slices.Values(d.companies)))
	}
	if d.has.has(fRole) {
		e.Role = cmp.Or(d.role, Client)
	}
	if d.has.has(fDisabled) {
		e.by = d.decides(e.by, hand)
		e.Disabled = e.by != byNobody
	}
	return e
}

func (d edit) decides(was disabledBy, hand bool) disabledBy {
	switch {
	case hand && d.disabled == yes:
		return byHand
	case hand:
		return byNobody
	case was == byHand && !(d.overrides && d.disabled == no):
		return byHand
	case d.disabled == yes:
		return byFile
	default:
		return byNobody
	}
}

// differences returns the names of the fields in which two states of a contact differ.
func differences(a, b *entry) (names []string) {
	for f, same := range []bool{
		fEmail:     a.Email() == b.Email(),
		fOthers:    slices.Equal(a.Emails[1:], b.Emails[1:]),
		fFirst:     a.FirstName == b.FirstName,
		fLast:      a.LastName == b.LastName,
		fPhone:     a.Phone == b.Phone,
		fCompanies: slices.Equal(a.Companies, b.Companies),
		fRole:      a.Role == b.Role,
		fLocale:    a.Locale == b.Locale,
		fDisabled:  a.by == b.by,
	} {
		if !same {
			names = append(names, field(f).String())
		}
	}
	return names
}

// emptied returns the names of the fields that have a value in a and none in b.
func emptied(a, b *entry) (names []string) {
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

// lacking returns the addresses of a that b doesn't have.
func lacking(a, b []address.Address) (out []address.Address) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

// splitList splits the text of a list's cell; empty values don't count.
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

// cleanText refuses what would be another line or another header where the text is
// shown (controls, line separators), and what would turn round the text beside it
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

// quoted repeats in an error what somebody wrote, or the beginning of it.
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
		return unsaid, nil
	case "true", "yes", "1", "x":
		return yes, nil
	case "false", "no", "0":
		return no, nil
	}
	return unsaid, fmt.Errorf("%s is none of true, false", quoted(s))
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

// cleanTokens checks the tokens of old links, and repeats none of them in an error.
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
