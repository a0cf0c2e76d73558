package gate

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// A form that was sent by a visitor who isn't signed in (any more) is kept in the page that
// answers it, until somebody signs in and sends it from there. Its URL then has a mark that
// says who typed it, as far as is known, so that nobody sends another person's form unasked.

// hold shows what was typed into a form before the session was over, so that nothing
// is lost: they sign in in another tab and send it by a press.
func (g *Gate) hold(w http.ResponseWriter, r *http.Request) {
	kept, _ := r.Context().Value(keptKey{}).(*keptForm)
	if kept == nil {
		var err error
		if kept, err = g.typedBy(r); err != nil {
			g.answerAs(w, r, NotSent)
			return
		}
	}
	action, fields, ok := g.keep(w, r, kept)
	if !ok {
		g.answerAs(w, r, NotSent)
		return
	}
	vary(w)
	g.page(w, r, http.StatusUnauthorized, web.HeldFormPage{Action: action, Fields: fields, SignInURL: g.signInForForm()})
}

// askWhose asks a visitor before a kept form is sent that somebody else may have typed, and
// says as whom it would be sent.
func (g *Gate) askWhose(w http.ResponseWriter, r *http.Request, v *Visitor) {
	web.LeaveBody(w, r)
	action, fields, ok := "", []web.Field(nil), false
	if web.ReaderOf(r.Header) == web.Window && urlencoded(r.Header) && r.ContentLength >= 0 && r.ContentLength <= maxHeld {
		action, fields, ok = g.keep(w, r, &keptForm{Confirmed: v.Contact.ID})
	}
	if !ok {
		g.fail(w, r, errNotAForm)
		return
	}
	g.page(w, r, http.StatusConflict, web.HeldFormPage{Action: action, Fields: fields, As: shown(v.Contact.Emails[0])})
}

// keep reads the form, and returns its fields and the URL to send them to, with a mark.
// False: it can't be kept.
func (g *Gate) keep(w http.ResponseWriter, r *http.Request, kept *keptForm) (action string, fields []web.Field, ok bool) {
	action = g.rules.returnPath(r.URL.RequestURI())
	if action == "/" && r.URL.RequestURI() != "/" {
		return "", nil, false // such as a form of our own
	}
	body, err := readBody(w, r, maxHeld)
	if err != nil {
		return "", nil, false
	}
	for pair := range strings.SplitSeq(body, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		n, err1 := url.QueryUnescape(name)
		v, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || len(fields) == 2000 {
			return "", nil, false
		}
		fields = append(fields, web.Field{Name: n, Value: v})
	}
	separator := "?"
	if strings.Contains(action, "?") {
		separator = "&"
	}
	return action + separator + keptMark + "=" + encode(g.keys.Seal(keptPurpose, g.Firm, kept.bytes())), fields, true
}

// keptForm says who typed a kept form. The zero value says that this isn't known.
type keptForm struct {
	Contact   string // the last contact who signed in on the device
	Confirmed string // the contact who has said that they want to send it
	First     bool   // nobody had signed in in this browser, as far as it shows
}

const (
	keptMark    = "portal-form" // the name of a parameter
	keptPurpose = "kept-form"   // of sealing
)

// mayBe reports whether the form may be sent as the visitor without a question.
func (k *keptForm) mayBe(v *Visitor) bool {
	return k.First || v.Contact.ID == k.Contact || v.Contact.ID == k.Confirmed
}

func (k *keptForm) bytes() []byte {
	switch {
	case k.First:
		return []byte("first")
	case k.Confirmed != "":
		return []byte("confirmed:" + k.Confirmed)
	case k.Contact != "":
		return []byte("contact:" + k.Contact)
	}
	return []byte("unknown")
}

func keptFormOf(plain string) *keptForm {
	k := &keptForm{First: plain == "first"}
	if id, ok := strings.CutPrefix(plain, "confirmed:"); ok {
		k.Confirmed = id
	}
	if id, ok := strings.CutPrefix(plain, "contact:"); ok {
		k.Contact = id
	}
	return k
}

type keptKey struct{}

// takeKeptMark takes the mark of a kept form off a request, whose URL then is the one that
// the form was meant for, and returns what it says; nil: there is none. A mark that none of
// our keys has sealed says nothing. It counts on our own pages only: a page of another site
// mustn't have us show its form as if it were one that we kept.
func (g *Gate) takeKeptMark(r *http.Request) (*http.Request, *keptForm) {
	if r.Method != http.MethodPost || !strings.Contains(r.URL.RawQuery, keptMark+"=") {
		return r, nil
	}
	before, value, _ := cutLast(r.URL.RawQuery, keptMark+"=")
	raw, err := decode(value)
	if before != "" && !strings.HasSuffix(before, "&") || err != nil || len(raw) < 28 { // nonce and tag
		return r, nil
	}
	u := *r.URL
	u.RawQuery, u.ForceQuery = strings.TrimSuffix(before, "&"), before == "&"
	line := strings.TrimSuffix(r.RequestURI, keptMark+"="+value)
	line = line[:max(0, len(line)-1)] // the separator
	kept := new(keptForm)
	if plain, err := g.keys.Open(keptPurpose, g.Firm, raw); err == nil {
		kept = keptFormOf(string(plain))
	}
	r = r.WithContext(context.WithValue(r.Context(), keptKey{}, kept))
	r.URL, r.RequestURI = &u, line
	if !g.fromOurPages(r) {
		return r, nil
	}
	return r, kept
}

// cutLast is strings.Cut around the last instance of sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// lastContact is who signed in on a device most recently.
type lastContact struct {
	Contact string `json:"contact"`
}

// Reseal seals with the newest secret what older ones have sealed of that. The error is the store's.
func (g *Gate) Reseal(ctx context.Context) error {
	_, err := g.last.Reseal(ctx)
	return err
}

// lastOn returns the Ops by which the device of a sign-in remembers the contact, for as long as
// the session may last. device is its cookie; "" on a shared computer, which isn't known: there nobody is remembered.
func (g *Gate) lastOn(r *http.Request, device, contact string) ([]store.Op, error) {
	if device == "" {
		if _, id := g.device(r); id != "" {
			return []store.Op{g.last.Delete(id)}, nil
		}
		return nil, nil
	}
	op, err := g.last.Put(g.devices.ID(device), lastContact{contact}, g.Now().Add(g.Sessions.Max))
	return []store.Op{op}, err
}

// isLastOn reports whether a sign-in by the contact is by whoever signed in most recently in that
// browser: in the session that goes on there (nil: none), or else on the device. The error is the
// store's.
func (g *Gate) isLastOn(r *http.Request, old *session.Live, contact string) (bool, error) {
	if old != nil {
		return old.Contact == contact, nil
	}
	last, err := g.lastContactOn(r)
	return last == contact, err
}

// lastContactOn returns the contact who signed in most recently on the device, or "" where that
// isn't known. The error is the store's.
func (g *Gate) lastContactOn(r *http.Request) (string, error) {
	_, id := g.device(r)
	if id == "" {
		return "", nil
	}
	rec, err := g.last.Get(r.Context(), id)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
		return "", nil
	case err != nil:
		return "", err
	}
	return rec.Value.Contact, nil
}

// typedBy returns who has typed a form that is to be kept, as far as the browser shows: the
// contact who signed in most recently on this device. The error is the store's.
func (g *Gate) typedBy(r *http.Request) (*keptForm, error) {
	ours := slices.ContainsFunc(r.Cookies(), func(c *http.Cookie) bool { return g.cookies.IsOurs(c.Name) })
	if !ours {
		return &keptForm{First: true}, nil
	}
	contact, err := g.lastContactOn(r)
	if err != nil {
		return nil, err
	}
	return &keptForm{Contact: contact}, nil
}
