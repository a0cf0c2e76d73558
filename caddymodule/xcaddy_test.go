package caddymodule

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestXcaddyScript runs ../xcaddy.sh with fake xcaddy and go commands that print their arguments;
// test.sh runs the real build.
func TestXcaddyScript(t *testing.T) {
	root := filepath.Dir(abs(t, "."))
	for _, c := range []struct {
		name   string
		xcaddy bool
		args   []string
		want   string // a pattern for the whole output
	}{
		{"with xcaddy", true, []string{"out/caddy"},
			`^building Caddy v9.9.9 with xcaddy: DIR/out/caddy\n` +
				`xcaddy CGO=0 build v9.9.9 --output DIR/out/caddy --with ` + module + `/caddymodule@v0.0.0` +
				` --replace ` + module + `@v0.0.0=` + regexp.QuoteMeta(root) + ` --replace ` + module + `/caddymodule@v0.0.0=(\S+)\n` +
				`module ` + module + `/caddymodule\n$`},
		{"without", false, []string{"/abs/caddy"},
			`^building Caddy v9.9.9 with go build \(no xcaddy here\): /abs/caddy\n` +
				`go CGO=0 -C ` + regexp.QuoteMeta(root) + ` build -o /abs/caddy -ldflags -w -s -trimpath -tags nobadger,nomysql,nopgx ./cmd/caddy\n$`},
		{"default output", false, nil, `go build \(no xcaddy here\): DIR/caddy.exe\n`},
		{"help", false, []string{"--help"}, `^Builds a Caddy .*\n\n\t./xcaddy.sh \[OUTPUT\] `},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			bin := filepath.Join(dir, "bin")
			script(t, bin, "go", `case "$*" in
*list*) echo v9.9.9 ;;
"env GOEXE") echo .exe ;;
*) echo "go CGO=$CGO_ENABLED $*" ;;
esac`)
			if c.xcaddy {
				script(t, bin, "xcaddy", `echo "xcaddy CGO=$CGO_ENABLED $*"
cat "${10##*=}/go.mod"`)
			}
			for _, tool := range []string{"sh", "dirname", "mkdir", "mktemp", "rm", "sed", "cat"} {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path, filepath.Join(bin, tool)); err != nil {
					t.Fatal(err)
				}
			}
			if len(c.args) > 0 && strings.HasPrefix(c.args[0], "/abs") {
				c.args[0] = dir + c.args[0]
				c.want = strings.ReplaceAll(c.want, "/abs/", "DIR/abs/")
			}
			cmd := exec.Command(filepath.Join(root, "xcaddy.sh"), c.args...)
			cmd.Dir, cmd.Env = dir, []string{"PATH=" + bin, "TMPDIR=" + dir}
			out, err := cmd.CombinedOutput()
			if (err != nil) != (c.name == "help") {
				t.Errorf("xcaddy.sh = %v", err)
			}
			want := strings.ReplaceAll(c.want, "DIR", regexp.QuoteMeta(dir))
			if !regexp.MustCompile(want).Match(out) {
				t.Errorf("xcaddy.sh %q says\n%s\nwant\n%s", c.args, out, want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "tmp.*")); len(left) > 0 {
				t.Errorf("it left %v behind", left)
			}
		})
	}
}

func script(t *testing.T, folder, name, body string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}
