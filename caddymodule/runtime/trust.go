package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// This file guards against a store that was lost, emptied or replaced since the last start, and
// tells of firms that the store holds and the configuration doesn't.

// redisLag is how far back a Redis server may lose writes that it has acknowledged: at a power
// failure with "appendfsync everysec", or when a replica takes over.
const redisLag = 5 * time.Second

// anchorOf returns the anchor that guards the firm's part of the store; it outlives reloads. It
// seals with the secrets in use, as the firm's records are sealed, even for a firm that this
// configuration adds: its own secrets seal only after takeOver. An error that wraps
// secret.ErrSealed means that the firm's records need a secret that this configuration lacks.
func (s *Server) anchorOf(ctx context.Context, firm string, inUse *secret.Keyring) (*anchor.Store, error) {
	dir := s.Settings.AnchorDir()
	if err := anchor.CheckKeys(dir, firm, s.keys); errors.Is(err, secret.ErrSealed) {
		return nil, err
	}
	o := anchor.Options{Firm: firm, Store: s.Engine.Store, DSN: s.Settings.Store.String(), Dir: dir, Keys: inUse.Copy(),
		Now: s.Engine.Clock.Now, Log: s.Log.With("firm", firm)}
	if s.Engine.Others != nil {
		o.Lag = redisLag
	}
	if running := s.Running(); running != nil && running.Engine != s.Engine {
		o.Suspended = true
	}
	v, err := s.Engine.KeepIf(firm+"\x00anchor", func() (any, error) { return anchor.Open(ctx, o) })
	if err != nil {
		return nil, err
	}
	guarded := v.(*anchor.Store)
	if err := guarded.Recheck(ctx, s.keys); err != nil {
		return nil, err
	}
	return guarded, guarded.CheckKeys(ctx, s.keys)
}

// speak lets the anchors log about the store of this configuration, which runs, and silences
// those of stores that only requests of an earlier configuration still use.
func (s *Server) speak() {
	for _, e := range s.OpenEngines() {
		for _, guarded := range e.Anchors() {
			if e == s.Engine {
				guarded.Resume()
			} else {
				guarded.Suspend()
			}
		}
	}
}

// CheckAnchor returns an error if the secrets of a configuration can't open the records that this
// machine has seen of the firm. It opens no store.
func CheckAnchor(c config.Resolved, firm string) error {
	secrets := c.Secrets
	if len(secrets) == 0 {
		value, err := config.ReadSecretFile(c.SecretPath())
		if err != nil {
			return nil // Start makes the file, or reports the error
		}
		secrets = [][]byte{value}
	}
	keys, err := secret.New(secrets[0], secrets[1:]...)
	if err == nil {
		err = anchor.CheckKeys(c.AnchorDir(), firm, keys)
	}
	if err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

// warnUnnamed warns of firms that the store holds and no site names: a firm whose id was changed
// starts empty.
func (s *Server) warnUnnamed(ctx context.Context) {
	for _, firm := range s.UnnamedFirms(ctx) {
		s.Log.Warn("the store holds a firm that no site names: its contacts, sessions and old links aren't seen", "firm", firm, "store", s.Settings.Store.String(),
			"what_to_do", fmt.Sprintf("if a site's firm was renamed, name it as before: doorpost %s", firm))
	}
}

// UnnamedFirms returns the ids, sorted, of firms that the store holds and no site names.
func (s *Server) UnnamedFirms(ctx context.Context) (unnamed []string) {
	firms, err := anchor.Firms(s.Settings.AnchorDir())
	if err != nil {
		return nil
	}
	for _, firm := range firms {
		if _, named := s.Named[firm]; named {
			continue
		}
		if recs, err := s.Engine.Store.Scan(ctx, firm, "directory", "", "", 1); err == nil && len(recs) > 0 {
			unnamed = append(unnamed, firm)
		}
	}
	slices.Sort(unnamed)
	return unnamed
}

// NeedOlderSecret returns the unnamed firms whose records may need a secret other than the newest:
// only the records of named firms are sealed again.
func (s *Server) NeedOlderSecret(ctx context.Context) (firms []string) {
	if len(s.Settings.Secrets) == 0 {
		return nil
	}
	newest, err := secret.New(s.Settings.Secrets[0])
	if err != nil {
		return nil // the configuration was validated
	}
	for _, firm := range s.UnnamedFirms(ctx) {
		if errors.Is(anchor.CheckKeys(s.Settings.AnchorDir(), firm, newest), secret.ErrSealed) {
			firms = append(firms, firm)
		}
	}
	return firms
}

// NameThem is the remedy for firms that NeedOlderSecret returns.
const NameThem = "keep the older secrets in the Caddyfile, name the firm in a site again and wait until the log says this of it, too; or, if nothing of it is needed any more, take them out"
