package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

const (
	certificateLeft = 7 * 24 * time.Hour // Caddy renews much earlier
	clockOff        = 2 * time.Minute
)

// claims are what a visitor might write to be taken for somebody else.
var claims = map[string]string{
	"Remote-User": "owner@example.com", "Remote-Email": "owner@example.com", "Portal-Role": "staff", "Remote-Groups": "staff", "X-Forwarded-User": "owner@example.com",
}

// site reaches the firm's site as visitors do: its certificate, its gate, and whether somebody who
// only says who they are gets anywhere.
func (f Firm) site(ctx context.Context) []Finding {
	if f.URL == nil {
		return nil
	}
	client := f.HTTP
	if client == nil {
		transport := &http.Transport{DisableKeepAlives: true}
		client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	health, err := get(ctx, client, f.URL.JoinPath(f.Prefix, "health").String(), nil)
	if err != nil {
		return []Finding{f.unreachable(err)}
	}
	if health.StatusCode != http.StatusNoContent {
		return []Finding{{Check: "site", What: fmt.Sprintf("%s is answered by something else than this gate (%s for its health page)", f.URL, health.Status),
			Do: "check that DNS leads to this machine, and that a proxy in front passes everything on"}}
	}
	all := []Finding{{Check: "site", OK: true, What: f.URL.String() + " leads to this gate"}}
	all = append(all, f.certificate(health.TLS)...)
	all = append(all, f.clock(health)...)
	return append(all, f.spoofed(ctx, client)...)
}

// get returns an answer, whose body is read and dropped.
func get(ctx context.Context, client *http.Client, url string, header map[string]string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "doorpost-doctor")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	a, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(a.Body, 1<<20))
	return a, errors.Join(err, a.Body.Close())
}

func (f Firm) unreachable(err error) Finding {
	found := Finding{Check: "site", What: fmt.Sprintf("%s can't be reached: %v", f.URL, plain(err))}
	if unsafe, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		found.Check, found.What = "certificate", fmt.Sprintf("the certificate of %s isn't valid: %v", f.URL.Hostname(), unsafe.Err)
		found.Do = "see in Caddy's log why it gets none: DNS has to lead to this machine, and ports 80 and 443 have to be open"
		return found
	}
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		found.OK, found.What = true, fmt.Sprintf("whether %s can be reached can't be seen from this machine: nothing answers in time, as behind a router that doesn't lead back inside", f.URL)
		return found
	}
	found.Do = "check that DNS leads to this machine, and that its ports are open"
	return found
}

// plain is the error without the request that it is of.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	return err
}

func (f Firm) certificate(state *tls.ConnectionState) []Finding {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	ends := state.PeerCertificates[0].NotAfter
	found := Finding{Check: "certificate", OK: true, What: fmt.Sprintf("the certificate of %s is valid until %s", f.URL.Hostname(), ends.Local().Format(time.DateOnly))}
	if left := ends.Sub(f.now()); left < certificateLeft {
		found.OK, found.Do = false, "it should have been renewed by now: Caddy's log says why it wasn't"
	}
	return []Finding{found}
}

// clock compares this machine's clock with that of the answer, which a proxy in front may have given.
func (f Firm) clock(a *http.Response) []Finding {
	at, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil || loopback.Is(f.URL.Hostname()) {
		return nil
	}
	if off := f.now().Sub(at).Abs(); off > clockOff {
		return []Finding{{Check: "clock", What: fmt.Sprintf("this machine's clock and that of %s differ by %s", f.URL.Hostname(), off.Round(time.Second)),
			Do: "set the clock by NTP (timedatectl set-ntp true): links, sessions and signatures go by it"}}
	}
	return []Finding{{Check: "clock", OK: true, What: "the clock agrees with that of " + f.URL.Hostname()}}
}

// spoofed asks for a page as nobody, and as nobody who claims to be staff.
func (f Firm) spoofed(ctx context.Context, client *http.Client) []Finding {
	page := f.URL.JoinPath("/").String()
	nobody, err := get(ctx, client, page, map[string]string{"Accept": "text/html"})
	if err != nil {
		return []Finding{{Check: "identity", What: fmt.Sprintf("%s doesn't answer: %v", page, plain(err)), Do: "see Caddy's log"}}
	}
	header := map[string]string{"Accept": "text/html"}
	for name, value := range claims {
		header[name] = value
	}
	claimed, err := get(ctx, client, page, header)
	switch {
	case err != nil:
		return []Finding{{Check: "identity", What: fmt.Sprintf("%s doesn't answer: %v", page, plain(err)), Do: "see Caddy's log"}}
	case claimed.StatusCode != nobody.StatusCode:
		return []Finding{{Check: "identity", What: fmt.Sprintf("somebody who writes Remote-User into a request gets another answer at %s: %s in place of %s", page, claimed.Status, nobody.Status),
			Do: "have every request to the portal pass `doorpost`, before any other handler of the site"}}
	}
	return []Finding{{Check: "identity", OK: true, What: "identity headers that visitors write change nothing"}}
}
