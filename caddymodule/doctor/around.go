package doctor

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// aroundTime is how long it is waited for the portal at an address where it shouldn't be.
const aroundTime = 500 * time.Millisecond

// around looks whether the portal answers at other addresses of this machine than the one that Caddy
// dials: then others reach it around the gate.
func (f Firm) around(ctx context.Context) (all []Finding) {
	interfaces := f.Interfaces
	if interfaces == nil {
		interfaces = net.InterfaceAddrs
	}
	addresses, err := interfaces()
	for _, upstream := range f.Upstreams {
		host, port, splitErr := net.SplitHostPort(upstream)
		switch {
		case splitErr != nil: // a socket, say
		case !loopback.Is(host):
			all = append(all, Finding{Check: "portal", OK: true, What: fmt.Sprintf("the portal is at %s, on another machine: its firewall has to accept connections from this one alone", upstream)})
		case err != nil:
			all = append(all, Finding{Check: "portal", What: fmt.Sprintf("the addresses of this machine can't be read: %v", err), Do: "check by hand that nobody else reaches the portal at port " + port})
		default:
			all = append(all, reachable(ctx, addresses, port))
		}
	}
	return all
}

// reachable reports whether anything answers at the port, at an address that others can reach.
func reachable(ctx context.Context, addresses []net.Addr, port string) Finding {
	for _, a := range addresses {
		network, ok := a.(*net.IPNet)
		if !ok || loopback.Is(network.IP.String()) || network.IP.IsLinkLocalUnicast() {
			continue
		}
		at := net.JoinHostPort(network.IP.String(), port)
		dialer := net.Dialer{Timeout: aroundTime}
		if conn, err := dialer.DialContext(ctx, "tcp", at); err == nil {
			conn.Close()
			return Finding{Check: "portal", What: fmt.Sprintf("the portal answers at %s, too, so others may reach it around the gate", at),
				Do: "have it listen on 127.0.0.1 alone, or close port " + port + " in the firewall"}
		}
	}
	return Finding{Check: "portal", OK: true, What: "the portal at port " + port + " answers this machine alone"}
}
