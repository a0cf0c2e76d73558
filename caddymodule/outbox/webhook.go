package outbox

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// Webhook sends text messages by an HTTP service: one POST for each. It implements Sender. Make it with
// NewWebhook.
//
// A request whose answer is lost is made again, with the same id, which is also in the header
// Idempotency-Key: a service that looks at neither sends that text twice.
type Webhook struct {
	url    string
	header http.Header
	body   *template.Template
	escape func(string) string
	client *http.Client
	took   atomic.Bool // a text, so the settings are right
}

// WebhookSettings are what NewWebhook needs.
type WebhookSettings struct {
	URL    string      // https://, or http:// for a service on this machine
	Header http.Header // of each request, such as Authorization
	// Body is a template with {{.ID}}, {{.To}} and {{.Text}}, whose values are escaped for the header
	// Content-Type: application/json (the default) or application/x-www-form-urlencoded. "": JSON with
	// id, to and text.
	Body string
}

const (
	defaultBody   = `{"id":"{{.ID}}","to":"{{.To}}","text":"{{.Text}}"}`
	webhookTime   = 20 * time.Second // for a request with its answer
	maxReply      = 64 << 10
	stepWebhook   = "text service"
	stepReach     = "reaching the text service"
	maxTextLength = 2000 // bytes, far above what phones take
)

var (
	tokenName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // RFC 9110, section 5.6.2
	unknownTag = regexp.MustCompile(`at <([^>]*)>: can't evaluate field`)
	e164       = regexp.MustCompile(`^\+[1-9][0-9]{4,14}$`)
)

// notOurs are the headers that HTTP itself sets.
var notOurs = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Trailer", "Te", "Upgrade", "Expect"}

// NewWebhook checks the settings. Its errors don't hold the URL or a header's value, which may be secret.
func NewWebhook(s WebhookSettings) (*Webhook, error) {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the address isn't an absolute URL; write https://sms.example.com/send")
	case u.Scheme == "http" && !loopback.Is(u.Hostname()):
		return nil, errors.New("http:// would show names, numbers and the service's key to everybody on the way; write https://")
	}
	h := &Webhook{url: s.URL, header: http.Header{"Content-Type": {"application/json"}, "User-Agent": {""}}}
	for name, values := range s.Header {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !tokenName.MatchString(name):
			return nil, fmt.Errorf("header: %q is no name of a header", name)
		case slices.Contains(notOurs, canonical):
			return nil, fmt.Errorf("header: %s is set by HTTP itself; remove it", canonical)
		case slices.ContainsFunc(values, func(v string) bool {
			return strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		}):
			return nil, fmt.Errorf("header: the value of %s has a line break or another control character", name)
		}
		h.header[canonical] = values
	}
	kind, _, err := mime.ParseMediaType(h.header.Get("Content-Type"))
	switch {
	case err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json")):
		h.escape = jsonText
	case err == nil && kind == "application/x-www-form-urlencoded":
		h.escape = url.QueryEscape
	default:
		return nil, fmt.Errorf("header: a body of the type %q can't be made safely; write application/json or application/x-www-form-urlencoded", h.header.Get("Content-Type"))
	}
	if s.Body == "" && kind == "application/x-www-form-urlencoded" {
		return nil, errors.New(`body: is missing; a form's field names differ from service to service: write body "To={{.To}}&Body={{.Text}}"`)
	}
	if h.body, err = template.New("body").Parse(cmp.Or(s.Body, defaultBody)); err != nil {
		return nil, fmt.Errorf("body: %s; there are {{.ID}}, {{.To}} and {{.Text}}", strings.TrimPrefix(err.Error(), "template: "))
	}
	if err := h.tryOut(kind); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	h.client = &http.Client{
		Timeout:       webhookTime,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: DefaultConnections, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, ResponseHeaderTimeout: webhookTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // elsewhere nobody was trusted with this
	}
	return h, nil
}

// tryOut fills the body in with a text that needs escaping.
func (h *Webhook) tryOut(kind string) error {
	const text = "Ann \"Baker\" & Söhne\\ 100%\n{{"
	body, err := h.fill("2-trial", "+442079460958", text)
	if err != nil {
		if m := unknownTag.FindStringSubmatch(err.Error()); m != nil {
			return fmt.Errorf("{{%s}} is unknown; there are {{.ID}}, {{.To}} and {{.Text}}", m[1])
		}
		return errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	if !bytes.Contains(body, []byte(h.escape(text))) || !bytes.Contains(body, []byte(h.escape("+442079460958"))) {
		return errors.New("{{.To}} or {{.Text}} is missing")
	}
	if kind != "application/x-www-form-urlencoded" && !json.Valid(body) {
		return errors.New("the result isn't JSON; values stand between quotes, as in {\"to\": \"{{.To}}\", \"message\": \"{{.Text}}\"}")
	}
	return nil
}

func (h *Webhook) fill(id, to, text string) ([]byte, error) {
	var out bytes.Buffer
	err := h.body.Execute(&out, struct{ ID, To, Text string }{h.escape(id), h.escape(to), h.escape(text)})
	return out.Bytes(), err
}

// jsonText is what stands between the quotes of a JSON string.
func jsonText(s string) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always works
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(out.String()), `"`), `"`)
}

// Send implements Sender. The message's To is a number in the form of E.164, its Data the text.
func (h *Webhook) Send(ctx context.Context, m Message) error {
	if !e164.MatchString(m.To) || len(m.Data) == 0 || len(m.Data) > maxTextLength || !utf8.Valid(m.Data) {
		return fmt.Errorf("%w: the number or the text isn't in the form that it has to have", ErrRefused)
	}
	body, err := h.fill(m.ID, m.To, string(m.Data))
	if err != nil {
		return fmt.Errorf("fill in the body: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: the URL can't be used", ErrServer)
	}
	r.Header = h.header.Clone()
	if r.Header.Get("Idempotency-Key") == "" {
		r.Header.Set("Idempotency-Key", m.ID)
	}
	r.GetBody = nil // http.Client never sends it a second time on its own
	m.lastStep(ctx)
	resp, err := h.client.Do(r)
	if err != nil {
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %s", ErrServer, connecting(err))
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if resp.StatusCode/100 == 2 { // also where the rest of the answer is lost
		h.took.Store(true)
		return nil
	}
	if err != nil {
		said = nil
	}
	return h.refused(reply{step: stepWebhook, code: resp.StatusCode, text: quote(words(said), m)})
}

// Reach connects to the service, with TLS where the URL is https, and sends nothing.
func (h *Webhook) Reach(ctx context.Context) error {
	u, err := url.Parse(h.url)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	host := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme]))
	var c net.Conn
	if u.Scheme == "https" {
		c, err = (&tls.Dialer{}).DialContext(ctx, "tcp", host)
	} else {
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", host)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", ErrServer, connecting(err))
	}
	return c.Close()
}

// connecting says why there was no answer, without the URL.
func connecting(err error) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return stepReach + ": no answer within " + webhookTime.String()
	}
	return stepReach + ": " + loggable(err.Error(), 200)
}

// refused returns the error of a status. Those that may be about one text are about the settings until
// a text was taken.
func (h *Webhook) refused(r reply) error {
	means := ErrServer
	switch r.code {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		if means = ErrPolicy; h.took.Load() {
			means = ErrRefused
		}
	case http.StatusInternalServerError, http.StatusConflict:
		means = ErrPolicy
	}
	return &replyError{means, r}
}

// words returns what an answer says, which services put into one of these fields of JSON.
func words(said []byte) string {
	var fields map[string]any
	if json.Unmarshal(said, &fields) != nil {
		if bytes.HasPrefix(bytes.TrimSpace(said), []byte("<")) {
			return "" // a page
		}
		return string(said)
	}
	for _, name := range []string{"message", "detail", "error_description", "description", "error", "title", "errors"} {
		switch v := fields[name].(type) {
		case string:
			return v
		case map[string]any:
			if text, ok := v["message"].(string); ok {
				return text
			}
		}
	}
	return ""
}

// adviceOnWebhook returns what an operator does about an answer of the service; 0: there was none.
func adviceOnWebhook(code int) string {
	switch {
	case code == 0:
		return "The text service can't be reached. Check the URL of `text webhook`, and this machine's network and DNS."
	case code/100 == 3:
		return "The text service redirects, which is never followed. Write the URL that it leads to after `text webhook`."
	case code == 401 || code == 403:
		return "The text service doesn't take our key. Check the header lines in the block of `text webhook`."
	case code == 404 || code == 405 || code == 410:
		return "There is nothing for us under this URL. Check the URL of `text webhook`."
	case code == 400 || code == 422 || code == 409:
		return "The text service refuses the request: the number, or, if that happens to every text, the body in the block of `text webhook`."
	case code == 415:
		return "The text service wants another type of body. Write header Content-Type and body in the block of `text webhook`."
	case code == 402:
		return "The text service wants to be paid first."
	case code == 429:
		return "The text service takes no more for now. It is tried again; if that happens often, write a lower `rate` in the block of `text webhook`."
	case code >= 500:
		return "The text service has a problem of its own. It is tried again."
	}
	return "Ask the text service's support, with these words."
}
