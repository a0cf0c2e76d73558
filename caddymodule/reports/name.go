package reports

import (
	"fmt"
	"net/http"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTitle is how many characters a title may have.
const MaxTitle = 200

// FieldError is a value that can't be taken.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// titleOf returns a title as it is kept: what was written, or else the file's name without its extension.
func titleOf(written, name string) (string, error) {
	title := strings.TrimSpace(written)
	if title == "" {
		title = strings.TrimSuffix(name, path.Ext(name))
	}
	switch {
	case !utf8.ValidString(title):
		return "", &FieldError{"title", "isn't UTF-8"}
	case strings.ContainsFunc(title, invisible):
		return "", &FieldError{"title", "has a line break or another control character"}
	case utf8.RuneCountInString(title) > MaxTitle:
		return "", &FieldError{"title", fmt.Sprintf("has more than %d characters", MaxTitle)}
	}
	return title, nil
}

// invisible reports whether a character does something else than to be shown: controls, and what turns the
// direction of writing, by which a name can look as if it had another extension.
func invisible(r rune) bool {
	return unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '\ufeff'
}

const (
	maxName      = 120 // characters of a file's name
	maxExtension = 16  // of those, behind the last dot
)

// CleanName turns a client's file name into one that every system can save: without folders, without
// characters with a meaning on some system, and not too long.
func CleanName(s string) string {
	s = s[strings.LastIndexAny(s, `/\`)+1:]
	s = strings.Map(func(r rune) rune {
		switch {
		case invisible(r):
			return -1
		case strings.ContainsRune(`<>:"|?*`, r):
			return '_'
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.TrimLeft(strings.TrimRight(s, ". "), ". ")
	ext := path.Ext(s)
	if utf8.RuneCountInString(ext) > maxExtension {
		ext = ""
	}
	base := strings.TrimRight(firstRunes(strings.TrimSuffix(s, ext), maxName-utf8.RuneCountInString(ext)), ". ")
	if base == "" {
		base = "report"
	}
	if reservedName(base) {
		base = "_" + base
	}
	return base + ext
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}

// reservedName reports whether Windows takes a name for a device, whatever its extension.
func reservedName(base string) bool {
	first, _, _ := strings.Cut(base, ".")
	switch first = strings.ToUpper(strings.TrimSpace(first)); first {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	if len(first) > 3 && (strings.HasPrefix(first, "COM") || strings.HasPrefix(first, "LPT")) {
		return strings.Contains("0123456789¹²³", first[3:])
	}
	return false
}

// types are the media types of files by their extensions. It is a list of our own: what the system knows differs
// from one machine to the next.
var types = map[string]string{
	".pdf": "application/pdf", ".txt": "text/plain", ".csv": "text/csv", ".rtf": "application/rtf",
	".xls": "application/vnd.ms-excel", ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	".doc": "application/msword", ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	".ppt": "application/vnd.ms-powerpoint", ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	".ods": "application/vnd.oasis.opendocument.spreadsheet", ".odt": "application/vnd.oasis.opendocument.text",
	".json": "application/json", ".xml": "application/xml", ".html": "text/html", ".htm": "text/html",
	".zip": "application/zip", ".7z": "application/x-7z-compressed", ".gz": "application/gzip",
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".svg": "image/svg+xml",
	".tif": "image/tiff", ".tiff": "image/tiff", ".heic": "image/heic", ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".mp4": "video/mp4", ".mov": "video/quicktime",
	".eml": "message/rfc822", ".ics": "text/calendar", ".vcf": "text/vcard",
	".qbo": "application/vnd.intu.qbo", ".ofx": "application/x-ofx", ".qif": "application/x-qif",
}

// typeOf returns the media type of a file, by its name, else by its first bytes.
func typeOf(name string, head []byte) string {
	if t := types[strings.ToLower(path.Ext(name))]; t != "" {
		return t
	}
	return http.DetectContentType(head)
}
