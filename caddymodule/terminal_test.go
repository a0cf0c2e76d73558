package caddymodule

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/cli"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// terminal is where an operator types commands.
type terminal struct {
	t       *testing.T
	address string // of the admin endpoint
}

// run runs `caddy doorpost` with the arguments, and returns its output and exit code.
func (o *terminal) run(args ...string) (stdout, stderr string, code int) {
	o.t.Helper()
	o.t.Setenv("CADDY_ADMIN", o.address)
	caddyRoot := &cobra.Command{Use: "caddy", SilenceUsage: true}
	root := &cobra.Command{Use: "doorpost <command>"}
	cli.Commands(root)
	caddyRoot.AddCommand(root)
	var out, errOut bytes.Buffer
	caddyRoot.SetOut(&out)
	caddyRoot.SetErr(&errOut)
	if cmd, _, err := root.Find(args); err == nil && cmd.Flags().Lookup("address") != nil {
		args = append(args, "--address", o.address)
	}
	caddyRoot.SetArgs(append([]string{"doorpost"}, args...))
	if err := caddyRoot.Execute(); err != nil {
		code = 1
		// Caddy's main makes the same check by type, which only Caddy can name.
		if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct && v.Elem().FieldByName("ExitCode").IsValid() {
			code = int(v.Elem().FieldByName("ExitCode").Int())
		}
	}
	return out.String(), errOut.String(), code
}

// copyOfStore makes a store in the folder and a copy of it, and returns the copy's path.
func copyOfStore(t *testing.T, dir string) string {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "first.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	if err := db.Backup(&copied); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "copy.db")
	if err := os.WriteFile(path, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
