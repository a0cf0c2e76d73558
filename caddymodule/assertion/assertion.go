// Package assertion signs assertions about visitors for the portal, as JWTs that the portal can
// verify by itself: ES256, public keys in a JWK set, at most a minute old by `iat` when the
// portal receives them.
//
// There are three keys: the previous one, whose assertions may still be in use; the current one;
// and the next one, published long before it signs, so that every cached set contains it in
// time. They rotate every 30 days.
package assertion

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// Life is how long an assertion is valid after it was signed.
	Life = time.Minute
	// Early is how far `iat` is before the time of signing, for portals whose clock is slow:
	// many libraries reject assertions from the future.
	Early = 30 * time.Second
	// Rotation is how long a key signs.
	Rotation = 30 * 24 * time.Hour

	reloadEvery      = 5 * time.Minute  // how often to read the store, since another Signer may have rotated the keys
	reloadAfterError = 10 * time.Second // after a failed read

	purpose = "signing" // of sealed values
	version = '1'       // first byte of the sealed record
)

// Claims are the claims of an assertion, besides `iss`, `aud`, `iat` and `exp`.
type Claims struct {
	Subject   string   `json:"sub"`                         // the contact: stable, opaque
	Session   string   `json:"sid"`                         // the session: opaque; cannot be used to sign in
	Email     string   `json:"email"`                       // the contact's main address
	Name      string   `json:"name,omitempty"`              // first and last name
	Role      string   `json:"role"`                        // "client" or "staff"
	Firm      string   `json:"firm"`                        // the firm's id
	Company   string   `json:"company,omitempty"`           // the company of the request
	Companies []string `json:"companies,omitempty"`         // IDs of the contact's companies, all or none
	Omitted   int      `json:"companies_omitted,omitempty"` // number of companies not listed, because they are too many for a header
	AuthTime  int64    `json:"auth_time"`                   // time of the sign-in, Unix seconds
	Methods   []string `json:"amr"`                         // how the contact signed in
}

// Signer signs the assertions of one firm. Set the fields in one literal. All methods are safe
// for concurrent use, and several Signers may use one store.
type Signer struct {
	Firm   string
	Origin string // `iss` and `aud`: scheme, host and port of the firm's URL
	Store  store.Store
	Keys   *secret.Keyring
	Now    func() time.Time // the clock; nil: time.Now

	keySet  atomic.Pointer[keySet] // nil before the first use
	loading sync.Mutex             // held while reading the store
}

// keySet holds the keys of a ring, ready for use.
type keySet struct {
	signer jose.Signer
	public []byte    // the JWK set
	since  time.Time // when the current key began to sign
	next   time.Time // when to load again
}

// fresh reports whether the keys needn't be loaded again. After the clock was set back, they
// must be: next would be too far away.
func (k *keySet) fresh(now time.Time) bool {
	return k != nil && now.Before(k.next) && k.next.Sub(now) <= reloadEvery
}

// usable reports whether the signing key is still in every published set: other Signers may have
// rotated it to be the previous key, but no further.
func (k *keySet) usable(now time.Time) bool {
	return k != nil && now.Sub(k.since) < 2*Rotation-24*time.Hour
}

// Sign returns a new assertion of the claims.
func (s *Signer) Sign(ctx context.Context, c Claims) (string, error) {
	k, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	payload, err := payload(c, s.Origin, s.now())
	if err != nil {
		return "", fmt.Errorf("encode assertion: %w", err)
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	return signed.CompactSerialize()
}

// payload returns the signed JSON for the time now.
func payload(c Claims, origin string, now time.Time) ([]byte, error) {
	return json.Marshal(struct {
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Claims
		IssuedAt int64 `json:"iat"`
		Expiry   int64 `json:"exp"`
	}{origin, origin, c, now.Add(-Early).Unix(), now.Add(Life).Unix()})
}

// SizeOf returns the maximum size in bytes of an assertion of the claims by a Signer with that
// origin.
func SizeOf(c Claims, origin string) int {
	const header, signature = 110, 86 // base64url of alg, typ and kid; of 64 bytes
	body, err := payload(c, origin, time.Now())
	if err != nil {
		return 0 // Sign would fail, too
	}
	return header + len(".") + base64.RawURLEncoding.EncodedLen(len(body)) + len(".") + signature
}

// Public returns the JWK set with all public keys as JSON. It is shared: don't modify it.
func (s *Signer) Public(ctx context.Context) ([]byte, error) {
	k, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return k.public, nil
}

// Reseal seals the keys with the newest secret, if an older one has sealed them.
func (s *Signer) Reseal(ctx context.Context) error {
	_, err := s.load(ctx, s.now())
	return err
}

// current returns the current keys. It reads the store on first use and every few minutes, since
// another Signer may have rotated them. One caller reads; the others, and all while the store is
// unavailable, use the keys in memory.
func (s *Signer) current(ctx context.Context) (*keySet, error) {
	now := s.now()
	k := s.keySet.Load()
	if k.fresh(now) {
		return k, nil
	}
	if !k.usable(now) {
		s.loading.Lock()
	} else if !s.loading.TryLock() {
		return k, nil
	}
	defer s.loading.Unlock()
	if k = s.keySet.Load(); k.fresh(now) {
		return k, nil // another caller has loaded them
	}
	looked, err := s.load(ctx, now)
	if err != nil {
		if !k.usable(now) {
			return nil, err
		}
		again := *k
		again.next = now.Add(reloadAfterError)
		looked = &again
	}
	s.keySet.Store(looked)
	return looked, nil
}

// load reads the ring, and creates or rotates it when it is time. If several Signers do so at
// once, one succeeds and the others read its keys.
func (s *Signer) load(ctx context.Context, now time.Time) (*keySet, error) {
	k := store.Key{Firm: s.Firm, Bucket: "signing", ID: "keys"}
	var r ring
	err := store.Swap(ctx, s.Store, k, func(was []byte) ([]byte, time.Time, []store.Op, error) {
		var err error
		if r, err = s.open(k, was); err != nil {
			return nil, time.Time{}, nil, err
		}
		turned, err := r.rotate(now)
		// Seal again what an older secret has sealed, so that it can be removed.
		if err == nil && !turned && bytes.HasPrefix(was, s.head()) {
			err = errCurrent
		}
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		value, err := s.seal(k, r)
		return value, time.Time{}, nil, err
	})
	if err != nil && !errors.Is(err, errCurrent) {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return r.keySet(now)
}

var errCurrent = errors.New("the keys are current") // ends a Swap without a change

// head returns the start of values sealed with the newest secret.
func (s *Signer) head() []byte {
	return append([]byte{version}, s.Keys.MAC(purpose, s.Firm)...)
}

func (s *Signer) seal(k store.Key, r ring) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode signing keys: %w", err)
	}
	return append(s.head(), s.Keys.Seal(purpose, sealContext(k), plain)...), nil
}

// open returns the ring in a value; an empty one for nil.
func (s *Signer) open(k store.Key, value []byte) (r ring, err error) {
	if value == nil {
		return r, nil
	}
	n := len(s.head())
	if len(value) < n || value[0] != version {
		return r, fmt.Errorf("%s record of another version: %w", k.Bucket, store.ErrUnavailable)
	}
	plain, err := s.Keys.Open(purpose, sealContext(k), value[n:])
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(plain, &r); err != nil {
		return r, fmt.Errorf("read signing keys: %w", err)
	}
	return r, nil
}

// sealContext binds a sealed value to its key.
func sealContext(k store.Key) string { return k.Firm + "\x00" + k.Bucket + "\x00" + k.ID }

func (s *Signer) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
