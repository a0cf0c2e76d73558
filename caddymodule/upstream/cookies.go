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

// PortalCookies are the portal's own session cookies, each of which is good only for whom it was
// set: who signs in after another person, in the same browser, doesn't come into that
// person's portal session, and a membership that was taken away isn't outlived by one.
// What a portal's session knows of a company stays at that company's pages and at those of
// none. One that began at a page of no company is given back at a company's to who is a client
// of no other; with others it would learn of that company, and then be good everywhere.
//
// On its way out a cookie's value gets a seal in front, which names whom it is for and
// fits this name and this value alone; on the way back the seal is taken off, or the
// cookie is left out. Where that would be more than browsers keep, the seal is in a cookie of ours
// beside it, see ownercookie.go. Only what scripts can't read is bound, and what names says: other
// values have to stay as the portal's scripts know them.
type PortalCookies struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Own   web.Cookies // which the portal never gets
	Named Bindings    // what the configuration says
	Log   *slog.Logger

	advised sync.Once // around the log line on a session that isn't bound
	crowded sync.Once // around that on too many names
	apart   sync.Once // around that on a login of the portal's own

	mu      sync.Mutex                         // around changes of learned
	learned atomic.Pointer[map[string]binding] // toReach or shared, by the folded names of cookies that the portal has ever set as HttpOnly; nil: not read yet
}

// CookieRule says how a cookie of the portal's is bound: whether scripts can read it or not.
type CookieRule struct {
	Name string
	To   string // "": the person and company, or the visit; "person": the person alone; "off": it is left alone
}

// binding is what a cookie of the portal's is bound to. The zero value says nothing.
type binding byte

const (
	toReach  binding = '1' // the person and the company that it was set for, or the visit
	toPerson binding = 'p' // the person, whichever of their companies a page is about
	shared   binding = 's' // nothing: other sites of the domain read and set it
	free     binding = 'f' // nothing, as the configuration says
)

// Bindings are what cookies are bound to, by their folded names. Make them with BindingsOf.
type Bindings map[string]binding

// BindingsOf returns what the rules say.
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

// Owner is whom a portal's cookie was set for. The zero value is whoever opens a page that
// is open to everyone, and that is about no company.
type Owner struct {
	Contact string          // ID; "": a visit's, or nobody's
	Reach   directory.Print // of what the contact reached; 0 without one
	Company string          // "": the request was about none; anyCompany: that makes no difference
	Era     uint64          // of the company: another one by now may have its id
	Token   directory.Print // of the company, by which the portal was asked; 0: by none
	Visit   string          // ID; "": a contact's, or nobody's
}

// text is an owner as it is sealed; ownerFrom is its reverse, and false for what isn't one.
func (h Owner) text() string {
	number := func(n uint64) string { return strconv.FormatUint(n, 36) }
	return strings.Join([]string{h.Contact, number(uint64(h.Reach)), h.Company, number(h.Era), number(uint64(h.Token)), h.Visit}, "\x00")
}

func ownerFrom(text string) (Owner, bool) {
	parts := strings.Split(text, "\x00")
	if len(parts) != 6 {
		return Owner{}, false
	}
	reach, err1 := strconv.ParseUint(parts[1], 36, 64)
	era, err2 := strconv.ParseUint(parts[3], 36, 64)
	token, err3 := strconv.ParseUint(parts[4], 36, 64)
	return Owner{parts[0], directory.Print(reach), parts[2], era, directory.Print(token), parts[5]}, errors.Join(err1, err2, err3) == nil
}

// Is is what PortalCookies.Unseal allows where one owner's cookies come back, and no others.
func (h Owner) Is(of Owner) (bool, error) { return of == h, nil }

// Stands reports whether the company is the one that it was, and has the token.
func (h Owner) Stands(s directory.Standing) bool {
	return s.Company == h.Company && s.Era == h.Era && (h.Token == 0 || s.Has(h.Token))
}

const (
	boundPurpose = "portal-cookie"
	boundMark    = "~." // what a bound value begins with; no portal's does
	boundBucket  = "portal-cookie"
	maxLearned   = 100 // names that are remembered
	// AnyCompany is the Company of an Owner to whom all companies' pages are the same.
	AnyCompany = "*" // no company has this id
)

// Seal returns the portal's Set-Cookie line for the browser, which is at host as the configuration has
// it (anybody can send another Host), and that of the owner
// cookie beside it; "": there is none. Attributes stay as they are.
func (b *PortalCookies) Seal(ctx context.Context, line, host string, h Owner) (cookie, owner string) {
	pair, attributes, _ := strings.Cut(line, ";")
	name, value, ok := strings.Cut(pair, "=")
	name, value = textproto.TrimString(name), textproto.TrimString(value)
	if !ok || name == "" || value == "" { // a cookie without a value is one that is taken away
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
			b.advise(name)
			return line, ""
		}
		if domain := widerThan(host, attributes); domain != "" {
			b.share(ctx, name, domain)
			return line, ""
		}
		b.learn(ctx, name, toReach)
	}
	seal := b.Keys.SealText(boundPurpose, b.place(name, value), []byte(h.text()))
	if len(line)+len(boundMark)+len(seal)+len(".") > maxSealed {
		return line, b.ownerCookie(name, value, seal, attributes)
	}
	return name + "=" + boundMark + seal + "." + value + line[len(pair):], ""
}

// widerThan returns the domain of a cookie that other hosts than this one get, too, or "". What
// covers no parent of the host makes a browser refuse the cookie, so it shares it with nobody.
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

// share remembers that other sites read and set a cookie: a seal would keep its value from them,
// and theirs from the portal.
func (b *PortalCookies) share(ctx context.Context, name, domain string) {
	if b.known(name) == shared {
		return
	}
	b.learn(ctx, name, shared)
	if b.known(name) != shared {
		return // the store is away, or has too many names
	}
	b.Log.Warn("the portal shares a cookie with other sites of its domain, so it isn't bound to who signed in; if no other site needs it, "+
		"have the portal set it without Domain, or write: portal_session "+name+"; if others do, write: portal_session "+name+" off", "cookie", name, "domain", domain)
}

// Unseal makes of a request's cookies what the portal gets: none of ours, bound ones as it set
// them, if allowed says so of whom they were set for, and no others of a bound name. The
// rest stay byte by byte and in order. The error is the store's, or that of allowed.
func (b *PortalCookies) Unseal(ctx context.Context, h http.Header, allowed func(Owner) (bool, error)) error {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return nil
	}
	var keep []string
	changed, owners := false, b.ownersIn(lines)
	for _, line := range lines {
		got, err := b.lineIn(ctx, line, owners, allowed)
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

// lineIn is in for one line, of a request with these owners; "" where nothing is left of it.
func (b *PortalCookies) lineIn(ctx context.Context, line string, of owners, allowed func(Owner) (bool, error)) (string, error) {
	var few [16]string // on the stack, for as many as most browsers have
	rest, changed := few[:0], false
	for pair, left, more := strings.Cut(line, ";"); ; pair, left, more = strings.Cut(left, ";") {
		got, ok, err := b.back(ctx, pair, of, allowed)
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

// back returns a cookie of a request with these owners as the portal gets it, or false where it
// doesn't. The error is the store's, or that of allowed.
func (b *PortalCookies) back(ctx context.Context, pair string, of owners, allowed func(Owner) (bool, error)) (string, bool, error) {
	name, value, assigned := strings.Cut(pair, "=")
	trimmed := strings.TrimLeft(name, " ")
	if !assigned { // without a value, blanks at the end don't belong to the name
		trimmed = textproto.TrimString(name)
	}
	switch {
	case trimmed == "":
		return pair, !assigned, nil // nothing between two semicolons, or a value without a name
	case b.Own.IsOurs(trimmed):
		return "", false, nil
	}
	if err := b.read(ctx); err != nil {
		return "", false, err
	}
	plain := isToken(trimmed)
	if !plain && b.misread(trimmed) {
		return "", false, nil
	}
	value = textproto.TrimString(value)
	rest, bound := strings.CutPrefix(value, boundMark)
	if !bound {
		ok := !b.another(textproto.TrimString(pair))
		if ok && plain {
			var err error
			if ok, err = b.unsealed(trimmed, value, of, allowed); err != nil {
				return "", false, err
			}
		}
		return pair, ok, nil
	}
	seal, value, _ := strings.Cut(rest, ".")
	ok, err := b.opens(trimmed, value, seal, allowed)
	return name + "=" + value, ok, err
}

// unsealed reports whether a cookie whose value has no seal comes back: one that is bound, with an
// owner who is allowed. One whose name couldn't be learned has an owner, too, if it is large. The error is
// that of allowed.
func (b *PortalCookies) unsealed(name, value string, of owners, allowed func(Owner) (bool, error)) (bool, error) {
	switch guarded := b.guards(name); {
	case guarded:
		return b.opens(name, value, b.ownerOf(of, name, value), allowed)
	case b.configured(name) == free, b.known(name) == shared:
		return true, nil
	}
	owner := b.ownerOf(of, name, value)
	if owner == "" {
		return true, nil
	}
	return b.opens(name, value, owner, allowed)
}

// opens reports whether a seal is that of the cookie, and whom it is for is allowed. The error is
// that of allowed.
func (b *PortalCookies) opens(name, value, seal string, allowed func(Owner) (bool, error)) (bool, error) {
	text, err := b.Keys.OpenText(boundPurpose, b.place(name, value), seal)
	if err != nil {
		return false, nil
	}
	h, ok := ownerFrom(string(text))
	if !ok || h.Company == AnyCompany && b.configured(name) != toPerson { // by now the company makes a difference
		return false, nil
	}
	return allowed(h)
}

// another reports whether a cookie has a further one in it that is to be bound, for a portal
// that takes a comma or a space for the end of a cookie, too (RFC 2109, 4.3.4; CGI.pm,
// Python's http.cookies).
func (b *PortalCookies) another(pair string) bool {
	if !strings.ContainsAny(pair, ", \t") {
		return false
	}
	for piece := range strings.FieldsFuncSeq(pair, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		name, _, ok := strings.Cut(strings.TrimLeft(piece, "="), "=")
		name = strings.TrimFunc(name, notInToken) // of Tomcat's older parser, which skips such characters
		if ok && (b.guards(name) || !isToken(name) && b.misread(name)) {
			return true
		}
	}
	return false
}

// guards reports whether a cookie of this name, a token, reaches the portal with a seal alone.
func (b *PortalCookies) guards(name string) bool {
	if strings.Contains(name, "%") && b.misread(name) {
		return true
	}
	return b.isBound(name)
}

// isBound reports whether a cookie of this very name reaches the portal with a seal alone.
func (b *PortalCookies) isBound(name string) bool {
	name = cookieFold(name)
	is := b.Named[name]
	if is == 0 {
		is = (*b.learned.Load())[name]
	}
	return is == toReach || is == toPerson
}

// misread reports whether a lenient reader could take a cookie of this name for one that is bound,
// or for one of ours: parsers drop white space, quotes and separators around a name, or begin
// another one behind them, and some decode it. What isn't a token (RFC 6265, 4.1.1) is always
// taken for such a name, but for the form by which PHP makes arrays, such as prefs[theme].
func (b *PortalCookies) misread(name string) bool {
	if !isToken(name) && !isArray(name) {
		return true
	}
	decoded := unescape(name)
	for piece := range strings.FieldsFuncSeq(decoded, func(r rune) bool { return r == '%' || notInToken(r) }) {
		if b.isBound(piece) || b.Own.IsOurs(piece) {
			return true
		}
	}
	return b.isBound(decoded)
}

// isArray reports whether a name is a token with indexes of tokens behind it, such as a[b][].
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

// isToken reports whether a name is a token of HTTP (RFC 9110, 5.6.2).
func isToken(name string) bool {
	return name != "" && strings.IndexFunc(name, notInToken) < 0
}

func notInToken(r rune) bool { return !httpguts.IsTokenRune(r) }

// unescape decodes percent-encoding as often as it stands there, up to three times, and leaves what
// isn't valid as it is.
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

// sessionNames are the names that servers give the cookies of their sessions, folded.
var sessionNames = []string{"phpsessid", "jsessionid", "asp_net_sessionid", "connect_sid", "laravel_session", "cfid", "sid", "sessionid", "session"}

// advise tells once that what looks like the portal's session isn't bound: PHP, as it comes,
// lets scripts read that cookie.
func (b *PortalCookies) advise(name string) {
	if !slices.Contains(sessionNames, cookieFold(name)) {
		return
	}
	b.advised.Do(func() {
		b.Log.Warn("the portal lets scripts read a cookie that looks like its session, so it isn't bound to who signed in; if it is, write: portal_session "+name, "cookie", name)
	})
}

// AdviseApart tells once that a person's session of the portal was begun anew at a company's pages,
// since the one from the other pages isn't given back there to staff or to clients of several
// companies. A login of the portal's own ends by that.
func (b *PortalCookies) AdviseApart(line string) {
	name, _, _ := strings.Cut(line, "=")
	b.apart.Do(func() {
		b.Log.Info("the portal began another session at a company's pages for somebody of several companies, as a session from other pages isn't given back there; "+
			"if the portal has a login of its own, write: portal_session "+name+" person", "cookie", name)
	})
}

func (b *PortalCookies) place(name, value string) string {
	return b.Firm + "\x00" + name + "\x00" + value
}

// configured returns what the configuration says of a cookie, or 0.
func (b *PortalCookies) configured(name string) binding {
	if len(b.Named) == 0 {
		return 0
	}
	return b.Named[cookieFold(name)]
}

// known returns what was learned of a cookie, or 0.
func (b *PortalCookies) known(name string) binding {
	learned := b.learned.Load()
	if learned == nil {
		return 0
	}
	return (*learned)[cookieFold(name)]
}

// cookieFold returns a cookie's name as the most lenient portal would read it: PHP takes
// several characters for an underscore. Before 7.2.34, 7.3.23 and 7.4.11 it also decoded names, a plus to a space,
// and dropped the spaces in front.
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

// learn remembers that a name is bound, so that no value without a seal gets through
// under it: neither one from before the gate stood here, nor one whose seal was cut off. One that
// is shared stays so.
func (b *PortalCookies) learn(ctx context.Context, name string, is binding) {
	if was := b.known(name); was == is || was == shared {
		return
	}
	err := b.read(ctx)
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
		b.crowded.Do(func() {
			b.Log.Warn("the portal gives its HttpOnly cookies so many names that no more of them are remembered; name those of its sessions: portal_session NAME", "names", maxLearned)
		})
	case len(name) <= 200:
		err = b.Store.Apply(context.WithoutCancel(ctx), store.Put(store.Key{Firm: b.Firm, Bucket: boundBucket, ID: name}, []byte{byte(is)}, time.Time{}))
	}
	if err != nil {
		b.Log.Error("the name of a portal's cookie can't be remembered", "error", err)
	}
}

// read reads the names that were learned, once.
func (b *PortalCookies) read(ctx context.Context) error {
	if b.learned.Load() != nil {
		return nil
	}
	return b.Reread(ctx)
}

// Reread reads them again: another process may have learned some.
func (b *PortalCookies) Reread(ctx context.Context) error {
	recs, err := b.Store.Scan(ctx, b.Firm, boundBucket, "", "", maxLearned)
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

// httpOnly reports whether the attributes of a Set-Cookie line keep scripts away.
func httpOnly(attributes string) bool {
	for one := range strings.SplitSeq(attributes, ";") {
		name, _, _ := strings.Cut(one, "=")
		if strings.EqualFold(textproto.TrimString(name), "HttpOnly") {
			return true
		}
	}
	return false
}
