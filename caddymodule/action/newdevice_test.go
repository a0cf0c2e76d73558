package action

import (
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

func TestTellsOfDevice(t *testing.T) {
	const main, other = "ann@example.com", "ann@example.org"
	for _, c := range []struct {
		why          string
		known, first bool
		grant        token.AuthResult
		want         bool
	}{
		{"password, new", false, false, token.AuthResult{Method: ByPassword, Address: main}, true},
		{"password, new, typed another address", false, false, token.AuthResult{Method: ByPassword, Address: other}, true},
		{"password, known", true, false, token.AuthResult{Method: ByPassword, Address: main}, false},
		{"password, first of all", false, true, token.AuthResult{Method: ByPassword, Address: main}, false},
		{"password from elsewhere, first of all", false, true, token.AuthResult{Method: ByPassword, Address: main, Foreign: true}, true},
		{"password from elsewhere, known", true, false, token.AuthResult{Method: ByPassword, Address: main, Foreign: true}, false},
		{"link in the main mailbox", false, false, token.AuthResult{Method: "link", Address: main}, false},
		{"code in the main mailbox", false, false, token.AuthResult{Method: "code", Address: main}, false},
		{"link in another mailbox", false, false, token.AuthResult{Method: "link", Address: other}, true},
		{"code in another mailbox", false, false, token.AuthResult{Method: "code", Address: other}, true},
		{"link in another mailbox, first of all", false, true, token.AuthResult{Method: "link", Address: other}, false},
		{"link in another mailbox, known", true, false, token.AuthResult{Method: "link", Address: other}, false},
	} {
		if got := tellsOfDevice(c.known, c.first, c.grant, main); got != c.want {
			t.Errorf("%s: told of = %t; want %t", c.why, got, c.want)
		}
	}
}
