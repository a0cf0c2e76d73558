package directory

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// The merged state closes exactly the companies that either state closes.
func TestMergeUpgrades(t *testing.T) {
	ids := []string{"acme", "birch", "cedar"}
	var all []anchor.Closed
	for n := range 16 {
		c := anchor.Closed{All: n&8 != 0, Mark: uint64(n)}
		for i, id := range ids {
			if n&(1<<i) != 0 {
				c.IDs = append(c.IDs, id)
			}
		}
		all = append(all, c)
	}
	for _, a := range all {
		for _, b := range all {
			both := mergeUpgrades(a, b)
			for _, id := range append(ids, "another") {
				if both.Has(id) != (a.Has(id) || b.Has(id)) || both.Mark != max(a.Mark, b.Mark) {
					t.Errorf("joined(%+v, %+v) = %+v", a, b, both)
				}
			}
		}
	}
}

func TestApplyUpgradeChanges(t *testing.T) {
	some, most := anchor.Closed{IDs: []string{"acme"}}, anchor.Closed{All: true, IDs: []string{"acme"}}
	for _, c := range []struct {
		was     anchor.Closed
		changes []string
		want    string
	}{
		{some, []string{changeRewrite}, "false [acme]"},
		{some, []string{changeClose + "birch", changeClose + "acme"}, "false [acme birch]"},
		{some, []string{changeOpen + "acme", changeOpen + "birch"}, "false []"},
		{some, []string{changeCloseAll, changeOpen + "cedar", changeClose + "birch"}, "true [cedar]"},
		{most, []string{changeClose + "acme", changeClose + "birch"}, "true []"},
		{most, []string{changeOpen + "birch"}, "true [acme birch]"},
		{most, []string{changeOpenAll, changeClose + "cedar", changeOpen + "birch"}, "false [cedar]"},
	} {
		if now := applyUpgradeChanges(c.was, c.changes); fmt.Sprint(now.All, " ", now.IDs) != c.want {
			t.Errorf("changed(%+v, %q) = %+v; want %s", c.was, c.changes, now, c.want)
		}
	}
}

// An earlier release stored a count and a mark without sealing them. They close the companies that
// they name, but open none that this machine has noted as closed.
func TestUpgradesOfAnEarlierReleaseAreTakenOver(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(importCompanies(t, b, "id,legacy_tokens\nacme,one\nbirch,two\ncedar,three\n"))
	must(importCSV(t, b, "email,companies\nann@b.de,acme;birch\n"))
	open := must(b.Store.Get(ctx, b.key(bucketCompany, "acme")))
	must(b.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil))
	counter := store.Put(b.key(bucketState, stateUpgrades), []byte{format, 0, 0, 0, 0, 0, 0, 0, 9}, time.Time{})
	for _, c := range []struct {
		name  string
		noted anchor.Closed
		ops   []store.Op
		want  string
	}{
		{"some", anchor.Closed{}, nil, "false [acme]"},
		{"all", anchor.Closed{}, []store.Op{b.mark(stateUpgraded)}, "true [birch cedar]"},
		{"some, more noted", anchor.Closed{Mark: 3, IDs: []string{"birch"}}, nil, "false [acme birch]"},
		{"none any more, and it is noted", anchor.Closed{Mark: 3, IDs: []string{"acme"}}, []store.Op{store.Put(open.Key, open.Value, time.Time{})}, "false [acme]"},
		{"none any more, and all is noted", anchor.Closed{Mark: 3, All: true}, nil, "true []"},
	} {
		ops := append([]store.Op{counter, store.Delete(b.key(bucketUpgrades, upgradesID))}, c.ops...)
		if err := b.Store.Apply(ctx, ops...); err != nil {
			t.Fatal(err)
		}
		a := must(anchor.Open(ctx, anchor.Options{Firm: b.Firm, Store: b.Store, Dir: t.TempDir(), Keys: b.Keys}))
		defer a.Close()
		if err := a.Note(c.noted); err != nil {
			t.Fatal(err)
		}
		now := &Directory{Firm: b.Firm, Store: a, Keys: b.Keys, Anchor: a}
		for range 2 {
			if err := now.EnsureUpgrades(ctx); err != nil {
				t.Fatal(err)
			}
			if got := a.Closed(); fmt.Sprint(got.All, " ", got.IDs) != c.want || got.Mark != 10 || !got.Sealed {
				t.Errorf("%s: the anchor has %+v; want %s", c.name, got, c.want)
			}
		}
		for _, left := range []string{stateUpgrades, stateUpgraded} {
			if there := must(now.marked(ctx, left)); there {
				t.Errorf("%s: the store still has %s", c.name, left)
			}
		}
	}
}

// Two machines on one store have seen different upgrades when an older store is accepted at one of
// them while the other one is away. All upgrades that either has seen hold, whichever counter is
// higher.
func TestUpgradesOfTwoMachinesHoldAfterAStoreIsAccepted(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, since int // further changes that the first and then the second machine counts
	}{
		{"the machine that was away counts higher", 9, 0},
		{"the machine where it was accepted counts higher", 0, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, ctx := newBook(t), t.Context()
			db := b.Store.(*bolt.DB)
			must(importCompanies(t, b, "id,legacy_tokens\nacme,one\nbirch,two\ncedar,three\nelm,four\n"))
			must(importCSV(t, b, "email,companies\nann@b.de,acme;birch;cedar;elm\n"))
			here, there := t.TempDir(), t.TempDir()
			at := func(s store.Store, dir string) *Directory {
				a := must(anchor.Open(ctx, anchor.Options{Firm: b.Firm, Store: s, Dir: dir, Keys: b.Keys}))
				return &Directory{Firm: b.Firm, Store: a, Keys: b.Keys, Anchor: a}
			}
			end := func(b *Directory) {
				if err := b.Store.(*anchor.Store).Close(); err != nil {
					t.Fatal(err)
				}
			}
			toggle := func(b *Directory, times int) {
				for n := range times {
					must(b.Upgrade(ctx, Upgrade{Companies: []string{"cedar"}, Undo: n%2 == 1}, nil))
				}
			}
			one, other := at(db, here), at(db, there)
			must(one.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil))
			end(one)
			var older bytes.Buffer
			if err := db.Backup(&older); err != nil {
				t.Fatal(err)
			}
			toggle(other, 2*c.before)
			must(other.Upgrade(ctx, Upgrade{Companies: []string{"birch"}}, nil))
			end(other)
			path := filepath.Join(t.TempDir(), "older.db")
			must(bolt.Restore(path, &older))
			back := must(bolt.Open(path, bolt.Options{}))
			defer back.Close()
			one = at(back, here)
			defer end(one)
			if err := one.Store.(*anchor.Store).Accept(ctx, false, func(ctx context.Context) error {
				_, err := one.RestoreUpgrades(ctx)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			toggle(one, 2*c.since)
			must(one.Upgrade(ctx, Upgrade{Companies: []string{"elm"}}, nil))
			other = at(back, there)
			defer end(other)
			for _, b := range []*Directory{other, one, other} {
				if err := b.EnsureUpgrades(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for name, b := range map[string]*Directory{"where it was accepted": one, "that was away": other} {
				if got := *b.Anchor.Closed(); fmt.Sprint(got.All, " ", got.IDs) != "false [acme birch elm]" || got.Beside {
					t.Errorf("the machine %s has %+v; want acme, birch and elm upgraded", name, got)
				}
			}
			must(other.Upgrade(ctx, Upgrade{Companies: []string{"birch"}, Undo: true}, nil))
			if err := one.EnsureUpgrades(ctx); err != nil || one.Anchor.Closed().Has("birch") || other.Anchor.Closed().Has("birch") {
				t.Errorf("after an undo: %v, %+v, %+v; want birch open", err, one.Anchor.Closed(), other.Anchor.Closed())
			}
		})
	}
}
