package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// What the settings say about the machine: placeholders, files and folders. All of
// it only looks.

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]*)\}`)

// fillIn returns the value with its placeholders filled in. One that is unknown,
// empty or can't be read is an error that says which and why.
func fillIn(value string) (string, error) {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		if err := checkFile(m[1]); err != nil {
			return "", fmt.Errorf("%s: %w", m[0], err)
		}
	}
	filled, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf(`%w; write {env.NAME} or {file./PATH}, and \{ for a brace that is meant as one`, err)
	}
	if filled != value && later(filled) {
		return "", errors.New("what the placeholder stands for is a placeholder again; write the value there")
	}
	return filled, nil
}

// fillInAll fills in the placeholders of the settings. A user name or password that comes
// from a file has to be without what editors add unseen: the server would only say that it
// is wrong.
func fillInAll(all []text) error {
	for _, t := range all {
		filled, err := fillIn(*t.value)
		if err == nil && filled != *t.value && (strings.HasSuffix(t.path, ".password") || strings.HasSuffix(t.path, ".username")) {
			err = unseen(filled)
		}
		if err != nil {
			return at(t.path, err)
		}
		*t.value = filled
	}
	return nil
}

// unseen is an error where a value begins or ends with what nobody sees.
func unseen(value string) error {
	switch {
	case strings.HasPrefix(value, "\ufeff"):
		return errors.New("what the placeholder stands for begins with a byte order mark (BOM); save the file as UTF-8 without BOM")
	case strings.TrimRight(value, "\r\n") != value:
		return errors.New("what the placeholder stands for ends with more than one line break; let the file have one line, without line breaks of Windows (CRLF)")
	case strings.TrimSpace(value) != value:
		return errors.New("what the placeholder stands for begins or ends with a blank; remove it")
	}
	return nil
}

// openToAll returns the first file of a placeholder in the value that every user of
// the machine can read, or "". Container runtimes mount secrets so, where there is no
// other user: it is worth a warning, not a refusal.
func openToAll(value string) string {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		if info, err := os.Stat(m[1]); err == nil && info.Mode().Perm()&0o004 != 0 && runtime.GOOS != "windows" {
			return m[1]
		}
	}
	return ""
}

// WithAdvice adds to an error of the file system what the words leave out: what to do.
func WithAdvice(err error) error {
	pe, ok := errors.AsType[*fs.PathError](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(pe.Path):
		wd, _ := os.Getwd()
		return fmt.Errorf("%w (Caddy was started in %s; an absolute path is good from anywhere)", err, wd)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; correct the path, or put there what belongs there", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; %s", err, letRead(pe.Path))
	}
	return err
}

// letRead says how Caddy's user, and nobody else besides its owner, can read a file or
// folder. A folder on the way to it is perhaps another person's, and is left alone.
func letRead(path string) string {
	info, err := os.Stat(path)
	if err != nil { // nor is anything to be seen of it
		return "Caddy's user can't enter every folder on the way to it; put it where it can, such as in /etc/doorpost"
	}
	return "let Caddy's user read it: " + shut(path, info)
}

// shut returns the commands that leave a file or folder to its owner and Caddy's user.
func shut(path string, info fs.FileInfo) string {
	mode := "640"
	if info.IsDir() {
		mode = "750"
	}
	return fmt.Sprintf("chgrp caddy %s && chmod %s %s", path, mode, path)
}

// checkFile reports why the file can't be read; an empty path is none.
func checkFile(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path) // before Open, which waits for the other end of a pipe
	if err != nil {
		return WithAdvice(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file; write the path of one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return WithAdvice(err)
	}
	return f.Close()
}

// checkCSV reports why the file can't be read, or its first bad row; an empty path is none.
// Whether its rows fit what is in the store, a start finds out.
func checkCSV(path string, kind directory.Kind) (directory.FileFacts, error) {
	if path == "" {
		return directory.FileFacts{}, nil
	}
	if err := checkFile(path); err != nil {
		return directory.FileFacts{}, at(string(kind), err)
	}
	facts, err := directory.CheckFile(path, kind)
	if rows, ok := errors.AsType[*directory.RowErrors](err); ok {
		return facts, RowsError(kind, path, rows)
	}
	return facts, at(string(kind), WithAdvice(err))
}

// RowsError is what `caddy validate` and a start say about a file with bad rows.
func RowsError(kind directory.Kind, path string, rows *directory.RowErrors) error {
	row := rows.Rows[0].Masked()
	where := fmt.Sprintf("%s:%d: ", path, row.Line)
	if row.Column != "" {
		where += row.Column + ": "
	}
	more := ""
	if n := len(rows.Rows) + rows.More - 1; n > 0 {
		more = fmt.Sprintf(", and %d further lines", n)
		if n == 1 {
			more = ", and 1 further line"
		}
		for i, r := range rows.Rows[1:] {
			if i == 10 {
				more += ", …"
				break
			}
			more += map[bool]string{true: " (", false: ", "}[i == 0] + fmt.Sprint(r.Line)
		}
		more += ")"
	}
	return at(string(kind), fmt.Errorf("%s%s%s; correct the file, nothing of it is loaded while a line is wrong", where, row.Reason, more))
}

// CheckFiles judges the files that the settings name, but for the picture and the templates in
// use. It opens no store and makes nothing.
func (c Firm) CheckFiles() error {
	var companies directory.FileFacts
	return firstError(
		func() (err error) { companies, err = checkCSV(c.Companies, directory.Companies); return err },
		func() error { _, err := checkCSV(c.Contacts, directory.Contacts); return err },
		func() error { return c.checkCompanies(companies) },
		func() error { return at("templates", checkFolder(c.Templates)) },
		func() error { return at("reports", checkReportsFolder(c.Reports)) },
		func() error { _, err := c.Brand.Signer(); return brandError(err) },
	)
}

// checkCompanies judges settings by the companies of the file.
func (c Firm) checkCompanies(companies directory.FileFacts) error {
	if companies.Tokens && !c.Rules.HasLinks() {
		return at("companies", fmt.Errorf("%s has tokens of old links, but there is no legacy_link, so that every old link would ask for sign-in from the first day; write legacy_link with the form of your old links and the new one, such as %s, or delete the column legacy_tokens",
			c.Companies, examples["legacy_link"]))
	}
	for i, rule := range c.Public {
		for _, p := range rule.Paths {
			page := &url.URL{Path: strings.TrimSuffix(p, "*")}
			if v := c.Rules.Match(page); companies.Companies[v.Company] {
				return at(fmt.Sprintf("public[%d]", i), fmt.Errorf("%s is a path of the company %s, which stays closed to everybody else; remove it", p, v.Company))
			}
		}
	}
	return nil
}

// unbraced is a placeholder without its braces, or a variable as shells write it.
var unbraced = regexp.MustCompile(`^(?:((?:file|env)\.\S+)|\$([A-Z_][A-Z0-9_]*))$`)

// pathAsSecret refuses a secret that only names where the secret is: the path of a file, or a
// placeholder in another form than Caddy's.
func pathAsSecret(value string) error {
	if later(value) {
		return nil
	}
	if m := unbraced.FindStringSubmatch(value); m != nil {
		if m[1] != "" {
			return fmt.Errorf("%s would be taken as the secret itself; write {%s}", value, m[1])
		}
		if _, set := os.LookupEnv(m[2]); set {
			return fmt.Errorf("%s would be taken as the secret itself; write {env.%s}", value, m[2])
		}
	}
	if !strings.ContainsAny(value, `/\`) {
		return nil
	}
	if info, err := os.Stat(value); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s is a file, and what is written here would be taken as the secret itself; write {file.%s}", value, value)
}

// checkFolder reports why the folder can't be read; an empty path is none.
func checkFolder(path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no folder; write the path of one", path)
	}
	_, err := os.ReadDir(path)
	return WithAdvice(err)
}

// checkReportsFolder reports why the path can't be a folder, or one that is made; an empty path is none.
func checkReportsFolder(path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no folder; write the path of one", path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return checkStoreFile(filepath.Join(path, "firm")) // of the same kind: what isn't there yet is made
}

// checkStoreFile reports why the path can't be a store's: whether it is one, Start
// finds out. A file or folder that isn't there yet is fine.
func checkStoreFile(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder; write the path of a file in it, such as %s", path, filepath.Join(path, "doorpost.db"))
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("%s is no folder; write a path in one", dir)
		case !errors.Is(err, fs.ErrNotExist):
			return WithAdvice(err)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// NamedFiles are the files that the settings of a firm name, but for those that are loaded
// by themselves.
func (c Firm) NamedFiles() (all []NamedFile) {
	if c.Brand.Logo != "" {
		all = append(all, NamedFile{"brand logo", c.Brand.Logo})
	}
	for _, k := range c.Brand.DKIM {
		all = append(all, NamedFile{"brand dkim", k.Key})
	}
	if c.Templates != "" {
		_ = filepath.WalkDir(c.Templates, func(path string, d fs.DirEntry, err error) error {
			if err == nil && len(all) < maxNamedFiles {
				all = append(all, NamedFile{"templates", path}) // folders, too: a new file changes them
			}
			return nil
		})
	}
	return slices.Concat(all, valueOr(c.Mail, Mail{}).files(), c.placeholders)
}

// NamedFiles are the files of the placeholders in the settings.
func (s Server) NamedFiles() (all []NamedFile) {
	for _, value := range s.Secret {
		all = append(all, filesIn("secret", value)...)
	}
	stored := valueOr(s.Store, Store{})
	for _, t := range stored.texts() {
		all = append(all, filesIn(words(t.path), *t.value)...)
	}
	return append(all, valueOr(s.Mail, Mail{}).files()...)
}

// maxNamedFiles is how many files of a folder are looked at.
const maxNamedFiles = 500

// NamedFile is a file that a setting names.
type NamedFile struct {
	Setting, // as people write it, such as "brand logo"
	Path string
}

// filesIn returns the files of the placeholders in a setting.
func filesIn(setting, value string) (all []NamedFile) {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		all = append(all, NamedFile{setting, m[1]})
	}
	return all
}

// ReloadCommand makes Caddy read a configuration again that is the same by its text.
const ReloadCommand = "caddy reload --force"
