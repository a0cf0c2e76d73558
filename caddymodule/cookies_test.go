package caddymodule_test

// The portal's own cookies on their way through the gate.

import (
	"net/http"
	"strings"
	"testing"
)

// At a computer that two people use, no spelling of a cookie's name brings one of them into the
// other's session of the portal: what another reader could take for it is left out.
func TestNobodyGetsAnothersPortalSessionBySpelling(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "portal_session named"})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "sid=anns; HttpOnly")
		w.Header().Add("Set-Cookie", "named=anns")
	}
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	ann.open("/x")
	for _, name := range []string{"sid", "named"} {
		sealed := ann.cookie(name)
		for _, spelling := range []string{"NAME", "name ", " name", "\tname", "name\t", "\u00a0name", "name\u00a0", "\ufeffname", "\u2003name", "\"name\"", "\\name", "(name", "name@", "{name}",
			"name[]", "x[name]", "%6eame", "%6Eame%20", "%2520name", "x,name", "x name", "x=1 name", `x="1,name`, "=name"} {
			spelling = strings.NewReplacer("name", name, "NAME", strings.ToUpper(name), "%6eame", "%"+hexOf(name[0])+name[1:], "%6Eame", "%"+strings.ToUpper(hexOf(name[0]))+name[1:]).Replace(spelling)
			for what, value := range map[string]string{"bare": "anns", "sealed": sealed} {
				h.get("/y", bob.session()+"; theme=dark; "+spelling+"="+value+"; prefs[a]=1")
				got, _ := h.portal.last()
				if cookies := strings.Join(got.Header["Cookie"], "|"); couldBe(cookies, name) || !strings.HasPrefix(cookies, "theme=dark") || !strings.HasSuffix(cookies, "prefs[a]=1") {
					t.Errorf("%q, %s: the portal gets Cookie: %q; want the others alone", spelling, what, cookies)
				}
			}
		}
	}
}

func hexOf(b byte) string { return string("0123456789abcdef"[b>>4]) + string("0123456789abcdef"[b&15]) }

// couldBe reports whether the most lenient of readers would find a cookie of that name with Ann's
// value: one that decodes, and takes all but letters for the end of a name.
func couldBe(cookies, name string) bool {
	for pair := range strings.FieldsFuncSeq(strings.ToLower(cookies), func(r rune) bool { return strings.ContainsRune(";, \t\u00a0\u2003\ufeff", r) }) {
		before, value, _ := strings.Cut(pair, "=")
		letters := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}, before)
		if letters == name && value == "anns" {
			return true
		}
	}
	return false
}
