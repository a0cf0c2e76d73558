// Package assertion signs what the portal is told about a visitor, as a JWT that it
// can check without asking anyone: ES256, at most a minute old, with public keys in
// a JWK set.
//
// There are three keys: the previous, whose assertions may still be on their way, the
// current, and the next, which is published long before it signs so that no cache of
// the set ever lacks it. They move up every 30 days.
package assertion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// Life is how long an assertion is good for.
	Life = time.Minute
	// Rotation is how long a key signs.
	Rotation = 30 * 24 * time.Hour

	version = '1' // first byte of the sealed record
)

// Claims are the claims of an assertion, beside `iss`, `aud`, `iat` and `exp`.
type Claims struct {
	Subject   string   `json:"sub"`                 // the contact: stable, opaque
	Session   string   `json:"sid"`                 // the session: opaque, opens nothing
	Email     string   `json:"email"`               // the contact's main address
	Name      string   `json:"name,omitempty"`      // first and last name
	Role      string   `json:"role"`                // "client" or "staff"
	Firm      string   `json:"firm"`                // the firm's id
	Company   string   `json:"company,omitempty"`   // the company that the request is about
	Companies []string `json:"companies,omitempty"` // ids of the contact's companies
	AuthTime  int64    `json:"auth_time"`           // when they signed in, Unix seconds
	Methods   []string `json:"amr"`                 // how they proved who they are
}

// Signer signs the assertions of one firm. All methods may be called from many
// goroutines.
type Signer struct {
	Firm   string
	Origin string // `iss` and `aud`: scheme, host and port of the firm's url
	Store  store.Store
	Keys   *secret.Keyring
	Now    func() time.Time // the clock; nil: time.Now

	mu      sync.RWMutex
	ring    ring
	current jose.Signer
	looked  time.Time // when the ring was last read
}

// ring holds the keys, as they lie sealed in the store.
type ring struct {
	Keys  []jose.JSONWebKey `json:"keys"`  // previous (from the first rotation on), current, next
	Since time.Time         `json:"since"` // when the current key began to sign
}

func (r ring) current() jose.JSONWebKey { return r.Keys[len(r.Keys)-2] }

// Sign returns a fresh assertion of the claims.
func (s *Signer) Sign(ctx context.Context, c Claims) (string, error) {
	signer, _, err := s.signer(ctx)
	if err != nil {
		return "", err
	}
	now := s.now()
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer:   s.Origin,
		Audience: jwt.Audience{s.Origin},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(Life)),
	}).Claims(c).Serialize()
}

// Public returns the JWK set with the public halves of all keys, as JSON.
func (s *Signer) Public(ctx context.Context) ([]byte, error) {
	_, r, err := s.signer(ctx)
	if err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	for _, k := range r.Keys {
		set.Keys = append(set.Keys, k.Public())
	}
	return json.Marshal(set)
}

// signer returns the current signer. It reads the store on first use and every few
// minutes after, since another gate may have moved the keys up.
func (s *Signer) signer(ctx context.Context) (jose.Signer, ring, error) {
	now := s.now()
	s.mu.RLock()
	signer, r, looked := s.current, s.ring, s.looked
	s.mu.RUnlock()
	if signer != nil && now.Sub(looked) < 5*time.Minute && now.Sub(r.Since) < Rotation {
		return signer, r, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.load(ctx, now)
	if err != nil {
		if s.current != nil && now.Sub(s.ring.Since) < Rotation+24*time.Hour {
			return s.current, s.ring, nil // a store that is away for a while stops no signed-in visitor
		}
		return nil, ring{}, err
	}
	key := r.current()
	signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, ring{}, fmt.Errorf("making a signer: %w", err)
	}
	s.current, s.ring, s.looked = signer, r, now
	return signer, r, nil
}

// load reads the ring, and makes it or moves it up when it's time. Of several gates
// that do so at once, one wins and the others read its keys.
func (s *Signer) load(ctx context.Context, now time.Time) (ring, error) {
	k := store.Key{Firm: s.Firm, Bucket: "signing", ID: "keys"}
	var r ring
	err := store.Swap(ctx, s.Store, k, func(was []byte) ([]byte, time.Time, []store.Op, error) {
		r = ring{}
		if was != nil {
			if err := s.open(k, was, &r); err != nil {
				return nil, time.Time{}, nil, err
			}
			if now.Sub(r.Since) < Rotation {
				return nil, time.Time{}, nil, errCurrent
			}
		}
		next, err := r.moveUp(now)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		r = next
		plain, err := json.Marshal(r)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		return append([]byte{version}, s.Keys.Seal("signing", s.Firm, plain)...), time.Time{}, nil, nil
	})
	if err != nil && !errors.Is(err, errCurrent) {
		return ring{}, fmt.Errorf("reading the signing keys: %w", err)
	}
	return r, nil
}

var errCurrent = errors.New("the keys are current") // ends a Swap without a change

func (s *Signer) open(k store.Key, value []byte, r *ring) error {
	if len(value) == 0 || value[0] != version {
		return fmt.Errorf("%s record of another version: %w", k.Bucket, store.ErrUnavailable)
	}
	plain, err := s.Keys.Open("signing", s.Firm, value[1:])
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, r)
}

// moveUp drops the previous key, makes the next one current, and adds a new next. The
// first time it makes two.
func (r ring) moveUp(now time.Time) (ring, error) {
	keys := r.Keys
	if len(keys) > 2 {
		keys = keys[len(keys)-2:]
	}
	keys = append([]jose.JSONWebKey(nil), keys...)
	for want := len(keys) + 1; len(keys) < want || len(keys) < 2; {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return ring{}, err
		}
		keys = append(keys, jose.JSONWebKey{Key: k, KeyID: rand.Text(), Algorithm: string(jose.ES256), Use: "sig"})
	}
	return ring{Keys: keys, Since: now}, nil
}

func (s *Signer) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
