package gate

import (
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// portalCookies returns the PortalCookies of a portal at https://portal.example.
func portalCookies(t testing.TB) *upstream.PortalCookies {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte("the secret of these tests, 32 long"))
	if err != nil {
		t.Fatal(err)
	}
	return &upstream.PortalCookies{Firm: "example", Store: db, Keys: keys, Gate: web.CookiesFor(&url.URL{Scheme: "https", Host: "portal.example"}),
		Log: slog.New(slog.DiscardHandler)}
}

// first returns the first result of Seal: the cookie without the owner cookie.
func first(cookie, _ string) string { return cookie }

// sent returns the cookie that a browser sends after it received the Set-Cookie line.
func sent(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	return pair
}

// portalGate returns the part of a gate that filters the responses of a portal at that origin.
func portalGate(origin *url.URL, bound *upstream.PortalCookies) *forwarder {
	return &forwarder{answers: &web.Answers{Sites: &site.Sites{URL: origin}}, cookies: web.CookiesFor(origin), bound: bound}
}
