package action

import (
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
)

// Portal knows the lasting links of a firm's portal. Set its fields in one literal before use.
type Portal struct {
	Sites  *site.Sites
	Legacy *legacy.Rules // where the pages of companies are; nil: there are none
	Prefix string        // of our own pages, such as "/-"
}

// LastingLink returns the link that leads a contact to their pages at any time. It holds no secret: they sign in there.
func (p *Portal) LastingLink(c directory.Contact) string {
	if c.Role == directory.Staff {
		return p.Sites.URL.JoinPath("/").String()
	}
	return (&MailJobs{Sites: p.Sites, Legacy: p.Legacy, Prefix: p.Prefix}).homeLink(c)
}
