package caddymodule

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
)

// No access log contains links opened while the site starts, after its configuration was
// replaced, or if another directive changed their path.
func TestT10_LinksOfAHandlerThatCantServe(t *testing.T) {
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { t.Error("the portal was asked"); return nil })
	replaced := &App{ready: make(chan struct{}), share: &share{}}
	close(replaced.ready)
	for _, c := range []struct {
		name, asked, now string
		app              *App
		status           int
		skip             bool
	}{
		{"starting", "/-/link?t=x", "/-/link?t=x", &App{ready: make(chan struct{})}, 503, true},
		{"starting, with another prefix", "/door/link?t=x", "/door/link?t=x", &App{ready: make(chan struct{}), named: map[string]*config.Firm{"example": {Prefix: "/door"}}}, 503, true},
		{"starting, the portal's", "/orders?t=x", "/orders?t=x", &App{ready: make(chan struct{})}, 503, false},
		{"replaced", "/-/LINK?t=x", "/-/LINK?t=x", replaced, 503, true},
		{"moved away", "/-/link?t=x", "/index.php?t=x", replaced, 500, true},
		{"moved here", "/in/link?t=x", "/-/link?t=x", replaced, 500, false},
	} {
		now, err := url.Parse(c.now)
		if err != nil {
			t.Fatal(err)
		}
		asked := *httptest.NewRequest("GET", c.asked, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody waits
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, asked)
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
		r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
		r.URL = now
		w := httptest.NewRecorder()
		c.app.log = slog.New(slog.DiscardHandler)
		if err := (&Handler{Site: config.Site{Firm: "example"}, app: c.app, moved: new(sync.Once)}).ServeHTTP(w, r, next); err != nil || w.Code != c.status {
			t.Errorf("%s = %d, %v; want %d", c.name, w.Code, err, c.status)
		}
		if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip != c.skip {
			t.Errorf("%s: kept from the access log: %t; want %t", c.name, skip, c.skip)
		}
	}
}
