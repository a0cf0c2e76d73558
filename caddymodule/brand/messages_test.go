package brand

import (
	"bytes"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

var update = flag.Bool("update", false, "write the golden files anew")

var asked = time.Date(2026, 11, 22, 10, 2, 31, 0, time.FixedZone("MST", -7*3600))

var full = SignIn{
	To: "ann@example.org", FirstName: "Ann", LastName: "Baker", Companies: []string{"Baker & Sons"},
	Link: "https://clients.example.com/-/link?t=k3q27wejlsqcjmqnzkissp5yh4", Code: "k7mq-2xhd",
	Life: 10 * time.Minute, AskedAt: asked, Agent: "Safari on iPhone",
}

func write(t *testing.T, b Brand, folder string, d SignIn) Message {
	t.Helper()
	l, err := NewMessages(b, folder)
	if err != nil {
		t.Fatal(err)
	}
	letter, err := l.SignIn(d)
	if err != nil {
		t.Fatal(err)
	}
	return letter
}

// read takes a mail apart, as a mail program would.
func read(t *testing.T, data []byte) (mail.Header, string, string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("Content-Type = %s %v; want multipart/alternative", kind, err)
	}
	var parts []string
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Header.Get("Content-Transfer-Encoding") != "quoted-printable" {
			t.Fatalf("a part is encoded as %q", p.Header.Get("Content-Transfer-Encoding"))
		}
		body, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, strings.ReplaceAll(string(body), "\r\n", "\n"))
	}
	if len(parts) != 2 {
		t.Fatalf("%d parts; want 2", len(parts))
	}
	return m.Header, parts[0], parts[1]
}

func TestGolden(t *testing.T) {
	plain := SignIn{To: "bob@example.org", Link: full.Link, Code: full.Code, Life: time.Hour,
		AskedAt: asked.UTC(), Agent: "see https://evil.example"}
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	written := func(letter Message, err error) Message {
		if err != nil {
			t.Fatal(err)
		}
		return letter
	}
	for _, tag := range l.Languages() {
		full, plain := full, plain
		full.Language, plain.Language = tag, tag
		mail := Mail(full)
		mail.Code = ""
		day := mail
		day.Life = 24 * time.Hour
		page := mail
		page.Link = "https://clients.example.com/portal/baker-sons"
		reports := page
		reports.Link = "https://clients.example.com/-/reports/"
		several := page
		several.Companies, several.Link = []string{"Acme", "Baker & Sons", "Iris"}, "https://clients.example.com/-/companies"
		nobody := Mail{To: "bob@example.org", Link: page.Link, AskedAt: asked, Language: tag}
		for name, letter := range map[string]Message{
			"sign-in":               write(t, example, "", full),
			"sign-in-nothing":       write(t, Brand{Name: "Müller & Söhne", From: "hello@example.com"}, "", plain),
			"set-password":          written(l.SetPassword(SetPassword{Mail: mail})),
			"set-password-by-staff": written(l.SetPassword(SetPassword{Mail: day, ByStaff: true})),
			"password-changed":      written(l.PasswordChanged(PasswordChanged{Mail: mail})),
			"password-removed":      written(l.PasswordChanged(PasswordChanged{Mail: mail, Removed: true})),
			"new-device":            written(l.NewDevice(NewDevice{Mail: mail, ByPassword: true})),
			"new-device-by-mail":    written(l.NewDevice(NewDevice{Mail: mail})),
			"new-questions": written(l.Notice(Notice{Mail: page, Kind: KindNewQuestions, Company: "Baker & Sons",
				Data: map[string]string{"count": "3", "due": "12 December", "note": "Please have the bank statements of October at hand."}})),
			"new-questions-nothing": written(l.Notice(Notice{Mail: nobody, Kind: KindNewQuestions, Company: "Baker & Sons"})),
			"portal-update":         written(l.PortalUpdate(PortalUpdate{Mail: page})),
			"portal-update-several": written(l.PortalUpdate(PortalUpdate{Mail: several})),
			"portal-update-nothing": written(l.PortalUpdate(PortalUpdate{Mail: nobody, Open: true})),
			"report-published": written(l.Notice(Notice{Mail: reports, Kind: KindReportPublished, Company: "Baker & Sons",
				Data: map[string]string{"title": "Statement for October & November"}})),
			"report-published-nothing": written(l.Notice(Notice{Mail: nobody, Kind: KindReportPublished, Company: "Baker & Sons"})),
		} {
			letter.MessageID = "3ztnqlyv5c6dk2hwrx7ja4pemu@example.com"
			got, err := letter.Bytes(asked)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", tag, name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs from %s; look at it, then run the test with -update. Got:\n%s", name, path, got)
			}
		}
	}
}

func TestMailIsWhole(t *testing.T) {
	letter := write(t, example, "", full)
	data, err := letter.Bytes(asked)
	if err != nil {
		t.Fatal(err)
	}
	h, text, html := read(t, data)
	if text != letter.Text || html != letter.HTML {
		t.Error("the parts aren't what was written")
	}
	for name, want := range map[string]string{
		"From":                     `"Example Bookkeeping" <hello@example.com>`,
		"To":                       "<ann@example.org>",
		"Reply-To":                 "<help@example.com>",
		"Subject":                  "Your sign-in link for Example Bookkeeping (10:02:31)",
		"Date":                     "Sun, 22 Nov 2026 10:02:31 -0700",
		"Message-Id":               "<" + letter.MessageID + ">",
		"Auto-Submitted":           "auto-generated",
		"X-Auto-Response-Suppress": "All",
		"X-Entity-Ref-Id":          strings.TrimSuffix(letter.MessageID, "@example.com"),
		"Mime-Version":             "1.0",
		"X-Mailgun-Track-Clicks":   "no",
		"X-Pm-Tracklinks":          "None",
		"X-Mailjet-Trackclick":     "0",
		"X-Msys-Api":               `{"options": {"click_tracking": false, "open_tracking": false}}`,
		"X-Smtpapi":                `{"filters": {"clicktrack": {"settings": {"enable": 0, "enable_text": false}}, "opentrack": {"settings": {"enable": 0}}}}`,
	} {
		if got := h[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	for _, name := range []string{"User-Agent", "X-Mailer", "List-Unsubscribe", "Bcc", "Cc", "Sender", "Precedence"} {
		if h.Get(name) != "" {
			t.Errorf("%s = %q; want none", name, h.Get(name))
		}
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\r\n"), "\r\n") {
		if strings.ContainsAny(line, "\r\n") || len(line) > 78 {
			t.Errorf("a line of %d bytes, or with a bare CR or LF: %q", len(line), line)
		}
	}
	if again, err := letter.Bytes(asked); err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same letter gives other bytes (%v)", err)
	}
	if low := strings.ToLower(string(data)); strings.Contains(low, "doorpost") || strings.Contains(low, "go-mail") {
		t.Error("the mail names who made it")
	}
}

// One origin in all URLs, nothing remote, the link on a line of its own.
func TestLinksOfTheMail(t *testing.T) {
	letter := write(t, example, "", full)
	if !strings.Contains(letter.Text, "\n\n"+full.Link+"\n\n") {
		t.Errorf("the link isn't on a line of its own:\n%s", letter.Text)
	}
	if n := strings.Count(letter.HTML, `href="`+full.Link+`"`); n != 2 {
		t.Errorf("%d links; want the button and the address", n)
	}
	url := regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*:)?//[^\s"'<>)]*`)
	for _, u := range append(url.FindAllString(letter.Text, -1), url.FindAllString(letter.HTML, -1)...) {
		if !strings.HasPrefix(u, "https://clients.example.com/") {
			t.Errorf("the mail has %s", u)
		}
	}
	for _, remote := range []string{"<img", "src=", "url(", "@import", "<link", "<script", "background="} {
		if strings.Contains(letter.HTML, remote) {
			t.Errorf("the mail has %s", remote)
		}
	}
	if !strings.Contains(letter.HTML, `<html lang="en">`) || strings.Contains(letter.HTML, "ZgotmplZ") {
		t.Error("no language, or a value that the template package refused")
	}
}

func TestValuesStayValues(t *testing.T) {
	d := full
	d.FirstName = "Ann\r\nBcc: x@y.example\n.\r\n\x00<b>\u202e"
	d.LastName = "B\u2028\u2029"
	d.Companies = []string{"A\n.\n", "B"}
	d.Code = "a\r\n.\r\nb"
	d.Agent = "Safari\r\n.\r\nMAIL FROM:<x@y.example>"
	b := example
	b.Name = "Smith <script>alert(1)</script> & Co"
	letter := write(t, b, "", d)
	data, err := letter.Bytes(asked)
	if err != nil {
		t.Fatal(err)
	}
	h, text, html := read(t, data)
	if len(h["To"]) != 1 || len(h["Subject"]) != 1 || h.Get("Bcc") != "" {
		t.Errorf("headers = %v; want one To, one Subject, no Bcc", h)
	}
	if !strings.Contains(text, "Hello Ann Bcc: x@y.example . <b>,\n") {
		t.Errorf("the name began a new line:\n%s", text)
	}
	if strings.Contains(html, "<script>") || strings.Contains(html, "<b>") {
		t.Error("a value became HTML")
	}
	if strings.Contains(text+html, "MAIL FROM") {
		t.Error("what a visitor can choose is in the mail")
	}
	if bytes.Contains(data, []byte("\r\n.\r\n")) {
		t.Error("a line with a dot alone")
	}
}

func TestSignInRefuses(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*SignIn){
		"two recipients":   func(d *SignIn) { d.To = "ann@example.org, bob@example.org" },
		"typed recipient":  func(d *SignIn) { d.To = "Ann@Example.org" },
		"recipient's name": func(d *SignIn) { d.To = "Ann <ann@example.org>" },
		"relative link":    func(d *SignIn) { d.Link = "/-/link?t=x" },
		"script":           func(d *SignIn) { d.Link = "javascript://clients.example.com/%0aalert(1)" },
		"ampersand":        func(d *SignIn) { d.Link += "&x=y" },
		"space":            func(d *SignIn) { d.Link += " x" },
		"user":             func(d *SignIn) { d.Link = "https://clients.example.com@evil.example/" },
		"long link":        func(d *SignIn) { d.Link += strings.Repeat("x", 250) },
	} {
		d := full
		change(&d)
		if letter, err := l.SignIn(d); err == nil {
			t.Errorf("%s: SignIn wrote %+v; want an error", name, letter)
		}
	}
}

func TestSubjectsDiffer(t *testing.T) {
	a, b := write(t, example, "", full), full
	b.AskedAt = asked.Add(time.Second)
	if other := write(t, example, "", b); other.Subject == a.Subject || other.MessageID == a.MessageID {
		t.Errorf("two letters have the subject %q, or the same Message-ID", a.Subject)
	}
	if strings.Contains(a.Subject, full.Code) {
		t.Error("the code is in the subject")
	}
}

func TestOverride(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "mails"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "mails", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	builtInHTML := write(t, example, dir, full).HTML
	put("sign-in.txt", "Subject: Come in, {{.Contact.FirstName}} {{.Contact.LastName}} ({{.Time}})\r\n\r\n"+
		"{{.Link}} {{.Code}} {{.ExpiresIn}} {{.Asked}} {{.Contact.Email}} {{.Company.Name}} {{.Companies}}"+
		"{{range .Companies}} [{{.}}]{{end}} {{.Firm.Name}} {{.Firm.Support}} {{.Site}}\r\n")
	letter := write(t, example, dir, full)
	if letter.Subject != "Come in, Ann Baker (10:02:31)" {
		t.Errorf("Subject = %q", letter.Subject)
	}
	want := full.Link + " k7mq-2xhd 10 minutes at 10:02 from Safari on iPhone ann@example.org Baker & Sons Baker & Sons [Baker & Sons] " +
		"Example Bookkeeping help@example.com, +1 555 0100 clients.example.com\n"
	if letter.Text != want || letter.HTML != builtInHTML {
		t.Errorf("Text = %q; want %q, and the HTML built in", letter.Text, want)
	}

	const good = "Subject: x\n\n{{.Link}}\n"
	for _, c := range []struct{ file, text, want string }{
		{"sign-in.txt", "Subject: x\n\n{{.Link}}\n{{.Contact.Nam}}\n", "sign-in.txt:4: {{.Contact.Nam}} is no merge tag; there are {{.Contact.FirstName}}, "},
		{"sign-in.txt", "Subject: {{.Frim.Name}}\n\n{{.Link}}\n", "sign-in.txt:1: {{.Frim.Name}} is no merge tag"},
		{"sign-in.txt", good + "{{if .Contact.FirstName}}{{.Link}}{{else}}\n{{.Nobody}}{{end}}", "sign-in.txt:5: {{.Nobody}} is no merge tag"},
		{"sign-in.txt", good + "{{if .Company.Name}}{{else}}{{with .Companies}}{{.Nobody}}{{end}}{{end}}", "sign-in.txt:4: {{.Nobody}} is no merge tag"},
		{"sign-in.txt", good + "\n{{.Link", "sign-in.txt:5: unclosed action"},
		{"sign-in.txt", good + "{{nothing}}", `sign-in.txt:4: function "nothing" not defined`},
		{"sign-in.txt", "Your link\n\n{{.Link}}\n", "sign-in.txt:1: the first line is the subject: write Subject: "},
		{"sign-in.txt", "Subject: \n\n{{.Link}}\n", "sign-in.txt:1: the first line is the subject"},
		{"sign-in.txt", "Subject: x\n\n{{.Code}}\n", "sign-in.txt: {{.Link}} is missing"},
		{"sign-in.html", "<p>{{.Code}}</p>", "sign-in.html: {{.Link}} is missing"},
		{"sign-in.html", "<p>\n{{.Foo}} {{.Link}}</p>", "sign-in.html:2: {{.Foo}} is no merge tag"},
		{"sign-in.html", "<p>\n<a href='{{.Link}}", "sign-in.html"},
	} {
		put("sign-in.txt", good)
		put("sign-in.html", "<a href=\"{{.Link}}\">in</a>")
		put(c.file, c.text)
		_, err := NewMessages(example, dir)
		if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "mails", c.want)) {
			t.Errorf("%s %q: NewLetters = %v; want %s", c.file, c.text, err, c.want)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "mails"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "mails"), 0o755) })
	if _, err := NewMessages(example, dir); err == nil && os.Getuid() != 0 {
		t.Error("a folder that can't be read is passed over in silence")
	}
}

func TestInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * time.Second: "30 seconds", time.Minute: "1 minute", 10 * time.Minute: "10 minutes",
		90 * time.Second: "1 minute", time.Hour: "1 hour",
	} {
		if got := inWords(language.English, d); got != want {
			t.Errorf("inWords(language.English, %v) = %q; want %q", d, got, want)
		}
	}
}

// A firm's own frame is that of all built-in letters, and none of its own whole ones.
func TestOverride_Frame(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "mails"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "mails", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("frame.html", `{{define "frame"}}<p>{{.Firm.Name}}: {{template "heading" .}} <a href="{{.Link}}">{{template "button" .}}</a></p>{{end}}`)
	if got := write(t, example, dir, full).HTML; !strings.HasPrefix(got, "<p>Example Bookkeeping: Your sign-in link <a href=") {
		t.Errorf("with a frame of one's own, HTML = %q", got)
	}
	put("sign-in.html", `<b>{{.Link}}</b>`)
	if got, want := write(t, example, dir, full).HTML, "<b>"+full.Link+"</b>\n"; got != want {
		t.Errorf("with a letter of one's own, HTML = %q; want %q", got, want)
	}
	put("frame.html", "{{define \"frame\"}}\n{{.Nobody}} {{.Link}}{{end}}")
	if _, err := NewMessages(example, dir); err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "mails", "frame.html:2: {{.Nobody}} is no merge tag")) {
		t.Errorf("a wrong tag in the frame: %v", err)
	}
}

// What NewMessages tries of a firm's own templates holds for the built-in ones, which it doesn't try each time.
func TestBuiltInTemplatesWork(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	l.trying = true
	if err := l.tryOut(); err != nil {
		t.Error(err)
	}
}
