package caddymodule

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

// Caddy runs one configuration in a process, so these tests can't run side by side in one. Where
// all of them are to run, every second one does so in another process.

const halfEnv = "DOORPOST_TEST_HALF"

// runInHalves runs all tests in two processes at once, and returns the exit code. What the other
// process says comes when it has ended.
func runInHalves(m *testing.M) int {
	debug.SetGCPercent(400) // each test opens a house of its own, and leaves it as garbage
	flag.Parse()
	if !splits() {
		return m.Run()
	}
	mine, others, err := halves()
	if err != nil {
		fmt.Fprintln(os.Stderr, "listing the tests:", err)
		return 1
	}
	log := filepath.Join(os.TempDir(), fmt.Sprintf("doorpost-half-%d.log", os.Getpid()))
	defer os.Remove(log)
	other := exec.Command(os.Args[0], "-test.run="+others)
	for _, arg := range os.Args[1:] {
		if !regexp.MustCompile(`^--?test\.(run|testlogfile|coverprofile|cpuprofile|memprofile|gocoverdir)\b`).MatchString(arg) {
			other.Args = append(other.Args, arg)
		}
	}
	other.Args = append(other.Args[:2:2], append([]string{"-test.testlogfile=" + log}, other.Args[2:]...)...)
	other.Env = append(os.Environ(), halfEnv+"=1")
	var said bytes.Buffer
	other.Stdout, other.Stderr = &said, &said
	if err := other.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "starting the other half:", err)
		return 1
	}
	if err := flag.Set("test.run", mine); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := other.Wait(); err != nil {
		code = 1
	}
	os.Stdout.Write(said.Bytes())
	noteInputs(log)
	return code
}

// splits reports whether all tests are to run, and nothing but these.
func splits() bool {
	if os.Getenv(halfEnv) != "" {
		return false
	}
	all := true
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.run", "test.list", "test.fuzz", "test.bench", "test.skip", "test.coverprofile", "test.gocoverdir":
			all = all && f.Value.String() == ""
		}
	})
	return all
}

// halves returns patterns for -run, each of every second test.
func halves() (even, odd string, err error) {
	list := exec.Command(os.Args[0], "-test.list=^(Test|Example)")
	list.Env = append(os.Environ(), halfEnv+"=1")
	out, err := list.Output()
	if err != nil {
		return "", "", err
	}
	var names [2][]string
	for i, name := range strings.Fields(string(out)) {
		names[i%2] = append(names[i%2], name)
	}
	return "^(" + strings.Join(names[0], "|") + ")$", "^(" + strings.Join(names[1], "|") + ")$", nil
}

// noteInputs looks at what the other half has read, as its log has it, so that the go command
// knows what the result depends on when it caches it.
func noteInputs(log string) {
	data, err := os.ReadFile(log)
	if err != nil {
		return // it has failed
	}
	folder, _ := os.Getwd()
	for line := range strings.Lines(string(data)) {
		what, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if what != "getenv" && !filepath.IsAbs(name) {
			name = filepath.Join(folder, name)
		}
		switch what {
		case "getenv":
			os.Getenv(name)
		case "chdir":
			folder = name
		case "open":
			if f, err := os.Open(name); err == nil {
				f.Close()
			}
		case "stat":
			os.Stat(name)
		}
	}
}
