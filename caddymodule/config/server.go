package config

import (
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

	// Rate is how many mails go out in a second (s), minute (m) or hour (h), such
	// as the default, "60/m".
	Rate string `json:"rate,omitempty"`

	// Path is the folder that gets one .eml file a message. Required with folder.
	Path string `json:"path,omitempty"`
}

const defaultRate = "60/m"

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

// MailVia is the way out for mail as it is written: "smtp", "folder", or "" where it isn't.
func (s Server) MailVia() string { return valueOr(s.Mail, Mail{}).Via }
