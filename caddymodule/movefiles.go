package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// moveFiles moves what lies at the earlier place and is used from there.
func (a *App) moveFiles() error {
	var names []string
	if len(a.Secret) == 0 {
		names = append(names, config.SecretFile)
	}
	if a.resolved.Place.Path == filepath.Join(config.EarlierDataDir(), config.StoreFile) || a.resolved.Place.Path == filepath.Join(config.DataDir(), config.StoreFile) {
		names = append(names, config.StoreFile)
	}
	for _, name := range names {
		if err := a.moveFile(name); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) moveFile(name string) error {
	from, to := filepath.Join(config.EarlierDataDir(), name), filepath.Join(config.DataDir(), name)
	switch {
	case !config.Exists(from), name == config.StoreFile && bolt.Moved(from):
		return nil
	case config.Exists(to):
		a.log.Warn("a file at the earlier place is ignored, since there is one at the new place; an import of Caddy's storage may have brought it back", "ignored", from, "used", to)
		return nil
	}
	if _, open := engines.References(config.Place{Path: from}); open {
		return nil // the configuration that runs has it open
	}
	err := os.MkdirAll(config.DataDir(), 0o700)
	if err == nil {
		move := os.Rename
		if name == config.StoreFile {
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
	if a.resolved.Place.Path == from {
		a.resolved.Place.Path = to
	}
	a.log.Info("a file was moved out of Caddy's folder", "from", from, "to", to)
	return nil
}
