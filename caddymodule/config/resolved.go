package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// Resolved is a checked Server with its placeholders filled in. Create it with Server.Resolve.
type Resolved struct {
	Written Server // with its placeholders

	Secrets [][]byte // newest first; empty if the secret is in the file SecretPath
	Store   Location // of the store
	Mail    Mail
	Text    *Text // nil: there is none
}

// Resolve fills in the placeholders and checks all settings and the files that they name. It opens
// no store, makes no files and sends nothing. It writes warnings to log.
func (s Server) Resolve(log *slog.Logger) (f Resolved, err error) {
	f.Written = s
	if f.Store, err = s.StoreLocation(log); err != nil {
		return f, err
	}
	if f.Mail, err = valueOr(s.Mail, Mail{}).resolve(log); err != nil {
		return f, err
	}
	if s.Text != nil {
		if f.Text, err = s.Text.resolve(log); err != nil {
			return f, err
		}
	}
	f.Secrets, err = f.secrets(log) // the location of the secret depends on the others
	return f, err
}

// StoreLocation returns the location of the store.
func (s Server) StoreLocation(log *slog.Logger) (Location, error) {
	cfg := Store{}
	if s.Store != nil {
		cfg = s.Store.clone() // the one that was written keeps its placeholders
	}
	written, writtenSentinel := cfg.Password, cfg.SentinelPassword
	if err := fillInAll(cfg.texts()); err != nil {
		return Location{}, err
	}
	for _, p := range []struct{ setting, value, written string }{
		{"store.password", cfg.Password, written}, {"store.sentinel_password", cfg.SentinelPassword, writtenSentinel},
	} {
		if p.value == "" {
			continue
		}
		if err := checkNotPath(p.written); err != nil {
			return Location{}, atPath(p.setting, err)
		}
		warnReadable(log, settingName(p.setting), p.written)
	}
	if err := cfg.Validate(); err != nil {
		return Location{}, err
	}
	if cfg.Engine == "redis" {
		at := cfg.redisAddress()
		err := at.CheckFiles()
		if wrong, ok := errors.AsType[*redis.TLSError](err); ok {
			err = atPath("store.tls."+wrong.Setting, wrong.Err)
		}
		return Location{Redis: at}, err
	}
	if cfg.Path == "" {
		cfg.Path = defaultPath(StoreFile)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return Location{}, atPath("store", err)
	}
	return Location{Path: path}, atPath("store", checkStoreFile(path))
}

// resolve fills in the placeholders, and checks the settings and the files that they name.
func (c Mail) resolve(log *slog.Logger) (Mail, error) {
	written, writtenOAuth := c.Password, c.OAuth
	if c.OAuth != nil { // which stays as it was written
		own := *c.OAuth
		c.OAuth = &own
	}
	for _, t := range c.texts() {
		if err := checkFixed(*t.value); err != nil {
			return c, atPath(t.path, err)
		}
	}
	if err := fillInAll(c.texts()); err != nil {
		return c, err
	}
	if c.Password != "" {
		if err := checkNotPath(written); err != nil {
			return c, atPath("mail.password", err)
		}
		warnReadable(log, "mail password", written)
	}
	if writtenOAuth != nil {
		for _, t := range writtenOAuth.secrets() {
			if err := checkNotPath(*t.value); *t.value != "" && err != nil {
				return c, atPath(t.path, err)
			} else if *t.value != "" {
				warnReadable(log, strings.ReplaceAll(t.path, ".", " "), *t.value)
			}
		}
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.Transport == "smtp" && c.TLS == "off" && !loopback.Is(hostOf(c.Address)) {
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
		if err := checkNotPath(s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		warnReadable(log, name, s)
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

// needsSecret returns an error if the secret can't be in a generated file because other machines
// need the same one.
func (s Server) needsSecret() error {
	if s.Store == nil || s.Store.Engine != "redis" || len(s.Secret) > 0 {
		return nil
	}
	return invalid("secret", `is required with "store redis", and the same on each machine; make one with "openssl rand -base64 32", and write "secret {file./etc/doorpost/secret}" or "secret {env.DOORPOST_SECRET}"`)
}

// warnReadable warns about a secret that too many users can read.
func warnReadable(log *slog.Logger, name, value string) {
	if !hasPlaceholder(value) {
		log.Warn(name + " is written out in the config, where /config and autosave.json show it; write {file./PATH} or {env.NAME} instead")
	}
	if path := worldReadable(value); path != "" {
		log.Warn("every user of this machine can read the "+name+"; run: chgrp caddy "+path+" && chmod 640 "+path, "path", path)
	}
}
