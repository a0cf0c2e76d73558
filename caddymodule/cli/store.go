package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func backupCommand() *cobra.Command {
	return spec{
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
	return spec{
		use: "restore FILE [--reopen] [flags]", short: "Puts a copy back, while the server is stopped",
		long: `Puts a copy that "backup" made in the place of the store. Stop the server first:
while it runs, it holds the store, and the command says so. The file that is
replaced is kept beside the new one.

Name the store with --store. Without it the store is the one that the Caddyfile
names (the file of --config, or else the Caddyfile in this folder), by default
doorpost.db in Doorpost's data folder. Which folder that is the environment of
this command decides, and on a server Caddy's service has another one. Run the
command as the user who runs Caddy, and let that user read the copy.

A copy brings everything back as it was: also contacts that were disabled or
removed since, and passwords that were changed since. On the machine that served
the store before, companies that were upgraded since stay upgraded (with --reopen
their old links open again, as the copy has it), and all sessions of the copy
end, since some may have been ended since. On a machine that never served it,
everything is as in the copy, and nobody is signed out.

To note for the next start that it was you, the command needs the secret. It
takes it from the configuration, or from the file "secret" beside the store or
in Doorpost's data folder.`,
		example: `  sudo systemctl stop caddy
  sudo install -m 600 -o caddy -g caddy doorpost-backup.db /tmp/doorpost-backup.db
  sudo -u caddy caddy doorpost restore /tmp/doorpost-backup.db \
    --store /var/lib/caddy/.local/share/doorpost/doorpost.db
  sudo systemctl start caddy
  caddy doorpost sessions revoke ann@example.com`,
		least: 1, most: 1, local: true, run: (*call).restore,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().String("store", "", "Path of the store; without it, the configuration is asked for it")
			cmd.Flags().Bool("reopen", false, "Let old links of companies that were upgraded since open again")
			cmd.Flags().Lookup("config").Usage = "Configuration file that names the store"
		},
	}.command()
}

func checkCommand() *cobra.Command {
	return spec{
		use: "check [FILE] [flags]", short: "Looks for damage in a copy, or in the store while the server is stopped",
		long: `Reads the whole of a copy that "backup" made, or of the store itself, and says
whether it still is what was written. Nothing is changed. A store that a server
has open can't be checked; make a backup of it, which is checked as it is made.

Without FILE it is the store that the Caddyfile names (the file of --config, or
else the Caddyfile in this folder). Run the command as the user who runs Caddy.

Each start reads the first 256 MiB in the same way: there, this is for larger
stores.`,
		example: `  caddy doorpost store check /var/backups/doorpost.db`,
		most:    1, local: true, run: (*call).checkStore,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Lookup("config").Usage = "Configuration file that names the store, without FILE"
		},
	}.command()
}

// checked is the output of check with --json.
type checked struct {
	Store string `json:"store"`
	Bytes int64  `json:"bytes"`
}

func (c *call) checkStore() error {
	to, err := c.storeTarget(strings.Join(c.args, ""), "behind the command")
	if err != nil {
		return err
	}
	if to.Store.Path == "" {
		return &admin.Error{Reason: "the store is a Redis server: " + to.Store.String(), Remedy: "check its own files, with redis-check-rdb or redis-check-aof"}
	}
	path := to.Store.Path
	size, err := bolt.Check(path)
	switch {
	case errors.Is(err, bolt.ErrHeld):
		return &admin.Error{Reason: err.Error(), Remedy: "stop Caddy; or make a backup, which is checked as it is made"}
	case errors.Is(err, bolt.ErrCorrupt):
		return &admin.Error{Reason: err.Error(), Remedy: "if it is a copy, keep another one"}
	case err != nil:
		return &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	return c.print(checked{path, size}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is whole: all of its %d KiB are what was written.\n", path, (size+1023)>>10)
	})
}

// backedUp is the output of backup with --json.
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

// restored is the output of restore with --json.
type restored struct {
	Store string `json:"store"`
	Kept  string `json:"kept,omitempty"` // the file that was replaced; "": there was none

	Noted       bool     `json:"noted"`                  // the next start takes the copy without a question
	Reopened    bool     `json:"reopened,omitempty"`     // old links open again where the copy says so
	AllUpgraded bool     `json:"all_upgraded,omitempty"` // every company is upgraded, by what this machine saw last
	Upgraded    []string `json:"upgraded,omitempty"`     // companies that are open in the copy, and upgraded by what this machine saw last
}

func (c *call) restore() error {
	to, err := c.storeTarget(flagOf[string](c.cmd, "store"), "with --store")
	if err != nil {
		return err
	}
	if to.Store.Path == "" {
		return &admin.Error{Reason: "the store is a Redis server: " + to.Store.String(), Remedy: "empty the database (redis-cli FLUSHDB), say \"caddy doorpost migrate --from bolt:FILE\" with the copy, start Caddy, and say \"caddy doorpost store accept\""}
	}
	path := to.Store.Path
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
	out := restored{Store: path, Kept: kept, Reopened: flagOf[bool](c.cmd, "reopen")}
	noteErr, err := noteRestore(c.ctx, to, &out)
	if err != nil {
		return &admin.Error{Reason: fmt.Sprintf("the copy is in place, but the history won't tell of it: %v", err), Remedy: "start Caddy"}
	}
	if err := keepOwner(path, kept); err != nil {
		return &admin.Error{Reason: fmt.Sprintf("the copy is in place, but %v", err), Remedy: "give the file to the user who runs Caddy: chown caddy " + path}
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Restored %s.\n", path)
		if kept == "" {
			fmt.Fprintln(w, "There was no store before. If that surprises you, Caddy runs as another user or with another configuration: see --help.")
		} else {
			fmt.Fprintf(w, "The file that was there is kept as %s.\n", kept)
		}
		out.tell(w, noteErr)
	})
}

// tell says what the next start makes of the copy.
func (r restored) tell(w io.Writer, noteErr error) {
	switch all, ids := r.AllUpgraded, some(r.Upgraded); {
	case noteErr != nil:
		fmt.Fprintf(w, "It couldn't be noted that you put it back: %v.\nStart Caddy, and then say: caddy doorpost store accept. Until then nobody is let in.\n", noteErr)
		return
	case !r.Noted:
		fmt.Fprintln(w, "You can start Caddy now.\nSessions that were ended since the copy was made are back. To end them once more: caddy doorpost sessions revoke EMAIL")
		return
	case len(r.Upgraded) > 0 && r.Reopened:
		fmt.Fprintf(w, "Old links that asked for sign-in open again: %s.\n", ids)
	case len(r.Upgraded) > 0:
		fmt.Fprintf(w, "In the copy these companies are open; they stay upgraded: %s.\nTo let their old links open again, restore with --reopen.\n", ids)
	case all && !r.Reopened:
		fmt.Fprintln(w, "All companies stay upgraded.")
	}
	fmt.Fprintln(w, "You can start Caddy now. All sessions of the copy end then, since some may have been ended since it was made.\nContacts who were disabled or removed since are back: caddy doorpost contacts list")
}

// noteRestore notes in the copy, and in the anchors where this machine has any, that the copy
// was put back. noteErr is why an anchor couldn't be marked.
func noteRestore(ctx context.Context, to config.Resolved, out *restored) (noteErr, err error) {
	db, err := bolt.Open(to.Store.Path, bolt.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	noteErr = markAnchors(ctx, to, db, out)
	return noteErr, db.Apply(ctx, store.Put(anchor.RestoredMark, []byte{1}, time.Time{}))
}

func markAnchors(ctx context.Context, to config.Resolved, db store.Store, out *restored) error {
	dir := to.AnchorDirInUse()
	firms, err := anchor.Firms(dir)
	if err != nil || len(firms) == 0 {
		return err
	}
	keys, err := to.KeyringInUse()
	if err != nil {
		return err
	}
	for _, firm := range firms {
		recs, err := db.Scan(ctx, firm, "directory", "", "", 1)
		if err != nil {
			return err
		}
		closed, err := anchor.MarkRestored(dir, firm, to.Store.String(), len(recs) > 0, keys, anchor.Restore{Reopen: out.Reopened})
		if err != nil {
			return err
		}
		if err := keepOwner(anchor.Path(dir, firm), ""); err != nil {
			return err
		}
		out.AllUpgraded = out.AllUpgraded || closed.All
		book := directory.Directory{Firm: firm, Store: db, Keys: keys}
		open, err := book.WronglyOpen(ctx, closed)
		if err != nil {
			return err
		}
		out.Upgraded = append(out.Upgraded, open...)
	}
	out.Noted = true
	return nil
}

// storeTarget returns the settings with the store of that path, or with the one that the
// configuration names; without a path if that is a Redis server. how says where the path is to be
// written.
func (c *call) storeTarget(path, how string) (config.Resolved, error) {
	raw, file, err := loadConfig(flagOf[string](c.cmd, "config"), flagOf[string](c.cmd, "adapter"))
	if err != nil && path == "" {
		return config.Resolved{}, &admin.Error{Reason: err.Error(), Remedy: "correct it, or write the path of the store " + how}
	}
	var to config.Resolved
	if file != "" && err == nil {
		to.Written, err = serverIn(raw)
	}
	to.Mail.Transport = to.Written.MailTransport() // decides about places
	if path != "" {
		to.Store.Path, err = filepath.Abs(path)
		return to, err
	}
	if err == nil {
		to.Store, err = to.Written.StoreLocation(slog.New(slog.DiscardHandler))
	}
	if err != nil {
		return to, &admin.Error{Reason: fmt.Sprintf("looking for the store in %s: %v", file, err), Remedy: "write its path " + how}
	}
	return to, nil
}

// serverIn returns Doorpost's global settings in a configuration of Caddy.
func serverIn(raw []byte) (s config.Server, err error) {
	var top struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal(raw, &top); err != nil {
		return s, err
	}
	ours, there := top.Apps["doorpost"]
	if !there {
		return s, errors.New("it has no doorpost in it")
	}
	return s, json.Unmarshal(ours, &s)
}
