package config

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Sites are the origins and names of a firm's portals in the configuration. The zero value has only
// the firm's url.
type Sites struct {
	// Further are the origins of site blocks with just `doorpost FIRM`: separate portals, to which
	// mails lead back visitors who requested them there.
	Further []string
	// Names are further host names of the block that defines the firm. Requests to them are
	// redirected to url, because cookies are per host.
	Names []string
}

// SitesOf returns the sites of a firm. origin is the firm's url. Wildcard hosts are ignored.
func SitesOf(app *caddyhttp.App, firm, origin string) (s Sites) {
	u, err := url.Parse(origin)
	if err != nil {
		return s
	}
	own := strings.ToLower(u.Hostname())
	var further []string
	for _, srv := range app.Servers {
		for _, r := range srv.Routes {
			if !mayHaveFirm(r, firm) {
				continue
			}
			route := readRoute(r)
			if !route.hasFirm(firm) {
				continue
			}
			for _, host := range hostsOf(r) {
				host = strings.ToLower(host)
				switch {
				case strings.ContainsAny(host, "*{"):
				case route.definition(firm) != nil:
					s.Names = append(s.Names, host)
				default:
					further = append(further, originOf(app, srv, u.Scheme, host))
				}
			}
		}
	}
	if slices.Contains(s.Names, own) {
		s.Names = slices.DeleteFunc(s.Names, func(host string) bool { return host == own })
	} else {
		s.Names = nil // a proxy changes the Host, so visitors use other names
	}
	for _, origin := range further {
		u, err := url.Parse(origin)
		if err == nil && u.Hostname() != own && !slices.Contains(s.Names, u.Hostname()) {
			s.Further = append(s.Further, origin)
		}
	}
	slices.Sort(s.Names)
	slices.Sort(s.Further)
	s.Names, s.Further = slices.Compact(s.Names), slices.Compact(s.Further)
	return s
}

// originOf returns the public origin of a host of a server: with the scheme of the firm's url, and
// with the server's port unless a proxy in front has another.
func originOf(app *caddyhttp.App, srv *caddyhttp.Server, scheme, host string) string {
	port := 0
	if len(srv.Listen) > 0 {
		if a, err := caddy.ParseNetworkAddress(srv.Listen[0]); err == nil {
			port = int(a.StartPort)
		}
	}
	usual := scheme == "https" && (port == app.HTTPSPort || len(srv.TLSConnPolicies) == 0) || port == app.HTTPPort || port == 443 && scheme == "https" || port == 80
	if usual || port == 0 {
		return scheme + "://" + host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + ":" + strconv.Itoa(port)
}
