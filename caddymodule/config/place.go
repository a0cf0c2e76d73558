package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// Place is where a store is: a file, or a server.
type Place struct {
	Path                    string // of bolt's file, absolute; "": a Redis server
	URL, Username, Password string // of the Redis server
}

// String returns the place as logs and errors show it.
func (p Place) String() string {
	if p.Path != "" {
		return p.Path
	}
	u, err := url.Parse(p.URL)
	if err != nil { // validated before it came here
		return "redis"
	}
	u.User = nil
	return u.String()
}

// Doorpost's files have a folder of their own, beside Caddy's and never inside of it: what
// is in Caddy's storage goes along with `caddy storage export`, and comes back, older, with
// an import. Before, they were inside; such files are found, and moved at the next start. In
// the place of the store stays a file that an earlier release refuses to open.

// DataDir is Doorpost's folder.
func DataDir() string { return filepath.Join(filepath.Dir(caddy.AppDataDir()), "doorpost") }

// EarlierDataDir is where it was before.
func EarlierDataDir() string { return filepath.Join(caddy.AppDataDir(), "doorpost") }

// The files that are there unless the configuration names others.
const (
	SecretFile = "secret"
	StoreFile  = "doorpost.db"
)

// defaultPath returns where the file is, or is to be made.
func defaultPath(name string) string {
	now, before := filepath.Join(DataDir(), name), filepath.Join(EarlierDataDir(), name)
	if !Exists(now) && Exists(before) && !(name == StoreFile && bolt.Moved(before)) {
		return before
	}
	return now
}

// SecretPath is the file that holds the secret where none is configured. Where mails go to a
// folder, as to try Doorpost out, and the Caddyfile names the store, it is beside the store:
// one folder has all there is. A store that was made before keeps the secret that it has.
func (f Resolved) SecretPath() string {
	path := defaultPath(SecretFile)
	if f.Mail.Via != "folder" || f.Place.Path == "" || valueOr(f.Written.Store, Store{}).Path == "" {
		return path
	}
	beside := filepath.Join(filepath.Dir(f.Place.Path), SecretFile)
	if !Exists(beside) && Exists(f.Place.Path) && Exists(path) {
		return path
	}
	return beside
}

// Exists reports whether there is something at the path, also where it can't be looked at.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// AnchorDir is the folder of the anchors: outside the store, so that they don't go where it
// goes. Where mails go to a folder, as to try Doorpost out, everything is in one place.
func (f Resolved) AnchorDir() string {
	if f.Mail.Via == "folder" && f.Place.Path != "" {
		return filepath.Join(filepath.Dir(f.Place.Path), "anchor")
	}
	return filepath.Join(DataDir(), "anchor")
}

// ReportsDir is the folder for the reports of firms whose settings name none; "": there is none, since
// other machines have the store, too.
func (f Resolved) ReportsDir() string {
	switch {
	case f.Place.Path == "":
		return ""
	case f.Mail.Via == "folder":
		return filepath.Join(filepath.Dir(f.Place.Path), "reports")
	}
	return filepath.Join(DataDir(), "reports")
}

// AnchorDirInUse is AnchorDir for a command that may not know how mail goes out: the folder
// beside the store, if there is one.
func (f Resolved) AnchorDirInUse() string {
	if beside := filepath.Join(filepath.Dir(f.Place.Path), "anchor"); Exists(beside) {
		return beside
	}
	return f.AnchorDir()
}

// KeyringInUse returns the keyring of the secrets as they are written, or of the secret file,
// for a command that finds out by itself what the configuration says.
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
	if beside := filepath.Join(filepath.Dir(f.Place.Path), SecretFile); Exists(beside) {
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
