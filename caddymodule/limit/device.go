package limit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// DeviceLife is how long a device is known after the last sign-in on it.
	DeviceLife = 365 * 24 * time.Hour
	// DevicesPerContact is the maximum number of known devices of a contact. A new one replaces the
	// one with the oldest sign-in.
	DevicesPerContact = 100

	deviceBucket  = "known-device" // by contact and device: device, sealed
	deviceFormat  = 1
	devicePurpose = "device" // of MACs
	macLength     = 43       // 256 bits in base64url
)

// Devices are the browsers that contacts of a firm have signed in on. A device doesn't authenticate
// anybody; it only has limits of its own.
type Devices struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	// OnUntrusted is called for records that Doorpost did not seal; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

// device is a stored device of a contact.
type device struct {
	At time.Time `json:"at"` // last sign-in
}

// New returns the cookie and the ID of a new device. The cookie is 256 random bits and their MAC,
// so that invented cookies are recognized without reading the store.
func (d *Devices) New() (cookie, id string) {
	random := secret.Random()
	return random + d.Keys.MAC(devicePurpose, d.Firm, random), deviceID(random)
}

// ID returns the ID of a cookie's device, or "" if this firm didn't issue the cookie.
func (d *Devices) ID(cookie string) string {
	if len(cookie) != 2*macLength {
		return ""
	}
	for _, mac := range d.Keys.MACs(devicePurpose, d.Firm, cookie[:macLength]) {
		if hmac.Equal([]byte(mac), []byte(cookie[macLength:])) {
			return deviceID(cookie[:macLength])
		}
	}
	return ""
}

// Renew returns the cookie with a MAC of the newest secret, so that the device stays known when an
// older secret is removed. It returns "" if this firm didn't issue the cookie.
func (d *Devices) Renew(cookie string) string {
	if d.ID(cookie) == "" {
		return ""
	}
	return cookie[:macLength] + d.Keys.MAC(devicePurpose, d.Firm, cookie[:macLength])
}

func deviceID(random string) string {
	sum := sha256.Sum256([]byte(random))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Knows reports whether the contact has signed in on the device within DeviceLife. A sign-in in the
// future doesn't count: a wrong clock recorded it, and it would expire too late.
func (d *Devices) Knows(ctx context.Context, id, contact string) (bool, error) {
	if id == "" || contact == "" {
		return false, nil
	}
	rec, err := d.records().Get(ctx, contact+"/"+id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, sealed.ErrUntrusted) {
		return false, nil
	}
	return err == nil && !rec.Value.At.After(d.now().Add(maxClockAhead)), err
}

// maxClockAhead is how far in the future a sign-in may be, so that setting a clock back makes no
// device unknown.
const maxClockAhead = 48 * time.Hour

// Learn returns the Ops that record a sign-in of the contact on the device, and the IDs of the
// devices that it replaces.
func (d *Devices) Learn(ctx context.Context, id, contact string, now time.Time) (ops []store.Op, gone []string, err error) {
	all, err := d.ofContact(ctx, contact)
	if err != nil {
		return nil, nil, err
	}
	own := contact + "/" + id
	all = slices.DeleteFunc(all, func(rec sealed.Record[device]) bool { return rec.ID == own })
	// Delete the devices with the oldest sign-ins, and untrusted records before these.
	slices.SortFunc(all, func(a, b sealed.Record[device]) int { return a.Value.At.Compare(b.Value.At) })
	ops, err = d.learn(own, now)
	for _, rec := range all[:max(0, len(all)+1-DevicesPerContact)] {
		ops = append(ops, d.records().Delete(rec.ID))
		gone = append(gone, strings.TrimPrefix(rec.ID, contact+"/"))
	}
	return ops, gone, err
}

func (d *Devices) learn(id string, now time.Time) ([]store.Op, error) {
	op, err := d.records().Put(id, device{now.UTC().Round(0)}, now.Add(DeviceLife))
	return []store.Op{op}, err
}

// LearnOnly is Learn, and its Ops delete all other devices of the contact.
func (d *Devices) LearnOnly(ctx context.Context, id, contact string, now time.Time) ([]store.Op, error) {
	all, err := d.ofContact(ctx, contact)
	if err != nil {
		return nil, err
	}
	own := contact + "/" + id
	ops, err := d.learn(own, now)
	for _, rec := range all {
		if rec.ID != own {
			ops = append(ops, d.records().Delete(rec.ID))
		}
	}
	return ops, err
}

// Forget returns the Ops that delete all devices of the contact.
func (d *Devices) Forget(ctx context.Context, contact string) ([]store.Op, error) {
	all, err := d.ofContact(ctx, contact)
	ops := make([]store.Op, len(all))
	for i, rec := range all {
		ops[i] = d.records().Delete(rec.ID)
	}
	return ops, err
}

// Reseal seals all records again with the newest secret. Afterwards older secrets can be removed
// without making a device unknown.
func (d *Devices) Reseal(ctx context.Context) error {
	_, err := d.records().Reseal(ctx)
	return err
}

// ofContact returns the records of a contact's devices, untrusted ones included. After concurrent
// sign-ins there may be a few more than DevicesPerContact.
func (d *Devices) ofContact(ctx context.Context, contact string) (all []sealed.Record[device], err error) {
	for rec, err := range d.records().All(ctx, contact+"/", "") {
		if err != nil && !errors.Is(err, sealed.ErrUntrusted) {
			return nil, err
		}
		if all = append(all, rec); len(all) == 2*DevicesPerContact {
			break
		}
	}
	return all, nil
}

func (d *Devices) records() *sealed.Bucket[device] {
	return &sealed.Bucket[device]{Store: d.Store, Keys: d.Keys, Firm: d.Firm, Name: deviceBucket, Now: d.now, Format: deviceFormat, OnUntrusted: d.OnUntrusted}
}

func (d *Devices) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}
