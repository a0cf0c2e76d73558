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

// readTexts reads the templates of texts: those of each kind, and NAME.txt in folder/texts for
// each template of a notice of the firm's own. Each is tried with made-up data.
func (l *Messages) readTexts(folder string) error {
	l.texts, l.builtInTexts = map[string]*texttemplate.Template{}, map[string]*texttemplate.Template{}
	for _, kind := range textKinds {
		text, err := builtInTexts.ReadFile("texts/" + kind + ".txt")
		if err != nil {
			return err
		}
		if l.builtInTexts[kind], err = parseText("texts/"+kind+".txt", string(text)); err != nil {
			return err
		}
		l.texts[kind] = l.builtInTexts[kind]
	}
	if folder == "" {
		return l.tryOutTexts()
	}
	files, err := os.ReadDir(filepath.Join(folder, "texts"))
	if errors.Is(err, fs.ErrNotExist) {
		return l.tryOutTexts()
	} else if err != nil {
		return fmt.Errorf("read the text templates: %w", err)
	}
	for _, file := range files {
		path := filepath.Join(folder, "texts", file.Name())
		name, ok := strings.CutSuffix(file.Name(), ".txt")
		if !ok || !slices.Contains(l.NoticeTemplates(), name) {
			return fmt.Errorf("%s belongs to no notice; a text is NAME.txt, with the name of one of %s", path, strings.Join(l.NoticeTemplates(), ", "))
		}
		text, err := ReadTemplateFile(path)
		if err != nil {
			return fmt.Errorf("read a text template: %w", err)
		}
		if l.texts[name], err = parseText(path, string(text)); err != nil {
			return err
		}
	}
	return l.tryOutTexts()
}

func parseText(name, text string) (*texttemplate.Template, error) {
	t, err := texttemplate.New(name).Option("missingkey=zero").Parse(text)
	return t, templateError(err)
}

// tryOutTexts fills in each text with and without data.
func (l *Messages) tryOutTexts() error {
	m := Mail{To: "ann@example.com", FirstName: "Ann", LastName: "Baker", Companies: []string{"Acme Ltd", "Baker & Sons"}, Link: "https://clients.example.com/portal/acme"}
	for _, t := range l.texts {
		for _, d := range []Notice{
			{Mail: m, Company: "Acme Ltd", Data: map[string]string{"count": "3", "due": "12 March"}},
			{Mail: Mail{To: m.To, Link: m.Link}, Company: "Acme Ltd"},
		} {
			text, err := l.fillText(t, d)
			switch n := phone.Segments(text); {
			case err != nil:
				return err
			case !strings.Contains(text, d.Link):
				return fmt.Errorf("%s: {{.Link}} is missing; without it nobody finds what waits for them", t.Name())
			case n > phone.MaxSegments:
				return fmt.Errorf("%s: with made-up data the text takes %d messages, of which each costs; shorten it to %d (160 characters each, or 70 with characters that aren't in the alphabet of GSM)", t.Name(), n, phone.MaxSegments)
			}
		}
	}
	return nil
}

// Text writes the notice as a text message: one line. Where the firm's own template fails, or what it
// makes is too long, the built-in one is used. The error is ErrTextLength where that is too long, too.
func (l *Messages) Text(d Notice) (string, error) {
	name := d.Template
	if l.texts[name] == nil {
		name = d.Kind
	}
	builtIn := l.builtInTexts[d.Kind]
	if builtIn == nil {
		return "", fmt.Errorf("%w: %q as a text", ErrTemplate, d.Kind)
	}
	text, err := l.fillText(l.texts[name], d)
	if err == nil && phone.Segments(text) <= phone.MaxSegments {
		return text, nil
	}
	if l.texts[name] != builtIn && l.Log != nil {
		if err == nil {
			err = ErrTextLength
		}
		l.Log.Error("a text template failed, so the built-in one was used for this text", "template", l.texts[name].Name(), "error", err, "what_to_do", "correct or shorten the template and reload")
	}
	if text, err = l.fillText(builtIn, d); err == nil && phone.Segments(text) > phone.MaxSegments {
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
	return oneLine(inGSM.Replace(text.String())), nil
}

// inGSM replaces characters that would more than double the cost of a text by such that the alphabet
// of GSM has.
var inGSM = strings.NewReplacer("‘", "'", "’", "'", "“", `"`, "”", `"`, "„", `"`, "«", `"`, "»", `"`, "–", "-", "—", "-", "…", "...", "\u00a0", " ", "\u202f", " ", "\u2068", "", "\u2069", "")
