package gate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
)

// visit is what an open company's old link gives: a way in for its pages, without a
// person. It lies sealed in a cookie that ends with the browser, and nowhere else, so that
// whoever opens old links by the thousand leaves nothing here.
type visit struct {
	id      string // the portal's cookies are bound to it
	company string
	began   time.Time
}

const (
	visitLife    = 12 * time.Hour // at most
	visitPurpose = "visit"
)

// visitOf returns the visit that the browser has, or nil: it is over with time, and with
// the upgrade of its company. The error is the store's.
func (g *Gate) visitOf(r *http.Request) (*visit, error) {
	cookie, err := r.Cookie(g.cookies.visit)
	if err != nil {
		return nil, nil
	}
	raw, err := decode(cookie.Value)
	if err != nil {
		return nil, nil
	}
	plain, err := g.keys.Open(visitPurpose, g.Firm, raw)
	if err != nil {
		return nil, nil
	}
	parts := strings.Split(string(plain), "\x00")
	if len(parts) != 3 {
		return nil, nil
	}
	began, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, nil
	}
	v := &visit{parts[0], parts[1], time.Unix(began, 0)}
	if age := g.Now().Sub(v.began); age < -time.Minute || age >= visitLife {
		return nil, nil
	}
	s, err := g.Book.StandingOf(r.Context(), v.company)
	switch {
	case errors.Is(err, directory.ErrUnknown), err == nil && s.Upgraded:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return v, nil
}

// newVisit begins a visit, and returns its cookie's value.
func (g *Gate) newVisit(company string) (v *visit, cookie string) {
	v = &visit{rand.Text(), company, g.Now()}
	plain := v.id + "\x00" + v.company + "\x00" + strconv.FormatInt(v.began.Unix(), 10)
	return v, encode(g.keys.Seal(visitPurpose, g.Firm, []byte(plain)))
}

// encode writes bytes as they can stand in a URL and in a cookie; decode is its reverse.
func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

// passVisit hands a request on as an open company's old link lets anyone: with nobody's name.
func (g *Gate) passVisit(a *about, w http.ResponseWriter, r *http.Request, portal http.Handler) error {
	cookie := ""
	if a.standing.Company != "" && (a.visit == nil || a.visit.company != a.standing.Company) {
		a.visit = nil
		if pageLoad(r) { // nothing else sets a cookie
			a.visit, cookie = g.newVisit(a.standing.Company)
		}
	}
	h := holder{company: a.standing.Company} // without a visit, what the portal sets comes back with the old link alone
	if a.visit != nil {
		h = holder{visit: a.visit.id, company: a.visit.company}
	}
	if err := g.bound.in(r.Context(), r.Header, func(of holder) bool { return of == h }); err != nil {
		return err
	}
	was := seenAt(r)
	defer was.restore(r)
	moved, err := g.asOld(r, a)
	if err != nil {
		return err
	}
	if len(w.Header()["Referrer-Policy"]) == 0 {
		w.Header().Set("Referrer-Policy", "strict-origin") // the URL is a key
	}
	ctx, done := g.whileOpen(r.Context(), a)
	defer done()
	(&portalWriter{visit: cookie, ResponseWriter: w, ctx: r.Context(), gate: g, private: true,
		holder: h, old: outgoing{g, r.Host, *r.URL, moved}}).serve(portal, r.WithContext(ctx))
	return nil
}

// whileOpen returns a context that is cancelled within a second of the upgrade of the
// company that the request is about or that is visited, and of the visit's time: what was
// opened by an old link doesn't outlive it. Call done when the request is done.
func (g *Gate) whileOpen(parent context.Context, a *about) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(parent)
	company, until := a.standing.Company, g.Now().Add(visitLife)
	if a.visit != nil {
		company, until = a.visit.company, a.visit.began.Add(visitLife)
	}
	var timer *time.Timer
	timer = time.AfterFunc(visitLife, func() {
		if ctx.Err() != nil {
			return
		}
		s, err := g.Book.StandingOf(ctx, company)
		if errors.Is(err, directory.ErrUnknown) || err == nil && s.Upgraded || !g.Now().Before(until) {
			cancel()
			return
		}
		timer.Reset(session.LookEvery) // also where the store can't tell
	})
	timer.Reset(session.LookEvery) // from here on, timer is set
	return ctx, func() { timer.Stop(); cancel() }
}
