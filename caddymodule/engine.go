package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// engines are the open stores by place. This is the one package variable
// that changes: on a reload Caddy starts the new config before it stops the old one,
// and both need the one file that only one process can hold.
var engines = caddy.NewUsagePool()

// openStore opens the store. others is nil where no other process can have it open.
// late: a server that can't be reached yet is no error.
func openStore(p config.Place, clock *clock, log *slog.Logger, late bool) (s store.Store, others *redis.Store, err error) {
	if p.Path != "" {
		s, err = bolt.Open(p.Path, bolt.Options{Clock: clock.Now, Log: log})
		return s, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	others, err = redis.Open(ctx, redis.Options{URL: p.URL, Username: p.Username, Password: p.Password, Clock: clock.Now, Log: log, Late: late})
	return others, others, err
}

// openTime is what a start waits for the store.
const openTime = 10 * time.Second

// engine is what outlives a reload: the store, and what firms keep in memory.
type engine struct {
	store  store.Store
	others *redis.Store // the same store, where other processes may have it open; else nil
	clock  *clock       // the one that the store judges by
	log    *newestLog

	greeted atomic.Bool // see first
	stop    context.CancelFunc
	running sync.WaitGroup // what goes on as long as the store is open

	mu   sync.Mutex
	kept map[string]any
}

// Destruct closes the store, when the last share of it is gone, and before it whatever
// was kept and has to be closed.
func (e *engine) Destruct() error {
	for _, v := range e.kept {
		if c, ok := v.(io.Closer); ok {
			if err := c.Close(); err != nil {
				e.log.to.Load().Error("closing what was kept", "error", err)
			}
		}
	}
	e.stop()
	e.running.Wait()
	return e.store.Close()
}

// first reports whether this is the first config that the engine serves, rather than
// one that a reload brought.
func (e *engine) first() bool { return !e.greeted.Swap(true) }

// keep returns what is kept under the name, which fresh makes the first time. It
// stays until the store closes, over every reload; fresh mustn't call keep.
func (e *engine) keep(name string, fresh func() any) any {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, ok := e.kept[name]
	if !ok {
		v = fresh()
		e.kept[name] = v
	}
	return v
}

// has reports whether something is kept under the name.
func (e *engine) has(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.kept[name]
	return ok
}

// keepIf is keep where fresh may fail: then nothing is kept.
func (e *engine) keepIf(name string, fresh func() (any, error)) (v any, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v, ok := e.kept[name]; ok {
		return v, nil
	}
	v, err = fresh()
	if err == nil {
		e.kept[name] = v
	}
	return v, err
}

// anchors returns those that are kept.
func (e *engine) anchors() (all []*anchor.Store) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.kept {
		if s, ok := v.(*anchor.Store); ok {
			all = append(all, s)
		}
	}
	return all
}

// keptKeys names the keyring that everything of an engine seals with. It holds the secrets
// of the configuration that runs: one that is being loaded may fail, and what runs must be
// able to open whatever it wrote.
const keptKeys = "keys"

// share is one config's hold on an engine, counted per request as well: on a reload
// Caddy cleans up the old config while its requests may still be under way.
type share struct {
	users atomic.Int64 // the config itself is one of them until Cleanup
	place config.Place
}

// newestLog is a slog.Handler that writes to the log of the newest config that
// started: that of the config which opened the engine ends with it.
type newestLog struct{ to atomic.Pointer[slog.Logger] }

func (l *newestLog) handler() slog.Handler { return l.to.Load().Handler() }

// Enabled implements slog.Handler.
func (l *newestLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *newestLog) Handle(ctx context.Context, r slog.Record) error {
	return l.handler().Handle(ctx, r)
}

// WithAttrs implements slog.Handler; what it returns stays with the log of now.
func (l *newestLog) WithAttrs(attrs []slog.Attr) slog.Handler { return l.handler().WithAttrs(attrs) }

// WithGroup implements slog.Handler; what it returns stays with the log of now.
func (l *newestLog) WithGroup(name string) slog.Handler { return l.handler().WithGroup(name) }

// openEngine opens the store, or takes a share of it if it is open in this process.
// The share is the caller's, to leave once.
func openEngine(p config.Place, log *slog.Logger, late bool) (*engine, *share, error) {
	v, _, err := engines.LoadOrNew(p, func() (caddy.Destructor, error) {
		newest := new(newestLog)
		newest.to.Store(log)
		clock := newClock()
		s, others, err := openStore(p, clock, slog.New(newest), late)
		if err != nil {
			return nil, err
		}
		e := &engine{store: s, others: others, clock: clock, log: newest, kept: make(map[string]any)}
		return e, e.begin()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	s := &share{place: p}
	s.users.Store(1)
	return v.(*engine), s, nil
}

// begin begins what goes on as long as the store is open. After an error the store is closed.
func (e *engine) begin() error {
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	if e.others != nil { // of many clocks, one that is wrong mustn't set all others
		return nil
	}
	behind, err := e.clock.resume(ctx, e.store)
	if err != nil {
		stop()
		return errors.Join(err, e.store.Close())
	}
	if behind > time.Minute {
		slog.New(e.log).Warn("this machine's clock says an earlier time than when the store was last open; set it right (NTP)",
			"behind", behind.Round(time.Second).String(), "made_up_for", behind <= mostBehind)
	}
	e.running.Go(func() { e.clock.keepNoting(ctx, e.store) })
	return nil
}

// enter adds a user; false when the last one has left.
func (s *share) enter() bool {
	for {
		n := s.users.Load()
		if n == 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave takes the user away; the last one gives the share back.
func (s *share) leave() error {
	if s.users.Add(-1) > 0 {
		return nil
	}
	_, err := engines.Delete(s.place)
	return err
}

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

// openKeys returns the keyring of the secrets, or of the secret file when there are
// none; it makes that file for a new store. A secret that isn't the store's is an
// error and changes nothing. With seals, the newest one closes the canary from now on.
func (a *App) openKeys(ctx context.Context, s store.Store, at config.Place, secrets [][]byte, seals bool) (keys *secret.Keyring, err error) {
	for range 3 { // another process may start at the same time on the same new store
		if keys, err = a.tryKeys(ctx, s, at, secrets, seals); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return keys, err
}

func (a *App) tryKeys(ctx context.Context, s store.Store, at config.Place, secrets [][]byte, seals bool) (*secret.Keyring, error) {
	rec, err := s.Get(ctx, canary)
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, fmt.Errorf("reading the store %s: %w", at, err)
	}
	from := "the one that is configured"
	if len(secrets) == 0 {
		from = a.resolved.SecretPath()
		value, err := config.ReadSecretFile(from)
		if errors.Is(err, config.ErrNoSecretFile) {
			if !fresh {
				return nil, fmt.Errorf("secret: %s is gone, and the store %s can't be read without it; put it back from a backup, or write it in the Caddyfile: secret {file./PATH}", from, at)
			}
			if err := a.secretIsNew(from); err != nil {
				return nil, err
			}
			value, err = makeSecretFile(from)
			if err == nil {
				a.log.Warn("made a new secret and an empty store; if this isn't the first start, the data folder was lost, and whatever was upgraded asks for sign-in no more",
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
		return keys, a.takeOverStore(ctx, s, at, rec.Value[0], replace)
	}
	return keys, s.Apply(ctx, replace)
}

// takeOverStore has the Op give the store of an earlier release today's version. A store in a
// file is copied first, so that there is a way back to that release.
func (a *App) takeOverStore(ctx context.Context, s store.Store, at config.Place, version byte, replace store.Op) error {
	todo := "nothing; to go back, bring a copy from before back"
	var kept string
	if db, ok := s.(*bolt.DB); ok {
		var err error
		if kept, err = db.Keep(fmt.Sprintf(".version-%d", version)); err != nil {
			return fmt.Errorf("store: the store is from an earlier Doorpost, and is copied before it is used; nothing was changed: %w", err)
		}
		todo = "nothing; to go back, stop Caddy, put the earlier release in place, and with it: caddy doorpost restore " + kept + " --store " + at.Path
	}
	if err := s.Apply(ctx, replace); err != nil {
		return err
	}
	a.log.Warn("the store of an earlier Doorpost was taken over; that release can't open it any more", "store", at.String(), "copy", kept, "what_to_do", todo)
	for _, firm := range slices.Sorted(maps.Keys(a.named)) {
		if recs, err := s.Scan(ctx, firm, "session", "", "", 1); err == nil && len(recs) > 0 {
			a.log.Warn("everybody signs in once more: the earlier Doorpost didn't seal its sessions, so they aren't taken over", "firm", firm, "what_to_do", "nothing")
		}
	}
	return nil
}

// secretIsNew is an error where a secret was in use before that is gone now: a new one could
// open nothing, and it would hide that the store is gone, too.
func (a *App) secretIsNew(path string) error {
	firms, err := anchor.Firms(a.resolved.AnchorDir())
	if err != nil || len(firms) == 0 {
		return nil
	}
	return fmt.Errorf("secret: %s is gone, and %s was sealed with it; put the secret back from a backup, or, to begin anew without anything that was upgraded, move that folder away",
		path, a.resolved.AnchorDir())
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
