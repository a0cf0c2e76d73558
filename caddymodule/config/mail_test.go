package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Certificate files are read when the configuration is checked, so an invalid one is reported with
// its setting and file.
func TestCertificatesOfTheMailServerAreReadAtValidate(t *testing.T) {
	dir := t.TempDir()
	wrong, none := filepath.Join(dir, "wrong.pem"), filepath.Join(dir, "none.pem")
	if err := os.WriteFile(wrong, []byte("-----BEGIN NOTHING-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mail Mail
		want string
	}{
		{Mail{CA: none}, "mail ca: open " + none},
		{Mail{CA: wrong}, "mail ca: " + wrong + " holds no certificate"},
		{Mail{Cert: none, Key: none}, "mail cert: open " + none},
		{Mail{Cert: wrong, Key: wrong}, "mail cert: "},
		{Mail{}, ""},
	} {
		c.mail.Transport, c.mail.Address = "smtp", "smtp.example.com:587"
		_, err := Server{Mail: &c.mail}.Resolve(slog.New(slog.DiscardHandler))
		_, ofFirm := Firm{Mail: &c.mail}.Resolve(slog.New(slog.DiscardHandler))
		if c.want == "" {
			if err != nil {
				t.Errorf("%+v = %v; want no error", c.mail, err)
			}
			continue
		}
		for _, err := range []error{err, ofFirm} {
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%+v = %v; want %s", c.mail, err, c.want)
			}
		}
	}
}
