//go:build servers || browser

package caddymodule_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startNginx starts nginx with these settings of its only server, and returns the socket on which
// it listens. zone is configuration outside of the server block. nginx ends with the test.
func startNginx(t *testing.T, zone, server string) (socket string) {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if binary = "/usr/sbin/nginx"; exec.Command(binary, "-v").Run() != nil {
			t.Fatal("no nginx here; ./test.sh installs it")
		}
	}
	dir := t.TempDir()
	socket = filepath.Join(dir, "s")
	zone = strings.ReplaceAll(zone, "DIR", dir)
	config := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	%[2]s
	server {
		listen unix:%[3]s;
		%[4]s
	}
}
`, dir, zone, socket, server)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-p", dir, "-e", filepath.Join(dir, "log"), "-c", filepath.Join(dir, "conf"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		select {
		case err := <-ended:
			ended <- err
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("nginx ended: %v\n%s", err, log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("nginx doesn't listen after 20 s")
		}
	}
}

// through routes the browser's requests through a server at the socket.
func (b *browser) through(socket string) *browser {
	b.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return b
}

// With nginx as a cache in front of the gate, nobody receives another person's page from the cache,
// whatever the portal's cache headers say.
func TestACacheInFrontGivesNobodyAnothersPage(t *testing.T) {
	h := openOldHouse(t)
	var send http.Header
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		for name, values := range send {
			w.Header()[name] = values
		}
		fmt.Fprintf(w, "for %q", r.Header.Get("Remote-User"))
	}
	socket := startNginx(t, "proxy_cache_path DIR/cache keys_zone=pages:1m;", fmt.Sprintf(`location / {
			proxy_pass %s;
			proxy_set_header Host $http_host;
			proxy_cache pages;
			add_header X-From-Cache $upstream_cache_status always;
		}`, h.url))
	ann := h.in("ann@example.com").through(socket)
	visitor, nobody := h.browser().through(socket), h.browser().through(socket)
	n := 0
	for name, header := range freshness {
		send = header
		n++
		for path, first := range map[string]*browser{"/portal/acme/x": ann, "/orders/x.css": ann, "/files/acme/x.css": visitor} {
			path = fmt.Sprintf("%s?%d", path, n)
			if first == visitor {
				visitor.open("/one-click/acme-secret-token-1/x")
			}
			if a := first.open(path); a.StatusCode != 200 {
				t.Fatalf("%s, %s = %d; want 200", name, path, a.StatusCode)
			}
			if a := nobody.open(path); a.StatusCode != 401 || strings.Contains(a.body, `for "`) {
				t.Errorf("%s, %s, then signed out = %d, from the cache: %s; want the prompt\n%s", name, path, a.StatusCode, a.Header.Get("X-From-Cache"), a.body)
			}
		}
	}
	// The cache stores responses that it may store.
	send = freshness["public"]
	nobody.open("/assets/x.css")
	if a := nobody.open("/assets/x.css"); a.Header.Get("X-From-Cache") != "HIT" {
		t.Errorf("an open page comes from the cache: %s; want HIT", a.Header.Get("X-From-Cache"))
	}
}
