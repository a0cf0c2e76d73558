package admin

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// The states of a file.
const (
	FileWaiting = "waiting" // it hasn't been read yet
	FileLoaded  = "loaded"
	FileRefused = "refused" // nothing of it was loaded; the directory is as it was
	FileStale   = "stale"   // it has changed since the configuration was loaded, and a reload reads it
)

// FileStatus is a file that the Caddyfile names, as this server sees it.
type FileStatus struct {
	Kind   string               `json:"kind"` // contacts, companies, or the setting that names it
	Path   string               `json:"path"`
	State  string               `json:"state"`
	ReadAt time.Time            `json:"read_at,omitzero"` // when it was last read
	Error  string               `json:"error,omitempty"`  // why it was refused, where it isn't its rows
	Rows   []directory.RowError `json:"rows,omitempty"`   // its bad rows, the first hundred
	More   int                  `json:"more,omitempty"`   // how many further ones there are
	Load   *FileLoad            `json:"load,omitempty"`   // the last one that succeeded, at whichever server
}

// FileLoad is the result of loading a file.
type FileLoad struct {
	At        time.Time             `json:"at"`
	Added     int                   `json:"added"`
	Changed   int                   `json:"changed"`
	Unchanged int                   `json:"unchanged"`
	LeftAlone Tally[directory.Kept] `json:"left_alone"` // what somebody's hand has changed, and the file says otherwise
}

// FileList is the files of a firm.
type FileList struct {
	Files []FileStatus `json:"files"`
}

func (f Firm) ListFiles(ctx context.Context, _ struct{}) (FileList, error) {
	out := FileList{Files: []FileStatus{}}
	for _, one := range f.Files {
		last, err := f.Directory.LastLoad(ctx, directory.Kind(one.Kind))
		switch {
		case err == nil:
			one.Load = &FileLoad{At: last.At, Added: last.Added, Changed: last.Changed, Unchanged: last.Unchanged, LeftAlone: tally(last.Kept)}
			one.Load.LeftAlone.Count += last.MoreKept
		case !errors.Is(err, directory.ErrUnknown):
			return out, err
		}
		out.Files = append(out.Files, one)
	}
	return out, nil
}

// leftAlone returns the row of the contacts file that was left alone for a contact; nil if none was.
func leftAlone(ctx context.Context, f Firm, c directory.Contact, email string) (*directory.Kept, error) {
	last, err := f.Directory.LastLoad(ctx, directory.Contacts)
	if errors.Is(err, directory.ErrUnknown) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, k := range last.Kept {
		if k.Item == email {
			return &k, nil
		}
		for _, a := range c.Emails {
			if k.Item == string(a) {
				return &k, nil
			}
		}
	}
	return nil, nil
}
