package web

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

// TestEveryTextIsTranslated compares the files of translations with the texts that templates of pages and mails mark and
// that the packages with pages and mails say: none is missing, and none is left over.
func TestEveryTextIsTranslated(t *testing.T) {
	t.Parallel()
	marked := map[string]bool{}
	source, err := readPageFiles("")
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range source {
		kind := language.HTML
		if name == "page.js" {
			kind = language.JS
		}
		for _, text := range language.Texts(kind, file.text) {
			marked[text] = true
		}
	}
	mails, err := filepath.Glob("../brand/mails/*")
	if err != nil || len(mails) < 10 {
		t.Fatalf("%d templates of mails, %v", len(mails), err)
	}
	texts, err := filepath.Glob("../brand/texts/*")
	if err != nil || len(texts) == 0 {
		t.Fatalf("%d templates of texts, %v", len(texts), err)
	}
	for _, name := range append(mails, texts...) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kind := language.HTML
		if strings.HasSuffix(name, ".txt") {
			kind = language.Plain
		}
		for _, text := range language.Texts(kind, string(data)) {
			marked[text] = true
		}
	}
	said := map[string]bool{}
	for _, folder := range []string{"../brand", "../web", "../signin", "../account", "../gate", "../password", "../language"} {
		constants(t, folder, said)
	}
	for _, month := range []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"} {
		said[month] = true
	}
	for _, layout := range []string{"2 January 2006", "2 January 2006, 15:04 MST"} { // in actions of templates
		said[layout] = true
	}
	for _, tag := range []string{"es", "fr"} {
		data, err := os.ReadFile("../language/texts/" + tag + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var texts map[string]string
		if err := json.Unmarshal(data, &texts); err != nil {
			t.Fatal(err)
		}
		for text := range marked {
			if texts[text] == "" {
				t.Errorf("%s has no translation of %q; add it to language/texts/%s.json", tag, text, tag)
			}
		}
		for text := range said {
			if isForVisitors(text) && texts[text] == "" {
				t.Errorf("%s has no translation of %q; add it to language/texts/%s.json", tag, text, tag)
			}
		}
		for text := range texts {
			if !marked[text] && !said[text] {
				t.Errorf("%s translates %q, which nothing says", tag, text)
			}
		}
	}
}

// isForVisitors reports whether a string constant is a sentence on a page.
func isForVisitors(s string) bool {
	return strings.Contains(s, "’") || strings.HasPrefix(s, "Please ")
}

// constants adds the string constants of a package, put together where they are sums.
func constants(t *testing.T, folder string, all map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(folder + "/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", folder, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if fn, ok := n.(*ast.FuncDecl); ok && fn.Name.Name == "samplePages" {
				return false // made-up data
			}
			if e, ok := n.(ast.Expr); ok {
				if s, ok := constant(e); ok {
					all[s] = true
					return false
				}
			}
			return true
		})
	}
}

func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		a, ok := constant(e.X)
		b, ok2 := constant(e.Y)
		return a + b, ok && ok2 && e.Op == token.ADD
	}
	return "", false
}

// TestPagesInEachLanguage renders all pages in all languages.
func TestPagesInEachLanguage(t *testing.T) {
	t.Parallel()
	p := newTestPages(t, testChrome, "")
	for _, tag := range []string{"en", "es", "fr"} {
		for _, page := range samplePages() {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Accept-Language", tag)
			w := httptest.NewRecorder()
			if err := p.Write(w, r, http.StatusOK, page); err != nil {
				t.Fatal(err)
			}
			html := w.Body.String()
			want := tag
			if strings.HasPrefix(page.file(), "staff") || strings.HasPrefix(page.file(), "mail") {
				want = "en"
			}
			if !strings.Contains(html, `<html lang="`+want+`">`) || strings.Contains(html, "[[") || strings.Contains(html, "]]") || strings.Contains(html, "\x1f") {
				t.Errorf("%s: %T = %s", tag, page, html)
			}
			if tag != "en" && want != "en" {
				var english bytes.Buffer
				if err := p.english.render(&english, page); err != nil || english.String() == html {
					t.Errorf("%s: %T is in English, %v", tag, page, err)
				}
			}
		}
	}
}

// TestPagesOfAFirmsLanguage: one file adds a language.
func TestPagesOfAFirmsLanguage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "languages"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "languages", "de.json"), []byte(`{"Sign in": "Anmelden"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newTestPages(t, testChrome, dir)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Language", "de-AT,de;q=0.9")
	w := httptest.NewRecorder()
	if err := p.Write(w, r, http.StatusOK, PromptPage{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<html lang="de">`, "<h1>Anmelden</h1>", "Enter your email address"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}
