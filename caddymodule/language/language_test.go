package language

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	ls, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ locale, accept, want string }{
		{"", "", "en"},
		{"", "es", "es"},
		{"", "es-MX,es;q=0.9,en;q=0.8", "es"},
		{"", "fr-CA", "fr"},
		{"", "de,fr;q=0.5,en;q=0.3", "fr"},
		{"", "de", "en"},
		{"", "en-GB,fr;q=0.9", "en"},
		{"", "fr;q=0.1,es;q=0.9", "es"},
		{"", "ca", "es"},                   // most speakers of Catalan read Spanish better than English
		{"", "ca,en;q=0.8,fr;q=0.1", "en"}, // but this one reads English
		{"", "br", "fr"},
		{"", "*", "en"},
		{"", "no language at all", "en"},
		{"", strings.Repeat("es-AR,", 5000), "es"},
		{"fr", "es", "fr"},
		{"fr-CH", "es", "fr"},
		{"de", "es", "es"},
		{"en", "es", "en"},
	} {
		if got := ls.Choose(c.locale, c.accept).Tag; got != c.want {
			t.Errorf("Choose(%q, %.40q) = %s; want %s", c.locale, c.accept, got, c.want)
		}
	}
}

func TestLoad_LanguageOfTheFirm(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ca.json", `{"Sign in": "Inicia <la> sessió", "Open {1}": "Obre {1}"}`)
	write(t, dir, "es.json", `{"Sign in": "Entrar"}`)
	ls, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	ca, es := ls.Choose("ca", ""), ls.Choose("es", "")
	if got, want := ca.Source(HTML, `<p>[[Sign in]] [[Sign out]] <a>[[Open <b>{{.X}}</b>]]</a>`), `<p>Inicia &lt;la&gt; sessió Sign out <a>Obre <b>{{.X}}</b></a>`; got != want {
		t.Errorf("Source = %s; want %s", got, want)
	}
	if got := es.Text("Sign in") + ", " + es.Text("Sign out"); got != "Entrar, Cerrar sesión" {
		t.Errorf("a changed and an unchanged text = %s", got)
	}
	ours, err := Load("")
	if err != nil || ours.Choose("es", "").Text("Sign in") == "Entrar" {
		t.Errorf("one firm's language is that of others, %v", err)
	}
}

func TestLoad_NamesFileAndRemedy(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"catalan.txt", `{}`, "such as ca.json"},
		{"not a tag.json", `{}`, "such as ca.json"},
		{"ca.json", "{\n\"Sign in\": \"Entra\",\n}", "ca.json:3: "},
		{"ca.json", `{"Sign inn": "Entra"}`, `no page has the text "Sign inn"`},
		{"ca.json", `{"Open {1}": "Obre"}`, "must have {1}"},
		{"ca.json", `{"Sign in": "{{.Firm}}"}`, "which only templates may have"},
		{"ca.json", `{"Sign in": " "}`, "leave the line out"},
	} {
		dir := t.TempDir()
		write(t, dir, c.name, c.text)
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("Load of %s with %s = %v; want %q", c.name, c.text, err, c.want)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	folder := filepath.Join(dir, "languages")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestText_DateAndBrowser(t *testing.T) {
	ls, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 5, 15, 4, 0, 0, time.UTC)
	for _, c := range []struct{ tag, text, date, browser string }{
		{"en", "Please use at most 9 characters; there are 12.", "5 March 2026, 15:04 UTC", "Safari on iPhone"},
		{"es", "Use como máximo 9 caracteres; hay 12.", "5 de marzo de 2026, 15:04 UTC", "Safari en iPhone"},
		{"fr", "Utilisez au plus 9 caractères\u00a0; il y en a 12.", "5 mars 2026, 15:04 UTC", "Safari sur iPhone"},
	} {
		l := ls.Choose(c.tag, "")
		if got := l.Text(Say("Please use at most {1} characters; there are {2}.", "9", "12")); got != c.text {
			t.Errorf("%s: Text = %s; want %s", c.tag, got, c.text)
		}
		if got := l.Date(at, "2 January 2006, 15:04 MST"); got != c.date {
			t.Errorf("%s: Date = %s; want %s", c.tag, got, c.date)
		}
		if got := l.Browser("Safari on iPhone"); got != c.browser {
			t.Errorf("%s: Browser = %s; want %s", c.tag, got, c.browser)
		}
	}
}

// A firm's own script may have arrays of arrays.
func TestSource_LeavesOtherBracketsAlone(t *testing.T) {
	const script = `var a = [[1, 2], [3, 4]]; say('[[Show]]');`
	for tag, want := range map[string]string{"en": `var a = [[1, 2], [3, 4]]; say('Show');`, "es": `var a = [[1, 2], [3, 4]]; say('Mostrar');`} {
		ls, err := Load("")
		if err != nil {
			t.Fatal(err)
		}
		if got := ls.Choose(tag, "").Source(JS, script); got != want {
			t.Errorf("%s: Source = %s; want %s", tag, got, want)
		}
	}
}

func TestListsAndDates(t *testing.T) {
	ls, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tag  string
		list []string
		want string
	}{
		{"en", nil, ""}, {"en", []string{"Acme"}, "Acme"}, {"en", []string{"Acme", "Birch"}, "Acme and Birch"}, {"en", []string{"Acme", "Birch", "Cole"}, "Acme, Birch, and Cole"},
		{"es", []string{"Acme", "Birch"}, "Acme y Birch"}, {"es", []string{"Acme", "Birch", "Iris"}, "Acme, Birch e Iris"}, {"es", []string{"Acme", "Hierros"}, "Acme y Hierros"}, {"es", []string{"Acme", "Hispania"}, "Acme e Hispania"},
		{"fr", []string{"Acme", "Birch", "Iris"}, "Acme, Birch et Iris"},
	} {
		if got := ls.Choose(c.tag, "").List(c.list); got != c.want {
			t.Errorf("%s: List(%q) = %q; want %q", c.tag, c.list, got, c.want)
		}
	}
	first, second := time.Date(2026, 5, 1, 9, 5, 0, 0, time.UTC), time.Date(2026, 12, 2, 9, 5, 0, 0, time.UTC)
	for _, c := range []struct {
		tag, layout string
		at          time.Time
		want        string
	}{
		{"en", "2 January 2006", first, "1 May 2026"}, {"fr", "2 January 2006", first, "1er mai 2026"}, {"fr", "2 January", second, "2 décembre"},
		{"es", "2 January 2006", first, "1 de mayo de 2026"}, {"fr", "2 January 2006, 15:04 MST", first, "1er mai 2026, 09:05 UTC"},
	} {
		if got := ls.Choose(c.tag, "").Date(c.at, c.layout); got != c.want {
			t.Errorf("%s: Date(%v, %q) = %q; want %q", c.tag, c.at, c.layout, got, c.want)
		}
	}
}
