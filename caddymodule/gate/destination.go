package gate

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
)

// mayGoThere checks the URL in a Destination header, to which WebDAV copies and moves (RFC 4918,
// 10.3). The error is the response for a visitor who may not open that URL themselves, or the
// store's.
func (g *forwarder) mayGoThere(r *http.Request, v *visitor.Visitor) error {
	began := g.Now()
	for _, line := range r.Header["Destination"] {
		u, err := url.Parse(line)
		if err != nil || u.Opaque != "" {
			return errUnclear
		}
		if !strings.HasPrefix(u.Path, "/") {
			u = r.URL.ResolveReference(u)
		}
		there := (&http.Request{Method: r.Method, URL: u, Header: http.Header{"Cookie": r.Header["Cookie"]}}).WithContext(r.Context())
		kind := g.rules.classify(there)
		a, f, err := g.evaluate(there, kind, v)
		if err != nil {
			return err
		}
		s := f.decide()
		switch {
		case kind == Own, kind == Refused, s == refuseUnclear:
			return errUnclear
		case s != pass && s != passAnonymous && s != passPublic, a.instead != "":
			g.waitMinResponseTime(r.Context(), began) // same time for known and unknown links
			return errNotHere
		}
	}
	return nil
}
