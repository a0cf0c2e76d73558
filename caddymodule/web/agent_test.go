package web

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The result consists of fixed words, whatever the browser sends.
func FuzzAgentOf(f *testing.F) {
	for _, seed := range []string{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0", "", "(", "()", "/", "Mozilla/5.0 (", "iPad <b>", "Chrome/", "; ; ;", "\x00", strings.Repeat("(", 600)} {
		f.Add(seed)
	}
	words := map[string]bool{"a browser": true}
	for _, system := range append(slices.Collect(maps.Values(systems)), "iPad", "") {
		for _, name := range append(slices.Collect(maps.Values(browsers)), "a browser") {
			if words[name] = true; system != "" {
				words[name+" on "+system] = true
			}
		}
	}
	f.Fuzz(func(t *testing.T, agent string) {
		if got := AgentOf(&http.Request{Header: http.Header{"User-Agent": {agent}}}); !words[got] {
			t.Fatalf("agentOf(%q) = %q", agent, got)
		}
	})
}
