// Package loopback recognizes hosts that are this machine.
package loopback

import (
	"net/netip"
	"strings"
)

// Is reports whether a host in a URL, or in the address of a mail server or peer, is this machine:
// a loopback IP address, localhost, or a name below it (RFC 6761, 6.3). Browsers don't resolve
// these names with DNS, but other programs may, so check the connected address again where it
// matters.
func Is(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && ip.Unmap().IsLoopback()
}
