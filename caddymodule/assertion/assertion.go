// Package assertion signs what the portal is told about a visitor, as a JWT that it
// can check without asking anyone: ES256, at most a minute old by its `iat` when the portal gets
// it, with public keys in a JWK set.
//
// There are three keys: the previous, whose assertions may still be on their way, the
// current, and the next, which is published long before it signs so that no cache of
// the set ever lacks it. They move up every 30 days.
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
	// Life is how long an assertion is good for, from when it was signed.
	Life = time.Minute
	// Early is how long before it was signed an assertion says that it was issued: for portals
	// whose clock is behind, since many libraries refuse what comes from the future.
	Early = 30 * time.Second
	// Rotation is how long a key signs.
	Rotation = 30 * 24 * time.Hour

	lookEvery = 5 * time.Minute  // how often to look whether another Signer has moved the keys up
	lookAgain = 10 * time.Second // after the store was away

	purpose = "signing" // of what is sealed
	version = '1'       // first byte of the sealed record
)

// Claims are the claims of an assertion, beside `iss`, `aud`, `iat` and `exp`.
type Claims struct {
	Subject   string   `json:"sub"`                         // the contact: stable, opaque
	Session   string   `json:"sid"`                         // the session: opaque, opens nothing
	Email     string   `json:"email"`                       // the contact's main address
	Name      string   `json:"name,omitempty"`              // first and last name
	Role      string   `json:"role"`                        // "client" or "staff"
	Firm      string   `json:"firm"`                        // the firm's id
	Company   string   `json:"company,omitempty"`           // the company that the request is about
	Companies []string `json:"companies,omitempty"`         // ids of the contact's companies, all of them or none
	Omitted   int      `json:"companies_omitted,omitempty"` // how many companies aren't listed, as they are too many for a header
	AuthTime  int64    `json:"auth_time"`                   // when they signed in, Unix seconds
	Methods   []string `json:"amr"`                         // how they proved who they are
}

// Signer signs the assertions of one firm. Set its fields in one literal. All methods
// may be called from many goroutines, and by several Signers on one store.
type Signer struct {
	Firm   string
	Origin string // `iss` and `aud`: scheme, host and port of the firm's url
	Store  store.Store
	Keys   *secret.Keyring
	Now    func() time.Time // the clock; nil: time.Now

	known   atomic.Pointer[known] // nil before the first use
	looking sync.Mutex            // held by the one who asks the store
}

// known is what a Signer read from the store, made ready.
type known struct {
	signer jose.Signer
	public []byte    // the JWK set
	since  time.Time // when the current key began to sign
	next   time.Time // when to look again
}

// fresh reports whether there is no need to look. (A clock that was set back is a need:
// it must not keep us from looking for as long as it went back.)
func (k *known) fresh(now time.Time) bool {
	return k != nil && now.Before(k.next) && k.next.Sub(now) <= lookEvery
}

// good reports whether the key that signs is in everybody's set still: the others may
// have moved it up to be the previous one, and no further.
func (k *known) good(now time.Time) bool {
	return k != nil && now.Sub(k.since) < 2*Rotation-24*time.Hour
}

// Sign returns a fresh assertion of the claims.
func (s *Signer) Sign(ctx context.Context, c Claims) (string, error) {
	k, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	payload, err := payload(c, s.Origin, s.now())
	if err != nil {
		return "", fmt.Errorf("writing an assertion: %w", err)
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	return signed.CompactSerialize()
}

// payload is what is signed at that time.
func payload(c Claims, origin string, now time.Time) ([]byte, error) {
	return json.Marshal(struct {
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Claims
		IssuedAt int64 `json:"iat"`
		Expiry   int64 `json:"exp"`
	}{origin, origin, c, now.Add(-Early).Unix(), now.Add(Life).Unix()})
}

// SizeOf is how many bytes an assertion of the claims has at most, from a Signer of that origin.
func SizeOf(c Claims, origin string) int {
	const header, signature = 110, 86 // base64url of alg, typ and kid; of 64 bytes
	body, err := payload(c, origin, time.Now())
	if err != nil {
		return 0 // nor can it be signed
	}
	return header + len(".") + base64.RawURLEncoding.EncodedLen(len(body)) + len(".") + signature
}

// Public returns the JWK set with the public halves of all keys, as JSON. It is shared:
// don't change it.
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

// current returns the keys to use now. It asks the store on first use and every few
// minutes after, since another Signer may have moved them up. One caller asks; the
// others, and all when the store is away, go on with the keys that are known.
func (s *Signer) current(ctx context.Context) (*known, error) {
	now := s.now()
	k := s.known.Load()
	if k.fresh(now) {
		return k, nil
	}
	if !k.good(now) {
		s.looking.Lock()
	} else if !s.looking.TryLock() {
		return k, nil
	}
	defer s.looking.Unlock()
	if k = s.known.Load(); k.fresh(now) {
		return k, nil // somebody else has looked meanwhile
	}
	looked, err := s.load(ctx, now)
	if err != nil {
		if !k.good(now) {
			return nil, err
		}
		again := *k
		again.next = now.Add(lookAgain)
		looked = &again
	}
	s.known.Store(looked)
	return looked, nil
}

// load reads the ring, and makes it or moves it up when it's time. Of several Signers
// that do so at once, one wins and the others read its keys.
func (s *Signer) load(ctx context.Context, now time.Time) (*known, error) {
	k := store.Key{Firm: s.Firm, Bucket: "signing", ID: "keys"}
	var r ring
	err := store.Swap(ctx, s.Store, k, func(was []byte) ([]byte, time.Time, []store.Op, error) {
		var err error
		if r, err = s.open(k, was); err != nil {
			return nil, time.Time{}, nil, err
		}
		turned, err := r.turn(now)
		// What an older secret has closed is closed anew, so that it may go.
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
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	return r.ready(now)
}

var errCurrent = errors.New("the keys are current") // ends a Swap without a change

// head is what a value begins with that is closed with the newest secret.
func (s *Signer) head() []byte {
	return append([]byte{version}, s.Keys.MAC(purpose, s.Firm)...)
}

func (s *Signer) seal(k store.Key, r ring) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the signing keys: %w", err)
	}
	return append(s.head(), s.Keys.Seal(purpose, place(k), plain)...), nil
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
	plain, err := s.Keys.Open(purpose, place(k), value[n:])
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(plain, &r); err != nil {
		return r, fmt.Errorf("reading the signing keys: %w", err)
	}
	return r, nil
}

// place is where a sealed value opens: nowhere but under its own key.
func place(k store.Key) string { return k.Firm + "\x00" + k.Bucket + "\x00" + k.ID }

func (s *Signer) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
