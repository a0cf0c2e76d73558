package runtime

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file is read when it has been written to no more for a while, and for longer where it
// may be half-written.
func TestFileIsReadWhenItIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "contacts.csv")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("email\nann@example.com\n")
	w, now := watchedFile{path: path}, time.Unix(1e9, 0)
	w.read = stateOf(path)
	for i, step := range []struct {
		do      func()
		after   time.Duration
		changed bool
		writing bool
	}{
		{func() {}, time.Hour, false, false},
		{func() { write("email\nann@example.com\nbob@example.c") }, 0, false, true},
		{func() {}, 9 * time.Second, false, true},
		{func() { write("email\nann@example.com\nbob@example.com\n") }, 0, false, true},
		{func() {}, time.Second, true, false},
		{func() { w.read = stateOf(path) }, 0, false, false},
		{func() { os.Remove(path) }, 0, false, true},
		{func() {}, 9 * time.Second, false, true},
		{func() {}, time.Second, true, false},
		{func() { w.read = stateOf(path) }, time.Hour, false, false},
		{func() { write("") }, 0, false, true},
		{func() { write("email\n") }, 9 * time.Second, false, true},
		{func() {}, time.Second, true, false},
		{func() { w.read = stateOf(path) }, 0, false, false},
		{func() { // as editors save, with the length and the time of the old one
			info := stateOf(path).info
			if err := os.WriteFile(path+"~", []byte("EMAIL\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path+"~", info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+"~", path); err != nil {
				t.Fatal(err)
			}
		}, 0, false, true},
		{func() {}, time.Second, true, false},
	} {
		step.do()
		now = now.Add(step.after)
		if changed, writing := w.changed(now); changed != step.changed || writing != step.writing {
			t.Errorf("step %d: changed %t, writing %t; want %t, %t", i, changed, writing, step.changed, step.writing)
		}
	}
}
