package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// wantTokens checks which company each token belongs to, by look-up and by the contents of the
// index.
func wantTokens(t testing.TB, b *Directory, want string) {
	t.Helper()
	ctx := t.Context()
	found := map[string]string{}
	for _, token := range []string{"one", "two", "three", "a/b", "a%2Fb", "One", ""} {
		s, err := b.StatusByToken(ctx, token)
		if err != nil && !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
		if err == nil {
			found[token] = s.Company
		}
	}
	var got []string
	for _, token := range slices.Sorted(maps.Keys(found)) {
		got = append(got, token+":"+found[token])
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("tokens lead to %q; want %q", s, want)
	}
	if n := len(must(b.Store.Scan(ctx, b.Firm, bucketLegacy, "", "", 100))); n != len(found) {
		t.Errorf("the index has %d records; want %d", n, len(found))
	}
}

func TestTokensBelongToOneCompany(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	wantTokens(t, b, "")
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"one", " a%2Fb "}}))
	wantTokens(t, b, "a/b:acme one:acme")
	must(b.SetCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"two", "one"}}))
	wantTokens(t, b, "one:acme two:acme")
	must(b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("Acme")}))
	wantTokens(t, b, "one:acme two:acme")
	must(b.AddCompany(ctx, "birch", CompanyChange{}))
	must(importCompanies(t, b, "id,legacy_tokens\nbirch,two\nacme,one;three\n")) // one moves to another company
	wantTokens(t, b, "one:acme three:acme two:birch")
	must(importCompanies(t, b, "id,name\nbirch,Birch\n"))
	wantTokens(t, b, "one:acme three:acme two:birch")
	must(b.RemoveCompany(ctx, "acme"))
	wantTokens(t, b, "two:birch")
	must(b.AddCompany(ctx, "cedar", CompanyChange{LegacyTokens: &[]string{"one"}}))
	wantTokens(t, b, "one:cedar two:birch")

	for _, change := range []CompanyChange{{LegacyTokens: &[]string{"three", "two"}}, {LegacyTokens: &[]string{"%74wo"}}} {
		_, err := b.AddCompany(ctx, "dogwood", change)
		var field *FieldError
		if !errors.As(err, &field) || !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "birch") || strings.Contains(err.Error(), "two") {
			t.Errorf("a token of another company: %v; want ErrTaken that names birch", err)
		}
	}
	_, err := importCompanies(t, b, "id,legacy_tokens\nelm,x\nfir,%6fne\n")
	wantRows(t, err, `3 "legacy_tokens" cedar and fir have one in common`)
	wantTokens(t, b, "one:cedar two:birch")

	if s, err := b.StatusOf(ctx, "cedar"); err != nil || s.Company != "cedar" || s.Upgraded || s.Token != "one" || !s.Has(FingerprintOf("one")) || s.Has(FingerprintOf("two")) {
		t.Errorf("StandingOf = %+v, %v", s, err)
	}
	for _, id := range []string{"", "nobody", "Cedar"} {
		if _, err := b.StatusOf(ctx, id); !errors.Is(err, ErrUnknown) {
			t.Errorf("StandingOf(%q): %v; want ErrUnknown", id, err)
		}
	}
}

// Tokens of another firm are unknown here.
func TestTokensOfAnotherFirm(t *testing.T) {
	b := newBook(t)
	must(b.AddCompany(t.Context(), "acme", CompanyChange{LegacyTokens: &[]string{"one"}}))
	other := &Directory{Firm: "other", Store: b.Store, Keys: b.Keys}
	wantTokens(t, other, "")
}

func TestTokensReseal(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"one", "two"}}))
	both := &Directory{Firm: b.Firm, Store: b.Store, Keys: keyring(t, "second", "first")}
	wantTokens(t, both, "one:acme two:acme")
	must(both.SetCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"two", "three"}}))
	wantTokens(t, both, "three:acme two:acme")
	if err := both.Reseal(ctx); err != nil {
		t.Fatal(err)
	}
	wantTokens(t, &Directory{Firm: b.Firm, Store: b.Store, Keys: keyring(t, "second")}, "three:acme two:acme")
	stranger := &Directory{Firm: b.Firm, Store: b.Store, Keys: keyring(t, "third")}
	if s, err := stranger.StatusByToken(ctx, "two"); !errors.Is(err, ErrUnknown) {
		t.Errorf("under another secret: %+v, %v; want ErrUnknown", s, err)
	}
}

// resealingStore is a store in which all records are resealed right after the first read that finds
// nothing.
type resealingStore struct {
	store.Store
	move func()
}

func (m *resealingStore) Get(ctx context.Context, k store.Key) (store.Record, error) {
	rec, err := m.Store.Get(ctx, k)
	if move := m.move; move != nil && errors.Is(err, store.ErrNotFound) {
		m.move = nil
		move()
	}
	return rec, err
}

// A record is found even if it is resealed between two reads of one look-up. Otherwise a contact's
// mail would be lost, and a token of an upgraded company would count as unknown.
func TestRecordResealedDuringALookupIsFound(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"One"}}))
	must(b.AddContact(ctx, "ann@example.com", Change{}))
	for i, look := range []func(*Directory) error{
		func(b *Directory) error { _, err := b.ByEmail(ctx, "ann@example.com"); return err },
		func(b *Directory) error { _, err := b.StatusByToken(ctx, "One"); return err },
	} {
		secrets := []string{"second", "first"}
		for range i {
			secrets = append([]string{fmt.Sprint("newer ", len(secrets))}, secrets...)
		}
		both := &Directory{Firm: b.Firm, Store: b.Store, Keys: keyring(t, secrets...)}
		moves := &resealingStore{Store: b.Store, move: func() {
			if err := both.Reseal(ctx); err != nil {
				t.Error(err)
			}
		}}
		if err := look(&Directory{Firm: b.Firm, Store: moves, Keys: both.Keys}); err != nil || moves.move != nil {
			t.Errorf("look-up %d while all is sealed again: %v, moved %v; want it found", i, err, moves.move == nil)
		}
	}
}

// ownersOf returns for each text the companies whose tokens a portal may see in it.
func ownersOf(t *testing.T, b *Directory, texts ...string) string {
	t.Helper()
	index, err := b.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, text := range texts {
		if ids := index.Companies(text); len(ids) > 0 {
			slices.Sort(ids)
			all = append(all, text+":"+strings.Join(ids, ","))
		}
	}
	return strings.Join(all, " ")
}

// The index in memory has the current tokens after every kind of change. It also finds them in
// other spellings, because a portal's database may ignore case.
func TestTokensFollowChanges(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	want := func(b *Directory, want string) {
		t.Helper()
		if got := ownersOf(t, b, "AbC", "abc", "ABC", "one", "One", "OTHER"); got != want {
			t.Errorf("the owners are %q; want %q", got, want)
		}
	}
	set := func(id string, tokens ...string) {
		t.Helper()
		must(b.SetCompany(ctx, id, CompanyChange{LegacyTokens: &tokens}))
	}
	want(b, "")
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"AbC", "one"}}))
	must(b.AddCompany(ctx, "birch", CompanyChange{LegacyTokens: &[]string{"other"}}))
	want(b, "AbC:acme abc:acme ABC:acme one:acme One:acme OTHER:birch")
	must(importCompanies(t, b, "id,legacy_tokens\nbirch,AbC\nacme,one\n")) // it moves to another company
	want(b, "AbC:birch abc:birch ABC:birch one:acme One:acme")
	must(b.AddCompany(ctx, "cedar", CompanyChange{LegacyTokens: &[]string{"aBc", "ABc"}})) // similar, and of another company
	want(b, "AbC:birch,cedar abc:birch,cedar ABC:birch,cedar one:acme One:acme")
	must(b.RemoveCompany(ctx, "cedar"))
	want(b, "AbC:birch abc:birch ABC:birch one:acme One:acme")
	must(importCompanies(t, b, "id,legacy_tokens\nbirch,more\nacme,abC;one;Abc\n"))
	want(b, "AbC:acme abc:acme ABC:acme one:acme One:acme")
	set("acme")
	want(b, "")
	if n := len(must(b.Store.Scan(ctx, b.Firm, bucketLegacy, "", "", 100))); n != 1 {
		t.Errorf("the store's index has %d records; want that of birch's alone", n)
	}
	set("birch", "AbC")
	want(b, "AbC:birch abc:birch ABC:birch")
	want(&Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys}, "AbC:birch abc:birch ABC:birch")
}

// The index has changes by another process after Sync, and changes by an older Book of this process
// at once.
func TestTokensFollowOtherProcesses(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	b.Peers = &store.Peers{}
	b.TokenCache = &TokenCache{}
	reloaded := &Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys, TokenCache: b.TokenCache}
	other := &Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys}
	if got := ownersOf(t, b, "hb7Qm2xVt9Kp4Rz"); got != "" {
		t.Fatalf("an empty book has %s", got)
	}
	must(other.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"hb7Qm2xVt9Kp4Rz"}}))
	if err := b.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if got := ownersOf(t, b, "hb7Qm2xVt9Kp4Rz"); got != "hb7Qm2xVt9Kp4Rz:acme" {
		t.Errorf("after another process's change the owners are %q; want acme", got)
	}
	must(reloaded.SetCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"wd3Kx8nLq5Ys6Tg"}}))
	if got := ownersOf(t, b, "hb7Qm2xVt9Kp4Rz", "wd3Kx8nLq5Ys6Tg"); got != "wd3Kx8nLq5Ys6Tg:acme" {
		t.Errorf("after a change through another Book of the process the owners are %q; want the new token's alone", got)
	}
}

// If the store is unavailable, Tokens returns an error rather than an empty index.
func TestTokensOfUnavailableStoreIsAnError(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"hb7Qm2xVt9Kp4Rz"}}))
	gone := &Directory{Firm: b.Firm, Store: unavailableStore{b.Store}, Keys: b.Keys}
	if _, err := gone.Tokens(ctx); err == nil || gone.CachedTokens() != nil {
		t.Errorf("Tokens without a store = %v, in memory %t; want an error, and none", err, gone.CachedTokens() != nil)
	}
	gone.Store = b.Store
	if got := ownersOf(t, gone, "hb7Qm2xVt9Kp4Rz"); got != "hb7Qm2xVt9Kp4Rz:acme" {
		t.Errorf("once the store is back the owners are %q; want acme", got)
	}
}

// unavailableStore fails every read.
type unavailableStore struct{ store.Store }

func (unavailableStore) Get(context.Context, store.Key) (store.Record, error) {
	return store.Record{}, errors.New("the store is gone")
}

func (unavailableStore) Scan(context.Context, string, string, string, string, int) ([]store.Record, error) {
	return nil, errors.New("the store is gone")
}

// A company whose record is damaged keeps its tokens: those of before, in any spelling, and after a start
// those that the store has MACs of. Others are as they were.
func TestTokensOfADamagedCompany(t *testing.T) {
	for how, damage := range map[string][]byte{"flipped bits": append([]byte{format}, "damaged"...), "another format": []byte("?"), "nothing": {}} {
		b, ctx := newBook(t), t.Context()
		must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"hb7Qm2xVt9Kp4Rz"}}))
		must(b.AddCompany(ctx, "birch", CompanyChange{LegacyTokens: &[]string{"wd3Kx8nLq5Ys6Tg"}}))
		find := func(b *Directory, text string) (ids []string) {
			for _, hit := range must(b.Tokens(ctx)).Find(text) {
				ids = append(ids, hit.Companies...)
			}
			return ids
		}
		must(b.Tokens(ctx))
		if err := b.Store.Apply(ctx, store.Put(b.key(bucketCompany, "acme"), damage, time.Time{})); err != nil {
			t.Fatal(err)
		}
		b.Invalidate()
		started := &Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys}
		for _, c := range []struct {
			b    *Directory
			text string
			want string
		}{
			{b, "k=HB7QM2XVT9KP4RZ", "acme"},
			{b, "k=wd3Kx8nLq5Ys6Tg", "birch"},
			{started, "k=hb7Qm2xVt9Kp4Rz", "acme"},
			{started, "/c/inv-hb7Qm2xVt9Kp4Rz.html", "acme"},
			{started, "k=%2568b7Qm2xVt9Kp4Rz&x=%ff", "acme"},
			{started, "k=wd3Kx8nLq5Ys6Tg", "birch"},
			{started, "k=WD3KX8NLQ5YS6TG", "birch"},
			{started, "k=nb2Hs6tRk9Wx3Mc", ""},
		} {
			if got := strings.Join(find(c.b, c.text), " "); got != c.want {
				t.Errorf("%s, at a start %t: %q holds tokens of %q; want %q", how, c.b == started, c.text, got, c.want)
			}
		}
		if got := strings.Join(must(started.Tokens(ctx)).Companies("hb7Qm2xVt9Kp4Rz"), " "); got != "acme" {
			t.Errorf("%s: the token is of %q; want acme", how, got)
		}
	}
}

// A store that hangs keeps nobody waiting, and is asked once for all who come meanwhile; whoever comes when
// the tokens have been read gets them.
func TestNobodyWaitsLongForTokens(t *testing.T) {
	b := newBook(t)
	must(b.AddCompany(t.Context(), "acme", CompanyChange{LegacyTokens: &[]string{"hb7Qm2xVt9Kp4Rz"}}))
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStore{Store: b.Store, goOn: make(chan struct{})}
		book := &Directory{Firm: b.Firm, Store: slow, Keys: b.Keys}
		began := time.Now()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if _, err := book.Tokens(t.Context()); !errors.Is(err, store.ErrUnavailable) || time.Since(began) > time.Second {
					t.Errorf("Tokens of a store that hangs = %v after %v; want store.ErrUnavailable within a second", err, time.Since(began))
				}
			})
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := book.Tokens(gone); err == nil || time.Since(began) > 0 {
			t.Errorf("Tokens for a visitor who has left = %v after %v; want an error at once", err, time.Since(began))
		}
		all.Wait()
		if n := slow.scans.Load(); n != 1 {
			t.Errorf("the store was asked %d times; want once", n)
		}
		close(slow.goOn)
		if err := book.LoadTokens(t.Context()); err != nil {
			t.Errorf("LoadTokens = %v; want it to wait", err)
		}
		if got := ownersOf(t, book, "hb7Qm2xVt9Kp4Rz"); got != "hb7Qm2xVt9Kp4Rz:acme" {
			t.Errorf("once the store answers the owners are %q; want acme", got)
		}
	})
}

// slowStore hangs in Scan until it may go on.
type slowStore struct {
	store.Store
	goOn  chan struct{}
	scans atomic.Int64
}

func (s *slowStore) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	s.scans.Add(1)
	select {
	case <-s.goOn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// A directory from before the index has companies only, with tokens as written in links.
func TestEnsureTokens(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	for id, tokens := range map[string][]string{"acme": {"one", "a%2Fb"}, "birch": nil} {
		plain := must(json.Marshal(map[string]any{"n": strings.ToUpper(id), "t": tokens}))
		value := append([]byte{format}, b.Keys.Seal("directory", b.sealingContext(bucketCompany, id), plain)...)
		if err := b.Store.Apply(ctx, store.Put(b.key(bucketCompany, id), value, time.Time{})); err != nil {
			t.Fatal(err)
		}
	}
	before := b.Version()
	like := b.key(bucketLike, "0123/acme") // of an earlier release
	if err := b.Store.Apply(ctx, store.Put(like, []byte{format}, time.Time{})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.EnsureTokens(ctx); err != nil {
			t.Fatal(err)
		}
		if b.Version() == before {
			t.Error("Version stood still")
		}
	}
	if got := fmt.Sprint(must(b.Companies(ctx, "", "", 10))); got != "[{acme ACME [one a/b] false 0 0} {birch BIRCH [] true 0 0}]" {
		t.Errorf("the companies are %s", got)
	}
	for bucket, want := range map[string]int{bucketLegacy: 2, bucketLike: 0} {
		if n := len(must(b.Store.Scan(ctx, b.Firm, bucket, "", "", 100))); n != want {
			t.Errorf("%q has %d records; want %d", bucket, n, want)
		}
	}
	for token, want := range map[string]string{"one": "acme", "a/b": "acme"} {
		if s, err := b.StatusByToken(ctx, token); err != nil || s.Company != want {
			t.Errorf("%s leads to %+v, %v", token, s, err)
		}
	}
	// Once the index exists, it isn't built again.
	at := b.Version()
	if err := b.EnsureTokens(ctx); err != nil || b.Version() != at {
		t.Errorf("a second time: %v, Version moved by %d", err, b.Version()-at)
	}
}

func TestStandingIsCached(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	counted := &countingStore{Store: b.Store}
	b.Store = counted
	must(b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"one"}}))
	must(b.StatusByToken(ctx, "one"))
	reads := counted.gets
	for range 3 {
		if s, err := b.StatusByToken(ctx, "one"); err != nil || s.Company != "acme" || s.Upgraded {
			t.Errorf("%+v, %v", s, err)
		}
		must(b.StatusOf(ctx, "acme"))
	}
	if counted.gets != reads {
		t.Errorf("%d reads of what is held", counted.gets-reads)
	}
	must(b.AddContact(ctx, "ann@b.de", Change{Companies: &[]string{"acme"}}))
	must(b.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil))
	if s, err := b.StatusByToken(ctx, "one"); err != nil || !s.Upgraded {
		t.Errorf("after the upgrade: %+v, %v", s, err)
	}
	must(b.SetCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{}}))
	if s, err := b.StatusByToken(ctx, "one"); !errors.Is(err, ErrUnknown) {
		t.Errorf("after the token was taken away: %+v, %v", s, err)
	}
}

type countingStore struct {
	store.Store
	gets int
}

func (s *countingStore) Get(ctx context.Context, k store.Key) (store.Record, error) {
	s.gets++
	return s.Store.Get(ctx, k)
}

// Each upgrade and each addition of a company begins a new era; other changes don't.
func TestUpgradeAndAdditionBeginANewEra(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(importCompanies(t, b, "id,legacy_tokens\nacme,one;two\n"))
	must(b.AddContact(ctx, "ann@b.de", Change{Companies: &[]string{"acme"}}))
	seen := map[uint64]string{}
	for _, step := range []struct {
		name    string
		another bool
		do      func() error
	}{
		{"imported", true, func() error { return nil }},
		{"upgraded", true, func() error { _, err := b.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil); return err }},
		{"upgraded again", false, func() error { _, err := b.Upgrade(ctx, Upgrade{All: true}, nil); return err }},
		{"undone", true, func() error { _, err := b.Upgrade(ctx, Upgrade{All: true, Undo: true}, nil); return err }},
		{"renamed", false, func() error { _, err := b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("Acme")}); return err }},
		{"imported again", false, func() error { _, err := importCompanies(t, b, "id,name,legacy_tokens\nacme,A,two;three\n"); return err }},
		{"added again", true, func() error {
			must(b.RemoveCompany(ctx, "acme"))
			_, err := b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"two"}})
			return err
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		s := must(b.StatusOf(ctx, "acme"))
		if was, known := seen[s.Generation]; known == step.another || s.Generation == 0 {
			t.Errorf("%s: era %d, which it had %q; want another one: %t", step.name, s.Generation, was, step.another)
		}
		seen[s.Generation] = step.name
		for token, want := range map[string]bool{"one": step.name != "imported again" && step.name != "added again", "two": true, "three": step.name == "imported again", "": false} {
			if s.Has(FingerprintOf(token)) != want {
				t.Errorf("%s: Has(%q) = %t; want %t", step.name, token, !want, want)
			}
		}
	}
}

func TestVersionedCache(t *testing.T) {
	var m versionedCache[int, int]
	const size = 100
	for i := range 10 * size {
		m.put(i, 1, i, size)
		if v, ok := m.get(i, 1); !ok || v != i {
			t.Fatalf("the last: %d, %t", v, ok)
		}
		if len(m.values) != min(i+1, size) {
			t.Fatalf("%d are held after %d", len(m.values), i+1)
		}
	}
	if _, ok := m.get(10*size-1, 2); ok {
		t.Error("what is of another version was returned")
	}
	m.put(10*size-1, 2, 5, size)
	if v, ok := m.get(10*size-1, 2); !ok || v != 5 || len(m.values) != size {
		t.Errorf("of the new version: %d, %t, %d held", v, ok, len(m.values))
	}
}

func TestUpgrade(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(importCompanies(t, b, "id,name,legacy_tokens\nacme,Acme Ltd,one\nbirch,,two\ncedar,,three\ndogwood,,\nelm,,a/b\n"))
	must(importCSV(t, b, "email,companies,disabled\nann@b.de,acme;birch,\nbob@b.de,acme,\ncay@b.de,cedar,true\n"))
	states := func() (s string) {
		for _, c := range must(b.Companies(ctx, "", "", 10)) {
			s += c.State()[:1]
		}
		return s
	}
	ids := func(all []UpgradedCompany) (s string) {
		for _, c := range all {
			s += fmt.Sprint(c.ID, c.Contacts, " ")
		}
		return strings.TrimSpace(s)
	}
	if got := states(); got != "ooouo" {
		t.Fatalf("at birth: %s", got)
	}
	for _, step := range []struct {
		do                        Upgrade
		changed, refused, becomes string
		unchanged, done           int
	}{
		{Upgrade{Companies: []string{"Acme Ltd"}, DryRun: true}, "acme[ann@b.de bob@b.de]", "", "ooouo", 0, 1},
		{Upgrade{Companies: []string{"Acme Ltd"}}, "acme[ann@b.de bob@b.de]", "", "uoouo", 0, 1},
		{Upgrade{Companies: []string{"acme", "dogwood"}}, "", "", "uoouo", 2, 1},
		{Upgrade{Companies: []string{"birch", "cedar"}}, "birch[ann@b.de]", "cedar[]", "uuouo", 0, 2},
		{Upgrade{Companies: []string{"birch", "dogwood"}, Undo: true}, "birch[ann@b.de]", "", "uoouo", 1, 1},
		{Upgrade{All: true, DryRun: true}, "birch[ann@b.de]", "cedar[] elm[]", "uoouo", 2, 2},
		{Upgrade{All: true}, "birch[ann@b.de]", "cedar[] elm[]", "uuouo", 2, 2},
	} {
		done, total := -1, -1
		out, err := b.Upgrade(ctx, step.do, func(d, n int) { done, total = d, n })
		if ids(out.Changed) != step.changed || ids(out.Refused) != step.refused || out.Unchanged != step.unchanged || out.Done != step.done || out.Linked != 4 || err != nil || states() != step.becomes {
			t.Errorf("%+v: %+v, %v, then %s; want %+v", step.do, out, err, states(), step)
		}
		if n := len(out.Changed); !step.do.DryRun && (done != n || total != n) {
			t.Errorf("%+v: progress ended at %d of %d", step.do, done, total)
		}
	}
	// From now on every new company starts upgraded, until the upgrade of all is undone.
	must(b.AddCompany(ctx, "fir", CompanyChange{LegacyTokens: &[]string{"f1"}}))
	must(importCompanies(t, b, "id,legacy_tokens\ngum,g1\ncedar,three\n"))
	if got := states(); got != "uuououu" {
		t.Errorf("after all: %s", got)
	}
	must(b.Upgrade(ctx, Upgrade{All: true, Undo: true}, nil))
	must(b.AddCompany(ctx, "hazel", CompanyChange{LegacyTokens: &[]string{"h1"}}))
	if got := states(); got != "ooouoooo" {
		t.Errorf("after all was undone: %s", got)
	}
	// Other changes keep the state.
	must(b.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil))
	must(b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("A"), LegacyTokens: &[]string{"x"}}))
	must(importCompanies(t, b, "id,name,legacy_tokens\nacme,B,y\nbirch,B2,z\n"))
	if got := states(); got != "uoouoooo" {
		t.Errorf("after other changes: %s", got)
	}
	for _, names := range [][]string{{"nobody"}, {"acme", "nobody"}} {
		var field *FieldError
		if _, err := b.Upgrade(ctx, Upgrade{Companies: names, Undo: true}, nil); !errors.As(err, &field) || !errors.Is(err, ErrUnknown) {
			t.Errorf("Upgrade(%v): %v; want ErrUnknown", names, err)
		}
	}
	if got := states(); got != "uoouoooo" {
		t.Errorf("after a refusal: %s", got)
	}
}

func BenchmarkUpgradeAll100k(b *testing.B) {
	book, ctx := newBook(b), b.Context()
	var companies, contacts strings.Builder
	companies.WriteString("id,legacy_tokens\n")
	contacts.WriteString("email,companies\n")
	for i := range 100_000 {
		fmt.Fprintf(&companies, "company-%d,t%d;u%d;v%d\n", i, i, i, i)
		fmt.Fprintf(&contacts, "c%d@example.com,company-%d\n", i, i)
	}
	must(importCompanies(b, book, companies.String()))
	must(importCSV(b, book, contacts.String()))
	undo := false
	for b.Loop() {
		if out := must(book.Upgrade(ctx, Upgrade{All: true, Undo: undo}, nil)); len(out.Changed) != 100_000 {
			b.Fatalf("%d changed", len(out.Changed))
		}
		undo = !undo
	}
}

// 100,000 companies with three tokens each.
func BenchmarkStandingByToken(b *testing.B) {
	book, ctx := newBook(b), b.Context()
	const n = 100_000
	var file strings.Builder
	file.WriteString("id,legacy_tokens\n")
	token := func(i int) string { return fmt.Sprintf("hb7Qm2xVt9Kp4Rz%d", i) }
	for i := range n {
		fmt.Fprintf(&file, "company-%d,%s;%s;%s\n", i, token(3*i), token(3*i+1), token(3*i+2))
	}
	must(importCompanies(b, book, file.String()))
	tokens := make([]string, 3*n)
	for i := range tokens {
		tokens[i] = token(i)
	}
	heap := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc >> 10)
	}
	file.Reset()
	before := heap()
	b.Run("first", func(b *testing.B) {
		i := 0
		for b.Loop() {
			must(book.StatusByToken(ctx, tokens[i%len(tokens)]))
			i++
		}
	})
	for _, token := range tokens {
		must(book.StatusByToken(ctx, token))
	}
	grown := float64(heap() - before)
	b.Run("held", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i = (i + 7919) % len(tokens)
			must(book.StatusByToken(ctx, tokens[i]))
		}
		b.ReportMetric(grown, "KiB-held")
	})
	b.Run("unknown", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := book.StatusByToken(ctx, "hb7Qm2xVt9Kp4Rz-nobody"); err == nil {
				b.Fatal("known")
			}
		}
	})
	b.Run("held-at-once", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i = (i + 7919) % len(tokens) {
				must(book.StatusByToken(ctx, tokens[i]))
			}
		})
	})
}
