package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// Doorpost's files have a folder of their own, beside Caddy's and never inside of it: what
// is in Caddy's storage goes along with `caddy storage export`, and comes back, older, with
// an import. Before, they were inside; such files are found, and moved at the next start. In
// the place of the store stays a file that an earlier release refuses to open.

// dataDir is Doorpost's folder.
func dataDir() string { return filepath.Join(filepath.Dir(caddy.AppDataDir()), "doorpost") }

// earlierDataDir is where it was before.
func earlierDataDir() string { return filepath.Join(caddy.AppDataDir(), "doorpost") }

// The files that are there unless the configuration names others.
const (
	secretFile = "secret"
	storeFile  = "doorpost.db"
)

// defaultPath returns where the file is, or is to be made.
func defaultPath(name string) string {
	now, before := filepath.Join(dataDir(), name), filepath.Join(earlierDataDir(), name)
	if !there(now) && there(before) && !(name == storeFile && bolt.Moved(before)) {
		return before
	}
	return now
}

// secretPath is the file that holds the secret where none is configured. Where mails go to a
// folder, as to try Doorpost out, and the Caddyfile names the store, it is beside the store:
// one folder has all there is. A store that was made before keeps the secret that it has.
func (a *App) secretPath() string {
	path := defaultPath(secretFile)
	if a.mail.Via != "folder" || a.place.path == "" || valueOr(a.Store, StoreConfig{}).Path == "" {
		return path
	}
	beside := filepath.Join(filepath.Dir(a.place.path), secretFile)
	if !there(beside) && there(a.place.path) && there(path) {
		return path
	}
	return beside
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// anchorDir is the folder of the anchors: outside the store, so that they don't go where it
// goes. Where mails go to a folder, as to try Doorpost out, everything is in one place.
func (a *App) anchorDir() string {
	if a.mail.Via == "folder" && a.place.path != "" {
		return filepath.Join(filepath.Dir(a.place.path), "anchor")
	}
	return filepath.Join(dataDir(), "anchor")
}

// moveFiles moves what lies at the earlier place and is used from there.
func (a *App) moveFiles() error {
	var names []string
	if len(a.Secret) == 0 {
		names = append(names, secretFile)
	}
	if a.place.path == filepath.Join(earlierDataDir(), storeFile) || a.place.path == filepath.Join(dataDir(), storeFile) {
		names = append(names, storeFile)
	}
	for _, name := range names {
		if err := a.moveFile(name); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) moveFile(name string) error {
	from, to := filepath.Join(earlierDataDir(), name), filepath.Join(dataDir(), name)
	switch {
	case !there(from), name == storeFile && bolt.Moved(from):
		return nil
	case there(to):
		a.log.Warn("a file at the earlier place is ignored, since there is one at the new place; an import of Caddy's storage may have brought it back", "ignored", from, "used", to)
		return nil
	}
	if _, open := engines.References(place{path: from}); open {
		return nil // the configuration that runs has it open
	}
	err := os.MkdirAll(dataDir(), 0o700)
	if err == nil {
		move := os.Rename
		if name == storeFile {
			move = bolt.Move
		}
		err = move(from, to)
	}
	switch {
	case errors.Is(err, bolt.ErrHeld):
		return fmt.Errorf("store: %w", err)
	case err != nil: // such as another file system: a container whose volume is Caddy's folder alone
		a.log.Warn("a file stays at the earlier place, inside Caddy's folder, where \"caddy storage export\" takes it along and an import overwrites it", "path", from, "wanted", to, "error", err)
		return nil
	}
	if a.place.path == from {
		a.place.path = to
	}
	a.log.Info("a file was moved out of Caddy's folder", "from", from, "to", to)
	return nil
}
