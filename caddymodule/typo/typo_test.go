package typo

import "testing"

func TestCount(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"gmail.com", "gmail.com", 0}, {"gmial.com", "gmail.com", 1}, {"gmai.com", "gmail.com", 1}, {"gmaill.com", "gmail.com", 1},
		{"gnail.com", "gmail.com", 1}, {"gmal.con", "gmail.com", 2}, {"ab", "ba", 1}, {"ca", "abc", 3}, {"", "ab", 2}, {"", "abc", 3}, {"abcdefg", "a", 3}, {"abc", "xyz", 3},
	} {
		if got := min(Count(c.a, c.b), 3); got != c.want {
			t.Errorf("Count(%q, %q) = %d; want %d", c.a, c.b, got, c.want)
		}
		if got := min(Count(c.b, c.a), 3); got != c.want {
			t.Errorf("Count(%q, %q) = %d; want %d", c.b, c.a, got, c.want)
		}
	}
}
