package password

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Attempt is a password that a visitor typed.
type Attempt struct {
	Contact  string          // ID; "": the address belongs to no contact who may sign in
	Address  address.Address // as typed
	Device   string          // ID of the device, if the contact has signed in on it before
	Limited  bool            // fails even if the password is right, unless Device is set
	Password string
	// Find, if not nil, fills in the other fields from the store. Check calls it once it
	// holds a permit, so that a burst of attempts doesn't load the store. Set Device before
	// to wait in the priority queue.
	Find func(context.Context, *Attempt) error
}

// Match is a right password. Apply its Ops in the transaction that begins the session: they
// reset the guesses, and seal the password again with the newest secret, rehashed if its
// cost is outdated. If the store returns store.ErrConflict, the password has changed
// meanwhile: call Check again.
type Match struct {
	Ops []store.Op
	// First: an imported password was used for the first time. It was never checked against the
	// policy.
	First bool
}

// Check compares a password. It counts the guess in the store before it compares, so that
// no more parallel guesses are compared than the budget allows. Every failure except
// ErrBusy and the store's errors is an ErrWrong.
//
// Every failure takes the same work: a permit, one read and one write of a guess counter,
// one read of a record, and one hash for each set of hash parameters in use by the firm:
// the current ones, and older and imported ones if any contact has them. So in a firm with
// imported bcrypt hashes every check also computes a bcrypt until the last of them is used
// or removed, and timing doesn't reveal whose they are. Only a right password may take
// longer, for rehashing it.
//
// Check returns when ctx ends. The hash is still computed to its end, and keeps its permit.
func (p *Passwords) Check(ctx context.Context, a Attempt) (Match, error) {
	who := ""
	if a.Device != "" && a.Contact != "" {
		who = p.Firm + "/" + a.Contact
	}
	var c comparison
	err := p.Semaphore.run(ctx, who,
		func() (err error) {
			if a.Find != nil {
				if err = a.Find(ctx, &a); err != nil {
					return err
				}
			}
			c, err = p.prepare(ctx, a)
			return err
		},
		func() { c.compare(p) })
	switch {
	case err != nil:
		return Match{}, err
	case c.failed != nil:
		return Match{}, c.failed
	case c.throttled:
		return Match{}, ErrThrottled
	case c.record.Value.Hash == "":
		return Match{}, ErrNone
	case !c.right:
		return Match{}, ErrWrong
	}
	now := c.record.Value
	if now.From == imported {
		now.From = used
	}
	if c.renewed != "" {
		now.Hash = c.renewed
	}
	// Seal again each time: a contact who signs in keeps the password when the secret
	// changes.
	ops, err := p.write(c.record, now)
	return Match{
		Ops:   append(ops, store.Delete(p.guessKey(p.limitKey(a)))),
		First: c.record.Value.From == imported,
	}, err
}

// comparison is the state of one Check.
type comparison struct {
	typed      string // as typed, for imported hashes
	impossible bool   // can't be right, whatever the hash
	throttled  bool   // too many guesses, so the result doesn't count
	record     sealed.Record[record]
	params     []hashParams // sorted, so that the order reveals nothing

	right   bool
	renewed string // a hash of the current cost; "": the record has one
	failed  error
}

// prepare counts the guess, and reads the hash to compare with.
func (p *Passwords) prepare(ctx context.Context, a Attempt) (c comparison, err error) {
	over, err := p.countGuess(ctx, p.limitKey(a))
	if err != nil {
		return c, err
	}
	c.throttled = over || a.Limited && a.Device == ""
	if c.record, err = p.read(ctx, p.limitKey(a).Contact); err != nil {
		return c, err
	}
	if c.params, err = p.usedParams(ctx); err != nil {
		return c, err
	}
	c.params = append(c.params, p.cost().params())
	if s := c.record.Value.params(); s != "" {
		c.params = append(c.params, s)
	}
	slices.Sort(c.params)
	c.params = slices.Compact(c.params)
	if c.typed = a.Password; !plausible(a.Password) || isCommon(fold(a.Password)) {
		// Common passwords fail for imported hashes, too.
		c.typed, c.impossible = "", true
	}
	return c, nil
}

// compare computes one hash for each set of parameters: the contact's hash, or a dummy.
func (c *comparison) compare(p *Passwords) {
	typed := normalize(c.typed)
	if c.record.Value.From == imported {
		typed = c.typed // other systems hash the password as typed
	}
	for _, s := range c.params {
		hash, own := s.dummy(), s == c.record.Value.params()
		if own {
			hash = c.record.Value.Hash
		}
		h, err := parseHash(hash)
		if err != nil {
			continue // unknown parameters of a newer release
		}
		p.Semaphore.memory.compute(h.cost.bytes(), func() {
			c.right = matches(hash, typed) && own || c.right
		})
	}
	if c.right = c.right && !c.impossible && !c.throttled; !c.right {
		return
	}
	if c.record.Value.From == imported || c.record.Value.params() != p.cost().params() {
		c.renewed, c.failed = p.hash(c.typed)
	}
}

// maxParams is the maximum number of hashes that each check computes for parameters in use.
const maxParams = 8

// usedParams returns the hash parameters of the contacts' hashes.
func (p *Passwords) usedParams(ctx context.Context) (all []hashParams, err error) {
	for after := ""; len(all) < maxParams; {
		page, err := p.Store.Scan(ctx, p.Firm, paramsBucket, "", after, 1)
		if err != nil || len(page) == 0 {
			return all, err
		}
		s, _, _ := strings.Cut(page[0].Key.ID, "/")
		all = append(all, hashParams(s))
		after = s + "0" // '0' follows '/', so this skips all records with these parameters
	}
	return all, nil
}

const maxInput = 4096 // maximum length of input in bytes

// plausible reports whether the input can be a stored password. It accepts passwords
// shorter than MinLength: they may be imported, or older than the current MinLength.
func plausible(password string) bool {
	return password != "" && len(password) <= maxInput && utf8.ValidString(password) && utf8.RuneCountInString(normalize(password)) <= MaxLength
}
