package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// office is a Handler over a real store, with the firms example and other, and a
// Client that talks to it.
type office struct {
	*Client
	t     *testing.T
	db    *bolt.DB
	firms map[string]Firm
	log   *bytes.Buffer
	url   string
}

func openOffice(t *testing.T) *office {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, db: db, firms: map[string]Firm{}, log: new(bytes.Buffer)}
	counters := audit.NewCounters()
	for _, id := range []string{"example", "other"} {
		o.firms[id] = Firm{
			Directory: &directory.Directory{Firm: id, Store: db, Keys: keys, Staff: []address.Address{"owner@example.com"}, Now: time.Now},
			Sessions:  &session.Sessions{Firm: id, Store: db, Keys: keys, Idle: time.Hour, Max: 2 * time.Hour},
			Queue:     &outbox.Queue{Firm: id, Store: db, Keys: keys},
			Tokens:    &token.Tokens{Firm: id, Store: db, Keys: keys, Life: 10 * time.Minute},
			Audit: &audit.Log{Logger: slog.New(slog.NewTextHandler(o.log, nil)), Keys: keys,
				EventLog: audit.NewEventLog(id, db, time.Now, counters)},
		}
		t.Cleanup(func() { o.firms[id].Audit.EventLog.Close() })
	}
	h := &Handler{Firms: o.firms, Backup: db.Backup, Log: slog.New(slog.NewTextHandler(o.log, nil))}
	o.url, o.Client = serve(t, h)
	return o
}

// serve answers by h as Caddy's admin server does, but with a time limit that a test
// can wait for.
func serve(t *testing.T, h http.Handler) (string, *Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ReadTimeout = 300 * time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, &Client{Base: s.URL, HTTP: s.Client()}
}

// send is a request as it comes over the wire.
func (o *office) send(method, path, kind, body string) (int, string) {
	o.t.Helper()
	req, err := http.NewRequest(method, o.url+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(got))
}

func (o *office) add(email string, companies ...string) directory.Contact {
	o.t.Helper()
	out, err := o.AddContact(o.t.Context(), "example", directory.Change{Email: &email, Companies: &companies})
	if err != nil {
		o.t.Fatal(err)
	}
	return out.Contact
}

// signIn gives a contact a session and a link on its way.
func (o *office) signIn(contact directory.Contact) (cookie, link string) {
	o.t.Helper()
	f, ctx := o.firms["example"], o.t.Context()
	b, err := f.Sessions.Begin(ctx, session.Session{Contact: contact.ID, Method: "link", Agent: "Firefox on Linux"}, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	ask := token.MailRequest{ID: secret.Random(), Address: contact.Email(), To: "/", Browser: token.BrowserOf(b.Cookie), At: time.Now()}
	issued, err := f.Tokens.Issue(ctx, ask, token.Recipient{Contact: contact.ID, Address: contact.Email()})
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.db.Apply(ctx, append(b.Ops, issued.Ops...)...); err != nil {
		o.t.Fatal(err)
	}
	f.Sessions.Began(context.Background(), b)
	handed, err := f.Tokens.HandOver(ctx, issued.ID, time.Now(), true)
	if err == nil {
		err = o.db.Apply(ctx, handed...)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	if !o.in(b.Cookie) || !o.works(issued.Token) {
		o.t.Fatal("the session or the link doesn't work from the start")
	}
	return b.Cookie, issued.Token
}

func (o *office) in(cookie string) bool {
	_, err := o.firms["example"].Sessions.Lookup(o.t.Context(), cookie)
	return err == nil
}

func (o *office) works(link string) bool {
	_, err := o.firms["example"].Tokens.Peek(o.t.Context(), link)
	return err == nil
}

func ptr[T any](v T) *T { return &v }

// The shapes that the package's doc promises, to the byte but for ids and times.
func TestShapes(t *testing.T) {
	o := openOffice(t)
	const json, csv = "application/json", "text/csv"
	for _, one := range []struct {
		method, path, kind, body string
		status                   int
		want                     string
	}{
		{"GET", "/doorpost/", "", "", 200, `{"firms":[{"id":"example"},{"id":"other"}]}`},
		{"POST", "/doorpost/example/companies/add", json, `{"id":"acme","name":"Acme Ltd","legacy_tokens":["abc","def"]}`,
			200, `{"company":{"id":"acme","name":"Acme Ltd","legacy_links":2,"state":"open","version":"*"},"contacts":0}`},
		{"POST", "/doorpost/example/companies/set", json, `{"id":"acme","change":{"name":"Acme & Co"}}`,
			200, `{"company":{"id":"acme","name":"Acme \u0026 Co","legacy_links":2,"state":"open","version":"*"},"contacts":0}`},
		{"POST", "/doorpost/example/contacts/add", json, `{"email":"Ann@Example.com","first_name":"Ann","companies":["acme"]}`,
			200, `{"contact":{"id":"*","email":"ann@example.com","other_emails":[],"first_name":"Ann","last_name":"","phone":"","companies":["acme"],"role":"client","locale":"","disabled":false,"texts":"on","version":"*"},"sessions_ended":0}`},
		{"POST", "/doorpost/example/contacts/list", json, `{}`,
			200, `{"contacts":[{"id":"*","email":"ann@example.com","other_emails":[],"first_name":"Ann","last_name":"","phone":"","companies":["acme"],"role":"client","locale":"","disabled":false,"texts":"on","version":"*"}]}`},
		{"POST", "/doorpost/example/companies/list", json, `{"text":"co"}`,
			200, `{"companies":[{"id":"acme","name":"Acme \u0026 Co","legacy_links":2,"state":"open","version":"*"}]}`},
		{"POST", "/doorpost/example/upgrade", json, `{"all":true,"dry_run":true}`,
			200, `{"dry_run":true,"changed":[{"id":"acme","name":"Acme \u0026 Co","contacts":["ann@example.com"]}],"refused":[],"unchanged":0,"linkless":0,"linked":1,"done":1}`},
		{"POST", "/doorpost/example/upgrade", json, `{"companies":["acme"]}`,
			200, `{"dry_run":false,"changed":[{"id":"acme","name":"Acme \u0026 Co","contacts":["ann@example.com"]}],"refused":[],"unchanged":0,"linkless":0,"linked":1,"done":1}`},
		{"POST", "/doorpost/example/upgrade", json, `{"companies":["acme"],"undo":true}`,
			200, `{"dry_run":false,"changed":[{"id":"acme","name":"Acme \u0026 Co","contacts":["ann@example.com"]}],"refused":[],"unchanged":0,"linkless":0,"linked":1,"done":0}`},
		{"POST", "/doorpost/example/upgrade", json, `{"companies":["acme"],"all":true}`,
			400, `{"error":"there are either companies or all","code":"invalid","field":"companies","remedy":"name companies, or say all"}`},
		{"POST", "/doorpost/example/upgrade", json, `{}`,
			400, `{"error":"there are either companies or all","code":"invalid","field":"companies","remedy":"name companies, or say all"}`},
		{"POST", "/doorpost/other/contacts/list", json, `{}`, 200, `{"contacts":[]}`},
		{"POST", "/doorpost/other/companies/list", json, `{}`, 200, `{"companies":[]}`},
		{"POST", "/doorpost/example/sessions/list", json, `{}`, 200, `{"sessions":[]}`},
		{"POST", "/doorpost/example/contacts/import?dry_run=true", csv, "email,phone\nann@example.com,12\nbob@example.com,\n",
			200, `{"kind":"contacts","dry_run":true,"added":{"count":1,"first":[{"line":3,"item":"bob@example.com"}]},"changed":{"count":1,"first":[{"line":2,"item":"ann@example.com","name":"Ann","fields":["phone"]}]},"unchanged":{"count":0},"kept":{"count":0},"sessions_ended":0}`},
		{"POST", "/doorpost/example/contacts/import?dry_run=true", csv, "email,phone,companies\nann@example.com,12,\n",
			200, `{"kind":"contacts","dry_run":true,"added":{"count":0},"changed":{"count":1,"first":[{"line":2,"item":"ann@example.com","name":"Ann","fields":["phone","companies"],"emptied":["companies"]}]},"unchanged":{"count":0},"kept":{"count":0},"lose_companies":1,"sessions_ended":0}`},
		{"POST", "/doorpost/example/companies/remove", json, `{"id":"acme"}`,
			200, `{"company":{"id":"acme","name":"Acme \u0026 Co","legacy_links":2,"state":"open","version":"*"},"contacts":1}`},

		{"POST", "/doorpost/example/contacts/set", json, `{"email":"ann@example.com","change":{"version":"AAAAAAAAAAAAAAAA","phone":"1"}}`,
			409, `{"error":"somebody has changed this since then, so nothing was changed","code":"changed","field":"version","remedy":"*"}`},
		{"POST", "/doorpost/example/contacts/remove", json, `{"email":"ann@example.com","version":"AAAAAAAAAAAAAAAA"}`,
			409, `{"error":"*","code":"changed","field":"version","remedy":"*"}`},
		{"POST", "/doorpost/example/contacts/add", json, `{"email":"ann@example.com"}`,
			409, `{"error":"ann@example.com belongs to another contact","code":"taken","field":"email","remedy":"an address belongs to one contact; change that one with contacts set, or remove it first"}`},
		{"POST", "/doorpost/example/contacts/disable", json, `{"email":"nobody@example.com"}`,
			404, `{"error":"no contact has the address nobody@example.com","code":"unknown","field":"email","remedy":"look for the right one with contacts list"}`},
		{"POST", "/doorpost/nobody/contacts/list", json, `{}`,
			404, `{"error":"there is no firm \"nobody\" here","code":"unknown_firm","remedy":"choose one of: example, other"}`},
		{"POST", "/doorpost/example/contacts/import", csv, "email,role\nann@example.com,boss\n@,client\n",
			400, `{"error":"the file has rows that can't be taken, so nothing was changed","code":"rows","remedy":"correct them and import the file again","rows":[{"line":2,"column":"role","reason":"\"boss\" is none of client, staff"},{"line":3,"column":"email","reason":"not an email address: *"}]}`},
	} {
		status, got := o.send(one.method, one.path, one.kind, one.body)
		if status != one.status || !like(got, one.want) {
			t.Errorf("%s %s %s =\n%d %s; want\n%d %s", one.method, one.path, one.body, status, got, one.status, one.want)
		}
	}
}

// Of what an import changes only the first are shown: none that loses a value may hide
// behind them.
func TestLosersFirst(t *testing.T) {
	lost := []string{"phone"}
	in := []directory.Entry{{Line: 2}, {Line: 3, Emptied: lost}, {Line: 4}, {Line: 5, Emptied: lost}}
	var got []int
	for _, e := range losersFirst(in) {
		got = append(got, e.Line)
	}
	if want := []int{3, 5, 2, 4}; !slices.Equal(got, want) || in[0].Line != 2 {
		t.Errorf("losersFirst = lines %v; want %v, and its argument as it was", got, want)
	}
	if out := losersFirst(nil); len(out) != 0 {
		t.Errorf("losersFirst(nil) = %v; want none", out)
	}
}

// like compares with a pattern, in which * stands for any text without a quote.
func like(got, want string) bool {
	for i, part := range strings.Split(want, "*") {
		if i > 0 {
			got = got[max(0, strings.Index(got, `"`)):]
		}
		var ok bool
		if got, ok = strings.CutPrefix(got, part); !ok {
			return false
		}
	}
	return got == ""
}

func TestRefusals(t *testing.T) {
	o := openOffice(t)
	o.add("ann@example.com")
	const typ = "application/json"
	for _, one := range []struct {
		method, path, kind, body string
		status                   int
		code, says               string
	}{
		{"POST", "/doorpost/example/contacts/add", "text/plain", `{"email":"bob@example.com"}`, 415, "media_type", "application/json"},
		{"POST", "/doorpost/example/contacts/add", "", `{"email":"bob@example.com"}`, 415, "media_type", "application/json"},
		{"POST", "/doorpost/example/contacts/import", typ, `{}`, 415, "media_type", "text/csv"},
		{"POST", "/doorpost/backup", "text/plain", `{}`, 415, "media_type", "application/json"},
		{"POST", "/doorpost/example/contacts/add", typ, `{"email":"bob@example.com","first_nam":"Bob"}`, 400, "bad_request", `unknown field \"first_nam\"`},
		{"POST", "/doorpost/example/contacts/set", typ, `{"email":"ann@example.com","first_name":"Ann"}`, 400, "bad_request", `unknown field \"first_name\"`},
		{"POST", "/doorpost/example/contacts/add", typ, `{"email":"bob@example.com"} {}`, 400, "bad_request", "behind the JSON"},
		{"POST", "/doorpost/example/contacts/add", typ, ``, 400, "bad_request", "EOF"},
		{"POST", "/doorpost/example/contacts/add", typ, `{"first_name":"Bob"}`, 400, "invalid", "is missing"},
		{"POST", "/doorpost/example/contacts/add", typ, `{"email":"bob"}`, 400, "invalid", "no @"},
		{"POST", "/doorpost/example/contacts/add", typ, `{"email":"bob@example.com","companies":["acme"]}`, 400, "invalid", "companies list shows"},
		{"POST", "/doorpost/example/contacts/add", typ, `{"email":"bob@example.com","phone":"` + strings.Repeat("1", maxBody) + `"}`, 413, "too_large", "1 MiB"},
		{"POST", "/doorpost/example/contacts/list", typ, `{"limit":1001}`, 400, "invalid", "1 to 1000"},
		{"POST", "/doorpost/example/contacts/list", typ, `{"limit":-1}`, 400, "invalid", "1 to 1000"},
		{"POST", "/doorpost/example/contacts/import?dry_run=perhaps", "text/csv", "email\n", 400, "invalid", "perhaps"},
		{"POST", "/doorpost/example/companies/set", typ, `{"id":"acme","change":{}}`, 404, "unknown", "acme"},
		{"POST", "/doorpost/example/companies/remove", typ, `{"id":"acme"}`, 404, "unknown", "acme"},
		{"POST", "/doorpost/example/companies/add", typ, `{"id":"Acme"}`, 400, "invalid", "is no id"},
		{"POST", "/doorpost/example/sessions/list", typ, `{"email":"bob@example.com"}`, 404, "unknown", "bob@example.com"},
		{"POST", "/doorpost/example/sessions/revoke", typ, `{"email":"bob@example.com"}`, 404, "unknown", "bob@example.com"},
		{"GET", "/doorpost/example/contacts/list", "", "", 405, "method", "use POST"},
		{"DELETE", "/doorpost/", "", "", 405, "method", "use GET"},
		{"GET", "/doorpost/example/contacts", "", "", 404, "not_found", "--help"},
		{"POST", "/doorpost/example/nothing/list", typ, "{}", 404, "not_found", "--help"},
	} {
		status, got := o.send(one.method, one.path, one.kind, one.body)
		var e Error
		if err := json.Unmarshal([]byte(got), &e); err != nil {
			t.Errorf("%s %s %s: no JSON: %s", one.method, one.path, one.body, got)
		}
		if status != one.status || e.Code != one.code || !strings.Contains(got, one.says) {
			t.Errorf("%s %s %.80s = %d %s; want %d %s, with %q", one.method, one.path, one.body, status, got, one.status, one.code, one.says)
		}
	}
}

// Every error that a package below can come up with has its status.
func TestErrorOf(t *testing.T) {
	for _, one := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("writing: %w", store.ErrUnavailable), 503, "unavailable"},
		{directory.ErrConflict, 409, "conflict"},
		{&directory.FieldError{Field: "disabled", Err: directory.ErrStaff}, 409, "staff"},
		{&directory.FieldError{Field: "id", Err: directory.ErrTaken}, 409, "taken"},
		{&directory.FieldError{Field: "legacy_tokens", Err: directory.ErrTaken}, 409, "taken"},
		{errors.New("anything else"), 500, "internal"},
	} {
		if got := ErrorOf(one.err); got.Status != one.status || got.Code != one.code {
			t.Errorf("ErrorOf(%v) = %d %s; want %d %s", one.err, got.Status, got.Code, one.status, one.code)
		}
	}
}

func TestStoreAway(t *testing.T) {
	o := openOffice(t)
	o.db.Close()
	_, err := o.AddContact(t.Context(), "example", directory.Change{Email: ptr("ann@example.com")})
	if Code(err) != "unavailable" {
		t.Errorf("adding a contact without a store: %v; want unavailable", err)
	}
	if n, err := o.Client.Backup(t.Context(), io.Discard); n != 0 || Code(err) != "unavailable" {
		t.Errorf("backup without a store = %d, %v; want unavailable", n, err)
	}
	if !strings.Contains(o.log.String(), "admin request failed") {
		t.Errorf("the log says nothing of it: %s", o.log)
	}
}

// What takes the right to be in ends what was got by it, at once; what doesn't, doesn't.
func TestShownOut(t *testing.T) {
	for _, one := range []struct {
		what string
		do   func(*office) (ContactChanged, error)
		out  bool
	}{
		{"disable", func(o *office) (ContactChanged, error) {
			return o.DisableContact(o.t.Context(), "example", "ann@example.org") // by her other address
		}, true},
		{"remove", func(o *office) (ContactChanged, error) {
			return o.RemoveContact(o.t.Context(), "example", "ann@example.com")
		}, true},
		{"revoke", func(o *office) (ContactChanged, error) {
			return o.RevokeSessions(o.t.Context(), "example", "ann@example.com")
		}, true},
		{"set disabled", func(o *office) (ContactChanged, error) {
			return o.SetContact(o.t.Context(), "example", "ann@example.com", directory.Change{Disabled: ptr(true)})
		}, true},
		{"another main address", func(o *office) (ContactChanged, error) {
			return o.SetContact(o.t.Context(), "example", "ann@example.com", directory.Change{Email: ptr("ann@example.net")})
		}, true},
		{"other address taken away", func(o *office) (ContactChanged, error) {
			return o.SetContact(o.t.Context(), "example", "ann@example.com", directory.Change{OtherEmails: &[]string{}})
		}, true},
		{"a further address", func(o *office) (ContactChanged, error) {
			return o.SetContact(o.t.Context(), "example", "ann@example.com", directory.Change{OtherEmails: &[]string{"ann@example.org", "a@example.net"}})
		}, false},
		{"a name", func(o *office) (ContactChanged, error) {
			return o.SetContact(o.t.Context(), "example", "ann@example.com", directory.Change{FirstName: ptr("Anne")})
		}, false},
		{"enable", func(o *office) (ContactChanged, error) {
			return o.EnableContact(o.t.Context(), "example", "ann@example.com")
		}, false},
	} {
		t.Run(one.what, func(t *testing.T) {
			o := openOffice(t)
			o.add("ann@example.com")
			ann, err := o.SetContact(t.Context(), "example", "ann@example.com", directory.Change{OtherEmails: &[]string{"ann@example.org"}})
			if err != nil {
				t.Fatal(err)
			}
			bob := o.add("bob@example.com")
			cookie, link := o.signIn(ann.Contact)
			second, _ := o.signIn(ann.Contact)
			bobs, bobsLink := o.signIn(bob)

			got, err := one.do(o)
			want := 0
			if one.out {
				want = 2
			}
			if err != nil || got.SessionsEnded != want || got.Contact.ID != ann.Contact.ID {
				t.Errorf("%s = %+v, %v; want %d sessions ended", one.what, got, err, want)
			}
			if o.in(cookie) == one.out || o.in(second) == one.out || o.works(link) == one.out {
				t.Errorf("after %s: session %t, %t, link %t; want %t", one.what, o.in(cookie), o.in(second), o.works(link), !one.out)
			}
			if !o.in(bobs) || !o.works(bobsLink) {
				t.Errorf("%s reached somebody else", one.what)
			}
			if one.what != "enable" && (!strings.Contains(o.log.String(), ann.Contact.ID) || strings.Contains(o.log.String(), "ann@")) {
				t.Errorf("the log has to name the contact by id, and the address in part at most:\n%s", o.log)
			}
		})
	}
}

func TestStaffOfTheCaddyfile(t *testing.T) {
	o := openOffice(t)
	o.add("owner@example.com")
	if _, err := o.DisableContact(t.Context(), "example", "owner@example.com"); Code(err) != "staff" {
		t.Errorf("disabling the owner: %v; want staff", err)
	}
	if _, err := o.RemoveContact(t.Context(), "example", "owner@example.com"); Code(err) != "staff" {
		t.Errorf("removing the owner: %v; want staff", err)
	}
}

func TestPages(t *testing.T) {
	o := openOffice(t)
	want := map[string]bool{}
	for i := range 7 {
		email := fmt.Sprintf("c%d@example.com", i)
		want[email] = true
		o.add(email)
	}
	got := map[string]bool{}
	for after, pages := "", 0; pages < 10; pages++ {
		page, err := o.Contacts(t.Context(), "example", ListContacts{ListRequest: ListRequest{Text: "example.com", After: after, Limit: 3}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Contacts {
			if email := string(c.Email()); got[email] {
				t.Errorf("%s is on two pages", email)
			} else {
				got[email] = true
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	for email := range want {
		if !got[email] {
			t.Errorf("%s is on no page", email)
		}
	}
}

func TestSessionPages(t *testing.T) {
	o := openOffice(t)
	const people = 5
	for i := range people {
		c := o.add(fmt.Sprintf("c%d@example.com", i))
		for range i % 3 {
			o.signIn(c)
		}
	}
	var got []string
	for after, pages := "", 0; ; pages++ {
		page, err := o.Sessions(t.Context(), "example", ListSessions{ListRequest: ListRequest{After: after, Limit: 2}})
		if err != nil || pages > people {
			t.Fatal(pages, err)
		}
		for _, s := range page.Sessions {
			got = append(got, s.Email)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	want := "c1@example.com c2@example.com c2@example.com c4@example.com"
	if strings.Join(got, " ") != want {
		t.Errorf("sessions = %s; want %s", got, want)
	}
	one, err := o.Sessions(t.Context(), "example", ListSessions{Email: "c4@example.com"})
	if err != nil || len(one.Sessions) != 1 {
		t.Fatalf("sessions of one contact = %+v, %v", one, err)
	}
	s := one.Sessions[0]
	if s.Agent != "Firefox on Linux" || s.Method != "link" || s.ID == "" || s.ExpiresAt.Sub(s.SeenAt) != time.Hour {
		t.Errorf("session = %+v; want one that ends an hour after it was seen", s)
	}
}

// The list says of a shared computer that it forgets soon.
func TestSessionsOnSharedComputers(t *testing.T) {
	o := openOffice(t)
	sessions := o.firms["example"].Sessions
	sessions.Idle, sessions.Max = 45*24*time.Hour, 180*24*time.Hour
	c := o.add("ann@example.com")
	for _, shared := range []bool{true, false} {
		b, err := sessions.Begin(t.Context(), session.Session{Contact: c.ID, Method: "password", Shared: shared}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.db.Apply(t.Context(), b.Ops...); err != nil {
			t.Fatal(err)
		}
	}
	out, err := o.Sessions(t.Context(), "example", ListSessions{Email: "ann@example.com"})
	if err != nil || len(out.Sessions) != 2 {
		t.Fatalf("sessions = %+v, %v; want 2", out, err)
	}
	for _, s := range out.Sessions {
		want := s.SeenAt.Add(sessions.Idle)
		if s.Shared {
			want = s.SeenAt.Add(session.SharedIdle)
		}
		if !s.ExpiresAt.Equal(want) {
			t.Errorf("shared %t: the session of %v ends at %v; want %v", s.Shared, s.BegunAt, s.ExpiresAt, want)
		}
	}
}

func TestImport(t *testing.T) {
	o := openOffice(t)
	ctx := t.Context()
	if _, err := o.AddCompany(ctx, "example", "acme", directory.CompanyChange{}); err != nil {
		t.Fatal(err)
	}
	ann, bob := o.add("ann@example.com"), o.add("bob@example.com")
	o.add("cid@example.com")
	if _, err := o.RemoveContact(ctx, "example", "cid@example.com"); err != nil {
		t.Fatal(err)
	}
	anns, annsLink := o.signIn(ann)
	bobs, bobsLink := o.signIn(bob)
	const file = "email,companies,disabled\nann@example.com,acme,\nbob@example.com,,yes\ncid@example.com,,\ndan@example.com,acme,\n"

	for _, dry := range []bool{true, true, false} {
		got, err := o.Import(ctx, "example", directory.Contacts, strings.NewReader(file), ImportOptions{DryRun: dry}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.DryRun != dry || got.Added.Count != 1 || got.Changed.Count != 2 || got.Unchanged.Count != 0 || got.Kept.Count != 1 || got.Kept.First[0].Line != 4 {
			t.Errorf("Import(dry %t) = %+v", dry, got)
		}
		if want := map[bool]int{true: 0, false: 1}[dry]; got.SessionsEnded != want {
			t.Errorf("Import(dry %t) ended %d sessions; want %d", dry, got.SessionsEnded, want)
		}
		if o.in(bobs) != dry || o.works(bobsLink) != dry {
			t.Errorf("after Import(dry %t): the disabled contact's session %t, link %t; want %t", dry, o.in(bobs), o.works(bobsLink), dry)
		}
	}
	if !o.in(anns) || !o.works(annsLink) {
		t.Error("the import showed out somebody whose companies it changed")
	}
	page, err := o.Contacts(ctx, "example", ListContacts{ListRequest: ListRequest{Text: "acme"}})
	if err != nil || len(page.Contacts) != 2 {
		t.Errorf("contacts of acme = %+v, %v; want ann and dan", page, err)
	}
}

// An address that a file takes away ends what was got by it.
func TestImportTakesAddress(t *testing.T) {
	o := openOffice(t)
	o.add("ann@example.com")
	ann, err := o.SetContact(t.Context(), "example", "ann@example.com", directory.Change{OtherEmails: &[]string{"ann@example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	f := o.firms["example"]
	devices := limit.Devices{Firm: "example", Store: f.Tokens.Store, Keys: f.Tokens.Keys}
	_, device := devices.New()
	learnt, _, err := devices.Learn(t.Context(), device, ann.Contact.ID, time.Now())
	if err == nil {
		err = f.Tokens.Store.Apply(t.Context(), learnt...)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		file string
		out  bool
	}{
		{"email,other_emails\nann@example.com,ann@example.org;ann@example.net\n", false},
		{"email,other_emails\nann@example.com,ann@example.net\n", true},
	} {
		cookie, link := o.signIn(ann.Contact)
		if _, err := o.Import(t.Context(), "example", directory.Contacts, strings.NewReader(one.file), ImportOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		if o.in(cookie) == one.out || o.works(link) == one.out {
			t.Errorf("after %q: session %t, link %t; want %t", one.file, o.in(cookie), o.works(link), !one.out)
		}
		if known, err := devices.Knows(t.Context(), device, ann.Contact.ID); known == one.out || err != nil {
			t.Errorf("after %q: the device is known: %t, %v; want %t", one.file, known, err, !one.out)
		}
	}
}

func TestImportBadRows(t *testing.T) {
	o := openOffice(t)
	var file strings.Builder
	file.WriteString("email,locale\nann@example.com,en\n")
	for range 150 {
		file.WriteString("nobody,en\n")
	}
	_, err := o.Import(t.Context(), "example", directory.Contacts, strings.NewReader(file.String()), ImportOptions{}, nil)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != "rows" || len(e.Rows) != 100 || e.More != 50 || e.Rows[0].Line != 3 {
		t.Errorf("Import = %+v; want 100 bad rows from line 3 on, and 50 more", err)
	}
	if page, err := o.Contacts(t.Context(), "example", ListContacts{ListRequest: ListRequest{}}); err != nil || len(page.Contacts) != 0 {
		t.Errorf("after it: %+v, %v; want no contact", page, err)
	}
}

// The error of a long file that is bad from the start has to get through to whoever
// still sends it.
func TestImportBadFromTheStart(t *testing.T) {
	o := openOffice(t)
	file := "name\n" + strings.Repeat("ann@example.com\n", 1<<20)
	_, err := o.Import(t.Context(), "example", directory.Contacts, strings.NewReader(file), ImportOptions{}, nil)
	if Code(err) != "rows" {
		t.Errorf("Import = %v; want the error of the first line", err)
	}
}

// trickle gives a file in pieces, with pauses that together are longer than the
// server's time limit.
type trickle struct {
	pieces []string
	pause  time.Duration
}

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	n := copy(p, r.pieces[0])
	r.pieces = r.pieces[1:]
	return n, nil
}

func TestImportOutlastsTheServersLimit(t *testing.T) {
	o := openOffice(t)
	slow := &trickle{pause: 150 * time.Millisecond, pieces: []string{"email\n", "ann@example.com\n", "bob@example.com\n", "cid@example.com\n", "dan@example.com\n"}}
	got, err := o.Import(t.Context(), "example", directory.Contacts, slow, ImportOptions{}, nil)
	if err != nil || got.Added.Count != 4 {
		t.Errorf("Import = %+v, %v; want 4 added", got, err)
	}
}

func TestImportConflict(t *testing.T) {
	o := openOffice(t)
	f := o.firms["example"]
	ctx := t.Context()
	plans := 0
	file := func(ctx context.Context) (directory.Plan, error) {
		rows, err := directory.ReadContacts(strings.NewReader("email\nann@example.com\n"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := f.Directory.PlanContacts(ctx, rows)
		if plans++; plans == 1 { // somebody else, between plan and apply
			o.add("bob@example.com")
		}
		return p, err
	}
	got, err := f.carryOut(ctx, file, false, nil)
	if err != nil || got.Added.Count != 1 || plans != 2 {
		t.Errorf("carryOut = %+v, %v after %d plans; want it done with the second", got, err, plans)
	}
}

func TestImportTooLarge(t *testing.T) {
	o := openOffice(t)
	req, err := http.NewRequest("POST", o.url+"/doorpost/example/contacts/import", io.LimitReader(zeros{}, MaxImport+1))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = MaxImport + 1
	req.Header.Set("Content-Type", "text/csv")
	req.Header.Set("Expect", "100-continue")
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("a file over the limit: %s; want 413", resp.Status)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestLargeImport(t *testing.T) {
	rows := 20_000
	if testing.Short() {
		rows = 5_000
	}
	o := openOffice(t)
	var file bytes.Buffer
	file.WriteString("email,first_name,last_name,phone,locale\n")
	for i := range rows {
		fmt.Fprintf(&file, "somebody.with.a.name.%d@example.com,Somebody,Withaname,+1 555 0100,en-GB\n", i)
	}
	var told []Progress
	start := time.Now()
	got, err := o.Import(t.Context(), "example", directory.Contacts, &file, ImportOptions{}, func(p Progress) { told = append(told, p) })
	if err != nil || got.Added.Count != rows || len(got.Added.First) != 100 {
		t.Fatalf("Import = %+v, %v; want %d added", got, err, rows)
	}
	t.Logf("%d rows in %s, told %d times", rows, time.Since(start), len(told))
	if len(told) == 0 || told[len(told)-1] != (Progress{rows, rows}) {
		t.Errorf("progress = %v; want it to end with all %d", told, rows)
	}
}

func TestBackup(t *testing.T) {
	o := openOffice(t)
	o.add("ann@example.com")
	var copied bytes.Buffer
	n, err := o.Client.Backup(t.Context(), &copied)
	if err != nil || n != int64(copied.Len()) {
		t.Fatalf("Backup = %d, %v", n, err)
	}
	path := filepath.Join(t.TempDir(), "restored.db")
	if _, err := bolt.Restore(path, &copied); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	book := &directory.Directory{Firm: "example", Store: db, Keys: o.firms["example"].Directory.Keys, Now: time.Now}
	if _, err := book.ByEmail(t.Context(), "ann@example.com"); err != nil {
		t.Errorf("the contact isn't in the copy: %v", err)
	}
}

// A copy that breaks off half-way is never taken for a whole one.
func TestBackupBreaksOff(t *testing.T) {
	for _, one := range []struct {
		what  string
		write func(io.Writer) error
		n     int64
	}{
		{"before its first byte", func(io.Writer) error { return errors.New("no space left on device") }, 0},
		{"half-way", func(w io.Writer) error {
			w.Write(make([]byte, 1<<20))
			return errors.New("input/output error")
		}, 1 << 20},
	} {
		_, client := serve(t, &Handler{Backup: one.write})
		n, err := client.Backup(t.Context(), io.Discard)
		if err == nil || n > one.n {
			t.Errorf("a backup that breaks off %s: %d bytes, %v; want an error", one.what, n, err)
		}
	}
}

// What Caddy itself answers is an Error too, without a code.
func TestCaddyRefuses(t *testing.T) {
	for _, one := range []struct {
		kind, body, want string
	}{
		{"application/json", `{"error":"host not allowed: evil.example"}`, "host not allowed: evil.example"},
		{"text/plain; charset=utf-8", "404 page not found\n", "404 page not found"},
		{"", "", "403 Forbidden"},
	} {
		_, client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", one.kind)
			w.WriteHeader(403)
			io.WriteString(w, one.body)
		}))
		_, err := client.Firms(t.Context())
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != 403 || e.Code != "" || e.Reason != one.want {
			t.Errorf("an answer %q: %v; want %q", one.body, err, one.want)
		}
	}
}

// No firm reaches what is another's, by any of the requests.
func TestFirmsApart(t *testing.T) {
	o := openOffice(t)
	ctx := t.Context()
	if _, err := o.AddCompany(ctx, "example", "acme", directory.CompanyChange{}); err != nil {
		t.Fatal(err)
	}
	ann := o.add("ann@example.com", "acme")
	cookie, link := o.signIn(ann)
	before, _ := o.Contacts(ctx, "example", ListContacts{ListRequest: ListRequest{}})
	for what, err := range map[string]error{
		"set":     second(o.SetContact(ctx, "other", "ann@example.com", directory.Change{FirstName: ptr("Eve")})),
		"disable": second(o.DisableContact(ctx, "other", "ann@example.com")),
		"remove":  second(o.RemoveContact(ctx, "other", "ann@example.com")),
		"revoke":  second(o.RevokeSessions(ctx, "other", "ann@example.com")),
		"list":    second(o.Sessions(ctx, "other", ListSessions{Email: "ann@example.com"})),
		"company": second(o.RemoveCompany(ctx, "other", "acme")),
	} {
		if Code(err) != "unknown" {
			t.Errorf("%s in the other firm: %v; want unknown", what, err)
		}
	}
	if _, err := o.Import(ctx, "other", directory.Contacts, strings.NewReader("email,disabled\nann@example.com,yes\n"), ImportOptions{}, nil); err != nil {
		t.Error(err)
	}
	after, _ := o.Contacts(ctx, "example", ListContacts{ListRequest: ListRequest{}})
	if fmt.Sprint(before) != fmt.Sprint(after) || !o.in(cookie) || !o.works(link) {
		t.Errorf("the other firm changed this one: %v, then %v", before, after)
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkServe(b *testing.B) {
	h := &Handler{}
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/doorpost/", nil))
	}
}
