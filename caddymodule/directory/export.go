package directory

import (
	"cmp"
	"encoding/csv"
	"io"
	"strings"
)

// WriteContacts writes contacts as a CSV file without passwords. ReadContacts reads the same
// contacts from it.
func WriteContacts(w io.Writer, contacts []Contact) error {
	out := csv.NewWriter(w)
	columns := contactColumns[:fPassword]
	if err := out.Write(columns); err != nil {
		return err
	}
	for _, c := range contacts {
		others := make([]string, 0, len(c.Emails))
		for _, a := range c.Emails[min(1, len(c.Emails)):] {
			others = append(others, string(a))
		}
		disabled := ""
		if c.Disabled {
			disabled = "yes"
		}
		texts := ""
		if c.NoTexts {
			texts = string(textsOff)
		}
		row := make([]string, len(columns))
		for f, text := range map[field]string{fEmail: string(c.Email()), fOthers: strings.Join(others, ";"), fFirst: c.FirstName, fLast: c.LastName, fPhone: c.Phone,
			fCompanies: strings.Join(c.Companies, ";"), fRole: string(cmp.Or(c.StoredRole, c.Role)), fLocale: c.Locale, fDisabled: disabled, fTexts: texts} {
			row[f] = text
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
