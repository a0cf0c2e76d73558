package brand

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// DKIM is a key that mails are signed with (RFC 6376), for the domain of the sender.
type DKIM struct {
	// Selector names the key in DNS: the public one stands at SELECTOR._domainkey.DOMAIN.
	Selector string `json:"selector"`
	// Key is the path of the private key in PEM form: RSA of at least 2048 bits, or Ed25519.
	Key string `json:"key"`
}

// mostKeys is how many keys sign a mail: one of each kind, since some servers know RSA only.
const mostKeys = 2

var selector = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// validateDKIM reports what is wrong with the settings. It reads no file; see Signer.
func (b Brand) validateDKIM() error {
	if len(b.DKIM) > mostKeys {
		return fmt.Errorf("dkim: %d keys; write one RSA key and one Ed25519 key at most", len(b.DKIM))
	}
	for i, k := range b.DKIM {
		switch {
		case !selector.MatchString(k.Selector):
			return fmt.Errorf("dkim: %q is no selector; write the name before ._domainkey in DNS, such as dkim 2026 /etc/doorpost/dkim.pem", k.Selector)
		case k.Key == "":
			return fmt.Errorf("dkim: which key? Write the path of its file: dkim %s /etc/doorpost/dkim.pem", k.Selector)
		case slices.ContainsFunc(b.DKIM[:i], func(other DKIM) bool { return other.Selector == k.Selector }):
			return fmt.Errorf("dkim: the selector %s stands twice; each key has one of its own", k.Selector)
		}
	}
	return nil
}

// Signer signs mails with the keys of a brand.
type Signer struct{ keys []*dkim.SignOptions }

// signed are the header fields that a signature covers, if a mail has them. Each stands there
// once more than in the mail, so that nobody can add another one.
var signed = []string{"From", "Reply-To", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Auto-Submitted"}

// Signer reads the keys; nil where the brand has none. It may be used by many goroutines.
func (b Brand) Signer() (*Signer, error) {
	if len(b.DKIM) == 0 {
		return nil, nil
	}
	sender, err := b.Sender()
	if err != nil {
		return nil, err
	}
	s := &Signer{}
	for _, k := range b.DKIM {
		key, err := readKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("dkim: %w", err)
		}
		s.keys = append(s.keys, &dkim.SignOptions{
			Domain: address.Address(sender.Address).Domain(), Selector: k.Selector, Signer: key,
			HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
			HeaderKeys: slices.Concat(signed, signed),
		})
	}
	if _, err := s.Sign([]byte("From: " + b.From + "\r\n\r\n\r\n")); err != nil {
		return nil, fmt.Errorf("dkim: %w", err)
	}
	return s, nil
}

// PublicKey returns the DNS record for a key, at SELECTOR._domainkey.DOMAIN.
type PublicKey struct {
	Selector string
	Kind     string // "rsa" or "ed25519", as in k=
	Public   string // as in p=
}

// PublicKeys returns the public halves of the keys. A nil Signer has none.
func (s *Signer) PublicKeys() (all []PublicKey, err error) {
	if s == nil {
		return nil, nil
	}
	for _, k := range s.keys {
		out := PublicKey{Selector: k.Selector}
		var der []byte
		switch public := k.Signer.Public().(type) {
		case ed25519.PublicKey:
			out.Kind, der = "ed25519", public // RFC 8463
		default:
			out.Kind = "rsa"
			if der, err = x509.MarshalPKIXPublicKey(public); err != nil {
				return nil, fmt.Errorf("dkim: %w", err)
			}
		}
		out.Public = base64.StdEncoding.EncodeToString(der)
		all = append(all, out)
	}
	return all, nil
}

// Sign returns the mail with a signature of each key before it. It must leave as it is then.
func (s *Signer) Sign(data []byte) ([]byte, error) {
	var out bytes.Buffer
	for _, key := range s.keys {
		signer, err := dkim.NewSigner(key)
		if err != nil {
			return nil, err
		}
		if _, err := signer.Write(data); err != nil {
			signer.Close()
			return nil, err
		}
		if err := signer.Close(); err != nil {
			return nil, err
		}
		out.WriteString(signer.Signature())
	}
	out.Write(data)
	return out.Bytes(), nil
}

// readKey reads a private key.
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM form, which begins with -----BEGIN PRIVATE KEY-----", path)
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; make a key with: openssl genrsa -out %s 2048", path, err, path)
	}
	return key, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it holds a %q, and no private key without a password", block.Type)
	}
	if err != nil {
		return nil, errors.New("the key can't be read; perhaps it has a password")
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits is too short", bits)
		}
		return key, nil
	}
	return nil, fmt.Errorf("a key of this kind (%T) signs no mail", key)
}
