package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
)

// OriginCheck refuses forms that were sent by a page of another site. Create it with
// NewOriginCheck.
type OriginCheck struct {
	sites   *site.Sites
	cookies Cookies
	csrf    *http.CrossOriginProtection
}

// NewOriginCheck returns the check for the sites, whose session cookie is one of cookies.
func NewOriginCheck(sites *site.Sites, cookies Cookies) *OriginCheck {
	c := &OriginCheck{sites, cookies, http.NewCrossOriginProtection()}
	if err := c.csrf.AddTrustedOrigin(sites.URL.Scheme + "://" + sites.URL.Host); err != nil {
		panic("web: url: " + err.Error()) // was validated before
	}
	return c
}

// Check returns an error if a page of another site sent the form. A client that sends no
// Sec-Fetch-Site is an old browser or not a browser: then its Origin counts, or its Referer if it
// has no Origin. Without either, the request may not act for a signed-in visitor.
func (c *OriginCheck) Check(r *http.Request) error {
	if err := c.csrf.Check(r); err != nil {
		return err
	}
	h := r.Header
	asked := c.sites.Of(r)
	if origin := h.Get("Origin"); asked != c.sites.URL && r.Method == http.MethodPost && origin != "" { // URL's portal is another site
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, asked.Host) {
			return ErrCrossOrigin
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
		if len(r.CookiesNamed(c.cookies.Session)) > 0 {
			return ErrCrossOrigin
		}
		return nil
	}
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, asked.Host) {
		return ErrCrossOrigin
	}
	// A page of the same host without TLS may have been modified by an attacker on the network.
	tls := r.TLS != nil || c.sites.URL.Scheme == "https" && strings.EqualFold(u.Host, asked.Host)
	if u.Scheme != "https" && (u.Scheme != "http" || tls) {
		return ErrCrossOrigin
	}
	return nil
}
