package gate

import (
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// shown returns an address as pages show it.
func shown(a address.Address) string { return a.Display() }

// shownInPart returns as much of an address as a page may show of one that wasn't typed there:
// its first character, dots that don't tell its length, and the domain.
func shownInPart(a address.Address) string {
	if a == "" {
		return ""
	}
	_, domain, _ := strings.Cut(a.Display(), "@")
	return string(a[:1]) + "•••@" + domain
}
