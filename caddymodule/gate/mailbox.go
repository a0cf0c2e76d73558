package gate

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
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// The preview mailbox shows the mails of a mail folder, to try the gate out without a
// mail server. Whoever sees it can sign in as anybody, so it opens for this machine
// alone: the site is on loopback, and so is the peer, who came without a detour. A proxy
// or tunnel may hide the detour, so it also takes a key, which the first lines of the log
// have in its URL and a cookie keeps.

const (
	mailboxPath   = "/mailbox/"
	mailboxCookie = "portal-mailbox" // goes to the mailbox alone, so never to the portal
)

// MailboxURL is where the preview mailbox opens; "" where there is none.
func (g *Gate) MailboxURL() string {
	if g.Mailbox == "" || !loopback.Is(g.URL.Hostname()) {
		return ""
	}
	return g.URL.String() + g.Prefix + mailboxPath + "?key=" + g.mailboxKey()
}

// mailboxKey is the same over restarts, as long as the secret is.
func (g *Gate) mailboxKey() string { return g.keys.MAC("mailbox", g.Firm)[:32] }

// hasMailboxKey reports whether the request has the key in its cookie; with the key in the
// URL it is answered here, with the cookie.
func (g *Gate) hasMailboxKey(w http.ResponseWriter, r *http.Request) bool {
	right := func(key string) bool { return hmac.Equal([]byte(key), []byte(g.mailboxKey())) }
	if c, err := r.Cookie(mailboxCookie); err == nil && right(c.Value) && !r.URL.Query().Has("key") {
		return true
	}
	if !right(one(r.URL.Query()["key"])) {
		g.page(w, r, http.StatusForbidden, web.MessagePage{Title: "The emails are elsewhere", Text: "Open the address that Caddy prints in its first lines. It has the key to the emails."})
		return false
	}
	http.SetCookie(w, &http.Cookie{Name: mailboxCookie, Value: g.mailboxKey(), Path: g.Prefix + mailboxPath, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: g.URL.Scheme == "https"})
	web.SetNeverCached(w.Header())
	w.Header().Set("Location", r.URL.Path)
	w.WriteHeader(http.StatusSeeOther)
	return false
}

func (g *Gate) getMailbox(w http.ResponseWriter, r *http.Request) error {
	if !g.hasMailboxKey(w, r) {
		return nil
	}
	name := strings.TrimPrefix(r.URL.Path, g.Prefix+mailboxPath)
	if name == "" {
		return g.listMails(w, r)
	}
	name, html := strings.CutSuffix(name, ".html")
	if name != filepath.Base(name) || !strings.HasSuffix(name, ".eml") {
		return errNothing
	}
	m, err := readMail(filepath.Join(g.Mailbox, name))
	if errors.Is(err, fs.ErrNotExist) {
		return errNothing
	} else if err != nil {
		return err
	}
	if html {
		g.Pages.WriteMailHTML(w, m.html)
		return nil
	}
	page := web.MailPage{MailboxURL: g.Prefix + mailboxPath, From: m.From, To: m.To, Subject: m.Subject, Time: m.Time, Text: m.text}
	if m.html != nil {
		page.HTMLURL = g.Prefix + mailboxPath + url.PathEscape(name) + ".html"
	}
	g.page(w, r, http.StatusOK, page)
	return nil
}

// mailboxFor reports whether the mailbox is there for who asks.
func (g *Gate) mailboxFor(r *http.Request) bool {
	if g.Mailbox == "" || !loopback.Is(g.URL.Hostname()) || !strings.EqualFold(r.Host, g.URL.Host) {
		return false
	}
	for name := range r.Header {
		if forwarding(name) {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && loopback.Is(host)
}

// forwarding reports whether a header tells of somebody between the visitor and us: a
// proxy or a tunnel on this machine, which makes everybody's peer a loopback one.
func forwarding(name string) bool {
	name = strings.ToLower(name)
	for _, part := range [...]string{"forwarded", "client-ip", "connecting-ip", "real-ip", "x-original-", "cdn-loop"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "via"
}

func (g *Gate) listMails(w http.ResponseWriter, r *http.Request) error {
	entries, err := os.ReadDir(g.Mailbox)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page := web.MailboxPage{URL: g.Prefix + mailboxPath}
	for _, e := range slices.Backward(entries) { // their names begin with the time
		if len(page.Mails) == 100 || !strings.HasSuffix(e.Name(), ".eml") {
			continue
		}
		m, err := readMail(filepath.Join(g.Mailbox, e.Name()))
		if err != nil {
			continue // being replaced just now, or no mail of ours
		}
		m.URL = g.Prefix + mailboxPath + url.PathEscape(e.Name())
		page.Mails = append(page.Mails, m.MailRow)
	}
	g.page(w, r, http.StatusOK, page)
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
