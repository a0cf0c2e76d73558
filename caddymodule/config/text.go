package config

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// Text configures how text messages to phones are sent: by an HTTP service.
type Text struct {
	// Transport is "webhook". Required.
	Transport string `json:"via,omitempty"`

	// URL is where the service takes a text, by POST: https://, or http:// on this machine. Required.
	URL string `json:"url,omitempty"`

	// Header are headers of each request, such as Authorization. As in Secret and Mail, write
	// {file./PATH} or {env.NAME} for secrets. Default: Content-Type application/json.
	Header []Header `json:"header,omitempty"`

	// Body is a template for the request's body, with {{.ID}}, {{.To}} and {{.Text}}, whose values are
	// escaped for Content-Type: JSON, or a form (application/x-www-form-urlencoded). Default: JSON with
	// id, to and text.
	Body string `json:"body,omitempty"`

	// Rate limits the texts per second (s), minute (m) or hour (h). Default "60/m".
	Rate string `json:"rate,omitempty"`
}

// Header is a header of a request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (r *reader) text(path string, c *Text) error {
	args, err := r.args()
	switch {
	case err != nil:
		return err
	case len(args) != 2:
		return r.withPosition(invalid(path, "write %s", examples[path]))
	}
	c.Transport, c.URL = args[0], args[1]
	return r.block(path, settings{
		"header": r.header(&c.Header),
		"body":   r.one(&c.Body),
		"rate":   r.one(&c.Rate),
	})
}

func (r *reader) header(all *[]Header) setting {
	return func(path string) error {
		var h Header
		err := r.pair(&h.Name, &h.Value)(path)
		*all = append(*all, h)
		return err
	}
}

func (c *Text) texts() []textSetting {
	all := []textSetting{{"text", &c.URL}} // the body is a template, whose braces aren't placeholders
	for i := range c.Header {
		all = append(all, textSetting{fmt.Sprintf("text.header[%d]", i), &c.Header[i].Value})
	}
	return all
}

// Validate returns an error for the first invalid setting that says what to write instead. It
// accepts values with placeholders that aren't filled in yet.
func (c Text) Validate() error {
	if c.Transport != "webhook" {
		return invalid("text", `there is no text %q; write %s`, c.Transport, examples["text"])
	}
	if _, _, err := parseRate(c.Rate); err != nil {
		return atPath("text.rate", err)
	}
	for _, t := range c.texts() {
		if hasPlaceholder(*t.value) {
			return nil
		}
	}
	_, err := c.Webhook()
	return err
}

// Webhook returns what sends the texts.
func (c Text) Webhook() (*outbox.Webhook, error) {
	s := outbox.WebhookSettings{URL: c.URL, Header: http.Header{}, Body: c.Body}
	for _, h := range c.Header {
		s.Header[h.Name] = append(s.Header[h.Name], h.Value)
	}
	hook, err := outbox.NewWebhook(s)
	if err == nil {
		return hook, nil
	}
	if where, what, ok := strings.Cut(err.Error(), ": "); ok && (where == "header" || where == "body") {
		return nil, invalid("text."+where, "%s", what)
	}
	return nil, atPath("text", err)
}

// Pace returns a new limiter for the rate.
func (c Text) Pace() (*rate.Limiter, error) {
	n, per, err := parseRate(c.Rate)
	if err != nil {
		return nil, atPath("text.rate", err)
	}
	return outbox.Pace(n, per), nil
}

// resolve fills in the placeholders, and checks the settings and the files that they name.
func (c Text) resolve(log *slog.Logger) (*Text, error) {
	c.Header = slices.Clone(c.Header)
	for i, h := range c.Header {
		if hasPlaceholder(h.Value) {
			warnReadable(log, "text header "+h.Name, h.Value)
		} else if http.CanonicalHeaderKey(h.Name) == "Authorization" {
			warnReadable(log, "text header Authorization", h.Value)
		}
		if err := checkFixed(h.Value); err != nil {
			return nil, atPath(fmt.Sprintf("text.header[%d]", i), err)
		}
	}
	if err := fillInAll(c.texts()); err != nil {
		return nil, err
	}
	return &c, c.Validate()
}

// files returns the files that the settings name.
func (c Text) files() (all []NamedFile) {
	for _, h := range c.Header {
		all = append(all, filesIn("text header", h.Value)...)
	}
	return append(all, filesIn("text", c.URL)...)
}
