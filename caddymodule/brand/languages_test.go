package brand

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A firm's own template takes the place of the built-in one in every language; it may ask for the language, and use
// texts of ours.
func TestOwnAnnouncement(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(folder, "mails"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "mails", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("portal-update.txt", "Subject: {{if eq .Language \"es\"}}Novedades{{else}}News{{end}} ({{.Day}})\n\n"+
		"[[Hello,]] this line of the firm's own is longer than seventy-two characters, and isn't broken. {{list .Companies}}\n\n{{.Link}}\n")
	l, err := NewMessages(example, folder)
	if err != nil {
		t.Fatal(err)
	}
	mail := Mail(full)
	mail.Companies = []string{"Acme", "Iris & Co"}
	for tag, want := range map[string][]string{"en": {"News (", "Hello, this", "broken. Acme and Iris & Co\n"}, "es": {"Novedades (", "Hola: this", "broken. Acme e Iris & Co\n"}, "fr": {"News (", "Bonjour, this", "broken. Acme et Iris & Co\n"}} {
		mail.Language = tag
		letter, err := l.PortalUpdate(PortalUpdate{Mail: mail})
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range want {
			if !strings.Contains(letter.Subject+"\n"+letter.Text, part) {
				t.Errorf("%s: %s\n%s\nhas no %q", tag, letter.Subject, letter.Text, part)
			}
		}
	}
	if kinds := l.Kinds(); !slices.Contains(kinds, KindPortalUpdate) || slices.Contains(kinds, kindTest) {
		t.Errorf("Kinds = %v", kinds)
	}
	write("portal-update.txt", "Subject: News\n\nno link\n")
	if _, err := NewMessages(example, folder); err == nil || !strings.Contains(err.Error(), "portal-update.txt: {{.Link}} is missing") {
		t.Errorf("without the link: %v", err)
	}
}

func TestPreviewIsMarked(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range l.Kinds() {
		for _, tag := range l.Languages() {
			samples, err := l.Samples(kind, tag, trialLinks)
			if err != nil || len(samples) == 0 {
				t.Fatalf("%s in %s: %d samples, %v", kind, tag, len(samples), err)
			}
			m := samples[0].Preview("you@example.com")
			if m.To != "you@example.com" || !strings.HasPrefix(m.Subject, "[Preview] ") || !strings.HasPrefix(m.Text, "This is a preview") || !strings.Contains(m.HTML, ">This is a preview") || !strings.Contains(m.HTML, `<html lang="`+tag+`">`) {
				t.Errorf("%s in %s isn't marked: %+v", kind, tag, m)
			}
		}
	}
}

func TestWrapLines(t *testing.T) {
	long := strings.Repeat("x", width+10)
	for in, want := range map[string]string{
		"a b\n\nc\n":                                 "a b\n\nc\n",
		strings.Repeat("word ", 20) + "\n":           strings.TrimSpace(strings.Repeat("word ", 14)) + "\n" + strings.TrimSpace(strings.Repeat("word ", 6)) + "\n",
		"see " + long + " there\n":                   "see\n" + long + "\nthere\n",
		strings.Repeat("é", width-2) + " a\u00a0?\n": strings.Repeat("é", width-2) + "\na\u00a0?\n",
	} {
		if got := wrapLines(in); got != want {
			t.Errorf("wrapLines(%q) = %q; want %q", in, got, want)
		}
	}
}
