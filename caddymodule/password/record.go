package password

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	passwordBucket = "password"       // by contact: record, sealed
	shapeBucket    = "password-shape" // by shape and contact: whose hash is of that shape
	purpose        = "password"       // of sealing
	version        = '1'              // first byte of every value
)

// origin is where a record comes from. It is in the stores.
type origin string

const (
	chosen   origin = "chosen"   // by the contact, who has read a mail of ours; from older releases also what is now used
	imported origin = "imported" // and not used yet
	used     origin = "used"     // imported, and used here since
	removed  origin = "removed"  // there is no password, on purpose
)

// record is what the store knows of a contact's password.
type record struct {
	Hash string    `json:"hash,omitempty"`
	From origin    `json:"from"`
	At   time.Time `json:"at"` // when it was chosen, imported or removed
}

// shape returns that of the hash; none, if there is no hash that can be used.
func (r record) shape() shape {
	h, _ := parseHash(r.Hash)
	return h.shape
}

// kept is a record with where it was found, and as what. Its value is nil when there is
// none; the rest is zero then, and when it was sealed with a secret that is no more.
type kept struct {
	record
	contact string
	key     store.Key
	value   []byte
}

func (p *Passwords) read(ctx context.Context, contact string) (kept, error) {
	k := kept{contact: contact, key: store.Key{Firm: p.Firm, Bucket: passwordBucket, ID: contact}}
	rec, err := p.Store.Get(ctx, k.key)
	if errors.Is(err, store.ErrNotFound) {
		return k, nil
	} else if err != nil {
		return k, err
	}
	k.value = append([]byte{}, rec.Value...)
	var plain []byte
	if err = secret.ErrSealed; len(rec.Value) > 0 && rec.Value[0] == version {
		plain, err = p.Keys.Open(purpose, p.Firm+"/"+contact, rec.Value[1:])
	}
	if errors.Is(err, secret.ErrSealed) {
		// Without the secret it was sealed with, nobody can use it, and what somebody else
		// wrote is no password. It counts as none: who had one gets in by mail, and chooses a
		// new one.
		if p.Alarm != nil {
			p.Alarm(ctx, k.key)
		}
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(plain, &k.record)
	}
	if err != nil {
		return k, fmt.Errorf("reading a password record: %w", err)
	}
	if k.Hash != "" && k.shape() == "" {
		k.Hash = "" // of a newer release that was taken back; it counts as none, too
	}
	return k, nil
}

// write returns the Ops that put a record in the place of another, sealed anew.
func (p *Passwords) write(was kept, now record) ([]store.Op, error) {
	plain, err := json.Marshal(now)
	if err != nil {
		return nil, fmt.Errorf("writing a password record: %w", err)
	}
	value := append([]byte{version}, p.Keys.Seal(purpose, p.Firm+"/"+was.contact, plain)...)
	op := store.Replace(was.key, was.value, value, time.Time{})
	if was.value == nil {
		op = store.Create(was.key, value, time.Time{})
	}
	ops := []store.Op{op}
	before, after := was.shape(), now.shape()
	if before != "" && before != after {
		ops = append(ops, store.Delete(p.index(before, was.contact)))
	}
	if after != "" {
		ops = append(ops, store.Put(p.index(after, was.contact), []byte{version}, time.Time{}))
	}
	return ops, nil
}

func (p *Passwords) index(s shape, contact string) store.Key {
	return store.Key{Firm: p.Firm, Bucket: shapeBucket, ID: string(s) + "/" + contact}
}

// Reseal seals every record anew: once it has come to an end, an older secret that the
// keyring has can be taken out without anybody losing a password. Call it at the start
// of a process that has older secrets. What is changed meanwhile is left alone.
func (p *Passwords) Reseal(ctx context.Context) error {
	for after := ""; ; {
		page, err := p.Store.Scan(ctx, p.Firm, passwordBucket, "", after, 256)
		if err == nil && len(page) == 0 {
			_, err = p.guesses().Reseal(ctx) // one that couldn't be opened would count as used up
			return err
		} else if err != nil {
			return err
		}
		for _, rec := range page {
			after = rec.Key.ID
			was, err := p.read(ctx, rec.Key.ID)
			if err != nil {
				return err
			}
			if was.From == "" {
				continue // gone, or not to be opened
			}
			ops, err := p.write(was, was.record)
			if err != nil {
				return err
			}
			if err := p.Store.Apply(ctx, ops...); err != nil && !errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("sealing passwords anew: %w", err)
			}
		}
	}
}
