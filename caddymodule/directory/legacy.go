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
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
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

// HeldByToken returns what StandingByToken would, if that is in memory.
func (b *Book) HeldByToken(token string) (s Standing, ok bool) {
	held, ok := b.heldTokens.get(sha256.Sum256([]byte(token)), b.Version())
	if !ok {
		return Standing{}, false
	}
	return *held, true
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

// unsure is the standing of a token that the index has, and whose company doesn't have it:
// nobody reaches it.
var unsure = Standing{Company: "?", Upgraded: true}

// StandingLike is StandingByToken where a portal's database may take another token for the
// company's: one that differs in case, or as far as Fold tells. Of several companies it is
// one that asks for sign-in, if any does. It asks the store the same for every token, so that
// its time doesn't tell whether there is such a one.
func (b *Book) StandingLike(ctx context.Context, token string) (like Standing, err error) {
	if token == "" || len(token) > maxToken {
		return Standing{}, ErrUnknown
	}
	ctx = anchor.Evenly(ctx)
	version := b.Version()
	spellings := []string{token}
	if b.Fold != nil {
		if folded := b.Fold(token); folded != token && folded != "" && len(folded) <= maxToken {
			spellings = append(spellings, folded)
		}
	}
	owner := ""
	for _, spelling := range spellings {
		for _, mac := range b.Keys.Lookups("legacy", b.Firm, spelling) {
			rec, err := b.get(ctx, bucketLegacy, mac)
			if err != nil && !errors.Is(err, ErrUnknown) {
				return Standing{}, err
			}
			if err == nil && owner == "" {
				owner = string(rec.Value[1:])
			}
		}
		if spelling != token || owner == "" {
			continue
		}
		// The very token. What is like it is asked for nevertheless, and counts for nothing.
		s, err := b.standing(ctx, version, owner)
		if errors.Is(err, ErrUnknown) {
			owner = ""
			continue
		}
		if err != nil {
			return Standing{}, err
		}
		if like = *s; !s.Has(PrintOf(token)) {
			like = unsure
			continue
		}
		b.heldTokens.put(sha256.Sum256([]byte(token)), version, s, maxHeldTokens)
	}
	is := like.Company != ""
	if !is && owner != "" {
		if like, err = b.StandingOf(ctx, owner); err != nil && !errors.Is(err, ErrUnknown) {
			return Standing{}, err
		}
		if err == nil && !like.Has(PrintOf(spellings[len(spellings)-1])) {
			like = unsure
		}
	}
	if b.Fold != nil {
		for _, mac := range b.Keys.Lookups("legacy-like", b.Firm, spellings[len(spellings)-1]) {
			recs, err := b.Store.Scan(ctx, b.Firm, bucketLike, mac+"/", "", pageSize)
			if err != nil {
				return Standing{}, fmt.Errorf("reading the directory: %w", err)
			}
			for _, rec := range recs {
				s, err := b.StandingOf(ctx, rec.Key.ID[len(mac)+1:])
				switch {
				case errors.Is(err, ErrUnknown): // removed meanwhile
				case err != nil:
					return Standing{}, err
				case like.Company == "" || s.Upgraded && !is:
					like = s
				}
			}
		}
	}
	if like.Company == "" {
		return Standing{}, ErrUnknown
	}
	return like, nil
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

func (b *Book) likeMACs(folded string) []string {
	return b.Keys.MACs("legacy-like", b.Firm, folded)
}

// likes are the tokens, folded, each once, but for those that are so themselves.
func (b *Book) likes(tokens []string) (folded []string) {
	if b.Fold == nil {
		return nil
	}
	for _, token := range tokens {
		if like := b.Fold(token); like != token {
			folded = append(folded, like)
		}
	}
	slices.Sort(folded)
	return slices.Compact(folded)
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
	hadLike, hasLike := b.likes(had), b.likes(has)
	for _, folded := range hadLike {
		if !slices.Contains(hasLike, folded) {
			ops = append(ops, b.dropLike(b.likeMACs(folded), before.ID)...)
		}
	}
	for _, folded := range hasLike {
		if !slices.Contains(hadLike, folded) {
			ops = append(ops, b.putLike(folded, after.ID))
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

// putLike returns the Op by which the company is found by what is like a token of it. Others
// may have one that is like it, too.
func (b *Book) putLike(folded, company string) store.Op {
	return store.Put(b.key(bucketLike, b.likeMACs(folded)[0]+"/"+company), []byte{format}, time.Time{})
}

func (b *Book) dropLike(macs []string, company string) (ops []store.Op) {
	for _, mac := range macs {
		ops = append(ops, store.Delete(b.key(bucketLike, mac+"/"+company)))
	}
	return ops
}

// stateTokens is a mark of the book, in bucketState: there is an index of the tokens, folded
// too.
const stateTokens = "tokens-2"

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
// one that was upgraded when it was removed, and after an upgrade of all every one.
func (b *Book) bornUpgraded(ctx context.Context) (func(Company) bool, error) {
	now, _, err := b.upgradesNow(ctx)
	return func(c Company) bool {
		return now.All || len(c.LegacyTokens) == 0 || now.Has(c.ID) || b.staysUpgraded(c.ID)
	}, err
}
