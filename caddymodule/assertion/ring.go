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

// ring holds the keys, as they lie sealed in the store.
type ring struct {
	Keys  []jose.JSONWebKey `json:"keys"`  // previous (from the first rotation on), current, next
	Since time.Time         `json:"since"` // when the current key began to sign
}

// turn makes the ring what it has to be now, and reports whether that changed it: it
// drops the previous key, makes the next one current, and adds a new next. The first
// time it makes two.
func (r *ring) turn(now time.Time) (changed bool, err error) {
	switch age := now.Sub(r.Since); {
	case len(r.Keys) >= 2 && age < -24*time.Hour:
		// Moved up by a clock that was far ahead. The keys are good; waiting for
		// the clock to get there again could take years.
		r.Since = now.UTC()
		return true, nil
	case len(r.Keys) >= 2 && age < Rotation:
		return false, nil
	}
	r.Keys = slices.Clone(r.Keys[max(0, len(r.Keys)-2):])
	for want := max(2, len(r.Keys)+1); len(r.Keys) < want; {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return false, fmt.Errorf("making a signing key: %w", err)
		}
		r.Keys = append(r.Keys, jose.JSONWebKey{Key: k, KeyID: rand.Text(), Algorithm: string(jose.ES256), Use: "sig"})
	}
	r.Since = now.UTC()
	return true, nil
}

// ready makes of the ring what signing and publishing need.
func (r ring) ready(now time.Time) (*known, error) {
	current := r.Keys[len(r.Keys)-2]
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: current}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("making a signer: %w", err)
	}
	var set jose.JSONWebKeySet
	for _, k := range r.Keys {
		set.Keys = append(set.Keys, k.Public())
	}
	public, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("writing the JWK set: %w", err)
	}
	next := now.Add(lookEvery)
	if turn := r.Since.Add(Rotation); turn.After(now) && turn.Before(next) {
		next = turn
	}
	return &known{signer: signer, public: public, since: r.Since, next: next}, nil
}
