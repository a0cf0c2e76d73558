package gate

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The preview mailbox shows the mails of a mail folder, to try the gate out without a
// mail server. Whoever sees it can sign in as anybody, so it opens for this machine
// alone: the site is on loopback, and so is the peer, who came without a detour.

const mailboxPath = "/mailbox/"

func (g *Gate) getMailbox(w http.ResponseWriter, r *http.Request) error {
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
	page := MailPage{MailboxURL: g.Prefix + mailboxPath, From: m.From, To: m.To, Subject: m.Subject, Time: m.Time, Text: m.text}
	if m.html != nil {
		page.HTMLURL = g.Prefix + mailboxPath + url.PathEscape(name) + ".html"
	}
	g.page(w, r, http.StatusOK, page)
	return nil
}

// mailboxFor reports whether the mailbox is there for who asks.
func (g *Gate) mailboxFor(r *http.Request) bool {
	if g.Mailbox == "" || !loopbackHost(g.URL.Hostname()) || !strings.EqualFold(r.Host, g.URL.Host) {
		return false
	}
	for name := range r.Header {
		if forwarding(name) {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && loopbackHost(host)
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

func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

func (g *Gate) listMails(w http.ResponseWriter, r *http.Request) error {
	entries, err := os.ReadDir(g.Mailbox)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page := MailboxPage{URL: g.Prefix + mailboxPath}
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
	MailRow
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
	m := readableMail{MailRow: MailRow{From: header("From"), To: header("To"), Subject: header("Subject")}}
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
