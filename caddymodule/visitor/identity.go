package visitor

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// identify works out what the portal is told about a visitor. A list is told as a whole or not at
// all: cut anywhere, it would name another company. So a contact's companies are left out where
// they are too many; the portal is told how many there are.
//
// Headers that aren't wanted tell nothing. The assertion has the companies also where
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

// minted is an assertion that is used again.
type minted struct {
	at      time.Time
	company string
	jwt     string
}

// Assert returns the signed assertion for the visitor and the company that the request is
// about ("": none), at most half a minute old.
func (s *Visitors) Assert(ctx context.Context, v *Visitor, company string) (string, error) {
	now := s.Now()
	if m := v.minted.Load(); m != nil && m.company == company {
		if age := now.Sub(m.at); age >= 0 && age < assertion.Life/2 {
			return m.jwt, nil
		}
	}
	jwt, err := s.Assertion.Sign(ctx, v.claims(company))
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
		Firm:      v.Firm,
		Company:   company,
		Companies: v.companies,
		Omitted:   v.omitted,
		AuthTime:  v.Live.Begun.Unix(),
		Methods:   []string{v.Live.Method},
	}
}
