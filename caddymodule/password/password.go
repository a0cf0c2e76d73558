// Package password stores the passwords of contacts: it sets, checks and removes them.
//
// A check costs the same for every address and every stored hash (check.go). The process limits the
// cost of all checks (permits.go, memory.go) and the number of guesses (guess.go). A pure function
// decides which passwords a contact may choose (policy.go). The store holds argon2id hashes, sealed
// (hash.go, record.go): a copy of the store without the secret doesn't allow guessing offline.
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
	// ErrWrong: this is not the contact's password, there is no such contact, or guesses are
	// throttled. Visitors get the same answer in all these cases.
	ErrWrong = errors.New("password: wrong")
	// ErrNone is an ErrWrong: there is no contact, or the contact has no password.
	ErrNone = fmt.Errorf("%w: contact has no password", ErrWrong)
	// ErrThrottled is an ErrWrong: there were too many guesses, so the result doesn't count.
	ErrThrottled = fmt.Errorf("%w: too many guesses", ErrWrong)
	// ErrNotImportable: the contact has chosen, used or removed a password here, so none is imported.
	ErrNotImportable = errors.New("password: contact has set or removed a password here")
	// ErrBusy: too many checks are running or waiting. Answer 503.
	ErrBusy = errors.New("password: too many concurrent checks; try again later")
)

// Passwords are the passwords of a firm's contacts. Set the fields in one literal. All methods are
// safe for concurrent use, and several processes may use one store.
type Passwords struct {
	Firm      string
	Name      string // of the firm; no password may contain it
	Store     store.Store
	Keys      *secret.Keyring
	Semaphore *Semaphore // shared by all firms of the process
	// MinLength is the minimum length of a password in characters. 0 means DefaultLength; values
	// below LowestMinLength mean LowestMinLength.
	MinLength int
	Cost      Cost             // of new hashes; zero: Standard
	Now       func() time.Time // the clock; nil: time.Now

	// OnUntrusted is called for records that Doorpost did not seal; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

// Set returns the Ops that give the contact the password. It returns a Refused if the policy
// forbids the password. The caller has proof that the contact chose it. If the store returns
// store.ErrConflict for the Ops, the password has changed meanwhile.
func (p *Passwords) Set(ctx context.Context, contact, password string, about ContactInfo) ([]store.Op, error) {
	if err := p.CheckPolicy(password, about); err != nil {
		return nil, err
	}
	var hash string
	var failed error
	err := p.Semaphore.run(ctx, p.Firm+"/"+contact, nil, func() { hash, failed = p.hash(password) })
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
	purses, err := p.deleteGuesses(ctx, contact)
	return append(ops, purses...), err
}

// Remove returns the Ops that remove the contact's password and prevent a later import. It returns
// none if the contact has no password.
func (p *Passwords) Remove(ctx context.Context, contact string) ([]store.Op, error) {
	was, err := p.read(ctx, contact)
	if err != nil || was.Value.Hash == "" {
		return nil, err
	}
	return p.write(was, record{From: removed, At: p.now()})
}

// Delete returns the Ops that delete everything about a contact who was removed.
func (p *Passwords) Delete(ctx context.Context, contact string) ([]store.Op, error) {
	was, err := p.read(ctx, contact)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{p.records().Delete(contact)}
	if shape := was.Value.params(); shape != "" {
		ops = append(ops, store.Delete(p.index(shape, contact)))
	}
	purses, err := p.deleteGuesses(ctx, contact)
	return append(ops, purses...), err
}

// Import returns the Ops that give a contact a hash from another system: bcrypt, or argon2id in the
// PHC format, within the bounds of CheckHash. It returns ErrOwn if the contact has chosen, used or
// removed a password here, so that importing a file again undoes nothing. It returns no Ops if the
// contact has this hash already.
func (p *Passwords) Import(ctx context.Context, contact, hash string) ([]store.Op, error) {
	if err := CheckHash(hash); err != nil {
		return nil, err
	}
	was, err := p.read(ctx, contact)
	switch {
	case err != nil || was.Value.Hash == hash:
		return nil, err
	case was.Value.From == chosen || was.Value.From == used || was.Value.From == removed:
		return nil, ErrNotImportable
	}
	return p.write(was, record{Hash: hash, From: imported, At: p.now()})
}

// State returns the state of the contact's password; the zero State if there is none.
func (p *Passwords) State(ctx context.Context, contact string) (State, error) {
	rec, err := p.read(ctx, contact)
	if err != nil || rec.Value.Hash == "" {
		return State{}, err
	}
	is := rec.Value
	return State{Since: is.At, Imported: is.From == imported, Chosen: is.From == chosen}, nil
}

// State describes a password without revealing anything about its content.
type State struct {
	Since    time.Time // when it was chosen or imported
	Imported bool      // imported and not used since
	Chosen   bool      // chosen here, so the contact has read one of our mails
}

func (s State) Has() bool { return !s.Since.IsZero() }

// hash returns a hash of the current cost. The caller holds a permit.
func (p *Passwords) hash(password string) (hash string, err error) {
	p.Semaphore.memory.compute(p.cost().bytes(), func() { hash, err = p.cost().hash(normalize(password)) })
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
