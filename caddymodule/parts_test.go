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
// If all of them run, they run in several processes: half of a test's time is waiting.

const (
	partEnv = "DOORPOST_TEST_PART" // set in the processes that run a part of the tests
	parts   = 4
)

// runInParts runs all tests in concurrent processes, and returns the exit code. It prints the output
// of the other processes at the end.
func runInParts(m *testing.M) int {
	debug.SetGCPercent(400) // each test opens a house and leaves garbage
	flag.Parse()
	if !splits() {
		return m.Run()
	}
	patterns, err := partPatterns()
	if err != nil {
		fmt.Fprintln(os.Stderr, "listing the tests:", err)
		return 1
	}
	others := make([]*part, 0, parts-1)
	for i, pattern := range patterns[1:] {
		p := &part{log: filepath.Join(os.TempDir(), fmt.Sprintf("doorpost-part-%d-%d.log", os.Getpid(), i))}
		defer os.Remove(p.log)
		if err := p.start(pattern); err != nil {
			fmt.Fprintln(os.Stderr, "starting a part of the tests:", err)
			return 1
		}
		others = append(others, p)
	}
	if err := flag.Set("test.run", patterns[0]); err != nil {
		panic(err)
	}
	code := m.Run()
	for _, p := range others {
		if err := p.Wait(); err != nil {
			code = 1
		}
		os.Stdout.Write(p.said.Bytes())
		noteInputs(p.log)
	}
	return code
}

// part is a process that runs some of the tests.
type part struct {
	*exec.Cmd
	log  string // file in which it logs what it reads
	said bytes.Buffer
}

func (p *part) start(pattern string) error {
	p.Cmd = exec.Command(os.Args[0], "-test.testlogfile="+p.log, "-test.run="+pattern)
	for _, arg := range os.Args[1:] {
		if !regexp.MustCompile(`^--?test\.(run|testlogfile|coverprofile|cpuprofile|memprofile|gocoverdir)\b`).MatchString(arg) {
			p.Args = append(p.Args, arg)
		}
	}
	p.Env = append(os.Environ(), partEnv+"=1")
	p.Stdout, p.Stderr = &p.said, &p.said
	return p.Start()
}

// splits reports whether all of these tests are to run, but for those of -skip.
func splits() bool {
	if os.Getenv(partEnv) != "" {
		return false
	}
	all := true
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.run", "test.list", "test.fuzz", "test.bench", "test.coverprofile", "test.gocoverdir":
			all = all && f.Value.String() == ""
		}
	})
	return all
}

// partPatterns returns patterns for -run, each for a part of the tests.
func partPatterns() (patterns [parts]string, err error) {
	list := exec.Command(os.Args[0], "-test.list=^(Test|Example)")
	list.Env = append(os.Environ(), partEnv+"=1")
	out, err := list.Output()
	if err != nil {
		return patterns, err
	}
	var names [parts][]string
	for i, name := range strings.Fields(string(out)) {
		names[i%parts] = append(names[i%parts], name)
	}
	for i := range names {
		patterns[i] = "^(" + strings.Join(names[i], "|") + ")$"
	}
	return patterns, nil
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
