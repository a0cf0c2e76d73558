package caddymodule_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// With the admin socket of the docs, only its owner and group can give commands, which find
// it in the configuration or with --address. With a TCP port, the log and the doctor say who
// can.
func TestTheAdminEndpointIsASocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "door") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "admin.sock")
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global, admin: "unix/" + path + "|0660"})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("the socket is %v, %v; want mode 0660", info, err)
	}
	h.write("Caddyfile", h.config)
	for _, where := range [][]string{{"--address", "unix/" + path}, {"--address", "unix/" + path + "|0660"}, {"--config", h.path("Caddyfile")}} {
		h.admin = where[1]
		cmd := h.caddy("doorpost", "contacts", "list")
		cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join(append([]string{"doorpost", "contacts", "list"}, where...), "\n"))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "ann@example.com") {
			t.Errorf("contacts list %v = %v\n%s; want the contacts", where, err, out)
		}
	}
	ask := func(c *admin.Client) (found admin.Finding) {
		t.Helper()
		d, err := c.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range d.Findings {
			if f.Check == "admin" {
				return f
			}
		}
		t.Fatalf("the doctor has no word on the admin endpoint: %+v", d)
		return found
	}
	bySocket := &admin.Client{Base: "http://socket", HTTP: &http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", path) }}}}
	if f := ask(bySocket); !f.OK || f.Do != "" {
		t.Errorf("the doctor says %+v; want nothing to do", f)
	}
	if strings.Contains(log.text(t), "every user of this machine can give these commands") {
		t.Error("the log warns of a socket")
	}
	h.admin = freeAddress(t)
	h.change("admin unix/"+path+"|0660", "admin "+h.admin)
	if f := ask(h.office()); !strings.Contains(f.Do, "admin unix//run/caddy/admin.sock|0660") {
		t.Errorf("the doctor says %+v; want the line to write", f)
	}
	ask(h.office())
	if n := strings.Count(log.text(t), "every user of this machine can give these commands"); n != 1 {
		t.Errorf("the log warns %d times; want once", n)
	}
}
