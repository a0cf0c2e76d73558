package brand

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

// noticeKinds are the kinds of notices, each with its built-in templates.
var noticeKinds = []string{KindNewQuestions, KindReportPublished}

// otherKinds are those of the mails that aren't notices.
var otherKinds = []string{KindSignIn, KindSetPassword, KindPasswordChanged, KindNewDevice, KindPortalUpdate, kindTest}

// kindTest is the test mail for operators, which is in English and which no template of a folder replaces.
const kindTest = "test"

var (
	templateName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	dataName     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,39}$`)
)

const (
	maxData      = 20  // values that a notice brings
	maxDataValue = 500 // characters of one
)

// Notice is the message that tells a contact of something that waits in the portal.
type Notice struct {
	Mail
	Kind     string            // such as KindNewQuestions
	Template string            // the name of a template of the firm's own, in place of the kind's; "": none
	Company  string            // the name of the company that it is about
	Data     map[string]string // what it brings, for {{.Data.NAME}}; see CheckData
}

// ErrTemplate: there is no template of that name.
var ErrTemplate = errors.New("brand: no such template")

// Notice writes the message of a notice. Its Link is the company's page, which holds no secret, and its
// time is when it was asked for. The error is ErrTemplate, or that of the template.
func (l *Messages) Notice(d Notice) (Message, error) {
	t, err := l.noticeTags(d)
	if err != nil {
		return Message{}, err
	}
	name := d.Template
	if name == "" {
		name = d.Kind
	}
	if slices.Contains(otherKinds, name) {
		return Message{}, fmt.Errorf("%w: %q", ErrTemplate, name)
	}
	return l.write(name, d.To, t)
}

func (l *Messages) noticeTags(d Notice) (tags, error) {
	t, err := l.tags(SignIn(d.Mail))
	t.Company.Name, t.Data = oneLine(d.Company), make(map[string]string, len(d.Data))
	for name, value := range d.Data {
		t.Data[name] = oneLine(value)
	}
	return t, err
}

// NoticeTemplates returns the names that Notice.Template may have, sorted.
func (l *Messages) NoticeTemplates() []string { return l.noticeTemplates() }

func (t templateSet) noticeTemplates() []string {
	names := slices.Sorted(maps.Keys(t.pairs[language.English.Tag]))
	return slices.DeleteFunc(names, func(name string) bool {
		return name == KindReportPublished || slices.Contains(otherKinds, name) // the link of reports is another
	})
}

// IsNotice reports whether the kind is one of notices.
func IsNotice(kind string) bool { return slices.Contains(noticeKinds, kind) }

// CheckData says what is wrong with the data of a notice, and what to write instead.
func CheckData(data map[string]string) error {
	if len(data) > maxData {
		return fmt.Errorf("has %d values; send at most %d", len(data), maxData)
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		switch value := data[name]; {
		case !dataName.MatchString(name):
			return fmt.Errorf("%q is no name of a value; write letters, digits and underscores, the first a letter, such as count", name)
		case !utf8.ValidString(value):
			return fmt.Errorf("%s isn't UTF-8", name)
		case utf8.RuneCountInString(value) > maxDataValue:
			return fmt.Errorf("%s has %d characters; send at most %d", name, utf8.RuneCountInString(value), maxDataValue)
		}
	}
	return nil
}

// ownTemplates returns the names of the folder's templates that are none of the built-in ones.
func ownTemplates(folder string) (names []string, err error) {
	if folder == "" {
		return nil, nil
	}
	files, err := os.ReadDir(filepath.Join(folder, "mails"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading the mail templates: %w", err)
	}
	for _, file := range files {
		name, text := strings.CutSuffix(file.Name(), ".txt")
		if !text {
			name, _ = strings.CutSuffix(file.Name(), ".html")
		}
		if name == file.Name() || name == "frame" || !templateName.MatchString(name) || slices.Contains(otherKinds, name) || slices.Contains(noticeKinds, name) {
			continue
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		for _, file := range []string{name + ".txt", name + ".html"} {
			if _, err := os.Stat(filepath.Join(folder, "mails", file)); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is missing; a notice of the firm's own needs %s.txt and %s.html; the built-in mails are %s",
					filepath.Join(folder, "mails", file), name, name, strings.Join(slices.Concat(otherKinds, noticeKinds), ", "))
			}
		}
	}
	return names, nil
}
