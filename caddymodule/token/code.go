package token

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// CodeLength is how many letters and digits a code has, without its hyphen.
const CodeLength = 8

// ShapeError says that what was typed can't be a code, whatever was mailed and whoever
// types: it is no guess, and may be told apart from a wrong one.
type ShapeError struct {
	// Has is how many letters and digits were typed; CodeLength+1 stands for all that is
	// longer. CodeLength itself: the number is right, but a character is in no code.
	Has int
}

func (e ShapeError) Error() string {
	return fmt.Sprintf("token: not the shape of a code: %d characters", e.Has)
}

// ErrBurnt is an ErrCode: nothing of what the browser asked for had a guess left, so
// nothing was judged.
var ErrBurnt = fmt.Errorf("%w: no guesses are left", ErrCode)

// Guess tries a code in the browser that asked. A ShapeError comes before the store is
// asked, and counts as no try. Any other try is counted in the store before it is
// judged, so that parallel tries get no more than Guesses a code, and no more than
// GuessesPerHour a contact. ErrCode is every failure else that isn't the store's. Of the
// grant, and of store.ErrConflict, the same holds as with Spend; its Ops end every link
// and code that the browser has asked for on behalf of the contact.
//
// limited: the try comes from where there were too many. It is counted and takes its
// time as any other, but is wrong even if it is right, unless it comes from a device
// that the contact has signed in on.
func (t *Tokens) Guess(ctx context.Context, browser, typed string, limited bool) (Grant, error) {
	code, err := normalCode(typed)
	if err != nil {
		return Grant{}, err
	}
	if browser == "" {
		return Grant{}, ErrBurnt
	}
	all, err := t.count(ctx, browser)
	if err != nil {
		return Grant{}, err
	}
	var right *counted
	for i := range all {
		// The same work whether or not there is a code: who asked for an unknown
		// address must not see the difference.
		h, err := t.handed(ctx, all[i].Link)
		if err != nil {
			return Grant{}, err
		}
		same := t.isCode(browser, all[i].asked, code)
		if h.good(all[i].At, t.Life, t.now()) && same && !all[i].over && (!limited || all[i].Known) {
			right = &all[i]
		}
	}
	if right == nil {
		return Grant{}, ErrCode
	}
	was, err := t.lives().Find(ctx, right.Contact)
	if err != nil {
		return Grant{}, err
	}
	if was.Value.find(right.Link) < 0 {
		return Grant{}, ErrCode
	}
	g := Grant{Contact: right.Contact, Generation: right.Generation, Address: right.Address, To: right.To, Shared: right.Shared, Method: "code"}
	g.Ops, err = t.enterOps(ctx, was, was.Value.without(browser), browser, true)
	return g, err
}

// counted is a request at which a guess was made, and counted.
type counted struct {
	asked
	over bool // there were too many at its contact's codes
}

// count adds a guess to every request of the browser that has one left, and to the
// contacts of these, and returns them. When none has, nothing is written: whoever goes on
// guessing costs us a read.
func (t *Tokens) count(ctx context.Context, browser string) ([]counted, error) {
	var all []counted
	err := t.swapFlow(ctx, browser, func(f *flow) ([]store.Op, error) {
		all = all[:0]
		for i := range f.Asks {
			if f.Asks[i].Guesses < Guesses {
				f.Asks[i].Guesses++
				all = append(all, counted{asked: f.Asks[i]})
			}
		}
		if len(all) == 0 {
			return nil, ErrBurnt
		}
		return t.reserve(ctx, browser, all)
	})
	return all, err
}

// isCode reports whether the code is the one of the request, under any of the secrets.
func (t *Tokens) isCode(browser string, a asked, code string) bool {
	is := false
	for _, mac := range t.Keys.MACs(codePurpose, t.Firm, browser, a.ID, code) {
		is = hmac.Equal([]byte(mac), []byte(a.Code)) || is
	}
	return is
}

// alphabet is Crockford's base 32: no i, l, o or u, so that nothing can be misread.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newCode returns 40 random bits as abcd-efgh.
func newCode() string {
	var b [CodeLength]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

// normalCode forgives what people and keyboards do to a code on its way from a mail to
// a form: capitals, full-width letters, look-alikes, and whatever stands around or
// between its characters. Its error is a ShapeError.
func normalCode(typed string) (string, error) {
	if len(typed) > 256 {
		return "", ShapeError{Has: CodeLength + 1}
	}
	has := 0
	code := strings.Map(func(r rune) rune {
		r = unicode.ToLower(r)
		if unicode.IsSpace(r) || unicode.IsPunct(r) || unicode.IsSymbol(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			has++
		}
		switch r {
		case 'o':
			return '0'
		case 'i', 'l':
			return '1'
		}
		return r
	}, norm.NFKC.String(typed))
	if len(code) != CodeLength || strings.Trim(code, alphabet) != "" {
		return "", ShapeError{Has: min(has, CodeLength+1)}
	}
	return code[:4] + "-" + code[4:], nil
}
