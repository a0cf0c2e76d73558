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

// TokenMemory keeps the tokens of old links in memory. Books of one firm in one process share it. The
// zero value is empty and ready; it mustn't be copied.
type TokenMemory struct {
	index  tokensearch.Index
	loaded atomic.Bool

	mu   sync.Mutex // of those who fill the index
	mark string     // of the store, as of when the index was filled
}

// stateTokensChanged is a mark of the book, in bucketState: it has another value after each change of tokens.
const stateTokensChanged = "tokens-changed"

const (
	loadTime = 30 * time.Second // how long all tokens may take to be read
	mostRead = 1000             // companies that are read one by one; more are read with all others
)

// Tokens returns the index of all tokens of old links, which is in memory from its first use on. It follows
// changes made through this process at once, and those of others with CatchUp. The error is the store's, and
// only of the first use.
func (b *Book) Tokens(ctx context.Context) (*tokensearch.Index, error) {
	m := b.tokenMemory()
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

// TokensInMemory returns what Tokens does if that is in memory, else nil. It asks no store.
func (b *Book) TokensInMemory() *tokensearch.Index {
	if m := b.tokenMemory(); m.loaded.Load() {
		return &m.index
	}
	return nil
}

func (b *Book) tokenMemory() *TokenMemory {
	if b.Memory != nil {
		return b.Memory
	}
	return &b.ownMemory
}

// loadTokens fills the index, also for a visitor who doesn't wait for it. m.mu is held.
func (b *Book) loadTokens(ctx context.Context, m *TokenMemory) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTime)
	defer cancel()
	mark, err := b.tokensMark(ctx) // before the companies: a change meanwhile is seen next time
	if err != nil {
		return err
	}
	companies := map[string][]tokensearch.Token{}
	err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := b.openCompany(rec)
		if err != nil {
			return true, nil // nobody reaches it, by whatever token
		}
		if tokens := searched(c); len(tokens) > 0 {
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

func searched(c Company) (all []tokensearch.Token) {
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

// markTokens adds to the Ops of a change of tokens what tells other processes of it.
func (b *Book) markTokens(ops []store.Op) []store.Op {
	for _, op := range ops {
		if op.Key.Bucket == bucketLegacy {
			return append(ops, store.Put(b.key(bucketState, stateTokensChanged), append([]byte{format}, rand.Text()...), time.Time{}))
		}
	}
	return ops
}

// followTokens brings the index up to a change that may have been made. Where the store can't say, all is
// loaded at the next use.
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
	m := b.tokenMemory()
	m.mu.Lock() // first: what is loaded meanwhile may be of before the change
	defer m.mu.Unlock()
	if !m.loaded.Load() {
		return
	}
	if len(ids) > mostRead {
		m.loaded.Store(b.loadTokens(ctx, m) == nil)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTime)
	defer cancel()
	for _, id := range ids {
		c, err := b.Company(ctx, id) // as it is now, whichever change came last
		if err != nil && !errors.Is(err, ErrUnknown) {
			m.loaded.Store(false)
			return
		}
		m.index.Set(id, searched(c))
	}
}

// catchUpTokens loads the tokens if another process may have changed them.
func (b *Book) catchUpTokens(ctx context.Context) error {
	m := b.tokenMemory()
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
