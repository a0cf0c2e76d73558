package token

import (
	"regexp"
	"strings"
	"testing"
)

// A link's secret has 130 bits in letters and digits, and survives usual changes by
// programs and people.
func TestCleanRestoresALinkThatProgramsChanged(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := newLinkSecret()
		if !regexp.MustCompile(`^[a-z2-7]{26}$`).MatchString(s) || seen[s] {
			t.Fatalf("the secret %q; want 26 letters and digits that were never there before", s)
		}
		seen[s] = true
	}
	s := newLinkSecret()
	for _, mangled := range []string{s, s + ">", s + ".", s + ").", "<" + s + ">", s + "&gt", s[:9] + " " + s[9:], s[:9] + "\r\n" + s[9:], s[:9] + "=\n" + s[9:],
		"3D" + s, "3d" + s, "=3D" + s, " " + s + " ", "\u201c" + s + "\u201d", s[:20] + "\u200b" + s[20:]} {
		got := Clean(mangled)
		if mangled == s+"&gt" { // two more letters may belong to the secret, so they stay
			if got == s {
				t.Errorf("Clean(%q) = %q; want it as it is", mangled, got)
			}
			continue
		}
		if got != s {
			t.Errorf("Clean(%q) = %q; want %q", mangled, got, s)
		}
	}
	for _, other := range []string{"", s[1:], s + "a", "3D" + s[1:], s + s, "3D" + s + "a", strings.ToUpper(s), s + "\x00", s + "\xff", s + "%", s[:9] + "-" + s[9:], s[1:] + "1", strings.Repeat("A", longLinkLength), strings.Repeat(s, 100)} {
		if got := Clean(other); got != other {
			t.Errorf("Clean(%q) = %q; want it as it is", other, got)
		}
	}
}
