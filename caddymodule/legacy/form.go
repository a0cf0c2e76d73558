package legacy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
)

// Forms says what to make of tokens in forms and in cookies. Many portals don't ask whether
// a parameter stood there or in the query (PHP's $_REQUEST).
type Forms struct {
	Foreign func(token string) bool // it is one that whoever sends it may not use
	Unknown func(size int) string   // some value of that size, which is no token
}

// ErrForm is the error of reading a form that can't be judged: a parameter with a token is
// too long, or there are too many names that readers take in different ways.
var ErrForm = errors.New("a form has more under the name of an old link's parameter, or more odd names, than can be judged")

// Body returns a request's body as the portal gets it: an unknown value stands in the place
// of each foreign token, and the rest streams as it is, of the same length. No more is held
// back than may yet be a token. All stays as it is of what is no form by its content type,
// and where no pattern has its token in the query. Reading may return ErrForm.
func (r *Rules) Body(body io.ReadCloser, contentType string, forms Forms) io.ReadCloser {
	if !r.InQuery() {
		return body
	}
	f := &form{Closer: body, body: body, rules: r, Forms: forms}
	switch kind := strings.ToLower(contentType); {
	case strings.Contains(kind, "urlencoded"):
		f.judge = f.parameters
	case strings.Contains(kind, "multipart"):
		f.judge, f.boundary = f.lines, boundaryOf(contentType)
	default:
		return body
	}
	return f
}

// Cookie reports whether a cookie may be taken for a parameter with a foreign token: PHP
// without a php.ini has cookies in $_REQUEST, too.
func (r *Rules) Cookie(name, value string, forms Forms) bool {
	if !r.InQuery() {
		return false
	}
	for i := range r.links {
		s := r.links[i].old
		if _, near := sameName(name, s.name); s.name == "" || !near {
			continue
		}
		if s.foreign(value, forms) {
			return true
		}
	}
	return false
}

// NamesCookie reports whether a header has a cookie that may be taken for a parameter with a token.
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

// foreign reports whether a parameter's raw value has a foreign token, however it is read.
func (s *shape) foreign(value string, forms Forms) bool {
	if len(strings.Trim(value, " +\t\r\n")) > longestToken {
		return false
	}
	tokens := s.readings(value)
	return len(tokens) >= maxStrays || slices.ContainsFunc(tokens, forms.Foreign) // nobody sends what can be read in so many ways
}

const (
	mostHeld     = 64 << 10 // bytes that are held back: more than any token takes, however it is escaped
	mostNames    = 4 << 20  // what odd names may cost in bytes, beside a byte for each that the form has
	perName      = 64       // bytes that an odd name costs beside its own
	longestToken = 8 << 10  // bytes of a token, escaped
)

// form is a body that is judged as it is read.
type form struct {
	io.Closer
	Forms
	body  io.Reader
	rules *Rules
	judge func(end bool) error // moves from held to ready what can be judged
	held  []byte
	ready []byte
	spare []byte // what ready lies in, to be used again
	err   error  // what comes after ready

	seen   int  // of held: no separator is there
	blank  bool // these are all blank
	read   int  // bytes of the body so far
	names  int  // what odd names have cost so far, in bytes
	inside bool // of a parameter, or a line, whose beginning isn't held any more

	boundary []byte // what the lines between parts begin with
	value    []byte // the line that may be the whole of a part's value, with blank ones behind it
}

func (f *form) Read(p []byte) (int, error) {
	for len(f.ready) == 0 && f.err == nil && len(p) > 0 {
		if cap(f.held)-len(f.held) < 4<<10 {
			f.held = append(make([]byte, 0, len(f.held)+16<<10), f.held...) // value may be a part of the former one
		}
		n, err := f.body.Read(f.held[len(f.held):cap(f.held)])
		f.held, f.err = f.held[:len(f.held)+n], err
		f.read += n
		f.ready = f.spare[:0]
		if err := f.judge(f.err != nil); err != nil {
			f.err = err
		}
		f.spare = f.ready
	}
	n := copy(p, f.ready)
	if f.ready = f.ready[n:]; len(f.ready) > 0 {
		return n, nil
	}
	return n, f.err
}

// take takes the first n bytes from what is held, pass lets go of them.
func (f *form) take(n int) (first []byte) {
	first, f.held, f.seen = f.held[:n:n], f.held[n:], 0
	return first
}

func (f *form) pass(n int) { f.ready = append(f.ready, f.take(n)...) }

// next returns where the first separator is, or -1.
func (f *form) next(separators string) int {
	i := bytes.IndexAny(f.held[f.seen:], separators)
	if i < 0 {
		f.seen = len(f.held)
		return -1
	}
	return f.seen + i
}

// parameters judges a form as most are sent, a=1&b=2.
func (f *form) parameters(end bool) error {
	for len(f.held) > 0 {
		if empty := len(f.held) - len(bytes.TrimLeft(f.held, "&;")); empty > 0 {
			f.pass(empty)
			f.inside = false
			continue
		}
		stop := f.next("&;")
		switch {
		case stop >= 0:
		case end:
			stop = len(f.held)
		case f.inside:
			f.pass(len(f.held))
			return nil
		case len(f.held) <= mostHeld:
			return nil
		case f.rules.mayName(string(f.held)):
			return ErrForm
		default:
			f.inside = true
			continue
		}
		if !f.inside {
			if err := f.parameter(f.held[:stop]); err != nil {
				return err
			}
		}
		f.pass(min(stop+1, len(f.held)))
		f.inside = false
	}
	return nil
}

func (f *form) parameter(text []byte) error {
	name, value, _ := bytes.Cut(text, []byte("="))
	if len(value) == 0 {
		return nil
	}
	if !isPlainName(string(name)) {
		if f.names += perName + len(name); f.names > mostNames+f.read {
			return ErrForm
		}
	}
	for i := range f.rules.links {
		s := f.rules.links[i].old
		if _, near := sameName(string(name), s.name); s.name == "" || !near {
			continue
		}
		f.hide(s, value, string(value))
	}
	return nil
}

// mayName reports whether the beginning of a parameter, which is longer than any token,
// has or may yet have the name of one.
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

// lines judges a form in parts. Where a part's header ends and which name it has, readers see
// in different ways, so whatever stands alone on the last line before a boundary may be it.
func (f *form) lines(end bool) error {
	for len(f.held) > 0 {
		f.skipText()
		stop, blank := f.blankLines(), true
		if stop == 0 {
			stop = f.next("\r\n") + 1
			switch {
			case stop > 0:
			case end:
				stop = len(f.held)
			case !f.inside && len(f.held) <= mostHeld:
				return nil
			default:
				f.long()
				return nil
			}
			blank = len(bytes.TrimFunc(f.held[:stop], trimmed)) == 0
		}
		line := f.take(stop)
		if blank && !f.inside && len(f.value)+len(line) <= mostHeld {
			f.value = append(f.value, line...)
			continue
		}
		if blank || bytes.HasPrefix(line, f.boundary) { // blank: there is more behind the value than is held
			f.part()
		}
		f.settle()
		f.value = line
		if f.inside {
			f.settle()
		}
		f.inside = false
	}
	if end {
		f.part()
		f.settle()
	}
	return nil
}

// skipText lets go of lines that nothing depends on, all at once: those that another line of
// text follows, which begins with a plain character and not as a boundary does.
func (f *form) skipText() {
	if f.inside || f.seen > 0 || !isText(f.held[0]) {
		return
	}
	last, at := 0, 0 // where the line that may be a value begins, and where the search goes on
	for {
		stop := bytes.IndexAny(f.held[at:], "\r\n")
		if stop < 0 {
			break
		}
		for at += stop; at < len(f.held) && isBlank(f.held[at]); at++ {
		}
		if at == len(f.held) || at-last > mostHeld || !isText(f.held[at]) {
			break
		}
		last = at
	}
	if last > 0 {
		f.settle()
		f.pass(last)
	}
}

// blankLines returns how many bytes the blank lines take that are held first.
func (f *form) blankLines() (n int) {
	if f.inside || f.seen > 0 && !f.blank {
		return 0
	}
	i := f.seen // what was looked at before isn't looked at again for each byte that comes
	for ; i < len(f.held) && i < mostHeld && isBlank(f.held[i]); i++ {
		if f.held[i] == '\r' || f.held[i] == '\n' {
			n = i + 1
		}
	}
	f.blank = i == len(f.held)
	return n
}

// isText reports whether no reader trims a character, and no boundary begins with it.
func isText(c byte) bool { return c > ' ' && c < 0x7f && c != '-' }

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// long lets go of a line whose end isn't there yet, and which is longer than what is held: it
// is a value if it is a token but for spaces around it, of which there may be any number.
func (f *form) long() {
	f.part()
	f.settle()
	if spaces := len(f.held) - len(bytes.TrimLeftFunc(f.held, trimmed)); spaces > 0 && !f.inside {
		f.pass(spaces) // as if the line began behind them
		return
	}
	f.value = f.take(len(f.held))
	if !f.inside {
		f.part()
	}
	f.settle()
	f.inside = true
}

// boundaryOf returns what the lines between the parts of a form begin with, as its content
// type says, or as much of it as all readers agree on.
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

// settle lets go of the value that is held back.
func (f *form) settle() {
	f.ready = append(f.ready, f.value...)
	f.value = nil
}

// part judges the value that is held back, whatever its name.
func (f *form) part() {
	text := bytes.TrimFunc(bytes.Trim(f.value, " \t\r\n"), trimmed)
	if len(text) == 0 || len(text) > mostHeld {
		return
	}
	for i := range f.rules.links {
		if s := f.rules.links[i].old; s.name != "" {
			f.hide(s, text, escape(string(text)))
		}
	}
}

// hide puts an unknown value in the place of one that is foreign; raw is how it would stand
// in a query.
func (f *form) hide(s *shape, value []byte, raw string) {
	if s.foreign(raw, f.Forms) {
		copy(value, f.Unknown(len(value)))
	}
}
