//go:build servers

package outbox

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestKillOnRedis is TestKill on a store that other machines may have open, too.
func TestKillOnRedis(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "redis.sock")
	server := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--maxmemory-policy", "noeviction", "--dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatalf("%v; ./test.sh installs redis-server", err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	until(t, "Redis listens", func() bool { return exec.Command("redis-cli", "-s", socket, "ping").Run() == nil })
	killing(t, "unix://"+socket)
}
