// Package directory keeps the contacts and companies of a firm, and which contact belongs to which
// companies.
//
// Records are sealed in the store and found by the MAC of an address, so a copy of the store
// reveals no names or addresses. Every change, manual or from a file, increments one counter record
// of the firm in the same Apply. A change therefore sees all of another change or none of it. A
// manual change that lost a race is retried; an import's Plan is refused.
package directory

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"crypto/rand"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// The sentinel errors of this package; compare with errors.Is. A problem with one field of a change
// is a *FieldError, problems in a file are a *RowErrors.
var (
	// ErrUnknown means that the contact or company doesn't exist.
	ErrUnknown = errors.New("directory: not known")
	// ErrFormat means that a record in the store can't be read.
	ErrFormat = errors.New("not in the format of this Doorpost; a newer one may have written it")
	// ErrTaken means that the address, company id or old-link token already belongs to another
	// contact or company.
	ErrTaken = errors.New("directory: taken")
	// ErrStaff means that the Caddyfile lists the address under staff, so the contact can't be
	// changed that way here.
	ErrStaff = errors.New("directory: named under staff in the Caddyfile")
	// ErrNotClient: the contact is staff, or would be, in a context of ClientsOnly.
	ErrNotClient = errors.New("directory: not a client")
	// ErrCaddyfile means that the Caddyfile upgrades these old links: they ask for sign-in.
	ErrCaddyfile = errors.New("directory: upgraded in the Caddyfile")
	// ErrChanged means that the contact or company isn't in the state any more that a change was based on.
	ErrChanged = errors.New("directory: changed meanwhile")
	// ErrConflict means that the directory was changed between Plan and Apply. Nothing was written;
	// plan again.
	ErrConflict = fmt.Errorf("the directory has changed since this was planned: %w", store.ErrConflict)
)

// Directory is the directory of one firm. It is safe for concurrent use; share one Directory among all users
// of the firm.
type Directory struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Staff []address.Address // from the Caddyfile: always staff, never disabled
	Now   func() time.Time  // nil means time.Now

	// Passwords handles the passwords of contacts who lose an address or are removed, and the
	// hashes in files. nil means that passwords aren't stored.
	Passwords *Passwords

	// Changes is the counter behind Version. Books of one firm in one process share it, such as the
	// old and the new one during a reload. nil means that this Directory has its own.
	Changes *atomic.Uint64

	// TokenCache has the tokens of old links. Books of one firm in one process share it. nil means
	// that this Directory has its own.
	TokenCache *TokenCache

	// Search is what Contacts and Companies search in. Books of one firm in one process share it. nil means that this
	// Directory has its own.
	Search *Search

	// Peers are the other processes that use the store; nil if there are none.
	Peers *store.Peers

	// Anchor records outside the store which companies' old links ask for sign-in, so that losing
	// the store doesn't reopen them. nil means that nothing outside the store does.
	Anchor *anchor.Store

	// Upgraded are the companies whose old links ask for sign-in because the Caddyfile says so.
	Upgraded anchor.Closed

	// OnUntrusted is called with the key of a record that was forged or replaced by an older one. It may
	// be nil.
	OnUntrusted func(ctx context.Context, k store.Key)

	ownVersion       atomic.Uint64
	ownTokenCache    TokenCache
	ownSearch        Search
	lastGeneration   atomic.Pointer[string] // the generation at the last Sync
	verifiedUpgrades atomic.Pointer[string] // the sealed record that EnsureUpgrades last found correct

	cachedByToken   versionedCache[[sha256.Size]byte, *AccessStatus] // by SHA-256 of the token
	cachedByCompany versionedCache[string, *AccessStatus]            // by id
}

// The buckets.
const (
	bucketState              = "directory" // generation, key mark, other marks
	bucketContact            = "contact"   // contact id → sealed contactRecord
	bucketEmail              = "email"     // MAC of an address → contact id
	bucketCompany            = "company"   // company id → sealed companyRecord
	bucketLegacy             = "legacy"    // MAC of an old link's token → company id
	bucketLike               = "like"      // written by earlier releases: MAC of a case-folded token, "/" and company id
	bucketUpgrades           = "upgrades"  // which companies' old links ask for sign-in, sealed
	bucketRemoved            = "removed"   // tombstones of manual removals: email/MAC, company/id
	bucketLoad               = "load"      // kind of file → MAC of the file loaded last; kind/report → sealed loadRecord
	bucketFileRows           = "file-rows" // kind of file/shard → sealed fileRowsRecord
	bucketPendingRevocations = "ending"    // contact id, while its sessions have yet to be revoked
)

const (
	format   = 1    // first byte of every value
	pageSize = 1000 // records per Scan
)

// Version changes with every change made through this process, before the call that makes it
// returns, and with every change by another process that Sync finds. Read Version first, then the
// contact: the contact is current while Version stays the same. While it is uncertain what other
// processes have changed, Version changes with every call.
func (b *Directory) Version() uint64 {
	if b.Peers.Stale() {
		return b.versionCounter().Add(1)
	}
	return b.versionCounter().Load()
}

// Invalidate changes Version, so that everything read before counts as outdated.
func (b *Directory) Invalidate() {
	m := b.tokenCache()
	m.stale.Add(1)
	m.loaded.Store(false)
	b.versionCounter().Add(1)
	s := b.search()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

// Sync changes Version if another process may have changed the directory since the last call. It
// must not run concurrently with itself.
func (b *Directory) Sync(ctx context.Context) error {
	now, err := b.generation(ctx)
	if err == nil {
		err = b.EnsureUpgrades(ctx)
	}
	if err == nil {
		err = b.catchUpTokens(ctx)
	}
	if err == nil {
		err = b.catchUpSearch(ctx, now)
	}
	if err != nil {
		return err
	}
	if was := b.lastGeneration.Swap(new(string(now))); was == nil || *was != string(now) {
		b.versionCounter().Add(1)
	}
	return nil
}

func (b *Directory) versionCounter() *atomic.Uint64 {
	if b.Changes != nil {
		return b.Changes
	}
	return &b.ownVersion
}

// ByEmail returns the contact that has the address as its main or another address, or ErrUnknown.
// It also returns disabled contacts.
func (b *Directory) ByEmail(ctx context.Context, a address.Address) (Contact, error) {
	e, err := b.contactByEmail(ctx, a)
	return b.effective(e), err
}

// ByID returns the contact, or ErrUnknown. It also returns disabled contacts.
func (b *Directory) ByID(ctx context.Context, id string) (Contact, error) {
	e, err := b.contactByID(ctx, id)
	return b.effective(e), err
}

// Contacts returns up to limit contacts in the order in which they were added, beginning after the
// contact with the id after. Each word of text must occur in the contact's name, in an address, or
// in an id or name of its companies; an empty text matches all contacts. Fewer than limit results
// mean that there are no more.
func (b *Directory) Contacts(ctx context.Context, text, after string, limit int) ([]Contact, error) {
	if words := strings.Fields(nameKey(text)); len(words) > 0 {
		return b.searchContacts(ctx, words, after, limit)
	}
	var found []Contact
	err := b.eachContact(ctx, after, func(e *storedContact) bool {
		found = append(found, b.effective(*e))
		return len(found) < limit
	})
	return found, err
}

// ContactsOf returns the contacts that belong to the company, in the order in which they were added.
func (b *Directory) ContactsOf(ctx context.Context, company string) (found []Contact, err error) {
	err = b.eachContact(ctx, "", func(e *storedContact) bool {
		if slices.Contains(e.Companies, company) {
			found = append(found, b.effective(*e))
		}
		return true
	})
	return found, err
}

// AnybodyMaySignIn reports whether any contact isn't disabled.
func (b *Directory) AnybodyMaySignIn(ctx context.Context) (found bool, err error) {
	err = b.eachContact(ctx, "", func(e *storedContact) bool {
		found = !b.effective(*e).Disabled
		return !found
	})
	return found, err
}

// Companies returns up to limit companies in the order of their ids, beginning after the id after.
// Each word of text must occur in a company's id or name.
func (b *Directory) Companies(ctx context.Context, text, after string, limit int) ([]Company, error) {
	if words := strings.Fields(nameKey(text)); len(words) > 0 {
		return b.searchCompanies(ctx, words, after, limit)
	}
	var found []Company
	err := b.eachCompany(ctx, after, func(c Company) bool {
		found = append(found, c)
		return len(found) < limit
	})
	return found, err
}

// Company returns the company, or ErrUnknown.
func (b *Directory) Company(ctx context.Context, id string) (Company, error) {
	if !IsCompanyID(id) {
		return Company{}, ErrUnknown
	}
	rec, err := b.get(ctx, bucketCompany, id)
	if err != nil {
		return Company{}, err
	}
	return b.openCompany(rec)
}

// effective returns the stored contact with the Caddyfile's staff list applied to it.
func (b *Directory) effective(e storedContact) Contact {
	if slices.ContainsFunc(e.Emails, b.isStaff) {
		if e.Role != Staff {
			e.StoredRole = e.Role
		}
		e.Role, e.Disabled = Staff, false
	}
	return e.Contact
}

// NamesStaff reports whether the Caddyfile names the address under staff.
func (b *Directory) NamesStaff(a address.Address) bool { return b.isStaff(a) }

func (b *Directory) isStaff(a address.Address) bool { return slices.Contains(b.Staff, a) }

// contactByEmail returns the contact that has the address. Between its two reads the address may
// pass to another contact; it then tries again.
func (b *Directory) contactByEmail(ctx context.Context, a address.Address) (storedContact, error) {
	for range 3 {
		id, err := b.contactIDByEmail(ctx, a)
		if err != nil {
			return storedContact{}, err
		}
		e, err := b.contactByID(ctx, id)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return storedContact{}, err
		}
		if slices.Contains(e.Emails, a) {
			return e, nil
		}
	}
	return storedContact{}, ErrUnknown
}

// contactIDByEmail returns the id of the contact that has the address, or ErrUnknown.
func (b *Directory) contactIDByEmail(ctx context.Context, a address.Address) (string, error) {
	for _, mac := range b.Keys.Lookups("email", b.Firm, string(a)) {
		rec, err := b.get(ctx, bucketEmail, mac)
		if errors.Is(err, ErrUnknown) {
			continue
		}
		if err != nil {
			return "", err
		}
		return string(rec.Value[1:]), nil
	}
	return "", ErrUnknown
}

func (b *Directory) contactByID(ctx context.Context, id string) (storedContact, error) {
	if id == "" || len(id) > 512 {
		return storedContact{}, ErrUnknown
	}
	rec, err := b.get(ctx, bucketContact, id)
	if err != nil {
		return storedContact{}, err
	}
	return b.openContact(rec)
}

// eachContact calls f for the contacts after an id, in order, until f returns false.
func (b *Directory) eachContact(ctx context.Context, after string, f func(*storedContact) bool) error {
	return b.scan(ctx, bucketContact, "", after, func(rec store.Record) (bool, error) {
		e, err := b.openContact(rec)
		return err == nil && f(&e), err
	})
}

func (b *Directory) eachCompany(ctx context.Context, after string, f func(Company) bool) error {
	return b.scan(ctx, bucketCompany, "", after, func(rec store.Record) (bool, error) {
		c, err := b.openCompany(rec)
		return err == nil && f(c), err
	})
}

func (b *Directory) allCompanies(ctx context.Context) (all []Company, err error) {
	err = b.eachCompany(ctx, "", func(c Company) bool {
		all = append(all, c)
		return true
	})
	return all, err
}

func (b *Directory) scan(ctx context.Context, bucket, prefix, after string, f func(store.Record) (more bool, err error)) error {
	return b.scanAny(ctx, bucket, prefix, after, func(rec store.Record) (bool, error) {
		if err := checkFormat(rec); err != nil {
			return false, err
		}
		return f(rec)
	})
}

// scanAny is scan for records of any format.
func (b *Directory) scanAny(ctx context.Context, bucket, prefix, after string, f func(store.Record) (more bool, err error)) error {
	for {
		recs, err := b.Store.Scan(ctx, b.Firm, bucket, prefix, after, pageSize)
		if err != nil {
			return fmt.Errorf("reading the directory: %w", err)
		}
		for _, rec := range recs {
			if more, err := f(rec); err != nil || !more {
				return err
			}
		}
		if len(recs) < pageSize {
			return nil
		}
		after = recs[len(recs)-1].Key.ID
	}
}

func (b *Directory) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}

func (b *Directory) key(bucket, id string) store.Key {
	return store.Key{Firm: b.Firm, Bucket: bucket, ID: id}
}

// get returns a record in a known format, or ErrUnknown.
func (b *Directory) get(ctx context.Context, bucket, id string) (store.Record, error) {
	rec, err := b.Store.Get(ctx, b.key(bucket, id))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return rec, ErrUnknown
	case err != nil:
		return rec, fmt.Errorf("reading the directory: %w", err)
	}
	return rec, checkFormat(rec)
}

func checkFormat(rec store.Record) error {
	if len(rec.Value) == 0 || rec.Value[0] != format {
		return fmt.Errorf("reading the directory: the %s record is %w", rec.Key.Bucket, ErrFormat)
	}
	return nil
}

func (b *Directory) emailMACs(a address.Address) []string {
	return b.Keys.MACs("email", b.Firm, string(a))
}

// seal returns v as the value of a record. It can be opened only under the same key.
func (b *Directory) seal(bucket, id string, v any) []byte {
	plain, err := json.Marshal(v)
	if err != nil {
		panic("directory: " + err.Error()) // never: plain structs of strings
	}
	return append([]byte{format}, b.Keys.Seal("directory", b.sealingContext(bucket, id), plain)...)
}

func (b *Directory) open(rec store.Record, v any) error {
	plain, err := b.Keys.Open("directory", b.sealingContext(rec.Key.Bucket, rec.Key.ID), rec.Value[1:])
	if err == nil {
		err = json.Unmarshal(plain, v)
	}
	if err != nil {
		return fmt.Errorf("opening a %s of firm %s: %w", rec.Key.Bucket, b.Firm, err)
	}
	return nil
}

func (b *Directory) sealingContext(bucket, id string) string {
	return b.Firm + "\x00" + bucket + "\x00" + id
}

// newID returns an id that no contact has or had. IDs made later, or at the same time with a
// higher n, sort later, so that contacts are listed in the order of a file's rows.
func (b *Directory) newID(n int) string {
	var raw [20]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(b.now().UnixNano()+int64(n)))
	rand.Read(raw[8:]) // never fails (crypto/rand)
	return strings.ToLower(base32.HexEncoding.EncodeToString(raw[:]))
}
