package brand

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// writeKey writes a private key, and returns its file and what stands in DNS for it.
func writeKey(t *testing.T, key crypto.Signer) (path, record string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if public, ok := key.Public().(ed25519.PublicKey); ok {
		return path, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return path, "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedMail is a mail with two signatures, and the keys in DNS.
func signedMail(t *testing.T) (mail []byte, records map[string]string) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, rsaRecord := writeKey(t, rsaKey(t, 2048))
	second, edRecord := writeKey(t, ed)
	b := Brand{Name: "Büro Müller", From: "Büro Müller <hello@example.com>", DKIM: []DKIM{{"2026", first}, {"ed.2026", second}}}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := b.Signer()
	if err != nil {
		t.Fatal(err)
	}
	mail, err = s.Sign([]byte("Date: Sun, 22 Nov 2026 18:28:32 +0000\r\nFrom: =?utf-8?q?B=C3=BCro_M=C3=BCller?=\r\n <hello@example.com>\r\nTo: <ann@example.org>\r\n" +
		"Message-ID: <x@example.com>\r\nSubject: =?utf-8?q?Ihr_Link?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nAuto-Submitted: auto-generated\r\n" +
		"\r\nhttps://clients.example.com/-/link\r\n.\r\n  two  spaces \r\n\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return mail, map[string]string{"2026._domainkey.example.com": rsaRecord, "ed.2026._domainkey.example.com": edRecord}
}

func TestSignaturesVerify(t *testing.T) {
	mail, records := signedMail(t)
	verify := func(mail []byte) (good int) {
		all, err := dkim.VerifyWithOptions(bytes.NewReader(mail), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) { return []string{records[name]}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range all {
			if v.Err == nil && v.Domain == "example.com" {
				good++
			}
		}
		return good
	}
	if n := verify(mail); n != 2 {
		t.Errorf("%d signatures verify; want 2:\n%s", n, mail)
	}
	for _, change := range [][2]string{
		{"18:28:32", "18:28:33"}, {"x@example.com", "y@example.com"}, {"Ihr", "Dein"}, {"/link", "/sink"}, {"ann@", "bob@"},
		{"Subject: ", "Subject: Another\r\nSubject: "}, {"To: ", "Reply-To: <eve@example.org>\r\nTo: "},
	} {
		if n := verify(bytes.Replace(mail, []byte(change[0]), []byte(change[1]), 1)); n != 0 {
			t.Errorf("with %q in the place of %q %d signatures verify; want none", change[1], change[0], n)
		}
	}
}

func TestKeysThatSignNoMailAreNamed(t *testing.T) {
	short, _ := writeKey(t, rsaKey(t, 1024))
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := writeKey(t, p256)
	public := filepath.Join(t.TempDir(), "public.pem")
	if err := os.WriteFile(public, []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		short:            "1024 bits is too short",
		other:            "signs no mail",
		public:           `holds a "PUBLIC KEY"`,
		text:             "no key in PEM form",
		text + ".absent": "no such file",
	} {
		_, err := Brand{From: "hello@example.com", DKIM: []DKIM{{"2026", path}}}.Signer()
		if err == nil || !strings.HasPrefix(err.Error(), "dkim: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("Signer = %v; want %q", err, want)
		}
	}
}

func TestSettingsOfKeys(t *testing.T) {
	for _, c := range []struct {
		keys []DKIM
		want string
	}{
		{[]DKIM{{"2026", "a"}, {"ed-1", "b"}}, ""},
		{[]DKIM{{"2026", "a"}, {"2026", "b"}}, "stands twice"},
		{[]DKIM{{"a", "a"}, {"b", "b"}, {"c", "c"}}, "at most"},
		{[]DKIM{{"a b", "a"}}, "is no selector"},
		{[]DKIM{{"2026._domainkey.example.com.", "a"}}, "is no selector"},
		{[]DKIM{{"2026", ""}}, "which key?"},
	} {
		err := Brand{Name: "Example", From: "hello@example.com", DKIM: c.keys}.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: Validate = %v; want %q", c.keys, err, c.want)
		}
	}
}
