//go:build browser

package caddymodule_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startNode starts Node as a portal that answers with the number of header bytes it received, and
// returns its socket. It ends with the test.
func startNode(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	var said bytes.Buffer
	cmd := exec.Command("node", "-e", `require("http").createServer((q, r) => r.end("node: " + q.headers["remote-user"] + " " + (q.headers["remote-groups"] || "").length)).listen(process.argv[1])`, socket)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; ./test.sh installs node", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("node doesn't listen after 20 s\n%s", &said)
		}
	}
}

// Contacts with more companies than a header holds reach every page of a portal in Node, behind
// nginx and in PHP, each with its default limits, in addition to cookies of the portal.
func TestPHPNodeAndNginxTakeAnyContact(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.php"), []byte(`<?php echo "php: $_SERVER[REMOTE_USER] ", strlen($_SERVER['HTTP_REMOTE_GROUPS'] ?? '');`), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := startNginx(t, "", `location / { return 200 "nginx: $http_remote_user $http_remote_groups"; }`)
	companies, contacts := manyCompanies()
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), companies: companies, contacts: contacts, firm: "company_path /files/{company}/*", site: fmt.Sprintf(`handle /nginx/* {
		reverse_proxy unix/%s
	}
	handle /node/* {
		reverse_proxy unix/%s
	}
	handle {
		root %s
		php_fastcgi unix/%s {
			env REMOTE_USER {http.auth.user.email}
		}
	}`, nginx, startNode(t), root, startFPM(t))})
	m.moveInto(h)
	for _, email := range []string{"ann@example.com", "bob@example.com"} {
		b := h.in(email)
		for path, name := range map[string]string{"/nginx/": "nginx", "/node/": "node", "/index.php": "php"} {
			if a := b.open(path, "Cookie", "basket="+strings.Repeat("x", 1000)); a.StatusCode != 200 || !strings.HasPrefix(a.body, name+": "+email) {
				t.Errorf("%s, GET %s = %d %.200s; want the portal's page", email, path, a.StatusCode, a.body)
			}
		}
	}
}
