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

// Caddy runs one configuration per process, so these tests can't run in parallel in one process.
// If all of them run, every second one runs in another process.

const halfEnv = "DOORPOST_TEST_HALF"

// runInHalves runs all tests in two concurrent processes, and returns the exit code. It prints
// the other process's output at the end.
func runInHalves(m *testing.M) int {
	debug.SetGCPercent(400) // each test opens a house and leaves garbage
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

// splits reports whether exactly all of these tests are to run.
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

// halves returns two patterns for -run, each for every second test.
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

// noteInputs reads what the other process has read, according to its log, so that the go command
// knows the inputs of the result that it caches.
func noteInputs(log string) {
	data, err := os.ReadFile(log)
	if err != nil {
		return // the test failed
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
