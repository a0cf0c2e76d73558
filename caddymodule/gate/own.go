package gate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// own is a page of ours: what it does by method. The error is shown by fail.
type own struct {
	get, post func(http.ResponseWriter, *http.Request) error // nil: not by that method
}

// allow is the page's Allow header.
func (o own) allow() string {
	switch {
	case o.post == nil:
		return "GET, HEAD"
	case o.get == nil:
		return "POST"
	}
	return "GET, HEAD, POST"
}

// pages are all pages of ours by their path under the prefix, but for the mailbox.
func (g *Gate) pages() map[string]own {
	pages := map[string]own{
		"/sign-in":   {get: g.getSignIn, post: g.postSignIn},
		"/sent":      {get: g.getSent},
		"/code":      {get: g.getCode, post: g.postCode},
		"/link":      {get: g.getLink, post: g.postLink},
		"/go":        {get: g.getGo},
		"/companies": {get: g.getCompanies},
		"/account":   {get: g.getAccount},
		"/devices":   {get: g.toAccount, post: g.postDevices},
		"/sign-out":  {get: g.getSignOut, post: g.postSignOut},
		signedInPath: {get: g.getSignedIn},
		"/me":        {get: g.getMe},
		"/jwks.json": {get: g.getKeys},
		"/health":    {get: g.getHealth},
		"/logo":      {get: g.getLogo},
	}
	if g.Passwords != nil {
		pages["/password"] = own{get: g.getPassword, post: g.postPassword}
		pages["/help"] = own{get: g.getHelp, post: g.postHelp}
		pages["/password/set"] = own{get: g.getSetPassword, post: g.postSetPassword}
		pages["/password/change"] = own{get: g.toAccount, post: g.postChange}
		pages["/password/remove"] = own{get: g.toAccount, post: g.postRemove}
	}
	return pages
}

// serveOwn serves a page of ours. It takes a path as it is written: one that had to be
// decoded or cleaned first is none of ours. A form is taken from our own pages alone.
func (g *Gate) serveOwn(w http.ResponseWriter, r *http.Request) error {
	if !plain(r.URL) || !below(g.Prefix, r.URL.Path) {
		return errNothing
	}
	name := r.URL.Path[len(g.Prefix):]
	page, ok := g.own[name]
	if !ok && strings.HasPrefix(name, mailboxPath) && g.mailboxFor(r) {
		page, ok = own{get: g.getMailbox}, true
	}
	if !ok {
		g.tellTaken(r)
		return errNothing
	}
	do := page.get
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		do = page.post
	default:
		do = nil
	}
	if do == nil {
		w.Header().Set("Allow", page.allow())
		return errMethod
	}
	if r.URL.RawQuery == "" && g.opensInTheClear(r) { // with a query it may be a sign-in link, which isn't to stand in a Location
		return g.toTLS(w, r)
	}
	if err := g.checkOrigin(r); err != nil {
		return errCrossOrigin
	}
	return do(w, r)
}

// tellTaken tells once that a page of this site asks for something under the prefix which
// isn't one of ours: the portal has paths there, and never gets such requests.
func (g *Gate) tellTaken(r *http.Request) {
	if r.Header.Get("Sec-Fetch-Site") != "same-origin" || !g.taken.CompareAndSwap(false, true) {
		return // nor does a line of the log belong to whoever tries paths
	}
	path := r.URL.Path
	if len(path) > maxToldPath {
		path = path[:maxToldPath] + "…"
	}
	g.Log.Warn("a page of the site asks for a path under the prefix, which is for Doorpost's own pages; if the portal has URLs there, choose another prefix",
		"path", path, "prefix", g.Prefix, "what_to_do", "write, for example: prefix /-signin")
}

// maxToldPath is how much of a path the log has.
const maxToldPath = 200

// checkOrigin is an error where another site's page sent the form. A browser that doesn't
// say Sec-Fetch-Site is old, or none at all: then its Origin counts, or else its Referer,
// and without either it may do nothing in the name of who is signed in.
func (g *Gate) checkOrigin(r *http.Request) error {
	if err := g.csrf.Check(r); err != nil {
		return err
	}
	h := r.Header
	site := g.site(r)
	if origin := h.Get("Origin"); site != g.URL && r.Method == http.MethodPost && origin != "" { // URL's portal is another site
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, site.Host) {
			return errCrossOrigin
		}
	}
	if r.Method != http.MethodPost || h.Get("Sec-Fetch-Site") != "" {
		return nil
	}
	from := h.Get("Origin")
	if from == "" {
		from = h.Get("Referer")
	}
	if from == "" {
		if len(r.CookiesNamed(g.cookies.Session)) > 0 {
			return errCrossOrigin
		}
		return nil
	}
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, site.Host) {
		return errCrossOrigin
	}
	// A page of the same name without TLS may have been written by whoever is on the way.
	tls := r.TLS != nil || g.URL.Scheme == "https" && strings.EqualFold(u.Host, site.Host)
	if u.Scheme != "https" && (u.Scheme != "http" || tls) {
		return errCrossOrigin
	}
	return nil
}

// signedInPath is where a sign-in leads that was begun beside a form in another tab.
const signedInPath = "/signed-in"

// getSignedIn tells somebody who signed in beside a form to go back to it.
func (g *Gate) getSignedIn(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if err != nil {
		return g.needSignIn(w, r, err)
	}
	g.page(w, r, http.StatusOK, web.SignedInPage{Email: shown(v.Contact.Emails[0])})
	return nil
}

func (g *Gate) getSignOut(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if errors.Is(err, errNobody) {
		g.page(w, r, http.StatusOK, web.SignedOutPage{})
		return nil
	} else if err != nil {
		return err
	}
	g.page(w, r, http.StatusOK, web.SignOutPage{Email: shown(v.Contact.Emails[0])})
	return nil
}

func (g *Gate) postSignOut(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if err != nil && !errors.Is(err, errNobody) {
		return err
	}
	if err == nil {
		if err := g.Sessions.End(r.Context(), v.Contact.ID, v.Live.ID); err != nil {
			return err
		}
		g.Audit.Record(r.Context(), audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Session: v.Live.Handle,
			Address: v.Contact.Emails[0].Masked(), Agent: web.AgentOf(r), IP: g.ClientIP(r)})
	}
	g.clearSite(w.Header())
	g.setCookie(w, g.cookies.Session, "", -time.Second)
	if _, err := r.Cookie(g.cookies.Visit); err == nil { // who comes next isn't to have that, either
		g.setCookie(w, g.cookies.Visit, "", -time.Second)
	}
	if to, switches := g.switchesTo(w, r); switches {
		return g.seeOwn(w, "/sign-in"+g.formQuery(to, "", "", false))
	}
	return g.seeOwn(w, "/sign-out")
}

// switchesTo reports whether the form of a sign-out asks for the prompt, for another address,
// and where that is to lead: sealed where that URL may have a token in it, which no Location
// has. A portal's own button may send no form at all.
func (g *Gate) switchesTo(w http.ResponseWriter, r *http.Request) (to string, switches bool) {
	if r.ContentLength == 0 {
		return "", false
	}
	f, err := readForm(w, r)
	if err != nil || f.Get("switch") == "" {
		return "", false
	}
	return g.wayBack(f.Get("to")), true
}

// getMe is for scripts of the portal's pages: who is signed in?
func (g *Gate) getMe(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if errors.Is(err, errNobody) {
		g.bare(w, r)
		return nil
	} else if err != nil {
		return err
	}
	companies := v.Contact.Companies
	if companies == nil {
		companies = []string{}
	}
	return writeJSON(w, http.StatusOK, "application/json", struct {
		Email     string    `json:"email"`
		FirstName string    `json:"first_name"`
		LastName  string    `json:"last_name"`
		Role      string    `json:"role"`
		Firm      string    `json:"firm"`
		Companies []string  `json:"companies"`
		ExpiresAt time.Time `json:"expires_at"`
	}{
		string(v.Contact.Emails[0]), v.Contact.FirstName, v.Contact.LastName, string(v.Contact.Role), g.Firm,
		companies, g.Sessions.ExpiresAt(v.Live).UTC().Truncate(time.Second),
	})
}

// getKeys publishes the keys that assertions are checked with. Of all pages only this
// one may be kept, for a while that is short beside a key's life.
func (g *Gate) getKeys(w http.ResponseWriter, r *http.Request) error {
	set, err := g.Assertion.Public(r.Context())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	_, err = w.Write(set)
	return ignoreGone(err)
}

// getHealth answers 204 while the gate can serve, that is, while its store answers.
func (g *Gate) getHealth(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := g.Sessions.Store.Get(ctx, store.Key{Firm: g.Firm, Bucket: "health", ID: "probe"})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	web.SetNeverCached(w.Header())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Gate) getLogo(w http.ResponseWriter, r *http.Request) error {
	if g.Logo == nil {
		return errNothing
	}
	h := w.Header()
	h.Set("Content-Type", g.Logo.Type)
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("X-Content-Type-Options", "nosniff")
	// A drawing may hold scripts: opened by itself, it is shown and runs nothing.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	_, err := w.Write(g.Logo.Data)
	return ignoreGone(err)
}

func writeJSON(w http.ResponseWriter, status int, kind string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	web.SetNeverCached(h)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err = w.Write(b)
	return ignoreGone(err)
}
