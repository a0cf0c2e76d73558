package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// Site is what the directive `doorpost` says in a site block.
type Site struct {
	// Firm is the firm's id: 1 to 63 of a-z, 0-9 and the hyphen. It is in the name
	// of every record, so a new id is a new firm with an empty address book. Required.
	Firm string `json:"firm"`

	// Config defines the firm. Exactly one site block of a firm has it; null in the
	// others, which guard their site in the same way.
	Config *Firm `json:"config,omitempty"`
}

// site returns the settings of whatever embeds them.
func (s Site) site() Site { return s }

// ErrNoGlobal is the error of a site block without the global option.
var ErrNoGlobal = errors.New(`doorpost needs its global option; begin the Caddyfile with a block that holds "doorpost {", a line "mail smtp HOST:PORT" or "mail folder ./mail", and "}"`)

// Firm is how a firm's portal is guarded. Its text settings may hold {env.NAME}
// and {file./PATH}. Relative paths begin at the folder that Caddy was started in.
type Firm struct {
	// URL is what mails link to: scheme, host and perhaps a port. http:// only for
	// localhost. Required.
	URL string `json:"url"`

	// Brand is how the firm looks and speaks. Its name and from are required.
	Brand brand.Brand `json:"brand"`

	// Mail is the firm's own way out for mail, with connections, a rate and an order of its own.
	// Default: that of the global option, at which all firms without one take turns.
	Mail *Mail `json:"mail,omitempty"`

	// Contacts and Companies are CSV files, loaded at start and within seconds of a
	// change. A row that says something else than at the last load replaces what it
	// names; nothing is deleted. Default: none.
	Contacts  string `json:"contacts,omitempty"`
	Companies string `json:"companies,omitempty"`

	// Staff are addresses that are always staff, even with an empty address book.
	Staff []string `json:"staff,omitempty"`

	// LegacyLinks are the old one-click links of the portal, and the new ones in their
	// place. Default: none.
	LegacyLinks []legacy.Link `json:"legacy_links,omitempty"`

	// CompanyPaths are further paths that belong to one company, with {company} as a
	// segment, such as "/files/{company}/*". Default: none.
	CompanyPaths []string `json:"company_paths,omitempty"`

	// Upgraded are companies whose old links ask for sign-in whatever the store says, also
	// when it is lost with everything else. Default: what `upgrade` has done counts alone.
	Upgraded Upgraded `json:"upgraded,omitzero"`

	// Home is where `/` leads a contact, with {company} as a segment, such as
	// "/portal/{company}". Default: `/` is the portal's.
	Home string `json:"home,omitempty"`

	// PortalSession are cookies of the portal's whose binding is set here. Default: HttpOnly
	// cookies are bound as those named here without more, and all others are left alone.
	PortalSession []PortalCookie `json:"portal_session,omitempty"`

	// Identity are the headers that tell the portal who is signed in, of Remote-User, Remote-Email,
	// Remote-Name, Remote-Groups, Portal-Role, Portal-Firm, Portal-Company and Portal-Assertion.
	// Whatever visitors send under such names is removed all the same. Default: all of them.
	Identity []string `json:"identity,omitempty"`

	// ClearSiteData is what browsers clear of this site at sign-out, and when another person signs
	// in, beside their cache: "storage", for portals whose scripts keep who is signed in
	// outside of cookies. Default: nothing more.
	ClearSiteData []string `json:"clear_site_data,omitempty"`

	// Public is what is open to everyone. Default: nothing.
	Public []PublicRule `json:"public,omitempty"`

	// Session is how long people stay signed in.
	Session Session `json:"session,omitzero"`

	// LinkLifetime is how long a link and its code are good for, from the moment
	// the mail server took the mail. Default 10m, at most 60m.
	LinkLifetime caddy.Duration `json:"link_lifetime,omitempty"`

	// Passwords are what people may sign in with instead of a mail, if they set one.
	Passwords Passwords `json:"passwords,omitzero"`

	// NewDeviceMail tells contacts of a sign-in on a device that they haven't signed in on
	// before. The zero value tells them.
	NewDeviceMail NewDeviceMail `json:"new_device_mail,omitzero"`

	// Templates is a folder whose files take the place of the mails and pages of
	// the same name. Default: none.
	Templates string `json:"templates,omitempty"`

	// Reports is the folder for published files, which several machines may share; it is made when
	// the first one is published. Default: "reports" in Doorpost's data folder, or, where
	// mails go to a folder, beside the store. With redis there is none, as others have to reach it.
	Reports string `json:"reports,omitempty"`

	// Prefix is where Doorpost's own pages are: a slash and a plain path without a
	// slash at its end. Default "/-".
	Prefix string `json:"prefix,omitempty"`

	Rules        *legacy.Rules `json:"-"` // of LegacyLinks, CompanyPaths and Home, once they are filled in
	Sites        Sites         `json:"-"` // where the firm's portals are reached, once it is provisioned
	placeholders []NamedFile   // the files of placeholders, once they are filled in
}

// PortalCookie is a cookie of the portal's. The zero value names none.
type PortalCookie struct {
	// Name is the cookie's name, as the portal sets it. Required.
	Name string `json:"name"`

	// To is whom the cookie is bound to, who alone brings it back to the portal. Default: the
	// person and the company that it was set for, or the visit by an old link. "person": the person
	// alone, at every company's pages; for portals with a login of their own. "off": nobody,
	// it is left alone; for cookies that other sites or scripts set.
	To string `json:"to,omitempty"`
}

// PublicRule opens paths to everyone. The zero value opens nothing.
type PublicRule struct {
	// Methods the rule is for, in capitals. Default: all.
	Methods []string `json:"methods,omitempty"`

	// Paths, decoded, from the root: "/favicon.ico" that path alone, "/assets/*"
	// what is under it. Compared with case: what isn't written isn't open. Required.
	Paths []string `json:"paths"`
}

// Session is how long people stay signed in.
type Session struct {
	// Idle is how long without a request. Default 45d (longer than a month of
	// bookkeeping), or Max where that is less.
	Idle caddy.Duration `json:"idle,omitempty"`

	// Max is how long at most. Default 180d, at most 400d.
	Max caddy.Duration `json:"max,omitempty"`
}

// Upgraded are companies whose old links ask for sign-in. The zero value has none.
type Upgraded struct {
	// All stands for every company, also later ones.
	All bool `json:"all,omitempty"`

	// Companies are ids. None with All.
	Companies []string `json:"companies,omitempty"`
}

// Closed is what the directory wants to know of it.
func (u Upgraded) Closed() anchor.Closed {
	return anchor.Closed{All: u.All, IDs: slices.Sorted(slices.Values(u.Companies))}
}

// NewDeviceMail is a mail about a sign-in on a new device.
type NewDeviceMail struct {
	// Off sends none.
	Off bool `json:"off,omitempty"`
}

// Passwords are what people may sign in with instead of a mail. The zero value allows
// them, at their default length.
type Passwords struct {
	// Off leaves links and codes as the only ways in.
	Off bool `json:"off,omitempty"`

	// MinLength is how many characters a password needs. Default 15, at least 8, at most 64.
	MinLength int `json:"min_length,omitempty"`
}

const (
	day                 = 24 * time.Hour
	defaultIdle         = 45 * day
	defaultMax          = 180 * day
	maxSession          = 400 * day // RFC 6265bis: browsers keep no cookie longer
	defaultLinkLifetime = 10 * time.Minute
	maxLinkLifetime     = 60 * time.Minute
	DefaultPrefix       = "/-"
)

// Equal reports whether two definitions of a firm say the same.
func (c Firm) Equal(d Firm) bool { return reflect.DeepEqual(c, d) }

// Resolve returns the settings with placeholders and defaults filled in, or what
// is wrong with them. It writes warnings to log.
func (c Firm) Resolve(log *slog.Logger) (Firm, error) {
	if c.Mail != nil {
		c.placeholders = c.Mail.files()
		mail, err := c.Mail.resolve(log)
		if err != nil {
			return c, err
		}
		c.Mail = &mail
	}
	c.Staff, c.Brand.DKIM = slices.Clone(c.Staff), slices.Clone(c.Brand.DKIM)
	for _, t := range c.texts() {
		if err := checkFixed(*t.value); err != nil {
			return c, at(t.path, err)
		}
		filled, err := fillIn(*t.value)
		if err != nil {
			return c, at(t.path, err)
		}
		c.placeholders = append(c.placeholders, filesIn(words(t.path), *t.value)...)
		*t.value = filled
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	c = c.withDefaults()
	var err error
	c.Rules, err = c.legacyRules()
	return c, err
}

// texts are the settings that may hold placeholders.
func (c *Firm) texts() []text {
	all := []text{
		{"url", &c.URL},
		{"brand.name", &c.Brand.Name}, {"brand.from", &c.Brand.From}, {"brand.reply_to", &c.Brand.ReplyTo},
		{"brand.logo", &c.Brand.Logo}, {"brand.accent", &c.Brand.Accent}, {"brand.support", &c.Brand.Support},
		{"contacts", &c.Contacts}, {"companies", &c.Companies}, {"templates", &c.Templates}, {"reports", &c.Reports},
	}
	for i := range c.Brand.DKIM {
		k := &c.Brand.DKIM[i]
		all = append(all, text{"brand.dkim", &k.Selector}, text{"brand.dkim", &k.Key})
	}
	for i := range c.Staff {
		all = append(all, text{fmt.Sprintf("staff[%d]", i), &c.Staff[i]})
	}
	return all
}

// withDefaults returns the settings with what wasn't given, and with URL as an origin.
func (c Firm) withDefaults() Firm {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.LinkLifetime == 0 {
		c.LinkLifetime = caddy.Duration(defaultLinkLifetime)
	}
	if c.Session.Max == 0 {
		c.Session.Max = caddy.Duration(defaultMax)
	}
	if c.Session.Idle == 0 {
		c.Session.Idle = min(caddy.Duration(defaultIdle), c.Session.Max)
	}
	c.URL = origin(c.URL)
	return c
}

// origin returns the origin of a URL as browsers write it (RFC 6454): small letters,
// no default port, no slash at the end. What is no URL comes back as it is.
func origin(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}
