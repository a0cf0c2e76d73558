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

// Site is the content of the directive `doorpost` in a site block.
type Site struct {
	// Firm is the firm's id: 1 to 63 characters of a-z, 0-9 and the hyphen. It is part of the key
	// of every record, so another id means another firm with an empty directory. Required.
	Firm string `json:"firm"`

	// Config defines the firm. Exactly one site block of a firm has it; it is null in the others,
	// which protect their sites in the same way.
	Config *Firm `json:"config,omitempty"`
}

// site returns the settings of a type that embeds them.
func (s Site) site() Site { return s }

// ErrNoGlobal is the error for a site block without the global option.
var ErrNoGlobal = errors.New(`doorpost needs its global option; begin the Caddyfile with a block that holds "doorpost {", a line "mail smtp HOST:PORT" or "mail folder ./mail", and "}"`)

// Firm configures the protection of a firm's portal. Text settings may contain {env.NAME} and
// {file./PATH}. Relative paths start at Caddy's working directory.
type Firm struct {
	// URL is the origin in the links of mails: scheme, host and an optional port. http:// is
	// allowed only for localhost. Required.
	URL string `json:"url"`

	// Brand is the look and wording of the firm. Its name and from are required.
	Brand brand.Brand `json:"brand"`

	// Mail is the firm's own mail transport, with its own connections, rate and queue. Default: the
	// one of the global option, which all firms without their own share fairly.
	Mail *Mail `json:"mail,omitempty"`

	// Contacts and Companies are CSV files that are loaded at start and within seconds of a change.
	// A row that differs from the last load replaces the fields it names; nothing is deleted.
	// Default: none.
	Contacts  string `json:"contacts,omitempty"`
	Companies string `json:"companies,omitempty"`

	// Staff are addresses that are always staff, even if the directory is empty.
	Staff []string `json:"staff,omitempty"`

	// PhoneRegion is the country of phone numbers without a country code, by ISO 3166-1, such as "GB". Default:
	// none, so that texts go only to numbers that begin with "+".
	PhoneRegion string `json:"phone_region,omitempty"`

	// LegacyLinks are the old one-click links of the portal and the new ones that replace them.
	// Default: none.
	LegacyLinks []legacy.Link `json:"legacy_links,omitempty"`

	// CompanyPaths are further paths that belong to one company, with {company} as a segment, such
	// as "/files/{company}/*". Default: none.
	CompanyPaths []string `json:"company_paths,omitempty"`

	// Upgraded are companies whose old links ask for sign-in regardless of the store, even if the
	// store and everything else is lost. Default: only the companies that `upgrade` has upgraded.
	Upgraded Upgraded `json:"upgraded,omitzero"`

	// Home is the path to which `/` redirects a contact, with {company} as a segment, such as
	// "/portal/{company}". Default: the portal handles `/`.
	Home string `json:"home,omitempty"`

	// PortalSession are cookies of the portal whose binding is configured. Default: HttpOnly
	// cookies are bound like those named here without an option; all others aren't bound.
	PortalSession []PortalCookie `json:"portal_session,omitempty"`

	// Identity are the headers that tell the portal who is signed in, from Remote-User,
	// Remote-Email, Remote-Name, Remote-Groups, Portal-Role, Portal-Firm, Portal-Company and
	// Portal-Assertion. Headers from visitors under any of these names are always removed. Default:
	// all of them.
	Identity []string `json:"identity,omitempty"`

	// ClearSiteData is what browsers clear for this site, besides their cache, at sign-out and when
	// another person signs in: "storage", for portals whose scripts store the signed-in user
	// outside of cookies. Default: nothing more.
	ClearSiteData []string `json:"clear_site_data,omitempty"`

	// Public are the paths that are open to everyone. Default: none.
	Public []PublicRule `json:"public,omitempty"`

	// Session limits how long visitors stay signed in.
	Session Session `json:"session,omitzero"`

	// LinkLifetime is how long a link and its code are valid, from the time when the mail server
	// accepted the mail. Default 10m, at most 60m.
	LinkLifetime caddy.Duration `json:"link_lifetime,omitempty"`

	// Passwords configures signing in with a password instead of a mail, for contacts who set one.
	Passwords Passwords `json:"passwords,omitzero"`

	// NewDeviceMail configures the mail to contacts about a sign-in on a new device. The zero value
	// sends it.
	NewDeviceMail NewDeviceMail `json:"new_device_mail,omitzero"`

	// Templates is a folder with files that replace the mails and pages of the same name. Default:
	// none.
	Templates string `json:"templates,omitempty"`

	// Reports is the folder for published files, which several machines may share; it is made when
	// the first file is published. Default: "reports" in Doorpost's data folder, or beside the
	// store if mails go to a folder. There is no default with redis, because other machines need
	// the same folder.
	Reports string `json:"reports,omitempty"`

	// Prefix is the path of Doorpost's own pages: a slash and a plain path that doesn't end with a
	// slash. Default "/-".
	Prefix string `json:"prefix,omitempty"`

	Rules        *legacy.Rules `json:"-"` // of LegacyLinks, CompanyPaths and Home, after placeholders are filled in
	Sites        Sites         `json:"-"` // origins of the firm's portals, after provisioning
	placeholders []NamedFile   // files of placeholders, after they are filled in
}

// PortalCookie is a cookie of the portal. The zero value names none.
type PortalCookie struct {
	// Name is the cookie's name as the portal sets it. Required.
	Name string `json:"name"`

	// To is the owner to whom the cookie is bound; only for that owner it is returned to the
	// portal. Default: the person and the company for which it was set, or the visit by an old
	// link. "person": only the person, for the pages of all companies; for portals with a login of
	// their own. "off": not bound; for cookies that other sites or scripts set.
	To string `json:"to,omitempty"`
}

// PublicRule opens paths to everyone. The zero value opens nothing.
type PublicRule struct {
	// Methods are the methods that the rule applies to, in upper case. Default: all.
	Methods []string `json:"methods,omitempty"`

	// Paths are decoded paths from the root: "/favicon.ico" is only that path, "/assets/*" is
	// everything below it. They are case-sensitive: a path that isn't written isn't open. Required.
	Paths []string `json:"paths"`
}

// Session limits how long visitors stay signed in.
type Session struct {
	// Idle is the longest time without a request. Default 45d (longer than a monthly accounting
	// cycle), or Max if that is less.
	Idle caddy.Duration `json:"idle,omitempty"`

	// Max is the longest total time. Default 180d, at most 400d.
	Max caddy.Duration `json:"max,omitempty"`
}

// Upgraded are companies whose old links ask for sign-in. The zero value has none.
type Upgraded struct {
	// All means every company, including those added later.
	All bool `json:"all,omitempty"`

	// Companies are ids. Empty with All.
	Companies []string `json:"companies,omitempty"`
}

// Closed returns the companies in the form that the directory needs.
func (u Upgraded) Closed() anchor.Closed {
	return anchor.Closed{All: u.All, IDs: slices.Sorted(slices.Values(u.Companies))}
}

// NewDeviceMail configures the mail about a sign-in on a new device.
type NewDeviceMail struct {
	// Off disables the mail.
	Off bool `json:"off,omitempty"`
}

// Passwords configures signing in with a password. The zero value allows it with the default
// minimum length.
type Passwords struct {
	// Off disables passwords; links and codes remain.
	Off bool `json:"off,omitempty"`

	// MinLength is the minimum length of a password in characters. Default 15, at least 8, at most
	// 64.
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

// Equal reports whether two definitions of a firm are the same.
func (c Firm) Equal(d Firm) bool { return reflect.DeepEqual(c, d) }

// Resolve returns the settings with placeholders and defaults filled in, or an error for the first
// invalid one. It writes warnings to log.
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
			return c, atPath(t.path, err)
		}
		filled, err := fillIn(*t.value)
		if err != nil {
			return c, atPath(t.path, err)
		}
		c.placeholders = append(c.placeholders, filesIn(settingName(t.path), *t.value)...)
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

// texts returns the settings that may contain placeholders.
func (c *Firm) texts() []textSetting {
	all := []textSetting{
		{"url", &c.URL},
		{"brand.name", &c.Brand.Name}, {"brand.from", &c.Brand.From}, {"brand.reply_to", &c.Brand.ReplyTo},
		{"brand.logo", &c.Brand.Logo}, {"brand.accent", &c.Brand.Accent}, {"brand.support", &c.Brand.Support},
		{"contacts", &c.Contacts}, {"companies", &c.Companies}, {"templates", &c.Templates}, {"reports", &c.Reports},
	}
	for i := range c.Brand.DKIM {
		k := &c.Brand.DKIM[i]
		all = append(all, textSetting{"brand.dkim", &k.Selector}, textSetting{"brand.dkim", &k.Key})
	}
	for i := range c.Staff {
		all = append(all, textSetting{fmt.Sprintf("staff[%d]", i), &c.Staff[i]})
	}
	return all
}

// withDefaults returns the settings with defaults filled in, and with URL as an origin.
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

// origin returns the origin of a URL in the form of browsers (RFC 6454): lower case, no default
// port, no slash at the end. It returns an invalid URL as it is.
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
