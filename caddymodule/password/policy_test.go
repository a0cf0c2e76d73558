package password

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

var ann = ContactInfo{
	Names:     []string{"Ann", "Müller-Łukasz"},
	Emails:    []address.Address{"ann.petunia+books@brightwater.co.uk", "office@xn--mnchen-3ya.example"},
	Companies: []string{"Harbour & Sons Ltd", "orchid-7", "Big Company Group Limited"},
}

func TestCheckPolicy(t *testing.T) {
	for _, c := range []struct {
		password string
		least    int
		why      Reason // "": allowed
		word     string
	}{
		{"correct horse battery staple", 0, "", ""},
		{"a kettle sings at noon", 0, "", ""},
		{"seven grey geese walk home", 0, "", ""},
		{"kX9#qL2!vB7$mN4", 0, "", ""},
		{"fünf große Bäume im Wind", 0, "", ""},
		{"どこかで猫が三匹歌っている夜です", 0, "", ""},
		{"elephant8302749", 0, "", ""}, // seven random digits are more than decoration
		{"the moon, the moon, the sun", 0, "", ""},
		{"k9#qL2!v", 8, "", ""},
		{"    kettle, noon, geese    ", 0, "", ""},

		{"", 0, TooShort, ""},
		{"kX9#qL2!vB7$mN", 0, TooShort, ""},
		{"kX9#qL2!vB7$mé", 0, TooShort, ""},       // 15 bytes
		{"kX9#qL2!vB7$me\u0301", 0, TooShort, ""}, // 15 code points, before NFKC
		{"k9#qL2!", 1, TooShort, ""},              // MinLength can't be lower than 8
		{"k9#qL2!", 8, TooShort, ""},
		{strings.Repeat("kettle noon ", 22)[:256], 0, "", ""},
		{strings.Repeat("kettle noon ", 22)[:257], 0, TooLong, ""},
		{strings.Repeat("x", 1<<20), 0, TooLong, ""},
		{"a kettle sings at noon\xff", 0, NoText, ""},

		{"qwertyuiop12345", 0, Common, ""}, // on the list
		{"QwertyUiop12345", 0, Common, ""},
		{"ｑｗｅｒｔｙｕｉｏｐ１２３４５", 0, Common, ""},
		{"sunshine", 8, Common, ""},
		{"aaaaaaaaaaaaaaaaaa", 0, Common, ""},
		{"azazazazazazazaz", 0, Common, ""},
		{"qzmtmqtzqmztqtzm", 0, Common, ""}, // four letters, mixed
		{"                    ", 0, Common, ""},
		{"\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b", 0, Common, ""},

		{"my bookkeeping is never late", 0, HasFirm, "bookkeeping"},
		{"EXAMPLE-Bookkeeping-2026-go", 0, HasFirm, "example bookkeeping"},
		{"an e.x.a.m.p.l.e of kettles", 0, HasFirm, "example"},
		{"a kettle for muller at noon", 0, HasName, "muller"},
		{"a kettle for MÜLLER at noon", 0, HasName, "muller"},
		{"an ann can plan", 0, "", ""}, // three letters occur in too many words
		{"a petunia sings at noon", 0, HasAddress, "petunia"},
		{"how bright water runs: brightwater", 0, HasAddress, "brightwater"},
		{"no books at my bedside", 0, HasAddress, "books"},
		{"the old harbour at noon", 0, HasCompany, "harbour"},
		{"harbour and sons at noon", 0, HasCompany, "harbour"},
		{"a white orchid at noon", 0, HasCompany, "orchid"},
		{"a company of grey geese", 0, "", ""}, // a generic word of the name
	} {
		p := &Passwords{Name: "Example Bookkeeping", MinLength: c.least}
		err := p.CheckPolicy(c.password, ann)
		var r PolicyError
		if errors.As(err, &r) != (c.why != "") || r.Why != c.why || r.Word != c.word || err != nil && c.why == "" {
			t.Errorf("Judge(%.60q) = %v (%q); want %q (%q)", c.password, err, r.Word, c.why, c.word)
		}
		if err != nil && len(c.password) > 3 && strings.Contains(err.Error(), c.password[3:]) {
			t.Errorf("the error for %q can't be logged: %v", c.password, err)
		}
	}
}

// The whole address counts even if its parts are too short.
func TestCheckPolicy_FindsAWholeAddress(t *testing.T) {
	about := ContactInfo{Emails: []address.Address{"ann@kpg.accountants"}}
	for password, word := range map[string]string{"Ann@KPG.accountants": "ann@kpg.accountants", "annkpgaccountants1": "ann@kpg.accountants", "accountants at noon": ""} {
		r, _ := errors.AsType[PolicyError]((&Passwords{}).CheckPolicy(password, about))
		if r.Word != word || word != "" && r.Why != HasAddress {
			t.Errorf("Judge(%q) = %+v; want that %q is to be left out", password, r, word)
		}
	}
}

// For a contact without name and company, nothing is known.
func TestCheckPolicy_WithoutContactInfo(t *testing.T) {
	if err := (&Passwords{}).CheckPolicy(good, ContactInfo{Names: []string{"", " "}, Companies: []string{""}}); err != nil {
		t.Errorf("Judge = %v", err)
	}
}

func TestSet_ReturnsRefused(t *testing.T) {
	w := newWorld(t)
	ops, err := w.Set(t.Context(), "ann", "Example Bookkeeping!", ann)
	if r, ok := errors.AsType[PolicyError](err); !ok || r.Why != HasFirm || ops != nil {
		t.Errorf("Set = %d Ops, %v; want Refused", len(ops), err)
	}
}

// Each reason has a text that contains the relevant numbers or words.
func TestRefused_Words(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range []PolicyError{
		{}, {Why: NoText}, {Why: Common},
		{Why: TooShort, Has: 9, Min: 15}, {Why: TooShort, Has: 1, Min: 8}, {Why: TooLong, Has: 300},
		{Why: HasFirm, Word: "bookkeeping"}, {Why: HasName, Word: "muller"}, {Why: HasAddress, Word: "petunia"}, {Why: HasCompany, Word: "harbour"},
	} {
		words := r.Message().String()
		if seen[words] || len(words) < 20 || !strings.Contains(words, r.Word) || strings.Contains(words, "%!") || !strings.HasSuffix(words, ".") {
			t.Errorf("Words of %+v = %q", r, words)
		}
		seen[words] = true
	}
	if got, want := (PolicyError{Why: TooShort, Has: 1, Min: 15}).Message().String(), "Please use at least 15 characters; so far there is 1."; !strings.HasPrefix(got, want) {
		t.Errorf("Words = %q; want %q", got, want)
	}
}

func TestCommonList(t *testing.T) {
	all := commonList()
	if len(all) < 10_000 || !slices.IsSorted(all) || all[0] == "" {
		t.Fatalf("%d passwords, sorted %t; want at least 10,000", len(all), slices.IsSorted(all))
	}
	for _, one := range all {
		if fold(one) != one {
			t.Errorf("%q is never found: it folds to %q", one, fold(one))
		}
	}
	for _, one := range []string{all[0], all[len(all)-1], "password", "123456789", "dragon"} {
		if !isCommon(one) {
			t.Errorf("isCommon(%q) = false", one)
		}
	}
	for _, one := range []string{"", "a kettle sings at noon", "passwor\n", "passwordz"} {
		if isCommon(one) {
			t.Errorf("isCommon(%q) = true", one)
		}
	}
}

func FuzzCheckPolicy(f *testing.F) {
	f.Add(good, "Ann", "ann@example.com", "Harbour & Sons", 0)
	f.Add("correct horse battery staple", "", "", "", 8)
	f.Add("\u0130\u0130\u0130\u0130\u0130\u0130\u0130\u0130\u0130ﷺﷺﷺ", "İ", "i@i.i", "ﷺ", 8)
	f.Add("password\x00\x00\x00\x00\x00\x00\x00", "\xff", "@", "\xff\xff\xff\xff", -1)
	f.Fuzz(func(t *testing.T, password, name, email, company string, least int) {
		p := &Passwords{Name: name, MinLength: least}
		err := p.CheckPolicy(password, ContactInfo{Names: []string{name}, Emails: []address.Address{address.Address(email)}, Companies: []string{company}})
		r, refused := errors.AsType[PolicyError](err)
		if refused != (err != nil) || refused && (r.Why == "" || r.Message() == PolicyError{}.Message()) {
			t.Fatalf("Judge(%q) = %v", password, err)
		}
		if err == nil {
			if n := utf8.RuneCountInString(normalize(password)); n < LowestMinLength || n > MaxLength || !plausible(password) || isCommon(fold(password)) {
				t.Fatalf("Judge(%q) = nil, but it could not be used", password)
			}
			// The policy makes no difference between passwords with the same hash.
			if err := p.CheckPolicy(normalize(password), ContactInfo{}); err != nil {
				t.Fatalf("Judge(%q) = %v in the form that is hashed", password, err)
			}
		}
	})
}
