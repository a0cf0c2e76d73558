package action

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// kindPreview is the kind of a mail that shows an operator what clients get.
const kindPreview = "preview"

// Preview asks for one sample of a kind of mail, marked as a preview.
type Preview struct {
	To       address.Address `json:"to"`
	Kind     string          `json:"kind"` // see brand.Messages.Samples
	Variant  string          `json:"variant,omitempty"`
	Language string          `json:"language"` // its tag
	At       time.Time       `json:"at"`
}

// AddPreview returns the Op that commits the request for a preview, and its ID.
func AddPreview(queue *outbox.Queue, what Preview) (id string, op store.Op, err error) {
	payload, err := json.Marshal(what)
	if err != nil {
		return "", store.Op{}, fmt.Errorf("writing a request: %w", err)
	}
	id = outbox.NewID(kindPreview, what.At)
	return id, queue.Add(outbox.Request{ID: id, Kind: kindPreview, Asked: what.At, Payload: payload}), nil
}

// SampleLinks are where the links of samples lead. own is the URL of the firm's own pages, such as
// https://clients.example.com/-
func SampleLinks(own string) brand.SampleLinks {
	return brand.SampleLinks{Own: own, Page: own + "/companies"}
}

// preparePreview makes the mail of a preview.
func (j *MailJobs) preparePreview(_ context.Context, r outbox.Request) (outbox.Prepared, error) {
	var p Preview
	if err := json.Unmarshal(r.Payload, &p); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	samples, err := j.Messages.Samples(p.Kind, p.Language, SampleLinks(j.Sites.URL.Scheme+"://"+j.Sites.URL.Host+j.Prefix))
	if err != nil {
		return outbox.Prepared{}, fmt.Errorf("writing a preview: %w", err)
	}
	i := slices.IndexFunc(samples, func(s brand.Sample) bool { return s.Variant == p.Variant })
	if i < 0 {
		return outbox.Prepared{}, nil // its template is gone since
	}
	message, err := messageOf(samples[i].Preview(string(p.To)), p.At)
	return outbox.Prepared{Message: message, Ref: r.ID}, err
}
