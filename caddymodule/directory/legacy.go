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

// AccessStatus is the state of a company that a request needs.
type AccessStatus struct {
	Company    string // id
	Upgraded   bool   // its old links ask for sign-in
	Token      string // token of its first old link, used to restore old URLs; "" if it has none
	Generation uint64 // the company's
	AddedAs    uint64 // likewise

	prints string // prints of the tokens of all its old links, concatenated
}

// Fingerprint identifies a token that was used without storing the token itself.
type Fingerprint uint64

// FingerprintOf returns the fingerprint of a token.
func FingerprintOf(token string) Fingerprint {
	sum := sha256.Sum256([]byte(token))
	return Fingerprint(binary.BigEndian.Uint64(sum[:]))
}

// Has reports whether one of the company's old links has the token of the print.
func (s AccessStatus) Has(p Fingerprint) bool {
	for rest := s.prints; len(rest) >= printSize; rest = rest[printSize:] {
		if Fingerprint(binary.BigEndian.Uint64([]byte(rest[:printSize]))) == p {
			return true
		}
	}
	return false
}

const printSize = 8

// Limits of cached Standings, enough for 100,000 companies with three tokens each.
const (
	maxCachedTokens    = 400_000
	maxCachedCompanies = 150_000
)

// StatusByToken returns the access status of the company that has the old-link token, or ErrUnknown.
// Decoded tokens are compared exactly. The result comes from memory while Version stays the same.
func (b *Directory) StatusByToken(ctx context.Context, token string) (AccessStatus, error) {
	if token == "" || len(token) > maxToken {
		return AccessStatus{}, ErrUnknown
	}
	version := b.Version() // before the reads: a change during them is noticed next time
	key := sha256.Sum256([]byte(token))
	if s, held := b.cachedByToken.get(key, version); held {
		return *s, nil
	}
	s, err := b.standingByToken(ctx, version, token)
	if err != nil {
		return AccessStatus{}, err // unknown tokens aren't cached: anybody can request them
	}
	b.cachedByToken.put(key, version, s, maxCachedTokens)
	return *s, nil
}

// standingByToken looks up the token in the index, and then checks that the company has it: the
// index isn't sealed, so it gives no access by itself. Between the two reads the token may pass to
// another company; it then tries again.
func (b *Directory) standingByToken(ctx context.Context, version uint64, token string) (*AccessStatus, error) {
	for range 3 {
		id, err := b.companyIDByToken(ctx, token)
		if err != nil {
			return nil, err
		}
		s, err := b.standingByCompany(ctx, version, id)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		if err == nil && s.Has(FingerprintOf(token)) {
			return s, nil
		}
	}
	return nil, ErrUnknown
}

// StatusOf returns the access status of the company, or ErrUnknown. The result comes from memory while
// Version stays the same.
func (b *Directory) StatusOf(ctx context.Context, id string) (AccessStatus, error) {
	s, err := b.standingByCompany(ctx, b.Version(), id)
	if err != nil {
		return AccessStatus{}, err
	}
	return *s, nil
}

func (b *Directory) standingByCompany(ctx context.Context, version uint64, id string) (*AccessStatus, error) {
	if s, ok := b.cachedByCompany.get(id, version); ok {
		return s, nil
	}
	c, err := b.Company(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &AccessStatus{Company: c.ID, Upgraded: c.Upgraded, Generation: c.Generation, AddedAs: c.AddedAs}
	if len(c.LegacyTokens) > 0 {
		s.Token = c.LegacyTokens[0]
	}
	prints := make([]byte, 0, 16*printSize)
	for _, token := range c.LegacyTokens {
		prints = binary.BigEndian.AppendUint64(prints, uint64(FingerprintOf(token)))
	}
	s.prints = string(prints)
	b.cachedByCompany.put(c.ID, version, s, maxCachedCompanies)
	return s, nil
}

// companyIDByToken returns the id of the company that has the token, or ErrUnknown.
func (b *Directory) companyIDByToken(ctx context.Context, token string) (string, error) {
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

func (b *Directory) tokenMACs(token string) []string {
	return b.Keys.MACs("legacy", b.Firm, token)
}

// HasTokens reports whether any company has an old-link token.
func (b *Directory) HasTokens(ctx context.Context) (bool, error) {
	recs, err := b.Store.Scan(ctx, b.Firm, bucketLegacy, "", "", 1)
	if err != nil {
		return false, fmt.Errorf("reading the directory: %w", err)
	}
	return len(recs) > 0, nil
}

// newRandomGeneration returns a random value that no company has as its Generation.
func newRandomGeneration() uint64 {
	var raw [8]byte
	rand.Read(raw[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint64(raw[:])
}

// decodeToken returns the token that a portal reads from a link that contains written.
func decodeToken(written string) string {
	if decoded, err := url.PathUnescape(written); err == nil {
		return decoded
	}
	return written
}

// companyOps returns the Ops for the records of a company and of its tokens. before is nil for a
// new company, after is nil for a removal. A token in claims passes to another company, whose own
// Ops in the same Apply write its record.
func (b *Directory) companyOps(before, after *Company, claims map[string]bool) (ops []store.Op) {
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
	if after.asksSignIn() && !before.asksSignIn() { // recorded also for the case that the company is removed and added again
		ops = append(ops, b.upgradesChange(changeClose+after.ID))
	}
	return ops
}

func (b *Directory) putToken(token, company string) store.Op {
	return store.Put(b.key(bucketLegacy, b.tokenMACs(token)[0]), append([]byte{format}, company...), time.Time{})
}

// Marks in bucketState: stateTokens means that the index of tokens exists and that the index of
// case-folded tokens, which earlier releases had, is deleted. stateTokensFolded is the mark of
// earlier releases.
const (
	stateTokens       = "tokens-3"
	stateTokensFolded = "tokens-2"
)

func (b *Directory) marked(ctx context.Context, mark string) (bool, error) {
	_, err := b.get(ctx, bucketState, mark)
	if errors.Is(err, ErrUnknown) {
		return false, nil
	}
	return err == nil, err
}

func (b *Directory) mark(mark string) store.Op {
	return store.Put(b.key(bucketState, mark), []byte{format}, time.Time{})
}

// EnsureTokens builds the index of tokens for a directory from before the index. It resumes after
// an interruption, and does nothing if nothing is left to do.
func (b *Directory) EnsureTokens(ctx context.Context) error {
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

// startsUpgraded returns a function that reports whether a new company is upgraded from the start:
// if it has no old links, if it was upgraded when it was removed, and after an upgrade of all
// companies.
func (b *Directory) startsUpgraded(ctx context.Context) (func(Company) bool, error) {
	now, _, err := b.upgradesNow(ctx)
	return func(c Company) bool {
		return now.All || len(c.LegacyTokens) == 0 || now.Has(c.ID) || b.staysUpgraded(c.ID)
	}, err
}
