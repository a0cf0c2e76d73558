package reports

import (
	"bufio"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// publishing is the folder in which this process publishes and removes reports until it is killed.
const publishing = "DOORPOST_TEST_PUBLISHING"

func TestMain(m *testing.M) {
	if dir := os.Getenv(publishing); dir != "" {
		publishUntilKilled(dir)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func publishUntilKilled(dir string) {
	db, err := bolt.Open(filepath.Join(dir, "doorpost.db"), bolt.Options{})
	if err != nil {
		panic(err)
	}
	r := reportsOn(new(testing.T), db, filepath.Join(dir, "reports"))
	content := strings.Repeat("all of it\n", 20_000)
	for {
		rep, err := r.Publish(context.Background(), New{Company: acme, Name: "a.pdf"}, strings.NewReader(content))
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString("published " + rep.ID + "\n")
		if rand.N(2) == 0 {
			if _, err := r.Remove(context.Background(), rep.ID); err != nil {
				panic(err)
			}
			os.Stdout.WriteString("removed " + rep.ID + "\n")
		}
	}
}

// Killed at any moment, there are the whole reports that were told of, none that was removed, and after a
// day no file besides.
func TestAKillLeavesWholeReportsAlone(t *testing.T) {
	dir := t.TempDir()
	there := map[string]bool{} // what the processes have told of
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), publishing+"="+dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() { // it has begun
			t.Fatal("the process publishes nothing")
		}
		time.AfterFunc(rand.N(60*time.Millisecond), func() { cmd.Process.Kill() })
		for more := true; more; more = lines.Scan() {
			if what, id, whole := strings.Cut(lines.Text(), " "); whole && isID(id) {
				there[id] = what == "published"
			}
		}
		_ = cmd.Wait() // killed
	}
	db, err := bolt.Open(filepath.Join(dir, "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := reportsOn(t, db, filepath.Join(dir, "reports"))
	check := func(when string, files bool) {
		t.Helper()
		list, _, err := r.ListAll(t.Context(), "", 100_000)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, rep := range list {
			if got := r.content(t, rep); got != strings.Repeat("all of it\n", 20_000) {
				t.Errorf("%s: %s has %d bytes of what was published", when, rep.ID, len(got))
			}
			if is, told := there[rep.ID]; told && !is {
				t.Errorf("%s: %s was removed, and is there", when, rep.ID)
			}
			ids = append(ids, rep.ID)
		}
		for id, is := range there {
			// A removal whose process was killed before it told of it is one, too.
			if removed, err := bucketOf[pendingFile](r, bucketFiles).Find(t.Context(), id); is && !slices.Contains(ids, id) && (err != nil || !removed.Value.Removed) && fileIsThere(r, id) {
				t.Errorf("%s: %s was published, and isn't there", when, id)
			}
		}
		if got := r.files(t); files && !slices.Equal(got, slices.Sorted(slices.Values(ids))) {
			t.Errorf("%s: the files are %q; want those of %q", when, got, ids)
		}
	}
	check("after the kills", false)
	r.Now = func() time.Time { return time.Now().Add(UploadTime + time.Second) }
	if _, err := r.Sweep(t.Context()); err != nil {
		t.Errorf("Sweep = %v", err)
	}
	check("a day later", true)
}

func fileIsThere(r *Reports, id string) bool {
	_, err := os.Stat(filepath.Join(r.Dir, r.Firm, id))
	return err == nil
}
