// Package language has the texts of pages in other languages than English.
//
// A text is written in English where it is used: in a template or script between [[ and ]], in Go as a
// Text. A file per language maps each English text to its translation (texts/*.json). Source puts the
// translations into a template before it is parsed, so a page costs the same in every language.
package language

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"html/template"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/language"
)

//go:embed texts
var builtIn embed.FS

// Text is a text in English for the people who read a page, with its arguments if it has any; see Say.
type Text string

// separator stands before each argument of a Text.
const separator = "\x1f"

// Say returns a Text in which the arguments take the places of {1}, {2} and so on.
func Say(english string, args ...string) Text {
	for i, a := range args {
		args[i] = separator + strings.ReplaceAll(a, separator, "")
	}
	return Text(english + strings.Join(args, ""))
}

// String returns the text in English.
func (t Text) String() string { return English.Text(t) }

// Language is one language. It is safe for use by many goroutines.
type Language struct {
	Tag   string            // BCP 47, such as "es"
	texts map[string]string // by English text, with {1}, {2} in the places of what it encloses
}

// English is the language that the texts are written in.
var English = &Language{Tag: "en"}

// Text returns a text in this language, else in English.
func (l *Language) Text(t Text) string {
	parts := strings.Split(string(t), separator)
	text := l.translate(parts[0])
	for i, arg := range parts[1:] {
		text = strings.ReplaceAll(text, placeholder(i+1), arg)
	}
	return text
}

func (l *Language) translate(english string) string {
	if t, ok := l.texts[english]; ok {
		return t
	}
	return english
}

func placeholder(n int) string { return "{" + strconv.Itoa(n) + "}" }

// Date returns a time as the language writes it. layout is a layout of package time with the month
// spelled out, such as "2 January 2006"; it is a text of its own.
func (l *Language) Date(t time.Time, layout string) string {
	layout = l.translate(layout)
	out := ""
	if before, after, ok := strings.Cut(layout, "2"); ok && t.Day() == 1 && !strings.HasPrefix(after, "006") {
		out, layout = t.Format(before)+l.translate(firstOfMonth), after
	}
	return strings.Replace(out+t.Format(layout), t.Month().String(), l.translate(t.Month().String()), 1)
}

// firstOfMonth is how the number of a month's first day is written.
const firstOfMonth = "1"

// List returns what is listed as a sentence has it: "Acme", "Acme and Birch", "Acme, Birch, and Cole".
func (l *Language) List(items []string) string {
	switch n := len(items); n {
	case 0:
		return ""
	case 1:
		return items[0]
	case 2:
		return l.Text(Say(l.joined("{1} and {2}", items[1]), items...))
	default:
		return l.Text(Say(l.joined("{1}, and {2}", items[n-1]), strings.Join(items[:n-1], ", "), items[n-1]))
	}
}

// joined returns the text that joins a list whose last item is last.
func (l *Language) joined(english, last string) string {
	if text, ok := beforeI[english]; ok && l.texts[text] != "" && soundsLikeI.MatchString(last) {
		return text
	}
	return english
}

// beforeI has the texts that join a list whose last item begins with the sound i.
var beforeI = map[string]string{"{1} and {2}": "{1} and {2} (i)", "{1}, and {2}": "{1}, and {2} (i)"}

var soundsLikeI = regexp.MustCompile(`(?i)^(i|í|hi|hí)([^aeou]|$)`)

// Browser returns the name of a browser, such as "Safari on iPhone".
func (l *Language) Browser(name string) string {
	browser, system, found := strings.Cut(name, " on ")
	if !found {
		return l.translate(name)
	}
	return l.Text(Say("{1} on {2}", l.translate(browser), l.translate(system)))
}

// Funcs are the functions that templates may use: text returns a Text in this language, and
// anything else as it is; date and browser do what Date and Browser do.
func (l *Language) Funcs() template.FuncMap {
	text := func(t any) string {
		if t, ok := t.(Text); ok {
			return l.Text(t)
		}
		return fmt.Sprint(t)
	}
	return template.FuncMap{"text": text, "date": l.Date, "browser": l.Browser}
}

// Kind is the kind of a source.
type Kind uint8

// The kinds of source.
const (
	HTML Kind = iota // a template of package html/template
	JS
	Plain // a template of package text/template
)

var (
	marked   = regexp.MustCompile(`(?s)\[\[(.+?)\]\]`)
	enclosed = regexp.MustCompile(`(?s)(?:<[^>]*>|\{\{.*?\}\})+`) // tags and actions of a template
	actions  = regexp.MustCompile(`(?s)(?:\{\{.*?\}\})+`)         // those of plain text
)

// pieces matches what a text of a source encloses.
func (k Kind) pieces() *regexp.Regexp {
	if k == Plain {
		return actions
	}
	return enclosed
}

// Source returns a template or script with its marked texts in this language. Brackets around anything
// else stay as they are.
func (l *Language) Source(kind Kind, source string) string {
	return marked.ReplaceAllStringFunc(source, func(m string) string {
		inner := m[2 : len(m)-2]
		english := key(kind, inner)
		text, translated := l.texts[english]
		switch {
		case !isText(english): // such as an array of arrays in a firm's own script
			return m
		case !translated:
			return inner
		}
		if kind == JS {
			return template.JSEscapeString(text)
		}
		if kind == HTML {
			text = html.EscapeString(text)
		}
		for i, piece := range kind.pieces().FindAllString(inner, -1) {
			text = strings.ReplaceAll(text, placeholder(i+1), piece)
		}
		return text
	})
}

// key returns the English text as files of translations have it.
func key(kind Kind, inner string) string {
	if kind != JS {
		n := 0
		inner = kind.pieces().ReplaceAllStringFunc(inner, func(string) string { n++; return placeholder(n) })
	}
	return strings.Join(strings.Fields(inner), " ")
}

// Texts returns the English texts that a source marks.
func Texts(kind Kind, source string) (all []string) {
	for _, m := range marked.FindAllStringSubmatch(source, -1) {
		all = append(all, key(kind, m[1]))
	}
	return all
}

// Languages are the languages of one firm.
type Languages struct {
	byTag map[string]*Language
}

// Load returns the built-in languages and those of dir/languages, where each file is named after its
// tag, such as "ca.json"; it is laid over the built-in language of that tag. dir may be empty, and
// needn't have a folder languages. An error names the file and what to write.
func Load(dir string) (*Languages, error) {
	ours, err := builtInLanguages()
	if err != nil || dir == "" {
		return ours, err
	}
	folder := filepath.Join(dir, "languages")
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return ours, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading languages: %w", err)
	}
	all := &Languages{maps.Clone(ours.byTag)}
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue // an editor's
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
			return nil, fmt.Errorf("%s: write one file of at most %d KiB for each language, such as ca.json", name, maxFile>>10)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading a language: %w", err)
		}
		l, err := parse(name, data)
		if err != nil {
			return nil, err
		}
		for english := range l.texts {
			if !isText(english) {
				return nil, fmt.Errorf("%s: no page has the text %q; copy the texts from docs/languages.md", name, english)
			}
		}
		if was := all.byTag[l.Tag]; was != nil {
			texts := maps.Clone(was.texts)
			maps.Copy(texts, l.texts)
			l.texts = texts
		}
		all.byTag[l.Tag] = l
	}
	return all, nil
}

const maxFile = 1 << 20

// isText reports whether the built-in pages have a text.
func isText(english string) bool {
	ours, err := builtInLanguages()
	return err == nil && ours.byTag["es"].texts[english] != ""
}

// IsBuiltIn reports whether a language is one of those that come with Doorpost, as they are.
func IsBuiltIn(l *Language) bool {
	ours, err := builtInLanguages()
	return err == nil && ours.byTag[l.Tag] == l
}

var builtInLanguages = sync.OnceValues(func() (*Languages, error) {
	all := &Languages{map[string]*Language{English.Tag: English}}
	entries, err := builtIn.ReadDir("texts")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := builtIn.ReadFile("texts/" + e.Name())
		if err != nil {
			return nil, err
		}
		l, err := parse(e.Name(), data)
		if err != nil {
			return nil, err
		}
		all.byTag[l.Tag] = l
	}
	return all, nil
})

var numbered = regexp.MustCompile(`\{[a-z0-9]+\}`)

// parse reads a file of translations, a JSON object of English text → translation.
func parse(name string, data []byte) (*Language, error) {
	tag, err := language.Parse(strings.TrimSuffix(filepath.Base(name), ".json"))
	if err != nil || !strings.HasSuffix(name, ".json") {
		return nil, fmt.Errorf("%s: name the file after its language, such as ca.json", name)
	}
	l := &Language{Tag: tag.String()}
	if err := json.Unmarshal(data, &l.texts); err != nil {
		line := 1
		if at := new(json.SyntaxError); errors.As(err, &at) {
			line += strings.Count(string(data[:at.Offset]), "\n")
		}
		return nil, fmt.Errorf("%s:%d: %w; write {\"English text\": \"translation\", …}", name, line, err)
	}
	for english, text := range l.texts {
		want, got := numbered.FindAllString(english, -1), numbered.FindAllString(text, -1)
		slices.Sort(want)
		slices.Sort(got)
		switch {
		case !slices.Equal(want, got):
			return nil, fmt.Errorf("%s: the translation of %q must have %s, each once", name, english, strings.Join(want, " "))
		case strings.Contains(text, "{{") || strings.Contains(text, "[["):
			return nil, fmt.Errorf("%s: the translation of %q has {{ or [[, which only templates may have", name, english)
		case strings.TrimSpace(text) == "":
			return nil, fmt.Errorf("%s: the translation of %q is empty; leave the line out to show the English text", name, english)
		}
	}
	return l, nil
}

// All returns the languages, English first.
func (ls *Languages) All() []*Language {
	all := slices.SortedFunc(maps.Values(ls.byTag), func(a, b *Language) int { return strings.Compare(a.Tag, b.Tag) })
	at := slices.Index(all, ls.byTag[English.Tag])
	return append([]*Language{all[at]}, slices.Delete(slices.Clone(all), at, at+1)...)
}

// maxAccept is how many bytes of an Accept-Language header are read. Browsers send fewer.
const maxAccept = 256

// Choose returns the language for a person: that of their locale (BCP 47) if it is known, else the
// best of what their browser accepts (RFC 9110, 12.5.4), else English.
func (ls *Languages) Choose(locale, accept string) *Language {
	if l := ls.find(locale); l != nil {
		return l
	}
	if len(accept) > maxAccept {
		accept = accept[:maxAccept]
		accept = accept[:max(strings.LastIndexByte(accept, ','), 0)]
	}
	tags, _, err := language.ParseAcceptLanguage(accept)
	if err != nil {
		return ls.byTag[English.Tag]
	}
	for _, tag := range tags {
		if l := ls.find(tag.String()); l != nil {
			return l
		}
	}
	for _, tag := range tags {
		base, _ := tag.Base()
		if l := ls.byTag[neighbors[base.String()]]; l != nil {
			return l
		}
	}
	return ls.byTag[English.Tag]
}

// find returns the language of a tag, such as "es" for "es-MX"; nil: there is none.
func (ls *Languages) find(tag string) *Language {
	for tag != "" {
		if l := ls.byTag[tag]; l != nil {
			return l
		}
		tag = tag[:max(strings.LastIndexByte(tag, '-'), 0)]
	}
	return nil
}

// neighbors are languages whose speakers nearly all read another one better than English. (The
// matcher of x/text gives English to Catalan speakers.)
var neighbors = map[string]string{
	"ca": "es", "gl": "es", "eu": "es", "ast": "es", "an": "es", "qu": "es", "gn": "es",
	"br": "fr", "oc": "fr", "co": "fr", "lb": "fr", "wo": "fr",
}
