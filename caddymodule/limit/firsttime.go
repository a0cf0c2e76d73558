package limit

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const signedInBucket = "signed-in" // by contact: has signed in at least once

// First reports whether this is the contact's first sign-in on any device, and returns the
// Op that records it, if it is. Unlike a device, the record never expires; only Unlearn
// deletes it.
func (d *Devices) First(ctx context.Context, contact string) (first bool, ops []store.Op, err error) {
	k := d.signedInKey(contact)
	switch _, err := d.Store.Get(ctx, k); {
	case errors.Is(err, store.ErrNotFound):
		return true, []store.Op{store.Put(k, []byte{version}, time.Time{})}, nil
	case err != nil:
		return false, nil, err
	}
	return false, nil, nil
}

// EverSignedIn returns the IDs of the contacts who have signed in at least once, in byte order. An error of the store comes
// last.
func (d *Devices) EverSignedIn(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		const page = 1000
		for after := ""; ; {
			recs, err := d.Store.Scan(ctx, d.Firm, signedInBucket, "", after, page)
			if err != nil {
				yield("", err)
				return
			}
			for _, rec := range recs {
				if after = rec.Key.ID; !yield(after, nil) {
					return
				}
			}
			if len(recs) < page {
				return
			}
		}
	}
}

// Unlearn returns the Op that deletes the record of First, for a contact who was removed.
func (d *Devices) Unlearn(contact string) store.Op { return store.Delete(d.signedInKey(contact)) }

func (d *Devices) signedInKey(contact string) store.Key {
	return store.Key{Firm: d.Firm, Bucket: signedInBucket, ID: contact}
}
