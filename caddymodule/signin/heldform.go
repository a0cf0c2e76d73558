package signin

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// A form that was sent by a visitor who isn't signed in (any more) is kept in the page that
// answers it, until somebody signs in and sends it from there. Its URL then has a mark that
// says who typed it, as far as is known, so that nobody sends another person's form unasked.

// hold shows what was typed into a form before the session was over, so that nothing
// is lost: they sign in in another tab and send it by a press.
func (h *Handlers) hold(w http.ResponseWriter, r *http.Request) {
	kept, _ := r.Context().Value(keptKey{}).(*KeptForm)
	if kept == nil {
		var err error
		if kept, err = h.typedBy(r); err != nil {
			h.answerAs(w, r, notSent)
			return
		}
	}
	action, fields, ok := h.keep(w, r, kept)
	if !ok {
		h.answerAs(w, r, notSent)
		return
	}
	web.VarySignedOut(w)
	h.Answers.Page(w, r, http.StatusUnauthorized, web.HeldFormPage{Action: action, Fields: fields, SignInURL: h.signInForForm()})
}

// AskWhose asks a visitor before a kept form is sent that somebody else may have typed, and
// says as whom it would be sent.
func (h *Handlers) AskWhose(w http.ResponseWriter, r *http.Request, v *visitor.Visitor) {
	web.LeaveBody(w, r)
	action, fields, ok := "", []web.Field(nil), false
	if web.ReaderOf(r.Header) == web.Window && canBeHeld(r) {
		action, fields, ok = h.keep(w, r, &KeptForm{confirmed: v.Contact.ID})
	}
	if !ok {
		h.Answers.Fail(w, r, web.ErrBadForm)
		return
	}
	h.Answers.Page(w, r, http.StatusConflict, web.HeldFormPage{Action: action, Fields: fields, As: v.Contact.Emails[0].Display()})
}

const maxHeld = 64 << 10 // bytes of a form that is kept

// canBeHeld reports whether a request's body is a form that can be kept.
func canBeHeld(r *http.Request) bool {
	return web.IsForm(r.Header) && r.ContentLength >= 0 && r.ContentLength <= maxHeld
}

// keep reads the form, and returns its fields and the URL to send them to, with a mark.
// False: it can't be kept.
func (h *Handlers) keep(w http.ResponseWriter, r *http.Request, kept *KeptForm) (action string, fields []web.Field, ok bool) {
	action = h.Ways.Safe(r.URL.RequestURI())
	if action == "/" && r.URL.RequestURI() != "/" {
		return "", nil, false // such as a form of our own
	}
	body, err := web.ReadBody(w, r, maxHeld)
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
	return action + separator + keptMark + "=" + h.Keys.SealText(keptPurpose, h.Firm, kept.bytes()), fields, true
}

// KeptForm says who typed a kept form. The zero value says that this isn't known.
type KeptForm struct {
	contact   string // the last contact who signed in on the device
	confirmed string // the contact who has said that they want to send it
	first     bool   // nobody had signed in in this browser, as far as it shows
}

const (
	keptMark    = "portal-form" // the name of a parameter
	keptPurpose = "kept-form"   // of sealing
)

// MayBe reports whether the form may be sent as the visitor without a question.
func (k *KeptForm) MayBe(v *visitor.Visitor) bool {
	return k.first || v.Contact.ID == k.contact || v.Contact.ID == k.confirmed
}

func (k *KeptForm) bytes() []byte {
	switch {
	case k.first:
		return []byte("first")
	case k.confirmed != "":
		return []byte("confirmed:" + k.confirmed)
	case k.contact != "":
		return []byte("contact:" + k.contact)
	}
	return []byte("unknown")
}

func keptFormOf(plain string) *KeptForm {
	k := &KeptForm{first: plain == "first"}
	if id, ok := strings.CutPrefix(plain, "confirmed:"); ok {
		k.confirmed = id
	}
	if id, ok := strings.CutPrefix(plain, "contact:"); ok {
		k.contact = id
	}
	return k
}

type keptKey struct{}

// TakeKeptMark takes the mark of a kept form off a request, whose URL then is the one that
// the form was meant for, and returns what it says; nil: there is none. A mark that none of
// our keys has sealed says nothing. It counts on our own pages only: a page of another site
// mustn't have us show its form as if it were one that we kept.
func (h *Handlers) TakeKeptMark(r *http.Request) (*http.Request, *KeptForm) {
	if r.Method != http.MethodPost || !strings.Contains(r.URL.RawQuery, keptMark+"=") {
		return r, nil
	}
	before, value, _ := cutLast(r.URL.RawQuery, keptMark+"=")
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if before != "" && !strings.HasSuffix(before, "&") || err != nil || len(raw) < 28 { // nonce and tag
		return r, nil
	}
	u := *r.URL
	u.RawQuery, u.ForceQuery = strings.TrimSuffix(before, "&"), before == "&"
	line := strings.TrimSuffix(r.RequestURI, keptMark+"="+value)
	line = line[:max(0, len(line)-1)] // the separator
	kept := new(KeptForm)
	if plain, err := h.Keys.Open(keptPurpose, h.Firm, raw); err == nil {
		kept = keptFormOf(string(plain))
	}
	r = r.WithContext(context.WithValue(r.Context(), keptKey{}, kept))
	r.URL, r.RequestURI = &u, line
	if !h.Answers.Sites.SentByOwnPage(r) {
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

// typedBy returns who has typed a form that is to be kept, as far as the browser shows: the
// contact who signed in most recently on this device. The error is the store's.
func (h *Handlers) typedBy(r *http.Request) (*KeptForm, error) {
	ours := slices.ContainsFunc(r.Cookies(), func(c *http.Cookie) bool { return h.Cookies.IsOurs(c.Name) })
	if !ours {
		return &KeptForm{first: true}, nil
	}
	contact, err := h.SignIn.LastContacts.On(r.Context(), h.Visitors.Browser(r).Device)
	if err != nil {
		return nil, err
	}
	return &KeptForm{contact: contact}, nil
}
