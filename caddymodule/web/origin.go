package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
)

// OriginCheck refuses forms that another site's page has sent. Make it with NewOriginCheck.
type OriginCheck struct {
	sites   *site.Sites
	cookies Cookies
	csrf    *http.CrossOriginProtection
}

// NewOriginCheck returns the check for the sites, whose session cookie is one of cookies.
func NewOriginCheck(sites *site.Sites, cookies Cookies) *OriginCheck {
	c := &OriginCheck{sites, cookies, http.NewCrossOriginProtection()}
	if err := c.csrf.AddTrustedOrigin(sites.URL.Scheme + "://" + sites.URL.Host); err != nil {
		panic("web: url: " + err.Error()) // validated before it came here
	}
	return c
}

// Check is an error where another site's page sent the form. A browser that doesn't say
// Sec-Fetch-Site is old, or is no browser: then its Origin counts, or else its Referer, and
// without either it may do nothing in the name of a visitor who is signed in.
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
	// A page of the same name without TLS may have been written by somebody on the network.
	tls := r.TLS != nil || c.sites.URL.Scheme == "https" && strings.EqualFold(u.Host, asked.Host)
	if u.Scheme != "https" && (u.Scheme != "http" || tls) {
		return ErrCrossOrigin
	}
	return nil
}
