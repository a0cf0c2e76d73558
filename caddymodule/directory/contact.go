package directory

import (
	"encoding/json"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Role is what a contact is to the firm. What is neither of the two counts as Client.
type Role string

// The roles.
const (
	Client Role = "client"
	Staff  Role = "staff" // of the firm itself: reaches every company
)

// Contact is a person who may sign in. Its slices are the reader's own.
type Contact struct {
	ID        string            // opaque, stable, never used again
	Emails    []address.Address // at least one; the first is the main one
	FirstName string
	LastName  string
	Phone     string
	Companies []string // ids, sorted
	Role      Role
	Locale    string // BCP 47, such as en-GB
	Disabled  bool   // may not sign in

	// Generation is another number whenever all that lets them in ends: a session, link or
	// code that names another one is over. 0: that has never happened.
	Generation uint64

	// StoredRole is the role that the store has, where the Caddyfile makes them staff; else "".
	StoredRole Role
}

// Email returns the main address, or nothing for the zero Contact.
func (c Contact) Email() address.Address {
	if len(c.Emails) == 0 {
		return ""
	}
	return c.Emails[0]
}

// Name returns first and last name, or what there is of them.
func (c Contact) Name() string { return strings.TrimSpace(c.FirstName + " " + c.LastName) }

// contactJSON is a contact as the admin API shows it; the names are the CSV's.
type contactJSON struct {
	ID          string            `json:"id"`
	Email       address.Address   `json:"email"`
	OtherEmails []address.Address `json:"other_emails"`
	FirstName   string            `json:"first_name"`
	LastName    string            `json:"last_name"`
	Phone       string            `json:"phone"`
	Companies   []string          `json:"companies"`
	Role        Role              `json:"role"`
	Locale      string            `json:"locale"`
	Disabled    bool              `json:"disabled"`
	StoredRole  Role              `json:"stored_role,omitempty"`
}

// MarshalJSON writes the shape of the admin API: every field, lists never null.
func (c Contact) MarshalJSON() ([]byte, error) {
	out := contactJSON{c.ID, c.Email(), []address.Address{}, c.FirstName, c.LastName, c.Phone, c.Companies, c.Role, c.Locale, c.Disabled, c.StoredRole}
	if len(c.Emails) > 1 {
		out.OtherEmails = c.Emails[1:]
	}
	if out.Companies == nil {
		out.Companies = []string{}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Contact) UnmarshalJSON(data []byte) error {
	var in contactJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*c = Contact{in.ID, append([]address.Address{in.Email}, in.OtherEmails...), in.FirstName, in.LastName, in.Phone, in.Companies, in.Role, in.Locale, in.Disabled, 0, in.StoredRole}
	return nil
}

func (c Contact) matches(words []string, companies map[string]string) bool {
	if len(words) == 0 {
		return true
	}
	var text strings.Builder
	text.WriteString(c.Name())
	for _, a := range c.Emails {
		text.WriteString(" " + string(a))
	}
	for _, id := range c.Companies {
		text.WriteString(" " + id + " " + companies[id])
	}
	return containsAll(nameKey(text.String()), words)
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

// nameKey is how names are compared: by letter, not by case, by form or by spaces.
func nameKey(s string) string {
	return strings.Join(strings.Fields(strings.ToLower(norm.NFKC.String(s))), " ")
}

// Company is a client of the firm.
type Company struct {
	ID   string // [a-z0-9][a-z0-9._-]{0,62}
	Name string // never empty: the id stands in
	// LegacyTokens are the secrets in the old links of the company. They open doors, so
	// JSON has only their number.
	LegacyTokens []string
	// Upgraded says that its old links ask for sign-in. Else it is open: they work as
	// ever. One that is added without a token is upgraded from birth.
	Upgraded bool
	// Era is another number after each upgrade or its undoing, and when the company was
	// removed and is added again: what an old link gave before is over then. 0: it was
	// kept before there were any.
	Era uint64
}

// State is open or upgraded.
func (c Company) State() string {
	if c.Upgraded {
		return "upgraded"
	}
	return "open"
}

// companyJSON is a company as the admin API shows it.
type companyJSON struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	LegacyLinks int    `json:"legacy_links"`
	State       string `json:"state"`
}

// MarshalJSON writes the shape of the admin API.
func (c Company) MarshalJSON() ([]byte, error) {
	return json.Marshal(companyJSON{c.ID, c.Name, len(c.LegacyTokens), c.State()})
}

// IsCompanyID reports whether s is [a-z0-9][a-z0-9._-]{0,62}.
func IsCompanyID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 63
}

// disabledBy tells who disabled a contact. What was done by hand no file undoes.
type disabledBy string

const (
	byNobody disabledBy = ""
	byHand   disabledBy = "hand"
	byFile   disabledBy = "file"
)

// entry is a contact as it is kept, before the Caddyfile's staff is applied to it.
type entry struct {
	Contact
	by disabledBy
}

// contactRecord is an entry in the store. Addresses are plain strings: a stricter
// grammar of tomorrow must still be able to read them.
type contactRecord struct {
	Emails    []string   `json:"e"`
	First     string     `json:"f,omitempty"`
	Last      string     `json:"l,omitempty"`
	Phone     string     `json:"p,omitempty"`
	Companies []string   `json:"c,omitempty"`
	Role      Role       `json:"r,omitempty"`
	Locale    string     `json:"o,omitempty"`
	By        disabledBy `json:"d,omitempty"`

	Generation uint64 `json:"g,omitempty"`
}

type companyRecord struct {
	Name   string   `json:"n"`
	Tokens []string `json:"t,omitempty"`
	State  string   `json:"s,omitempty"` // "": written before there were states
	Era    uint64   `json:"g,omitempty"`
}

func (b *Book) sealContact(e *entry) []byte {
	r := contactRecord{make([]string, len(e.Emails)), e.FirstName, e.LastName, e.Phone, e.Companies, e.Role, e.Locale, e.by, e.Generation}
	for i, a := range e.Emails {
		r.Emails[i] = string(a)
	}
	return b.seal(bucketContact, e.ID, r)
}

func (b *Book) openContact(rec store.Record) (entry, error) {
	var r contactRecord
	if err := b.open(rec, &r); err != nil {
		return entry{}, err
	}
	e := entry{Contact{rec.Key.ID, make([]address.Address, len(r.Emails)), r.First, r.Last, r.Phone, r.Companies, r.Role, r.Locale, r.By != byNobody, r.Generation, ""}, r.By}
	for i, a := range r.Emails {
		e.Emails[i] = address.Address(a)
	}
	if e.Role != Staff {
		e.Role = Client
	}
	return e, nil
}

func (b *Book) sealCompany(c Company) []byte {
	return b.seal(bucketCompany, c.ID, companyRecord{c.Name, c.LegacyTokens, c.State(), c.Era})
}

// openCompany returns the company with what holds whatever the store says of its old links.
func (b *Book) openCompany(rec store.Record) (Company, error) {
	c, err := b.storedCompany(rec)
	c.Upgraded = c.Upgraded || b.staysUpgraded(c.ID)
	return c, err
}

// storedCompany returns the company as the store has it.
func (b *Book) storedCompany(rec store.Record) (Company, error) {
	var r companyRecord
	err := b.open(rec, &r)
	c := Company{rec.Key.ID, r.Name, r.Tokens, r.State == "upgraded", r.Era}
	if r.State == "" {
		c.Upgraded = len(r.Tokens) == 0
		for i, t := range r.Tokens { // they were kept as they were written
			c.LegacyTokens[i] = decodeToken(t)
		}
	}
	return c, err
}
