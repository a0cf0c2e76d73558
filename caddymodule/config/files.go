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

// Placeholders, files and folders in settings. This file only reads.

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]*)\}`)

// fillIn returns the value with its placeholders filled in. An unknown, empty or unreadable
// placeholder is an error with its name and the cause.
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
	if filled != value && hasPlaceholder(filled) {
		return "", errors.New("what the placeholder stands for is a placeholder again; write the value there")
	}
	return filled, nil
}

// fillInAll fills in the placeholders of the settings. A user name or password from a file must not
// contain invisible characters that editors add: the server would only report that it is wrong.
func fillInAll(all []textSetting) error {
	for _, t := range all {
		filled, err := fillIn(*t.value)
		if err == nil && filled != *t.value && (strings.HasSuffix(t.path, ".password") || strings.HasSuffix(t.path, ".username")) {
			err = checkInvisible(filled)
		}
		if err != nil {
			return atPath(t.path, err)
		}
		*t.value = filled
	}
	return nil
}

// checkInvisible returns an error if a value begins or ends with an invisible character.
func checkInvisible(value string) error {
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

// worldReadable returns the first file of a placeholder in the value that every user of the machine
// can read, or "". Container runtimes mount secrets that way, in machines without other users, so
// it deserves a warning rather than an error.
func worldReadable(value string) string {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		if info, err := os.Stat(m[1]); err == nil && info.Mode().Perm()&0o004 != 0 && runtime.GOOS != "windows" {
			return m[1]
		}
	}
	return ""
}

// WithAdvice adds to an error of the file system what to do about it.
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
		return fmt.Errorf("%w; %s", err, adviseReadable(pe.Path))
	}
	return err
}

// adviseReadable returns how to make a file or folder readable for Caddy's user and its owner only.
// It doesn't suggest to change parent folders, which may belong to other users.
func adviseReadable(path string) string {
	info, err := os.Stat(path)
	if err != nil { // nothing more can be found out about it
		return "Caddy's user can't enter every folder on the way to it; put it where it can, such as in /etc/doorpost"
	}
	return "let Caddy's user read it: " + restrictCommands(path, info)
}

// restrictCommands returns the commands that restrict a file or folder to its owner and Caddy's
// user.
func restrictCommands(path string, info fs.FileInfo) string {
	mode := "640"
	if info.IsDir() {
		mode = "750"
	}
	return fmt.Sprintf("chgrp caddy %s && chmod %s %s", path, mode, path)
}

// checkFile returns why the file can't be read. An empty path means no file.
func checkFile(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path) // before Open, which blocks on a pipe
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

// checkCSV returns why the file can't be read, or its first bad row. An empty path means no file.
// Conflicts with the store are found at the start.
func checkCSV(path string, kind directory.Kind) (directory.FileFacts, error) {
	if path == "" {
		return directory.FileFacts{}, nil
	}
	if err := checkFile(path); err != nil {
		return directory.FileFacts{}, atPath(string(kind), err)
	}
	facts, err := directory.CheckFile(path, kind)
	if rows, ok := errors.AsType[*directory.RowErrors](err); ok {
		return facts, RowsError(kind, path, rows)
	}
	return facts, atPath(string(kind), WithAdvice(err))
}

// RowsError returns the error of `caddy validate` and of a start for a file with bad rows.
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
	return atPath(string(kind), fmt.Errorf("%s%s%s; correct the file, nothing of it is loaded while a line is wrong", where, row.Reason, more))
}

// CheckFiles checks the files that the settings name, except the logo and the templates. It opens
// no store and makes nothing.
func (c Firm) CheckFiles() error {
	var companies directory.FileFacts
	return firstError(
		func() (err error) { companies, err = checkCSV(c.Companies, directory.Companies); return err },
		func() error { _, err := checkCSV(c.Contacts, directory.Contacts); return err },
		func() error { return c.checkCompanies(companies) },
		func() error { return atPath("templates", checkFolder(c.Templates)) },
		func() error { return atPath("reports", checkReportsFolder(c.Reports)) },
		func() error { _, err := c.Brand.Signer(); return brandError(err) },
	)
}

// checkCompanies checks settings that depend on the companies in the file.
func (c Firm) checkCompanies(companies directory.FileFacts) error {
	if companies.Tokens && !c.Rules.HasLinks() {
		return atPath("companies", fmt.Errorf("%s has tokens of old links, but there is no legacy_link, so that every old link would ask for sign-in from the first day; write legacy_link with the form of your old links and the new one, such as %s, or delete the column legacy_tokens",
			c.Companies, examples["legacy_link"]))
	}
	for i, rule := range c.Public {
		for _, p := range rule.Paths {
			page := &url.URL{Path: strings.TrimSuffix(p, "*")}
			if v := c.Rules.Match(page); companies.Companies[v.Company] {
				return atPath(fmt.Sprintf("public[%d]", i), fmt.Errorf("%s is a path of the company %s, which stays closed to everybody else; remove it", p, v.Company))
			}
		}
	}
	return nil
}

// barePlaceholder matches a placeholder without its braces, or a shell variable.
var barePlaceholder = regexp.MustCompile(`^(?:((?:file|env)\.\S+)|\$([A-Z_][A-Z0-9_]*))$`)

// checkNotPath refuses a secret that is only the location of a secret: the path of a file, or a
// placeholder that isn't in Caddy's syntax.
func checkNotPath(value string) error {
	if hasPlaceholder(value) {
		return nil
	}
	if m := barePlaceholder.FindStringSubmatch(value); m != nil {
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

// checkFolder returns why the folder can't be read. An empty path means no folder.
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

// checkReportsFolder returns why the path can't be a folder. An empty path means no folder, and
// the folder need not exist.
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
	return checkStoreFile(filepath.Join(path, "firm")) // same check: the path need not exist
}

// checkStoreFile returns why the path can't be that of a store. Whether the file is a store is
// checked at the start. The file or folder need not exist.
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

// NamedFiles returns the files that the settings of a firm name, except those that are reloaded
// automatically.
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
				all = append(all, NamedFile{"templates", path}) // folders too: a new file changes them
			}
			return nil
		})
	}
	return slices.Concat(all, valueOr(c.Mail, Mail{}).files(), c.placeholders)
}

// NamedFiles returns the files of the placeholders in the settings.
func (s Server) NamedFiles() (all []NamedFile) {
	for _, value := range s.Secret {
		all = append(all, filesIn("secret", value)...)
	}
	stored := valueOr(s.Store, Store{})
	for _, t := range stored.texts() {
		all = append(all, filesIn(settingName(t.path), *t.value)...)
	}
	if t := stored.TLS; t != nil {
		for _, f := range []NamedFile{{"store tls ca", t.CA}, {"store tls cert", t.Cert}, {"store tls cert", t.Key}} {
			if f.Path != "" && !hasPlaceholder(f.Path) {
				all = append(all, f)
			}
		}
	}
	return slices.Concat(all, valueOr(s.Mail, Mail{}).files(), valueOr(s.Text, Text{}).files())
}

// maxNamedFiles limits the files of a folder that are checked.
const maxNamedFiles = 500

// NamedFile is a file that a setting names.
type NamedFile struct {
	Setting, // as users write it, such as "brand logo"
	Path string
}

// filesIn returns the files of the placeholders in a setting.
func filesIn(setting, value string) (all []NamedFile) {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		all = append(all, NamedFile{setting, m[1]})
	}
	return all
}

// ReloadCommand makes Caddy load a configuration again even if its text is the same.
const ReloadCommand = "caddy reload --force"
