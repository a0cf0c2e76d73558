package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, now func() time.Time) store.Store {
		db := openAt(t, newPath(t), Options{Clock: now})
		t.Cleanup(func() {
			if !db.closed.Load() {
				sound(t, db)
			}
			db.Close()
		})
		return db
	})
}

func TestAcknowledgedRecordsSurviveReopening(t *testing.T) {
	path := newPath(t)
	for i := range 5 {
		db, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for j := range i {
			want(t, db, "v", fmt.Sprint(j))
		}
		put(t, db, fmt.Sprint(i), "v", time.Now().Add(time.Hour))
		sound(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyTheOwnerCanReadTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "for it", "doorpost.db")
	db := openAt(t, path, Options{})
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	for path, want := range map[string]os.FileMode{path: 0o600, path + ".pid": 0o600, filepath.Dir(path): 0o700} {
		if got := mode(path); got != want {
			t.Errorf("the mode of %s = %o; want %o", path, got, want)
		}
	}
	if err := errors.Join(db.Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	openAt(t, path, Options{})
	if got := mode(path); got != 0o600 {
		t.Errorf("opened again, its mode = %o; want 600", got)
	}
	left, _ := filepath.Glob(filepath.Dir(path) + "/*")
	if len(left) != 2 {
		t.Errorf("beside it lie %q; want the pid file only", left)
	}
}

// blocked holds the writer in a transaction until the test calls letGo.
func blocked(t *testing.T, db *DB) (letGo func()) {
	t.Helper()
	inside, gate := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		db.submit(context.Background(), &request{
			evaluate: func(*bolt.Tx) error { close(inside); <-gate; return errUnchanged },
		})
	})
	<-inside
	return sync.OnceFunc(func() { close(gate); wg.Wait() })
}

// waiting waits until n requests are in the writer's queue.
func waiting(t *testing.T, db *DB, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		db.queue.mu.Lock()
		got := len(db.queue.waiting)
		db.queue.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d requests wait; want %d", got, n)
		}
	}
}

func txid(t *testing.T, db *DB) (id int) {
	t.Helper()
	if err := db.bolt.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestWaitingRequestsShareACommit(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "taken", "v", time.Time{})
	before := txid(t, db)
	letGo := blocked(t, db)
	defer letGo()

	const n = 100
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprint(i)
			if i%4 == 0 { // a conflict fails only its own caller
				errs[i] = db.Apply(t.Context(), store.Put(key(id), nil, time.Time{}), store.Create(key("taken"), nil, time.Time{}))
			} else {
				errs[i] = db.Apply(t.Context(), store.Put(key(id), []byte("v"), time.Time{}))
			}
		})
	}
	waiting(t, db, n)
	letGo()
	wg.Wait()
	for i, err := range errs {
		id := fmt.Sprint(i)
		if i%4 == 0 {
			if !errors.Is(err, store.ErrConflict) {
				t.Errorf("the Apply with a conflict = %v; want ErrConflict", err)
			}
			want(t, db, "-", id)
			continue
		}
		if err != nil {
			t.Errorf("Apply = %v beside those with a conflict; want nil", err)
		}
		want(t, db, "v", id)
	}
	if commits := txid(t, db) - before; commits != 1 {
		t.Errorf("%d waiting Applies took %d commits; want 1", n, commits)
	}
}

// Within a group, later requests see the changes of earlier ones.
func TestLaterRequestsOfAGroupSeeEarlierChanges(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	letGo := blocked(t, db)
	defer letGo()
	steps := []struct {
		op  store.Op
		err error
	}{
		{store.Create(key("k"), []byte("1"), time.Time{}), nil},
		{store.Create(key("k"), []byte("x"), time.Time{}), store.ErrConflict},
		{store.Replace(key("k"), []byte("1"), []byte("2"), time.Now().Add(time.Hour)), nil},
		{store.Replace(key("k"), []byte("1"), []byte("x"), time.Time{}), store.ErrConflict},
		{store.Remove(key("k"), []byte("2")), nil},
		{store.Check(key("k"), []byte("2")), store.ErrConflict},
		{store.Create(key("k"), []byte("3"), time.Time{}), nil},
	}
	answers := make([]chan error, len(steps))
	for i, s := range steps {
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- db.Apply(t.Context(), s.op) }()
		waiting(t, db, i+1)
	}
	letGo()
	for i, s := range steps {
		if err := <-answers[i]; !errors.Is(err, s.err) || (s.err == nil) != (err == nil) {
			t.Errorf("step %d: Apply = %v; want %v", i, err, s.err)
		}
	}
	want(t, db, "3", "k")
	sound(t, db)
}

func TestUnchangedGroupsAreNotCommitted(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "k", "v", time.Time{})
	before := txid(t, db)
	db.Apply(t.Context(), store.Create(key("k"), nil, time.Time{}))
	db.Apply(t.Context(), store.Check(key("k"), []byte("v")))
	db.Apply(t.Context(), store.Delete(key("none")))
	db.Apply(t.Context(), store.Remove(key("none"), nil))
	db.Sweep(t.Context())
	if after := txid(t, db); after != before {
		t.Errorf("%d commits; want none", after-before)
	}
}

func TestReadersDontWaitForTheWriter(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "k", "v", time.Time{})
	letGo := blocked(t, db)
	defer letGo()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		want(t, db, "v", "k")
		if list, err := db.Scan(ctx, "firm", "bucket", "", "", 9); err != nil || len(list) != 1 {
			t.Errorf("Scan = %v, %v", list, err)
		}
		if err := db.Backup(new(bytes.Buffer)); err != nil {
			t.Errorf("Backup = %v", err)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
		t.Error("a reader waits for the writer")
	}
}

func TestACanceledRequestIsWithdrawn(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	letGo := blocked(t, db)
	defer letGo()

	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- db.Apply(ctx, store.Put(key("given up"), nil, time.Time{})) }()
	waiting(t, db, 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Apply, given up while it waited = %v; want ErrUnavailable and context.Canceled", err)
	}
	letGo()
	put(t, db, "next", "v", time.Time{})
	want(t, db, "-", "given up")

	// Once the writer has begun, the caller gets the result.
	ctx, cancel = context.WithCancel(t.Context())
	err := db.submit(ctx, &request{
		evaluate: func(*bolt.Tx) error { cancel(); time.Sleep(20 * time.Millisecond); return nil },
		apply:    func(tx *bolt.Tx) (bool, error) { return true, writeRecord(tx, key("begun"), []byte("v"), 0, 0) },
	})
	if err != nil {
		t.Errorf("submit, given up after the writer had begun = %v; want nil", err)
	}
	want(t, db, "v", "begun")
}

func TestGetAllocatesLittle(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "k", strings.Repeat("v", 200), time.Now().Add(time.Hour))
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := db.Get(t.Context(), key("k")); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 16 {
		t.Errorf("Get allocates %v times; want up to 16", allocs)
	}
	t.Logf("%v allocations", allocs)
}

func TestTheSweeperDeletesExpiredRecords(t *testing.T) {
	clock := newClock()
	path := newPath(t)
	db := openAt(t, path, Options{Clock: clock.now, Sweep: time.Millisecond})
	const n = maxSweep + 50 // more than a batch
	ops := make([]store.Op, n)
	for i := range ops {
		ops[i] = store.Put(key(fmt.Sprintf("%05d", i)), []byte("v"), clock.now().Add(time.Duration(i)*time.Millisecond))
	}
	if err := db.Apply(t.Context(), append(ops, store.Put(key("stays"), []byte("v"), time.Time{}))...); err != nil {
		t.Fatal(err)
	}
	clock.pass(n * time.Millisecond)
	for end := time.Now().Add(10 * time.Second); left(t, db) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d records are left; want 1", left(t, db))
		}
	}
	clock.pass(-time.Hour)
	want(t, db, "-", "00000", "00999")
	want(t, db, "v", "stays")
	sound(t, db)
}

// left counts the records in the file, expired or not.
func left(t *testing.T, db *DB) (n int) {
	t.Helper()
	err := db.bolt.View(func(tx *bolt.Tx) error {
		return bucketOf(tx, "firm", "bucket").ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheFileStaysBounded(t *testing.T) {
	clock := newClock()
	path := newPath(t)
	db := openAt(t, path, Options{Clock: clock.now})
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var early int64
	const rounds = 150
	for round := range rounds {
		ops := make([]store.Op, 0, 100)
		for i := range 100 {
			id := fmt.Sprintf("%x", uint64(round*1000+i)*0x9E3779B97F4A7C15)
			ops = append(ops, store.Put(key(id), bytes.Repeat([]byte("v"), 300), clock.now().Add(time.Minute)))
		}
		if err := db.Apply(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
		clock.pass(20 * time.Second)
		if _, err := db.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if round == rounds/5 {
			early = size()
		}
	}
	if late := size(); late > early*3/2 {
		t.Errorf("the file has grown from %d bytes after %d rounds to %d after %d; want no more than half again", early, rounds/5, late, rounds)
	}
	clock.pass(time.Hour)
	if n, err := db.Sweep(t.Context()); err != nil || n == 0 || left(t, db) != 0 {
		t.Errorf("Sweep = %d, %v, %d left; want all gone", n, err, left(t, db))
	}
	sound(t, db)
}

func TestClockGuard(t *testing.T) {
	start := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name  string
		steps [][3]time.Duration // after the start: the clock, the elapsed time, the time to sweep up to
	}{
		{"they agree", [][3]time.Duration{{time.Hour, time.Hour, time.Hour}, {9 * time.Hour, 9 * time.Hour, 9 * time.Hour}}},
		{"a bit ahead", [][3]time.Duration{{time.Hour + 5*time.Minute, time.Hour, time.Hour + 5*time.Minute}}},
		{"set back", [][3]time.Duration{{-time.Hour, time.Minute, -time.Hour}, {-time.Hour + time.Minute, 2 * time.Minute, -time.Hour + time.Minute}}},
		{"ten years ahead, then right again", [][3]time.Duration{
			{87600 * time.Hour, time.Minute, time.Minute},
			{87600*time.Hour + time.Minute, 2 * time.Minute, 2 * time.Minute},
			{3 * time.Minute, 3 * time.Minute, 3 * time.Minute},
			{87600 * time.Hour, 90 * time.Minute, 90 * time.Minute}, // a new jump, a new hour
		}},
		{"ahead for good", [][3]time.Duration{
			{2 * time.Hour, time.Minute, time.Minute},
			{2*time.Hour + 58*time.Minute, 59 * time.Minute, 59 * time.Minute},
			{3*time.Hour + time.Minute, 62 * time.Minute, 3*time.Hour + time.Minute},
			{4 * time.Hour, 121 * time.Minute, 4 * time.Hour},
		}},
	}
	for _, test := range tests {
		b := clockGuard{wall: start, real: start}
		for i, s := range test.steps {
			if got := b.now(start.Add(s[0]), start.Add(s[1])); !got.Equal(start.Add(s[2])) {
				t.Errorf("%s: step %d: now = start + %v; want start + %v", test.name, i, got.Sub(start), s[2])
			}
		}
	}
}

func TestTheSweeperDistrustsAClockJump(t *testing.T) {
	clock := newClock()
	db := openAt(t, newPath(t), Options{Clock: clock.now, Sweep: time.Millisecond})
	put(t, db, "session", "v", clock.now().Add(24*time.Hour))
	put(t, db, "link", "v", clock.now().Add(time.Minute))
	clock.pass(48 * time.Hour)
	time.Sleep(30 * time.Millisecond)
	want(t, db, "-", "session", "link")
	clock.pass(-48*time.Hour + 2*time.Minute)
	want(t, db, "v", "session")
	want(t, db, "-", "link")
}

// reschema writes another format number into the file.
func reschema(t *testing.T, path, format string) {
	t.Helper()
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(schemaKey, []byte(format)) })
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		format string
		want   error
		says   string
	}{
		{"2", ErrNewer, "format is 2"},
		{"9000", ErrNewer, "format is 9000"},
		{"0", ErrCorrupt, "caddy doorpost restore"},
		{"-1", ErrCorrupt, "caddy doorpost restore"},
		{"one", ErrCorrupt, "caddy doorpost restore"},
		{"", ErrCorrupt, "caddy doorpost restore"},
	}
	for _, test := range tests {
		path := newPath(t)
		if err := openAt(t, path, Options{}).Close(); err != nil {
			t.Fatal(err)
		}
		reschema(t, path, test.format)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		unchanged := snapshot(t, path)
		db, err := Open(path, Options{})
		if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), path) || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("Open of format %q = %v, %v; want %v, with the path and %q", test.format, db, err, test.want, test.says)
		}
		unchanged()
	}
}

// snapshot returns a check that path and its folder are unchanged.
func snapshot(t *testing.T, path string) func() {
	t.Helper()
	look := func() string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Dir(path) + "/*")
		return fmt.Sprint(info.Mode(), info.ModTime(), names, err, string(raw))
	}
	before := look()
	return func() {
		t.Helper()
		if look() != before {
			t.Error("the file, or its folder, has been changed")
		}
	}
}

func TestOpenRejectsOtherFilesUnchanged(t *testing.T) {
	path := newPath(t)
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("theirs"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte("k"), []byte("v"))
	})
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	unchanged := snapshot(t, path)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "no store of Doorpost") {
		t.Errorf("Open of another program's file = %v; want ErrCorrupt", err)
	}
	unchanged()
}

func TestOpenFailsIfTheFileCannotBeCreated(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(file, "doorpost.db")} {
		db, err := Open(path, Options{})
		if err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s) = %v, %v; want the system's error with the path", path, db, err)
		}
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	path := newPath(t)
	before := runtime.NumGoroutine()
	for range 20 {
		db, err := Open(path, Options{Sweep: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		put(t, db, "k", "v", time.Now().Add(time.Millisecond))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines after Close; before Open %d", runtime.NumGoroutine(), before)
		}
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Errorf("after Close: %q; want the store only", names)
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, fd := range fds {
			if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(name, path) {
				t.Errorf("%s is still open", name)
			}
		}
	}
}

// Requests accepted before Close are completed.
func TestCloseCompletesWaitingRequests(t *testing.T) {
	path := newPath(t)
	db := openAt(t, path, Options{})
	letGo := blocked(t, db)
	const n = 3 * maxGroup / 2
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			errs[i] = db.Apply(context.Background(), store.Put(key(fmt.Sprint(i)), []byte("v"), time.Time{}))
		})
	}
	waiting(t, db, n)
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	for !db.closed.Load() {
		time.Sleep(time.Millisecond)
	}
	letGo()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	db = openAt(t, path, Options{})
	for i, err := range errs {
		if err != nil {
			t.Fatalf("Apply = %v; want nil", err)
		}
		want(t, db, "v", fmt.Sprint(i))
	}
}

func logTo(b *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }
