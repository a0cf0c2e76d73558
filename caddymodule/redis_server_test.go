package caddymodule_test

import (
	"crypto/rand"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redistest"
)

var onStore = flag.String("store", "bolt", "the store that houses stand on: bolt, redis, sentinel or cluster")

// redisServer is a Redis server of the test, or with -store several of them: with Sentinels, or a
// Cluster. They keep their data when they are killed, so that they can be started again.
type redisServer struct {
	dir, port string // of one server
	cmd       *exec.Cmd

	sentinels *redistest.Sentinels
	cluster   *redistest.Cluster
	used      bool // killed or ended meanwhile
}

// startRedis starts servers that end with the test.
func startRedis(t *testing.T) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("there is no redis-server; ./test.sh installs it")
	}
	if *onStore == "sentinel" || *onStore == "cluster" {
		return several.take(t)
	}
	_, port, _ := net.SplitHostPort(freeAddress(t))
	s := &redisServer{dir: t.TempDir(), port: port}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// several are servers that earlier tests have used and left as they were. Starting them takes seconds.
var several topologies

type topologies struct {
	dir  string
	idle []*redisServer
}

func (p *topologies) take(t *testing.T) (s *redisServer) {
	t.Helper()
	if n := len(p.idle); n > 0 {
		s, p.idle = p.idle[n-1], p.idle[:n-1]
	} else {
		s = p.open(t)
	}
	t.Cleanup(func() {
		if s.used || s.empty() != nil {
			s.stop()
			return
		}
		p.idle = append(p.idle, s)
	})
	return s
}

func (p *topologies) open(t *testing.T) *redisServer {
	t.Helper()
	if p.dir == "" {
		dir, err := os.MkdirTemp("", "doorpost-redis-*")
		if err != nil {
			t.Fatal(err)
		}
		p.dir = dir
		caddymodule.AtEnd(func() {
			for _, s := range p.idle {
				s.stop()
			}
			os.RemoveAll(dir)
		})
	}
	s := new(redisServer)
	var err error
	if *onStore == "sentinel" {
		s.sentinels, err = redistest.StartSentinels(p.dir, 1)
	} else {
		s.cluster, err = redistest.StartCluster(p.dir, 3, false, nil)
	}
	if err != nil {
		s.stop()
		t.Fatal(err)
	}
	return s
}

// servers returns the servers with data, where there are several.
func (s *redisServer) servers() []*redistest.Server {
	switch {
	case s.sentinels != nil:
		return s.sentinels.Servers
	case s.cluster != nil:
		return s.cluster.All()
	}
	return nil
}

// empty deletes all data.
func (s *redisServer) empty() error {
	if s.cluster != nil {
		return s.cluster.Empty()
	}
	_, err := s.sentinels.Master().Say("FLUSHALL")
	return err
}

// stop ends everything.
func (s *redisServer) stop() {
	if s.sentinels != nil {
		s.sentinels.Kill()
	}
	if s.cluster != nil {
		s.cluster.Kill()
	}
}

func (s *redisServer) start(t *testing.T) {
	t.Helper()
	if all := s.servers(); all != nil {
		for _, one := range all {
			if err := one.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if s.cluster != nil { // its nodes refuse everything until they have found one another
			if err := s.cluster.Settle(); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	s.cmd = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir,
		"--databases", "16", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.addresses()[0]); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("redis-server doesn't listen after 10 s")
		}
	}
}

// kill ends the servers at once. A second call does nothing.
func (s *redisServer) kill() {
	if all := s.servers(); all != nil {
		s.used = true
		for _, one := range all {
			one.Kill()
		}
		return
	}
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// end makes the servers save their data and end.
func (s *redisServer) end(t *testing.T) {
	t.Helper()
	if all := s.servers(); all != nil {
		s.used = true
		for _, one := range all {
			if err := one.End(); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait() // with an error, because it was interrupted
}

// signal sends a signal to the servers with data.
func (s *redisServer) signal(sig os.Signal) {
	for _, one := range s.servers() {
		one.Signal(sig)
	}
	if s.cmd != nil {
		s.cmd.Process.Signal(sig)
	}
}

// keep keeps a copy of the data, and returns a function that puts it back.
func (s *redisServer) keep(t *testing.T) (putBack func()) {
	t.Helper()
	dirs := []string{s.dir}
	if all := s.servers(); all != nil {
		dirs = nil
		for _, one := range all {
			dirs = append(dirs, one.Dir)
		}
	}
	s.end(t)
	copies := make(map[string]string)
	for _, dir := range dirs {
		copies[dir] = t.TempDir()
		if err := os.CopyFS(copies[dir], os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t)
	return func() {
		s.kill()
		for dir, kept := range copies {
			if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(kept))); err != nil {
				t.Fatal(err)
			}
		}
		s.start(t)
	}
}

// addresses returns those of the servers with data.
func (s *redisServer) addresses() (list []string) {
	for _, one := range s.servers() {
		list = append(list, one.Address())
	}
	if list == nil {
		list = append(list, net.JoinHostPort("127.0.0.1", s.port))
	}
	return list
}

// at is the address of the store.
func (s *redisServer) at() redis.Address {
	switch {
	case s.sentinels != nil:
		return redis.Address{Sentinel: s.sentinels.Name, Hosts: s.sentinels.Hosts()}
	case s.cluster != nil:
		return redis.Address{Cluster: true, Hosts: s.cluster.Hosts()}
	}
	return redis.Address{URL: "redis://" + s.addresses()[0] + "/0"}
}

// line is the setting without its block.
func (s *redisServer) line() string {
	if s.servers() == nil {
		return "store redis " + s.at().URL
	}
	return "store " + s.at().String()
}

// other returns the setting, and the one of another store.
func (s *redisServer) other(t *testing.T) (was, other string) {
	t.Helper()
	if s.servers() == nil {
		return s.line(), strings.TrimSuffix(s.line(), "/0") + "/1"
	}
	return s.line(), several.take(t).line()
}

// files returns the files with the data.
func (s *redisServer) files() (list []string) {
	dirs := []string{s.dir}
	if all := s.servers(); all != nil {
		dirs = nil
		for _, one := range all {
			dirs = append(dirs, one.Dir)
		}
	}
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.aof"))
		list = append(list, files...)
	}
	return list
}

// storeLines are the settings of the store for this run, unless the test's own settings name one.
func (h *house) storeLines(own string) string {
	if *onStore == "bolt" || strings.Contains(own, "store ") {
		return ""
	}
	h.redis = startRedis(h.t)
	return h.redis.lines(h.t, own, h.dir)
}

// secretLine matches the setting secret, and no other such as client_secret.
var secretLine = regexp.MustCompile(`(?m)^\s*secret `)

// lines returns the settings of a firm on the server; own are additional ones.
func (s *redisServer) lines(t *testing.T, own, dir string) string {
	t.Helper()
	lines := s.line()
	if !secretLine.MatchString(own) {
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		lines += "\n\t\tsecret {file." + path + "}"
	}
	return lines
}
