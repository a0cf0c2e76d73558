package caddymodule_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// warnings returns the log's warnings about proxies: the message and what to do.
func warnings(t *testing.T, text string) (all []string) {
	t.Helper()
	for line := range strings.SplitSeq(text, "\n") {
		var e struct {
			Level, Msg, Peer, Header string
			What                     string `json:"what_to_do"`
		}
		if json.Unmarshal([]byte(line), &e) == nil && strings.Contains(e.What, "trusted_proxies") {
			if e.Level != "warn" {
				t.Errorf("%s is logged as %s; want warn", e.Msg, e.Level)
			}
			all = append(all, e.Msg+" | "+e.Peer+" | "+e.Header+" | "+e.What)
		}
	}
	return all
}

func TestProxies_OneWarningNamesTheLineToWrite(t *testing.T) {
	const line, strict = "trusted_proxies static 127.0.0.1", "trusted_proxies_strict"
	for _, c := range []struct {
		name, servers, header string
		want                  []string // in the only warning; empty if there is none
	}{
		{"nobody forwards", "", "", nil},
		{"an untrusted peer, X-Forwarded-For", "", "X-Forwarded-For", []string{line, strict, "127.0.0.1", "X-Forwarded-For"}},
		{"an untrusted peer, Forwarded", "", "Forwarded", []string{line, strict}},
		{"an untrusted peer, X-Real-IP", "", "X-Real-IP", []string{line, strict}},
		{"an untrusted peer, CF-Connecting-IP", "", "CF-Connecting-IP", []string{line, strict}},
		{"another peer is trusted", "trusted_proxies static 192.0.2.1\n\t\ttrusted_proxies_strict", "X-Forwarded-For", []string{line, strict}},
		{"a trusted peer", "trusted_proxies static 127.0.0.1/32\n\t\ttrusted_proxies_strict", "X-Forwarded-For", nil},
		{"a trusted peer, not strict", "trusted_proxies static 127.0.0.1/32", "X-Forwarded-For", []string{strict, "get around"}},
		{"not strict, and nobody forwards", "trusted_proxies static 127.0.0.1/32", "", []string{strict}},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := newLogFile(t)
			servers := ""
			if c.servers != "" {
				servers = "servers {\n\t\t" + c.servers + "\n\t}\n"
			}
			h := openHouse(t, layout{global: log.global + "\n" + servers})
			for range 20 {
				var lines []string
				if c.header != "" {
					lines = append(lines, c.header+": 203.0.113.7, \"{env.HOME}")
				}
				h.get("/x", lines...)
				h.post("/-/code", "code=0000-0000", lines...)
			}
			got := warnings(t, log.text(t))
			if len(c.want) == 0 {
				if len(got) != 0 {
					t.Errorf("warnings = %q; want none", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d warnings: %q; want one", len(got), got)
			}
			for _, part := range c.want {
				if !strings.Contains(got[0], part) {
					t.Errorf("the warning %q doesn't say %q", got[0], part)
				}
			}
			if strings.Contains(got[0], "203.0.113.7") {
				t.Errorf("the warning %q holds what the header said", got[0])
			}
		})
	}
}
