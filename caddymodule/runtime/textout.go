package runtime

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// TextOut is the way out for text messages, of all firms. nil: there is none.
type TextOut struct {
	settings config.Text
	webhook  *outbox.Webhook
	server   *outbox.Server // kept over reloads
	pace     *rate.Limiter
}

// OpenTexts opens the way out that the settings say; nil: they say none. keep keeps what outlives a reload.
func OpenTexts(t *config.Text, keep func(string, func() any) any, now func() time.Time) (*TextOut, error) {
	if t == nil {
		return nil, nil
	}
	out := &TextOut{settings: *t}
	var err error
	if out.pace, err = t.Pace(); err != nil {
		return nil, err
	}
	if out.webhook, err = t.Webhook(); err != nil {
		return nil, err
	}
	out.server = keep("text webhook", func() any { return outbox.NewServer(outbox.DefaultConnections, out.pace, now) }).(*outbox.Server)
	return out, nil
}

// Apply has the server go by these settings. It is to be called once nothing of the config can
// fail any more.
func (t *TextOut) Apply() {
	if t != nil {
		t.server.Set(outbox.DefaultConnections, t.pace)
	}
}

// use has a firm's queue of texts send this way, if there is one.
func (t *TextOut) use(q *outbox.Queue) *outbox.Queue {
	if t != nil {
		q.Sender, q.Server = t.webhook, t.server
	}
	return q
}
