package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// visit is the anonymous access to a company's pages by its open old link. It exists only sealed in
// a cookie that ends with the browser, so that opening thousands of old links stores nothing at the
// gate.
type visit struct {
	id      string // the portal's cookies are bound to it
	company string
	contact string // the signed-in contact, who doesn't reach the company: only they can use the visit; "" if none
	began   time.Time
	token   directory.Fingerprint // of the old link
	era     uint64                // of the company
}

const (
	visitLife    = 12 * time.Hour // at most
	visitPurpose = "visit"
)

// isActive reports whether the visit is still valid for the access status of its company: it ends for good
// with an upgrade, with the removal of the company, and with the removal of the old link's token.
func (v *visit) isActive(s directory.AccessStatus) bool {
	return s.Company == v.company && !s.Upgraded && s.Generation == v.era && s.Has(v.token)
}

// visitOf returns the browser's visit, or nil. by is the signed-in visitor or nil: a visitor can't
// continue another one's visit, or a visit to a company that they reach themselves. The error is
// the store's.
func (g *forwarder) visitOf(r *http.Request, by *visitor.Visitor) (*visit, error) {
	if !slices.ContainsFunc(r.Header["Cookie"], func(line string) bool { return strings.Contains(line, g.cookies.Visit) }) {
		return nil, nil
	}
	cookie, err := r.Cookie(g.cookies.Visit)
	if err != nil {
		return nil, nil
	}
	v := g.openVisit(cookie.Value)
	if v == nil {
		return nil, nil
	}
	switch {
	case by == nil && v.contact != "", by != nil && (v.contact != by.Contact.ID || by.Reaches(v.company)):
		return nil, nil
	}
	if age := g.Now().Sub(v.began); age < -time.Minute || age >= visitLife {
		return nil, nil
	}
	s, err := g.Directory.StatusOf(r.Context(), v.company)
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return nil, err
	}
	if !v.isActive(s) {
		return nil, nil
	}
	return v, nil
}

// newVisit begins a visit by an old link of the company.
func (g *forwarder) newVisit(s directory.AccessStatus, token string, by *visitor.Visitor) *visit {
	v := &visit{id: rand.Text(), company: s.Company, began: g.Now(), token: directory.FingerprintOf(token), era: s.Generation}
	if by != nil {
		v.contact = by.Contact.ID
	}
	return v
}

// sealVisit returns the value of the visit's cookie; openVisit is its reverse, and returns nil for
// other values.
func (g *forwarder) sealVisit(v *visit) string {
	number := func(n uint64) string { return strconv.FormatUint(n, 36) }
	plain := strings.Join([]string{v.id, v.company, v.contact, strconv.FormatInt(v.began.Unix(), 36), number(uint64(v.token)), number(v.era)}, "\x00")
	return g.keys.SealText(visitPurpose, g.Firm, []byte(plain))
}

func (g *forwarder) openVisit(cookie string) *visit {
	plain, err := g.keys.OpenText(visitPurpose, g.Firm, cookie)
	if err != nil {
		return nil
	}
	parts := strings.Split(string(plain), "\x00")
	if len(parts) != 6 {
		return nil
	}
	began, err1 := strconv.ParseInt(parts[3], 36, 64)
	token, err2 := strconv.ParseUint(parts[4], 36, 64)
	era, err3 := strconv.ParseUint(parts[5], 36, 64)
	if errors.Join(err1, err2, err3) != nil {
		return nil
	}
	return &visit{parts[0], parts[1], parts[2], time.Unix(began, 0), directory.Fingerprint(token), era}
}

// passVisit passes a request on by an open company's old link: without an identity, even if a
// visitor is signed in who isn't of the company.
func (g *forwarder) passVisit(a *requestContext, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	stay := a.visit // must stay valid during the response
	var cookie *http.Cookie
	if a.Kind == legacy.Old {
		stay = g.newVisit(a.status, a.Token, a.visitor)
		switch {
		case a.visit != nil && a.visit.company == a.status.Company:
			stay.began = a.visit.began
		case web.IsPageLoad(r): // other requests set no cookies
			a.visit, cookie = stay, g.cookies.New(g.cookies.Visit, g.sealVisit(stay), 0)
		default:
			a.visit = nil
		}
	}
	sent := r.Header["Cookie"]
	if a.visit != nil {
		a.names(directory.AccessStatus{Company: a.visit.company}, "")
	}
	h := a.owner() // without a visit, the portal's cookies are returned only with the old link
	if a.visit != nil && !a.several {
		h = a.visit.owner()
	}
	if err := g.bound.Unseal(r.Context(), r.Header, h.Is); err != nil {
		return err
	}
	was := seenAt(r)
	defer was.restore(r)
	moved, err := g.asOld(r, a)
	if err != nil {
		return err
	}
	keepWithinSite(w.Header()) // the URL contains the secret
	ctx, done := g.whileItGoesOn(r.Context(), stay)
	defer done()
	if a.visitor != nil {
		g.Sessions.Seen(ctx, a.visitor.Live)
		attached, flight := g.Sessions.Attach(ctx, a.visitor.Live, "")
		defer flight.Done()
		ctx = attached
	}
	(&portalWriter{sent: sent, visit: cookie, ResponseWriter: w, ctx: r.Context(), gate: g, private: true, open: a.open, key: true,
		owner: h, old: outgoing{gate: g, host: r.Host, seen: *r.URL, moved: moved, visitor: a.visitor}}).serve(portal, r.WithContext(ctx))
	return nil
}

// owner returns the owner of the portal's cookies in a visit.
func (v *visit) owner() upstream.Owner { return upstream.Owner{Visit: v.id, Company: v.company} }

// inVisit reports whether the portal's session in a signed-in visitor's request is the one of their
// visit to another company, which they opened last. The portal has one cookie for both, so it can't
// be their own session at the same time.
func (g *forwarder) inVisit(r *http.Request, v *visit) (bool, error) {
	is := false
	h := http.Header{"Cookie": r.Header["Cookie"]}
	err := g.bound.Unseal(r.Context(), h, func(of upstream.Owner) (bool, error) { is = is || of == v.owner(); return true, nil })
	return is, err
}

// whileItGoesOn returns a context that is canceled within a second of the end of a visit, so that
// requests in flight end too. Call done when the request is done.
func (g *forwarder) whileItGoesOn(parent context.Context, v *visit) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(parent)
	until := v.began.Add(visitLife)
	var timer *time.Timer
	timer = time.AfterFunc(visitLife, func() {
		if ctx.Err() != nil {
			return
		}
		s, err := g.Directory.StatusOf(ctx, v.company)
		if (err == nil || errors.Is(err, directory.ErrUnknown)) && !v.isActive(s) || !g.Now().Before(until) {
			cancel()
			return
		}
		timer.Reset(session.SweepInterval) // even if the store can't tell
	})
	timer.Reset(session.SweepInterval) // from here on, timer is set
	return ctx, func() { timer.Stop(); cancel() }
}
