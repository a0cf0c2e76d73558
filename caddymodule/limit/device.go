package limit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// DeviceLife is how long a device is known after the last sign-in on it.
	DeviceLife = 365 * 24 * time.Hour
	// DevicesPerContact is how many devices know a contact; the one that signed in
	// longest ago makes room for a new one.
	DevicesPerContact = 100

	deviceBucket  = "device" // by contact and device: when it was last signed in on
	devicePurpose = "device" // of MACs
	half          = 43       // characters of 256 bits in base64url
)

// Devices are the browsers that contacts of a firm have signed in on. A device proves
// nothing about who uses it, and opens nothing: it has budgets of its own.
type Devices struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
}

// New makes the cookie of a new device, and its ID. The cookie is 256 random bits and a
// MAC of them, so that an invented one is known as such without asking the store.
func (d *Devices) New() (cookie, id string) {
	random := secret.Random()
	return random + d.Keys.MAC(devicePurpose, d.Firm, random), deviceID(random)
}

// ID returns the ID of a cookie's device, or "" for a cookie that this firm didn't give.
func (d *Devices) ID(cookie string) string {
	if len(cookie) != 2*half {
		return ""
	}
	for _, mac := range d.Keys.MACs(devicePurpose, d.Firm, cookie[:half]) {
		if hmac.Equal([]byte(mac), []byte(cookie[half:])) {
			return deviceID(cookie[:half])
		}
	}
	return ""
}

// Renew returns the cookie that a device gets in place of one that it has, made with the
// newest secret, so that the device stays known when an older one is taken out; "" for a
// cookie that this firm didn't give.
func (d *Devices) Renew(cookie string) string {
	if d.ID(cookie) == "" {
		return ""
	}
	return cookie[:half] + d.Keys.MAC(devicePurpose, d.Firm, cookie[:half])
}

func deviceID(random string) string {
	sum := sha256.Sum256([]byte(random))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Knows reports whether the contact has signed in on the device, and not been forgotten.
func (d *Devices) Knows(ctx context.Context, id, contact string) (bool, error) {
	if id == "" || contact == "" {
		return false, nil
	}
	_, err := d.Store.Get(ctx, d.key(contact, id))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Learn returns the Ops for a sign-in of the contact on the device.
func (d *Devices) Learn(ctx context.Context, id, contact string, now time.Time) ([]store.Op, error) {
	all, err := d.of(ctx, contact)
	if err != nil {
		return nil, err
	}
	k := d.key(contact, id)
	all = slices.DeleteFunc(all, func(rec store.Record) bool { return rec.Key == k })
	// What was signed in on longest ago ends first.
	slices.SortFunc(all, func(a, b store.Record) int { return a.Expires.Compare(b.Expires) })
	ops := []store.Op{store.Put(k, []byte{version}, now.Add(DeviceLife))}
	for _, rec := range all[:max(0, len(all)+1-DevicesPerContact)] {
		ops = append(ops, store.Delete(rec.Key))
	}
	return ops, nil
}

// LearnAlone returns the Ops of Learn, after which the contact has no other device.
func (d *Devices) LearnAlone(ctx context.Context, id, contact string, now time.Time) ([]store.Op, error) {
	all, err := d.of(ctx, contact)
	if err != nil {
		return nil, err
	}
	k := d.key(contact, id)
	ops := []store.Op{store.Put(k, []byte{version}, now.Add(DeviceLife))}
	for _, rec := range all {
		if rec.Key != k {
			ops = append(ops, store.Delete(rec.Key))
		}
	}
	return ops, nil
}

// Forget returns the Ops after which the contact has no known device.
func (d *Devices) Forget(ctx context.Context, contact string) ([]store.Op, error) {
	all, err := d.of(ctx, contact)
	ops := make([]store.Op, len(all))
	for i, rec := range all {
		ops[i] = store.Delete(rec.Key)
	}
	return ops, err
}

// of returns the records of a contact's devices. A few more than DevicesPerContact can
// be there, where several sign-ins came at once.
func (d *Devices) of(ctx context.Context, contact string) ([]store.Record, error) {
	return d.Store.Scan(ctx, d.Firm, deviceBucket, contact+"/", "", 2*DevicesPerContact)
}

func (d *Devices) key(contact, id string) store.Key {
	return store.Key{Firm: d.Firm, Bucket: deviceBucket, ID: contact + "/" + id}
}
