// Package reports keeps the files that a firm publishes for its companies.
//
// A report is a sealed record in the store, and a file in a folder. The file's name is random,
// and its content is encrypted (age, filippo.io/age) with a key that only the record has: whoever
// can read the folder reads no report, and whoever can write there can make none. Titles, file
// names and companies are in the record alone, so that none of them is ever a path. Several
// machines may share the folder.
//
// The order of the steps keeps a kill from leaving half a report. First a record says that a file is
// going to be made (pendingFile); then the file is written under another name, synced and renamed; then
// one Apply makes the report and removes that record. A removal goes the other way. Sweep
// removes the files whose steps came to no end, and no others: a file that no record names may be that
// of a store that is put back later.
//
// Begin reading at Reports.Publish; file.go writes and reads files, sweep.go removes them,
// read.go knows who has downloaded what, name.go has the rules for titles and names.
package reports

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// MaxSize is how many bytes a report may have.
const MaxSize = 2 << 30

// The decisions that callers make. Compare with errors.Is.
var (
	// ErrUnknown: there is no such report.
	ErrUnknown = errors.New("reports: no such report")
	// ErrTooLarge: the file has more than MaxSize bytes.
	ErrTooLarge = fmt.Errorf("reports: a file has at most %d MiB", MaxSize>>20)
	// ErrNoFolder: the firm has no folder for reports, see Reports.Dir.
	ErrNoFolder = errors.New("reports: there is no folder for them")
	// ErrFolder: the folder, or a file in it, can't be used. It wraps the system's error.
	ErrFolder = errors.New("reports: the folder can't be used")
)

// Reports are those of one firm. Set the fields in one literal before use. All methods may be called
// from many goroutines, and by several machines on one store.
type Reports struct {
	Firm        string
	Store       store.Store
	Keys        *secret.Keyring
	Now         func() time.Time // nil: time.Now
	OnUntrusted func(ctx context.Context, k store.Key)

	// Dir is the folder for the files of all firms, each in a folder of its own, which is made when
	// it is needed. Empty: nothing can be published.
	Dir string
	// URL is that of the page that lists reports, with a slash at its end; a report's is its ID behind that.
	URL string

	most int64 // bytes of a report; 0: MaxSize
}

// Report is one that was published.
type Report struct {
	ID        string // letters and digits; those of later reports come first in byte order
	Company   Company
	Title     string    // for people
	Name      string    // of the file, as browsers save it; see CleanName
	Type      string    // media type
	Size      int64     // in bytes
	Published time.Time // to the millisecond

	key string // an age identity that opens the file
}

// Company is whose a report is.
type Company struct {
	ID      string
	AddedAs uint64 // see directory.Company: another company that gets the id later has none of the reports
}

// New is a report that is to be published.
type New struct {
	Company Company // the caller knows that there is one
	Title   string  // empty: Name without its extension
	Name    string  // of the file, as it was sent; it may be anything

	// Prove returns conditions of the last step, once all of the file has come: who sends it may still publish. Its error is
	// Publish's. nil: there are none.
	Prove func(context.Context) ([]store.Op, error)
}

// record is a report in the store, at COMPANY/ID.
type record struct {
	Title     string    `json:"title"`
	Name      string    `json:"name"`
	Type      string    `json:"type"`
	Size      int64     `json:"size"`
	Published time.Time `json:"published"`
	Key       string    `json:"key"`
	AddedAs   uint64    `json:"added_as,omitempty"` // see Company
}

// pointer says at ID whose report it is.
type pointer struct {
	Company string `json:"company"`
}

// The buckets, and the format of their values.
const (
	bucketReports  = "reports"
	bucketPointers = "report-ids"
	bucketFiles    = "report-files"
	bucketReads    = "report-reads"
	format         = 1
)

func bucketOf[T any](r *Reports, name string) *sealed.Bucket[T] {
	return &sealed.Bucket[T]{Store: r.Store, Keys: r.Keys, Firm: r.Firm, Name: name, Now: r.Now, Format: format, OnUntrusted: r.OnUntrusted}
}

func (r *Reports) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// Publish makes a report of everything in body. Nobody sees any of it before all of it is there
// for good. Errors beside those above are a *FieldError, an error of body, and the store's; only
// after store.ErrUnavailable it may be there all the same.
func (r *Reports) Publish(ctx context.Context, n New, body io.Reader) (Report, error) {
	out := Report{ID: newID(r.now()), Company: n.Company, Name: CleanName(n.Name), Published: r.now().Truncate(time.Millisecond).UTC()}
	var err error
	if out.Title, err = titleOf(n.Title, out.Name); err != nil {
		return Report{}, err
	}
	if r.Dir == "" {
		return Report{}, ErrNoFolder
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return Report{}, fmt.Errorf("making a key: %w", err)
	}
	out.key = identity.String()
	pending, err := r.begin(ctx, out.ID)
	if err != nil {
		return Report{}, err
	}
	out.Size, out.Type, err = r.write(ctx, out.ID, out.Name, identity.Recipient(), body)
	if err == nil {
		err = r.finish(context.WithoutCancel(ctx), out, pending, n.Prove)
		if errors.Is(err, store.ErrUnavailable) {
			return Report{}, err // the report may be there, so its file stays; if it isn't, Sweep removes it
		}
	}
	if err != nil {
		r.discard(ctx, out.ID)
		return Report{}, err
	}
	return out, nil
}

// finish makes the report, whose file is there, unless the file was given up meanwhile, or may not be published any more.
func (r *Reports) finish(ctx context.Context, rep Report, pending sealed.Record[pendingFile], prove func(context.Context) ([]store.Op, error)) error {
	var proof []store.Op
	if prove != nil {
		var err error
		if proof, err = prove(ctx); err != nil {
			return err
		}
	}
	reports, pointers := bucketOf[record](r, bucketReports), bucketOf[pointer](r, bucketPointers)
	create, err := reports.Create(rep.Company.ID+"/"+rep.ID, record{rep.Title, rep.Name, rep.Type, rep.Size, rep.Published, rep.key, rep.Company.AddedAs}, time.Time{})
	if err != nil {
		return err
	}
	point, err := pointers.Create(rep.ID, pointer{rep.Company.ID}, time.Time{})
	if err != nil {
		return err
	}
	return r.Store.Apply(ctx, append(proof, create, point, bucketOf[pendingFile](r, bucketFiles).Remove(pending))...)
}

// Get returns a report, or ErrUnknown.
func (r *Reports) Get(ctx context.Context, id string) (Report, error) {
	rec, company, err := r.find(ctx, id)
	if err != nil {
		return Report{}, err
	}
	return reportOf(company, id, rec.Value), nil
}

// find returns the record of a report, and its company, or ErrUnknown.
func (r *Reports) find(ctx context.Context, id string) (rec sealed.Record[record], company string, err error) {
	if !isID(id) {
		return rec, "", ErrUnknown
	}
	at, err := bucketOf[pointer](r, bucketPointers).Get(ctx, id)
	if err == nil {
		rec, err = bucketOf[record](r, bucketReports).Get(ctx, at.Value.Company+"/"+id)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, sealed.ErrUntrusted) {
		err = ErrUnknown
	}
	return rec, at.Value.Company, err
}

func reportOf(company, id string, rec record) Report {
	return Report{ID: id, Company: Company{company, rec.AddedAs}, Title: rec.Title, Name: rec.Name, Type: rec.Type, Size: rec.Size, Published: rec.Published, key: rec.Key}
}

// List returns up to limit reports of the companies, the newest first: those behind the ID after, or
// from the newest on. next is the ID to go on after; "": there are no more.
func (r *Reports) List(ctx context.Context, companies []Company, after string, limit int) (found []Report, next string, err error) {
	for _, company := range companies {
		some, err := r.listOf(ctx, company, after, limit+1)
		if err != nil {
			return nil, "", err
		}
		found = append(found, some...)
	}
	slices.SortFunc(found, func(a, b Report) int { return strings.Compare(a.ID, b.ID) })
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].ID
	}
	return found, next, nil
}

func (r *Reports) listOf(ctx context.Context, company Company, after string, limit int) (found []Report, err error) {
	prefix := company.ID + "/"
	if after != "" {
		after = prefix + after
	}
	recs, err := r.Store.Scan(ctx, r.Firm, bucketReports, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	b := bucketOf[record](r, bucketReports)
	for _, raw := range recs {
		rec, err := b.Open(ctx, raw)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, sealed.ErrUntrusted) {
			continue
		} else if err != nil {
			return nil, err
		}
		rep := reportOf(company.ID, strings.TrimPrefix(raw.Key.ID, prefix), rec.Value)
		if rep.Company != company {
			break // an earlier company of the id had it, and all that follow
		}
		found = append(found, rep)
	}
	return found, nil
}

// ListAll is List for all companies there are and were.
func (r *Reports) ListAll(ctx context.Context, after string, limit int) (found []Report, next string, err error) {
	recs, err := r.Store.Scan(ctx, r.Firm, bucketPointers, "", after, limit+1)
	if err != nil {
		return nil, "", err
	}
	if len(recs) > limit {
		recs = recs[:limit]
		next = recs[limit-1].Key.ID
	}
	for _, rec := range recs {
		rep, err := r.Get(ctx, rec.Key.ID)
		if errors.Is(err, ErrUnknown) {
			continue // removed meanwhile, or forged
		} else if err != nil {
			return nil, "", err
		}
		found = append(found, rep)
	}
	return found, next, nil
}

// Remove removes a report: from then on nobody gets anything of it. It returns what it was, or
// ErrUnknown.
func (r *Reports) Remove(ctx context.Context, id string) (Report, error) {
	rec, company, err := r.find(ctx, id)
	if err != nil {
		return Report{}, err
	}
	pending, err := bucketOf[pendingFile](r, bucketFiles).Put(id, pendingFile{Since: r.now(), Removed: true}, time.Time{})
	if err != nil {
		return Report{}, err
	}
	err = r.Store.Apply(ctx, bucketOf[record](r, bucketReports).Remove(rec), bucketOf[pointer](r, bucketPointers).Delete(id), pending)
	if errors.Is(err, store.ErrConflict) {
		return Report{}, ErrUnknown // nothing changes a report but its removal
	} else if err != nil {
		return Report{}, err
	}
	r.discard(ctx, id)
	return reportOf(company, id, rec.Value), nil
}

// Reseal seals with the newest secret what an older one has sealed. The files stay as they are: their
// keys are in the records.
func (r *Reports) Reseal(ctx context.Context) error {
	for _, reseal := range []func(context.Context) (int, error){bucketOf[record](r, bucketReports).Reseal, bucketOf[pointer](r, bucketPointers).Reseal,
		bucketOf[pendingFile](r, bucketFiles).Reseal, bucketOf[read](r, bucketReads).Reseal} {
		if _, err := reseal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// newID returns an ID. It is shorter than the token of a sign-in link, which access logs leave out.
func newID(now time.Time) string {
	const most = 1<<45 - 1 // milliseconds since 1970, as nine digits to the base of 32
	when := strconv.FormatInt(most-now.UnixMilli(), 32)
	var random [10]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	return strings.Repeat("0", timeDigits-len(when)) + when + strings.ToLower(base32.HexEncoding.EncodeToString(random[:]))
}

const (
	timeDigits = 9
	idLength   = timeDigits + 16
)

// isID reports whether s has the form of an ID, and so is safe as the name of a file.
func isID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'v') {
			return false
		}
	}
	return true
}
