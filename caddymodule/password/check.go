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

// Attempt is a password that somebody typed.
type Attempt struct {
	Contact  string          // ID; "": the address is nobody's who may sign in
	Address  address.Address // as it was typed
	Device   string          // ID of the device, if the contact has signed in on it before
	Limited  bool            // wrong even if it is right, unless it comes from such a device
	Password string
	// Find, if it isn't nil, fills in all that the store has to be asked for, once there is
	// a permit: so many who come at once ask it for nothing. Set Device to wait in the line
	// of known ones.
	Find func(context.Context, *Attempt) error
}

// Match is a password that was right. Its Ops are to be applied with the session that
// begins: they give the guesses back, hash and seal the password as one does today, and
// fail with store.ErrConflict if it was changed in between. Then Check once more.
type Match struct {
	Ops []store.Op
	// First: it was brought from elsewhere, and used for the first time. Whether it is
	// one that could be chosen here was never asked.
	First bool
}

// Check tries a password. It counts the try in the store before anything is compared, so
// that of parallel tries no more are judged than the budget has. Every failure that is no
// ErrBusy and not the store's is an ErrWrong.
//
// All that can be wrong takes the same work: a permit, one read and one write of a
// purse, one read of a record, and one hash of every shape that some contact of the firm
// has: today's, and where there are any, older ones and imported ones. So a firm with
// bcrypt hashes from elsewhere pays for a bcrypt in each check until the last is used or
// removed, and nobody learns whose they are. Only after a right password, today's hash
// may be made of it, which takes longer.
//
// When ctx ends, so does Check; the hashing goes on to its end, and keeps its permit.
func (p *Passwords) Check(ctx context.Context, a Attempt) (Match, error) {
	who := ""
	if a.Device != "" && a.Contact != "" {
		who = p.Firm + "/" + a.Contact
	}
	var c comparison
	err := p.Permits.run(ctx, who,
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
	case c.over:
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
	// Sealed anew each time: who signs in keeps their password when the secret changes.
	ops, err := p.write(c.record, now)
	return Match{
		Ops:   append(ops, store.Delete(p.purse(p.purseOf(a)))),
		First: c.record.Value.From == imported,
	}, err
}

// comparison is one Check at work.
type comparison struct {
	typed  string // as it came, for hashes from elsewhere
	void   bool   // it can't be right, whatever the hash
	over   bool   // it may not be right: there were too many
	record sealed.Record[record]
	shapes []shape // in an order that says nothing

	right   bool
	renewed string // a hash of today's cost; "": the record has one
	failed  error
}

// prepare counts the try, and reads what it is to be compared with.
func (p *Passwords) prepare(ctx context.Context, a Attempt) (c comparison, err error) {
	over, err := p.reserve(ctx, p.purseOf(a))
	if err != nil {
		return c, err
	}
	c.over = over || a.Limited && a.Device == ""
	if c.record, err = p.read(ctx, p.purseOf(a).Contact); err != nil {
		return c, err
	}
	if c.shapes, err = p.shapes(ctx); err != nil {
		return c, err
	}
	c.shapes = append(c.shapes, p.cost().shape())
	if s := c.record.Value.shape(); s != "" {
		c.shapes = append(c.shapes, s)
	}
	slices.Sort(c.shapes)
	c.shapes = slices.Compact(c.shapes)
	if c.typed = a.Password; !typeable(a.Password) || isCommon(fold(a.Password)) {
		// Also an imported hash opens to none of the passwords that everybody tries.
		c.typed, c.void = "", true
	}
	return c, nil
}

// compare computes one hash of each shape: the contact's, or one that stands in for it.
func (c *comparison) compare(p *Passwords) {
	typed := normal(c.typed)
	if c.record.Value.From == imported {
		typed = c.typed // other portals hash what is typed
	}
	for _, s := range c.shapes {
		hash, own := s.dummy(), s == c.record.Value.shape()
		if own {
			hash = c.record.Value.Hash
		}
		h, err := parseHash(hash)
		if err != nil {
			continue // shapes of newer releases can't be imitated
		}
		p.Permits.memory.compute(h.cost.bytes(), func() {
			c.right = matches(hash, typed) && own || c.right
		})
	}
	if c.right = c.right && !c.void && !c.over; !c.right {
		return
	}
	if c.record.Value.From == imported || c.record.Value.shape() != p.cost().shape() {
		c.renewed, c.failed = p.hash(c.typed)
	}
}

// maxShapes is of how many shapes each check computes a hash.
const maxShapes = 8

// shapes returns those that contacts' hashes have.
func (p *Passwords) shapes(ctx context.Context) (all []shape, err error) {
	for after := ""; len(all) < maxShapes; {
		page, err := p.Store.Scan(ctx, p.Firm, shapeBucket, "", after, 1)
		if err != nil || len(page) == 0 {
			return all, err
		}
		s, _, _ := strings.Cut(page[0].Key.ID, "/")
		all = append(all, shape(s))
		after = s + "0" // '0' comes after '/', so this is behind all of the shape
	}
	return all, nil
}

const maxTyped = 4096 // bytes that are looked at at all

// typeable reports whether there is anything to compare, and not too much. What is shorter
// than may be chosen may be right: it may come from elsewhere, or MinLength have risen.
func typeable(password string) bool {
	return password != "" && len(password) <= maxTyped && utf8.ValidString(password) && utf8.RuneCountInString(normal(password)) <= MaxLength
}
