package caddymodule

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// resealEvery is how often to look whether records are sealed with an older secret.
	resealEvery = 250 * time.Millisecond
	// activeEvery is how often to look whether this configuration is the one that runs: until then
	// a secret that it takes out goes on opening.
	activeEvery = 20 * time.Millisecond
)

// reseal has the secrets of this configuration seal, and seals with the newest one what an
// older one has sealed, until ctx ends, so that the older one can be taken out of the
// configuration. It begins once this configuration is the one that runs: the one before may
// have only the older secret, and goes on if this one can't be started.
func (a *App) reseal(ctx context.Context) {
	tick := time.NewTicker(activeEvery)
	defer tick.Stop()
	for failed := false; ; {
		if runningApp() == a {
			tick.Reset(resealEvery)
			a.speak()
			err := a.takeOver(ctx)
			wrong := err != nil && !errors.Is(err, store.ErrUnavailable)
			if wrong && !failed {
				a.log.Error("the store can't be used with this configuration; correct it and reload", "error", err)
			}
			failed = wrong
			for _, f := range a.firms {
				if err == nil && f.Anchor.Behind() {
					a.resealFirm(ctx, f)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeOver has the secrets of this configuration seal from now on. Until then nothing in the
// store is sealed with a new one. Of a store that came late it makes sure what Start does for
// others, that the secret is the store's; until then each firm's anchor answers for it.
func (a *App) takeOver(ctx context.Context) error {
	a.takingOver.Lock()
	defer a.takingOver.Unlock()
	if a.sealing.Load() {
		return nil
	}
	if _, err := a.secrets().Open(ctx, a.engine.Store, true); err != nil {
		return err
	}
	for _, f := range a.firms {
		if err := f.Anchor.SetKeys(ctx, a.keys); err != nil {
			return err
		}
	}
	a.engine.Keep(keptKeys, nil).(*secret.Keyring).Adopt(a.keys)
	a.sealing.Store(true)
	return nil
}

// resealFirm seals everything of the firm with the newest secret.
func (a *App) resealFirm(ctx context.Context, f *firm) {
	switch err := f.Reseal(ctx); {
	case err == nil:
		if others := a.leftBehind(ctx); len(others) > 0 {
			f.Log.Warn("everything of this firm is sealed with the newest secret, but records of firms that no site names still need an older one", "firms", others, "what_to_do", nameThem)
			return
		}
		f.Log.Info("everything is sealed with the newest secret; the older ones can be taken out of the Caddyfile")
	case ctx.Err() == nil && !errors.Is(err, store.ErrConflict):
		f.Log.Error("not everything is sealed with the newest secret yet, so the older ones must stay in the Caddyfile; it is tried again", "error", err)
	}
}
