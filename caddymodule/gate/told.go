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
func (v *Visitor) tell(origin string) {
	c := v.Contact
	v.companies = c.Companies
	groups := strings.Join(c.Companies, ",")
	for _, one := range [...]struct{ name, value string }{{"Remote-User", string(c.Emails[0])}, {"Remote-Email", string(c.Emails[0])},
		{"Remote-Name", c.Name()}, {"Remote-Groups", groups}, {"Portal-Role", string(c.Role)}, {"Portal-Firm", v.firm}} {
		v.told.Add(one.name, one.value)
	}
	if len(groups) == 0 || v.told.Size()+assertion.SizeOf(v.claims(upstream.LongestID), origin)+len("Portal-Assertion: \r\nPortal-Company: \r\n")+len(upstream.LongestID) <= upstream.MaxIdentity {
		return
	}
	v.companies, v.omitted = nil, len(c.Companies)
	v.told = v.told.Without("Remote-Groups")
	v.told.Add("Portal-Groups-Omitted", strconv.Itoa(v.omitted))
}
