package caddymodule_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// lostStore is a house whose store is about to be lost: acme is upgraded, birch is open and cached
// as open, and Ann is signed in.
type lostStore struct {
	*house
	log logFile
	ann *browser
}

func openLostStore(t *testing.T, firm string) *lostStore {
	t.Helper()
	s := &lostStore{log: newLogFile(t)}
	m := startMailServer(t)
	s.house = openHouse(t, layout{global: s.log.global, app: m.app(), firm: oldLinks + "\n" + firm, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(s.house)
	s.upgrades(admin.Upgrade{Companies: []string{"acme"}})
	if a := s.browser().open("/one-click/birch-secret-token/x"); a.StatusCode != 200 {
		t.Fatalf("birch's old link, while it is open = %d; want 200", a.StatusCode)
	}
	s.ann = s.browser()
	s.ann.signIn("ann@example.com")
	if a := s.ann.open("/portal/acme/x"); a.StatusCode != 200 {
		t.Fatalf("Ann's page = %d; want 200", a.StatusCode)
	}
	return s
}

// upgrades does what caddy doorpost upgrade does, after the contacts are loaded.
func (s *lostStore) upgrades(in admin.Upgrade) {
	s.t.Helper()
	s.eventually("the upgrade is done", func() bool {
		out, err := s.office().Upgrade(s.t.Context(), "example", in)
		return err == nil && len(out.Refused) == 0
	})
}

// dbPath returns the path of the embedded store.
func (h *house) dbPath() string { return h.path("data/doorpost/doorpost.db") }

// stop ends the Caddy of this process.
func (h *house) stop() {
	h.t.Helper()
	if err := caddy.Stop(); err != nil {
		h.t.Fatal(err)
	}
}

// does sends one command to each Redis server; replicas may refuse it.
func (s *redisServer) does(t *testing.T, words ...string) {
	t.Helper()
	for _, address := range s.addresses() {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " "))
		line, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if err != nil || strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "-READONLY") {
			t.Fatalf("%v = %q, %v", words, line, err)
		}
	}
}

// empty empties the store: the file is moved away while Caddy is stopped, or the server's data is
// deleted while the gate runs.
func (s *lostStore) empty() {
	s.t.Helper()
	if s.redis != nil {
		s.redis.does(s.t, "FLUSHALL")
		return
	}
	s.stop()
	if err := os.Rename(s.dbPath(), s.dbPath()+".lost"); err != nil {
		s.t.Fatal(err)
	}
	s.start()
}

// wantUntrusted checks the responses while the store isn't trusted.
func (s *lostStore) wantUntrusted(when string) {
	s.t.Helper()
	_, before := s.portal.last()
	stranger := s.browser()
	wantAway := func(what string, a answer) {
		s.t.Helper()
		if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || len(a.Header["Set-Cookie"]) > 0 {
			s.t.Errorf("%s: %s = %d, Retry-After %q, Set-Cookie %q; want 503 and the cookies as they are", when, what, a.StatusCode, a.Header.Get("Retry-After"), a.Header["Set-Cookie"])
		}
	}
	wantAway("Ann's page", s.ann.open("/portal/acme/x"))
	wantAway("a page with an unknown cookie", stranger.open("/portal/acme/x", "Cookie", "portal="+strings.Repeat("x", 43)))
	wantAway("asking for a link", stranger.send("/-/sign-in", url.Values{"email": {"ann@example.com"}, "to": {"/"}}))
	wantAway("a link", stranger.open("/-/link?t="+strings.Repeat("x", 43)))
	wantAway("health", stranger.open("/-/health"))
	for _, token := range []string{"acme-secret-token-1", "birch-secret-token", "no-token-at-all"} {
		if a := stranger.open("/one-click/" + token + "/x"); a.StatusCode != 302 || !goneForm.MatchString(goes(a)) {
			s.t.Errorf("%s: the old link with %s = %d to %q; want 302 to /-/go", when, token, a.StatusCode, goes(a))
		} else if a := stranger.open(goes(a)); a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) {
			s.t.Errorf("%s: where the old link leads = %d; want the prompt", when, a.StatusCode)
		}
		if a := stranger.open("/view?client=" + token); a.StatusCode != 302 || !goneForm.MatchString(goes(a)) {
			s.t.Errorf("%s: the old link by query with %s = %d to %q; want 302 to /-/go", when, token, a.StatusCode, goes(a))
		}
		if a := stranger.open("/one-click/"+token+"/x", "Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"); a.StatusCode != 401 {
			s.t.Errorf("%s: the old link with %s, fetched by a script = %d; want 401", when, token, a.StatusCode)
		}
	}
	// The tokens are unknown now, so a public page receives nothing that may be one, wherever the
	// portal looks for it.
	for _, token := range []string{"acme-secret-token-1", "no-token-at-all"} {
		a := stranger.do(stranger.request("GET", "/assets/site.css?v=1&k="+token, nil, "X-Key", token, "Cookie", "k="+token, "Authorization", "Bearer "+token, "Range", "bytes=0-9"))
		if got, _ := s.portal.last(); a.StatusCode != 200 || strings.Contains(fmt.Sprint(got), token) || got.Header.Get("Range") == "" {
			s.t.Errorf("%s: a public page = %d, and the portal gets %v; want 200, and its path alone", when, a.StatusCode, got)
		}
		wantAway("a form for a public page", stranger.do(stranger.request("POST", "/assets/form", strings.NewReader("k="+token), "Content-Type", "text/plain", "Sec-Fetch-Site", "same-origin", "Origin", s.url)))
	}
	if _, after := s.portal.last(); after != before+2 {
		s.t.Errorf("%s: the portal saw %d requests; want those of the public page alone", when, after-before)
	}
	_, err := s.office().Contacts(s.t.Context(), "example", admin.ListContacts{})
	if e, ok := errors.AsType[*admin.Error](err); !ok || e.Status != 503 || !strings.Contains(e.Remedy, "caddy doorpost store accept") {
		s.t.Errorf("%s: contacts list = %v; want it refused, with what to type", when, err)
	}
}

// diagnosis returns the doctor's findings, except those about the tokens of old links, which are
// words in these tests.
func (h *house) diagnosis() admin.Diagnosis {
	h.t.Helper()
	d, err := h.office().Doctor(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	d.Findings = slices.DeleteFunc(d.Findings, func(f admin.Finding) bool { return f.Check == "tokens" })
	d.OK = !slices.ContainsFunc(d.Findings, func(f admin.Finding) bool { return !f.OK })
	return d
}

// untrusted waits until the loss was noticed, and returns why the store isn't trusted.
func (s *lostStore) untrusted() (what string) {
	s.t.Helper()
	s.eventually("the loss is noticed", func() bool {
		return s.browser().open("/-/health").StatusCode == 503 && !s.diagnosis().OK
	})
	d := s.diagnosis()
	for _, f := range d.Findings {
		if f.Check == "store" {
			what = f.What
			if f.OK || f.Firm != "example" || !strings.Contains(f.Do, "caddy doorpost store accept --firm example") {
				s.t.Errorf("the doctor finds %+v; want what to type", f)
			}
		}
	}
	if d.OK {
		s.t.Errorf("the doctor finds %+v; want something wrong", d)
	}
	if text := s.log.text(s.t); !strings.Contains(text, "the store isn't trusted") || !strings.Contains(text, "caddy doorpost store accept --firm example") {
		s.t.Error("the log doesn't say what happened and what to type")
	}
	return what
}

// accepted accepts the store, and waits until the files are loaded.
func (s *lostStore) accepted(reopen bool) admin.StoreAccepted {
	s.t.Helper()
	done, err := s.office().AcceptStore(s.t.Context(), "example", admin.AcceptStore{Reopen: reopen})
	if err != nil {
		s.t.Fatalf("store accept: %v", err)
	}
	s.settled()
	s.eventually("contacts and companies are there", func() bool {
		contacts, err1 := s.office().Contacts(s.t.Context(), "example", admin.ListContacts{ListRequest: admin.ListRequest{Text: "ann@example.com"}})
		companies, err2 := s.office().Companies(s.t.Context(), "example", admin.ListRequest{Text: "birch"})
		return err1 == nil && err2 == nil && len(contacts.Contacts) > 0 && len(companies.Companies) > 0
	})
	if d := s.diagnosis(); !d.OK {
		s.t.Errorf("the doctor, after the store was accepted: %+v; want nothing wrong", d)
	}
	return done
}

// wantOld checks that the old link of each company is open, or asks for sign-in.
func (h *house) wantOld(when string, open map[string]bool) {
	h.t.Helper()
	for token, open := range open {
		a := h.browser().open("/one-click/" + token + "/x")
		if open && a.StatusCode != 200 || !open && (a.StatusCode != 302 || !goneForm.MatchString(goes(a))) {
			h.t.Errorf("%s: the old link with %s = %d to %q; want it open: %v", when, token, a.StatusCode, goes(a), open)
		}
	}
}

// A data loss doesn't give access to a person who has an old link of an upgraded company.
func TestUpgradedLinksStayClosedWhenTheStoreIsLost(t *testing.T) {
	s := openLostStore(t, "")
	s.empty()
	if what := s.untrusted(); !strings.Contains(what, "has no records of firm example any more") {
		t.Errorf("the doctor says %q; want that the store is empty", what)
	}
	s.wantUntrusted("with an empty store")
	s.start() // a reload
	s.wantUntrusted("after a reload")
	s.stop()
	s.start()
	s.wantUntrusted("after a restart")

	if done := s.accepted(false); !slices.Equal(done.Upgraded, []string{"acme"}) {
		t.Errorf("store accept = %+v; want that acme stays upgraded", done)
	}
	closed := map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true}
	s.wantOld("after store accept", closed)
	if a := s.ann.open("/portal/acme/x"); a.StatusCode != 401 {
		t.Errorf("Ann's page, after an empty store was accepted = %d; want 401", a.StatusCode)
	}
	s.browser().signIn("ann@example.com")
	s.stop()
	s.start()
	s.settled()
	s.wantOld("after the next restart", closed)
	s.upgrades(admin.Upgrade{Companies: []string{"acme"}, Undo: true})
	s.wantOld("after upgrade --undo", map[string]bool{"acme-secret-token-1": true})
	s.upgrades(admin.Upgrade{Companies: []string{"acme"}})
	s.wantOld("after upgrade", closed)
}

func TestStoreAcceptReopensOnRequest(t *testing.T) {
	s := openLostStore(t, "")
	s.empty()
	s.untrusted()
	s.accepted(true)
	s.wantOld("after store accept --reopen", map[string]bool{"acme-secret-token-1": true, "birch-secret-token": true})
}

// After upgrade --all, a company that a file adds again is upgraded, too.
func TestUpgradeOfAllSurvivesTheStore(t *testing.T) {
	s := openLostStore(t, "")
	companies := []string{"acme", "birch", "cedar"}
	if _, err := s.office().SetContact(t.Context(), "example", "ann@example.com", directory.Change{Companies: &companies}); err != nil {
		t.Fatal(err)
	}
	s.upgrades(admin.Upgrade{All: true})
	s.empty()
	s.untrusted()
	if done := s.accepted(false); !done.AllUpgraded {
		t.Errorf("store accept = %+v; want that all stay upgraded", done)
	}
	s.wantOld("after store accept", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
}

// With everything lost, including the secret, it looks like a new installation; then the
// configuration decides.
func TestUpgradedInTheCaddyfileSurvivesTotalLoss(t *testing.T) {
	s := openLostStore(t, "upgraded acme")
	_, err := s.office().Upgrade(t.Context(), "example", admin.Upgrade{Companies: []string{"acme"}, Undo: true})
	if e, ok := errors.AsType[*admin.Error](err); !ok || e.Status != 409 || !strings.Contains(e.Reason, "under upgraded in the Caddyfile") {
		t.Errorf("upgrade --undo = %v; want it refused", err)
	}
	s.stop()
	if s.redis != nil {
		s.redis.does(t, "FLUSHALL")
	}
	if err := os.RemoveAll(s.path("data")); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.settled()
	s.eventually("the companies are there", func() bool { return s.browser().open("/one-click/birch-secret-token/x").StatusCode == 200 })
	s.wantOld("after total loss", map[string]bool{"acme-secret-token-1": false})
	if s.redis == nil && !strings.Contains(s.log.text(t), "made a new secret and an empty store") {
		t.Error("the log doesn't say that secret and store are new")
	}
	s.change("upgraded acme", "upgraded all")
	s.wantOld("with upgraded all", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
}

// A copy of the store from before an upgrade, put in its place manually.
func TestAnOlderStoreIsNoticed(t *testing.T) {
	s := openLostStore(t, "")
	s.stop()
	var putBack func()
	if s.redis != nil {
		putBack = s.redis.keep(t)
		s.start()
	} else {
		old, err := os.ReadFile(s.dbPath())
		if err != nil {
			t.Fatal(err)
		}
		putBack = func() {
			s.stop()
			if err := os.WriteFile(s.dbPath(), old, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.start()
	}
	s.settled()
	s.upgrades(admin.Upgrade{Companies: []string{"birch"}})
	if _, err := s.office().DisableContact(t.Context(), "example", "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.office().RevokeSessions(t.Context(), "example", "ann@example.com"); err != nil {
		t.Fatal(err)
	}
	if s.redis != nil {
		s.noted()
	}
	putBack()
	if s.redis == nil {
		s.start()
	}
	if what := s.untrusted(); !strings.Contains(what, "is older than last time") {
		t.Errorf("the doctor says %q; want that the store is older", what)
	}
	s.wantUntrusted("with an older store")
	if done := s.accepted(false); !slices.Equal(done.Upgraded, []string{"acme", "birch"}) || done.SessionsEnded != 1 {
		t.Errorf("store accept = %+v; want that birch stays upgraded, and that Ann's session has ended", done)
	}
	s.wantOld("after store accept", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
	if a := s.ann.open("/portal/acme/x"); a.StatusCode != 401 {
		t.Errorf("Ann's page, whose session was revoked before the older store came = %d; want 401", a.StatusCode)
	}
}

// An accept that doesn't finish, because of a kill or a client that disconnects, leaves a store
// that isn't trusted, neither on this machine after a restart, nor on another one.
func TestAnInterruptedStoreAcceptOpensNothing(t *testing.T) {
	s := openLostStore(t, "")
	var older []store.Op
	for _, bucket := range []string{"beat", "contact", "sessions", "roster"} {
		for _, rec := range s.records(bucket) {
			older = append(older, store.Put(rec.Key, rec.Value, rec.Expires))
		}
	}
	if _, err := s.office().RevokeSessions(t.Context(), "example", "ann@example.com"); err != nil {
		t.Fatal(err)
	}
	s.eventually("the change is counted", func() bool { return !bytes.Equal(s.records("beat")[0].Value, older[0].Value) })
	if s.redis != nil {
		s.noted()
	}
	whole := s.records("company")[2]
	damaged := bytes.Clone(whole.Value)
	damaged[len(damaged)-1] ^= 1
	s.overwrite(append(older, store.Put(whole.Key, damaged, whole.Expires))...)
	s.untrusted()

	if done, err := s.office().AcceptStore(t.Context(), "example", admin.AcceptStore{}); err == nil {
		t.Fatalf("store accept with a record that can't be read = %+v; want an error", done)
	}
	s.stop()
	s.start()
	if what := s.untrusted(); !strings.Contains(what, "is being accepted, or that was interrupted") {
		t.Errorf("the doctor says %q; want that the accept was interrupted", what)
	}
	s.wantUntrusted("after an accept that was interrupted")

	s.overwrite(store.Put(whole.Key, whole.Value, whole.Expires))
	if done := s.accepted(false); done.SessionsEnded != 1 {
		t.Errorf("store accept = %+v; want that Ann's session has ended", done)
	}
	if a := s.ann.open("/portal/acme/x"); a.StatusCode != 401 {
		t.Errorf("Ann's page, whose session was revoked before the older store came = %d; want 401", a.StatusCode)
	}
}

// If one of the files outside the store is lost, the other one still counts; if it is no longer
// known which companies were upgraded, all are.
func TestUpgradedLinksStayClosedWhenAnAnchorFileIsDamaged(t *testing.T) {
	cut := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Truncate(path, 10); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, file string
		harm       func(*testing.T, string)
		all        bool // every company is upgraded
	}{
		{"what was seen of the store", "example", cut, false},
		{"what was upgraded", "example.upgraded", cut, true},
		{"what was upgraded, gone", "example.upgraded", remove, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openLostStore(t, "")
			anchor := s.path("data/doorpost/anchor")
			if s.redis != nil {
				s.noted()
			}
			s.stop()
			test.harm(t, anchor+"/"+test.file)
			if test.all { // the store has it, too
				s.start()
				s.settled()
				s.wantOld("with the right store", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true})
				s.stop()
				test.harm(t, anchor+"/"+test.file)
			}
			if s.redis != nil {
				s.redis.does(t, "FLUSHALL")
			} else if err := os.Rename(s.dbPath(), s.dbPath()+".lost"); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.untrusted()
			s.wantUntrusted("without " + test.file)
			if done := s.accepted(false); done.AllUpgraded != test.all {
				t.Errorf("store accept = %+v; want that all are upgraded: %v", done, test.all)
			}
			s.wantOld("after store accept", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": !test.all})
		})
	}
}

// noted waits until changes on a Redis server count as seen: the server may lose changes that it
// has just acknowledged.
func (s *lostStore) noted() {
	s.t.Helper()
	time.Sleep(2200 * time.Millisecond) // two checks
	caddymodule.Advance(s.t, 10*time.Second)
	time.Sleep(1200 * time.Millisecond)
}

// Another store of the same firm: another path, or another database of the server.
func TestAnotherStoreIsNoticed(t *testing.T) {
	s := openLostStore(t, "")
	var was, other string
	if s.redis != nil {
		was, other = s.redis.other(t)
		s.change(was, other)
	} else {
		s.change("doorpost {\n\t\tmail", "doorpost {\n\t\tstore bolt "+s.path("other.db")+"\n\t\tmail")
	}
	s.untrusted()
	s.wantUntrusted("with another store")
	s.accepted(false)
	s.wantOld("after store accept", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true})
	if s.redis != nil {
		s.change(other, was)
	} else {
		s.change("store bolt "+s.path("other.db"), "store bolt")
	}
	s.untrusted()
	s.wantUntrusted("with the first store again, after another one was accepted")
}

// A new installation, with an upgrade, a restart and a reload, needs no confirmation.
func TestNothingIsAskedWhereNothingWasLost(t *testing.T) {
	s := openLostStore(t, "")
	for _, again := range []func(){s.start, func() { s.stop(); s.start() }, func() { s.stop(); s.start() }} {
		again()
		s.settled()
		if a := s.ann.open("/portal/acme/x"); a.StatusCode != 200 {
			t.Errorf("Ann's page, after it was started again = %d; want 200", a.StatusCode)
		}
		s.wantOld("started again", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true})
	}
	if d := s.diagnosis(); !d.OK || len(d.Findings) == 0 {
		t.Errorf("the doctor finds %+v; want nothing wrong", d)
	}
	_, err := s.office().AcceptStore(t.Context(), "example", admin.AcceptStore{})
	if e, ok := errors.AsType[*admin.Error](err); !ok || e.Status != 409 || !strings.Contains(e.Reason, "nothing to accept") {
		t.Errorf("store accept = %v; want it refused: there is nothing to accept", err)
	}
	if strings.Contains(s.log.text(t), "isn't trusted") {
		t.Error("the log speaks of a store that isn't trusted")
	}
}

// A restore doesn't open links that were upgraded since the backup, and the next start needs no
// confirmation.
func TestRestoreKeepsUpgradesClosed(t *testing.T) {
	s := openLostStore(t, "")
	if s.redis != nil {
		t.Skip("a Redis server has copies of its own")
	}
	s.command("backup", s.path("copy.db"))
	s.upgrades(admin.Upgrade{Companies: []string{"birch"}})
	if _, err := s.office().RevokeSessions(t.Context(), "example", "ann@example.com"); err != nil {
		t.Fatal(err)
	}
	restore := func(args ...string) string {
		t.Helper()
		s.stop()
		cmd := s.caddy()
		cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join(append([]string{"doorpost", "restore", s.path("copy.db"), "--store", s.dbPath()}, args...), "\n"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("restore: %v\n%s", err, out)
		}
		s.start()
		s.settled()
		if a := s.ann.open("/portal/acme/x"); a.StatusCode != 401 {
			t.Errorf("Ann's page, whose session was revoked after the copy was made = %d; want 401", a.StatusCode)
		}
		if d := s.diagnosis(); !d.OK {
			t.Errorf("the doctor, after restore: %+v; want nothing wrong", d)
		}
		return string(out)
	}
	if out := restore(); !strings.Contains(out, "they stay upgraded: birch.") {
		t.Errorf("restore says\n%s\nwant that birch stays upgraded", out)
	}
	s.wantOld("after restore", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
	s.stop()
	s.start()
	s.settled() // the confirmation was for one start
	if out := restore("--reopen"); !strings.Contains(out, "open again: birch.") {
		t.Errorf("restore --reopen says\n%s\nwant that birch opens again", out)
	}
	s.wantOld("after restore --reopen", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true})
}

// One data folder may serve several stores: a copy of one says nothing about another.
func TestRestoreLeavesOtherStoresAlone(t *testing.T) {
	s := openLostStore(t, "")
	if s.redis != nil {
		t.Skip("a Redis server has copies of its own")
	}
	s.command("backup", s.path("copy.db"))
	s.config = strings.NewReplacer("doorpost example {", "doorpost other {", "doorpost {", "doorpost {\n\t\tstore bolt "+s.path("other.db")).Replace(s.config)
	s.start()
	s.settled()
	bob := s.browser()
	bob.signIn("bob@example.com")
	s.stop()
	cmd := s.caddy()
	cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join([]string{"doorpost", "restore", s.path("copy.db"), "--store", s.dbPath()}, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	s.start()
	s.settled()
	if a := bob.open("/portal/acme/x"); a.StatusCode != 200 {
		t.Errorf("Bob's page, whose session is in another store than the one that was restored = %d; want 200", a.StatusCode)
	}
}

// The file of the embedded store is removed while the gate runs: later changes would be lost at the
// next start.
func TestTheStoreIsWatchedWhileItIsOpen(t *testing.T) {
	s := openLostStore(t, "")
	if s.redis != nil {
		t.Skip("a Redis server has no file that is open here")
	}
	aside := s.path("data/aside")
	for name, take := range map[string]func() error{
		"moved away": func() error { return os.Rename(s.path("data/doorpost"), aside) },
		"replaced": func() error {
			data, err := os.ReadFile(s.dbPath())
			return errors.Join(err, os.Rename(s.dbPath(), aside), os.WriteFile(s.dbPath(), data, 0o600))
		},
	} {
		if err := take(); err != nil {
			t.Fatal(err)
		}
		s.eventually("it is noticed that the file was "+name, func() bool { return s.browser().open("/-/health").StatusCode == 503 })
		if a := s.ann.open("/portal/acme/x"); a.StatusCode != 503 || len(a.Header["Set-Cookie"]) > 0 {
			t.Errorf("%s: Ann's page = %d, Set-Cookie %q; want 503", name, a.StatusCode, a.Header["Set-Cookie"])
		}
		s.wantOld(name, map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
		if d := s.diagnosis(); d.OK || !strings.Contains(d.Findings[0].What, "while it was open") {
			t.Errorf("%s: the doctor finds %+v; want what happened to the file", name, d)
		}
		if _, err := s.office().AcceptStore(t.Context(), "example", admin.AcceptStore{}); err == nil {
			t.Errorf("%s: store accept = nil; want it refused: the next start would see another file", name)
		}
		back := s.dbPath()
		if name == "moved away" {
			back = s.path("data/doorpost")
		}
		if err := os.Rename(aside, back); err != nil {
			if err = os.RemoveAll(back); err == nil { // made again in the meantime
				err = os.Rename(aside, back)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.settled()
		if a := s.ann.open("/portal/acme/x"); a.StatusCode != 200 {
			t.Errorf("%s, and put back: Ann's page = %d; want 200", name, a.StatusCode)
		}
	}
}

// A firm under another name is another firm; a warning names the previous one.
func TestFirmThatNoSiteNamesIsReported(t *testing.T) {
	s := openLostStore(t, "")
	s.change("doorpost example {", "doorpost renamed {")
	if text := s.log.text(t); !strings.Contains(text, "the store holds a firm that no site names") {
		t.Error("the log doesn't tell of the firm that no site names")
	}
	found := false
	for _, f := range s.diagnosis().Findings {
		found = found || f.Firm == "example" && !f.OK && strings.Contains(f.Do, "doorpost example")
	}
	if !found {
		t.Errorf("the doctor finds %+v; want the firm that no site names", s.diagnosis())
	}
}

// The records of a firm that was removed from the Caddyfile aren't resealed, so the doctor doesn't
// say that the older secret is unnecessary.
func TestAFirmThatNoSiteNamesKeepsTheOlderSecret(t *testing.T) {
	log, dir := newLogFile(t), t.TempDir()
	s1, s2 := "secret {file."+dir+"/s1}", "secret {file."+dir+"/s2}"
	for _, name := range []string{"s1", "s2"} {
		if err := os.WriteFile(dir+"/"+name, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := "http://" + freeAddress(t)
	more := fmt.Sprintf("%s {\n doorpost other {\n url %s\n brand {\n name Other\n from other@example.org\n }\n staff ann@example.com\n }\n respond ok\n}", other, other)
	h := openHouse(t, layout{global: log.global, app: startMailServer(t).app() + "\n\t\t" + s1, admin: freeAddress(t), more: more})
	wants := func(when string, needed bool) {
		t.Helper()
		h.eventually(when+", the firm that is served is sealed anew", func() bool {
			return slices.ContainsFunc(h.diagnosis().Findings, func(f admin.Finding) bool {
				return f.Check == "secret" && f.Firm == "example" && strings.Contains(f.What, "sealed with the newest secret") && !strings.Contains(f.What, "being")
			})
		})
		told := slices.ContainsFunc(h.diagnosis().Findings, func(f admin.Finding) bool {
			return f.Check == "secret" && f.Firm == "other" && !f.OK && strings.Contains(f.What, "older secret")
		})
		if told != needed {
			t.Errorf("%s, the doctor finds %+v; want a word on the other firm: %t", when, h.diagnosis().Findings, needed)
		}
	}
	h.change(more, "")
	h.change(s1, s2+" {file."+dir+"/s1}")
	wants("with the firm taken out", true)
	const needless = "the older ones can be taken out"
	h.eventually("the log names it", func() bool { return strings.Contains(log.text(t), `"firms":["other"]`) })
	if strings.Contains(log.text(t), needless) {
		t.Error("the log says that the older secret can be taken out")
	}
	h.config += more
	h.start()
	h.eventually("the log says that nothing needs the older secret", func() bool { return strings.Contains(log.text(t), needless) })
	wants("with the firm named again", false)
}

// Files in their old location are moved out of Caddy's folder, and stay in use.
func TestFilesAreMovedOutOfCaddysFolder(t *testing.T) {
	s := openLostStore(t, "")
	s.stop()
	for _, name := range []string{"doorpost.db", "secret"} {
		if err := errors.Join(os.MkdirAll(s.path("data/caddy/doorpost"), 0o700), rename(s.path("data/doorpost/"+name), s.path("data/caddy/doorpost/"+name))); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	s.settled()
	if a := s.ann.open("/portal/acme/x"); a.StatusCode != 200 {
		t.Errorf("Ann's page, after the files were moved = %d; want 200", a.StatusCode)
	}
	earlier := s.path("data/caddy/doorpost/doorpost.db")
	left, _ := os.ReadDir(s.path("data/caddy/doorpost"))
	if s.redis == nil { // an earlier release must not start there with an empty store
		if len(left) != 1 || !bolt.Moved(earlier) {
			t.Errorf("in Caddy's folder there is %v still; want what an earlier release refuses", left)
		}
		if _, err := bolt.Open(earlier, bolt.Options{}); !errors.Is(err, bolt.ErrNewer) {
			t.Errorf("opening the store at the earlier place = %v; want it refused", err)
		}
		s.stop()
		s.start()
		s.settled()
		if a := s.ann.open("/portal/acme/x"); a.StatusCode != 200 || strings.Contains(s.log.text(t), "is ignored, since there is one at the new place") {
			t.Errorf("Ann's page after one more start = %d; want 200, and not a word of the earlier place", a.StatusCode)
		}
	}
	if s.redis == nil && strings.Count(s.log.text(t), "a file was moved out of Caddy's folder") != 2 {
		t.Error("the log doesn't tell of both files")
	}
}

// rename is os.Rename for a file that may not exist.
func rename(from, to string) error {
	if err := os.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// validate checks the house's config as caddy validate does, beside the running one.
func (h *house) validate() error {
	h.t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(h.config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		h.t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		h.t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

// A store of an earlier release is converted, and a copy of its old state is kept: the earlier
// release refuses the converted store.
func TestAStoreOfAnEarlierReleaseIsTakenOver(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global, app: startMailServer(t).app(), admin: freeAddress(t)})
	canary := store.Key{Bucket: "doorpost", ID: "canary"}
	version := func(s store.Store) byte {
		t.Helper()
		rec, err := s.Get(t.Context(), canary)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Value[0]
	}
	now := version(caddymodule.OpenStore(t))
	rec, err := caddymodule.OpenStore(t).Get(t.Context(), canary)
	if err != nil {
		t.Fatal(err)
	}
	h.overwrite(store.Put(canary, append([]byte{1}, rec.Value[1:]...), time.Time{}))
	h.overwrite(store.Put(recordKey("session", "of an earlier release"), []byte("1{}"), time.Now().Add(time.Hour)))
	h.stop()
	for range 2 {
		h.start()
		h.settled()
		if v := version(caddymodule.OpenStore(t)); v != now || v == 1 {
			t.Errorf("the store has version %d; want %d, which isn't 1", v, now)
		}
		h.stop()
	}
	for _, said := range []string{"the store of an earlier Doorpost was taken over", "everybody signs in once more"} {
		if n := strings.Count(log.text(t), said); n != 1 {
			t.Errorf("the log says %d times %q; want once", n, said)
		}
	}
	kept := h.dbPath() + ".version-1"
	if h.redis != nil {
		if strings.Contains(log.text(t), ".version-1") {
			t.Error("the log names a copy of the Redis server's data")
		}
		return
	}
	info, err := os.Stat(kept)
	if err != nil {
		t.Fatalf("there is no copy: %v", err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("the copy has mode %o; want 600", mode)
	}
	if !strings.Contains(log.text(t), "caddy doorpost restore "+kept) {
		t.Error("the log doesn't say how to go back")
	}
	copied, err := bolt.Open(kept, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if v := version(copied); v != 1 {
		t.Errorf("the copy has version %d; want 1", v)
	}
}

// After going back to an earlier release and updating again, there is a copy of the latest state of
// that release, not only of an old one.
func TestEachTakeOverKeepsACopy(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global, app: startMailServer(t).app(), admin: freeAddress(t)})
	if h.redis != nil {
		t.Skip("nobody copies a Redis server's data")
	}
	canary := store.Key{Bucket: "doorpost", ID: "canary"}
	since := store.Key{Firm: "example", Bucket: "since", ID: "the first update"}
	for n, name := range []string{".version-1", ".version-1.2"} {
		rec, err := caddymodule.OpenStore(t).Get(t.Context(), canary)
		if err != nil {
			t.Fatal(err)
		}
		h.overwrite(store.Put(canary, append([]byte{1}, rec.Value[1:]...), time.Time{}))
		if n > 0 {
			h.overwrite(store.Put(since, []byte("1"), time.Time{}))
		}
		h.stop()
		h.start()
		h.settled()
		kept := h.dbPath() + name
		if !strings.Contains(log.text(t), "caddy doorpost restore "+kept+" --store") {
			t.Fatalf("the log doesn't say how to go back to %s", kept)
		}
		copied, err := bolt.Open(kept, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = copied.Get(t.Context(), since)
		if has := err == nil; has != (n > 0) {
			t.Errorf("%s has what was changed after the first update: %t; want %t", kept, has, n > 0)
		}
		if err := copied.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// sealedAnew waits until the doctor says that nothing needs an older secret.
func (h *house) sealedAnew() {
	h.t.Helper()
	h.eventually("everything is sealed with the newest secret", func() bool {
		for _, f := range h.diagnosis().Findings {
			if f.Check == "secret" {
				return strings.HasPrefix(f.What, "everything is sealed with the newest secret")
			}
		}
		return false
	})
}

// Removing a secret must not stop the gate, and people remove a leaked one at once.
func TestSecretsChangeWithoutASignIn(t *testing.T) {
	for name, between := range map[string]func(h *house){
		"while nobody comes":      func(*house) {},
		"with reload and restart": func(h *house) { h.start(); h.stop(); h.start() },
	} {
		t.Run(name, func(t *testing.T) {
			log := newLogFile(t)
			m := startMailServer(t)
			dir := t.TempDir()
			s1, s2 := "{file."+dir+"/s1}", "{file."+dir+"/s2}"
			for _, name := range []string{"s1", "s2"} {
				if err := os.WriteFile(dir+"/"+name, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			h := openHouse(t, layout{global: log.global, app: m.app() + "\n\t\tsecret " + s1, admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
			m.moveInto(h)
			ann, asking := h.browser(), h.browser()
			ann.signIn("ann@example.com")
			if a := ann.open("/x"); a.StatusCode != 200 {
				t.Fatalf("Ann's page = %d; want 200", a.StatusCode)
			}
			asking.ask("bob@example.com", "/")
			h.browser().manually("ann@example.com", "a wrong password, which is counted")
			if left := before(h, dir+"/s1"); len(left) < 8 {
				t.Fatalf("the older secret has sealed records in %v only", left)
			}

			refused := func(when string) {
				t.Helper()
				for what, err := range map[string]error{"validate": h.validate(), "a reload": h.load()} {
					if err == nil || !strings.Contains(err.Error(), "sealed with another secret") || !strings.Contains(err.Error(), "behind the new one") {
						t.Errorf("%s: %s = %v; want it refused, with the remedy", when, what, err)
					}
				}
				if a := ann.open("/x"); a.StatusCode != 200 {
					t.Errorf("%s: Ann's page = %d; want 200", when, a.StatusCode)
				}
			}
			config := h.config
			with := func(secrets string) { h.config = strings.Replace(config, "secret "+s1, "secret "+secrets, 1) }
			with(s2)
			refused("with the new secret alone")
			with(s2 + " " + s1)
			if err := h.validate(); err != nil {
				t.Errorf("validate with both = %v", err)
			}
			h.start()
			between(h)
			h.sealedAnew()
			h.eventually("the log says so", func() bool { return strings.Contains(log.text(t), "everything is sealed with the newest secret") })
			with(s2)
			if err := h.validate(); err != nil {
				t.Errorf("validate with the new secret alone, at the end = %v", err)
			}
			h.start()
			h.stop()
			if h.redis == nil {
				if left := sealedWith(t, h.dbPath(), dir+"/s1"); len(left) > 0 {
					t.Errorf("records that the older secret alone has sealed: %v; want none", left)
				}
			}
			h.start()
			h.settled()
			if a := ann.open("/x"); a.StatusCode != 200 || a.body != "portal: GET /x for ann@example.com" {
				t.Errorf("Ann's page, without the older secret = %d %q; want 200", a.StatusCode, a.body)
			}
			if a := ann.open("/-/jwks.json"); a.StatusCode != 200 {
				t.Errorf("the keys of assertions = %d; want 200", a.StatusCode)
			}
			if a := asking.open("/-/sent"); a.StatusCode != 200 || !strings.Contains(a.body, "bob@example.com") {
				t.Errorf("the sent page of the browser that asked before = %d; want 200 and its address", a.StatusCode)
			}
			asking.signIn("bob@example.com")
			h.browser().signIn("nameless@example.com")
			with(s1)
			refused("with the older secret alone, at the end")
		})
	}
}

// A refused reload changes nothing about the secrets, however far it came: the running config
// continues and can be started again, and a later change of the secret reaches everything.
func TestARefusedReloadSealsNothingWithItsSecret(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	dir := t.TempDir()
	s1, s2 := "{file."+dir+"/s1}", "{file."+dir+"/s2}"
	for _, name := range []string{"s1", "s2"} {
		if err := os.WriteFile(dir+"/"+name, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := openHouse(t, layout{global: log.global, app: m.app() + "\n\t\tsecret " + s1, admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	ann := h.browser()
	ann.signIn("ann@example.com")
	running := h.config
	with := func(secrets string) string { return strings.Replace(running, "secret "+s1, "secret "+secrets, 1) }

	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	h.config = strings.Replace(with(s2+" "+s1), h.url+" {", h.url+", "+busy.URL+" {", 1)
	h.write("contacts.csv", someContacts+"dana@example.com,,Dana,New,acme,,\n")
	for range 6 { // Caddy starts its apps in any order: in some of these it starts the gate first
		if err := h.load(); err == nil {
			t.Fatal("a reload onto a port that is taken succeeded; want it refused")
		}
	}
	h.eventually("the new contact is there", func() bool { _, ok := h.contact("dana@example.com"); return ok })
	h.browser().signIn("dana@example.com")

	h.config = running
	if err := h.validate(); err != nil {
		t.Errorf("validate of what runs = %v", err)
	}
	h.start()
	h.stop()
	h.start()
	h.settled()
	if a := ann.open("/x"); a.StatusCode != 200 {
		t.Errorf("Ann's page after a restart = %d; want 200", a.StatusCode)
	}
	if strings.Contains(log.text(t), "everything is sealed with the newest secret") {
		t.Error("the log says that everything is sealed with a secret that was never in use")
	}

	h.config = with(s2 + " " + s1)
	h.start()
	h.sealedAnew()
	h.config = with(s2)
	h.start()
	h.stop()
	if h.redis == nil {
		if left := sealedWith(t, h.dbPath(), dir+"/s1"); len(left) > 0 {
			t.Errorf("records that the older secret alone has sealed: %v; want none", left)
		}
	}
	h.start()
	h.settled()
	if a := ann.open("/x"); a.StatusCode != 200 {
		t.Errorf("Ann's page, without the older secret = %d; want 200", a.StatusCode)
	}
	h.browser().signIn("bob@example.com")
}

// before is sealedWith for a running house.
func before(h *house, secretPath string) []string {
	h.t.Helper()
	if h.redis != nil {
		return make([]string, 8)
	}
	h.stop()
	defer h.settled()
	defer h.start()
	return sealedWith(h.t, h.dbPath(), secretPath)
}

// sealedWith returns the buckets of an embedded store that have records sealed with the secret in
// the file.
func sealedWith(t *testing.T, path, secretPath string) (buckets []string) {
	t.Helper()
	value, err := os.ReadFile(secretPath)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.New(value)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err == nil {
		err = errors.Join(db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				if !bytes.HasSuffix(name, []byte("example")) {
					return nil
				}
				return b.ForEachBucket(func(name []byte) error { names = append(names, string(name)); return nil })
			})
		}), db.Close())
	}
	st, err2 := bolt.Open(path, bolt.Options{})
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	seen := 0
	for _, bucket := range names {
		recs, err := st.Scan(t.Context(), "example", bucket, "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			k := rec.Key
			if seen++; len(rec.Value) == 0 {
				continue
			}
			for _, as := range [][2]string{ // purpose, and context
				{"record/" + bucket, string(rec.Value[:1]) + k.Firm + "\x00" + bucket + "\x00" + k.ID},
				{"directory", k.Firm + "\x00" + bucket + "\x00" + k.ID},
				{"queue", k.Firm + "/" + bucket + "/" + k.ID},
				{"audit", k.Firm + "/" + bucket + "/" + k.ID},
				{"password", k.Firm + "/" + k.ID},
			} {
				if _, err := keys.Open(as[0], as[1], rec.Value[1:]); err == nil && !slices.Contains(buckets, bucket) {
					buckets = append(buckets, bucket)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("the store has %d records in %v; want those of a house in use", seen, names)
	}
	return buckets
}

// A browser whose mail request is under a lost secret can request again.
func TestAFlowUnderALostSecretBeginsAnew(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	b.ask("ann@example.com", "/")
	st := caddymodule.OpenStore(t)
	recs, err := st.Scan(t.Context(), "example", "flow", "", "", 10)
	if err != nil || len(recs) == 0 {
		t.Fatalf("the records of asking browsers: %d, %v", len(recs), err)
	}
	for _, rec := range recs { // as if another secret had sealed it
		rec.Value[len(rec.Value)-1] ^= 1
		if err := st.Apply(t.Context(), store.Put(rec.Key, rec.Value, rec.Expires)); err != nil {
			t.Fatal(err)
		}
	}
	if a := b.open("/-/sent"); a.StatusCode >= 500 {
		t.Errorf("the sent page = %d; want none of 5xx", a.StatusCode)
	}
	b.signIn("ann@example.com")
}

// A request that began before a reload to another store keeps the earlier store open. Its later
// writes don't affect the new store, which was accepted, and the earlier store isn't trusted when a
// reload returns to it.
func TestAnOldRequestLeavesTheAcceptedStoreAlone(t *testing.T) {
	s := openLostStore(t, "")
	inside, answers := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(answers) })
	t.Cleanup(goOn)
	s.portal.mu.Lock()
	s.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			close(inside)
			<-answers
		}
	}
	s.portal.mu.Unlock()
	closed := caddymodule.Closing()
	slow := make(chan string, 1)
	r := s.browser().request("GET", "/one-click/birch-secret-token/slow", nil)
	go func() {
		a, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			slow <- err.Error()
			return
		}
		a.Body.Close()
		slow <- a.Status
	}()
	select {
	case <-inside:
	case got := <-slow:
		t.Fatalf("the portal wasn't asked; the answer was %s", got)
	}
	was, other := "doorpost {\n\t\tmail", "doorpost {\n\t\tstore bolt "+s.path("other.db")+"\n\t\tmail"
	if s.redis != nil {
		was, other = s.redis.other(t)
	}
	s.change(was, other)
	s.untrusted()
	s.accepted(false)
	s.settled()
	s.change(other, was)
	if what := s.untrusted(); !strings.Contains(what, "another one than last time") {
		t.Errorf("back to the store that is still open, the doctor says %q; want that it is another one", what)
	}
	s.wantOld("back to the first store", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": false})
	s.change(was, other)
	s.settled()
	goOn()
	if got := <-slow; got != "200 OK" {
		t.Errorf("the request that began before = %s; want 200 OK", got)
	}
	s.eventually("the first store is closed", closed)
	s.stop()
	s.start()
	s.settled()
	s.wantOld("started again with the accepted store", map[string]bool{"acme-secret-token-1": false, "birch-secret-token": true})
}
