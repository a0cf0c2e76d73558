package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestJSONGetsTheSameErrors: configurations in JSON get the same errors, without line
// numbers.
func TestJSONGetsTheSameErrors(t *testing.T) {
	home(t)
	whole := string(adapt(t, siteBlock{firm: "staff owner@example.com"}.caddyfile()))
	for _, c := range []struct{ old, new, want string }{
		{`"url":"http://localhost:8080"`, `"url":"http://clients.example.com"`, "firm example: url: http:// is for this machine alone"},
		{`"url":"http://localhost:8080"`, `"url":""`, "firm example: url: is missing"},
		{`"url":"http://localhost:8080"`, `"url":"https://{http.request.host}"`, "firm example: url: {http.request.host} has another value in each request"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","prefix":"/a/"`, "firm example: prefix: "},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","session":{"idle":"-1h"}`, "firm example: session idle: -1h is no time at all"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","link_lifetime":"2h"`, "firm example: link_lifetime: 2h is too long"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","legacy_link":"/a"`, "legacy_link"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","legacy_links":[{"old":"/a/{token}","new":"/p"}]`, "firm example: legacy_link: /p has no {company}"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","company_paths":["/open/{company}"],"home":"/p"`, "firm example: home: /p has no {company}"},
		{`"url":"http://localhost:8080"`, `"url":"http://localhost:8080","legacy_links":[{"old":"/open?k={token}","new":"/p/{company}"}]`, "firm example: public: /open would let everyone get around /open?k={token}"},
		{`"from":"hello@example.com"`, `"from":""`, "firm example: brand from: is missing"},
		{`"/open"`, `"/*"`, "firm example: public: /* would leave the whole portal open"},
		{`"/open"`, `"/-/mailbox"`, "firm example: public: /-/mailbox is under the prefix"},
		{`"staff":["owner@example.com"]`, `"staff":["owner"]`, `firm example: staff: "owner": not an email address`},
		{`"firm":"example"`, `"firm":"Example"`, `"Example" is no id of a firm`},
		{`"via":"folder"`, `"via":"pigeon"`, `mail: there is no mail "pigeon"`},
		{`"via":"folder"`, `"via":"folder","password":"x"`, `mail: a folder takes no address and no settings`},
		{`"via":"folder"`, `"via":"smtp","address":"h:25"`, `mail: smtp takes no path`},
		{`"mail":{`, `"store":{"engine":"redis","url":"redis://localhost:6379/0"},"mail":{`, `secret: is required with "store redis"`},
		{`"mail":{`, `"store":{"engine":"bolt","url":"redis://localhost:6379"},"mail":{`, `store: bolt is a file and takes no URL`},
	} {
		if strings.Count(whole, c.old) != 1 {
			t.Fatalf("%s is %d times in %s", c.old, strings.Count(whole, c.old), whole)
		}
		var cfg caddy.Config
		if err := json.Unmarshal([]byte(strings.Replace(whole, c.old, c.new, 1)), &cfg); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("validate with %s = %v; want %q", c.new, err, c.want)
		}
	}
}
