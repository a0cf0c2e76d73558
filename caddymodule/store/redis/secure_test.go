//go:build servers

package redis

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
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
	"github.com/doorpost-auth/doorpost/caddymodule/store/redistest"
)

// authority makes a certificate authority, and certificates by it for redis.internal and for a client.
// It returns the paths of PEM files.
func authority(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600))
		return path
	}
	private := func() *ecdsa.PrivateKey {
		return ok[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	root, own := private(), private()
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "our authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = write("ca.pem", "CERTIFICATE", ok[[]byte](t)(x509.CreateCertificate(rand.Reader, issuer, issuer, root.Public(), root)))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"redis.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	cert = write("cert.pem", "CERTIFICATE", ok[[]byte](t)(x509.CreateCertificate(rand.Reader, leaf, issuer, own.Public(), root)))
	key = write("key.pem", "PRIVATE KEY", ok[[]byte](t)(x509.MarshalPKCS8PrivateKey(own)))
	return ca, cert, key
}

// The docs name what a user of the server needs.
const (
	userRules    = "on >p#ss ~doorpost* &doorpost* +@read +@write +@scripting +@pubsub +@connection +info +time"
	clusterRules = userRules + " +cluster|info +cluster|slots"
)

// use writes, reads and listens as a gate does.
func use(t *testing.T, s *Store) {
	t.Helper()
	put(t, s, "k", "v")
	holds(t, s, "k", "v")
	heard := make(chan string, 10)
	go s.Subscribe(t.Context(), "firm", func(m string) { heard <- m })
	if m := <-heard; m != "" {
		t.Errorf("heard %q; want the beginning", m)
	}
	must(t, s.Publish(t.Context(), "firm", "look"))
	if m := <-heard; m != "look" {
		t.Errorf("heard %q; want %q", m, "look")
	}
	if list, err := s.Buckets(t.Context()); err != nil || len(list) == 0 {
		t.Errorf("Buckets = %v, %v", list, err)
	}
}

// TestTLSWithAnOwnAuthority: the servers require a client certificate, and theirs is for another name than
// their address.
func TestTLSWithAnOwnAuthority(t *testing.T) {
	ca, cert, key := authority(t)
	port := redistest.FreePort()
	encrypts := []string{"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "yes"}
	one := startServer(t, append(encrypts, "--tls-port", port)...)
	if err := one.raw().Do(t.Context(), append([]any{"ACL", "SETUSER", "doorpost"}, words(userRules)...)...).Err(); err != nil {
		t.Fatal(err)
	}
	whole := Address{URL: "rediss://127.0.0.1:" + port, Username: "doorpost", Password: "p#ss", TLS: true, CA: ca, Cert: cert, Key: key, ServerName: "redis.internal"}
	use(t, openOn(t, whole, Options{}))
	plain := whole
	plain.URL = "redis://127.0.0.1:" + port // tls in the block suffices
	use(t, openOn(t, plain, Options{}))
	for name, change := range map[string]func(*Address){
		"no authority":          func(a *Address) { a.CA = "" },
		"another name":          func(a *Address) { a.ServerName = "other.internal" },
		"the address's name":    func(a *Address) { a.ServerName = "" },
		"no client certificate": func(a *Address) { a.Cert, a.Key = "", "" },
		"a wrong password":      func(a *Address) { a.Password = "wrong" },
	} {
		a := whole
		change(&a)
		if _, err := Open(t.Context(), Options{Address: a}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: Open = %v; want ErrUnavailable", name, err)
		}
	}
	for setting, a := range map[string]Address{"ca": {URL: whole.URL, CA: key}, "cert": {URL: whole.URL, Cert: cert, Key: ca}} {
		if wrong, is := errors.AsType[*TLSError](a.CheckFiles()); !is || wrong.Setting != setting {
			t.Errorf("CheckFiles = %v; want an error about %s", a.CheckFiles(), setting)
		}
	}
}

func words(text string) (list []any) {
	for word := range strings.FieldsSeq(text) {
		list = append(list, word)
	}
	return list
}

// TestClusterWithTLSAndAUser: the nodes take only TLS, also from one another, and the user has only the
// permissions that the docs name.
func TestClusterWithTLSAndAUser(t *testing.T) {
	ca, cert, key := authority(t)
	servers, err := redistest.StartCluster(t.TempDir(), 2, false, nil, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "yes")
	t.Cleanup(servers.Kill)
	must(t, err)
	var hosts []string
	for _, s := range servers.Masters {
		must(t, s.Raw().Do(t.Context(), append([]any{"ACL", "SETUSER", "doorpost"}, words(clusterRules)...)...).Err())
		hosts = append(hosts, net.JoinHostPort("127.0.0.1", s.TLSPort))
	}
	a := Address{Cluster: true, Hosts: strings.Join(hosts, " "), Username: "doorpost", Password: "p#ss", TLS: true, CA: ca, Cert: cert, Key: key, ServerName: "redis.internal"}
	s := openOn(t, a, Options{})
	for _, n := range s.topology.all() {
		if !strings.Contains(a.Hosts, n.addr()) {
			t.Errorf("the gate uses the node at %s; want one of %s", n.addr(), a.Hosts)
		}
	}
	use(t, s)
}

// TestSentinelsWithUsers: Sentinels and servers have users of their own.
func TestSentinelsWithUsers(t *testing.T) {
	servers := ownSentinels(t, 1)
	for _, s := range servers.Servers {
		ok[any](t)(s.Say(append([]any{"ACL", "SETUSER", "doorpost"}, words(userRules)...)...))
	}
	for _, s := range servers.Sentinels {
		ok[any](t)(s.Say("ACL", "SETUSER", "watcher", "on", ">w#tch", "+sentinel|master", "+@connection"))
	}
	a := sentinelAddress(servers)
	a.Username, a.Password, a.SentinelUsername, a.SentinelPassword = "doorpost", "p#ss", "watcher", "w#tch"
	use(t, openOn(t, a, Options{}))
	a.SentinelPassword = "p#ss"
	if _, err := Open(t.Context(), Options{Address: a}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "sentinel_password") {
		t.Errorf("Open with another password for the Sentinels = %v; want ErrUnavailable that names the setting", err)
	}
}
