package caddymodule_test

// What an attacker can do who can write to the store, but doesn't have the secret.

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// recordKey returns the key of a record of the firm.
func recordKey(bucket, id string) store.Key {
	return store.Key{Firm: "example", Bucket: bucket, ID: id}
}

// records returns the records of one of the firm's buckets, as stored.
func (h *house) records(bucket string) []store.Record {
	h.t.Helper()
	recs, err := caddymodule.OpenStore(h.t).Scan(h.t.Context(), "example", bucket, "", "", 10_000)
	if err != nil {
		h.t.Fatal(err)
	}
	return recs
}

// overwrite writes to the store as another process could that has it open.
func (h *house) overwrite(ops ...store.Op) {
	h.t.Helper()
	if err := caddymodule.OpenStore(h.t).Apply(h.t.Context(), ops...); err != nil {
		h.t.Fatal(err)
	}
}

// sessionIDOf returns the ID of the session of a cookie.
func sessionIDOf(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func addressOf(t *testing.T, email string) address.Address {
	t.Helper()
	a, err := address.Parse(email)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *house) contactOf(email string) directory.Contact {
	h.t.Helper()
	c, err := caddymodule.BookOf(h.t, "example").ByEmail(h.t.Context(), addressOf(h.t, email))
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// enters returns a browser in which the contact has just signed in, without a mail.
func (h *house) enters(email string) *browser {
	h.t.Helper()
	c, sessions := h.contactOf(email), caddymodule.SessionsOf(h.t, "example")
	in, err := sessions.Begin(h.t.Context(), session.Session{Contact: c.ID, Generation: c.Generation, Method: "link"}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	h.overwrite(in.Ops...)
	sessions.Began(h.t.Context(), in)
	u, err := url.Parse(h.url)
	if err != nil {
		h.t.Fatal(err)
	}
	b := h.browser()
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: in.Cookie, Path: "/"}})
	return b
}

// Without the secret nobody can write a session, for any contact: the result is "not signed in",
// never a lasting error, and an alarm.
func TestForgedSessionsSignNobodyIn(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global, admin: freeAddress(t)})
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	if ann.me() == nil || bob.me() == nil {
		t.Fatal("ann or bob isn't signed in")
	}
	owner := h.contactOf("owner@example.com")
	planted := strings.Repeat("A", 43)
	id := sessionIDOf(planted)
	end := time.Now().Add(24 * time.Hour)
	clear := fmt.Sprintf(`{"id":%q,"handle":"x","contact":%q,"method":"link","begun":%q,"seen":%[3]q}`, id, owner.ID, time.Now().UTC().Format(time.RFC3339))
	record := func(bucket, id string) []byte {
		for _, rec := range h.records(bucket) {
			if rec.Key.ID == id {
				return rec.Value
			}
		}
		t.Fatalf("the store has no %s record %s", bucket, id)
		return nil
	}
	bobs := record("sessions", sessionIDOf(bob.cookie("portal")))
	another, err := secret.New([]byte("a secret of the attacker's own, long enough for any use"))
	if err != nil {
		t.Fatal(err)
	}
	forger := session.Sessions{Firm: "example", Store: caddymodule.OpenStore(t), Keys: another, Idle: time.Hour, Max: time.Hour}
	sealed, err := forger.Begin(t.Context(), session.Session{Contact: owner.ID, Method: "link"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	untrusted := 0
	for _, c := range []struct {
		name, cookie string
		ops          []store.Op
	}{
		{"as an earlier release kept them", planted, []store.Op{store.Put(recordKey("session", id), []byte("1"+clear), end),
			store.Put(recordKey("session-of", owner.ID+"/"+id), fmt.Append(nil, "1", time.Now().UnixMilli()), end)}},
		{"in the clear", planted, []store.Op{store.Put(recordKey("sessions", id), []byte("\x01"+clear), end)}},
		{"copied from another session", planted, []store.Op{store.Put(recordKey("sessions", id), bobs, end)}},
		{"sealed with another secret", sealed.Cookie, sealed.Ops},
		{"empty", planted, []store.Op{store.Put(recordKey("sessions", id), nil, time.Time{})}},
	} {
		h.overwrite(c.ops...)
		for _, path := range []string{"/x", "/-/me", "/-/staff/", "/x"} {
			if a := h.get(path, "Cookie: portal="+c.cookie); a.status != http.StatusUnauthorized && a.status != http.StatusNotFound {
				t.Errorf("a session that was forged, %s: GET %s = %d; want 401", c.name, path, a.status)
			}
		}
		if c.name != "as an earlier release kept them" {
			untrusted++
		}
	}
	var all []string
	for _, e := range h.history() {
		if e.Kind == "untrusted-record" {
			all = append(all, e.What)
		}
	}
	if len(all) < untrusted || !slices.Contains(all, "sessions") {
		t.Errorf("the history has untrusted records of %v; want at least %d of sessions", all, untrusted)
	}
	if got := h.metrics(); strings.Contains(got, seriesOf("untrusted-record", 0)) {
		t.Error("the counter of untrusted records stands at 0")
	}
	if n := strings.Count(log.text(t), "a record in the store is not one of ours"); n != 1 {
		t.Errorf("the log has %d lines on records that aren't ours; want one a minute", n)
	}
	if ann.me() == nil || bob.me() == nil {
		t.Error("ann or bob isn't signed in any more")
	}
}

// A session that ended doesn't return with its record.
func TestASignedOutDeviceStaysOutWhenItsRecordIsPutBack(t *testing.T) {
	h := openHouse(t, layout{})
	device, other := h.in("ann@example.com"), h.in("ann@example.com")
	cookie := device.session()
	id := sessionIDOf(device.cookie("portal"))
	var kept store.Record
	for _, rec := range h.records("sessions") {
		if rec.Key.ID == id {
			kept = rec
		}
	}
	if a := device.send("/-/sign-out", form()); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("POST /-/sign-out = %d", a.StatusCode)
	}
	h.overwrite(store.Put(kept.Key, kept.Value, kept.Expires))
	if a := h.get("/x", cookie); a.status != http.StatusUnauthorized {
		t.Errorf("a device that was signed out, with its record put back = %d; want 401", a.status)
	}
	if other.me() == nil {
		t.Error("the other device is signed out, too")
	}
}

// Every way to revoke a contact's sessions reaches them in memory, in the store and in flight, even
// if the store has lost the list of them or an older list is put back.
func TestRevocationMissesNoSession(t *testing.T) {
	way := func(path string) func(*house, string, *browser) {
		return func(h *house, email string, _ *browser) { h.operator(path, email) }
	}
	set := func(h *house, email string, change directory.Change) {
		if _, err := h.office().SetContact(h.t.Context(), "example", email, change); err != nil {
			h.t.Error(err)
		}
	}
	ways := []struct {
		name  string
		end   func(h *house, email string, b *browser)
		spare bool // the browser that did it stays signed in
	}{
		{"sessions revoke", way("sessions/revoke"), false},
		{"contacts disable, then enable", func(h *house, email string, _ *browser) {
			h.operator("contacts/disable", email)
			h.operator("contacts/enable", email)
		}, false},
		{"contacts remove", way("contacts/remove"), false},
		{"another address", func(h *house, email string, _ *browser) {
			other := "other-" + email
			set(h, email, directory.Change{Email: &other})
		}, false},
		{"a password set by mail", func(h *house, email string, _ *browser) { h.has(email, annsPassword) }, false},
		{"a password set on the account page", func(h *house, email string, b *browser) {
			ops, err := caddymodule.PasswordsOf(h.t, "example").Set(h.t.Context(), h.contactOf(email).ID, annsPassword, password.ContactInfo{})
			if err != nil {
				h.t.Fatal(err)
			}
			h.overwrite(ops...)
			if a := b.send("/-/password/change", form("current", annsPassword, "password", annsPassword2)); a.StatusCode != http.StatusSeeOther {
				h.t.Errorf("POST /-/password/change = %d\n%s", a.StatusCode, a.body)
			}
		}, true},
		{"all other devices signed out", func(h *house, email string, b *browser) {
			if a := b.send("/-/devices", form("others", "1")); a.StatusCode != http.StatusSeeOther {
				h.t.Errorf("POST /-/devices = %d\n%s", a.StatusCode, a.body)
			}
		}, true},
	}
	losses := []string{"nothing", "the roster", "the change"}
	contacts := "email,companies\n"
	for i := range len(ways) * len(losses) {
		contacts += fmt.Sprintf("contact-%d@example.com,acme\n", i)
	}
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), contacts: contacts, site: "reverse_proxy " + streams(t)})
	m.moveInto(h)
	open := map[string]*stream{}
	for i, lost := range losses {
		for j, c := range ways {
			if lost == "the roster" && c.spare {
				continue // this signs out the acting browser as soon as the store is read
			}
			what, email := c.name+", "+lost+" lost", fmt.Sprintf("contact-%d@example.com", i*len(ways)+j)
			one, two, acting := h.enters(email), h.enters(email), h.enters(email) // the second isn't in memory
			if acting.me() == nil || one.me() == nil {
				t.Fatalf("%s: %s isn't signed in", what, email)
			}
			stream := one.opens("events")
			contact := h.contactOf(email).ID
			var kept []store.Op
			for _, rec := range slices.Concat(h.records("roster"), h.records("sessions")) {
				kept = append(kept, store.Put(rec.Key, rec.Value, rec.Expires))
			}
			if lost == "the roster" {
				h.overwrite(store.Delete(recordKey("roster", contact)))
			}
			c.end(h, email, acting)
			if lost == "the change" {
				h.overwrite(kept...)
			}
			for name, b := range map[string]*browser{"one in memory": one, "one that isn't": two} {
				if a := h.get("/x", b.session()); a.status != http.StatusUnauthorized {
					t.Errorf("%s: %s = %d; want 401", what, name, a.status)
				}
			}
			if a := h.get("/x", acting.session()); lost == "nothing" && (a.status == http.StatusOK) != c.spare {
				t.Errorf("%s: the browser that did it = %d; want it signed in: %t", what, a.status, c.spare)
			}
			open[what] = stream
		}
	}
	for what, stream := range open {
		select {
		case <-stream.end:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: a stream goes on", what)
		}
	}
}

// A revocation ends links and codes for good, even if an attacker puts back the records of their
// active state.
func TestRevokedLinksStayInactive(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	_, token := h.browser().help("bob@example.com", "/")
	kept := h.records("live")
	h.operator("sessions/revoke", "ann@example.com")
	h.operator("sessions/revoke", "bob@example.com")
	for _, rec := range kept {
		h.overwrite(store.Put(rec.Key, rec.Value, rec.Expires))
	}
	if a := b.open(l.link); a.StatusCode == http.StatusSeeOther || b.me() != nil {
		t.Errorf("a link that was revoked = %d", a.StatusCode)
	}
	if a := b.send("/-/code", form("code", l.code)); a.StatusCode == http.StatusSeeOther || b.me() != nil {
		t.Errorf("a code that was revoked = %d", a.StatusCode)
	}
	if a := b.send("/-/password/set", form("t", token, "password", annsPassword)); a.StatusCode != http.StatusGone {
		t.Errorf("a link to set a password that was revoked = %d; want 410", a.StatusCode)
	}
}

// The index of old-link tokens gives no access by itself: an upgraded company's links stay closed
// even if the index says that they belong to an open one.
func TestOldLinksStayClosedWhenTheIndexNamesAnotherCompany(t *testing.T) {
	h := openOldHouse(t, "acme")
	if a := h.get("/one-click/birch-secret-token/x"); a.status != http.StatusOK {
		t.Fatalf("GET an open company's old link = %d; want 200", a.status)
	}
	h.start() // a reload, so that nothing is in memory
	before := h.portal.count()
	for _, rec := range h.records("legacy") {
		h.overwrite(store.Put(rec.Key, append(rec.Value[:1:1], "birch"...), time.Time{}))
	}
	for _, path := range []string{"/one-click/acme-secret-token-1/x", "/one-click/acme-secret-token-2/x", "/view?client=acme-secret-token-1"} {
		if a := h.get(path); a.status != http.StatusFound || !strings.HasPrefix(a.header.Get("Location"), "/-/go?") {
			t.Errorf("GET %s, whose token is in the index as birch's = %d to %q; want 302 to /-/go", path, a.status, a.header.Get("Location"))
		}
	}
	if n := h.portal.count(); n != before {
		t.Errorf("the portal got %d requests; want none", n-before)
	}
	if a := h.get("/one-click/birch-secret-token/x"); a.status != http.StatusOK {
		t.Errorf("GET the open company's own old link = %d; want 200", a.status)
	}
}

// The record of upgraded companies can't be forged, removed or put back: an older record of a
// company from before its upgrade opens nothing.
func TestUpgradedLinksStayClosedWhenRecordsArePutBack(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	again := func(recs []store.Record) (ops []store.Op) {
		for _, rec := range recs {
			ops = append(ops, store.Put(rec.Key, rec.Value, rec.Expires))
		}
		return ops
	}
	upgrade := func(in admin.Upgrade) {
		t.Helper()
		if _, err := h.office().Upgrade(t.Context(), "example", in); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when, token string, open bool) {
		t.Helper()
		before := h.portal.count()
		a := h.get("/one-click/" + token + "/x")
		if goes := strings.HasPrefix(a.header.Get("Location"), "/-/go?"); open != (a.status == 200) || !open && (a.status != 302 || !goes || h.portal.count() != before) {
			t.Errorf("%s: GET the old link with %s = %d to %q; want it open: %t", when, token, a.status, a.header.Get("Location"), open)
		}
	}
	h.upgrade("acme") // waits for the contacts
	upgrade(admin.Upgrade{Companies: []string{"acme"}, Undo: true})
	open, undone := slices.Concat(h.records("company"), h.records("legacy")), h.records("upgrades")
	upgrade(admin.Upgrade{Companies: []string{"acme"}})
	said := recordKey("upgrades", "companies")
	another, err := secret.New([]byte("a secret of the attacker's own, long enough for any use"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := sealed.Bucket[anchor.Closed]{Keys: another, Firm: "example", Name: "upgrades", Format: 1}
	forged, err := theirs.Put("companies", anchor.Closed{Mark: 1000, Sealed: true}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	counter := store.Put(recordKey("directory", "upgrades"), []byte{1, 0, 0, 0, 0, 0, 0, 4, 0}, time.Time{})
	forgeries := []struct {
		name  string
		alarm bool
		ops   []store.Op
	}{
		{"nothing else", false, nil},
		{"a later count, as an earlier release kept it", false, []store.Op{counter}},
		{"that, and no record", true, []store.Op{counter, store.Delete(said)}},
		{"a record of the attacker's own", true, []store.Op{forged}},
		{"a record in the clear", true, []store.Op{store.Put(said, []byte("\x01"+`{"m":1000,"s":true}`), time.Time{})}},
		{"an empty record", true, []store.Op{store.Put(said, nil, time.Time{})}},
		{"a record of another company's", true, []store.Op{store.Put(said, open[1].Value, time.Time{})}},
		{"the record of when it was open", true, again(undone)},
	}
	alarms := func() (n int) {
		for _, e := range h.history() {
			if e.Kind == "untrusted-record" && e.What == "upgrades" {
				n++
			}
		}
		return n
	}
	for _, c := range forgeries {
		when := "with the company's earlier record and " + c.name
		before := alarms()
		h.overwrite(append(again(open), c.ops...)...)
		h.start() // so that nothing is in memory
		h.settled()
		want(when, "acme-secret-token-1", false)
		upgrade(admin.Upgrade{Companies: []string{"birch"}}) // the anchor follows this
		want(when+", after another upgrade", "acme-secret-token-1", false)
		want(when+", after its upgrade", "birch-secret-token", false)
		upgrade(admin.Upgrade{Companies: []string{"birch"}, Undo: true})
		want(when+", after another undo", "acme-secret-token-1", false)
		want(when+", after its undo", "birch-secret-token", true)
		if after := alarms(); (after > before) != c.alarm {
			t.Errorf("%s: %d alarms; want some: %t", when, after-before, c.alarm)
		}
	}
	upgrade(admin.Upgrade{All: true})
	for i, c := range forgeries {
		when := "after an upgrade of all, with the earlier records and " + c.name
		h.overwrite(append(again(open), append(c.ops, store.Delete(recordKey("directory", "upgraded")))...)...)
		h.start()
		h.settled()
		name := fmt.Sprint("Cedar ", i)
		if _, err := h.office().SetCompany(t.Context(), "example", "cedar", directory.CompanyChange{Name: &name}); err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{"acme-secret-token-1", "birch-secret-token"} {
			want(when, token, false)
		}
	}
	upgrade(admin.Upgrade{All: true, Undo: true})
	want("after an undo", "acme-secret-token-1", true)
	want("after an undo", "birch-secret-token", true)
	upgrade(admin.Upgrade{Companies: []string{"acme"}})
	if _, err := h.office().RemoveCompany(t.Context(), "example", "acme"); err != nil {
		t.Fatal(err)
	}
	h.overwrite(again(open)...)
	upgrade(admin.Upgrade{Companies: []string{"birch"}})
	want("after it was removed and put back", "acme-secret-token-1", false)
}

// buckets are all buckets of a firm.
var buckets = []string{"contact", "company", "upgrades", "directory", "email", "legacy", "removed", "load", "file-rows", "ending", "sessions", "roster", "sessions-ended",
	"flow", "link", "live", "handed-over", "ring", "tries", "password", "password-shape", "password-guesses", "known-device", "device-last", "signed-in", "mail-budget", "limits",
	"double", "portal-cookie", "queue", "letter", "unsent", "events", "strange-events", "strangers", "usage", "usage-since", "signing"}

// Whichever record an attacker damages, or copies over another one, it lets nobody in, old links of
// upgraded companies stay closed, and only the contact that the record belongs to is affected.
func TestNoRecordLetsAnybodyInWhenItIsDamagedOrCopied(t *testing.T) {
	h := openOldHouse(t, "acme")
	h.has("ann@example.com", annsPassword)
	h.in("bob@example.com").open("/x")
	asking := h.browser()
	l := asking.ask("owner@example.com", "/")
	asking.send("/-/code", form("code", "0000-0000"))
	victims := map[string]*browser{"ann@example.com": h.enters("ann@example.com"), "bob@example.com": h.enters("bob@example.com")} // not used before
	records := map[string][]store.Record{}
	kinds := 0
	for _, bucket := range buckets {
		if records[bucket] = h.records(bucket); len(records[bucket]) > 0 {
			kinds++
		}
	}
	if kinds < 20 {
		t.Errorf("there are records of %d kinds; want most of %d", kinds, len(buckets))
	}
	check := func(what, bucket string) {
		t.Helper()
		fine := func(name string, status int, wanted ...int) {
			t.Helper()
			if !slices.Contains(wanted, status) {
				t.Errorf("%s: %s = %d; want one of %v", what, name, status, wanted)
			}
		}
		fine("a page, for nobody", h.get("/x").status, 401)
		fine("the sign-in page", h.get("/-/sign-in").status, 200)
		if !slices.Contains([]string{"company", "upgrades", "directory", "legacy", "removed", "load", "file-rows"}, bucket) {
		} else if a := h.get("/one-click/acme-secret-token-1/x"); a.status != 302 || !strings.HasPrefix(a.header.Get("Location"), "/-/go?") {
			fine("an upgraded company's old link", a.status, 503) // the company's record can't be read
		}
		if bucket == "sessions" || bucket == "roster" {
			for email, b := range victims {
				a := h.get("/x", b.session())
				fine("a page, for "+email, a.status, 200, 401)
				if a.status == 200 && !strings.Contains(string(a.body), email) {
					t.Errorf("%s: the cookie of %s opens %q", what, email, a.body)
				}
			}
		}
		if slices.Contains([]string{"flow", "ring", "tries", "live", "link", "handed-over"}, bucket) {
			fine("the sent page", asking.open("/-/sent").StatusCode, 200, 303)
			fine("a wrong code", asking.send("/-/code", form("code", "1111-1111")).StatusCode, 403, 303)
			fine("the link elsewhere", h.browser().open(l.link).StatusCode, 200, 400, 410)
			fine("the link with a wrong address", h.browser().send("/-/link", form("t", secretOf(l.link), "email", "bob@example.com")).StatusCode, 403, 400, 410)
		}
		if strings.HasPrefix(bucket, "password") || bucket == "limits" || bucket == "known-device" {
			fine("a wrong password", h.browser().manually("ann@example.com", annsPassword2).StatusCode, 403, 429)
		}
	}
	for _, bucket := range buckets {
		all := records[bucket]
		for how, change := range map[string]func(i int) []byte{
			"damaged": func(i int) []byte {
				value := slices.Clone(all[i].Value)
				if len(value) > 0 {
					value[len(value)-1] ^= 1
				}
				return value
			},
			"emptied":                func(int) []byte { return nil },
			"copied over each other": func(i int) []byte { return all[(i+1)%len(all)].Value },
		} {
			if len(all) == 0 || len(all) == 1 && how == "copied over each other" {
				continue
			}
			var spoil, restore []store.Op
			for i, rec := range all {
				spoil = append(spoil, store.Put(rec.Key, change(i), rec.Expires))
				restore = append(restore, store.Put(rec.Key, rec.Value, rec.Expires))
			}
			h.overwrite(spoil...)
			check("the "+bucket+" records are "+how, bucket)
			h.overwrite(restore...)
		}
	}
	if a := asking.send("/-/code", form("code", l.code)); a.StatusCode == 200 {
		t.Errorf("the right code after all that = %d", a.StatusCode)
	}
}
