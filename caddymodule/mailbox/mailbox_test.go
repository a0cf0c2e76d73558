package mailbox

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// The mailbox is available only from this machine, without a proxy, under the site's own name.
func FuzzOpensFor(f *testing.F) {
	for _, seed := range [][4]string{{"localhost:8080", "127.0.0.1:1", "A", "b"}, {"LOCALHOST:8080", "[::1]:1", "X-Forwarded-For", "127.0.0.1"}, {"localhost:8080.", "127.0.0.1:1", "Via", "x"}, {"evil.example", "127.0.0.1:1", "", ""},
		{"localhost:8080", "192.0.2.1:1", "", ""}, {"localhost:8080", "[::ffff:127.0.0.1]:1", "x_real_ip", ""}, {"localhost:8080", "@", "Forwarded", ""}, {"localhost:8080", "localhost:1", "", ""}} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	m := &Mailbox{Answers: &web.Answers{Sites: &site.Sites{URL: &url.URL{Scheme: "http", Host: "localhost:8080"}}}}
	f.Fuzz(func(t *testing.T, host, peer, name, value string) {
		r := &http.Request{Host: host, RemoteAddr: peer, Header: http.Header{}}
		if name != "" {
			r.Header[name] = []string{value}
		}
		if !m.OpensFor(r) {
			return
		}
		folded := strings.ToLower(name)
		if !strings.EqualFold(host, "localhost:8080") || !strings.Contains(peer, "127.") && !strings.Contains(peer, "1]:") && !strings.EqualFold(peer[:strings.LastIndexByte(peer, ':')], "localhost") ||
			strings.HasPrefix(folded, "x-forwarded") || folded == "forwarded" || folded == "via" || folded == "x-real-ip" {
			t.Fatalf("the mailbox opens for %q at %q with %q: %q", peer, host, name, value)
		}
	})
}
