package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// Location is the location of a store: a file or servers. Locations are comparable.
type Location struct {
	Path  string        // of bolt's file, absolute; "" for Redis
	Redis redis.Address // the zero Address where the store is a file
}

// String returns the place for logs and errors, without the password.
func (p Location) String() string {
	if p.Path != "" {
		return p.Path
	}
	return p.Redis.String()
}

// ParseStore returns the location of a store written as bolt:FILE or as the URL of a Redis server, as
// commands take it.
func ParseStore(text string) (Location, error) {
	cfg := &Store{Engine: "redis", URL: text}
	if path, ok := strings.CutPrefix(text, "bolt:"); ok {
		if path == "" {
			return Location{}, errors.New("which file?")
		}
		cfg = &Store{Path: path}
	}
	return Server{Store: cfg}.StoreLocation(slog.New(slog.DiscardHandler))
}

// Doorpost's files have their own folder beside Caddy's data folder, never inside it: `caddy
// storage export` copies Caddy's storage, and an import restores it in an older state. In earlier
// releases they were inside; such files are found, and moved at the next start. A file that those
// releases refuse to open stays in the store's old place.

// DataDir returns Doorpost's folder.
func DataDir() string { return filepath.Join(filepath.Dir(caddy.AppDataDir()), "doorpost") }

// EarlierDataDir returns Doorpost's folder in earlier releases.
func EarlierDataDir() string { return filepath.Join(caddy.AppDataDir(), "doorpost") }

// The default names of files.
const (
	SecretFile = "secret"
	StoreFile  = "doorpost.db"
)

// defaultPath returns the default path of a file, or its path in EarlierDataDir if it only exists
// there.
func defaultPath(name string) string {
	now, before := filepath.Join(DataDir(), name), filepath.Join(EarlierDataDir(), name)
	if !Exists(now) && Exists(before) && !(name == StoreFile && bolt.Moved(before)) {
		return before
	}
	return now
}

// SecretPath returns the path of the secret's file if no secret is configured. If mails go to a
// folder (as for trying Doorpost) and the Caddyfile names the store, it is beside the store, so
// that one folder has everything. A store that was made before keeps its secret.
func (f Resolved) SecretPath() string {
	path := defaultPath(SecretFile)
	if f.Mail.Transport != "folder" || f.Store.Path == "" || valueOr(f.Written.Store, Store{}).Path == "" {
		return path
	}
	beside := filepath.Join(filepath.Dir(f.Store.Path), SecretFile)
	if !Exists(beside) && Exists(f.Store.Path) && Exists(path) {
		return path
	}
	return beside
}

// Exists reports whether the path exists, even if it can't be accessed.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// AnchorDir returns the folder of the anchors: outside the store, so that losing the store doesn't
// lose them. If mails go to a folder (as for trying Doorpost), everything is in one place.
func (f Resolved) AnchorDir() string {
	if f.Mail.Transport == "folder" && f.Store.Path != "" {
		return filepath.Join(filepath.Dir(f.Store.Path), "anchor")
	}
	return filepath.Join(DataDir(), "anchor")
}

// ReportsDir returns the folder for the reports of firms whose settings name none, or "" if other
// machines use the same store.
func (f Resolved) ReportsDir() string {
	switch {
	case f.Store.Path == "":
		return ""
	case f.Mail.Transport == "folder":
		return filepath.Join(filepath.Dir(f.Store.Path), "reports")
	}
	return filepath.Join(DataDir(), "reports")
}

// AnchorDirInUse is AnchorDir for commands that may not know the mail transport: it returns the
// folder beside the store if that exists.
func (f Resolved) AnchorDirInUse() string {
	if beside := filepath.Join(filepath.Dir(f.Store.Path), "anchor"); Exists(beside) {
		return beside
	}
	return f.AnchorDir()
}

// KeyringInUse returns the keyring of the secrets as written, or of the secret's file, for commands
// that read the configuration themselves.
func (f Resolved) KeyringInUse() (*secret.Keyring, error) {
	if len(f.Written.Secret) > 0 {
		all := make([][]byte, len(f.Written.Secret))
		for i, s := range f.Written.Secret {
			filled, err := fillIn(s)
			if err != nil {
				return nil, fmt.Errorf("secret: %w", err)
			}
			all[i] = []byte(filled)
		}
		return secret.New(all[0], all[1:]...)
	}
	path := f.SecretPath()
	if beside := filepath.Join(filepath.Dir(f.Store.Path), SecretFile); Exists(beside) {
		path = beside
	}
	value, err := ReadSecretFile(path)
	if errors.Is(err, ErrNoSecretFile) {
		return nil, fmt.Errorf("there is no secret at %s", path)
	} else if err != nil {
		return nil, err
	}
	return secret.New(value)
}
