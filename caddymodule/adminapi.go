package caddymodule

import (
	"context"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI puts what an operator may do on Caddy's admin endpoint, under /doorpost/.
// It holds nothing: Caddy makes it before the app, keeps it when a config fails to
// load, and never cleans it up, so the app is looked up anew for each request.
type adminAPI struct{}

// CaddyModule names the module to Caddy.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.doorpost", New: func() caddy.Module { return adminAPI{} }}
}

// Routes is for Caddy's admin endpoint.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/doorpost/", Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// serveAdmin answers for the config that is running. It returns no error: its answers
// say more than Caddy's.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	v, err := caddy.ActiveContext().AppIfConfigured("doorpost")
	app, ok := v.(*App)
	if err != nil || !ok {
		(&admin.Error{Status: http.StatusNotFound, Code: "not_configured", Reason: "the running configuration has no doorpost in it",
			Remedy: "is this the right server? --address and --config choose another one"}).Write(w)
		return nil
	}
	leave, err := app.enterAdmin()
	if err != nil {
		(&admin.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Reason: err.Error(), Remedy: "try again in a moment"}).Write(w)
		return nil
	}
	defer leave()
	if overTCP(r.Context()) {
		app.server.Engine.Keep("told of the admin endpoint", func() any {
			app.log.Warn(openAdmin, "what_to_do", adminSocket)
			return true
		})
	}
	h := &admin.Handler{Firms: app.adminFirms(), Backup: app.backup, Doctor: app.doctor, Log: app.log}
	h.ServeHTTP(w, r)
	return nil
}

// enterAdmin keeps the store open until leave is called. A config is active only once
// its apps have started, so there is nothing to wait for.
func (a *App) enterAdmin() (leave func(), err error) {
	select {
	case <-a.ready:
	default:
		return nil, errStarting
	}
	if !a.share.enter() {
		return nil, errStopped
	}
	return func() {
		if err := a.share.leave(); err != nil {
			a.log.Error("closing the store", "error", err)
		}
	}, nil
}

func (a *App) adminFirms() map[string]admin.Firm {
	firms := make(map[string]admin.Firm, len(a.firms))
	for id, f := range a.firms {
		firms[id] = f.Admin()
	}
	return firms
}

// backup writes a copy of the store.
func (a *App) backup(w io.Writer) error {
	return a.server.Engine.Backup(context.Background(), w)
}

// Interface guards.
var (
	_ caddy.AdminRouter = adminAPI{}
	_ caddy.Module      = adminAPI{}
)
