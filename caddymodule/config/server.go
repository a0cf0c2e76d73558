package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"os"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// Server is what all firms of one Caddy share: the secret, the store and the way out for
// mail. In the Caddyfile it is the global option `doorpost`.
//
// The text settings may hold {env.NAME} and {file./PATH}. They stay as they were written,
// here and in Caddy's /config; only Resolved has what they stand for.
type Server struct {
	// Secret is what every key is derived from: the newest first, then older ones,
	// which open what they closed and close no more. Each has at least 32 random
	// characters. Default: a file of mode 0600 in Doorpost's data folder, made at
	// the first start. Write {file./PATH} or {env.NAME}: what is written out here
	// stands in /config and in Caddy's autosave.json.
	Secret []string `json:"secret,omitempty"`

	// Store is where everything is kept. Default: bolt in Doorpost's data folder,
	// $XDG_DATA_HOME/doorpost.
	Store *Store `json:"store,omitempty"`

	// Mail is the way out for mail. Required.
	Mail *Mail `json:"mail,omitempty"`
}

// Store is where everything is kept.
type Store struct {
	// Engine is "bolt" (default): one file, one process; or "redis": one server, any
	// number of Caddys with the same secret.
	Engine string `json:"engine,omitempty"`

	// Path is bolt's file. Default: doorpost.db in Doorpost's data folder. A relative
	// one begins at the folder that Caddy was started in.
	Path string `json:"path,omitempty"`

	// URL is the server of redis: redis://HOST:PORT/DB, rediss:// with TLS, or
	// unix:///PATH. Required with redis.
	URL string `json:"url,omitempty"`

	// Username and Password of redis, where it asks for them. As in Secret and Mail,
	// write {file./PATH} or {env.NAME}.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Mail is the way out for mail.
type Mail struct {
	// Via is "smtp", or "folder" to try Doorpost out. Required.
	Via string `json:"via,omitempty"`

	// Address is the HOST:PORT of the mail server. Required with smtp.
	Address string `json:"address,omitempty"`

	// Username and Password, both or neither: relays by network need none.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// TLS is "starttls", "implicit" or "off"; by default "implicit" on port 465, else
	// "starttls". It is never less than what it says: a server that doesn't offer it
	// gets no mail. With "off" a password is sent to this machine alone.
	TLS string `json:"tls,omitempty"`

	// CA is a file with the certificate authority of an internal relay, in PEM form. Default:
	// those that the machine trusts.
	CA string `json:"ca,omitempty"`

	// Cert and Key are files with a client certificate and its key, in PEM form, for relays that
	// ask for one. Both or neither.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`

	// Helo is the name that Doorpost greets the mail server with. Default: the domain of the
	// sender.
	Helo string `json:"helo,omitempty"`

	// Connections is how many mails go to the mail server at a time, over connections that are
	// kept open between mails. Default 4, at most 100.
	Connections int `json:"connections,omitempty"`

	// Rate is how many mails go out in a second (s), minute (m) or hour (h), such
	// as the default, "60/m".
	Rate string `json:"rate,omitempty"`

	// Path is the folder that gets one .eml file a message. Required with folder.
	Path string `json:"path,omitempty"`
}

const (
	defaultRate     = "60/m"
	mostConnections = 100
)

// text is a setting that may hold placeholders.
type text struct {
	path  string
	value *string
}

func (c *Store) texts() []text {
	return []text{
		{"store", &c.Path}, {"store", &c.URL},
		{"store.username", &c.Username}, {"store.password", &c.Password},
	}
}

func (c *Mail) texts() []text {
	return []text{
		{"mail", &c.Address}, {"mail.username", &c.Username},
		{"mail.password", &c.Password}, {"mail", &c.Path},
		{"mail.ca", &c.CA}, {"mail.cert", &c.Cert}, {"mail.cert", &c.Key}, {"mail.helo", &c.Helo},
	}
}

// Pace returns a new limiter of hand-overs, such as 60/m: no more than that in any such time, a
// tenth of them at once. A folder takes any number.
func (c Mail) Pace() (*rate.Limiter, error) {
	if c.Via == "folder" {
		return rate.NewLimiter(rate.Inf, 1), nil
	}
	n, per, err := parseRate(c.Rate)
	if err != nil {
		return nil, at("mail.rate", err)
	}
	return outbox.Pace(n, per), nil
}

// AtATime is how many mails go to the mail server at a time.
func (c Mail) AtATime() int { return cmp.Or(c.Connections, outbox.DefaultConnections) }

// SMTP returns how the mail server is reached. It reads the files of the certificates.
func (c Mail) SMTP() (outbox.SMTP, error) {
	s := outbox.SMTP{Address: c.Address, Username: c.Username, Password: c.Password, TLS: outbox.TLS(c.TLS), Helo: c.Helo}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return s, at("mail.ca", err)
		}
		s.RootCAs = x509.NewCertPool()
		if !s.RootCAs.AppendCertsFromPEM(pem) {
			return s, wrong("mail.ca", "%s holds no certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return s, at("mail.cert", err)
		}
		s.Certificates = []tls.Certificate{pair}
	}
	return s, nil
}

// files are those that the settings name.
func (c Mail) files() (all []NamedFile) {
	for _, t := range c.texts() {
		all = append(all, filesIn(words(t.path), *t.value)...)
	}
	for _, f := range []NamedFile{{"mail ca", c.CA}, {"mail cert", c.Cert}, {"mail cert", c.Key}} {
		if f.Path != "" && !later(f.Path) {
			all = append(all, f)
		}
	}
	return all
}

// MailVia is the way out for mail as it is written: "smtp", "folder", or "" where it isn't.
func (s Server) MailVia() string { return valueOr(s.Mail, Mail{}).Via }
