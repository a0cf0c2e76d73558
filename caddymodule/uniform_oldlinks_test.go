//go:build measure

package caddymodule_test

import (
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// An old link that asks for sign-in: neither its responses nor their times reveal whether it is
// active, was active, or never existed, to signed-out visitors and to other contacts, at the link
// and at the page that it leads to. As part of all tests, it checks only the bytes.
func TestUniformOldLinks(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	h.command("companies", "set", "acme", "--legacy-tokens", "acme-secret-token-1")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("portal")) }
	stranger := h.in("nameless@example.com")
	const real, revoked, never = "somebody's", "revoked", "never was"
	tokens := map[string]string{real: "acme-secret-token-1", revoked: "acme-secret-token-2", never: "acme-secret-token-9"}
	n := 3
	if *samples > 0 {
		n = *samples
	}
	sealed := regexp.MustCompile(`x=[A-Za-z0-9_-]+`)
	w := dialWire(t, h.host())
	for _, form := range []string{"/one-click/TOKEN/orders/7?x=1", "/view?client=TOKEN", "/x?client=TOKEN", "/assets/x?client=TOKEN"} {
		for name, lines := range map[string][]string{"nobody": nil, "somebody else": {stranger.session()}} {
			when := fmt.Sprintf("GET %s, %s, %s, %d cores", form, name, *onStore, runtime.NumCPU())
			links, pages := newLedger(t, when), newLedger(t, when+", and the page it leads to")
			like := map[*ledger]string{}
			asks := func(l *ledger, class, path string) (location string) {
				t.Helper()
				began := time.Now()
				if _, err := w.ask(pageBytes(h.host(), path, lines...)); err != nil {
					t.Fatalf("%s, %s: %v", l.title, class, err)
				}
				l.took[class] = append(l.took[class], time.Since(began))
				location = sealed.FindString(string(w.head))
				said := sealed.ReplaceAllString(datePattern.ReplaceAllString(string(w.head), "DATE")+string(w.body), fmt.Sprint(len(location)))
				if like[l] == "" {
					like[l] = said
				}
				if said != like[l] {
					a, b := firstDifference(said, like[l])
					t.Fatalf("%s: %s is answered\n%s\nand another\n%s", l.title, class, a, b)
				}
				if strings.Contains(said, "secret-token") {
					t.Fatalf("%s: %s: the answer repeats the token", l.title, class)
				}
				return location
			}
			for _, class := range shuffled(n, real, revoked, never) {
				if x := asks(links, class, strings.ReplaceAll(form, "TOKEN", tokens[class])); x != "" {
					asks(pages, class, "/-/go?"+x)
				}
			}
			if *samples > 0 {
				for _, l := range []*ledger{links, pages} {
					if len(l.took) > 0 {
						l.report(real, revoked, never)
					}
				}
			}
		}
	}
}
