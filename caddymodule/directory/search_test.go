package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// foundBy returns the main addresses of the contacts that a search finds, and the ids of the companies, page by page.
func foundBy(t *testing.T, b *Directory, text string, page int) (contacts, companies []string) {
	t.Helper()
	for after := ""; ; {
		some := must(b.Contacts(t.Context(), text, after, page))
		for _, c := range some {
			contacts, after = append(contacts, string(c.Email())), c.ID
		}
		if len(some) < page {
			break
		}
	}
	for after := ""; ; {
		some := must(b.Companies(t.Context(), text, after, page))
		for _, c := range some {
			companies, after = append(companies, c.ID), c.ID
		}
		if len(some) < page {
			return contacts, companies
		}
	}
}

// wantFound compares what the index finds with a look at everything.
func wantFound(t *testing.T, b *Directory, texts ...string) {
	t.Helper()
	companies := must(b.allCompanies(t.Context()))
	names := map[string]string{}
	for _, c := range companies {
		names[c.ID] = c.Name
	}
	contacts := must(b.Contacts(t.Context(), "", "", 10_000))
	for _, text := range texts {
		words := strings.Fields(nameKey(text))
		var people, ids []string
		for _, c := range contacts {
			if c.matches(words, names) {
				people = append(people, string(c.Email()))
			}
		}
		for _, c := range companies {
			if containsAll(nameKey(c.ID+" "+c.Name), words) {
				ids = append(ids, c.ID)
			}
		}
		gotPeople, gotIDs := foundBy(t, b, text, 7)
		if !slices.Equal(gotPeople, people) || !slices.Equal(gotIDs, ids) {
			t.Errorf("a search for %q finds\n%q\n%q; want\n%q\n%q", text, gotPeople, gotIDs, people, ids)
		}
	}
}

var searches = []string{"ann", "ANN lee", "lee acme", "ltd", "example.org", "müller", "Ｍüller", "b", "a e", "birch & co", "5 ann", "nobody at all", "@", "c1"}

// fillBook adds n contacts and some companies.
func fillBook(t *testing.T, b *Directory, n int) {
	t.Helper()
	companies, contacts := "id,name\nacme,Acme Ltd\nbirch,Birch & Co\n", "email,other_emails,first_name,last_name,companies\n"
	for i := range n / 2 {
		companies += fmt.Sprintf("c%d,Company %d\n", i, i)
	}
	for i := range n {
		first, last := []string{"Ann", "Bob", "Cléo", "Dana"}[i%4], []string{"Lee", "Müller", "Ray"}[i%3]
		contacts += fmt.Sprintf("%s%d@example.com,%s,%s,%s,%s\n", []string{"ann", "bob", "cleo", "dana"}[i%4], i, []string{"", fmt.Sprintf("x%d@example.org", i)}[i%2], first, last,
			[]string{"", "acme", "birch;acme", fmt.Sprintf("c%d", i/3)}[i%4])
	}
	must(importCompanies(t, b, companies))
	must(importCSV(t, b, contacts))
}

// What a search finds is what a look at everything finds, before and after changes of every kind.
func TestSearchFindsWhatIsThere(t *testing.T) {
	b, ctx := newBook(t, "owner@example.com"), t.Context()
	wantFound(t, b, searches...)
	fillBook(t, b, 60)
	wantFound(t, b, searches...)
	must(b.AddContact(ctx, "zoe@example.com", Change{FirstName: ptr("Ann"), LastName: ptr("Müller"), Companies: &[]string{"birch"}}))
	must(b.SetContact(ctx, "ann0@example.com", Change{Email: ptr("annette@example.org"), LastName: ptr("Ray")}))
	must(b.RemoveContact(ctx, "ann4@example.com"))
	must(b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("Lee & Sons")}))
	wantFound(t, b, searches...)
	must(b.RemoveCompany(ctx, "birch"))
	must(b.AddCompany(ctx, "ltd", CompanyChange{}))
	wantFound(t, b, searches...)
	_, _, err := b.RestoreCompany(ctx, "birch")
	must(0, err)
	must(importCSV(t, b, "email,first_name,companies\nann8@example.com,Nina,ltd\nnew@example.net,Ann,acme\n"))
	wantFound(t, b, searches...)

	// The same once the changes are merged, and once the index is made anew.
	s := b.search()
	s.index.merge()
	wantFound(t, b, searches...)
	b.Invalidate()
	if s.index != nil {
		t.Fatal("the index is there still")
	}
	wantFound(t, b, searches...)
}

// A change by another process is found after Sync, whether it is about few contacts or about all of them, and after
// so many changes that they aren't told singly any more.
func TestSearchFollowsOtherProcesses(t *testing.T) {
	one, ctx := newBook(t), t.Context()
	one.Peers = &store.Peers{Notify: func(context.Context) {}}
	two := &Directory{Firm: one.Firm, Store: one.Store, Keys: one.Keys, Peers: one.Peers}
	fillBook(t, one, 40)
	wantFound(t, two, searches...)
	index := func() *contactIndex {
		two.search().mu.Lock()
		defer two.search().mu.Unlock()
		return two.search().index
	}
	was := index()
	sync := func(what string, kept bool) {
		t.Helper()
		must(0, two.Sync(ctx))
		if now := index(); (now == was) != kept {
			t.Errorf("%s: the index was kept: %t; want %t", what, now == was, kept)
		}
		wantFound(t, two, searches...)
		was = index()
	}
	sync("nothing has changed", true)
	must(one.AddContact(ctx, "zoe@example.com", Change{FirstName: ptr("Ann"), LastName: ptr("Lee")}))
	must(one.RemoveContact(ctx, "ann0@example.com"))
	must(one.SetCompany(ctx, "acme", CompanyChange{Name: ptr("Lee & Sons")}))
	renewal := must(one.Renew(ctx, must(one.ByEmail(ctx, "zoe@example.com")).ID))
	must(0, one.Store.Apply(ctx, renewal.Ops...))
	must(two.SetContact(ctx, "zoe@example.com", Change{LastName: ptr("Müller")}))
	sync("some changes", true)
	must(one.SetContact(ctx, "zoe@example.com", Change{LastName: ptr("Ray")}))
	recs := must(one.Store.Scan(ctx, one.Firm, bucketChange, "", "", 1000))
	must(0, one.Store.Apply(ctx, store.Delete(recs[len(recs)-1].Key)))
	sync("a change that nothing tells of", false)
	fillBook(t, one, 2*maxLogged)
	sync("an import", false)
}

// A change that comes while the index is made isn't lost.
func TestSearchKeepsChangesDuringALoad(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	fillBook(t, b, 40)
	slow := &pausingStore{Store: b.Store, at: make(chan struct{}), goOn: make(chan struct{})}
	b.Store = slow
	slow.armed.Store(true)
	b.WarmSearch()
	<-slow.at // all contacts were read
	must(b.SetContact(ctx, "ann0@example.com", Change{LastName: ptr("Zimmer")}))
	must(b.RemoveContact(ctx, "ann4@example.com"))
	close(slow.goOn)
	wantFound(t, b, append(searches, "zimmer")...)
}

// pausingStore waits once, behind the first Scan of contacts.
type pausingStore struct {
	store.Store
	armed    atomic.Bool
	at, goOn chan struct{}
}

func (s *pausingStore) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	recs, err := s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
	if bucket == bucketContact && s.armed.CompareAndSwap(true, false) {
		close(s.at)
		<-s.goOn
	}
	return recs, err
}
