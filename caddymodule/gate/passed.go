package gate

import (
	"context"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
)

type passedKey struct{}

// Passed is a request that the gate passed on for a signed-in visitor.
type Passed struct {
	*visitor.Visitor
	Company string // of the request; "" if none
}

// PassedOf returns the Passed of a request's context, or the zero value if nobody is signed in.
func PassedOf(ctx context.Context) Passed {
	p, _ := ctx.Value(passedKey{}).(*Passed)
	if p == nil {
		return Passed{}
	}
	return *p
}

// Placeholder returns the value of a Caddy placeholder {http.auth.user.…} for the visitor, and
// false for any other. If nobody is signed in, or the contact has no value, it is empty: unknown
// placeholders would appear literally.
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
		return v.Firm, true
	case "company":
		return p.Company, true
	}
	return "", true
}
