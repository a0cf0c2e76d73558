// Package gate controls access to the portal: it stands in front of it, asks visitors who aren't
// signed in for their address, and tells the portal who a signed-in visitor is.
//
// Read Gate.ServeHTTP first: it is the flow of every request. Below it are the table of the gate's
// own pages, and New, which sets up all parts.
//
//	classify.go   the class of a request
//	visitor       the signed-in visitor (package visitor)
//	portal.go     requests for the portal, by old links and companies; the pure function
//	              facts.decide makes the decision
//	answer.go     the portal's responses
//	legacy.go, visit.go, insecure.go   old links, their visits, and requests without TLS
//	signin        the prompt, link, code and password (package signin)
//	account       visitors' own data and devices (package account)
//	upstream      the headers and cookies for the portal (package upstream)
//
// A POST of the sign-in page commits a mail request (action.MailRequests); a worker of the outbox
// prepares the mail (action.MailJobs); the link in it works once, because a single store.Apply
// spends it and begins the session (action.SignIn).
package gate

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/doorpost-auth/doorpost/caddymodule/account"
	"github.com/doorpost-auth/doorpost/caddymodule/api"
	"github.com/doorpost-auth/doorpost/caddymodule/console"
	"github.com/doorpost-auth/doorpost/caddymodule/mailbox"
	"github.com/doorpost-auth/doorpost/caddymodule/signin"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Gate is the gate of one firm. Create it with New.
type Gate struct {
	rules    rules
	insecure *insecure
	visitors *visitor.Visitors
	forward  *forwarder // to the portal

	routes  map[string]route // the gate's own pages, by path under the prefix
	origins *web.OriginCheck
	answers *web.Answers
	ways    *wayback.Ways
	signin  *signin.Handlers
	account *account.Handlers
	console *console.Handlers
	status  *status
	api     *api.Handler     // nil if there is none
	mailbox *mailbox.Mailbox // nil if there is none

	warnedTaken atomic.Bool // a warning was logged that a page of the site uses a path under the prefix
}

// ServeHTTP serves every request. portal is the application behind the gate.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, portal http.Handler) {
	if k, ok := w.(upstream.HeaderKeeper); ok {
		k.Keep(upstream.IsOwnHeader)
	}
	kind := g.rules.classify(r)
	if g.redirectName(w, r, kind) {
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
		r = web.WithLocale(r)
		g.finish(w, r, g.serveOwn(w, r))
		return
	}
	r, kept := g.signin.TakeKeptMark(r)
	upstream.StripIdentity(r) // remove headers with which visitors claim an identity
	referer := r.Header["Referer"]
	g.forward.hideReferer(r.Header, kind)
	v, err := g.visitors.Of(r)
	if err == nil && kept != nil && !kept.MayBe(v) {
		g.signin.AskWhose(w, r, v)
		return
	}
	if err == nil || errors.Is(err, visitor.ErrNone) || kind == Open {
		err = g.forward.servePortal(w, r, kind, v, referer, portal)
	}
	if err != nil {
		web.LeaveBody(w, r)
		g.answers.Fail(w, r, err) // such as an unavailable store: access is denied, without reporting the visitor as signed out
	}
}

// routeTable returns the gate's own pages by their paths under the prefix. The mailbox's pages are
// below mailbox.Path, and reports are below account.ReportsPath.
func (g *Gate) routeTable() map[string]route {
	s, a, c := g.signin, g.account, g.console
	routes := map[string]route{
		"/sign-in":          {get: s.GetSignIn, post: s.PostSignIn},
		"/sent":             {get: s.GetSent},
		"/code":             {get: s.GetCode, post: s.PostCode},
		"/link":             {get: s.GetLink, post: s.PostLink},
		signin.SignedInPath: {get: s.GetSignedIn},
		"/go":               {get: g.forward.getGo},

		"/account":   {get: a.GetAccount},
		"/companies": {get: a.GetCompanies},
		"/reports":   {get: a.ToReports},
		"/reports/":  {get: a.GetReports},
		"/devices":   {get: a.ToAccount, post: a.PostDevices},
		"/sign-out":  {get: a.GetSignOut, post: a.PostSignOut},

		"/staff":               {get: c.ToHome},
		"/staff/":              {get: c.GetHome},
		"/staff/contacts":      {get: c.GetContacts, post: c.PostContacts},
		"/staff/contact":       {get: c.GetContact, post: c.PostContact},
		"/staff/edit":          {get: c.GetEdit, post: c.PostEdit},
		"/staff/code":          {get: c.GetCode, post: c.PostCode},
		"/staff/remove":        {get: c.GetRemove, post: c.PostRemove},
		"/staff/add":           {get: c.GetAdd, post: c.PostAdd},
		"/staff/look":          {get: c.ToHome, post: c.PostLook},
		"/staff/companies":     {get: c.GetCompanies, post: c.PostCompanies},
		"/staff/company":       {get: c.GetCompany, post: c.PostCompany},
		"/staff/report":        {get: c.ToHome, post: c.PostReport},
		"/staff/announce":      {get: c.GetAnnounce, post: c.PostAnnounce},
		"/staff/preview":       {get: c.GetPreview},
		"/staff/preview/frame": {get: c.GetPreviewFrame},
		"/staff/view":          {get: c.GetView},
		"/staff/view/frame":    {get: c.GetViewFrame},
		"/staff/emails":        {get: c.GetEmails, post: c.PostEmails},
		"/staff/devices":       {get: c.GetDevices, post: c.PostDevices},
		"/staff/log":           {get: c.GetLog, post: c.PostLog},
		"/staff/log.csv":       {get: c.ToHome, post: c.PostLogFile},

		"/me":        {get: g.status.getMe},
		"/jwks.json": {get: g.status.getKeys},
		"/health":    {get: g.status.getHealth},
		"/logo":      {get: g.status.getLogo},
	}
	if s.Passwords != nil {
		routes["/password"] = route{get: s.GetPassword, post: s.PostPassword}
		routes["/help"] = route{get: s.GetHelp, post: s.PostHelp}
		routes["/password/set"] = route{get: s.GetSetPassword, post: s.PostSetPassword}
		routes["/password/change"] = route{get: a.ToAccount, post: a.PostChange}
		routes["/password/remove"] = route{get: a.ToAccount, post: a.PostRemove}
	}
	return routes
}

// finish answers for a handler of the gate's own pages that returned an error.
func (g *Gate) finish(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case err == nil:
	case errors.Is(err, visitor.ErrNone):
		g.signin.Prompt(w, r)
	default:
		g.answers.Fail(w, r, err)
	}
}

// Run does what the gate does beside requests, until ctx ends.
func (g *Gate) Run(ctx context.Context) { g.console.Overviews.Run(ctx) }

// Refuse answers a request that Caddy or the portal couldn't serve and must not answer themselves:
// a person gets a page, a program gets JSON. The caller logs it.
func (g *Gate) Refuse(w http.ResponseWriter, r *http.Request, status int) {
	g.answers.Fail(w, r, &web.Failure{Status: status, Page: web.MessageFor(status)})
}

// EndRequests cancels requests in flight that their session or the store no longer allows. Call it
// every session.SweepInterval.
func (g *Gate) EndRequests(ctx context.Context) { g.visitors.EndRequests(ctx) }

// Sync updates cached data with changes by other processes on the store. Call it every few seconds,
// and when another process notifies of a change.
func (g *Gate) Sync(ctx context.Context) error {
	if err := g.forward.Sessions.Sync(ctx); err != nil {
		return err
	}
	if err := g.forward.bound.Sync(ctx); err != nil {
		return err
	}
	return g.forward.Directory.Sync(ctx)
}

// MailboxURL returns the URL of the preview mailbox, or "" if there is none.
func (g *Gate) MailboxURL() string { return g.mailbox.URL() }

// refuse answers a request that the portal must not see.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	web.LeaveBody(w, r)
	w.Header().Set("Connection", "close")
	web.FailProgram(w, r, web.ErrMethod)
}

// redirectName redirects a visitor who opens a page under another name of the same portal to the
// firm's URL, where cookies and mailed links are valid. It doesn't redirect possible sign-in links.
func (g *Gate) redirectName(w http.ResponseWriter, r *http.Request, kind Kind) (done bool) {
	sites := g.answers.Sites
	if !sites.IsName(r.Host) || !web.OpensPage(r) || kind == Refused || kind == Own && (r.URL.RawQuery != "" || !plain(r.URL)) {
		return false
	}
	to := g.ways.Shortened(r.URL, wayback.MaxMoved)
	if kind != Own && g.ways.Legacy.MayHoldToken(r.URL) {
		to = g.ways.SealPath(to)
	}
	_ = found(w, sites.URL.Scheme+"://"+sites.URL.Host+to)
	return true
}
