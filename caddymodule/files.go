package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
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

// explain adds to an error of the file system what the words leave out: what to do.
func explain(err error) error {
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
		return explain(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file; write the path of one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return explain(err)
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
		return directory.FileFacts{}, err
	}
	facts, err := directory.CheckFile(path, kind)
	if rows, ok := errors.AsType[*directory.RowErrors](err); ok {
		err = rowsError(path, rows)
	}
	return facts, explain(err)
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
	return explain(err)
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
			return explain(err)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// settingFiles are the files that the settings of a firm name, but for those that are
// loaded by themselves.
func settingFiles(cfg FirmConfig) (all []*settingFile) {
	if cfg.Brand.Logo != "" {
		all = append(all, newSettingFile("brand logo", cfg.Brand.Logo))
	}
	if cfg.Templates != "" {
		_ = filepath.WalkDir(cfg.Templates, func(path string, d fs.DirEntry, err error) error {
			if err == nil && len(all) < maxSettingFiles {
				all = append(all, newSettingFile("templates", path)) // folders, too: a new file changes them
			}
			return nil
		})
	}
	for _, named := range cfg.placeholders {
		all = append(all, newSettingFile(named.setting, named.path))
	}
	return all
}

// maxSettingFiles is how many files of a folder are looked at.
const maxSettingFiles = 500

// namedFile is a file of a placeholder {file.PATH} in a setting.
type namedFile struct{ setting, path string }

// filesIn returns the files of the placeholders in a setting.
func filesIn(setting, value string) (all []namedFile) {
	for _, m := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		all = append(all, namedFile{setting, m[1]})
	}
	return all
}
