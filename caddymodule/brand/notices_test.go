package brand

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func templates(t *testing.T, files map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "mails"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, "mails", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

var aNotice = Notice{Mail: Mail{To: "ann@example.org", Link: "https://clients.example.com/portal/acme", AskedAt: asked}, Kind: KindNewQuestions, Company: "Acme Ltd"}

// What a name or the data of a notice holds stands there as text: no markup, no header, no template,
// no placeholder of Caddy's.
func TestNoticeInjectsNothing(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	const bad = "<b>x</b> {{.Link}} {env.HOME} \"q\"\r\nBcc: eve@example.com\n\n\u202ehidden"
	d := aNotice
	d.FirstName, d.LastName, d.Company, d.Companies = bad, bad, bad, []string{bad}
	d.Data = map[string]string{"count": bad, "due": bad, "note": bad}
	letter, err := l.Notice(d)
	if err != nil {
		t.Fatal(err)
	}
	data, err := letter.Bytes(asked)
	if err != nil {
		t.Fatal(err)
	}
	h, text, html := read(t, data)
	if h.Get("Bcc") != "" || len(h["Subject"]) != 1 {
		t.Errorf("the mail's headers are %v", h)
	}
	if strings.Contains(html, "<b>") || strings.Contains(html, "\u202e") || strings.Contains(text, "\u202e") || strings.Contains(text, "\nBcc") {
		t.Errorf("a value is more than text:\n%s\n%s", text, html)
	}
	for _, part := range []string{text, html, h.Get("Subject")} {
		if part = strings.ReplaceAll(part, "&#34;", `"`); strings.Contains(part, "/root") || strings.Contains(part, os.Getenv("HOME")+" ") {
			t.Errorf("a placeholder was filled in: %s", part)
		}
	}
	if !strings.Contains(text, "{{.Link}} {env.HOME}") || !strings.Contains(html, "{{.Link}} {env.HOME}") {
		t.Errorf("a value isn't there as it was written:\n%s\n%s", text, html)
	}
}

func TestCheckData(t *testing.T) {
	many := map[string]string{}
	for _, c := range "abcdefghijklmnopqrstu" {
		many[string(c)] = ""
	}
	for _, c := range []struct {
		data map[string]string
		want string
	}{
		{nil, ""},
		{map[string]string{"count": "3", "due_on": strings.Repeat("ä", 500)}, ""},
		{map[string]string{"a b": ""}, `"a b" is no name of a value; write letters, digits and underscores, the first a letter, such as count`},
		{map[string]string{"": ""}, `"" is no name of a value; write letters, digits and underscores, the first a letter, such as count`},
		{map[string]string{"note": strings.Repeat("ä", 501)}, "note has 501 characters; send at most 500"},
		{map[string]string{"note": "\xff"}, "note isn't UTF-8"},
		{many, "has 21 values; send at most 20"},
	} {
		got := ""
		if err := CheckData(c.data); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("CheckData(%v) = %q; want %q", c.data, got, c.want)
		}
	}
}

func TestNoticesOfTheFirmsOwn(t *testing.T) {
	folder := templates(t, map[string]string{
		"tax-return.txt":  "Subject: Your tax return {{.Data.year}}\n\nDear {{.Contact.FirstName}}, {{.Link}}",
		"tax-return.html": "<p>{{.Data.year}} {{.Link}}</p>",
		"read me.txt":     "no template", "notes.md": "nor this",
	})
	l, err := NewMessages(example, folder)
	if err != nil {
		t.Fatal(err)
	}
	d := aNotice
	d.Template, d.Data = "tax-return", map[string]string{"year": "2025"}
	letter, err := l.Notice(d)
	if err != nil || letter.Subject != "Your tax return 2025" {
		t.Errorf("Notice = %q, %v; want the firm's own", letter.Subject, err)
	}
	if d.Template = "absent"; !errors.Is(second(l.Notice(d)), ErrTemplate) {
		t.Errorf("Notice = %v; want ErrTemplate", second(l.Notice(d)))
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no HTML": {map[string]string{"a.txt": "Subject: x\n\n{{.Link}}"}, "mails/a.html is missing; a notice of the firm's own needs a.txt and a.html"},
		"no text": {map[string]string{"a.html": "{{.Link}}"}, "mails/a.txt is missing"},
		"no link": {map[string]string{"a.txt": "Subject: x\n\nhello", "a.html": "{{.Link}}"}, "a.txt: {{.Link}} is missing"},
		"a slip":  {map[string]string{"a.txt": "Subject: x\n\n\n{{.Lnk}}", "a.html": "{{.Link}}"}, "a.txt:4: {{.Lnk}} is no merge tag"},
	} {
		_, err := NewMessages(example, templates(t, c.files))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func second(_ Message, err error) error { return err }

// A template may fail for a value that it wasn't tried out with.
func TestTheBuiltInMailTakesThePlaceOfOneThatFails(t *testing.T) {
	fails := `{{if eq .Contact.FirstName "Zoe"}}{{index .Companies 9}}{{end}}{{.Link}}`
	var log strings.Builder
	l, err := NewMessages(example, templates(t, map[string]string{
		"a.txt": "Subject: own\n\n" + fails, "a.html": fails, "sign-in.txt": "Subject: own\n\n" + fails, "sign-in.html": "{{.Link}}",
	}))
	if err != nil {
		t.Fatal(err)
	}
	l.Log = slog.New(slog.NewTextHandler(&log, nil))
	d := aNotice
	d.Template, d.FirstName = "a", "Zoe"
	letter, err := l.Notice(d)
	if err != nil || !strings.HasPrefix(letter.Subject, "New questions") {
		t.Errorf("Notice = %q, %v; want the built-in one", letter.Subject, err)
	}
	if !strings.Contains(log.String(), "a.txt:3") {
		t.Errorf("the log doesn't say which template failed: %s", &log)
	}
	zoe := full
	zoe.FirstName = "Zoe"
	if letter, err = l.SignIn(zoe); err != nil || !strings.HasPrefix(letter.Subject, "Your sign-in link") {
		t.Errorf("SignIn = %q, %v; want the built-in one", letter.Subject, err)
	}
}

// The example of docs/notices.md works as it is written there.
func TestTheExampleOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/notices.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(first string) string {
		var text strings.Builder
		_, rest, found := strings.Cut(string(page), "\n    "+first)
		if !found {
			t.Fatalf("docs/notices.md has no block that begins with %q", first)
		}
		for line := range strings.Lines("    " + first + rest) {
			if line != "\n" && !strings.HasPrefix(line, "    ") {
				break
			}
			text.WriteString(strings.TrimPrefix(line, "    "))
		}
		return text.String()
	}
	l, err := NewMessages(example, templates(t, map[string]string{"tax-return.txt": block("Subject: Your tax return"), "tax-return.html": block("<p>Hello")}))
	if err != nil {
		t.Fatal(err)
	}
	d := aNotice
	d.Template, d.Data = "tax-return", map[string]string{"year": "2025"}
	letter, err := l.Notice(d)
	if err != nil || letter.Subject != "Your tax return for 2025 is ready (22 November, 10:02:31)" || !strings.HasPrefix(letter.Text, "Hello,") || !strings.Contains(letter.HTML, "<bdi>Acme Ltd</bdi> for 2025") {
		t.Errorf("Notice = %+v, %v", letter, err)
	}
}
