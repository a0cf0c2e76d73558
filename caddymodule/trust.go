package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// What becomes of a firm whose store isn't the one of last time, and of one that can't be
// reached when Caddy starts.

// redisLag is how long a Redis server may lose again what it has acknowledged: at a power
// failure with "appendfsync everysec", or where a replica takes its place.
const redisLag = 5 * time.Second

// anchorOf returns what guards the firm's part of the store, over reloads. It seals as the
// firm's records are sealed, with the secrets in use, also for a firm that comes with this
// configuration, whose secrets seal later: see takeOver. An error that wraps secret.ErrSealed:
// the firm's records need a secret that isn't among the keys of this configuration.
func (a *App) anchorOf(ctx context.Context, firm string, keys, inUse *secret.Keyring) (*anchor.Store, error) {
	if err := anchor.CheckKeys(a.resolved.AnchorDir(), firm, keys); errors.Is(err, secret.ErrSealed) {
		return nil, err
	}
	o := anchor.Options{Firm: firm, Store: a.engine.Store, Place: a.resolved.Place.String(), Dir: a.resolved.AnchorDir(), Keys: inUse.Copy(),
		Now: a.engine.Clock.Now, Log: a.log.With("firm", firm)}
	if a.engine.Others != nil {
		o.Lag = redisLag
	}
	if running := runningApp(); running != nil && running.engine != a.engine {
		o.Quiet = true
	}
	v, err := a.engine.KeepIf(firm+"\x00anchor", func() (any, error) { return anchor.Open(ctx, o) })
	if err != nil {
		return nil, err
	}
	s := v.(*anchor.Store)
	if err := s.Return(ctx, keys); err != nil {
		return nil, err
	}
	return s, s.CheckKeys(ctx, keys)
}

// runningApp returns the App of the configuration that runs; nil: it has none.
func runningApp() *App {
	v, err := caddy.ActiveContext().AppIfConfigured("doorpost")
	if err != nil {
		return nil
	}
	a, _ := v.(*App)
	return a
}

// speak has the anchors describe the store of this configuration, which runs, and no other one
// that requests of an earlier configuration still use.
func (a *App) speak() {
	engines.Range(func(_, v any) bool {
		e := v.(*runtime.Engine)
		for _, s := range e.Anchors() {
			if e == a.engine {
				s.Speak()
			} else {
				s.Hush()
			}
		}
		return true
	})
}

// checkAnchor reports why the secrets aren't enough for what this machine has seen of the
// firm. It opens no store.
func (a *App) checkAnchor(firm string) error {
	secrets := a.resolved.Secrets
	if len(secrets) == 0 {
		value, err := config.ReadSecretFile(a.resolved.SecretPath())
		if err != nil {
			return nil // the start makes it, or says what is wrong with it
		}
		secrets = [][]byte{value}
	}
	keys, err := secret.New(secrets[0], secrets[1:]...)
	if err == nil {
		err = anchor.CheckKeys(a.resolved.AnchorDir(), firm, keys)
	}
	if err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

// tellUnnamed tells of firms that the store holds and no site names: under another id a firm
// is a new one.
func (a *App) tellUnnamed(ctx context.Context) {
	for _, firm := range a.unnamedFirms(ctx) {
		a.log.Warn("the store holds a firm that no site names: its contacts, sessions and old links aren't seen", "firm", firm, "store", a.resolved.Place.String(),
			"what_to_do", fmt.Sprintf("if a site's firm was renamed, name it as before: doorpost %s", firm))
	}
}

func (a *App) unnamedFirms(ctx context.Context) (unnamed []string) {
	firms, err := anchor.Firms(a.resolved.AnchorDir())
	if err != nil {
		return nil // there are no others to be told of
	}
	for _, firm := range firms {
		if _, named := a.named[firm]; named {
			continue
		}
		if recs, err := a.engine.Store.Scan(ctx, firm, "directory", "", "", 1); err == nil && len(recs) > 0 {
			unnamed = append(unnamed, firm)
		}
	}
	slices.Sort(unnamed)
	return unnamed
}

// leftBehind are the firms that the store holds and no site names, whose records may need a
// secret behind the newest one: nobody seals these again.
func (a *App) leftBehind(ctx context.Context) (firms []string) {
	if len(a.resolved.Secrets) == 0 {
		return nil
	}
	newest, err := secret.New(a.resolved.Secrets[0])
	if err != nil {
		return nil // validated before it came here
	}
	for _, firm := range a.unnamedFirms(ctx) {
		if errors.Is(anchor.CheckKeys(a.resolved.AnchorDir(), firm, newest), secret.ErrSealed) {
			firms = append(firms, firm)
		}
	}
	return firms
}

// nameThem is what to do about firms that are left behind.
const nameThem = "keep the older secrets in the Caddyfile, name the firm in a site again and wait until the log says this of it, too; or, if nothing of it is needed any more, take them out"
