package action

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// LastContacts remembers which contact signed in on a device most recently.
type LastContacts struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	// OnUntrusted is told of records that are none of ours; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

type lastContact struct {
	Contact string `json:"contact"`
}

func (l *LastContacts) bucket() *sealed.Bucket[lastContact] {
	return &sealed.Bucket[lastContact]{Store: l.Store, Keys: l.Keys, Firm: l.Firm, Name: "device-last", Now: l.Now, Format: '1', OnUntrusted: l.OnUntrusted}
}

// On returns the contact who signed in most recently on a device (its ID; "": there is none), or
// "" where that isn't known. The error is the store's.
func (l *LastContacts) On(ctx context.Context, device string) (contact string, err error) {
	if device == "" {
		return "", nil
	}
	rec, err := l.bucket().Get(ctx, device)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
		return "", nil
	case err != nil:
		return "", err
	}
	return rec.Value.Contact, nil
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (l *LastContacts) Reseal(ctx context.Context) error {
	_, err := l.bucket().Reseal(ctx)
	return err
}

// put returns the Op by which a device remembers the contact until then.
func (l *LastContacts) put(device, contact string, until time.Time) (store.Op, error) {
	return l.bucket().Put(device, lastContact{contact}, until)
}

// forget returns the Op by which a device remembers nobody.
func (l *LastContacts) forget(device string) store.Op { return l.bucket().Delete(device) }
