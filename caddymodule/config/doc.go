// Package config holds everything that can be configured in a Caddyfile or in Caddy's JSON: the
// settings with their meaning and default, the grammar, and the checks, whose errors name the place
// of a setting and what to write instead.
//
// Server has the settings of the global option, Site and Firm those of a site block. They keep the
// text as written. Resolve fills in the placeholders and checks again, so that the same rules apply
// to JSON and Caddyfile. The package opens no store, makes no files and sends nothing.
package config
