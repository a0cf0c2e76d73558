package directory

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// A company that is read has a valid id, and a clean name and clean tokens.
func FuzzReadCompanies(f *testing.F) {
	for _, s := range []string{"id,name,legacy_tokens\nacme,Acme Ltd,abc;def\nbirch,Birch & Sons,\n", "id;name\r\nacme;Acme\r\n", "ID\tName\nacme\tAcme\n", "id,name\nAcme,x\n", "id\nacme\nacme\n", "id,legacy_tokens\na,x\nb,x\n",
		"id\n..\n", "id\n-a\n", "id\n" + strings.Repeat("a", 64) + "\n", "\xff\xfei\x00d\x00", "id,name\n\"a\nb\",x\n", "id\na/b\n", "id,name\na,\x00\n", "id,name\na,{env.HOME}\n"} {
		f.Add([]byte(s))
	}
	id := regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := ReadCompanies(strings.NewReader(string(data)))
		var bad *RowErrors
		if err != nil && (!errors.As(err, &bad) || len(bad.Rows) == 0) {
			t.Fatalf("%v; want RowErrors", err)
		}
		ids := map[string]bool{}
		for _, r := range rows {
			if !id.MatchString(r.ID) || ids[r.ID] {
				t.Fatalf("id %q, there before: %t", r.ID, ids[r.ID])
			}
			ids[r.ID] = true
			if again, err := cleanText(r.name, maxCompany); again != r.name || err != nil {
				t.Fatalf("name %q: %q, %v", r.name, again, err)
			}
			for _, token := range r.tokens {
				if again, err := cleanTokens([]string{token}); len(again) != 1 || again[0] != token || err != nil || token == "" {
					t.Fatalf("token %q: %q, %v", token, again, err)
				}
			}
			if r.Line < 2 || r.Line > 1+strings.Count(string(data), "\n") {
				t.Fatalf("line %d of %q", r.Line, data)
			}
		}
	})
}
