package directory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Standing is what a request has to know of a company.
type Standing struct {
	Company  string // id
	Upgraded bool   // its old links ask for sign-in
	Token    string // the first of its old links, to put back; "": it has none
	Era      uint64 // the company's

	prints string // of the tokens of all its old links, one after the other
}

// Print is by what a token is known again, where it has served and isn't kept itself.
type Print uint64

// PrintOf returns the print of a token.
func PrintOf(token string) Print {
	sum := sha256.Sum256([]byte(token))
	return Print(binary.BigEndian.Uint64(sum[:]))
}

// Has reports whether the company has an old link whose token the print was made of.
func (s Standing) Has(p Print) bool {
	for rest := s.prints; len(rest) >= printSize; rest = rest[printSize:] {
		if Print(binary.BigEndian.Uint64([]byte(rest[:printSize]))) == p {
			return true
		}
	}
	return false
}

const printSize = 8

// How many Standings are held in memory, so that 100,000 companies with three tokens each
// fit.
const (
	maxHeldTokens    = 400_000
	maxHeldCompanies = 150_000
)

// StandingByToken returns the standing of the company that an old link's token belongs
// to, or ErrUnknown. Tokens are compared exactly, as they are once decoded. It is from
// memory as long as Version stands still.
func (b *Book) StandingByToken(ctx context.Context, token string) (Standing, error) {
	if token == "" || len(token) > maxToken {
		return Standing{}, ErrUnknown
	}
	version := b.Version() // before the reads: a change during them is seen next time
	key := sha256.Sum256([]byte(token))
	if s, held := b.heldTokens.get(key, version); held {
		return *s, nil
	}
	id, err := b.tokenOwner(ctx, b.tokenMACs(token))
	if err != nil {
		return Standing{}, err // what isn't there isn't remembered: anybody can ask for that
	}
	s, err := b.standing(ctx, version, id)
	if err != nil {
		return Standing{}, err
	}
	b.heldTokens.put(key, version, s, maxHeldTokens)
	return *s, nil
}

// StandingLike is StandingByToken where a portal's database may take another token for the
// company's: one that differs in case, or as far as Fold tells.
func (b *Book) StandingLike(ctx context.Context, token string) (Standing, error) {
	s, err := b.StandingByToken(ctx, token)
	if b.Fold == nil || !errors.Is(err, ErrUnknown) {
		return s, err
	}
	version, folded := b.Version(), b.Fold(token)
	if s, err = b.StandingByToken(ctx, folded); !errors.Is(err, ErrUnknown) {
		return s, err
	}
	id, err := b.tokenOwner(ctx, b.foldedMACs(folded))
	if err != nil {
		return Standing{}, err
	}
	like, err := b.standing(ctx, version, id)
	if err != nil {
		return Standing{}, err
	}
	return *like, nil
}

// StandingOf returns the standing of the company, or ErrUnknown. It is from memory as
// long as Version stands still.
func (b *Book) StandingOf(ctx context.Context, id string) (Standing, error) {
	s, err := b.standing(ctx, b.Version(), id)
	if err != nil {
		return Standing{}, err
	}
	return *s, nil
}

func (b *Book) standing(ctx context.Context, version uint64, id string) (*Standing, error) {
	if s, ok := b.heldCompanies.get(id, version); ok {
		return s, nil
	}
	c, err := b.Company(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &Standing{Company: c.ID, Upgraded: c.Upgraded, Era: c.Era}
	if len(c.LegacyTokens) > 0 {
		s.Token = c.LegacyTokens[0]
	}
	prints := make([]byte, 0, 16*printSize)
	for _, token := range c.LegacyTokens {
		prints = binary.BigEndian.AppendUint64(prints, uint64(PrintOf(token)))
	}
	s.prints = string(prints)
	b.heldCompanies.put(c.ID, version, s, maxHeldCompanies)
	return s, nil
}

// tokenOwner returns the id of the company that has the token with one of the MACs, or ErrUnknown.
func (b *Book) tokenOwner(ctx context.Context, macs []string) (string, error) {
	for _, mac := range macs {
		rec, err := b.get(ctx, bucketLegacy, mac)
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

func (b *Book) tokenMACs(token string) []string {
	return b.Keys.MACs("legacy", b.Firm, token)
}

func (b *Book) foldedMACs(folded string) []string {
	return b.Keys.MACs("legacy-folded", b.Firm, folded)
}

// folded returns what the token is found by beside itself, or "": it is what it would be.
func (b *Book) folded(token string) string {
	if b.Fold == nil {
		return ""
	}
	if folded := b.Fold(token); folded != token {
		return folded
	}
	return ""
}

// newEra returns a number that no company has as its Era.
func newEra() uint64 {
	var raw [8]byte
	rand.Read(raw[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint64(raw[:])
}

// decodeToken returns a token as a portal reads it from a link that has it as written.
func decodeToken(written string) string {
	if decoded, err := url.PathUnescape(written); err == nil {
		return decoded
	}
	return written
}

// companyOps are the records of a company and of its tokens; before is nil for a new
// company, after for one to remove. Tokens that others claim get their records from the
// company that they pass to, in the same Apply.
func (b *Book) companyOps(before, after *Company, claims map[string]bool) (ops []store.Op) {
	var had, has []string
	if before != nil {
		had = before.LegacyTokens
	}
	if after == nil {
		ops = append(ops, store.Delete(b.key(bucketCompany, before.ID)))
	} else {
		has = after.LegacyTokens
		ops = append(ops, store.Put(b.key(bucketCompany, after.ID), b.sealCompany(*after), time.Time{}))
	}
	for _, token := range had {
		if slices.Contains(has, token) {
			continue
		}
		macs := [][]string{b.tokenMACs(token)}
		if folded := b.folded(token); folded != "" && !slices.ContainsFunc(has, func(t string) bool { return b.Fold(t) == folded }) {
			macs = append(macs, b.foldedMACs(folded))
		}
		for _, macs := range macs {
			for i, mac := range macs {
				if i > 0 || !claims[token] {
					ops = append(ops, store.Delete(b.key(bucketLegacy, mac)))
				}
			}
		}
	}
	for _, token := range has {
		if !slices.Contains(had, token) {
			ops = append(ops, b.putToken(token, after.ID)...)
		}
	}
	return ops
}

// putToken returns the Ops by which the token, and what is like it, is found.
func (b *Book) putToken(token, company string) []store.Op {
	value := append([]byte{format}, company...)
	ops := []store.Op{store.Put(b.key(bucketLegacy, b.tokenMACs(token)[0]), value, time.Time{})}
	if folded := b.folded(token); folded != "" {
		ops = append(ops, store.Put(b.key(bucketLegacy, b.foldedMACs(folded)[0]), value, time.Time{}))
	}
	return ops
}

// Marks of the book, in bucketState.
const (
	stateTokens   = "tokens-2" // there is an index of the tokens, folded too
	stateUpgraded = "upgraded" // every later company is upgraded from birth
)

func (b *Book) marked(ctx context.Context, mark string) (bool, error) {
	_, err := b.get(ctx, bucketState, mark)
	if errors.Is(err, ErrUnknown) {
		return false, nil
	}
	return err == nil, err
}

func (b *Book) mark(mark string) store.Op {
	return store.Put(b.key(bucketState, mark), []byte{format}, time.Time{})
}

// EnsureTokens makes the index of the tokens of a book that was begun without, once. It
// goes on where it was interrupted, and does nothing where there is nothing to do.
func (b *Book) EnsureTokens(ctx context.Context) error {
	if done, err := b.marked(ctx, stateTokens); err != nil || done {
		return err
	}
	if err := b.resealBucket(ctx, bucketCompany, b.resealCompany); err != nil {
		return fmt.Errorf("making the index of old links of firm %s: %w", b.Firm, err)
	}
	return b.Store.Apply(ctx, b.mark(stateTokens))
}

// bornUpgraded reports whether a company is upgraded from birth: one without an old link,
// and after an upgrade of all every one.
func (b *Book) bornUpgraded(ctx context.Context) (func(Company) bool, error) {
	all, err := b.marked(ctx, stateUpgraded)
	return func(c Company) bool { return all || len(c.LegacyTokens) == 0 }, err
}
