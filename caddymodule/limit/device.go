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
	// DevicesPerContact is how many devices know a contact; the one that signed in
	// longest ago makes room for a new one.
	DevicesPerContact = 100

	deviceBucket  = "known-device" // by contact and device: device, sealed
	deviceFormat  = 1
	devicePurpose = "device" // of MACs
	half          = 43       // characters of 256 bits in base64url
)

// Devices are the browsers that contacts of a firm have signed in on. A device proves
// nothing about who uses it, and opens nothing: it has budgets of its own.
type Devices struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	// Alarm is told of records that are none of ours; see sealed.Bucket.
	Alarm func(context.Context, store.Key)
}

// device is what the store knows of a device of a contact.
type device struct {
	At time.Time `json:"at"` // when it was last signed in on
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

// Knows reports whether the contact has signed in on the device, and not been forgotten. A
// sign-in in the future was noted by a clock that was wrong, and would be known for as much
// too long: it doesn't count.
func (d *Devices) Knows(ctx context.Context, id, contact string) (bool, error) {
	if id == "" || contact == "" {
		return false, nil
	}
	rec, err := d.records().Get(ctx, contact+"/"+id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, sealed.ErrUntrusted) {
		return false, nil
	}
	return err == nil && !rec.Value.At.After(d.now().Add(deviceAhead)), err
}

// deviceAhead is how far in the future a sign-in may be, so that a clock that is set back
// makes no device unknown.
const deviceAhead = 48 * time.Hour

// Learn returns the Ops for a sign-in of the contact on the device, and the IDs of the devices
// that make room for it.
func (d *Devices) Learn(ctx context.Context, id, contact string, now time.Time) (ops []store.Op, gone []string, err error) {
	all, err := d.of(ctx, contact)
	if err != nil {
		return nil, nil, err
	}
	own := contact + "/" + id
	all = slices.DeleteFunc(all, func(rec sealed.Record[device]) bool { return rec.ID == own })
	// What was signed in on longest ago ends first, and what is none of ours before it.
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

// LearnAlone returns the Ops of Learn, after which the contact has no other device.
func (d *Devices) LearnAlone(ctx context.Context, id, contact string, now time.Time) ([]store.Op, error) {
	all, err := d.of(ctx, contact)
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

// Forget returns the Ops after which the contact has no known device.
func (d *Devices) Forget(ctx context.Context, contact string) ([]store.Op, error) {
	all, err := d.of(ctx, contact)
	ops := make([]store.Op, len(all))
	for i, rec := range all {
		ops[i] = d.records().Delete(rec.ID)
	}
	return ops, err
}

// Reseal seals with the newest secret what older ones have sealed: afterwards these may go
// without making a device unknown.
func (d *Devices) Reseal(ctx context.Context) error {
	_, err := d.records().Reseal(ctx)
	return err
}

// of returns the records of a contact's devices, also those that are none of ours. A few more
// than DevicesPerContact can be there, where several sign-ins came at once.
func (d *Devices) of(ctx context.Context, contact string) (all []sealed.Record[device], err error) {
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
	return &sealed.Bucket[device]{Store: d.Store, Keys: d.Keys, Firm: d.Firm, Name: deviceBucket, Now: d.now, Format: deviceFormat, Alarm: d.Alarm}
}

func (d *Devices) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}
