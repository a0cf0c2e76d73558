package gate

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// status serves requests of programs, and the logo.
type status struct {
	firm      string
	answers   *web.Answers
	visitors  *visitor.Visitors
	sessions  *session.Sessions
	assertion *assertion.Signer
	logo      *Logo // nil if the firm has none
}

// Logo is a firm's logo, served at {prefix}/logo.
type Logo struct {
	Type string // media type
	Data []byte
}

// getMe returns the signed-in visitor to scripts of the portal's pages.
func (s *status) getMe(w http.ResponseWriter, r *http.Request) error {
	v, err := s.visitors.Of(r)
	if errors.Is(err, visitor.ErrNone) {
		s.answers.SignInNeeded(w, r)
		return nil
	} else if err != nil {
		return err
	}
	companies := v.Contact.Companies
	if companies == nil {
		companies = []string{}
	}
	return web.WriteJSON(w, http.StatusOK, "application/json", struct {
		Email     string    `json:"email"`
		FirstName string    `json:"first_name"`
		LastName  string    `json:"last_name"`
		Role      string    `json:"role"`
		Firm      string    `json:"firm"`
		Companies []string  `json:"companies"`
		ExpiresAt time.Time `json:"expires_at"`
	}{
		string(v.Contact.Emails[0]), v.Contact.FirstName, v.Contact.LastName, string(v.Contact.Role), s.firm,
		companies, s.sessions.ExpiresAt(v.Live).UTC().Truncate(time.Second),
	})
}

// getKeys publishes the keys for checking assertions. It is the only page that caches may store,
// for a time that is short compared with a key's lifetime.
func (s *status) getKeys(w http.ResponseWriter, r *http.Request) error {
	set, err := s.assertion.Public(r.Context())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(set)
	return nil
}

// getHealth answers 204 if the gate can serve, which requires that its store responds.
func (s *status) getHealth(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := s.sessions.Store.Get(ctx, store.Key{Firm: s.firm, Bucket: "health", ID: "probe"})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	web.SetNeverCached(w.Header())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *status) getLogo(w http.ResponseWriter, _ *http.Request) error {
	if s.logo == nil {
		return web.ErrNotFound
	}
	h := w.Header()
	h.Set("Content-Type", s.logo.Type)
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("X-Content-Type-Options", "nosniff")
	// A drawing may contain scripts: opened by itself, it is displayed without running them.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	_, _ = w.Write(s.logo.Data)
	return nil
}
