package directory

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// wantRows compares an error with expected rows, written as: line "column" part of the reason.
func wantRows(t testing.TB, err error, want ...string) {
	t.Helper()
	var bad *RowErrors
	if !errors.As(err, &bad) {
		t.Errorf("%v; want RowErrors %q", err, want)
		return
	}
	ok := len(bad.Rows) == len(want)
	for i := 0; ok && i < len(want); i++ {
		r := bad.Rows[i]
		got := fmt.Sprintf("%d %q %s", r.Line, r.Column, r.Reason)
		at, reason, _ := strings.Cut(want[i], `" `)
		ok = strings.HasPrefix(got, at+`" `) && strings.Contains(r.Reason, reason)
	}
	if !ok {
		t.Errorf("the errors are\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

// asText returns rows as lines of text.
func asText(rows []ContactRow) (out []string) {
	for _, r := range rows {
		e := r.edit
		out = append(out, fmt.Sprintf("%d %s %v|%s|%s|%s|%q|%s|%s|%d", r.Line, r.Email, e.others, e.first, e.last, e.phone, e.companies, e.role, e.locale, e.disabled))
	}
	return out
}

func TestReadContacts(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"all columns":     {"email,other_emails,first_name,last_name,phone,companies,role,locale,disabled\nAnn@Example.com,a@b.de; c@d.de,Ann,Baker,+1,acme;Birch & Co,Staff,EN-gb,TRUE\n", []string{`2 ann@example.com [a@b.de c@d.de]|Ann|Baker|+1|["acme" "Birch & Co"]|staff|en-GB|2`}},
		"one column":      {"email\na@b.de\nc@d.de", []string{`2 a@b.de []||||[]|||0`, `3 c@d.de []||||[]|||0`}},
		"order and case":  {"Last Name,EMAIL,first-name\nBaker,a@b.de,Ann\n", []string{`2 a@b.de []|Ann|Baker||[]|||0`}},
		"semicolons":      {"email;companies;first_name\na@b.de;\"acme;birch\";Ann, the first\n", []string{`2 a@b.de []|Ann, the first|||["acme" "birch"]|||0`}},
		"tabs":            {"email\tcompanies\na@b.de\tacme;birch\n", []string{`2 a@b.de []||||["acme" "birch"]|||0`}},
		"quoted header":   {"\"email\";\"first_name\"\na@b.de;Ann\n", []string{`2 a@b.de []|Ann|||[]|||0`}},
		"BOM, CRLF":       {"\ufeffemail,first_name\r\na@b.de,Zoë\r\n", []string{`2 a@b.de []|Zoë|||[]|||0`}},
		"BOM, quoted":     {"\ufeff\"email\",\"first_name\"\r\na@b.de,Zoë\r\n", []string{`2 a@b.de []|Zoë|||[]|||0`}},
		"Windows-1252":    {"email,first_name,last_name\na@b.de,Zo\xeb,O\x92Neill \x80\n", []string{"2 a@b.de []|Zoë|O’Neill €||[]|||0"}},
		"quotes":          {"email,first_name\na@b.de,\"Ann \"\"Annie\"\" B, jr\"\n", []string{`2 a@b.de []|Ann "Annie" B, jr|||[]|||0`}},
		"spaces":          {"email , first_name\n a@b.de ,  Ann  \n", []string{`2 a@b.de []|Ann|||[]|||0`}},
		"empty rows":      {"\n\nemail,first_name\n\n,\na@b.de,Ann\n , \n\n", []string{`6 a@b.de []|Ann|||[]|||0`}},
		"nameless column": {"email,first_name,\na@b.de,Ann,\n", []string{`2 a@b.de []|Ann|||[]|||0`}},
		"lines counted":   {"email,first_name\n\"a@b.de\",\"\nAnn\n\"\nc@d.de,Cyd\n", []string{`2 a@b.de []|Ann|||[]|||0`, `5 c@d.de []|Cyd|||[]|||0`}},
		"disabled":        {"email,disabled\na@b.de,yes\nb@b.de,x\nc@b.de,1\nd@b.de,no\ne@b.de,False\nf@b.de,0\ng@b.de,\n", []string{`2 a@b.de []||||[]|||2`, `3 b@b.de []||||[]|||2`, `4 c@b.de []||||[]|||2`, `5 d@b.de []||||[]|||1`, `6 e@b.de []||||[]|||1`, `7 f@b.de []||||[]|||1`, `8 g@b.de []||||[]|||0`}},
		"one contact":     {"email,other_emails,first_name,companies,disabled\nann@b.de,,Ann,acme,\nbob@b.de,,,birch,\nANN@b.de,x@b.de,,birch;acme,true\nann@b.de,,Ann,cyan,\n", []string{`2 ann@b.de [x@b.de]|Ann|||["acme" "birch" "cyan"]|||2`, `3 bob@b.de []||||["birch"]|||0`}},
		"composed":        {"email,first_name\na@b.de,Zoe\u0308\n", []string{"2 a@b.de []|Zoë|||[]|||0"}},
		"header alone":    {"email,first_name\n", nil},
	} {
		rows, err := ReadContacts(strings.NewReader(c.in))
		if got := asText(rows); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

// Address books export columns under other names.
func TestColumnNames(t *testing.T) {
	for want, names := range map[string]string{
		"email":        "email|E-Mail|e-mail|Email Address|EMAIL_ADDRESS|Mail| e mail |email\u00a0address",
		"other_emails": "other_emails|Other E-Mails|OtherEmails",
		"first_name":   "first_name|First Name|firstname|FirstName|first-name",
		"last_name":    "last_name|Last name|lastname|Surname|sur-name",
		"companies":    "companies|Company|COMPANY|Company Name|*ContactName",
		"":             "e.mail|first|emails||-",
	} {
		for name := range strings.SplitSeq(names, "|") {
			got := ""
			if k, _ := (&table{known: contactColumns}).column(name); k >= 0 {
				got = contactColumns[k]
			}
			if got != want {
				t.Errorf("column(%q) = %q; want %q", name, got, want)
			}
		}
	}
	if k, _ := (&table{known: companyColumns}).column("Company"); k != -1 {
		t.Errorf("column(Company) of companies = %d; want none", k)
	}
}

func TestReadContactsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"empty":             {"", []string{`1 "" the file is empty; its first line must name the columns: email, other_emails`}},
		"blank":             {"\n\n", []string{`1 "" the file is empty`}},
		"no email":          {"first_name\nAnn\n", []string{`1 "" there is no column email`}},
		"unknown column":    {"email,frist_name\na@b.de,Ann\n", []string{`1 "" column 2, "frist_name", isn't known; rename it to one of email, other_emails, first_name`}},
		"no header":         {"a@b.de,Ann\n", []string{`1 "" the first line looks like a row; put a line with the names of the columns above it: email, other_emails`}},
		"column twice":      {"email,Email\na@b.de,c@d.de\n", []string{`1 "" column 2, "Email", is email, which is there already; delete one of the two`}},
		"synonym twice":     {"E-Mail,Mail\na@b.de,c@d.de\n", []string{`1 "" column 2, "Mail", is email`}},
		"delete the column": {"email,Nickname\na@b.de,Annie\n", []string{`1 "" role, locale, disabled, texts, password_hash, or delete the column`}},
		"pipes":             {"email|first_name\n", []string{`1 "" column 1, "email|first_name", isn't known`}},
		"UTF-16LE":          {"\xff\xfee\x00m\x00", []string{`1 "" UTF-16; save it as “CSV UTF-8”`}},
		"UTF-16BE":          {"\xfe\xff\x00e\x00m", []string{`1 "" UTF-16`}},
		"UTF-16, no BOM":    {"e\x00m\x00a\x00i\x00l\x00", []string{`1 "" UTF-16`}},
		"workbook":          {"PK\x03\x04xlsx", []string{`1 "" workbook; save it as “CSV UTF-8”`}},
		"CR alone":          {"email,first_name\ra@b.de,Ann\r", []string{`1 "" carriage return alone`}},
		"BOM, not UTF-8":    {"\ufeffemail,first_name\na@b.de,Zo\xeb\n", []string{`2 "first_name" not valid UTF-8`}},
		"two encodings":     {"email,first_name\na@b.de,Zoë\nc@d.de,Zo\xeb\n", []string{`3 "first_name" in UTF-8 in line 2 and in Windows-1252 in line 3`}},
		"neither encoding":  {"email,first_name\na@b.de,Zo\x81\n", []string{`2 "first_name" neither UTF-8 nor Windows-1252`}},
		"bad addresses":     {"email,other_emails\nx,\na@b.de,y\n,\n\"\",z@b.de\n", []string{`2 "email" it has no @`, `3 "other_emails" it has no @`, `5 "email" it is empty`}},
		"bad rows apart":    {"email,first_name\nx,Ann\ny,Bob\n", []string{`2 "email" no @`, `3 "email" no @`}},
		"list in email":     {"email,first_name\na@b.de;c@d.de,Ann\n", []string{`2 "email" more than one @`}},
		"several in a row":  {"email,role,locale,disabled\na@b.de,admin,english,maybe\n", []string{`2 "role" "admin" is none of client, staff`, `2 "locale" "english" is no language tag`, `2 "disabled" "maybe" is none of true, false`}},
		"line break":        {"email,first_name\na@b.de,\"Ann\nX-Evil: 1\"\n", []string{`2 "first_name" U+000A`}},
		"controls":          {"email,first_name,companies\na@b.de,A\x00nn,\"a\x07b\"\n", []string{`2 "first_name" U+0000`, `2 "companies" U+0007`}},
		"long field":        {"email,first_name\na@b.de," + strings.Repeat("n", 101) + "\n", []string{`2 "first_name" 101 characters, at most 100`}},
		"long row":          {"email,first_name\na@b.de,Ann\nc@d.de,\"" + strings.Repeat("n\n", 200_000), []string{`3 "" longer than 65536 bytes; a double quote may not be closed`}},
		"long header":       {strings.Repeat("n", 200_000), []string{`1 "" longer than`}},
		"unclosed quote":    {"email,first_name\na@b.de,\"Ann\nc@d.de,Cyd\n", []string{`2 "" double quote`}},
		"stray quote":       {"email,first_name\nx,\na@b.de,5\" pipe\nc@d.de,Cyd\n", []string{`2 "email" no @`, `3 "" double quote`}},
		"too many fields":   {"email,first_name\na@b.de,Baker, Ann\n", []string{`2 "" has 3 fields, the first line has 2; a field that holds ',' needs double quotes`}},
		"bare list":         {"email;companies\na@b.de;acme;birch\n", []string{`2 "" has 3 fields, the first line has 2; a field that holds ';'`}},
		"too few fields":    {"email,first_name\na@b.de\n", []string{`2 "" has 1 fields`}},
		"nameless value":    {"email,\na@b.de,Ann\n", []string{`2 "" column 2 has no name`}},
		"conflicting name":  {"email,first_name\na@b.de,Ann\na@b.de,Anna\n", []string{`3 "first_name" is "Anna" here and "Ann" in line 2`}},
		"conflicting role":  {"email,role\na@b.de,client\na@b.de,staff\n", []string{`3 "role" is "staff" here and "client" in line 2`}},
		"half disabled":     {"email,disabled\na@b.de,false\na@b.de,true\n", []string{`3 "disabled" says the opposite in line 2`}},
		"shared other":      {"email,other_emails\na@b.de,x@b.de\nb@b.de,X@b.de\n", []string{`3 "other_emails" x@b.de is in line 2 too`}},
		"main is other":     {"email,other_emails\na@b.de,x@b.de\nx@b.de,\n", []string{`3 "email" x@b.de is another address of a@b.de in line 2`}},
		"other is main":     {"email,other_emails\nx@b.de,\na@b.de,x@b.de\n", []string{`3 "other_emails" x@b.de is in line 2 too`}},
		"too many together": {"email,companies\na@b.de," + strings.Join(numbered(200, "c%d"), ";") + "\na@b.de," + strings.Join(numbered(51, "d%d"), ";") + "\n", []string{`3 "companies" are more than 250 with those in line 2`}},
	} {
		_, err := ReadContacts(strings.NewReader(c.in))
		t.Run(name, func(t *testing.T) { wantRows(t, err, c.want...) })
	}
}

func TestReadCompanies(t *testing.T) {
	rows, err := ReadCompanies(strings.NewReader("Name;ID;legacy_tokens\nAcme, Inc.;acme;\"one;two\"\n;birch;\n"))
	got := ""
	for _, r := range rows {
		got += fmt.Sprintf("%d %s %q %v\n", r.Line, r.ID, r.name, r.tokens)
	}
	if want := "2 acme \"Acme, Inc.\" [one two]\n3 birch \"\" []\n"; got != want || err != nil {
		t.Errorf("%s%v; want %s", got, err, want)
	}
	_, err = ReadCompanies(strings.NewReader("id,name,legacy_tokens\nAcme,,\nb,,t0k en\nc,,\nc,,\n,x,\nd,\"a\nb\",\n"))
	wantRows(t, err, `2 "id" "Acme" is no id of a company; write 1 to 63 of a-z, 0-9, dot, hyphen and underscore, the first a letter or digit, such as acme-ltd`, `3 "legacy_tokens" one holds a space`, `5 "id" c is in line 4 too`, `6 "id" "" is no id`, `7 "name" U+000A`)
	if strings.Contains(err.Error(), "t0k") {
		t.Errorf("the error repeats a token: %v", err)
	}
}

func TestRowErrorsAreCapped(t *testing.T) {
	_, err := ReadContacts(strings.NewReader("email\n" + strings.Repeat("x\n", 250)))
	var bad *RowErrors
	if !errors.As(err, &bad) || len(bad.Rows) != 100 || bad.More != 150 {
		t.Fatalf("%.200v; want 100 rows and 150 more", err)
	}
	if text := err.Error(); !strings.HasPrefix(text, "line 2, email: ") || !strings.HasSuffix(text, "\nand 150 more") {
		t.Errorf("the text is %.60q … %q", text, text[len(text)-30:])
	}
}

func TestReaderErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, r := range []io.Reader{
		iotest.ErrReader(broken),
		io.MultiReader(strings.NewReader("email\na@b.de\n"+strings.Repeat(" \n", maxRow)), iotest.ErrReader(broken)),
	} {
		if _, err := ReadContacts(r); !errors.Is(err, broken) {
			t.Errorf("%v; want the reader's error", err)
		}
	}
	rows, err := ReadContacts(iotest.OneByteReader(strings.NewReader("email\na@b.de\n")))
	if len(rows) != 1 || err != nil {
		t.Errorf("byte by byte: %d rows, %v", len(rows), err)
	}
}

// bigFile returns a file of n rows, generated while it is read.
func bigFile(n int) io.Reader {
	next, _ := iter.Pull(func(yield func(string) bool) {
		if !yield("email,other_emails,first_name,last_name,phone,companies,role,locale,disabled\n") {
			return
		}
		for i := range n {
			if !yield(fmt.Sprintf("person%d@client%d.example.com,other%d@example.org,Jördis,Baker-%d,+1 555 %07d,c%d;Company %d,client,en-US,\n", i, i%1000, i, i, i, i%100, i%99)) {
				return
			}
		}
	})
	return &pulled{next: next}
}

type pulled struct {
	next func() (string, bool)
	rest string
}

func (p *pulled) Read(b []byte) (int, error) {
	for p.rest == "" {
		s, ok := p.next()
		if !ok {
			return 0, io.EOF
		}
		p.rest = s
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func TestReadContactsMemory(t *testing.T) {
	rows, err := ReadContacts(bigFile(100_000))
	if len(rows) != 100_000 || err != nil {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("100,000 rows take %d MiB", m.HeapAlloc>>20)
	if m.HeapAlloc > 64<<20 {
		t.Errorf("100,000 rows take %d MiB; want at most 64", m.HeapAlloc>>20)
	}
	runtime.KeepAlive(rows)
}

func TestRowLimit(t *testing.T) {
	n := 0
	r := &pulled{next: func() (string, bool) {
		if n++; n == 1 {
			return "email\n", true
		}
		return "a@b.de\n", n < 1_000_003
	}}
	_, err := ReadContacts(r)
	wantRows(t, err, `1000002 "" more than 1000000 rows`)
}

func FuzzReadContacts(f *testing.F) {
	for _, s := range []string{
		"email,other_emails,first_name,last_name,phone,companies,role,locale,disabled\na@b.de,c@d.de;e@f.de,A,B,1,x;y,staff,en,true\n",
		"\ufeffemail;companies\r\na@b.de;\"x;y\"\r\n", "email\tfirst_name\na@b.de\tZo\xeb\n", "email\n\"a@b.de\n", "\xff\xfee\x00", "email,\na@b.de,\na@b.de,x\n", "PK\x03\x04", "email\r", "\"email\n\"\na@b.de",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := ReadContacts(strings.NewReader(string(data)))
		var bad *RowErrors
		if err != nil && (!errors.As(err, &bad) || len(bad.Rows) == 0) {
			t.Fatalf("%v; want RowErrors", err)
		}
		owner := map[address.Address]int{}
		for i, r := range rows {
			for _, a := range append([]address.Address{r.Email}, r.edit.others...) {
				if again, err := address.Parse(string(a)); again != a || err != nil {
					t.Fatalf("address %q: %q, %v", a, again, err)
				}
				if at, taken := owner[a]; taken && at != i {
					t.Fatalf("%s is in rows %d and %d", a, at, i)
				}
				owner[a] = i
			}
			for _, s := range append([]string{r.edit.first, r.edit.last, r.edit.phone, r.edit.locale}, r.edit.companies...) {
				if again, err := cleanText(s, maxCompany); again != s || err != nil {
					t.Fatalf("text %q: %q, %v", s, again, err)
				}
			}
			if r.Line < 1 || r.Line > 1+strings.Count(string(data), "\n") {
				t.Fatalf("line %d of %q", r.Line, data)
			}
		}
	})
}
