package brand

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/phone"
)

func textNotice() Notice {
	return Notice{Mail: Mail{To: "ann@example.com", FirstName: "Ann", Link: "https://clients.example.com/portal/acme"}, Kind: KindNewQuestions, Company: "Acme Ltd"}
}

func TestText(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Notice)
		want   string
	}{
		{func(*Notice) {}, "Example Bookkeeping: Hello Ann. There are new questions for you about Acme Ltd. https://clients.example.com/portal/acme"},
		{func(n *Notice) { n.FirstName = "" }, "Example Bookkeeping: There are new questions for you about Acme Ltd. https://clients.example.com/portal/acme"},
		{func(n *Notice) { n.Data = map[string]string{"count": "1", "due": "12 March"} }, "Example Bookkeeping: Hello Ann. There is 1 new question for you about Acme Ltd. Please answer by 12 March. https://clients.example.com/portal/acme"},
		{func(n *Notice) { n.Company = "Ann’s “Café”\nhttps://elsewhere.example/ {{.Link}}" }, `Example Bookkeeping: Hello Ann. There are new questions for you about Ann's "Café" https://elsewhere.example/ {{.Link}}. https://clients.example.com/portal/acme`},
		{func(n *Notice) { n.Language = "fr-CA" }, "Example Bookkeeping: Bonjour Ann. Vous avez de nouvelles questions concernant Acme Ltd. https://clients.example.com/portal/acme"},
		{func(n *Notice) { n.Language, n.Data = "es", map[string]string{"count": "2"} }, "Example Bookkeeping: Hola, Ann. Tiene 2 preguntas nuevas sobre Acme Ltd. https://clients.example.com/portal/acme"},
	} {
		d := textNotice()
		c.change(&d)
		if got, err := l.Text(d); got != c.want || err != nil {
			t.Errorf("Text(%+v) = %q, %v; want %q", d, got, err, c.want)
		}
	}
	long := textNotice()
	long.Company = strings.Repeat("ő", 200)
	if _, err := l.Text(long); !errors.Is(err, ErrTextLength) {
		t.Errorf("Text with a long name = %v; want %v", err, ErrTextLength)
	}
	if _, err := l.Text(Notice{Mail: long.Mail, Kind: KindReportPublished}); !errors.Is(err, ErrTemplate) {
		t.Errorf("Text of a report = %v; want %v", err, ErrTemplate)
	}
}

// The firm's own template is used, and the built-in one in its place where what it makes is too long.
func TestTextOfTheFirmsOwn(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("texts/new-questions.txt", "{{.Company.Name}} {{.Data.note}} {{.Link}}\n")
	l, err := NewMessages(example, folder)
	if err != nil {
		t.Fatal(err)
	}
	d := textNotice()
	if got, err := l.Text(d); got != "Acme Ltd https://clients.example.com/portal/acme" || err != nil {
		t.Errorf("Text = %q, %v; want it by the firm's template", got, err)
	}
	d.Data = map[string]string{"note": strings.Repeat("x", 500)}
	if got, err := l.Text(d); !strings.HasPrefix(got, "Example Bookkeeping: Hello Ann") || err != nil || phone.Segments(got) > 1 {
		t.Errorf("Text with a long note = %q, %v; want the built-in one", got, err)
	}
	for _, c := range []struct{ file, text, want string }{
		{"texts/new-questions.txt", "{{.Company.Name}}", "new-questions.txt: {{.Link}} is missing"},
		{"texts/new-questions.txt", "{{.Link}} {{.Nam}}", "new-questions.txt:1: {{.Nam}} is no merge tag"},
		{"texts/new-questions.txt", "{{.Link}} " + strings.Repeat("ő", 200), "takes 4 messages"},
		{"texts/report-published.txt", "{{.Link}}", "no notice"},
		{"texts/nothing.txt", "{{.Link}}", "no notice"},
	} {
		write(c.file, c.text)
		if _, err := NewMessages(example, folder); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewMessages with %s = %q: %v; want %q", c.file, c.text, err, c.want)
		}
		if err := os.Remove(filepath.Join(folder, c.file)); err != nil {
			t.Fatal(err)
		}
	}
}
