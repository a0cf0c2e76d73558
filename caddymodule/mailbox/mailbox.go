// Package mailbox shows the mails of a mail folder, to try Doorpost without a mail server.
//
// Anybody who sees these mails can sign in as anybody, so the mailbox is available only on this
// machine: the site must be on loopback, and so must the peer, without a proxy in between. Because
// a proxy or tunnel may hide itself, the mailbox also requires a key, which the first lines of the
// log show in its URL and a cookie keeps.
package mailbox

import (
	"bytes"
	"crypto/hmac"
	"errors"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	// Path is the path of the mailbox under the prefix.
	Path = "/mailbox/"

	cookieName = "portal-mailbox" // limited to the mailbox's path, so it never reaches the portal
)

// Mailbox shows the mails of one firm. Set its fields in one literal before use. A nil Mailbox is
// unavailable.
type Mailbox struct {
	Folder  string
	Firm    string
	Keys    *secret.Keyring
	Answers *web.Answers
}

// isLocal reports whether the firm's site is on loopback.
func (m *Mailbox) isLocal() bool { return m != nil && loopback.Is(m.Answers.Sites.URL.Hostname()) }

// URL returns the URL of the mailbox with its key, or "" if it is unavailable.
func (m *Mailbox) URL() string {
	if !m.isLocal() {
		return ""
	}
	return m.Answers.Sites.URL.String() + m.path() + "?key=" + m.key()
}

func (m *Mailbox) path() string { return m.Answers.Prefix + Path }

// key returns the key. It stays the same over restarts, as long as the secret does.
func (m *Mailbox) key() string { return m.Keys.MAC("mailbox", m.Firm)[:32] }

// authorize reports whether the request's cookie has the key. Otherwise it answers the request:
// with the key in the URL, by setting the cookie.
func (m *Mailbox) authorize(w http.ResponseWriter, r *http.Request) bool {
	right := func(key string) bool { return hmac.Equal([]byte(key), []byte(m.key())) }
	if c, err := r.Cookie(cookieName); err == nil && right(c.Value) && !r.URL.Query().Has("key") {
		return true
	}
	if !right(web.OnlyValue(r.URL.Query()["key"])) {
		m.Answers.Page(w, r, http.StatusForbidden, web.MessagePage{Title: "The emails are elsewhere", Text: "Open the address that Caddy prints in its first lines. It has the key to the emails."})
		return false
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: m.key(), Path: m.path(), HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: m.Answers.Sites.URL.Scheme == "https"})
	web.SetNeverCached(w.Header())
	w.Header().Set("Location", r.URL.Path)
	w.WriteHeader(http.StatusSeeOther)
	return false
}

// Get lists the mails, or shows one.
func (m *Mailbox) Get(w http.ResponseWriter, r *http.Request) error {
	if !m.authorize(w, r) {
		return nil
	}
	name := strings.TrimPrefix(r.URL.Path, m.path())
	if name == "" {
		return m.list(w, r)
	}
	name, html := strings.CutSuffix(name, ".html")
	if name != filepath.Base(name) || !strings.HasSuffix(name, ".eml") {
		return web.ErrNotFound
	}
	eml, err := readMail(filepath.Join(m.Folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return web.ErrNotFound
	} else if err != nil {
		return err
	}
	if html {
		m.Answers.Pages.WriteMailHTML(w, eml.html)
		return nil
	}
	page := web.MailPage{MailboxURL: m.path(), From: eml.From, To: eml.To, Subject: eml.Subject, Time: eml.Time, Text: eml.text}
	if eml.html != nil {
		page.HTMLURL = m.path() + url.PathEscape(name) + ".html"
	}
	m.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// OpensFor reports whether the mailbox is available to the request.
func (m *Mailbox) OpensFor(r *http.Request) bool {
	if !m.isLocal() || !strings.EqualFold(r.Host, m.Answers.Sites.URL.Host) {
		return false
	}
	for name := range r.Header {
		if isForwardingHeader(name) {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && loopback.Is(host)
}

// isForwardingHeader reports whether a header reveals a proxy or tunnel on this machine, behind
// which every peer is on loopback.
func isForwardingHeader(name string) bool {
	name = strings.ToLower(name)
	for _, part := range [...]string{"forwarded", "client-ip", "connecting-ip", "real-ip", "x-original-", "cdn-loop"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "via"
}

func (m *Mailbox) list(w http.ResponseWriter, r *http.Request) error {
	entries, err := os.ReadDir(m.Folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page := web.MailboxPage{URL: m.path()}
	for _, e := range slices.Backward(entries) { // file names begin with the time
		if len(page.Mails) == 100 || !strings.HasSuffix(e.Name(), ".eml") {
			continue
		}
		eml, err := readMail(filepath.Join(m.Folder, e.Name()))
		if err != nil {
			continue // being replaced at the moment, or not written by Doorpost
		}
		eml.URL = m.path() + url.PathEscape(e.Name())
		page.Mails = append(page.Mails, eml.MailRow)
	}
	m.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

type readableMail struct {
	web.MailRow
	text string
	html []byte
}

func readMail(path string) (readableMail, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return readableMail{}, err
	}
	msg, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return readableMail{}, err
	}
	var words mime.WordDecoder
	header := func(name string) string {
		s, err := words.DecodeHeader(msg.Header.Get(name))
		if err != nil {
			return msg.Header.Get(name)
		}
		return s
	}
	m := readableMail{MailRow: web.MailRow{From: header("From"), To: header("To"), Subject: header("Subject")}}
	if m.Time, err = msg.Header.Date(); err != nil {
		m.Time = time.Time{}
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		body, err := io.ReadAll(msg.Body)
		m.text = string(body)
		return m, err
	}
	for parts := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return m, nil
		} else if err != nil {
			return m, err
		}
		var body io.Reader = part
		if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
			body = quotedprintable.NewReader(part)
		}
		b, err := io.ReadAll(body)
		if err != nil {
			return m, err
		}
		switch kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type")); kind {
		case "text/plain":
			m.text = string(b)
		case "text/html":
			m.html = b
		}
	}
}
