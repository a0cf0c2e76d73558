package directory

import (
	"crypto/md5"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
)

func TestGuessable(t *testing.T) {
	md5Of := func(of string) string { return fmt.Sprintf("%x", md5.Sum([]byte(of))) }
	harbor := Company{ID: "harbor-bakery", Name: "Harbor Bakery LLC"}
	for _, c := range []struct {
		token string
		with  []string // other tokens
		want  string   // part of the weakness; "" if it can't be guessed
	}{
		{"hb7Qm2xVt9Kp4Rz", nil, ""},
		{"f47ac10b-58cc-4372-a567-0e02b2c3d479", nil, ""},
		{rand.Text(), []string{rand.Text(), rand.Text()}, ""},
		{"9f86d081884c7d659a2feaa0c55ad015", nil, ""},
		{"84029517736204851937", nil, ""},
		{"harbor-bakery-hb7Qm2xVt9Kp4Rz", nil, ""},
		{"harbor-bakery", nil, "id or name"},
		{"harborbakery2024", nil, "id or name"},
		{"Harbor-Bakery-1", nil, "id or name"},
		{"tok-1", nil, "too short"},
		{"4711", nil, "too short"},
		{"k3j9x2m4q1", nil, "too short"},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", nil, "too short"},
		{"secret-token", nil, "words"},
		{"correct-horse-battery-staple", nil, "words"},
		{md5Of("harbor-bakery"), nil, "computed"},
		{md5Of("4711"), nil, "computed"},
		{strings.ToUpper(md5Of("Harbor Bakery LLC")), nil, "computed"},
		{"aGFyYm9yLWJha2VyeQ==", nil, "computed"},
		{"client-x7f3q9-0000000000017", []string{"client-x7f3q9-0000000000018"}, "differs"},
		{"507f1f77bcf86cd799439011", []string{"507f1f77bcf86cd799439012", "507f1f77bcf86cd799439013"}, "differs"},
	} {
		all := map[string]Company{harbor.ID: {ID: harbor.ID, Name: harbor.Name, LegacyTokens: []string{c.token}}, "other": {ID: "other", LegacyTokens: c.with}}
		got := newGuessing(all).weakness(c.token, all[harbor.ID])
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || strings.Contains(got, c.token) {
			t.Errorf("why(%q) = %q; want %q", c.token, got, c.want)
		}
	}
	companies := map[string]Company{}
	for i := range 1000 { // random tokens occasionally share a prefix
		id := fmt.Sprint("c", i)
		companies[id] = Company{ID: id, LegacyTokens: []string{rand.Text()[:20]}}
	}
	g, weak := newGuessing(companies), 0
	for _, c := range companies {
		weak += g.countWeak(c)
	}
	if weak > 0 {
		t.Errorf("%d of 1,000 random tokens are said to be guessable; want none", weak)
	}
}

// Tokens that may occur in any text by chance aren't searched for in all texts. Otherwise a date, a
// number or a company's name in a form would be replaced by chance.
func TestIsCommon(t *testing.T) {
	c := Company{ID: "oak-street", Name: "Oak Street Dental"}
	for token, want := range map[string]bool{
		"1042": true, "20260131": true, "2026-01-31": true, "+1 555 0100": true, "invoices": true, "oakstreetdental": true, "Oak-Street-Dental": true, "q3": true,
		"hb7Qm2xVt9Kp4Rz": false, "482915573019462": false, "deadbeefcafe0123": false, "tok-oak-street-1": false, "oak-street-secret": false, "birch-secret-token": false, "qwkzjxvbmphtr": false, "oak-street-1": false, "oakstreet2019": false,
	} {
		if got := isCommon(token, c); got != want {
			t.Errorf("isCommon(%s) = %t; want %t (%.0f bits)", token, got, want, bitsOf(token))
		}
	}
}
