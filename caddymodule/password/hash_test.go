package password

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// Hashes from other programs.
const (
	ofReference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc" // "password", by the reference implementation in C
	ofPHP       = "$2y$07$BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq"                           // "rasmuslerdorf", by PHP
)

func TestParseHash(t *testing.T) {
	salt, key := "c29tZXNhbHRzb21lc2FsdA", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	tail := "$" + salt + "$" + key
	for _, c := range []struct {
		hash string
		want hashParams // "": ErrHash
	}{
		{ofReference, "$argon2id$v=19$m=65536,t=2,p=1"},
		{ofPHP, "$2$07"},
		{"$2a$" + ofPHP[4:], "$2$07"},
		{"$2b$" + ofPHP[4:], "$2$07"},
		{"$2b$14" + ofPHP[6:], "$2$14"},
		{"$argon2id$v=19$m=131072,t=10,p=16" + tail, "$argon2id$v=19$m=131072,t=10,p=16"},
		{"$argon2id$v=19$m=8,t=1,p=1" + tail, "$argon2id$v=19$m=8,t=1,p=1"},

		{"", ""},
		{"$", ""},
		{"password", ""},
		{"$2b$15" + ofPHP[6:], ""}, // takes two seconds
		{"$2b$31" + ofPHP[6:], ""},
		{"$2b$03" + ofPHP[6:], ""},
		{"$2x$" + ofPHP[4:], ""}, // made by a broken bcrypt
		{"$2$" + ofPHP[4:], ""},
		{ofPHP[:59], ""},
		{ofPHP + "a", ""},
		{ofPHP + "\n", ""},
		{"$argon2id$v=19$m=131073,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=65536,t=11,p=1" + tail, ""},
		{"$argon2id$v=19$m=65536,t=1,p=17" + tail, ""},
		{"$argon2id$v=19$m=4194304,t=100,p=64" + tail, ""}, // D04
		{"$argon2id$v=19$m=4294967295,t=4294967295,p=255" + tail, ""},
		{"$argon2id$v=19$m=4294967296,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=65536,t=0,p=1" + tail, ""}, // the library panics at these
		{"$argon2id$v=19$m=65536,t=1,p=0" + tail, ""},
		{"$argon2id$v=19$m=7,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=-1,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=+65536,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=065536,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1,x=1" + tail, ""},
		{"$argon2id$v=19$m= 65536,t=1,p=1" + tail, ""},
		{"$argon2id$v=19x$m=65536,t=1,p=1" + tail, ""},
		{"$argon2id$v=16$m=65536,t=1,p=1" + tail, ""},
		{"$argon2id$m=65536,t=1,p=1" + tail, ""},
		{"$argon2i$v=19$m=65536,t=1,p=1" + tail, ""},
		{"$argon2d$v=19$m=65536,t=1,p=1" + tail, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1" + tail + "$", ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + salt + "$", ""}, // an empty hash matches every password
		{"$argon2id$v=19$m=65536,t=1,p=1$" + salt + "$AAAA", ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$$" + key, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$c29t$" + key, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + strings.Repeat("A", 88) + "$" + key, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + salt + "$" + strings.Repeat("A", 88), ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + salt + "\n$" + key, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + salt + "==$" + key, ""},
		{"$argon2id$v=19$m=65536,t=1,p=1$" + strings.Repeat("A", 1<<20) + "$" + key, ""},
		{"$1$abc$def", ""},
	} {
		h, err := parseHash(c.hash)
		if h.params != c.want || errors.Is(err, ErrHash) != (c.want == "") {
			t.Errorf("parseHash(%.80q) = %q, %v; want %q", c.hash, h.params, err, c.want)
		}
		if err != nil && len(c.hash) > 20 && strings.Contains(err.Error(), c.hash[10:]) {
			t.Errorf("the error for %.80q repeats it", c.hash)
		}
	}
}

func TestMatches(t *testing.T) {
	long := strings.Repeat("x", 72)
	// Hashes of a system that truncates at 72 bytes, and of a password of exactly 72.
	cut, err := bcrypt.GenerateFromPassword([]byte(long), 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		hash, password string
		want           bool
	}{
		{ofReference, "password", true},
		{ofReference, "Password", false},
		{ofReference, "", false},
		{ofPHP, "rasmuslerdorf", true},
		{"$2b$" + ofPHP[4:], "rasmuslerdorf", true},
		{ofPHP, "rasmuslerdorf\x00", false},
		{ofPHP, "rasmuslerdor", false},
		{ofPHP, "", false},
		{ofPHP, long + "rasmuslerdorf", false},
		{string(cut), long, true},
		{string(cut), long + "x", false},
		{"", "", false},
		{"$2", "", false},
	} {
		if got := matches(c.hash, c.password); got != c.want {
			t.Errorf("matches(%q, %q) = %t; want %t", c.hash, c.password, got, c.want)
		}
	}
}

func TestDummy(t *testing.T) {
	for _, s := range []hashParams{Standard.params(), cheap.params(), "$2$04", "$2$12", "$argon2id$v=19$m=131072,t=10,p=16"} {
		seen := map[string]bool{}
		for range 100 {
			d := s.dummy()
			if h, err := parseHash(d); err != nil || h.params != s || seen[d] {
				t.Fatalf("dummy of %s = %q: %q, %v, seen before: %t", s, d, h.params, err, seen[d])
			}
			seen[d] = true
		}
	}
	if d := cheap.params().dummy(); matches(d, "") || matches(d, good) {
		t.Errorf("a password opens %s", d)
	}
}

// Our hashes can be used with other software: they are in the PHC format.
func TestHashIsPHC(t *testing.T) {
	hash, err := Standard.hash(good)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := parseHash(hash); err != nil || h.cost != Standard || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash = %q (%+v, %v); want argon2id as OWASP names it", hash, h, err)
	}
	again, err := Standard.hash(good)
	if err != nil || again == hash {
		t.Errorf("two hashes of one password are the same: %v", err)
	}
	if !matches(hash, good) || matches(hash, other) {
		t.Errorf("matches(%q) is wrong", hash)
	}
}

func FuzzParseHash(f *testing.F) {
	for _, s := range []string{ofReference, ofPHP, Standard.params().dummy(), "$argon2id$v=19$m=1,t=1,p=1$$", "$2b$14$", "$argon2id$v=19$m=9,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, hash string) {
		h, err := parseHash(hash)
		if (err == nil) != (h.params != "") {
			t.Fatalf("parseHash(%q) = %+v, %v", hash, h, err)
		}
		if err != nil {
			if !errors.Is(err, ErrHash) {
				t.Fatalf("parseHash(%q) = %v; want ErrHash", hash, err)
			}
			return
		}
		if h.cost.Memory > maxMemory || h.cost.Time > maxTime || h.cost.Threads > maxThreads || !strings.Contains(hash, "$") {
			t.Fatalf("parseHash(%q) lets through %+v", hash, h)
		}
		if d, err := parseHash(h.params.dummy()); err != nil || d != h {
			t.Fatalf("the dummy of %q is %+v, %v", hash, d, err)
		}
		if h.cost.Memory > 1024 || strings.HasPrefix(hash, "$2") && hash[4:6] > "05" {
			return // it would take too long
		}
		if matches(hash, "a password that nobody has") {
			t.Fatalf("%q opens", hash)
		}
	})
}

// D04 (hostile hashes): a hash that takes hours or gigabytes isn't imported; if the store
// has one, it counts as no password and is never computed.
func TestD04_AHostileHashCostsNothing(t *testing.T) {
	ctx := context.Background()
	for _, hash := range []string{
		"$argon2id$v=19$m=4194304,t=100,p=64$c29tZXNhbHRzb21lc2E$" + strings.Repeat("A", 43),
		"$argon2id$v=19$m=65536,t=4294967295,p=1$c29tZXNhbHRzb21lc2E$" + strings.Repeat("A", 43),
		"$argon2id$v=19$m=8,t=1,p=255$c29tZXNhbHRzb21lc2E$" + strings.Repeat("A", 43),
		"$argon2id$v=19$m=0,t=0,p=0$c29tZXNhbHRzb21lc2E$" + strings.Repeat("A", 43),
		"$2b$31$" + strings.Repeat("a", 53),
		"$2b$04$" + strings.Repeat("a", 1<<20),
	} {
		w := newWorld(t)
		if ops, err := w.Import(ctx, "ann", hash); !errors.Is(err, ErrHash) || len(ops) > 0 {
			t.Errorf("Import(%.60q) = %d Ops, %v; want none, ErrHash", hash, len(ops), err)
		}
		was, err := w.read(ctx, "ann")
		if err != nil {
			t.Fatal(err)
		}
		w.must(w.write(was, record{Hash: hash, From: imported, At: w.now()}))
		w.is("ann", good, ErrNone)
		if state, err := w.State(ctx, "ann"); state.Has() || err != nil {
			t.Errorf("with %.60q there is a password since %v, %v; want none", hash, state.Since, err)
		}
		if n := w.records(paramsBucket); n != 0 {
			t.Errorf("%.60q has %d shapes; want none, which every check would imitate", hash, n)
		}
		w.set("ann", good)
		w.is("ann", good, nil)
	}
}
