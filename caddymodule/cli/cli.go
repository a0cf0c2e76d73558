package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "doorpost",
		Usage:     "<command>",
		Short:     "Manages who may sign in to the portal",
		Long:      aboutDoorpost,
		CobraFunc: Commands,
	})
}

const aboutDoorpost = `Manages who may sign in to the portal: contacts, the companies they belong to,
the browsers that are signed in, and copies of it all.

The commands talk to the running server over Caddy's admin endpoint, as
"caddy reload" does. Its address is that of --address, or the one in the file of
--config, or in a Caddyfile in this folder, or else the default one. What they
change is in force with the next request; nothing has to be reloaded.

With --json, answers and errors are JSON of a stable shape, for scripts. The
exit code is 0 when it was done, 1 when it failed, and 2 when the command
wasn't understood.`

// The exit codes. Caddy's own have other meanings from 2 on.
const (
	exitFailed = 1
	exitUsage  = 2
)

// commands puts the tree of commands below `caddy doorpost`.
func Commands(root *cobra.Command) {
	root.Example = `  caddy doorpost contacts add ann@example.com --first-name Ann --companies acme
  caddy doorpost contacts import contacts.csv --dry-run
  caddy doorpost sessions revoke ann@example.com`
	// Without the footer of Caddy's own, which leads to Caddy's documentation.
	root.SetHelpTemplate(`{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`)
	// A command that holds others can't be run by itself, though cobra takes it so.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if not .HasAvailableSubCommands}}", 1))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return finish(cmd, usage("%w", err)) })
	parent(root)
	root.AddCommand(contactCommands(), companyCommands(), filesCommand(), upgradeCommand(), legacyCommands(), notifyCommand(), announceCommand(), previewCommand(), tokenCommands(), resetLinkCommand(), sessionCommands(), reportCommands(), mailCommands(), auditCommand(), doctorCommand(), storeCommands(), backupCommand(), restoreCommand(), migrateCommand())
}

// group makes a command that only holds others.
func group(use, short, long, example string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use + " <command>", Short: short, Long: long, Example: example}
	parent(cmd)
	cmd.AddCommand(sub...)
	return cmd
}

// parent makes a command that holds others refuse to be run by itself.
func parent(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.DisableFlagsInUseLine = true
	cmd.FParseErrWhitelist.UnknownFlags = true // they are of the command that isn't there
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() && c.Name() != "help" {
				names = append(names, c.Name())
			}
		}
		if len(args) == 0 {
			return finish(cmd, usage("say what to do: %s", strings.Join(names, ", ")))
		}
		return finish(cmd, usage("there is no %q here; there is: %s", args[0], strings.Join(names, ", ")))
	}
}

// spec is a command that does something.
type spec struct {
	use, short, long, example string

	least, most int // how many arguments; most -1: any number
	flags       func(*cobra.Command)
	run         func(*call) error

	local bool // it talks to no server
	whole bool // it is about the whole server, not about one firm
}

// command makes the leaf a command.
func (l spec) command() *cobra.Command {
	cmd := &cobra.Command{Use: l.use, Short: l.short, Long: l.long, Example: l.example, DisableFlagsInUseLine: true}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < l.least:
			return finish(cmd, usage("something is missing behind %q", cmd.Name()))
		case l.most >= 0 && len(args) > l.most:
			return finish(cmd, usage("%q is one too many; put quotes around what has spaces in it", args[l.most]))
		}
		return nil
	}
	cmd.Flags().Bool("json", false, "Print JSON, for scripts")
	cmd.Flags().StringP("config", "c", "", "Configuration file to find the admin address in, without --address (default: Caddyfile, if it is in this folder)")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter to apply to the file")
	if !l.local {
		cmd.Flags().String("address", "", "Address of the admin endpoint, if it isn't the default one")
	}
	if !l.local && !l.whole {
		cmd.Flags().String("firm", "", "The firm's id, where the server has more than one")
	}
	if l.flags != nil {
		l.flags(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return finish(cmd, l.do(cmd, args)) }
	return cmd
}

func (l spec) do(cmd *cobra.Command, args []string) error {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &call{cmd: cmd, ctx: ctx, args: args, json: flagOf[bool](cmd, "json"), out: cmd.OutOrStdout()}
	if l.local {
		return l.run(c)
	}
	var err error
	if c.address, c.source, err = adminAddress(flagOf[string](cmd, "address"), flagOf[string](cmd, "config"), flagOf[string](cmd, "adapter")); err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: "say where the admin endpoint is with --address"}
	}
	if c.client, err = connect(c.address); err != nil {
		return err
	}
	if !l.whole {
		if c.firm, err = c.chooseFirm(flagOf[string](cmd, "firm")); err != nil {
			return c.explain(err)
		}
	}
	return c.explain(l.run(c))
}

// flagOf returns the value of a flag that the command has.
func flagOf[T bool | string | []string](cmd *cobra.Command, name string) (v T) {
	var err error
	switch p := any(&v).(type) {
	case *bool:
		*p, err = cmd.Flags().GetBool(name)
	case *string:
		*p, err = cmd.Flags().GetString(name)
	case *[]string:
		*p, err = cmd.Flags().GetStringSlice(name)
	}
	if err != nil {
		panic("doorpost: " + err.Error()) // a flag that was never declared
	}
	return v
}

// given returns the flag's value if it was given, even as an empty one, and else nil.
func given[T bool | string | []string](cmd *cobra.Command, name string) *T {
	if !cmd.Flags().Changed(name) {
		return nil
	}
	v := flagOf[T](cmd, name)
	return &v
}

// call is one command that is being run.
type call struct {
	ctx     context.Context // ends with an interrupt
	cmd     *cobra.Command
	args    []string
	json    bool
	out     io.Writer
	address string        // of the admin endpoint
	source  string        // where that comes from, for people
	client  *admin.Client // nil for a local command
	firm    string
}

// patience is how long a server may take for a short request. Imports and copies have no limit.
const patience = time.Minute

// brief returns a context for a short request.
func (c *call) brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, patience)
}

func (c *call) chooseFirm(id string) (string, error) {
	if id != "" {
		return id, nil
	}
	ctx, cancel := c.brief()
	defer cancel()
	firms, err := c.client.Firms(ctx)
	switch {
	case err != nil:
		return "", err
	case len(firms) == 0:
		return "", &admin.Error{Reason: "the running configuration has no firm in it", Remedy: `add a site block with "doorpost FIRM { … }" to the Caddyfile`}
	case len(firms) > 1:
		var ids []string
		for _, f := range firms {
			ids = append(ids, f.ID)
		}
		return "", usage("the server has more than one firm; choose one with --firm: %s", strings.Join(ids, ", "))
	}
	return firms[0].ID, nil
}

// print answers: v as JSON where that was asked for, else the text that human writes.
func (c *call) print(v any, human func(io.Writer)) error {
	if c.json {
		e := json.NewEncoder(c.out)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	human(c.out)
	return nil
}

// adminAddress returns where the admin endpoint is, and what says so: the address, if
// it isn't empty, or the file, or the Caddyfile in this folder. Without one of them, and
// where that Caddyfile can't be used, it is Caddy's default.
func adminAddress(address, config, adapter string) (at, source string, err error) {
	if address != "" {
		return address, "as --address says", nil
	}
	raw, file, err := loadConfig(config, adapter)
	named := config != "" || adapter != ""
	var top struct {
		Admin caddy.AdminConfig `json:"admin"`
	}
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &top)
	}
	if err == nil && top.Admin.Disabled {
		err = fmt.Errorf("%s says admin off, and without the admin endpoint the commands reach no server", file)
	}
	if err == nil && top.Admin.Listen != "" {
		at, err = caddy.NewReplacer().ReplaceOrErr(top.Admin.Listen, true, true)
		source = "as " + file + " says"
	}
	switch {
	case err != nil && named:
		return "", "", err
	case err != nil:
		return caddy.DefaultAdminListen, fmt.Sprintf("the default address, as the Caddyfile in this folder is of no use: %v", err), nil
	case at == "":
		return caddy.DefaultAdminListen, "the default address", nil
	}
	return at, source, nil
}

// loadConfig is caddycmd.LoadConfig without the log lines that it writes to stderr,
// where only the command's own words belong. file is "" where there is no configuration.
func loadConfig(config, adapter string) (raw []byte, file string, err error) {
	_, log, lines := caddy.BufferedLog()
	defer func() {
		lines.FlushTo(zap.NewNop())
		caddy.UnbufferDefaultLogger(log)
	}()
	raw, file, _, err = caddycmd.LoadConfig(config, adapter)
	return raw, file, err
}

// connect returns a client for Caddy's admin endpoint at an address as Caddy writes it.
func connect(address string) (*admin.Client, error) {
	at, err := caddy.ParseNetworkAddress(address)
	if err != nil || at.PortRangeSize() > 1 {
		return nil, usage("%q is no address of an admin endpoint; write HOST:PORT or unix//PATH", address)
	}
	to := at.JoinHostPort(0)
	t := transport{origin: "http://" + to}
	base := t.origin
	if at.IsUnixNetwork() {
		// The permissions that the server gives the socket may stand behind its path.
		to, _, _ = strings.Cut(to, "|")
		base, t.origin = "http://127.0.0.1", ""
	}
	var d net.Dialer
	t.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, at.Network, to)
	}}
	return &admin.Client{Base: base, HTTP: &http.Client{Transport: t}}, nil
}

// transport is the way to the admin endpoint, which wants to know from where a request comes.
type transport struct {
	*http.Transport
	origin string
}

func (v transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if v.origin != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Origin", v.origin)
	}
	return v.Transport.RoundTrip(r)
}

// usageError is a command that can't be understood.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// explain says what an error on the way to the server means, and what to do.
func (c *call) explain(err error) error {
	var dial *net.OpError
	var refused *admin.Error
	switch {
	case err == nil || errors.As(err, new(usageError)):
		return err
	case errors.Is(err, context.Canceled) && c.ctx.Err() != nil:
		return &admin.Error{Reason: "interrupted"}
	case errors.As(err, &dial) && dial.Op == "dial" && errors.Is(err, fs.ErrPermission):
		return &admin.Error{Reason: fmt.Sprintf("this user may not use the admin endpoint at %s, %s", c.address, c.source),
			Remedy: "run the command as root or as Caddy's user, such as: sudo -u caddy caddy doorpost …"}
	case errors.As(err, &dial) && dial.Op == "dial":
		return &admin.Error{Reason: fmt.Sprintf("no Caddy answers at %s, %s (%v)", c.address, c.source, dial.Err),
			Remedy: "start it, or say where its admin endpoint is with --address or --config"}
	case errors.Is(err, context.DeadlineExceeded):
		return &admin.Error{Reason: fmt.Sprintf("the server at %s, %s, didn't answer within %s", c.address, c.source, patience), Remedy: "look into its log, then try again"}
	case errors.As(err, &refused) && refused.Code == "" && refused.Status == http.StatusNotFound:
		return &admin.Error{Reason: fmt.Sprintf("the Caddy at %s, %s, has no doorpost in it", c.address, c.source),
			Remedy: "start the one that has, or say where its admin endpoint is with --address or --config"}
	case errors.As(err, &refused) && refused.Code == "" && refused.Status == http.StatusForbidden:
		return &admin.Error{Reason: fmt.Sprintf("the admin endpoint at %s refuses: %s", c.address, refused.Reason),
			Remedy: "write the address as in its configuration (admin ADDRESS), or allow this one there with origins"}
	}
	return err
}

// finish tells what went wrong, and returns an error that carries the exit code to
// Caddy's main. Cobra has nothing left to say then.
func finish(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	told, misused := &admin.Error{}, false
	if !errors.As(err, &told) {
		told = &admin.Error{Reason: err.Error()}
	}
	if misused = errors.As(err, new(usageError)); misused {
		told.Code, told.Remedy = "usage", cmd.CommandPath()+" --help"
	} else if told.Code == "" {
		told.Code = "failed"
	}
	if asked := cmd.Flags().Lookup("json"); asked != nil && asked.Value.String() == "true" {
		e := json.NewEncoder(cmd.ErrOrStderr())
		e.SetEscapeHTML(false)
		e.Encode(told)
	} else {
		tell(cmd, told, misused)
	}
	if !misused {
		return err
	}
	// Caddy's main goes by an error type that only this function makes.
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
}

func tell(cmd *cobra.Command, e *admin.Error, misused bool) {
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "Error: %s\n", e)
	for _, row := range e.Rows {
		fmt.Fprintf(w, "  %s\n", row)
	}
	if e.More > 0 {
		fmt.Fprintf(w, "  and %d more\n", e.More)
	}
	switch {
	case misused:
		fmt.Fprintf(w, "Usage: %s\nTo learn more: %s\n", cmd.UseLine(), e.Remedy)
	case e.Remedy != "":
		fmt.Fprintf(w, "What to do: %s\n", e.Remedy)
	}
}

// columns writes rows as a table. Their cells have no line breaks or control characters, which the
// directory refuses.
func columns(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-len([]rune(cell))+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// orNone is a list in a sentence.
func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
