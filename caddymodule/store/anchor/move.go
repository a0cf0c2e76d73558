package anchor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// The names of the buckets with a firm's identity and beat.
const (
	IdentityBucket = "identity"
	BeatBucket     = "beat"
)

// BeginMove gives the copy of a firm's records, in the store to, an identity that no machine trusts
// until FinishMove. The records of from stay as they are: once a machine has seen the copy, it
// trusts them no more. A machine that has seen a later change of from than the copy has doesn't
// trust the copy, as it wouldn't trust an older store.
//
// BeginMove does nothing for records that never had an identity. It returns ErrUntrusted if from is
// just being accepted.
func BeginMove(ctx context.Context, from, to store.Store, firm string, keys *secret.Keyring) error {
	source := &Store{Store: from, firm: firm, now: time.Now}
	was, err := source.identities(keys).Get(ctx, recordID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if was.Value.Settling {
		return fmt.Errorf("it is being accepted or moved, or that was interrupted: %w", ErrUntrusted)
	}
	b, err := source.beats(keys).Get(ctx, recordID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	next := was.Value.next("", false)
	next.MovedFrom, next.MovedAt = was.Value.Store, b.Value.N
	return putIdentity(ctx, to, firm, keys, next)
}

// FinishMove lets machines trust the copy.
func FinishMove(ctx context.Context, to store.Store, firm string, keys *secret.Keyring) error {
	s := &Store{Store: to, firm: firm, now: time.Now}
	was, err := s.identities(keys).Get(ctx, recordID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	was.Value.Settling = false
	return putIdentity(ctx, to, firm, keys, was.Value)
}

func putIdentity(ctx context.Context, to store.Store, firm string, keys *secret.Keyring, id identity) error {
	ids := (&Store{Store: to, firm: firm, now: time.Now}).identities(keys)
	was, err := ids.Get(ctx, recordID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	op, err := ids.Write(was, id, time.Time{})
	if err != nil {
		return err
	}
	return to.Apply(ctx, op)
}
