package upstream

import (
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// HeaderKeeper is a ResponseWriter behind which further handlers change headers as they are sent.
// Headers whose names keep accepts leave as the gate has set them, or not at all; with nil the other
// handlers have the last word.
type HeaderKeeper interface {
	Keep(keep func(name string) bool)

	// Mend has fix change the headers once the other handlers have.
	Mend(fix func(http.Header))
}

// IsOwnHeader reports whether a header of our own pages is ours alone to set, as their protection
// and what they do depend on it. Others, such as Strict-Transport-Security, are the operator's.
func IsOwnHeader(name string) bool {
	switch name {
	case "Cache-Control", "Content-Security-Policy", "Content-Type", "Content-Disposition", "Referrer-Policy", "X-Frame-Options", "X-Content-Type-Options",
		"Permissions-Policy", "Cross-Origin-Opener-Policy", "X-Robots-Tag", "Set-Cookie", "Location", "Refresh", "Clear-Site-Data",
		"Www-Authenticate", "Allow", "Retry-After":
		return true
	}
	return web.IsCachePolicy(name)
}
