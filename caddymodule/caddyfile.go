package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	_ "github.com/doorpost-auth/doorpost/caddymodule/cli" // the commands
	"github.com/doorpost-auth/doorpost/caddymodule/config"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("doorpost", parseGlobal)
	httpcaddyfile.RegisterDirective("doorpost", parseDirective)
	// Before redir, the first that looks at the URL: what is judged is the URL that
	// the visitor asked for, not what a rewrite made of it.
	httpcaddyfile.RegisterDirectiveOrder("doorpost", httpcaddyfile.Before, "redir")
}

func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	s, err := config.ReadServer(d, existing)
	if err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "doorpost", Value: caddyconfig.JSON(&App{Server: s}, nil)}, nil
}

func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	s, err := config.ReadSite(h)
	if err != nil {
		return nil, err
	}
	return h.NewRoute(nil, &Handler{Site: s}), nil
}
