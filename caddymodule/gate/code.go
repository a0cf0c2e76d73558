package gate

import (
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// wrongCode is what every code that doesn't work is told, wrong, burnt, run out or
// never sent: the difference would help who guesses.
const wrongCode = "That code doesn’t work. Please check it against the newest mail, or have a new mail sent."

// postCode signs in the browser that asked, by the code typed from the mail.
func (g *Gate) postCode(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	ask, err := g.asked(r)
	if errors.Is(err, token.ErrUnknown) {
		return g.seeOwn(w, "/sign-in")
	} else if err != nil {
		return err
	}
	for range 3 {
		grant, err := g.Tokens.Guess(r.Context(), ask.Browser, f.Get("code"))
		if errors.Is(err, token.ErrCode) {
			break
		} else if err != nil {
			return err
		}
		_, err = g.signIn(w, r, grant)
		if errors.Is(err, token.ErrOver) {
			continue // the record moved under us: once more from the start
		} else if err != nil {
			return err
		}
		return g.seeOther(w, grant.To)
	}
	g.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongCode, Address: ask.Address.Masked(), Request: ask.ID,
		Agent: agentOf(r), IP: g.ClientIP(r)})
	g.page(w, r, http.StatusForbidden, g.sentPage(ask, wrongCode))
	return nil
}
