package doctor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// zone is a DNS server with these records, and a resolver that asks it.
func zone(t *testing.T, records ...string) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(r, err)
		}
		all = append(all, rr)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		a.RecursionAvailable = true
		a.Rcode = dns.RcodeNameError
		for _, rr := range all {
			if !strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
				continue
			}
			a.Rcode = dns.RcodeSuccess
			if rr.Header().Rrtype == q.Question[0].Qtype {
				a.Answer = append(a.Answer, rr)
			}
		}
		w.WriteMsg(a)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// wantFindings compares findings with lines such as "ok spf: SPF of" or "WRONG dkim: there is no key",
// and looks that whatever is wrong comes with what to do.
func wantFindings(t *testing.T, name string, got []Finding, want ...string) {
	t.Helper()
	var lines []string
	for _, f := range got {
		mark := "ok "
		if !f.OK {
			mark = "WRONG "
			if f.Do == "" {
				t.Errorf("%s: %s doesn't say what to do: %s", name, f.Check, f.What)
			}
		}
		lines = append(lines, mark+f.Check+": "+f.What)
	}
	for i := range max(len(lines), len(want)) {
		if i >= len(lines) || i >= len(want) || !strings.Contains(lines[i], want[i]) {
			t.Errorf("%s: found\n  %s\nwant\n  %s", name, strings.Join(lines, "\n  "), strings.Join(want, "\n  "))
			return
		}
	}
}

func TestSPFAndDKIMAndDMARCOfASender(t *testing.T) {
	relay := "smtp.relay.example. 60 IN A 192.0.2.7"
	pass := `example.com. 60 IN TXT "v=spf1 include:_spf.relay.example ~all"`
	include := `_spf.relay.example. 60 IN TXT "v=spf1 ip4:192.0.2.0/24 -all"`
	key := `2026._domainkey.example.com. 60 IN TXT "v=DKIM1; k=rsa; p=MIIB" "IjAN"`
	reject := `_dmarc.example.com. 60 IN TXT "v=DMARC1; p=reject"`
	ours := []Key{{Selector: "2026", Kind: "rsa", Public: "MIIBIjAN"}}
	for name, c := range map[string]struct {
		records []string
		keys    []Key
		sender  string
		want    []string
	}{
		"all is well": {[]string{relay, pass, include, key, reject}, ours, "",
			[]string{"ok spf: SPF of example.com lets smtp.relay.example send", "ok dkim: the key at 2026._domainkey.example.com is the one", "ok dmarc: DMARC at _dmarc.example.com says reject, and our mails pass"}},
		"nothing is there": {[]string{relay, `example.com. 60 IN A 192.0.2.9`}, ours, "",
			[]string{"WRONG spf: example.com has no SPF record", "WRONG dkim: there is no key at 2026._domainkey.example.com", "WRONG dmarc: example.com has no DMARC record"}},
		"another relay, another key": {[]string{relay, `example.com. 60 IN TXT "v=spf1 ip4:198.51.100.1 -all"`, `2026._domainkey.example.com. 60 IN TXT "p=AAAA"`, reject}, ours, "",
			[]string{"WRONG spf: SPF of example.com doesn't let smtp.relay.example (192.0.2.7) send", "WRONG dkim: the key at 2026._domainkey.example.com isn't the one", "WRONG dmarc: DMARC at _dmarc.example.com says reject, and neither SPF nor DKIM passes"}},
		"two SPF records, a revoked key": {[]string{relay, pass, `example.com. 60 IN TXT "v=spf1 -all"`, `2026._domainkey.example.com. 60 IN TXT "v=DKIM1; p="`, `_dmarc.example.com. 60 IN TXT "v=DMARC1; p=none"`}, ours, "",
			[]string{"WRONG spf: SPF of example.com is wrong", "WRONG dkim: the key at 2026._domainkey.example.com is revoked", "ok dmarc: DMARC at _dmarc.example.com says none; neither SPF nor a key of ours passes"}},
		"no key of ours, SPF fails": {[]string{relay, `example.com. 60 IN TXT "v=spf1 -all"`, reject}, nil, "",
			[]string{"WRONG spf: ", "WRONG dmarc: DMARC at _dmarc.example.com says reject, SPF doesn't pass, and Doorpost signs with no key"}},
		"the policy of the domain above": {[]string{relay, `mail.example.com. 60 IN TXT "v=spf1 ip4:192.0.2.7 -all"`, `_dmarc.example.com. 60 IN TXT "v=DMARC1; p=none; sp=quarantine"`}, nil, "hello@mail.example.com",
			[]string{"ok spf: ", "ok dmarc: DMARC at _dmarc.example.com says quarantine, and our mails pass"}},
		"a mail server that isn't in DNS": {[]string{pass, include, reject, key}, ours, "",
			[]string{"WRONG spf: the address of the mail server smtp.relay.example isn't in DNS", "ok dkim: ", "ok dmarc: "}},
	} {
		f := Firm{Sender: "hello@example.com", Mail: &Mail{SMTP: outbox.SMTP{Address: "smtp.relay.example:587"}}, Keys: c.keys, URL: parse(t, "https://clients.example.com"), Prefix: "/-", Resolver: zone(t, c.records...)}
		if c.sender != "" {
			f.Sender = c.sender
		}
		wantFindings(t, name, f.dns(t.Context()), c.want...)
	}
	trial := Firm{Sender: "hello@example.com", Mail: &Mail{}, URL: parse(t, "http://localhost:8080")}
	wantFindings(t, "a trial", trial.dns(t.Context()))
}

func TestTheMailServerIsTried(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220 hello\r\n250 hello\r\n221 bye\r\n")
			time.AfterFunc(time.Second, func() { c.Close() })
		}
	}()
	f := Firm{Sender: "hello@example.com", Mail: &Mail{SMTP: outbox.SMTP{Address: l.Addr().String(), TLS: outbox.TLSOff}}}
	wantFindings(t, "a relay", f.mailServer(t.Context()), "ok mail server: "+l.Addr().String()+" answers, without encryption")
	f.Mail.SMTP.TLS = outbox.TLSStart
	wantFindings(t, "no STARTTLS", f.mailServer(t.Context()), "WRONG mail server: "+l.Addr().String()+" can't be used: connecting: the server offers no STARTTLS")
	f.Mail.SMTP.Address = "127.0.0.1:1"
	wantFindings(t, "nobody", f.mailServer(t.Context()), "WRONG mail server: 127.0.0.1:1 can't be used: connecting: ")
}

// TestTheSiteIsReachedAsVisitorsDo: with TLS, by the firm's own name.
func TestTheSiteIsReachedAsVisitorsDo(t *testing.T) {
	health, trusts, date := http.StatusNoContent, false, time.Now()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		switch {
		case r.URL.Path == "/-/health":
			w.WriteHeader(health)
		case trusts && r.Header.Get("Remote-User") != "":
			w.WriteHeader(200)
		default:
			w.WriteHeader(401)
		}
	}))
	t.Cleanup(server.Close)
	f := Firm{URL: parse(t, "https://example.com"), Prefix: "/-", HTTP: server.Client()}
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	f.HTTP.Transport = transport
	good := []string{"ok site: https://example.com leads to this gate", "ok certificate: the certificate of example.com is valid until", "ok clock: ", "ok identity: "}
	wantFindings(t, "all is well", f.site(t.Context()), good...)
	trusts, date = true, time.Now().Add(-time.Hour)
	f.Now = func() time.Time { return server.Certificate().NotAfter.Add(-time.Hour) }
	wantFindings(t, "everything is wrong", f.site(t.Context()), good[0], "WRONG certificate: ", "WRONG clock: this machine's clock and that of example.com differ by",
		"WRONG identity: somebody who writes Remote-User into a request gets another answer at https://example.com/: 200 OK in place of 401 Unauthorized")
	health = 404
	wantFindings(t, "another server", f.site(t.Context()), "WRONG site: https://example.com is answered by something else than this gate (404 Not Found")
	strict := Firm{URL: f.URL, Prefix: "/-", HTTP: &http.Client{Transport: &http.Transport{DialContext: transport.DialContext}}}
	wantFindings(t, "an unknown certificate", strict.site(t.Context()), "WRONG certificate: the certificate of example.com isn't valid: x509")
	server.Close()
	wantFindings(t, "nobody there", f.site(t.Context()), "WRONG site: https://example.com can't be reached: ")
}

func TestAPortalThatOthersReachIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	near := Firm{Upstreams: []string{"localhost:" + port, "unix//run/php.sock", "app:8000"}}
	wantFindings(t, "on this machine alone", near.around(t.Context()), "ok portal: the portal at port "+port+" answers this machine alone", "ok portal: the portal is at app:8000, on another machine")

	var outer net.IP
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			outer = n.IP
		}
	}
	if outer == nil {
		return // a machine without a network has no others
	}
	open, err := net.Listen("tcp", net.JoinHostPort(outer.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { open.Close() })
	_, port, _ = net.SplitHostPort(open.Addr().String())
	far := Firm{Upstreams: []string{"127.0.0.1:" + port}}
	wantFindings(t, "on all addresses", far.around(t.Context()), "WRONG portal: the portal answers at "+open.Addr().String()+", too")
}
