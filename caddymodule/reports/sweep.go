package reports

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// UploadTime is how long an upload may take. One that began before has failed, and what there is of its file
	// is removed.
	UploadTime = 24 * time.Hour
	// SweepEvery is how often to call Sweep.
	SweepEvery = time.Hour
)

// Run calls Sweep now and every SweepEvery until ctx ends, and logs what goes wrong.
func (r *Reports) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(SweepEvery)
	defer tick.Stop()
	for {
		if _, err := r.Sweep(ctx); err != nil && !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil {
			log.WarnContext(ctx, "files of reports that were removed, or not published to the end, can't be removed; it is tried again in an hour", "folder", r.Dir, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Sweep removes the files of reports that were removed, and of uploads that came to no end, and
// returns how many there were. A file that can't be removed doesn't keep the others.
func (r *Reports) Sweep(ctx context.Context) (n int, err error) {
	var failed error
	for rec, err := range bucketOf[pendingFile](r, bucketFiles).All(ctx, "", "") {
		switch {
		case errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
			continue
		case err != nil:
			return n, err
		case !isID(rec.ID), !rec.Value.Removed && r.now().Sub(rec.Value.Since) < UploadTime:
			continue
		}
		if !rec.Value.Removed {
			// From here on its upload can't finish any more.
			op, err := bucketOf[pendingFile](r, bucketFiles).Write(rec, pendingFile{Since: rec.Value.Since, Removed: true}, time.Time{})
			if err == nil {
				err = r.Store.Apply(ctx, op)
			}
			if errors.Is(err, store.ErrConflict) {
				continue // it has finished
			} else if err != nil {
				return n, err
			}
		}
		if err := r.removeFile(ctx, rec.ID); err != nil {
			failed = err
			continue
		}
		n++
	}
	return n, failed
}
