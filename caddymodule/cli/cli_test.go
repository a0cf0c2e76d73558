package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

var update = flag.Bool("update", false, "write the stories as they go now")

// desk is where an operator sits: the commands, and a server with a real store that
// they talk to. The folder of the test is the desk's own.
type desk struct {
	t       *testing.T
	dir     string
	address string // of the server
	store   string // path
	db      *bolt.DB
	firms   map[string]admin.Firm
	server  *mailServer // of the first firm
	mail    string      // the ID of the email that a story is about
	tries   int         // … that failed
}

// openDesk starts a server with the firms.
func openDesk(t *testing.T, firms ...string) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir(), firms: map[string]admin.Firm{}}
	t.Chdir(d.dir)
	d.store = filepath.Join(d.dir, "doorpost.db")
	db, err := bolt.Open(d.store, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d.db = db
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	counters := audit.NewCounters()
	for _, id := range firms {
		passwords := &password.Passwords{Firm: id, Store: db, Keys: keys, Semaphore: password.NewSemaphore(), Cost: password.Cost{Memory: 64, Time: 1, Threads: 1}}
		d.firms[id] = admin.Firm{
			Directory: &directory.Directory{Firm: id, Store: db, Keys: keys, Staff: []address.Address{"owner@example.com"}, Now: time.Now,
				Passwords: action.Passwords(passwords, id == "other")},
			Queue:       &outbox.Queue{Firm: id, Store: db, Keys: keys},
			NoPasswords: id == "other",
			Sessions:    &session.Sessions{Firm: id, Store: db, Keys: keys, Idle: time.Hour, Max: 2 * time.Hour},
			Tokens:      &token.Tokens{Firm: id, Store: db, Keys: keys, Life: 10 * time.Minute},
			Audit:       &audit.Log{Logger: slog.New(slog.DiscardHandler), Keys: keys, EventLog: audit.NewEventLog(id, db, time.Now, counters)},
			Usage:       d.usage(id, keys),
			Reports:     &reports.Reports{Firm: id, Store: db, Keys: keys, Dir: filepath.Join(d.dir, "reports"), URL: "https://clients.example.com/-/reports/"},
		}
		f := d.firms[id]
		letters, err := brand.NewMessages(brand.Brand{Name: "Example Bookkeeping", From: "hello@example.com"}, "")
		if err != nil {
			t.Fatal(err)
		}
		f.Notices = &action.Notices{Firm: id, Store: db, Keys: keys, Directory: f.Directory, Queue: f.Queue, Messages: letters, Unread: &notice.Unread{Firm: id, Store: db, Keys: keys}, Audit: f.Audit}
		f.Announcements = &action.Announcements{Firm: id, Store: db, Keys: keys, Directory: f.Directory, Queue: f.Queue, Audit: f.Audit}
		f.ServiceTokens = &servicetoken.Tokens{Firm: id, Store: db, Keys: keys}
		d.firms[id] = f
		t.Cleanup(func() { d.firms[id].Audit.EventLog.Close() })
		if d.server == nil {
			f := d.firms[id]
			d.server = d.openMail(t, &f)
			d.firms[id] = f
		}
	}
	s := httptest.NewServer(&admin.Handler{Firms: d.firms, Backup: db.Backup})
	t.Cleanup(s.Close)
	d.address = s.Listener.Addr().String()
	return d
}

// run runs `caddy doorpost` with the arguments and returns what it prints and its exit
// code. It asks the desk's server unless the arguments say otherwise.
func (d *desk) run(args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	d.t.Setenv("CADDY_ADMIN", d.address)
	caddyRoot := &cobra.Command{Use: "caddy", SilenceUsage: true}
	root := &cobra.Command{Use: "doorpost <command>", Long: aboutDoorpost}
	Commands(root)
	caddyRoot.AddCommand(root)
	var out, errOut bytes.Buffer
	caddyRoot.SetOut(&out)
	caddyRoot.SetErr(&errOut)
	if !strings.Contains(strings.Join(args, " "), "--address") && talks(root, args) {
		args = append(args, "--address", d.address)
	}
	caddyRoot.SetArgs(append([]string{"doorpost"}, args...))
	if err := caddyRoot.Execute(); err != nil {
		code = exitFailed
		// Caddy's main asks the same of the type, which only Caddy can name.
		if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct && v.Elem().FieldByName("ExitCode").IsValid() {
			code = int(v.Elem().FieldByName("ExitCode").Int())
		}
	}
	return out.String(), errOut.String(), code
}

// talks reports whether the arguments name a command that has an --address.
func talks(root *cobra.Command, args []string) bool {
	cmd, _, err := root.Find(args)
	return err == nil && cmd.Flags().Lookup("address") != nil
}

// signIn gives the contact a session.
func (d *desk) signIn(firm, email string) (cookie string) {
	d.t.Helper()
	f := d.firms[firm]
	c, err := f.Directory.ByEmail(d.t.Context(), address.Address(email))
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := f.Sessions.Begin(d.t.Context(), session.Session{Contact: c.ID, Method: "link", Agent: "Safari on iPhone"}, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.db.Apply(d.t.Context(), b.Ops...); err != nil {
		d.t.Fatal(err)
	}
	f.Sessions.Began(d.t.Context(), b)
	return b.Cookie
}

// happens records an event: "% door JSON", whose contact is named by address, or "% unknown
// EMAIL" for somebody who asks with an address that is no contact's.
func (d *desk) happens(line string) {
	d.t.Helper()
	f := d.firms["example"]
	if email, ok := strings.CutPrefix(line, "% unknown "); ok {
		f.Audit.Record(d.t.Context(), audit.Event{Kind: audit.Unknown, Agent: "Safari on iPhone",
			Address: address.Address(email).Masked(), Whole: address.Address(email)})
		return
	}
	var e audit.Event
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "% door ")), &e); err != nil {
		d.t.Fatal(line, err)
	}
	if e.Contact != "" {
		c, err := f.Directory.ByEmail(d.t.Context(), address.Address(e.Contact))
		if err != nil {
			d.t.Fatal(line, err)
		}
		e.Contact, e.Address = c.ID, c.Email().Masked()
	}
	f.Audit.Record(d.t.Context(), e)
}

// TestStories runs the commands of testdata/commands/*.txt and compares what they
// print: a line "$ …" is a command, "% sign in EMAIL" a contact's browser, "% door JSON"
// and "% unknown EMAIL" what happens at the door (see happens), "% use …" a use of an old
// link (see uses), "% mail server says CODE"
// ("% announced" waits for the end of an announcement),
// what it refuses recipients with from now on ("% mail server says": nothing), "% mailed" waits for the queue, whose email is {mail} then, "% file
// NAME" begins a file that ends at an empty line; REPORTID is a report's ID; "# …" is said to the reader. Behind a
// command stands what it prints, on stderr with "! ", and its exit code unless it is 0.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/commands/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d stories, %v; want at least 5", len(files), err)
	}
	for _, name := range files {
		name, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Setenv("TZ", "UTC")
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			firms := []string{"example"}
			if strings.HasPrefix(string(want), "# Two firms") {
				firms = append(firms, "other")
			}
			got := openDesk(t, firms...).tell(string(want))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s; want what the file says\n%s", got, firstDifference(got, string(want)))
			}
		})
	}
}

// tell runs a story and returns it as it goes.
func (d *desk) tell(story string) string {
	d.t.Helper()
	var out strings.Builder
	lines := strings.Split(story, "\n")
	report := "" // the ID of the first report that the last command with one has named
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case verb == "$":
			stdout, stderr, code := d.run(argsOf(strings.NewReplacer("{mail}", d.mail, "REPORTID", report).Replace(rest))...)
			if id := reportID.FindString(stdout); id != "" {
				report = id
			}
			fmt.Fprintf(&out, "\n%s\n%s%s", line, d.steady(stdout), prefixed("! ", d.steady(stderr)))
			if code != 0 {
				fmt.Fprintf(&out, "[%d]\n", code)
			}
		case strings.HasPrefix(line, "% sign in "):
			d.signIn("example", strings.TrimPrefix(line, "% sign in "))
			fmt.Fprintf(&out, "\n%s\n", line)
		case strings.HasPrefix(line, "% door "), strings.HasPrefix(line, "% unknown "):
			d.happens(line)
			fmt.Fprintf(&out, "\n%s\n", line)
		case line == "% mailed":
			d.mail = d.mailed()
			fmt.Fprintf(&out, "\n%s\n", line)
		case strings.HasPrefix(line, "% mail server says"):
			d.server.says(strings.TrimSpace(strings.TrimPrefix(line, "% mail server says")))
			fmt.Fprintf(&out, "\n%s\n", line)
		case strings.HasPrefix(line, "% use "):
			d.uses(strings.Fields(line)[2:])
			fmt.Fprintf(&out, "\n%s\n", line)
		case strings.HasPrefix(line, "% file "):
			var text strings.Builder
			fmt.Fprintf(&out, "\n%s\n", line)
			for i++; i < len(lines) && lines[i] != ""; i++ {
				fmt.Fprintln(&text, lines[i])
			}
			out.WriteString(text.String())
			if err := os.WriteFile(strings.TrimPrefix(line, "% file "), []byte(text.String()), 0o600); err != nil {
				d.t.Fatal(err)
			}
		case line == "% announced":
			d.announced()
			fmt.Fprintf(&out, "\n%s\n", line)
		case verb == "#" && i == 0:
			fmt.Fprintln(&out, line)
		case verb == "#":
			fmt.Fprintf(&out, "\n%s\n", line)
		}
	}
	return out.String()
}

var reportID = regexp.MustCompile(`\bu[0-9a-v]{24}\b`)

var unsteady = []struct {
	was *regexp.Regexp
	now string
}{
	{regexp.MustCompile(`doorpost_[a-z2-7]{8}_[a-z2-7]{32}`), "doorpost_TOKEN"},
	{regexp.MustCompile(`(token|revoke|Revoked|made the service token|revoked the service token|"id":")( ?)[a-z2-7]{8}\b`), "$1${2}TOKENID"},
	{regexp.MustCompile(`(?m)^[a-z2-7]{8}  `), "TOKENID   "},
	{regexp.MustCompile(`"id":"[0-9a-v]{32}"`), `"id":"…"`},
	{regexp.MustCompile(`"id":"[A-Z2-7]{26}"`), `"id":"…"`},
	{regexp.MustCompile(`"id":"\d{8}t\d{6}\.\d{6}-[a-z2-7]{10}"`), `"id":"…"`},
	{regexp.MustCompile(`"version":"[\w-]{16}"`), `"version":"…"`},
	{regexp.MustCompile(`"id":"[a-z2-7]{26}"`), `"id":"…"`},
	{reportID, "REPORTID"},
	{regexp.MustCompile(`"contact":"[0-9a-v]{32}"`), `"contact":"…"`},
	{regexp.MustCompile(`"request":"[01]-[0-9a-z-]+"`), `"request":"…"`},
	{regexp.MustCompile(`(\d{4}-\d\d-\d\d )?\b\d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?Z?)?`), "TIME"},
	{regexp.MustCompile(`since \d{4}-\d\d-\d\d\b`), "since DATE"},
	{regexp.MustCompile(`before-restore-\S+?\.?\n`), "before-restore-TIME\n"},
	{regexp.MustCompile(`process \d+ \(on \S+, since TIME\)`), "process N"},
	{regexp.MustCompile(`\d+ KiB`), "N KiB"},
	{regexp.MustCompile(`\d-\d{8}t\d{9}-[0-9a-z]{16}`), "ID"},
	{regexp.MustCompile(`\d+ s ago *`), "N s ago  "},
	{regexp.MustCompile(`(?m)^ +\d+\.\d s `), "   N s "},
	{regexp.MustCompile(`"after":[0-9.]+`), `"after":N`},
	{regexp.MustCompile(`\d+ bytes`), "N bytes"},
}

// steady takes out what differs from one run to the next.
func (d *desk) steady(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, d.dir, "DIR"), d.address, "ADDRESS")
	s = strings.ReplaceAll(s, d.server.addr, "SERVER")
	for _, u := range unsteady {
		s = u.was.ReplaceAllString(s, u.now)
	}
	return s
}

// argsOf splits a command line at spaces outside of double quotes.
func argsOf(line string) (all []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

func prefixed(prefix, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(prefix + line)
	}
	return b.String()
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\n got %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines; want %d", len(g), len(w))
}

// Every command says what it does, and shows it.
func TestHelpTeaches(t *testing.T) {
	d := openDesk(t, "example")
	root := &cobra.Command{Use: "doorpost"}
	Commands(root)
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		stdout, stderr, code := d.run(append(path, "--help")...)
		if code != 0 || stderr != "" {
			t.Errorf("%v --help = %d, %s", path, code, stderr)
		}
		example := "  caddy doorpost " + strings.Join(path, " ")
		if slices.Equal(path, []string{"restore"}) || slices.Equal(path, []string{"migrate"}) {
			example = "caddy doorpost " + path[0]
		}
		if !strings.Contains(stdout, "Examples:\n") || !strings.Contains(cmd.Example, strings.TrimRight(example, " ")) {
			t.Errorf("%v --help has no example of it:\n%s", path, stdout)
		}
		if cmd.Short == "" && len(path) > 0 || cmd.Long == "" && len(path) > 0 || strings.Contains(stdout, "caddyserver.com") {
			t.Errorf("%v --help says too little, or leads to Caddy's documentation:\n%s", path, stdout)
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 82 {
				t.Errorf("%v --help: a line is too long for a terminal: %s", path, line)
			}
		}
		for _, sub := range cmd.Commands() {
			visit(sub, append(path[:len(path):len(path)], sub.Name()))
		}
	}
	visit(root, nil)
	for command, says := range map[string]string{
		"contacts import":  "an empty cell empties; leave the column",
		"companies import": "an empty cell empties; leave the column",
		"restore":          "--store /var/lib/caddy/.local/share/doorpost/doorpost.db",
	} {
		if stdout, _, _ := d.run(append(strings.Fields(command), "--help")...); !strings.Contains(stdout, says) {
			t.Errorf("%s --help doesn't say %q:\n%s", command, says, stdout)
		}
	}
}

// mainArgs makes the test binary Caddy's own main, with these arguments, one a line.
const mainArgs = "DOORPOST_TEST_CADDY_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(mainArgs); ok {
		os.Args = append([]string{"caddy"}, strings.Split(args, "\n")...)
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The exit codes as a shell sees them.
func TestExitCodes(t *testing.T) {
	d := openDesk(t, "example")
	for _, one := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"contacts", "add", "ann@example.com", "--address", d.address}, 0, "Added ann@example.com.", ""},
		{[]string{"contacts", "add", "ann@example.com", "--address", d.address}, 1, "", "Error: email: ann@example.com belongs to another contact\nWhat to do: "},
		{[]string{"contacts", "add"}, 2, "", `Error: something is missing behind "add"`},
		{[]string{"contacts", "ad"}, 2, "", `Error: there is no "ad" here`},
		{[]string{"contacts", "list", "--fim"}, 2, "", "Error: unknown flag: --fim"},
		{[]string{"contacts", "lst", "--address", d.address, "--fim"}, 2, "", `Error: there is no "lst" here; there is: add, `},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), mainArgs+"="+strings.Join(append([]string{"doorpost"}, one.args...), "\n"))
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		code := cmd.ProcessState.ExitCode()
		if code != one.code || !strings.HasPrefix(stdout.String(), one.stdout) || !strings.HasPrefix(stderr.String(), one.stderr) || one.stderr == "" && stderr.Len() > 0 {
			t.Errorf("caddy doorpost %v = %d\n%s%s; want %d, %q, %q", one.args, code, &stdout, &stderr, one.code, one.stdout, one.stderr)
		}
	}
}

// Where the server is: --address, the file of --config, the Caddyfile in the folder, or
// Caddy's default. Caddy's own log lines about files stay out of the answer.
func TestFindsTheServer(t *testing.T) {
	d := openDesk(t, "example")
	write := func(name, admin string) {
		if err := os.WriteFile(name, []byte("{\n\tadmin "+admin+"\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("named", d.address)
	write("env", "{env.DOORPOST_TEST_ADMIN}")
	write("off", "off")
	write("nobody", "127.0.0.1:1")
	write("bad", "off\n\tno_such_option")
	const ok = "There is no contact yet."
	for _, one := range []struct {
		caddyfile string // copied to Caddyfile
		byDefault string // Caddy's default address
		args      string
		says      string // on stdout, or, where it isn't ok, on stderr
	}{
		{"", "127.0.0.1:1", "--config named --adapter caddyfile", ok},
		{"", "127.0.0.1:1", "--config env --adapter caddyfile", ok},
		{"nobody", "127.0.0.1:1", "--config named --adapter caddyfile", ok},
		{"nobody", "127.0.0.1:1", "--address " + d.address, ok},
		{"named", "127.0.0.1:1", "", ok},
		{"", d.address, "", ok},
		{"bad", d.address, "", ok},
		{"off", d.address, "", ok},
		{"nobody", d.address, "", "Error: no Caddy answers at 127.0.0.1:1, as Caddyfile says (connect: "},
		{"", "127.0.0.1:1", "", "Error: no Caddy answers at 127.0.0.1:1, the default address (connect: "},
		{"bad", "127.0.0.1:1", "", "Error: no Caddy answers at 127.0.0.1:1, the default address, as the Caddyfile in this folder is of no use: "},
		{"", d.address, "--config bad --adapter caddyfile", "Error: adapting config using caddyfile: "},
		{"", d.address, "--config off --adapter caddyfile", "Error: off says admin off"},
		{"", d.address, "--config missing", "Error: reading config from file: "},
	} {
		os.Remove("Caddyfile")
		if one.caddyfile != "" {
			if err := os.Link(one.caddyfile, "Caddyfile"); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CADDY_ADMIN="+one.byDefault, "DOORPOST_TEST_ADMIN="+d.address,
			mainArgs+"="+strings.Join(append([]string{"doorpost", "contacts", "list"}, argsOf(one.args)...), "\n"))
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		said, quiet := &stdout, &stderr
		if one.says != ok {
			said, quiet = quiet, said
		}
		if (err == nil) != (one.says == ok) || !strings.HasPrefix(said.String(), one.says) || quiet.Len() > 0 {
			t.Errorf("contacts list %s, with the Caddyfile %q = %v\n%s%s; want %q and no more", one.args, one.caddyfile, err, &stdout, &stderr, one.says)
		}
	}
}

// A socket of another user is no sign that nothing runs there.
func TestSocketOfAnotherUserIsNamed(t *testing.T) {
	c := &call{ctx: t.Context(), address: "unix//run/caddy/admin.sock", source: "as Caddyfile says"}
	err := c.explain(&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)})
	told, ok := err.(*admin.Error)
	if !ok || !strings.HasPrefix(told.Reason, "this user may not use the admin endpoint at unix//run/caddy/admin.sock") || !strings.Contains(told.Remedy, "sudo -u caddy") {
		t.Errorf("explain(permission denied) = %v; want that this user may not use it, and as whom to run", err)
	}
}

// Whoever is disabled or revoked on the command line is out with the next look-up.
func TestCommandsShowOut(t *testing.T) {
	d := openDesk(t, "example")
	for _, command := range []string{"contacts disable", "sessions revoke", "contacts remove"} {
		d.run("contacts", "add", "ann@example.com")
		d.run("contacts", "enable", "ann@example.com")
		cookie := d.signIn("example", "ann@example.com")
		if _, stderr, code := d.run(append(argsOf(command), "ann@example.com")...); code != 0 {
			t.Fatal(command, stderr)
		}
		if _, err := d.firms["example"].Sessions.Lookup(t.Context(), cookie); err == nil {
			t.Errorf("after %s the session is still there", command)
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	d := openDesk(t, "example")
	d.run("contacts", "add", "ann@example.com")
	if err := os.WriteFile("copy.db", []byte("an older copy"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := d.run("backup", "copy.db"); code != 0 {
		t.Fatal(stderr)
	}
	if info, err := os.Stat("copy.db"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy's mode = %v, %v; want 0600", info.Mode(), err)
	}
	d.run("contacts", "add", "bob@example.com")
	if stdout, stderr, code := d.run("store", "check", "copy.db"); code != 0 || !strings.Contains(stdout, "copy.db is whole") {
		t.Errorf("store check of the copy = %d, %s%s; want 0 and that it is whole", code, stdout, stderr)
	}
	if _, stderr, code := d.run("store", "check", d.store); code != 1 || !strings.Contains(stderr, "in use") || !strings.Contains(stderr, "make a backup") {
		t.Errorf("store check beside the server = %d, %s; want 1 and what to do", code, stderr)
	}
	raw, err := os.ReadFile("copy.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("damaged.db", raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := d.run("store", "check", "damaged.db"); code != 1 || !strings.Contains(stderr, "damaged.db") || !strings.Contains(stderr, "keep another one") {
		t.Errorf("store check of a damaged copy = %d, %s; want 1 and what to do", code, stderr)
	}

	_, stderr, code := d.run("restore", "copy.db", "--store", d.store)
	if code != 1 || !strings.Contains(stderr, fmt.Sprintf("held by process %d", os.Getpid())) || !strings.Contains(stderr, "stop Caddy") {
		t.Errorf("restore beside the server = %d, %s; want 1 and who holds it", code, stderr)
	}
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := d.run("restore", "copy.db", "--store", d.store)
	if code != 0 || !strings.Contains(stdout, "kept as "+d.store+".before-restore-") {
		t.Fatalf("restore = %d, %s%s", code, stdout, stderr)
	}
	db, err := bolt.Open(d.store, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	book := &directory.Directory{Firm: "example", Store: db, Keys: d.firms["example"].Directory.Keys, Now: time.Now}
	if _, err := book.ByEmail(t.Context(), "ann@example.com"); err != nil {
		t.Errorf("ann isn't there after the restore: %v", err)
	}
	if _, err := book.ByEmail(t.Context(), "bob@example.com"); err == nil {
		t.Error("bob, who came after the copy, is there after the restore")
	}
}

// A copy that breaks off replaces nothing and leaves nothing.
func TestBackupBreaksOff(t *testing.T) {
	d := openDesk(t, "example")
	s := httptest.NewServer(&admin.Handler{Backup: func(w io.Writer) error {
		w.Write(make([]byte, 1<<20))
		return io.ErrUnexpectedEOF
	}})
	defer s.Close()
	if err := os.WriteFile("copy.db", []byte("an older copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := d.run("backup", "copy.db", "--address", s.Listener.Addr().String())
	if code != 1 || !strings.Contains(stderr, "broke off") {
		t.Errorf("backup = %d, %s; want 1 and that it broke off", code, stderr)
	}
	if left, err := os.ReadFile("copy.db"); string(left) != "an older copy" {
		t.Errorf("the older copy is gone: %d bytes, %v", len(left), err)
	}
	if parts, _ := filepath.Glob("copy.db.*"); len(parts) > 0 {
		t.Errorf("it left %v", parts)
	}
}

// The admin endpoint on a unix socket, named as Caddy names it.
func TestUnixSocket(t *testing.T) {
	d := openDesk(t, "example")
	s := httptest.NewUnstartedServer(&admin.Handler{Firms: d.firms})
	socket := filepath.Join(d.dir, "admin.sock")
	s.Listener.Close()
	s.Listener = listenUnix(t, socket)
	s.Start()
	defer s.Close()
	for _, address := range []string{"unix/" + socket, "unix/" + socket + "|0660"} {
		if stdout, stderr, code := d.run("contacts", "list", "--address", address); code != 0 || !strings.Contains(stdout, "There is no contact yet") {
			t.Errorf("contacts list --address %s = %d, %s%s", address, code, stdout, stderr)
		}
	}
}

func TestColumns(t *testing.T) {
	var b strings.Builder
	columns(&b, [][]string{{"NAME", "CITY"}, {"Zoë Müller", "Köln"}, {"Bo", ""}})
	if want := "NAME        CITY\nZoë Müller  Köln\nBo\n"; b.String() != want {
		t.Errorf("columns =\n%s; want\n%s", b.String(), want)
	}
}

// Progress is for people: it goes to a terminal, and to nothing else.
func TestProgress(t *testing.T) {
	var b strings.Builder
	if terminal(&b) != nil {
		t.Error("a buffer is taken for a terminal")
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if terminal(null) != nil {
		t.Error("/dev/null is taken for a terminal")
	}
	p := &progress{to: &b, name: "big.csv", size: 4}
	io.ReadFull(p.reader(strings.NewReader("abcd")), make([]byte, 2))
	io.ReadAll(p.reader(strings.NewReader("cd")))
	p.writing(admin.Progress{Done: 1000, Total: 3000})
	p.writing(admin.Progress{Done: 3000, Total: 3000})
	p.clear()
	var got []string
	for part := range strings.SplitSeq(b.String(), "\r\x1b[K") {
		if part != "" && (len(got) == 0 || got[len(got)-1] != part) {
			got = append(got, part)
		}
	}
	want := []string{"sending big.csv: 50 %", "checking big.csv …", "writing 1000 of 3000 …", "3000 rows written"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("progress = %q; want %q", got, want)
	}
	new(progress).writing(admin.Progress{}) // nobody looks: nothing to write to
}

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
