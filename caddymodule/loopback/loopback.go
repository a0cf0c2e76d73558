// Package loopback says which hosts are this machine.
package loopback

import (
	"net/netip"
	"strings"
)

// Is reports whether a host, as it stands in a URL, in a mail server's address or in that of a peer, is
// this machine: an IP address of loopback, localhost, or a name under it (RFC 6761, 6.3). Browsers
// don't ask DNS for these names; other programs may, so what they connect to has to be judged again
// where that matters.
func Is(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && ip.Unmap().IsLoopback()
}
