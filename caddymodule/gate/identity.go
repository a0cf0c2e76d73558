package gate

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// stripIdentity removes whatever a visitor sends under a name that the portal could
// take for the gate's word, in any spelling, on every request, signed in or not.
func stripIdentity(r *http.Request) {
	h := r.Header
	for name := range h {
		if reserved(name) {
			delete(h, name)
		}
	}
	// Caddy deletes the headers that Connection names, ours among them, after we set
	// them: a visitor could make their own identity vanish (CVE-2024-45410).
	if lines := h["Connection"]; len(lines) > 0 {
		stripConnection(h, lines)
	}
	if upgrade := h["Upgrade"]; len(upgrade) > 0 && strings.Contains(strings.ToLower(strings.Join(upgrade, ",")), "h2c") {
		// A portal that switches to clear-text HTTP/2 would take further requests unseen.
		delete(h, "Upgrade")
		delete(h, "Http2-Settings")
	}
	// Trailers come after we have looked, and reach the portal as headers do. No
	// browser sends any, so none goes on.
	r.Trailer = nil
	delete(h, "Trailer")
}

func stripConnection(h http.Header, lines []string) {
	var keep []string
	for _, line := range lines {
		for option := range strings.SplitSeq(line, ",") {
			option = textproto.TrimString(option)
			if !httpguts.ValidHeaderFieldName(option) || reserved(option) || protectedOption(option) {
				continue
			}
			keep = append(keep, option)
		}
	}
	if keep == nil {
		delete(h, "Connection")
		return
	}
	h["Connection"] = []string{strings.Join(keep, ", ")}
}

// protectedOption names further headers that the portal relies on and that Connection
// must not take away.
func protectedOption(option string) bool {
	option = strings.ToLower(option)
	return foldedPrefix(option, "x-forwarded-") || option == "cookie" || option == "host" ||
		option == "content-length" || option == "transfer-encoding"
}

// reserved reports whether a header is the gate's alone to set. Applications fold
// case, and characters such as "_" and ".", into one (CGI does), so we fold them all.
func reserved(name string) bool {
	if len(name) < len("proxy") {
		return false
	}
	switch name[0] | 0x20 {
	case 'p':
		return foldedPrefix(name, "portal-") || folded(name, "proxy")
	case 'r':
		return foldedPrefix(name, "remote-") &&
			(folded(name, "remote-user") || folded(name, "remote-email") || folded(name, "remote-name") || folded(name, "remote-groups"))
	case 'f':
		return folded(name, "forwarded")
	case 'x':
		if !foldedPrefix(name, "x-") {
			return false
		}
		if foldedPrefix(name, "x-auth-request-") {
			return true
		}
		for _, bad := range [...]string{"x-forwarded-user", "x-forwarded-email", "x-forwarded-prefix", "x-forwarded-uri",
			"x-forwarded-method", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-access-token",
			"x-original-url", "x-rewrite-url", "x-original-uri", "x-remote-user"} {
			if folded(name, bad) {
				return true
			}
		}
		// X_Forwarded_For and the like: only the hyphen form is Caddy's to rebuild.
		return foldedPrefix(name, "x-forwarded-") && strings.ContainsFunc(name, func(c rune) bool {
			return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
		})
	}
	return false
}

func folded(name, want string) bool { return len(name) == len(want) && foldedPrefix(name, want) }

func foldedPrefix(name, want string) bool {
	if len(name) < len(want) {
		return false
	}
	for i := range len(want) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		default:
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// identity is what the portal is told about a visitor, made once and used for every
// request of theirs: header names in canonical form, each with its one value. A value
// that the contact doesn't have is no entry.
type identity []struct{ name, value string }

func (id *identity) add(name, value string) {
	if value = headerValue(value); value != "" {
		*id = append(*id, struct{ name, value string }{name, value})
	}
}

// set writes the identity into a request's header, with the assertion and the
// company that the request is about, where there are such. The values are the request's own: handlers behind us
// may change a value in place.
func (id identity) set(h http.Header, assertion, company string) {
	values := make([]string, len(id)+2) // one piece of memory for all
	for i, one := range id {
		values[i] = one.value
		h[one.name] = values[i : i+1 : i+1]
	}
	values = values[len(id):]
	values[0], values[1] = assertion, company
	for i, name := range [...]string{"Portal-Assertion", "Portal-Company"} {
		if values[i] != "" {
			h[name] = values[i : i+1 : i+1]
		}
	}
}

// headerValue keeps what may stand in a header: UTF-8 without control characters, at
// most 1 KiB. (A line break would begin a header of its own.)
func headerValue(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
	for len(s) > 1<<10 {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return strings.TrimSpace(s)
}

// portalWriter is the response on its way from the portal: it may not set our cookies,
// and what was meant for one person isn't left for a shared cache to give to another.
type portalWriter struct {
	http.ResponseWriter
	gate    *Gate
	private bool
	holder  holder       // for whom the portal's session cookies are bound
	passed  Passed       // nothing: nobody is signed in
	old     outgoing     // nothing: there are no old links to rewrite
	visit   *http.Cookie // our own of a visit, that goes with the answer; nil: none
	sent    []string     // the request's lines of cookies
	ctx     context.Context
	done    bool
}

// Unwrap lets http.ResponseController reach Flush, Hijack and the deadlines.
func (w *portalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *portalWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.done = true
		w.clean()
		w.ResponseWriter.WriteHeader(status)
		return
	}
	// What is told beforehand sets no cookies; those of the answer may stand there already.
	h := w.Header()
	cookies := h["Set-Cookie"]
	delete(h, "Set-Cookie")
	w.old.rewrite(w.ctx, h)
	w.ResponseWriter.WriteHeader(status)
	if cookies != nil {
		h["Set-Cookie"] = cookies
	}
}

func (w *portalWriter) Write(b []byte) (int, error) {
	if !w.done {
		w.done = true
		w.clean()
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets a file go out without passing through this process.
func (w *portalWriter) ReadFrom(src io.Reader) (int64, error) {
	if !w.done {
		w.done = true
		w.clean()
	}
	return io.Copy(w.ResponseWriter, src)
}

// FlushError sends what there is. A handler may flush before it writes: the header
// goes out then, too.
func (w *portalWriter) FlushError() error {
	if !w.done {
		w.done = true
		w.clean()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// serve has the portal answer. One that writes nothing has answered, too.
func (w *portalWriter) serve(portal http.Handler, r *http.Request) {
	portal.ServeHTTP(w, r)
	if !w.done {
		w.clean()
		return
	}
	// By now they are trailers, in which no browser looks for cookies, but who is in front of
	// us may make headers of them.
	delete(w.Header(), http.TrailerPrefix+"Set-Cookie")
	if w.Header()["Trailer"] != nil {
		delete(w.Header(), "Set-Cookie")
	}
}

// setCookieName returns the name under which the cookie of a Set-Cookie line would come
// back. One without a name comes back as its value alone, and that may look like a name.
func setCookieName(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	name, rest, _ := strings.Cut(pair, "=")
	if name = textproto.TrimString(name); name != "" {
		return name
	}
	name, _, _ = strings.Cut(rest, "=")
	return textproto.TrimString(name)
}

func (w *portalWriter) clean() {
	h := w.Header()
	w.gate.cookies.dropSet(h)
	for i, line := range h["Set-Cookie"] {
		h["Set-Cookie"][i] = w.gate.bound.out(w.ctx, line, w.holder)
	}
	w.old.rewrite(w.ctx, h)
	if h["Clear-Site-Data"] != nil {
		w.clearOthers(h)
	}
	if w.visit != nil {
		http.SetCookie(w.ResponseWriter, w.visit)
	}
	if w.private && len(h["Cache-Control"]) == 0 && len(h["Expires"]) == 0 {
		h["Cache-Control"] = []string{"private"}
	}
}

// dropSet removes our own cookies from what a portal sets.
func (c cookies) dropSet(h http.Header) {
	if lines := h["Set-Cookie"]; len(lines) > 0 {
		if h["Set-Cookie"] = slices.DeleteFunc(lines, func(line string) bool { return c.ours(setCookieName(line)) }); len(h["Set-Cookie"]) == 0 {
			delete(h, "Set-Cookie")
		}
	}
}

// clearOthers is for a portal that has the browser forget everything, such as at its
// sign-out: that would be our cookies as well, which a portal can't take away. So those
// that the browser has sent are taken away one by one, but for ours.
func (w *portalWriter) clearOthers(h http.Header) {
	var keep, gone []string
	clears := false
	for _, line := range h["Clear-Site-Data"] {
		for kind := range strings.SplitSeq(line, ",") {
			switch kind = textproto.TrimString(kind); kind {
			case `"cookies"`:
				clears = true
			case `"*"`:
				clears = true
				keep = append(keep, `"cache"`, `"storage"`)
			default:
				keep = append(keep, kind)
			}
		}
	}
	if !clears {
		return
	}
	delete(h, "Clear-Site-Data")
	if keep != nil {
		h["Clear-Site-Data"] = []string{strings.Join(keep, ", ")}
	}
	secure := ""
	if w.gate.cookies.secure {
		secure = "; Secure"
	}
	for _, line := range w.sent {
		for pair := range strings.SplitSeq(line, ";") {
			name, _, ok := strings.Cut(pair, "=")
			if name = textproto.TrimString(name); ok && name != "" && !w.gate.cookies.ours(name) {
				gone = append(gone, name+"=; Path=/; Max-Age=0"+secure)
			}
		}
	}
	h["Set-Cookie"] = append(gone, h["Set-Cookie"]...) // what the portal sets beside it holds
}
