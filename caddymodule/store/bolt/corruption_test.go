package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// contents are all records of a store.
type contents map[store.Key]string

// specimen creates a store with all features of a file: branches, leaves, small inline
// buckets, values over several pages, free pages. It returns the file, and its contents
// before and after the last Apply.
func specimen(t *testing.T, records int) (raw []byte, before, after contents) {
	t.Helper()
	path := newPath(t)
	db := openAt(t, path, Options{})
	after = contents{}
	apply := func(ops ...store.Op) {
		t.Helper()
		before = maps.Clone(after)
		if err := db.Apply(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			if op.Verb == store.VerbDelete {
				delete(after, op.Key)
			} else {
				after[op.Key] = string(op.Value)
			}
		}
	}
	var ops, deletes []store.Op
	for i := range records {
		k := store.Key{Firm: "firm", Bucket: "bucket", ID: fmt.Sprintf("%04d", i*7%records)}
		var expires time.Time
		if i%2 == 0 {
			expires = time.Now().Add(time.Duration(i+1) * time.Hour)
		}
		ops = append(ops, store.Put(k, bytes.Repeat([]byte{byte(i)}, 100+i%50), expires))
		if i%5 == 0 {
			deletes = append(deletes, store.Delete(k))
		}
	}
	apply(ops...)
	apply(store.Put(store.Key{Firm: "other", Bucket: "small", ID: "a"}, []byte("1"), time.Time{}))
	apply(store.Put(store.Key{Firm: "other", Bucket: "bucket", ID: "b"}, []byte("22"), time.Time{}))
	apply(store.Put(store.Key{Firm: "firm", Bucket: "big", ID: "c"}, bytes.Repeat([]byte("big"), 5000), time.Time{}))
	apply(deletes...)
	apply(store.Put(store.Key{Firm: "", Bucket: "last", ID: "d"}, []byte("last"), time.Now().Add(time.Hour)))
	sound(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := readMetas(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return raw[:h.pages*h.pageSize], before, after // without the room to grow
}

// held returns the store's contents, by Scan, and by Get of the expected ones.
func held(db *DB, expected contents) (contents, error) {
	got, ctx := contents{}, context.Background()
	places := map[store.Key]bool{}
	for k := range expected {
		places[store.Key{Firm: k.Firm, Bucket: k.Bucket}] = true
		rec, err := db.Get(ctx, k)
		if err == nil {
			got[k] = string(rec.Value)
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	for place := range places {
		list, err := db.Scan(ctx, place.Firm, place.Bucket, "", "", 1e6)
		if err != nil {
			return nil, err
		}
		for _, rec := range list {
			if value, ok := got[rec.Key]; ok && value != string(rec.Value) {
				return nil, fmt.Errorf("Get and Scan differ on %v", rec.Key)
			}
			got[rec.Key] = string(rec.Value)
		}
	}
	return got, nil
}

// TestFlippedBits damages a store in one place after the other. Open must either detect
// the damage and say what to do, or all records must be there. For many more places:
//
//	go test -run TestFlippedBits -flips 100000 -seed 7 ./caddymodule/store/bolt
func TestFlippedBits(t *testing.T) {
	raw, before, after := specimen(t, 120)
	random := rand.New(rand.NewPCG(*seed, 1))
	path := newPath(t)
	pageSize, pages := os.Getpagesize(), inUse(t, raw)
	var refused, harmless, metas int
	for i := range *flips {
		at := pages[random.IntN(len(pages))]*pageSize + random.IntN(pageSize)
		switch i % 8 {
		case 0, 1, 2: // in the parts of pages that lead to others
			at = at/pageSize*pageSize + random.IntN(160)
		case 3: // anywhere
			at = random.IntN(len(raw))
		}
		bit := byte(1) << random.IntN(8)
		damaged := bytes.Clone(raw)
		damaged[at] ^= bit
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		db, err := Open(path, Options{Log: logTo(&log)})
		switch {
		case errors.Is(err, ErrNewer):
			refused++ // the number of the format
		case err != nil:
			refused++
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "caddy doorpost restore FILE") {
				t.Fatalf("byte %d ^ %#x: Open = %v; want ErrCorrupt with the path and what to do", at, bit, err)
			}
			if now, _ := os.ReadFile(path); !bytes.Equal(now, damaged) {
				t.Fatalf("byte %d ^ %#x: Open has changed the damaged file", at, bit)
			}
		default:
			got, err := held(db, after)
			switch {
			case err != nil:
				t.Fatalf("byte %d ^ %#x: opened, then %v", at, bit, err)
			case maps.Equal(got, after):
				harmless++
			case at < 2*pageSize && maps.Equal(got, before) && strings.Contains(log.String(), "the last change may be missing"):
				metas++ // as after a power cut during the last commit
			default:
				for k := range got {
					delete(after, k)
				}
				t.Fatalf("byte %d ^ %#x: opened with %d records; missing are %q", at, bit, len(got), slices.Collect(maps.Keys(after)))
			}
			if i%10 == 0 {
				stillWorks(t, db)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d flips: %d found, %d without effect, %d cost the last change", *flips, refused, harmless, metas)
	if refused < *flips/3 {
		t.Errorf("Open refused %d of %d damaged files; want at least a third", refused, *flips)
	}
}

// inUse returns the numbers of the pages in use.
func inUse(t *testing.T, raw []byte) []int {
	t.Helper()
	r := bytes.NewReader(raw)
	h, _, err := readMetas(r, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{file: r, meta: h, used: make([]uint64, h.pages/64+1)}
	if _, err := c.freelist(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.walk(noLimit); err != nil {
		t.Fatal(err)
	}
	pages := []int{0, 1}
	for id := range h.pages {
		if c.used[id/64]&(1<<(id%64)) != 0 {
			pages = append(pages, int(id))
		}
	}
	return pages
}

func stillWorks(t *testing.T, db *DB) {
	t.Helper()
	put(t, db, "still works", "v", time.Now().Add(-time.Hour))
	if _, err := db.Sweep(t.Context()); err != nil {
		t.Errorf("Sweep = %v", err)
	}
}

// If bbolt's own check finds damage without crashing, ours finds it too.
func TestCheckFindsAllThatBboltFinds(t *testing.T) {
	raw, _, _ := specimen(t, 60)
	random := rand.New(rand.NewPCG(*seed, 2))
	pageSize := os.Getpagesize()
	path := newPath(t)
	compared := 0
	for range 400 {
		damaged := bytes.Clone(raw)
		damaged[2*pageSize+random.IntN(len(raw)-2*pageSize)] ^= 1 << random.IntN(8)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = check(f, noLimit)
		f.Close()
		if err != nil {
			continue // bbolt's check might crash
		}
		compared++
		b, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatalf("our check finds nothing; bbolt says %v", err)
		}
		err = b.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				t.Errorf("our check finds nothing; bbolt's: %v", err)
			}
			return nil
		})
		if err = errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if compared == 0 {
		t.Error("no file was fit to compare")
	}
}

// A byte that sends bbolt beyond its mapping crashes the process in bbolt's own check.
func TestCheckFindsAnOffsetBeyondTheFile(t *testing.T) {
	raw, _, _ := specimen(t, 120)
	pageSize := os.Getpagesize()
	path, tried := newPath(t), 0
	for page := 2; page < len(raw)/pageSize; page++ {
		at := page * pageSize
		flags, count := native.Uint16(raw[at+8:]), native.Uint16(raw[at+10:])
		if flags != leafPage && flags != branchPage || count < 3 {
			continue
		}
		tried++
		damaged := bytes.Clone(raw)
		pos := at + pageHeader + elemSize // of the second entry
		if flags == leafPage {
			pos += 4
		}
		native.PutUint32(damaged[pos:], 0x7fff_fff0)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(path, Options{}); err == nil {
			db.Close() // a free page
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("page %d: Open = %v; want ErrCorrupt", page, err)
		}
	}
	if tried == 0 {
		t.Error("no page to damage")
	}
}

func TestOpenRejectsFilesThatAreNoStore(t *testing.T) {
	raw, _, after := specimen(t, 60)
	pageSize := os.Getpagesize()
	noMetas := bytes.Clone(raw)
	clear(noMetas[:2*pageSize])
	noise := make([]byte, len(raw))
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	tests := []struct {
		name string
		file []byte
	}{
		{"an empty file", nil},
		{"one byte", []byte("x")},
		{"text", []byte(strings.Repeat("secret = {env.SECRET}\n", 1000))},
		{"noise", noise},
		{"zeros", make([]byte, len(raw))},
		{"both meta pages gone", noMetas},
		{"cut after a byte", raw[:1]},
		{"cut after the first head", raw[:pageSize]},
		{"cut after both meta pages", raw[:2*pageSize]},
		{"cut in the middle", raw[:len(raw)/2/pageSize*pageSize]},
		{"cut within a page", raw[:len(raw)/2/pageSize*pageSize+100]},
	}
	for _, test := range tests {
		path := newPath(t)
		if err := os.WriteFile(path, test.file, 0o600); err != nil {
			t.Fatal(err)
		}
		unchanged := snapshot(t, path)
		db, err := Open(path, Options{})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "caddy doorpost restore FILE") {
			t.Errorf("%s: Open = %v, %v; want ErrCorrupt with the path and what to do", test.name, db, err)
		}
		unchanged()
		// A rejected file isn't locked, and a backup can replace it.
		kept, err := Restore(path, bytes.NewReader(raw))
		if err != nil || (kept == "") != (len(test.file) == 0) {
			t.Errorf("%s: Restore = %q, %v", test.name, kept, err)
			continue
		}
		if got, err := held(openAt(t, path, Options{}), after); err != nil || !maps.Equal(got, after) {
			t.Errorf("%s: restored, it holds %d records, %v; want %d", test.name, len(got), err, len(after))
		}
	}
}

// One damaged meta page, as after a power cut, is tolerated: the other one is used.
func TestOneValidMetaPageIsEnough(t *testing.T) {
	raw, before, after := specimen(t, 60)
	for head := range 2 {
		path := newPath(t)
		damaged := bytes.Clone(raw)
		clear(damaged[head*os.Getpagesize():][:os.Getpagesize()])
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		db := openAt(t, path, Options{Log: logTo(&log)})
		if got, err := held(db, after); err != nil || !maps.Equal(got, after) && !maps.Equal(got, before) {
			t.Errorf("without head %d: %d records, %v; want the %d or %d of the last two commits", head, len(got), err, len(before), len(after))
		}
		if !strings.Contains(log.String(), "the last change may be missing") {
			t.Errorf("without head %d: the log says %q", head, &log)
		}
		put(t, db, "k", "v", time.Time{})
		sound(t, db)
	}
}

// leafOf returns the page with the value.
func leafOf(t *testing.T, path, value string) (at int64) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(raw, []byte(value))
	if i < 0 {
		t.Fatalf("%q is not in the file", value)
	}
	return int64(i / os.Getpagesize() * os.Getpagesize())
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// big returns a value with a page of its own.
func big(s string) string { return strings.Repeat(s, 2000) }

// unusable checks that err is the error that callers get after damage.
func unusable(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("%s = %v; want one that is ErrUnavailable and ErrCorrupt", what, err)
	}
}

func TestARecordIsDamagedWhileTheStoreIsOpen(t *testing.T) {
	path := newPath(t)
	var log bytes.Buffer
	db := openAt(t, path, Options{Log: logTo(&log)})
	put(t, db, "damaged", "a value that is not what it was", time.Now().Add(time.Hour))
	put(t, db, "whole", big("w"), time.Time{})
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, int64(bytes.LastIndex(raw, []byte("not what"))), []byte("NOT"))

	_, err = db.Get(t.Context(), key("damaged"))
	unusable(t, "Get", err)
	_, err = db.Scan(t.Context(), "firm", "bucket", "", "", 9)
	unusable(t, "Scan", err)
	for _, op := range []store.Op{
		store.Create(key("damaged"), nil, time.Time{}),
		store.Check(key("damaged"), nil),
		store.Remove(key("damaged"), nil),
		store.Replace(key("damaged"), nil, nil, time.Time{}),
	} {
		unusable(t, "Apply", db.Apply(t.Context(), op))
	}
	if !strings.Contains(log.String(), "a record of the store is damaged") || !strings.Contains(log.String(), path) {
		t.Errorf("the log says %q", &log)
	}
	want(t, db, big("w"), "whole")
	put(t, db, "another", "v", time.Time{})

	// Overwriting the record unconditionally repairs it.
	put(t, db, "damaged", "mended", time.Time{})
	want(t, db, "mended", "damaged")
	if n, err := db.sweepUntil(t.Context(), time.Now().Add(2*time.Hour)); err != nil || n != 1 {
		t.Errorf("Sweep = %d, %v; want the entry that was left behind", n, err)
	}
	want(t, db, "mended", "damaged")
	sound(t, db)
}

func TestAPageIsDamagedWhileTheStoreIsOpen(t *testing.T) {
	path := newPath(t)
	var log bytes.Buffer
	db, err := Open(path, Options{Log: logTo(&log)})
	if err != nil {
		t.Fatal(err)
	}
	for id := 'a'; id <= 'z'; id++ {
		put(t, db, string(id), big(string(id)), time.Time{})
	}
	overwrite(t, path, leafOf(t, path, big("m")), []byte("this is no page"))

	_, err = db.Get(t.Context(), key("m"))
	unusable(t, "Get", err)
	// Reading other pages goes on; nothing is written any more.
	want(t, db, big("a"), "a")
	want(t, db, big("z"), "z")
	unusable(t, "Apply", db.Apply(t.Context(), store.Put(key("new"), nil, time.Time{})))
	unusable(t, "Apply", db.Apply(t.Context(), store.Remove(key("a"), []byte(big("a")))))
	want(t, db, big("a"), "a")
	if strings.Count(log.String(), "nothing is written to it any more") != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("the log says %q; want it once", &log)
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	_, err = Open(path, Options{})
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open = %v; want ErrCorrupt", err)
	}
}

func TestTheWriterPanics(t *testing.T) {
	path := newPath(t)
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "k", "v", time.Time{})
	err = db.submit(t.Context(), &request{evaluate: func(*bolt.Tx) error { panic("page 7 already freed") }})
	unusable(t, "submit", err)
	unusable(t, "Apply", db.Apply(t.Context(), store.Put(key("new"), nil, time.Time{})))
	want(t, db, "v", "k")
	want(t, db, "-", "new")
	if err := db.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	want(t, openAt(t, path, Options{}), "v", "k")
}

// Another file is copied over the open store, or it is truncated.
func TestTheFileIsTruncatedWhileTheStoreIsOpen(t *testing.T) {
	for _, size := range []int64{0, 1, 2} { // pages
		path := newPath(t)
		db, err := Open(path, Options{Sweep: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			put(t, db, fmt.Sprint(i), big("v"), time.Now().Add(time.Hour))
		}
		stop := make(chan struct{})
		var readers []chan bool
		for range 4 {
			ended := make(chan bool)
			readers = append(readers, ended)
			go func() {
				defer close(ended)
				for i := 0; ; i++ {
					rec, err := db.Get(context.Background(), key(fmt.Sprint(i%20)))
					if err == nil && string(rec.Value) != big("v") || errors.Is(err, store.ErrNotFound) {
						t.Errorf("Get = %d bytes, %v; want the value, or that it isn't available", len(rec.Value), err)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
		}
		if err := os.Truncate(path, size*int64(os.Getpagesize())); err != nil {
			t.Fatal(err)
		}
		within(t, func() {
			for range 50 {
				_, err := db.Get(t.Context(), key("7"))
				unusable(t, "Get", err)
			}
			unusable(t, "Apply", db.Apply(t.Context(), store.Put(key("7"), nil, time.Time{})))
			close(stop)
			for _, ended := range readers {
				<-ended
			}
			if err := db.Close(); err != nil {
				t.Errorf("Close = %v", err)
			}
		})
		if _, err := Open(path, Options{Wait: time.Millisecond}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d pages: Open = %v; want ErrCorrupt, and no longer ErrHeld", size, err)
		}
	}
}

// The writer may find the damage first.
func TestTheFileIsTruncatedBeforeAWrite(t *testing.T) {
	path := newPath(t)
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, db, fmt.Sprint(i), big("v"), time.Time{})
	}
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		unusable(t, "Apply", db.Apply(context.Background(), store.Put(key("new"), nil, time.Time{})))
		unusable(t, "Apply", db.Apply(context.Background(), store.Put(key("new"), nil, time.Time{})))
		if err := db.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}

// within fails the test, with all goroutines, if f hangs.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		panic("it hangs")
	}
}

// Damage to the open file crashes no process and returns no wrong value.
func TestFlippedBitsWhileTheStoreIsOpen(t *testing.T) {
	raw, _, after := specimen(t, 120)
	random := rand.New(rand.NewPCG(*seed, 3))
	pageSize := os.Getpagesize()
	ids := slices.Collect(maps.Keys(after))
	for range *flips / 10 {
		path := filepath.Join(t.TempDir(), "doorpost.db")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			at := 2*pageSize + random.IntN(len(raw)-2*pageSize)
			overwrite(t, path, int64(at), []byte{byte(random.Int())})
		}
		within(t, func() {
			for _, k := range ids {
				rec, err := db.Get(context.Background(), k)
				switch {
				case err == nil && string(rec.Value) == after[k], errors.Is(err, store.ErrNotFound):
				default:
					unusable(t, "Get", err)
				}
			}
			for _, k := range ids[:10] {
				err := db.Apply(context.Background(), store.Put(k, []byte("v"), time.Now()))
				if err != nil {
					unusable(t, "Apply", err)
				}
			}
			if _, err := db.Sweep(context.Background()); err != nil {
				unusable(t, "Sweep", err)
			}
			db.Close()
		})
	}
}

// leafWith returns the first leaf of a bucket that the test accepts.
func leafWith(t *testing.T, raw []byte, bucket string, likes func(visit, []element) bool) (v visit, at uint64) {
	t.Helper()
	r := bytes.NewReader(raw)
	h, _, err := readMetas(r, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{file: r, meta: h, used: make([]uint64, h.pages/64+1)}
	for todo := []visit{{page: h.root}}; len(todo) > 0; todo = todo[1:] {
		v := todo[0]
		p, flags, count, err := c.page(v.page)
		if err != nil {
			t.Fatal(err)
		}
		below, err := c.node(v, p, flags, count)
		if err != nil {
			t.Fatal(err)
		}
		list, _ := elements(p, flags, count)
		if flags == leafPage && strings.Join(v.path, "/") == bucket && likes(v, list) {
			return v, v.page * h.pageSize
		}
		todo = append(todo, below...)
	}
	t.Fatalf("no such leaf in %q", bucket)
	return v, 0
}

// entriesAt returns the entries of the page at an offset, within b.
func entriesAt(t *testing.T, b []byte, at uint64) []element {
	t.Helper()
	p := b[at:][:os.Getpagesize()]
	list, err := elements(p, native.Uint16(p[8:]), native.Uint16(p[10:]))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Damage not covered by checksums: the location of trees, and the free pages.
func TestCheckFindsDamagedTreesAndFreePages(t *testing.T) {
	raw, _, _ := specimen(t, 1000)
	h, _, err := readMetas(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	first := func(b []byte, bucket string) (page, at uint64) {
		v, at := leafWith(t, b, bucket, func(visit, []element) bool { return true })
		return v.page, at
	}
	free := h.freelist*h.pageSize + pageHeader
	freeOnly := func(b []byte, page uint64) {
		native.PutUint16(b[free-6:], 1)
		native.PutUint64(b[free:], page)
	}
	tests := []struct {
		name, want string
		spoil      func(b []byte)
	}{
		{"a page that is in use is free", "in use and free", func(b []byte) {
			page, _ := first(b, "firm/firm/bucket")
			freeOnly(b, page)
		}},
		{"a page that isn't there is free", "the list of free pages", func(b []byte) { freeOnly(b, h.pages) }},
		{"a page is free twice", "the list of free pages", func(b []byte) { copy(b[free+8:free+16], b[free:free+8]) }},
		{"two buckets have one root", "used twice", func(b []byte) {
			_, at := first(b, "")
			var roots [][]byte
			for _, e := range entriesAt(t, b, at) {
				if native.Uint64(e.value) != 0 {
					roots = append(roots, e.value[:8])
				}
			}
			copy(roots[0], roots[1])
		}},
		{"a bucket's root leads past the rest of its tree", "neither in use nor free", func(b []byte) {
			leaf, _ := first(b, "firm/firm/bucket")
			_, at := first(b, "firm/firm")
			list := entriesAt(t, b, at)
			i := slices.IndexFunc(list, func(e element) bool { return string(e.key) == "bucket" })
			native.PutUint64(list[i].value, leaf)
		}},
		{"a leaf without entries", "what they held", func(b []byte) {
			_, at := first(b, "firm/firm/bucket")
			native.PutUint16(b[at+10:], 0)
		}},
		{"a firm under another name", "none of its buckets", func(b []byte) {
			_, at := first(b, "")
			b[int(at)+bytes.Index(b[at:at+h.pageSize], []byte("firm/other"))] ^= 1
		}},
		{"a firm that is no bucket", "neither in use nor free", func(b []byte) {
			_, at := first(b, "")
			b[at+pageHeader+elemSize*uint64(native.Uint16(b[at+10:])-1)] ^= 1
		}},
		{"a small bucket that is none", "is no bucket", func(b []byte) {
			_, at := first(b, "firm/other")
			b[at+pageHeader] ^= 1
		}},
		{"keys out of order", "out of order", func(b []byte) {
			_, at := first(b, "expiry")
			list := entriesAt(t, b, at)
			copy(list[1].key, list[2].key[:8])
			copy(list[2].key, list[0].key[:8])
		}},
		{"a key lies in the wrong leaf", "wrong place", func(b []byte) {
			_, at := leafWith(t, b, "expiry", func(v visit, _ []element) bool { return v.low != nil && v.high != nil })
			clear(entriesAt(t, b, at)[0].key[:8])
		}},
	}
	for _, test := range tests {
		damaged := bytes.Clone(raw)
		test.spoil(damaged)
		if err := tryOpen(t, damaged); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Open = %v; want ErrCorrupt and %q", test.name, err, test.want)
		}
	}
}

// tryOpen returns Open's error for a file.
func tryOpen(t *testing.T, raw []byte) error {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path, Options{})
	if err == nil {
		db.Close()
	}
	return err
}

func TestReadMetasReturnsTheNewer(t *testing.T) {
	path := newPath(t)
	db := openAt(t, path, Options{})
	for i := range 4 {
		put(t, db, "k", fmt.Sprint(i), time.Time{})
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		h, whole, err := readMetas(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || whole != 2 || h.txid != uint64(txid(t, db)) {
			t.Errorf("readHeads = change %d, %d whole, %v; want change %d and both", h.txid, whole, err, txid(t, db))
		}
	}
}

// An index whose order is damaged while the store is open must not keep the sweeper and
// the disk busy forever.
func TestTheSweeperStopsAtADamagedIndex(t *testing.T) {
	clock := newClock()
	path := newPath(t)
	db, err := Open(path, Options{Clock: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		put(t, db, fmt.Sprint(i), "v", clock.now().Add(time.Duration(i)*time.Second))
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, at := leafWith(t, raw, "expiry", func(visit, []element) bool { return true })
	entries := entriesAt(t, raw, at)
	// The first entry is greater than the others now, and still expired.
	copy(entries[0].key, entries[len(entries)-1].key[:8])
	overwrite(t, path, int64(at), raw[at:][:os.Getpagesize()])
	clock.pass(time.Hour)
	within(t, func() {
		_, err := db.Sweep(context.Background())
		unusable(t, "Sweep", err)
		if err := db.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}

// Open reads only the most important pages of a huge file.
func TestCheckRespectsItsBudget(t *testing.T) {
	raw, _, _ := specimen(t, 2000)
	path := newPath(t)
	read := func() int64 {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h, _, err := readMetas(f, int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		c := &checker{file: f, meta: h, used: make([]uint64, h.pages/64+1)}
		if whole, err := c.walk(64 << 10); whole || err != nil {
			t.Errorf("walk = %t, %v; want that it stops, and finds nothing", whole, err)
		}
		return c.read
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := read(); n < 64<<10 || n > 128<<10 {
		t.Errorf("it read %d bytes; want 64 KiB and what a page has beyond", n)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, _, err := readMetas(f, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, int64(h.root*h.pageSize), []byte("this is no page"))
	if _, err := check(f, 64<<10); !errors.As(err, new(*corruption)) {
		t.Errorf("check of a damaged root within a budget = %v; want a damage", err)
	}
}
