package caddymodule_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// A house is a whole Caddy in this process, with a gate, a portal behind it and a mail folder.
// Tests use it from outside. There is one Caddy per process, so these tests don't run in parallel.
type house struct {
	t      *testing.T
	dir    string
	url    string // of the gate, for browsers
	portal *portal
	admin  string       // address of the admin endpoint; "": none
	config string       // the Caddyfile
	redis  *redisServer // if the store is on Redis
}

// layout describes how a test's house differs from the usual one.
type layout struct {
	global    string // further lines of the global options
	app       string // of the global option doorpost; "": mails go to the folder
	texts     string // URL of the service that takes text messages; "": none does
	firm      string // further settings of the firm
	site      string // the handler behind the gate; "": reverse_proxy to the portal
	more      string // further site blocks
	admin     string // of the global option admin; "": off
	url       string // of the firm, for mails; "": the house's own
	companies string // CSV; "": acme and birch, without old links
	contacts  string // CSV; "": ann, bob, an owner, and a disabled contact
	closed    bool   // the store doesn't exist yet, so don't wait for it
}

const someContacts = `email,other_emails,first_name,last_name,companies,role,disabled
ann@example.com,ann.b@example.org,Ann,Baker,"acme; birch",,
bob@example.com,,Bob,Cole,acme,,
eve@example.com,,Eve,Gone,,,true
nameless@example.com,,,,,,
owner@example.com,,Olive,Owner,,staff,
`

const someCompanies = `id,name,legacy_tokens
acme,Acme Ltd,
birch,Birch & Sons,
`

func openHouse(t *testing.T, l layout) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), portal: newPortal(t), admin: l.admin}
	t.Setenv("XDG_DATA_HOME", filepath.Join(h.dir, "data"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(h.dir, "config"))
	h.url = "http://" + freeAddress(t)
	contacts := l.contacts
	if contacts == "" {
		contacts = someContacts
	}
	h.write("contacts.csv", contacts)
	h.write("companies.csv", cmp.Or(l.companies, someCompanies))
	if l.app == "" {
		l.app = "mail folder " + h.path("mail")
	}
	if l.texts != "" {
		l.app += "\n\t\ttext webhook " + l.texts + " {\n\t\t\theader Authorization \"Bearer of-the-service\"\n\t\t\trate 1000/s\n\t\t}"
	}
	l.app += "\n\t\t" + h.storeLines(l.app)
	if l.site == "" {
		l.site = "reverse_proxy " + strings.TrimPrefix(h.portal.URL, "http://")
	}
	h.config = fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	%s
	doorpost {
		%s
	}
}
%s {
	doorpost example {
		url %s
		brand {
			name "Example Bookkeeping"
			from "Example Bookkeeping <hello@example.com>"
			support "help@example.com, +1 555 0100"
		}
		contacts %s
		companies %s
		%s
	}
	%s
}
%s
`, cmp.Or(l.admin, "off"), l.global, l.app, h.url, cmp.Or(l.url, h.url), h.path("contacts.csv"), h.path("companies.csv"), l.firm, l.site, l.more)
	h.start()
	t.Cleanup(func() {
		closed := caddymodule.Closing()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
		// The store is open while a request is in progress, and its folder is about to be removed.
		for deadline := time.Now().Add(3 * time.Second); !closed() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
	})
	if !l.closed {
		h.settled()
	}
	return h
}

// start loads the configuration; a second call reloads it.
func (h *house) start() {
	h.t.Helper()
	if err := h.load(); err != nil {
		h.t.Fatalf("loading: %v\n%s", err, h.config)
	}
}

// change replaces a part of the configuration and reloads.
func (h *house) change(old, new string) {
	h.t.Helper()
	if !strings.Contains(h.config, old) {
		h.t.Fatalf("the config has no %q", old)
	}
	h.config = strings.ReplaceAll(h.config, old, new)
	h.start()
}

func (h *house) load() error {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(h.config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	_ = warnings // about formatting
	return caddy.Load(config, true)
}

// settled waits until the gate serves.
func (h *house) settled() {
	h.t.Helper()
	h.eventually("the gate serves", func() bool {
		resp, err := http.Get(h.url + "/-/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusUnauthorized // the prefix is another one
	})
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) write(name, text string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) eventually(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	h.t.Fatalf("%s: not within 30 s", what)
}

// freeAddress returns a free address of this machine. It is below the kernel's ephemeral ports, and
// each process has its own range.
func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		n := int(addresses.Add(1))
		a := fmt.Sprintf("127.0.0.1:%d", 10_000+(os.Getpid()*97+n)%20_000)
		if l, err := net.Listen("tcp", a); err == nil {
			l.Close()
			return a
		}
		if n > 20_000 {
			t.Fatal("no address is free")
		}
	}
}

var addresses atomic.Int64 // number of addresses tried

// portal is an application that records requests and describes them in its answers.
type portal struct {
	*httptest.Server
	mu   sync.Mutex
	seen []seen
	// answer, if set, writes the answer.
	answer http.HandlerFunc
}

type seen struct {
	Method, URI string
	Header      http.Header
	Trailer     http.Header
	Body        string
}

func newPortal(t *testing.T) *portal {
	p := &portal{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		p.seen = append(p.seen, seen{r.Method, r.RequestURI, r.Header.Clone(), r.Trailer.Clone(), string(body)})
		answer := p.answer
		p.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		fmt.Fprintf(w, "portal: %s %s for %s", r.Method, r.RequestURI, r.Header.Get("Remote-User"))
	}))
	t.Cleanup(p.Close)
	return p
}

// last returns the latest request, and the number of requests.
func (p *portal) last() (seen, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) == 0 {
		return seen{}, 0
	}
	return p.seen[len(p.seen)-1], len(p.seen)
}

// lastPost returns the latest POST.
func (p *portal) lastPost() seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range slices.Backward(p.seen) {
		if one.Method == http.MethodPost {
			return one
		}
	}
	return seen{}
}

// browser is a person's browser: it keeps cookies, sends what browsers send, and follows no
// redirects.
type browser struct {
	h      *house
	client *http.Client
}

func (h *house) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return &browser{h, &http.Client{Jar: jar, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

type answer struct {
	*http.Response
	body string
}

func (b *browser) do(r *http.Request) answer {
	b.h.t.Helper()
	resp, err := b.client.Do(r)
	for range 3 {
		// During a reload Caddy closes connections to which a request is being written.
		cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || err != nil && strings.Contains(err.Error(), "server closed idle connection")
		if !cut || r.Body != nil && r.GetBody == nil {
			break
		}
		if r.GetBody != nil {
			r.Body, _ = r.GetBody()
		}
		resp, err = b.client.Do(r)
	}
	if err != nil {
		b.h.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.h.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return answer{resp, string(body)}
}

func (b *browser) request(method, path string, body io.Reader, headers ...string) *http.Request {
	b.h.t.Helper()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = b.h.url + path
	}
	r, err := http.NewRequestWithContext(context.Background(), method, target, body)
	if err != nil {
		b.h.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	r.Header.Set("Sec-Fetch-Site", "none")
	r.Header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// open opens a page, like typing its URL or following a link in a mail.
func (b *browser) open(path string, headers ...string) answer {
	b.h.t.Helper()
	return b.do(b.request("GET", path, nil, headers...))
}

// send submits a form of the site's own pages.
func (b *browser) send(path string, form url.Values, headers ...string) answer {
	b.h.t.Helper()
	headers = append([]string{"Content-Type", "application/x-www-form-urlencoded", "Origin", b.h.url, "Sec-Fetch-Site", "same-origin"}, headers...)
	return b.do(b.request("POST", path, strings.NewReader(form.Encode()), headers...))
}

// cookie returns the value of one of the browser's cookies, or "".
func (b *browser) cookie(name string) string {
	u, err := url.Parse(b.h.url)
	if err != nil {
		b.h.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// letter is a mail as its reader sees it.
type letter struct {
	mail.Header
	text, html string
	link, code string
}

var (
	linkPattern = regexp.MustCompile(`https?://\S+/-/link\?t=[a-z2-7]{26}`)
	codePattern = regexp.MustCompile(`\b[0-9a-z]{4}-[0-9a-z]{4}\b`)
)

// mails returns the mails to an address, the oldest first.
func (h *house) mails(to string) []letter {
	h.t.Helper()
	names, err := filepath.Glob(h.path("mail/*.eml"))
	if err != nil {
		h.t.Fatal(err)
	}
	var all []letter
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // being replaced
		}
		if l := readLetter(h.t, data); strings.Contains(l.Get("To"), to) {
			all = append(all, l)
		}
	}
	return all
}

// letters returns the mails to an address so far, without notifications of new devices, which
// accompany the tested mails.
func (h *house) letters(to string) []letter {
	h.t.Helper()
	return slices.DeleteFunc(h.mails(to), letter.isNews)
}

// notifications returns the notifications of new devices.
func (h *house) notifications(to string) []letter {
	h.t.Helper()
	return slices.DeleteFunc(h.mails(to), func(l letter) bool { return !l.isNews() })
}

func (l letter) isNews() bool { return strings.HasPrefix(l.Get("Subject"), "New sign-in") }

// nextLetter waits for the mail after the first n to an address.
func (h *house) nextLetter(to string, n int) letter {
	h.t.Helper()
	var all []letter
	h.eventually(fmt.Sprintf("mail %d to %s", n+1, to), func() bool {
		all = h.letters(to)
		return len(all) > n
	})
	return all[n]
}

func readLetter(t *testing.T, data []byte) letter {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("reading a mail: %v\n%s", err, data)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatalf("reading a mail: %v", err)
	}
	l := letter{Header: msg.Header}
	for parts := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("reading a mail's parts: %v", err)
		}
		var r io.Reader = part
		if part.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			r = quotedprintable.NewReader(part)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("reading a mail's part: %v", err)
		}
		if strings.HasPrefix(part.Header.Get("Content-Type"), "text/html") {
			l.html = string(b)
		} else {
			l.text = string(b)
		}
	}
	l.link, l.code = linkPattern.FindString(l.text), codePattern.FindString(linkPattern.ReplaceAllString(l.text, ""))
	return l
}

// ask requests a sign-in mail and returns it.
func (b *browser) ask(email, to string) letter {
	b.h.t.Helper()
	stored := strings.ToLower(email)
	before := len(b.h.letters(stored))
	b.h.mayMailAgain(before)
	if a := b.send("/-/sign-in", url.Values{"email": {email}, "to": {to}}); a.StatusCode != http.StatusSeeOther {
		b.h.t.Fatalf("POST /-/sign-in = %d; want 303\n%s", a.StatusCode, a.body)
	}
	return b.h.nextLetter(stored, before)
}

// mayMailAgain advances the clock until a contact who got n mails may get another: a minute, or
// longer if one network's limit for an hour or a day is reached.
func (h *house) mayMailAgain(n int) {
	h.t.Helper()
	switch {
	case n == 0:
	case n%6 == 0:
		caddymodule.Advance(h.t, 24*time.Hour)
	case n%3 == 0:
		caddymodule.Advance(h.t, 9*time.Hour)
	default:
		caddymodule.Advance(h.t, time.Minute)
	}
}

// signIn signs in with a mailed link.
func (b *browser) signIn(email string) {
	b.h.t.Helper()
	l := b.ask(email, "/")
	if a := b.open(l.link); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
		b.h.t.Fatalf("GET link = %d to %q; want 303 to /\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
}

// me returns what /-/me returns, or nil if nobody is signed in.
func (b *browser) me() map[string]any {
	b.h.t.Helper()
	a := b.open("/-/me", "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty")
	if a.StatusCode == http.StatusUnauthorized {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil || a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("GET /-/me = %d, %v\n%s", a.StatusCode, err, a.body)
	}
	return m
}
