package outbox

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// dialogue is a mail server that answers as a table says, and remembers what it was told.
type dialogue struct {
	addr string

	mu    sync.Mutex
	conns int
	heard []string // commands, with the number of the connection: "1 MAIL"
	mails []string // the recipients of the messages that it has taken
}

// answer is what a dialogue does at a command: say something (default "250 ok"), and perhaps end.
type answer struct {
	say string
	end bool
}

// newDialogue starts a server; at is asked about the n-th command with that verb on a connection.
// The verb of the end of a message is ".".
func newDialogue(t *testing.T, at func(conn int, verb string, n int) answer) *dialogue {
	d := &dialogue{}
	d.addr = script(t, func(c net.Conn, r *bufio.Reader) {
		d.mu.Lock()
		d.conns++
		conn := d.conns
		d.mu.Unlock()
		fmt.Fprint(c, "220 hello\r\n")
		counts := map[string]int{}
		to, inData := "", false
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			verb := strings.ToUpper(strings.TrimSpace(strings.SplitN(line, " ", 2)[0]))
			for inData && line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			if inData {
				inData, verb = false, "."
			}
			counts[verb]++
			d.mu.Lock()
			d.heard = append(d.heard, fmt.Sprint(conn, " ", verb))
			d.mu.Unlock()
			a := at(conn, verb, counts[verb])
			if a.say == "" && !a.end {
				a.say = "250 ok"
				if verb == "DATA" {
					a.say = "354 go on"
				}
			}
			switch {
			case verb == "RCPT":
				to = line
			case verb == "DATA" && strings.HasPrefix(a.say, "354"):
				inData = true
			case verb == "." && (strings.HasPrefix(a.say, "2") || a.say == "" && a.end):
				d.mu.Lock()
				d.mails = append(d.mails, between(to, "<", ">"))
				d.mu.Unlock()
			}
			if a.say != "" {
				fmt.Fprint(c, a.say+"\r\n")
			}
			if a.end {
				return
			}
		}
	})
	return d
}

func (d *dialogue) seen() (conns int, heard, mails []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns, slices.Clone(d.heard), slices.Clone(d.mails)
}

func newPool(t *testing.T, addr string) *Pool {
	p := &Pool{SMTP: SMTP{Address: addr, TLS: TLSOff, Timeout: 10 * time.Second}}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestAConnectionIsKeptForTheNextMessage(t *testing.T) {
	d := newDialogue(t, func(int, string, int) answer { return answer{} })
	p := newPool(t, d.addr)
	for range 3 {
		if err := p.Send(t.Context(), message("ann@example.org")); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	want := "1 EHLO,1 MAIL,1 RCPT,1 DATA,1 .,1 RSET,1 MAIL,1 RCPT,1 DATA,1 .,1 RSET,1 MAIL,1 RCPT,1 DATA,1 .,1 QUIT"
	if _, heard, _ := d.seen(); strings.Join(heard, ",") != want {
		t.Errorf("the server heard %q; want %q", strings.Join(heard, ","), want)
	}
}

func TestMessagesAtATimeHaveAConnectionEach(t *testing.T) {
	s := newSink(t)
	p := newPool(t, s.addr)
	for range 2 {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if err := p.Send(t.Context(), message("ann@example.org")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := len(s.got()); n != 8 || s.conns > 4 {
		t.Errorf("%d messages over %d connections; want 8 over at most 4", n, s.conns)
	}
}

// What a server does to a connection between two messages costs neither a message nor a
// second copy: the message goes over a new connection where the server can't have it, and
// never where it may.
func TestAConnectionThatHasEndedIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name string
		at   func(conn int, verb string, n int) answer
		want error // of the second message
		took string
	}{
		{"closed after a message", func(conn int, verb string, n int) answer {
			return answer{say: map[bool]string{true: "250 taken"}[conn == 1 && verb == "."], end: conn == 1 && verb == "."}
		}, nil, "one two"},
		{"421 after a message", func(conn int, verb string, n int) answer {
			if conn == 1 && verb == "." {
				return answer{"250 taken\r\n421 4.4.2 idle for too long", true}
			}
			return answer{}
		}, nil, "one two"},
		{"421 at RSET", refusesAt("RSET", 1, "421 4.3.2 shutting down"), nil, "one two"},
		{"RSET isn't known", refusesAt("RSET", 1, "500 what?"), nil, "one two"},
		{"421 at MAIL", refusesAt("MAIL", 2, "421 4.3.2 shutting down"), nil, "one two"},
		{"421 at RCPT", refusesAt("RCPT", 2, "421 4.3.2 shutting down"), nil, "one two"},
		{"hangs up at DATA", func(conn int, verb string, n int) answer {
			return answer{end: conn == 1 && verb == "DATA" && n == 2}
		}, nil, "one two"},
		{"421 at the end of the message", refusesAt(".", 2, "421 4.3.2 shutting down"), ErrServer, "one"},
		{"takes it and hangs up before it says so", func(conn int, verb string, n int) answer {
			return answer{end: conn == 1 && verb == "." && n == 2}
		}, errBoom, "one two"}, // it isn't known; but this try doesn't send it twice
	} {
		d := newDialogue(t, c.at)
		p := newPool(t, d.addr)
		if err := p.Send(t.Context(), message("one@example.org")); err != nil {
			t.Fatalf("%s: the first message: %v", c.name, err)
		}
		err := p.Send(t.Context(), message("two@example.org"))
		if c.want == nil && err != nil || c.want == errBoom && err == nil || c.want == ErrServer && !errors.Is(err, ErrServer) {
			t.Errorf("%s: Send = %v; want %v", c.name, err, c.want)
		}
		_, heard, mails := d.seen()
		if got := strings.ReplaceAll(strings.Join(mails, " "), "@example.org", ""); got != c.took {
			t.Errorf("%s: the server took %q; want %q; it heard %q", c.name, got, c.took, heard)
		}
	}
}

// refusesAt has the first connection answer the n-th command with that verb so.
func refusesAt(verb string, n int, say string) func(int, string, int) answer {
	return func(conn int, v string, m int) answer {
		if conn == 1 && v == verb && m == n {
			return answer{say: say}
		}
		return answer{}
	}
}

// A refusal leaves nothing behind for the next message: some servers refuse the next MAIL
// after a failure at DATA unless there was a RSET.
func TestARefusalLeavesTheConnectionOfUse(t *testing.T) {
	for _, at := range []string{"MAIL", "RCPT", "DATA", "."} {
		failed := false
		d := newDialogue(t, func(conn int, verb string, n int) answer {
			switch {
			case verb == at && !failed:
				failed = true
				return answer{say: "451 4.3.0 not now"}
			case verb == "RSET":
				failed = true
			}
			return answer{}
		})
		p := newPool(t, d.addr)
		if err := p.Send(t.Context(), message("one@example.org")); err == nil {
			t.Errorf("451 at %s: Send = nil", at)
		}
		if err := p.Send(t.Context(), message("two@example.org")); err != nil {
			t.Errorf("after 451 at %s: Send = %v", at, err)
		}
		if conns, heard, _ := d.seen(); conns != 1 || !slices.Contains(heard, "1 RSET") {
			t.Errorf("451 at %s: %d connections, heard %q; want one, with a RSET", at, conns, heard)
		}
	}
}

// A server that is gone without a word, as behind a firewall that forgot the connection, is
// noticed before the message has waited for long.
func TestAConnectionThatIsDeadWithoutAWordIsNoticed(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	d := newDialogue(t, func(conn int, verb string, n int) answer {
		if conn == 1 && verb == "RSET" {
			<-hold
		}
		return answer{}
	})
	p := newPool(t, d.addr)
	p.SMTP.alive = 50 * time.Millisecond
	for _, to := range []string{"one@example.org", "two@example.org"} {
		if err := p.Send(t.Context(), message(to)); err != nil {
			t.Fatal(err)
		}
	}
	if conns, heard, mails := d.seen(); conns != 2 || len(mails) != 2 {
		t.Errorf("%d connections, %q taken; want 2 and both; heard %q", conns, mails, heard)
	}
}
