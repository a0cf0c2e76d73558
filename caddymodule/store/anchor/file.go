package anchor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

// anchor is what this machine last saw of a firm's records. The zero value is for a machine that
// hasn't seen any.
type anchor struct {
	Store    string    `json:"s"` // of the identity
	Place    string    `json:"p"` // address of the store for operators
	Beat     uint64    `json:"b"` // stores with a lower count aren't trusted
	At       time.Time `json:"t"` // of the last observed change
	Keys     []string  `json:"k"` // IDs of the secrets that records may be sealed with
	Restored *Restore  `json:"r,omitempty"`

	damaged bool // the file exists, but is unreadable
}

// written is an anchor as written to the file.
type written struct {
	anchor
	sealedWith string // ID of the secret
}

// Restore is the operator's decision when restoring a copy.
type Restore struct {
	Reopen bool `json:"o"` // open old links again if the copy says so
}

// Closed is the set of companies whose old links require sign-in, according to the anchor. The
// zero value is empty.
type Closed struct {
	Mark uint64   `json:"m"`           // of the directory at that time
	All  bool     `json:"a,omitempty"` // every company except those in IDs
	IDs  []string `json:"i,omitempty"` // companies, sorted; with All, the exceptions

	// Sealed: the store contains this in a sealed record, too. If that record is missing or isn't
	// sealed, it was lost or forged.
	Sealed bool `json:"s,omitempty"`

	// Beside: another machine has accepted another store since. Its sealed record counts in
	// addition to this, whichever Mark is higher, since the two counted independently. Only
	// anchors set it.
	Beside bool `json:"b,omitempty"`
}

// Has reports whether the company's old links require sign-in.
func (c *Closed) Has(company string) bool {
	_, found := slices.BinarySearch(c.IDs, company)
	return c.All != found
}

// Any reports whether any company's old links require sign-in.
func (c *Closed) Any() bool { return c.All || len(c.IDs) > 0 }

// A file is a line with the secret's ID, followed by sealed data.
const (
	fileVersion = "doorpost-anchor-1"
	purpose     = "anchor"
)

func (s *Store) path() string       { return Path(s.dir, s.firm) }
func (s *Store) closedPath() string { return s.path() + ".upgraded" }

// Path returns the path of a firm's anchor in the folder.
func Path(dir, firm string) string { return filepath.Join(dir, firm) }

// Firms returns the firms that have anchors in the folder.
func Firms(dir string) (firms []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.Contains(e.Name(), ".") {
			firms = append(firms, e.Name())
		}
	}
	return firms, err
}

// CheckKeys returns an error if the keys aren't enough for the firm's records, as far as the
// anchor in the folder knows. It changes nothing.
func CheckKeys(dir, firm string, keys *secret.Keyring) error {
	s := &Store{firm: firm, dir: dir}
	s.keys.Store(keys)
	return s.read()
}

// MarkRestored makes the next start accept the store, since an operator restored a copy, and
// returns the companies whose old links require sign-in. It doesn't mark a firm without an
// anchor, which accepts any store, nor one whose records are elsewhere: its anchor names another
// place, and holds says that the copy has no records of it. The store must not be open.
func MarkRestored(dir, firm, place string, holds bool, keys *secret.Keyring, r Restore) (Closed, error) {
	s := &Store{firm: firm, dir: dir}
	s.keys.Store(keys)
	err := s.read()
	switch {
	case err != nil:
		return Closed{}, err
	case s.anchor.damaged:
		return Closed{}, fmt.Errorf("%s can't be read", s.path())
	case s.written == nil, !holds && s.anchor.Place != place:
		return Closed{}, nil
	}
	closed := *s.closed.Load()
	if s.closedLost {
		closed = Closed{All: true}
	}
	s.anchor.Restored = &r
	return closed, s.writeFile(s.path(), s.anchor)
}

// lacking returns an error if needed contains secrets that the keys don't have.
func (s *Store) lacking(keys *secret.Keyring, needed []string) error {
	has := keys.IDs()
	for _, id := range needed {
		if !slices.Contains(has, id) {
			return fmt.Errorf("records of firm %s are still sealed with a secret that isn't configured any more: %w; "+
				"write it behind the new one, start, and take it out once the log or \"caddy doorpost doctor\" says that nothing needs it",
				s.firm, secret.ErrSealed)
		}
	}
	return nil
}

// read reads the anchor. An error that wraps secret.ErrSealed means that it needs a secret that
// isn't among the keys.
func (s *Store) read() error {
	var a anchor
	closed := new(Closed)
	id, err := s.readFile(s.path(), &a)
	closedID, closedErr := s.readFile(s.closedPath(), closed)
	for _, err := range []error{err, closedErr} {
		if errors.Is(err, secret.ErrSealed) {
			return err
		}
	}
	if err != nil {
		a = anchor{damaged: true}
		s.logUnreadable("anchor unreadable", s.path(), err)
	}
	if there := err != nil || id != ""; closedErr == nil && closedID == "" && there { // it is written before the anchor, so it was deleted
		closedErr = fs.ErrNotExist
	}
	if closedErr != nil {
		closed = new(Closed)
		s.logUnreadable("anchor of old links unreadable; it is made again from the store, if the store is the same as before", s.closedPath(), closedErr)
	}
	if err := s.lacking(s.keys.Load(), a.Keys); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anchor = a
	if id != "" && !a.damaged {
		s.written = &written{a, id}
	}
	s.closed.Store(closed)
	s.closedLost = closedErr != nil
	return nil
}

func (s *Store) logUnreadable(msg, path string, err error) {
	if s.log != nil {
		s.log.Error(msg, "path", path, "error", err)
	}
}

// readFile reads a file written by writeFile, and returns the ID of the secret that sealed it; ""
// if there is no file.
func (s *Store) readFile(path string, v any) (sealedWith string, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	head, sealed, ok := bytes.Cut(data, []byte("\n"))
	name, id, _ := strings.Cut(string(head), " ")
	if !ok || name != fileVersion {
		return "", fmt.Errorf("%s is none of Doorpost's, or of a newer one", path)
	}
	keys := s.keys.Load()
	if !slices.Contains(keys.IDs(), id) {
		return "", fmt.Errorf("%s: %w; write the secret that it was sealed with first, or behind the new one", path, secret.ErrSealed)
	}
	plain, err := keys.Open(purpose, filepath.Base(path), sealed)
	if err != nil {
		return "", fmt.Errorf("%s is damaged", path)
	}
	return id, json.Unmarshal(plain, v)
}

// writeFile writes the file atomically and durably.
func (s *Store) writeFile(path string, v any) error {
	plain, err := json.Marshal(v)
	if err != nil {
		panic("anchor: " + err.Error()) // never: plain structs
	}
	keys := s.keys.Load()
	data := fmt.Appendf(nil, "%s %s\n", fileVersion, keys.IDs()[0])
	data = append(data, keys.Seal(purpose, filepath.Base(path), plain)...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".anchor-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable, if the system supports it.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// save writes the anchor if it has changed. The store must be trusted.
func (s *Store) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for before := s.now().Add(-s.lag); len(s.observed) > 0 && !s.observed[0].at.After(before); s.observed = s.observed[1:] {
		s.anchor.Beat = max(s.anchor.Beat, s.observed[0].beat)
	}
	s.anchor.Place = s.place
	newest := s.keys.Load().IDs()[0]
	if !slices.Contains(s.anchor.Keys, newest) {
		s.anchor.Keys = append(slices.Clone(s.anchor.Keys), newest)
	}
	w := s.written
	if s.suspended {
		return
	}
	if w == nil || w.sealedWith != newest || w.Store != s.anchor.Store || w.Place != s.place || w.Beat != s.anchor.Beat || !slices.Equal(w.Keys, s.anchor.Keys) {
		s.logSaveErr(s.write(newest))
	}
}

// write writes both files. The caller holds s.mu.
func (s *Store) write(newest string) error {
	if s.written == nil || s.written.sealedWith != newest {
		if err := s.writeFile(s.closedPath(), s.closed.Load()); err != nil {
			return err
		}
	}
	if err := s.writeFile(s.path(), s.anchor); err != nil {
		return err
	}
	s.written = &written{s.anchor, newest}
	return nil
}

// logSaveErr tells operators when anchors can't be written, and when they can again. The caller
// holds s.mu.
func (s *Store) logSaveErr(err error) {
	switch {
	case err != nil && s.saveErr == nil:
		s.log.Error("anchor not saved, so a lost or older store won't be noticed at the next start",
			"path", s.path(), "error", err, "what_to_do", "let Caddy's user write there, and write the upgraded companies in the Caddyfile: upgraded all, or upgraded ID…")
	case err == nil && s.saveErr != nil:
		s.log.Info("anchor saved again", "path", s.path())
	}
	s.saveErr = err
}
