package brand

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	texttemplate "text/template"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
	"github.com/doorpost-auth/doorpost/caddymodule/phone"
)

//go:embed texts
var builtInTexts embed.FS

// ErrTextLength: the text takes more than phone.MaxSegments messages.
var ErrTextLength = fmt.Errorf("brand: the text takes more than %d messages", phone.MaxSegments)

// textKinds are the kinds of notices that can be texts.
var textKinds = []string{KindNewQuestions}

// HasText reports whether a notice of the kind can be a text.
func HasText(kind string) bool { return slices.Contains(textKinds, kind) }

// textTemplate is a text message.
type textTemplate struct {
	*texttemplate.Template
	builtIn *texttemplate.Template // takes the place of one that fails; nil: it is the built-in one
}

// readTexts reads the templates of texts: those of each kind, and NAME.txt in folder/texts for
// each template of a notice of the firm's own. others are those of the mails.
func readTexts(folder string, others templateSet) (texts map[string]map[string]textTemplate, err error) {
	own, err := ownTexts(folder, others.noticeTemplates())
	if err != nil {
		return nil, err
	}
	texts = map[string]map[string]textTemplate{}
	for _, lang := range others.languages.All() {
		all := map[string]textTemplate{}
		for _, kind := range textKinds {
			text, err := builtInTexts.ReadFile("texts/" + kind + ".txt")
			if err != nil {
				return nil, err
			}
			t, err := parseText(lang, "texts/"+kind+".txt", string(text))
			if err != nil {
				return nil, err
			}
			all[kind] = textTemplate{Template: t}
		}
		for name, text := range own {
			t, err := parseText(lang, filepath.Join(folder, "texts", name+".txt"), text)
			if err != nil {
				return nil, err
			}
			all[name] = textTemplate{t, all[KindNewQuestions].Template}
		}
		texts[lang.Tag] = all
	}
	return texts, nil
}

// ownTexts returns the templates of the folder, by the name of their notice, which is one of notices.
func ownTexts(folder string, notices []string) (all map[string]string, err error) {
	if folder == "" {
		return nil, nil
	}
	files, err := os.ReadDir(filepath.Join(folder, "texts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the text templates: %w", err)
	}
	all = map[string]string{}
	for _, file := range files {
		path := filepath.Join(folder, "texts", file.Name())
		name, ok := strings.CutSuffix(file.Name(), ".txt")
		if !ok || !slices.Contains(notices, name) {
			return nil, fmt.Errorf("%s belongs to no notice; a text is NAME.txt, with the name of one of %s", path, strings.Join(notices, ", "))
		}
		text, err := ReadTemplateFile(path)
		if err != nil {
			return nil, fmt.Errorf("read a text template: %w", err)
		}
		all[name] = string(text)
	}
	return all, nil
}

func parseText(lang *language.Language, name, text string) (*texttemplate.Template, error) {
	t, err := texttemplate.New(name).Option("missingkey=zero").Parse(lang.Source(language.Plain, text))
	return t, templateError(err)
}

// tryOutTexts fills in each text with and without data.
func (l *Messages) tryOutTexts() error {
	m := Mail{To: "ann@example.com", FirstName: "Ann", LastName: "Baker", Companies: []string{"Acme Ltd", "Baker & Sons"}, Link: "https://clients.example.com/portal/acme"}
	for tag, all := range l.texts {
		m.Language = tag
		for _, t := range all {
			for _, d := range []Notice{
				{Mail: m, Company: "Acme Ltd", Data: map[string]string{"count": "3", "due": "12 March"}},
				{Mail: Mail{To: m.To, Link: m.Link, Language: tag}, Company: "Acme Ltd"},
			} {
				text, err := l.fillText(t.Template, d)
				switch n := phone.Segments(text); {
				case err != nil:
					return err
				case !strings.Contains(text, d.Link):
					return fmt.Errorf("%s: {{.Link}} is missing; without it nobody finds what waits for them", t.Name())
				case n > phone.MaxSegments && t.builtIn != nil: // the built-in one is as long as the names are
					return fmt.Errorf("%s: with made-up data the text takes %d messages, of which each costs; shorten it to %d (160 characters each, or 70 with characters that aren't in the alphabet of GSM)", t.Name(), n, phone.MaxSegments)
				}
			}
		}
	}
	return nil
}

// Text writes the notice as a text message: one line. Where the firm's own template fails, or what it
// makes is too long, the built-in one is used. The error is ErrTextLength where that is too long, too.
func (l *Messages) Text(d Notice) (string, error) {
	all := l.texts[l.languages.Choose(d.Language, "").Tag]
	t, ok := all[d.Template]
	if !ok {
		if t, ok = all[d.Kind]; !ok {
			return "", fmt.Errorf("%w: %q as a text", ErrTemplate, d.Kind)
		}
	}
	text, err := l.fillText(t.Template, d)
	if err == nil && phone.Segments(text) > phone.MaxSegments {
		err = ErrTextLength
	}
	if err == nil || t.builtIn == nil {
		return text, err
	}
	if l.Log != nil {
		l.Log.Error("a text template failed, so the built-in one was used for this text", "template", t.Name(), "error", err, "what_to_do", "correct or shorten the template and reload")
	}
	if text, err = l.fillText(t.builtIn, d); err == nil && phone.Segments(text) > phone.MaxSegments {
		err = ErrTextLength
	}
	return text, err
}

func (l *Messages) fillText(t *texttemplate.Template, d Notice) (string, error) {
	tags, err := l.noticeTags(d)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	if err := t.Execute(&text, tags); err != nil {
		return "", templateError(err)
	}
	return oneLine(inGSM(text.String())), nil
}

// inGSM replaces characters that would more than double the cost of a text by such that the alphabet
// of GSM has.
func inGSM(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch r {
		case '‘', '’':
			r = '\''
		case '“', '”', '„', '«', '»':
			r = '"'
		case '–', '—':
			r = '-'
		case '\u00a0', '\u202f': // that don't break
			r = ' '
		case '\u2068', '\u2069': // isolates
			continue
		case '…':
			out.WriteString("..")
			r = '.'
		}
		out.WriteRune(r)
	}
	return out.String()
}
