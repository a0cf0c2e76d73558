package outbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Folder is the Sender that tries things out: every message becomes one .eml file, named
// by when it was asked for. It lets nobody in, so the files are for their owner only.
type Folder struct {
	Path string // made when it is missing
}

// Send writes the message, in one step: who looks into the folder sees all of it or
// nothing. The same message again takes the place of the first.
func (f Folder) Send(ctx context.Context, m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(f.Path, 0o700); err != nil {
		return folderError(err)
	}
	tmp, err := os.CreateTemp(f.Path, ".mail-*.tmp") // 0600
	if err != nil {
		return folderError(err)
	}
	_, err = tmp.Write(m.Data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		m.lastStep(ctx)
		err = os.Rename(tmp.Name(), filepath.Join(f.Path, fileName(m.ID)))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return folderError(err)
	}
	return nil
}

// fileName is the ID without its class: time first, so that names sort by time.
func fileName(id string) string {
	_, name, found := strings.Cut(id, "-")
	if !found {
		name = id
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, name) + ".eml"
}

func folderError(err error) error { return fmt.Errorf("%w: mail folder: %w", ErrServer, err) }
