//go:build !unix || solaris || aix

package bolt

import "os"

// tryLock leaves locking to bbolt: these systems have no lock that two calls through one
// open file share.
func tryLock(*os.File) error { return nil }

func unlock(*os.File) {}
