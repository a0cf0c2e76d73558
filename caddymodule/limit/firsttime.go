package limit

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const inBucket = "signed-in" // by contact: that they have signed in, ever

// First reports whether the contact has never signed in before, on any device, and returns
// the Op that notes that they have; none where that is known. Unlike devices, which are
// forgotten after a year, it is never forgotten but by Unlearn.
func (d *Devices) First(ctx context.Context, contact string) (first bool, ops []store.Op, err error) {
	k := d.inKey(contact)
	switch _, err := d.Store.Get(ctx, k); {
	case errors.Is(err, store.ErrNotFound):
		return true, []store.Op{store.Put(k, []byte{version}, time.Time{})}, nil
	case err != nil:
		return false, nil, err
	}
	return false, nil, nil
}

// Unlearn returns the Op that undoes what First has noted, for a contact who is no more.
func (d *Devices) Unlearn(contact string) store.Op { return store.Delete(d.inKey(contact)) }

func (d *Devices) inKey(contact string) store.Key {
	return store.Key{Firm: d.Firm, Bucket: inBucket, ID: contact}
}
