package gate

import (
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
)

// For every combination of facts, including impossible ones and unknown kinds.
func TestDecide_NobodyGetsFurtherThanTheyMay(t *testing.T) {
	n := 0
	for kind := legacy.Bad; kind <= legacy.Company+1; kind++ {
		for bits := range 1 << 9 {
			is := func(bit int) bool { return bits>>bit&1 == 1 }
			f := decisionInputs{kind: kind, public: is(0), known: is(1), upgraded: is(2), signedIn: is(3), reaches: is(4), visiting: is(5), load: is(6), unauthorized: is(7), possibleToken: is(8)}
			s := f.decide()
			n++
			through := s == pass || s == passAnonymous || s == passPublic
			companys := kind == legacy.New || kind == legacy.Company
			for what, wrong := range map[string]bool{
				"what readers differ on isn't a 400":         (kind == legacy.Bad || kind > legacy.Company) != (s == refuseUnclear),
				"nobody passes as somebody":                  s == pass && !f.signedIn,
				"somebody passes without their name":         f.signedIn && (s == passPublic || s == passAnonymous && kind != legacy.Old && !f.visiting),
				"who belongs to a company is a visitor":      s == passAnonymous && f.signedIn && f.known && f.reaches && kind != legacy.None,
				"a company that isn't reached is passed":     s == pass && kind != legacy.None && !(f.known && f.reaches),
				"an unknown company is passed":               through && companys && !f.known && !f.visiting,
				"another's token gets through":               through && f.unauthorized,
				"an upgraded old link opens":                 s == passAnonymous && kind == legacy.Old && f.upgraded,
				"an unknown old link opens":                  through && kind == legacy.Old && !f.known,
				"a visit opens without one":                  s == passAnonymous && kind != legacy.Old && !f.visiting,
				"what isn't public is open":                  s == passPublic && !f.public,
				"a pattern is public":                        s == passPublic && kind != legacy.None,
				"a new link is told to who may not":          s == redirectToNewLink && !(kind == legacy.Old && f.signedIn && f.reaches && f.known && f.upgraded && f.load && !f.unauthorized),
				"who is signed in is asked":                  (s == prompt || s == redirectToPrompt) && f.signedIn,
				"who isn't is told that there is nothing":    s == notFound && !f.signedIn,
				"what a page loads is led astray":            (s == redirectToPrompt || s == redirectToNewLink) && !f.load,
				"a link is remembered that can't be one":     s == redirectToPrompt && kind != legacy.Old && !(kind == legacy.None && f.possibleToken),
				"a prompt stands at what may be an old link": s == prompt && f.load && (kind == legacy.Old || kind == legacy.None && f.possibleToken),
			} {
				if wrong {
					t.Errorf("%+v.decide() = %d: %s", f, s, what)
				}
			}
			// The decision doesn't reveal whether a company exists to a visitor who doesn't reach
			// it.
			if other := f; !f.reaches && (f.upgraded || !f.known) && kind != legacy.None && !f.visiting {
				other.known, other.upgraded = !f.known, true
				if got := other.decide(); got != s {
					t.Errorf("%+v.decide() = %d; with known turned it is %d", f, s, got)
				}
			}
		}
	}
	if n != 6<<9 {
		t.Errorf("%d combinations", n)
	}
}
