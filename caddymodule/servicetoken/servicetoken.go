// Package servicetoken issues and verifies the tokens by which a firm's own programs, such as its portal, call
// Doorpost. A token has scopes: what it may be used for.
//
// A token is shown once, when it is created. The store has its SHA-256 only, in a sealed record. Each use reads
// that record, so a token that was revoked is refused from then on, at every process on the store.
package servicetoken

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Scope is a permission of a token.
type Scope string

// The scopes.
const (
	Notify         Scope = "notify"          // to tell contacts of what waits in the portal
	Reports        Scope = "reports"         // to publish files
	DirectoryRead  Scope = "directory:read"  // to read contacts and companies
	DirectoryWrite Scope = "directory:write" // to change contacts who aren't staff, and companies
)

// Scopes are all there are.
var Scopes = []Scope{Notify, Reports, DirectoryRead, DirectoryWrite}

var (
	// ErrUnknown: there is no such token, or it was revoked.
	ErrUnknown = errors.New("servicetoken: no such token")
	// ErrInvalid wraps what is wrong with a token that is to be created.
	ErrInvalid = errors.New("servicetoken: invalid")
	// ErrTooMany: the firm has as many tokens as there may be.
	ErrTooMany = errors.New("servicetoken: too many tokens")
)

const (
	// Prefix begins every token, so that it is recognized where it doesn't belong.
	Prefix = "doorpost_"

	// MaxTokens is how many tokens a firm may have.
	MaxTokens = 100

	maxName    = 60
	secretSize = 32 // characters of five bits
	idSize     = 8

	writeEvery = 10 * time.Second
	writeTime  = 5 * time.Second // that one round of writing may take
)

var form = regexp.MustCompile(`^` + Prefix + `([a-z2-7]{8})_[a-z2-7]{32}$`)

// Token describes a token.
type Token struct {
	ID       string    `json:"id"` // stands for it in logs and lists; opens nothing
	Name     string    `json:"name"`
	Scopes   []Scope   `json:"scopes"`
	Created  time.Time `json:"created_at"`
	LastUsed time.Time `json:"last_used,omitzero"` // to some seconds; zero: never
}

// Has reports whether the token may be used for that.
func (t Token) Has(s Scope) bool { return slices.Contains(t.Scopes, s) }

type record struct {
	Hash    string    `json:"hash"` // hex SHA-256 of the token
	Name    string    `json:"name"`
	Scopes  []Scope   `json:"scopes"`
	Created time.Time `json:"created"`
}

type use struct {
	At time.Time `json:"at"`
}

// Tokens are the service tokens of one firm. Set its fields in one literal. All methods may be called from many
// goroutines.
type Tokens struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	// OnUntrusted is called for records not sealed by Doorpost; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)

	mu   sync.Mutex
	used map[string]time.Time // by ID; not yet in the store
}

func (s *Tokens) tokens() *sealed.Bucket[record] {
	return &sealed.Bucket[record]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "service-token", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

func (s *Tokens) uses() *sealed.Bucket[use] {
	return &sealed.Bucket[use]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "service-token-use", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

// Create makes a token and stores what verifies it. text is the token itself, which nobody can see again. The error
// is ErrInvalid, ErrTooMany or the store's.
func (s *Tokens) Create(ctx context.Context, name string, scopes []Scope) (t Token, text string, err error) {
	switch name = strings.TrimSpace(name); {
	case !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return t, "", fmt.Errorf("%w: the name is longer than %d characters, or not printable", ErrInvalid, maxName)
	case len(scopes) == 0:
		return t, "", fmt.Errorf("%w: there is no scope", ErrInvalid)
	}
	for _, one := range scopes {
		if !slices.Contains(Scopes, one) {
			return t, "", fmt.Errorf("%w: there is no scope %q", ErrInvalid, one)
		}
	}
	all, err := s.List(ctx)
	if err != nil {
		return t, "", err
	}
	if len(all) >= MaxTokens {
		return t, "", ErrTooMany
	}
	scopes = slices.Compact(slices.Sorted(slices.Values(scopes)))
	id := strings.ToLower(rand.Text()[:idSize])
	text = Prefix + id + "_" + strings.ToLower((rand.Text() + rand.Text())[:secretSize])
	r := record{hash(text), name, scopes, s.now().UTC().Round(0)}
	op, err := s.tokens().Create(id, r, time.Time{})
	if err == nil {
		err = s.Store.Apply(ctx, op)
	}
	if err != nil {
		return t, "", fmt.Errorf("storing the token: %w", err)
	}
	return r.token(id), text, nil
}

func (r record) token(id string) Token {
	return Token{ID: id, Name: r.Name, Scopes: r.Scopes, Created: r.Created}
}

// List returns the tokens, the oldest first.
func (s *Tokens) List(ctx context.Context) ([]Token, error) {
	if err := s.Flush(ctx); err != nil {
		return nil, err
	}
	all := []Token{}
	for rec, err := range s.tokens().All(ctx, "", "") {
		if errors.Is(err, sealed.ErrUntrusted) || errors.Is(err, sealed.ErrFormat) {
			continue
		} else if err != nil {
			return nil, err
		}
		t := rec.Value.token(rec.ID)
		used, err := s.uses().Find(ctx, rec.ID)
		if err != nil {
			return nil, err
		}
		t.LastUsed = used.Value.At
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Token) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// Revoke ends a token at once, and returns what it was. The error is ErrUnknown or the store's.
func (s *Tokens) Revoke(ctx context.Context, id string) (Token, error) {
	if len(id) != idSize {
		return Token{}, ErrUnknown
	}
	rec, err := s.tokens().Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Token{}, ErrUnknown
	} else if err != nil && !errors.Is(err, sealed.ErrUntrusted) {
		return Token{}, err
	}
	return rec.Value.token(id), s.Store.Apply(ctx, s.tokens().Delete(id), s.uses().Delete(id))
}

// Verify returns the token that text is, and the Op that holds only while it isn't revoked. The error is ErrUnknown
// or the store's.
func (s *Tokens) Verify(ctx context.Context, text string) (Token, store.Op, error) {
	m := form.FindStringSubmatch(text)
	if m == nil {
		return Token{}, store.Op{}, ErrUnknown
	}
	rec, err := s.tokens().Get(ctx, m[1])
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted):
		return Token{}, store.Op{}, ErrUnknown
	case err != nil:
		return Token{}, store.Op{}, err
	case subtle.ConstantTimeCompare([]byte(hash(text)), []byte(rec.Value.Hash)) != 1:
		return Token{}, store.Op{}, ErrUnknown
	}
	return rec.Value.token(m[1]), s.tokens().Check(rec), nil
}

// Used notes that the token was used now. It never waits for the store.
func (s *Tokens) Used(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = map[string]time.Time{}
	}
	s.used[id] = s.now().UTC().Truncate(time.Second)
}

// Run writes down when tokens were used every few seconds, and once more when ctx ends.
func (s *Tokens) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for failed, ended := false, false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
		err := s.Flush(within)
		cancel()
		if err != nil && !failed {
			log.Error("when service tokens were used can't be written down for now", "error", err)
		}
		failed = err != nil
	}
}

// Flush stores when tokens were used. Times that can't be stored are kept for the next Flush.
func (s *Tokens) Flush(ctx context.Context) error {
	s.mu.Lock()
	used := s.used
	s.used = nil
	s.mu.Unlock()
	for id, at := range used {
		err := s.write(ctx, id, at)
		if err != nil {
			s.mu.Lock()
			if s.used == nil {
				s.used = map[string]time.Time{}
			}
			for id, at := range used {
				if at.After(s.used[id]) {
					s.used[id] = at
				}
			}
			s.mu.Unlock()
			return err
		}
	}
	return nil
}

// write notes a use, unless the token was revoked since, or a later use is known.
func (s *Tokens) write(ctx context.Context, id string, at time.Time) error {
	rec, err := s.tokens().Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, sealed.ErrUntrusted) || errors.Is(err, sealed.ErrFormat) {
		return nil
	} else if err != nil {
		return err
	}
	was, err := s.uses().Find(ctx, id)
	if err != nil || !at.After(was.Value.At) {
		return err
	}
	op, err := s.uses().Write(was, use{at}, time.Time{})
	if err != nil {
		return err
	}
	err = s.Store.Apply(ctx, s.tokens().Check(rec), op)
	if errors.Is(err, store.ErrConflict) { // revoked, or another process was faster
		return nil
	}
	return err
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (s *Tokens) Reseal(ctx context.Context) error {
	_, err := s.tokens().Reseal(ctx)
	if err == nil {
		_, err = s.uses().Reseal(ctx)
	}
	return err
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (s *Tokens) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
