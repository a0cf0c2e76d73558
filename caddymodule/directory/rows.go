package directory

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/text/encoding/charmap"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// ContactRow is one contact of a CSV file, checked without the directory.
type ContactRow struct {
	Line     int
	Email    address.Address
	edit     edit // of the columns in the file
	warnings []RowError
}

// CompanyRow is one company of a CSV file, checked without the directory.
type CompanyRow struct {
	Line      int
	ID        string
	name      string
	tokens    []string
	hasName   bool
	hasTokens bool
}

var companyColumns = []string{"id", "name", "legacy_tokens"}

// ReadContacts reads a file of contacts with the columns email (required), other_emails,
// first_name, last_name, phone, companies, role, locale, disabled, password_hash. Rows with the
// same email are one contact with all their companies. A *RowErrors lists all problems in the file,
// and the other rows are returned beside it; any other error is the reader's.
func ReadContacts(r io.Reader) ([]ContactRow, error) { return readContacts(r, ImportOptions{}) }

func readContacts(r io.Reader, options ImportOptions) ([]ContactRow, error) {
	t, err := newTable(r, contactColumns, options)
	if err != nil {
		return nil, err
	}
	var has fieldSet
	for _, k := range t.columns {
		if k >= 0 {
			has.add(field(k))
		}
	}
	oneName := slices.Contains(t.columns, fullName)
	if oneName {
		has.add(fFirst)
		has.add(fLast)
	}
	var rows []ContactRow
	places := map[address.Address]int{} // each address so far → index of its row
	domains := map[string]string{}      // domain → suggested domain; "" if it looks right
	for {
		cells, err := t.next()
		if err != nil {
			return nil, err
		}
		if cells == nil {
			break
		}
		row := ContactRow{Line: t.line}
		bad := t.bad.count()
		if oneName {
			cells[fFirst], cells[fLast] = splitName(t.name)
		}
		for f, text := range cells {
			if has.has(field(f)) {
				if err := row.edit.set(field(f), text); err != nil {
					t.bad.add(t.line, contactColumns[f], err.Error())
				}
			}
		}
		row.Email, row.edit.hashLine = row.edit.email, t.line
		row.warnings = row.findWarnings(t.macRoman, domains)
		if t.bad.count() == bad {
			rows = addRow(rows, row, places, &t.bad)
		}
	}
	return rows, t.bad.orNil()
}

// splitName splits a full name such as "Lee, Ann" or "Ann Lee".
func splitName(name string) (first, last string) {
	name = strings.TrimSpace(name)
	if last, first, found := strings.Cut(name, ","); found {
		return strings.TrimSpace(first), strings.TrimSpace(last)
	}
	if i := strings.LastIndexByte(name, ' '); i >= 0 {
		return strings.TrimSpace(name[:i]), name[i+1:]
	}
	return name, ""
}

// findWarnings returns likely mistakes in a row that can be imported. domains caches the suggestion
// for each domain.
func (r ContactRow) findWarnings(macRoman bool, domains map[string]string) (notes []RowError) {
	look := func(a address.Address) {
		meant, known := domains[a.Domain()]
		if !known {
			meant = LikelyDomain(a)
			domains[a.Domain()] = meant
		}
		if meant != "" {
			notes = append(notes, RowError{r.Line, fEmail.String(), fmt.Sprintf("%s: did you mean %s?", a, meant)})
		}
	}
	look(r.edit.email)
	for _, a := range r.edit.others {
		look(a)
	}
	if macRoman {
		name := strings.TrimSpace(r.edit.first + " " + r.edit.last)
		reason := fmt.Sprintf("%s looks like text from an old Mac read as Windows-1252; save the file as “CSV UTF-8”", quoted(name))
		if raw, err := charmap.Windows1252.NewEncoder().String(name); err == nil {
			if meant, err := charmap.Macintosh.NewDecoder().String(raw); err == nil {
				reason = fmt.Sprintf("%s looks like text from an old Mac, where it is %s; save the file as “CSV UTF-8”", quoted(name), quoted(meant))
			}
		}
		notes = append(notes, RowError{r.Line, fFirst.String(), reason})
	}
	return notes
}

// addRow adds a row, or joins it with an earlier row of the same contact.
func addRow(rows []ContactRow, row ContactRow, places map[address.Address]int, bad *RowErrors) []ContactRow {
	at, known := places[row.Email]
	switch {
	case known && rows[at].Email != row.Email:
		bad.add(row.Line, fEmail.String(), fmt.Sprintf("%s is another address of %s in line %d; begin the row with that one", row.Email, rows[at].Email, rows[at].Line))
		return rows
	case !known:
		at = len(rows)
	}
	for _, a := range row.edit.others {
		if other, taken := places[a]; taken && other != at {
			bad.add(row.Line, fOthers.String(), fmt.Sprintf("%s is in line %d too; one address belongs to one contact", a, rows[other].Line))
			return rows
		}
	}
	if known {
		rows[at].warnings = append(rows[at].warnings, row.warnings...)
	}
	if !known {
		rows = append(rows, row)
	} else if f, reason := rows[at].edit.join(row.edit); reason != "" {
		bad.add(row.Line, f.String(), fmt.Sprintf("%s in line %d, and %s is one contact", reason, rows[at].Line, row.Email))
		return rows
	}
	places[row.Email] = at
	for _, a := range row.edit.others {
		places[a] = at
	}
	return rows
}

// join merges another row of the same contact into e. If they contradict each other, it returns the
// field and the reason.
func (e *edit) join(o edit) (field, string) {
	texts := []struct {
		f    field
		mine *string
		is   string
	}{{fFirst, &e.first, o.first}, {fLast, &e.last, o.last}, {fPhone, &e.phone, o.phone}, {fLocale, &e.locale, o.locale}, {fRole, (*string)(&e.role), string(o.role)}, {fTexts, (*string)(&e.texts), string(o.texts)}}
	for _, t := range texts {
		if *t.mine != "" && t.is != "" && *t.mine != t.is {
			return t.f, fmt.Sprintf("is %q here and %q", t.is, *t.mine)
		}
	}
	if e.disabled != unset && o.disabled != unset && e.disabled != o.disabled {
		return fDisabled, "says the opposite"
	}
	if e.hash != "" && o.hash != "" && e.hash != o.hash {
		return fPassword, "is another one" // the message repeats neither hash
	}
	others, companies := union(e.others, o.others), union(e.companies, o.companies)
	switch {
	case len(others) > maxOthers:
		return fOthers, fmt.Sprintf("are more than %d with those", maxOthers)
	case len(companies) > maxCompanies:
		return fCompanies, fmt.Sprintf("are more than %d with those", maxCompanies)
	}
	for _, t := range texts {
		*t.mine = cmp.Or(*t.mine, t.is)
	}
	if e.hash == "" {
		e.hash, e.hashLine = o.hash, o.hashLine
	}
	e.disabled, e.others, e.companies = max(e.disabled, o.disabled), others, companies
	return 0, ""
}

func union[T comparable](a, b []T) []T {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}

// ReadCompanies reads a file of companies with the columns id (required), name, legacy_tokens. It
// returns errors like ReadContacts; they never contain a token.
func ReadCompanies(r io.Reader) ([]CompanyRow, error) { return readCompanies(r, ImportOptions{}) }

func readCompanies(r io.Reader, options ImportOptions) ([]CompanyRow, error) {
	t, err := newTable(r, companyColumns, options)
	if err != nil {
		return nil, err
	}
	var rows []CompanyRow
	lines := map[string]int{}
	for {
		cells, err := t.next()
		if err != nil {
			return nil, err
		}
		if cells == nil {
			break
		}
		row := CompanyRow{Line: t.line, ID: strings.TrimSpace(cells[0]), hasName: slices.Contains(t.columns, 1), hasTokens: slices.Contains(t.columns, 2)}
		bad := t.bad.count()
		if !IsCompanyID(row.ID) {
			t.bad.add(t.line, "id", quoted(row.ID)+" "+badCompanyID)
		} else if line := lines[row.ID]; line > 0 {
			t.bad.add(t.line, "id", fmt.Sprintf("%s is in line %d too", row.ID, line))
		}
		if row.name, err = cleanText(cells[1], maxCompany); err != nil {
			t.bad.add(t.line, "name", err.Error())
		}
		if row.tokens, err = cleanTokens(splitList(cells[2])); err != nil {
			t.bad.add(t.line, "legacy_tokens", err.Error())
		}
		lines[row.ID] = t.line
		if t.bad.count() == bad {
			rows = append(rows, row)
		}
	}
	return rows, t.bad.orNil()
}
