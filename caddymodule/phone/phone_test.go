package phone

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in, region string
		want       Number
		err        error
	}{
		{"+44 20 7946 0958", "", "+442079460958", nil},
		{"020 7946 0958", "GB", "+442079460958", nil},
		{"(212) 555-0123", "US", "+12125550123", nil},
		{"0049 170 1234567", "DE", "+491701234567", nil},
		{"tel:+33-6-12-34-56-78", "", "+33612345678", nil},
		{"+44 20 7946 0958 ext. 12", "GB", "+442079460958", nil},
		{"020 7946 0958", "", "", ErrNoRegion},
		{"+1 555 0100", "", "", ErrLength}, // without an area code
		{"after five, please", "GB", "", ErrNoNumber},
		{"", "GB", "", ErrNoNumber},
		{"+999 12345678", "", "", ErrNoNumber},
	} {
		if got, err := Parse(c.in, c.region); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("Parse(%q, %q) = %q, %v; want %q, %v", c.in, c.region, got, err, c.want, c.err)
		}
	}
	for region, want := range map[string]bool{"GB": true, "US": true, "gb": false, "UK": false, "": false} {
		if got := IsRegion(region); got != want {
			t.Errorf("IsRegion(%q) = %v; want %v", region, got, want)
		}
	}
}

func TestMasked(t *testing.T) {
	for in, want := range map[Number]string{"+442079460958": "+44…58", "+12125550123": "+1…23", "": "…", "+1": "…"} {
		if got := in.Masked(); got != want {
			t.Errorf("Number(%q).Masked() = %q; want %q", in, got, want)
		}
	}
}

// The lengths are those of 3GPP TS 23.038 and 23.040.
func TestSegments(t *testing.T) {
	a := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct {
		in   string
		want int
	}{
		{"", 0}, {"a", 1}, {a(160), 1}, {a(161), 2}, {a(306), 2}, {a(307), 3}, {a(459), 3}, {a(460), 4},
		{strings.Repeat("€", 80), 1}, {strings.Repeat("€", 81), 2},
		{a(152) + "€" + a(10), 2},           // the € doesn't fit behind 152
		{a(152) + "€" + a(151), 2},          // and the second segment is full
		{a(152) + "€" + a(152), 3},          // or not
		{strings.Repeat("ő", 70), 1},        // not in the GSM alphabet
		{strings.Repeat("ő", 71), 2},        // so 67 in each
		{strings.Repeat("😀", 35), 1},        // two units each
		{strings.Repeat("😀", 36), 2},        //
		{strings.Repeat("a", 69) + "ő", 1},  //
		{strings.Repeat("a", 159) + "é", 1}, // é is in the alphabet
		{strings.Repeat("a", 159) + "’", 3}, // a typographic apostrophe isn't
	} {
		if got := Segments(c.in); got != c.want {
			t.Errorf("Segments of %d characters, %.10q… = %d; want %d", len([]rune(c.in)), c.in, got, c.want)
		}
	}
}
