package token

import (
	"strings"
	"testing"
)

func TestNormalizeCode(t *testing.T) {
	for _, c := range []struct {
		typed, want string
	}{
		{"abcd-efgh", "abcd-efgh"},
		{"abcdefgh", "abcd-efgh"},
		{"ABCD-EFGH", "abcd-efgh"},
		{"  abcd efgh\r\n", "abcd-efgh"},
		{"a b c d e f g h", "abcd-efgh"},
		{"abcd\u2013efgh", "abcd-efgh"},        // en dash, from a keyboard that corrects
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
		{strings.Repeat(" ", 248) + "abcdefgh", "abcd-efgh"},
	} {
		if got, err := normalizeCode(c.typed); got != c.want || err != nil {
			t.Errorf("normalCode(%.40q) = %q, %v; want %q", c.typed, got, err, c.want)
		}
	}
}

func TestNormalizeCode_RejectsInvalidCodes(t *testing.T) {
	for _, c := range []struct {
		typed string
		has   int
	}{
		{"", 0},
		{"-", 0},
		{"\u200b \u2068", 0},
		{"7", 1},
		{"a-b-c", 3},
		{"äöü", 3},
		{"abcd-efg", 7},
		{"abcd-efg\x00", 7},
		{"abcd-efghj", 9},
		{"Code: abcd-efgh", 9},
		{"abcd-efgh\x00", 8},
		{"abcd-ef\xffh", 7},
		{"abcd-efgu", 8}, // no u in a code
		{"ABCD-EFGÉ", 8},
		{"авсd-efgh", 8}, // Cyrillic
		{strings.Repeat(" ", 249) + "abcdefgh", 9},
		{strings.Repeat("a", 256), 9},
		{strings.Repeat("a", 1<<20), 9},
	} {
		if got, err := normalizeCode(c.typed); got != "" || err != (ShapeError{Has: c.has}) {
			t.Errorf("normalCode(%.40q) = %q, %v; want ShapeError{%d}", c.typed, got, err, c.has)
		}
	}
}

func TestT07_CodesUseEverySymbolAlike(t *testing.T) {
	const n = 100_000
	var counts [8][256]int
	for range n {
		code := newCode()
		got, err := normalizeCode(strings.ToUpper(strings.ReplaceAll(code, "-", " ")))
		if err != nil || got != code {
			t.Fatalf("normalCode(%q) = %q, %v; want itself", code, got, err)
		}
		for i, at := range [8]int{0, 1, 2, 3, 5, 6, 7, 8} {
			counts[i][code[at]]++
		}
	}
	for i := range counts {
		for _, c := range []byte(alphabet) {
			// 3125 expected, standard deviation 55: more than six of them occur once in a
			// billion runs.
			if got := counts[i][c]; got < 2795 || got > 3455 {
				t.Errorf("%q stands at %d in %d of %d codes; want about %d", c, i, got, n, n/32)
			}
		}
	}
}

func FuzzNormalizeCode(f *testing.F) {
	for _, seed := range []string{
		"abcd-efgh", "ABCD EFGH", "o1l-i0o-aa", "\u2068abcd\u2011efgh\u2069", "ａｂｃｄｅｆｇｈ", "",
		"\xff\xfe\xfd", "abcd-ef\xffh", "\u0130bcd-efgh", "\u212a\u212a\u212a\u212a0000", "ﬁﬁﬁﬁ", "①②③④⑤⑥⑦⑧", "İİİİİİİİ", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		code, err := normalizeCode(typed)
		if err != nil {
			if shape, ok := err.(ShapeError); !ok || code != "" || shape.Has < 0 || shape.Has > CodeLength+1 {
				t.Fatalf("normalCode(%q) = %q, %v; want nothing, and how many characters it has", typed, code, err)
			}
			return
		}
		if len(code) != 9 || code[4] != '-' || strings.Trim(code[:4]+code[5:], alphabet) != "" {
			t.Fatalf("normalCode(%q) = %q; want abcd-efgh", typed, code)
		}
		for _, again := range []string{code, strings.ToUpper(code), " " + strings.ReplaceAll(code, "-", "\u2013")} {
			if got, err := normalizeCode(again); err != nil || got != code {
				t.Fatalf("normalCode(%q) = %q, %v; want %q", again, got, err, code)
			}
		}
	})
}
