package legacy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
)

// Forms says how to treat tokens in forms and cookies. Many portals don't distinguish parameters in
// the body from parameters in the query (PHP's $_REQUEST).
type Forms struct {
	Unauthorized func(token string) bool // reports whether the sender isn't authorized to use the token
	Unknown      func(size int) string   // returns a value of that size that isn't a token
}

// ErrForm is returned while reading a form that can't be checked: a parameter that may hold a token
// is too long, or the form has too many names that portals parse in different ways.
var ErrForm = errors.New("cannot check the form: the value of an old link's parameter is too long, or too many names are unusual")

// Body returns a request body as the portal is to receive it. Each unauthorized token is replaced
// by an unknown value of the same length; the rest is streamed unchanged. Only bytes that may
// belong to a token are held back. The body is returned as it is if its content type isn't a
// form's, or if no pattern has its token in the query. Reading may return ErrForm.
func (r *Rules) Body(body io.ReadCloser, contentType string, forms Forms) io.ReadCloser {
	if !r.InQuery() {
		return body
	}
	f := &form{Closer: body, body: body, rules: r, Forms: forms}
	switch kind := strings.ToLower(contentType); {
	case strings.Contains(kind, "urlencoded"):
		f.process = f.processURLEncoded
	case strings.Contains(kind, "multipart"):
		f.process, f.boundary = f.processMultipart, boundaryOf(contentType)
	default:
		return body
	}
	return f
}

// Cookie reports whether a portal may read the cookie as a parameter with an unauthorized token:
// PHP without a php.ini has cookies in $_REQUEST, too.
func (r *Rules) Cookie(name, value string, forms Forms) bool {
	if !r.InQuery() {
		return false
	}
	for i := range r.links {
		s := r.links[i].old
		if _, near := sameName(name, s.name); s.name == "" || !near {
			continue
		}
		if s.isUnauthorized(value, forms) {
			return true
		}
	}
	return false
}

// NamesCookie reports whether a Cookie header has a cookie that may be read as a parameter with a
// token.
func (r *Rules) NamesCookie(header string) bool {
	if !r.InQuery() {
		return false
	}
	for pair := range strings.SplitSeq(header, ";") {
		name, _, _ := strings.Cut(strings.TrimLeft(pair, " \t"), "=")
		for i := range r.links {
			if s := r.links[i].old; s.name != "" {
				if _, near := sameName(name, s.name); near {
					return true
				}
			}
		}
	}
	return false
}

// InQuery reports whether any pattern has its token in the query.
func (r *Rules) InQuery() bool {
	return r != nil && slices.ContainsFunc(r.links, func(l link) bool { return l.old.name != "" })
}

// isUnauthorized reports whether any reading of a parameter's raw value is an unauthorized token.
func (s *pattern) isUnauthorized(value string, forms Forms) bool {
	if len(strings.Trim(value, " +\t\r\n")) > maxEscapedToken {
		return false
	}
	tokens := s.readings(value)
	return len(tokens) >= maxTokens || slices.ContainsFunc(tokens, forms.Unauthorized) // no real value has so many readings
}

const (
	maxHeld         = 64 << 10 // limit of held bytes: more than any token takes, however it is escaped
	maxNameCost     = 4 << 20  // limit of form.nameCost, in addition to one byte for each byte of the form
	costPerName     = 64       // bytes that a non-plain name costs in addition to its length
	maxEscapedToken = 8 << 10  // bytes of an escaped token
)

// form checks a body while it is read.
type form struct {
	io.Closer
	Forms
	body    io.Reader
	rules   *Rules
	process func(end bool) error // moves checked bytes from held to ready
	held    []byte
	ready   []byte
	buffer  []byte // backing array of ready, for reuse
	err     error  // returned after ready

	seen         int  // bytes of held that are known to have no separator
	blank        bool // those bytes are all blank
	read         int  // bytes of the body so far
	nameCost     int  // cost of the non-plain names so far, in bytes
	midParameter bool // inside a parameter or line whose beginning was already released

	boundary []byte // prefix of the lines between the parts
	value    []byte // a line that may be the whole value of a part, with the blank lines after it
}

func (f *form) Read(p []byte) (int, error) {
	for len(f.ready) == 0 && f.err == nil && len(p) > 0 {
		if cap(f.held)-len(f.held) < 4<<10 {
			f.held = append(make([]byte, 0, len(f.held)+16<<10), f.held...) // value may share the former array
		}
		n, err := f.body.Read(f.held[len(f.held):cap(f.held)])
		f.held, f.err = f.held[:len(f.held)+n], err
		f.read += n
		f.ready = f.buffer[:0]
		if err := f.process(f.err != nil); err != nil {
			f.err = err
		}
		f.buffer = f.ready
	}
	n := copy(p, f.ready)
	if f.ready = f.ready[n:]; len(f.ready) > 0 {
		return n, nil
	}
	return n, f.err
}

// take removes the first n bytes from held and returns them; pass releases them to ready.
func (f *form) take(n int) (first []byte) {
	first, f.held, f.seen = f.held[:n:n], f.held[n:], 0
	return first
}

func (f *form) pass(n int) { f.ready = append(f.ready, f.take(n)...) }

// next returns the index of the first separator, or -1.
func (f *form) next(separators string) int {
	i := bytes.IndexAny(f.held[f.seen:], separators)
	if i < 0 {
		f.seen = len(f.held)
		return -1
	}
	return f.seen + i
}

// processURLEncoded checks a URL-encoded form, such as a=1&b=2.
func (f *form) processURLEncoded(end bool) error {
	for len(f.held) > 0 {
		if empty := len(f.held) - len(bytes.TrimLeft(f.held, "&;")); empty > 0 {
			f.pass(empty)
			f.midParameter = false
			continue
		}
		stop := f.next("&;")
		switch {
		case stop >= 0:
		case end:
			stop = len(f.held)
		case f.midParameter:
			f.pass(len(f.held))
			return nil
		case len(f.held) <= maxHeld:
			return nil
		case f.rules.mayName(string(f.held)):
			return ErrForm
		default:
			f.midParameter = true
			continue
		}
		if !f.midParameter {
			if err := f.processParameter(f.held[:stop]); err != nil {
				return err
			}
		}
		f.pass(min(stop+1, len(f.held)))
		f.midParameter = false
	}
	return nil
}

func (f *form) processParameter(text []byte) error {
	name, value, _ := bytes.Cut(text, []byte("="))
	if len(value) == 0 {
		return nil
	}
	if !isPlainName(string(name)) {
		if f.nameCost += costPerName + len(name); f.nameCost > maxNameCost+f.read {
			return ErrForm
		}
	}
	for i := range f.rules.links {
		s := f.rules.links[i].old
		if _, near := sameName(string(name), s.name); s.name == "" || !near {
			continue
		}
		f.replaceUnauthorized(s, value, string(value))
	}
	return nil
}

// mayName reports whether the beginning of a parameter that is longer than any token has the name
// of a token parameter, or may turn out to have it.
func (r *Rules) mayName(text string) bool {
	name, _, ended := strings.Cut(text, "=")
	return slices.ContainsFunc(r.links, func(l link) bool {
		if l.old.name == "" {
			return false
		}
		_, near := sameName(name, l.old.name)
		for range 4 {
			is, want := canonical(name), canonical(l.old.name)
			near = near || !ended && len(is) <= len(want) && (is == "" || is[0] == '%' || is[0] == want[0])
			name, _ = unescape(name, true)
		}
		return near
	})
}

// processMultipart checks a multipart form. Portals disagree on where the header of a part ends and
// which name it has. So any line that stands by itself before a boundary may be the value.
func (f *form) processMultipart(end bool) error {
	for len(f.held) > 0 {
		f.skipText()
		stop, blank := f.blankLines(), true
		if stop == 0 {
			stop = f.next("\r\n") + 1
			switch {
			case stop > 0:
			case end:
				stop = len(f.held)
			case !f.midParameter && len(f.held) <= maxHeld:
				return nil
			default:
				f.releaseLongLine()
				return nil
			}
			blank = len(bytes.TrimFunc(f.held[:stop], trimmed)) == 0
		}
		line := f.take(stop)
		if blank && !f.midParameter && len(f.value)+len(line) <= maxHeld {
			f.value = append(f.value, line...)
			continue
		}
		if blank || bytes.HasPrefix(line, f.boundary) { // blank: more blank bytes follow the value than are held
			f.checkValue()
		}
		f.releaseValue()
		f.value = line
		if f.midParameter {
			f.releaseValue()
		}
		f.midParameter = false
	}
	if end {
		f.checkValue()
		f.releaseValue()
	}
	return nil
}

// skipText releases, in one step, lines that can't be the whole value of a part: each is followed
// by another line that begins with a plain character and isn't a boundary.
func (f *form) skipText() {
	if f.midParameter || f.seen > 0 || !isText(f.held[0]) {
		return
	}
	last, at := 0, 0 // start of the line that may be a value; where to continue
	for {
		stop := bytes.IndexAny(f.held[at:], "\r\n")
		if stop < 0 {
			break
		}
		for at += stop; at < len(f.held) && isBlank(f.held[at]); at++ {
		}
		if at == len(f.held) || at-last > maxHeld || !isText(f.held[at]) {
			break
		}
		last = at
	}
	if last > 0 {
		f.releaseValue()
		f.pass(last)
	}
}

// blankLines returns the length of the blank lines at the beginning of held.
func (f *form) blankLines() (n int) {
	if f.midParameter || f.seen > 0 && !f.blank {
		return 0
	}
	i := f.seen // bytes that were checked before aren't checked again for each new byte
	for ; i < len(f.held) && i < maxHeld && isBlank(f.held[i]); i++ {
		if f.held[i] == '\r' || f.held[i] == '\n' {
			n = i + 1
		}
	}
	f.blank = i == len(f.held)
	return n
}

// isText reports whether no reader trims the character, and no boundary begins with it.
func isText(c byte) bool { return c > ' ' && c < 0x7f && c != '-' }

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// releaseLongLine releases a line longer than maxHeld whose end hasn't been read. The line may
// still be a token with any number of spaces around it.
func (f *form) releaseLongLine() {
	f.checkValue()
	f.releaseValue()
	if spaces := len(f.held) - len(bytes.TrimLeftFunc(f.held, trimmed)); spaces > 0 && !f.midParameter {
		f.pass(spaces) // as if the line began after them
		return
	}
	f.value = f.take(len(f.held))
	if !f.midParameter {
		f.checkValue()
	}
	f.releaseValue()
	f.midParameter = true
}

// boundaryOf returns the prefix of the lines between the parts of a form, from its content type, or
// as much of that prefix as all readers agree on.
func boundaryOf(contentType string) []byte {
	before, after, found := strings.Cut(contentType, "boundary=")
	rest := strings.ToLower(after)
	if !found || strings.Contains(strings.ToLower(before), "boundary") || strings.Contains(rest, "boundary=") || strings.Contains(rest, "boundary*") {
		return []byte("--")
	}
	after = strings.TrimPrefix(after, `"`)
	end := 0
	for end < len(after) && isPlainName(after[end:end+1]) {
		end++
	}
	return []byte("--" + after[:end])
}

// releaseValue releases the held value.
func (f *form) releaseValue() {
	f.ready = append(f.ready, f.value...)
	f.value = nil
}

// checkValue checks the held value, whatever its name.
func (f *form) checkValue() {
	text := bytes.TrimFunc(bytes.Trim(f.value, " \t\r\n"), trimmed)
	if len(text) == 0 || len(text) > maxHeld {
		return
	}
	for i := range f.rules.links {
		if s := f.rules.links[i].old; s.name != "" {
			f.replaceUnauthorized(s, text, escape(string(text)))
		}
	}
}

// replaceUnauthorized overwrites value with an unknown value if it is unauthorized. raw is value as
// it would be written in a query.
func (f *form) replaceUnauthorized(s *pattern, value []byte, raw string) {
	if s.isUnauthorized(raw, f.Forms) {
		copy(value, f.Unknown(len(value)))
	}
}
