package secret

import (
	"bytes"
	"errors"
	"testing"
)

// A sealed value opens for its purpose and place, complete, with each of the keys. It
// doesn't open elsewhere or with any bit changed, and neither do values that weren't
// sealed.
func FuzzOpen(f *testing.F) {
	now, err := New(first, second)
	if err != nil {
		f.Fatal(err)
	}
	old, err := New(second)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("a mail"), "queue", "firm/letter/1", "firm/letter/2", 3)
	f.Add([]byte(""), "", "", "\x00", 0)
	f.Add(now.Seal("token", "a", []byte("sealed in what is sealed")), "token", "a", "b", 100)
	f.Add(bytes.Repeat([]byte{0}, 28), "queue", "x", "x\x00", 27)
	f.Fuzz(func(t *testing.T, data []byte, purpose, place, elsewhere string, bit int) {
		if plain, err := now.Open(purpose, place, data); err == nil && !bytes.Equal(plain, []byte("sealed in what is sealed")) {
			t.Fatalf("what nobody sealed opens: %q", plain)
		}
		for _, by := range []*Keyring{now, old} {
			sealed := by.Seal(purpose, place, data)
			if plain, err := now.Open(purpose, place, sealed); err != nil || !bytes.Equal(plain, data) {
				t.Fatalf("Open(Seal(%q)) = %q, %v", data, plain, err)
			}
			if bytes.Contains(sealed, data) && len(data) >= 8 {
				t.Fatalf("what is sealed can be read: %q", sealed)
			}
			closed := func(what, purpose, place string, sealed []byte) {
				if plain, err := now.Open(purpose, place, sealed); !errors.Is(err, ErrSealed) || plain != nil {
					t.Fatalf("%s: %q, %v; want ErrSealed", what, plain, err)
				}
			}
			if elsewhere != place {
				closed("at another place", purpose, elsewhere, sealed)
			}
			if elsewhere != purpose {
				closed("for another purpose", elsewhere, place, sealed)
			}
			closed("cut short", purpose, place, sealed[:max(0, bit)%len(sealed)])
			closed("made longer", purpose, place, append(bytes.Clone(sealed), byte(bit)))
			sealed[max(0, bit)%len(sealed)] ^= 1 << (max(0, bit) % 8)
			closed("changed", purpose, place, sealed)
		}
	})
}

// Different lists of parts have different MACs.
func FuzzMAC(f *testing.F) {
	k, err := New(first, second)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("ab", "c", "a", "bc")
	f.Add("", "x", "x", "")
	f.Add("a\x00", "b", "a", "\x00b")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		if (k.MAC("p", a, b) == k.MAC("p", c, d)) != (a == c && b == d) || k.MAC("p", a+b) == k.MAC("p", a, b) || k.MAC("p", a, b) == k.MAC("q", a, b) {
			t.Fatalf("MAC(%q, %q) and MAC(%q, %q)", a, b, c, d)
		}
	})
}
