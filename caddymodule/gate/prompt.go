package gate

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

const (
	maxForm   = 16 << 10 // bytes of a form of ours
	maxFields = 16
	// resendAfter is how long the page asks people to wait before another mail; it is
	// the least time between two mails to one address.
	resendAfter = time.Minute
	// waited is when the page offers other ways to get in.
	waited = 2 * time.Minute
)

// prompt tells who isn't signed in that they need to be, in the form that the request
// can use. It sets no cookie but to remove a session's that is over.
func (g *Gate) prompt(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Cookie, Accept, Sec-Fetch-Mode, Sec-Fetch-Dest")
	switch g.answerFor(r) {
	case Prompt:
		if pageLoad(r) {
			g.clearDeadCookie(w, r)
		}
		g.page(w, r, http.StatusUnauthorized, PromptPage{To: g.rules.returnPath(r.URL.RequestURI())})
	case Frame:
		g.page(w, r, http.StatusUnauthorized, FramePage{URL: g.rules.returnPath(r.URL.RequestURI())})
	case Held:
		g.hold(w, r)
	default:
		g.bare(w, r)
	}
}

// bare answers what can't show a page. A body that is still coming is not waited for.
func (g *Gate) bare(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.Body != nil && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	writeProblem(w, http.StatusUnauthorized, problem{
		Title:  "Sign-in needed",
		Detail: "Open sign_in_url in a browser to sign in, then repeat the request.",
		SignIn: g.URL.JoinPath(g.Prefix, "sign-in").String(),
	})
}

// hold shows what was typed into a form before the session was over, so that nothing
// is lost: they sign in in another tab and send it by a press.
func (g *Gate) hold(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHeld))
	if err != nil {
		g.bare(w, r)
		return
	}
	var fields []Field
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		n, err1 := url.QueryUnescape(name)
		v, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || len(fields) == 2000 {
			g.bare(w, r)
			return
		}
		fields = append(fields, Field{Name: n, Value: v})
	}
	action := g.rules.returnPath(r.URL.RequestURI())
	if action == "/" && r.URL.RequestURI() != "/" {
		g.bare(w, r)
		return
	}
	g.page(w, r, http.StatusUnauthorized, HeldFormPage{Action: action, Fields: fields, SignInURL: g.Prefix + "/sign-in"})
}

// clearDeadCookie removes a session cookie that opens nothing any more.
func (g *Gate) clearDeadCookie(w http.ResponseWriter, r *http.Request) {
	if _, err := r.Cookie(g.cookies.session); err == nil {
		g.setCookie(w, g.cookies.session, "", -time.Second)
	}
}

func (g *Gate) getSignIn(w http.ResponseWriter, r *http.Request) error {
	to := g.rules.returnPath(r.URL.Query().Get("to"))
	if _, err := g.visitor(r); err == nil {
		return seeOther(w, to)
	} else if !errors.Is(err, errNobody) {
		return err
	}
	g.page(w, r, http.StatusOK, PromptPage{To: to})
	return nil
}

// postSignIn commits a request for a sign-in mail and answers, the same for every
// valid address: whose it is, a worker finds out later.
func (g *Gate) postSignIn(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	ask := token.Ask{To: g.rules.returnPath(f.Get("to")), Shared: f.Get("shared") != ""}
	if t := f.Get("t"); t != "" && f.Get("email") == "" {
		// The button under a link that is over: the same address, the same way back.
		link, err := g.Tokens.Peek(r.Context(), t)
		if err != nil && !errors.Is(err, token.ErrOver) {
			return g.linkError(w, r, t, link, err)
		}
		ask.Address, ask.Hidden, ask.Link, ask.To, ask.Shared = link.Address, true, t, link.To, link.Shared
	} else if ask.Address, err = address.Parse(f.Get("email")); err != nil {
		g.page(w, r, http.StatusBadRequest, PromptPage{
			To: ask.To, Email: f.Get("email"), Shared: ask.Shared,
			Problem: "That doesn’t look like a complete email address. Please check it: it looks like name@example.com.",
		})
		return nil
	}
	if err := g.commit(w, r, ask); err != nil {
		return err
	}
	return seeOther(w, g.Prefix+"/sent")
}

// commit puts the request into the store, whoever's address it holds, before anybody
// is told that a mail is coming.
func (g *Gate) commit(w http.ResponseWriter, r *http.Request, ask token.Ask) error {
	if err := g.Queue.Full(); errors.Is(err, outbox.ErrFull) {
		return errBusy
	} else if err != nil {
		return err
	}
	ask.At = g.Now()
	ask.ID = outbox.NewID(kindSignIn, ask.At)
	ask.Agent = agentOf(r)
	ask.Browser = g.ensureBrowser(w, r)
	payload, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	add := g.Queue.Add(outbox.Request{
		ID: ask.ID, Kind: kindSignIn, Asked: ask.At, NotAfter: ask.At.Add(token.Patience), Payload: payload,
	})
	if err := g.Tokens.Ask(r.Context(), ask, add); err != nil {
		return err
	}
	g.Audit.Record(r.Context(), audit.Event{Kind: audit.Asked, Address: ask.Address.Masked(), Request: ask.ID,
		Agent: ask.Agent, IP: g.ClientIP(r)})
	g.Queue.Wake(ask.ID)
	return nil
}

func (g *Gate) getSent(w http.ResponseWriter, r *http.Request) error {
	ask, err := g.asked(r)
	if errors.Is(err, token.ErrUnknown) {
		return seeOther(w, g.Prefix+"/sign-in")
	} else if err != nil {
		return err
	}
	if v, err := g.visitor(r); err == nil && v.Live.Begun.After(ask.At) {
		return seeOther(w, ask.To) // already in, from another tab
	}
	g.page(w, r, http.StatusOK, g.sentPage(ask, ""))
	return nil
}

func (g *Gate) asked(r *http.Request) (token.Ask, error) {
	browser := g.browser(r)
	if browser == "" {
		return token.Ask{}, token.ErrUnknown
	}
	return g.Tokens.Asked(r.Context(), browser)
}

func (g *Gate) sentPage(ask token.Ask, problem string) SentPage {
	p := SentPage{Address: string(ask.Address), To: ask.To, Shared: ask.Shared, Problem: problem}
	if ask.Hidden {
		p.Address, p.Masked, p.T = ask.Address.Masked(), true, ask.Link
	}
	since := g.Now().Sub(ask.At)
	p.ResendIn = max(0, int((resendAfter-since)/time.Second))
	p.Waited = since >= waited
	return p
}

// readForm reads a form of ours: urlencoded, small, no field twice. The error is one
// that fail can show.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if !urlencoded(r.Header) {
		return nil, errNotAForm
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, errTooLarge
		}
		return nil, errNotAForm
	}
	if len(r.PostForm) > maxFields {
		return nil, errNotAForm
	}
	known := []string{"email", "to", "shared", "t", "code"}
	for name, values := range r.PostForm {
		if len(values) > 1 && slices.Contains(known, name) || strings.HasSuffix(name, "]") {
			return nil, errNotAForm
		}
		if strings.ContainsAny(values[0], "\x00") {
			return nil, errNotAForm
		}
	}
	return r.PostForm, nil
}

// seeOther sends the browser to a path on this site.
func seeOther(w http.ResponseWriter, to string) error {
	h := w.Header()
	h.Set("Location", to)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "strict-origin")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}
