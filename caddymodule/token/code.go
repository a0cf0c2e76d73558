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

// CodeLength is the number of letters and digits of a code, without its hyphen.
const CodeLength = 8

// ShapeError: the input can't be a code, whichever code was mailed. It doesn't count as a
// guess, and a page may say so.
type ShapeError struct {
	// Has is the number of letters and digits typed, at most CodeLength+1. CodeLength
	// itself: the number is right, but one of the characters occurs in no code.
	Has int
}

func (e ShapeError) Error() string {
	return fmt.Sprintf("token: not a code: %d characters", e.Has)
}

// ErrNoGuessesLeft is an ErrCode: none of the browser's requests had a guess left, so nothing was
// compared.
var ErrNoGuessesLeft = fmt.Errorf("%w: no guesses are left", ErrWrongCode)

// Guess tries a code in the browser that requested it. A ShapeError is returned before
// the store is read, and isn't counted. Any other guess is counted in the store before it
// is compared, so that parallel guesses get no more than Guesses for each code and
// GuessesPerHour for each contact. ErrCode stands for every other failure except the
// store's. The grant's Ops end all links and codes that the browser requested for the
// contact. For the grant and store.ErrConflict see Spend.
//
// limited: the client is over a limit. Its guess is counted and takes the usual time, but
// fails even if it is right, unless it comes from a device that the contact has signed in
// on.
func (t *Tokens) Guess(ctx context.Context, browser, typed string, limited bool) (AuthResult, error) {
	code, err := normalizeCode(typed)
	if err != nil {
		return AuthResult{}, err
	}
	if browser == "" {
		return AuthResult{}, ErrNoGuessesLeft
	}
	all, err := t.countGuess(ctx, browser)
	if err != nil {
		return AuthResult{}, err
	}
	var right *counted
	for i := range all {
		// Do the same work whether or not there is a code: a client that requested a mail
		// for an unknown address must not see a difference.
		h, err := t.handover(ctx, all[i].Link)
		if err != nil {
			return AuthResult{}, err
		}
		same := t.isCode(browser, all[i].request, code)
		if h.active(all[i].At, t.lifeOf(all[i].codeLife()), t.now()) && same && !all[i].blocked && (!limited || all[i].Known) {
			right = &all[i]
		}
	}
	if right == nil {
		return AuthResult{}, ErrWrongCode
	}
	was, err := t.active().Find(ctx, right.Contact)
	if err != nil {
		return AuthResult{}, err
	}
	if was.Value.find(right.Link) < 0 {
		return AuthResult{}, ErrWrongCode
	}
	g := AuthResult{Contact: right.Contact, Generation: right.Generation, Address: right.Address, To: right.To, Shared: right.Shared, Method: "code"}
	if right.Phone {
		g.Method = ByPhone
	}
	g.Ops, err = t.signInOps(ctx, was, was.Value.without(browser), browser, true)
	return g, err
}

// counted is a request whose guess was counted.
type counted struct {
	request
	blocked bool // too many guesses at the contact's codes
}

// countGuess adds a guess to every request of the browser that has one left, and to these
// requests' contacts, and returns the requests. If none has a guess left, it writes
// nothing, so further guesses cost only a read.
func (t *Tokens) countGuess(ctx context.Context, browser string) ([]counted, error) {
	var all []counted
	err := t.swapFlow(ctx, browser, func(f *flow) ([]store.Op, error) {
		all = all[:0]
		for i := range f.Requests {
			if f.Requests[i].Guesses < MaxGuesses {
				f.Requests[i].Guesses++
				all = append(all, counted{request: f.Requests[i]})
			}
		}
		if f.Phone != nil && f.Phone.Guesses < MaxGuesses {
			f.Phone.Guesses++
			all = append(all, counted{request: *f.Phone})
		}
		if len(all) == 0 {
			return nil, ErrNoGuessesLeft
		}
		return t.countByContact(ctx, browser, all)
	})
	return all, err
}

// isCode reports whether code is the request's code, under any of the secrets.
func (t *Tokens) isCode(browser string, a request, code string) bool {
	is := false
	for _, mac := range t.Keys.MACs(a.codePurpose(), t.Firm, browser, a.ID, code) {
		is = hmac.Equal([]byte(mac), []byte(a.Code)) || is
	}
	return is
}

// alphabet is Crockford's base 32, without the ambiguous letters i, l, o and u.
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

// normalizeCode undoes the usual changes between mail and form: capitals, full-width
// letters, look-alikes, and spaces or punctuation around or between the characters. Its
// error is a ShapeError.
func normalizeCode(typed string) (string, error) {
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
