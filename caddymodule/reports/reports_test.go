package reports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

const testSecret = "a secret of at least 32 characters, for tests alone"

func openReports(t *testing.T) *Reports {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return reportsOn(t, db, filepath.Join(t.TempDir(), "reports"))
}

func reportsOn(t *testing.T, db store.Store, dir string) *Reports {
	t.Helper()
	keys, err := secret.New([]byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return &Reports{Firm: "example", Store: db, Keys: keys, Dir: dir}
}

var acme, birch = Company{"acme", 7}, Company{"birch", 8}

func (r *Reports) must(t *testing.T, of Company, title, content string) Report {
	t.Helper()
	rep, err := r.Publish(t.Context(), New{Company: of, Title: title, Name: title + ".pdf"}, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// files returns the names in the firm's folder.
func (r *Reports) files(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.Dir, r.Firm))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (r *Reports) content(t *testing.T, rep Report) string {
	t.Helper()
	c, err := r.Open(rep)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func titles(list []Report) (all []string) {
	for _, rep := range list {
		all = append(all, rep.Title)
	}
	return all
}

func TestReportsAreListedByCompanyTheNewestFirst(t *testing.T) {
	r := openReports(t)
	now := time.Date(2026, 7, 1, 9, 0, 0, 0, time.UTC)
	r.Now = func() time.Time { now = now.Add(time.Second); return now }
	for i := range 5 {
		r.must(t, acme, fmt.Sprint("acme ", i), "a")
		r.must(t, birch, fmt.Sprint("birch ", i), "b")
	}
	r.must(t, Company{"acme", 9}, "another acme", "x")
	ctx := t.Context()
	list, next, err := r.List(ctx, []Company{birch}, "", 3)
	if got := titles(list); err != nil || !slices.Equal(got, []string{"birch 4", "birch 3", "birch 2"}) || next == "" {
		t.Errorf("List(birch) = %q, %q, %v; want the newest three", got, next, err)
	}
	list, next, err = r.List(ctx, []Company{birch}, next, 3)
	if got := titles(list); err != nil || !slices.Equal(got, []string{"birch 1", "birch 0"}) || next != "" {
		t.Errorf("List(birch), further = %q, %q, %v; want the rest", got, next, err)
	}
	list, next, err = r.List(ctx, []Company{{"acme", 9}, birch}, "", 4)
	if got := titles(list); err != nil || !slices.Equal(got, []string{"another acme", "birch 4", "birch 3", "birch 2"}) || next != list[3].ID {
		t.Errorf("List(both) = %q, %q, %v; want four of both by time", got, next, err)
	}
	if list, _, err = r.List(ctx, []Company{acme}, "", 4); err != nil || len(list) != 0 {
		t.Errorf("List(an earlier acme) = %q, %v; want none, since another has the id", titles(list), err)
	}
	list, next, err = r.ListAll(ctx, "", 3)
	if got := titles(list); err != nil || !slices.Equal(got, []string{"another acme", "birch 4", "acme 4"}) || next == "" {
		t.Errorf("ListAll = %q, %q, %v; want the newest three", got, next, err)
	}
	if list, next, err = r.ListAll(ctx, next, 30); err != nil || len(list) != 8 || next != "" {
		t.Errorf("ListAll, further = %q, %q, %v; want the rest", titles(list), next, err)
	}
}

func TestContentComesBackInAnyPart(t *testing.T) {
	r := openReports(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // several chunks
	rep, err := r.Publish(t.Context(), New{Company: acme, Name: `C:\Users\ann\July.PDF`}, bytes.NewReader(data))
	if err != nil || rep.Title != "July" || rep.Name != "July.PDF" || rep.Type != "application/pdf" || rep.Size != int64(len(data)) {
		t.Fatalf("Publish = %+v, %v", rep, err)
	}
	got, err := r.Get(t.Context(), rep.ID)
	if err != nil || got.Title != rep.Title || got.Company != acme || !got.Published.Equal(rep.Published) {
		t.Fatalf("Get = %+v, %v; want %+v", got, err, rep)
	}
	if r.content(t, got) != string(data) {
		t.Error("the content isn't what was published")
	}
	c, err := r.Open(got)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	part := make([]byte, 50_000)
	if _, err := c.Seek(123_456, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, part); err != nil || !bytes.Equal(part, data[123_456:173_456]) {
		t.Errorf("a part of the content isn't that of what was published: %v", err)
	}
	empty, err := r.Publish(t.Context(), New{Company: acme, Name: ""}, strings.NewReader(""))
	if err != nil || empty.Title != "report" || r.content(t, empty) != "" {
		t.Errorf("an empty file = %+v, %v", empty, err)
	}
	raw, err := os.ReadFile(filepath.Join(r.Dir, "example", rep.ID))
	if err != nil || bytes.Contains(raw, []byte("0123456789abcdef")) {
		t.Errorf("the file on the disk can be read by whoever has it: %v", err)
	}
}

func TestAFileThatWasChangedIsNotServed(t *testing.T) {
	r := openReports(t)
	rep, other := r.must(t, acme, "one", strings.Repeat("x", 200_000)), r.must(t, acme, "other", strings.Repeat("y", 200_000))
	path := filepath.Join(r.Dir, "example", rep.ID)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	theOther, err := os.ReadFile(filepath.Join(r.Dir, "example", other.ID))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(whole)
	changed[1000] ^= 1
	for what, data := range map[string][]byte{"a bit": changed, "shorter": whole[:100_000], "longer": append(bytes.Clone(whole), 'x'), "another report's": theOther, "empty": nil} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := r.Open(rep)
		if err == nil {
			_, err = io.ReadAll(c)
			c.Close()
		}
		if err == nil {
			t.Errorf("%s: the file is served", what)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(rep); !errors.Is(err, ErrFolder) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open without a file = %v; want ErrFolder", err)
	}
	if err := os.Symlink("/etc/hostname", path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(rep); !errors.Is(err, ErrFolder) {
		t.Errorf("Open of a link that leads out of the folder = %v; want ErrFolder", err)
	}
}

// failing fails or stops at some Apply, as a store that is away, or a process that is killed.
type failing struct {
	store.Store
	left  int  // Applies until it fails
	after bool // it fails after the change was made
}

func (f *failing) Apply(ctx context.Context, ops ...store.Op) error {
	if f.left--; f.left >= 0 {
		return f.Store.Apply(ctx, ops...)
	}
	if f.after && f.left == -1 {
		if err := f.Store.Apply(ctx, ops...); err != nil {
			return err
		}
	}
	return store.ErrUnavailable
}

// Wherever the store fails, there is a whole report or none, and no file stays that no report needs.
func TestAFailureLeavesNoHalfReportAndNoFile(t *testing.T) {
	for left := range 3 {
		for _, after := range []bool{false, true} {
			r := openReports(t)
			now := time.Now()
			r.Now = func() time.Time { return now }
			db := r.Store
			r.must(t, acme, "before", "b")

			r.Store = &failing{db, left, after}
			_, err := r.Publish(t.Context(), New{Company: acme, Name: "new.pdf"}, strings.NewReader("new"))
			if (err == nil) != (left > 1) {
				t.Errorf("%d, %v: Publish = %v", left, after, err)
			}
			r.Store = db
			check := func(when string) {
				t.Helper()
				now = now.Add(UploadTime + time.Second)
				if _, err := r.Sweep(t.Context()); err != nil {
					t.Errorf("%d, %v: %s: Sweep = %v", left, after, when, err)
				}
				list, _, err := r.ListAll(t.Context(), "", 10)
				if err != nil {
					t.Fatal(err)
				}
				var ids []string
				for _, rep := range list {
					r.content(t, rep)
					ids = append(ids, rep.ID)
				}
				if got := r.files(t); !slices.Equal(got, slices.Sorted(slices.Values(ids))) {
					t.Errorf("%d, %v: %s: the files are %q; want those of the reports %q", left, after, when, got, ids)
				}
			}
			check("after publishing")

			rep := r.must(t, acme, "to be removed", "r")
			if _, err := r.Read(t.Context(), rep.ID, "ann", "s"); err != nil {
				t.Fatal(err)
			}
			r.Store = &failing{db, left, after}
			_, err = r.Remove(t.Context(), rep.ID)
			if (err == nil) != (left > 0) {
				t.Errorf("%d, %v: Remove = %v", left, after, err)
			}
			r.Store = db
			if _, err := r.Get(t.Context(), rep.ID); (left > 0 || after) && !errors.Is(err, ErrUnknown) {
				t.Errorf("%d, %v: Get after Remove = %v; want ErrUnknown", left, after, err)
			}
			check("after removing")
			if recs, err := db.Scan(t.Context(), "example", bucketReads, rep.ID, "", 10); err != nil || (left > 0 || after) && len(recs) != 0 {
				t.Errorf("%d, %v: who has read a report that is gone: %d records, %v", left, after, len(recs), err)
			}
		}
	}
}

func TestAnUploadThatBreaksOffLeavesNothing(t *testing.T) {
	r := openReports(t)
	broken := errors.New("the connection was reset")
	_, err := r.Publish(t.Context(), New{Company: acme, Name: "a.pdf"}, io.MultiReader(strings.NewReader(strings.Repeat("x", 300_000)), errReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("Publish = %v; want the reader's error", err)
	}
	r.most = 100_000
	if _, err := r.Publish(t.Context(), New{Company: birch, Name: "a.pdf"}, strings.NewReader(strings.Repeat("x", 100_000))); err != nil {
		t.Errorf("Publish of all that is allowed = %v", err)
	}
	_, err = r.Publish(t.Context(), New{Company: acme, Name: "a.pdf"}, strings.NewReader(strings.Repeat("x", 100_001)))
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("Publish of one byte too many = %v; want ErrTooLarge", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = r.Publish(ctx, New{Company: acme, Name: "a.pdf"}, strings.NewReader("x")); err == nil {
		t.Error("Publish with a context that has ended = nil")
	}
	list, _, err := r.ListAll(t.Context(), "", 10)
	if err != nil || len(list) != 1 || len(r.files(t)) != 1 {
		t.Errorf("there are %d reports and the files %q, %v; want one", len(list), r.files(t), err)
	}
	if n, err := r.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("Sweep = %d, %v; want nothing left to do", n, err)
	}
	r.Dir = ""
	if _, err := r.Publish(t.Context(), New{Company: acme, Name: "a.pdf"}, strings.NewReader("x")); !errors.Is(err, ErrNoFolder) {
		t.Errorf("Publish without a folder = %v; want ErrNoFolder", err)
	}
}

// Who may not publish any more, once all has come, has published nothing.
func TestAProofCountsWhenAllHasCome(t *testing.T) {
	r := openReports(t)
	gone := errors.New("the token was revoked")
	k := store.Key{Firm: "example", Bucket: "tokens", ID: "t"}
	for _, c := range []struct {
		name string
		ops  []store.Op
		err  error
		want error
	}{{"refused", nil, gone, gone}, {"changed in the last moment", []store.Op{store.Check(k, []byte("good"))}, nil, store.ErrConflict}, {"good", []store.Op{store.Create(k, []byte("good"), time.Time{})}, nil, nil}} {
		body := strings.NewReader("all of it")
		_, err := r.Publish(t.Context(), New{Company: acme, Name: "a.pdf", Prove: func(context.Context) ([]store.Op, error) {
			if body.Len() > 0 {
				t.Errorf("%s: it is asked while %d bytes are to come", c.name, body.Len())
			}
			return c.ops, c.err
		}}, body)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Publish = %v; want %v", c.name, err, c.want)
		}
	}
	if list, _, err := r.ListAll(t.Context(), "", 10); err != nil || len(list) != 1 || len(r.files(t)) != 1 {
		t.Errorf("there are %d reports and the files %q, %v; want one", len(list), r.files(t), err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Sweep takes nothing that is under way, and nothing that it doesn't know of.
func TestSweepLeavesTheRestAlone(t *testing.T) {
	r := openReports(t)
	rep := r.must(t, acme, "kept", "k")
	stranger := filepath.Join(r.Dir, "example", "u"+strings.Repeat("0", idLength-1))
	if err := os.WriteFile(stranger, []byte("of another store"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := r.Publish(t.Context(), New{Company: acme, Name: "slow.pdf"}, in)
		done <- err
	}()
	if _, err := out.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("Sweep beside an upload = %d, %v; want nothing done", n, err)
	}
	later := *r
	later.Now = func() time.Time { return time.Now().Add(UploadTime + time.Second) }
	if n, err := later.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("Sweep a day later = %d, %v; want the upload given up", n, err)
	}
	out.Close()
	if err := <-done; err == nil {
		t.Error("an upload that was given up made a report")
	}
	if got := r.files(t); !slices.Equal(got, slices.Sorted(slices.Values([]string{rep.ID, filepath.Base(stranger)}))) {
		t.Errorf("the files are %q", got)
	}
	// A disk that isn't mounted: the file is removed once it is.
	if err := os.Rename(r.Dir, r.Dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Remove(t.Context(), rep.ID); err != nil {
		t.Errorf("Remove without the folder = %v; want nil", err)
	}
	if n, err := r.Sweep(t.Context()); n != 0 || !errors.Is(err, ErrFolder) {
		t.Errorf("Sweep without the folder = %d, %v; want ErrFolder", n, err)
	}
	if err := os.Rename(r.Dir+".away", r.Dir); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Sweep(t.Context()); n != 1 || err != nil || len(r.files(t)) != 1 {
		t.Errorf("Sweep with the folder back = %d, %v, and the files are %q", n, err, r.files(t))
	}
}

func TestUnreadUntilDownloaded(t *testing.T) {
	r := openReports(t)
	now := time.Now()
	r.Now = func() time.Time { return now }
	one, two := r.must(t, acme, "one", "1"), r.must(t, acme, "two", "2")
	unread := func(contact string) int {
		t.Helper()
		n, err := r.Unread(t.Context(), []Report{one, two}, contact)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, step := range []struct {
		after   time.Duration
		session string
		begins  bool
	}{{0, "s1", true}, {time.Second, "s1", false}, {time.Second, "s2", true}, {time.Second, "s2", false}, {readAgain + time.Second, "s2", true}} {
		now = now.Add(step.after)
		if begins, err := r.Read(t.Context(), one.ID, "ann", step.session); begins != step.begins || err != nil {
			t.Errorf("Read by %s = %v, %v; want %v", step.session, begins, err, step.begins)
		}
	}
	if unread("ann") != 1 || unread("bob") != 2 {
		t.Errorf("unread: ann %d, bob %d; want 1 and 2", unread("ann"), unread("bob"))
	}
}

// Whoever can write to the store, but hasn't the secret, gets at no other company's report.
func TestForgedRecordsCountForNothing(t *testing.T) {
	r := openReports(t)
	rep := r.must(t, acme, "acme's", "secret")
	ctx := t.Context()
	raw, err := r.Store.Get(ctx, store.Key{Firm: "example", Bucket: bucketReports, ID: "acme/" + rep.ID})
	if err != nil {
		t.Fatal(err)
	}
	moved := raw.Key
	moved.ID = "birch/" + rep.ID
	if err := r.Store.Apply(ctx, store.Put(moved, raw.Value, time.Time{}), store.Put(store.Key{Firm: "example", Bucket: bucketPointers, ID: rep.ID}, []byte("birch"), time.Time{})); err != nil {
		t.Fatal(err)
	}
	if list, _, err := r.List(ctx, []Company{birch, {"birch", 7}}, "", 10); err != nil || len(list) > 0 {
		t.Errorf("List = %q, %v; want none", titles(list), err)
	}
	if _, err := r.Get(ctx, rep.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("Get = %v; want ErrUnknown", err)
	}
}

func TestANewSecretOpensOldReports(t *testing.T) {
	r := openReports(t)
	rep := r.must(t, acme, "old", "content")
	both, err := secret.New([]byte("another secret of at least 32 characters, from today on"), []byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	r.Keys = both
	if err := r.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Keys, err = secret.New([]byte("another secret of at least 32 characters, from today on")); err != nil {
		t.Fatal(err)
	}
	got, err := r.Get(t.Context(), rep.ID)
	if err != nil || r.content(t, got) != "content" {
		t.Errorf("Get with the new secret alone = %+v, %v", got, err)
	}
}

func TestNamesOfFiles(t *testing.T) {
	for in, want := range map[string]string{
		"July.pdf": "July.pdf", "../../etc/passwd": "passwd", `..\..\boot.ini`: "boot.ini", "/": "report", "": "report", "..": "report", ".htaccess": "htaccess",
		"a\x00b\r\nc.pdf": "abc.pdf", `what?<is>:"this"|*.pdf`: "what__is___this___.pdf", "trailing. . ": "trailing", "CON.pdf": "_CON.pdf", "com1": "_com1", "console.pdf": "console.pdf",
		"statement\u202efdp.exe": "statementfdp.exe", "Übersicht – März.pdf": "Übersicht – März.pdf", "no\u00a0break.pdf": "no break.pdf", "\xff\xfe.pdf": "report.pdf",
		strings.Repeat("é", 200) + ".pdf": strings.Repeat("é", 116) + ".pdf", "a." + strings.Repeat("x", 200): "a." + strings.Repeat("x", 118), "日本.xlsx": "日本.xlsx",
	} {
		if in == "\xff\xfe.pdf" {
			want = "pdf" // a name of nothing but its extension
		}
		if got := CleanName(in); got != want {
			t.Errorf("CleanName(%q) = %q; want %q", in, got, want)
		}
	}
	for _, c := range []struct {
		title string
		ok    bool
	}{{"July statement", true}, {"  July  ", true}, {strings.Repeat("é", MaxTitle), true}, {strings.Repeat("é", MaxTitle+1), false}, {"two\nlines", false}, {"turned \u202e round", false}, {"\xff", false}} {
		if _, err := titleOf(c.title, "name.pdf"); (err == nil) != c.ok {
			t.Errorf("titleOf(%q) = %v", c.title, err)
		}
	}
}
