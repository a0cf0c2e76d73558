package caddymodule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// eventListener is a handler of Caddy's events for tests.
type eventListener struct{}

var heard struct {
	sync.Mutex
	events []caddy.Event
}

func init() { caddy.RegisterModule(eventListener{}) }

func (eventListener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.doorpost_test", New: func() caddy.Module { return new(eventListener) }}
}
func (*eventListener) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (*eventListener) Handle(_ context.Context, e caddy.Event) error {
	heard.Lock()
	defer heard.Unlock()
	heard.events = append(heard.events, e)
	return nil
}

// Handlers of Caddy's events hear what happens, with what the log says of it, whatever the log's level is.
func TestCaddyEvents(t *testing.T) {
	heard.Lock()
	heard.events = nil
	heard.Unlock()
	h := openHouse(t, layout{global: "log {\n\t\tlevel ERROR\n\t}\n\tevents {\n\t\ton doorpost_signed_in doorpost_test\n\t\ton doorpost_changed doorpost_test\n\t}\n"})
	h.browser().signIn("ann@example.com")
	of := func(name string) (all []map[string]any) {
		heard.Lock()
		defer heard.Unlock()
		for _, e := range heard.events {
			if e.Name() == name {
				all = append(all, e.Data)
			}
		}
		return all
	}
	h.eventually("the sign-in is heard", func() bool { return len(of("doorpost_signed_in")) == 1 })
	data := of("doorpost_signed_in")[0]
	if data["firm"] != "example" || data["event"] != "signed-in" || data["address"] != "a•••@example.com" || data["contact"] == "" || data["method"] != "link" || fmt.Sprint(data["ip"]) != "127.0.0.1" {
		t.Errorf("a sign-in has %v", data)
	}
	h.eventually("the load of the files is heard", func() bool { return len(of("doorpost_changed")) == 2 })
	if len(of("doorpost_asked")) > 0 {
		t.Error("what nobody subscribed to is heard")
	}
	h.start() // a reload
	h.settled()
	h.browser().signIn("bob@example.com")
	h.eventually("after a reload, too", func() bool { return len(of("doorpost_signed_in")) == 2 })
}

// Every metric is in the docs, and the dashboard for Grafana shows metrics and labels that there are.
func TestMetricsAndTheDashboard(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	h.browser().open("/one-click/acme-secret-token-1/x")
	h.in("bob@example.com").open("/orders")
	got := h.metrics()
	for _, want := range []string{
		`doorpost_old_link_uses_total{asked="no",by="browser",firm="example"} 1`, `doorpost_old_link_uses_total{asked="yes",by="program",firm="example"} 0`,
		`doorpost_outbox_emails{firm="example"} 0`, `doorpost_mail_server_up{firm="example"} 1`, `doorpost_store_up 1`, `doorpost_store_trusted{firm="example"} 1`,
		`doorpost_password_checks{state="waiting-known"} 0`, `doorpost_sessions_in_memory{firm="example"} 1`, "doorpost_password_permits ", "doorpost_store_seconds ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	labels := map[string]string{} // by metric, of one series
	for _, m := range regexp.MustCompile(`(?m)^(doorpost_[a-z_]+)(\{[^}]*\})? `).FindAllStringSubmatch(got, -1) {
		labels[m[1]] = m[2]
	}
	docs, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile("../testdata/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !strings.Contains(string(docs), "`"+name+"`") {
			t.Errorf("docs/events.md doesn't name %s", name)
		}
		if !strings.Contains(string(dashboard), name) {
			t.Errorf("the dashboard doesn't show %s", name)
		}
	}
	var board struct {
		Title  string `json:"title"`
		Panels []struct {
			Title   string `json:"title"`
			Type    string `json:"type"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
			GridPos struct{ H, W, X, Y int } `json:"gridPos"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(dashboard, &board); err != nil || board.Title == "" || len(board.Panels) == 0 {
		t.Fatalf("the dashboard: %v", err)
	}
	for _, p := range board.Panels {
		if p.Title == "" || p.Type == "" || p.GridPos.W == 0 || len(p.Targets) == 0 {
			t.Errorf("the panel %+v lacks something", p)
		}
		for _, target := range p.Targets {
			used := regexp.MustCompile(`(doorpost_[a-z_]+)(\{([^}]*)\})?`).FindAllStringSubmatch(target.Expr, -1)
			if len(used) == 0 {
				t.Errorf("%s: %q shows none of our metrics", p.Title, target.Expr)
			}
			for _, m := range used {
				series, there := labels[m[1]]
				if !there {
					t.Errorf("%s: there is no metric %s", p.Title, m[1])
				}
				for _, l := range regexp.MustCompile(`([a-z_]+)[=!]~?"`).FindAllStringSubmatch(m[3], -1) {
					if !strings.Contains(series, l[1]+"=") {
						t.Errorf("%s: %s has no label %s", p.Title, m[1], l[1])
					}
				}
				for _, l := range regexp.MustCompile(`event=~?"([^"$]+)"`).FindAllStringSubmatch(m[3], -1) {
					for event := range strings.SplitSeq(l[1], "|") {
						if !strings.Contains(got, `event="`+event+`"`) {
							t.Errorf("%s: there is no event %s", p.Title, event)
						}
					}
				}
			}
		}
	}
}
