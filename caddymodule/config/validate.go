package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/idna"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/phone"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
	"github.com/doorpost-auth/doorpost/caddymodule/typo"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// Everything in this file is pure: it only checks values. The grammar calls it, so that errors have
// a file and line, and Provision calls it again with the placeholders filled in, so that the same
// rules apply to JSON.

// settingError reports an invalid setting, and what to write instead.
type settingError struct {
	Path string // such as "session.idle" or "public[1]"; empty for the whole
	Err  error
}

func (e *settingError) Error() string {
	if e.Path == "" {
		return e.Err.Error()
	}
	name, _, _ := strings.Cut(e.Path, "[")
	return strings.ReplaceAll(name, ".", " ") + ": " + e.Err.Error()
}

func (e *settingError) Unwrap() error { return e.Err }

func invalid(path, format string, args ...any) error {
	return &settingError{path, fmt.Errorf(format, args...)}
}

// atPath returns err as the error of the setting, or nil.
func atPath(path string, err error) error {
	if err == nil {
		return nil
	}
	return &settingError{path, err}
}

var (
	firmID   = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	segment  = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)
	hostname = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	rateForm = regexp.MustCompile(`^([1-9][0-9]{0,5})/([smh])$`)

	// provisionTime matches placeholders that are filled in once, during provisioning.
	provisionTime = regexp.MustCompile(`\{(?:env|file|system|time)\.[^{}]*\}`)
	// perRequest matches placeholders that have another value in each request.
	perRequest = regexp.MustCompile(`\{http\.[^{}]*\}`)
)

// hasPlaceholder reports whether the value contains a placeholder, so that it can be checked only
// after provisioning.
func hasPlaceholder(value string) bool { return provisionTime.MatchString(value) }

// checkFixed refuses a value that changes with each request. The Caddyfile's shorthands turn
// harmless text into such values: {file.x} in a site block.
func checkFixed(value string) error {
	ph := perRequest.FindString(value)
	if ph == "" {
		return nil
	}
	if name, ok := strings.CutPrefix(ph, "{http.request.uri.path.file."); ok {
		return fmt.Errorf("in a site block, Caddy takes {file.%s for a part of the request; write an absolute path: {file./etc/doorpost/%s", name, name)
	}
	return fmt.Errorf("%s has another value in each request; write the value itself, or {env.NAME} or {file./PATH}", ph)
}

// Validate returns an error for the first invalid setting that says what to write instead. It
// accepts values with placeholders that aren't filled in yet.
func (c Store) Validate() error {
	switch c.Engine {
	case "", "bolt":
		if at := c.redisAddress(); at != (redis.Address{}) {
			return invalid("store", `bolt is a file and takes no URL, username or password; write "store bolt PATH", or "store redis URL"`)
		}
		return nil
	case "redis":
		return c.validateRedis()
	default:
		return invalid("store", `there is no store %q; write "store bolt", "store bolt PATH" or "store redis redis://HOST:6379/0"`, c.Engine)
	}
}

const (
	writeSentinel = `"store redis sentinel mymaster s1:26379 s2:26379 s3:26379"`
	writeCluster  = `"store redis cluster n1:6379 n2:6379 n3:6379"`
)

func (c Store) validateRedis() error {
	several := c.Sentinel != "" || c.Cluster
	switch {
	case c.Path != "":
		return invalid("store", `redis takes a URL and no path; write "store redis redis://HOST:6379/0"`)
	case c.URL == "" && !several:
		return invalid("store", `which server? Write "store redis redis://HOST:6379/0", %s or %s`, writeSentinel, writeCluster)
	case c.URL != "" && several || c.Sentinel != "" && c.Cluster:
		return invalid("store", `redis is one server, or sentinel, or cluster, not two of them; write "store redis redis://HOST:6379/0", %s or %s`, writeSentinel, writeCluster)
	case !several && len(c.Addresses) > 0:
		return invalid("store", `redis with a URL takes no other addresses; for several servers write %s or %s`, writeSentinel, writeCluster)
	case c.Cluster && len(c.Addresses) == 0:
		return invalid("store", "which nodes? Write %s", writeCluster)
	case c.Sentinel != "" && len(c.Addresses) == 0:
		return invalid("store", "which Sentinels? Write the name of the server that they watch, and their addresses: %s", writeSentinel)
	case c.Username != "" && c.Password == "":
		return invalid("store.username", `has no password beside it; add "password {file./PATH}" or "password {env.NAME}"`)
	case c.Sentinel == "" && c.SentinelUsername != "":
		return invalid("store.sentinel_username", "is for %s; remove it", writeSentinel)
	case c.Sentinel == "" && c.SentinelPassword != "":
		return invalid("store.sentinel_password", "is for %s; remove it", writeSentinel)
	case c.SentinelUsername != "" && c.SentinelPassword == "":
		return invalid("store.sentinel_username", `has no password beside it; add "sentinel_password {file./PATH}" or "sentinel_password {env.NAME}"`)
	case c.Cluster && c.DB != 0:
		return invalid("store.db", "a Cluster has only the database 0; remove the line")
	case c.DB < 0:
		return invalid("store.db", `%d is no number of a database; write "db 0"`, c.DB)
	case c.ReplicasAck < 0 || c.ReplicasAck > mostReplicas:
		return invalid("store.replicas_ack", "%d is not between 0 and %d", c.ReplicasAck, mostReplicas)
	}
	if t := valueOr(c.TLS, StoreTLS{}); (t.Cert == "") != (t.Key == "") {
		return invalid("store.tls.cert", `a certificate and its key belong together; write "cert FILE KEY"`)
	}
	if hasPlaceholder(c.URL) || slices.ContainsFunc(c.Addresses, hasPlaceholder) {
		return nil
	}
	return atPath("store", c.redisAddress().Validate())
}

const mostReplicas = 10

// Validate returns an error for the first invalid setting that says what to write instead. It
// accepts values with placeholders that aren't filled in yet.
func (c Mail) Validate() error {
	switch c.Transport {
	case "smtp":
		return c.validateSMTP()
	case "folder":
		switch {
		case c.Path == "":
			return invalid("mail", `which folder? Write "mail folder ./mail"`)
		case c != Mail{Transport: c.Transport, Path: c.Path}:
			return invalid("mail", `a folder takes no address and no settings; write "mail folder PATH" alone`)
		}
		return nil
	case "":
		return invalid("mail", `is missing; write "mail smtp HOST:PORT", or "mail folder ./mail" to try it out`)
	default:
		return invalid("mail", `there is no mail %q; write "mail smtp HOST:PORT" or "mail folder PATH"`, c.Transport)
	}
}

func (c Mail) validateSMTP() error {
	if c.Path != "" {
		return invalid("mail", `smtp takes no path; write "mail smtp HOST:PORT" or "mail folder PATH"`)
	}
	if err := checkServer(c.Address); err != nil {
		return atPath("mail", err)
	}
	switch c.TLS {
	case "", "starttls", "implicit", "off":
	default:
		return invalid("mail.tls", `there is no %q; write "starttls" (port 587), "implicit" (port 465) or "off"`, c.TLS)
	}
	if c.OAuth != nil {
		if err := c.OAuth.validate(); err != nil {
			return err
		}
	}
	switch {
	case c.OAuth != nil && c.Password != "":
		return invalid("mail.oauth", `stands beside a password; remove one of them`)
	case c.OAuth != nil && c.Username == "":
		return invalid("mail.oauth", `has no username beside it; write "username portal@example.com", the mailbox that the token is for`)
	case c.OAuth != nil && c.TLS == "off" && !hasPlaceholder(c.Address) && !loopback.Is(hostOf(c.Address)):
		return invalid("mail.tls", `off: the access token would be readable on the way; remove "tls off"`)
	case c.OAuth == nil && c.Username != "" && c.Password == "":
		return invalid("mail.username", `has no password beside it; add "password {file./PATH}", or remove the username where the relay needs none`)
	case c.Password != "" && c.Username == "":
		return invalid("mail.password", `has no username beside it; add "username NAME", or remove the password where the relay needs none`)
	case c.TLS != "" && !hasPlaceholder(c.Address):
		// The remaining errors concern encryption, which the sender checks.
		s := outbox.SMTP{Address: c.Address, TLS: outbox.TLS(c.TLS)}
		if c.OAuth == nil {
			s.Username, s.Password = c.Username, c.Password
		}
		if err := s.Validate(); err != nil {
			return invalid("mail.tls", "%s", strings.TrimPrefix(err.Error(), "tls "))
		}
	}
	switch {
	case c.TLS == "off" && c.CA+c.Cert != "":
		return invalid("mail.tls", `"off" uses no certificate; remove ca and cert, or "tls off"`)
	case (c.Cert == "") != (c.Key == ""):
		return invalid("mail.cert", `a certificate and its key belong together; write "cert FILE KEY"`)
	case c.Helo != "" && !hasPlaceholder(c.Helo) && !hostname.MatchString(strings.ToLower(c.Helo)):
		return invalid("mail.helo", `%q is no name of a host; write the name of this machine as the mail server knows it, such as "helo clients.example.com"`, c.Helo)
	case c.Connections < 0 || c.Connections > mostConnections:
		return invalid("mail.connections", "%d is not between 1 and %d", c.Connections, mostConnections)
	}
	if _, _, err := parseRate(c.Rate); err != nil {
		return atPath("mail.rate", err)
	}
	return nil
}

// checkServer checks the HOST:PORT of a mail server.
func checkServer(addr string) error {
	if hasPlaceholder(addr) {
		return nil
	}
	const want = `write host and port, such as smtp.example.com:587`
	if addr == "" {
		return errors.New("which server? " + upperFirst(want))
	}
	if strings.Contains(addr, "://") {
		return fmt.Errorf("%q is a URL; %s", addr, want)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return fmt.Errorf("%q is no address of a server; %s", addr, want)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port; %s", port, want)
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostname.MatchString(strings.ToLower(host)) {
		return fmt.Errorf("%q is no name of a server; %s", host, want)
	}
	return nil
}

// parseRate returns the number of mails and the period; an empty rate is the default.
func parseRate(s string) (n int, per time.Duration, err error) {
	if s == "" {
		s = defaultRate
	}
	m := rateForm.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf(`%q is no rate; write a number and s, m or h, such as 60/m`, s)
	}
	n, err = strconv.Atoi(m[1])
	return n, map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[m[2]], err
}

// CheckFirmID checks the id of a firm.
func CheckFirmID(id string) error {
	switch {
	case firmID.MatchString(id):
		return nil
	case id == "":
		return errors.New(`which firm? Write its id: "doorpost example"`)
	case strings.HasSuffix(id, "{"):
		return fmt.Errorf(`put a space before the brace: "doorpost %s {"`, strings.TrimSuffix(id, "{"))
	default:
		return fmt.Errorf(`%q is no id of a firm; write 1 to 63 small letters, digits and hyphens, such as "doorpost example"`, id)
	}
}

// Validate returns an error for the first invalid setting that says what to write instead. It
// accepts values with placeholders that aren't filled in yet.
func (c Firm) Validate() error {
	for _, t := range c.texts() {
		if err := checkFixed(*t.value); err != nil {
			return atPath(t.path, err)
		}
	}
	return firstError(
		func() error { return atPath("url", checkURL(c.URL)) },
		c.validateBrand,
		c.validateMail,
		c.validateStaff,
		c.validatePhoneRegion,
		func() error { return atPath("prefix", checkPrefix(c.Prefix)) },
		c.validatePublic,
		c.validateLegacy,
		c.validatePortalSession,
		c.validateIdentity,
		c.validateClearSiteData,
		c.validateUpgraded,
		c.Session.Validate,
		c.validateLink,
		c.Passwords.Validate,
	)
}

func (c Firm) validateMail() error {
	if c.Mail == nil {
		return nil
	}
	return c.Mail.Validate()
}

func (c Firm) validatePhoneRegion() error {
	if c.PhoneRegion == "" || phone.IsRegion(c.PhoneRegion) {
		return nil
	}
	if upper := strings.ToUpper(c.PhoneRegion); phone.IsRegion(upper) {
		return invalid("phone_region", "%q is written %s", c.PhoneRegion, upper)
	}
	return invalid("phone_region", `%q is no country; write the two letters of ISO 3166, such as GB, US or DE`, c.PhoneRegion)
}

// firstError calls the checks in order and returns the first error.
func firstError(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Firm) validateLink() error {
	switch life := time.Duration(c.LinkLifetime); {
	case life < 0:
		return invalid("link_lifetime", "%s is no time at all; write at most 60m, such as 10m", days(life))
	case life > maxLinkLifetime:
		return invalid("link_lifetime", "%s is too long for what opens the door; write at most 60m, such as 10m", days(life))
	}
	return nil
}

// checkURL checks the origin for links in mails: https, a host, an optional port, and nothing else.
func checkURL(s string) error {
	const want = "write https:// and the host, such as https://clients.example.com"
	switch {
	case s == "":
		return errors.New("is missing; " + want)
	case hasPlaceholder(s):
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Opaque != "" {
		if err == nil && hostname.MatchString(strings.ToLower(s)) {
			return fmt.Errorf("write it with its scheme: https://%s", s)
		}
		return fmt.Errorf("%q is no URL of a site; %s", s, want)
	}
	host, origin := u.Hostname(), u.Scheme+"://"+u.Host
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s:// is no scheme of a site; %s", u.Scheme, want)
	case u.User != nil:
		return fmt.Errorf("a user or password has no place in it; write %s", origin)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return fmt.Errorf("a query or fragment has no place in it; write %s", origin)
	case u.Path != "" && u.Path != "/":
		return fmt.Errorf("a path has no place in it, Doorpost guards the whole host; write %s", origin)
	case strings.HasSuffix(u.Host, ":"):
		return fmt.Errorf("the port is missing; write %s", strings.TrimSuffix(origin, ":"))
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%s is no port; %s", p, want)
		}
	}
	if err := checkHost(host); err != nil {
		return err
	}
	if u.Scheme == "http" && !loopback.Is(host) {
		return fmt.Errorf("http:// is for this machine alone (localhost); write https://%s", u.Host)
	}
	return nil
}

func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if hostname.MatchString(strings.ToLower(host)) {
		return nil
	}
	if ascii, err := idna.Lookup.ToASCII(host); err == nil && hostname.MatchString(ascii) {
		return fmt.Errorf("write the host as mail services do: %s", ascii)
	}
	return fmt.Errorf("%q is no name of one host; write https:// and the host, such as https://clients.example.com", host)
}

func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	return host
}

func (c Firm) validateBrand() error {
	b := c.Brand
	for _, t := range []struct {
		path  string
		value *string
		stand string // in place of a value that isn't known yet
	}{
		{"brand.name", &b.Name, "Example"},
		{"brand.from", &b.From, "hello@example.com"},
		{"brand.reply_to", &b.ReplyTo, ""},
		{"brand.logo", &b.Logo, ""},
		{"brand.accent", &b.Accent, ""},
		{"brand.support", &b.Support, ""},
	} {
		if hasPlaceholder(*t.value) {
			*t.value = t.stand
		}
	}
	b.DKIM = slices.Clone(b.DKIM)
	for i := range b.DKIM {
		if hasPlaceholder(b.DKIM[i].Selector) {
			b.DKIM[i].Selector = fmt.Sprint("later", i)
		}
	}
	return brandError(b.Validate())
}

// brandError finds the setting of a brand's error: each error begins with its name.
func brandError(err error) error {
	if err == nil {
		return nil
	}
	name, rest, _ := strings.Cut(err.Error(), " ")
	if name = strings.TrimSuffix(name, ":"); examples["brand."+name] == "" {
		return atPath("brand", err)
	}
	return atPath("brand."+name, errors.New(rest))
}

func (c Firm) validateStaff() error {
	seen := map[address.Address]bool{}
	for i, s := range c.Staff {
		path := fmt.Sprintf("staff[%d]", i)
		if hasPlaceholder(s) {
			continue
		}
		a, err := address.Parse(s)
		if err != nil {
			return invalid(path, "%q: %w; write an address such as owner@example.com", s, err)
		}
		if seen[a] {
			return invalid(path, "%s is named twice; name it once", a)
		}
		seen[a] = true
	}
	return nil
}

// checkPrefix checks the prefix of Doorpost's own pages; empty is the default.
func checkPrefix(p string) error {
	const want = "write a slash and a name, such as /- or /door"
	rest, ok := strings.CutPrefix(p, "/")
	switch {
	case p == "":
		return nil
	case !ok:
		return fmt.Errorf("%q doesn't begin with a slash; %s", p, want)
	case rest == "":
		return errors.New("/ alone is the portal's; " + want)
	case strings.HasSuffix(p, "/"):
		return fmt.Errorf("%q ends with a slash; write %s", p, strings.TrimRight(p, "/"))
	case strings.Contains(p, "*"):
		return fmt.Errorf("%q has a wildcard; %s", p, want)
	case len(p) > 64:
		return errors.New("it is longer than 64 characters; " + want)
	}
	for s := range strings.SplitSeq(rest, "/") {
		if !segment.MatchString(s) || s == "." || s == ".." {
			return fmt.Errorf("%q is no plain path (letters, digits and - . _ ~); %s", p, want)
		}
	}
	return nil
}

// methods are the methods allowed in `public`.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (c Firm) validatePublic() error {
	prefix := strings.ToLower(c.withDefaults().Prefix)
	for i, rule := range c.Public {
		where := fmt.Sprintf("public[%d]", i)
		if err := rule.Validate(); err != nil {
			return atPath(where, err)
		}
		for _, p := range rule.Paths {
			if p := strings.ToLower(p); p == prefix || strings.HasPrefix(p, prefix+"/") {
				return invalid(where, "%s is under the prefix, where Doorpost's own pages are; remove it", p)
			}
		}
	}
	return nil
}

// legacyRules returns the compiled patterns of old links and of companies' paths, or an error for
// an invalid one.
func (c Firm) legacyRules() (*legacy.Rules, error) {
	rules, err := legacy.Compile(legacy.Config{
		Prefix: c.withDefaults().Prefix, Links: c.LegacyLinks, CompanyPaths: c.CompanyPaths, Home: c.Home,
	})
	if e, ok := errors.AsType[*legacy.Error](err); ok {
		where := e.Setting
		if slices.Contains(repeatable, where) {
			where = fmt.Sprintf("%s[%d]", where, e.Index)
		}
		return nil, atPath(where, errors.New(e.Reason))
	}
	return rules, err
}

func (c Firm) validateLegacy() error {
	rules, err := c.legacyRules()
	if err != nil {
		return err
	}
	for i, rule := range c.Public {
		for _, p := range rule.Paths {
			if around := rules.OpenedBy(p); around != "" {
				return invalid(fmt.Sprintf("public[%d]", i), "%s would let everyone get around %s, which is for those alone who belong to the company; write a path that begins otherwise", p, around)
			}
		}
	}
	return nil
}

// cookieName matches a token as defined in RFC 6265bis.
var cookieName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}$")

func (c Firm) validatePortalSession() error {
	for i, cookie := range c.PortalSession {
		name, where := cookie.Name, fmt.Sprintf("portal_session[%d]", i)
		lower := strings.ToLower(name)
		switch {
		case !cookieName.MatchString(name):
			return invalid(where, "%q is no name of a cookie; write it as the portal sets it, such as PHPSESSID", name)
		case lower == "portal" || strings.HasPrefix(lower, "portal-") || strings.HasPrefix(lower, "__host-portal"):
			return invalid(where, "%s is a cookie of Doorpost's, which the portal never gets; remove it", name)
		case slices.ContainsFunc(c.PortalSession[:i], func(other PortalCookie) bool { return other.Name == name }):
			return invalid(where, "%s is there twice; remove one", name)
		case name == "person" || name == "off":
			return invalid(where, "%s says how the cookies in front of it are bound; write it at the end of the line, such as: portal_session PHPSESSID %s", name, name)
		case cookie.To != "" && cookie.To != "person" && cookie.To != "off":
			return invalid(where, `%q says nothing of how %s is bound; write "person", "off" or nothing`, cookie.To, name)
		}
	}
	return nil
}

func (c Firm) validateUpgraded() error {
	if c.Upgraded.All && len(c.Upgraded.Companies) > 0 {
		return invalid("upgraded", "all and single companies can't go together; write one of the two")
	}
	for i, id := range c.Upgraded.Companies {
		where := fmt.Sprintf("upgraded[%d]", i)
		switch {
		case id == "all":
			return invalid(where, `all stands alone; write "upgraded all", or leave it out`)
		case !directory.IsCompanyID(id):
			return invalid(where, "%q is no id of a company; write the id as in companies.csv, such as acme-ltd", id)
		case slices.Contains(c.Upgraded.Companies[:i], id):
			return invalid(where, "%s is there twice; remove one", id)
		}
	}
	return nil
}

func (c Firm) validateIdentity() error {
	for i, name := range c.Identity {
		where := fmt.Sprintf("identity[%d]", i)
		known := upstream.IdentityHeaders[:]
		if slices.Contains(c.Identity[:i], name) {
			return invalid(where, "%s is there twice; remove one", name)
		}
		if slices.Contains(known, name) {
			continue
		}
		if k := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, name) }); k >= 0 {
			return invalid(where, "write %s as %s", name, known[k])
		}
		return invalid(where, "%q is none of the headers that tell the portal who is signed in; there are %s", name, strings.Join(known, ", "))
	}
	return nil
}

func (c Firm) validateClearSiteData() error {
	for i, kind := range c.ClearSiteData {
		where := fmt.Sprintf("clear_site_data[%d]", i)
		switch {
		case kind == "cache":
			return invalid(where, "browsers clear their cache in any case; write clear_site_data storage, or leave the line out")
		case kind == "cookies":
			return invalid(where, "the portal's cookies are bound to who signed in, and Doorpost's own have to stay; write clear_site_data storage, or leave the line out")
		case kind != "storage":
			return invalid(where, "%q is nothing that can be cleared; write clear_site_data storage, or leave the line out", kind)
		case i > 0:
			return invalid(where, "storage is there twice; remove one")
		}
	}
	return nil
}

// Validate returns an error if the rule is invalid that says what to write instead.
func (r PublicRule) Validate() error {
	for _, m := range r.Methods {
		if slices.Contains(methods, m) {
			continue
		}
		if up := strings.ToUpper(m); slices.Contains(methods, up) {
			return fmt.Errorf("write the method in capitals: %s", up)
		}
		return fmt.Errorf("%q is neither a path nor one of the methods %s; write /assets/* or POST /webhooks/*", m, strings.Join(methods, ", "))
	}
	if len(r.Paths) == 0 {
		return errors.New("which path? Write public /assets/* or public POST /webhooks/*")
	}
	for _, p := range r.Paths {
		if err := checkPublicPath(p); err != nil {
			return err
		}
	}
	return nil
}

const allOpen = "/* would leave the whole portal open; name the paths that everyone may see, such as /assets/*"

func checkPublicPath(p string) error {
	if err := checkFixed(p); err != nil {
		return err
	}
	plain := strings.TrimSuffix(p, "/*")
	switch {
	case !strings.HasPrefix(p, "/"):
		if slices.Contains(methods, strings.ToUpper(p)) {
			return fmt.Errorf("methods come before the paths: public %s /webhooks/*", strings.ToUpper(p))
		}
		return fmt.Errorf("%q is no path; write it from the root, such as /assets/*", p)
	case p == "/*":
		return errors.New(allOpen)
	case strings.Contains(plain, "*"):
		return fmt.Errorf("%q: a * stands only at the end and after a slash, such as /assets/*", p)
	case strings.ContainsAny(p, "?#"):
		return fmt.Errorf("%q: only the path counts, not what comes after it; write %s", p, p[:strings.IndexAny(p, "?#")])
	case strings.ContainsAny(p, `\;{}%`) || strings.ContainsFunc(p, isControl):
		return fmt.Errorf(`%q: write the path as it reads when decoded, without \ ; { } %% or control characters`, p)
	}
	clean := path.Clean(plain)
	if plain == p && strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	if clean == "/" && plain != p {
		return errors.New(allOpen)
	}
	if clean != plain {
		return fmt.Errorf("%q isn't in its shortest form; write %s", p, clean+strings.TrimPrefix(p, plain))
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Validate returns an error for the first invalid setting that says what to write instead.
func (s Session) Validate() error {
	idle, most := time.Duration(s.Idle), time.Duration(s.Max)
	switch {
	case idle < 0:
		return invalid("session.idle", "%s is no time at all; write more than 0, such as 45d", days(idle))
	case most < 0:
		return invalid("session.max", "%s is no time at all; write more than 0, such as 180d", days(most))
	case most > maxSession:
		return invalid("session.max", "%s is longer than browsers keep a cookie; write at most 400d", days(most))
	case most == 0 && idle > defaultMax:
		return invalid("session.idle", "%s is longer than the default max of %s; write a max beside it", days(idle), days(defaultMax))
	case most > 0 && idle > most:
		return invalid("session.idle", "%s is longer than max, %s; write an idle of at most that", days(idle), days(most))
	}
	return nil
}

// maxMinLength is the longest minimum that may be required: NIST SP 800-63B-4, section 3.1.1.2,
// requires passwords of at least this length to be allowed.
const maxMinLength = 64

// Validate returns an error if a setting is invalid that says what to write instead.
func (p Passwords) Validate() error {
	switch {
	case p.MinLength == 0:
		return nil
	case p.Off:
		return invalid("passwords", "are off, so they have no length; write %q, or a block with min_length", "passwords off")
	case p.MinLength < password.LowestMinLength:
		return invalid("passwords.min_length", "%d is too short, such passwords are guessed; write at least %d, such as %d", p.MinLength, password.LowestMinLength, password.DefaultLength)
	case p.MinLength > maxMinLength:
		return invalid("passwords.min_length", "%d is more than people can remember; write at most %d, such as %d", p.MinLength, maxMinLength, password.DefaultLength)
	}
	return nil
}

// days formats a duration as in the Caddyfile.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := strings.TrimSuffix(d.String(), "m0s")
	if s != d.String() {
		s += "m"
	}
	if whole, ok := strings.CutSuffix(s, "h0m"); ok {
		return whole + "h"
	}
	return s
}

// duration parses a duration like Caddy: 10m, 12h, 45d.
func duration(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write a number and its unit, such as 10m, 12h or 45d", s)
	}
	if d <= 0 {
		return 0, fmt.Errorf("%q is no time at all; write more than 0, such as 10m, 12h or 45d", s)
	}
	return caddy.Duration(d), nil
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// nearest returns the name that was most likely meant, or "".
func nearest(name string, names []string) string {
	best, least := "", 3 // at most two mistakes
	for _, n := range slices.Sorted(slices.Values(names)) {
		d := typo.Count(strings.ToLower(name), n)
		if len(name) > 2 && strings.HasPrefix(n, name) {
			d = 1
		}
		if d < least && 2*d <= len(name) {
			best, least = n, d
		}
	}
	return best
}

// literalSecrets checks secrets that are written literally.
func literalSecrets(secrets []string) error {
	for _, s := range secrets {
		if hasPlaceholder(s) {
			continue
		}
		_, err := secret.New([]byte(s))
		if err != nil && strings.HasPrefix(s, "/") {
			return invalid("secret", "%w; if %s is a file, write {file.%s}", err, s, s)
		}
		if err != nil {
			return atPath("secret", err)
		}
	}
	return nil
}
