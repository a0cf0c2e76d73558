package caddymodule_test

// Hostile inputs collected by others, sent to a whole server. We don't copy the collections;
// if they are present, run them:
//
//	go test ./caddymodule -run Corpus -v -corpus /path/to/corpora
//
// It reads oauth2-proxy/openredirects.txt (oauth2-proxy/oauth2-proxy, testdata),
// isemail/tests.xml (dominicsayers/isemail, test), go-mail/address-injection.json (addresses
// of wneessen/go-mail, msg_test.go) and blns/blns.txt (minimaxir/big-list-of-naughty-strings),
// if they exist. Without the flag the tests use their own seeds.

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var corpora = flag.String("corpus", "", "`folder` of collections of hostile inputs; see corpus_test.go")

// collection returns a file of the folder, or nil if it doesn't exist.
func collection(t *testing.T, name string) []byte {
	t.Helper()
	if *corpora == "" {
		return nil
	}
	if _, err := os.Stat(*corpora); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(*corpora, filepath.FromSlash(name)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return data
}

// from returns a browser with another address of this machine, so that limits per network
// don't affect these tests.
func (h *house) from(i int) *browser {
	h.t.Helper()
	b := h.browser()
	local := &net.TCPAddr{IP: net.IPv4(127, byte(1+i>>8), byte(i), 1)}
	b.client.Transport = &http.Transport{DialContext: (&net.Dialer{LocalAddr: local}).DialContext, DisableKeepAlives: true}
	return b
}

// R01, with collected redirects: as `to` of signed-in and other visitors, as a requested URL,
// and the whole way through a mail.
func TestCorpus_R01_Redirects(t *testing.T) {
	var lines []string
	for line := range strings.SplitSeq(string(collection(t, "oauth2-proxy/openredirects.txt")), "\n") {
		line = strings.TrimSuffix(line, "\r")
		lines = append(lines, line)
		if decoded, err := url.QueryUnescape(line); err == nil && decoded != line {
			lines = append(lines, decoded)
		}
	}
	foreign := len(lines)
	lines = append(lines, "//evil.example", `/\evil.example`, "/%09/evil.example", "https:evil.example", "/.//evil.example", "//evil.example/%2e%2e")
	contacts := []byte("email\nbob@example.com\n")
	for i := range lines {
		contacts = fmt.Appendf(contacts, "c%d@example.com\n", i)
	}
	h, _ := openFastHouse(t, layout{contacts: string(contacts)})
	bob := h.in("bob@example.com")
	leave := func(how, line, location string) {
		if !stays(location) || strings.HasPrefix(location, "/-/") {
			t.Errorf("%s, %q leads to %q; want a path on the site", how, line, location)
		}
	}
	var whole sync.WaitGroup
	slots := make(chan struct{}, 8)
	home, letters := 0, newLetterbox(h)
	for i, line := range lines {
		a := bob.open("/-/sign-in?to=" + url.QueryEscape(line))
		leave("signed in", line, a.Header.Get("Location"))
		if a.Header.Get("Location") == "/" {
			home++
		}
		leave("at the prompt", line, valueOf(h.browser().open("/-/sign-in?to="+url.QueryEscape(line)).body, "to"))
		if target := strings.Map(unprintable, line); strings.HasPrefix(target, "/") {
			a := h.get(target)
			to := valueOf(a.body, "to")
			if a.status >= 500 || strings.Contains(a.header.Get("Location"), "evil") || strings.Contains(a.body, `name="to"`) && !stays(to) {
				t.Errorf("GET %q = %d, and on to %q", target, a.status, to)
			}
		}
		slots <- struct{}{}
		whole.Go(func() {
			defer func() { <-slots }()
			b, email := h.from(i), fmt.Sprintf("c%d@example.com", i)
			a := b.send("/-/sign-in", form("email", email, "to", line))
			if a.StatusCode == 400 && strings.Contains(line, "\x00") {
				return // browsers send no such form
			}
			if a.StatusCode != 303 {
				t.Errorf("asking with %q = %d; want 303", line, a.StatusCode)
				return
			}
			a = b.open(letters.wait(email).link)
			if a.StatusCode != 303 {
				t.Errorf("the link after %q = %d; want 303", line, a.StatusCode)
			}
			leave("by link", line, a.Header.Get("Location"))
		})
	}
	whole.Wait()
	t.Logf("%d spellings of %d lines: none leads elsewhere; %d lead to the first page, the others to a path on the site",
		foreign, strings.Count(string(collection(t, "oauth2-proxy/openredirects.txt")), "\n"), home)
}

// unprintable drops characters that can't be in a request line.
func unprintable(c rune) rune {
	if c <= ' ' || c == 0x7f {
		return -1
	}
	return c
}

// letterbox reads each mail of a house once: with a thousand mails, letters would be too slow.
type letterbox struct {
	h    *house
	mu   sync.Mutex
	read map[string]bool   // by name
	all  map[string]letter // by recipient, the latest
}

func newLetterbox(h *house) *letterbox {
	return &letterbox{h: h, read: map[string]bool{}, all: map[string]letter{}}
}

var recipient = regexp.MustCompile(`[^<\s]+@[^>\s]+`)

// wait waits for the mail to an address and returns it.
func (l *letterbox) wait(to string) (found letter) {
	l.h.eventually("a mail to "+to, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		names, _ := filepath.Glob(l.h.path("mail/*.eml"))
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && !l.read[name] {
				one := readLetter(l.h.t, data)
				l.read[name], l.all[recipient.FindString(one.Get("To"))] = true, one
			}
		}
		var ok bool
		found, ok = l.all[to]
		return ok
	})
	return found
}

// E11: invalid addresses are rejected; valid ones in plain letters are accepted, and nothing
// else except what people type around an address.
func TestCorpus_E11_Addresses(t *testing.T) {
	var doc struct {
		Tests []struct {
			ID       string `xml:"id,attr"`
			Address  string `xml:"address"`
			Category string `xml:"category"`
		} `xml:"test"`
	}
	if data := collection(t, "isemail/tests.xml"); data != nil {
		if err := xml.NewDecoder(bytes.NewReader(data)).Decode(&doc); err != nil {
			t.Fatal(err)
		}
	}
	type one struct {
		address string
		bad     bool // invalid by all standards
		good    bool
	}
	all := []one{{"test@", true, false}, {"test@iana.org", false, true}, {"te..st@iana.org", true, false}, {`"test"@iana.org`, false, false}}
	for _, c := range doc.Tests {
		address := strings.Map(func(c rune) rune { // the collection writes control characters as symbols
			if c >= 0x2400 && c <= 0x2421 {
				if c == 0x2421 {
					return 0x7f
				}
				return c - 0x2400
			}
			return c
		}, c.Address)
		all = append(all, one{address, c.Category == "ISEMAIL_ERR", c.Category == "ISEMAIL_VALID_CATEGORY" && plainAddress.MatchString(address)})
	}
	h, m := openFastHouse(t, layout{})
	taken, refused := 0, 0
	for i, c := range all {
		a := h.from(i).send("/-/sign-in", form("email", c.address))
		switch {
		case a.StatusCode == http.StatusSeeOther:
			taken++
			if bare := strings.Trim(c.address, " \t"); c.bad || !plainAddress.MatchString(bare) {
				t.Errorf("%q = 303; want it refused", c.address)
			}
		case a.StatusCode == http.StatusBadRequest && len(a.Header["Set-Cookie"]) == 0:
			refused++
			if c.good {
				t.Errorf("%q = 400; want it taken", c.address)
			}
		default:
			t.Errorf("%q = %d, cookies %q; want 303 or 400", c.address, a.StatusCode, a.Header["Set-Cookie"])
		}
	}
	t.Logf("%d addresses of others: with ours, %d taken, %d refused", len(doc.Tests), taken, refused)
	h.browser().ask("bob@example.com", "/") // after all of them
	if got := m.recipients(); !slices.Equal(got, []string{"bob@example.com"}) {
		t.Errorf("RCPT TO %q; want bob alone", got)
	}
}

// plainAddress is a dot-atom at a domain of two or more labels, the last one of letters.
var plainAddress = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?$")

// E01: input that makes a mail library send more than an address to the server never reaches
// the library.
func TestCorpus_E01_Injections(t *testing.T) {
	var doc struct {
		Cases []struct {
			Name    string
			Address string
			Bytes   *string `json:"address_with_control_bytes"`
		}
	}
	if data := collection(t, "go-mail/address-injection.json"); data != nil {
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]string{"ours": `"bob@example.com> ORCPT=x@example.com"@example.com`, "ours, at a line": "bob@example.com>\r\nRCPT TO:<x@example.com"}
	for _, c := range doc.Cases {
		all[c.Name] = c.Address
		if c.Bytes != nil {
			all[c.Name+", in bytes"] = *c.Bytes
		}
	}
	h, m := openFastHouse(t, layout{admin: freeAddress(t)})
	i := 0
	for name, address := range all {
		i++
		if a := h.from(i).send("/-/sign-in", form("email", address)); a.StatusCode != 400 || len(a.Header["Set-Cookie"]) != 0 {
			t.Errorf("%s: %q = %d, cookies %q; want 400, and none", name, address, a.StatusCode, a.Header["Set-Cookie"])
		}
		// Nor through other inputs for addresses.
		body, err := json.Marshal(map[string]string{"email": address})
		if err != nil {
			t.Fatal(err)
		}
		a := h.rawTo(h.admin, fmt.Sprintf("POST /doorpost/example/contacts/add HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", h.admin, len(body), body))
		if a.status < 400 || a.status >= 500 {
			t.Errorf("%s: adding %q = %d %s; want it refused", name, address, a.status, a.body)
		}
	}
	t.Logf("%d addresses of others: all refused", len(doc.Cases))
	h.browser().ask("bob@example.com", "/")
	if got := m.recipients(); !slices.Equal(got, []string{"bob@example.com"}) {
		t.Errorf("RCPT TO %q; want bob alone", got)
	}
}
