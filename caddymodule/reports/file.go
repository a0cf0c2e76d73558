package reports

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// pendingFile says that the file of an ID, whole or in part, is to be removed: unless an upload finishes, or
// since the report was removed.
type pendingFile struct {
	Since   time.Time `json:"since"`
	Removed bool      `json:"removed,omitempty"`
}

// partSuffix ends the name of a file that is being written.
const partSuffix = ".part"

// begin notes that the file of an ID is going to be made.
func (r *Reports) begin(ctx context.Context, id string) (sealed.Record[pendingFile], error) {
	files := bucketOf[pendingFile](r, bucketFiles)
	op, err := files.Create(id, pendingFile{Since: r.now()}, time.Time{})
	if err == nil {
		err = r.Store.Apply(ctx, op)
	}
	if err != nil {
		return sealed.Record[pendingFile]{}, fmt.Errorf("noting a file that is going to be made: %w", err)
	}
	return files.Get(ctx, id)
}

// folder opens the firm's folder. No name below leads out of it.
func (r *Reports) folder() (*os.Root, error) {
	dir := filepath.Join(r.Dir, r.Firm)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return root, nil
}

// makeFolder opens the firm's folder, and makes it where it isn't there yet.
func (r *Reports) makeFolder() (*os.Root, error) {
	if err := os.MkdirAll(filepath.Join(r.Dir, r.Firm), 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return r.folder()
}

// write puts everything in body into the file of an ID, which is there, whole and on the disk, if
// and only if the error is nil.
func (r *Reports) write(ctx context.Context, id, name string, to age.Recipient, body io.Reader) (size int64, kind string, err error) {
	root, err := r.makeFolder()
	if err != nil {
		return 0, "", err
	}
	defer root.Close()
	f, err := root.OpenFile(id+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", ErrFolder, err)
	}
	defer f.Close()
	out := &folderWriter{f}
	w, err := age.Encrypt(out, to)
	if err != nil {
		return 0, "", fmt.Errorf("encrypting: %w", err)
	}
	in := &uploadReader{ctx: ctx, body: body}
	most := cmp.Or(r.most, MaxSize)
	size, err = io.Copy(w, io.LimitReader(in, most+1))
	switch {
	case err != nil:
		return 0, "", fmt.Errorf("taking the file: %w", err)
	case size > most:
		return 0, "", ErrTooLarge
	}
	if err := w.Close(); err != nil {
		return 0, "", fmt.Errorf("taking the file: %w", err)
	}
	err = f.Sync()
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(id+partSuffix, id)
	}
	if err == nil {
		err = syncFolder(root)
	}
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return size, typeOf(name, in.head.Bytes()), nil
}

// syncFolder has the names in the folder outlive a power failure, on systems that can say so.
func syncFolder(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// folderWriter tells errors of the disk from those of an upload.
type folderWriter struct{ f *os.File }

func (w *folderWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return n, err
}

// sniffed is how many bytes of a file its type may be guessed from.
const sniffed = 512

// uploadReader reads an upload until its context ends, and keeps the first bytes.
type uploadReader struct {
	ctx  context.Context
	body io.Reader
	head bytes.Buffer
}

func (u *uploadReader) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	n, err := u.body.Read(p)
	if room := sniffed - u.head.Len(); room > 0 {
		u.head.Write(p[:min(n, room)])
	}
	return n, err
}

// Content is the content of a report's file. Close it.
type Content struct {
	io.ReadSeeker
	file io.Closer
}

// Close releases the file.
func (c *Content) Close() error { return c.file.Close() }

// Open opens the file of a report that Get or List has returned. Read fails for what isn't as it was
// published. The error is ErrFolder where the file is missing, unreadable or of another length.
func (r *Reports) Open(rep Report) (*Content, error) {
	identity, err := age.ParseX25519Identity(rep.key)
	if err != nil {
		return nil, fmt.Errorf("reading the key of a report: %w", err)
	}
	root, err := r.folder()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(rep.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	at, size, err := open(f, identity)
	if err == nil && size != rep.Size {
		err = fmt.Errorf("%s has %d bytes; %d were published", rep.ID, size, rep.Size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return &Content{io.NewSectionReader(at, 0, size), f}, nil
}

func open(f *os.File, identity age.Identity) (io.ReaderAt, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return age.DecryptReaderAt(f, info.Size(), identity)
}

// discard removes a file, and then its pending record. If it fails, Sweep removes them.
func (r *Reports) discard(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = r.removeFile(ctx, id)
}

// removeFile removes the file of an ID, who has read it, and the note about the file.
func (r *Reports) removeFile(ctx context.Context, id string) error {
	root, err := r.folder()
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.folderIsNew():
	case err != nil:
		return err
	default:
		defer root.Close()
		for _, name := range []string{id + partSuffix, id} {
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %w", ErrFolder, err)
			}
		}
	}
	if err := r.forgetReads(ctx, id); err != nil {
		return err
	}
	return r.Store.Apply(ctx, store.Delete(bucketOf[pendingFile](r, bucketFiles).Key(id)))
}

// folderIsNew reports whether only the firm's folder is missing: where the folder of all firms is, too, it may be
// a disk that isn't mounted, whose files are to be removed once it is.
func (r *Reports) folderIsNew() bool {
	_, err := os.Stat(r.Dir)
	return err == nil
}
