// Package signin has the pages on which visitors sign in: the prompt at protected URLs (prompt.go),
// the page that waits for the mail (sent.go), the link and the code in the mail (link.go, code.go),
// passwords (password.go), resetting them (help.go, setpassword.go), and forms that are kept for a
// visitor whose session ended while they typed (heldform.go).
//
// The gate's route table names the handlers. The gate turns the errors that they return into pages;
// visitor.ErrNone becomes the prompt.
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

// Handlers serves one firm's sign-in pages. Set its fields in one literal before use.
type Handlers struct {
	Firm     string
	Keys     *secret.Keyring
	Answers  *web.Answers
	Ways     *wayback.Ways
	Visitors *visitor.Visitors
	Cookies  web.Cookies

	Directory *directory.Directory
	Tokens    *token.Tokens
	Passwords *password.Passwords // nil if the firm has no passwords
	Devices   *limit.Devices
	Networks  *limit.Networks
	Audit     *audit.Log
	Now       func() time.Time

	Requests *action.MailRequests
	SignIn   *action.SignIn
	Attempts *action.PasswordAttempts // nil without Passwords
	Changes  *action.PasswordChanges  // nil without Passwords

	clicks clicks
}

// site returns the origin of the request if it is one of the firm's additional sites; otherwise "".
func (h *Handlers) site(r *http.Request) string {
	sites := h.Answers.Sites
	if site := sites.Of(r); site != sites.URL {
		return site.String()
	}
	return ""
}

// seeOther redirects to a path on this site, after another check.
func (h *Handlers) seeOther(w http.ResponseWriter, to string) error {
	return web.Redirect(w, h.Ways.SafeSealed(to), http.StatusSeeOther)
}
