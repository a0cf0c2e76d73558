package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

// TokenCache keeps the tokens of old links in memory. Books of one firm in one process share it.
// The zero value is ready to use; it must not be copied.
type TokenCache struct {
	index  tokensearch.Index
	loaded atomic.Bool

	mu   sync.Mutex // held while the index is filled
	mark string     // the store's mark at the time when the index was filled
}

// stateTokensChanged is a mark in bucketState that gets a new random value with each change of
// tokens.
const stateTokensChanged = "tokens-changed"

const (
	loadTimeout    = 30 * time.Second // limit for reading all tokens
	maxSingleReads = 1000             // companies to read one by one; if more have changed, all are read
)

// Tokens returns the index of all old-link tokens. The first call loads it into memory. It reflects
// changes by this process at once and those of other processes after Sync. Only a call that loads
// it can return an error, which is the store's.
func (b *Book) Tokens(ctx context.Context) (*tokensearch.Index, error) {
	m := b.tokenCache()
	if m.loaded.Load() {
		return &m.index, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loaded.Load() {
		return &m.index, nil
	}
	if err := b.loadTokens(ctx, m); err != nil {
		return nil, err
	}
	return &m.index, nil
}

// CachedTokens returns the index of Tokens if it is in memory, otherwise nil. It never reads the
// store.
func (b *Book) CachedTokens() *tokensearch.Index {
	if m := b.tokenCache(); m.loaded.Load() {
		return &m.index
	}
	return nil
}

func (b *Book) tokenCache() *TokenCache {
	if b.TokenCache != nil {
		return b.TokenCache
	}
	return &b.ownTokenCache
}

// loadTokens fills the index. It goes on if the visitor who started it gives up. m.mu must be held.
func (b *Book) loadTokens(ctx context.Context, m *TokenCache) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	mark, err := b.tokensMark(ctx) // before the companies: a change in between is noticed next time
	if err != nil {
		return err
	}
	companies := map[string][]tokensearch.Token{}
	err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := b.openCompany(rec)
		if err != nil {
			return true, nil // such a company can't be reached with any token
		}
		if tokens := searchTokens(c); len(tokens) > 0 {
			companies[c.ID] = tokens
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("loading the tokens of old links: %w", err)
	}
	m.index.Replace(companies)
	m.mark = mark
	m.loaded.Store(true)
	return nil
}

func searchTokens(c Company) (all []tokensearch.Token) {
	for _, token := range c.LegacyTokens {
		all = append(all, tokensearch.Token{Text: token, Bits: bitsOf(token), Common: isCommon(token, c)})
	}
	return all
}

func (b *Book) tokensMark(ctx context.Context) (string, error) {
	rec, err := b.get(ctx, bucketState, stateTokensChanged)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return "", err
	}
	return string(rec.Value), nil
}

// markTokens adds an Op that tells other processes about the change, if the ops change tokens.
func (b *Book) markTokens(ops []store.Op) []store.Op {
	for _, op := range ops {
		if op.Key.Bucket == bucketLegacy {
			return append(ops, store.Put(b.key(bucketState, stateTokensChanged), append([]byte{format}, rand.Text()...), time.Time{}))
		}
	}
	return ops
}

// followTokens updates the index after a change that may have been made. If the store fails, the
// next use loads the whole index.
func (b *Book) followTokens(ctx context.Context, ops []store.Op) {
	var ids []string
	tokens := false
	for _, op := range ops {
		tokens = tokens || op.Key.Bucket == bucketLegacy
		if op.Key.Bucket == bucketCompany {
			ids = append(ids, op.Key.ID)
		}
	}
	if !tokens {
		return
	}
	m := b.tokenCache()
	m.mu.Lock() // first: an index loaded in the meantime may predate the change
	defer m.mu.Unlock()
	if !m.loaded.Load() {
		return
	}
	if len(ids) > maxSingleReads {
		m.loaded.Store(b.loadTokens(ctx, m) == nil)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	for _, id := range ids {
		c, err := b.Company(ctx, id) // the current state, whichever change came last
		if err != nil && !errors.Is(err, ErrUnknown) {
			m.loaded.Store(false)
			return
		}
		m.index.Set(id, searchTokens(c))
	}
}

// catchUpTokens loads the tokens if another process may have changed them.
func (b *Book) catchUpTokens(ctx context.Context) error {
	m := b.tokenCache()
	if b.Others == nil || !m.loaded.Load() {
		return nil
	}
	mark, err := b.tokensMark(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mark == mark {
		return nil
	}
	return b.loadTokens(ctx, m)
}
