package bolt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const writers = 8

func pairKeys(writer, n int) (left, right store.Key) {
	id := fmt.Sprintf("%d-%06d", writer, n)
	return store.Key{Firm: "firm", Bucket: "left", ID: id}, store.Key{Firm: "firm", Bucket: "right", ID: id}
}

func ticketKey(writer, n int) store.Key {
	return store.Key{Firm: "firm", Bucket: "ticket", ID: fmt.Sprintf("%d-%06d", writer, n)}
}

func counterKey(writer int) store.Key {
	return store.Key{Firm: "firm", Bucket: "counter", ID: fmt.Sprint(writer)}
}

// playWriter changes the store at args[0] until it is killed, and prints acknowledged
// changes: "put w n" and "removed w n".
func playWriter(args []string) error {
	db, err := Open(args[0], Options{Sweep: 3 * time.Millisecond, Wait: 10 * time.Second})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range writers {
		go func() { errs <- writeOn(db, w) }()
	}
	return <-errs
}

// writeOn writes pair after pair, each with the counter and a ticket, and removes every
// second ticket.
func writeOn(db *DB, w int) error {
	ctx := context.Background()
	n, was := 0, []byte(nil)
	if rec, err := db.Get(ctx, counterKey(w)); err == nil {
		was = rec.Value
		if n, err = strconv.Atoi(string(was)); err != nil {
			return err
		}
	}
	for ; ; n++ {
		left, right := pairKeys(w, n)
		value, next := fmt.Append(nil, "value ", w, n), fmt.Append(nil, n+1)
		count := store.Replace(counterKey(w), was, next, time.Time{})
		if was == nil {
			count = store.Create(counterKey(w), next, time.Time{})
		}
		err := db.Apply(ctx,
			store.Create(left, value, time.Time{}),
			store.Create(right, value, time.Now().Add(time.Hour)),
			store.Put(store.Key{Firm: "firm", Bucket: "brief", ID: fmt.Sprint(w, n)}, value, time.Now().Add(5*time.Millisecond)),
			store.Create(ticketKey(w, n), nil, time.Now().Add(time.Hour)),
			count)
		if err != nil {
			return err
		}
		was = next
		os.Stdout.WriteString(fmt.Sprintf("put %d %d\n", w, n))
		if n%2 == 0 {
			if err := db.Apply(ctx, store.Remove(ticketKey(w, n), nil)); err != nil {
				return err
			}
			os.Stdout.WriteString(fmt.Sprintf("removed %d %d\n", w, n))
		}
	}
}

// TestKill kills a writing process again and again, at random times. Acknowledged changes
// must be there afterwards, and no partial ones. For long:
//
//	go test -run TestKill -kills 500 -seed 7 ./caddymodule/store/bolt
func TestKill(t *testing.T) {
	path := newPath(t)
	random := rand.New(rand.NewPCG(*seed, 0))
	var acks acknowledged
	for round := range *kills {
		writer := play(t, "writer", path)
		var said strings.Builder
		writer.Stdout = &said
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		// The first kills hit the process while it creates or opens the file.
		time.Sleep(time.Duration(random.IntN(200_000)) * time.Microsecond)
		writer.Process.Kill()
		if err := writer.Wait(); err == nil || writer.ProcessState.Exited() {
			t.Fatalf("round %d: the writer ended by itself: %v", round, err)
		}
		acks.add(t, said.String())
		db, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("round %d: after the kill, Open = %v", round, err)
		}
		verify(t, db, &acks)
		sound(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("round %d, seed %d", round, *seed)
		}
	}
	t.Logf("%d kills, %d Applies and %d Removes acknowledged", *kills, acks.puts, acks.removes)
	if acks.puts == 0 || acks.removes == 0 {
		t.Error("nothing was acknowledged between the kills; they come too early to show anything")
	}
}

// acknowledged holds what writers have printed.
type acknowledged struct {
	mu            sync.Mutex
	puts, removes int
	put           [writers]int // each writer's next pair
	removed       [writers]map[int]bool
}

func (a *acknowledged) add(t *testing.T, said string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for line := range strings.Lines(said) {
		var verb string
		var w, n int
		if _, err := fmt.Sscanf(line, "%s %d %d\n", &verb, &w, &n); err != nil {
			t.Fatalf("the writer says %q", line)
		}
		if verb == "put" {
			a.puts, a.put[w] = a.puts+1, n+1
			continue
		}
		if a.removed[w] == nil {
			a.removed[w] = map[int]bool{}
		}
		a.removes++
		a.removed[w][n] = true
	}
}

func verify(t *testing.T, db *DB, acks *acknowledged) {
	t.Helper()
	for w := range writers {
		count := 0
		switch rec, err := db.Get(t.Context(), counterKey(w)); {
		case err == nil:
			count, _ = strconv.Atoi(string(rec.Value))
		case !errors.Is(err, store.ErrNotFound):
			t.Fatal(err)
		}
		if count < acks.put[w] {
			t.Errorf("writer %d counted to %d; %d were acknowledged", w, count, acks.put[w])
		}
		for n := range count + 1 {
			left, right := pairKeys(w, n)
			l, err1 := db.Get(t.Context(), left)
			r, err2 := db.Get(t.Context(), right)
			_, err3 := db.Get(t.Context(), ticketKey(w, n))
			value := fmt.Sprint("value ", w, n)
			switch {
			case n == count && (err1 != store.ErrNotFound || err2 != store.ErrNotFound || err3 != store.ErrNotFound):
				t.Errorf("pair %d of writer %d is there by half: %v, %v, %v", n, w, err1, err2, err3)
			case n < count && (err1 != nil || err2 != nil || string(l.Value) != value || string(r.Value) != value):
				t.Errorf("pair %d of writer %d: %q, %v and %q, %v; want both", n, w, l.Value, err1, r.Value, err2)
			case acks.removed[w][n] && err3 != store.ErrNotFound:
				t.Errorf("ticket %d of writer %d was removed and is there: %v", n, w, err3)
			case n < count && n%2 == 1 && err3 != nil:
				t.Errorf("ticket %d of writer %d, which nobody removed: %v", n, w, err3)
			}
		}
	}
}
