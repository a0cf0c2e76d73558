package signin

import (
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Prompt tells a visitor who isn't signed in to sign in, in the form that suits the request. It
// sets no cookie, and removes the cookie of an ended session.
func (h *Handlers) Prompt(w http.ResponseWriter, r *http.Request) {
	if isWorkerUpdate(r) && !wayback.Below(h.Answers.Prefix, r.URL.Path) {
		web.EndSoon(w, r)
		h.serveWorker(w)
		return
	}
	switch answer := h.answerFor(r); answer {
	case prompt:
		if web.IsPageLoad(r) {
			h.Cookies.RemoveDeadSession(w, r)
		}
		web.VarySignedOut(w)
		h.Answers.Page(w, r, http.StatusUnauthorized, h.promptPage(h.Ways.Safe(r.URL.RequestURI())))
	case frame:
		web.VarySignedOut(w)
		h.Answers.Page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, h.Ways.Safe(r.URL.RequestURI()))})
	case held:
		h.hold(w, r)
	default:
		h.answerAs(w, r, answer)
	}
}

// PromptSealed is Prompt for a URL that may contain a token: the gate repeats the URL only in
// sealed form.
func (h *Handlers) PromptSealed(w http.ResponseWriter, r *http.Request) {
	switch answer := h.answerFor(r); answer {
	case prompt:
		_ = web.Redirect(w, h.Ways.Seal(r.URL), http.StatusFound)
	case frame:
		web.VarySignedOut(w)
		h.Answers.Page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, h.Ways.Seal(r.URL))})
	case held:
		h.answerAs(w, r, notSent)
	default:
		h.answerAs(w, r, answer)
	}
}

// PromptHere is Prompt for the URL of a sealed old link, which is a page of the gate.
func (h *Handlers) PromptHere(w http.ResponseWriter, r *http.Request) {
	if web.IsPageLoad(r) {
		h.Cookies.RemoveDeadSession(w, r)
	}
	if h.AsksInFrame(r) {
		h.Answers.Page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, r.URL.RequestURI())})
		return
	}
	h.Answers.Page(w, r, http.StatusUnauthorized, h.promptPage(r.URL.RequestURI()))
}

// frameTo returns the target of the link in a frame's page, which opens in the whole window: the
// frame's page. The parts of a frameset are useless by themselves, and the browser doesn't tell the
// page around them, so for those it returns the portal's root. With scripts, the link leads to the
// outer page.
func frameTo(r *http.Request, page string) string {
	if r.Header.Get("Sec-Fetch-Dest") == "frame" && r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return "/"
	}
	return page
}

// answerAs gives an answer that repeats nothing from the request.
func (h *Handlers) answerAs(w http.ResponseWriter, r *http.Request, answer answer) {
	switch answer {
	case notSent:
		web.VarySignedOut(w)
		h.Answers.Page(w, r, http.StatusUnauthorized, web.NotSentPage{SignInURL: h.signInForForm(), FromElsewhere: fromElsewhere(r)})
		web.Drain(w, r)
	case notSentFramed:
		web.VarySignedOut(w)
		h.Answers.Page(w, r, http.StatusUnauthorized, web.FramePage{URL: h.signInForForm(), NotSent: true})
		web.Drain(w, r)
	default:
		h.Answers.SignInNeeded(w, r)
	}
}

// fromElsewhere reports whether a page of another site sent the request, such as a payment service
// that sends people back.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "cross-site" || site == "same-site"
}

// signInForForm returns the URL for signing in while a form waits in another tab.
func (h *Handlers) signInForForm() string {
	return h.Answers.Prefix + "/sign-in?to=" + h.Answers.Prefix + SignedInPath
}

// GetSignIn shows the prompt at its own URL.
func (h *Handlers) GetSignIn(w http.ResponseWriter, r *http.Request) error {
	to := h.Ways.SafeSealed(r.URL.Query().Get("to"))
	if _, err := h.Visitors.Of(r); err == nil {
		return h.seeOther(w, to)
	} else if !errors.Is(err, visitor.ErrNone) {
		return err
	}
	if web.IsPageLoad(r) {
		h.Cookies.RemoveDeadSession(w, r)
	}
	page := h.promptPage(to)
	page.Email, page.Shared = h.prefilledAddress(r), r.URL.Query().Get("shared") != ""
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// promptPage returns the prompt that leads to to.
func (h *Handlers) promptPage(to string) web.PromptPage {
	return web.PromptPage{To: to, OldLink: h.Ways.IsSealedPath(to)}
}

// PostSignIn commits a request for a sign-in mail. The response is the same for every valid
// address: a worker looks up the contact later.
func (h *Handlers) PostSignIn(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	ask := token.MailRequest{To: h.Ways.SafeSealed(f.Get("to")), Shared: f.Get("shared") != "", Again: f.Get("again") != ""}
	if t := f.Get("t"); t != "" && f.Get("email") == "" {
		// The button under an inactive link: same address, same return URL.
		link, err := h.Tokens.Peek(r.Context(), t)
		if err != nil && !errors.Is(err, token.ErrInactive) {
			return h.linkError(w, r, t, link, err)
		}
		ask.Address, ask.Hidden, ask.Link, ask.To, ask.Shared = link.Address, true, token.Clean(t), link.To, link.Shared
	} else if ask.Address, err = address.Parse(f.Get("email")); err != nil {
		page := h.promptPage(ask.To)
		page.Email, page.Shared, page.Problem = f.Get("email"), ask.Shared, problemOf(f.Get("email"), incompleteAddress)
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	return h.request(w, r, ask)
}

// errQueueFull is returned when the queue accepts no more mail requests.
var errQueueFull = &web.Failure{Status: http.StatusServiceUnavailable, Page: web.MessagePage{Title: "Please try again in a minute",
	Text: "Many people are asking for a sign-in email right now. Please wait a minute, then try again."}}

// request commits a mail request and redirects to the page that waits for the mail.
func (h *Handlers) request(w http.ResponseWriter, r *http.Request, ask token.MailRequest) error {
	ask.Site = h.site(r)
	by := h.Visitors.Browser(r)
	fresh := by.Flow == ""
	if fresh {
		by.Flow = secret.Random()
	}
	switch err := h.Requests.Commit(r.Context(), by, ask); {
	case errors.Is(err, outbox.ErrFull):
		return errQueueFull
	case err != nil:
		return err
	}
	if fresh {
		h.setFlow(w, by.Flow)
	}
	return h.Answers.SeeOwn(w, "/sent")
}

// setFlow sets the cookie that identifies the browser that requested a mail.
func (h *Handlers) setFlow(w http.ResponseWriter, flow string) {
	h.Cookies.Set(w, h.Cookies.Flow, flow, token.LinkRetention)
}

// answer is a form in which a request is told that it needs a sign-in.
type answer uint8

const (
	bare          answer = iota // a 401 without a page, for programs
	prompt                      // the prompt, at the requested URL
	frame                       // a page in a frame: a link that opens the whole window
	held                        // a page that keeps the submitted form
	notSent                     // a page: nothing was sent, and how to send it again
	notSentFramed               // the same in a frame
)

// answerFor returns the answer that suits the request.
func (h *Handlers) answerFor(r *http.Request) answer {
	reader := web.ReaderOf(r.Header)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch reader {
		case web.Window:
			return prompt
		case web.Framed:
			return frame
		}
	case http.MethodPost: // pages don't navigate with other methods
		switch {
		case reader == web.Framed:
			return notSentFramed
		case reader == web.Window && canBeHeld(r) && h.Answers.Sites.SentByOwnPage(r):
			return held
		case reader == web.Window:
			return notSent
		}
	}
	return bare
}

// AsksInFrame reports whether Prompt answers the request with a page for a frame.
func (h *Handlers) AsksInFrame(r *http.Request) bool { return h.answerFor(r) == frame }
