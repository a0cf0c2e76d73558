package caddymodule

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the import graph: each folder, and the folders that it may import.
//
//	                        cmd/caddy
//	                            │
//	                       caddymodule ────────────────► Caddy
//	                   ┌────────┼────────┐
//	                   ▼        ▼        ▼
//	                runtime ─► config ◄─ cli ──────────► Caddy
//	                   │                 │
//	                   ▼                 │
//	                 gate                │
//	         ┌─────────┼────────┐        │
//	         ▼         ▼        ▼        ▼
//	      signin    account  mailbox   admin ◄── console, api
//	         └────┬────┘        │        │
//	              ▼             │        │
//	   wayback visitor upstream │        │
//	      │       │       └──► web       │
//	      └───────┴─────────────┼────────┘
//	                            ▼
//	                          action
//	                            │
//	                            ▼
//	brand directory session token password limit notice oauth outbox reports audit usage assertion legacy servicetoken
//	                            │
//	                            ▼
//	tokensearch typo address language site loopback secret ◄── store/sealed ◄── store/anchor
//	                             store  ◄── store/sealed, store/anchor, store/bolt, store/redis, store/storetest; store/redistest
//
// Imports point down, siblings don't know one another, and only caddymodule, config and cli
// know Caddy. A new arrow is a line here.
var arrows = map[string][]string{
	"cmd/caddy":   {"caddymodule"},
	"caddymodule": {"runtime", "config", "cli", "doctor", "gate", "web", "admin", "legacy", "outbox", "audit"},

	"runtime": {"servicetoken", "config", "gate", "upstream", "web", "site", "admin", "action", "brand", "directory", "legacy", "loopback", "session", "token", "password", "limit", "notice", "oauth", "outbox", "reports", "audit", "usage", "assertion", "address", "secret", "store", "store/anchor", "store/bolt", "store/migrate", "store/redis"},
	"cli":     {"servicetoken", "config", "admin", "explain", "audit", "directory", "outbox", "store", "store/anchor", "store/bolt", "store/migrate", "store/redis", "usage"},
	"console": {"admin", "explain", "visitor", "web", "address", "directory", "outbox", "store", "usage"},
	"explain": {"admin", "audit", "directory", "outbox"},
	"config":  {"address", "brand", "directory", "legacy", "loopback", "outbox", "password", "phone", "secret", "store/anchor", "store/bolt", "store/redis", "typo", "upstream"},

	"gate":     {"api", "servicetoken", "console", "admin", "signin", "account", "mailbox", "visitor", "upstream", "web", "wayback", "site", "action", "directory", "legacy", "session", "token", "password", "limit", "notice", "outbox", "reports", "audit", "usage", "assertion", "secret", "store", "store/anchor", "tokensearch"},
	"api":      {"admin", "web", "directory", "limit", "servicetoken", "store"},
	"signin":   {"language", "visitor", "web", "wayback", "action", "directory", "token", "password", "limit", "outbox", "audit", "address", "secret", "store", "store/anchor"},
	"account":  {"visitor", "web", "wayback", "action", "directory", "legacy", "reports", "session", "token", "password", "limit", "notice", "audit", "store"},
	"mailbox":  {"web", "loopback", "secret"},
	"visitor":  {"upstream", "web", "action", "directory", "session", "limit", "notice", "assertion", "store/anchor"},
	"admin":    {"servicetoken", "action", "brand", "directory", "session", "token", "limit", "notice", "outbox", "reports", "audit", "usage", "assertion", "address", "typo", "secret", "store", "store/anchor"},
	"wayback":  {"legacy", "secret"},
	"upstream": {"web", "directory", "secret", "store"},
	"web":      {"brand", "language", "site", "address", "store"},
	"action":   {"brand", "directory", "legacy", "session", "token", "password", "limit", "notice", "outbox", "phone", "audit", "site", "address", "secret", "store", "store/sealed", "store/anchor"},

	"brand":     {"address", "language", "phone"},
	"directory": {"address", "phone", "typo", "tokensearch", "secret", "store", "store/sealed", "store/anchor"},
	"session":   {"address", "secret", "store", "store/sealed"},
	"token":     {"address", "secret", "store", "store/sealed"},
	"limit":     {"address", "secret", "store", "store/sealed"},
	"password":  {"address", "language", "secret", "store", "store/sealed"},
	"doctor":    {"address", "loopback", "outbox"},
	"oauth":     {"secret", "store", "store/sealed"},
	"outbox":    {"address", "loopback", "phone", "secret", "store", "store/sealed"},
	"audit":     {"address", "secret", "store", "store/sealed"},
	"notice":    {"secret", "store", "store/sealed"},
	"usage":     {"secret", "store", "store/sealed"},
	"reports":   {"secret", "store", "store/sealed"},
	"assertion": {"address", "secret", "store", "store/sealed"},
	"legacy":    {"tokensearch"},

	"servicetoken": {"secret", "store", "store/sealed"},

	"address":         {},
	"language":        {},
	"site":            {},
	"loopback":        {},
	"phone":           {},
	"tokensearch":     {},
	"typo":            {},
	"secret":          {},
	"store":           {},
	"store/bolt":      {"store"},
	"store/redis":     {"store"},
	"store/storetest": {"store"},
	"store/redistest": {},
	"store/migrate":   {"secret", "store", "store/anchor"},
	"store/sealed":    {"secret", "store"},
	"store/anchor":    {"secret", "store", "store/sealed"},
}

// testArrows are those that only tests add: what they drive from outside.
var testArrows = map[string][]string{
	"*":           {"address", "secret", "site", "store/bolt", "store/storetest"},
	"caddymodule": {"action", "servicetoken", "address", "directory", "loopback", "password", "secret", "store", "store/anchor", "store/bolt", "limit", "session", "token", "usage", "store/redis", "store/redistest", "store/sealed"},
	"cli":         {"servicetoken", "action", "brand", "notice", "password", "reports", "session", "token"},
	"directory":   {"store/redis"},
	"outbox":      {"store/redis"},
	"store/bolt":  {"store/storetest"},
	"store/redis": {"store/storetest", "store/redistest"},

	"store/migrate": {"store/bolt"},
}

const module = "github.com/doorpost-auth/doorpost"

// TestImports reads the sources themselves: what isn't an arrow above fails.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	eachGoFile(t, "..", func(path, folder string, imports []string) {
		seen[folder] = true
		allowed, known := arrows[folder]
		if !known {
			t.Errorf("%s: the folder %s is not in the drawing", path, folder)
		}
		if strings.HasSuffix(path, "_test.go") {
			allowed = slices.Concat(allowed, testArrows["*"], testArrows[folder], []string{folder})
		}
		for _, imp := range imports {
			if why := forbidden(folder, imp, allowed); why != "" {
				t.Errorf("%s imports %s: %s", path, imp, why)
			}
		}
	})
	for _, folder := range []string{"cmd/caddy", "caddymodule", "store", "store/bolt", "secret", "address"} {
		if !seen[folder] {
			t.Errorf("no source of %s was read", folder)
		}
	}
}

// forbidden returns why the folder may not import the package, or "".
func forbidden(folder, imp string, allowed []string) string {
	knowsCaddy := slices.Contains([]string{"cmd/caddy", "caddymodule", "config", "cli"}, folder)
	inner, ours := strings.CutPrefix(imp, module+"/")
	switch {
	case strings.HasPrefix(imp, "github.com/caddyserver/") && !knowsCaddy:
		return "only caddymodule, config and cli know Caddy"
	case !ours:
		return ""
	}
	if inner = short(inner); !slices.Contains(allowed, inner) {
		return "there is no arrow from " + folder + " to " + inner
	}
	return ""
}

// short returns the folder's name in the drawing.
func short(folder string) string {
	return strings.TrimPrefix(filepath.ToSlash(folder), "caddymodule/")
}

func eachGoFile(t *testing.T, root string, visit func(path, folder string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range file.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, imp)
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		visit(path, short(folder), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheCommandsAreBuiltIn: nothing in the module calls package cli, which adds the commands to
// Caddy as it is imported, so only its import by a source that isn't a test keeps them there.
func TestTheCommandsAreBuiltIn(t *testing.T) {
	found := false
	eachGoFile(t, "..", func(path, folder string, imports []string) {
		found = found || folder == "caddymodule" && !strings.HasSuffix(path, "_test.go") && slices.Contains(imports, module+"/caddymodule/cli")
	})
	if !found {
		t.Error("no source of caddymodule imports package cli")
	}
}

// TestForbidden holds the judge itself.
func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		folder, imp string
		want        string
	}{
		{"gate", module + "/caddymodule/token", ""},
		{"token", module + "/caddymodule/session", "there is no arrow from token to session"},
		{"token", module + "/caddymodule/gate", "there is no arrow from token to gate"},
		{"gate", module + "/caddymodule/runtime", "there is no arrow from gate to runtime"},
		{"gate", module + "/caddymodule/store/bolt", "there is no arrow from gate to store/bolt"},
		{"gate", module + "/caddymodule", "there is no arrow from gate to caddymodule"},
		{"gate", "github.com/caddyserver/caddy/v2", "only caddymodule, config and cli know Caddy"},
		{"outbox", "github.com/caddyserver/certmagic", "only caddymodule, config and cli know Caddy"},
		{"caddymodule", "github.com/caddyserver/caddy/v2", ""},
		{"store", "net/http", ""},
	} {
		if got := forbidden(c.folder, c.imp, arrows[c.folder]); got != c.want {
			t.Errorf("forbidden(%s, %s) = %q; want %q", c.folder, c.imp, got, c.want)
		}
	}
}
