package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

//go:embed pages
var pageFiles embed.FS

// Pages renders the gate's own pages in the firm's look. It is safe for use by many goroutines.
type Pages struct {
	chrome    Chrome
	source    map[string]pageFile
	languages *language.Languages
	english   *edition
	others    sync.Map  // *language.Language → *edition; made when the first reader comes
	buffers   sync.Pool // of *bytes.Buffer
}

// edition is all pages of a firm in one language.
type edition struct {
	language  *language.Language
	templates map[string]*template.Template // by Page.file
	policies  map[string]string             // Content-Security-Policy by Page.file
	firm      pageFirm
	staff     pageFirm // for the pages of staff, which have staff.css as well
	prompt    []string // the PromptPage that has To alone, cut where To goes; nil: it is rendered as any page
}

// builtInPages returns the built-in pages in a language, by Page.file. Those of the built-in languages are parsed
// once for all firms: what differs is in the data.
func builtInPages(l *language.Language) (map[string]*template.Template, error) {
	parsedPages.Lock()
	defer parsedPages.Unlock()
	if pages := parsedPages.by[l]; pages != nil {
		return pages, nil
	}
	source, err := readPageFiles("")
	if err != nil {
		return nil, err
	}
	pages := map[string]*template.Template{}
	for _, page := range samplePages() {
		if pages[page.file()] != nil {
			continue
		}
		if pages[page.file()], err = parsePage(l, source, page.file()); err != nil {
			return nil, err
		}
	}
	if language.IsBuiltIn(l) {
		parsedPages.by[l] = pages
	}
	return pages, nil
}

var parsedPages = struct {
	sync.Mutex
	by map[*language.Language]map[string]*template.Template
}{by: map[*language.Language]map[string]*template.Template{}}

// NewPages parses the firm's own pages, in each language, and renders each with made-up data, so that what is wrong
// with one shows now. A file pages/NAME in overrideDir stands in for the built-in one of that name (the .html files,
// page.css, page.js; staff.css is for the pages of staff, beside page.css), and a file languages/TAG.json adds or changes a language; overrideDir may be empty, and needn't
// have these folders. Templates see {{.Firm}}, the Chrome, {{.Page}}, the page's struct, and {{.Menu}}, that of staff; pages define "title" and
// "main". A style or script of their own, outside page.css and page.js, is refused by the browser. An error names
// file and line.
func NewPages(c Chrome, overrideDir string) (*Pages, error) {
	source, err := readPageFiles(overrideDir)
	if err != nil {
		return nil, err
	}
	p := &Pages{chrome: c, source: source}
	p.buffers.New = func() any { return new(bytes.Buffer) }
	if p.languages, err = language.Load(overrideDir); err != nil {
		return nil, err
	}
	all := p.languages.All()
	if p.english, err = newEdition(c, all[0], source); err != nil {
		return nil, err
	}
	if overrideDir == "" {
		return p, nil
	}
	for _, l := range all[1:] {
		if _, err := newEdition(c, l, source); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func newEdition(c Chrome, l *language.Language, source map[string]pageFile) (*edition, error) {
	e := &edition{language: l, templates: map[string]*template.Template{}, policies: map[string]string{}}
	c.Lang = l.Tag
	var err error
	if e.firm, err = newPageFirm(c, l, source); err != nil {
		return nil, err
	}
	builtIn, err := builtInPages(l)
	if err != nil {
		return nil, err
	}
	e.staff = e.firm
	e.staff.CSS += template.CSS("\n" + browserText(source["staff.css"].text))
	for _, page := range samplePages() {
		file := page.file()
		if e.policies[file] == "" {
			firm := e.firmFor(file)
			e.policies[file] = "default-src 'none'; style-src " + cspHash(string(firm.CSS)) + "; script-src " + cspHash(string(firm.JS)) +
				"; img-src 'self'; base-uri 'none'" + policyOf(page)
		}
		if !source["layout.html"].own && !source["parts.html"].own && !source[file].own {
			e.templates[file] = builtIn[file]
			continue
		}
		if e.templates[file] == nil {
			if e.templates[file], err = parsePage(l, source, file); err != nil {
				return nil, err
			}
		}
		if err := e.render(new(bytes.Buffer), page); err != nil {
			return nil, fmt.Errorf("%s: %w", source[file].path, err)
		}
	}
	if source["layout.html"].own || source["parts.html"].own || source["prompt.html"].own {
		return e, nil // such a template may do anything with To
	}
	e.prompt, err = e.cutPrompt()
	return e, err
}

// cutPrompt renders the page that every signed-out visitor gets, once: only To differs, and a flood
// of requests must be cheap.
func (e *edition) cutPrompt() ([]string, error) {
	const to = "hereGoesTo"
	var buf bytes.Buffer
	if err := e.render(&buf, PromptPage{To: to}); err != nil {
		return nil, err
	}
	return strings.Split(buf.String(), to), nil
}

// Write answers with a page and its headers, in the language of the request's reader; net/http leaves out the body for
// HEAD. The error is for
// the log: the page couldn't be rendered, and a plain 500 was sent in its place. That the visitor went
// away is no error.
func (p *Pages) Write(w http.ResponseWriter, r *http.Request, status int, page Page) error {
	e := p.editionFor(r, page)
	buf := p.buffers.Get().(*bytes.Buffer)
	defer p.release(buf)
	err := e.render(buf, page)
	if err != nil {
		status = http.StatusInternalServerError
		buf.Reset()
		buf.WriteString("<!doctype html><title>Something went wrong</title><h1>Something went wrong</h1><p>Please wait a minute, then load this page once more.</p>")
		page = MessagePage{} // a page without its own policy
	}
	h := w.Header()
	h.Set("Content-Security-Policy", e.policies[page.file()])
	if page.file() != (FramePage{}).file() {
		h.Set("X-Frame-Options", "DENY")
	}
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	// Not no-referrer: browsers would then send "Origin: null" with the gate's own forms.
	h.Set("Referrer-Policy", "strict-origin")
	writeHTML(w, status, buf.Bytes())
	return err
}

// WriteMailHTML answers with the HTML part of a mail for the frame of MailPage: without scripts and
// external content, in an opaque origin, with links that open in the whole window.
func (p *Pages) WriteMailHTML(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'; "+
		"sandbox allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "no-referrer")
	const base = `<base target="_top">`
	if at := mailHead.FindIndex(body); at != nil {
		body = slices.Concat(body[:at[1]], []byte(base), body[at[1]:])
	} else {
		body = slices.Concat([]byte("<!doctype html>"+base), body)
	}
	writeHTML(w, http.StatusOK, body)
}

var mailHead = regexp.MustCompile(`(?i)<head(\s[^>]*)?>`)

// writeHTML sends a body with the headers that all pages have.
func writeHTML(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	SetNeverCached(h)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Permissions-Policy", "browsing-topics=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the visitor may have disconnected
}

// policyOf returns the directives of the Content-Security-Policy that depend on the page.
func policyOf(page Page) string {
	switch page.file() {
	case (FramePage{}).file():
		return "; form-action 'none'"
	case (HeldFormPage{}).file(), (SentPage{}).file():
		return "; connect-src 'self'; form-action 'self' https:; frame-ancestors 'none'" // see below; their script asks who is signed in
	case (LinkPage{}).file(), (PasswordPage{}).file():
		// Chromium applies form-action to the redirects after a form, too. A portal may answer a
		// held form by redirecting to a payment site; with a stricter policy the form would seem to
		// fail, and the visitor would send it twice. A visitor who signs in by a code, an address
		// or a password is redirected to a page of the portal, which may redirect to another site;
		// they would be signed in, but remain on the form. The actions of these forms are fixed,
		// and nobody can add forms to these pages.
		return "; form-action 'self' https:; frame-ancestors 'none'"
	case (StaffContactsPage{}).file():
		return "; connect-src 'self'; form-action 'self'; frame-ancestors 'none'" // their script searches
	case (MailPage{}).file(), (StaffViewPage{}).file(), (StaffPreviewPage{}).file():
		return "; form-action 'self'; frame-src 'self'; frame-ancestors 'none'"
	}
	return "; form-action 'self'; frame-ancestors 'none'"
}

// editionFor returns the pages in the language of the request's reader: that of the contact who is signed in, if it is
// known, else what the browser accepts. The pages of staff and the preview mailbox are in English.
func (p *Pages) editionFor(r *http.Request, page Page) *edition {
	if file := page.file(); isStaffPage(file) || strings.HasPrefix(file, "mail") {
		return p.english
	}
	return p.edition(p.languages.Choose(localeOf(r.Context()), r.Header.Get("Accept-Language")))
}

// editionIn returns the pages in the language of a locale; English if it is empty.
func (p *Pages) editionIn(locale string) *edition { return p.edition(p.languages.Choose(locale, "")) }

func (p *Pages) edition(l *language.Language) *edition {
	if l == p.english.language {
		return p.english
	}
	if e, ok := p.others.Load(l); ok {
		return e.(*edition)
	}
	e, err := newEdition(p.chrome, l, p.source)
	if err != nil {
		return p.english // NewPages has tried those of the firm, and tests the built-in ones
	}
	made, _ := p.others.LoadOrStore(l, e)
	return made.(*edition)
}

// Languages returns the tags of the languages that pages are in, English first.
func (p *Pages) Languages() (tags []string) {
	for _, l := range p.languages.All() {
		tags = append(tags, l.Tag)
	}
	return tags
}

func isStaffPage(file string) bool { return strings.HasPrefix(file, "staff") }

// firmFor returns the firm's data for a page.
func (e *edition) firmFor(file string) *pageFirm {
	if isStaffPage(file) {
		return &e.staff
	}
	return &e.firm
}

// render writes a page into buf.
func (e *edition) render(buf *bytes.Buffer, page Page) error {
	t := e.templates[page.file()]
	switch typed := page.(type) {
	case PromptPage:
		if e.prompt != nil && typed == (PromptPage{To: typed.To}) {
			for i, part := range e.prompt {
				if i > 0 {
					template.HTMLEscape(buf, []byte(typed.To))
				}
				buf.WriteString(part)
			}
			return nil
		}
	case HeldFormPage:
		page = asHeldForm(typed)
	case *HeldFormPage:
		page = asHeldForm(*typed)
	}
	if err := t.ExecuteTemplate(buf, "layout", pageView{Firm: e.firmFor(page.file()), Page: page, Menu: menuOf(page)}); err != nil {
		return fmt.Errorf("rendering page %s: %w", page.file(), err)
	}
	return nil
}

// release returns a buffer to the pool, unless a large form has made it too large.
func (p *Pages) release(buf *bytes.Buffer) {
	if buf.Cap() > 128<<10 {
		return
	}
	buf.Reset()
	p.buffers.Put(buf)
}

// pageView is the data for templates.
type pageView struct {
	Firm *pageFirm
	Page Page
	Menu []MenuRow // of staff; nil if the page has none
}

// pageFirm is the Chrome with derived data, computed once for all pages.
type pageFirm struct {
	Chrome
	Initial     string // of Name, in upper case
	SupportLine []span // Support
	CSS         template.CSS
	JS          template.JS
}

func newPageFirm(c Chrome, l *language.Language, source map[string]pageFile) (pageFirm, error) {
	colours := []struct {
		value    *string
		fallback string
	}{{&c.LightAccent, "#0b6e4f"}, {&c.LightOnAccent, "#ffffff"}, {&c.DarkAccent, "#5fd0a5"}, {&c.DarkOnAccent, "#08130e"}}
	for _, colour := range colours {
		if *colour.value == "" {
			*colour.value = colour.fallback
		}
		if !cssColour.MatchString(*colour.value) {
			return pageFirm{}, fmt.Errorf("%q is not a CSS colour: write it as #0b6e4f", *colour.value)
		}
	}
	for name, end := range map[string]string{"page.css": "</style", "staff.css": "</style", "page.js": "</script"} {
		if at := strings.Index(strings.ToLower(source[name].text), end); at >= 0 {
			line := 1 + strings.Count(source[name].text[:at], "\n")
			return pageFirm{}, fmt.Errorf("%s:%d: holds %q, which would end it early: take it out", source[name].path, line, end)
		}
	}
	css := fmt.Sprintf(":root{--accent:%s;--on-accent:%s}\n@media (prefers-color-scheme:dark){:root{--accent:%s;--on-accent:%s}}\n%s",
		c.LightAccent, c.LightOnAccent, c.DarkAccent, c.DarkOnAccent, source["page.css"].text)
	initial, _ := utf8.DecodeRuneInString(strings.TrimSpace(c.Name))
	return pageFirm{
		Chrome:      c,
		Initial:     string(unicode.ToUpper(initial)),
		SupportLine: brand.SupportLine(c.Support),
		CSS:         template.CSS(browserText(css)),
		JS:          template.JS(browserText(l.Source(language.JS, source["page.js"].text))),
	}, nil
}

var cssColour = regexp.MustCompile(`^(#[0-9a-fA-F]{3,8}|[a-zA-Z]+|[a-z]+\([0-9a-zA-Z .,%/+-]*\))$`)

// browserText returns s with line endings as browsers hash them.
func browserText(s string) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
}

func cspHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// pageFile is the text of a template, stylesheet or script, with its path for errors.
type pageFile struct {
	path, text string
	own        bool // the firm's file instead of the built-in one
}

// readPageFiles returns all files of pages/ by name; files in dir/pages replace built-in ones.
func readPageFiles(dir string) (map[string]pageFile, error) {
	files := map[string]pageFile{}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		return nil, fmt.Errorf("reading the built-in pages: %w", err)
	}
	var names []string
	for _, e := range entries {
		text, err := pageFiles.ReadFile(path.Join("pages", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the built-in pages: %w", err)
		}
		files[e.Name()] = pageFile{path: path.Join("pages", e.Name()), text: string(text)}
		names = append(names, e.Name())
	}
	if dir == "" {
		return files, nil
	}
	overrides, err := os.ReadDir(filepath.Join(dir, "pages"))
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading page templates: %w", err)
	}
	for _, e := range overrides {
		full := filepath.Join(dir, "pages", e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue // an editor's file
		}
		if _, ok := files[e.Name()]; !ok {
			return nil, fmt.Errorf("%s: no page has this name; pages are %s", full, strings.Join(names, ", "))
		}
		text, err := brand.ReadTemplateFile(full)
		if err != nil {
			return nil, fmt.Errorf("reading page templates: %w", err)
		}
		files[e.Name()] = pageFile{path: full, text: string(text), own: true}
	}
	return files, nil
}

// parsePage returns the template of one page in a language, with the layout and parts it stands on.
func parsePage(l *language.Language, source map[string]pageFile, name string) (*template.Template, error) {
	t := template.New("").Funcs(l.Funcs())
	for _, f := range []pageFile{source["layout.html"], source["parts.html"], source[name]} {
		// The name appears in errors; the executed templates are defined within the file.
		if _, err := t.New(f.path).Parse(l.Source(language.HTML, f.text)); err != nil {
			return nil, fmt.Errorf("parsing a page: %w", err)
		}
	}
	for _, need := range []struct{ file, name string }{{"layout.html", "layout"}, {name, "title"}, {name, "main"}} {
		if t.Lookup(need.name) == nil {
			return nil, fmt.Errorf("%s:1: the file must {{define %q}}", source[need.file].path, need.name)
		}
	}
	return t, nil
}
