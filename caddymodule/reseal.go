package caddymodule

import (
	"context"
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// resealEvery is how often to look whether records are sealed with an older secret.
const resealEvery = 250 * time.Millisecond

// reseal seals with the newest secret what an older one has sealed, until ctx ends, so that
// the older one can be taken out of the configuration. It begins once this configuration is
// the one that runs: the one before may have only the older secret, and takes over again if
// this one can't be started.
func (a *App) reseal(ctx context.Context) {
	tick := time.NewTicker(resealEvery)
	defer tick.Stop()
	for {
		if v, err := caddy.ActiveContext().AppIfConfigured("doorpost"); err == nil && v == a {
			for _, f := range a.firms {
				if f.anchor.Behind() {
					f.reseal(ctx)
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

// resealers seal with the newest secret what an older one has sealed, each the records of
// one package.
func (f *firm) resealers() []func(context.Context) error {
	return []func(context.Context) error{f.book.Reseal, f.passwords.Reseal, f.sessions.Reseal, f.tokens.Reseal, f.signer.Reseal,
		f.mails().Reseal, f.devices().Reseal, f.gate.Reseal, f.queue.Reseal, f.audit.Reseal}
}

// mails are the budgets of mails, whose records the gate and the office write.
func (f *firm) mails() *limit.Mails {
	return &limit.Mails{Firm: f.id, Store: f.anchor, Keys: f.tokens.Keys, Now: f.tokens.Now}
}

// devices are those that contacts have signed in on.
func (f *firm) devices() *limit.Devices {
	return &limit.Devices{Firm: f.id, Store: f.anchor, Keys: f.tokens.Keys, Now: f.tokens.Now}
}

func (f *firm) reseal(ctx context.Context) {
	err := f.anchor.Reseal(ctx, func(ctx context.Context) error {
		for _, reseal := range f.resealers() {
			if err := reseal(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		f.log.Info("everything is sealed with the newest secret; the older ones can be taken out of the Caddyfile")
	case ctx.Err() == nil && !errors.Is(err, store.ErrConflict):
		f.log.Error("not everything is sealed with the newest secret yet, so the older ones must stay in the Caddyfile; it is tried again", "error", err)
	}
}
