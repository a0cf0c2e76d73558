package password

import (
	"context"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	passwordBucket = "password"       // by contact: record, sealed
	paramsBucket   = "password-shape" // by hash parameters and contact: who has such a hash
	purpose        = "password"       // of sealing
	version        = '1'              // first byte of every value
)

// origin is how the contact got the password. The values are stored.
type origin string

const (
	chosen   origin = "chosen"   // by the contact, who has read one of our mails; older releases also wrote it for used
	imported origin = "imported" // and not used yet
	used     origin = "used"     // imported, and used here since
	removed  origin = "removed"  // removed on purpose; there is no password
)

// record is a contact's stored password.
type record struct {
	Hash string    `json:"hash,omitempty"`
	From origin    `json:"from"`
	At   time.Time `json:"at"` // when it was chosen, imported or removed
}

// params returns the parameters of the hash; "" if there is no usable hash.
func (r record) params() hashParams {
	h, _ := parseHash(r.Hash)
	return h.params
}

// records returns the bucket of passwords, in the layout of releases before package sealed.
func (p *Passwords) records() *sealed.Bucket[record] {
	return &sealed.Bucket[record]{Store: p.Store, Keys: p.Keys, Firm: p.Firm, Name: passwordBucket, Now: p.Now, Format: version, OnUntrusted: p.OnUntrusted,
		Layout: &sealed.Layout{Purpose: purpose, Context: func(k store.Key) string { return k.Firm + "/" + k.ID }}}
}

// read returns the record of a contact. It has no hash if it can't be used: its secret was
// removed, it is forged, or a newer release that was rolled back wrote it. The contact then
// signs in by mail and chooses a new password.
func (p *Passwords) read(ctx context.Context, contact string) (sealed.Record[record], error) {
	rec, err := p.records().Find(ctx, contact)
	if rec.Value.params() == "" {
		rec.Value.Hash = ""
	}
	return rec, err
}

// write returns the Ops that replace a record, sealed with the newest secret.
func (p *Passwords) write(was sealed.Record[record], now record) ([]store.Op, error) {
	op, err := p.records().Write(was, now, time.Time{})
	ops := []store.Op{op}
	before, after := was.Value.params(), now.params()
	if before != "" && before != after {
		ops = append(ops, store.Delete(p.index(before, was.ID)))
	}
	if after != "" {
		ops = append(ops, store.Put(p.index(after, was.ID), []byte{version}, time.Time{}))
	}
	return ops, err
}

func (p *Passwords) index(s hashParams, contact string) store.Key {
	return store.Key{Firm: p.Firm, Bucket: paramsBucket, ID: string(s) + "/" + contact}
}

// Reseal seals all records again with the newest secret. Afterwards older secrets can be
// removed without losing a password.
func (p *Passwords) Reseal(ctx context.Context) error {
	if _, err := p.records().Reseal(ctx); err != nil {
		return err
	}
	_, err := p.guesses().Reseal(ctx) // a counter that can't be opened counts as used up
	return err
}
