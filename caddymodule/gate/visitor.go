package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// maxCookies is how many cookies of one name are judged in a request.
const maxCookies = 4

// errNobody: the request is nobody's who may come in.
var errNobody = errors.New("gate: not signed in")

// Visitor is who is signed in, worked out once for a session and used again for each
// of its requests as long as the directory stands still.
type Visitor struct {
	Live    *session.Live
	Contact directory.Contact

	firm    string
	serial  uint64 // of the gate that worked it out: another one may have other staff
	version uint64 // of the book that the contact was read from
	told    upstream.Identity

	companies []string        // that the portal is told of: all of the contact's, or none
	omitted   int             // how many it isn't told of
	reach     directory.Print // another one after each change of what they reach
	minted    atomic.Pointer[minted]
	entered   *sync.Map // the companies whose pages staff have looked at in this session; nil: they aren't staff
}

type minted struct {
	at      time.Time
	company string
	jwt     string
}

type visitorKey struct{}

// Passed is a request that the gate passed on for who is signed in.
type Passed struct {
	*Visitor
	Company string // that the request is about; "": none
}

// PassedOf returns that of a request's context, or the zero Passed where nobody is
// signed in.
func PassedOf(ctx context.Context) Passed {
	p, _ := ctx.Value(visitorKey{}).(*Passed)
	if p == nil {
		return Passed{}
	}
	return *p
}

// maxSessions is how many session cookies of a request are looked up. A browser may hold several
// of one name, put there by another site of the domain, but not of one that begins with __Host-.
func (g *Gate) maxSessions() int {
	if g.cookies.Secure {
		return 1
	}
	return maxCookies
}

// hasSessionCookie reports whether there is a session cookie to look up.
func (g *Gate) hasSessionCookie(r *http.Request) bool {
	return len(r.CookiesNamed(g.cookies.Session)) > 0
}

// visitor returns who makes the request, errNobody, or the store's error. The first cookie that is
// a session counts.
func (g *Gate) visitor(r *http.Request) (*Visitor, error) {
	result := errNobody
	for i, cookie := range r.CookiesNamed(g.cookies.Session) {
		if err := g.Anchor.Err(); err != nil {
			return nil, err
		}
		if i == g.maxSessions() {
			break
		}
		l, err := g.Sessions.Lookup(r.Context(), cookie.Value)
		var v *Visitor
		if err == nil {
			v, err = g.resolve(r.Context(), l)
		}
		switch {
		case err == nil:
			return v, nil
		case !errors.Is(err, session.ErrNone) && !errors.Is(err, errNobody):
			result = err // as long as one can't be read, nobody is told to be signed out
		}
	}
	return nil, result
}

// resolve returns the visitor of a session: from memory while the book stands still,
// else the contact is read once more. Who was removed or switched off is nobody, and so is
// whoever's session is of another generation than the contact.
func (g *Gate) resolve(ctx context.Context, l *session.Live) (*Visitor, error) {
	version := g.Book.Version() // before the read: a change during it is seen next time
	if v, ok := l.Memo.Load().(*Visitor); ok && v.serial == g.Serial && v.version == version {
		return v, nil
	}
	c, err := g.Book.ByID(ctx, l.Contact)
	if errors.Is(err, directory.ErrUnknown) || err == nil && c.Disabled {
		return nil, errNobody
	} else if err != nil {
		return nil, err
	}
	if err := g.Sessions.Confirm(ctx, l, c.Generation); errors.Is(err, session.ErrNone) {
		return nil, errNobody
	} else if err != nil {
		return nil, err
	}
	v := &Visitor{Live: l, Contact: c, firm: g.Firm, serial: g.Serial, version: version}
	if before, ok := l.Memo.Load().(*Visitor); ok {
		v.entered = before.entered // no change of the directory and no reload makes it another look
	}
	if v.entered == nil && c.Role == directory.Staff {
		v.entered = new(sync.Map)
	}
	if v.tell(g.Assertion.Origin, g.Identity); v.omitted > 0 {
		if _, before := g.omitted.LoadOrStore(c.ID, true); !before {
			g.Log.WarnContext(ctx, "a contact has too many companies for a header, so the portal isn't told which; it finds them at /-/me",
				"contact", c.ID, "companies", v.omitted)
		}
	}
	v.reach = directory.PrintOf(string(c.Role) + "\x00" + strings.Join(c.Companies, "\x00"))
	l.Memo.Store(v)
	return v, nil
}

// assert returns the signed assertion for the visitor and the company that the request is
// about ("": none), at most half a minute old.
func (g *Gate) assert(ctx context.Context, v *Visitor, company string) (string, error) {
	now := g.Now()
	if m := v.minted.Load(); m != nil && m.company == company {
		if age := now.Sub(m.at); age >= 0 && age < assertion.Life/2 {
			return m.jwt, nil
		}
	}
	jwt, err := g.Assertion.Sign(ctx, v.claims(company))
	if err != nil {
		return "", err
	}
	v.minted.Store(&minted{at: now, company: company, jwt: jwt})
	return jwt, nil
}

// claims are those of the assertion about the visitor, for a request that is about the company.
func (v *Visitor) claims(company string) assertion.Claims {
	return assertion.Claims{
		Subject:   v.Contact.ID,
		Session:   v.Live.Handle,
		Email:     string(v.Contact.Emails[0]),
		Name:      upstream.HeaderValue(v.Contact.Name()),
		Role:      string(v.Contact.Role),
		Firm:      v.firm,
		Company:   company,
		Companies: v.companies,
		Omitted:   v.omitted,
		AuthTime:  v.Live.Begun.Unix(),
		Methods:   []string{v.Live.Method},
	}
}

// errFaster is a token.ErrOver: what the sign-in went by has changed meanwhile.
var errFaster = fmt.Errorf("gate: another was faster: %w", token.ErrOver)

// signIn begins a session for a proven contact and spends the proof in the same
// step. It returns errFaster, or another token.ErrOver when the contact may not come in
// any more.
func (g *Gate) signIn(w http.ResponseWriter, r *http.Request, grant token.Grant) (cookie string, err error) {
	ctx := r.Context()
	c, err := g.Book.ByID(ctx, grant.Contact)
	if errors.Is(err, directory.ErrUnknown) || err == nil && (c.Disabled || grant.Method != byPassword && grant.Generation != c.Generation) {
		return "", token.ErrOver
	} else if err != nil {
		return "", err
	}
	var old *session.Live
	if v, err := g.visitor(r); err == nil {
		old = v.Live
	}
	b, err := g.Sessions.Begin(ctx, session.Session{
		Contact: c.ID, Generation: c.Generation, Method: grant.Method, Agent: web.AgentOf(r), Shared: grant.Shared,
	}, old)
	if err != nil {
		return "", err
	}
	known, device, err := g.knowDevice(r, c, grant.Shared)
	if err != nil {
		return "", err
	}
	_, id := g.device(r)
	before, err := g.devices.Knows(ctx, id, c.ID)
	if err != nil {
		return "", err
	}
	same, err := g.isLastOn(r, old, c.ID)
	if err != nil {
		return "", err
	}
	last, err := g.lastOn(r, device, c.ID)
	if err != nil {
		return "", err
	}
	news, told, err := g.newDevice(r, c, grant, before)
	if err != nil {
		return "", err
	}
	double := g.doubleOps(r, grant.Link, b.Cookie)
	event, stored := g.Audit.With(audit.Event{Kind: audit.SignedIn, Contact: c.ID, Session: b.Handle,
		Address: grant.Address.Masked(), Method: grant.Method, Agent: b.Agent, IP: g.ClientIP(r)})
	if err := g.Sessions.Store.Apply(ctx, slices.Concat(grant.Ops, b.Ops, known, last, news, double, stored)...); errors.Is(err, store.ErrConflict) {
		return "", errFaster
	} else if err != nil {
		return "", err
	}
	g.Sessions.Began(ctx, b)
	g.Audit.Record(ctx, event)
	if told != "" {
		g.Queue.Wake(told)
	}
	if !same {
		g.clearSite(w.Header()) // what it has kept may be another person's
	}
	g.setSession(w, b.Cookie, grant.Shared)
	if device != "" {
		g.setCookie(w, g.cookies.Device, device, limit.DeviceLife)
	}
	return b.Cookie, nil
}

// knowDevice returns the Ops by which a sign-in makes its device a known one and answers
// the mails so far, and the device's cookie; "" on a shared computer, which isn't known.
func (g *Gate) knowDevice(r *http.Request, c directory.Contact, shared bool) (ops []store.Op, cookie string, err error) {
	ctx, now := r.Context(), g.Now()
	_, id := g.device(r)
	purses := []limit.Purse{{Contact: c.ID}, {Contact: c.ID, Apart: "link"}}
	if id != "" {
		purses = append(purses, limit.Purse{Contact: c.ID, Apart: id})
	}
	for _, purse := range purses {
		answered, err := g.mails.Answered(ctx, purse, g.Networks.Name(g.ClientIP(r)), now)
		if err != nil {
			return nil, "", err
		}
		ops = append(ops, answered...)
	}
	if shared {
		return ops, "", nil
	}
	cookie, id = g.newestDevice(r)
	learnt, gone, err := g.devices.Learn(ctx, id, c.ID, now)
	for _, id := range gone { // who signs in on a new device again and again leaves nothing behind
		ops = append(ops, g.last.Delete(id))
	}
	return append(ops, learnt...), cookie, err
}

// setSession gives the browser its session. The cookie lasts as long as a session may
// last at most, since the limits are judged here; on a shared computer it ends with
// the browser.
func (g *Gate) setSession(w http.ResponseWriter, cookie string, shared bool) {
	life := g.Sessions.Max
	if shared {
		life = 0
	}
	g.setCookie(w, g.cookies.Session, cookie, life)
}

// browser returns the id of the asking browser, or "" when it has none yet.
func (g *Gate) browser(r *http.Request) string {
	c := g.flowCookie(r)
	if c == "" {
		return ""
	}
	return token.BrowserOf(c)
}

// flowCookie returns the cookie of the asking browser, or "".
func (g *Gate) flowCookie(r *http.Request) string {
	c, err := r.Cookie(g.cookies.Flow)
	if err != nil || len(c.Value) != browserLength {
		return ""
	}
	return c.Value
}

// device returns the cookie of a device that has been signed in on, and the device's
// ID, or "" where there is none that we gave.
func (g *Gate) device(r *http.Request) (cookie, id string) {
	for i, c := range r.CookiesNamed(g.cookies.Device) {
		if i == maxCookies {
			break
		}
		if id := g.devices.ID(c.Value); id != "" {
			return c.Value, id
		}
	}
	return "", ""
}

// newestDevice returns the cookie that the browser's device is to have from now on, and its
// ID; a new one where it has none.
func (g *Gate) newestDevice(r *http.Request) (cookie, id string) {
	if cookie, id = g.device(r); id == "" {
		return g.devices.New()
	}
	return g.devices.Renew(cookie), id
}

// newBrowser makes the cookie of an asking browser that has none yet, and its id.
func newBrowser() (cookie, id string) {
	cookie = secret.Random()
	return cookie, token.BrowserOf(cookie)
}

// Placeholder returns the value of a Caddy placeholder {http.auth.user.…} for the
// visitor, and false for any other. For nil, where nobody is signed in, and for what the
// contact doesn't have, it is empty: a placeholder that isn't known goes out as written.
func (p Passed) Placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.auth.user.")
	if !ok {
		return nil, false
	}
	switch name {
	case "id", "email", "name", "company", "companies", "role", "firm":
	default:
		return nil, false
	}
	v := p.Visitor
	if v == nil {
		return "", true
	}
	switch name {
	case "id":
		return v.Contact.ID, true
	case "email":
		return string(v.Contact.Emails[0]), true
	case "name":
		return upstream.HeaderValue(v.Contact.Name()), true
	case "companies":
		return strings.Join(v.Contact.Companies, ","), true
	case "role":
		return string(v.Contact.Role), true
	case "firm":
		return v.firm, true
	case "company":
		return p.Company, true
	}
	return "", true
}

func (g *Gate) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, g.cookies.New(name, value, life))
}
