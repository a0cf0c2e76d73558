// Package gate is a visitor's way in: it stands in front of the portal, asks who isn't
// signed in for an address, signs in who follows the mailed link or types its code,
// and tells the portal who they are.
//
// Read Gate.ServeHTTP first: it is the whole flow. Then classify.go (what kind of
// request is this?), visitor.go (whose is it?), portal.go (what becomes of it, by old
// links and companies), told.go and package upstream (what the portal is told, and its
// cookies), answer.go (what comes back), legacy.go, visit.go and clear.go (old links, those
// without TLS too), prompt.go, mailroom.go, link.go, double.go and code.go (the way in),
// password.go (the other way), setpassword.go and account.go (what people change for
// themselves), newdevice.go and news.go (who is told of it). own.go has the table of our
// own pages; the pages themselves are in package web.
package gate

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Gate is the door of one firm. Set its fields in one literal and pass it to New.
type Gate struct {
	Firm   string   // the firm's id
	Serial uint64   // tells it from other gates of the firm that share its sessions, as at a reload
	URL    *url.URL // what mails link to: scheme and host, no path
	Prefix string   // of our own pages, such as "/-"

	Sites []*url.URL // further sites of the firm, each with a portal of its own: what is asked for there leads back there
	Names []string   // further hosts of the portal at URL, in small letters: pages opened there lead to URL

	Public []Public // what is open to everyone

	Legacy        *legacy.Rules         // old links and companies' paths; nil: there are none
	Usage         *usage.Counter        // of old links; required where there are any
	PortalSession []upstream.CookieRule // how cookies of the portal's are bound, beside its HttpOnly ones
	Identity      upstream.Wanted       // the identity headers that the portal gets; none: all
	ClearStorage  bool                  // browsers clear what scripts have stored, at sign-out and at a change of person

	Book      *directory.Book
	Sessions  *session.Sessions
	Tokens    *token.Tokens
	Queue     *outbox.Queue
	Letters   *brand.Letters
	Assertion *assertion.Signer
	Audit     *audit.Log
	Log       *slog.Logger
	Pages     *web.Pages
	Logo      *Logo               // nil: the firm has none
	Passwords *password.Passwords // nil: the firm has none
	Mailbox   string              // folder of the preview mailbox; "": there is none
	NoNews    bool                // nobody is told by mail of a sign-in on a new device
	Networks  *limit.Networks     // counts over reloads what networks do; nil: for this gate alone

	// Anchor says whether the store is trusted; nil: always. While it isn't, nobody is let
	// in as somebody, whatever is in memory, and old links ask for sign-in.
	Anchor *anchor.Store

	ClientIP func(*http.Request) netip.Addr // the visitor's address; invalid where it isn't known
	Now      func() time.Time               // the clock

	rules   rules
	cookies web.Cookies
	own     map[string]own // by path under Prefix
	csrf    *http.CrossOriginProtection
	doubles *doubles
	keys    *secret.Keyring
	bound   *upstream.PortalCookies
	fronted *atomic.Bool // TLS ends in front of this Caddy, which we learned from a request
	endsTLS *atomic.Bool // somebody came with TLS that ends here, so that fronted means nothing
	mails   *limit.Mails
	devices *limit.Devices
	away    *rate.Sometimes // around the log line on a store that keeps the gate from serving
	broken  *rate.Sometimes // around that on any other error
	sprayed *rate.Sometimes // around that on passwords that are tried from everywhere
	taken   *atomic.Bool    // the log says that a page of the site has a path under the prefix
	omitted *sync.Map       // the IDs of contacts of whom the log says that they have too many companies for a header
	guessed *rate.Sometimes // around that on old links that are tried
	refused *rate.Sometimes // around those on pages that are refused for what they look like

	last *sealed.Bucket[lastContact] // who signed in on a device most recently, by its ID
}

// Logo is a firm's picture, as it is served at {prefix}/logo.
type Logo struct {
	Type string // its media type
	Data []byte
}

// New makes a gate ready to serve.
func New(g Gate) *Gate {
	g.rules = rules{prefix: g.Prefix, public: g.Public}
	g.cookies = web.CookiesFor(g.URL)
	g.csrf = http.NewCrossOriginProtection()
	if err := g.csrf.AddTrustedOrigin(g.URL.Scheme + "://" + g.URL.Host); err != nil {
		panic("gate: url: " + err.Error()) // validated before it came here
	}
	g.doubles, g.fronted, g.endsTLS = new(doubles), new(atomic.Bool), new(atomic.Bool)
	g.away = &rate.Sometimes{First: 10, Interval: time.Second}
	g.broken = &rate.Sometimes{First: 10, Interval: time.Second}
	g.refused = &rate.Sometimes{First: 10, Interval: time.Minute}
	g.omitted, g.taken = new(sync.Map), new(atomic.Bool)
	g.sprayed = &rate.Sometimes{Interval: 10 * time.Minute}
	g.guessed = &rate.Sometimes{Interval: 10 * time.Minute}
	t := g.Tokens
	g.keys = t.Keys
	g.bound = &upstream.PortalCookies{Firm: g.Firm, Store: t.Store, Keys: t.Keys, Own: g.cookies, Named: upstream.BindingsOf(g.PortalSession), Log: g.Log}
	g.mails = &limit.Mails{Firm: g.Firm, Store: t.Store, Keys: t.Keys, Now: t.Now, Alarm: t.Alarm}
	g.devices = &limit.Devices{Firm: g.Firm, Store: t.Store, Keys: t.Keys, Now: g.Now, Alarm: t.Alarm}
	g.last = &sealed.Bucket[lastContact]{Store: t.Store, Keys: t.Keys, Firm: g.Firm, Name: "device-last", Now: g.Now, Format: '1', Alarm: t.Alarm}
	if g.Networks == nil {
		g.Networks = &limit.Networks{Firm: g.Firm, Store: t.Store, Keys: t.Keys, Now: g.Now}
	}
	g.own = g.pages()
	g.rules.sealed = g.isGone
	return &g
}

// ServeHTTP is the flow of every request. portal is the application behind the gate.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, portal http.Handler) {
	if k, ok := w.(upstream.HeaderKeeper); ok {
		k.Keep(upstream.IsOwnHeader)
	}
	kind := g.rules.classify(r)
	if g.toURL(w, r, kind) {
		web.LeaveBody(w, r)
		return
	}
	switch kind {
	case Refused:
		g.refuse(w, r)
		return
	case Own:
		web.LeaveBody(w, r)
		web.EndSoon(w, r)
		if err := g.serveOwn(w, r); err != nil {
			g.fail(w, r, err)
		}
		return
	}
	r, kept := g.takeKeptMark(r)
	upstream.StripIdentity(r) // nothing that visitors say about themselves reaches the portal
	referer := r.Header["Referer"]
	g.hideReferer(r.Header)
	v, err := g.visitor(r)
	if err == nil && kept != nil && !kept.mayBe(v) {
		g.askWhose(w, r, v)
		return
	}
	if err == nil || errors.Is(err, errNobody) || kind == Open {
		err = g.servePortal(w, r, kind, v, referer, portal)
	}
	if err != nil {
		web.LeaveBody(w, r)
		g.fail(w, r, err) // such as: the store is away. Not let in, and not told to be signed out
	}
}

// Look ends requests in flight whose session is over, whose contact may not sign in any
// more, or that are about a company which the contact doesn't reach any more. It is to be
// called every session.LookEvery.
func (g *Gate) Look(ctx context.Context) {
	g.Sessions.Look(ctx, func(ctx context.Context, l *session.Live) bool {
		v, err := g.resolve(ctx, l)
		if err == nil {
			l.Break(func(company string) bool { return company != "" && !v.reaches(company) })
		}
		return !errors.Is(err, errNobody)
	})
}

// CatchUp has memory follow what other processes on the store have changed. It is to be
// called every few seconds, and when they tell.
func (g *Gate) CatchUp(ctx context.Context) error {
	if err := g.Sessions.CatchUp(ctx); err != nil {
		return err
	}
	if err := g.bound.Reread(ctx); err != nil {
		return err
	}
	return g.Book.CatchUp(ctx)
}
