package assertion_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

const (
	origin    = "https://clients.example.com"
	oldSecret = "an older secret of at least 32 characters, long retired"
	newSecret = "the secret of at least 32 characters that closes today"
	day       = 24 * time.Hour
)

var ann = assertion.Claims{
	Subject: "c-ann", Session: "h-1", Email: "ann@example.com", Name: "Ann Lee", Role: "client", Firm: "example",
	Company: "acme", Companies: []string{"acme", "bolts"}, AuthTime: 1772445600, Methods: []string{"link"},
}

// world is a store, a clock, and Signers that use them.
type world struct {
	t     *testing.T
	path  string
	store *watched
	at    atomic.Pointer[time.Time]
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "doorpost.db")}
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	w.at.Store(&now)
	db, err := bolt.Open(w.path, bolt.Options{Clock: w.now})
	w.must(err)
	t.Cleanup(func() { db.Close() })
	w.store = &watched{Store: db}
	return w
}

func (w *world) now() time.Time { return *w.at.Load() }

func (w *world) move(d time.Duration) {
	t := w.now().Add(d)
	w.at.Store(&t)
}

func (w *world) signer(secrets ...string) *assertion.Signer {
	w.t.Helper()
	if len(secrets) == 0 {
		secrets = []string{newSecret}
	}
	var older [][]byte
	for _, s := range secrets[1:] {
		older = append(older, []byte(s))
	}
	keys, err := secret.New([]byte(secrets[0]), older...)
	w.must(err)
	return &assertion.Signer{Firm: "example", Origin: origin, Store: w.store, Keys: keys, Now: w.now}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sign(s *assertion.Signer) string {
	w.t.Helper()
	token, err := s.Sign(context.Background(), ann)
	w.must(err)
	return token
}

func (w *world) set(s *assertion.Signer) jose.JSONWebKeySet {
	w.t.Helper()
	public, err := s.Public(context.Background())
	w.must(err)
	var set jose.JSONWebKeySet
	w.must(json.Unmarshal(public, &set))
	return set
}

// check verifies an assertion as a portal does, with its set of keys.
func (w *world) check(token string, set jose.JSONWebKeySet) error {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	var claims jwt.Claims
	if err := parsed.Claims(set, &claims); err != nil {
		return err
	}
	return claims.ValidateWithLeeway(jwt.Expected{Issuer: origin, AnyAudience: jwt.Audience{origin}, Time: w.now()}, 0)
}

func kid(t *testing.T, token string) string {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0].KeyID
}

// watched is a store that counts reads, and can fail or block.
type watched struct {
	store.Store
	reads atomic.Int64
	away  atomic.Bool
	block chan struct{} // nil: doesn't block
}

func (s *watched) Get(ctx context.Context, k store.Key) (store.Record, error) {
	s.reads.Add(1)
	if s.block != nil {
		<-s.block
	}
	if s.away.Load() {
		return store.Record{}, fmt.Errorf("pulled the plug: %w", store.ErrUnavailable)
	}
	return s.Store.Get(ctx, k)
}

func TestSign_SetsAllClaims(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	token := w.sign(s)
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	w.must(err)
	head := parsed.Headers[0]
	if head.Algorithm != "ES256" || head.KeyID == "" || head.ExtraHeaders["typ"] != "JWT" {
		t.Errorf("the header is %+v; want ES256, a kid, and the type JWT", head)
	}
	var got map[string]any
	w.must(parsed.Claims(w.set(s), &got))
	iat := float64(w.now().Unix()) - 30 // for a portal whose clock is slow
	want := map[string]any{
		"iss": origin, "aud": origin, "iat": iat, "exp": iat + 90,
		"sub": "c-ann", "sid": "h-1", "email": "ann@example.com", "name": "Ann Lee", "role": "client", "firm": "example",
		"company": "acme", "companies": []any{"acme", "bolts"}, "auth_time": 1772445600.0, "amr": []any{"link"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the claims are\n%v; want\n%v", got, want)
	}

	w.move(assertion.Life)
	if err := w.check(token, w.set(s)); err != nil {
		t.Errorf("at the end of its life: %v", err)
	}
	w.move(time.Second)
	if err := w.check(token, w.set(s)); !errors.Is(err, jwt.ErrExpired) {
		t.Errorf("after it: %v; want ErrExpired", err)
	}
}

func TestPublic_ContainsOnlyPublicKeys(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	w.sign(s)
	w.move(assertion.Rotation)
	public, err := s.Public(t.Context())
	w.must(err)
	set := w.set(s)
	if len(set.Keys) != 3 {
		t.Fatalf("%d keys; want previous, current and next", len(set.Keys))
	}
	for _, k := range set.Keys {
		if !k.IsPublic() || k.Algorithm != "ES256" || k.Use != "sig" || k.KeyID == "" || !k.Valid() {
			t.Errorf("a key of the set: %+v", k)
		}
	}
	var raw struct{ Keys []map[string]any }
	w.must(json.Unmarshal(public, &raw))
	for _, k := range raw.Keys {
		if _, private := k["d"]; private || len(k) != 7 {
			t.Errorf("a key of the set has the fields %v", k)
		}
	}
	rec, err := w.store.Store.Get(t.Context(), store.Key{Firm: "example", Bucket: "signing", ID: "keys"})
	w.must(err)
	file, err := os.ReadFile(w.path)
	w.must(err)
	for _, content := range [][]byte{rec.Value, file} {
		for _, part := range []string{`"d"`, `"kty"`, set.Keys[0].KeyID} {
			if bytes.Contains(content, []byte(part)) {
				t.Errorf("the store holds %s, unsealed", part)
			}
		}
	}
	if !bytes.Contains(file, rec.Value[:128]) {
		t.Error("the record isn't in the file: the search itself is broken")
	}
}

// TestRotation looks at a hundred days, every eight hours, like a portal that fetches the
// set only every 29 days.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	begin := w.now()
	var stale jose.JSONWebKeySet
	fetched := begin.Add(-30 * day)
	published, signed := map[string]time.Time{}, map[string]time.Time{}
	var order []string
	for w.now().Sub(begin) < 100*day {
		set := w.set(s)
		for _, k := range set.Keys {
			if _, known := published[k.KeyID]; !known {
				published[k.KeyID] = w.now()
			}
		}
		if w.now().Sub(fetched) >= 29*day {
			stale, fetched = set, w.now()
		}
		token := w.sign(s)
		id := kid(t, token)
		if _, known := signed[id]; !known {
			signed[id] = w.now()
			order = append(order, id)
		}
		if err := w.check(token, set); err != nil {
			t.Fatalf("day %v: by the set of now: %v", w.now().Sub(begin)/day, err)
		}
		if err := w.check(token, stale); err != nil {
			t.Fatalf("day %v: by a set that is %v old: %v", w.now().Sub(begin)/day, w.now().Sub(fetched), err)
		}
		w.move(assertion.Life) // across every rotation, too
		if err := w.check(token, w.set(s)); err != nil {
			t.Fatalf("day %v: a minute later: %v", w.now().Sub(begin)/day, err)
		}
		w.move(8*time.Hour - assertion.Life)
	}
	if len(order) != 4 || len(published) != 5 {
		t.Errorf("in 100 days %d keys signed and %d were published; want 4 and 5", len(order), len(published))
	}
	for i, id := range order {
		ahead := signed[id].Sub(published[id])
		if i > 0 && ahead < 29*day {
			t.Errorf("key %d signed %v after it was published; want 29 days at least", i, ahead)
		}
		if i > 0 && signed[id].Sub(signed[order[i-1]]) < assertion.Rotation {
			t.Errorf("key %d signed %v after the one before", i, signed[id].Sub(signed[order[i-1]]))
		}
	}
}

func TestRotation_AfterALongPause(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	w.sign(s)
	set := w.set(s)
	w.move(400 * day)
	if err := w.check(w.sign(s), set); err != nil {
		t.Errorf("signed by a key that wasn't published before the sleep: %v", err)
	}
}

func TestRotation_ClockJumps(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	w.sign(s)
	w.move(10 * 365 * day)
	set := w.set(s)
	current := kid(t, w.sign(s))
	w.move(-10 * 365 * day)
	if err := w.check(w.sign(s), set); err != nil {
		t.Errorf("after the clock came back: %v", err)
	}
	if got := kid(t, w.sign(w.signer())); got != current {
		t.Errorf("after the clock came back the key is %s; want %s as before", got, current)
	}
	w.move(assertion.Rotation - time.Minute)
	if got := kid(t, w.sign(s)); got != current {
		t.Errorf("the key moved up before its time")
	}
	w.move(time.Minute)
	if got := kid(t, w.sign(s)); got == current {
		t.Errorf("the key doesn't move up any more")
	}
	now := kid(t, w.sign(s))
	for _, back := range []time.Duration{time.Minute, time.Hour, 23 * time.Hour} {
		w.move(-back)
		if got := kid(t, w.sign(s)); got != now {
			t.Errorf("set back by %v, the key moved", back)
		}
	}
}

func TestTwoSignersOnOneStoreAgree(t *testing.T) {
	w := newWorld(t)
	signers := make([]*assertion.Signer, 8)
	for i := range signers {
		signers[i] = w.signer()
	}
	for _, wait := range []time.Duration{0, assertion.Rotation, assertion.Rotation + day, 3 * assertion.Rotation} {
		w.move(wait)
		tokens := make([]string, len(signers))
		var all sync.WaitGroup
		for i, s := range signers { // concurrently: one rotates the keys, the others use its
			all.Go(func() {
				var err error
				if tokens[i], err = s.Sign(context.Background(), ann); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		set := w.set(signers[0])
		public, err := signers[0].Public(t.Context())
		w.must(err)
		for i, s := range signers {
			if got, err := s.Public(t.Context()); err != nil || !bytes.Equal(got, public) {
				t.Errorf("signer %d publishes %s, %v; want %s", i, got, err, public)
			}
			if err := w.check(tokens[i], set); err != nil {
				t.Errorf("what signer %d signed: %v", i, err)
			}
		}
	}
	// A Signer that hasn't read the store since another rotated the keys.
	w.move(assertion.Rotation - time.Minute)
	lazy, early := w.signer(), w.signer()
	before := kid(t, w.sign(lazy))
	w.move(time.Minute)
	w.sign(early)
	w.move(-time.Second) // by this Signer's clock it isn't time yet
	token := w.sign(lazy)
	if kid(t, token) != before {
		t.Fatal("the lazy one has looked")
	}
	if err := w.check(token, w.set(early)); err != nil {
		t.Errorf("what the lazy one signed, by the set of the other: %v", err)
	}
	w.move(5 * time.Minute)
	if a, b := kid(t, w.sign(lazy)), kid(t, w.sign(early)); a != b {
		t.Errorf("five minutes later they sign with %s and %s", a, b)
	}
}

func TestK02_SigningContinuesWhileTheStoreIsUnavailable(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	w.store.away.Store(true)
	if _, err := s.Sign(t.Context(), ann); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Sign before the keys were ever read = %v; want ErrUnavailable", err)
	}
	if _, err := s.Public(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Public before the keys were ever read = %v; want ErrUnavailable", err)
	}
	w.store.away.Store(false)
	set := w.set(s)
	w.store.away.Store(true)
	for _, wait := range []time.Duration{time.Minute, time.Hour, 28 * day, 2 * day, 27 * day} {
		w.move(wait)
		reads := w.store.reads.Load()
		for range 100 {
			if err := w.check(w.sign(s), set); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.store.reads.Load() - reads; n > 1 {
			t.Errorf("100 assertions asked a store that is away %d times; want once", n)
		}
	}
	// Another Signer may have rotated the keys twice by now.
	w.move(2 * day)
	if _, err := s.Sign(t.Context(), ann); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Sign with a key that nobody may know any more = %v; want ErrUnavailable", err)
	}
	w.store.away.Store(false)
	if err := w.check(w.sign(s), w.set(s)); err != nil {
		t.Errorf("when the store is back: %v", err)
	}
}

func TestK03_ASlowStoreDelaysOneCaller(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	w.sign(s)
	w.move(time.Hour)
	w.store.block = make(chan struct{})
	slow := make(chan error)
	go func() { _, err := s.Sign(context.Background(), ann); slow <- err }()
	for w.store.reads.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		w.sign(s) // would hang
	}
	close(w.store.block)
	w.must(<-slow)
}

func TestSignersWithDifferentSecrets(t *testing.T) {
	w := newWorld(t)
	before := kid(t, w.sign(w.signer(oldSecret)))
	key := store.Key{Firm: "example", Bucket: "signing", ID: "keys"}
	rec, err := w.store.Store.Get(t.Context(), key)
	w.must(err)

	if _, err := w.signer(newSecret).Sign(t.Context(), ann); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("Sign with another secret = %v; want ErrSealed", err)
	}
	if _, err := w.signer(newSecret).Public(t.Context()); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("Public with another secret = %v; want ErrSealed", err)
	}
	after, err := w.store.Store.Get(t.Context(), key)
	if err != nil || !bytes.Equal(after.Value, rec.Value) {
		t.Error("another secret has changed the keys")
	}
	s := w.signer(newSecret, oldSecret)
	if got := kid(t, w.sign(s)); got != before {
		t.Errorf("with the old secret behind the new one the key is %s; want %s", got, before)
	}
	if got, err := w.signer(newSecret).Sign(t.Context(), ann); err != nil || kid(t, got) != before {
		t.Errorf("after that the new secret alone: %v; want the same key", err)
	}
	if _, err := w.signer(oldSecret).Sign(t.Context(), ann); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("after that the old secret alone: %v; want ErrSealed", err)
	}
}

func TestTwoFirmsHaveTheirOwnKeys(t *testing.T) {
	w := newWorld(t)
	s, other := w.signer(), w.signer()
	other.Firm = "other"
	token := w.sign(s)
	if err := w.check(token, w.set(other)); err == nil {
		t.Error("an assertion of one firm passes for another's")
	}
	rec, err := w.store.Store.Get(t.Context(), store.Key{Firm: "example", Bucket: "signing", ID: "keys"})
	w.must(err)
	w.must(w.store.Apply(t.Context(), store.Put(store.Key{Firm: "third", Bucket: "signing", ID: "keys"}, rec.Value, time.Time{})))
	third := w.signer()
	third.Firm = "third"
	if _, err := third.Sign(t.Context(), ann); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("keys moved to another firm = %v; want ErrSealed", err)
	}
	for name, value := range map[string]string{"a later version": "2" + string(rec.Value[1:]), "nothing": ""} {
		w.must(w.store.Apply(t.Context(), store.Put(rec.Key, []byte(value), time.Time{})))
		if _, err := w.signer().Sign(t.Context(), ann); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a record of %s = %v; want ErrUnavailable", name, err)
		}
	}
}

func TestForgedAssertionsAreRejected(t *testing.T) {
	w := newWorld(t)
	s := w.signer()
	set := w.set(s)
	parts := strings.Split(w.sign(s), ".")
	other := strings.Split(w.sign(s), ".")
	for name, token := range map[string]string{
		"no signature":          parts[0] + "." + parts[1] + ".",
		"another's signature":   parts[0] + "." + parts[1] + "." + other[2][1:] + "A",
		"alg none":              "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"a changed payload":     parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2],
		"a set of another firm": strings.Join(parts, "."),
	} {
		by := set
		if name == "a set of another firm" {
			o := w.signer()
			o.Firm = "other"
			by = w.set(o)
		}
		if err := w.check(token, by); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	keys, err := secret.New([]byte(newSecret))
	if err != nil {
		b.Fatal(err)
	}
	s := &assertion.Signer{Firm: "example", Origin: origin, Store: db, Keys: keys}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(context.Background(), ann); err != nil {
			b.Fatal(err)
		}
	}
}
