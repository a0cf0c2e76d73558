package caddymodule_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

var (
	kills    = flag.Int("kills", 6, "how often to kill the server")
	killSeed = flag.Uint64("killseed", 1, "decides when to kill the server")
)

// server is a Caddy in its own process, which can be killed.
type server struct {
	*house
	env []string
	cmd *exec.Cmd
	log *bytes.Buffer
}

// newServer writes the Caddyfile, and starts nothing.
func newServer(t *testing.T, app, contacts string) *server {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), url: "http://" + freeAddress(t)}
	s := &server{house: h, log: new(bytes.Buffer), env: append(os.Environ(),
		"XDG_DATA_HOME="+h.path("data"), "XDG_CONFIG_HOME="+h.path("config"))}
	h.write("contacts.csv", strings.ReplaceAll(contacts, ",acme", ","))
	if app == "" {
		app = "mail folder " + h.path("mail") + "\n"
	}
	app += "\n" + h.storeLines(app)
	h.config = fmt.Sprintf("{\n admin off\n persist_config off\n auto_https off\n doorpost {\n %s\n }\n}\n%s {\n doorpost example {\n url %s\n"+
		" brand {\n name Example\n from hello@example.com\n }\n contacts %s\n public /open\n }\n respond \"for {http.auth.user.email}\"\n}\n",
		app, h.url, h.url, h.path("contacts.csv"))
	h.write("Caddyfile", h.config)
	return s
}

// caddy returns the command, not started: this test binary runs as Caddy on request.
func (s *server) caddy(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(s.env[:len(s.env):len(s.env)], "DOORPOST_TEST_CADDY_ARGS="+strings.Join(args, "\n"))
	cmd.Dir = s.dir
	return cmd
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = s.caddy("run", "--config", s.path("Caddyfile"))
	s.log.Reset()
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.kill)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(s.url + "/-/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				return
			}
		}
		if time.Now().After(deadline) {
			s.kill()
			s.t.Fatalf("the server doesn't serve: %v\n%s", err, s.log)
		}
	}
}

// kill kills it with SIGKILL.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// post is a mail server that stores accepted mails.
type post struct {
	address string
	mu      sync.Mutex
	mails   map[string][][]byte // by recipient
	rng     *rand.Rand
}

func newPost(t *testing.T, seed uint64) *post {
	p := &post{mails: make(map[string][][]byte), rng: rand.New(rand.NewPCG(seed, 7))}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &delivery{post: p}, nil }))
	s.Domain, s.ErrorLog = "localhost", log.New(io.Discard, "", 0) // of connections closed by a kill
	p.address = l.Addr().String()
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return p
}

type delivery struct {
	*post
	to string
}

func (d *delivery) Mail(string, *smtp.MailOptions) error      { return nil }
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error { d.to = to; return nil }
func (d *delivery) Reset()                                    {}
func (d *delivery) Logout() error                             { return nil }
func (d *delivery) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.mails[d.to] = append(d.mails[d.to], data)
	pause := time.Duration(d.rng.IntN(20)) * time.Millisecond
	d.mu.Unlock()
	time.Sleep(pause) // accepted but not yet acknowledged: the worst moment for a kill
	return nil
}

func (p *post) to(address string) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mails[address]
}

// person repeatedly tries to sign in while the server is killed now and then.
type person struct {
	email    string
	client   *http.Client
	promised bool   // a mail was promised, by a 303
	link     string // as it was mailed
	pressed  bool
	sessions map[string]bool // cookies in answers
}

func (p *person) send(r *http.Request) (*http.Response, error) {
	r.Header.Set("Accept", "text/html")
	resp, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return nil, err
	}
	for _, c := range resp.Cookies() {
		if c.Name == "portal" && c.Value != "" {
			p.sessions[c.Value] = true
		}
	}
	return resp, nil
}

// ask requests a mail, once; without an answer nothing is promised.
func (p *person) ask(base string) {
	r, err := http.NewRequest("POST", base+"/-/sign-in", strings.NewReader(url.Values{"email": {p.email}}.Encode()))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", base)
	resp, err := p.send(r)
	p.promised = err == nil && resp.StatusCode == http.StatusSeeOther
}

// press opens the link in the requesting browser, without its session.
func (p *person) press(base string) (status int) {
	u, err := url.Parse(base)
	if err != nil {
		panic(err)
	}
	p.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", MaxAge: -1}})
	r, err := http.NewRequest("GET", p.link, nil)
	if err != nil {
		panic(err)
	}
	p.pressed = true
	resp, err := p.send(r)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

// undated returns a mail without its Date, which changes with each hand-over.
func undated(mail []byte) []byte {
	return regexp.MustCompile(`(?m)^Date: .*$`).ReplaceAll(mail, nil)
}

// A server killed at any moment keeps all promises in its answers: the mail arrives, with
// the same bytes if it arrives twice; no link signs in twice; and sessions stay.
func TestK09_KilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	mails := newPost(t, *killSeed)
	s := newServer(t, "mail smtp "+mails.address+" {\n tls off\n rate 1000/s\n }", manyContacts(2000))
	rng := rand.New(rand.NewPCG(*killSeed, 1))
	var next atomic.Int64
	var mu sync.Mutex
	var people []*person
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := int(next.Add(1))
				if i >= 2000 {
					return
				}
				jar, _ := cookiejar.New(nil)
				p := &person{email: contact(i), sessions: make(map[string]bool), client: &http.Client{Jar: jar, Timeout: 20 * time.Second,
					CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
				p.ask(s.url)
				for wait := time.Now(); p.promised && p.link == "" && time.Since(wait) < time.Second; time.Sleep(5 * time.Millisecond) {
					if got := mails.to(p.email); len(got) > 0 {
						p.link = linkPattern.FindString(readLetter(t, got[0]).text)
					}
				}
				if p.link != "" {
					p.press(s.url)
				}
				mu.Lock()
				people = append(people, p)
				mu.Unlock()
				if !p.promised {
					time.Sleep(20 * time.Millisecond) // the server is down
				}
			}
		})
	}
	for range *kills {
		s.start()
		time.Sleep(time.Duration(50+rng.IntN(500)) * time.Millisecond)
		s.kill()
	}
	close(stop)
	all.Wait()
	s.start()

	deadline := time.Now().Add(45 * time.Second)
	promised, twice, pressed, signedIn := 0, 0, 0, 0
	for _, p := range people {
		if !p.promised {
			continue
		}
		promised++
		for len(mails.to(p.email)) == 0 && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		got := mails.to(p.email)
		if len(got) == 0 {
			t.Errorf("%s was promised a mail, and none came", p.email)
			continue
		}
		for _, other := range got[1:] {
			twice++
			if !bytes.Equal(undated(other), undated(got[0])) {
				t.Errorf("%s got two mails that differ", p.email)
			}
		}
		if len(got) > 3 { // one more for each kill, and few mails are in progress during three of them
			t.Errorf("%s got the mail %d times; want it once more for each kill that it was in hand at", p.email, len(got))
		}
		if p.link == "" {
			p.link = linkPattern.FindString(readLetter(t, got[0]).text)
		}
		before, known := len(p.sessions), p.pressed
		status := p.press(s.url)
		if known {
			pressed++
		}
		signedIn += before
		switch {
		case before > 0 && len(p.sessions) != before:
			t.Errorf("%s was signed in by a link that then begins another session", p.email) // and not its own once more, as a double click does
		case !known && status != http.StatusSeeOther:
			t.Errorf("%s opened a link for the first time: %d; want 303", p.email, status)
		case status != http.StatusSeeOther && status != http.StatusGone:
			t.Errorf("%s opened a link: %d; want 303 or 410", p.email, status)
		}
		p.press(s.url)
		if len(p.sessions) > 1 {
			t.Errorf("%s got %d sessions by one link; want one", p.email, len(p.sessions))
		}
		for cookie := range p.sessions {
			r, err := http.NewRequest("GET", s.url+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.AddCookie(&http.Cookie{Name: "portal", Value: cookie})
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(body) != "for "+p.email {
				t.Errorf("%s was signed in before a kill, and is answered %d %q after it", p.email, resp.StatusCode, body)
			}
		}
	}
	t.Logf("seed %d, %d kills: %d people, %d promised a mail, %d mails came twice, %d links pressed and %d sessions begun before the last kill",
		*killSeed, *kills, len(people), promised, twice, pressed, signedIn)
	if promised < *kills || signedIn == 0 {
		t.Errorf("%d were promised a mail and %d signed in; too few to show anything\n%s", promised, signedIn, s.log)
	}
}

// Only one process can have the store; the other one names it. Validating a configuration
// meanwhile works and creates nothing.
func TestK08_ASecondProcess(t *testing.T) {
	t.Parallel()
	first := newServer(t, "store bolt\n mail folder mail", manyContacts(1))
	first.start()
	second := newServer(t, "store bolt\n mail folder mail", manyContacts(1))
	second.env = first.env // the same data folder

	before := tree(t, first.path("data/doorpost"))
	out, err := second.caddy("validate", "--config", second.path("Caddyfile")).CombinedOutput()
	if err != nil {
		t.Errorf("caddy validate beside it = %v\n%s", err, out)
	}
	if after := tree(t, first.path("data/doorpost")); after != before {
		t.Errorf("caddy validate left behind\n%s\nwant\n%s", after, before)
	}
	if made := tree(t, second.dir); strings.Count(made, "\n") != 2 {
		t.Errorf("caddy validate made files:\n%s", made)
	}
	out, err = second.caddy("run", "--config", second.path("Caddyfile")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("a second server = %v; want it to end with an error", err)
	}
	holder := fmt.Sprint(first.cmd.Process.Pid)
	if !strings.Contains(string(out), "doorpost.db is held by") || !strings.Contains(string(out), holder) {
		t.Errorf("a second server says\n%s\nwant the path of the store and the process %s", out, holder)
	}
	b := first.browser()
	b.signIn(contact(0)) // the first one still works
	first.kill()
	second.start() // after it the second one can start
}

// tree lists the files below a folder, with their sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var names strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			fmt.Fprintln(&names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names.String()
}
