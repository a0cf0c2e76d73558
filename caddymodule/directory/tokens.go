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
	stale  atomic.Uint64 // incremented by Invalidate

	mu   sync.Mutex // held while the index is filled
	mark string     // the store's mark at the time when the index was filled

	loads sync.Mutex // guards load
	load  *tokenLoad // the load in progress, or nil
}

// tokenLoad is a load of the whole index that all waiting requests share.
type tokenLoad struct {
	began time.Time
	done  chan struct{} // closed after err is set
	err   error
}

// stateTokensChanged is a mark in bucketState that gets a new random value with each change of
// tokens.
const stateTokensChanged = "tokens-changed"

const (
	loadTimeout    = 30 * time.Second       // limit for reading all tokens
	maxTokensWait  = 700 * time.Millisecond // how long a request waits for that
	maxSingleReads = 1000                   // companies to read one by one; if more have changed, all are read
)

// errTokensLoading means that reading the tokens takes longer than a request should wait.
var errTokensLoading = fmt.Errorf("the tokens of old links are still being read: %w", store.ErrUnavailable)

// Tokens returns the index of all old-link tokens. The first call loads it into memory, and returns
// an error that wraps store.ErrUnavailable if that takes longer than maxTokensWait. The index reflects
// changes by this process at once and those of other processes after Sync. Only a call that loads
// it can return an error.
func (b *Directory) Tokens(ctx context.Context) (*tokensearch.Index, error) {
	return b.tokens(ctx, maxTokensWait)
}

// LoadTokens loads the index of Tokens, and waits up to loadTimeout.
func (b *Directory) LoadTokens(ctx context.Context) error {
	_, err := b.tokens(ctx, loadTimeout+time.Second)
	return err
}

// tokens is Tokens with the time that a load may take, from its start.
func (b *Directory) tokens(ctx context.Context, maxWait time.Duration) (*tokensearch.Index, error) {
	m := b.tokenCache()
	if m.loaded.Load() {
		return &m.index, nil
	}
	load := b.beginLoad(m)
	timer := time.NewTimer(maxWait - time.Since(load.began))
	defer timer.Stop()
	select {
	case <-load.done:
		if load.err != nil {
			return nil, load.err
		}
		return &m.index, nil
	case <-timer.C:
		return nil, errTokensLoading
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errTokensLoading, context.Cause(ctx))
	}
}

// beginLoad returns the load in progress, or starts one. A load goes on when nobody waits for it any more,
// for up to loadTimeout, so that the next request finds the index.
func (b *Directory) beginLoad(m *TokenCache) *tokenLoad {
	m.loads.Lock()
	defer m.loads.Unlock()
	if m.load != nil {
		return m.load
	}
	load := &tokenLoad{began: time.Now(), done: make(chan struct{})}
	m.load = load
	go func() {
		load.err = b.loadOnce(m)
		m.loads.Lock()
		m.load = nil
		m.loads.Unlock()
		close(load.done)
	}()
	return load
}

func (b *Directory) loadOnce(m *TokenCache) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loaded.Load() {
		return nil
	}
	return b.loadTokens(context.Background(), m)
}

// CachedTokens returns the index of Tokens if it is in memory, otherwise nil. It never reads the
// store.
func (b *Directory) CachedTokens() *tokensearch.Index {
	if m := b.tokenCache(); m.loaded.Load() {
		return &m.index
	}
	return nil
}

func (b *Directory) tokenCache() *TokenCache {
	if b.TokenCache != nil {
		return b.TokenCache
	}
	return &b.ownTokenCache
}

// loadTokens fills the index. It goes on if the visitor who started it gives up. m.mu must be held.
func (b *Directory) loadTokens(ctx context.Context, m *TokenCache) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	for stale := m.stale.Load(); ; stale = m.stale.Load() {
		if err := b.readTokens(ctx, m); err != nil {
			return err
		}
		m.loaded.Store(true)
		if m.stale.Load() == stale {
			return nil
		}
		m.loaded.Store(false) // it was invalidated while it was read
	}
}

// readTokens reads all tokens into the index. m.mu must be held.
func (b *Directory) readTokens(ctx context.Context, m *TokenCache) error {
	mark, err := b.tokensMark(ctx) // before the companies: a change in between is noticed next time
	if err != nil {
		return err
	}
	companies, damaged := map[string][]tokensearch.Token{}, map[string]bool{}
	err = b.scanAny(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := Company{ID: rec.Key.ID}, checkFormat(rec)
		if err == nil {
			c, err = b.openCompany(rec)
		}
		switch {
		case err != nil: // such a company can't be reached with any token
			damaged[rec.Key.ID] = true
			companies[rec.Key.ID] = m.index.Tokens(rec.Key.ID) // those from before it was damaged
		case len(c.LegacyTokens) > 0:
			companies[c.ID] = searchTokens(c)
		}
		return true, nil
	})
	var words func(string) []string
	if err == nil && len(damaged) > 0 {
		words, err = b.damagedTokens(ctx, damaged)
	}
	if err != nil {
		return fmt.Errorf("loading the tokens of old links: %w", err)
	}
	m.index.Replace(companies, words)
	m.mark = mark
	return nil
}

// damagedTokens returns a function that reports which of these companies a token belongs to. Their own records
// can't be opened, but the store still has the MACs of their tokens.
func (b *Directory) damagedTokens(ctx context.Context, companies map[string]bool) (func(word string) []string, error) {
	owners := map[string]string{} // by MAC
	err := b.scanAny(ctx, bucketLegacy, "", "", func(rec store.Record) (bool, error) {
		if id := string(rec.Value[min(1, len(rec.Value)):]); companies[id] {
			owners[rec.Key.ID] = id
		}
		return true, nil
	})
	if err != nil || len(owners) == 0 {
		return nil, err
	}
	return func(word string) []string {
		if len(word) > maxToken {
			return nil
		}
		for _, mac := range b.tokenMACs(word) {
			if id := owners[mac]; id != "" {
				return []string{id}
			}
		}
		return nil
	}, nil
}

func searchTokens(c Company) (all []tokensearch.Token) {
	for _, token := range c.LegacyTokens {
		all = append(all, tokensearch.Token{Text: token, Bits: bitsOf(token), Common: isCommon(token, c)})
	}
	return all
}

func (b *Directory) tokensMark(ctx context.Context) (string, error) {
	rec, err := b.get(ctx, bucketState, stateTokensChanged)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return "", err
	}
	return string(rec.Value), nil
}

// markTokens adds an Op that tells other processes about the change, if the ops change tokens.
func (b *Directory) markTokens(ops []store.Op) []store.Op {
	for _, op := range ops {
		if op.Key.Bucket == bucketLegacy {
			return append(ops, store.Put(b.key(bucketState, stateTokensChanged), append([]byte{format}, rand.Text()...), time.Time{}))
		}
	}
	return ops
}

// followTokens updates the index after a change that may have been made. If the store fails, the
// next use loads the whole index.
func (b *Directory) followTokens(ctx context.Context, ops []store.Op) {
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
func (b *Directory) catchUpTokens(ctx context.Context) error {
	m := b.tokenCache()
	if b.Peers == nil || !m.loaded.Load() {
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
