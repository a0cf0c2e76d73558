package directory

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Role is the relation of a contact to the firm. Any other value counts as Client.
type Role string

// The roles.
const (
	Client Role = "client"
	Staff  Role = "staff" // works for the firm: reaches every company
)

// Contact is a person who may sign in. Callers may modify its slices.
type Contact struct {
	ID        string            // opaque, stable, never reused
	Emails    []address.Address // at least one; the first is the main one
	FirstName string
	LastName  string
	Phone     string
	Companies []string // ids, sorted
	Role      Role
	Locale    string // BCP 47, such as en-GB
	Disabled  bool   // may not sign in
	NoTexts   bool   // gets no text messages, as they wished

	// Generation changes whenever all access of the contact is revoked: sessions, links and codes
	// with another generation are invalid. 0 means that this has never happened.
	Generation uint64

	// StoredRole is the role in the store if the Caddyfile makes the contact staff; otherwise "".
	StoredRole Role
}

// Email returns the main address, or "" for the zero Contact.
func (c Contact) Email() address.Address {
	if len(c.Emails) == 0 {
		return ""
	}
	return c.Emails[0]
}

// Name returns the first and last name, or whichever of them is known.
func (c Contact) Name() string { return strings.TrimSpace(c.FirstName + " " + c.LastName) }

// texts says whether a contact gets text messages, as people write it.
type texts string

const (
	textsOn  texts = "on"
	textsOff texts = "off"
)

func textsOf(none bool) texts {
	if none {
		return textsOff
	}
	return textsOn
}

// contactJSON is a contact in the admin API. The field names are the CSV columns.
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
	Texts       texts             `json:"texts"`
	StoredRole  Role              `json:"stored_role,omitempty"`
	Version     string            `json:"version,omitempty"`
}

// MarshalJSON writes the form of the admin API: every field, lists never null.
func (c Contact) MarshalJSON() ([]byte, error) {
	out := c.json()
	out.Version = c.Version()
	return json.Marshal(out)
}

// Version identifies the state of the contact: it differs whenever one of the fields that the admin API shows differs.
func (c Contact) Version() string {
	plain, err := json.Marshal(c.json())
	if err != nil {
		panic("directory: " + err.Error()) // never: a plain struct of strings
	}
	sum := sha256.Sum256(plain)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

func (c Contact) json() contactJSON {
	out := contactJSON{c.ID, c.Email(), []address.Address{}, c.FirstName, c.LastName, c.Phone, c.Companies, c.Role, c.Locale, c.Disabled, textsOf(c.NoTexts), c.StoredRole, ""}
	if len(c.Emails) > 1 {
		out.OtherEmails = c.Emails[1:]
	}
	if out.Companies == nil {
		out.Companies = []string{}
	}
	return out
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Contact) UnmarshalJSON(data []byte) error {
	var in contactJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*c = Contact{in.ID, append([]address.Address{in.Email}, in.OtherEmails...), in.FirstName, in.LastName, in.Phone, in.Companies, in.Role, in.Locale, in.Disabled, in.Texts == textsOff, 0, in.StoredRole}
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

// nameKey returns the form in which names are compared: without differences in case, Unicode form
// or spacing.
func nameKey(s string) string {
	return strings.Join(strings.Fields(strings.ToLower(norm.NFKC.String(s))), " ")
}

// Company is a client of the firm.
type Company struct {
	ID   string // [a-z0-9][a-z0-9._-]{0,62}
	Name string // never empty; by default the id
	// LegacyTokens are the secrets in the company's old links. They give access to the portal, so
	// JSON has only their number.
	LegacyTokens []string
	// Upgraded means that the company's old links ask for sign-in. Otherwise the company is open:
	// its old links work as before. A company that is added without a token starts upgraded.
	Upgraded bool
	// Generation changes with each upgrade, with each undo of an upgrade, and when a removed company is
	// added again. Access through an old link ends when it changes. 0 means that the record is
	// older than eras.
	Generation uint64
	// AddedAs is another number each time that a company of this id is added: what the one before
	// it had isn't this one's. One that is restored has its number again. 0: it was added before
	// there were any.
	AddedAs uint64
}

// State returns "open" or "upgraded".
func (c Company) State() string {
	if c.Upgraded {
		return "upgraded"
	}
	return "open"
}

// companyJSON is a company in the admin API.
type companyJSON struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	LegacyLinks int    `json:"legacy_links"`
	State       string `json:"state"`
}

// MarshalJSON writes the form of the admin API.
func (c Company) MarshalJSON() ([]byte, error) {
	return json.Marshal(companyJSON{c.ID, c.Name, len(c.LegacyTokens), c.State()})
}

// VersionOf identifies the state of a company: it differs whenever the name, the tokens or the state differ. It is
// keyed, so that it doesn't help to guess a token.
func (b *Directory) VersionOf(c Company) string { return b.versionsOf(c)[0] }

// versionsOf returns the version under each secret.
func (b *Directory) versionsOf(c Company) []string {
	all := b.Keys.MACs("company version", append([]string{b.Firm, c.ID, c.Name, c.State()}, c.LegacyTokens...)...)
	for i := range all {
		all[i] = all[i][:16]
	}
	return all
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

// disabledBy tells how a contact was disabled. No file enables a contact that was disabled
// manually.
type disabledBy string

const (
	notDisabled      disabledBy = ""
	disabledManually disabledBy = "hand"
	disabledByFile   disabledBy = "file"
)

// storedContact is a contact as stored, before the Caddyfile's staff list is applied.
type storedContact struct {
	Contact
	disabledBy disabledBy
}

// contactRecord is the stored form of a storedContact. Addresses are plain strings, so that a
// stricter address grammar in a later release can still read them.
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
	NoTexts    bool   `json:"nt,omitempty"`
}

type companyRecord struct {
	Name   string   `json:"n"`
	Tokens []string `json:"t,omitempty"`
	State  string   `json:"s,omitempty"` // "" in records older than states
	Era    uint64   `json:"g,omitempty"`
	Added  uint64   `json:"a,omitempty"`
}

func (b *Directory) sealContact(e *storedContact) []byte {
	r := contactRecord{make([]string, len(e.Emails)), e.FirstName, e.LastName, e.Phone, e.Companies, e.Role, e.Locale, e.disabledBy, e.Generation, e.NoTexts}
	for i, a := range e.Emails {
		r.Emails[i] = string(a)
	}
	return b.seal(bucketContact, e.ID, r)
}

func (b *Directory) openContact(rec store.Record) (storedContact, error) {
	var r contactRecord
	if err := b.open(rec, &r); err != nil {
		return storedContact{}, err
	}
	e := storedContact{Contact{rec.Key.ID, make([]address.Address, len(r.Emails)), r.First, r.Last, r.Phone, r.Companies, r.Role, r.Locale, r.By != notDisabled, r.NoTexts, r.Generation, ""}, r.By}
	for i, a := range r.Emails {
		e.Emails[i] = address.Address(a)
	}
	if e.Role != Staff {
		e.Role = Client
	}
	return e, nil
}

func (b *Directory) sealCompany(c Company) []byte {
	return b.seal(bucketCompany, c.ID, companyRecord{c.Name, c.LegacyTokens, c.State(), c.Generation, c.AddedAs})
}

// openCompany returns the company. It is upgraded if the store, the Caddyfile or the anchor says
// so.
func (b *Directory) openCompany(rec store.Record) (Company, error) {
	c, err := b.storedCompany(rec)
	c.Upgraded = c.Upgraded || b.staysUpgraded(c.ID)
	return c, err
}

// storedCompany returns the company as it is in the store.
func (b *Directory) storedCompany(rec store.Record) (Company, error) {
	var r companyRecord
	err := b.open(rec, &r)
	c := Company{rec.Key.ID, r.Name, r.Tokens, r.State == "upgraded", r.Era, r.Added}
	if r.State == "" {
		c.Upgraded = len(r.Tokens) == 0
		for i, t := range r.Tokens { // records of that time have tokens as written in links
			c.LegacyTokens[i] = decodeToken(t)
		}
	}
	return c, err
}
