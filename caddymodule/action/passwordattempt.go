package action

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// ErrNetworkLimited: a password comes from a network from which too many came, so it isn't looked
// at.
var ErrNetworkLimited = errors.New("action: too many passwords of a network")

// NetworkWait is how long until a network that is over its limit has one more attempt.
const NetworkWait = 3 * time.Minute

// PasswordAttempts compares passwords that were typed, within the limits of networks and of the
// firm. Make it with NewPasswordAttempts.
type PasswordAttempts struct {
	Directory *directory.Directory
	Passwords *password.Passwords
	Devices   *limit.Devices
	Networks  *limit.Networks
	Log       *slog.Logger

	sprayed *rate.Sometimes // around the log line on passwords that are tried from everywhere
}

// NewPasswordAttempts makes PasswordAttempts ready to use.
func NewPasswordAttempts(p PasswordAttempts) *PasswordAttempts {
	p.sprayed = &rate.Sometimes{Interval: 10 * time.Minute}
	return &p
}

// PasswordAttempt is a password that was typed, and counted.
type PasswordAttempt struct {
	Contact directory.Contact // the zero Contact: the address is nobody's who may sign in
	IP      netip.Addr

	attempt password.Attempt
	counted []func() // what takes it out of the counters if it is right
	sprayed bool     // it was counted for the firm, or was one too many for it
	all     *PasswordAttempts
}

// Begin counts one more password for the address, before anything is compared. A device
// that the contact has signed in on is let through where its network is over its limit.
// The error is ErrNetworkLimited, or the store's.
//
// A browser without a device of ours waits for a permit first, so that a flood of them
// asks no more of the store than the permits let through.
func (p *PasswordAttempts) Begin(ctx context.Context, by Browser, typed address.Address, plain string) (*PasswordAttempt, error) {
	t := &PasswordAttempt{attempt: password.Attempt{Address: typed, Password: plain}, IP: by.IP, all: p}
	free := t.take()
	if by.Device == "" {
		if !free {
			return nil, ErrNetworkLimited
		}
		t.attempt.Find = func(ctx context.Context, a *password.Attempt) error {
			err := t.find(ctx, "", free)
			*a = t.attempt
			return err
		}
		return t, nil
	}
	if err := t.find(ctx, by.Device, free); err != nil {
		return nil, err
	}
	return t, nil
}

// find finds out whom the attempt is for, and whether it may be right. Where the network has
// had too many, not free, it is ErrNetworkLimited for all but a known device.
func (t *PasswordAttempt) find(ctx context.Context, device string, free bool) error {
	p := t.all
	ctx = anchor.Evenly(ctx) // unknown addresses take no longer than known ones
	c, err := p.Directory.ByEmail(ctx, t.attempt.Address)
	if errors.Is(err, directory.ErrUnknown) {
		_, err = p.Directory.ByID(ctx, dummyContact) // what is read of a contact is read of nobody, too
		c = directory.Contact{}
	}
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return err
	}
	t.Contact = directory.Contact{}
	if !c.Disabled {
		t.Contact = c
	}
	t.attempt.Contact = t.Contact.ID
	known, err := p.Devices.Knows(ctx, device, cmp.Or(t.Contact.ID, dummyContact))
	if err != nil {
		return err
	}
	switch {
	case known:
		t.attempt.Device = device
	case !free:
		return ErrNetworkLimited
	case !t.sprayed:
		t.sprayed = true // once, however often it is checked
		refund, ok := p.Networks.AllowFirm(limit.Password, t.IP)
		if t.attempt.Limited = !ok; t.attempt.Limited {
			p.sprayed.Do(func() {
				p.Log.WarnContext(ctx, "passwords are tried from everywhere; for as long as that goes on, each network has three tries, then one in 20 minutes; known devices and mailed links go on as before")
			})
		}
		t.counted = append(t.counted, refund)
	}
	return nil
}

// dummyContact is the ID that is read in the place of a contact's where there is none.
const dummyContact = "nobody"

// take counts it against its network.
func (t *PasswordAttempt) take() bool {
	networks := t.all.Networks
	if !networks.Allow(limit.Password, t.IP) {
		return false
	}
	t.counted = append(t.counted, func() { networks.Refund(limit.Password, t.IP) })
	return true
}

// Check compares the password. An attempt that was right, or wasn't compared, isn't counted against
// the network. If the client disconnects before the answer, the attempt stays counted, since its
// hash is computed anyway. The errors are those of password.Passwords.Check.
func (t *PasswordAttempt) Check(ctx context.Context) (password.Match, error) {
	match, err := t.all.Passwords.Check(anchor.Evenly(ctx), t.attempt)
	if errors.Is(err, password.ErrWrong) || err != nil && ctx.Err() != nil {
		return match, err
	}
	for _, refund := range t.counted {
		refund()
	}
	t.counted = nil
	return match, err
}
