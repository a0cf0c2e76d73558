package signin

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/language"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// wrongPassword is the message whenever a password doesn't sign in: for an unknown address, an
// address without a password, a wrong password, a disabled contact, or after too many attempts.
// Because it also appears for the right password after too many attempts, it names the way that
// always works.
const wrongPassword = "We couldn’t sign you in with this address and password. Please check both, " +
	"including capital letters. Or have us email you a link: that always works."

// incompleteAddress is the message for text that can't be an address.
const incompleteAddress = "That doesn’t look like a complete email address. Please check it: it looks like name@example.com."

// problemOf returns the problem with a typed address: problem, or a specific message for an empty
// field and for a letter before the @ that addresses can't have.
func problemOf(typed string, problem web.Text) web.Text {
	if strings.TrimSpace(typed) == "" {
		return "Please enter your email address."
	}
	local, _, found := strings.Cut(norm.NFC.String(typed), "@")
	if i := strings.IndexFunc(local, func(r rune) bool { return r > unicode.MaxASCII && unicode.IsLetter(r) }); found && i >= 0 {
		r, _ := utf8.DecodeRuneInString(local[i:])
		return language.Say("An email address can’t have the letter “{1}” before the @. Please check it: it may be written without the accent.", string(r))
	}
	return problem
}

// GetPassword shows the form for address and password. A signed-in visitor is redirected, unless
// another contact has just chosen a password in this browser.
func (h *Handlers) GetPassword(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	page := web.PasswordPage{To: h.Ways.SafeSealed(query.Get("to")), Email: h.openText(setPurpose, web.OnlyValue(query["x"])), Shared: query.Get("shared") != ""}
	page.Set = page.Email != ""
	v, err := h.Visitors.Of(r)
	switch {
	case err == nil && (!page.Set || slices.Contains(v.Contact.Emails, address.Address(page.Email))):
		return h.seeOther(w, page.To)
	case err != nil && !errors.Is(err, visitor.ErrNone):
		return err
	case err != nil && web.IsPageLoad(r):
		h.Cookies.RemoveDeadSession(w, r)
	}
	if page.Set {
		page.Email = address.Address(page.Email).Display()
	} else {
		page.Email = h.prefilledAddress(r)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// PostPassword signs in by address and password. This form and the related forms have buttons that
// lead to one another and keep the typed address.
func (h *Handlers) PostPassword(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	page := web.PasswordPage{To: h.Ways.SafeSealed(f.Get("to")), Email: f.Get("email"), Shared: f.Get("shared") != ""}
	switch f.Get("go") {
	case "password":
		return h.Answers.SeeOwn(w, "/password"+h.formQuery(page.To, typedPurpose, page.Email, page.Shared))
	case "help":
		return h.Answers.SeeOwn(w, "/help"+h.formQuery(page.To, typedPurpose, page.Email, false))
	case "link":
		return h.Answers.SeeOwn(w, "/sign-in"+h.formQuery(page.To, typedPurpose, page.Email, page.Shared))
	}
	typed, err := address.Parse(page.Email)
	if err != nil {
		page.Wrong, page.Problem = "email", problemOf(page.Email, incompleteAddress)
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	if f.Get("password") == "" {
		page.Wrong, page.Problem = "password", "Please enter your password, too."
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	if !h.checkCookies(w, r, f) {
		return nil
	}
	by := h.Visitors.Browser(r)
	attempt, err := h.Attempts.Begin(r.Context(), by, typed, f.Get("password"))
	if errors.Is(err, action.ErrNetworkLimited) {
		page.Problem = web.NetworkLimited
		w.Header().Set("Retry-After", strconv.Itoa(int(action.NetworkWait/time.Second)))
		h.Answers.Page(w, r, http.StatusTooManyRequests, page)
		return nil
	} else if err != nil {
		return err
	}
	for range 3 {
		match, err := attempt.Check(r.Context())
		if errors.Is(err, password.ErrBusy) {
			return web.ErrPasswordsBusy
		} else if errors.Is(err, password.ErrWrong) {
			h.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongPassword, Contact: attempt.Contact.ID, Address: typed.Masked(),
				Agent: by.Agent, IP: by.IP, Whole: typed})
			page.Wrong, page.Problem = "both", wrongPassword
			h.Answers.Page(w, r, http.StatusForbidden, page)
			return nil
		} else if err != nil {
			return err
		}
		err = h.enterBy(w, r, by, attempt.Contact, match, page)
		if errors.Is(err, token.ErrInactive) {
			continue // the record changed in the meantime: try again
		} else if err != nil {
			return err
		}
		return h.seeOther(w, page.To)
	}
	return web.ErrConflict // the password was right each time, so don't report it as wrong
}

// enterBy begins the session of a contact who typed the right password. Like every sign-in, it
// invalidates the links and codes that this browser requested.
func (h *Handlers) enterBy(w http.ResponseWriter, r *http.Request, by action.Browser, c directory.Contact, match password.Match, page web.PasswordPage) error {
	end, err := h.Tokens.EndOf(r.Context(), c.ID, by.FlowID())
	if err != nil {
		return err
	}
	typed, err := address.Parse(page.Email)
	if err != nil {
		return err
	}
	_, err = h.beginSession(w, r, by, token.AuthResult{Contact: c.ID, Address: typed, To: page.To, Shared: page.Shared,
		Method: action.ByPassword, Foreign: match.First, Ops: slices.Concat(match.Ops, end)})
	return err
}

// Purposes of text that is sealed for another form of the gate.
const (
	setPurpose   = "sign-in-address" // address of the contact who has just chosen a password
	typedPurpose = "typed-address"   // text typed as an address

	sealedTextLife = 10 * time.Minute
	maxTyped       = 320 // bytes of typed text
)

// sealText returns a sealed text for one of the gate's URLs, so that histories and logs contain no
// addresses.
func (h *Handlers) sealText(purpose, text string) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(h.Now().Unix()))
	return h.Keys.SealText(purpose, h.Firm, append(plain, text...))
}

// openText returns the sealed text, or "" if it is invalid or older than sealedTextLife.
func (h *Handlers) openText(purpose, sealed string) string {
	plain, err := h.Keys.OpenText(purpose, h.Firm, sealed)
	if err != nil || len(plain) < 8 || h.Now().Sub(time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)).Abs() > sealedTextLife {
		return ""
	}
	return string(plain[8:])
}

// prefilledAddress returns the address with which a form is to be filled in: the text typed into
// the previous form, or the address that this browser requested a mail for if the URL asks for
// that; otherwise "". URLs contain it only in sealed form.
func (h *Handlers) prefilledAddress(r *http.Request) string {
	query := r.URL.Query()
	if query.Get("typed") == "" {
		return h.openText(typedPurpose, web.OnlyValue(query["x"]))
	}
	ask, err := h.lastMailRequest(r)
	if err != nil || ask.Hidden {
		return "" // the prefilled address is only a convenience
	}
	return ask.Address.Display()
}

// formQuery returns the query for one of the gate's forms that is prefilled with text.
func (h *Handlers) formQuery(to, purpose, text string, shared bool) string {
	query := url.Values{}
	if to != "" && to != "/" {
		query.Set("to", to)
	}
	if text != "" && len(text) <= maxTyped {
		query.Set("x", h.sealText(purpose, text))
	}
	if shared {
		query.Set("shared", "1")
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}
