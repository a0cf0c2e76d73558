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

// A form from a visitor who is no longer signed in is kept in the page that answers it. The visitor
// signs in and sends it from there. The form's URL then contains a mark of the contact who typed
// it, if known, so that nobody sends another person's form without a question.

// hold answers with a page that contains the fields of a form sent without a session, so that
// nothing is lost: the visitor signs in in another tab and sends the form again.
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

// AskWhose asks a visitor, before a kept form is sent, to confirm that they want to send it,
// because another person may have typed it. The page names the visitor's address.
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

const maxHeld = 64 << 10 // bytes of a form

// canBeHeld reports whether a request's body is a form that can be kept.
func canBeHeld(r *http.Request) bool {
	return web.IsForm(r.Header) && r.ContentLength >= 0 && r.ContentLength <= maxHeld
}

// keep reads the form, and returns its fields and the URL with a mark to which they are sent. ok is
// false if the form can't be kept.
func (h *Handlers) keep(w http.ResponseWriter, r *http.Request, kept *KeptForm) (action string, fields []web.Field, ok bool) {
	action = h.Ways.Safe(r.URL.RequestURI())
	if action == "/" && r.URL.RequestURI() != "/" {
		return "", nil, false // such as one of the gate's own forms
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

// KeptForm describes who typed a kept form. The zero value means unknown.
type KeptForm struct {
	contact   string // the contact who signed in last on the device
	confirmed string // the contact who confirmed that they want to send it
	first     bool   // no contact has signed in in this browser, according to its cookies
}

const (
	keptMark    = "portal-form" // parameter name
	keptPurpose = "kept-form"   // of sealed text
)

// MayBe reports whether the visitor may send the form without confirmation.
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

// TakeKeptMark removes the mark of a kept form from a request and its URL, and returns the meaning
// of the mark, or nil if there is none. A mark that wasn't sealed with one of the firm's keys means
// unknown. Marks are accepted only from the gate's own pages: a page of another site must not pass
// off its form as a kept one.
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

// typedBy returns who typed a form that is to be kept, as far as known: the contact who signed in
// most recently on this device. Errors are the store's.
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
