package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// portalSite returns a Caddyfile with a site block that contains body, where FIRM stands for the
// directive with its settings.
func portalSite(address, url, settings, body string) string {
	firm := fmt.Sprintf(`doorpost example {
		url %s
		staff owner@example.com
		brand {
			name "Example Bookkeeping"
			from hello@example.com
		}
		%s
	}`, url, settings)
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	doorpost {
		mail folder ./mail
	}
}
%s {
	%s
}
`, address, strings.Replace(body, "FIRM", firm, 1))
}

// validate refuses a site block in which the gate protects nothing, or whose own pages can't be
// reached; it accepts site blocks that may be intended.
func TestSiteBlockThatGuardsNothingIsRefused(t *testing.T) {
	const links = "legacy_link /one-click/{token}/* /portal/{company}/*"
	for _, c := range []struct{ name, settings, body, want string }{
		{"usual", links, "FIRM\n reverse_proxy localhost:8000", ""},
		{"usual, written below", "", "reverse_proxy localhost:8000\n FIRM", ""},
		{"handles beside it", links, "FIRM\n handle /api/* {\n reverse_proxy localhost:9000\n }\n handle {\n reverse_proxy localhost:8000\n }", ""},
		{"all in one handle", links, "handle {\n FIRM\n reverse_proxy localhost:8000\n }", ""},
		{"in a route, first", links, "route {\n FIRM\n reverse_proxy localhost:8000\n }", ""},
		{"an open handle on purpose", links, "handle /api/* {\n reverse_proxy localhost:9000\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }", ""},
		{"its pages in a handle of their own", "", "handle /portal/* {\n FIRM\n reverse_proxy localhost:8000\n }\n handle /-/* {\n doorpost example\n }", ""},
		{"by another matcher", "", "@post method POST GET\n handle @post {\n FIRM\n reverse_proxy localhost:8000\n }", ""},

		{"behind the portal", "", "route {\n reverse_proxy localhost:8000\n FIRM\n }",
			"reverse_proxy stands before doorpost and answers every request, so that the portal is open to everyone; put doorpost above it"},
		{"behind the portal, in a handle", "", "handle {\n route {\n file_server\n FIRM\n }\n }", "file_server stands before doorpost"},
		{"behind PHP", "", "route {\n php_fastcgi localhost:9000\n FIRM\n }", "php_fastcgi stands before doorpost and answers every request, so that the portal is open to everyone"},
		{"behind PHP in a handle of its own", "", "handle /portal* {\n php_fastcgi localhost:9000\n }\n handle {\n FIRM\n php_fastcgi localhost:9000\n }", ""},
		{"before PHP", links, "FIRM\n php_fastcgi localhost:9000\n file_server", ""},
		{"behind respond", "", "route {\n respond hello\n FIRM\n }", "respond or redir stands before doorpost"},
		{"behind a portal with a matcher that takes all", "", "route {\n reverse_proxy /* localhost:8000\n FIRM\n }", "reverse_proxy stands before doorpost"},
		{"in one of two handles", "", "handle /portal/* {\n FIRM\n reverse_proxy localhost:8000\n }\n handle {\n file_server\n }",
			"the sign-in pages under /-/ don't reach doorpost, since it stands in a handle or route for other paths; write doorpost outside of it"},
		{"in one of two handles, without the other", "", "handle /portal/* {\n FIRM\n reverse_proxy localhost:8000\n }", "the sign-in pages under /-/ don't reach doorpost"},
		{"in a handle for one method", "", "@get method GET HEAD\n handle @get {\n FIRM\n reverse_proxy localhost:8000\n }\n handle {\n reverse_proxy localhost:8000\n }",
			"the forms of the sign-in pages under /-/ don't reach doorpost, since it stands in a handle or route for other methods than POST"},
		{"beside a handle for POST", "", "@post method POST\n handle @post {\n reverse_proxy localhost:8000\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }",
			"the forms of the sign-in pages under /-/ don't reach doorpost"},
		{"old links elsewhere, by POST", links, "@post {\n method POST\n path /one-click/*\n }\n handle @post {\n reverse_proxy localhost:8000\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }",
			"legacy_link /one-click/{token}/*: reverse_proxy answers such requests"},
		{"webhooks beside it", links, "@hook {\n method POST\n path /hooks/*\n }\n handle @hook {\n reverse_proxy localhost:8000\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }", ""},
		{"in handle_path", "", "handle_path /portal/* {\n FIRM\n reverse_proxy localhost:8000\n }", "the sign-in pages under /-/ don't reach doorpost"},
		{"with another prefix", "prefix /door", "handle /-/* {\n FIRM\n }\n handle {\n file_server\n }", "the sign-in pages under /door/ don't reach doorpost"},
		{"old links elsewhere", links, "handle /one-click/* {\n reverse_proxy localhost:8000\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }",
			"legacy_link /one-click/{token}/*: reverse_proxy answers such requests and doorpost never sees them"},
		{"company paths elsewhere", "company_path /files/{company}/*", "handle /files/* {\n file_server\n }\n handle {\n FIRM\n reverse_proxy localhost:8000\n }",
			"company_path /files/{company}/*: file_server answers such requests"},
		{"two firms", "", "FIRM\n doorpost other {\n url http://localhost:8080\n brand {\n name Other\n from a@example.com\n }\n }\n reverse_proxy localhost:8000",
			"one site block has doorpost for two firms, "},
	} {
		t.Run(c.name, func(t *testing.T) {
			home(t)
			err := validate(t, portalSite("http://:0", "http://localhost:8080", c.settings, c.body))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("validate = %v; want %q", err, c.want)
			}
		})
	}
}

// Another site block of the firm is checked as well.
func TestFurtherSiteBlockIsJudged(t *testing.T) {
	home(t)
	config := portalSite("http://localhost:8081", "http://localhost:8081", "prefix /door", "FIRM\n reverse_proxy localhost:8000") +
		"http://localhost:8082 {\n handle /door/* {\n respond hello\n }\n handle {\n doorpost example\n }\n}\n"
	if err := validate(t, config); err == nil || !strings.Contains(err.Error(), "the sign-in pages under /door/ don't reach doorpost") {
		t.Errorf("validate = %v; want the further block refused", err)
	}
}

// A warning names directives that answer some requests before the gate.
func TestDirectivesBeforeTheGateAreReported(t *testing.T) {
	home(t)
	warned := func(body string) string {
		t.Helper()
		log := filepath.Join(t.TempDir(), "log")
		config := strings.Replace(portalSite("http://:0", "http://localhost:8080", "", body), "admin off", "admin off\n\tlog {\n output file "+log+"\n }", 1)
		if err := caddy.Load(adapt(t, config), true); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "answered before doorpost") {
				return line
			}
		}
		return ""
	}
	if line := warned("route {\n reverse_proxy /api/* localhost:9000\n FIRM\n reverse_proxy localhost:8000\n }"); !strings.Contains(line, `"directive":"reverse_proxy /api/*"`) {
		t.Errorf("the log says %q; want reverse_proxy /api/*", line)
	}
	t.Cleanup(func() { stop(t) })
	if line := warned("FIRM\n reverse_proxy /api/* localhost:9000\n reverse_proxy localhost:8000"); line != "" {
		t.Errorf("the log says %q; want nothing", line)
	}
}

// url must be a name that a site block serves.
func TestURLThatNoSiteBlockServesIsReported(t *testing.T) {
	for _, c := range []struct {
		address, url string
		want         string // of the error; "" if none
		warned       bool
	}{
		{"http://clients.example.com:0", "https://clients.example.com", "", false},
		{"http://clients.example.com:0", "https://CLIENTS.example.com:8443", "", false},
		{"http://a.example.com:0, http://clients.example.com:0", "https://clients.example.com", "", false},
		{"http://*.example.com:0", "https://clients.example.com", "", false},
		{"http://:0", "https://clients.example.com", "", false},
		{"http://clients.example.com:0", "https://clients.exmaple.com", "url: no site block is for clients.exmaple.com; did you mean clients.example.com?", false},
		{"http://clients.example.com:0", "https://portal.example.org", "", true},
	} {
		t.Run(c.address+" "+c.url, func(t *testing.T) {
			home(t)
			log := filepath.Join(t.TempDir(), "log")
			config := strings.Replace(portalSite(c.address, c.url, "", "FIRM\n reverse_proxy localhost:8000"), "admin off", "admin off\n\tlog {\n output file "+log+"\n }", 1)
			err := caddy.Load(adapt(t, config), true)
			stop(t)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("validate = %v; want %q", err, c.want)
			}
			text, _ := os.ReadFile(log)
			if warned := strings.Contains(string(text), "no site block with doorpost has the name in url"); warned != c.warned {
				t.Errorf("warned %t; want %t\n%s", warned, c.warned, text)
			}
		})
	}
}
