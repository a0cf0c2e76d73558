// Package visitor identifies the visitor who makes a request by its session (Visitors.Of), and
// describes the browser (Visitors.Browser). It also computes, once per session, the identity that
// the portal receives (identity.go).
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

// ErrNone means that no contact who may sign in is signed in.
var ErrNone = errors.New("visitor: not signed in")

// maxCookies limits the cookies of one name that are checked in a request.
const maxCookies = 4

// Visitor is a signed-in contact. It is computed once for a session and reused for all its requests
// until the directory changes.
type Visitor struct {
	Live    *session.Cached
	Contact directory.Contact
	Firm    string

	Identity         upstream.Identity              // for the portal
	ReachFingerprint directory.Fingerprint          // changes with the contact's role and companies
	Opening          atomic.Pointer[notice.Opening] // the company's page that they opened last
	Entered          *sync.Map                      // companies whose pages staff have viewed in this session; nil for clients

	serial    uint64   // of the Visitors that computed it: others may have other staff
	version   uint64   // directory version of Contact
	companies []string // in the assertion: all of the contact's companies, or none
	omitted   int      // number of companies that are left out
	assertion atomic.Pointer[cachedAssertion]
}

// IsStaff reports whether the visitor is staff. A nil Visitor isn't.
func (v *Visitor) IsStaff() bool { return v != nil && v.Contact.Role == directory.Staff }

// Reaches reports whether the visitor may see the company's pages. A nil Visitor may not.
func (v *Visitor) Reaches(company string) bool {
	return v != nil && (v.Contact.Role == directory.Staff || slices.Contains(v.Contact.Companies, company))
}

// BelongsOnlyTo reports whether the visitor is a client of that company and no other.
func (v *Visitor) BelongsOnlyTo(company string) bool {
	c := v.Contact
	return c.Role != directory.Staff && len(c.Companies) == 1 && c.Companies[0] == company
}

// Visitors finds the visitors of one firm. Set its fields in one literal before use.
type Visitors struct {
	Firm      string
	Serial    uint64 // differs from other Visitors of the firm with the same sessions, as at a reload
	Directory *directory.Directory
	Sessions  *session.Sessions
	Devices   *limit.Devices
	Anchor    *anchor.Store // nil means that the store is always trusted
	Cookies   web.Cookies
	ClientIP  func(*http.Request) netip.Addr // the client's address; invalid if unknown
	Assertion *assertion.Signer
	Wanted    upstream.Wanted // identity headers for the portal; empty means all
	Log       *slog.Logger
	Now       func() time.Time

	omitted sync.Map // IDs of contacts already logged as having too many companies for a header
}

// maxSessions limits the session cookies of a request that are looked up. A browser may have
// several of one name, set by another site of the domain; but only one whose name begins with
// __Host-.
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

// Of returns the visitor who makes the request, ErrNone, or the store's error. The first cookie
// with a valid session counts.
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
			if r.Pattern != "" && v.Contact.Locale != "" { // one of our own pages
				web.SetLocale(r.Context(), v.Contact.Locale)
			}
			return v, nil
		case !errors.Is(err, session.ErrNone) && !errors.Is(err, ErrNone):
			result = err // while one can't be read, don't report the visitor as signed out
		}
	}
	return nil, result
}

// resolve returns the visitor of a session: from memory while the directory stays the same,
// otherwise with a new read of the contact. It returns ErrNone for a removed or disabled contact,
// and for a session with another generation than the contact's.
func (s *Visitors) resolve(ctx context.Context, l *session.Cached) (*Visitor, error) {
	version := s.Directory.Version() // before the read: a change during it is noticed next time
	if v, ok := l.Value.Load().(*Visitor); ok && v.serial == s.Serial && v.version == version {
		return v, nil
	}
	c, err := s.Directory.ByID(ctx, l.Contact)
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
	if before, ok := l.Value.Load().(*Visitor); ok {
		v.Entered = before.Entered // viewing the same company again after a change or reload isn't another view
	}
	if v.Entered == nil && c.Role == directory.Staff {
		v.Entered = new(sync.Map)
	}
	if v.identify(s.Assertion.Origin, s.Wanted); v.omitted > 0 {
		if _, before := s.omitted.LoadOrStore(c.ID, true); !before {
			s.Log.WarnContext(ctx, "contact has too many companies for a header; the portal can read them at /-/me",
				"contact", c.ID, "companies", v.omitted)
		}
	}
	v.ReachFingerprint = directory.FingerprintOf(string(c.Role) + "\x00" + strings.Join(c.Companies, "\x00"))
	l.Value.Store(v)
	return v, nil
}

// EndRequests cancels requests in flight whose session has ended, whose contact may no longer sign
// in, or whose company the contact no longer reaches. Call it every session.SweepInterval.
func (s *Visitors) EndRequests(ctx context.Context) {
	s.Sessions.Sweep(ctx, func(ctx context.Context, l *session.Cached) bool {
		v, err := s.resolve(ctx, l)
		if err == nil {
			l.CancelRequests(func(company string) bool { return company != "" && !v.Reaches(company) })
		}
		return !errors.Is(err, ErrNone)
	})
}

// maxLanguages is how many bytes of an Accept-Language header are kept; browsers send fewer.
const maxLanguages = 96

func languagesOf(r *http.Request) string {
	accept := r.Header.Get("Accept-Language")
	if len(accept) > maxLanguages {
		accept = accept[:maxLanguages]
		accept = accept[:max(strings.LastIndexByte(accept, ','), 0)]
	}
	return accept
}

// Browser describes the browser that made a request.
func (s *Visitors) Browser(r *http.Request) action.Browser {
	by := action.Browser{IP: s.ClientIP(r), Agent: web.AgentOf(r), Flow: s.Cookies.FlowOf(r), Languages: languagesOf(r)}
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
