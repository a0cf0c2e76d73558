// Command caddy is a Caddy web server with its standard modules and Doorpost.
package main

import (
	_ "time/tzdata"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/doorpost-auth/doorpost/caddymodule"
)

func main() { caddycmd.Main() }
