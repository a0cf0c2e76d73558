package web

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// Attachment returns the Content-Disposition by which every browser saves an answer under that name (RFC 6266). The
// name is one that systems can save; see reports.CleanName.
func Attachment(name string) string {
	plain := true // what old programs understand, and no browser reads in another way
	ascii := strings.Map(func(r rune) rune {
		switch {
		case r >= utf8.RuneSelf || r < ' ' || r == 0x7f:
			r = '_'
		case strings.ContainsRune(`"\%;`, r): // browsers decode %41 there, though it isn't encoded
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
