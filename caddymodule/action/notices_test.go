package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// dying is a store whose process is killed around an Apply: before it, or after it and before its caller
// knows.
type dying struct {
	store.Store
	mu    sync.Mutex
	after int // how many more are done; negative: all
	done  bool
}

var errKilled = fmt.Errorf("killed: %w", store.ErrUnavailable)

func (s *dying) Apply(ctx context.Context, ops ...store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.after == 0 {
		if s.done {
			_ = s.Store.Apply(ctx, ops...)
		}
		return errKilled
	}
	s.after--
	return s.Store.Apply(ctx, ops...)
}

// noticeFirm is a firm with so many contacts of acme; make makes its Notices, as another process does.
func noticeFirm(t *testing.T, contacts int) (db store.Store, make func(store.Store) *Notices) {
	t.Helper()
	file, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	letters, err := brand.NewMessages(brand.Brand{Name: "Example", From: "hello@example.com"}, "")
	if err != nil {
		t.Fatal(err)
	}
	make = func(db store.Store) *Notices {
		return &Notices{Firm: "example", Store: db, Keys: keys, Messages: letters, Directory: &directory.Directory{Firm: "example", Store: db, Keys: keys},
			Queue: &outbox.Queue{Firm: "example", Store: db, Keys: keys}, Unread: &notice.Unread{Firm: "example", Store: db, Keys: keys},
			Audit: &audit.Log{Logger: slog.New(slog.DiscardHandler), Keys: keys}}
	}
	var csv strings.Builder
	csv.WriteString("email,companies\n")
	for i := range contacts {
		fmt.Fprintf(&csv, "c%d@example.com,acme\n", i)
	}
	book := make(file).Directory
	for _, id := range []string{"acme", "birch"} {
		if _, err := book.AddCompany(t.Context(), id, directory.CompanyChange{}); err != nil {
			t.Fatal(err)
		}
	}
	planner, err := book.Planner(strings.NewReader(csv.String()), directory.Contacts, directory.ImportOptions{})
	var plan directory.Plan
	if err == nil {
		plan, err = planner(t.Context())
	}
	if err == nil {
		err = book.Apply(t.Context(), plan, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file, make
}

// queuedTo counts the mails of the outbox by contact.
func queuedTo(t *testing.T, s *Notices) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, r := range requestsIn(t, s) {
		n[r.Contact]++
	}
	return n
}

// requestsIn returns what is asked of the outbox, by what its worker would get.
func requestsIn(t *testing.T, s *Notices) (all []noticeRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	list, _, err := s.Queue.List(ctx, "", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	q := &outbox.Queue{Firm: s.Queue.Firm, Store: s.Queue.Store, Keys: s.Queue.Keys, Sender: nobody{}, Log: slog.New(slog.DiscardHandler)}
	seen := map[string]bool{}
	done := make(chan struct{})
	q.Prepare = func(_ context.Context, r outbox.Request) (outbox.Prepared, error) {
		var n noticeRequest
		if err := json.Unmarshal(r.Payload, &n); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !seen[r.ID] {
			seen[r.ID] = true
			if all = append(all, n); len(all) == len(list) {
				close(done)
			}
		}
		return outbox.Prepared{Later: time.Now().Add(10 * time.Minute)}, nil
	}
	if len(list) == 0 {
		return nil
	}
	q.Start()
	defer q.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("%d of %d requests were read", len(all), len(list))
	}
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(all)
}

type nobody struct{}

func (nobody) Send(context.Context, outbox.Message) error {
	return errors.New("nobody is asked to send")
}

var aNotice = Notice{Kind: brand.KindNewQuestions, Company: "acme", Key: "march"}

// Whenever a process is killed while it accepts a notice, the same notice with the same key goes on where it was,
// at that process's successor as at another machine: nobody is left out, and nobody is told twice.
func TestNoticeIsSentOnceHoweverOftenItIsKilled(t *testing.T) {
	const contacts = 120 // more than two steps
	for _, applied := range []bool{false, true} {
		for kill := range 4 {
			db, make := noticeFirm(t, contacts)
			first := make(&dying{Store: db, after: kill, done: applied})
			got, err := first.Send(t.Context(), aNotice)
			if killed := kill < 3; killed != errors.Is(err, errKilled) {
				t.Fatalf("kill %d: Send = %v", kill, err)
			}
			second := make(db)
			again, err := second.Send(t.Context(), aNotice)
			if err != nil {
				t.Fatal(err)
			}
			if len(again.Queued) != contacts || got.Queued != nil && fmt.Sprint(got.Queued) != fmt.Sprint(again.Queued) {
				t.Errorf("kill %d: the answers have %d and %d contacts, or differ", kill, len(got.Queued), len(again.Queued))
			}
			told := queuedTo(t, second)
			for _, one := range again.Queued {
				if told[one.Contact] != 1 {
					t.Errorf("kill %d: %s is told %d times", kill, one.Email, told[one.Contact])
				}
				if unread, err := second.Unread.Of(t.Context(), one.Contact); err != nil || unread["acme"].Kind != brand.KindNewQuestions {
					t.Errorf("kill %d: unread of %s = %v, %v", kill, one.Email, unread, err)
				}
			}
			if len(told) != contacts {
				t.Errorf("kill %d: %d contacts are told; want %d", kill, len(told), contacts)
			}
		}
	}
}

func TestTwoGatesWithOneKeyTellEverybodyOnce(t *testing.T) {
	const contacts = 120
	db, make := noticeFirm(t, contacts)
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for range 4 {
		all.Go(func() {
			got, err := make(db).Send(t.Context(), aNotice)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(got.Queued)]++
		})
	}
	all.Wait()
	told := queuedTo(t, make(db))
	for contact, n := range told {
		if n != 1 {
			t.Errorf("%s is told %d times", contact, n)
		}
	}
	if len(told) != contacts || len(answers) != 1 {
		t.Errorf("%d contacts are told, with %d different answers; want %d, with one", len(told), len(answers), contacts)
	}
}

func TestKeyOfANotice(t *testing.T) {
	db, make := noticeFirm(t, 2)
	now := time.Now()
	s := make(db)
	s.Now = func() time.Time { return now }
	to := func(n Notice, who ...string) Notice {
		n.To = []address.Address{}
		for _, a := range who {
			n.To = append(n.To, address.Address(a))
		}
		return n
	}
	count := func(n Notice, proof ...store.Op) (int, error) {
		before := len(requestsIn(t, s))
		_, err := s.Send(t.Context(), n, proof...)
		return len(requestsIn(t, s)) - before, err
	}
	other := aNotice
	other.Company = "birch"
	keyless := aNotice
	keyless.Key = ""
	changed := aNotice
	changed.Data = map[string]string{"count": "4"}
	proof := store.Check(store.Key{Firm: "example", Bucket: "x", ID: "x"}, []byte("there"))
	for _, c := range []struct {
		what string
		n    Notice
		ops  []store.Op
		want int
		err  error
	}{
		{"a company without contacts", other, nil, 0, nil},
		{"its key stands for nothing yet", to(aNotice, "c0@example.com"), nil, 1, nil},
		{"the same again", to(aNotice, "c0@example.com"), nil, 0, nil},
		{"the key of another notice", to(aNotice, "c1@example.com"), nil, 0, ErrKeyUsed},
		{"and of other data", changed, nil, 0, ErrKeyUsed},
		{"without a key", keyless, nil, 2, nil},
		{"without a key, again", keyless, nil, 2, nil},
		{"a condition that doesn't hold", keyless, []store.Op{proof}, 0, store.ErrConflict},
		{"an unknown company", Notice{Kind: brand.KindNewQuestions, Company: "none"}, nil, 0, directory.ErrUnknown},
		{"an unknown template", Notice{Kind: brand.KindNewQuestions, Company: "acme", Template: "none"}, nil, 0, ErrNoTemplate},
	} {
		if got, err := count(c.n, c.ops...); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %d mails, %v; want %d, %v", c.what, got, err, c.want, c.err)
		}
	}
	now = now.Add(NoticeLife + time.Second)
	if got, err := s.Send(t.Context(), to(aNotice, "c1@example.com")); err != nil || len(got.Queued) != 1 || got.Again {
		t.Errorf("the key after 48 hours: %v, %v; want one contact told", got, err)
	}
}

// Between a notice and its mail a contact may lose what the notice is about.
func TestNoticeGoesOnlyToThoseWhoStillBelongToTheCompany(t *testing.T) {
	db, make := noticeFirm(t, 5)
	s := make(db)
	origin, err := url.Parse("https://clients.example.com")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := legacy.Compile(legacy.Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*"}})
	if err != nil {
		t.Fatal(err)
	}
	j := &MailJobs{Directory: s.Directory, Messages: s.Messages, Audit: s.Audit, Sites: &site.Sites{URL: origin}, Legacy: rules, Prefix: "/-", Now: time.Now}
	if _, err := s.Send(t.Context(), aNotice); err != nil {
		t.Fatal(err)
	}
	none, moved := []string{}, "new@example.com"
	for _, err := range []error{
		second(s.Directory.RemoveContact(t.Context(), "c0@example.com")),
		second(s.Directory.Disable(t.Context(), "c1@example.com")),
		second(s.Directory.SetContact(t.Context(), "c2@example.com", directory.Change{Companies: &none})),
		second(s.Directory.SetContact(t.Context(), "c3@example.com", directory.Change{Email: &moved})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, n := range requestsIn(t, s) {
		payload, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		p, err := j.Prepare(t.Context(), outbox.Request{ID: "1-x", Kind: brand.KindNewQuestions, Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		if p.Message == nil {
			p.Done()
			continue
		}
		got = append(got, p.Message.To)
		if !strings.Contains(string(p.Message.Data), "https://clients.example.com/files/acme/") {
			t.Errorf("the mail doesn't lead to the company's page:\n%s", p.Message.Data)
		}
	}
	if slices.Sort(got); !slices.Equal(got, []string{"c4@example.com", "new@example.com"}) {
		t.Errorf("mails go to %v; want c4 and the new address of c3", got)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPageLinkIsOneThatMailProgramsLeaveWhole(t *testing.T) {
	origin, err := url.Parse("https://clients.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ home, path, want string }{
		{"", "", "https://clients.example.com/-/companies"},
		{"/portal/{company}", "", "https://clients.example.com/portal/acme"},
		{"/portal/{company}", "/-/reports/", "https://clients.example.com/-/reports/"},
	} {
		var rules *legacy.Rules
		if c.home != "" {
			if rules, err = legacy.Compile(legacy.Config{Prefix: "/-", Home: c.home}); err != nil {
				t.Fatal(c.home, err)
			}
		}
		j := &MailJobs{Sites: &site.Sites{URL: origin}, Legacy: rules, Prefix: "/-"}
		if got := j.pageLink(c.path, "acme"); got != c.want {
			t.Errorf("pageLink(%q) with home %q = %s; want %s", c.path, c.home, got, c.want)
		}
	}
}
