package upstream

import (
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// HeaderKeeper is a ResponseWriter whose headers later handlers may change when they are sent.
// Headers whose names keep accepts are sent as the gate has set them, or not at all. With nil the
// other handlers may change all headers.
type HeaderKeeper interface {
	Keep(keep func(name string) bool)

	// Mend sets a function that changes the headers after the other handlers have run.
	Mend(fix func(http.Header))
}

// IsOwnHeader reports whether other handlers must not change this header of the gate's own pages,
// because their security and function depend on it. Other headers, such as
// Strict-Transport-Security, are up to the operator.
func IsOwnHeader(name string) bool {
	switch name {
	case "Cache-Control", "Content-Security-Policy", "Content-Type", "Content-Disposition", "Referrer-Policy", "X-Frame-Options", "X-Content-Type-Options",
		"Permissions-Policy", "Cross-Origin-Opener-Policy", "X-Robots-Tag", "Set-Cookie", "Location", "Refresh", "Clear-Site-Data",
		"Www-Authenticate", "Allow", "Retry-After":
		return true
	}
	return web.IsCachePolicy(name)
}
