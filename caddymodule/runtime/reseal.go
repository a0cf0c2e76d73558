package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/oauth"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// resealEvery is how often to look whether records are sealed with an older secret.
	resealEvery = 250 * time.Millisecond
	// activeEvery is how often to look whether this configuration runs. Until it does, a secret
	// that it removed still opens records.
	activeEvery = 20 * time.Millisecond
)

// reseal begins to seal with the secrets of this configuration, and seals again with the newest one
// every record that an older one has sealed, until ctx ends, so that the older one can be removed
// from the configuration. It waits until this configuration runs: the previous one may have only
// the older secret, and goes on if this one can't be started.
func (s *Server) reseal(ctx context.Context) {
	tick := time.NewTicker(activeEvery)
	defer tick.Stop()
	for failed := false; ; {
		if s.Running() == s {
			tick.Reset(resealEvery)
			s.speak()
			err := s.takeOver(ctx)
			wrong := err != nil && !errors.Is(err, store.ErrUnavailable)
			if wrong && !failed {
				s.Log.Error("the store can't be used with this configuration; correct it and reload", "error", err)
			}
			failed = wrong
			for _, f := range s.firms {
				if err == nil && f.Anchor.Behind() {
					s.resealFirm(ctx, f)
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

// takeOver seals with the secrets of this configuration from now on; until then nothing in the store
// is sealed with a new one. If the store couldn't be reached at the start, it first checks that the
// secret is the store's, which Start does otherwise; until then each firm's anchor guards the firm.
func (s *Server) takeOver(ctx context.Context) error {
	s.takingOver.Lock()
	defer s.takingOver.Unlock()
	if s.sealing.Load() {
		return nil
	}
	if _, err := s.secrets().Open(ctx, s.Engine.Store, true); err != nil {
		return err
	}
	for _, f := range s.firms {
		if err := f.Anchor.SetKeys(ctx, s.keys); err != nil {
			return err
		}
	}
	s.Engine.Keep(keptKeys, nil).(*secret.Keyring).Adopt(s.keys)
	s.sealing.Store(true)
	return nil
}

// Sealing reports whether takeOver is done: the secrets of this configuration seal.
func (s *Server) Sealing() bool { return s.sealing.Load() }

// resealFirm seals all records of the firm with the newest secret.
func (s *Server) resealFirm(ctx context.Context, f *Firm) {
	err := oauth.Reseal(ctx, s.Engine.Store, f.Directory.Keys, s.Engine.Clock.Now) // which is no firm's
	if err == nil {
		err = f.Reseal(ctx)
	}
	switch {
	case err == nil:
		if others := s.NeedOlderSecret(ctx); len(others) > 0 {
			f.Log.Warn("everything of this firm is sealed with the newest secret, but records of firms that no site names still need an older one", "firms", others, "what_to_do", NameThem)
			return
		}
		f.Log.Info("everything is sealed with the newest secret; the older ones can be taken out of the Caddyfile")
	case ctx.Err() == nil && !errors.Is(err, store.ErrConflict):
		f.Log.Error("not everything is sealed with the newest secret yet, so the older ones must stay in the Caddyfile; it is tried again", "error", err)
	}
}
