// Package password keeps the passwords of contacts: sets, checks and removes them.
//
// A check costs the same whoever is asked for, and whatever there is to be compared with
// (check.go). What it costs is bounded for the whole process (permits.go, memory.go), and so is how
// often anybody may guess (guess.go). Which passwords may be chosen is a pure decision
// (policy.go). What lies in the store is an argon2id hash, sealed (hash.go, record.go):
// a copy of the store without the secret gives nobody anything to try passwords on.
package password

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

var (
	// ErrWrong: this is not the contact's password, or there is no such contact, or it
	// may not be tried now. Whoever typed it gets one answer for all of these.
	ErrWrong = errors.New("password: wrong")
	// ErrNone is an ErrWrong: there is no contact, or no password to compare with.
	ErrNone = fmt.Errorf("%w: there is none", ErrWrong)
	// ErrThrottled is an ErrWrong: there were too many tries, so nothing was judged.
	ErrThrottled = fmt.Errorf("%w: too many tries", ErrWrong)
	// ErrOwn: the contact has chosen, used or removed a password here, so none is imported.
	ErrOwn = errors.New("password: they have one of their own")
	// ErrBusy: there are too many checks at the moment. Answer 503.
	ErrBusy = errors.New("password: too many checks at the moment")
)

// Passwords are those of a firm's contacts. Set its fields in one literal. Many
// goroutines may use it, and several processes on one store.
type Passwords struct {
	Firm    string
	Name    string // of the firm: no password may contain it
	Store   store.Store
	Keys    *secret.Keyring
	Permits *Permits // of the process, for all its firms
	// MinLength is how many characters a password needs; 0 is DefaultLength, and what
	// is below LeastLength counts as that.
	MinLength int
	Cost      Cost             // of new hashes; the zero value: Standard
	Now       func() time.Time // the clock; nil: time.Now

	// Alarm is told of records that are none of ours; see sealed.Bucket.
	Alarm func(context.Context, store.Key)
}

// Set decides whether the contact may have the password, and returns the Ops that give
// it to them: a Refused says what is wrong with it. Whoever calls has proof that it is
// the contact who chose it. store.ErrConflict of the Ops means that another was faster.
func (p *Passwords) Set(ctx context.Context, contact, password string, about About) ([]store.Op, error) {
	if err := p.Judge(password, about); err != nil {
		return nil, err
	}
	var hash string
	var failed error
	err := p.Permits.run(ctx, p.Firm+"/"+contact, nil, func() { hash, failed = p.hash(password) })
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	was, err := p.read(ctx, contact)
	if err != nil {
		return nil, err
	}
	ops, err := p.write(was, record{Hash: hash, From: chosen, At: p.now()})
	if err != nil {
		return nil, err
	}
	purses, err := p.purses(ctx, contact)
	return append(ops, purses...), err
}

// Remove returns the Ops after which the contact has no password, nor gets one by an
// import. None: there was none.
func (p *Passwords) Remove(ctx context.Context, contact string) ([]store.Op, error) {
	was, err := p.read(ctx, contact)
	if err != nil || was.Value.Hash == "" {
		return nil, err
	}
	return p.write(was, record{From: removed, At: p.now()})
}

// Forget returns the Ops that leave nothing of a contact who is no more.
func (p *Passwords) Forget(ctx context.Context, contact string) ([]store.Op, error) {
	was, err := p.read(ctx, contact)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{p.records().Delete(contact)}
	if shape := was.Value.shape(); shape != "" {
		ops = append(ops, store.Delete(p.index(shape, contact)))
	}
	purses, err := p.purses(ctx, contact)
	return append(ops, purses...), err
}

// Import returns the Ops that give a contact the hash they had elsewhere: bcrypt, or
// argon2id in the PHC format, within the bounds that CheckHash tells. It is ErrOwn for a
// contact who has chosen, used or removed a password here: a file that is read again
// undoes nothing. No Ops: they have this one.
func (p *Passwords) Import(ctx context.Context, contact, hash string) ([]store.Op, error) {
	if err := CheckHash(hash); err != nil {
		return nil, err
	}
	was, err := p.read(ctx, contact)
	switch {
	case err != nil || was.Value.Hash == hash:
		return nil, err
	case was.Value.From == chosen || was.Value.From == used || was.Value.From == removed:
		return nil, ErrOwn
	}
	return p.write(was, record{Hash: hash, From: imported, At: p.now()})
}

// State says since when the contact has a password, and where it comes from; the zero State:
// there is none.
func (p *Passwords) State(ctx context.Context, contact string) (State, error) {
	rec, err := p.read(ctx, contact)
	if err != nil || rec.Value.Hash == "" {
		return State{}, err
	}
	is := rec.Value
	return State{Since: is.At, Imported: is.From == imported, Chosen: is.From == chosen}, nil
}

// State is what may be told of a password.
type State struct {
	Since    time.Time // when it was chosen, or imported
	Imported bool      // it was brought from elsewhere, and not used since
	Chosen   bool      // it was chosen here, so by who has read a mail of ours
}

// Has reports whether there is a password.
func (s State) Has() bool { return !s.Since.IsZero() }

// hash makes a hash of today's cost. The caller holds a permit.
func (p *Passwords) hash(password string) (hash string, err error) {
	p.Permits.memory.compute(p.cost().bytes(), func() { hash, err = p.cost().hash(normal(password)) })
	return hash, err
}

func (p *Passwords) cost() Cost {
	if p.Cost == (Cost{}) {
		return Standard
	}
	return p.Cost
}

func (p *Passwords) now() time.Time {
	if p.Now != nil {
		return p.Now().UTC().Round(0)
	}
	return time.Now().UTC().Round(0)
}
