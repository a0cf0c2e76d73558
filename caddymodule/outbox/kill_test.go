package outbox

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

var kills = flag.Int("kills", 15, "how often TestKill kills a process that sends")

const (
	childStore = "OUTBOX_TEST_STORE"
	childSMTP  = "OUTBOX_TEST_SMTP"
	childDrain = "OUTBOX_TEST_DRAIN"
)

func TestMain(m *testing.M) {
	if os.Getenv(childStore) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// openForChild opens a file, or the Redis server at a socket, which others could have open too.
func openForChild(place string) (store.Store, *Process, error) {
	if strings.HasPrefix(place, "unix:") {
		db, err := redis.Open(context.Background(), redis.Options{Address: redis.Address{URL: place}})
		return db, nil, err
	}
	db, err := bolt.Open(place, bolt.Options{Wait: 10 * time.Second})
	if err != nil {
		return nil, nil, err
	}
	sent, err := OpenSentLog(context.Background(), place+".sent", db)
	return db, &Process{Sent: sent}, err
}

// child accepts requests and sends mails until it is killed. It says which requests it
// has accepted. To drain, it accepts nothing more and ends when all is sent.
func child() {
	db, process, err := openForChild(os.Getenv(childStore))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	q := &Queue{
		Firm: "example", Store: db, Process: process, Keys: testKeys, Server: NewServer(DefaultConnections, Pace(600_000, time.Minute), nil),
		Sender: &Pool{SMTP: SMTP{Address: os.Getenv(childSMTP), TLS: TLSOff}}, Log: slog.New(slog.DiscardHandler),
		Look: 20 * time.Millisecond, lease: 150 * time.Millisecond,
	}
	q.Prepare = func(_ context.Context, r Request) (Prepared, error) { return letterTo(r), nil }
	q.Start()
	if os.Getenv(childDrain) != "" {
		for n := 1; n > 0; time.Sleep(10 * time.Millisecond) {
			recs, err := db.Scan(context.Background(), "example", bucketQueue, "", "", 1)
			if n = len(recs); err != nil {
				os.Exit(1)
			}
		}
		q.Stop()
		db.Close()
		return
	}
	for n := 0; ; n++ {
		kind := []string{"sign-in", "notice", "portal-update"}[n%lanes]
		op := q.Add(Request{Kind: kind, Asked: time.Now(), Payload: []byte("ann@example.org")})
		if err := db.Apply(context.Background(), op); err != nil {
			os.Exit(1)
		}
		q.Wake(op.Key.ID)
		fmt.Println(op.Key.ID)
		time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
	}
}

// TestKill kills a process that sends by three lanes, at random moments, and at the worst ones: when the
// server has read a mail and its answer isn't out yet. What was accepted arrives; a kill
// repeats one mail at most; and what arrives twice is twice the same.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doorpost.db")
	killing(t, path)
	if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, []byte("example.org")) {
		t.Errorf("the store is readable (%v)", err)
	}
}

func killing(t *testing.T, place string) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))

	// At the moment that the server holds a mail in its hands, the test may take part.
	var moment atomic.Pointer[func() error]
	s := newSink(t, func(s *sink) {
		s.data = func(int, string) error {
			if f := moment.Swap(nil); f != nil {
				return (*f)()
			}
			return nil
		}
	})
	start := func(env ...string) (*exec.Cmd, io.Reader) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), append(env, childStore+"="+place, childSMTP+"="+s.addr)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	accepted := map[string]bool{}
	for n := range *kills {
		s.run.Store(int64(n))
		cmd, out := start()
		kill := func(answer error) func() error {
			return func() error {
				time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
				cmd.Process.Kill()
				return answer
			}
		}
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			accepted[lines.Text()] = true
			if i == 0 {
				switch n % 3 {
				case 0: // any moment
					time.AfterFunc(time.Duration(random.IntN(120))*time.Millisecond, func() { cmd.Process.Kill() })
				case 1: // the server takes it, and nobody hears it
					f := kill(nil)
					time.AfterFunc(time.Duration(random.IntN(80))*time.Millisecond, func() { moment.Store(&f) })
				case 2: // the server doesn't take it
					f := kill(refusal(451, smtp.EnhancedCode{4, 3, 0}, "not now"))
					time.AfterFunc(time.Duration(random.IntN(80))*time.Millisecond, func() { moment.Store(&f) })
				}
			}
		}
		cmd.Wait()
		moment.Store(nil)
	}
	s.run.Store(int64(*kills))
	cmd, _ := start(childDrain + "=1")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	judge(t, fmt.Sprintf("seed %d", seed), accepted, s.got())
}

// judge compares what was accepted with what arrived.
func judge(t *testing.T, seed string, accepted map[string]bool, mails []received) {
	arrived, in := map[string]string{}, map[string]int64{}
	repeated, by := 0, map[int64]int{}
	for _, m := range mails {
		id := between(m.data, "Message-ID: <", "@")
		before, again := arrived[id]
		first := in[id]
		if arrived[id], in[id] = m.data, m.run; !again {
			continue
		}
		repeated++
		if by[first]++; by[first] > 1 {
			t.Errorf("%s: kill %d had more than one mail sent twice", seed, first)
		}
		if before != m.data {
			t.Errorf("%s: %s arrived twice, and differs:\n%q\n%q", seed, id, before, m.data)
		}
	}
	for id := range accepted {
		if _, ok := arrived[id]; !ok {
			t.Errorf("%s: %s was accepted and never arrived", seed, id)
		}
	}
	if *kills >= 3 && repeated == 0 {
		t.Errorf("%s: no kill came at a bad moment; the test shows nothing", seed)
	}
	t.Logf("%d kills: %d requests accepted, %d arrived, %d of them twice", *kills, len(accepted), len(arrived), repeated)
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}
