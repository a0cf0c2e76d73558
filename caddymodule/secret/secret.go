// Package secret derives all keys of Doorpost from the configured secret, which is never in the
// store. Values that are only compared are stored as MACs, values that are read again are sealed.
//
// The first secret seals, every secret opens. To change the secret, put the new one first, and keep
// the old one behind it until everything sealed with it has expired or was sealed again.
package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// MinLength is the minimum length of a secret in bytes.
const MinLength = 32

var (
	// ErrWeak: a secret is too short, or has too few different bytes.
	ErrWeak = fmt.Errorf("a secret needs at least %d random characters; make one with: openssl rand -base64 48", MinLength)
	// ErrSealed: the value is damaged, was sealed for another purpose or place, or with a secret
	// that isn't among the keys.
	ErrSealed = errors.New("sealed with another secret, or damaged")
)

// Keyring holds the secrets, the newest first. It is safe for concurrent use.
type Keyring struct{ current atomic.Pointer[secretSet] }

// secretSet holds the secrets of a Keyring and the keys derived from them.
type secretSet struct {
	secrets [][]byte
	derived sync.Map // purpose → []keys, in the order of secrets
}

type keys struct {
	mac  []byte
	aead cipher.AEAD
}

// New returns a Keyring whose first secret seals; all of them open.
func New(newest []byte, older ...[]byte) (*Keyring, error) {
	r := new(secretSet)
	for _, s := range append([][]byte{newest}, older...) {
		if len(s) < MinLength || weak(s) {
			return nil, ErrWeak
		}
		r.secrets = append(r.secrets, append([]byte(nil), s...))
	}
	k := new(Keyring)
	k.current.Store(r)
	return k, nil
}

// Copy returns a Keyring with the same secrets.
func (k *Keyring) Copy() *Keyring {
	c := new(Keyring)
	c.Adopt(k)
	return c
}

// Adopt replaces the secrets of k by those of other.
func (k *Keyring) Adopt(other *Keyring) { k.current.Store(other.current.Load()) }

// With returns a Keyring that seals as k does, and opens what k or other can open.
func (k *Keyring) With(other *Keyring) *Keyring {
	both := new(secretSet)
	for _, s := range slices.Concat(k.current.Load().secrets, other.current.Load().secrets) {
		if !slices.ContainsFunc(both.secrets, func(has []byte) bool { return bytes.Equal(has, s) }) {
			both.secrets = append(both.secrets, s)
		}
	}
	with := new(Keyring)
	with.current.Store(both)
	return with
}

// weak reports whether s has fewer than 8 different bytes, like a placeholder.
func weak(s []byte) bool {
	seen := map[byte]bool{}
	for _, b := range s {
		seen[b] = true
	}
	return len(seen) < 8
}

// Random returns 256 random bits as 43 characters that need no escaping in a URL.
func Random() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (k *Keyring) keys(purpose string) []keys {
	r := k.current.Load()
	if v, ok := r.derived.Load(purpose); ok {
		return v.([]keys)
	}
	all := make([]keys, len(r.secrets))
	for i, s := range r.secrets {
		okm, err := hkdf.Key(sha256.New, s, nil, "doorpost/1/"+purpose, 64)
		if err != nil {
			panic("secret: " + err.Error()) // only for lengths over 255 hashes
		}
		all[i] = keys{mac: okm[:32], aead: newAEAD(okm[32:])}
	}
	v, _ := r.derived.LoadOrStore(purpose, all)
	return v.([]keys)
}

func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("secret: " + err.Error()) // only for wrong key lengths
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("secret: " + err.Error())
	}
	return aead
}

// IDs returns an ID of each secret, the newest first. An ID reveals nothing about its secret.
func (k *Keyring) IDs() []string {
	ids := k.MACs("id")
	for i := range ids {
		ids[i] = ids[i][:16]
	}
	return ids
}

// MAC returns the HMAC-SHA256 of the parts under the newest secret, as 43 URL-safe characters. Each
// part is length-prefixed, so ("ab","c") and ("a","bc") differ. purpose is a short constant of the
// program, never input.
func (k *Keyring) MAC(purpose string, parts ...string) string {
	return mac(k.keys(purpose)[0].mac, parts)
}

// MACs returns the MAC under each secret, the newest first, to look up records stored under an
// older one.
func (k *Keyring) MACs(purpose string, parts ...string) []string {
	all := k.keys(purpose)
	out := make([]string, len(all))
	for i := range all {
		out[i] = mac(all[i].mac, parts)
	}
	return out
}

// Lookups returns the MACs under which to look for a record that may be resealed concurrently,
// which moves it from an older secret's MAC to the newest one's. So the newest comes again at the
// end, if there are several.
func (k *Keyring) Lookups(purpose string, parts ...string) []string {
	all := k.MACs(purpose, parts...)
	if len(all) > 1 {
		all = append(all, all[0])
	}
	return all
}

func mac(key []byte, parts []string) string {
	h := hmac.New(sha256.New, key)
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Seal encrypts and authenticates plain (AES-256-GCM) for one purpose and one place, such as the
// record's key. It doesn't open for another place.
func (k *Keyring) Seal(purpose, place string, plain []byte) []byte {
	return k.keys(purpose)[0].aead.Seal(nil, nil, plain, []byte(place))
}

// Open returns the plain text that was sealed for the same purpose and place, or ErrSealed.
func (k *Keyring) Open(purpose, place string, sealed []byte) ([]byte, error) {
	plain, _, err := k.OpenBy(purpose, place, sealed)
	return plain, err
}

// SealText is Seal, with the result as text for URLs and cookies.
func (k *Keyring) SealText(purpose, place string, plain []byte) string {
	return base64.RawURLEncoding.EncodeToString(k.Seal(purpose, place, plain))
}

// OpenText returns the plain text of SealText for the same purpose and place, or ErrSealed.
func (k *Keyring) OpenText(purpose, place, sealed string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return nil, ErrSealed
	}
	return k.Open(purpose, place, raw)
}

// OpenBy is Open, and returns the index of the key that opened it: 0 is the newest.
func (k *Keyring) OpenBy(purpose, place string, sealed []byte) (plain []byte, key int, err error) {
	for i, key := range k.keys(purpose) {
		if plain, err := key.aead.Open(nil, nil, sealed, []byte(place)); err == nil {
			return plain, i, nil
		}
	}
	return nil, 0, ErrSealed
}

// SealFor is Seal with an additional key holder, at least 128 random bits that aren't in the store.
// Without them the value can't be opened, even with the secret.
func (k *Keyring) SealFor(holder, purpose, place string, plain []byte) []byte {
	return k.keys(purpose)[0].forHolder(holder).Seal(nil, nil, plain, []byte(place))
}

// OpenFor returns the plain text of SealFor for the same holder, purpose and place, or ErrSealed.
func (k *Keyring) OpenFor(holder, purpose, place string, sealed []byte) ([]byte, error) {
	for _, key := range k.keys(purpose) {
		if plain, err := key.forHolder(holder).Open(nil, nil, sealed, []byte(place)); err == nil {
			return plain, nil
		}
	}
	return nil, ErrSealed
}

func (k keys) forHolder(holder string) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, k.mac, nil, "holder/"+holder, 32)
	if err != nil {
		panic("secret: " + err.Error()) // only for lengths over 255 hashes
	}
	return newAEAD(key)
}
