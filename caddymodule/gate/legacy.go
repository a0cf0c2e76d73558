package gate

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
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

// Hides reports whether no log may keep a request's URL or Referer as they are: one of
// them has, or may have, a company's token in it.
func Hides(rules *legacy.Rules, u *url.URL, h http.Header) bool {
	return rules.HasLinks() && (rules.Secret(u) || refererHides(rules, h.Get("Referer")))
}

// refererHides is Hides for a Referer. What is no URL may be anything.
func refererHides(rules *legacy.Rules, referer string) bool {
	if referer == "" {
		return false
	}
	u, err := url.Parse(referer)
	return err != nil || rules.Secret(u)
}

// hideOldLink takes an old link out of a Referer: the pages of an open company are at
// URLs with its token, and the portal would write them into its own logs.
func (g *Gate) hideOldLink(h http.Header) {
	referer := h.Get("Referer")
	if !g.Legacy.HasLinks() || !refererHides(g.Legacy, referer) {
		return
	}
	delete(h, "Referer")
	if u, err := url.Parse(referer); err == nil && u.Host != "" {
		h["Referer"] = []string{u.Scheme + "://" + u.Host + "/"}
	}
}

// asOld makes of a request what the portal gets: a new link becomes the old one, with the
// company's token put back. It is changed in place, since the handlers behind us see the
// URL in several ways; restore undoes it. Where logs would show the URL, they show one
// without the token. moved says that the browser knows another URL.
func (g *Gate) asOld(r *http.Request, a *about) (moved bool, restore func(), err error) {
	asked, line := *r.URL, r.RequestURI
	restore = func() { *r.URL, r.RequestURI = asked, line }
	switch {
	case a.Kind == legacy.New && a.standing.Token != "":
		old, ok := g.Legacy.OldURL(r.URL, a.Verdict, a.standing.Token)
		if !ok {
			g.Log.Error("the first old link of a company can't stand in its pattern, so its pages can't be reached; give it another first one", "company", a.standing.Company)
			return false, restore, errNothing
		}
		*r.URL, moved = *old, true
	case a.Kind == legacy.Old:
		r.RequestURI = g.Legacy.Pattern(a.Verdict)
	case len(a.Strays) > 0:
		r.RequestURI = r.URL.EscapedPath()
	}
	return moved, restore, nil
}

// outgoing rewrites the portal's answer: its old links of upgraded companies become new ones.
func (g *Gate) outgoing(ctx context.Context, seen *url.URL, moved bool) *legacy.Outgoing {
	if !g.Legacy.HasLinks() {
		return nil
	}
	return &legacy.Outgoing{
		Rules: g.Legacy, Hosts: []string{g.URL.Host}, Seen: new(*seen), Moved: moved,
		Company: func(token string) (string, bool) {
			s, err := g.Book.StandingByToken(ctx, token)
			return s.Company, err == nil && s.Upgraded
		},
	}
}

// inTheClear reports whether a request came without TLS, though people are to come with it.
func (g *Gate) inTheClear(r *http.Request) bool {
	if g.URL.Scheme != "https" {
		return false
	}
	if r.TLS != nil {
		if !g.endsTLS.Load() {
			g.endsTLS.Store(true)
		}
		return false
	}
	return !strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") && (g.endsTLS.Load() || !g.fronted.Load())
}

// toTLS answers an old link that came without TLS, before a redirect of Caddy's would
// repeat its token.
func (g *Gate) toTLS(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errUnclear
	}
	return found(w, g.URL.Scheme+"://"+g.URL.Host+g.goURL(r.URL))
}

const goPurpose = "old-link"

// goURL is where an old link leads who isn't signed in: it is sealed, and as long as that
// of any other link of about this length.
func (g *Gate) goURL(u *url.URL) string {
	plain := u.EscapedPath()
	if u.RawQuery != "" {
		plain += "?" + u.RawQuery
	}
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

// mostGone is how long an old link may be to be remembered while somebody signs in; who
// comes by a longer one is led to the portal's beginning.
const mostGone = 2900

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
	if !ok || g.Legacy == nil {
		return errNothing
	}
	if g.inTheClear(r) {
		g.fronted.Store(true) // who was sent here came with TLS: it ends in front of us, if it never ends here
	}
	v, err := g.visitor(r)
	if err != nil && !errors.Is(err, errNobody) {
		return err
	}
	linked := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
	a, err2 := g.judge(linked.WithContext(r.Context()), Open, v)
	if err2 != nil {
		return err2
	}
	g.evenOut(r.Context(), began)
	if a.Kind == legacy.Old && a.standing.Company != "" && !a.standing.Upgraded {
		return found(w, u.RequestURI()) // it needs no proof yet
	}
	if err != nil {
		if pageLoad(r) {
			g.clearDeadCookie(w, r)
		}
		if g.answerFor(r) == Frame {
			g.page(w, r, http.StatusUnauthorized, FramePage{URL: r.URL.RequestURI()})
			return nil
		}
		g.page(w, r, http.StatusUnauthorized, PromptPage{To: r.URL.RequestURI()})
		return nil
	}
	switch {
	case a.Kind != legacy.Old || a.standing.Company == "":
		return errNotHere
	case v.reaches(a.standing.Company):
		if g.Now().Sub(v.Live.Begun) < time.Hour {
			g.Usage.Note(a.standing.Company, usage.Use{SignIn: true, Upgraded: true})
		}
		return found(w, g.Legacy.NewURL(a.Verdict, a.standing.Company))
	}
	return errNotHere
}
