//go:build servers

package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Open rejects an unusable server at once, with an error that says what it is and what to
// write.
func TestOpenRejectsUnusableServers(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificateFiles(t, dir)
	bare := startServer(t, "--cluster-enabled", "yes", "--databases", "1")
	whole := startServer(t, "--cluster-enabled", "yes", "--databases", "1")
	if err := whole.raw().ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if info, err := whole.raw().ClusterInfo(t.Context()).Result(); err == nil && strings.Contains(info, "cluster_state:ok") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the cluster isn't whole after 10 s")
		}
	}
	tlsPort := freePort(t)
	encrypted := startServer(t, "--tls-port", tlsPort, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	for name, c := range map[string]struct{ url, want string }{
		"a cluster's node without slots":      {bare.url(), "a node of a Redis Cluster"},
		"a cluster's node with all slots":     {whole.url(), "a node of a Redis Cluster"},
		"a Sentinel":                          {startSentinel(t), "this is a Sentinel, which holds no data; write \"store redis sentinel"},
		"a private authority":                 {"rediss://127.0.0.1:" + tlsPort, "update-ca-certificates"},
		"another name than the certificate's": {"rediss://localhost:" + tlsPort, ""},
		"TLS at a port without":               {"rediss://" + encrypted.address(), "write redis:// instead of rediss:// and remove tls"},
		"no TLS at its port":                  {"redis://127.0.0.1:" + tlsPort, "write rediss:// instead of redis://"},
		"a database too many":                 {encrypted.url() + "/1000000", "DB index is out of range"},
	} {
		var err error
		for tries := range 10 { // a handshake may take longer than Open waits
			var s *Store
			if s, err = Open(t.Context(), Options{Address: Address{URL: c.url}}); err == nil {
				s.Close()
			}
			if err != nil && strings.Contains(err.Error(), c.want) {
				break
			}
			if tries == 9 || errors.Is(err, ErrSettings) || err == nil {
				t.Errorf("%s: Open = %v; want %q", name, err, c.want)
				break
			}
		}
		if s, err := Open(t.Context(), Options{Address: Address{URL: c.url}, Late: true}); errors.Is(err, ErrSettings) == (err == nil) {
			t.Errorf("%s: Open of one that may be late = %v; want an error where it is about settings", name, err)
		} else if err == nil {
			s.Close()
		}
		if name != "no TLS at its port" && name != "TLS at a port without" && !errors.Is(err, ErrSettings) {
			t.Errorf("%s: Open = %v; want ErrSettings", name, err)
		}
	}
	gone := startServer(t)
	gone.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Options{Address: Address{URL: gone.url()}}); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSettings) {
		t.Errorf("Open of no server = %v; want ErrUnavailable and not ErrSettings", err)
	}
}

// startSentinel starts a Sentinel and returns its URL.
func startSentinel(t *testing.T) string {
	t.Helper()
	master := startServer(t)
	path := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(path, []byte("sentinel monitor mymaster 127.0.0.1 "+master.port+" 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: filepath.Dir(path), port: freePort(t)}
	s.startAs(path, "--sentinel", "--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir)
	t.Cleanup(s.kill)
	return s.url()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// certificateFiles makes a certificate for 127.0.0.1 without a known authority.
func certificateFiles(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}
