// Package signin has the pages by which visitors sign in: the prompt that protected URLs answer
// with (prompt.go), the page that waits for the mail (sent.go), the link and the code of the mail
// (link.go, code.go), passwords (password.go), the way to a new one (help.go, setpassword.go), and
// the forms that are kept for a visitor whose session ended while they typed (heldform.go).
//
// The gate's route table names the handlers. They return errors, which the gate turns into pages;
// of these, visitor.ErrNone asks for the prompt.
package signin

import (
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Handlers are the pages of one firm by which visitors sign in. Set its fields in one literal
// before use.
type Handlers struct {
	Firm     string
	Keys     *secret.Keyring
	Answers  *web.Answers
	Ways     *wayback.Ways
	Visitors *visitor.Visitors
	Cookies  web.Cookies

	Book      *directory.Book
	Tokens    *token.Tokens
	Passwords *password.Passwords // nil: the firm has none
	Devices   *limit.Devices
	Networks  *limit.Networks
	Audit     *audit.Log
	Now       func() time.Time

	Requests *action.MailRequests
	SignIn   *action.SignIn
	Attempts *action.PasswordAttempts // nil without Passwords
	Changes  *action.PasswordChanges  // likewise

	clicks clicks
}

// site returns the origin that the request came to, where it is one of the firm's further sites;
// else "".
func (h *Handlers) site(r *http.Request) string {
	sites := h.Answers.Sites
	if site := sites.Of(r); site != sites.URL {
		return site.String()
	}
	return ""
}

// seeOther sends the browser to a path on this site, which is judged once more.
func (h *Handlers) seeOther(w http.ResponseWriter, to string) error {
	return web.Redirect(w, h.Ways.SafeSealed(to), http.StatusSeeOther)
}
