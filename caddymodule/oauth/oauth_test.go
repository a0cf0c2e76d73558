package oauth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// provider is a token endpoint whose refresh tokens work once each.
type provider struct {
	*httptest.Server

	mu      sync.Mutex
	valid   string // the refresh token that works
	asked   int
	refuse  map[string]string // an answer in place of a token
	rotates bool
	slow    time.Duration
}

func newProvider(t *testing.T) *provider {
	p := &provider{valid: "refresh-0", rotates: true}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	time.Sleep(p.slow)
	p.asked++
	w.Header().Set("Content-Type", "application/json")
	answer := func(status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	switch {
	case p.refuse != nil:
		answer(400, p.refuse)
	case r.FormValue("grant_type") != "refresh_token" || r.FormValue("client_id") != "client" || r.FormValue("client_secret") != "client-secret":
		answer(401, map[string]string{"error": "invalid_client"})
	case r.FormValue("refresh_token") != p.valid:
		answer(400, map[string]string{"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
	default:
		out := map[string]any{"access_token": fmt.Sprint("access-", p.asked), "token_type": "Bearer", "expires_in": 3600}
		if p.rotates {
			p.valid = fmt.Sprint("refresh-", p.asked)
			out["refresh_token"] = p.valid
		}
		answer(200, out)
	}
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var keys = func() *secret.Keyring {
	k, err := secret.New([]byte("a secret for tests, and nothing else"))
	if err != nil {
		panic(err)
	}
	return k
}()

// world is a store, a clock and a provider.
type world struct {
	*provider
	db store.Store
	*clock
}

func newWorld(t *testing.T) world {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return world{newProvider(t), db, &clock{at: time.Now()}}
}

// gate is one process of several on the store.
func (w world) gate() *Source {
	return &Source{Name: "mail.", TokenURL: w.URL, ClientID: "client", ClientSecret: "client-secret", RefreshToken: "refresh-0", Store: w.db, Keys: keys, Now: w.now}
}

func get(t *testing.T, s *Source, refused string) string {
	t.Helper()
	token, err := s.AccessToken(t.Context(), refused)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenIsRefreshedBeforeItExpires(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	first := get(t, g, "")
	w.advance(50 * time.Minute)
	if got := get(t, g, ""); got != first || w.count() != 1 {
		t.Errorf("after 50 minutes %q, asked %d times; want the same, once", got, w.count())
	}
	w.advance(6 * time.Minute)
	if got := get(t, g, ""); got == first || w.count() != 2 {
		t.Errorf("four minutes before the end %q, asked %d times; want another one", got, w.count())
	}
}

// A refresh token that the provider has put in the place of the last one survives restarts and is
// known to other gates; one that the operator configures anew is used from then on.
func TestARotatedRefreshTokenIsKept(t *testing.T) {
	w := newWorld(t)
	get(t, w.gate(), "")
	for range 3 {
		w.advance(time.Hour)
		get(t, w.gate(), "") // after a restart
	}
	if w.count() != 4 {
		t.Errorf("asked %d times; want 4", w.count())
	}
	w.advance(time.Hour)
	w.provider.mu.Lock()
	w.valid = "consented-anew"
	w.provider.mu.Unlock()
	anew := w.gate()
	if _, err := anew.AccessToken(t.Context(), ""); err == nil {
		t.Error("with the replaced refresh token = nil; want an error")
	}
	anew = w.gate()
	anew.RefreshToken = "consented-anew"
	get(t, anew, "")
	recs, err := w.db.Scan(t.Context(), Firm, Bucket, "", "", 10)
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d records, %v; want 1", len(recs), err)
	}
	for _, readable := range []string{"refresh-", "consented", "access-"} {
		if strings.Contains(string(recs[0].Value), readable) {
			t.Errorf("the store has %q in clear", readable)
		}
	}
}

// The store may be an older copy, whose refresh token was replaced since.
func TestTheConfiguredTokenHelpsWhereTheStoredOneIsOver(t *testing.T) {
	w := newWorld(t)
	get(t, w.gate(), "")
	w.advance(time.Hour)
	w.provider.mu.Lock()
	w.valid = "refresh-0"
	w.provider.mu.Unlock()
	get(t, w.gate(), "")
}

// Of gates that need a token at the same time one asks: a refresh token works once.
func TestGatesThatRefreshAtOnceAskOnce(t *testing.T) {
	w := newWorld(t)
	w.slow = 200 * time.Millisecond
	for round := range 3 {
		var all sync.WaitGroup
		for range 6 {
			g := w.gate()
			all.Go(func() {
				for range 2 {
					if _, err := g.AccessToken(context.Background(), ""); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if w.count() != round+1 {
			t.Errorf("round %d: asked %d times; want once a round", round, w.count())
		}
		w.advance(time.Hour)
	}
}

func TestARefusedAccessTokenIsReplacedUnlessItIsNew(t *testing.T) {
	w := newWorld(t)
	g := w.gate()
	first := get(t, g, "")
	if got := get(t, g, first); got != first {
		t.Error("a new token that is refused is replaced at once; want it kept for a while")
	}
	w.advance(6 * time.Minute)
	if got := get(t, g, first); got == first {
		t.Error("a token that is refused isn't replaced")
	}
}

// A process that is killed while it refreshes holds up the others for a while, not for ever.
func TestAProcessThatDiesWhileRefreshingHoldsUpNobodyForLong(t *testing.T) {
	w := newWorld(t)
	dead := w.gate()
	rec, err := dead.bucket().Find(t.Context(), dead.Name)
	if err != nil {
		t.Fatal(err)
	}
	op, err := dead.bucket().Write(rec, record{First: dead.first(), Refresh: "refresh-0", Busy: w.now().Add(lease)}, w.now().Add(time.Hour))
	if err == nil {
		err = w.db.Apply(t.Context(), op)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.gate().AccessToken(ctx, ""); err == nil {
		t.Error("while another process refreshes = nil; want to wait")
	}
	w.advance(lease)
	get(t, w.gate(), "")
}

func TestErrorsSayWhatToDoAndHoldNoSecret(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ code, said, want string }{
		{"invalid_grant", "AADSTS700082: The refresh token has expired due to inactivity.\r\nTrace ID: 1f2 Timestamp: 2026-01-02", "invalid_grant (AADSTS700082: The refresh token has expired due to inactivity.): the refresh token has expired or was replaced; sign in"},
		{"invalid_grant", "AADSTS65001: The user or administrator has not consented", "consent was withdrawn, or"},
		{"invalid_grant", "Token has been expired or revoked.", "sign in to the account and consent once more"},
		{"invalid_client", "AADSTS7000222: The provided client secret keys are expired.", "make a new one at the provider, and write it as client_secret"},
		{"invalid_client", "AADSTS7000215: Invalid client secret provided: client-secret", "check client_id and client_secret"},
		{"invalid_request", "AADSTS90002: Tenant 'x' not found.", "check tenant"},
		{"temporarily_unavailable", "token refresh-0 eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsImtpZCI6", "ask the provider"},
		{"", "", "this isn't an answer of OAuth; check the token URL"},
	} {
		w.provider.mu.Lock()
		w.refuse = map[string]string{"error": c.code, "error_description": c.said}
		w.provider.mu.Unlock()
		_, err := w.gate().AccessToken(t.Context(), "")
		if err == nil || !strings.HasPrefix(err.Error(), "OAuth: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v; want %q", c.code, c.said, err, c.want)
			continue
		}
		for _, secret := range []string{"client-secret", "refresh-0", "eyJ0", "Trace", "\n"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error has %q: %v", c.code, secret, err)
			}
		}
	}
	w.Close()
	if _, err := w.gate().AccessToken(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without a provider: %v; want that the connection is refused", err)
	}
}

func TestResealedTokensOpenWithTheNewSecretAlone(t *testing.T) {
	w := newWorld(t)
	first := get(t, w.gate(), "")
	newer := []byte("a newer secret for tests, nothing else")
	both, err := secret.New(newer, []byte("a secret for tests, and nothing else"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Reseal(t.Context(), w.db, both, w.now); err != nil {
		t.Fatal(err)
	}
	alone, err := secret.New(newer)
	if err != nil {
		t.Fatal(err)
	}
	g := w.gate()
	g.Keys = alone
	if got := get(t, g, ""); got != first {
		t.Errorf("after the secret was replaced %q; want %q", got, first)
	}
}
