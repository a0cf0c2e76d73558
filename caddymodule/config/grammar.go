package config

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
)

// ReadServer reads the global option:
//
//	doorpost {
//		secret NEWEST [OLDER...]
//		store bolt [PATH]
//		store redis URL {
//			username NAME
//			password PASSWORD
//			db N
//			tls {
//				ca FILE
//				cert FILE KEY
//				server_name NAME
//			}
//			replicas_ack N
//		}
//		store redis sentinel NAME HOST:PORT... {
//			sentinel_username NAME
//			sentinel_password PASSWORD
//			…, as above
//		}
//		store redis cluster HOST:PORT... {
//			…, as above, without db
//		}
//		mail smtp HOST:PORT {
//			username NAME
//			password PASSWORD
//			oauth microsoft|google|TOKEN_URL {
//				client_id ID
//				client_secret SECRET
//				tenant TENANT
//				refresh_token TOKEN
//			}
//			tls starttls|implicit|off
//			ca FILE
//			cert FILE KEY
//			helo NAME
//			connections N
//			rate N/s|m|h
//		}
//		mail folder PATH
//		text webhook URL {
//			header NAME VALUE
//			body   TEMPLATE
//			rate   N/s|m|h
//		}
//	}
//
// One `mail` is required. Each setting may appear once, but for `header`.
func ReadServer(d *caddyfile.Dispenser, existing any) (s Server, err error) {
	d.Next()
	if existing != nil {
		return s, d.Err("doorpost is there twice among the global options; put its settings into one block")
	}
	r := newReader(d)
	if args, err := r.args(); err != nil {
		return s, err
	} else if len(args) > 0 {
		return s, d.Errf("the global option doorpost takes no argument, only a block; the firm %q belongs into a site block", args[0])
	}
	err = r.block("", settings{
		"secret": r.list(&s.Secret),
		"store": func(path string) error {
			s.Store = &Store{}
			return r.store(path, s.Store)
		},
		"mail": func(path string) error {
			s.Mail = &Mail{}
			return r.mail(path, s.Mail)
		},
		"text": func(path string) error {
			s.Text = &Text{}
			return r.text(path, s.Text)
		},
	})
	if err != nil {
		return s, err
	}
	if err := firstError(
		func() error { return literalSecrets(s.Secret) },
		func() error { return valueOr(s.Store, Store{}).Validate() },
		s.needsSecret,
		func() error { return valueOr(s.Mail, Mail{}).Validate() },
		func() error {
			if s.Text == nil {
				return nil
			}
			return s.Text.Validate()
		},
	); err != nil {
		return s, r.withPosition(err)
	}
	return s, nil
}

func (r *reader) store(path string, c *Store) error {
	args, err := r.args()
	switch {
	case err != nil:
		return err
	case len(args) == 0 || len(args) > 2 && args[0] != "redis":
		return r.Errf(`store: write "store bolt", "store bolt PATH" or "store redis redis://HOST:6379/0"`)
	}
	c.Engine = args[0]
	if c.Engine != "redis" {
		if len(args) == 2 {
			c.Path = args[1]
		}
		return r.noBlock(path)
	}
	switch args = args[1:]; {
	case len(args) > 0 && args[0] == "sentinel":
		if len(args) == 1 || strings.Contains(args[1], ":") && !hasPlaceholder(args[1]) {
			return r.Errf(`store: which server do the Sentinels watch? Write its name and then their addresses: %s`, writeSentinel)
		}
		c.Sentinel, c.Addresses = args[1], args[2:]
	case len(args) > 0 && args[0] == "cluster":
		c.Cluster, c.Addresses = true, args[1:]
	case len(args) > 1:
		return r.Errf(`store: %d addresses where one belongs; for several servers write %s or %s`, len(args), writeSentinel, writeCluster)
	case len(args) == 1:
		c.URL = args[0]
	}
	return r.block(path, settings{
		"username":          r.one(&c.Username),
		"password":          r.one(&c.Password),
		"sentinel_username": r.one(&c.SentinelUsername),
		"sentinel_password": r.one(&c.SentinelPassword),
		"db":                r.number(&c.DB),
		"tls":               func(path string) error { return r.storeTLS(path, c) },
		"replicas_ack":      r.number(&c.ReplicasAck),
	})
}

func (r *reader) storeTLS(path string, c *Store) error {
	c.TLS = &StoreTLS{}
	args, err := r.args()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return r.Errf(`store tls: takes no value, only a block; write "tls", or "tls {" with ca, cert or server_name on the lines below`)
	}
	return r.block(path, settings{
		"ca":          r.one(&c.TLS.CA),
		"cert":        r.pair(&c.TLS.Cert, &c.TLS.Key),
		"server_name": r.one(&c.TLS.ServerName),
	})
}

func (r *reader) mail(path string, c *Mail) error {
	args, err := r.args()
	switch {
	case err != nil:
		return err
	case len(args) == 0:
		return r.Errf(`mail: write "mail smtp HOST:PORT", or "mail folder ./mail" to try it out`)
	case len(args) > 2:
		return r.Errf(`mail: %d values where two belong; write "mail smtp HOST:PORT" or "mail folder PATH"`, len(args))
	}
	c.Transport = args[0]
	if len(args) == 2 && c.Transport == "folder" {
		c.Path = args[1]
	} else if len(args) == 2 {
		c.Address = args[1]
	}
	if c.Transport != "smtp" {
		if strings.Contains(c.Transport, ":") || strings.Contains(c.Transport, ".") {
			return r.Errf(`mail: which way? Write "mail smtp %s"`, c.Transport)
		}
		return r.noBlock(path)
	}
	return r.block(path, settings{
		"username": r.one(&c.Username),
		"password": r.one(&c.Password),
		"oauth":    func(path string) error { return r.oauth(path, c) },
		"tls":      r.one(&c.TLS),
		"ca":       r.one(&c.CA),
		"cert":     r.pair(&c.Cert, &c.Key),
		"helo":     r.one(&c.Helo),
		"rate":     r.one(&c.Rate),

		"connections": r.count(&c.Connections, "connections"),
	})
}

func (r *reader) oauth(path string, c *Mail) error {
	c.OAuth = &OAuth{}
	args, err := r.args()
	switch {
	case err != nil:
		return err
	case len(args) > 1:
		return r.Errf(`mail oauth: %d values where one belongs; write "oauth microsoft {", "oauth google {", or the URL where tokens come from`, len(args))
	case len(args) == 1:
		c.OAuth.Provider = args[0]
	}
	return r.block(path, settings{
		"client_id":     r.one(&c.OAuth.ClientID),
		"client_secret": r.one(&c.OAuth.ClientSecret),
		"tenant":        r.one(&c.OAuth.Tenant),
		"refresh_token": r.one(&c.OAuth.RefreshToken),
	})
}

// ReadSite reads the directive into a Handler:
//
//	doorpost FIRM {
//		url URL
//		brand {
//			name     NAME
//			from     "NAME <ADDRESS>"
//			reply_to ADDRESS
//			logo     FILE
//			accent   "#RRGGBB"
//			support  TEXT
//			dkim     SELECTOR FILE
//		}
//		mail …, as in the global option
//		contacts  FILE.csv
//		companies FILE.csv
//		staff     ADDRESS...
//		phone_region REGION
//		legacy_link  OLD NEW [forward_new]
//		company_path PATH...
//		home         PATH
//		portal_session COOKIE... [person|off]
//		upgraded all | COMPANY...
//		identity HEADER...
//		clear_site_data storage
//		public    [METHOD...] PATH...
//		session {
//			idle DURATION
//			max  DURATION
//		}
//		link_lifetime DURATION
//		passwords off
//		passwords {
//			min_length N
//		}
//		new_device_mail off
//		templates FOLDER
//		prefix    PATH
//	}
//
// `url`, and in `brand` `name` and `from`, are required. Each setting stands once,
// but for `legacy_link`, `company_path`, `portal_session` and `public`. Without a block the directive only
// names a firm that another site block defines. It takes no matcher.
func ReadSite(h httpcaddyfile.Helper) (s Site, err error) {
	h.Next()
	r := newReader(h.Dispenser)
	args, err := r.args()
	if err != nil {
		return s, err
	}
	if len(args) > 0 && (args[0] == "*" || strings.HasPrefix(args[0], "/") || strings.HasPrefix(args[0], "@")) {
		return s, h.Errf(`doorpost takes no matcher, it guards the whole site: remove %s, and open what everyone may see with "public" in its block`, args[0])
	}
	if len(args) > 0 {
		s.Firm = args[0]
	}
	if err := CheckFirmID(s.Firm); err != nil {
		return s, h.WrapErr(err)
	}
	if len(args) > 1 {
		return s, h.Errf(`doorpost takes the id of one firm; write "doorpost %s {" and the settings on the lines below`, args[0])
	}
	if h.Option("doorpost") == nil {
		return s, h.WrapErr(ErrNoGlobal)
	}
	cfg := &Firm{}
	if err := r.block("", r.firm(cfg)); err != nil {
		return s, err
	}
	if r.opened {
		s.Config = cfg
		if err := defineOnce(h, s.Firm, r.start); err != nil { // first: settings missing here are in the other place
			return s, err
		}
		if err := cfg.Validate(); err != nil {
			return s, r.withPosition(err)
		}
	}
	return s, nil
}

// defineOnce records where the firm is defined and refuses a second definition.
func defineOnce(h httpcaddyfile.Helper, firm string, here caddyfile.Token) error {
	const key = "doorpost.defined"
	defined, ok := h.State[key].(map[string]caddyfile.Token)
	if !ok {
		defined = make(map[string]caddyfile.Token)
		h.State[key] = defined
	}
	if first, ok := defined[firm]; ok {
		return errorAt(here, fmt.Errorf(`firm %s is already defined at %s:%d; write "doorpost %s" alone here, without a block`, firm, first.File, first.Line, firm))
	}
	defined[firm] = here
	return nil
}

func (r *reader) firm(c *Firm) settings {
	return settings{
		"url": r.one(&c.URL),
		"brand": r.onlyBlock(settings{
			"name":     r.one(&c.Brand.Name),
			"from":     r.one(&c.Brand.From),
			"reply_to": r.one(&c.Brand.ReplyTo),
			"logo":     r.one(&c.Brand.Logo),
			"accent":   r.one(&c.Brand.Accent),
			"support":  r.one(&c.Brand.Support),
			"dkim":     r.dkim(&c.Brand.DKIM),
		}),
		"mail": func(path string) error {
			c.Mail = &Mail{}
			return r.mail(path, c.Mail)
		},
		"contacts":  r.one(&c.Contacts),
		"companies": r.one(&c.Companies),
		"staff":     r.list(&c.Staff),

		"phone_region": r.one(&c.PhoneRegion),

		"public": r.public(&c.Public),

		"legacy_link":    r.legacyLink(&c.LegacyLinks),
		"company_path":   r.companyPaths(&c.CompanyPaths),
		"home":           r.one(&c.Home),
		"portal_session": r.portalSession(&c.PortalSession),

		"identity":        r.list(&c.Identity),
		"clear_site_data": r.list(&c.ClearSiteData),
		"upgraded":        r.upgraded(&c.Upgraded),

		"session": r.onlyBlock(settings{
			"idle": r.duration(&c.Session.Idle),
			"max":  r.duration(&c.Session.Max),
		}),
		"link_lifetime": r.duration(&c.LinkLifetime),
		"passwords":     r.passwords(&c.Passwords),

		"new_device_mail": r.off(&c.NewDeviceMail.Off),

		"templates": r.one(&c.Templates),
		"reports":   r.one(&c.Reports),
		"prefix":    r.one(&c.Prefix),
	}
}

func (r *reader) public(rules *[]PublicRule) setting {
	return func(path string) error {
		args, err := r.args()
		if err != nil {
			return err
		}
		if err := noCommas(path, args); err != nil {
			return r.withPosition(err)
		}
		var rule PublicRule
		for len(args) > 0 && !strings.ContainsAny(args[0], "/*.") {
			rule.Methods, args = append(rule.Methods, args[0]), args[1:]
		}
		rule.Paths = args
		*rules = append(*rules, rule)
		return r.noBlock(path)
	}
}

// passwords reads "off", or a block.
func (r *reader) passwords(p *Passwords) setting {
	block := r.onlyBlock(settings{"min_length": r.count(&p.MinLength, "characters")})
	return func(path string) error {
		if !r.NextArg() {
			return block(path)
		}
		if r.Val() != "off" || r.NextArg() {
			return r.withPosition(invalid(path, `write "passwords off", or end the line with a brace, "passwords {", and put "min_length 15" on the line below`))
		}
		p.Off = true
		return r.noBlock(path)
	}
}

// off reads a setting whose only value is the word off.
func (r *reader) off(is *bool) setting {
	return func(path string) error {
		var s string
		if err := r.one(&s)(path); err != nil {
			return err
		}
		if s != "off" {
			return r.withPosition(invalid(path, "%q is not off; write %q, or leave the line out", s, examples[path]))
		}
		*is = true
		return nil
	}
}

// upgraded reads the word all, or the ids of companies.
func (r *reader) upgraded(u *Upgraded) setting {
	return func(path string) error {
		if err := r.list(&u.Companies)(path); err != nil {
			return err
		}
		if slices.Equal(u.Companies, []string{"all"}) {
			u.All, u.Companies = true, nil
		}
		return nil
	}
}

// count reads a positive number of something.
func (r *reader) count(n *int, of string) setting {
	return func(path string) error {
		var s string
		if err := r.one(&s)(path); err != nil {
			return err
		}
		var err error
		if *n, err = strconv.Atoi(s); err != nil || *n <= 0 {
			return r.withPosition(invalid(path, "%q is no number of %s; write %s", s, of, examples[path]))
		}
		return nil
	}
}

func (r *reader) number(n *int) setting {
	return func(path string) error {
		var s string
		if err := r.one(&s)(path); err != nil {
			return err
		}
		var err error
		if *n, err = strconv.Atoi(s); err != nil {
			return r.withPosition(invalid(path, "%q is no number; write %s", s, examples[path]))
		}
		return nil
	}
}

func (r *reader) legacyLink(links *[]legacy.Link) setting {
	return func(path string) error {
		args, err := r.args()
		switch {
		case err != nil:
			return err
		case len(args) < 2:
			return r.withPosition(invalid(path, "which? Write the old form and the new one: %s", examples[path]))
		case len(args) > 3 || len(args) == 3 && args[2] != "forward_new":
			return r.withPosition(invalid(path, "%q is one too many; write the old form and the new one, and forward_new behind them where the portal knows the new one", args[2]))
		}
		*links = append(*links, legacy.Link{Old: args[0], New: args[1], ForwardNew: len(args) == 3})
		return r.noBlock(path)
	}
}

// companyPaths reads the patterns of a line and records the position of the line for each.
func (r *reader) companyPaths(patterns *[]string) setting {
	return func(path string) error {
		line := r.Token()
		var args []string
		if err := r.list(&args)(path); err != nil {
			return err
		}
		for _, p := range args {
			r.positions[fmt.Sprintf("%s[%d]", path, len(*patterns))] = line
			*patterns = append(*patterns, p)
		}
		return nil
	}
}

// portalSession reads the cookie names of a line, and an option for all of them at the end.
func (r *reader) portalSession(cookies *[]PortalCookie) setting {
	return func(path string) error {
		line := r.Token()
		var names []string
		if err := r.list(&names)(path); err != nil {
			return err
		}
		to := ""
		if last := names[len(names)-1]; len(names) > 1 && (last == "person" || last == "off") {
			names, to = names[:len(names)-1], last
		}
		for _, name := range names {
			r.positions[fmt.Sprintf("%s[%d]", path, len(*cookies))] = line
			*cookies = append(*cookies, PortalCookie{Name: name, To: to})
		}
		return nil
	}
}

// examples show how to write each setting, by path.
var examples = map[string]string{
	"secret":                   "secret {file./etc/doorpost/secret}",
	"store.username":           "username doorpost",
	"store.password":           "password {file./run/secrets/redis}",
	"store.sentinel_username":  "sentinel_username doorpost",
	"store.sentinel_password":  "sentinel_password {file./run/secrets/sentinel}",
	"store.db":                 "db 0",
	"store.tls":                "tls {",
	"store.tls.ca":             "ca /etc/doorpost/redis-ca.pem",
	"store.tls.cert":           "cert /etc/doorpost/client.pem /etc/doorpost/client.key",
	"store.tls.server_name":    "server_name redis.internal",
	"store.replicas_ack":       "replicas_ack 1",
	"mail.username":            "username portal@example.com",
	"mail.password":            "password {file./run/secrets/smtp}",
	"mail.oauth":               "oauth microsoft {",
	"mail.tls":                 "tls starttls",
	"mail.rate":                "rate 60/m",
	"mail.oauth.client_id":     "client_id 6731de76-14a6-49ae-97bc-6eba6914391e",
	"mail.oauth.client_secret": "client_secret {file./run/secrets/oauth-client}",
	"mail.oauth.tenant":        "tenant example.onmicrosoft.com",
	"mail.oauth.refresh_token": "refresh_token {file./run/secrets/oauth-refresh}",
	"mail.ca":                  "ca /etc/doorpost/relay-ca.pem",
	"mail.cert":                "cert /etc/doorpost/client.pem /etc/doorpost/client.key",
	"mail.helo":                "helo clients.example.com",
	"mail.connections":         "connections 4",
	"text":                     "text webhook https://sms.example.com/send {",
	"text.header":              `header Authorization "Bearer {env.SMS_TOKEN}"`,
	"text.body":                "body `{\"to\": \"{{.To}}\", \"message\": \"{{.Text}}\"}`",
	"text.rate":                "rate 60/m",
	"url":                      "url https://clients.example.com",
	"brand":                    "brand {",
	"brand.name":               `name "Example Bookkeeping"`,
	"brand.from":               `from "Example Bookkeeping <hello@example.com>"`,
	"brand.reply_to":           "reply_to help@example.com",
	"brand.logo":               "logo /etc/doorpost/logo.svg",
	"brand.accent":             `accent "#0b6e4f"`,
	"brand.dkim":               "dkim 2026 /etc/doorpost/dkim.pem",
	"brand.support":            `support "help@example.com, +1 555 0100"`,
	"contacts":                 "contacts /etc/doorpost/contacts.csv",
	"companies":                "companies /etc/doorpost/companies.csv",
	"staff":                    "staff owner@example.com",
	"phone_region":             "phone_region GB",
	"legacy_link":              "legacy_link /one-click/{token}/* /portal/{company}/*",
	"company_path":             "company_path /files/{company}/*",
	"home":                     "home /portal/{company}",
	"portal_session":           "portal_session PHPSESSID",
	"upgraded":                 "upgraded acme globex",
	"identity":                 "identity Remote-User Remote-Email",
	"clear_site_data":          "clear_site_data storage",
	"public":                   "public /assets/* /favicon.ico",
	"session":                  "session {",
	"session.idle":             "idle 45d",
	"session.max":              "max 180d",
	"link_lifetime":            "link_lifetime 10m",
	"passwords":                "passwords {",
	"passwords.min_length":     "min_length 15",
	"new_device_mail":          "new_device_mail off",
	"templates":                "templates /etc/doorpost/templates",
	"reports":                  "reports /srv/doorpost/reports",
	"prefix":                   "prefix /-",
}

// Example returns how to write the setting with a path such as "session.idle".
func Example(path string) string { return examples[path] }

// Settings returns the paths of all settings with an example, sorted.
func Settings() []string { return slices.Sorted(maps.Keys(examples)) }

// onceHints are added to the error for a repeated setting: how to write several values.
var onceHints = map[string]string{
	"secret": ", with the older ones behind the newest",
	"staff":  ", with all addresses on one line",
}

// repeatable are the settings that may appear more than once.
var repeatable = []string{"text.header", "brand.dkim", "public", "legacy_link", "company_path", "portal_session"}

// setting reads the rest of a setting, after its name.
type setting func(path string) error

// settings are the settings of a block, by name.
type settings map[string]setting

// reader reads the blocks of one directive and records the position of each setting.
type reader struct {
	*caddyfile.Dispenser
	start     caddyfile.Token            // the directive
	positions map[string]caddyfile.Token // by path
	opened    bool                       // there was a block, even if it was empty
}

func newReader(d *caddyfile.Dispenser) *reader {
	return &reader{Dispenser: d, start: d.Token(), positions: make(map[string]caddyfile.Token)}
}

// block reads the block at the end of the line, if there is one.
func (r *reader) block(path string, known settings) error {
	before := r.Token()
	for nesting := r.Nesting(); r.NextBlock(nesting); {
		r.opened = true
		if err := r.setting(path, known); err != nil {
			return err
		}
	}
	if r.Val() == "}" && r.Token().Line != before.Line {
		r.opened = true
	}
	return nil
}

func (r *reader) setting(parent string, known settings) error {
	name := r.Val()
	path := strings.TrimPrefix(parent+"."+name, ".")
	read, ok := known[name]
	if !ok {
		return r.unknown(path, parent, known)
	}
	if i := slices.Index(repeatable, path); i >= 0 {
		n := 0
		for ; r.positions[fmt.Sprintf("%s[%d]", path, n)].Line > 0; n++ {
		}
		r.positions[fmt.Sprintf("%s[%d]", path, n)] = r.Token()
	} else if first, twice := r.positions[path]; twice {
		return r.Errf("%s stands already at %s:%d; write it once%s", settingName(path), first.File, first.Line, onceHints[path])
	}
	r.positions[path] = r.Token()
	return read(path)
}

func (r *reader) unknown(path, parent string, known settings) error {
	name := r.Val()
	where := "doorpost"
	if parent != "" {
		where = settingName(parent)
	}
	if bare := strings.TrimSuffix(name, "{"); bare != name {
		return r.Errf(`put a space before the brace: "%s {"`, bare)
	}
	if i := strings.IndexAny(name, "=:"); i > 0 && known[name[:i]] != nil {
		of := name[:i]
		if parent != "" {
			of = parent + "." + of
		}
		return r.Errf("%s: there is no %c behind the name of a setting; write %s", settingName(of), name[i], examples[of])
	}
	var blocks []string
	for elsewhere := range examples {
		if block, ok := strings.CutSuffix(elsewhere, "."+name); ok && block != parent {
			blocks = append(blocks, block)
		}
	}
	if parent != "" && slices.Contains(besides(parent), name) {
		return r.Errf("%s has no setting %s, which belongs below the block of %s; is the } of %s missing?", where, name, where, where)
	}
	if len(blocks) > 0 {
		slices.Sort(blocks)
		return r.Errf("%s has no setting %s; it belongs into the block of %s", where, name, strings.Join(blocks, " or "))
	}
	names := slices.Sorted(maps.Keys(known))
	if meant := nearest(name, names); meant != "" {
		return r.Errf("%s has no setting %s; did you mean %s?", where, name, meant)
	}
	return r.Errf("%s has no setting %s; it knows %s", where, name, strings.Join(names, ", "))
}

// placeholderBegins matches a placeholder whose rest comes after a space.
var placeholderBegins = regexp.MustCompile(`^\{(?:file|env|system)\.?$`)

// curlyQuote returns the curly quote that a word processor has substituted for a straight one
// around a value, or "".
func curlyQuote(t caddyfile.Token) string {
	if t.Quoted() {
		return ""
	}
	first, _ := utf8.DecodeRuneInString(t.Text)
	last, _ := utf8.DecodeLastRuneInString(t.Text)
	switch {
	case strings.ContainsRune("“”„‟‘‚«", first):
		return string(first)
	case strings.ContainsRune("“”‟»", last):
		return string(last)
	}
	return ""
}

// besides returns the settings that are allowed outside of a block.
func besides(block string) (names []string) {
	global := []string{"secret", "store", "mail", "text"}
	if slices.Contains(global, block) {
		return global
	}
	for name := range examples {
		if !strings.Contains(name, ".") && !slices.Contains(global, name) {
			names = append(names, name)
		}
	}
	return append(names, "mail")
}

// args reads the rest of the line up to a block.
func (r *reader) args() ([]string, error) {
	name := r.Val()
	var args []string
	tokens := r.RemainingArgsAsTokens()
	for i, t := range tokens {
		if quote := curlyQuote(t); quote != "" {
			return nil, errorAt(t, fmt.Errorf(`%s: %s is a curly quote, which Caddy takes for a letter; write straight ones: "`, name, quote))
		}
		switch {
		case t.Quoted():
		case i == 0 && (t.Text == "=" || t.Text == ":"):
			return nil, errorAt(t, fmt.Errorf("%s: there is no %s before a value; remove it", name, t.Text))
		case strings.HasPrefix(t.Text, "'") && slices.ContainsFunc(tokens[i:], func(t caddyfile.Token) bool { return len(t.Text) > 1 && strings.HasSuffix(t.Text, "'") }):
			return nil, errorAt(t, fmt.Errorf(`%s: Caddy takes ' for a letter; write the other quotes: "`, name))
		case placeholderBegins.MatchString(t.Text) && i+1 < len(tokens) && strings.HasSuffix(tokens[i+1].Text, "}"):
			return nil, errorAt(t, fmt.Errorf("%s: a placeholder has a dot and no space in it; write %s.%s", name, strings.TrimSuffix(t.Text, "."), tokens[i+1].Text))
		case t.Text == "}":
			return nil, errorAt(t, fmt.Errorf("%s: put the closing brace on a line of its own", name))
		case strings.HasPrefix(t.Text, "{") && !strings.Contains(t.Text, "}"):
			return nil, errorAt(t, fmt.Errorf("%s: the line ends with the opening brace; put %s on the next one", name, t.Text[1:]))
		case len(t.Text) > 1 && strings.HasSuffix(t.Text, "{"):
			return nil, errorAt(t, fmt.Errorf("%s: put a space before the brace: %s {", name, strings.TrimSuffix(t.Text, "{")))
		case t.Text == "{}":
			return nil, errorAt(t, fmt.Errorf("%s: the block is empty; put its settings on lines of their own", name))
		}
		if err := checkFixed(t.Text); err != nil {
			return nil, errorAt(t, fmt.Errorf("%s: %w", name, err))
		}
		args = append(args, t.Text)
	}
	return args, nil
}

// noBlock refuses a block after a setting that has none.
func (r *reader) noBlock(path string) error {
	if r.NextBlock(r.Nesting()) {
		return r.withPosition(invalid(path, "takes no block; put all of it on one line"))
	}
	return nil
}

// one reads a setting with exactly one value.
func (r *reader) one(value *string) setting {
	return func(path string) error {
		args, err := r.args()
		switch {
		case err != nil:
			return err
		case len(args) == 0 && path == "brand.accent":
			return r.withPosition(invalid(path, "which? Write %s with the quotes, as an unquoted # begins a comment", examples[path]))
		case len(args) == 0:
			return r.withPosition(invalid(path, "which? Write %s", examples[path]))
		case len(args) > 1:
			return r.withPosition(invalid(path, "%d values where one belongs; write %s (quotes keep a value with spaces together)", len(args), examples[path]))
		case args[0] == "":
			return r.withPosition(invalid(path, "is empty; write %s, or leave the line out", examples[path]))
		}
		*value = args[0]
		return r.noBlock(path)
	}
}

// pair reads a setting with two values.
func (r *reader) pair(first, second *string) setting {
	return func(path string) error {
		args, err := r.args()
		switch {
		case err != nil:
			return err
		case len(args) != 2:
			return r.withPosition(invalid(path, "takes two values; write %s", examples[path]))
		}
		*first, *second = args[0], args[1]
		return r.noBlock(path)
	}
}

func (r *reader) dkim(keys *[]brand.DKIM) setting {
	return func(path string) error {
		var k brand.DKIM
		err := r.pair(&k.Selector, &k.Key)(path)
		*keys = append(*keys, k)
		return err
	}
}

// list reads a setting with at least one value.
func (r *reader) list(values *[]string) setting {
	return func(path string) error {
		args, err := r.args()
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return r.withPosition(invalid(path, "which? Write %s", examples[path]))
		}
		if err := noCommas(path, args); err != nil {
			return r.withPosition(err)
		}
		*values = args
		return r.noBlock(path)
	}
}

// noCommas refuses a list with commas or semicolons.
func noCommas(path string, values []string) error {
	for _, v := range values {
		if bare := strings.Trim(v, ",;"); bare != v || strings.ContainsAny(v, ",;") && strings.Count(v, "@") > 1 {
			return invalid(path, "spaces alone separate values here; write %s", strings.Join(strings.FieldsFunc(strings.Join(values, " "), func(c rune) bool { return strings.ContainsRune(",; ", c) }), " "))
		}
	}
	return nil
}

func (r *reader) duration(value *caddy.Duration) setting {
	return func(path string) error {
		var s string
		if err := r.one(&s)(path); err != nil {
			return err
		}
		d, err := duration(s)
		*value = d
		return r.withPosition(atPath(path, err))
	}
}

// onlyBlock reads a setting that consists of a block only.
func (r *reader) onlyBlock(known settings) setting {
	return func(path string) error {
		args, err := r.args()
		if err != nil {
			return err
		}
		if len(args) > 0 {
			return r.withPosition(invalid(path, "takes a block; end the line after %q and put the settings on the lines below", examples[path]))
		}
		line := r.Line()
		if err := r.block(path, known); err != nil {
			return err
		}
		if r.Line() == line {
			return r.withPosition(invalid(path, "takes a block; end the line with a brace, %q, and put the settings on the lines below", examples[path]))
		}
		return nil
	}
}

// withPosition adds the file and line of the setting to its error. For a setting that wasn't
// written it adds those of the enclosing block.
func (r *reader) withPosition(err error) error {
	if err == nil {
		return nil
	}
	var se *settingError
	if !errors.As(err, &se) {
		return errorAt(r.start, err)
	}
	path := se.Path
	for path != "" {
		if t, ok := r.positions[path]; ok {
			return errorAt(t, err)
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return errorAt(r.start, err)
}

// errorAt adds the file and line of the token, and the chain of imports, to an error.
func errorAt(t caddyfile.Token, err error) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.WrapErr(err)
}

func settingName(path string) string { return strings.ReplaceAll(path, ".", " ") }

func valueOr[T any](p *T, or T) T {
	if p == nil {
		return or
	}
	return *p
}
