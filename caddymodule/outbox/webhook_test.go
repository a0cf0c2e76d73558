package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func text(to, data string) Message {
	return Message{ID: "2-20260301t090000000-abc", To: to, Data: []byte(data)}
}

const number = "+447700900123"

// What arrives is what was meant, whatever characters the text has.
func TestWebhookSendsTheText(t *testing.T) {
	const said = "Ann \"Baker\" & Söhne\\ {{.To}} 100% 😀\nhttps://clients.example.com/x?y=z+1"
	var r *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, got *http.Request) {
		r = got
		body, _ = io.ReadAll(got.Body)
	}))
	defer s.Close()
	for _, c := range []struct {
		settings WebhookSettings
		read     func() (to, text string)
	}{
		{WebhookSettings{}, func() (string, string) {
			var got struct{ ID, To, Text string }
			if err := json.Unmarshal(body, &got); err != nil || got.ID != "2-20260301t090000000-abc" {
				t.Errorf("the body is %s (%v); want JSON with the id", body, err)
			}
			return got.To, got.Text
		}},
		{WebhookSettings{Body: `{"messages": [{"destination": "{{.To}}", "body": "{{.Text}}", "ref": "{{.ID}}"}]}`}, func() (string, string) {
			var got struct {
				Messages []struct{ Destination, Body string }
			}
			if err := json.Unmarshal(body, &got); err != nil || len(got.Messages) != 1 {
				t.Fatalf("the body is %s (%v)", body, err)
			}
			return got.Messages[0].Destination, got.Messages[0].Body
		}},
		{WebhookSettings{Body: `To={{.To}}&From=Example&Body={{.Text}}`, Header: http.Header{"content-type": {"application/x-www-form-urlencoded"}}}, func() (string, string) {
			form, err := url.ParseQuery(string(body))
			if err != nil || len(form) != 3 {
				t.Errorf("the body is %s (%v); want three fields", body, err)
			}
			return form.Get("To"), form.Get("Body")
		}},
	} {
		c.settings.URL = s.URL + "/send"
		if c.settings.Header == nil {
			c.settings.Header = http.Header{}
		}
		c.settings.Header["Authorization"] = []string{"Bearer x"}
		h, err := NewWebhook(c.settings)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Send(t.Context(), text(number, said)); err != nil {
			t.Fatalf("Send = %v; want nil", err)
		}
		if to, text := c.read(); to != number || text != said {
			t.Errorf("the service got %q for %q; want %q for %q", text, to, said, number)
		}
		if r.Method != "POST" || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Idempotency-Key") != "2-20260301t090000000-abc" || r.Header.Get("User-Agent") != "" {
			t.Errorf("%s with the headers %v", r.Method, r.Header)
		}
	}
}

// What an answer means for the text and for all others, and what the operator reads of it.
func TestWebhookAnswers(t *testing.T) {
	var status atomic.Int32
	var answer atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code := int(status.Load()); code > 0 {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
		}
		io.WriteString(w, answer.Load().(string))
		if r.URL.Path != "/send" {
			t.Errorf("a request for %s; redirects aren't followed", r.URL.Path)
		}
	}))
	defer s.Close()
	h, err := NewWebhook(WebhookSettings{URL: s.URL + "/send"})
	if err != nil {
		t.Fatal(err)
	}
	send := func(code int, said string) error {
		status.Store(int32(code))
		answer.Store(said)
		return h.Send(t.Context(), text(number, "New questions: https://clients.example.com/portal/acme"))
	}
	for _, c := range []struct {
		code   int
		said   string
		means  error
		reason string
	}{
		{301, "", ErrServer, "text service: 301"},
		{307, "", ErrServer, "text service: 307"},
		{400, `{"message": "invalid number +447700900123"}`, ErrPolicy, "text service: 400 invalid number …"}, // the settings may be wrong
		{401, `{"error": {"message": "bad key"}}`, ErrServer, "text service: 401 bad key"},
		{403, "<html>Forbidden", ErrServer, "text service: 403"},
		{404, "", ErrServer, "text service: 404"},
		{429, `{"detail": "slow down"}`, ErrServer, "text service: 429 slow down"},
		{500, "", ErrPolicy, "text service: 500"},
		{503, "", ErrServer, "text service: 503"},
	} {
		err := send(c.code, c.said)
		if !errors.Is(err, c.means) || Reason(err) != c.reason {
			t.Errorf("an answer %d %q = %v; want %q, and %v", c.code, c.said, err, c.reason, c.means)
		}
		if Advice(Reason(err)) == "" || strings.Contains(Advice(Reason(err)), "mail") {
			t.Errorf("the advice on %v is %q", err, Advice(Reason(err)))
		}
	}
	if err := send(202, strings.Repeat("x", 1<<20)); err != nil {
		t.Errorf("an answer 202 = %v; want nil", err)
	}
	if err := send(400, ""); !errors.Is(err, ErrRefused) {
		t.Errorf("an answer 400, after a text was taken = %v; want %v", err, ErrRefused)
	}
}

// A service that isn't there, that closes the connection, or that answers nothing is a matter of the server.
func TestWebhookThatDoesNotAnswer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	}))
	h, err := NewWebhook(WebhookSettings{URL: s.URL + "/send?key=secret"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := h.Send(t.Context(), text(number, "x"))
		if !errors.Is(err, ErrServer) || strings.Contains(err.Error(), "secret") || Advice(Reason(err)) == "" {
			t.Errorf("Send = %v; want %v without the URL, and an advice", err, ErrServer)
		}
		s.Close()
	}
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer hangs.Close()
	if h, err = NewWebhook(WebhookSettings{URL: hangs.URL}); err != nil {
		t.Fatal(err)
	}
	h.client.Timeout = 50 * time.Millisecond
	if err := h.Send(t.Context(), text(number, "x")); !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("Send to a service that hangs = %v; want %v", err, ErrServer)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Send(ctx, text(number, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Send while the queue stops = %v; want %v", err, context.Canceled)
	}
}

func TestWebhookSettings(t *testing.T) {
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for _, c := range []struct {
		in   WebhookSettings
		want string // in the error; "": none
	}{
		{WebhookSettings{URL: "https://sms.example.com/send"}, ""},
		{WebhookSettings{URL: "http://127.0.0.1:9/send"}, ""},
		{WebhookSettings{URL: "http://sms.example.com/send"}, "https://"},
		{WebhookSettings{URL: "sms.example.com"}, "https://sms.example.com/send"},
		{WebhookSettings{URL: "ftp://sms.example.com"}, "https://sms.example.com/send"},
		{WebhookSettings{URL: "https://x", Header: http.Header{"a b": {"x"}}}, "no name of a header"},
		{WebhookSettings{URL: "https://x", Header: http.Header{"host": {"x"}}}, "Host is set"},
		{WebhookSettings{URL: "https://x", Header: http.Header{"X-Key": {"a\nb"}}}, "line break"},
		{WebhookSettings{URL: "https://x", Header: http.Header{"Content-Type": {"text/xml"}}}, "application/json"},
		{WebhookSettings{URL: "https://x", Header: form}, `To={{.To}}`},
		{WebhookSettings{URL: "https://x", Header: form, Body: "To={{.To}}&Body={{.Text}}"}, ""},
		{WebhookSettings{URL: "https://x", Body: "{{.To}"}, "body: "},
		{WebhookSettings{URL: "https://x", Body: `{"to": "{{.To}}", "m": "{{.Message}}"}`}, "{{.Text}}"},
		{WebhookSettings{URL: "https://x", Body: `{"to": "{{.To}}"}`}, "{{.Text}} is missing"},
		{WebhookSettings{URL: "https://x", Body: `{"to": {{.To}}, "m": {{.Text}}}`}, "isn't JSON"},
	} {
		_, err := NewWebhook(c.in)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewWebhook(%+v) = %v; want %q", c.in, err, c.want)
		}
	}
}

// A number or a text that isn't one reaches no service.
func TestWebhookRefusesOtherNumbers(t *testing.T) {
	h, err := NewWebhook(WebhookSettings{URL: "http://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []Message{text("447700900123", "x"), text("+44 7700 900123", "x"), text("+447700900123\r\n", "x"), text("ann@example.com", "x"), text(number, ""), text(number, "\xff"), text(number, strings.Repeat("x", 3000))} {
		if err := h.Send(t.Context(), m); !errors.Is(err, ErrRefused) {
			t.Errorf("Send of %.20q to %q = %v; want %v", m.Data, m.To, err, ErrRefused)
		}
	}
}
