package assertion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ring holds the keys as stored.
type ring struct {
	Keys  []jose.JSONWebKey `json:"keys"`  // previous (after the first rotation), current, next
	Since time.Time         `json:"since"` // when the current key began to sign
}

// rotate rotates the keys if it is time, and reports whether it did: it drops the
// previous key, makes the next one current, and adds a new next one. The first call
// creates two keys.
func (r *ring) rotate(now time.Time) (changed bool, err error) {
	switch age := now.Sub(r.Since); {
	case len(r.Keys) >= 2 && age < -24*time.Hour:
		// A clock far ahead rotated the keys. They are valid, but waiting until the clock
		// reaches that time again could take years.
		r.Since = now.UTC()
		return true, nil
	case len(r.Keys) >= 2 && age < Rotation:
		return false, nil
	}
	r.Keys = slices.Clone(r.Keys[max(0, len(r.Keys)-2):])
	for want := max(2, len(r.Keys)+1); len(r.Keys) < want; {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return false, fmt.Errorf("create signing key: %w", err)
		}
		r.Keys = append(r.Keys, jose.JSONWebKey{Key: k, KeyID: rand.Text(), Algorithm: string(jose.ES256), Use: "sig"})
	}
	r.Since = now.UTC()
	return true, nil
}

// keySet prepares the keys for signing and publishing.
func (r ring) keySet(now time.Time) (*keySet, error) {
	current := r.Keys[len(r.Keys)-2]
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: current}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("create signer: %w", err)
	}
	var set jose.JSONWebKeySet
	for _, k := range r.Keys {
		set.Keys = append(set.Keys, k.Public())
	}
	public, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode JWK set: %w", err)
	}
	next := now.Add(reloadEvery)
	if turn := r.Since.Add(Rotation); turn.After(now) && turn.Before(next) {
		next = turn
	}
	return &keySet{signer: signer, public: public, since: r.Since, next: next}, nil
}
