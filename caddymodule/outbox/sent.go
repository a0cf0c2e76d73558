package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// SentLog remembers which mails a server has taken until the store knows it, and beyond the end
// of the process: a line in a file for each. A line costs no waiting for the disk, so it outlives
// a kill, but not for certain a loss of power. All methods may be called from many goroutines; a
// nil SentLog remembers nothing.
type SentLog struct {
	path string

	mu    sync.Mutex
	file  *os.File
	size  int
	lines map[string]bool // that count; the file may have more
}

const mostSentLog = 1 << 20 // bytes, before the file is written anew

// OpenSentLog opens the file, or creates it with mode 0600, for the only process that has the store
// open. It drops IDs without an entry in the store.
func OpenSentLog(ctx context.Context, path string, db store.Store) (*SentLog, error) {
	l := &SentLog{path: path, lines: map[string]bool{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the list of mails that were sent: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		firm, id, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || !strings.HasSuffix(line, "\n") {
			continue // after a loss of power, say
		}
		for _, c := range []Channel{Mail, Text} {
			if _, err := db.Get(ctx, store.Key{Firm: firm, Bucket: c.bucket(bucketQueue), ID: id}); !errors.Is(err, store.ErrNotFound) {
				l.lines[line] = true
			}
		}
	}
	return l, l.write()
}

// write writes the file anew, with the lines that count.
func (l *SentLog) write() error {
	var data bytes.Buffer
	for line := range l.lines {
		data.WriteString(line)
	}
	next := l.path + ".new"
	err := os.WriteFile(next, data.Bytes(), 0o600)
	if err == nil {
		err = os.Rename(next, l.path)
	}
	var file *os.File
	if err == nil {
		file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the list of mails that were sent: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = file, data.Len()
	return nil
}

func sentLine(firm, id string) string { return firm + " " + id + "\n" }

// Note writes a mail down, and reports whether it could.
func (l *SentLog) Note(firm, id string) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size > mostSentLog && l.write() != nil {
		return false
	}
	line := sentLine(firm, id)
	if _, err := l.file.WriteString(line); err != nil {
		l.file.Truncate(int64(l.size)) // no half a line
		return false
	}
	l.size += len(line)
	l.lines[line] = true
	return true
}

// Has reports whether the mail was written down and not yet forgotten.
func (l *SentLog) Has(firm, id string) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[sentLine(firm, id)]
}

// Forget is to be called once the store knows of the mail.
func (l *SentLog) Forget(firm, id string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.lines, sentLine(firm, id))
}

// Close closes the file.
func (l *SentLog) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
