package gate

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// even is how long the answer to a link of nobody knows whom takes, at least: what was
// looked up for it isn't felt.
const even = 20 * time.Millisecond

func (g *forwarder) evenOut(ctx context.Context, began time.Time) {
	left := even - g.Now().Sub(began) + rand.N(even/4)
	select {
	case <-time.After(left):
	case <-ctx.Done():
	}
}

// Hides reports whether no log may keep a request's URL or header as they are: they have,
// or may have, a company's token in them. Browsers and libraries tell the page that they
// are on in many a header (Referer, Ping-From, HX-Current-URL, Turbolinks-Referrer).
func Hides(rules *legacy.Rules, u *url.URL, h http.Header) bool {
	hides := func(page string) bool { return refererHides(rules, page) }
	return rules.HasLinks() && (rules.Secret(u) || slices.ContainsFunc(h["Referer"], hides) || rules.SecretIn(h, u))
}

// refererHides is Hides for a Referer. What is no URL may be anything.
func refererHides(rules *legacy.Rules, referer string) bool {
	if referer == "" {
		return false
	}
	u, err := url.Parse(referer)
	return err != nil || rules.Secret(u)
}

// hideReferer leaves of a Referer its origin where it has a secret in it: that of a link of
// ours, from a browser that doesn't keep to our Referrer-Policy, or the token of an open
// company, whose pages have it in their URLs. The portal would write it into its own logs.
func (g *forwarder) hideReferer(h http.Header) {
	secret := func(page string) bool {
		if page == "" {
			return false
		}
		u, err := url.Parse(page)
		return err != nil || g.rules.link(u) || g.Legacy.Secret(u) || g.holdsToken(page)
	}
	if slices.ContainsFunc(h["Referer"], secret) {
		originAlone(h)
	}
}

// mayTellReferer reports whether the portal gets to know the whole Referer, though it has a
// company's token in it: portals lead people back to it. It has to be the URL of one page of this
// site, and each token in it one of the company that the request is about, or, of a page of no
// company, one of the visit's company or of a company of the visitor's. No token is looked up for
// it, so real ones and others take the same time. What a page loads by itself leads nowhere, and
// goes without.
func (g *forwarder) mayTellReferer(r *http.Request, a *about) bool {
	if len(a.referer) != 1 || len(r.Header["Referer"]) == 1 && r.Header["Referer"][0] == a.referer[0] {
		return false // none, several, or one that isn't hidden
	}
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && web.ReaderOf(r.Header) == web.Program {
		return false
	}
	u, err := url.Parse(a.referer[0])
	if err != nil || u.User != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, g.answers.Sites.Of(r).Host) || g.rules.link(u) {
		return false
	}
	page := g.Legacy.Match(u)
	if page.Kind == legacy.Bad {
		return false
	}
	index := g.Book.CachedTokens()
	if index == nil {
		return false
	}
	hits := index.Find(a.referer[0])
	tokens := page.Strays
	if page.Kind == legacy.Old {
		tokens = append(tokens, page.Token)
	}
	isOf := func(s directory.Standing) bool {
		return s.Company != "" && (page.Company == "" || page.Company == s.Company) &&
			!slices.ContainsFunc(page.Routes, func(id string) bool { return id != s.Company }) &&
			!slices.ContainsFunc(tokens, func(token string) bool { return !s.Has(directory.PrintOf(token)) }) &&
			!slices.ContainsFunc(hits, func(hit tokensearch.Hit) bool { return !slices.Contains(hit.Companies, s.Company) })
	}
	var ids []string
	switch {
	case a.standing.Company != "":
		return isOf(a.standing)
	case a.visit != nil:
		ids = []string{a.visit.company}
	case a.visitor != nil:
		ids = a.visitor.Contact.Companies
	}
	return slices.ContainsFunc(ids, func(id string) bool {
		s, err := g.Book.StandingOf(r.Context(), id)
		return err == nil && isOf(s)
	})
}

// originAlone leaves of a Referer its origin: of the first, where there are several.
func originAlone(h http.Header) {
	referer := h.Get("Referer")
	delete(h, "Referer")
	if u, err := url.Parse(referer); err == nil && u.Host != "" {
		h["Referer"] = []string{u.Scheme + "://" + u.Host + "/"}
	}
}

// seen is how a request came.
type seen struct {
	url  url.URL
	line string
}

func seenAt(r *http.Request) seen { return seen{*r.URL, r.RequestURI} }

func (s *seen) restore(r *http.Request) { *r.URL, r.RequestURI = s.url, s.line }

// asOld makes of a request what the portal gets: a new link becomes the old one, with the
// company's token put back. It is changed in place, since the handlers behind us see the
// URL in several ways; whoever calls puts it back afterwards. Where logs would show the
// URL, they show one without the token. moved is the company where the browser knows
// another URL, else "".
func (g *forwarder) asOld(r *http.Request, a *about) (moved string, err error) {
	if a.Kind == legacy.New && a.standing.Token != "" {
		old, ok := g.Legacy.OldURL(r.URL, a.Verdict, a.standing.Token)
		if !ok {
			g.Log.Error("the first old link of a company can't stand in its pattern, so its pages can't be reached; give it another first one", "company", a.standing.Company)
			return "", web.ErrNotFound
		}
		*r.URL, moved = *old, a.standing.Company
	}
	if a.instead != "" {
		p := strings.TrimSuffix(r.URL.Path, a.Session)
		r.URL.Path, r.URL.RawPath = p[:strings.LastIndexByte(p, '/')+1]+a.instead+a.Session, ""
	}
	switch {
	case a.Kind == legacy.Old:
		r.RequestURI = g.Legacy.Pattern(a.Verdict)
	case a.veiled:
		r.RequestURI = "/" // for logs alone: the rest may be a token
	}
	return moved, nil
}

// blind puts, in the query, what no company has in the place of the tokens that are astray: the portal
// answers as to any unknown one, so nobody learns that these aren't. Those that stand in the path stay
// astray.
func (g *forwarder) blind(r *http.Request, kind Kind, a *about) error {
	if g.visitors.Anchor.Err() != nil {
		r.URL.RawQuery, a.Query = "", ""
		return nil
	}
	index, err := g.Book.Tokens(r.Context())
	if err != nil {
		return err
	}
	masked := func(query string) string {
		query = g.Legacy.Masked(query, a.astray, func(token string) string { return unknown(len(token)) })
		for _, token := range a.astray { // where a path has them
			for _, slash := range []string{"/", "%2f", "%2F"} {
				query = strings.ReplaceAll(query, slash+token, slash+unknown(len(token)))
			}
		}
		return index.Mask(query, func(hit tokensearch.Hit) bool {
			return !g.mayGuess(r.Context(), kind, a, hit) && a.isForeign(hit.Companies)
		})
	}
	r.URL.RawQuery, a.Query = masked(r.URL.RawQuery), masked(a.Query)
	left := g.Legacy.Match(r.URL)
	a.astray = slices.DeleteFunc(a.astray, func(token string) bool {
		return !slices.Contains(left.Strays, token) && !slices.Contains(left.Beside, token)
	})
	return nil
}

// isForeign reports whether a token of these companies is one that whoever makes the request may not use.
func (a *about) isForeign(companies []string) bool {
	return len(companies) > 0 && !slices.ContainsFunc(companies, a.reaches)
}

// blindRest does for headers and the body what blind does for the query: to many portals they are all the
// same. A form is also judged by the names in it, as the portal reads it: that finds tokens which are too
// short to be searched for.
func (g *forwarder) blindRest(r *http.Request, open bool, a *about) error {
	if !g.Legacy.HasLinks() || a.visitor.IsStaff() {
		return nil
	}
	if err := g.visitors.Anchor.Err(); err != nil {
		return leaveBare(r, err)
	}
	index, err := g.Book.Tokens(r.Context())
	if err != nil {
		return err
	}
	if !g.needsBlinding(r, index) {
		return nil
	}
	kind := Protected
	if open {
		kind = Open
	}
	by := *a // of its own, so that only a request that gets here has it allocated
	hides := func(hit tokensearch.Hit) bool {
		return !g.mayGuess(r.Context(), kind, &by, hit) && by.isForeign(hit.Companies)
	}
	forms := legacy.Forms{Unknown: unknown, Foreign: func(token string) bool { return by.isForeign(index.Of(token)) }}
	if hasBody(r) {
		contentType := strings.Join(r.Header["Content-Type"], " ")
		if contentType == "" && r.Method == http.MethodPost {
			contentType = "application/x-www-form-urlencoded" // as CGI and Rack take it
		}
		form := g.Legacy.Body(r.Body, contentType, forms)
		if r.Header["Content-Encoding"] != nil || form != r.Body && !asciiLike(contentType) {
			return errUnclear // some portals unpack it, or read it in those characters, and we don't
		}
		r.Body = index.Body(form, hides)
	}
	g.dropCookies(r, func(name, value string) bool {
		return g.Legacy.Cookie(name, value, forms) || slices.ContainsFunc(index.Find(name), hides) || slices.ContainsFunc(index.Find(value), hides)
	})
	for name, values := range r.Header {
		if name == "Cookie" || isOrdinary(name) {
			continue
		}
		for i, value := range values {
			values[i] = index.Mask(value, hides)
		}
	}
	return nil
}

// leaveBare removes what may hold a token from a request for a public page while the store isn't trusted, for the
// reason given: then nobody knows the tokens of upgraded companies. A body can't be left out; the error
// refuses it.
func leaveBare(r *http.Request, untrusted error) error {
	if hasBody(r) {
		return untrusted
	}
	for name := range r.Header {
		if !isOrdinary(name) && !slices.Contains(conditional, name) {
			delete(r.Header, name)
		}
	}
	return nil
}

// conditional are the headers by which a browser asks for a part of a page, or for a newer one.
var conditional = []string{"If-Modified-Since", "If-None-Match", "If-Range", "Origin", "Range"}

// hasBody reports whether a request may have a body. Caddy wraps even one that is http.NoBody.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// needsBlinding reports whether a request has a body, or a header that holds a token of whomever.
func (g *forwarder) needsBlinding(r *http.Request, index *tokensearch.Index) bool {
	if hasBody(r) {
		return true
	}
	for name, values := range r.Header {
		if isOrdinary(name) {
			continue
		}
		for _, value := range values {
			if len(index.Find(value)) > 0 || name == "Cookie" && g.Legacy.NamesCookie(value) {
				return true
			}
		}
	}
	return false
}

// dropCookies leaves out the cookies that drop is true of.
func (g *forwarder) dropCookies(r *http.Request, drop func(name, value string) bool) {
	var kept []string
	found := false
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(textproto.TrimString(pair), "=")
			if drop(name, value) {
				found = true
			} else {
				kept = append(kept, pair)
			}
		}
	}
	if found {
		r.Header["Cookie"] = []string{textproto.TrimString(strings.Join(kept, ";"))}
	}
}

// isOrdinary reports whether a header is one that browsers send with every request, and no portal reads
// a parameter from.
func isOrdinary(header string) bool {
	switch header {
	case "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Content-Length", "Content-Type", "Dnt", "Priority", "Te",
		"Upgrade-Insecure-Requests", "User-Agent":
		return true
	}
	return strings.HasPrefix(header, "Sec-Fetch-") || strings.HasPrefix(header, "Sec-Ch-") || header == "Sec-Gpc"
}

// asciiLike reports whether a content type has text as browsers send it: with what is ASCII
// written as that.
func asciiLike(contentType string) bool {
	_, charset, found := strings.Cut(strings.ToLower(contentType), "charset")
	charset = strings.TrimLeft(charset, ` ="*`)
	return !found || strings.HasPrefix(charset, "utf-8") || strings.HasPrefix(charset, "utf8") || strings.HasPrefix(charset, "us-ascii") ||
		strings.HasPrefix(charset, "iso-8859-") || strings.HasPrefix(charset, "windows-125")
}

// newURL is where an old link leads, without its token or any other company's.
func (g *forwarder) newURL(a *about) string {
	v := a.Verdict
	v.Query = g.Legacy.Masked(v.Query, a.tokens, func(string) string { return "" })
	to := g.Legacy.NewURL(v, a.standing.Company)
	u, err := url.Parse(to)
	if err != nil || g.holdsToken(to) || slices.ContainsFunc(g.Legacy.Match(u).Strays, func(s string) bool { return slices.Contains(a.tokens, s) }) {
		return g.Legacy.Page(a.standing.Company)
	}
	return to
}

// holdsToken reports whether a text holds a token of any company, or may: until the tokens are in memory,
// nobody knows.
func (g *forwarder) holdsToken(text string) bool {
	if !g.Legacy.HasLinks() {
		return false
	}
	index := g.Book.CachedTokens()
	return text != "" && (index == nil || len(index.Find(text)) > 0)
}

// HoldsToken reports whether no log may keep a URL as it is, since a company's token is in it where no
// pattern expects one: Hides finds the others.
func (g *Gate) HoldsToken(u *url.URL) bool {
	return g.forward.holdsToken(u.Path) || g.forward.holdsToken(u.RawQuery)
}

// HoldTokens is HoldsToken for the headers that logs have.
func (g *Gate) HoldTokens(h http.Header) bool {
	if !g.forward.Legacy.HasLinks() {
		return false
	}
	for name, values := range h {
		if name != "Cookie" && name != "Authorization" && name != "Proxy-Authorization" && !isOrdinary(name) && slices.ContainsFunc(values, g.forward.holdsToken) {
			return true
		}
	}
	return false
}

// unknown returns what is no token of any company, as long as one.
func unknown(size int) string {
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(strings.ToLower(cryptorand.Text()))
	}
	return b.String()[:size]
}

// outgoing is what rewrites the portal's answer: its old links of upgraded companies become
// new ones for whoever reaches those, and lead through /go for others; and on a new link those of its company, open or not. The zero value rewrites
// nothing.
type outgoing struct {
	gate  *forwarder
	host  string  // by which the visitor came
	seen  url.URL // as the portal got it; handlers may change the request's
	moved string  // the company, where the browser knows another; "" where it knows that one

	company string           // of the page, where somebody is signed in; else ""
	visitor *visitor.Visitor // who gets the answer; nil: nobody is signed in
	asked   string           // the path that the browser asked for
}

func (o *outgoing) rewrite(ctx context.Context, h http.Header) {
	if o.gate == nil || !o.gate.Legacy.HasLinks() && o.company == "" ||
		h["Location"] == nil && h["Content-Location"] == nil && h["Refresh"] == nil && h["Set-Cookie"] == nil {
		return
	}
	all := legacy.Outgoing{
		Rules: o.gate.Legacy, Hosts: []string{o.gate.answers.Sites.URL.Host, o.host}, Seen: &o.seen, Moved: o.moved != "",
		Company: func(token string) (string, bool) {
			s, err := o.gate.Book.StandingByToken(ctx, token)
			switch {
			case err != nil || !s.Upgraded && s.Company != o.moved:
				return "", false
			case s.Company == o.moved || o.visitor.Reaches(s.Company):
				return s.Company, true
			}
			return "", true // nobody else learns whose it is
		},
		Hide: o.gate.ways.Seal,
	}
	all.Header(h)
	o.keepOffCircle(h, &all)
}

// keepOffCircle is for a portal that sends people from their company's home to `/`, from
// where we lead them to that home: they get to `/?`, which is the same page to the portal,
// and from which homeOf leads nowhere.
func (o *outgoing) keepOffCircle(h http.Header, all *legacy.Outgoing) {
	home := o.gate.Legacy.Home(o.company)
	if h["Location"] == nil && h["Refresh"] == nil || o.company == "" || home == "" || !strings.EqualFold(home, (&url.URL{Path: o.asked}).EscapedPath()) {
		return
	}
	all.Root = true
	all.Header(http.Header{"Location": h["Location"], "Refresh": h["Refresh"]})
}

// getGo is where an old link leads: to the prompt, and then to the page that it meant.
func (g *forwarder) getGo(w http.ResponseWriter, r *http.Request) error {
	began := g.Now()
	u, ok := g.ways.Open(r.URL.Query())
	if !ok {
		return web.ErrNotFound
	}
	if g.insecure.is(r) {
		g.insecure.terminatedUpstream.Store(true) // who was sent here came with TLS: it ends in front of us, if it never ends here
		if web.IsPageLoad(r) {                    // by which each process sees it
			g.cookies.Set(w, g.cookies.Flow, secret.Random(), token.WayBack)
		}
	}
	v, err := g.visitors.Of(r)
	if err != nil && !errors.Is(err, visitor.ErrNone) {
		return err
	}
	linked := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Accept": {"text/html"}, "Cookie": r.Header["Cookie"]}}).WithContext(r.Context())
	kind := g.rules.classify(linked)
	if kind == Own { // see serveOwn
		if !plain(u) { // such as //example.com/-/, sealed when the prefix was another: browsers read a host in it
			return web.ErrNotFound
		}
		return found(w, u.RequestURI())
	}
	a, f, err := g.weigh(linked, kind, v)
	if err != nil {
		return err
	}
	g.evenOut(r.Context(), began)
	switch s := f.decide(); {
	case s == toNew:
		if g.Now().Sub(v.Live.Begun) < time.Hour {
			g.Usage.Note(a.standing.Company, usage.Use{SignIn: true, Upgraded: true})
		}
		return found(w, g.newURL(&a))
	case s == pass && len(a.tokens) > 0:
		return found(w, cmp.Or(g.Legacy.Page(a.named.Company), "/")) // nothing of ours repeats the token
	case s == pass, s == openly, s == visits:
		return found(w, g.ways.Safe(u.RequestURI())) // it needs no more proof
	case v != nil:
		g.notHere(w, r, v)
		return nil
	case a.Kind != legacy.Old && a.Kind != legacy.Bad && !a.veiled:
		return found(w, g.ways.Safe(u.RequestURI())) // there is no secret in it, so they are asked there
	}
	g.signin.PromptHere(w, r)
	return nil
}
