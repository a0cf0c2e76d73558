// Package config holds everything that can be written about Doorpost in a Caddyfile or in
// Caddy's JSON: the settings, what each means and its default, the grammar that reads them,
// and the checks that refuse them with their place and what to write instead.
//
// Server has the settings of the global option, Site and Firm those of a site block. They
// keep the text as it was written; Resolve fills in the placeholders and checks again, so
// that JSON is held to the same as a Caddyfile. Nothing here opens a store, makes a file or
// sends anything.
package config
