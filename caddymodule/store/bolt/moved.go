package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// movedSchema is the format of a file that Move leaves where the store was. A release that
// looks for its store there refuses to start, as with every store of a newer release. With no
// file there, it would begin with an empty store, in which nothing is upgraded and nobody
// disabled.
const movedSchema = 1_000_000

// Moved reports whether the file at path is what Move left there.
func Moved(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const most = 256 << 10 // the file is a few pages
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	return err == nil && len(data) <= most && bytes.Contains(data, strconv.AppendInt(schemaKey[:len(schemaKey):len(schemaKey)], movedSchema, 10))
}

// leaveMoved puts what Moved knows in the place of the file at path, in one step.
func leaveMoved(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".moved-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	b, err := bolt.Open(tmp.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	err = errors.Join(b.Update(func(tx *bolt.Tx) error {
		if err := mark(tx); err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(schemaKey, fmt.Append(nil, movedSchema))
	}), b.Close())
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp.Name(), path), syncDir(path))
}
