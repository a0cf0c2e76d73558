package gate

import (
	"strconv"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// tell works out what the portal is told about a visitor. A list is told as a whole or not at
// all: cut anywhere, it would name another company. So a contact's companies are left out where
// they are too many; the portal is told how many there are.
//
// Of headers that aren't wanted nothing is told. The assertion has the companies also where
// Remote-Groups isn't wanted.
func (v *Visitor) tell(origin string, wanted upstream.Wanted) {
	c := v.Contact
	v.companies = c.Companies
	groups := strings.Join(c.Companies, ",")
	for _, one := range [...]struct{ name, value string }{{"Remote-User", string(c.Emails[0])}, {"Remote-Email", string(c.Emails[0])},
		{"Remote-Name", c.Name()}, {"Remote-Groups", groups}, {"Portal-Role", string(c.Role)}, {"Portal-Firm", v.firm}} {
		if wanted.Has(one.name) {
			v.told.Add(one.name, one.value)
		}
	}
	listed, asserted := wanted.Has("Remote-Groups"), wanted.Has("Portal-Assertion")
	size := v.told.Size()
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
		v.told = v.told.Without("Remote-Groups")
		v.told.Add("Portal-Groups-Omitted", strconv.Itoa(v.omitted))
	}
}
