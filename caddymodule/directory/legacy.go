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
	s, err := b.standingByToken(ctx, version, token)
	if err != nil {
		return Standing{}, err // what isn't there isn't remembered: anybody can ask for that
	}
	b.heldTokens.put(key, version, s, maxHeldTokens)
	return *s, nil
}

// standingByToken looks the token up in the index, and then whether its company has it:
// the index isn't sealed, so alone it opens nothing. Between the two reads the token may
// pass to another company: look again.
func (b *Book) standingByToken(ctx context.Context, version uint64, token string) (*Standing, error) {
	for range 3 {
		id, err := b.tokenOwner(ctx, token)
		if err != nil {
			return nil, err
		}
		s, err := b.standing(ctx, version, id)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		if err == nil && s.Has(PrintOf(token)) {
			return s, nil
		}
	}
	return nil, ErrUnknown
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

// tokenOwner returns the id of the company that has the token, or ErrUnknown.
func (b *Book) tokenOwner(ctx context.Context, token string) (string, error) {
	for _, mac := range b.Keys.Lookups("legacy", b.Firm, token) {
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

// HasTokens reports whether some company has a token of old links.
func (b *Book) HasTokens(ctx context.Context) (bool, error) {
	recs, err := b.Store.Scan(ctx, b.Firm, bucketLegacy, "", "", 1)
	if err != nil {
		return false, fmt.Errorf("reading the directory: %w", err)
	}
	return len(recs) > 0, nil
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
		for i, mac := range b.tokenMACs(token) {
			if i > 0 || !claims[token] {
				ops = append(ops, store.Delete(b.key(bucketLegacy, mac)))
			}
		}
	}
	for _, token := range has {
		if !slices.Contains(had, token) {
			ops = append(ops, b.putToken(token, after.ID))
		}
	}
	if after.asksSignIn() && !before.asksSignIn() { // and so it stays, also where the company goes and comes back
		ops = append(ops, b.upgradesChange(closesID+after.ID))
	}
	return ops
}

func (b *Book) putToken(token, company string) store.Op {
	return store.Put(b.key(bucketLegacy, b.tokenMACs(token)[0]), append([]byte{format}, company...), time.Time{})
}

// stateTokens is a mark of the book, in bucketState: there is an index of the tokens, and none of the
// tokens folded, as earlier releases had, whose mark is stateTokensFolded.
const (
	stateTokens       = "tokens-3"
	stateTokensFolded = "tokens-2"
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
	folded, err := b.marked(ctx, stateTokensFolded)
	if err == nil && !folded {
		err = b.resealBucket(ctx, bucketCompany, b.resealCompany)
	}
	if err != nil {
		return fmt.Errorf("making the index of old links of firm %s: %w", b.Firm, err)
	}
	for {
		recs, err := b.Store.Scan(ctx, b.Firm, bucketLike, "", "", pageSize)
		if err != nil {
			return fmt.Errorf("reading the directory: %w", err)
		}
		if len(recs) == 0 {
			return b.Store.Apply(ctx, b.mark(stateTokens), store.Delete(b.key(bucketState, stateTokensFolded)))
		}
		ops := make([]store.Op, len(recs))
		for i, rec := range recs {
			ops[i] = store.Delete(rec.Key)
		}
		if err := b.Store.Apply(ctx, ops...); err != nil {
			return err
		}
	}
}

// bornUpgraded reports whether a company is upgraded from birth: one without an old link,
// one that was upgraded when it was removed, and after an upgrade of all every one.
func (b *Book) bornUpgraded(ctx context.Context) (func(Company) bool, error) {
	now, _, err := b.upgradesNow(ctx)
	return func(c Company) bool {
		return now.All || len(c.LegacyTokens) == 0 || now.Has(c.ID) || b.staysUpgraded(c.ID)
	}, err
}
