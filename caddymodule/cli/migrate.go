package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/migrate"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

func migrateCommand() *cobra.Command {
	return spec{
		use: "migrate [--from STORE] [--to STORE] [flags]", short: "Moves everything to another store, while the server is stopped",
		long: `Copies everything from one store into another one that is empty, and compares
both: contacts, sessions, links and mails that wait. Nobody is signed out.

A STORE is bolt:FILE, or the URL of a Redis server. The one that isn't given is
that of the configuration (the file of --config, or else the Caddyfile in this
folder): so write the new "store redis sentinel …" or "store redis cluster …"
there first, and name the old one with --from.

Stop Caddy first, on every machine. A file that a server has open is refused. Of
a Redis, the command notices only that something was changed meanwhile. Then the
copy isn't used, and you can say it again.

An interrupted command is said again, and goes on where it was. Until it has
ended, a server that starts on the new store lets nobody in. Once a server has
started on it, the old store isn't trusted any more, and can be deleted.

Both stores need the same secret. The command takes it from the configuration,
or from the file "secret" in Doorpost's data folder or beside the file. Run it
as the user who runs Caddy.`,
		example: `  sudo systemctl stop caddy
  sudo -u caddy caddy doorpost migrate --config /etc/caddy/Caddyfile \
    --from bolt:/var/lib/caddy/.local/share/doorpost/doorpost.db
  sudo systemctl start caddy`,
		local: true, run: (*call).migrate,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().String("from", "", "Store to move from; without it, that of the configuration")
			cmd.Flags().String("to", "", "Store to move to; without it, that of the configuration")
			cmd.Flags().Lookup("config").Usage = "Configuration file with the other store, and the secret"
		},
	}.command()
}

// migrated is the output of migrate with --json.
type migrated struct {
	From string `json:"from"`
	To   string `json:"to"`
	migrate.Result
}

func (c *call) migrate() error {
	from, to, keysOf, err := c.migrateTargets()
	if err != nil {
		return err
	}
	keys, err := keysOf.KeyringInUse()
	if err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: "write it in the configuration: secret {file./PATH}"}
	}
	now := time.Now()
	source, err := openForMove(c.ctx, from, now, true)
	if err != nil {
		return err
	}
	defer source.Close()
	if from.Path != "" {
		if err := checkSentLog(c.ctx, from.Path, source); err != nil {
			return err
		}
	}
	target, err := openForMove(c.ctx, to, now, false)
	if err != nil {
		return err
	}
	told := now
	result, err := migrate.Run(c.ctx, migrate.Options{From: source, To: target, Source: from.String(), Keys: keys, Progress: func(records int) {
		if !c.json && time.Since(told) > time.Second {
			told = time.Now()
			fmt.Fprintf(c.cmd.ErrOrStderr(), "%d records so far\n", records)
		}
	}})
	if err = errors.Join(err, target.Close()); err != nil {
		return explainMove(err, to)
	}
	return c.print(migrated{from.String(), to.String(), result}, func(w io.Writer) {
		if result.Resumed {
			fmt.Fprintln(w, "Went on where an earlier command was interrupted.")
		}
		fmt.Fprintf(w, "Moved %d records of %d %s from %s to %s, and compared them.\n", result.Records, len(result.Firms), plural(len(result.Firms), "firm", "firms"), from, to)
		fmt.Fprintln(w, "You can start Caddy with the new store now. It needs the same secret.\nOnce it has started, the old store isn't trusted any more. Delete it when you are sure that you won't go back.")
	})
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// migrateTargets returns both stores, and the settings that say where the secret is.
func (c *call) migrateTargets() (from, to config.Location, keysOf config.Resolved, err error) {
	fromText, toText := flagOf[string](c.cmd, "from"), flagOf[string](c.cmd, "to")
	if fromText == "" && toText == "" {
		return from, to, keysOf, usage("which stores? Name one with --from or --to; the other one is that of the configuration")
	}
	keysOf, err = c.storeTarget("", "with --from or --to")
	if err != nil && (fromText == "" || toText == "" || flagOf[string](c.cmd, "config") != "") {
		return from, to, keysOf, err
	}
	from, to = keysOf.Store, keysOf.Store
	for _, one := range []struct {
		flag, text string
		place      *config.Location
	}{{"from", fromText, &from}, {"to", toText, &to}} {
		if one.text == "" {
			continue
		}
		if *one.place, err = config.ParseStore(one.text); err != nil {
			return from, to, keysOf, &admin.Error{Reason: fmt.Sprintf("--%s: %v", one.flag, err), Remedy: "write bolt:FILE or redis://HOST:6379/0"}
		}
	}
	if from == to {
		return from, to, keysOf, &admin.Error{Reason: "both are the same store: " + from.String(), Remedy: "name the other one with --from or --to"}
	}
	for _, p := range []config.Location{to, from} { // the secret may be beside the file
		if p.Path != "" {
			keysOf.Store = p
		}
	}
	return from, to, keysOf, nil
}

// openForMove opens a store whose records expire by one time, so that both have the same ones.
func openForMove(ctx context.Context, p config.Location, now time.Time, source bool) (migrate.Store, error) {
	clock := func() time.Time { return now }
	if p.Path == "" {
		s, err := redis.Open(ctx, redis.Options{Address: p.Redis, Clock: clock, Sweep: time.Hour, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, &admin.Error{Reason: err.Error(), Remedy: "nothing was moved; see that it runs, and that the address is right"}
		}
		return s, nil
	}
	if _, err := os.Stat(p.Path); source && err != nil {
		return nil, &admin.Error{Reason: err.Error(), Remedy: "write the path of the store behind bolt:"}
	}
	db, err := bolt.Open(p.Path, bolt.Options{Clock: clock})
	switch {
	case errors.Is(err, bolt.ErrHeld):
		return nil, &admin.Error{Reason: err.Error(), Remedy: "nothing was moved; stop Caddy, and say it again"}
	case err != nil:
		return nil, &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	return db, nil
}

// checkSentLog returns an error if a file beside the store says that mails were sent that wait in the
// store, as after a kill: they would be sent twice.
func checkSentLog(ctx context.Context, path string, db migrate.Store) error {
	if _, err := os.Stat(path + ".sent"); err != nil {
		return nil
	}
	log, err := outbox.OpenSentLog(ctx, path+".sent", db)
	if err == nil {
		err = log.Close()
	}
	info, statErr := os.Stat(path + ".sent")
	if err = errors.Join(err, statErr); err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	if info.Size() > 0 {
		return &admin.Error{Reason: "the server was killed, and its store doesn't know yet which mails were sent", Remedy: "start Caddy once more with this store, stop it, and say it again"}
	}
	return nil
}

func explainMove(err error, to config.Location) error {
	switch {
	case errors.Is(err, migrate.ErrNotEmpty):
		remedy := "name another file"
		if to.Path == "" {
			remedy = "name another database or server, or empty this one, if nothing in it is needed: redis-cli FLUSHDB"
		}
		return &admin.Error{Reason: err.Error(), Remedy: remedy}
	case errors.Is(err, migrate.ErrChanged):
		return &admin.Error{Reason: err.Error(), Remedy: "stop Caddy on every machine, and say it again"}
	case errors.Is(err, migrate.ErrDifferent):
		return &admin.Error{Reason: err.Error(), Remedy: "say it again; until it succeeds, the old store is the one to use"}
	case errors.Is(err, anchor.ErrUntrusted):
		return &admin.Error{Reason: err.Error(), Remedy: "start Caddy with the old store, say \"caddy doorpost store accept\", stop it, and say it again"}
	case errors.Is(err, context.Canceled):
		return &admin.Error{Reason: "interrupted", Remedy: "say it again, and it goes on where it was"}
	}
	return &admin.Error{Reason: err.Error(), Remedy: "say it again, and it goes on where it was"}
}
