package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// Notify asks that contacts of a company are told by mail that something waits for them in the portal.
type Notify struct {
	Company  string   `json:"company"`            // its id
	To       []string `json:"to,omitempty"`       // addresses of the contacts that are meant; none: all of the company
	Template string   `json:"template,omitempty"` // one of the firm's own; "": new-questions

	Text action.TextMode `json:"text,omitempty"` // "too": by text as well, to those who have a number; "only": by text alone; "": by mail alone

	Data NoticeData `json:"data,omitempty"` // what the notice brings, for the template
	Key  string     `json:"key,omitempty"`  // with the same one nobody is told twice, for 48 hours
}

// NoticeData is the data of a notice, by name. In JSON, numbers and booleans become text.
type NoticeData map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (d *NoticeData) UnmarshalJSON(text []byte) error {
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	var all map[string]any
	if err := in.Decode(&all); err != nil {
		return errors.New("data isn't an object of names and values")
	}
	if all == nil {
		return nil
	}
	*d = make(NoticeData, len(all))
	for name, v := range all {
		switch v := v.(type) {
		case nil:
		case string:
			(*d)[name] = v
		case json.Number, bool:
			(*d)[name] = fmt.Sprint(v)
		default:
			return fmt.Errorf("data.%s is a list or an object; send a text, a number, true or false", name)
		}
	}
	return nil
}

const (
	maxTo  = 1000 // addresses of a notice
	maxKey = 255  // bytes of a key
)

// keyed is a request that can be sent again without being done again.
type keyed interface{ takeKey(http.Header) error }

// takeKey takes the key of the header Idempotency-Key, if there is one: as it is, or as a string in quotes.
func (n *Notify) takeKey(h http.Header) error {
	lines := h.Values("Idempotency-Key")
	if len(lines) == 0 {
		return nil
	}
	key := lines[0]
	if inner, ok := strings.CutPrefix(key, `"`); ok && strings.HasSuffix(inner, `"`) {
		key = inner[:len(inner)-1]
	}
	switch {
	case len(lines) > 1 || n.Key != "" && n.Key != key:
		return &Error{Status: 400, Code: "invalid", Field: "key", Reason: "there are two, and they differ", Remedy: "send one: in the header Idempotency-Key, or as key in the JSON"}
	case key == "":
		return &Error{Status: 400, Code: "invalid", Field: "key", Reason: "the header Idempotency-Key is empty", Remedy: "send what stands for this notice, such as questions-2026-03-acme, or leave the header out"}
	}
	n.Key = key
	return nil
}

// SendsTexts reports whether notices can go out as text messages.
func (f Firm) SendsTexts() bool {
	return f.Notices != nil && f.Notices.Texts != nil && f.Notices.Texts.Sender != nil
}

// Notified answers a Notify.
type Notified struct{ action.NoticeSent }

func (n Notified) changed() audit.Event {
	if n.Again || len(n.Queued) == 0 {
		return audit.Event{}
	}
	return audit.Event{Company: n.Company, Count: len(n.Queued)}
}

// Notify has contacts of a company told by mail that something waits for them: all, or those that are named.
func (f Firm) Notify(ctx context.Context, in Notify) (out Notified, err error) {
	n := action.Notice{Kind: brand.KindNewQuestions, Template: in.Template, Company: in.Company, Data: in.Data, Text: in.Text, Key: in.Key}
	if len(in.To) > maxTo {
		return out, &Error{Status: 400, Code: "invalid", Field: "to", Reason: fmt.Sprintf("has %d addresses", len(in.To)), Remedy: fmt.Sprintf("send at most %d at a time", maxTo)}
	}
	for _, text := range in.To {
		a, err := address.Parse(text)
		if err != nil {
			return out, &Error{Status: 400, Code: "invalid", Field: "to", Reason: err.Error(), Remedy: "write each as name@example.com"}
		}
		n.To = append(n.To, a)
	}
	if err := brand.CheckData(in.Data); err != nil {
		return out, &Error{Status: 400, Code: "invalid", Field: "data", Reason: err.Error()}
	}
	if len(in.Key) > maxKey || strings.ContainsFunc(in.Key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return out, &Error{Status: 400, Code: "invalid", Field: "key", Reason: fmt.Sprintf("is longer than %d characters, or has others than ASCII", maxKey), Remedy: "send a short one, such as questions-2026-03-acme"}
	}
	if !slices.Contains([]action.TextMode{action.TextNot, action.TextToo, action.TextOnly}, in.Text) {
		return out, &Error{Status: 400, Code: "invalid", Field: "text", Reason: fmt.Sprintf("is %q", in.Text), Remedy: `send "too" for email and text, "only" for a text alone, or leave it out`}
	}
	sent, err := f.Notices.Send(ctx, n, f.Proof...)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		err = f.unknownCompany(ctx, in.Company)
		err.(*Error).Field = "company"
	case errors.Is(err, action.ErrNoTemplate):
		err = &Error{Status: 400, Code: "invalid", Field: "template", Reason: fmt.Sprintf("there is no template %q", in.Template),
			Remedy: fmt.Sprintf("write one of %s; a new one is a pair of files NAME.txt and NAME.html in the folder mails of templates", strings.Join(f.Notices.Messages.NoticeTemplates(), ", "))}
	case errors.Is(err, action.ErrNoTexts):
		err = &Error{Status: 409, Code: "no_texts", Field: "text", Reason: "nothing sends texts here", Remedy: "add text webhook URL to the global block of the Caddyfile, or leave text out"}
	case errors.Is(err, action.ErrKeyUsed):
		err = &Error{Status: 422, Code: "key_used", Field: "key", Reason: "stood for another notice in the last 48 hours, so nobody was told", Remedy: "send another key with another notice"}
	case errors.Is(err, outbox.ErrFull):
		err = &Error{Status: 503, Code: "unavailable", Reason: err.Error(), Remedy: "try again in a minute with the same key, so that nobody is told twice"}
	}
	return Notified{sent}, err
}
