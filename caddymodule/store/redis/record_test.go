package redis

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func TestEncode(t *testing.T) {
	k := store.Key{Firm: "firm", Bucket: "bucket", ID: "a\x00b"}
	at := time.UnixMilli(1_790_000_000_123)
	for _, c := range []struct {
		value   string
		expires time.Time
		want    time.Time
	}{
		{"", time.Time{}, time.Time{}},
		{"v\x00\xff", at, at},
		{"v", at.Add(999 * time.Microsecond), at},
		{"v", time.Unix(-5, 0), time.UnixMilli(1)},
		{"v", time.Unix(1<<50, 0), time.UnixMilli(lastMilli)},
	} {
		raw := encode(k, []byte(c.value), c.expires)
		rec, err := decode("firm", "bucket", string(raw))
		if err != nil || rec.Key != k || string(rec.Value) != c.value || rec.Value == nil || !rec.Expires.Equal(c.want) || rec.Expires.IsZero() != c.want.IsZero() {
			t.Errorf("decode(encode(%q, %v)) = %+v, %v; want it with the end %v", c.value, c.expires, rec, err, c.want)
		}
	}
	raw := string(encode(k, []byte("v"), at))
	for what, bad := range map[string]string{
		"nothing":          "",
		"half a head":      raw[:10],
		"half a name":      raw[:nameAt+3],
		"version 0":        "\x00" + raw[1:],
		"another expiry":   raw[:1] + "17900000000001x3" + raw[17:],
		"another's firm":   string(encode(store.Key{Firm: "mrif", Bucket: "bucket", ID: "a"}, nil, at)),
		"another's bucket": string(encode(store.Key{Firm: "firm", Bucket: "buckets", ID: "a"}, nil, at)),
		"plain text":       "\x01hello, this is no record at all",
	} {
		if rec, err := decode("firm", "bucket", bad); !errors.Is(err, errWrongReply) {
			t.Errorf("decode of %s = %+v, %v; want errMixed", what, rec, err)
		}
	}
	if _, err := decode("firm", "bucket", "\x02"+raw[1:]); !errors.Is(err, ErrNewer) {
		t.Errorf("decode of version 2 = %v; want ErrNewer", err)
	}
	// Encodings differ if the boundary between key and value differs.
	a := encode(store.Key{Firm: "f", Bucket: "b", ID: "x"}, []byte("yz"), at)
	b := encode(store.Key{Firm: "f", Bucket: "b", ID: "xy"}, []byte("z"), at)
	if bytes.Equal(a, b) {
		t.Error("two records are encoded alike")
	}
}

func TestLexRange(t *testing.T) {
	for _, c := range []struct{ prefix, after, least, greatest string }{
		{"", "", "-", "+"},
		{"", "a", "(a", "+"},
		{"a", "", "[a", "(b"},
		{"a", "0", "[a", "(b"},
		{"a", "a", "(a", "(b"},
		{"a", "a1", "(a1", "(b"},
		{"a", "c", "(c", "(b"},
		{"a\xff\xff", "", "[a\xff\xff", "(b"},
		{"\xff", "", "[\xff", "+"},
		{"\x00", "", "[\x00", "(\x01"},
	} {
		if least, greatest := lexRange(c.prefix, c.after); least != c.least || greatest != c.greatest {
			t.Errorf("span(%q, %q) = %q, %q; want %q, %q", c.prefix, c.after, least, greatest, c.least, c.greatest)
		}
	}
}

func TestFirmPrefix(t *testing.T) {
	seen := map[string]string{}
	for _, firm := range []string{"", "%", "%25", "a", "{a}", "{", "}", "a{b}c", "{}", "a:b"} {
		b := firmPrefix(firm)
		_, tag, _ := strings.Cut(b, "{")
		tag, _, _ = strings.Cut(tag, "}")
		if tag == "" || b != keyPrefix+"{"+tag+"}:" {
			t.Errorf("base(%q) = %q, with the hash tag %q", firm, b, tag)
		}
		if other, ok := seen[b]; ok {
			t.Errorf("base(%q) = base(%q) = %q", firm, other, b)
		}
		seen[b] = firm
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url                          string
		network, address, user, pass string
		db                           int
		tls                          bool
	}{
		{"redis://localhost", "tcp", "localhost:6379", "", "", 0, false},
		{"redis://h:1/3", "tcp", "h:1", "", "", 3, false},
		{"redis://u:p%40@h:1", "tcp", "h:1", "u", "p@", 0, false},
		{"rediss://h:1", "tcp", "h:1", "", "", 0, true},
		{"unix:///run/redis.sock", "unix", "/run/redis.sock", "", "", 0, false},
		{"unix:///run/redis.sock?db=2", "unix", "/run/redis.sock", "", "", 2, false},
	} {
		o, err := Address{URL: c.url}.options()
		if err != nil || o.Network != c.network || o.Addr != c.address || o.Username != c.user || o.Password != c.pass || o.DB != c.db || (o.TLSConfig != nil) != c.tls {
			t.Errorf("parse(%q) = %+v, %v; want %+v", c.url, o, err, c)
			continue
		}
		if o.TLSConfig != nil && (o.TLSConfig.ServerName != "h" || o.TLSConfig.InsecureSkipVerify) {
			t.Errorf("parse(%q) verifies %q", c.url, o.TLSConfig.ServerName)
		}
		if o.MaxRetries != -1 || !o.DisableIdentity || !o.ContextTimeoutEnabled || o.ReadTimeout > 500*time.Millisecond {
			t.Errorf("parse(%q) = %+v; want our own repetitions, no CLIENT SETINFO, and short patience", c.url, o)
		}
	}
	o, err := Address{URL: "redis://u:p@h", Username: "me", Password: "mine"}.options()
	if err != nil || o.Username != "me" || o.Password != "mine" {
		t.Errorf("parse = %q, %q, %v; want what the options say", o.Username, o.Password, err)
	}
	for url, want := range map[string]string{
		"":                              "redis://HOST:PORT/DB",
		"localhost:6379":                "redis://HOST:PORT/DB",
		"http://h":                      "redis://HOST:PORT/DB",
		"redis://h/x":                   "redis://HOST:PORT/DB",
		"redis://u:hush@h/x":            "redis://HOST:PORT/DB",
		"redis://u:hush@h:port":         "redis://HOST:PORT/DB",
		"redis://h?max_retries=3":       `"max_retries"`,
		"rediss://h?skip_verify=true":   `"skip_verify"`,
		"unix:///s?db=1&read_timeout=9": `"read_timeout"`,
	} {
		_, err := Open(t.Context(), Options{Address: Address{URL: url}})
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Open(%q) = %v; want an error that says %s", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("Open(%q) shows the password: %v", url, err)
		}
	}
}

// TestTLSIsVerified: a server with an unverifiable certificate gets no data.
func TestTLSIsVerified(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: private}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 1024)
				if n, _ := conn.Read(buf); n > 0 {
					t.Errorf("the server was told %q", buf[:n])
				}
			}()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = Open(ctx, Options{Address: Address{URL: "rediss://" + l.Addr().String(), Password: "secret"}})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Open = %v; want ErrUnavailable because of the certificate", err)
	}
}
