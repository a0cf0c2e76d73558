package token

import (
	"strings"
	"testing"
)

func TestNormalCode(t *testing.T) {
	for _, c := range []struct {
		typed, want string // "": refused
	}{
		{"abcd-efgh", "abcd-efgh"},
		{"abcdefgh", "abcd-efgh"},
		{"ABCD-EFGH", "abcd-efgh"},
		{"  abcd efgh\r\n", "abcd-efgh"},
		{"a b c d e f g h", "abcd-efgh"},
		{"abcd\u2013efgh", "abcd-efgh"},        // en dash, from a helpful keyboard
		{"abcd\u2011efgh", "abcd-efgh"},        // no-break hyphen
		{"abcd\u2212efgh", "abcd-efgh"},        // minus
		{"abcd\u00adefgh", "abcd-efgh"},        // soft hyphen
		{"abcd\u00a0efgh", "abcd-efgh"},        // no-break space
		{"\u200babcd-efgh", "abcd-efgh"},       // zero-width space
		{"\u2068abcd-efgh\u2069", "abcd-efgh"}, // isolates, around pasted text
		{"\ufeffabcd-efgh", "abcd-efgh"},
		{"“abcd-efgh”.", "abcd-efgh"},
		{"<abcd-efgh>", "abcd-efgh"},
		{"ａｂｃｄ－ｅｆｇｈ", "abcd-efgh"},
		{"０１２３4567", "0123-4567"},
		{"OIL0-oil1", "0110-0111"},
		{"", ""},
		{"-", ""},
		{"abcd-efg", ""},
		{"abcd-efghj", ""},
		{"abcd-efgu", ""}, // no u in a code
		{"abcd-efg\x00", ""},
		{"abcd-efgh\x00", ""},
		{"abcd-ef\xffh", ""},
		{"авсd-efgh", ""}, // Cyrillic
		{"Code: abcd-efgh", ""},
		{strings.Repeat(" ", 248) + "abcdefgh", "abcd-efgh"},
		{strings.Repeat(" ", 249) + "abcdefgh", ""},
		{strings.Repeat("a", 1<<20), ""},
	} {
		got, ok := normalCode(c.typed)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("normalCode(%.40q) = %q, %t; want %q", c.typed, got, ok, c.want)
		}
	}
}

func TestT07_CodesUseEverySymbolAlike(t *testing.T) {
	const n = 100_000
	var counts [8][256]int
	for range n {
		code := newCode()
		got, ok := normalCode(strings.ToUpper(strings.ReplaceAll(code, "-", " ")))
		if !ok || got != code {
			t.Fatalf("normalCode(%q) = %q, %t; want itself", code, got, ok)
		}
		for i, at := range [8]int{0, 1, 2, 3, 5, 6, 7, 8} {
			counts[i][code[at]]++
		}
	}
	for i := range counts {
		for _, c := range []byte(alphabet) {
			// 3125 expected, standard deviation 55: six of them are one in a billion.
			if got := counts[i][c]; got < 2795 || got > 3455 {
				t.Errorf("%q stands at %d in %d of %d codes; want about %d", c, i, got, n, n/32)
			}
		}
	}
}

func FuzzNormalCode(f *testing.F) {
	for _, seed := range []string{
		"abcd-efgh", "ABCD EFGH", "o1l-i0o-aa", "\u2068abcd\u2011efgh\u2069", "ａｂｃｄｅｆｇｈ", "",
		"\xff\xfe\xfd", "abcd-ef\xffh", "\u0130bcd-efgh", "\u212a\u212a\u212a\u212a0000", "ﬁﬁﬁﬁ", "①②③④⑤⑥⑦⑧", "İİİİİİİİ", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := normalCode(typed)
		if !ok {
			if code != "" {
				t.Fatalf("normalCode(%q) = %q, false", typed, code)
			}
			return
		}
		if len(code) != 9 || code[4] != '-' || strings.Trim(code[:4]+code[5:], alphabet) != "" {
			t.Fatalf("normalCode(%q) = %q; want abcd-efgh", typed, code)
		}
		for _, again := range []string{code, strings.ToUpper(code), " " + strings.ReplaceAll(code, "-", "\u2013")} {
			if got, ok := normalCode(again); !ok || got != code {
				t.Fatalf("normalCode(%q) = %q, %t; want %q", again, got, ok, code)
			}
		}
	})
}
