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

// minResponseTime is the minimum response time for old links of unknown senders, so that response times don't
// reveal the result of a look-up.
const minResponseTime = 20 * time.Millisecond

func (g *forwarder) waitMinResponseTime(ctx context.Context, began time.Time) {
	left := minResponseTime - g.Now().Sub(began) + rand.N(minResponseTime/4)
	select {
	case <-time.After(left):
	case <-ctx.Done():
	}
}

// Hides reports whether no log may contain a request's URL or header unchanged, because they may
// contain a company's token. Browsers and libraries send the current page's URL in many headers
// (Referer, Ping-From, HX-Current-URL, Turbolinks-Referrer).
func Hides(rules *legacy.Rules, u *url.URL, h http.Header) bool {
	hides := func(page string) bool { return refererHides(rules, page) }
	return rules.HasLinks() && (rules.MayHoldToken(u) || slices.ContainsFunc(h["Referer"], hides) || rules.HeaderMayHoldToken(h, u))
}

// refererHides is Hides for a Referer. An invalid URL counts as one with a token.
func refererHides(rules *legacy.Rules, referer string) bool {
	if referer == "" {
		return false
	}
	u, err := url.Parse(referer)
	return err != nil || rules.MayHoldToken(u)
}

// hideReferer reduces a Referer to its origin if it contains a secret: that of a mailed link, from
// a browser that ignores the gate's Referrer-Policy, or the token of an open company, whose pages
// have it in their URLs. The portal would write it into its own logs.
func (g *forwarder) hideReferer(h http.Header, kind Kind) {
	secret := func(page string) bool {
		if page == "" {
			return false
		}
		u, err := url.Parse(page)
		return err != nil || g.rules.link(u) || g.Legacy.MayHoldToken(u) || kind != Open && g.holdsToken(page) // see maskHeadersAndBody
	}
	if slices.ContainsFunc(h["Referer"], secret) {
		originAlone(h)
	}
}

// mayTellReferer reports whether the portal receives the whole Referer although it contains a
// company's token: portals redirect people back to it. It must be the URL of one page of this site.
// Each token in it must belong to the request's company or, for a page of no company, to the
// visit's company or a company of the visitor. It looks up no tokens, so real and unknown ones take
// the same time. Subresources and other requests that can't redirect a page don't receive it.
func (g *forwarder) mayTellReferer(r *http.Request, a *requestContext) bool {
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
	index := g.Directory.CachedTokens()
	if index == nil {
		return false
	}
	hits := index.Find(a.referer[0])
	tokens := page.MisplacedTokens
	if page.Kind == legacy.Old {
		tokens = append(tokens, page.Token)
	}
	isOf := func(s directory.AccessStatus) bool {
		return s.Company != "" && (page.Company == "" || page.Company == s.Company) &&
			!slices.ContainsFunc(page.Routes, func(id string) bool { return id != s.Company }) &&
			!slices.ContainsFunc(tokens, func(token string) bool { return !s.Has(directory.FingerprintOf(token)) }) &&
			!slices.ContainsFunc(hits, func(hit tokensearch.Hit) bool { return !slices.Contains(hit.Companies, s.Company) })
	}
	var ids []string
	switch {
	case a.status.Company != "":
		return isOf(a.status)
	case a.visit != nil:
		ids = []string{a.visit.company}
	case a.visitor != nil:
		ids = a.visitor.Contact.Companies
	}
	return slices.ContainsFunc(ids, func(id string) bool {
		s, err := g.Directory.StatusOf(r.Context(), id)
		return err == nil && isOf(s)
	})
}

// originAlone reduces a Referer to its origin; it uses the first if there are several.
func originAlone(h http.Header) {
	referer := h.Get("Referer")
	delete(h, "Referer")
	if u, err := url.Parse(referer); err == nil && u.Host != "" {
		h["Referer"] = []string{u.Scheme + "://" + u.Host + "/"}
	}
}

// seen is the URL of a request as received.
type seen struct {
	url  url.URL
	line string
}

func seenAt(r *http.Request) seen { return seen{*r.URL, r.RequestURI} }

func (s *seen) restore(r *http.Request) { *r.URL, r.RequestURI = s.url, s.line }

// asOld rewrites a request for the portal: a new link becomes the old one, with the company's token
// put back. It changes the request in place, because later handlers read the URL in several ways;
// the caller restores it afterwards. URLs for logs don't contain the token. moved is the company if
// the browser has another URL, otherwise "".
func (g *forwarder) asOld(r *http.Request, a *requestContext) (moved string, err error) {
	if a.Kind == legacy.New && a.status.Token != "" {
		old, ok := g.Legacy.OldURL(r.URL, a.Verdict, a.status.Token)
		if !ok {
			g.Log.Error("the first old link of a company can't stand in its pattern, so its pages can't be reached; give it another first one", "company", a.status.Company)
			return "", web.ErrNotFound
		}
		*r.URL, moved = *old, a.status.Company
	}
	if a.instead != "" {
		p := strings.TrimSuffix(r.URL.Path, a.Session)
		r.URL.Path, r.URL.RawPath = p[:strings.LastIndexByte(p, '/')+1]+a.instead+a.Session, ""
	}
	switch {
	case a.Kind == legacy.Old:
		r.RequestURI = g.Legacy.Pattern(a.Verdict)
	case a.possibleToken:
		r.RequestURI = "/" // only for logs: the rest may be a token
	}
	return moved, nil
}

// maskQuery replaces the unauthorized tokens in the query by values that no company has: the portal
// then answers as for any unknown token, so nobody learns that they are real. Tokens in the path
// stay, and stay in astray.
func (g *forwarder) maskQuery(r *http.Request, kind Kind, a *requestContext) error {
	if g.visitors.Anchor.Err() != nil {
		r.URL.RawQuery, a.Query = "", ""
		return nil
	}
	index, err := g.Directory.Tokens(r.Context())
	if err != nil {
		return err
	}
	masked := func(query string) string {
		query = g.Legacy.Masked(query, a.unauthorized, func(token string) string { return unknown(len(token)) })
		for _, token := range a.unauthorized { // tokens that occur in a path
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
	a.unauthorized = slices.DeleteFunc(a.unauthorized, func(token string) bool {
		return !slices.Contains(left.MisplacedTokens, token) && !slices.Contains(left.PossibleTokens, token)
	})
	return nil
}

// isForeign reports whether a token of these companies isn't one that the sender may use.
func (a *requestContext) isForeign(companies []string) bool {
	return len(companies) > 0 && !slices.ContainsFunc(companies, a.reaches)
}

// maskHeadersAndBody is maskQuery for headers and the body: many portals read parameters from all of them. It
// also checks a form by its parameter names, as the portal reads it: that finds tokens that are too
// short to be searched for.
func (g *forwarder) maskHeadersAndBody(r *http.Request, open bool, a *requestContext) error {
	if !g.Legacy.HasLinks() || a.visitor.IsStaff() {
		return nil
	}
	if err := g.visitors.Anchor.Err(); err != nil {
		return leaveBare(r, err)
	}
	index, err := g.Directory.Tokens(r.Context())
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
	by := *a // a copy, so that only requests that get here allocate it
	hides := func(hit tokensearch.Hit) bool {
		return !g.mayGuess(r.Context(), kind, &by, hit) && by.isForeign(hit.Companies)
	}
	forms := legacy.Forms{Unknown: unknown, Unauthorized: func(token string) bool { return by.isForeign(index.Companies(token)) }}
	if hasBody(r) {
		contentType := strings.Join(r.Header["Content-Type"], " ")
		if contentType == "" && r.Method == http.MethodPost {
			contentType = "application/x-www-form-urlencoded" // as CGI and Rack treat it
		}
		form := g.Legacy.Body(r.Body, contentType, forms)
		if r.Header["Content-Encoding"] != nil || form != r.Body && !asciiLike(contentType) {
			return errUnclear // some portals decompress or decode it; the gate doesn't
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

// leaveBare removes everything that may contain a token from a request for a public page while the
// store isn't trusted, when the tokens of upgraded companies are unknown. A body can't be removed;
// the error then refuses the request, for the given reason.
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

// conditional are the headers with which a browser requests a part of a page or a newer version.
var conditional = []string{"If-Modified-Since", "If-None-Match", "If-Range", "Origin", "Range"}

// hasBody reports whether a request may have a body. Caddy wraps even http.NoBody.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// needsBlinding reports whether a request has a body, or a header with a token of any company.
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

// dropCookies removes the cookies for which drop returns true.
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

// isOrdinary reports whether browsers send the header with every request and no portal reads a
// parameter from it.
func isOrdinary(header string) bool {
	switch header {
	case "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Content-Length", "Content-Type", "Dnt", "Priority", "Te",
		"Upgrade-Insecure-Requests", "User-Agent":
		return true
	}
	return strings.HasPrefix(header, "Sec-Fetch-") || strings.HasPrefix(header, "Sec-Ch-") || header == "Sec-Gpc"
}

// asciiLike reports whether a content type's text encodes ASCII characters as ASCII, as browsers
// send it.
func asciiLike(contentType string) bool {
	_, charset, found := strings.Cut(strings.ToLower(contentType), "charset")
	charset = strings.TrimLeft(charset, ` ="*`)
	return !found || strings.HasPrefix(charset, "utf-8") || strings.HasPrefix(charset, "utf8") || strings.HasPrefix(charset, "us-ascii") ||
		strings.HasPrefix(charset, "iso-8859-") || strings.HasPrefix(charset, "windows-125")
}

// newURL returns the URL to which an old link redirects, without its token or any other company's.
func (g *forwarder) newURL(a *requestContext) string {
	v := a.Verdict
	v.Query = g.Legacy.Masked(v.Query, a.tokens, func(string) string { return "" })
	to := g.Legacy.NewURL(v, a.status.Company)
	u, err := url.Parse(to)
	if err != nil || g.holdsToken(to) || slices.ContainsFunc(g.Legacy.Match(u).MisplacedTokens, func(s string) bool { return slices.Contains(a.tokens, s) }) {
		return g.Legacy.Page(a.status.Company)
	}
	return to
}

// holdsToken reports whether a text contains a token of any company, or may: before the tokens are
// in memory, that is unknown.
func (g *forwarder) holdsToken(text string) bool {
	if !g.Legacy.HasLinks() {
		return false
	}
	index := g.Directory.CachedTokens()
	return text != "" && (index == nil || len(index.Find(text)) > 0)
}

// HoldsToken reports whether no log may contain a URL unchanged, because it contains a company's
// token outside of every pattern; Hides finds the others.
func (g *Gate) HoldsToken(u *url.URL) bool {
	return g.forward.holdsToken(u.Path) || g.forward.holdsToken(u.RawQuery)
}

// PassesGuesses reports whether all tokens in a request, made by somebody who isn't signed in, may pass on a public page; see mayGuess.
// The answer to such a request must not differ from that to one without them, though Caddy may log them.
func (g *Gate) PassesGuesses(r *http.Request) bool {
	f := g.forward
	index := f.Directory.CachedTokens()
	if index == nil || g.rules.classify(r) != Open {
		return false
	}
	a := requestContext{}
	var err error
	if a.visit, err = f.visitOf(r, nil); err != nil {
		return false
	}
	known := func(text string) bool {
		return slices.ContainsFunc(index.Find(text), func(hit tokensearch.Hit) bool { return !f.mayGuess(r.Context(), Open, &a, hit) })
	}
	if known(r.URL.Path) || known(r.URL.RawQuery) {
		return false
	}
	for name, values := range r.Header {
		if !isOrdinary(name) && slices.ContainsFunc(values, known) {
			return false
		}
	}
	return true
}

// HoldTokens is HoldsToken for the headers in logs.
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

// unknown returns a text of the given size that isn't a token of any company.
func unknown(size int) string {
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(strings.ToLower(cryptorand.Text()))
	}
	return b.String()[:size]
}

// outgoing rewrites the portal's response: old links of upgraded companies become new ones for
// visitors who reach those companies, and lead through /go for others; on a page with a new link,
// so do old links of its company, open or not. The zero value rewrites nothing.
type outgoing struct {
	gate  *forwarder
	host  string  // of the visitor's request
	seen  url.URL // as the portal received it; handlers may change the request's
	moved string  // the company, if the browser has another URL; otherwise ""

	company string           // of the page, if the visitor is signed in; otherwise ""
	visitor *visitor.Visitor // nil if nobody is signed in
	asked   string           // the path that the browser requested
}

func (o *outgoing) rewrite(ctx context.Context, h http.Header) {
	if o.gate == nil || !o.gate.Legacy.HasLinks() && o.company == "" ||
		h["Location"] == nil && h["Content-Location"] == nil && h["Refresh"] == nil && h["Set-Cookie"] == nil {
		return
	}
	all := legacy.Outgoing{
		Rules: o.gate.Legacy, Hosts: []string{o.gate.answers.Sites.URL.Host, o.host}, Seen: &o.seen, Moved: o.moved != "",
		Company: func(token string) (string, bool) {
			s, err := o.gate.Directory.StatusByToken(ctx, token)
			switch {
			case err != nil || !s.Upgraded && s.Company != o.moved:
				return "", false
			case s.Company == o.moved || o.visitor.Reaches(s.Company):
				return s.Company, true
			}
			return "", true // other visitors must not learn the company
		},
		Hide: o.gate.ways.Seal,
	}
	all.Header(h)
	o.avoidRedirectLoop(h, &all)
}

// avoidRedirectLoop prevents a loop with a portal that redirects from a company's home to `/`, from
// which the gate redirects to that home: the redirect leads to `/?` instead, which is the same page
// to the portal, and which homeOf doesn't redirect.
func (o *outgoing) avoidRedirectLoop(h http.Header, all *legacy.Outgoing) {
	home := o.gate.Legacy.Home(o.company)
	if h["Location"] == nil && h["Refresh"] == nil || o.company == "" || home == "" || !strings.EqualFold(home, (&url.URL{Path: o.asked}).EscapedPath()) {
		return
	}
	all.Root = true
	all.Header(http.Header{"Location": h["Location"], "Refresh": h["Refresh"]})
}

// getGo serves the target of sealed old links: the prompt, and after sign-in a redirect to the
// original page.
func (g *forwarder) getGo(w http.ResponseWriter, r *http.Request) error {
	began := g.Now()
	u, ok := g.ways.Open(r.URL.Query())
	if !ok {
		return web.ErrNotFound
	}
	if g.insecure.is(r) {
		g.insecure.terminatedUpstream.Store(true) // this visitor came with TLS: it ends in front of the gate, unless it has ended here before
		if web.IsPageLoad(r) {                    // so that each process learns it
			g.cookies.Set(w, g.cookies.Flow, secret.Random(), token.LinkRetention)
		}
	}
	v, err := g.visitors.Of(r)
	if err != nil && !errors.Is(err, visitor.ErrNone) {
		return err
	}
	linked := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Accept": {"text/html"}, "Cookie": r.Header["Cookie"]}}).WithContext(r.Context())
	kind := g.rules.classify(linked)
	if kind == Own { // see serveOwn
		if !plain(u) { // such as //example.com/-/, sealed under another prefix: browsers read a host in it
			return web.ErrNotFound
		}
		return found(w, u.RequestURI())
	}
	a, f, err := g.evaluate(linked, kind, v)
	if err != nil {
		return err
	}
	g.waitMinResponseTime(r.Context(), began)
	switch s := f.decide(); {
	case s == redirectToNewLink:
		if g.Now().Sub(v.Live.Begun) < time.Hour {
			g.Usage.Note(a.status.Company, usage.Use{SignIn: true, Upgraded: true})
		}
		return found(w, g.newURL(&a))
	case s == pass && len(a.tokens) > 0:
		return found(w, cmp.Or(g.Legacy.Page(a.named.Company), "/")) // the gate repeats the token nowhere
	case s == pass, s == passPublic, s == passAnonymous:
		return found(w, g.ways.Safe(u.RequestURI())) // no sign-in is needed any more
	case v != nil:
		g.notHere(w, r, v)
		return nil
	case a.Kind != legacy.Old && a.Kind != legacy.Bad && !a.possibleToken:
		return found(w, g.ways.Safe(u.RequestURI())) // it contains no secret, so the prompt appears there
	}
	g.signin.PromptHere(w, r)
	return nil
}
