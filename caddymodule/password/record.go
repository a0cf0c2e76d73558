package password

import (
	"context"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
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

// records are the passwords, sealed as they were before there was package sealed.
func (p *Passwords) records() *sealed.Bucket[record] {
	return &sealed.Bucket[record]{Store: p.Store, Keys: p.Keys, Firm: p.Firm, Name: passwordBucket, Now: p.Now, Format: version, Alarm: p.Alarm,
		Layout: &sealed.Layout{Purpose: purpose, Place: func(k store.Key) string { return k.Firm + "/" + k.ID }}}
}

// read returns the record of a contact. One that can't be used counts as none: without the
// secret that it was sealed with, what somebody else wrote, and the hash of a newer release
// that was taken back. Who had a password gets in by mail, and chooses a new one.
func (p *Passwords) read(ctx context.Context, contact string) (sealed.Record[record], error) {
	rec, err := p.records().Find(ctx, contact)
	if rec.Value.shape() == "" {
		rec.Value.Hash = ""
	}
	return rec, err
}

// write returns the Ops that put a record in the place of another, sealed anew.
func (p *Passwords) write(was sealed.Record[record], now record) ([]store.Op, error) {
	op, err := p.records().Write(was, now, time.Time{})
	ops := []store.Op{op}
	before, after := was.Value.shape(), now.shape()
	if before != "" && before != after {
		ops = append(ops, store.Delete(p.index(before, was.ID)))
	}
	if after != "" {
		ops = append(ops, store.Put(p.index(after, was.ID), []byte{version}, time.Time{}))
	}
	return ops, err
}

func (p *Passwords) index(s shape, contact string) store.Key {
	return store.Key{Firm: p.Firm, Bucket: shapeBucket, ID: string(s) + "/" + contact}
}

// Reseal seals with the newest secret what older ones have sealed: afterwards these may go
// without anybody losing a password.
func (p *Passwords) Reseal(ctx context.Context) error {
	if _, err := p.records().Reseal(ctx); err != nil {
		return err
	}
	_, err := p.guesses().Reseal(ctx) // one that couldn't be opened would count as used up
	return err
}
