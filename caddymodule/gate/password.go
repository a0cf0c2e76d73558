package gate

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// wrongPassword is what everybody is told whom a password doesn't sign in: nobody's
// address, one that has none, a wrong one, switched off, or too many tries. The right
// password after too many tries is told so, too, so it names the way that always works.
const wrongPassword = "We couldn’t sign you in with this address and password. Please check both, " +
	"including capital letters. Or have us email you a link: that always works."

// crowdedNetwork is told before anything is looked at, so it says nothing about anybody.
const crowdedNetwork = "Many passwords were tried from your network, so we take no more for a few minutes. " +
	"You don’t have to wait: have us email you a link. That always works."

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

// crowdedFor is how long until a network that is over its limit has one more try.
const crowdedFor = 3 * time.Minute

// getPassword is where people sign in manually. A visitor who is signed in goes on, except one
// who comes with the address of somebody else, who has just chosen a password in this browser.
func (g *Gate) getPassword(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	page := web.PasswordPage{To: g.wayBack(query.Get("to")), Email: g.openText(setPurpose, one(query["x"])), Shared: query.Get("shared") != ""}
	page.Set = page.Email != ""
	v, err := g.visitor(r)
	switch {
	case err == nil && (!page.Set || slices.Contains(v.Contact.Emails, address.Address(page.Email))):
		return g.seeOther(w, page.To)
	case err != nil && !errors.Is(err, errNobody):
		return err
	case err != nil && web.IsPageLoad(r):
		g.clearDeadCookie(w, r)
	}
	if page.Set {
		page.Email = shown(address.Address(page.Email))
	} else {
		page.Email = g.typed(r)
	}
	g.page(w, r, http.StatusOK, page)
	return nil
}

// postPassword signs in by address and password. Its form and those beside it have buttons that
// lead to one another, with the address as it is typed so far.
func (g *Gate) postPassword(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	page := web.PasswordPage{To: g.wayBack(f.Get("to")), Email: f.Get("email"), Shared: f.Get("shared") != ""}
	switch f.Get("go") {
	case "password":
		return g.seeOwn(w, "/password"+g.formQuery(page.To, typedPurpose, page.Email, page.Shared))
	case "help":
		return g.seeOwn(w, "/help"+g.formQuery(page.To, typedPurpose, page.Email, false))
	case "link":
		return g.seeOwn(w, "/sign-in"+g.formQuery(page.To, typedPurpose, page.Email, page.Shared))
	}
	typed, err := address.Parse(page.Email)
	if err != nil {
		page.Wrong, page.Problem = "email", problemOf(page.Email, incompleteAddress)
		g.page(w, r, http.StatusBadRequest, page)
		return nil
	}
	if f.Get("password") == "" {
		page.Wrong, page.Problem = "password", "Please enter your password, too."
		g.page(w, r, http.StatusBadRequest, page)
		return nil
	}
	if !g.keepsCookies(w, r, f) {
		return nil
	}
	t, err := g.tryFor(r, typed, f.Get("password"))
	if errors.Is(err, errCrowded) {
		page.Problem = crowdedNetwork
		w.Header().Set("Retry-After", strconv.Itoa(int(crowdedFor/time.Second)))
		g.page(w, r, http.StatusTooManyRequests, page)
		return nil
	} else if err != nil {
		return err
	}
	for range 3 {
		match, err := t.check(r)
		if errors.Is(err, password.ErrWrong) {
			g.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongPass, Contact: t.contact.ID, Address: typed.Masked(),
				Agent: web.AgentOf(r), IP: t.ip, Whole: typed})
			page.Wrong, page.Problem = "both", wrongPassword
			g.page(w, r, http.StatusForbidden, page)
			return nil
		} else if err != nil {
			return err
		}
		err = g.enterBy(w, r, t.contact, match, page)
		if errors.Is(err, token.ErrOver) {
			continue // the record moved under us: once more from the start
		} else if err != nil {
			return err
		}
		return g.seeOther(w, page.To)
	}
	return errMoved // it was right each time, so it isn't called wrong
}

// enterBy begins the session of a contact who typed the right password. Like every way in, it
// ends the links and codes that this browser asked for.
func (g *Gate) enterBy(w http.ResponseWriter, r *http.Request, c directory.Contact, match password.Match, page web.PasswordPage) error {
	end, err := g.Tokens.EndOf(r.Context(), c.ID, g.browser(r))
	if err != nil {
		return err
	}
	typed, err := address.Parse(page.Email)
	if err != nil {
		return err
	}
	_, err = g.signIn(w, r, token.Grant{Contact: c.ID, Address: typed, To: page.To, Shared: page.Shared,
		Method: byPassword, Foreign: match.First, Ops: slices.Concat(match.Ops, end)})
	return err
}

const byPassword = "password" // the Method of sessions

// errCrowded: a password comes from where too many came from, so it isn't looked at.
var errCrowded = errors.New("gate: too many passwords of a network")

// try is a password that was typed, and counted.
type try struct {
	password.Attempt
	contact directory.Contact // the zero Contact: it is nobody's who may sign in
	ip      netip.Addr
	counted []func() // what gives it back if it is right
	sprayed bool     // it was counted for the firm, or was one too many for it
	gate    *Gate
}

// tryFor counts one more password for the address, before anything is compared. A device
// that the contact has signed in on is let through where its network is over its limit.
//
// Who comes with no device of ours waits for a permit first, so that a flood of them
// asks no more of the store than the permits let through.
func (g *Gate) tryFor(r *http.Request, typed address.Address, plain string) (*try, error) {
	t := &try{Attempt: password.Attempt{Address: typed, Password: plain}, ip: g.ClientIP(r), gate: g}
	_, device := g.device(r)
	free := t.take()
	if device == "" {
		if !free {
			return nil, errCrowded
		}
		t.Find = func(ctx context.Context, a *password.Attempt) error {
			err := t.find(ctx, "", free)
			*a = t.Attempt
			return err
		}
		return t, nil
	}
	if err := t.find(r.Context(), device, free); err != nil {
		return nil, err
	}
	return t, nil
}

// find finds out who the try is for, and whether it may be right. Where the network has
// had too many, not free, it is errCrowded for all but a known device.
func (t *try) find(ctx context.Context, device string, free bool) error {
	g := t.gate
	ctx = anchor.Evenly(ctx) // unknown addresses take no longer than known ones
	c, err := g.Book.ByEmail(ctx, t.Address)
	if errors.Is(err, directory.ErrUnknown) {
		_, err = g.Book.ByID(ctx, "nobody") // what is read of a contact is read of nobody, too
		c = directory.Contact{}
	}
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return err
	}
	t.contact = directory.Contact{}
	if !c.Disabled {
		t.contact = c
	}
	t.Contact = t.contact.ID
	known, err := g.devices.Knows(ctx, device, cmp.Or(t.Contact, "nobody"))
	if err != nil {
		return err
	}
	switch {
	case known:
		t.Device = device
	case !free:
		return errCrowded
	case !t.sprayed:
		t.sprayed = true // once, however often it is checked
		giveBack, ok := g.Networks.TakeFirm(limit.Password, t.ip)
		if t.Limited = !ok; t.Limited {
			g.sprayed.Do(func() {
				g.Log.WarnContext(ctx, "passwords are tried from everywhere; for as long as that goes on, each network has three tries, then one in 20 minutes; known devices and mailed links go on as before")
			})
		}
		t.counted = append(t.counted, giveBack)
	}
	return nil
}

// take counts it against its network.
func (t *try) take() bool {
	if !t.gate.Networks.Take(limit.Password, t.ip) {
		return false
	}
	t.counted = append(t.counted, func() { t.gate.Networks.GiveBack(limit.Password, t.ip) })
	return true
}

// check compares. What wasn't judged, or was right, isn't counted against the network. Who
// hung up before the answer stays counted: the hash is computed for them all the same.
func (t *try) check(r *http.Request) (password.Match, error) {
	match, err := t.gate.Passwords.Check(anchor.Evenly(r.Context()), t.Attempt)
	if errors.Is(err, password.ErrWrong) || err != nil && r.Context().Err() != nil {
		return match, err
	}
	for _, giveBack := range t.counted {
		giveBack()
	}
	t.counted = nil
	if errors.Is(err, password.ErrBusy) {
		err = errHashing
	}
	return match, err
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
func (g *Gate) sealText(purpose, text string) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(g.Now().Unix()))
	return encode(g.keys.Seal(purpose, g.Firm, append(plain, text...)))
}

// openText returns the text again, for a while; then, and for what isn't ours, "".
func (g *Gate) openText(purpose, sealed string) string {
	raw, err := decode(sealed)
	if err != nil {
		return ""
	}
	plain, err := g.keys.Open(purpose, g.Firm, raw)
	if err != nil || len(plain) < 8 || g.Now().Sub(time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)).Abs() > handOnLife {
		return ""
	}
	return string(plain[8:])
}

// typed returns what a form of ours is to have filled in as the address: what was typed into the
// form before it, or what this browser has asked for, where a link says so; else "". No URL has
// it in the clear.
func (g *Gate) typed(r *http.Request) string {
	query := r.URL.Query()
	if query.Get("typed") == "" {
		return g.openText(typedPurpose, one(query["x"]))
	}
	ask, err := g.asked(r)
	if err != nil || ask.Hidden {
		return "" // it is no more than a help
	}
	return shown(ask.Address)
}

// formQuery is the query of a form of ours that goes on there, with a text to fill in.
func (g *Gate) formQuery(to, purpose, text string, shared bool) string {
	query := url.Values{}
	if to != "" && to != "/" {
		query.Set("to", to)
	}
	if text != "" && len(text) <= mostTyped {
		query.Set("x", g.sealText(purpose, text))
	}
	if shared {
		query.Set("shared", "1")
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}
