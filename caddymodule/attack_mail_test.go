package caddymodule_test

// Class L: the links in mails depend only on the configuration. Class E: input for an
// address is one address or none, and mails go only to the stored address.
//
// Not here: E07's password lockout (attack_passwords_test.go; here: spellings share the
// budget of mails) and E16 (STARTTLS: outbox/smtp_test.go). Unit tests of E14 and E17 are
// in address/address_test.go.

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// post sends a sign-in form over a socket.
func (h *house) post(path, body string, lines ...string) rawAnswer {
	h.t.Helper()
	lines = append(lines, "Accept: text/html", "Content-Type: application/x-www-form-urlencoded", fmt.Sprintf("Content-Length: %d", len(body)))
	return h.raw(h.message("POST", path, lines...) + body)
}

// ZITADEL's GHSA-93m4-mfpg-c3xf, CVE-2024-21498, CVE-2024-21499: host, scheme and path of
// a request don't change the link.
func TestL01_CVE_2025_64101_TheLinkIsTheConfiguredOne(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for i, lines := range [][]string{
		{"X-Forwarded-Host: evil.example"}, {"X-Forwarded-Host: evil.example, evil.example"}, {"Forwarded: host=evil.example;proto=https"},
		{"X-Forwarded-Proto: javascript"}, {"X-Forwarded-Proto: evil_protocol"}, {"X-Forwarded-Proto: https"}, {"X-Forwarded-Prefix: /evil"},
		{"X-Forwarded-Port: 666"}, {"X-Original-Host: evil.example"}, {"X-Host: evil.example"}, {"X-HTTP-Host-Override: evil.example"},
		{"X-Forwarded-Server: evil.example"}, {"X-Original-URL: //evil.example/"}, {"Base-Url: https://evil.example"},
	} {
		email := "ann@example.com"
		h.mayMailAgain(i)
		if a := h.post("/-/sign-in", "email=ann%40example.com", lines...); a.status != 303 || a.header.Get("Location") != "/-/sent" {
			t.Errorf("%v: %d to %q; want 303 to /-/sent", lines, a.status, a.header.Get("Location"))
		}
		l := h.nextLetter(email, i)
		if !strings.HasPrefix(l.link, h.url+"/-/link?t=") || strings.Contains(l.text+l.html, "evil") {
			t.Errorf("%v: the mail's link is %q; want one to %s", lines, l.link, h.url)
		}
		h.in2link(l.link)
	}
	a := h.raw(h.message("GET", "/x", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: evil"))
	if a.status != 401 || strings.Contains(a.body, "evil") || !strings.Contains(a.body, h.url+"/-/sign-in") {
		t.Errorf("a bare 401 = %d %s; want sign_in_url on %s", a.status, a.body, h.url)
	}
}

// in2link signs a contact in by a link, so that the next mail isn't over the limit.
func (h *house) in2link(link string) {
	h.t.Helper()
	l := h.letters("")
	to, _, _ := strings.Cut(l[len(l)-1].Get("To"), ">")
	to = to[strings.LastIndex(to, "<")+1:]
	if a := h.browser().send("/-/link", form("t", secretOf(link), "email", to)); a.StatusCode != 303 {
		h.t.Fatalf("POST /-/link for %s = %d; want 303", to, a.StatusCode)
	}
}

// The same for Host: an unknown host gets no mail, and if a site accepts any host, the
// link still uses the configured one.
func TestL04_ThePoisonedHost(t *testing.T) {
	anyHost := freeAddress(t)
	_, port, _ := strings.Cut(anyHost, ":")
	h, m := openFastHouse(t, layout{more: "http://:" + port + " {\n\tdoorpost example\n\trespond hello\n}"})
	body := "email=ann%40example.com"
	tail := fmt.Sprintf("Accept: text/html\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for _, head := range []string{"HTTP/1.1\r\nHost: evil.example\r\n", "HTTP/1.1\r\nHost: " + h.host() + "\r\nHost: evil.example\r\n", "HTTP/1.1\r\nHost: " + h.host() + "@evil\r\n",
		"HTTP/1.1\r\nHost: 127.0.0.1,evil\r\n", "HTTP/1.1\r\nHost: " + h.host() + ":80@evil.example\r\n", "HTTP/1.1\r\nHost:\r\n", "HTTP/1.1\r\n", "HTTP/1.0\r\n",
		"HTTP/1.1\r\nHost: " + h.host() + "#@evil.example\r\n", "HTTP/1.1\r\nHost: " + h.host() + " evil.example\r\n", "HTTP/1.1\r\nHost: " + h.host() + "/evil.example\r\n"} {
		if a := h.raw("POST /-/sign-in " + head + tail); a.status == 303 {
			t.Errorf("%q = 303; want no mail for a host that isn't ours", head)
		}
	}
	for i, host := range []string{"evil.example", "evil.example:" + port, "EVIL.EXAMPLE", "127.0.0.1:" + port, h.host() + ",evil"} {
		to := anyHost
		if strings.Contains(host, ",") {
			to = h.host() // the text after the comma is a port to Caddy, and not part of the host
		}
		h.mayMailAgain(i)
		if a := h.rawTo(to, "POST /-/sign-in HTTP/1.1\r\nHost: "+host+"\r\n"+tail); a.status != 303 || a.header.Get("Location") != "/-/sent" {
			t.Errorf("Host: %s = %d to %q; want 303 to /-/sent", host, a.status, a.header.Get("Location"))
		}
		l := h.nextLetter("ann@example.com", i)
		if !strings.HasPrefix(l.link, h.url+"/-/link?t=") || strings.Contains(strings.ToLower(l.text+l.html), "evil") {
			t.Errorf("Host: %s: the mail's link is %q; want one to %s", host, l.link, h.url)
		}
		h.in2link(l.link)
	}
	if n := len(m.recipients()); n != 5 {
		t.Errorf("%d mails; want the five of the site that takes any host", n)
	}
}

var anyURL = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://[^\s"'<>)]+`)

// All links in a mail lead to one origin, it loads nothing, and contains no input of the
// requesting visitor.
func TestL07_WhatIsInAMail(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	typed := []string{"<b>agent</b>", "evil.example", "ref-evil", "to-evil", "langevil", "ANN@"}
	b.send("/-/sign-in", form("email", "ANN@example.com", "to", "/to-evil", "name", "evil.example", "subject", "evil.example"),
		"User-Agent", "Mozilla/5.0 <b>agent</b> https://evil.example Chrome/1", "Referer", h.url+"/ref-evil", "Accept-Language", "langevil")
	l := h.nextLetter("ann@example.com", 0)
	for part, text := range map[string]string{"text": l.text, "html": l.html} {
		urls := anyURL.FindAllString(text, -1)
		if len(urls) == 0 {
			t.Errorf("the %s part has no link", part)
		}
		for _, u := range urls {
			if !strings.HasPrefix(u, h.url+"/") {
				t.Errorf("the %s part leads to %s; want %s alone", part, u, h.url)
			}
		}
		for _, s := range typed {
			if strings.Contains(text, s) {
				t.Errorf("the %s part has %q, which was typed by who asked", part, s)
			}
		}
	}
	for _, loads := range []string{"<img", "<link", "url(", "src=", "<script", "<form", "<iframe", "background="} {
		if strings.Contains(strings.ToLower(l.html), loads) {
			t.Errorf("the mail has %s", loads)
		}
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(l.Get("Subject"))
	if err != nil || strings.Contains(subject, l.code) || l.code == "" {
		t.Errorf("Subject: %s, %v; want no code in it", subject, err)
	}
	for name, lines := range l.Header {
		for _, s := range append(typed, "oorpost", "Go-http", "caddy", "127.0.0.1", secretOf(l.link)) {
			if strings.Contains(strings.Join(lines, " "), s) && !(name == "Message-Id" && s == "127.0.0.1") {
				t.Errorf("%s: %s; want no %s in it", name, lines, s)
			}
		}
	}
	if len(l.Header["To"]) != 1 || len(l.Header["Cc"])+len(l.Header["Bcc"]) != 0 || len(l.Header["Subject"]) != 1 {
		t.Errorf("To %q, Cc %q, Bcc %q, Subject %q; want one recipient and one subject", l.Header["To"], l.Header["Cc"], l.Header["Bcc"], l.Header["Subject"])
	}
}

// noAddress are inputs that aren't one address, by class.
var noAddress = map[string][]string{
	"E01, CVE-2025-59937, arguments of RCPT": {`"ann@example.com> ORCPT=admin@admin.com"@example.com`, "ann@example.com> SIZE=1", "ann@example.com>\r\nRCPT TO:<eve@evil.example>",
		`"ann> NOTIFY=NEVER"@example.com`, "<ann@example.com>", "<ann@example.com> BODY=8BITMIME", "ann@example.com ORCPT=x", `ann\@example.com@example.com`},
	"E02, CVE-2025-13033, quoted local parts": {`"e@attacker.com"@victim.com`, `"xclow3n@gmail.com x"@internal.domain`, `"ann"@example.com`, `"ann\"@evil.example"@example.com`,
		"a@b@example.com", "ann@example.com@evil.example", "ann%evil.example@example.com@evil.example"},
	"E04, CVE-2022-35924, several": {"attacker@attacker.com,ann@example.com", "ann@example.com,attacker@attacker.com", "ann@example.com;attacker@attacker.com",
		"ann@example.com attacker@attacker.com", "ann@example.com\nattacker@attacker.com", "ann@example.com\tattacker@attacker.com", "group:ann@example.com,x@example.com;",
		"ann@example.com, ", "ann@example.com;", ",ann@example.com", "ann@example.com\u2028attacker@attacker.com", "ann@example.com\uff0cattacker@attacker.com"},
	"E10, lines": {"ann@example.com\r\nBcc:x@y.example", "ann@example.com\nSubject:x", "ann@example.com\x00", "ann@example.com\r\n\tx", "\r\nann@example.com",
		"ann@example.com\r", "ann@example.com\n", "a\x00nn@example.com", "ann@exam\r\nple.com", "ann@example.com\u0085Bcc:x@y.example", "ann@example.com\x0b", "ann@example.com\x1b[2J"},
	"names, comments, routes, words": {"Ann <ann@example.com>", "Ann Baker ann@example.com", "ann(comment)@example.com", "ann@(comment)example.com", "@evil.example:ann@example.com",
		"=?utf-8?q?ann=40evil.example=2c?= <ann@example.com>", "mailto:ann@example.com?cc=x@y.example"},
	"E11, dots": {".ann@example.com", "ann.@example.com", "an..n@example.com", "ann@example..com", "ann@.example.com", "ann@example.com.", "ann", "@", "@example.com", "ann@", ""},
	"E11, hyphens, lengths": {"ann@-example.com", "ann@example-.com", "ann@exa_mple.com", strings.Repeat("a", 65) + "@example.com", "ann@" + strings.Repeat("a", 64) + ".com",
		"ann@" + strings.Repeat("a.", 130) + "com"},
	"E14, names in disguise": {"ann@xn--a.com", "ann@xn--80ak6aa92e-.com", "ann@\u200bexample.com", "ann@exa\u00admple.com", "änn@example.com", "ann\u200b@example.com",
		"аnn@example.com", "ann\uff20example\uff20com", "ann@exam\u2024ple..com"},
	"E17, hosts that aren't public": {"ann@localhost", "ann@portal", "ann@127.0.0.1", "ann@[127.0.0.1]", "ann@[IPv6:::1]", "ann@0x7f.1", "ann@1", "ann@example.123", "ann@2130706433"},
	"X06, placeholders":             {"{env.HOME}@{env.HOME}", "ann@{env.HOME}.com", "{http.request.host}"},
}

func TestE01_OneAddressOrNone(t *testing.T) {
	h, m := openFastHouse(t, layout{contacts: someContacts + "fred+tag@example.com,,Fred,,,,\n"})
	n := 0
	for class, all := range noAddress {
		for _, email := range all {
			a := h.post("/-/sign-in", "email="+url.QueryEscape(email))
			if a.status != 400 || len(a.header["Set-Cookie"]) != 0 || !strings.Contains(a.header.Get("Content-Type"), "text/html") {
				t.Errorf("%s: %q = %d, cookies %q; want 400, and none", class, email, a.status, a.header["Set-Cookie"])
			}
			n++
		}
	}
	// As phones and people write it.
	for i, email := range []string{"ann@example.com", " Ann@Example.COM ", "ANN@EXAMPLE.COM\u200b"} {
		h.mayMailAgain(i)
		if a := h.post("/-/sign-in", "email="+url.QueryEscape(email)); a.status != 303 {
			t.Errorf("%q = %d; want 303", email, a.status)
		}
		h.nextLetter("ann@example.com", i)
	}
	h.browser().ask("fred+tag@example.com", "/")
	if got := m.recipients(); len(got) != 4 || slices.ContainsFunc(got, func(to string) bool { return to != "ann@example.com" && to != "fred+tag@example.com" }) {
		t.Errorf("after %d that are none, and four that are one, RCPT TO were %q", n, got)
	}
}

// CVE-2023-7028: one field, once, in one kind of form.
func TestE05_CVE_2023_7028_OneField(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	const ann, bob = "ann%40example.com", "bob%40example.com"
	for _, body := range []string{"email[]=" + ann + "&email[]=" + bob, "email=" + ann + "&email=" + bob, "email=" + ann + "&email=" + ann, "email%5B%5D=" + ann,
		"email[0]=" + ann, "email=" + ann + "&email[]=" + bob, "email=" + ann + "&email%5B=" + bob, "email=" + ann + "%00&x=1", "email=" + ann + ";email=" + bob, "email=" + ann + "&to=/&to=/x",
		"email=" + ann + "%zz", strings.Repeat("x&", 40) + "email=" + ann, "email=&email=" + ann, "Email=" + ann, "", "&", "email", "=" + ann} {
		if a := h.post("/-/sign-in", body); a.status != 400 {
			t.Errorf("%s = %d; want 400", body, a.status)
		}
	}
	for kind, body := range map[string]string{
		"application/json": `{"email":["ann@example.com","bob@example.com"]}`, "application/json; charset=utf-8": `{"email":"ann@example.com"}`,
		"text/plain": "email=" + ann, "": "email=" + ann, "application/x-www-form-urlencoded2": "email=" + ann,
		"multipart/form-data; boundary=x": "--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nann@example.com\r\n--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nbob@example.com\r\n--x--\r\n",
	} {
		a := h.raw(h.message("POST", "/-/sign-in", "Content-Type: "+kind, fmt.Sprintf("Content-Length: %d", len(body))) + body)
		if a.status != 400 || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s = %d, %s; want 400 in JSON", kind, a.status, a.header.Get("Content-Type"))
		}
	}
	// Only the body is the form.
	if a := h.post("/-/sign-in?email="+bob, "email="+ann); a.status != 303 {
		t.Errorf("with another in the query = %d; want 303", a.status)
	}
	if a := h.post("/-/sign-in?email="+bob, "x=1"); a.status != 400 {
		t.Errorf("with one in the query alone = %d; want 400", a.status)
	}
	h.nextLetter("ann@example.com", 0)
	if got := m.recipients(); !slices.Equal(got, []string{"ann@example.com"}) {
		t.Errorf("RCPT TO %q; want ann@example.com once", got)
	}
}

// Spellings of one address have one limit, and mails go to the stored spelling.
func TestE07_SpellingsAreOneAddress(t *testing.T) {
	h, m := openFastHouse(t, layout{contacts: "email,first_name\njohn@example.com,John\nanna@xn--mnchen-3ya.example,Anna\n"})
	for to, typed := range map[string][]string{
		"john@example.com": {"john@example.com", "John@Example.com", " JOHN@EXAMPLE.COM ", "john@example.com", "joHn@example.coM", "\u200bjohn@example.com"},
		// E14: in letters, in A-labels, composed and decomposed.
		"anna@xn--mnchen-3ya.example": {"anna@münchen.example", "anna@xn--mnchen-3ya.example", "ANNA@MU\u0308NCHEN.example", "anna@XN--MNCHEN-3YA.EXAMPLE"},
	} {
		for i, email := range typed {
			caddymodule.Advance(t, time.Minute)
			if a := h.post("/-/sign-in", "email="+url.QueryEscape(email)); a.status != 303 {
				t.Errorf("%q = %d; want 303", email, a.status)
			}
			if i < 3 {
				h.nextLetter(to, i)
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // time in which no mail may come
	got := m.recipients()
	slices.Sort(got)
	if want := []string{"anna@xn--mnchen-3ya.example", "anna@xn--mnchen-3ya.example", "anna@xn--mnchen-3ya.example", "john@example.com", "john@example.com", "john@example.com"}; !slices.Equal(got, want) {
		t.Errorf("RCPT TO %q; want three to each, as many as one network may have in an hour", got)
	}
}

// CVE-2023-51764: text in a mail can't end the mail.
func TestE15_CVE_2023_51764_TextCannotEndAMail(t *testing.T) {
	h, m := openFastHouse(t, layout{contacts: "email,first_name,last_name\nann@example.com,.,\"..\"\n"})
	l := h.browser().ask("ann@example.com", "/")
	if l.link == "" || !slices.Equal(m.recipients(), []string{"ann@example.com"}) {
		t.Errorf("the mail's link is %q, RCPT TO %q", l.link, m.recipients())
	}
	names, err := filepath.Glob(h.path("mail/*.eml"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%d mails, %v; want one", len(names), err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	rest := strings.ReplaceAll(string(data), "\r\n", "")
	if strings.ContainsAny(rest, "\r\n") {
		t.Errorf("the mail has a bare CR or LF: %q", data)
	}
}

// A slow mail server and an unknown address look alike: see TestN03. Here: only the form
// in a browser makes the server send mails.
func TestE04_NothingButTheFormSendsMail(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	for _, request := range []string{
		h.message("GET", "/-/sign-in?email=ann%40example.com"), h.message("HEAD", "/-/sign-in?email=ann%40example.com"),
		h.message("PUT", "/-/sign-in", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23") + "email=ann%40example.com",
		h.message("GET", "/-/sign-in", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23") + "email=ann%40example.com",
		h.message("GET", "/-/sent"), h.message("GET", "/x?email=ann%40example.com"),
		h.message("POST", "/x", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23") + "email=ann%40example.com",
		h.message("POST", "/-/sent", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23") + "email=ann%40example.com",
	} {
		if a := h.raw(request); a.status == http.StatusSeeOther && a.header.Get("Location") == "/-/sent" {
			t.Errorf("%.40q = 303 to /-/sent", request)
		}
	}
	h.browser().ask("bob@example.com", "/")
	if got := m.recipients(); !slices.Equal(got, []string{"bob@example.com"}) {
		t.Errorf("RCPT TO %q; want bob alone", got)
	}
}
