package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The secrets of the tests.
var (
	first  = []byte("first secret of the tests: 0123456789 abcdef")
	second = []byte("second secret of the tests: 0123456789 abcdef")
	third  = []byte("third secret of the tests: 0123456789 abcdef")
)

func ring(t *testing.T, newest []byte, older ...[]byte) *Keyring {
	t.Helper()
	k, err := New(newest, older...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNew(t *testing.T) {
	tests := []struct {
		name   string
		secret string
		want   error
	}{
		{"none", "", ErrWeak},
		{"31 bytes", "0123456789abcdefghijklmnopqrstu", ErrWeak},
		{"32 bytes", "0123456789abcdefghijklmnopqrstuv", nil},
		{"one character", strings.Repeat("x", 64), ErrWeak},
		{"changeme", strings.Repeat("changeme", 8), ErrWeak},
		{"seven different bytes", strings.Repeat("1234567", 10), ErrWeak},
		{"zeros", string(make([]byte, 64)), ErrWeak},
		{"openssl rand -base64 48", "q1Xl1bEvzR0WcW4zqkpcLh0q1y3V5g9jvYx2b1n8QpYk3m7Rr0sTt5uVwXyZaBcD", nil},
		{"openssl rand -hex 32", "8f14e45fceea167a5a36dedd4bea2543c9f0f895fb98ab9159f51fd0297e236d", nil},
		{"raw bytes", "\x00\x01\x02\xff\xfe\xfd\x80\x81" + strings.Repeat("\x00", 24), nil},
	}
	for _, test := range tests {
		if _, err := New([]byte(test.secret)); !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
			t.Errorf("New(%s) = %v; want %v", test.name, err, test.want)
		}
		// A weak older secret is as easy to guess as a weak new one.
		if _, err := New(first, second, []byte(test.secret)); !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
			t.Errorf("New(…, %s) = %v; want %v", test.name, err, test.want)
		}
	}
	if err := ErrWeak.Error(); !strings.Contains(err, "32") || !strings.Contains(err, "openssl rand") {
		t.Errorf("ErrWeak = %q; want the length and a command that makes one", err)
	}
}

func TestNewCopiesTheSecrets(t *testing.T) {
	mine := bytes.Clone(first)
	k := ring(t, mine)
	clear(mine)
	if got, want := k.MAC("p", "x"), ring(t, first).MAC("p", "x"); got != want {
		t.Errorf("after the caller has cleared the secret, MAC = %s; want %s", got, want)
	}
}

func TestRandom(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	seen := map[string]bool{}
	counts := map[byte]int{}
	const n = 10_000
	for range n {
		s := Random()
		if !form.MatchString(s) || seen[s] {
			t.Fatalf("Random = %q; want 43 URL-safe characters, not twice (%t)", s, seen[s])
		}
		seen[s] = true
		for i := range 42 { // the last character has only four bits
			counts[s[i]]++
		}
	}
	for c, count := range counts {
		if want := n * 42 / 64; count < want*8/10 || count > want*12/10 {
			t.Errorf("%q comes %d times; want about %d", c, count, want)
		}
	}
	if len(counts) != 64 {
		t.Errorf("%d different characters; want 64", len(counts))
	}
}

func TestMAC(t *testing.T) {
	k := ring(t, first)
	// Fixed forever: stored records depend on it.
	for _, test := range []struct {
		purpose string
		parts   []string
		want    string
	}{
		{"email", []string{"firm", "ann@example.com"}, "_TbA-Z6zHc25Ggy7CV1tO_30Lrb42vPsiWDkx31W22U"},
		{"email", nil, "RRE5TF7cLzHOENID5D5cwneR07PiBOkKN11TBTIONE8"},
	} {
		if got := k.MAC(test.purpose, test.parts...); got != test.want {
			t.Errorf("MAC(%q, %q) = %s; want %s", test.purpose, test.parts, got, test.want)
		}
	}

	// All these are different.
	inputs := [][]string{
		{}, {""}, {"", ""}, {"", "", ""},
		{"abc"}, {"ab", "c"}, {"a", "bc"}, {"", "abc"}, {"abc", ""}, {"a", "b", "c"},
		{"a\x00b"}, {"a", "\x00b"}, {"a\x00", "b"},
		{"\x00\x00\x00\x00\x00\x00\x00\x03abc"}, {"abc\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"ABC"}, {strings.Repeat("a", 1<<16)}, {strings.Repeat("a", 1<<16+1)},
	}
	seen := map[string]string{}
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	for _, purpose := range []string{"p", "q", "", "pa"} {
		for _, parts := range inputs {
			mac, name := k.MAC(purpose, parts...), fmt.Sprintf("MAC(%q, %.60q)", purpose, parts)
			if other := seen[mac]; other != "" {
				t.Errorf("%s = %s", name, other)
			}
			if seen[mac] = name; !form.MatchString(mac) {
				t.Errorf("%s = %q; want 43 URL-safe characters", name, mac)
			}
			if again := k.MAC(purpose, parts...); again != mac {
				t.Errorf("%s = %s, and then %s", name, mac, again)
			}
		}
	}
}

func TestMACs(t *testing.T) {
	old, now := ring(t, first), ring(t, third, second, first)
	stored := old.MAC("session", "id")
	macs := now.MACs("session", "id")
	want := []string{ring(t, third).MAC("session", "id"), ring(t, second).MAC("session", "id"), stored}
	if !slices.Equal(macs, want) {
		t.Errorf("MACs = %q; want %q, the newest first", macs, want)
	}
	if got := now.MAC("session", "id"); got != macs[0] {
		t.Errorf("MAC = %s; want that under the newest secret, %s", got, macs[0])
	}
	if slices.Contains(ring(t, third, second).MACs("session", "id"), stored) {
		t.Error("a secret that was removed still has its MAC")
	}
	if slices.Contains(now.MACs("token", "id"), stored) {
		t.Error("another purpose has the same MAC")
	}
}

func TestSealAndOpen(t *testing.T) {
	k := ring(t, first)
	for _, plain := range [][]byte{nil, {}, []byte("a"), bytes.Repeat([]byte("mail"), 1<<16)} {
		sealed := k.Seal("mail", "firm/outbox/1", plain)
		got, err := k.Open("mail", "firm/outbox/1", sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("Open(Seal(%d bytes)) = %d bytes, %v", len(plain), len(got), err)
		}
		if len(plain) > 16 && bytes.Contains(sealed, plain[:16]) {
			t.Error("what is sealed can be read")
		}
		if bytes.Equal(sealed, k.Seal("mail", "firm/outbox/1", plain)) {
			t.Error("the same is sealed to the same twice")
		}
	}
}

func TestSealedValuesOpenOnlyForTheirPurposeAndPlace(t *testing.T) {
	k := ring(t, first)
	plain := []byte("the token of an old link")
	sealed := k.Seal("legacy", "firm/company/acme", plain)
	tests := []struct {
		name           string
		ring           *Keyring
		purpose, place string
		sealed         []byte
	}{
		{"moved to another record", k, "legacy", "firm/company/other", sealed},
		{"moved to no place", k, "legacy", "", sealed},
		{"another purpose", k, "mail", "firm/company/acme", sealed},
		{"purpose and place run together", k, "legacyfirm", "/company/acme", sealed},
		{"another secret", ring(t, second), "legacy", "firm/company/acme", sealed},
		{"two other secrets", ring(t, second, third), "legacy", "firm/company/acme", sealed},
		{"nothing", k, "legacy", "firm/company/acme", nil},
		{"the nonce alone", k, "legacy", "firm/company/acme", sealed[:12]},
		{"cut by a byte", k, "legacy", "firm/company/acme", sealed[:len(sealed)-1]},
		{"a byte longer", k, "legacy", "firm/company/acme", append(bytes.Clone(sealed), 0)},
		{"not sealed at all", k, "legacy", "firm/company/acme", plain},
	}
	for _, test := range tests {
		if got, err := test.ring.Open(test.purpose, test.place, test.sealed); !errors.Is(err, ErrSealed) || got != nil {
			t.Errorf("%s: Open = %q, %v; want ErrSealed", test.name, got, err)
		}
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if got, err := k.Open("legacy", "firm/company/acme", damaged); !errors.Is(err, ErrSealed) || got != nil {
			t.Errorf("byte %d flipped: Open = %q, %v; want ErrSealed", i, got, err)
		}
	}
}

func TestOlderSecretsOpenAndTheNewestSeals(t *testing.T) {
	old, both, now := ring(t, first), ring(t, second, first), ring(t, second)
	before := old.Seal("mail", "place", []byte("before"))
	after := both.Seal("mail", "place", []byte("after"))
	tests := []struct {
		name   string
		ring   *Keyring
		sealed []byte
		want   string // "": ErrSealed
	}{
		{"both open the old", both, before, "before"},
		{"both open the new", both, after, "after"},
		{"the new one closes", now, after, "after"},
		{"the old one no longer does", old, after, ""},
		{"once removed, the old one doesn't open", now, before, ""},
	}
	for _, test := range tests {
		got, err := test.ring.Open("mail", "place", test.sealed)
		if string(got) != test.want || (err == nil) != (test.want != "") || err != nil && !errors.Is(err, ErrSealed) {
			t.Errorf("%s: Open = %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

// A purpose's MAC key opens nothing sealed for the purpose.
func TestMACAndSealUseDifferentKeys(t *testing.T) {
	k := ring(t, first)
	for _, key := range [][]byte{k.keys("p")[0].mac, k.keys("q")[0].mac, first[:32]} {
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := aead.Open(nil, nil, k.Seal("p", "place", []byte("plain")), []byte("place")); err == nil {
			t.Errorf("opened with another key: %q", plain)
		}
	}
	if bytes.Equal(k.keys("p")[0].mac, k.keys("q")[0].mac) {
		t.Error("two purposes have one key")
	}
}

// Many goroutines derive a purpose's keys at once.
func TestKeysAreDerivedConcurrently(t *testing.T) {
	k := ring(t, second, first)
	sealed := ring(t, first).Seal("purpose 3", "place", []byte("plain"))
	var wg sync.WaitGroup
	begin := make(chan struct{})
	macs := make([][5]string, 32)
	for i := range macs {
		wg.Go(func() {
			<-begin
			for p := range macs[i] {
				purpose := fmt.Sprint("purpose ", p)
				macs[i][p] = k.MAC(purpose, "x")
				if plain, err := k.Open(purpose, "place", k.Seal(purpose, "place", []byte("plain"))); err != nil || string(plain) != "plain" {
					t.Errorf("Open = %q, %v", plain, err)
				}
			}
			if plain, err := k.Open("purpose 3", "place", sealed); err != nil || string(plain) != "plain" {
				t.Errorf("Open with the older secret = %q, %v", plain, err)
			}
		})
	}
	close(begin)
	wg.Wait()
	for i := range macs {
		if macs[i] != macs[0] {
			t.Errorf("goroutine %d made other MACs than the first: %q, %q", i, macs[i], macs[0])
		}
	}
}

func BenchmarkMAC(b *testing.B) {
	k, err := New(first)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		k.MAC("session", "firm", "0123456789012345678901234567890123456789012")
	}
}

// A value sealed for a holder opens only with the holder's bits, the secret, the purpose
// and the place.
func TestSealFor(t *testing.T) {
	first, second := []byte(Random()), []byte(Random())
	old, err := New(first)
	if err != nil {
		t.Fatal(err)
	}
	both, err := New(second, first)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(second)
	if err != nil {
		t.Fatal(err)
	}
	holder := Random()
	sealed := old.SealFor(holder, "purpose", "place", []byte("plain"))
	for _, c := range []struct {
		name                   string
		keys                   *Keyring
		holder, purpose, place string
		ok                     bool
	}{
		{"the same", old, holder, "purpose", "place", true},
		{"after the secret was changed", both, holder, "purpose", "place", true},
		{"another secret", other, holder, "purpose", "place", false},
		{"another holder", old, Random(), "purpose", "place", false},
		{"no holder", old, "", "purpose", "place", false},
		{"another purpose", old, holder, "other", "place", false},
		{"another place", old, holder, "purpose", "other", false},
	} {
		plain, err := c.keys.OpenFor(c.holder, c.purpose, c.place, sealed)
		if ok := err == nil && string(plain) == "plain"; ok != c.ok || !ok && !errors.Is(err, ErrSealed) {
			t.Errorf("%s: OpenFor = %q, %v; want it to open: %v", c.name, plain, err, c.ok)
		}
	}
	if _, err := old.Open("purpose", "place", sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("Open = %v; want ErrSealed", err)
	}
}

func TestAKeyringAdoptsTheSecretsOfAnother(t *testing.T) {
	old, now := ring(t, first), ring(t, second, first)
	inUse := old.Copy()
	before, mac := inUse.Seal("mail", "place", []byte("before")), inUse.MAC("id", "x")
	inUse.Adopt(now)
	if plain, key, err := inUse.OpenBy("mail", "place", before); err != nil || key != 1 || string(plain) != "before" {
		t.Errorf("what was sealed before opens to %q by key %d, %v; want it, by the older key", plain, key, err)
	}
	if _, key, err := now.OpenBy("mail", "place", inUse.Seal("mail", "place", nil)); err != nil || key != 0 {
		t.Errorf("what is sealed afterwards opens by key %d, %v; want the newest", key, err)
	}
	if macs := inUse.MACs("id", "x"); !slices.Equal(macs, now.MACs("id", "x")) || macs[1] != mac {
		t.Errorf("MACs = %q; want those of the adopted secrets", macs)
	}
	if _, err := old.Open("mail", "place", inUse.Seal("mail", "place", nil)); !errors.Is(err, ErrSealed) {
		t.Errorf("the keyring that was copied opens what the adopted secret sealed: %v", err)
	}
}
