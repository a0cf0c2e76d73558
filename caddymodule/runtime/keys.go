package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// makeSecretFile makes the file with a new secret, whole or not at all, unless
// another process was faster, and returns the secret that is in it.
func makeSecretFile(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(secret.Random() + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return nil, fmt.Errorf("secret: writing %s: %w", path, err)
	}
	// A link, unlike a rename, never replaces a secret that is already in use.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return config.ReadSecretFile(path)
}

// canary is the record that tells whether a secret is the one that sealed the store.
var canary = store.Key{Bucket: "doorpost", ID: "canary"}

const (
	// canaryVersion goes up whenever an earlier release would misread the store, and refuses it
	// by that. Version 1 was that of all releases before sessions and upgrades were sealed.
	canaryVersion = 2
	canaryPurpose = "canary"
	canaryPlain   = "doorpost"
)

// Secrets are the secrets of a configuration, and the data for checking them against a store.
type Secrets struct {
	Resolved config.Resolved // the settings
	Firms    []string        // of the configuration
	Log      *slog.Logger
}

// Open returns the keyring of the secrets, or of the secret file when there are
// none; it makes that file for a new store. A secret that isn't the store's is an
// error and changes nothing. With seals, the newest one closes the canary from now on.
func (c *Secrets) Open(ctx context.Context, s store.Store, seals bool) (keys *secret.Keyring, err error) {
	for range 3 { // another process may start at the same time on the same new store
		if keys, err = c.try(ctx, s, seals); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return keys, err
}

func (c *Secrets) try(ctx context.Context, s store.Store, seals bool) (*secret.Keyring, error) {
	at, secrets := c.Resolved.Store, c.Resolved.Secrets
	rec, err := s.Get(ctx, canary)
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, fmt.Errorf("reading the store %s: %w", at, err)
	}
	from := "the one that is configured"
	if len(secrets) == 0 {
		from = c.Resolved.SecretPath()
		value, err := config.ReadSecretFile(from)
		if errors.Is(err, config.ErrNoSecretFile) {
			if !fresh {
				return nil, fmt.Errorf("secret: %s is gone, and the store %s can't be read without it; put it back from a backup, or write it in the Caddyfile: secret {file./PATH}", from, at)
			}
			if err := c.checkNew(from); err != nil {
				return nil, err
			}
			value, err = makeSecretFile(from)
			if err == nil {
				c.Log.Warn("made a new secret and an empty store; if this isn't the first start, the data folder was lost, and whatever was upgraded asks for sign-in no more",
					"secret", from, "store", at.String(), "what_to_do", "keep this folder on a disk that stays, and back it up: "+filepath.Dir(from))
			}
		}
		if err != nil {
			return nil, err
		}
		secrets = [][]byte{value}
	}
	keys, err := secret.New(secrets[0], secrets[1:]...)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	if !fresh && len(rec.Value) > 0 && rec.Value[0] > canaryVersion {
		return nil, fmt.Errorf("the store %s was written by a newer Doorpost; run that one, or restore a backup from before", at)
	}
	if fresh && !seals {
		return keys, nil
	} else if fresh {
		return keys, s.Apply(ctx, store.Create(canary, closeCanary(keys), time.Time{}))
	}
	newest, err := secret.New(secrets[0])
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	earlier := len(rec.Value) > 0 && rec.Value[0] < canaryVersion
	if opensCanary(newest, rec.Value) && !(earlier && seals) {
		return keys, nil
	}
	if !opensCanary(keys, rec.Value) {
		return nil, fmt.Errorf("secret: the store %s was sealed with another secret than %s; nothing was changed. Put the right one first, or behind the new one: secret {file./NEW} {file./OLD}", at, from)
	}
	if !seals {
		return keys, nil
	}
	replace := store.Replace(canary, rec.Value, closeCanary(keys), time.Time{})
	if earlier {
		return keys, c.takeOver(ctx, s, rec.Value[0], replace)
	}
	return keys, s.Apply(ctx, replace)
}

// takeOver has the Op give the store of an earlier release today's version. A store in a
// file is copied first, so that there is a way back to that release.
func (c *Secrets) takeOver(ctx context.Context, s store.Store, version byte, replace store.Op) error {
	at, todo := c.Resolved.Store, "nothing; to go back, bring a copy from before back"
	var copied string
	if db, ok := s.(*bolt.DB); ok {
		var err error
		if copied, err = db.SaveCopy(fmt.Sprintf(".version-%d", version)); err != nil {
			return fmt.Errorf("store: the store is from an earlier Doorpost, and is copied before it is used; nothing was changed: %w", err)
		}
		todo = "nothing; to go back, stop Caddy, put the earlier release in place, and with it: caddy doorpost restore " + copied + " --store " + at.Path
	}
	if err := s.Apply(ctx, replace); err != nil {
		return err
	}
	c.Log.Warn("the store of an earlier Doorpost was taken over; that release can't open it any more", "store", at.String(), "copy", copied, "what_to_do", todo)
	for _, firm := range c.Firms {
		if recs, err := s.Scan(ctx, firm, "session", "", "", 1); err == nil && len(recs) > 0 {
			c.Log.Warn("everybody signs in once more: the earlier Doorpost didn't seal its sessions, so they aren't taken over", "firm", firm, "what_to_do", "nothing")
		}
	}
	return nil
}

// checkNew is an error where a secret was in use before that is gone now: a new one could
// open nothing, and it would hide that the store is gone, too.
func (c *Secrets) checkNew(path string) error {
	firms, err := anchor.Firms(c.Resolved.AnchorDir())
	if err != nil || len(firms) == 0 {
		return nil
	}
	return fmt.Errorf("secret: %s is gone, and %s was sealed with it; put the secret back from a backup, or, to begin anew without anything that was upgraded, move that folder away",
		path, c.Resolved.AnchorDir())
}

func closeCanary(keys *secret.Keyring) []byte {
	return append([]byte{canaryVersion}, keys.Seal(canaryPurpose, canary.ID, []byte(canaryPlain))...)
}

func opensCanary(keys *secret.Keyring, value []byte) bool {
	if len(value) == 0 || value[0] < 1 || value[0] > canaryVersion {
		return false
	}
	plain, err := keys.Open(canaryPurpose, canary.ID, value[1:])
	return err == nil && string(plain) == canaryPlain
}
