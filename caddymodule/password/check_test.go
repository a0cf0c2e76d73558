package password

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.is("ann", good, ErrNone)
	w.set("ann", good)
	w.is("ann", good, nil)
	w.is("ann", good+" ", ErrWrong)
	w.is("ann", strings.ToUpper(good), ErrWrong)
	w.is("ann", "", ErrWrong)
	w.is("bob", good, ErrNone)
	w.is("", good, ErrNone)
	w.set("ann", other)
	w.is("ann", good, ErrWrong)
	w.is("ann", other, nil)
	w.must(w.Remove(context.Background(), "ann"))
	w.is("ann", other, ErrNone)
	for _, err := range []error{ErrNone, ErrThrottled} {
		if !errors.Is(err, ErrWrong) {
			t.Errorf("%v is no ErrWrong", err)
		}
	}
}

func TestState(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	state := func(want State) {
		t.Helper()
		if got, err := w.State(ctx, "ann"); got != want || err != nil || got.Has() == want.Since.IsZero() {
			t.Errorf("State = %+v, %v; want %+v", got, err, want)
		}
	}
	state(State{})
	w.must(w.Import(ctx, "ann", bcryptOf(t, good)))
	first := w.clock.now()
	state(State{Since: first, Imported: true})
	w.clock.move(time.Hour)
	w.is("ann", good, nil)
	state(State{Since: first}) // it is the same password
	w.set("ann", other)
	state(State{Since: w.clock.now(), Chosen: true})
	w.is("ann", other, nil)
	state(State{Since: w.clock.now(), Chosen: true})
	w.must(w.Remove(ctx, "ann"))
	state(State{})
}

// It makes no difference whether a keyboard sends é, or e and an accent.
func TestCheck_AcceptsEveryUnicodeFormOfALetter(t *testing.T) {
	w := newWorld(t)
	w.set("ann", "un café près du château")
	w.is("ann", "un cafe\u0301 pre\u0300s du cha\u0302teau", nil)
	w.is("ann", "ｕｎ café près du château", nil)
	w.is("ann", "un cafe pres du chateau", ErrWrong)
}

// The whole password counts, up to the maximum length.
func TestCheck_ComparesTheWholePassword(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("Zwölf Boxkämpfer jagen Viktor. ", 9)[:264] + "the end" // ö and ä are two bytes
	for len([]rune(long)) > MaxLength {
		long = long[1:]
	}
	w.set("ann", long)
	w.is("ann", long, nil)
	w.is("ann", long[:len(long)-1], ErrWrong)
	w.is("ann", long+"x", ErrWrong)
	w.is("ann", long[:72], ErrWrong)
	w.is("ann", strings.Repeat("x", 1<<20), ErrWrong)
	w.is("ann", "\xff"+long, ErrWrong)
}

// T09 (stolen store): a copy of the store contains no password, and no hash to guess at.
func TestT09_TheStoreHoldsNoUnsealedHash(t *testing.T) {
	w := newWorld(t)
	hash := bcryptOf(t, other)
	w.set("ann", good)
	w.must(w.Import(context.Background(), "bob", hash))
	w.Store.Close()
	file, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{good, other, hash, hash[10:], `"hash"`} {
		if bytes.Contains(file, []byte(secret)) {
			t.Errorf("%q is in the store", secret)
		}
	}
	if !bytes.Contains(file, []byte("ann")) {
		t.Error("the file isn't the store")
	}
}

// Writing to the store doesn't give one contact the password of another.
func TestCheck_MovedRecordsFail(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("mallory", good)
	rec, err := w.Store.Get(ctx, store.Key{Firm: w.Firm, Bucket: passwordBucket, ID: "mallory"})
	if err != nil {
		t.Fatal(err)
	}
	rec.Key.ID = "ann"
	w.must([]store.Op{store.Put(rec.Key, rec.Value, time.Time{})}, nil)
	w.is("ann", good, ErrNone)
	elsewhere := w.as(func(p *Passwords) { p.Firm = "other" })
	rec.Key = store.Key{Firm: "other", Bucket: passwordBucket, ID: "mallory"}
	w.must([]store.Op{store.Put(rec.Key, rec.Value, time.Time{})}, nil)
	elsewhere.is("mallory", good, ErrNone)
	w.is("mallory", good, nil)
}

// A sign-in with a password that changes at the same moment fails.
func TestCheck_FailsIfThePasswordChangesMeanwhile(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("ann", good)
	m, err := w.Check(ctx, Attempt{Contact: "ann", Password: good})
	if err != nil {
		t.Fatal(err)
	}
	w.set("ann", other)
	if err := w.Store.Apply(ctx, m.Ops...); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Apply of a Match by the old password = %v; want ErrConflict", err)
	}
	w.is("ann", other, nil)
}

// Passwords are sealed as by earlier releases, which may use the same store.
func TestPasswordsAreSealedAsByEarlierReleases(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("ann", good)
	k := store.Key{Firm: "example", Bucket: "password", ID: "ann"}
	rec, err := w.Store.Get(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := w.Keys.Open("password", "example/ann", rec.Value[1:])
	if err != nil || rec.Value[0] != '1' || !strings.HasPrefix(string(plain), `{"hash":"$argon2id$`) {
		t.Fatalf("it was written as %q, %v; want as before", plain, err)
	}
	k.ID = "bob"
	value := append([]byte{'1'}, w.Keys.Seal("password", "example/bob", plain)...)
	if err := w.Store.Apply(ctx, store.Put(k, value, time.Time{})); err != nil {
		t.Fatal(err)
	}
	w.is("bob", good, nil)
}

// A rising cost rehashes passwords, but only right ones.
func TestCheck_RehashesWhenTheCostRises(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("ann", good)
	dear := w.as(func(p *Passwords) { p.Cost = Cost{Memory: 128, Time: 2, Threads: 1} })
	hash := func() string {
		t.Helper()
		rec, err := dear.read(ctx, "ann")
		if err != nil {
			t.Fatal(err)
		}
		return rec.Value.Hash
	}
	before := hash()
	dear.is("ann", other, ErrWrong)
	if hash() != before {
		t.Error("a wrong password changed the hash")
	}
	shapes, err := dear.usedParams(ctx)
	if want := []hashParams{cheap.params()}; err != nil || !reflect.DeepEqual(shapes, want) {
		t.Errorf("shapes = %q, %v; want %q", shapes, err, want)
	}
	dear.is("ann", good, nil)
	if h, err := parseHash(hash()); err != nil || h.cost != dear.Cost {
		t.Errorf("after a right password the hash has %+v, %v; want %+v", h, err, dear.Cost)
	}
	if shapes, err = dear.usedParams(ctx); err != nil || !reflect.DeepEqual(shapes, []hashParams{dear.Cost.params()}) {
		t.Errorf("shapes = %q, %v; want those that there are", shapes, err)
	}
	dear.is("ann", good, nil)
	for i := range 2 * maxParams { // many contacts share one set of parameters
		w.set(fmt.Sprint("contact-", i), good)
	}
	if shapes, err = dear.usedParams(ctx); err != nil || len(shapes) != 2 {
		t.Errorf("shapes = %q, %v; want two", shapes, err)
	}
	w.is("ann", good, nil) // a rollback to the release before still allows signing in
}

func TestImport(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	old := "Short-1" // shorter than allowed here, and with a character of many forms
	w.must(w.Import(ctx, "ann", bcryptOf(t, old)))
	w.is("ann", good, ErrWrong)
	m, err := w.Check(ctx, Attempt{Contact: "ann", Password: old})
	if err != nil || !m.First {
		t.Fatalf("Check = First %t, %v; want the first use of it", m.First, err)
	}
	w.must(m.Ops, nil)
	rec, err := w.read(ctx, "ann")
	if err != nil || !strings.HasPrefix(rec.Value.Hash, "$argon2id$") || rec.Value.From != used {
		t.Errorf("after its first use: %+v, %v; want argon2id, used", rec.Value, err)
	}
	if n := w.records(paramsBucket); n != 1 {
		t.Errorf("%d shapes of one contact are kept; want 1", n)
	}
	if m, err = w.Check(ctx, Attempt{Contact: "ann", Password: old}); err != nil || m.First {
		t.Errorf("the second time: First %t, %v", m.First, err)
	}
	if state, err := w.State(ctx, "ann"); err != nil || !state.Has() || state.Imported || state.Chosen {
		t.Errorf("State = %+v, %v; want neither imported any more, nor chosen", state, err)
	}
	for _, bad := range []string{"", "secret", "$argon2id$v=19$m=4194304,t=100,p=64$c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"} {
		if ops, err := w.Import(ctx, "bob", bad); !errors.Is(err, ErrHash) || ops != nil {
			t.Errorf("Import(%q) = %d Ops, %v; want ErrHash", bad, len(ops), err)
		}
	}
}

// A file of contacts is imported at every start, and undoes nothing that contacts did
// since.
func TestImport_OverwritesNoPasswordSetHere(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	hash, later := bcryptOf(t, good), bcryptOf(t, other)
	imports := func(contact, hash string, want bool) {
		t.Helper()
		ops, err := w.Import(ctx, contact, hash)
		if err != nil && !errors.Is(err, ErrNotImportable) || (len(ops) > 0) != want {
			t.Errorf("Import(%s) = %d Ops, %v; want some: %t", contact, len(ops), err, want)
		}
		w.must(ops, nil)
	}
	imports("ann", hash, true)
	imports("ann", hash, false)
	imports("ann", later, true) // not used yet: the newest file wins
	imports("ann", hash, true)
	w.is("ann", good, nil)
	imports("ann", hash, false)
	imports("ann", later, false)
	w.is("ann", good, nil)

	w.set("bob", good)
	imports("bob", later, false)
	w.is("bob", good, nil)
	w.must(w.Remove(ctx, "bob"))
	imports("bob", later, false)
	w.is("bob", other, ErrNone)

	imports("eve", hash, true)
	w.must(w.Delete(ctx, "eve"))
	imports("eve", hash, true)
	w.is("eve", good, nil)
}

// bcrypt reads only 72 bytes. Knowing these is not enough to sign in.
func TestImport_BcryptComparesTheWholePassword(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	head := strings.Repeat("a long way from home, ", 4)[:72]
	w.must(w.Import(ctx, "ann", bcryptOf(t, head)))
	w.is("ann", head+" and back", ErrWrong)
	w.is("ann", head, nil)
}

// Other systems hash the password as typed, in any Unicode form; here the form makes no
// difference later.
func TestImport_ComparesPasswordsAsTyped(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	typed := "cafe\u0301 au lait"
	w.must(w.Import(ctx, "ann", bcryptOf(t, typed)))
	w.is("ann", typed, nil)
	w.is("ann", "café au lait", nil)

	like, err := cheap.hash(typed) // as expensive as our hashes, but with other parameters
	if err != nil {
		t.Fatal(err)
	}
	w.must(w.Import(ctx, "bob", like))
	w.is("bob", typed, nil)
	w.is("bob", typed, nil)
}

// Other systems may allow empty passwords, or passwords of any length.
func TestImport_EmptyAndVeryLongPasswords(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.must(w.Import(ctx, "empty", bcryptOf(t, "")))
	w.is("empty", "", ErrWrong)
	w.is("empty", "password", ErrWrong) // no dummy matches
	long := strings.Repeat("a long way from home, ", 12)[:MaxLength+1]
	hash, err := cheap.hash(long)
	if err != nil {
		t.Fatal(err)
	}
	w.must(w.Import(ctx, "endless", hash))
	w.is("endless", long, ErrWrong)
}

// D08 (password spraying): common passwords never work, even imported ones.
func TestD08_CommonPasswordsFail(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	for i, common := range []string{"password1", "123456789", "qwertyuiop", "iloveyou"} {
		contact := fmt.Sprint("contact-", i)
		w.must(w.Import(ctx, contact, bcryptOf(t, common)))
		w.is(contact, common, ErrWrong)
	}
}

// An older secret can be removed once everything is resealed; records not resealed count
// as missing.
func TestReseal(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	before := w.as(func(p *Passwords) { p.Keys = keyring(t, oldSecret) })
	var all []store.Op
	for i := range 600 { // more than a page
		ops, err := before.Import(ctx, fmt.Sprint("contact-", i), ofPHP)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ops...)
	}
	before.must(all, nil)
	before.set("ann", good)
	before.must(before.Remove(ctx, "contact-7"))
	w.is("ann", good, ErrNone)
	if err := w.Reseal(ctx); err != nil { // too early: records that can't be opened stay as they are
		t.Fatal(err)
	}
	both := w.as(func(p *Passwords) { p.Keys = keyring(t, newSecret, oldSecret) })
	both.is("contact-8", "rasmuslerdorf", nil)
	if err := both.Reseal(ctx); err != nil {
		t.Fatal(err)
	}
	w.is("ann", good, nil)
	for i := range 600 {
		rec, err := w.read(ctx, fmt.Sprint("contact-", i))
		if want := map[int]origin{7: removed, 8: used}[i]; err != nil || want != "" && rec.Value.From != want || want == "" && rec.Value.Hash != ofPHP {
			t.Fatalf("contact-%d after Reseal: %+v, %v", i, rec.Value, err)
		}
	}
	if n := w.records(paramsBucket); n != 600 {
		t.Errorf("%d shapes; want 600", n)
	}
}

func TestForget(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("ann", good)
	w.is("ann", other, ErrWrong)
	w.isOn("laptop", "ann", other, ErrWrong)
	w.must(w.Delete(ctx, "ann"))
	for _, bucket := range []string{passwordBucket, paramsBucket, guessBucket} {
		if n := w.records(bucket); n != 0 {
			t.Errorf("%d records of nobody are left in %s", n, bucket)
		}
	}
	w.must(w.Delete(ctx, "nobody ever"))
}

// counting is a store that counts its calls.
type counting struct {
	store.Store
	mu    sync.Mutex
	calls []string
}

func (c *counting) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
}

func (c *counting) Get(ctx context.Context, k store.Key) (store.Record, error) {
	c.note("get %s", k.Bucket)
	return c.Store.Get(ctx, k)
}

func (c *counting) Apply(ctx context.Context, ops ...store.Op) error {
	for _, op := range ops {
		c.note("write %s", op.Key.Bucket)
	}
	return c.Store.Apply(ctx, ops...)
}

func (c *counting) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	c.note("scan %s %d", bucket, limit)
	return c.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// N02 (timing): for every kind of visitor and failure the work is the same: as many store
// calls, and one hash for each set of parameters in use.
func TestN02_CheckDoesTheSameWorkForEveryVisitor(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.set("ann", good)
	w.must(w.Import(ctx, "bcrypt", bcryptOf(t, good)))
	w.must(w.Import(ctx, "argon2id", Cost{Memory: 256, Time: 3, Threads: 2}.params().dummy()))
	w.set("removed", good)
	w.must(w.Remove(ctx, "removed"))
	w.set("throttled", good)
	for range ForUnknown.Burst {
		w.is("throttled", other, ErrWrong)
	}
	w = w.as(func(p *Passwords) { p.Cost = Cost{Memory: 128, Time: 1, Threads: 1} }) // the cost was raised as well
	counted := &counting{Store: w.Store}
	w.Store = counted
	var first string
	for _, c := range []struct {
		what string
		a    Attempt
		want error
	}{
		{"wrong", Attempt{Contact: "ann", Password: other}, ErrWrong},
		{"nobody", Attempt{Password: other}, ErrNone},
		{"no password", Attempt{Contact: "bob", Password: other}, ErrNone},
		{"removed", Attempt{Contact: "removed", Password: other}, ErrNone},
		{"bcrypt", Attempt{Contact: "bcrypt", Password: other}, ErrWrong},
		{"argon2id", Attempt{Contact: "argon2id", Password: other}, ErrWrong},
		{"throttled and wrong", Attempt{Contact: "throttled", Password: other}, ErrThrottled},
		{"throttled and right", Attempt{Contact: "throttled", Password: good}, ErrThrottled},
		{"limited and right", Attempt{Contact: "ann", Password: good, Limited: true}, ErrThrottled},
		{"a known device", Attempt{Contact: "ann", Password: other, Device: "laptop"}, ErrWrong},
		{"empty", Attempt{Contact: "ann"}, ErrWrong},
		{"common", Attempt{Contact: "ann", Password: "password"}, ErrWrong},
		{"endless", Attempt{Contact: "ann", Password: strings.Repeat("x", 1<<16)}, ErrWrong},
		{"no text", Attempt{Contact: "ann", Password: "\xff\xfe"}, ErrWrong},
	} {
		counted.calls = nil
		comparison, err := w.prepare(ctx, c.a)
		if err != nil {
			t.Fatal(err)
		}
		work := fmt.Sprint(comparison.params, counted.calls)
		if comparison.compare(w.Passwords); comparison.renewed != "" {
			t.Errorf("%s: a hash was made", c.what)
		}
		if first == "" {
			first = work
		}
		if work != first || len(comparison.params) != 4 {
			t.Errorf("%s takes\n%s\nbut a wrong password\n%s", c.what, work, first)
		}
		if err := w.try(c.a); !errors.Is(err, c.want) {
			t.Errorf("%s: Check = %v; want %v", c.what, err, c.want)
		}
	}
}

// If the store fails, nobody signs in, and the error is the store's.
func TestCheck_ReturnsTheStoresError(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	w.Store.Close()
	for range 10 { // more than there are permits
		w.is("ann", good, store.ErrUnavailable)
	}
	w.is("", good, store.ErrUnavailable)
}
