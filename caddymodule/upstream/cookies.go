package upstream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// PortalCookies protects the portal's own session cookies: each is returned to the portal only for
// the owner for whom the portal set it. A person who signs in after another one in the same browser
// doesn't get that person's portal session, and a lost membership isn't outlived by one. A session
// that began at a company's pages is limited to that company's pages. A session that began at a
// page of no company is also returned at a company's pages if the contact is a client of no other
// company; otherwise it would carry data of that company to all other pages.
//
// Seal puts a seal in front of a cookie's value. The seal names the owner and fits only this name
// and value. Unseal removes the seal for the portal, or leaves the cookie out. If the seal would
// make the cookie longer than browsers accept, it goes into an owner cookie instead, see
// ownercookie.go. Only cookies that scripts can't read and cookies that the configuration names are
// sealed: scripts of the portal must find other values as the portal set them.
type PortalCookies struct {
	Firm       string
	Store      store.Store
	Keys       *secret.Keyring
	Gate       web.Cookies // the gate's cookies, which the portal never receives
	Configured Bindings    // from the configuration
	Log        *slog.Logger

	warnedUnsealed sync.Once // for the warning about a session that isn't sealed
	warnedFull     sync.Once // for the warning about too many names
	notedSeparate  sync.Once // for the note about a login of the portal's own

	mu      sync.Mutex                         // held while learned changes
	learned atomic.Pointer[map[string]binding] // toReach or shared, by the folded name of each cookie that the portal has ever set as HttpOnly; nil before it is read
}

// CookieRule says how a cookie of the portal is bound, whether scripts can read it or not.
type CookieRule struct {
	Name string
	To   string // "" for the person and company or the visit, "person" for the person only, "off" for nothing
}

// binding says to what a cookie is bound. The zero value means unknown.
type binding byte

const (
	toReach  binding = '1' // to the person and the company for which it was set, or to the visit
	toPerson binding = 'p' // to the person, for the pages of all their companies
	shared   binding = 's' // to nothing: other sites of the domain read and set it
	free     binding = 'f' // to nothing, by the configuration
)

// Bindings maps folded cookie names to bindings. Create them with BindingsOf.
type Bindings map[string]binding

// BindingsOf returns the bindings of the rules.
func BindingsOf(cookies []CookieRule) Bindings {
	named := make(map[string]binding, len(cookies))
	for _, c := range cookies {
		switch c.To {
		case "":
			named[cookieFold(c.Name)] = toReach
		case "person":
			named[cookieFold(c.Name)] = toPerson
		case "off":
			named[cookieFold(c.Name)] = free
		}
	}
	return named
}

// Owner is whom a portal cookie was set for. The zero value is any visitor of a public page that
// belongs to no company.
type Owner struct {
	Contact    string                // ID; "" for a visit and for nobody
	Reach      directory.Fingerprint // fingerprint of what the contact reached; 0 without a contact
	Company    string                // "" if the request was for none; AnyCompany if it doesn't matter
	Generation uint64                // of the company: another company may get the same id later
	Token      directory.Fingerprint // of the company's token that the portal received; 0 if none
	Visit      string                // ID; "" for a contact and for nobody
}

// text returns the owner in the form that is sealed. ownerFrom is its reverse; it returns false for
// invalid text.
func (h Owner) text() string {
	number := func(n uint64) string { return strconv.FormatUint(n, 36) }
	return strings.Join([]string{h.Contact, number(uint64(h.Reach)), h.Company, number(h.Generation), number(uint64(h.Token)), h.Visit}, "\x00")
}

func ownerFrom(text string) (Owner, bool) {
	parts := strings.Split(text, "\x00")
	if len(parts) != 6 {
		return Owner{}, false
	}
	reach, err1 := strconv.ParseUint(parts[1], 36, 64)
	era, err2 := strconv.ParseUint(parts[3], 36, 64)
	token, err3 := strconv.ParseUint(parts[4], 36, 64)
	return Owner{parts[0], directory.Fingerprint(reach), parts[2], era, directory.Fingerprint(token), parts[5]}, errors.Join(err1, err2, err3) == nil
}

// Is returns whether the owner is of, for use as the allowed function of PortalCookies.Unseal.
func (h Owner) Is(of Owner) (bool, error) { return of == h, nil }

// MatchesCompany reports whether the company still is the same, and has the token.
func (h Owner) MatchesCompany(s directory.AccessStatus) bool {
	return s.Company == h.Company && s.Generation == h.Generation && (h.Token == 0 || s.Has(h.Token))
}

const (
	sealPurpose = "portal-cookie"
	sealPrefix  = "~." // beginning of a sealed value; no portal uses it
	namesBucket = "portal-cookie"
	maxLearned  = 100 // limit of remembered names
	// AnyCompany is the Company of an Owner whose cookie is valid at the pages of all companies.
	AnyCompany = "*" // not a valid company id
)

// Seal returns the portal's Set-Cookie line for the browser, and the line of the owner cookie or
// "". host is the configured host, not the Host header, which anybody can forge. Attributes stay
// the same.
func (b *PortalCookies) Seal(ctx context.Context, line, host string, h Owner) (cookie, owner string) {
	pair, attributes, _ := strings.Cut(line, ";")
	name, value, ok := strings.Cut(pair, "=")
	name, value = textproto.TrimString(name), textproto.TrimString(value)
	if !ok || name == "" || value == "" { // a cookie without a value is being deleted
		return line, ""
	}
	switch b.configured(name) {
	case free:
		return line, ""
	case toPerson:
		if h.Contact != "" {
			h = Owner{Contact: h.Contact, Reach: h.Reach, Company: AnyCompany}
		}
	case 0:
		if !httpOnly(attributes) {
			b.warnUnsealed(name)
			return line, ""
		}
		if domain := widerThan(host, attributes); domain != "" {
			b.share(ctx, name, domain)
			return line, ""
		}
		b.learn(ctx, name, toReach)
	}
	seal := b.Keys.SealText(sealPurpose, b.sealingContext(name, value), []byte(h.text()))
	if len(line)+len(sealPrefix)+len(seal)+len(".") > maxSealed {
		return line, b.ownerCookie(name, value, seal, attributes)
	}
	return name + "=" + sealPrefix + seal + "." + value + line[len(pair):], ""
}

// widerThan returns the domain of a cookie that other hosts also receive, or "". A browser refuses
// a cookie whose domain isn't a parent of the host, so such a cookie is shared with nobody.
func widerThan(host, attributes string) string {
	domain := ""
	for one := range strings.SplitSeq(attributes, ";") {
		name, value, _ := strings.Cut(one, "=")
		if strings.EqualFold(textproto.TrimString(name), "Domain") { // the last one counts (RFC 6265, 5.3)
			domain = strings.TrimPrefix(textproto.TrimString(value), ".")
		}
	}
	parent, at := "."+strings.ToLower(domain), strings.ToLower(host)
	if domain == "" || !strings.HasSuffix(at, parent) {
		return ""
	}
	return domain
}

// share records that other sites read and set a cookie. Sealing would hide its value from them, and
// their values from the portal.
func (b *PortalCookies) share(ctx context.Context, name, domain string) {
	if b.learnedBinding(name) == shared {
		return
	}
	b.learn(ctx, name, shared)
	if b.learnedBinding(name) != shared {
		return // the store is unavailable, or has too many names
	}
	b.Log.Warn("the portal shares a cookie with other sites of its domain, so it isn't bound to the signed-in contact; if no other site needs it, "+
		"have the portal set it without Domain, or write: portal_session "+name+"; if others do, write: portal_session "+name+" off", "cookie", name, "domain", domain)
}

// Unseal prepares a request's cookies for the portal: it removes the gate's cookies, restores the
// values of sealed cookies if allowed accepts their owner, and removes all others with a sealed
// name. The rest stay byte by byte and in order. Errors are the store's, or those of allowed.
func (b *PortalCookies) Unseal(ctx context.Context, h http.Header, allowed func(Owner) (bool, error)) error {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return nil
	}
	var keep []string
	changed, owners := false, b.ownersIn(lines)
	for _, line := range lines {
		got, err := b.unsealLine(ctx, line, owners, allowed)
		if err != nil {
			return err
		}
		changed = changed || got != line
		if got != "" {
			keep = append(keep, got)
		}
	}
	switch {
	case !changed:
	case keep == nil:
		delete(h, "Cookie")
	default:
		h["Cookie"] = keep
	}
	return nil
}

// unsealLine is Unseal for one line of a request with these owner cookies; it returns "" if nothing
// is left.
func (b *PortalCookies) unsealLine(ctx context.Context, line string, of owners, allowed func(Owner) (bool, error)) (string, error) {
	var few [16]string // on the stack; enough for most browsers
	rest, changed := few[:0], false
	for pair, left, more := strings.Cut(line, ";"); ; pair, left, more = strings.Cut(left, ";") {
		got, ok, err := b.unsealCookie(ctx, pair, of, allowed)
		if err != nil {
			return "", err
		}
		changed = changed || !ok || got != pair
		if ok {
			rest = append(rest, got)
		}
		if !more {
			break
		}
	}
	if !changed {
		return line, nil
	}
	return textproto.TrimString(strings.Join(rest, ";")), nil
}

// unsealCookie returns a cookie of a request with these owner cookies for the portal; ok is false
// if the portal doesn't get it. Errors are the store's, or those of allowed.
func (b *PortalCookies) unsealCookie(ctx context.Context, pair string, of owners, allowed func(Owner) (bool, error)) (string, bool, error) {
	name, value, assigned := strings.Cut(pair, "=")
	trimmed := strings.TrimLeft(name, " ")
	if !assigned { // without a value, white space at the end isn't part of the name
		trimmed = textproto.TrimString(name)
	}
	switch {
	case trimmed == "":
		return pair, !assigned, nil // empty between two semicolons, or a value without a name
	case b.Gate.IsOurs(trimmed):
		return "", false, nil
	}
	if err := b.loadNames(ctx); err != nil {
		return "", false, err
	}
	plain := isToken(trimmed)
	if !plain && b.mayBeReadAsSealed(trimmed) {
		return "", false, nil
	}
	value = textproto.TrimString(value)
	rest, bound := strings.CutPrefix(value, sealPrefix)
	if !bound {
		ok := !b.containsSealed(textproto.TrimString(pair))
		if ok && plain {
			var err error
			if ok, err = b.acceptsPlain(trimmed, value, of, allowed); err != nil {
				return "", false, err
			}
		}
		return pair, ok, nil
	}
	seal, value, _ := strings.Cut(rest, ".")
	ok, err := b.acceptsSeal(trimmed, value, seal, allowed)
	return name + "=" + value, ok, err
}

// acceptsPlain reports whether a cookie without a seal in its value may pass. If its name requires
// a seal, an allowed owner cookie must exist. A large cookie may have an owner cookie even if its
// name couldn't be learned; it is then checked too. Errors are those of allowed.
func (b *PortalCookies) acceptsPlain(name, value string, of owners, allowed func(Owner) (bool, error)) (bool, error) {
	switch guarded := b.requiresSeal(name); {
	case guarded:
		return b.acceptsSeal(name, value, b.ownerOf(of, name, value), allowed)
	case b.configured(name) == free, b.learnedBinding(name) == shared:
		return true, nil
	}
	owner := b.ownerOf(of, name, value)
	if owner == "" {
		return true, nil
	}
	return b.acceptsSeal(name, value, owner, allowed)
}

// acceptsSeal reports whether a seal fits the cookie and its owner is allowed. Errors are those of
// allowed.
func (b *PortalCookies) acceptsSeal(name, value, seal string, allowed func(Owner) (bool, error)) (bool, error) {
	text, err := b.Keys.OpenText(sealPurpose, b.sealingContext(name, value), seal)
	if err != nil {
		return false, nil
	}
	h, ok := ownerFrom(string(text))
	if !ok || h.Company == AnyCompany && b.configured(name) != toPerson { // the configuration has changed: the company matters now
		return false, nil
	}
	return allowed(h)
}

// containsSealed reports whether a cookie contains a second one that requires a seal, for portals
// where a comma or a space also ends a cookie (RFC 2109, 4.3.4; CGI.pm, Python's http.cookies).
func (b *PortalCookies) containsSealed(pair string) bool {
	if !strings.ContainsAny(pair, ", \t") {
		return false
	}
	for piece := range strings.FieldsFuncSeq(pair, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		name, _, ok := strings.Cut(strings.TrimLeft(piece, "="), "=")
		name = strings.TrimFunc(name, notInToken) // Tomcat's older parser skips such characters
		if ok && (b.requiresSeal(name) || !isToken(name) && b.mayBeReadAsSealed(name)) {
			return true
		}
	}
	return false
}

// requiresSeal reports whether a cookie with this name, which is a token, passes only with a seal.
func (b *PortalCookies) requiresSeal(name string) bool {
	if strings.Contains(name, "%") && b.mayBeReadAsSealed(name) {
		return true
	}
	return b.isSealed(name)
}

// isSealed reports whether cookies with exactly this name pass only with a seal.
func (b *PortalCookies) isSealed(name string) bool {
	name = cookieFold(name)
	is := b.Configured[name]
	if is == 0 {
		is = (*b.learned.Load())[name]
	}
	return is == toReach || is == toPerson
}

// mayBeReadAsSealed reports whether a lenient parser could read the name as that of a sealed cookie
// or of a gate cookie: parsers drop white space, quotes and separators around a name, or begin
// another cookie after them, and some decode names. It returns true for every name that isn't a
// token (RFC 6265, 4.1.1), except for the form of PHP's arrays, such as prefs[theme].
func (b *PortalCookies) mayBeReadAsSealed(name string) bool {
	if !isToken(name) && !isArray(name) {
		return true
	}
	decoded := unescape(name)
	for piece := range strings.FieldsFuncSeq(decoded, func(r rune) bool { return r == '%' || notInToken(r) }) {
		if b.isSealed(piece) || b.Gate.IsOurs(piece) {
			return true
		}
	}
	return b.isSealed(decoded)
}

// isArray reports whether a name is a token with indexes of tokens after it, such as a[b][].
func isArray(name string) bool {
	base, rest, ok := strings.Cut(name, "[")
	for ok && isToken(base) {
		var index string
		if index, rest, ok = strings.Cut(rest, "]"); !ok || index != "" && !isToken(index) {
			return false
		}
		if rest == "" {
			return true
		}
		rest, ok = strings.CutPrefix(rest, "[")
	}
	return false
}

// isToken reports whether a name is an HTTP token (RFC 9110, 5.6.2).
func isToken(name string) bool {
	return name != "" && strings.IndexFunc(name, notInToken) < 0
}

func notInToken(r rune) bool { return !httpguts.IsTokenRune(r) }

// unescape decodes percent-encoding up to three times, and keeps invalid escapes as they are.
func unescape(s string) string {
	for range 3 {
		at := strings.IndexByte(s, '%')
		if at < 0 {
			break
		}
		var decoded []byte
		for i := 0; i < len(s); i++ {
			if s[i] == '%' && i+2 < len(s) {
				if b, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
					decoded = append(decoded, b[0])
					i += 2
					continue
				}
			}
			decoded = append(decoded, s[i])
		}
		if string(decoded) == s {
			break
		}
		s = string(decoded)
	}
	return s
}

// sessionNames are the folded names of session cookies in common servers.
var sessionNames = []string{"phpsessid", "jsessionid", "asp_net_sessionid", "connect_sid", "laravel_session", "cfid", "sid", "sessionid", "session"}

// warnUnsealed warns once that the portal's apparent session isn't sealed: by default PHP lets
// scripts read that cookie.
func (b *PortalCookies) warnUnsealed(name string) {
	if !slices.Contains(sessionNames, cookieFold(name)) {
		return
	}
	b.warnedUnsealed.Do(func() {
		b.Log.Warn("the portal lets scripts read a cookie that looks like its session, so it isn't bound to the signed-in contact; if it is, write: portal_session "+name, "cookie", name)
	})
}

// NoteSeparateSession logs once that the portal began a new session at a company's pages, because
// the session from other pages isn't returned there to staff and clients of several companies. That
// logs the person out of a portal with its own login.
func (b *PortalCookies) NoteSeparateSession(line string) {
	name, _, _ := strings.Cut(line, "=")
	b.notedSeparate.Do(func() {
		b.Log.Info("the portal began another session at a company's pages for a contact of several companies, because a session from other pages isn't returned there; "+
			"if the portal has a login of its own, write: portal_session "+name+" person", "cookie", name)
	})
}

func (b *PortalCookies) sealingContext(name, value string) string {
	return b.Firm + "\x00" + name + "\x00" + value
}

// configured returns the configured binding of a cookie, or 0.
func (b *PortalCookies) configured(name string) binding {
	if len(b.Configured) == 0 {
		return 0
	}
	return b.Configured[cookieFold(name)]
}

// learnedBinding returns the learned binding of a cookie, or 0.
func (b *PortalCookies) learnedBinding(name string) binding {
	learned := b.learned.Load()
	if learned == nil {
		return 0
	}
	return (*learned)[cookieFold(name)]
}

// cookieFold returns a cookie name as the most lenient portal reads it: PHP turns several
// characters into underscores. Before 7.2.34, 7.3.23 and 7.4.11 it also decoded names, turned a
// plus into a space, and dropped leading spaces.
func cookieFold(name string) string {
	if strings.Contains(name, "%") {
		name = unescape(name)
	}
	if strings.ContainsAny(name, ". [+\x00") {
		name, _, _ = strings.Cut(name, "\x00")
		name = asPHP.Replace(strings.TrimLeft(name, " +"))
	}
	return strings.ToLower(name)
}

var asPHP = strings.NewReplacer(".", "_", " ", "_", "[", "_", "+", "_")

// learn remembers the binding of a name, so that no value without a seal passes under it: neither
// one from before the gate was installed, nor one whose seal was cut off. A shared name stays
// shared.
func (b *PortalCookies) learn(ctx context.Context, name string, is binding) {
	if was := b.learnedBinding(name); was == is || was == shared {
		return
	}
	err := b.loadNames(ctx)
	full := false
	name = cookieFold(name)
	if err == nil {
		b.mu.Lock()
		more := maps.Clone(*b.learned.Load())
		if full = len(more) >= maxLearned && more[name] == 0; !full {
			more[name] = is
			b.learned.Store(&more)
		}
		b.mu.Unlock()
	}
	switch {
	case err != nil:
	case full:
		b.warnedFull.Do(func() {
			b.Log.Warn("the portal gives its HttpOnly cookies so many names that no more of them are remembered; configure the names of its session cookies: portal_session NAME", "names", maxLearned)
		})
	case len(name) <= 200:
		err = b.Store.Apply(context.WithoutCancel(ctx), store.Put(store.Key{Firm: b.Firm, Bucket: namesBucket, ID: name}, []byte{byte(is)}, time.Time{}))
	}
	if err != nil {
		b.Log.Error("remembering the name of a portal cookie failed", "error", err)
	}
}

// loadNames reads the learned names once.
func (b *PortalCookies) loadNames(ctx context.Context) error {
	if b.learned.Load() != nil {
		return nil
	}
	return b.Sync(ctx)
}

// Sync reads the learned names again, because another process may have learned some.
func (b *PortalCookies) Sync(ctx context.Context) error {
	recs, err := b.Store.Scan(ctx, b.Firm, namesBucket, "", "", maxLearned)
	if err != nil {
		return fmt.Errorf("reading the names of the portal's cookies: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	learned := make(map[string]binding)
	if was := b.learned.Load(); was != nil {
		maps.Copy(learned, *was)
	}
	for _, rec := range recs {
		if len(rec.Value) == 1 && learned[rec.Key.ID] != shared {
			learned[rec.Key.ID] = binding(rec.Value[0])
		}
	}
	b.learned.Store(&learned)
	return nil
}

// httpOnly reports whether the attributes of a Set-Cookie line include HttpOnly.
func httpOnly(attributes string) bool {
	for one := range strings.SplitSeq(attributes, ";") {
		name, _, _ := strings.Cut(one, "=")
		if strings.EqualFold(textproto.TrimString(name), "HttpOnly") {
			return true
		}
	}
	return false
}
