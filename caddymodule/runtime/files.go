package runtime

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// The files that the Caddyfile names: loaded at start, and again when they change.

const (
	// settled is how long a file must look the same before it is read.
	settled = time.Second
	// settledLate is the same for a file that may be half-written: it is missing, empty, or
	// its last line doesn't end.
	settledLate = 10 * time.Second
	// coarseTime is how exact a file's modification time may be. One that was written twice
	// within it, with the same length, looks the same: it is read once more afterwards.
	coarseTime = 3 * time.Second
	// retryFile is when a file that couldn't be loaded is tried again, if the contacts or
	// companies have changed since, or the store failed.
	retryFile = 10 * time.Second
)

// fileState is the state of a file according to stat.
type fileState struct {
	info fs.FileInfo // nil: there is no file, or it can't be seen
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	return fileState{info}
}

func (s fileState) equal(o fileState) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

// settle is how long the file must look so before it is read.
func (s fileState) settle(path string) time.Duration {
	if s.info == nil || s.info.Size() == 0 {
		return settledLate
	}
	f, err := os.Open(path)
	if err != nil {
		return settledLate
	}
	defer f.Close()
	var last [1]byte
	if _, err := f.ReadAt(last[:], s.info.Size()-1); err != nil || last[0] != '\n' {
		return settledLate
	}
	return settled
}

// watchedFile tells when a file has changed and is written to no more. It belongs to one
// goroutine.
type watchedFile struct {
	path   string
	read   fileState // as it was when it was last read
	looked fileState // as it was at the last look
	since  time.Time // since when it has looked so
}

// changed reports whether the file has to be read, and whether it is still being written.
func (w *watchedFile) changed(now time.Time) (changed, writing bool) {
	state := stateOf(w.path)
	if !state.equal(w.looked) {
		w.looked, w.since = state, now
	}
	if state.equal(w.read) {
		return false, false
	}
	if now.Sub(w.since) < state.settle(w.path) {
		return false, true
	}
	return true, false
}

// csvFile is a CSV file of a firm, with its state.
type csvFile struct {
	watchedFile
	kind    directory.Kind
	recheck time.Time // when to read it once more, though it looks the same; zero: never
	retry   time.Time // when to try again what was refused; zero: it was not
	version uint64    // of the directory when it was refused
	told    string    // the refusal that was logged last

	mu     sync.Mutex
	status admin.FileStatus
}

// csvFiles are those of a firm, in the order in which they are loaded: contacts name
// companies.
func csvFiles(cfg config.Firm) (all []*csvFile) {
	for _, one := range []struct {
		path string
		kind directory.Kind
	}{{cfg.Companies, directory.Companies}, {cfg.Contacts, directory.Contacts}} {
		if one.path == "" {
			continue
		}
		path, err := filepath.Abs(one.path)
		if err != nil {
			path = one.path
		}
		all = append(all, &csvFile{watchedFile: watchedFile{path: path}, kind: one.kind,
			status: admin.FileStatus{Kind: string(one.kind), Path: path, State: admin.FileWaiting}})
	}
	return all
}

// loadAll brings the directory up to the files of the Caddyfile. It returns the first
// refusal of a file of a kind that was never loaded before. planned, if any, is called
// when a file has been found good and is being written.
func (f *Firm) loadAll(ctx context.Context, planned func()) error {
	f.loading.Lock()
	defer f.loading.Unlock()
	var first error
	for _, file := range f.files {
		_, err := f.Directory.LastLoad(ctx, file.kind)
		never := errors.Is(err, directory.ErrUnknown)
		err = f.loadFile(ctx, file, never, planned)
		var rows *directory.RowErrors
		if never && first == nil && errors.As(err, &rows) {
			first = config.RowsError(file.kind, file.path, rows)
		}
	}
	return first
}

// LookAtFiles loads the files that have changed since they were read.
func (f *Firm) LookAtFiles(ctx context.Context, now time.Time) {
	if f.Anchor.Err() != nil { // goOn loads them once the store is trusted
		return
	}
	if !f.loading.TryLock() { // a large one is being loaded
		return
	}
	defer f.loading.Unlock()
	if now.Sub(f.pendingSince) > time.Minute {
		f.pendingSince = now
		f.endPending(ctx)
	}
	for _, file := range f.files {
		changed, writing := file.changed(now)
		again := !file.recheck.IsZero() && now.After(file.recheck) ||
			!file.retry.IsZero() && now.After(file.retry) && (file.version != f.Directory.Version() || file.version == 0)
		switch {
		case writing:
			return // contacts may name companies that are about to be there
		case changed || again:
			if f.loadFile(ctx, file, false, nil); ctx.Err() != nil {
				return
			}
		}
	}
	f.settings.Look(now, f.Log)
}

// endPending ends the access that an earlier process took away and didn't end.
func (f *Firm) endPending(ctx context.Context) {
	n, err := f.Admin().EndPending(ctx)
	switch {
	case err != nil:
		f.Log.Error("contacts who lost an address or were disabled may still be signed in; it is tried again", "error", err)
	case n > 0:
		f.Log.Info("contacts who lost an address or were disabled are signed out", "sessions", n)
	}
}

// manyRows is how many rows of a file leave so much behind in memory that it is given
// back at once.
const manyRows = 10_000

// loadFile loads one file into the directory. Errors are logged and leave the directory as it is:
// contacts who could sign in still can.
func (f *Firm) loadFile(ctx context.Context, file *csvFile, first bool, planned func()) error {
	now := f.Directory.Now()
	state, version := stateOf(file.path), f.Directory.Version()
	report, err := f.Directory.LoadFile(ctx, file.path, file.kind, func(int, int) {
		if planned != nil {
			planned()
		}
	})
	if err != nil && ctx.Err() != nil {
		return err // the firm stops
	}
	file.read, file.looked, file.recheck, file.retry = state, state, time.Time{}, time.Time{}
	if state.info != nil && time.Since(state.info.ModTime()).Abs() < coarseTime {
		file.recheck = now.Add(coarseTime)
	}
	if err != nil {
		file.retry, file.version = now.Add(retryFile), version
		var rows *directory.RowErrors
		if !errors.As(err, &rows) {
			file.version = 0 // whatever else failed is tried again in any case
		}
		f.refuseFile(file, err)
		return err
	}
	file.told = ""
	if len(report.AccessRevoked) > 0 {
		f.endPending(ctx)
	}
	file.setStatus(func(s *admin.FileStatus) {
		*s = admin.FileStatus{Kind: s.Kind, Path: s.Path, State: admin.FileLoaded, ReadAt: now.UTC()}
	})
	if report.Skipped {
		return nil
	}
	if report.Added+report.Changed >= manyRows {
		debug.FreeOSMemory() // of 100,000 rows some 350 MB, which would be held for minutes
	}
	attrs := []any{"kind", file.kind, "path", file.path, "added", report.Added, "changed", report.Changed,
		"unchanged", report.Unchanged, "left_alone", len(report.Kept)}
	if len(report.Kept) > 0 {
		attrs = append(attrs, "why", "changed, disabled or removed by hand; see caddy doorpost files")
	}
	f.Log.Info("a file was loaded", attrs...)
	if report.WithoutCompanies > 0 {
		f.Log.Warn("by a file, contacts belong to no company any more: their cell is empty", "path", file.path, "contacts", report.WithoutCompanies,
			"what_to_do", "leave the column companies out to keep what is there; contacts timeline tells for each of them")
	}
	f.Audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "file", What: string(file.kind) + "/load", Count: report.Added + report.Changed})
	if first {
		return nil // that everybody was added says nothing about anybody
	}
	for _, one := range report.Touched {
		f.Audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "file", What: string(file.kind) + "/load", Contact: one.Contact, Fields: one.Fields})
	}
	return nil
}

// refuseFile tells of a file that wasn't loaded, once.
func (f *Firm) refuseFile(file *csvFile, err error) {
	var rows *directory.RowErrors
	isRows := errors.As(err, &rows)
	file.setStatus(func(s *admin.FileStatus) {
		*s = admin.FileStatus{Kind: s.Kind, Path: s.Path, State: admin.FileRefused, ReadAt: f.Directory.Now().UTC()}
		if isRows {
			s.Rows, s.More = rows.Rows, rows.More
			return
		}
		s.Error = err.Error()
	})
	if file.told == err.Error() {
		return
	}
	file.told = err.Error()
	if !isRows {
		f.Log.Error("a file was not loaded, and nothing was changed", "kind", file.kind, "path", file.path, "error", config.WithAdvice(err))
		return
	}
	// The rows have addresses, which must not be logged.
	row := rows.Rows[0].Masked()
	f.Log.Error("a file was not loaded, and nothing was changed: some of its lines are wrong", "kind", file.kind, "path", file.path,
		"line", row.Line, "column", row.Column, "reason", row.Reason, "wrong_lines", len(rows.Rows)+rows.More,
		"what_to_do", "correct it, and it is loaded by itself; to see all wrong lines: caddy doorpost --firm "+f.ID+" files")
}

func (file *csvFile) setStatus(change func(*admin.FileStatus)) {
	file.mu.Lock()
	defer file.mu.Unlock()
	change(&file.status)
}

// SettingFiles are files whose content isn't loaded when they change: a reload reads them.
type SettingFiles struct {
	mu  sync.Mutex
	all []*settingFile
}

type settingFile struct {
	watchedFile
	setting string
	stale   bool // it has changed since
}

// SettingFilesOf returns those of settings, as they look now.
func SettingFilesOf(named []config.NamedFile) *SettingFiles {
	s := new(SettingFiles)
	for _, n := range named {
		state := stateOf(n.Path)
		s.all = append(s.all, &settingFile{watchedFile: watchedFile{path: n.Path, read: state, looked: state}, setting: n.Setting})
	}
	return s
}

// Look tells of those that have changed.
func (s *SettingFiles) Look(now time.Time, log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, file := range s.all {
		if changed, _ := file.changed(now); changed {
			file.read, file.stale = file.looked, true
			log.Warn("a file of the configuration has changed, and isn't in force before a reload", "setting", file.setting, "path", file.path,
				"what_to_do", config.ReloadCommand)
		}
	}
}

// FileStatus returns the states of the files.
func (f *Firm) FileStatus() (all []admin.FileStatus) {
	for _, file := range f.files {
		file.mu.Lock()
		all = append(all, file.status)
		file.mu.Unlock()
	}
	f.settings.mu.Lock()
	defer f.settings.mu.Unlock()
	for _, file := range f.settings.all {
		if file.stale {
			all = append(all, admin.FileStatus{Kind: file.setting, Path: file.path, State: admin.FileStale})
		}
	}
	return all
}
