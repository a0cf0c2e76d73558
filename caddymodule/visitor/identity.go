package visitor

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// identify computes the identity that the portal receives. A list is sent as a whole or not at all:
// a truncated list could name another company. If a contact has too many companies, they are left
// out, and the portal receives their number.
//
// Headers that aren't wanted are left out. The assertion contains the companies even if
// Remote-Groups isn't wanted.
func (v *Visitor) identify(origin string, wanted upstream.Wanted) {
	c := v.Contact
	v.companies = c.Companies
	groups := strings.Join(c.Companies, ",")
	for _, one := range [...]struct{ name, value string }{{"Remote-User", string(c.Emails[0])}, {"Remote-Email", string(c.Emails[0])},
		{"Remote-Name", c.Name()}, {"Remote-Groups", groups}, {"Portal-Role", string(c.Role)}, {"Portal-Firm", v.Firm}} {
		if wanted.Has(one.name) {
			v.Identity.Add(one.name, one.value)
		}
	}
	listed, asserted := wanted.Has("Remote-Groups"), wanted.Has("Portal-Assertion")
	size := v.Identity.Size()
	if asserted {
		size += assertion.SizeOf(v.claims(upstream.LongestID), origin) + len("Portal-Assertion: \r\n")
	}
	if wanted.Has("Portal-Company") {
		size += len("Portal-Company: \r\n") + len(upstream.LongestID)
	}
	if len(groups) == 0 || !listed && !asserted || size <= upstream.MaxIdentity {
		return
	}
	v.companies, v.omitted = nil, len(c.Companies)
	if listed {
		v.Identity = v.Identity.Without("Remote-Groups")
		v.Identity.Add("Portal-Groups-Omitted", strconv.Itoa(v.omitted))
	}
}

// cachedAssertion is an assertion that is reused.
type cachedAssertion struct {
	at      time.Time
	company string
	jwt     string
}

// Assert returns the signed assertion for the visitor and the request's company ("" if none). It is
// at most half of assertion.Life old.
func (s *Visitors) Assert(ctx context.Context, v *Visitor, company string) (string, error) {
	now := s.Now()
	if m := v.assertion.Load(); m != nil && m.company == company {
		if age := now.Sub(m.at); age >= 0 && age < assertion.Life/2 {
			return m.jwt, nil
		}
	}
	jwt, err := s.Assertion.Sign(ctx, v.claims(company))
	if err != nil {
		return "", err
	}
	v.assertion.Store(&cachedAssertion{at: now, company: company, jwt: jwt})
	return jwt, nil
}

// claims returns the claims of the assertion for a request to the company's pages.
func (v *Visitor) claims(company string) assertion.Claims {
	return assertion.Claims{
		Subject:   v.Contact.ID,
		Session:   v.Live.Handle,
		Email:     string(v.Contact.Emails[0]),
		Name:      upstream.HeaderValue(v.Contact.Name()),
		Role:      string(v.Contact.Role),
		Firm:      v.Firm,
		Company:   company,
		Companies: v.companies,
		Omitted:   v.omitted,
		AuthTime:  v.Live.Begun.Unix(),
		Methods:   []string{v.Live.Method},
	}
}
