package gate

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// wrongCode is what every code that doesn't work is told, wrong, burnt, run out or
// never sent: the difference would help who guesses. So it has to help all of them,
// also who types the right code for the sixth time.
const wrongCode = "That code doesn’t work. Please check it against the newest email. " +
	"You have five tries for each code. After that, use the link in the email, or press “Send the email again”."

// notACode says what is wrong with what can't be a code. It knows what was typed, and
// nothing else.
func notACode(e token.ShapeError) string {
	number := []string{"", "one", "two", "three", "four", "five", "six", "seven"}
	switch {
	case e.Has == 0:
		return "Please enter the code from the email. It has eight letters and digits."
	case e.Has < token.CodeLength:
		return "The code has eight letters and digits; this has " + number[e.Has] + ". Please check it against the email."
	case e.Has > token.CodeLength:
		return "The code has eight letters and digits; this is longer. Please enter only the code."
	}
	return "One of these characters is never in a code, such as “u” or “é”. Please check it against the email."
}

// getCode is for a tab that is loaded again after a wrong code: phones do so by themselves.
func (g *Gate) getCode(w http.ResponseWriter, _ *http.Request) error { return g.seeOwn(w, "/sent") }

// postCode signs in the browser that asked, by the code typed from the mail.
func (g *Gate) postCode(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	ask, err := g.asked(r)
	if errors.Is(err, token.ErrUnknown) {
		return g.notWaiting(w, r)
	} else if err != nil {
		return err
	}
	ip := g.ClientIP(r)
	free, giveBack := g.takeGuess(ip) // counted before it is compared
	wrong := false
	defer func() {
		if !wrong {
			giveBack()
		}
	}()
	moved := false
	for range 3 { // each counts as a guess
		grant, err := g.Tokens.Guess(anchor.Evenly(r.Context()), ask.Browser, f.Get("code"), !free)
		if shape, ok := errors.AsType[token.ShapeError](err); ok {
			g.page(w, r, http.StatusBadRequest, g.sentPage(ask, f.Get("code"), notACode(shape)))
			return nil
		} else if errors.Is(err, token.ErrCode) {
			wrong, moved = !errors.Is(err, token.ErrBurnt), false
			break
		} else if err != nil {
			return err
		}
		_, err = g.signIn(w, r, grant)
		if errors.Is(err, token.ErrOver) {
			moved = errors.Is(err, errFaster)
			continue // the record moved under us: once more from the start
		} else if err != nil {
			return err
		}
		return g.seeOther(w, grant.To)
	}
	if moved {
		return errMoved // the code was right, and may still be
	}
	g.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongCode, Address: ask.Address.Masked(), Request: ask.ID,
		Agent: web.AgentOf(r), IP: ip, Whole: ask.Address})
	g.page(w, r, http.StatusForbidden, g.sentPage(ask, f.Get("code"), wrongCode))
	return nil
}

// takeGuess counts one more guess at a code, for its network and for the firm, and reports
// whether it may be right. giveBack undoes it.
func (g *Gate) takeGuess(ip netip.Addr) (free bool, giveBack func()) {
	if !g.Networks.Take(limit.Guess, ip) {
		return false, func() {}
	}
	undo, free := g.Networks.TakeFirm(limit.Guess, ip)
	return free, func() {
		g.Networks.GiveBack(limit.Guess, ip)
		undo()
	}
}
