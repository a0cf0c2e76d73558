package action

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// ReplayTime is how long after a sign-in the same link lets the same browser in again: people
// double-click a link, and only the second answer is shown.
const ReplayTime = 10 * time.Second

const (
	// replayBucket has, by link and browser, the cookie of the session that began. It is sealed
	// for the flow cookie: neither the store nor the secret opens it.
	replayBucket  = "double"
	replayVersion = 1 // first byte of a value
)

// Replay is the store's half of the replay cache, by which other gates, and this one after a
// reload, answer the second click on a link.
type Replay struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time
}

// Find returns the cookie of the session that the browser with this flow cookie began by the
// link (its ID) a moment ago; "" where there is none. The error is the store's.
func (p *Replay) Find(ctx context.Context, link, flow string) (cookie string, err error) {
	if flow == "" || link == "" {
		return "", nil
	}
	k := p.key(link, flow)
	rec, err := p.Store.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	if len(rec.Value) == 0 || rec.Value[0] != replayVersion {
		return "", nil // a newer gate's
	}
	plain, err := p.Keys.OpenFor(flow, replayBucket, k.ID, rec.Value[1:])
	if err != nil {
		return "", nil // sealed with a secret that isn't ours any more
	}
	return string(plain), nil
}

// put returns the Ops by which other gates know of a session that begins by a link (its ID; "":
// by something else).
func (p *Replay) put(link, flow, cookie string) []store.Op {
	if flow == "" || link == "" {
		return nil
	}
	k := p.key(link, flow)
	sealed := p.Keys.SealFor(flow, replayBucket, k.ID, []byte(cookie))
	return []store.Op{store.Put(k, append([]byte{replayVersion}, sealed...), p.Now().Add(ReplayTime))}
}

func (p *Replay) key(link, flow string) store.Key {
	return store.Key{Firm: p.Firm, Bucket: replayBucket, ID: p.Keys.MAC(replayBucket+"-id", p.Firm, link, token.BrowserOf(flow))}
}
