package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
)

var update = flag.Bool("update", false, "write what the golden files should hold into them; read the diff")

const divider = "\n----------\n"

// TestGolden adapts each testdata/caddyfile/*.caddyfiletest: a Caddyfile, a divider, and
// its JSON or its error with file and line.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/caddyfile/*.caddyfiletest")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d golden files, %v; want at least 60", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".caddyfiletest"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(data), divider)
			got := adaptForGolden(t, input+"\n")
			if *update {
				if err := os.WriteFile(name, []byte(input+divider+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want = strings.TrimSuffix(want, "\n"); !ok || got != want {
				t.Errorf("adapt(%s) =\n%s\nwant\n%s", name, got, want)
			}
		})
	}
}

// adaptForGolden returns the indented JSON, or the error.
func adaptForGolden(t *testing.T, caddyfile string) string {
	t.Helper()
	out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error()
	}
	for _, w := range warnings {
		t.Errorf("warning: %s", w)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, out, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return indented.String()
}

// TestEverySettingHasAnExample: errors show how to write each setting of the Caddyfile.
func TestEverySettingHasAnExample(t *testing.T) {
	const global = "{\n\tdoorpost {\n%s\n\t}\n}\n"
	const site = "{\n\tdoorpost {\n\t\tmail folder ./mail\n\t}\n}\nlocalhost {\n\tdoorpost example {\n%s\n\t}\n}\n"
	var all []string
	for _, c := range []struct{ block, first, in string }{
		{"", "", global}, {"store", "store redis redis://127.0.0.1/0 {", global},
		{"store.tls", "store redis redis://127.0.0.1/0 {\ntls {", global}, {"mail", "mail smtp mail.example.com:587 {", global},
		{"mail.oauth", "mail smtp mail.example.com:587 {\noauth microsoft {", global},
		{"text", "text webhook https://sms.example.com/send {", global},
		{"", "", site}, {"brand", "brand {", site}, {"session", "session {", site}, {"passwords", "passwords {", site},
	} {
		with := func(line string) string {
			if c.block != "" {
				line = c.first + "\n" + line + strings.Repeat("\n}", strings.Count(c.first, "{"))
			}
			return adaptForGolden(t, fmt.Sprintf(c.in, line))
		}
		_, list, found := strings.Cut(with("qqqqqqqq"), "; it knows ")
		list, _, _ = strings.Cut(list, ", at ")
		if !found {
			t.Fatalf("the block %q doesn't say what it knows: %s", c.block, with("qqqqqqqq"))
		}
		for name := range strings.SplitSeq(list, ", ") {
			path := strings.TrimPrefix(c.block+"."+name, ".")
			all = append(all, path)
			if example := config.Example(path); example == "" && path != "store" && path != "mail" { // they have their own errors
				t.Errorf("%s has no example: %s", path, with(name))
			} else if strings.HasSuffix(example, "{") && !slices.Contains([]string{"brand", "session", "passwords", "mail.oauth", "store.tls", "text"}, path) {
				t.Errorf("this test doesn't look into the block of %s", path)
			}
		}
	}
	for _, path := range config.Settings() {
		name := path[strings.LastIndex(path, ".")+1:]
		if !strings.HasPrefix(config.Example(path), name+" ") {
			t.Errorf("the example of %s is %q", path, config.Example(path))
		}
		if !slices.Contains(all, path) {
			t.Errorf("%s has an example, but this version doesn't have it: it knows %q", path, all)
		}
	}
}
