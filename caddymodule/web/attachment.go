package web

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// Attachment returns the Content-Disposition that makes every browser save a response under the
// name (RFC 6266). The name must be one that file systems accept; see reports.CleanName.
func Attachment(name string) string {
	plain := true // understood by old programs, and read alike by all browsers
	ascii := strings.Map(func(r rune) rune {
		switch {
		case r >= utf8.RuneSelf || r < ' ' || r == 0x7f:
			r = '_'
		case strings.ContainsRune(`"\%;`, r): // browsers decode %41 there, although it isn't an escape
			r = '_'
		default:
			return r
		}
		plain = false
		return r
	}, name)
	header := `attachment; filename="` + ascii + `"`
	if plain {
		return header
	}
	// RFC 8187: what PathEscape leaves beyond its attr-char is escaped as well.
	return header + "; filename*=UTF-8''" + strings.NewReplacer(":", "%3A", "=", "%3D", "@", "%40", "$", "%24", "'", "%27", "(", "%28", ")", "%29", "*", "%2A", ",", "%2C", ";", "%3B").Replace(url.PathEscape(name))
}
