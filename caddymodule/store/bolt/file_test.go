package bolt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// playHolder keeps the store open until its standard input ends.
func playHolder(args []string) error {
	db, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
	return db.Close()
}

func TestASecondProcessGetsTheHoldersPID(t *testing.T) {
	path := newPath(t)
	holder := play(t, "holder", path)
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Process.Kill()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}

	begun := time.Now()
	_, err = Open(path, Options{Wait: 200 * time.Millisecond})
	host, _ := os.Hostname()
	says := fmt.Sprintf("%s is held by process %d (on %s, since 2", path, holder.Process.Pid, host)
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "another path") {
		t.Errorf("Open = %v; want ErrHeld with %q and what to do", err, says)
	}
	if took := time.Since(begun); took < 150*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %v; want the 200 ms that it may wait", took)
	}
	if _, err := Restore(path, strings.NewReader("")); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), says) {
		t.Errorf("Restore = %v; want ErrHeld with %q", err, says)
	}

	// Open succeeds if the store is closed within the wait.
	opened := make(chan error)
	go func() {
		db, err := Open(path, Options{Wait: 10 * time.Second})
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	stdin.Close()
	if err := <-opened; err != nil {
		t.Errorf("Open while the holder closes = %v; want nil", err)
	}
	if err := holder.Wait(); err != nil {
		t.Errorf("the holder ended with %v", err)
	}
}

func TestOpeningTwiceInAProcessFails(t *testing.T) {
	path := newPath(t)
	openAt(t, path, Options{})
	_, err := Open(path, Options{Wait: time.Millisecond})
	if says := fmt.Sprintf("process %d ", os.Getpid()); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), says) {
		t.Errorf("Open = %v; want ErrHeld with %q", err, says)
	}
}

func TestAStalePIDFileIsIgnored(t *testing.T) {
	path := newPath(t)
	if err := openAt(t, path, Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	stale := func() {
		if err := os.WriteFile(path+".pid", fmt.Appendf(nil, "%d elsewhere 2020-01-01T00:00:00Z%s\n", os.Getpid(), strings.Repeat(" ", 99)), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	// A program without a PID file has the store open.
	stale()
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Wait: time.Millisecond}); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "held by another process: ") {
		t.Errorf("Open = %v; want ErrHeld by another process", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	// A crashed server has left the file: the next one replaces it.
	stale()
	openAt(t, path, Options{})
	raw, err := os.ReadFile(path + ".pid")
	if want := fmt.Sprintf("%d ", os.Getpid()); err != nil || !strings.HasPrefix(string(raw), want) || strings.Contains(string(raw), "2020") || bytes.Count(raw, []byte("\n")) != 1 {
		t.Errorf("the pid file says %q, %v; want one line that begins %q", raw, err, want)
	}
}

func TestOpenWorksWithoutAPIDFile(t *testing.T) {
	path := newPath(t)
	if err := os.Mkdir(path+".pid", 0o700); err != nil {
		t.Fatal(err)
	}
	db := openAt(t, path, Options{})
	put(t, db, "k", "v", time.Time{})
	if _, err := Open(path, Options{Wait: time.Millisecond}); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Open = %v; want ErrHeld by another process", err)
	}
}

func TestConcurrentOpensCreateOneStore(t *testing.T) {
	path := newPath(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			db, err := Open(path, Options{Wait: 20 * time.Second})
			if err != nil {
				t.Error(err)
				return
			}
			put(t, db, fmt.Sprint(i), "v", time.Time{})
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, openAt(t, path, Options{}), "v", "0", "1", "2", "3", "4", "5", "6", "7")
	if names, _ := filepath.Glob(path + "?*"); len(names) != 1 {
		t.Errorf("beside the store lie %q; want the pid file only", names)
	}
}

func TestBackupAndRestore(t *testing.T) {
	path := newPath(t)
	db := openAt(t, path, Options{})
	put(t, db, "before", "v", time.Time{})
	put(t, db, "later removed", "v", time.Now().Add(time.Hour))

	// The copy is consistent while others write.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprint("pair", w, "-", i)
				if err := db.Apply(t.Context(), store.Put(key(id), nil, time.Time{}), store.Put(store.Key{Firm: "firm", Bucket: "other", ID: id}, nil, time.Time{})); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	var backup bytes.Buffer
	if err := db.Backup(&backup); err != nil {
		t.Fatalf("Backup = %v", err)
	}
	close(stop)
	wg.Wait()
	if names, _ := filepath.Glob(path + ".backup-*"); len(names) != 0 {
		t.Errorf("Backup left %q", names)
	}
	put(t, db, "after", "v", time.Time{})
	if err := db.Apply(t.Context(), store.Delete(key("later removed"))); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	kept, err := Restore(path, bytes.NewReader(backup.Bytes()))
	if err != nil || !strings.HasPrefix(kept, path+".before-restore-2") {
		t.Fatalf("Restore = %q, %v; want the name of the kept file", kept, err)
	}
	restored, replaced := openAt(t, path, Options{}), openAt(t, kept, Options{})
	want(t, restored, "v", "before", "later removed")
	want(t, restored, "-", "after")
	want(t, replaced, "v", "before", "after")
	want(t, replaced, "-", "later removed")
	sound(t, restored)
	ones, err1 := restored.Scan(t.Context(), "firm", "bucket", "pair", "", 1e6)
	others, err2 := restored.Scan(t.Context(), "firm", "other", "pair", "", 1e6)
	if err1 != nil || err2 != nil || len(ones) == 0 || len(ones) != len(others) {
		t.Errorf("the copy has %d and %d of the pairs (%v, %v); want as many of both, and some", len(ones), len(others), err1, err2)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the restored file: %v, %v; want mode 600", info.Mode(), err)
	}
}

func TestRestoreWithoutAnExistingStore(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "k", "v", time.Time{})
	var backup bytes.Buffer
	if err := db.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "new", "doorpost.db")
	kept, err := Restore(path, &backup)
	if err != nil || kept != "" {
		t.Fatalf("Restore = %q, %v; want nothing kept", kept, err)
	}
	if names, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(names) != 1 {
		t.Errorf("Restore left %q; want the store only", names)
	}
	want(t, openAt(t, path, Options{}), "v", "k")
}

func TestRestoreAcceptsOnlyACompleteStore(t *testing.T) {
	source := newPath(t)
	db := openAt(t, source, Options{})
	for i := range 200 {
		put(t, db, fmt.Sprint(i), strings.Repeat("v", 100), time.Time{})
	}
	var buf bytes.Buffer
	if err := db.Backup(&buf); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(flipped, []byte("vvvv"))] ^= 1
	reschema(t, source, "7")
	newer, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		r    io.Reader
		want error
	}{
		{"nothing", strings.NewReader(""), ErrCorrupt},
		{"something else", strings.NewReader(strings.Repeat("email,first_name\n", 1000)), ErrCorrupt},
		{"cut short", bytes.NewReader(whole[:len(whole)-1]), ErrCorrupt},
		{"cut to a page", bytes.NewReader(whole[:4096]), ErrCorrupt},
		{"a flipped bit", bytes.NewReader(flipped), ErrCorrupt},
		{"a newer store", bytes.NewReader(newer), ErrNewer},
		{"a reader that breaks off", io.MultiReader(bytes.NewReader(whole[:5000]), broken{}), io.ErrUnexpectedEOF},
	}
	path := newPath(t)
	db = openAt(t, path, Options{})
	put(t, db, "k", "v", time.Time{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		unchanged := snapshot(t, path)
		if kept, err := Restore(path, test.r); !errors.Is(err, test.want) || kept != "" || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: Restore = %q, %v; want %v, and that nothing was changed", test.name, kept, err, test.want)
		}
		unchanged()
	}
	missing := filepath.Join(t.TempDir(), "doorpost.db")
	if _, err := Restore(missing, strings.NewReader("")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Restore = %v; want ErrCorrupt", err)
	}
	if names, _ := filepath.Glob(missing + "*"); len(names) != 0 {
		t.Errorf("a failed Restore left %q", names)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A server that waits for the lock during Restore must not continue with the replaced file.
func TestAWaitingOpenGetsTheRestoredStore(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	put(t, db, "k", "restored", time.Time{})
	var backup bytes.Buffer
	if err := db.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	path := newPath(t)
	if err := openAt(t, path, Options{}).Close(); err != nil {
		t.Fatal(err)
	}

	r, w := io.Pipe()
	restored := make(chan error)
	go func() {
		_, err := Restore(path, r)
		restored <- err
	}()
	if _, err := w.Write(backup.Bytes()[:100]); err != nil { // Restore has the lock now
		t.Fatal(err)
	}
	opened := make(chan *DB)
	go func() {
		db, err := Open(path, Options{Wait: 20 * time.Second})
		if err != nil {
			t.Error(err)
		}
		opened <- db
	}()
	time.Sleep(50 * time.Millisecond)
	w.Write(backup.Bytes()[100:])
	w.Close()
	if err := <-restored; err != nil {
		t.Fatal(err)
	}
	if db := <-opened; db != nil {
		defer db.Close()
		want(t, db, "restored", "k")
	}
}

func TestBackupReturnsItsErrors(t *testing.T) {
	db := openAt(t, newPath(t), Options{})
	r, w := io.Pipe()
	r.CloseWithError(io.ErrShortWrite)
	if err := db.Backup(w); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Backup = %v; want the writer's error", err)
	}
	db.Close()
	if err := db.Backup(io.Discard); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Backup of a closed store = %v; want ErrUnavailable", err)
	}
}

// looking is a writer that looks at a folder on each Write.
type looking struct {
	pattern string
	seen    []string
}

func (l *looking) Write(data []byte) (int, error) {
	names, err := filepath.Glob(l.pattern)
	l.seen = append(l.seen, names...)
	return len(data), err
}

// A kill during a backup or a restore leaves no further copy of the store.
func TestAKillLeavesNoCopies(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no file that is open can be removed here")
	}
	path := newPath(t)
	db := openAt(t, path, Options{})
	put(t, db, "k", "v", time.Time{})
	slow := &looking{pattern: path + ".backup*"}
	if err := db.Backup(slow); err != nil || len(slow.seen) > 0 {
		t.Errorf("Backup = %v, and its reader saw %q; want no file with a name", err, slow.seen)
	}
	for _, left := range []string{".restore-new", ".version-1.new"} {
		if err := os.WriteFile(path+left, []byte("half a copy"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := db.SaveCopy(".version-1"); err != nil || kept != path+".version-1" {
		t.Errorf("Keep = %q, %v", kept, err)
	}
	var backup bytes.Buffer
	if err := errors.Join(db.Backup(&backup), db.Close()); err != nil {
		t.Fatal(err)
	}
	kept, err := Restore(path, &backup)
	if err != nil {
		t.Fatal(err)
	}
	want(t, openAt(t, path, Options{}), "v", "k")
	if names, _ := filepath.Glob(path + ".*"); !slices.Equal(names, []string{kept, path + ".pid", path + ".version-1"}) {
		t.Errorf("beside the store lie %q; want the copy that was kept at the take-over, and the file that was replaced", names)
	}
}
