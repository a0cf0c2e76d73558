package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func backupCommand() *cobra.Command {
	return leaf{
		use: "backup FILE", short: "Writes a copy of everything to a file, while the server runs",
		long: `Writes a copy of everything that the server keeps to a file that only you can
read: contacts, companies, sessions, mails that wait. The server goes on
meanwhile. A file of that name is replaced once the copy is whole.

The copy is sealed: it is of use only together with the secret, which isn't in
it. Keep a copy of the secret too, in another place.`,
		example: `  caddy doorpost backup /var/backups/doorpost.db`,
		least:   1, most: 1, whole: true, run: (*call).backup,
	}.command()
}

func restoreCommand() *cobra.Command {
	return leaf{
		use: "restore FILE [flags]", short: "Puts a copy back, while the server is stopped",
		long: `Puts a copy that "backup" made in the place of the store. Stop the server first:
while it runs, it holds the store, and the command says so. The file that is
replaced is kept beside the new one.

Name the store with --store. Without it the store is the one that the Caddyfile
names (the file of --config, or else the Caddyfile in this folder), by default
doorpost/doorpost.db in the data folder. Which folder that is the environment of
this command decides, and on a server Caddy's service has another one. Run the
command as the user who runs Caddy, and let that user read the copy.

A copy brings everything back as it was: also contacts that were disabled or
removed since, and sessions that were ended since. End those once more, with
"caddy doorpost sessions revoke EMAIL".`,
		example: `  sudo systemctl stop caddy
  sudo install -m 600 -o caddy -g caddy doorpost-backup.db /tmp/doorpost-backup.db
  sudo -u caddy caddy doorpost restore /tmp/doorpost-backup.db \
    --store /var/lib/caddy/.local/share/caddy/doorpost/doorpost.db
  sudo systemctl start caddy
  caddy doorpost sessions revoke ann@example.com`,
		least: 1, most: 1, local: true, run: (*call).restore,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().String("store", "", "Path of the store; without it, the configuration is asked for it")
			cmd.Flags().Lookup("config").Usage = "Configuration file that names the store"
		},
	}.command()
}

// backedUp is what backup prints with --json.
type backedUp struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

func (c *call) backup() (err error) {
	path := c.args[0]
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return &admin.Error{Reason: path + " is no file that can be replaced", Remedy: "write the path of a file"}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*") // mode 0600
	if err != nil {
		remedy := remedyFor(err)
		if broken, ok := errors.AsType[*fs.PathError](err); ok { // the name in it is one of ours
			err = fmt.Errorf("%s can't be written: %w", path, broken.Err)
		}
		return &admin.Error{Reason: err.Error(), Remedy: remedy}
	}
	defer os.Remove(tmp.Name())
	n, err := c.client.Backup(c.ctx, tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return c.print(backedUp{path, n}, func(w io.Writer) {
		fmt.Fprintf(w, "Copied %d KiB to %s.\nIt is of use only together with the secret: keep a copy of that too, in another place.\n", (n+1023)>>10, path)
	})
}

// restored is what restore prints with --json.
type restored struct {
	Store string `json:"store"`
	Kept  string `json:"kept,omitempty"` // the file that was replaced; "": there was none
}

func (c *call) restore() error {
	path, err := c.storePath()
	if err != nil {
		return err
	}
	file, err := os.Open(c.args[0])
	if err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	defer file.Close()
	kept, err := bolt.Restore(path, file)
	switch {
	case errors.Is(err, bolt.ErrHeld):
		return &admin.Error{Reason: err.Error(), Remedy: "nothing was changed; stop Caddy, restore, and start it again"}
	case errors.Is(err, bolt.ErrCorrupt) || errors.Is(err, bolt.ErrNewer):
		return &admin.Error{Reason: err.Error(), Remedy: "choose another copy"}
	case err != nil:
		return &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	if err := noteRestore(c.ctx, path); err != nil {
		return &admin.Error{Reason: fmt.Sprintf("the copy is in place, but the history won't tell of it: %v", err), Remedy: "start Caddy"}
	}
	if err := keepOwner(path, kept); err != nil {
		return &admin.Error{Reason: fmt.Sprintf("the copy is in place, but %v", err), Remedy: "give the file to the user who runs Caddy: chown caddy " + path}
	}
	return c.print(restored{path, kept}, func(w io.Writer) {
		fmt.Fprintf(w, "Restored %s.\n", path)
		if kept == "" {
			fmt.Fprintln(w, "There was no store before. If that surprises you, Caddy runs as another user or with another configuration: see --help.")
		} else {
			fmt.Fprintf(w, "The file that was there is kept as %s.\n", kept)
		}
		fmt.Fprintln(w, "You can start Caddy now.\nSessions that were ended since the copy was made are back. To end them once more: caddy doorpost sessions revoke EMAIL")
	})
}

// restoredMark is the record by which the next start learns that a copy was put back:
// the command has no key to seal an event with.
var restoredMark = store.Key{Bucket: "doorpost", ID: "restored"}

func noteRestore(ctx context.Context, path string) error {
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return err
	}
	return errors.Join(db.Apply(ctx, store.Put(restoredMark, []byte{1}, time.Time{})), db.Close())
}

// tellRestore makes an event of each firm's of a copy that was put back before this start.
func (a *App) tellRestore(ctx context.Context, firms map[string]*firm) error {
	_, err := a.engine.store.Take(ctx, restoredMark)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	for _, f := range firms {
		if err == nil {
			f.audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "admin", What: "restore"})
		}
	}
	return err
}

// storePath returns the path of the store that --store or the configuration names.
func (c *call) storePath() (string, error) {
	if path := flagOf[string](c.cmd, "store"); path != "" {
		return filepath.Abs(path)
	}
	config, file, err := loadConfig(flagOf[string](c.cmd, "config"), flagOf[string](c.cmd, "adapter"))
	if err != nil {
		return "", &admin.Error{Reason: err.Error(), Remedy: "correct it, or write the path of the store with --store"}
	}
	var app App
	if file != "" {
		var top struct {
			Apps map[string]json.RawMessage `json:"apps"`
		}
		err = json.Unmarshal(config, &top)
		raw, there := top.Apps["doorpost"]
		if err == nil && !there {
			err = errors.New("it has no doorpost in it")
		}
		if err == nil {
			err = json.Unmarshal(raw, &app)
		}
	}
	if err == nil {
		err = app.provisionStore()
	}
	if err != nil {
		return "", &admin.Error{Reason: fmt.Sprintf("looking for the store in %s: %v", file, err), Remedy: "write its path with --store"}
	}
	if app.place.path == "" {
		return "", &admin.Error{Reason: "the store is a Redis server: " + app.place.String(), Remedy: "bring its own backup back (dump.rdb or appendonlydir), as Redis describes"}
	}
	return app.place.path, nil
}
