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
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// even is how long the answer to a link of nobody knows whom takes, at least: what was
// looked up for it isn't felt.
const even = 20 * time.Millisecond

func (g *Gate) evenOut(ctx context.Context, began time.Time) {
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
func (g *Gate) hideReferer(h http.Header) {
	secret := func(page string) bool {
		if page == "" {
			return false
		}
		u, err := url.Parse(page)
		return err != nil || g.rules.link(u) || g.Legacy.Secret(u)
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
func (g *Gate) mayTellReferer(r *http.Request, a *about) bool {
	if len(a.referer) != 1 || len(r.Header["Referer"]) == 1 && r.Header["Referer"][0] == a.referer[0] {
		return false // none, several, or one that isn't hidden
	}
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && web.ReaderOf(r.Header) == web.Program {
		return false
	}
	u, err := url.Parse(a.referer[0])
	if err != nil || u.User != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, g.site(r).Host) || g.rules.link(u) {
		return false
	}
	page := g.Legacy.Match(u)
	if page.Kind == legacy.Bad {
		return false
	}
	tokens := slices.Concat(page.Strays, page.Beside)
	if page.Kind == legacy.Old {
		tokens = append(tokens, page.Token)
	}
	isOf := func(s directory.Standing) bool {
		return s.Company != "" && (page.Company == "" || page.Company == s.Company) &&
			!slices.ContainsFunc(page.Routes, func(id string) bool { return id != s.Company }) &&
			!slices.ContainsFunc(tokens, func(token string) bool { return !s.Has(directory.PrintOf(token)) })
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
func (g *Gate) asOld(r *http.Request, a *about) (moved string, err error) {
	if a.Kind == legacy.New && a.standing.Token != "" {
		old, ok := g.Legacy.OldURL(r.URL, a.Verdict, a.standing.Token)
		if !ok {
			g.Log.Error("the first old link of a company can't stand in its pattern, so its pages can't be reached; give it another first one", "company", a.standing.Company)
			return "", errNothing
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

// blind puts, in the query, what no company has in the place of the tokens that are astray:
// the portal answers as to any unknown one, so nobody learns that these aren't. Those that
// stand in the path stay astray. For what is no token of theirs it does the same, and throws it
// away, so that its time tells nothing either.
func (g *Gate) blind(r *http.Request, a *about) {
	if len(a.notTheirs) == 0 {
		return
	}
	blinded := *r.URL
	with := func(token string) string { return unknown(len(token)) }
	masked := func(query string) string {
		g.Legacy.Masked(query, a.notTheirs, with)
		return g.Legacy.Masked(query, a.astray, with)
	}
	blinded.RawQuery = masked(r.URL.RawQuery)
	rest := masked(a.Query)
	now := g.Legacy.Match(&blinded)
	left := slices.Concat(now.Strays, now.Beside, now.Params)
	if len(a.astray) > 0 {
		r.URL.RawQuery, a.Query = blinded.RawQuery, rest
		a.astray = slices.DeleteFunc(a.astray, func(token string) bool { return !slices.Contains(left, token) })
	}
}

// foreign reports whether a token is one, or may be taken for one, of a company that asks for
// sign-in and that the visitor doesn't reach. standing is the company's; zero: it is no token.
// theirs: the token is of a company whose pages they may see.
func (g *Gate) foreign(ctx context.Context, a *about, token string) (standing directory.Standing, foreign, theirs bool, err error) {
	if s, held := g.Book.HeldByToken(token); held && a.reaches(s.Company) {
		return s, s.Upgraded && !a.visitor.isIn(s.Company), true, nil
	}
	s, err := g.Book.StandingLike(ctx, token)
	if errors.Is(err, directory.ErrUnknown) {
		return s, false, false, nil
	}
	return s, err == nil && s.Upgraded && !a.visitor.isIn(s.Company), err == nil && a.reaches(s.Company), err
}

// mostLookups is how many look-ups of tokens the cookies of a signed-in visitor's request may
// cost, and a form without being counted against the network of a visitor who isn't signed in: each asks
// the store several times, and takes a few bytes to send.
const mostLookups = 32

// blindForms does for forms and cookies what blind does for the query: to many portals they
// are all the same. A form is judged as the portal reads it.
func (g *Gate) blindForms(r *http.Request, a *about) error {
	if !g.Legacy.InQuery() {
		return nil
	}
	by := *a // of its own, so that only a request that gets here has it allocated
	foreign := func(token string) (bool, error) {
		_, foreign, _, err := g.foreign(r.Context(), &by, token)
		return foreign, err
	}
	inForm, inCookies := 0, 0
	forms := legacy.Forms{Unknown: unknown, Foreign: func(token string) (bool, error) {
		if inForm++; inForm%mostLookups == 0 && by.visitor == nil && !g.Networks.Take(limit.Lookups, g.ClientIP(r)) {
			return false, legacy.ErrForm
		}
		return foreign(token)
	}}
	most := mostLookups
	switch {
	case by.visitor != nil:
	case by.visit != nil || by.Kind == legacy.Old:
		most = freeLookups
	case len(by.Strays) > 0 || by.Token != "" || by.Company != "", g.hasSessionCookie(r):
		most = 0 // the rest has cost as much as a request may, see mayLookUp
	default:
		most = 1
	}
	cookies := legacy.Forms{Foreign: func(token string) (bool, error) {
		if inCookies++; inCookies > most {
			return true, nil // the rest are left out
		}
		return foreign(token)
	}}
	if r.Body != nil && r.Body != http.NoBody {
		contentType := strings.Join(r.Header["Content-Type"], " ")
		if contentType == "" && r.Method == http.MethodPost {
			contentType = "application/x-www-form-urlencoded" // as CGI and Rack take it
		}
		form := g.Legacy.Body(r.Body, contentType, forms)
		if form != r.Body && (r.Header["Content-Encoding"] != nil || !asciiLike(contentType)) {
			return errUnclear // some portals unpack it, or read it in those characters, and we don't
		}
		r.Body = form
	}
	var kept []string
	found := false
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(textproto.TrimString(pair), "=")
			foreign, err := g.Legacy.Cookie(name, value, cookies)
			if err != nil {
				return err
			}
			if found = found || foreign; !foreign {
				kept = append(kept, pair)
			}
		}
	}
	if found {
		r.Header["Cookie"] = []string{textproto.TrimString(strings.Join(kept, ";"))}
	}
	return nil
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
func (g *Gate) newURL(a *about) string {
	v := a.Verdict
	v.Query = g.Legacy.Masked(v.Query, a.tokens, func(string) string { return "" })
	to := g.Legacy.NewURL(v, a.standing.Company)
	if u, err := url.Parse(to); err != nil || slices.ContainsFunc(g.Legacy.Match(u).Strays, func(s string) bool { return slices.Contains(a.tokens, s) }) {
		return g.Legacy.Page(a.standing.Company)
	}
	return to
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
	gate  *Gate
	host  string  // by which the visitor came
	seen  url.URL // as the portal got it; handlers may change the request's
	moved string  // the company, where the browser knows another; "" where it knows that one

	company string   // of the page, where somebody is signed in; else ""
	visitor *Visitor // who gets the answer; nil: nobody is signed in
	asked   string   // the path that the browser asked for
}

func (o *outgoing) rewrite(ctx context.Context, h http.Header) {
	if o.gate == nil || !o.gate.Legacy.HasLinks() && o.company == "" ||
		h["Location"] == nil && h["Content-Location"] == nil && h["Refresh"] == nil && h["Set-Cookie"] == nil {
		return
	}
	all := legacy.Outgoing{
		Rules: o.gate.Legacy, Hosts: []string{o.gate.URL.Host, o.host}, Seen: &o.seen, Moved: o.moved != "",
		Company: func(token string) (string, bool) {
			s, err := o.gate.Book.StandingByToken(ctx, token)
			switch {
			case err != nil || !s.Upgraded && s.Company != o.moved:
				return "", false
			case s.Company == o.moved || o.visitor.isIn(s.Company):
				return s.Company, true
			}
			return "", true // nobody else learns whose it is
		},
		Hide: o.gate.goURL,
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

const goPurpose = "old-link"

// goURL is where an old link leads who isn't signed in: it is sealed, and as long as that
// of any other link of about this length.
func (g *Gate) goURL(u *url.URL) string { return g.sealedURL(g.remembered(u, mostGone)) }

func (g *Gate) sealedURL(plain string) string {
	size := 256
	for size < len(plain) {
		size *= 2
	}
	if size == 4096 && len(plain) <= mostGone {
		size = mostGone
	}
	padded := make([]byte, size) // the rest are NULs, which no URL has
	copy(padded, plain)
	return g.Prefix + "/go?x=" + encode(g.keys.Seal(goPurpose, g.Firm, padded))
}

// remembered returns path and query as far as they fit into so many bytes: of a longer old link
// first its query is left out, then what it has behind the token.
func (g *Gate) remembered(u *url.URL, most int) string {
	whole := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).RequestURI()
	if len(whole) <= most {
		return whole
	}
	shorter := []string{u.EscapedPath()}
	if v := g.Legacy.Match(u); v.Kind == legacy.Old {
		shorter = g.Legacy.Shorter(v)
	}
	for _, one := range shorter {
		if one != "" && len(one) <= most {
			return one
		}
	}
	return "/"
}

const (
	// mostGone is how many bytes of an old link are remembered while somebody signs in: sealed
	// they fit into a way back.
	mostGone = 2900
	// mostMoved is how many bytes of a page are remembered on the way to where there is TLS.
	mostMoved = 4096
)

// isGone reports whether a query is one that goURL made.
func (g *Gate) isGone(query string) bool {
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 {
		return false
	}
	_, ok := g.goneTo(values)
	return ok
}

// goneTo returns the old link of a /go, or false for one that we didn't seal.
func (g *Gate) goneTo(query url.Values) (*url.URL, bool) {
	raw, err := decode(one(query["x"]))
	if err != nil {
		return nil, false
	}
	padded, err := g.keys.Open(goPurpose, g.Firm, raw)
	if err != nil {
		return nil, false
	}
	u, err := url.ParseRequestURI(strings.TrimRight(string(padded), "\x00"))
	return u, err == nil
}

// getGo is where an old link leads: to the prompt, and then to the page that it meant.
func (g *Gate) getGo(w http.ResponseWriter, r *http.Request) error {
	began := g.Now()
	u, ok := g.goneTo(r.URL.Query())
	if !ok {
		return errNothing
	}
	if g.inTheClear(r) {
		g.fronted.Store(true)  // who was sent here came with TLS: it ends in front of us, if it never ends here
		if web.IsPageLoad(r) { // by which each process sees it
			cookie, _ := newBrowser()
			g.setCookie(w, g.cookies.Flow, cookie, token.WayBack)
		}
	}
	v, err := g.visitor(r)
	if err != nil && !errors.Is(err, errNobody) {
		return err
	}
	linked := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Accept": {"text/html"}, "Cookie": r.Header["Cookie"]}}).WithContext(r.Context())
	kind := g.rules.classify(linked)
	if kind == Own { // see serveOwn
		if !plain(u) { // such as //example.com/-/, sealed when the prefix was another: browsers read a host in it
			return errNothing
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
		return found(w, g.rules.returnPath(u.RequestURI())) // it needs no more proof
	case v != nil:
		g.notHere(w, r, v)
		return nil
	case a.Kind != legacy.Old && a.Kind != legacy.Bad && !a.veiled:
		return found(w, g.rules.returnPath(u.RequestURI())) // there is no secret in it, so they are asked there
	}
	if web.IsPageLoad(r) {
		g.clearDeadCookie(w, r)
	}
	if g.answerFor(r) == Frame {
		g.page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, r.URL.RequestURI())})
		return nil
	}
	g.page(w, r, http.StatusUnauthorized, g.promptPage(r.URL.RequestURI()))
	return nil
}
