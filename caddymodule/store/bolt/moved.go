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

// movedSchema is the format of a file that Move leaves in place of the store. An earlier
// release that looks for its store there refuses to start, as with every newer store. Without
// a file, it would begin with an empty store, in which no company is upgraded and nobody is
// disabled.
const movedSchema = 1_000_000

// Moved reports whether Move left the file at path.
func Moved(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const most = 256 << 10 // the file has only a few pages
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	return err == nil && len(data) <= most && bytes.Contains(data, strconv.AppendInt(schemaKey[:len(schemaKey):len(schemaKey)], movedSchema, 10))
}

// writeMovedMarker replaces the file at path atomically by the one that Moved recognizes.
func writeMovedMarker(path string) error {
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
		if err := writeSchema(tx); err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(schemaKey, fmt.Append(nil, movedSchema))
	}), b.Close())
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp.Name(), path), syncDir(path))
}
