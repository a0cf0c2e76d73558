// Package directory keeps the book of a firm: its contacts, its companies, and who of
// the contacts belongs to which.
//
// What is in the book is sealed in the store, and found by the MAC of an address, so a
// copy of the store names nobody. Every change, by hand or from a file, counts up one
// record of the firm in the same Apply: a change sees either all of another one or none,
// and one that was overtaken is tried again (by hand) or refused (an import's Plan).
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

// The decisions that callers make; compare with errors.Is. What is wrong with one
// field of a change is a *FieldError, what is wrong with a file a *RowErrors.
var (
	// ErrUnknown: there is no such contact, or no such company.
	ErrUnknown = errors.New("directory: not known")
	// ErrFormat: a record of the store can't be read.
	ErrFormat = errors.New("not in the format of this Doorpost; a newer one may have written it")
	// ErrTaken: the address, the company's id or an old link's token is another's.
	ErrTaken = errors.New("directory: taken")
	// ErrStaff: the Caddyfile names the address under staff, which can't be undone here.
	ErrStaff = errors.New("directory: named under staff in the Caddyfile")
	// ErrCaddyfile: the Caddyfile says that the old links ask for sign-in.
	ErrCaddyfile = errors.New("directory: upgraded in the Caddyfile")
	// ErrConflict: somebody changed the book between Plan and Apply. Nothing was
	// changed; plan again.
	ErrConflict = fmt.Errorf("the directory has changed since this was planned: %w", store.ErrConflict)
)

// Book is the directory of one firm. It is safe for use by many goroutines, and one
// Book serves all that deal with the firm.
type Book struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Staff []address.Address // of the Caddyfile: always staff, never disabled
	Now   func() time.Time  // nil: time.Now

	// Passwords are told of contacts who lose an address or are removed, and of the hashes
	// in files; nil: nobody keeps any.
	Passwords *Passwords

	// Changes is what Version counts in. Books of one firm in one process share it,
	// as the old and the new one do during a reload; nil: this Book has its own.
	Changes *atomic.Uint64

	// Memory has the tokens of old links. Books of one firm in one process share it; nil: this Book has
	// its own.
	Memory *TokenMemory

	// Others are the other processes that have the store open; nil: there are none.
	Others *store.Others

	// Anchor keeps outside the store which companies' old links ask for sign-in, so that no
	// loss of the store opens them again; nil: nothing does.
	Anchor *anchor.Store

	// Upgraded are companies whose old links ask for sign-in because the Caddyfile says so.
	Upgraded anchor.Closed

	// Alarm is told of records in the store that somebody has forged or put back; nil: nobody is.
	Alarm func(ctx context.Context, k store.Key)

	own          atomic.Uint64
	ownMemory    TokenMemory
	last         atomic.Pointer[string] // the generation that CatchUp saw
	seenUpgrades atomic.Pointer[string] // the sealed record that EnsureUpgrades has found right

	heldTokens    memo[[sha256.Size]byte, *Standing] // by SHA-256 of the token
	heldCompanies memo[string, *Standing]            // by id
}

// The buckets.
const (
	bucketState    = "directory" // generation, key, marks
	bucketContact  = "contact"   // contact id → sealed contactRecord
	bucketEmail    = "email"     // MAC of an address → contact id
	bucketCompany  = "company"   // company id → sealed companyRecord
	bucketLegacy   = "legacy"    // MAC of an old link's token → company id
	bucketLike     = "like"      // of earlier releases: MAC of a token folded, "/" and company id
	bucketUpgrades = "upgrades"  // which companies' old links ask for sign-in, sealed
	bucketRemoved  = "removed"   // what was removed by hand: email/MAC, company/id
	bucketLoad     = "load"      // kind of file → MAC of what was loaded last; kind/report → sealed loadRecord
	bucketFileRows = "file-rows" // kind of file/shard → sealed fileRowsRecord
	bucketEnding   = "ending"    // contact id: its sessions have to end
)

const (
	format   = 1    // first byte of every value
	pageSize = 1000 // records read in one Scan
)

// Version moves with every change that was made through this process, before the call
// that made it returns, and with what CatchUp hears of. Read it first, then the contact:
// what was read then is good for as long as Version stands still. While there is doubt
// about what other processes have changed, it never stands still.
func (b *Book) Version() uint64 {
	if b.Others.Doubtful() {
		return b.counter().Add(1)
	}
	return b.counter().Load()
}

// Reread moves Version: what was read before counts no more.
func (b *Book) Reread() {
	b.tokenMemory().loaded.Store(false)
	b.counter().Add(1)
}

// CatchUp moves Version if the book was changed since the last call: another process may
// have done so. One caller at a time is enough.
func (b *Book) CatchUp(ctx context.Context) error {
	now, err := b.generation(ctx)
	if err == nil {
		err = b.EnsureUpgrades(ctx)
	}
	if err == nil {
		err = b.catchUpTokens(ctx)
	}
	if err != nil {
		return err
	}
	if was := b.last.Swap(new(string(now))); was == nil || *was != string(now) {
		b.counter().Add(1)
	}
	return nil
}

func (b *Book) counter() *atomic.Uint64 {
	if b.Changes != nil {
		return b.Changes
	}
	return &b.own
}

// ByEmail returns the contact that has the address, as the main one or another, or
// ErrUnknown. Disabled contacts are returned too.
func (b *Book) ByEmail(ctx context.Context, a address.Address) (Contact, error) {
	e, err := b.find(ctx, a)
	return b.view(e), err
}

// ByID returns the contact, or ErrUnknown. Disabled contacts are returned too.
func (b *Book) ByID(ctx context.Context, id string) (Contact, error) {
	e, err := b.contact(ctx, id)
	return b.view(e), err
}

// Contacts returns up to limit contacts in the order in which they were added, after
// the one with the id after. Each word of text must be in a contact's name, in one of
// the addresses, or in an id or name of the companies; without text all match. Fewer
// than limit means that there are no more.
func (b *Book) Contacts(ctx context.Context, text, after string, limit int) ([]Contact, error) {
	words := strings.Fields(nameKey(text))
	var names map[string]string
	if len(words) > 0 {
		all, err := b.allCompanies(ctx)
		if err != nil {
			return nil, err
		}
		names = make(map[string]string, len(all))
		for _, c := range all {
			names[c.ID] = c.Name
		}
	}
	var found []Contact
	err := b.eachContact(ctx, after, func(e *entry) bool {
		if c := b.view(*e); c.matches(words, names) {
			found = append(found, c)
		}
		return len(found) < limit
	})
	return found, err
}

// AnybodyMaySignIn reports whether there is a contact who isn't disabled.
func (b *Book) AnybodyMaySignIn(ctx context.Context) (found bool, err error) {
	err = b.eachContact(ctx, "", func(e *entry) bool {
		found = !b.view(*e).Disabled
		return !found
	})
	return found, err
}

// Companies returns up to limit companies in the order of their ids, after the id
// after. Each word of text must be in a company's id or name.
func (b *Book) Companies(ctx context.Context, text, after string, limit int) ([]Company, error) {
	words := strings.Fields(nameKey(text))
	var found []Company
	err := b.eachCompany(ctx, after, func(c Company) bool {
		if containsAll(nameKey(c.ID+" "+c.Name), words) {
			found = append(found, c)
		}
		return len(found) < limit
	})
	return found, err
}

// Company returns the company, or ErrUnknown.
func (b *Book) Company(ctx context.Context, id string) (Company, error) {
	if !IsCompanyID(id) {
		return Company{}, ErrUnknown
	}
	rec, err := b.get(ctx, bucketCompany, id)
	if err != nil {
		return Company{}, err
	}
	return b.openCompany(rec)
}

// view is a contact as the world sees it: the Caddyfile has the last word on staff.
func (b *Book) view(e entry) Contact {
	if slices.ContainsFunc(e.Emails, b.isStaff) {
		if e.Role != Staff {
			e.StoredRole = e.Role
		}
		e.Role, e.Disabled = Staff, false
	}
	return e.Contact
}

func (b *Book) isStaff(a address.Address) bool { return slices.Contains(b.Staff, a) }

// find returns the contact that has the address. Between the two reads the address may
// pass to another contact, so that the first one no longer has it: look again.
func (b *Book) find(ctx context.Context, a address.Address) (entry, error) {
	for range 3 {
		id, err := b.owner(ctx, a)
		if err != nil {
			return entry{}, err
		}
		e, err := b.contact(ctx, id)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return entry{}, err
		}
		if slices.Contains(e.Emails, a) {
			return e, nil
		}
	}
	return entry{}, ErrUnknown
}

// owner returns the id of the contact that has the address, or ErrUnknown.
func (b *Book) owner(ctx context.Context, a address.Address) (string, error) {
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

func (b *Book) contact(ctx context.Context, id string) (entry, error) {
	if id == "" || len(id) > 512 {
		return entry{}, ErrUnknown
	}
	rec, err := b.get(ctx, bucketContact, id)
	if err != nil {
		return entry{}, err
	}
	return b.openContact(rec)
}

// eachContact calls f for the contacts after an id, in order, until f returns false.
func (b *Book) eachContact(ctx context.Context, after string, f func(*entry) bool) error {
	return b.scan(ctx, bucketContact, "", after, func(rec store.Record) (bool, error) {
		e, err := b.openContact(rec)
		return err == nil && f(&e), err
	})
}

func (b *Book) eachCompany(ctx context.Context, after string, f func(Company) bool) error {
	return b.scan(ctx, bucketCompany, "", after, func(rec store.Record) (bool, error) {
		c, err := b.openCompany(rec)
		return err == nil && f(c), err
	})
}

func (b *Book) allCompanies(ctx context.Context) (all []Company, err error) {
	err = b.eachCompany(ctx, "", func(c Company) bool {
		all = append(all, c)
		return true
	})
	return all, err
}

func (b *Book) scan(ctx context.Context, bucket, prefix, after string, f func(store.Record) (more bool, err error)) error {
	for {
		recs, err := b.Store.Scan(ctx, b.Firm, bucket, prefix, after, pageSize)
		if err != nil {
			return fmt.Errorf("reading the directory: %w", err)
		}
		for _, rec := range recs {
			if err := checkFormat(rec); err != nil {
				return err
			}
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

func (b *Book) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}

func (b *Book) key(bucket, id string) store.Key {
	return store.Key{Firm: b.Firm, Bucket: bucket, ID: id}
}

// get returns a record whose format is known, or ErrUnknown.
func (b *Book) get(ctx context.Context, bucket, id string) (store.Record, error) {
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

func (b *Book) emailMACs(a address.Address) []string {
	return b.Keys.MACs("email", b.Firm, string(a))
}

// seal makes a record's value of v. It opens at this key alone.
func (b *Book) seal(bucket, id string, v any) []byte {
	plain, err := json.Marshal(v)
	if err != nil {
		panic("directory: " + err.Error()) // never: plain structs of strings
	}
	return append([]byte{format}, b.Keys.Seal("directory", b.place(bucket, id), plain)...)
}

func (b *Book) open(rec store.Record, v any) error {
	plain, err := b.Keys.Open("directory", b.place(rec.Key.Bucket, rec.Key.ID), rec.Value[1:])
	if err == nil {
		err = json.Unmarshal(plain, v)
	}
	if err != nil {
		return fmt.Errorf("opening a %s of firm %s: %w", rec.Key.Bucket, b.Firm, err)
	}
	return nil
}

func (b *Book) place(bucket, id string) string { return b.Firm + "\x00" + bucket + "\x00" + id }

// newID returns an id that no contact has or had. IDs made later, or with a higher n at
// the same time, sort behind: contacts are listed in the order of a file's rows.
func (b *Book) newID(n int) string {
	var raw [20]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(b.now().UnixNano()+int64(n)))
	rand.Read(raw[8:]) // never fails (crypto/rand)
	return strings.ToLower(base32.HexEncoding.EncodeToString(raw[:]))
}
