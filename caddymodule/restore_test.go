package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// restore finds the store in the same way as the server.
func TestRestoreFindsTheStore(t *testing.T) {
	dir, d := t.TempDir(), &terminal{t: t}
	t.Chdir(dir)
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("DOORPOST_TEST_STORE", "by-env.db")
	copyOfStore(t, dir)
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("named", siteBlock{global: "store bolt named.d/doorpost.db"}.caddyfile())
	write("env", siteBlock{global: "store bolt {env.DOORPOST_TEST_STORE}"}.caddyfile())
	write("default", siteBlock{}.caddyfile())
	write("none", "localhost:0")
	write("bad", "{")
	inData := filepath.Join(dir, "data", "doorpost", "doorpost.db")
	for _, one := range []struct {
		args string
		path string // relative to the folder
		says string
	}{
		{"--store there/x.db", "there/x.db", ""},
		{"--config named --adapter caddyfile", "named.d/doorpost.db", ""},
		{"--config env --adapter caddyfile", "by-env.db", ""},
		{"--config default --adapter caddyfile", inData, ""},
		{"--config none --adapter caddyfile", "", "it has no doorpost in it"},
		{"--config bad --adapter caddyfile", "", "--store"},
		{"--config missing", "", "--store"},
		{"", inData, ""},
	} {
		os.Remove(inData)
		stdout, stderr, code := d.run(append([]string{"restore", "copy.db"}, strings.Fields(one.args)...)...)
		path := one.path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if one.says != "" {
			if code != 1 || !strings.Contains(stderr, one.says) {
				t.Errorf("restore %s = %d, %s; want 1 and %q", one.args, code, stderr, one.says)
			}
			continue
		}
		if code != 0 || !strings.HasPrefix(stdout, "Restored "+path+".\n") || !strings.Contains(stdout, "There was no store before") {
			t.Errorf("restore %s = %d, %s%s; want it at %s", one.args, code, stdout, stderr, path)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("restore %s: %v", one.args, err)
		}
	}
	write("Caddyfile", siteBlock{global: "store bolt beside.db"}.caddyfile())
	if stdout, stderr, code := d.run("restore", "copy.db"); code != 0 || !strings.Contains(stdout, "beside.db") {
		t.Errorf("restore with a Caddyfile in the folder = %d, %s%s; want its store", code, stdout, stderr)
	}
}
