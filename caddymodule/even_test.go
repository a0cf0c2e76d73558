//go:build servers

package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Others can measure the time of each Redis request. So the gate makes the same number of requests
// whether or not a token, password or code exists.
func TestRedisRequestsDontDependOnWhetherAContactExists(t *testing.T) {
	rs, m := startRedis(t), startMailServer(t)
	app := m.app() + "\n"
	app += rs.lines(t, app, t.TempDir())
	h := openHouse(t, layout{global: behindProxy, app: app, firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.upgrade("acme")
	h.holds("ann@example.com", annsPassword)
	nobody, stranger := h.browser(), h.in("nameless@example.com")
	asked, unknown := h.browser(), h.browser()
	asked.send("/-/sign-in", url.Values{"email": {"bob@example.com"}})
	unknown.send("/-/sign-in", url.Values{"email": {"stranger@example.net"}})
	h.nextLetter("bob@example.com", 0)
	form := func(b *browser, path, token string) func() {
		return func() { b.send(path, url.Values{"client": {token}}) }
	}
	n := 0
	password := func(email string) func() {
		return func() {
			n++
			h.browser().at(fmt.Sprintf("203.0.%d.1", n)).manually(email, wrongOne)
		}
	}
	const real, invented = "acme-secret-token-1", "acme-secret-token-9"
	for name, c := range map[string]struct{ somebody, nobody func() }{
		"a token in the query of an open page":       {func() { nobody.open("/assets/x?client=" + real) }, func() { nobody.open("/assets/x?client=" + invented) }},
		"a token of another company":                 {func() { stranger.open("/x?client=" + real) }, func() { stranger.open("/x?client=" + invented) }},
		"one in another case":                        {func() { stranger.open("/x?client=" + strings.ToUpper(real)) }, func() { stranger.open("/x?client=" + strings.ToUpper(invented)) }},
		"a token in a form":                          {form(nobody, "/assets/x", real), form(nobody, "/assets/x", invented)},
		"a token in a cookie":                        {func() { stranger.open("/x", "Cookie", "client="+real) }, func() { stranger.open("/x", "Cookie", "client="+invented) }},
		"a password":                                 {password("ann@example.com"), password("stranger@example.net")},
		"a password of somebody without":             {password("bob@example.com"), password("stranger@example.net")},
		"a password of somebody who is switched off": {password("eve@example.com"), password("stranger@example.net")},
		"a code": {func() { asked.send("/-/code", url.Values{"code": {"aaaa-aaaa"}}) },
			func() { unknown.send("/-/code", url.Values{"code": {"aaaa-aaaa"}}) }},
	} {
		if somebody, nobody := rs.asked(t, c.somebody), rs.asked(t, c.nobody); somebody != nobody {
			t.Errorf("%s: Redis is asked %d times, and %d times where there is none", name, somebody, nobody)
		}
	}
}

// asked returns how many of our scripts the server runs for a request, without scripts that run in
// the background: the minimum of four runs.
func (s *redisServer) asked(t *testing.T, request func()) int {
	t.Helper()
	fewest := 1 << 30
	for range 4 {
		before := s.scripts(t)
		request()
		fewest = min(fewest, s.scripts(t)-before)
	}
	return fewest
}

var scriptCalls = regexp.MustCompile(`cmdstat_evalsha(?:_ro)?:calls=([0-9]+)`)

// scripts returns how many scripts the servers have run.
func (s *redisServer) scripts(t *testing.T) (n int) {
	t.Helper()
	for _, address := range s.addresses() {
		n += scriptsAt(t, address)
	}
	return n
}

func scriptsAt(t *testing.T, address string) (n int) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "INFO commandstats\r\n")
	in := bufio.NewReader(conn)
	size, err := in.ReadString('\n')
	length, err2 := strconv.Atoi(strings.Trim(size, "$\r\n"))
	if err != nil || err2 != nil {
		t.Fatalf("INFO = %q, %v", size, err)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(in, text); err != nil {
		t.Fatal(err)
	}
	for _, m := range scriptCalls.FindAllSubmatch(text, -1) {
		calls, _ := strconv.Atoi(string(m[1]))
		n += calls
	}
	return n
}
