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

// forwarder hands requests on to the portal, or decides that they may not go there.
type forwarder struct {
	Firm     string
	Legacy   *legacy.Rules
	Usage    *usage.Counter
	Book     *directory.Book
	Sessions *session.Sessions
	Networks *limit.Networks
	Audit    *audit.Log
	Unread   *notice.Unread
	Log      *slog.Logger
	Now      func() time.Time

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
	guessed *rate.Sometimes // around the log line on old links that are tried
	refused *rate.Sometimes // around those on pages that are refused for what they look like
}

// about is what a request is about: whether its URL is an old link or a company's, of
// which company, and who comes with it.
type about struct {
	legacy.Verdict
	standing directory.Standing // of the company; zero where none is known
	visitor  *visitor.Visitor   // nil: nobody is signed in
	visit    *visit             // nil: there is none
	referer  []string           // as it came
	bound    upstream.Owner     // for whom the portal's session was begun, where the page is no company's; zero: there is none

	named   upstream.Owner // company, era and token that the portal sees in the URL, also as a Stray; zero: none
	several bool           // companies are named, and one session of the portal would know of them all
	open    bool           // the path is open to everyone, and no company's
	apart   bool           // the portal isn't given back a session that it began for the visitor at a page of no company

	veiled  bool     // the URL could be an old link to somebody, though by no pattern: whether it is one isn't told
	tokens  []string // that are where none belongs
	astray  []string // the Strays among them whose companies the visitor doesn't reach
	inPath  bool     // the path has such a token, or what could be one in the query
	inQuery bool     // the query has
	routed  bool     // the query has what could be a path of such a company
	tried   bool     // the path could be an old link, and is none: it counts as a wrong one
	instead string   // a file's name that the portal gets in the place of the one in the path, which may be a page of such a company; "": it gets that
}

// company is the id of the company that the request is about, or "".
func (a *about) company() string {
	if a.standing.Company != "" {
		return a.standing.Company
	}
	return a.bound.Company
}

// names says that the portal sees the company in the URL, by the token ("": by its id alone).
func (a *about) names(s directory.Standing, token string) {
	if a.named.Company != "" {
		a.several = a.several || a.named.Company != s.Company
		return
	}
	if a.named = (upstream.Owner{Company: s.Company, Era: s.Era}); token != "" {
		a.named.Token = directory.PrintOf(token)
	}
}

// holder is for whom the portal's session cookies are set by what the URL says alone. Those
// of an answer that may be about several companies come back to nobody.
func (a *about) holder() upstream.Owner {
	if a.several {
		return upstream.Owner{Visit: rand.Text()}
	}
	return a.named
}

// step is what becomes of a request for the portal. The zero value is the safe one.
type step uint8

const (
	ask     step = iota // who is there?
	bad                 // readers would differ on what it is about
	pass                // on to the portal, as who is signed in
	visits              // on to the portal, as a company's old link lets anyone
	openly              // on to the portal, as what is open to everyone
	toNew               // the same page, by its new link
	toGo                // the prompt, at a URL that says nothing
	notHere             // there is nothing here for who is signed in
)

// facts are what a step is decided by.
type facts struct {
	kind     legacy.Kind
	public   bool // the path is open to everyone
	known    bool // there is such a company, by id or by token
	upgraded bool // its old links ask for sign-in
	signedIn bool
	reaches  bool // the company, as a member or as staff
	visiting bool // comes by an open company's old link: of this company, where the URL names one; else, signed in, with the portal's session of that visit
	load     bool // somebody opens a page, rather than a page something
	astray   bool // there is a token, or a company's path, where none belongs, of a company that isn't theirs to reach
	veiled   bool // there is what could be a token where none belongs, known or not
}

func (f facts) decide() step {
	signedIn := func(yes bool, s step) step {
		switch {
		case !f.signedIn:
			return ask
		case yes && !f.astray:
			return s
		}
		return notHere
	}
	switch f.kind {
	case legacy.None:
		switch {
		case f.visiting && !f.astray:
			return visits // also where everyone may: the portal would begin another session there
		case f.signedIn:
			return signedIn(true, pass)
		case f.public && !f.astray:
			return openly
		case f.load && f.veiled:
			return toGo // nothing of ours repeats what may be a token
		}
		return ask
	case legacy.Old:
		switch {
		case f.signedIn && f.known && f.reaches && !f.astray:
			if f.upgraded && f.load {
				return toNew
			}
			return pass // what the portal's own pages send: forms, fetches, sockets
		case f.known && !f.upgraded && !f.astray:
			return visits
		case !f.signedIn && f.load:
			return toGo
		}
		return signedIn(false, pass)
	case legacy.New, legacy.Company:
		if f.visiting && !f.reaches && !f.astray {
			return visits
		}
		return signedIn(f.known && f.reaches, pass)
	}
	return bad
}

// judge finds out what a request is about. The error is the store's.
func (g *forwarder) judge(r *http.Request, kind Kind, v *visitor.Visitor) (about, error) {
	a := about{Verdict: g.Legacy.Match(r.URL), visitor: v}
	var err error
	like := false // the portal's database may take the token for one of a company's
	switch a.Kind {
	case legacy.Old:
		a.standing, like, err = g.oldStanding(r.Context(), a.Token, a.Loose || kind == Open)
	case legacy.New, legacy.Company:
		a.standing, err = g.Book.StandingOf(r.Context(), a.Company)
	}
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return a, err
	}
	a.veiled = len(a.Strays)+len(a.Beside) > 0
	// What only looks like a company's is answered alike whether there is such a company or not,
	// or else its clients could be listed.
	only := a.standing.Company == "" && (a.Kind == legacy.Old && a.Loose || a.Kind == legacy.Company && (a.Unlikely || a.Loose && v.IsStaff()) || a.Kind != legacy.Bad && kind == Open)
	if kind == Open && a.Behind {
		only, a.standing = true, directory.Standing{} // the operator says of the path before it that it is of no company
	}
	if only && !like {
		// It only looked like one, or is a page that the operator has opened: /about beside
		// /{token}. A company of that name, or a token, has the last word.
		a.veiled = a.veiled || a.Kind == legacy.Old && a.Loose
		a.tried = a.Kind == legacy.Old && a.Loose && !a.Unlikely && kind != Open
		a.Kind = legacy.None
	}
	a.open = kind == Open && a.Kind == legacy.None
	if a.standing.Company != "" {
		token := a.Token
		if a.Kind == legacy.New {
			token = a.standing.Token // which asOld puts back
		}
		a.names(a.standing, token)
	}
	if g.Legacy.HasLinks() {
		if a.visit, err = g.visitOf(r, v); err != nil && (kind != Open || a.Kind != legacy.None) {
			return a, err
		}
	}
	return a, nil
}

// oldStanding returns the standing of the company that an old link's token belongs to, or
// directory.ErrUnknown. For a URL that may be a page of the portal's instead, like says whether a
// company has such a token, or one that a portal's database may take for it.
func (g *forwarder) oldStanding(ctx context.Context, token string, mayBePage bool) (s directory.Standing, like bool, err error) {
	if !mayBePage {
		s, err = g.Book.StandingByToken(ctx, token)
		return s, false, err
	}
	index, err := g.Book.Tokens(ctx)
	if err != nil {
		return directory.Standing{}, false, err
	}
	like = len(index.Of(token)) > 0
	s, err = g.Book.StandingByToken(ctx, token)
	return s, like || err == nil, err
}

// weigh finds out what a request is about, and by which facts it is to be decided what
// becomes of it. The error is the store's.
func (g *forwarder) weigh(r *http.Request, kind Kind, v *visitor.Visitor) (a about, f facts, err error) {
	if g.visitors.Anchor.Err() != nil {
		a, f = g.weighUntrusted(r, kind, v)
		return a, f, nil
	}
	if a, err = g.judge(r, kind, v); err == nil {
		f, err = g.facts(r, kind, &a)
	}
	if err == nil && !g.mayBeRight(r, &a, f) && a.Kind == legacy.Old {
		a.standing, a.named, f.known, f.upgraded = directory.Standing{}, upstream.Owner{}, false, false
	}
	return a, f, err
}

// weighUntrusted is weigh while the store isn't trusted: there are no companies and no
// visits, whatever is in memory, so that every old link asks for sign-in. As anything may be a token, the
// portal gets the path of a public page alone; see leaveBare.
func (g *forwarder) weighUntrusted(r *http.Request, kind Kind, v *visitor.Visitor) (about, facts) {
	a := about{Verdict: g.Legacy.Match(r.URL), visitor: v}
	a.veiled = len(a.Strays)+len(a.Beside) > 0
	a.inPath, a.inQuery = a.veiled, r.URL.RawQuery != ""
	if kind == Open && a.Kind != legacy.Bad {
		a.Kind = legacy.None
	}
	return a, facts{
		kind: a.Kind, public: kind == Open, signedIn: v != nil, astray: a.veiled, veiled: a.veiled,
		load: web.OpensPage(r),
	}
}

// mayBeRight reports whether an old link may open what it is for: not where there were too many
// wrong tokens. All that open nothing are wrong, or else counting would tell which are of
// companies that ask for sign-in. Who is a member of the company, or has a visit to it, isn't
// counted. What isn't an old link, but would be with the right token, is counted, too.
func (g *forwarder) mayBeRight(r *http.Request, a *about, f facts) bool {
	if !a.tried && (a.Kind != legacy.Old || f.reaches || f.visiting) {
		return true
	}
	ip := g.visitors.ClientIP(r)
	if !g.Networks.Take(limit.Token, ip) { // counted before anything comes of it
		g.guessed.Do(func() {
			g.Log.WarnContext(r.Context(), "many wrong old links come from one network; until that ends, right ones from there ask for sign-in, too",
				"ip", ip.String(), "what_to_do", "nothing, unless it is the address of your own proxy or CDN: then name it in trusted_proxies")
		})
		return false
	}
	if f.known && !f.upgraded {
		g.Networks.GiveBack(limit.Token, ip)
	} else {
		g.Networks.WrongToken(ip, a.Token)
	}
	return true
}

// facts are those of a request.
func (g *forwarder) facts(r *http.Request, kind Kind, a *about) (facts, error) {
	f := facts{
		kind: a.Kind, public: kind == Open, known: a.standing.Company != "", upgraded: a.standing.Upgraded,
		signedIn: a.visitor != nil, veiled: a.veiled,
	}
	if f.kind == legacy.Old || !f.signedIn { // for others it makes no difference
		f.load = web.OpensPage(r)
	}
	f.reaches = f.signedIn && f.known && a.visitor.Reaches(a.standing.Company)
	switch {
	case a.visit == nil:
	case a.Kind != legacy.None:
		f.visiting = a.visit.company == a.standing.Company
	case !f.signedIn:
		f.visiting = true
	default:
		var err error
		if f.visiting, err = g.inVisit(r, a.visit); err != nil {
			return f, err
		}
	}
	if !f.mayPass() {
		return f, nil // whatever the rest is, they are asked who they are
	}
	if err := g.findTokens(r, kind, a); err != nil {
		return f, err
	}
	if kind != Open { // whose pages take a way back, and show nobody's data
		documents := 0
		for _, id := range a.Routes {
			if a.reaches(id) {
				continue
			}
			if documents++; legacy.IsDocument(id) && documents <= mostDocuments { // which no company is called, as a rule
				if _, err := g.Book.StandingOf(r.Context(), id); errors.Is(err, directory.ErrUnknown) {
					continue
				} else if err != nil {
					return f, err
				}
			}
			a.routed = true
		}
	}
	f.astray = a.isAstray()
	if kind != Open && a.Kind == legacy.None && a.Company != "" {
		return f, g.hideFormat(r.Context(), a)
	}
	return f, nil
}

// hideFormat is for a file's name in the path that some portals take for a page in a format, such as
// /files/acme.json, of a company that isn't theirs. The portal gets the name of a file that nobody has,
// so it answers as if there were no such company.
func (g *forwarder) hideFormat(ctx context.Context, a *about) error {
	for _, stem := range a.Stems {
		if a.reaches(stem) {
			continue
		}
		switch _, err := g.Book.StandingOf(ctx, stem); {
		case err == nil:
			a.instead = unknown(len(stem)) + a.Company[len(stem):]
		case !errors.Is(err, directory.ErrUnknown):
			return err
		}
	}
	return nil
}

// isAstray reports whether there is something of a company's, where nothing belongs, that
// who makes the request doesn't reach.
func (a *about) isAstray() bool { return a.inPath || a.routed || len(a.astray) > 0 }

// mayPass reports whether a request may get to the portal, unless something in it is astray.
func (f facts) mayPass() bool {
	switch f.decide() {
	case pass, visits, openly, toNew:
		return true
	}
	return f.signedIn
}

// mostDocuments is how many names of documents in a query are looked up among the companies.
const mostDocuments = 3

// findTokens finds the tokens of old links that the URL has where none belongs, and which of them are of
// companies that whoever makes the request doesn't reach. All is in memory.
func (g *forwarder) findTokens(r *http.Request, kind Kind, a *about) error {
	if !g.Legacy.HasLinks() {
		return nil
	}
	index, err := g.Book.Tokens(r.Context())
	if err != nil {
		return err
	}
	strays := slices.Concat(a.Strays, a.Beside)
	if g.triesTokens(r, a, index, strays) {
		a.inPath = true
		return nil
	}
	for _, token := range strays {
		if ids := index.Of(token); len(ids) > 0 {
			theirs, err := g.meets(r.Context(), a, token, ids)
			if err != nil {
				return err
			}
			if a.tokens = append(a.tokens, token); !theirs {
				a.astray = append(a.astray, token)
				a.inPath = a.inPath || kind != Open && !slices.Contains(a.Strays, token)
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

// mostTokens is how many tokens, in different spellings, a part of a URL may hold.
const mostTokens = 32

// findTokensIn notes the tokens that a part of the URL holds, and reports whether one is of a company that
// whoever makes the request doesn't reach.
func (g *forwarder) findTokensIn(ctx context.Context, text string, kind Kind, a *about, index *tokensearch.Index) (foreign bool, err error) {
	var seen []string // one token may stand there thousands of times
	for _, hit := range index.Find(text) {
		token := text[hit.Start:hit.End]
		if g.mayGuess(ctx, kind, a, hit) || slices.Contains(hit.Companies, a.standing.Company) || slices.Contains(seen, token) {
			continue
		}
		if len(seen) == mostTokens {
			return true, nil // nobody's URL has so many
		}
		seen = append(seen, token)
		theirs, err := g.meets(ctx, a, token, hit.Companies)
		if err != nil {
			return false, err
		}
		a.tokens = append(a.tokens, token)
		foreign = foreign || !theirs
	}
	return foreign, nil
}

// triesTokens reports whether the request may be one more of many that find out which tokens are real: what
// becomes of it tells that of tokens with little chance in them. Real ones that whoever makes it doesn't reach
// count as wrong old links do.
func (g *forwarder) triesTokens(r *http.Request, a *about, index *tokensearch.Index, strays []string) bool {
	tries, real := false, false
	for _, token := range strays {
		ids := index.Of(token)
		if !slices.ContainsFunc(ids, a.reaches) {
			tries, real = true, real || len(ids) > 0
		}
	}
	if !tries || a.visitor != nil {
		return false
	}
	ip := g.visitors.ClientIP(r)
	if !g.Networks.Take(limit.Token, ip) { // counted before anything comes of it
		return true
	}
	if !real {
		g.Networks.GiveBack(limit.Token, ip)
	}
	return false
}

// mayGuess reports whether a token passes though it is another's, since what becomes of it would tell whoever guesses that it
// is one: a token of open companies alone that can be guessed, in a request for which nobody has to prove anything.
// That of an upgraded company is worth nothing to whoever learns of it, so it never passes.
func (g *forwarder) mayGuess(ctx context.Context, kind Kind, a *about, hit tokensearch.Hit) bool {
	return kind == Open && a.visitor == nil && a.visit == nil && hit.Bits < tokensearch.SureBits &&
		!slices.ContainsFunc(hit.Companies, func(id string) bool {
			s, err := g.Book.StandingOf(ctx, id)
			return err != nil || s.Upgraded
		})
}

// meets notes which company a token that the portal gets to see is of, and reports whether whoever makes
// the request reaches it, or one of several that it may be taken for.
func (g *forwarder) meets(ctx context.Context, a *about, token string, ids []string) (theirs bool, err error) {
	i := slices.IndexFunc(ids, a.reaches)
	if i < 0 {
		return false, nil
	}
	s, err := g.Book.StandingOf(ctx, ids[i])
	if errors.Is(err, directory.ErrUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !s.Has(directory.PrintOf(token)) {
		token = ""
	}
	a.names(s, token)
	return true, nil
}

// reaches reports whether who makes the request may see what is the company's, by signing
// in, by a visit or by the old link itself.
func (a *about) reaches(company string) bool {
	switch {
	case a.visitor != nil && a.visitor.Reaches(company):
		return true
	case a.visit != nil && a.visit.company == company:
		return true
	}
	return a.Kind == legacy.Old && !a.standing.Upgraded && a.standing.Company == company
}

// servePortal is the flow of a request for the portal. v is who is signed in, or nil; referer is
// what came in that header.
func (g *forwarder) servePortal(w http.ResponseWriter, r *http.Request, kind Kind, v *visitor.Visitor, referer []string, portal http.Handler) error {
	began := g.Now()
	if g.insecure.opensPage(r) || g.insecure.is(r) && g.Legacy.Secret(r.URL) {
		return g.insecure.redirect(w, r)
	}
	a, f, err := g.weigh(r, kind, v)
	if err != nil {
		return err
	}
	asked := r.URL.RawQuery
	if a.inQuery || len(a.astray) > 0 {
		if err := g.blind(r, kind, &a); err != nil {
			return err
		}
		defer func() { r.URL.RawQuery = asked }()
		f.astray = a.isAstray()
	}
	s := f.decide()
	if a.Kind == legacy.Old && f.known && (f.load || r.Header.Get("Sec-Fetch-Mode") == "") { // not what a page loads by itself
		g.Usage.Note(a.standing.Company, g.useOf(r, f))
	}
	switch s {
	case pass, visits, openly:
		a.referer = referer
		return g.passOn(s, &a, w, r, portal)
	case toNew:
		return found(w, g.newURL(&a))
	case bad:
		return errUnclear
	}
	web.LeaveBody(w, r)
	r.URL.RawQuery = asked // they may yet prove that it is theirs
	if a.Kind != legacy.None || a.Loose || a.veiled {
		g.evenOut(r.Context(), began) // alike for what was found and what wasn't
	}
	switch {
	case s == toGo:
		return found(w, g.ways.Seal(r.URL))
	case s == notHere:
		g.tellOfForms(r, &a)
		g.notHere(w, r, a.visitor)
		return nil
	case a.Kind == legacy.Old || a.veiled && g.signin.AsksInFrame(r) || a.Token != "":
		g.signin.PromptSealed(w, r)
		return nil
	}
	g.signin.Prompt(w, r)
	return nil
}

// tellOfForms tells operators of a page that was refused since it looks like a company's: maybe
// it is none, and a pattern is too wide.
func (g *forwarder) tellOfForms(r *http.Request, a *about) {
	switch {
	case a.routed:
		g.refused.Do(func() {
			g.Log.InfoContext(r.Context(), "a query names a company that the contact doesn't belong to, so the page was refused", "path", g.Legacy.Shown(r.URL), "companies", a.Routes)
		})
	case a.Kind == legacy.Company && a.Loose && a.standing.Company == "":
		g.refused.Do(func() {
			g.Log.InfoContext(r.Context(), "a page looks like one of a company, and there is no such company, so it was refused; if it is a page of the portal, write a narrower company_path",
				"path", g.Legacy.Shown(r.URL), "company", a.Company)
		})
	}
}

// passOn hands a request on to the portal, in the way that s says. What else there is of the
// request beside its URL is judged here.
func (g *forwarder) passOn(s step, a *about, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	if to := g.homeOf(r, a); to != "" {
		return web.Redirect(w, to, http.StatusSeeOther)
	}
	if err := g.mayGoThere(r, a.visitor); err != nil {
		web.LeaveBody(w, r)
		return err
	}
	if err := g.blindRest(r, s == openly, a); err != nil {
		return err
	}
	if s != openly && g.mayTellReferer(r, a) {
		hidden := r.Header["Referer"]
		r.Header["Referer"] = a.referer
		defer func() { r.Header["Referer"] = hidden }() // for logs
	}
	switch s {
	case pass:
		return g.passAs(a, w, r, portal)
	case visits:
		return g.passVisit(a, w, r, portal)
	}
	return g.passAnonymous(a, w, r, portal)
}

var (
	// errUnclear is the answer to a URL that the portal might read in another way than we do.
	errUnclear = &web.Failure{Status: http.StatusBadRequest, Page: web.MessageFor(http.StatusBadRequest)}
	// errNotHere is the one answer to an old link that never was one, and to what is
	// another company's.
	errNotHere = &web.Failure{Status: http.StatusNotFound, Page: web.MessagePage{Title: "This page is not in your portal",
		Text: "You’re signed in, but this address can’t open it. The link may be too old, or meant for someone else. Do you think you should see this page? Please ask us.",
		URL:  "/", Link: "Go to your own portal"}}
)

// notHere answers somebody signed in for whom there is nothing at the URL.
func (g *forwarder) notHere(w http.ResponseWriter, r *http.Request, v *visitor.Visitor) {
	if web.ReaderOf(r.Header) == web.Program {
		g.answers.Fail(w, r, errNotHere)
		return
	}
	g.answers.Page(w, r, errNotHere.Status, web.NotHerePage{Email: v.Contact.Emails[0].Display()})
}

// useOf is how an old link was used, as far as that can be told.
func (g *forwarder) useOf(r *http.Request, f facts) usage.Use {
	u := usage.Use{Upgraded: f.upgraded}
	if f.load && !audit.Automatic(r.Method, r.UserAgent(), r.Header.Get("Sec-Fetch-Mode") != "") {
		u.Browser = g.Usage.Browser(g.visitors.ClientIP(r), r.UserAgent())
	}
	return u
}

// found sends the browser to a path and query on this site, by a link that is no secret.
func found(w http.ResponseWriter, to string) error { return web.Redirect(w, to, http.StatusFound) }

// homeOf is where `/` leads a client: to the one company's home, or to the list. Staff,
// who isn't signed in, and everybody of a firm without a home, stay there (""); so does who
// was led to `/` from home, see keepOffCircle.
func (g *forwarder) homeOf(r *http.Request, a *about) string {
	if a.visitor == nil || r.URL.Path != "/" || r.URL.ForceQuery || strings.HasPrefix(r.URL.RawQuery, "&") || a.Kind != legacy.None || a.visitor.Contact.Role == directory.Staff || !web.IsPageLoad(r) || g.Legacy.Home("x") == "" {
		return ""
	}
	if mine := a.visitor.Contact.Companies; len(mine) == 1 {
		return g.Legacy.Home(mine[0])
	}
	return g.rules.prefix + "/companies"
}

// passAs hands the request on to the portal with the word of who it is.
func (g *forwarder) passAs(a *about, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	v, sent, mine := a.visitor, r.Header["Cookie"], a.holder()
	mine.Contact, mine.Reach = v.Contact.ID, v.Reach
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
	g.enters(r, a)
	g.opens(r, a)
	g.Sessions.Seen(r.Context(), v.Live)
	named := company
	if !g.visitors.Wanted.Has("Portal-Company") {
		named = ""
	}
	v.Identity.SetOn(r.Header, jwt, named)
	ctx, flight := g.Sessions.Attach(r.Context(), v.Live, company)
	defer flight.Done()
	key := a.Kind == legacy.Old || a.veiled // by its form, so that it tells no real token from another
	if key {
		keepWithinSite(w.Header())
	}
	answer := &portalWriter{sent: sent, ResponseWriter: w, ctx: r.Context(), gate: g, private: true, open: a.open, shared: v.Live.Shared, key: key, apart: a.apart, passed: Passed{v, company},
		holder: mine, old: outgoing{g, r.Host, *r.URL, moved, a.standing.Company, v, was.url.Path}}
	if a.visit != nil && a.standing.Company != "" && web.IsPageLoad(r) { // back at their own company's pages
		answer.visit = g.cookies.New(g.cookies.Visit, "", -time.Second)
	}
	answer.serve(portal, r.WithContext(context.WithValue(ctx, passedKey{}, &answer.passed)))
	return nil
}

// comesBack reports whether a cookie that the portal set for h is given back to it in a
// request whose answer's cookies are set for mine, which is by a visitor. The error is the
// store's.
func (g *forwarder) comesBack(ctx context.Context, a *about, mine, h upstream.Owner) (bool, error) {
	switch {
	case h.Contact != mine.Contact, h.Reach != mine.Reach, h.Visit != mine.Visit:
		return false, nil // somebody else's, or from when they reached other companies
	case h.Company == upstream.AnyCompany:
		return true, nil
	case h.Company == "":
		back := mine.Company == "" || a.visitor.IsOf(mine.Company)
		a.apart = a.apart || !back
		return back, nil
	case !a.visitor.Reaches(h.Company), mine.Company != "" && h.Company != mine.Company, a.bound.Company != "" && h.Company != a.bound.Company:
		return false, nil // another company's, of a contact who has two
	}
	s, err := g.Book.StandingOf(ctx, h.Company)
	if errors.Is(err, directory.ErrUnknown) {
		return false, nil
	}
	if err != nil || !h.Stands(s) {
		return false, err
	}
	if a.standing.Company == "" {
		a.bound = h
	}
	return true, nil
}

// passAnonymous hands on a request for what is open to everyone, with nobody's name.
func (g *forwarder) passAnonymous(a *about, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	if a.veiled {
		line := r.RequestURI
		r.RequestURI = "/" // for logs alone: the rest may be a token
		defer func() { r.RequestURI = line }()
	}
	sent, mine := r.Header["Cookie"], a.holder() // what an open page set comes back to open pages
	if err := g.bound.Unseal(r.Context(), r.Header, mine.Is); err != nil {
		return err
	}
	(&portalWriter{sent: sent, ResponseWriter: w, ctx: r.Context(), gate: g, holder: mine, old: outgoing{gate: g, host: r.Host, seen: *r.URL}}).serve(portal, r)
	return nil
}

// opens notes that a contact looks after what notices told of: by opening a page of the company, or its home. Where
// the Caddyfile names no such page, that is any page, for contacts of one company.
func (g *forwarder) opens(r *http.Request, a *about) {
	v, company := a.visitor, a.company()
	if company == "" {
		company = g.homeFor(v, r.URL.Path)
	}
	if company != "" && web.IsPageLoad(r) {
		g.Unread.Opened(&v.Opening, v.Contact.ID, company, g.Now())
	}
}

// homeFor returns the company that the visitor reaches whose home has the path, or "".
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

// homes is what stands around the company's id in the path of its home; before is "" where there is none.
type homes struct {
	any           bool // there are pages of companies at all
	before, after string
}

func homesOf(rules *legacy.Rules) homes {
	const id = "0-0-0-0"
	before, after, _ := strings.Cut(rules.Home(id), id)
	return homes{rules.Page(id) != "", before, after}
}

// enters tells the history, once for a session and a company, that staff looked at a client's pages.
func (g *forwarder) enters(r *http.Request, a *about) {
	v, company := a.visitor, a.company()
	if company == "" || v.Contact.Role != directory.Staff {
		return
	}
	if _, before := v.Entered.LoadOrStore(company, true); !before {
		g.Audit.Record(r.Context(), audit.Event{Kind: audit.Entered, Contact: v.Contact.ID, Session: v.Live.Handle,
			Company: company, Agent: web.AgentOf(r), IP: g.visitors.ClientIP(r)})
	}
}
