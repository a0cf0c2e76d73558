package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/signin"
	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// forwarder passes requests on to the portal, or decides that they may not reach it.
type forwarder struct {
	Firm      string
	Legacy    *legacy.Rules
	Usage     *usage.Counter
	Directory *directory.Directory
	Sessions  *session.Sessions
	Networks  *limit.Networks
	Audit     *audit.Log
	Unread    *notice.Unread
	Log       *slog.Logger
	Now       func() time.Time

	keys    *secret.Keyring
	cookies web.Cookies
	bound   *upstream.PortalCookies

	rules    rules
	answers  *web.Answers
	visitors *visitor.Visitors
	signin   *signin.Handlers
	ways     *wayback.Ways
	insecure *insecure

	home    homes
	guessed *rate.Sometimes // for the log line about guessed old links
	refused *rate.Sometimes // for the log line about pages refused because of their form
}

// requestContext is the context of a request: whether its URL is an old link or a company's, the company,
// and the visitor.
type requestContext struct {
	legacy.Verdict
	status  directory.AccessStatus // of the company; zero if unknown
	visitor *visitor.Visitor       // nil if nobody is signed in
	visit   *visit                 // nil if there is none
	referer []string               // as received
	bound   upstream.Owner         // owner of the portal's session, if the page is no company's; zero if none

	named   upstream.Owner // company, era and token that the portal sees in the URL, also as a Stray; zero if none
	several bool           // several companies are named, and one portal session would learn of all of them
	open    bool           // the path is open to everyone, and no company's
	apart   bool           // a portal session that began at a page of no company is withheld

	possibleToken bool     // the URL could be an old link for some portal, but matches no pattern: the response must not reveal whether it is one
	tokens        []string // tokens outside of every pattern
	unauthorized  []string // the Strays among them whose companies the visitor doesn't reach
	inPath        bool     // the path has such a token, or text that could be one in the query
	inQuery       bool     // the query has such a token
	routed        bool     // the query may have the path of such a company
	tried         bool     // the path could be an old link but isn't: it counts as a wrong one
	instead       string   // file name for the portal in place of the one in the path, which may be a page of such a company; "" to keep the path
}

// company returns the id of the request's company, or "".
func (a *requestContext) company() string {
	if a.status.Company != "" {
		return a.status.Company
	}
	return a.bound.Company
}

// names records that the portal sees the company in the URL, by the token, or only by its id if
// token is "".
func (a *requestContext) names(s directory.AccessStatus, token string) {
	if a.named.Company != "" {
		a.several = a.several || a.named.Company != s.Company
		return
	}
	if a.named = (upstream.Owner{Company: s.Company, Generation: s.Generation}); token != "" {
		a.named.Token = directory.FingerprintOf(token)
	}
}

// owner returns the owner of the portal's session cookies according to the URL only. Cookies of a
// response that may concern several companies are returned to nobody.
func (a *requestContext) owner() upstream.Owner {
	if a.several {
		return upstream.Owner{Visit: rand.Text()}
	}
	return a.named
}

// decision is the decision about a request for the portal. The zero value is the safe one.
type decision uint8

const (
	prompt            decision = iota // show the prompt
	refuseUnclear                     // refuse: portals disagree on the request's company
	pass                              // pass on with the visitor's identity
	passAnonymous                     // pass on anonymously, by an open company's old link
	passPublic                        // pass on as a request for a public page
	redirectToNewLink                 // redirect to the new link of the same page
	redirectToPrompt                  // redirect to the prompt at a URL that reveals nothing
	notFound                          // answer that the signed-in visitor has no such page
)

// decisionInputs are the inputs of a decision.
type decisionInputs struct {
	kind          legacy.Kind
	public        bool // the path is open to everyone
	known         bool // the company exists, by id or by token
	upgraded      bool // its old links ask for sign-in
	signedIn      bool
	reaches       bool // reaches the company, as a member or as staff
	visiting      bool // has a visit by an open company's old link: of the URL's company, if there is one; otherwise, signed in with the visit's portal session
	load          bool // a person opens a page; false for requests by a page
	unauthorized  bool // the URL has a token or a company's path, outside of every pattern, of a company that the visitor doesn't reach
	possibleToken bool // the URL has a possible token outside of every pattern, known or not
}

func (f decisionInputs) decide() decision {
	signedIn := func(yes bool, s decision) decision {
		switch {
		case !f.signedIn:
			return prompt
		case yes && !f.unauthorized:
			return s
		}
		return notFound
	}
	switch f.kind {
	case legacy.None:
		switch {
		case f.visiting && !f.unauthorized:
			return passAnonymous // even if everyone may: the portal would begin another session there
		case f.signedIn:
			return signedIn(true, pass)
		case f.public && !f.unauthorized:
			return passPublic
		case f.load && f.possibleToken:
			return redirectToPrompt // the gate must not repeat a possible token
		}
		return prompt
	case legacy.Old:
		switch {
		case f.signedIn && f.known && f.reaches && !f.unauthorized:
			if f.upgraded && f.load {
				return redirectToNewLink
			}
			return pass // requests of the portal's own pages: forms, fetches, WebSockets
		case f.known && !f.upgraded && !f.unauthorized:
			return passAnonymous
		case !f.signedIn && f.load:
			return redirectToPrompt
		}
		return signedIn(false, pass)
	case legacy.New, legacy.Company:
		if f.visiting && !f.reaches && !f.unauthorized {
			return passAnonymous
		}
		return signedIn(f.known && f.reaches, pass)
	}
	return refuseUnclear
}

// resolve finds the context of a request. The error is the store's.
func (g *forwarder) resolve(r *http.Request, kind Kind, v *visitor.Visitor) (requestContext, error) {
	a := requestContext{Verdict: g.Legacy.Match(r.URL), visitor: v}
	var err error
	like := false // the portal's database may read the token as one of a company's
	switch a.Kind {
	case legacy.Old:
		a.status, like, err = g.oldStanding(r.Context(), a.Token, a.Lenient || kind == Open)
	case legacy.New, legacy.Company:
		a.status, err = g.Directory.StatusOf(r.Context(), a.Company)
	}
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return a, err
	}
	a.possibleToken = len(a.MisplacedTokens)+len(a.PossibleTokens) > 0
	// A path that only resembles a company's gets the same response for existing and unknown
	// companies. Otherwise visitors could list the firm's clients.
	only := a.status.Company == "" && (a.Kind == legacy.Old && a.Lenient || a.Kind == legacy.Company && (a.Unlikely || a.Lenient && v.IsStaff()) || a.Kind != legacy.Bad && kind == Open)
	if kind == Open && a.Behind {
		only, a.status = true, directory.AccessStatus{} // the operator has declared the path before it public
	}
	if only && !like {
		// It only resembled one, or is a page that the operator has opened: /about beside /{token}.
		// A company of that name, or a token, takes precedence.
		a.possibleToken = a.possibleToken || a.Kind == legacy.Old && a.Lenient
		a.tried = a.Kind == legacy.Old && a.Lenient && !a.Unlikely && kind != Open
		a.Kind = legacy.None
	}
	a.open = kind == Open && a.Kind == legacy.None
	if a.status.Company != "" {
		token := a.Token
		if a.Kind == legacy.New {
			token = a.status.Token // asOld puts it back
		}
		a.names(a.status, token)
	}
	if g.Legacy.HasLinks() {
		if a.visit, err = g.visitOf(r, v); err != nil && (kind != Open || a.Kind != legacy.None) {
			return a, err
		}
	}
	return a, nil
}

// oldStanding returns the access status of the company with an old link's token, or
// directory.ErrUnknown. For a URL that may be a page of the portal instead, like reports whether a
// company has the token, or one that a portal's database may treat as equal.
func (g *forwarder) oldStanding(ctx context.Context, token string, mayBePage bool) (s directory.AccessStatus, like bool, err error) {
	if !mayBePage {
		s, err = g.Directory.StatusByToken(ctx, token)
		return s, false, err
	}
	index, err := g.Directory.Tokens(ctx)
	if err != nil {
		return directory.AccessStatus{}, false, err
	}
	like = len(index.Companies(token)) > 0
	s, err = g.Directory.StatusByToken(ctx, token)
	return s, like || err == nil, err
}

// evaluate returns the context of a request and the inputs of the decision about it. The error is the
// store's.
func (g *forwarder) evaluate(r *http.Request, kind Kind, v *visitor.Visitor) (a requestContext, f decisionInputs, err error) {
	if g.visitors.Anchor.Err() != nil {
		a, f = g.evaluateUntrusted(r, kind, v)
		return a, f, nil
	}
	if a, err = g.resolve(r, kind, v); err == nil {
		f, err = g.decisionInputs(r, kind, &a)
	}
	if err == nil && !g.mayBeRight(r, &a, f) && a.Kind == legacy.Old {
		a.status, a.named, f.known, f.upgraded = directory.AccessStatus{}, upstream.Owner{}, false, false
	}
	return a, f, err
}

// evaluateUntrusted is evaluate while the store isn't trusted: there are no companies and no visits,
// whatever is cached, so that every old link asks for sign-in. Because anything may be a token, the
// portal receives only the path of a public page; see leaveBare.
func (g *forwarder) evaluateUntrusted(r *http.Request, kind Kind, v *visitor.Visitor) (requestContext, decisionInputs) {
	a := requestContext{Verdict: g.Legacy.Match(r.URL), visitor: v}
	a.possibleToken = len(a.MisplacedTokens)+len(a.PossibleTokens) > 0
	a.inPath, a.inQuery = a.possibleToken, r.URL.RawQuery != ""
	if kind == Open && a.Kind != legacy.Bad {
		a.Kind = legacy.None
	}
	return a, decisionInputs{
		kind: a.Kind, public: kind == Open, signedIn: v != nil, unauthorized: a.possibleToken, possibleToken: a.possibleToken,
		load: web.OpensPage(r),
	}
}

// mayBeRight reports whether an old link may give access: not after too many wrong tokens. Every
// token that gives no access counts as wrong; otherwise counting would reveal the tokens of
// companies that ask for sign-in. Members of the company and visitors with a visit to it aren't
// counted. A path that would be an old link with the right token counts, too.
func (g *forwarder) mayBeRight(r *http.Request, a *requestContext, f decisionInputs) bool {
	if !a.tried && (a.Kind != legacy.Old || f.reaches || f.visiting) {
		return true
	}
	ip := g.visitors.ClientIP(r)
	if !g.Networks.Allow(limit.Token, ip) { // counted before the token takes effect
		g.guessed.Do(func() {
			g.Log.WarnContext(r.Context(), "many wrong old links come from one network; until that ends, right ones from there ask for sign-in, too",
				"ip", ip.String(), "what_to_do", "nothing, unless it is the address of your own proxy or CDN: then name it in trusted_proxies")
		})
		return false
	}
	if f.known && !f.upgraded {
		g.Networks.Refund(limit.Token, ip)
	} else {
		g.Networks.WrongToken(ip, a.Token)
	}
	return true
}

// decisionInputs returns the inputs of the decision about a request.
func (g *forwarder) decisionInputs(r *http.Request, kind Kind, a *requestContext) (decisionInputs, error) {
	f := decisionInputs{
		kind: a.Kind, public: kind == Open, known: a.status.Company != "", upgraded: a.status.Upgraded,
		signedIn: a.visitor != nil, possibleToken: a.possibleToken,
	}
	if f.kind == legacy.Old || !f.signedIn { // it doesn't matter for other requests
		f.load = web.OpensPage(r)
	}
	f.reaches = f.signedIn && f.known && a.visitor.Reaches(a.status.Company)
	switch {
	case a.visit == nil:
	case a.Kind != legacy.None:
		f.visiting = a.visit.company == a.status.Company
	case !f.signedIn:
		f.visiting = true
	default:
		var err error
		if f.visiting, err = g.inVisit(r, a.visit); err != nil {
			return f, err
		}
	}
	if !f.mayPass() {
		return f, nil // whatever the rest is, the visitor gets the prompt
	}
	if err := g.findTokens(r, kind, a); err != nil {
		return f, err
	}
	if kind != Open { // public pages may have a return URL in the query, and show no personal data
		documents := 0
		for _, id := range a.Routes {
			if a.reaches(id) {
				continue
			}
			if documents++; legacy.IsDocument(id) && documents <= mostDocuments { // companies hardly ever have such names
				if _, err := g.Directory.StatusOf(r.Context(), id); errors.Is(err, directory.ErrUnknown) {
					continue
				} else if err != nil {
					return f, err
				}
			}
			a.routed = true
		}
	}
	f.unauthorized = a.hasUnauthorized()
	if kind != Open && a.Kind == legacy.None && a.Company != "" {
		return f, g.hideFormat(r.Context(), a)
	}
	return f, nil
}

// hideFormat handles a file name in the path that some portals treat as a page in a format, such as
// /files/acme.json, of a company that the visitor doesn't reach. The portal receives the name of a
// file that doesn't exist, so it answers as if there were no such company.
func (g *forwarder) hideFormat(ctx context.Context, a *requestContext) error {
	for _, stem := range a.Stems {
		if a.reaches(stem) {
			continue
		}
		switch _, err := g.Directory.StatusOf(ctx, stem); {
		case err == nil:
			a.instead = unknown(len(stem)) + a.Company[len(stem):]
		case !errors.Is(err, directory.ErrUnknown):
			return err
		}
	}
	return nil
}

// hasUnauthorized reports whether the URL has a token or path, outside of every pattern, of a company that
// the visitor doesn't reach.
func (a *requestContext) hasUnauthorized() bool {
	return a.inPath || a.routed || len(a.unauthorized) > 0
}

// mayPass reports whether a request may reach the portal unless it has unauthorized tokens.
func (f decisionInputs) mayPass() bool {
	switch f.decide() {
	case pass, passAnonymous, passPublic, redirectToNewLink:
		return true
	}
	return f.signedIn
}

// mostDocuments limits how many document names in a query are looked up among the companies.
const mostDocuments = 3

// findTokens finds the tokens of old links that the URL has outside of every pattern, and those of
// companies that the visitor doesn't reach. All data is in memory.
func (g *forwarder) findTokens(r *http.Request, kind Kind, a *requestContext) error {
	if !g.Legacy.HasLinks() {
		return nil
	}
	index, err := g.Directory.Tokens(r.Context())
	if err != nil {
		return err
	}
	strays := slices.Concat(a.MisplacedTokens, a.PossibleTokens)
	if g.triesTokens(r, a, index, strays) {
		a.inPath = true
		return nil
	}
	for _, token := range strays {
		if ids := index.Companies(token); len(ids) > 0 {
			theirs, err := g.resolveToken(r.Context(), a, token, ids)
			if err != nil {
				return err
			}
			if a.tokens = append(a.tokens, token); !theirs {
				a.unauthorized = append(a.unauthorized, token)
				a.inPath = a.inPath || kind != Open && !slices.Contains(a.MisplacedTokens, token)
			}
		}
	}
	inPath, err := g.findTokensIn(r.Context(), r.URL.Path, kind, a, index)
	if err == nil {
		a.inPath = a.inPath || inPath
		a.inQuery, err = g.findTokensIn(r.Context(), r.URL.RawQuery, kind, a, index)
	}
	return err
}

// mostTokens limits the tokens, in different spellings, that a part of a URL may have.
const mostTokens = 32

// findTokensIn records the tokens in a part of the URL, and reports whether one belongs to a
// company that the visitor doesn't reach.
func (g *forwarder) findTokensIn(ctx context.Context, text string, kind Kind, a *requestContext, index *tokensearch.Index) (foreign bool, err error) {
	var seen []string // one token may occur thousands of times
	for _, hit := range index.Find(text) {
		token := text[hit.Start:hit.End]
		if g.mayGuess(ctx, kind, a, hit) || slices.Contains(hit.Companies, a.status.Company) || slices.Contains(seen, token) {
			continue
		}
		if len(seen) == mostTokens {
			return true, nil // no real URL has so many
		}
		seen = append(seen, token)
		theirs, err := g.resolveToken(ctx, a, token, hit.Companies)
		if err != nil {
			return false, err
		}
		a.tokens = append(a.tokens, token)
		foreign = foreign || !theirs
	}
	return foreign, nil
}

// triesTokens reports whether the request may be one of many that test which tokens are real, by
// the different responses for tokens with little entropy. Real tokens of companies that the visitor
// doesn't reach count like wrong old links.
func (g *forwarder) triesTokens(r *http.Request, a *requestContext, index *tokensearch.Index, strays []string) bool {
	tries, real := false, false
	for _, token := range strays {
		ids := index.Companies(token)
		if !slices.ContainsFunc(ids, a.reaches) {
			tries, real = true, real || len(ids) > 0
		}
	}
	if !tries || a.visitor != nil {
		return false
	}
	ip := g.visitors.ClientIP(r)
	if !g.Networks.Allow(limit.Token, ip) { // counted before the token takes effect
		return true
	}
	if !real {
		g.Networks.Refund(limit.Token, ip)
	}
	return false
}

// mayGuess reports whether an unauthorized token passes, because another response would reveal to an
// attacker who guesses that it is real: a guessable token of open companies only, in a request that
// needs no sign-in. The token of an upgraded company never passes; an attacker gains nothing by
// learning it.
func (g *forwarder) mayGuess(ctx context.Context, kind Kind, a *requestContext, hit tokensearch.Hit) bool {
	return kind == Open && a.visitor == nil && a.visit == nil && hit.Bits < tokensearch.SureBits &&
		!slices.ContainsFunc(hit.Companies, func(id string) bool {
			s, err := g.Directory.StatusOf(ctx, id)
			return err != nil || s.Upgraded
		})
}

// resolveToken records the company of a token that the portal will see, and reports whether the visitor
// reaches that company, or one of several with similar tokens.
func (g *forwarder) resolveToken(ctx context.Context, a *requestContext, token string, ids []string) (theirs bool, err error) {
	i := slices.IndexFunc(ids, a.reaches)
	if i < 0 {
		return false, nil
	}
	s, err := g.Directory.StatusOf(ctx, ids[i])
	if errors.Is(err, directory.ErrUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !s.Has(directory.FingerprintOf(token)) {
		token = ""
	}
	a.names(s, token)
	return true, nil
}

// reaches reports whether the visitor may see the company's pages, by signing in, by a visit or by
// the old link itself.
func (a *requestContext) reaches(company string) bool {
	switch {
	case a.visitor != nil && a.visitor.Reaches(company):
		return true
	case a.visit != nil && a.visit.company == company:
		return true
	}
	return a.Kind == legacy.Old && !a.status.Upgraded && a.status.Company == company
}

// servePortal serves a request for the portal. v is the signed-in visitor or nil; referer is the
// original header.
func (g *forwarder) servePortal(w http.ResponseWriter, r *http.Request, kind Kind, v *visitor.Visitor, referer []string, portal http.Handler) error {
	began := g.Now()
	if g.insecure.opensPage(r) || g.insecure.is(r) && g.Legacy.MayHoldToken(r.URL) {
		return g.insecure.redirect(w, r)
	}
	a, f, err := g.evaluate(r, kind, v)
	if err != nil {
		return err
	}
	asked := r.URL.RawQuery
	if a.inQuery || len(a.unauthorized) > 0 {
		if err := g.maskQuery(r, kind, &a); err != nil {
			return err
		}
		defer func() { r.URL.RawQuery = asked }()
		f.unauthorized = a.hasUnauthorized()
	}
	s := f.decide()
	if a.Kind == legacy.Old && f.known && (f.load || r.Header.Get("Sec-Fetch-Mode") == "") { // not subresources
		g.Usage.Note(a.status.Company, g.useOf(r, f))
	}
	switch s {
	case pass, passAnonymous, passPublic:
		a.referer = referer
		return g.passOn(s, &a, w, r, portal)
	case redirectToNewLink:
		return found(w, g.newURL(&a))
	case refuseUnclear:
		return errUnclear
	}
	web.LeaveBody(w, r)
	r.URL.RawQuery = asked // the visitor may still sign in and use it
	if a.Kind != legacy.None || a.Lenient || a.possibleToken {
		g.waitMinResponseTime(r.Context(), began) // same time for known and unknown links
	}
	switch {
	case s == redirectToPrompt:
		return found(w, g.ways.Seal(r.URL))
	case s == notFound:
		g.tellOfForms(r, &a)
		g.notHere(w, r, a.visitor)
		return nil
	case a.Kind == legacy.Old || a.possibleToken && g.signin.AsksInFrame(r) || a.Token != "":
		g.signin.PromptSealed(w, r)
		return nil
	}
	g.signin.Prompt(w, r)
	return nil
}

// tellOfForms logs that a page was refused because it resembles a company's: if it isn't one, a
// pattern is too wide.
func (g *forwarder) tellOfForms(r *http.Request, a *requestContext) {
	switch {
	case a.routed:
		g.refused.Do(func() {
			g.Log.InfoContext(r.Context(), "a query names a company that the contact doesn't belong to, so the page was refused", "path", g.Legacy.PathForLog(r.URL), "companies", a.Routes)
		})
	case a.Kind == legacy.Company && a.Lenient && a.status.Company == "":
		g.refused.Do(func() {
			g.Log.InfoContext(r.Context(), "a page looks like one of a company, and there is no such company, so it was refused; if it is a page of the portal, write a narrower company_path",
				"path", g.Legacy.PathForLog(r.URL), "company", a.Company)
		})
	}
}

// passOn passes a request on to the portal according to s. It checks the parts of the request other
// than the URL.
func (g *forwarder) passOn(s decision, a *requestContext, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	if to := g.homeOf(r, a); to != "" {
		return web.Redirect(w, to, http.StatusSeeOther)
	}
	if err := g.mayGoThere(r, a.visitor); err != nil {
		web.LeaveBody(w, r)
		return err
	}
	if err := g.maskHeadersAndBody(r, s == passPublic, a); err != nil {
		return err
	}
	if s != passPublic && g.mayTellReferer(r, a) {
		hidden := r.Header["Referer"]
		r.Header["Referer"] = a.referer
		defer func() { r.Header["Referer"] = hidden }() // for logs
	}
	switch s {
	case pass:
		return g.passAs(a, w, r, portal)
	case passAnonymous:
		return g.passVisit(a, w, r, portal)
	}
	return g.passAnonymous(a, w, r, portal)
}

var (
	// errUnclear is the response to a URL that the portal might parse differently.
	errUnclear = &web.Failure{Status: http.StatusBadRequest, Page: web.MessageFor(http.StatusBadRequest)}
	// errNotHere is the same response for an unknown old link and for another company's page.
	errNotHere = &web.Failure{Status: http.StatusNotFound, Page: web.MessagePage{Title: "This page is not in your portal",
		Text: "You’re signed in, but this address can’t open it. The link may be too old, or meant for someone else. Do you think you should see this page? Please ask us.",
		URL:  "/", Link: "Go to your own portal"}}
)

// notFound answers a signed-in visitor who may not open the URL, or for whom it doesn't exist.
func (g *forwarder) notHere(w http.ResponseWriter, r *http.Request, v *visitor.Visitor) {
	if web.ReaderOf(r.Header) == web.Program {
		g.answers.Fail(w, r, errNotHere)
		return
	}
	g.answers.Page(w, r, errNotHere.Status, web.NotHerePage{Email: v.Contact.Emails[0].Display()})
}

// useOf describes the use of an old link.
func (g *forwarder) useOf(r *http.Request, f decisionInputs) usage.Use {
	u := usage.Use{Upgraded: f.upgraded}
	if f.load && !audit.Automatic(r.Method, r.UserAgent(), r.Header.Get("Sec-Fetch-Mode") != "") {
		u.Browser = g.Usage.Browser(g.visitors.ClientIP(r), r.UserAgent())
	}
	return u
}

// found redirects to a path and query on this site that contain no secret.
func found(w http.ResponseWriter, to string) error { return web.Redirect(w, to, http.StatusFound) }

// homeOf returns the target of `/` for a client: the company's home, or the list of companies. It
// returns "" for staff, signed-out visitors and firms without a home, and for visitors who were
// redirected from home to `/`, see avoidRedirectLoop.
func (g *forwarder) homeOf(r *http.Request, a *requestContext) string {
	if a.visitor == nil || r.URL.Path != "/" || r.URL.ForceQuery || strings.HasPrefix(r.URL.RawQuery, "&") || a.Kind != legacy.None || a.visitor.Contact.Role == directory.Staff || !web.IsPageLoad(r) || g.Legacy.Home("x") == "" {
		return ""
	}
	if mine := a.visitor.Contact.Companies; len(mine) == 1 {
		return g.Legacy.Home(mine[0])
	}
	return g.rules.prefix + "/companies"
}

// passAs passes the request on to the portal with the visitor's identity.
func (g *forwarder) passAs(a *requestContext, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	v, sent, mine := a.visitor, r.Header["Cookie"], a.owner()
	mine.Contact, mine.Reach = v.Contact.ID, v.ReachFingerprint
	err := g.bound.Unseal(r.Context(), r.Header, func(h upstream.Owner) (bool, error) { return g.comesBack(r.Context(), a, mine, h) })
	if err != nil {
		return err
	}
	if mine.Company == "" && a.bound.Company != "" {
		mine = a.bound
	}
	company := a.company()
	jwt := ""
	if g.visitors.Wanted.Has("Portal-Assertion") {
		if jwt, err = g.visitors.Assert(r.Context(), v, company); err != nil {
			return err
		}
	}
	was := seenAt(r)
	defer was.restore(r)
	moved, err := g.asOld(r, a)
	if err != nil {
		return err
	}
	g.noteStaffView(r, a)
	g.noteOpened(r, a)
	g.Sessions.Seen(r.Context(), v.Live)
	named := company
	if !g.visitors.Wanted.Has("Portal-Company") {
		named = ""
	}
	v.Identity.SetOn(r.Header, jwt, named)
	ctx, flight := g.Sessions.Attach(r.Context(), v.Live, company)
	defer flight.Done()
	key := a.Kind == legacy.Old || a.possibleToken // by its form, so that it doesn't distinguish real tokens
	if key {
		keepWithinSite(w.Header())
	}
	answer := &portalWriter{sent: sent, ResponseWriter: w, ctx: r.Context(), gate: g, private: true, open: a.open, shared: v.Live.Shared, key: key, apart: a.apart, passed: Passed{v, company},
		owner: mine, old: outgoing{g, r.Host, *r.URL, moved, a.status.Company, v, was.url.Path}}
	if a.visit != nil && a.status.Company != "" && web.IsPageLoad(r) { // back at their own company's pages
		answer.visit = g.cookies.New(g.cookies.Visit, "", -time.Second)
	}
	answer.serve(portal, r.WithContext(context.WithValue(ctx, passedKey{}, &answer.passed)))
	return nil
}

// comesBack reports whether a portal cookie with the owner h is returned to the portal in a
// visitor's request whose response sets cookies for mine. The error is the store's.
func (g *forwarder) comesBack(ctx context.Context, a *requestContext, mine, h upstream.Owner) (bool, error) {
	switch {
	case h.Contact != mine.Contact, h.Reach != mine.Reach, h.Visit != mine.Visit:
		return false, nil // another person's, or from when they reached other companies
	case h.Company == upstream.AnyCompany:
		return true, nil
	case h.Company == "":
		back := mine.Company == "" || a.visitor.BelongsOnlyTo(mine.Company)
		a.apart = a.apart || !back
		return back, nil
	case !a.visitor.Reaches(h.Company), mine.Company != "" && h.Company != mine.Company, a.bound.Company != "" && h.Company != a.bound.Company:
		return false, nil // another company's, for a contact with two companies
	}
	s, err := g.Directory.StatusOf(ctx, h.Company)
	if errors.Is(err, directory.ErrUnknown) {
		return false, nil
	}
	if err != nil || !h.MatchesCompany(s) {
		return false, err
	}
	if a.status.Company == "" {
		a.bound = h
	}
	return true, nil
}

// passAnonymous passes on a request for a public page without an identity.
func (g *forwarder) passAnonymous(a *requestContext, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	if a.possibleToken {
		line := r.RequestURI
		r.RequestURI = "/" // only for logs: the rest may be a token
		defer func() { r.RequestURI = line }()
	}
	sent, mine := r.Header["Cookie"], a.owner() // cookies that a public page has set are returned to public pages
	if err := g.bound.Unseal(r.Context(), r.Header, mine.Is); err != nil {
		return err
	}
	(&portalWriter{sent: sent, ResponseWriter: w, ctx: r.Context(), gate: g, owner: mine, old: outgoing{gate: g, host: r.Host, seen: *r.URL}}).serve(portal, r)
	return nil
}

// noteOpened records that a contact has looked at the subject of notices, by opening a page of the
// company, or its home. If the Caddyfile names no such pages, any page counts for contacts of one
// company.
func (g *forwarder) noteOpened(r *http.Request, a *requestContext) {
	v, company := a.visitor, a.company()
	if company == "" {
		company = g.homeFor(v, r.URL.Path)
	}
	if company != "" && web.IsPageLoad(r) {
		g.Unread.Opened(&v.Opening, v.Contact.ID, company, g.Now())
	}
}

// homeFor returns the company whose home has the path, if the visitor reaches it, or "".
func (g *forwarder) homeFor(v *visitor.Visitor, path string) string {
	if !g.home.any {
		if v.Contact.Role != directory.Staff && len(v.Contact.Companies) == 1 {
			return v.Contact.Companies[0]
		}
		return ""
	}
	if g.home.before == "" {
		return ""
	}
	rest, found := strings.CutPrefix(path, g.home.before)
	company, ends := strings.CutSuffix(rest, g.home.after)
	if !found || !ends || !v.Reaches(company) || !directory.IsCompanyID(company) {
		return ""
	}
	return company
}

// homes is the text around the company's id in the path of its home; before is "" if there is none.
type homes struct {
	any           bool // there are pages of companies
	before, after string
}

func homesOf(rules *legacy.Rules) homes {
	const id = "0-0-0-0"
	before, after, _ := strings.Cut(rules.Home(id), id)
	return homes{rules.Page(id) != "", before, after}
}

// noteStaffView records in the history, once per session and company, that staff viewed a client's pages.
func (g *forwarder) noteStaffView(r *http.Request, a *requestContext) {
	v, company := a.visitor, a.company()
	if company == "" || v.Contact.Role != directory.Staff {
		return
	}
	if _, before := v.Entered.LoadOrStore(company, true); !before {
		g.Audit.Record(r.Context(), audit.Event{Kind: audit.Entered, Contact: v.Contact.ID, Session: v.Live.Handle,
			Company: company, Agent: web.AgentOf(r), IP: g.visitors.ClientIP(r)})
	}
}
