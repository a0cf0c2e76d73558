package upstream

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// The portal receives all cookies except the gate's, unchanged and in order. It can't set a cookie
// that returns as one of the gate's.
func FuzzCookies(f *testing.F) {
	tied := newCookies(f)
	for _, seed := range []string{"a=1; __Host-portal=x; b=2", "__Host-portal-flow=x", "__HOST-PORTAL=x;;", " __Host-portal =x", "=__Host-portal=x", "==__Host-portal=x", "__Host-portal", `a="; __Host-portal=x"`,
		"a=1;\t__Host-portal-device=x; Path=/", "__Host-portal=x; Domain=portal.example", "\x00__Host-portal=x", "__Host-portal\x00=x", ";__Host-portal=x", "a,__Host-portal=x", " = __Host-portal = x", "=\t__Host-portal=x; Path=/", "theme ", "\ttheme", "a=1; __Host-portal "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, sealPrefix) {
			return // a sealed cookie; covered by another test
		}
		before := &http.Request{Header: http.Header{"Cookie": {line, "z=9"}}}
		if err := tied.loadNames(t.Context()); err != nil {
			t.Fatal(err)
		}
		var want []*http.Cookie
		for pair := range strings.SplitSeq(line+";z=9", ";") {
			if tied.containsSealed(textproto.TrimString(pair)) {
				continue // some parsers find a second cookie in it, and disagree on its name
			}
			name, _, assigned := strings.Cut(pair, "=")
			if name = strings.TrimLeft(name, " "); !assigned {
				name = textproto.TrimString(name)
			}
			for _, one := range (&http.Request{Header: http.Header{"Cookie": {pair}}}).Cookies() {
				switch strings.ToLower(one.Name) {
				case "__host-portal", "__host-portal-flow", "__host-portal-device", "__host-portal-visit":
				default:
					if one.Name == name && !tied.mayBeReadAsSealed(name) { // otherwise parsers disagree on its name, and it is left out
						want = append(want, one)
					}
				}
			}
		}
		after := &http.Request{Header: before.Header.Clone()}
		if err := tied.Unseal(t.Context(), after.Header, nil); err != nil {
			t.Fatal(err)
		}
		if got := after.Cookies(); !slices.EqualFunc(got, want, func(a, b *http.Cookie) bool { return a.Name == b.Name && a.Value == b.Value && a.Quoted == b.Quoted }) {
			t.Fatalf("of Cookie: %q the portal gets %v; want %v", line, got, want)
		}
		rest := line
		for _, kept := range after.Header["Cookie"] {
			if kept == "z=9" {
				continue
			}
			for pair := range strings.SplitSeq(kept, ";") {
				i := strings.Index(rest, pair)
				if i < 0 {
					t.Fatalf("of Cookie: %q the portal gets %q", line, kept)
				}
				rest = rest[i+len(pair):]
			}
		}
	})
}
