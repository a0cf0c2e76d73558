package runtime

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// MoveFiles moves the secret file and the store from the folder of earlier releases, inside Caddy's
// own, to Doorpost's data folder, where the settings use them from there, and changes the settings
// with them. isOpen reports whether this process has the store at a place open.
func MoveFiles(settings *config.Resolved, isOpen func(config.Location) bool, log *slog.Logger) error {
	var names []string
	if len(settings.Secrets) == 0 {
		names = append(names, config.SecretFile)
	}
	if settings.Store.Path == filepath.Join(config.EarlierDataDir(), config.StoreFile) || settings.Store.Path == filepath.Join(config.DataDir(), config.StoreFile) {
		names = append(names, config.StoreFile)
	}
	for _, name := range names {
		if err := moveFile(name, settings, isOpen, log); err != nil {
			return err
		}
	}
	return nil
}

func moveFile(name string, settings *config.Resolved, isOpen func(config.Location) bool, log *slog.Logger) error {
	from, to := filepath.Join(config.EarlierDataDir(), name), filepath.Join(config.DataDir(), name)
	switch {
	case !config.Exists(from), name == config.StoreFile && bolt.Moved(from):
		return nil
	case config.Exists(to):
		log.Warn("a file at the earlier place is ignored, since there is one at the new place; an import of Caddy's storage may have brought it back", "ignored", from, "used", to)
		return nil
	}
	if isOpen(config.Location{Path: from}) {
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
		log.Warn("a file stays at the earlier place, inside Caddy's folder, where \"caddy storage export\" takes it along and an import overwrites it", "path", from, "wanted", to, "error", err)
		return nil
	}
	if settings.Store.Path == from {
		settings.Store.Path = to
	}
	log.Info("a file was moved out of Caddy's folder", "from", from, "to", to)
	return nil
}
