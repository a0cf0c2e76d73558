// Package oauth keeps the access token by which Doorpost logs in to a mail server: it gets a new one
// before the old one expires, and stores each refresh token that the provider puts in the place of
// the one before.
//
// All processes on one store share a token: one of them refreshes it while the others wait. What
// is stored is sealed; no token is in a log or an error.
package oauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// Firm and Bucket are where tokens are kept. A token may be shared by several firms; no firm has
	// this id.
	Firm   = "_mail"
	Bucket = "oauth"

	early     = 5 * time.Minute  // before the access token expires, a new one is asked for
	atLeast   = 30 * time.Second // that an access token is good for, to be used while another process refreshes it
	patience  = 20 * time.Second // for the provider's answer
	lease     = 30 * time.Second // of the process that refreshes
	lookEvery = 100 * time.Millisecond
	rest      = 5 * time.Minute // between two access tokens where the mail server refuses the first
	keep      = 365 * 24 * time.Hour
	writeTime = 20 * time.Second // to store a refresh token that the provider has just given
)

// Source returns access tokens of one mail account. Set its fields in one literal. All methods may
// be called from many goroutines.
type Source struct {
	Name         string // of the account among others on this store
	TokenURL     string // RFC 6749, section 3.2
	ClientID     string
	ClientSecret string // "": the client has none
	RefreshToken string // the one that was configured: the first

	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // default time.Now
	HTTP  *http.Client     // default: one of its own

	mu   sync.Mutex
	held access
}

// access is an access token.
type access struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	Since   time.Time `json:"since"`
}

// record is the stored state of an account.
type record struct {
	First   string `json:"first"`   // stands for the configured refresh token that this all began with
	Refresh string `json:"refresh"` // the newest refresh token
	Access  access `json:"access"`

	Busy time.Time `json:"busy,omitzero"` // somebody refreshes it, at most until then
}

// Error says why there is no access token, and what to do.
type Error struct{ What string }

func (e *Error) Error() string { return "OAuth: " + e.What }

// AccessToken returns a token to log in with. refused is one that the mail server didn't take, or
// "": then another one is asked for, unless that one is quite new.
func (s *Source) AccessToken(ctx context.Context, refused string) (string, error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if s.good(held, early, refused) {
		return held.Token, nil
	}
	for {
		rec, err := s.bucket().Find(ctx, s.Name)
		if err != nil {
			return "", fmt.Errorf("OAuth: reading the stored token: %w", err)
		}
		r := rec.Value
		if r.First != s.first() { // another refresh token is configured by now
			r = record{First: s.first(), Refresh: s.RefreshToken}
		}
		now := s.now()
		switch busy := now.Before(r.Busy) && r.Busy.Before(now.Add(2*lease)); {
		case s.good(r.Access, early, refused), busy && s.good(r.Access, atLeast, refused):
			s.hold(r.Access)
			return r.Access.Token, nil
		case busy:
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(lookEvery):
			}
			continue
		}
		r.Busy = now.Add(lease)
		op, err := s.bucket().Write(rec, r, now.Add(keep))
		if err == nil {
			err = s.Store.Apply(ctx, op)
		}
		if errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return "", fmt.Errorf("OAuth: storing that the token is refreshed: %w", err)
		}
		return s.refresh(ctx, r)
	}
}

// good reports whether an access token can be used for so long, and isn't the one that was refused.
// One that is quite new is used all the same: another one would be refused, too.
func (s *Source) good(a access, least time.Duration, refused string) bool {
	now := s.now()
	return a.Token != "" && now.Add(least).Before(a.Expires) && (a.Token != refused || now.Sub(a.Since) < rest)
}

// refresh asks the provider for an access token, and stores it.
func (s *Source) refresh(ctx context.Context, r record) (string, error) {
	got, err := s.ask(ctx, r.Refresh)
	if gone(err) && r.Refresh != s.RefreshToken {
		got, err = s.ask(ctx, s.RefreshToken) // the store may be an older copy
	}
	// What the provider has given must not be lost, even if nobody waits for it any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	r.Busy = time.Time{}
	if err == nil {
		r.Refresh = cmp.Or(got.RefreshToken, r.Refresh)
		r.Access = access{got.AccessToken, expiry(got, s.now()), s.now()}
	}
	stored := s.bucket().Swap(ctx, s.Name, func(was record) (record, time.Time, []store.Op, error) {
		if err != nil {
			was.Busy = time.Time{}
			return was, s.now().Add(keep), nil, nil
		}
		return r, s.now().Add(keep), nil, nil
	})
	switch {
	case err != nil:
		return "", s.explain(err)
	case stored != nil && got.RefreshToken != "" && got.RefreshToken != s.RefreshToken:
		return "", fmt.Errorf("OAuth: storing the new refresh token: %w", stored)
	}
	s.hold(r.Access)
	return r.Access.Token, nil
}

// expiry is when an access token ends; providers that don't say so are taken to mean an hour.
func expiry(t *oauth2.Token, now time.Time) time.Time {
	if t.ExpiresIn > 0 {
		return now.Add(time.Duration(t.ExpiresIn) * time.Second)
	}
	return now.Add(time.Hour)
}

func (s *Source) hold(a access) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = a
}

// ask asks the provider for an access token.
func (s *Source) ask(ctx context.Context, refresh string) (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := s.HTTP
	if client == nil {
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	config := oauth2.Config{ClientID: s.ClientID, ClientSecret: s.ClientSecret, Endpoint: oauth2.Endpoint{TokenURL: s.TokenURL, AuthStyle: oauth2.AuthStyleInParams}}
	return config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client), &oauth2.Token{RefreshToken: refresh}).Token()
}

// gone reports whether the provider doesn't know the refresh token any more.
func gone(err error) bool {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	return ok && refused.ErrorCode == "invalid_grant"
}

// What is left out of a provider's words: what differs from one answer to the next, and what may be
// a token.
var (
	varies  = regexp.MustCompile(`(?is)\s*(trace id|correlation id|timestamp):.*`)
	tokenly = regexp.MustCompile(`\S{30,}`)
)

// explain says what a provider's refusal means, and what to do.
func (s *Source) explain(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return &Error{s.TokenURL + " doesn't answer in time"}
		}
		return &Error{strings.TrimPrefix(s.hide(err.Error()), "oauth2: ")}
	}
	said := strings.Join(strings.Fields(varies.ReplaceAllString(refused.ErrorDescription, "")), " ")
	said = tokenly.ReplaceAllString(s.hide(said), "…")
	if r := []rune(said); len(r) > 200 {
		said = string(r[:200]) + "…"
	}
	says := func(pattern string) bool { return regexp.MustCompile("(?i)" + pattern).MatchString(said) }
	code, do := refused.ErrorCode, ""
	switch {
	case code == "invalid_grant" && says("AADSTS(65001|65004|70000.*consent|50173|50078|50079|53003)|consent|revoked|password"):
		do = "consent was withdrawn, or the account's password or rules were changed; sign in to the account and consent once more, and write the new token as refresh_token"
	case code == "invalid_grant":
		do = "the refresh token has expired or was replaced; sign in to the account and consent once more, and write the new token as refresh_token"
	case code == "invalid_client" && says("expired|AADSTS7000222"):
		do = "the client secret has expired; make a new one at the provider, and write it as client_secret"
	case code == "invalid_client":
		do = "the provider doesn't take the client; check client_id and client_secret"
	case code == "unauthorized_client":
		do = "the provider doesn't allow this client to refresh tokens; check client_id, tenant, and the client's permissions"
	case says("AADSTS(90002|900023)|tenant"):
		do = "there is no such tenant; check tenant"
	case code == "":
		code = refused.Response.Status
		do = "this isn't an answer of OAuth; check the token URL"
		said = ""
	default:
		do = "ask the provider, with these words"
	}
	if said != "" {
		said = " (" + said + ")"
	}
	return &Error{fmt.Sprintf("%s%s: %s", code, said, do)}
}

// hide takes secrets out of a text.
func (s *Source) hide(text string) string {
	for _, secret := range []string{s.ClientSecret, s.RefreshToken} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	return text
}

// first stands for the configured refresh token.
func (s *Source) first() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{s.TokenURL, s.ClientID, s.RefreshToken}, "\x00")))
	return hex.EncodeToString(sum[:])
}

func (s *Source) bucket() *sealed.Bucket[record] { return bucketOf(s.Store, s.Keys, s.Now) }

func bucketOf(db store.Store, keys *secret.Keyring, now func() time.Time) *sealed.Bucket[record] {
	return &sealed.Bucket[record]{Store: db, Keys: keys, Firm: Firm, Name: Bucket, Now: now, Format: 1}
}

// Reseal seals with the newest secret what an older one has sealed.
func Reseal(ctx context.Context, db store.Store, keys *secret.Keyring, now func() time.Time) error {
	_, err := bucketOf(db, keys, now).Reseal(ctx)
	return err
}

func (s *Source) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}
