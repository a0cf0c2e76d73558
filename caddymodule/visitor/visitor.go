// Package visitor tells who makes a request: the contact of its session (Visitors.Of), and what
// it shows of the browser (Visitors.Browser). It also works out, once for a session, what the
// portal is told about a visitor (identity.go).
package visitor

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// ErrNone: nobody who may sign in is signed in.
var ErrNone = errors.New("visitor: not signed in")

// maxCookies is how many cookies of one name are judged in a request.
const maxCookies = 4

// Visitor is a contact who is signed in, worked out once for a session and used again for each
// of its requests as long as the directory doesn't change.
type Visitor struct {
	Live    *session.Live
	Contact directory.Contact
	Firm    string

	Identity upstream.Identity              // that the portal is told
	Reach    directory.Print                // another one after each change of what they reach
	Opening  atomic.Pointer[notice.Opening] // the company's page that they opened last
	Entered  *sync.Map                      // the companies whose pages staff have looked at in this session; nil: they aren't staff

	serial    uint64   // of the Visitors that worked it out: others may have other staff
	version   uint64   // of the directory that the contact was read from
	companies []string // that the portal is told of: all of the contact's, or none
	omitted   int      // how many it isn't told of
	minted    atomic.Pointer[minted]
}

// IsStaff reports whether it is one of the firm's own people who is signed in; nil: nobody is.
func (v *Visitor) IsStaff() bool { return v != nil && v.Contact.Role == directory.Staff }

// Reaches reports whether the visitor may see what is the company's; nil: nobody is signed in.
func (v *Visitor) Reaches(company string) bool {
	return v != nil && (v.Contact.Role == directory.Staff || slices.Contains(v.Contact.Companies, company))
}

// IsOf reports whether the visitor is a client of that company alone.
func (v *Visitor) IsOf(company string) bool {
	c := v.Contact
	return c.Role != directory.Staff && len(c.Companies) == 1 && c.Companies[0] == company
}

// Visitors finds the visitors of one firm. Set its fields in one literal before use.
type Visitors struct {
	Firm      string
	Serial    uint64 // tells it from others of the firm that share its sessions, as at a reload
	Book      *directory.Book
	Sessions  *session.Sessions
	Devices   *limit.Devices
	Anchor    *anchor.Store // nil: the store is always trusted
	Cookies   web.Cookies
	ClientIP  func(*http.Request) netip.Addr // the visitor's address; invalid where it isn't known
	Assertion *assertion.Signer
	Wanted    upstream.Wanted // the identity headers that the portal gets; none: all
	Log       *slog.Logger
	Now       func() time.Time

	omitted sync.Map // the IDs of contacts of whom the log says that they have too many companies for a header
}

// maxSessions is how many session cookies of a request are looked up. A browser may hold several
// of one name, put there by another site of the domain, but not of one that begins with __Host-.
func (s *Visitors) maxSessions() int {
	if s.Cookies.Secure {
		return 1
	}
	return maxCookies
}

// HasSessionCookie reports whether a request has a session cookie to look up.
func (s *Visitors) HasSessionCookie(r *http.Request) bool {
	return len(r.CookiesNamed(s.Cookies.Session)) > 0
}

// Of returns who makes the request, ErrNone, or the store's error. The first cookie that is
// a session counts.
func (s *Visitors) Of(r *http.Request) (*Visitor, error) {
	result := ErrNone
	for i, cookie := range r.CookiesNamed(s.Cookies.Session) {
		if err := s.Anchor.Err(); err != nil {
			return nil, err
		}
		if i == s.maxSessions() {
			break
		}
		l, err := s.Sessions.Lookup(r.Context(), cookie.Value)
		var v *Visitor
		if err == nil {
			v, err = s.resolve(r.Context(), l)
		}
		switch {
		case err == nil:
			return v, nil
		case !errors.Is(err, session.ErrNone) && !errors.Is(err, ErrNone):
			result = err // as long as one can't be read, nobody is told to be signed out
		}
	}
	return nil, result
}

// resolve returns the visitor of a session: from memory while the directory doesn't change,
// else the contact is read once more. It is ErrNone for a contact who was removed or disabled, and
// for a session of another generation than the contact's.
func (s *Visitors) resolve(ctx context.Context, l *session.Live) (*Visitor, error) {
	version := s.Book.Version() // before the read: a change during it is seen next time
	if v, ok := l.Memo.Load().(*Visitor); ok && v.serial == s.Serial && v.version == version {
		return v, nil
	}
	c, err := s.Book.ByID(ctx, l.Contact)
	if errors.Is(err, directory.ErrUnknown) || err == nil && c.Disabled {
		return nil, ErrNone
	} else if err != nil {
		return nil, err
	}
	if err := s.Sessions.Confirm(ctx, l, c.Generation); errors.Is(err, session.ErrNone) {
		return nil, ErrNone
	} else if err != nil {
		return nil, err
	}
	v := &Visitor{Live: l, Contact: c, Firm: s.Firm, serial: s.Serial, version: version}
	if before, ok := l.Memo.Load().(*Visitor); ok {
		v.Entered = before.Entered // no change of the directory and no reload makes it another look
	}
	if v.Entered == nil && c.Role == directory.Staff {
		v.Entered = new(sync.Map)
	}
	if v.identify(s.Assertion.Origin, s.Wanted); v.omitted > 0 {
		if _, before := s.omitted.LoadOrStore(c.ID, true); !before {
			s.Log.WarnContext(ctx, "a contact has too many companies for a header, so the portal isn't told which; it finds them at /-/me",
				"contact", c.ID, "companies", v.omitted)
		}
	}
	v.Reach = directory.PrintOf(string(c.Role) + "\x00" + strings.Join(c.Companies, "\x00"))
	l.Memo.Store(v)
	return v, nil
}

// EndRequests ends requests in flight whose session is over, whose contact may not sign in any
// more, or that are about a company which the contact doesn't reach any more. It is to be
// called every session.SweepInterval.
func (s *Visitors) EndRequests(ctx context.Context) {
	s.Sessions.Sweep(ctx, func(ctx context.Context, l *session.Live) bool {
		v, err := s.resolve(ctx, l)
		if err == nil {
			l.CancelRequests(func(company string) bool { return company != "" && !v.Reaches(company) })
		}
		return !errors.Is(err, ErrNone)
	})
}

// Browser returns what a request shows of the browser that made it.
func (s *Visitors) Browser(r *http.Request) action.Browser {
	by := action.Browser{IP: s.ClientIP(r), Agent: web.AgentOf(r), Flow: s.Cookies.FlowOf(r)}
	for i, c := range r.CookiesNamed(s.Cookies.Device) {
		if i == maxCookies {
			break
		}
		if id := s.Devices.ID(c.Value); id != "" {
			by.DeviceCookie, by.Device = c.Value, id
			break
		}
	}
	return by
}
