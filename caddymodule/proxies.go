package caddymodule

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// forwarding are the headers by which proxies say who is behind them. Caddy believes
// them of the server's trusted_proxies alone.
var forwarding = []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Cf-Connecting-Ip", "True-Client-Ip"}

// proxies warns once of each way in which the visitors' addresses come out wrong. The
// zero value is ready.
type proxies struct {
	near, far, lax sync.Once

	mu    sync.Mutex
	found []problem // of near and lax, which aren't any visitor's doing
}

// problem is what is wrong, and what to do.
type problem struct{ what, do string }

// tell logs a problem, and remembers it for the doctor.
func (p *proxies) tell(log *slog.Logger, what, do string, args ...any) {
	p.mu.Lock()
	p.found = append(p.found, problem{what, do})
	p.mu.Unlock()
	log.Warn(what, append(args, "what_to_do", do)...)
}

// problems returns what has been found since this configuration began to serve.
func (p *proxies) problems() []problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.found)
}

// look judges a request to a page of ours.
func (p *proxies) look(r *http.Request, log *slog.Logger) {
	srv, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if srv == nil {
		return
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	if trusted && srv.TrustedProxiesStrict == 0 {
		p.lax.Do(func() {
			p.tell(log, "visitors can write any address they like as their own, and so get around every limit by network: "+
				"trusted_proxies takes the leftmost address of a list that begins with what visitors write",
				"add to the global options, beside trusted_proxies: servers {\n\ttrusted_proxies_strict\n}")
		})
	}
	if header := forwardedBy(r.Header); header != "" && !trusted {
		p.untrusted(r, header, log)
	}
}

// forwardedBy returns the name of the first such header, or "". Its value is whatever a
// visitor may have written, and is never logged.
func forwardedBy(h http.Header) string {
	for _, name := range forwarding {
		if len(h[name]) > 0 {
			return name
		}
	}
	return ""
}

// untrusted tells of a peer that forwards, or says so. One of this machine or network is
// most likely the firm's own proxy; any other may be a visitor who wrote the header, so
// that doesn't use up the warning for the former.
func (p *proxies) untrusted(r *http.Request, header string, log *slog.Logger) {
	peer, unix := peerOf(r)
	switch {
	case unix:
		p.near.Do(func() {
			p.tell(log, "a proxy seems to be in front that isn't trusted, so all visitors count as one and share one limit",
				"if that is your own proxy, add to the global options: servers {\n\ttrusted_proxies_unix\n\ttrusted_proxies_strict\n}", "header", header)
		})
	case !peer.IsValid():
	case peer.IsLoopback() || peer.IsPrivate() || peer.IsLinkLocalUnicast():
		p.near.Do(func() {
			p.tell(log, "a proxy seems to be in front that isn't trusted, so all visitors behind it count as one and share one limit",
				"if that is your own proxy, add to the global options: "+trusting(peer), "peer", peer.String(), "header", header)
		})
	default:
		p.far.Do(func() {
			log.Warn("a request claims to be forwarded, by a peer that isn't a trusted proxy; the claim was ignored", "peer", peer.String(), "header", header,
				"what_to_do", "if the peer is your own proxy or CDN, add to the global options: "+trusting(peer)+" with all its addresses; if not, a visitor wrote the header, and there is nothing to do")
		})
	}
}

// trusting is what the global options of the Caddyfile need for a proxy.
func trusting(peer netip.Addr) string {
	return "servers {\n\ttrusted_proxies static " + peer.String() + "\n\ttrusted_proxies_strict\n}"
}

// peerOf returns who is at the other end of the connection; unix: a socket of this machine.
func peerOf(r *http.Request) (peer netip.Addr, unix bool) {
	if r.RemoteAddr == "@" || r.RemoteAddr == "" || strings.HasPrefix(r.RemoteAddr, "/") {
		return netip.Addr{}, true
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	peer, err = netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	return peer.Unmap().WithZone(""), false
}
