//go:build unix && !solaris && !aix

package bolt

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the lock that bbolt uses on the same file. It belongs to f: bbolt
// finds it its own, and it goes when f is closed, or the process ends in any way.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// unlock gives the lock back at once. Closing f would do so only when the last
// mapping of the file goes, and after a panic bbolt's stays.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
