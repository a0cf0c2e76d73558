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
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// wrongPassword is what everybody is told whom a password doesn't sign in: nobody's
// address, one that has none, a wrong one, switched off, or too many tries. The right
// password after too many tries is told so, too, so it names the way that always works.
const wrongPassword = "We couldn’t sign you in with this address and password. Please check both, " +
	"including capital letters. Or have us email you a link: that always works."

// incompleteAddress is what is wrong with what can't be an address.
const incompleteAddress = "That doesn’t look like a complete email address. Please check it: it looks like name@example.com."

// problemOf returns the problem with an address that was typed: an empty field has its own, and
// so has a letter before the @ that no address can have.
func problemOf(typed, problem string) string {
	if strings.TrimSpace(typed) == "" {
		return "Please enter your email address."
	}
	local, _, found := strings.Cut(norm.NFC.String(typed), "@")
	if i := strings.IndexFunc(local, func(r rune) bool { return r > unicode.MaxASCII && unicode.IsLetter(r) }); found && i >= 0 {
		r, _ := utf8.DecodeRuneInString(local[i:])
		return "An email address can’t have the letter “" + string(r) + "” before the @. Please check it: it may be written without the accent."
	}
	return problem
}

// GetPassword is where people sign in manually. A visitor who is signed in goes on, except one
// who comes with the address of somebody else, who has just chosen a password in this browser.
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
		page.Email = h.typed(r)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// PostPassword signs in by address and password. Its form and those beside it have buttons that
// lead to one another, with the address as it is typed so far.
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
	if !h.keepsCookies(w, r, f) {
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
			h.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongPass, Contact: attempt.Contact.ID, Address: typed.Masked(),
				Agent: by.Agent, IP: by.IP, Whole: typed})
			page.Wrong, page.Problem = "both", wrongPassword
			h.Answers.Page(w, r, http.StatusForbidden, page)
			return nil
		} else if err != nil {
			return err
		}
		err = h.enterBy(w, r, by, attempt.Contact, match, page)
		if errors.Is(err, token.ErrOver) {
			continue // the record moved under us: once more from the start
		} else if err != nil {
			return err
		}
		return h.seeOther(w, page.To)
	}
	return web.ErrConflict // it was right each time, so it isn't called wrong
}

// enterBy begins the session of a contact who typed the right password. Like every way in, it
// ends the links and codes that this browser asked for.
func (h *Handlers) enterBy(w http.ResponseWriter, r *http.Request, by action.Browser, c directory.Contact, match password.Match, page web.PasswordPage) error {
	end, err := h.Tokens.EndOf(r.Context(), c.ID, by.FlowID())
	if err != nil {
		return err
	}
	typed, err := address.Parse(page.Email)
	if err != nil {
		return err
	}
	_, err = h.begin(w, r, by, token.Grant{Contact: c.ID, Address: typed, To: page.To, Shared: page.Shared,
		Method: action.ByPassword, Foreign: match.First, Ops: slices.Concat(match.Ops, end)})
	return err
}

// What is sealed to be handed on from one form of ours to another.
const (
	setPurpose   = "sign-in-address" // the address of whoever has just chosen a password
	typedPurpose = "typed-address"   // what was typed as an address

	handOnLife = 10 * time.Minute
	mostTyped  = 320 // bytes of what is handed on
)

// sealText returns what stands for a text in a URL of ours, so that no history and no log of
// URLs has an address in it.
func (h *Handlers) sealText(purpose, text string) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(h.Now().Unix()))
	return h.Keys.SealText(purpose, h.Firm, append(plain, text...))
}

// openText returns the text again, for a while; then, and for what isn't ours, "".
func (h *Handlers) openText(purpose, sealed string) string {
	plain, err := h.Keys.OpenText(purpose, h.Firm, sealed)
	if err != nil || len(plain) < 8 || h.Now().Sub(time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)).Abs() > handOnLife {
		return ""
	}
	return string(plain[8:])
}

// typed returns what a form of ours is to have filled in as the address: what was typed into the
// form before it, or what this browser has asked for, where a link says so; else "". No URL has
// it in the clear.
func (h *Handlers) typed(r *http.Request) string {
	query := r.URL.Query()
	if query.Get("typed") == "" {
		return h.openText(typedPurpose, web.OnlyValue(query["x"]))
	}
	ask, err := h.asked(r)
	if err != nil || ask.Hidden {
		return "" // it is no more than a help
	}
	return ask.Address.Display()
}

// formQuery is the query of a form of ours that goes on there, with a text to fill in.
func (h *Handlers) formQuery(to, purpose, text string, shared bool) string {
	query := url.Values{}
	if to != "" && to != "/" {
		query.Set("to", to)
	}
	if text != "" && len(text) <= mostTyped {
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
