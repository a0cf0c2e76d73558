package gate

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	maxForm   = 16 << 10 // bytes of a form of ours
	maxFields = 16
	// resendAfter is how long the page asks people to wait before another mail; it is
	// the least time between two mails to one address.
	resendAfter = time.Minute
	// wakeAfter is how long a request lies before it is looked at, and at most twice that.
	wakeAfter = 20 * time.Millisecond
	// longTo is how many bytes of a way back are kept while manyWait requests wait: what a
	// flood brings mustn't fill the disk.
	longTo   = 1 << 10
	manyWait = 500
	// waited is when the page offers other ways to get in.
	waited = 2 * time.Minute
	// mostDrained and drainTime bound what is read of a body after the answer.
	mostDrained = 192 << 10
	drainTime   = 5 * time.Second
)

// prompt tells who isn't signed in that they need to be, in the form that the request
// can use. It sets no cookie but to remove a session's that is over.
func (g *Gate) prompt(w http.ResponseWriter, r *http.Request) {
	if looksForWorker(r) && !below(g.Prefix, r.URL.Path) {
		web.EndSoon(w, r)
		g.giveWorker(w)
		return
	}
	switch answer := g.answerFor(r); answer {
	case Prompt:
		if web.IsPageLoad(r) {
			g.clearDeadCookie(w, r)
		}
		vary(w)
		g.page(w, r, http.StatusUnauthorized, g.promptPage(g.rules.returnPath(r.URL.RequestURI())))
	case Frame:
		vary(w)
		g.page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, g.rules.returnPath(r.URL.RequestURI()))})
	case Held:
		g.hold(w, r)
	default:
		g.answerAs(w, r, answer)
	}
}

// promptUnseen is prompt for a URL that has a token in it, or may have: nothing of ours
// repeats it but sealed.
func (g *Gate) promptUnseen(w http.ResponseWriter, r *http.Request) error {
	switch answer := g.answerFor(r); answer {
	case Prompt:
		return found(w, g.goURL(r.URL))
	case Frame:
		vary(w)
		g.page(w, r, http.StatusUnauthorized, web.FramePage{URL: frameTo(r, g.goURL(r.URL))})
	case Held:
		g.answerAs(w, r, NotSent)
	default:
		g.answerAs(w, r, answer)
	}
	return nil
}

// frameTo is where the link of a frame's page leads, which opens in the whole window: to the
// frame's page. The parts of a frameset mean nothing by themselves, and the browser doesn't say
// which page they are parts of, so from there it leads to the portal's beginning. Where scripts
// run, it leads to the outer page.
func frameTo(r *http.Request, page string) string {
	if r.Header.Get("Sec-Fetch-Dest") == "frame" && r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return "/"
	}
	return page
}

// answerAs gives an answer that has nothing of the request in it.
func (g *Gate) answerAs(w http.ResponseWriter, r *http.Request, answer Answer) {
	switch answer {
	case NotSent:
		vary(w)
		g.page(w, r, http.StatusUnauthorized, web.NotSentPage{SignInURL: g.signInForForm(), FromElsewhere: fromElsewhere(r)})
		drain(w, r)
	case NotSentFramed:
		vary(w)
		g.page(w, r, http.StatusUnauthorized, web.FramePage{URL: g.signInForForm(), NotSent: true})
		drain(w, r)
	default:
		g.bare(w, r)
	}
}

// vary says what the answer to a visitor who isn't signed in depends on.
func vary(w http.ResponseWriter) {
	w.Header().Set("Vary", "Cookie, Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Upgrade-Insecure-Requests, X-Requested-With")
}

// fromElsewhere reports whether a page of another site sent the request, as a payment
// service does that sends people back.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "cross-site" || site == "same-site"
}

// drain goes on reading for a while after the answer was written: a browser that is still
// sending shows an answer only if the connection isn't reset under it. It reads no more than
// the server itself would, and nothing for a client that waits to be asked for the body.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Header.Get("Expect") != "" {
		return // HTTP/2 and later say so without a reset
	}
	c := http.NewResponseController(w)
	if c.Flush() != nil || c.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, mostDrained)
}

// bare answers what can't show a page.
func (g *Gate) bare(w http.ResponseWriter, r *http.Request) {
	vary(w)
	web.EndSoon(w, r)
	_ = writeProblem(w, http.StatusUnauthorized, problem{
		Title:  "Sign-in needed",
		Detail: "Open sign_in_url in a browser to sign in, then repeat the request.",
		SignIn: g.site(r).JoinPath(g.Prefix, "sign-in").String(),
	})
}

// signInForForm is where somebody signs in beside a form that waits in another tab.
func (g *Gate) signInForForm() string { return g.Prefix + "/sign-in?to=" + g.Prefix + signedInPath }

// clearDeadCookie removes a session cookie that opens nothing any more.
func (g *Gate) clearDeadCookie(w http.ResponseWriter, r *http.Request) {
	if _, err := r.Cookie(g.cookies.Session); err == nil {
		g.setCookie(w, g.cookies.Session, "", -time.Second)
	}
}

func (g *Gate) getSignIn(w http.ResponseWriter, r *http.Request) error {
	to := g.wayBack(r.URL.Query().Get("to"))
	if _, err := g.visitor(r); err == nil {
		return g.seeOther(w, to)
	} else if !errors.Is(err, errNobody) {
		return err
	}
	if web.IsPageLoad(r) {
		g.clearDeadCookie(w, r)
	}
	page := g.promptPage(to)
	page.Email, page.Shared = g.typed(r), r.URL.Query().Get("shared") != ""
	g.page(w, r, http.StatusOK, page)
	return nil
}

// promptPage returns the prompt that leads there.
func (g *Gate) promptPage(to string) web.PromptPage {
	return web.PromptPage{To: to, OldLink: strings.HasPrefix(to, g.Prefix+"/go?")}
}

// postSignIn commits a request for a sign-in mail and answers, the same for every
// valid address: whose it is, a worker finds out later.
func (g *Gate) postSignIn(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	ask := token.Ask{To: g.wayBack(f.Get("to")), Shared: f.Get("shared") != "", Again: f.Get("again") != ""}
	if t := f.Get("t"); t != "" && f.Get("email") == "" {
		// The button under a link that is over: the same address, the same way back.
		link, err := g.Tokens.Peek(r.Context(), t)
		if err != nil && !errors.Is(err, token.ErrOver) {
			return g.linkError(w, r, t, link, err)
		}
		ask.Address, ask.Hidden, ask.Link, ask.To, ask.Shared = link.Address, true, token.Clean(t), link.To, link.Shared
	} else if ask.Address, err = address.Parse(f.Get("email")); err != nil {
		page := g.promptPage(ask.To)
		page.Email, page.Shared, page.Problem = f.Get("email"), ask.Shared, problemOf(f.Get("email"), incompleteAddress)
		g.page(w, r, http.StatusBadRequest, page)
		return nil
	}
	if err := g.commit(w, r, ask); err != nil {
		return err
	}
	return g.seeOwn(w, "/sent")
}

// commit puts the request into the store, whoever's address it holds, before anybody
// is told that a mail is coming.
func (g *Gate) commit(w http.ResponseWriter, r *http.Request, ask token.Ask) error {
	if len(ask.To) > longTo && g.Queue.Len() > manyWait {
		ask.To = "/"
	}
	ask.At = g.Now()
	if site := g.site(r); site != g.URL {
		ask.Site = site.String()
	}
	kind := kindSignIn
	if ask.Purpose == token.SetPassword {
		kind = kindSetPassword
	}
	ask.Agent, ask.IP = web.AgentOf(r), g.ClientIP(r)
	_, ask.Device = g.device(r)
	// Those that come from a known device or an old link have a budget and room of their own.
	// Others are counted whatever becomes of them. Where too much was asked for, the page
	// shows what was typed as ever, and that is all.
	ask.ID = outbox.NewID(kind, ask.At)
	if ask.Reserved = g.Networks.TakeApart(ask.Device) || g.Networks.TakeApart(ask.Link); ask.Reserved {
		ask.ID = outbox.NewReservedID(kind, ask.At)
	}
	ask.Crowded = !ask.Reserved && !g.Networks.Take(limit.Ask, ask.IP)
	if err := g.Queue.Full(ask.ID); !ask.Crowded && errors.Is(err, outbox.ErrFull) {
		return errBusy
	} else if err != nil && !ask.Crowded {
		return err
	}
	browser := g.browser(r)
	fresh := ""
	if browser == "" {
		fresh, browser = newBrowser()
	}
	ask.Browser = browser
	payload, err := token.Compact(ask)
	if err != nil {
		return err
	}
	add := []store.Op{g.Queue.Add(outbox.Request{
		ID: ask.ID, Kind: kind, Asked: ask.At, NotAfter: ask.At.Add(token.Patience), Payload: payload,
	})}
	if ask.Crowded {
		add = nil
	}
	if err := g.Tokens.Ask(r.Context(), ask, add...); err != nil {
		return err
	}
	if fresh != "" {
		g.setCookie(w, g.cookies.Flow, fresh, token.WayBack)
	}
	g.Audit.Record(r.Context(), audit.Event{Kind: audit.Asked, Address: ask.Address.Masked(), Request: ask.ID,
		What: whatOf(ask.Purpose), Agent: ask.Agent, IP: ask.IP, Whole: ask.Address})
	// Not at once: what differs by address, and by network, would be felt in the time of
	// this answer and of the next.
	later := func() { g.Queue.Wake(ask.ID) }
	if ask.Crowded {
		ctx := context.WithoutCancel(r.Context())
		later = func() {
			g.Audit.Record(ctx, audit.Event{Kind: audit.Limited, Address: ask.Address.Masked(), Request: ask.ID,
				What: whatOf(ask.Purpose), Agent: ask.Agent, IP: ask.IP, Whole: ask.Address})
		}
	}
	time.AfterFunc(wakeAfter+rand.N(wakeAfter), later)
	return nil
}

func (g *Gate) getSent(w http.ResponseWriter, r *http.Request) error {
	ask, err := g.asked(r)
	if errors.Is(err, token.ErrUnknown) {
		return g.notWaiting(w, r)
	} else if err != nil {
		return err
	}
	if v, err := g.visitor(r); err == nil && v.Live.Begun.After(ask.At) {
		return g.seeOther(w, ask.To) // already in, from another tab
	}
	if ask.Purpose == token.SetPassword {
		if g.Passwords == nil {
			return g.seeOwn(w, "/sign-in") // they were switched off since, so its link leads nowhere
		}
		g.page(w, r, http.StatusOK, g.helpSentPage(ask))
		return nil
	}
	g.page(w, r, http.StatusOK, g.sentPage(ask, "", ""))
	return nil
}

// notWaiting answers a tab that seems to wait for a mail, in a browser that doesn't. Where its
// person signed in in another tab, the way that this one wanted to go still counts. Where the
// browser has no cookie that says what it asked for, it may not keep any: the prompt would
// only come back.
func (g *Gate) notWaiting(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if err != nil && !errors.Is(err, errNobody) {
		return err
	}
	browser := g.browser(r)
	switch {
	case browser == "" && v == nil && r.Method == http.MethodPost:
		return g.seeOwn(w, "/sent")
	case browser == "" && v == nil:
		g.page(w, r, http.StatusOK, web.NoCookiesPage{})
		return nil
	case browser == "" || v == nil:
		return g.seeOwn(w, "/sign-in")
	}
	in, err := g.Tokens.Entered(r.Context(), browser)
	switch {
	case err == nil && in.Contact == v.Contact.ID && in.ByCode && r.Method == http.MethodPost:
		return g.seeOwn(w, "/sent") // no code works twice; the tab goes on all the same
	case err == nil && in.Contact == v.Contact.ID:
		return g.seeOther(w, in.To)
	case err != nil && !errors.Is(err, token.ErrUnknown):
		return err
	}
	return g.seeOwn(w, "/sign-in")
}

// cookieWasSet is the query of a form that is sent a second time, see keepsCookies.
const cookieWasSet = "cookie=set"

// keepsCookies reports whether the browser keeps cookies, before something is spent on a
// session that it would forget. The forms of our own pages have a field that asks for it.
// Where the browser has shown no cookie of ours yet, it gets one and sends the form once more
// (307); false: the request was answered.
func (g *Gate) keepsCookies(w http.ResponseWriter, r *http.Request, f url.Values) bool {
	if f.Get("cookies") == "" || g.browser(r) != "" || len(r.CookiesNamed(g.cookies.Session)) > 0 || len(r.CookiesNamed(g.cookies.Device)) > 0 {
		return true
	}
	if r.URL.RawQuery == cookieWasSet {
		g.page(w, r, http.StatusOK, web.NoCookiesPage{})
		return false
	}
	fresh, _ := newBrowser()
	g.setCookie(w, g.cookies.Flow, fresh, token.WayBack)
	redirect(w, r.URL.Path+"?"+cookieWasSet, http.StatusTemporaryRedirect)
	return false
}

// helpSentPage is the page for who asked for a link to set a password.
func (g *Gate) helpSentPage(ask token.Ask) web.HelpSentPage {
	p := g.sentPage(ask, "", "")
	return web.HelpSentPage{Address: p.Address, Masked: p.Masked, To: p.To, T: p.T, ResendIn: p.ResendIn, Again: p.Again}
}

func (g *Gate) asked(r *http.Request) (token.Ask, error) {
	browser := g.browser(r)
	if browser == "" {
		return token.Ask{}, token.ErrUnknown
	}
	return g.Tokens.Asked(r.Context(), browser)
}

// sentPage is the page of a tab that waits for the email, with what was typed as the code so
// far and what is wrong with it.
func (g *Gate) sentPage(ask token.Ask, code, problem string) web.SentPage {
	p := web.SentPage{Address: shown(ask.Address), To: ask.To, Shared: ask.Shared, Again: ask.Again, Code: code, Problem: problem}
	if ask.Hidden {
		p.Address, p.Masked, p.T = shownInPart(ask.Address), true, ask.Link
	}
	since := g.Now().Sub(ask.At)
	p.ResendIn = max(0, int((resendAfter-since)/time.Second))
	p.HelpIn = max(1, int((waited-since)/time.Second))
	p.Waited = since >= waited
	return p
}

// readForm reads a form of ours: urlencoded, small, no field twice. The error is one
// that fail can show.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if !urlencoded(r.Header) {
		return nil, errNotAForm
	}
	body, err := readBody(w, r, maxForm)
	if err != nil {
		return nil, err
	}
	if strings.Count(body, "&") >= maxFields {
		return nil, errNotAForm
	}
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, errNotAForm
	}
	for name, values := range form {
		// PHP and its kin would read "email[]" as a second "email".
		if len(values) > 1 || strings.ContainsAny(name, "[]") || strings.Contains(values[0], "\x00") {
			return nil, errNotAForm
		}
	}
	return form, nil
}

// readBody reads a body of at most limit bytes, which has to come soon: who isn't
// signed in doesn't keep a connection busy. The error is one that fail can show.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) (string, error) {
	if r.ContentLength > limit {
		return "", errTooLarge // and is not asked to send it
	}
	// Not every connection has deadlines; the server's own then have to do.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(web.BodyTime))
	defer func() { _ = deadline.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return "", errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", errTooSlow
	case err != nil:
		return "", errNotAForm
	}
	w.Header().Del("Connection") // see leaveBody
	return string(body), nil
}

// seeOther sends the browser to a path on this site, which is judged once more.
func (g *Gate) seeOther(w http.ResponseWriter, to string) error {
	return redirect(w, g.wayBack(to), http.StatusSeeOther)
}

// seeOwn sends the browser to a page of ours, by its path under the prefix.
func (g *Gate) seeOwn(w http.ResponseWriter, name string) error {
	return redirect(w, g.Prefix+name, http.StatusSeeOther)
}

// redirect sends the browser to a path on this site. The error is nil.
func redirect(w http.ResponseWriter, to string, status int) error {
	h := w.Header()
	h.Set("Location", to)
	web.SetNeverCached(h)
	h.Set("Referrer-Policy", "strict-origin")
	w.WriteHeader(status)
	return nil
}
