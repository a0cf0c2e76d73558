package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
)

// PreviewMails asks for emails as clients get them, with made-up data.
type PreviewMails struct {
	Kind     string `json:"kind,omitempty"`     // such as sign-in, or a template of the firm's own; "": every kind
	Language string `json:"language,omitempty"` // a tag, such as es; "": every language; with To: that of the contact, else English

	// To gets the first one of the kind by email, marked as a preview; "": none is sent.
	To string `json:"to,omitempty"`
}

// Previewed answers a PreviewMails.
type Previewed struct {
	Kinds     []string      `json:"kinds"`     // all that there are
	Languages []string      `json:"languages"` // all tags, English first
	Mails     []PreviewMail `json:"mails"`

	Sent *PreviewSent `json:"sent,omitempty"` // with To
}

// PreviewMail is an email with made-up data.
type PreviewMail struct {
	Kind     string `json:"kind"`
	Variant  string `json:"variant,omitempty"` // in a word or two, such as "removed"; "": the usual one
	Language string `json:"language"`
	From     string `json:"from"`
	Subject  string `json:"subject"`
	Text     string `json:"text"`
	HTML     string `json:"html"`
	Message  string `json:"message"` // as it is sent (RFC 5322)
}

// PreviewSent is a preview that was sent. It is promised: it is in the store.
type PreviewSent struct {
	To      address.Address `json:"to"`
	Request string          `json:"request"` // which ties its events together
}

func (p Previewed) changed() audit.Event {
	if p.Sent == nil {
		return audit.Event{}
	}
	return audit.Event{Address: p.Sent.To.Masked(), Request: p.Sent.Request, Count: 1}
}

// Preview returns emails as clients get them, with made-up data, and sends one.
func (f Firm) Preview(ctx context.Context, in PreviewMails) (Previewed, error) {
	out := Previewed{Kinds: f.Messages.Kinds(), Languages: f.Messages.Languages(), Mails: []PreviewMail{}}
	var to address.Address
	switch {
	case in.Kind != "" && !slices.Contains(out.Kinds, in.Kind):
		return out, &Error{Status: 400, Code: "invalid", Field: "kind", Reason: fmt.Sprintf("there is no email %q", in.Kind), Remedy: "choose one of: " + strings.Join(out.Kinds, ", ")}
	case in.Language != "" && !slices.Contains(out.Languages, in.Language):
		return out, &Error{Status: 400, Code: "invalid", Field: "language", Reason: fmt.Sprintf("there is no language %q", in.Language), Remedy: "choose one of: " + strings.Join(out.Languages, ", ")}
	case in.To != "" && in.Kind == "":
		return out, &Error{Status: 400, Code: "invalid", Field: "kind", Reason: "is missing", Remedy: "say which one is to be sent: " + strings.Join(out.Kinds, ", ")}
	case in.To != "":
		var err error
		if to, err = parseAddress(in.To); err != nil {
			return out, err
		}
		if in.Language == "" {
			c, _ := f.Directory.ByEmail(ctx, to) // nobody's is in English
			in.Language = f.Messages.Language(c.Locale, "")
		}
	}
	kinds, tags := out.Kinds, out.Languages
	if in.Kind != "" {
		kinds = []string{in.Kind}
	}
	if in.Language != "" {
		tags = []string{in.Language}
	}
	links := action.SampleLinks(strings.TrimSuffix(f.Reports.URL, "/reports/"))
	for _, kind := range kinds {
		for _, tag := range tags {
			samples, err := f.Messages.Samples(kind, tag, links)
			if err != nil {
				return out, &Error{Status: 500, Code: "internal", Reason: err.Error(), Remedy: "correct the template and reload"}
			}
			for _, s := range samples {
				one, err := previewOf(s, f)
				if err != nil {
					return out, err
				}
				out.Mails = append(out.Mails, one)
			}
		}
	}
	if to == "" {
		return out, nil
	}
	id, op, err := action.AddPreview(f.Queue, action.Preview{To: to, Kind: in.Kind, Variant: out.Mails[0].Variant, Language: in.Language, At: f.now()})
	if err != nil {
		return out, err
	}
	if err := f.Directory.Store.Apply(ctx, op); err != nil {
		return out, err
	}
	f.Queue.Wake(id)
	out.Sent = &PreviewSent{to, id}
	return out, nil
}

func previewOf(s brand.Sample, f Firm) (PreviewMail, error) {
	data, err := s.Message.Bytes(f.now())
	from := s.Message.From
	if s.Message.FromName != "" {
		from = fmt.Sprintf("%s <%s>", s.Message.FromName, s.Message.From)
	}
	return PreviewMail{Kind: s.Kind, Variant: s.Variant, Language: s.Language, From: from, Subject: s.Message.Subject, Text: s.Message.Text, HTML: s.Message.HTML, Message: string(data)}, err
}
