package reports

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// read says, at ID/CONTACT, when a contact last began to download a report.
type read struct {
	At      time.Time `json:"at"`
	Session string    `json:"session"` // handle
}

// readAgain is how long requests of one session for one report are one download: programs that show a file
// fetch it in many parts.
const readAgain = 10 * time.Minute

// Read notes that a contact downloads a report in a session, and reports whether that is a download
// of its own, rather than another part of one. more are Ops to apply with the note, where it is.
func (r *Reports) Read(ctx context.Context, id, contact, session string, more ...store.Op) (begins bool, err error) {
	err = bucketOf[read](r, bucketReads).Swap(ctx, id+"/"+contact, func(was read) (read, time.Time, []store.Op, error) {
		now := r.now()
		if begins = was.Session != session || now.Sub(was.At).Abs() > readAgain; !begins {
			return was, time.Time{}, nil, errSameDownload
		}
		return read{now.UTC(), session}, time.Time{}, more, nil
	})
	if errors.Is(err, errSameDownload) {
		err = nil
	}
	return begins, err
}

var errSameDownload = errors.New("reports: a part of the same download")

// HasRead reports whether the contact has downloaded the report, or begun to.
func (r *Reports) HasRead(ctx context.Context, id, contact string) (bool, error) {
	rec, err := bucketOf[read](r, bucketReads).Find(ctx, id+"/"+contact)
	return !rec.Value.At.IsZero(), err
}

// Unread returns how many of the reports the contact hasn't downloaded.
func (r *Reports) Unread(ctx context.Context, all []Report, contact string) (n int, err error) {
	for _, rep := range all {
		has, err := r.HasRead(ctx, rep.ID, contact)
		if err != nil {
			return 0, err
		}
		if !has {
			n++
		}
	}
	return n, nil
}

// forgetReads removes who has read a report.
func (r *Reports) forgetReads(ctx context.Context, id string) error {
	var ops []store.Op
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		err := r.Store.Apply(ctx, ops...)
		ops = nil
		return err
	}
	for rec, err := range bucketOf[read](r, bucketReads).All(ctx, id+"/", "") {
		if err != nil && !errors.Is(err, sealed.ErrUntrusted) && !errors.Is(err, sealed.ErrFormat) {
			return err
		}
		if ops = append(ops, store.Delete(bucketOf[read](r, bucketReads).Key(rec.ID))); len(ops) == 200 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
