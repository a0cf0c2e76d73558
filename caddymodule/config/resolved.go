package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

// Resolved is a Server with its placeholders filled in, and checked. Make it with Server.Resolve.
type Resolved struct {
	Written Server // with its placeholders

	Secrets [][]byte // the newest first; none: the secret is in the file of SecretPath
	Place   Place    // of the store
	Mail    Mail
}

// Resolve fills in the placeholders and checks every setting and every file that is named.
// It opens no store, makes no file and sends nothing. It writes warnings to log.
func (s Server) Resolve(log *slog.Logger) (f Resolved, err error) {
	f.Written = s
	if f.Place, err = s.StorePlace(log); err != nil {
		return f, err
	}
	if f.Mail, err = valueOr(s.Mail, Mail{}).resolve(log); err != nil {
		return f, err
	}
	f.Secrets, err = f.secrets(log) // the place of the secret depends on the others
	return f, err
}

// StorePlace returns where the store is.
func (s Server) StorePlace(log *slog.Logger) (Place, error) {
	cfg := Store{}
	if s.Store != nil {
		cfg = *s.Store
	}
	written := cfg.Password
	if err := fillInAll(cfg.texts()); err != nil {
		return Place{}, err
	}
	if cfg.Password != "" {
		if err := pathAsSecret(written); err != nil {
			return Place{}, at("store.password", err)
		}
		warnOf(log, "store password", written)
	}
	if err := cfg.Validate(); err != nil {
		return Place{}, err
	}
	if cfg.Engine == "redis" {
		return Place{URL: cfg.URL, Username: cfg.Username, Password: cfg.Password}, nil
	}
	if cfg.Path == "" {
		cfg.Path = defaultPath(StoreFile)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return Place{}, at("store", err)
	}
	return Place{Path: path}, at("store", checkStoreFile(path))
}

// resolve fills in the placeholders, and checks the settings and the files that they name.
func (c Mail) resolve(log *slog.Logger) (Mail, error) {
	written := c.Password
	for _, t := range c.texts() {
		if err := checkFixed(*t.value); err != nil {
			return c, at(t.path, err)
		}
	}
	if err := fillInAll(c.texts()); err != nil {
		return c, err
	}
	if c.Password != "" {
		if err := pathAsSecret(written); err != nil {
			return c, at("mail.password", err)
		}
		warnOf(log, "mail password", written)
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.Via == "smtp" && c.TLS == "off" && !loopback.Is(hostOf(c.Address)) {
		log.Warn("mail tls off: every sign-in link crosses the network in the clear", "server", c.Address)
	}
	_, err := c.SMTP()
	return c, err
}

func (f Resolved) secrets(log *slog.Logger) (all [][]byte, err error) {
	for i, s := range f.Written.Secret {
		name := "secret"
		if i > 0 {
			name = fmt.Sprintf("secret %d", i+1)
		}
		filled, err := fillIn(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := pathAsSecret(s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		warnOf(log, name, s)
		if _, err := secret.New([]byte(filled)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, []byte(filled))
	}
	if len(all) > 0 {
		return all, nil
	}
	if err := f.Written.needsSecret(); err != nil {
		return nil, err
	}
	if _, err := ReadSecretFile(f.SecretPath()); err != nil && !errors.Is(err, ErrNoSecretFile) {
		return nil, err
	}
	return nil, nil
}

// needsSecret is the error of a config whose secret can't be a file made here, since
// other machines need the same one.
func (s Server) needsSecret() error {
	if s.Store == nil || s.Store.Engine != "redis" || len(s.Secret) > 0 {
		return nil
	}
	return wrong("secret", `is required with "store redis", and the same on each machine; make one with "openssl rand -base64 32", and write "secret {file./etc/doorpost/secret}" or "secret {env.DOORPOST_SECRET}"`)
}

// warnOf warns of a secret that more people can read than should.
func warnOf(log *slog.Logger, name, value string) {
	if !later(value) {
		log.Warn(name + " is written out in the config, where /config and autosave.json show it; write {file./PATH} or {env.NAME} instead")
	}
	if path := openToAll(value); path != "" {
		log.Warn("every user of this machine can read the "+name+"; run: chgrp caddy "+path+" && chmod 640 "+path, "path", path)
	}
}
