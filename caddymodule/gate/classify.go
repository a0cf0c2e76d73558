package gate

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Kind is what a request is to the gate. The zero value is the safe one.
type Kind uint8

// The kinds of request.
const (
	Protected Kind = iota // the portal, for who is signed in
	Open                  // the portal, for everyone
	Own                   // a page of ours
	Refused               // no request that a portal should see
)

// Public is one rule of what is open to everyone.
type Public struct {
	Methods []string // upper case; none: every method
	Paths   []string // "/favicon.ico" is that path alone, "/assets/*" all below it
}

type rules struct {
	prefix string
	public []Public
}

// classify judges the method and the path, and nothing else that a visitor could set.
func (ru rules) classify(r *http.Request) Kind {
	switch r.Method {
	case http.MethodConnect, http.MethodTrace, "TRACK":
		return Refused
	}
	p := r.URL.Path
	if p == "" || p[0] != '/' {
		if r.Method == http.MethodOptions && p == "*" {
			return Refused
		}
		return Protected
	}
	if below(ru.prefix, p) {
		return Own
	}
	for _, rule := range ru.public {
		if len(rule.Methods) > 0 && !slices.Contains(rule.Methods, r.Method) {
			continue
		}
		for _, pattern := range rule.Paths {
			if matches(pattern, p) && plain(r.URL) {
				return Open
			}
		}
	}
	return Protected
}

func below(prefix, p string) bool {
	return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
}

func matches(pattern, p string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(p, head)
	}
	return p == pattern
}

// plain reports whether everyone reads the path alike: us, a proxy, and an application
// that decodes once more, cuts off parameters or cleans dots. No other path is open.
func plain(u *url.URL) bool {
	p := u.Path
	if strings.ContainsAny(p, `\;%`) || u.RawPath != "" {
		return false
	}
	for i := range len(p) {
		if p[i] < 0x20 || p[i] == 0x7f {
			return false
		}
	}
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	if clean != p {
		return false
	}
	for segment := range strings.SplitSeq(p, "/") {
		if strings.HasSuffix(segment, ".") || strings.HasSuffix(segment, " ") {
			return false
		}
	}
	return true
}

// Answer is how a request is told that it needs a sign-in.
type Answer uint8

// The answers to who isn't signed in.
const (
	Bare   Answer = iota // a 401 without a page: scripts, sockets, other POSTs
	Prompt               // the prompt, at the very URL that was asked for
	Frame                // a page in a frame: one link that opens the whole window
	Held                 // a form that was being sent: it is held for them
)

// answerFor reads what the browser says about the request. None of it opens anything:
// it only chooses between ways to say no.
func (g *Gate) answerFor(r *http.Request) Answer {
	h := r.Header
	if !acceptsHTML(h) || h.Get("Upgrade") != "" || h.Get("X-Requested-With") != "" || prefetch(h) {
		return Bare
	}
	mode, dest := h.Get("Sec-Fetch-Mode"), h.Get("Sec-Fetch-Dest")
	if mode != "" && mode != "navigate" {
		return Bare
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch dest {
		case "", "document":
			return Prompt
		case "iframe", "frame", "embed", "object", "fencedframe":
			return Frame
		}
	case http.MethodPost:
		if urlencoded(h) && g.fromOurPages(r) && (dest == "" || dest == "document") &&
			r.ContentLength >= 0 && r.ContentLength <= maxHeld {
			return Held
		}
	}
	return Bare
}

// pageLoad reports whether a person opened this URL in a window of its own: a GET at
// top level, not a prefetch, an image, a frame or a script.
func pageLoad(r *http.Request) bool {
	h := r.Header
	mode, dest := h.Get("Sec-Fetch-Mode"), h.Get("Sec-Fetch-Dest")
	return r.Method == http.MethodGet && acceptsHTML(h) && !prefetch(h) && h.Get("X-Requested-With") == "" &&
		(mode == "" || mode == "navigate") && (dest == "" || dest == "document")
}

func acceptsHTML(h http.Header) bool {
	for _, accept := range h["Accept"] {
		for one := range strings.SplitSeq(accept, ",") {
			kind, params, _ := strings.Cut(one, ";")
			kind = strings.ToLower(strings.TrimSpace(kind))
			if kind == "text/html" || kind == "application/xhtml+xml" {
				q := strings.ReplaceAll(strings.ToLower(params), " ", "")
				return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
			}
		}
	}
	return false
}

func prefetch(h http.Header) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		v := strings.ToLower(h.Get(name))
		if strings.Contains(v, "prefetch") || strings.Contains(v, "prerender") || strings.Contains(v, "preview") {
			return true
		}
	}
	return false
}

func urlencoded(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded")
}

// fromOurPages wants the browser's word that a page of this origin sent the request;
// silence isn't enough.
func (g *Gate) fromOurPages(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	return strings.EqualFold(r.Header.Get("Origin"), g.URL.Scheme+"://"+g.URL.Host)
}

// returnPath makes of an untrusted `to` a path on this site that is safe to send
// people to: never another origin, never a page of ours but those that are places to
// be. What isn't such a path becomes "/".
func (ru rules) returnPath(to string) string {
	const home = "/"
	if len(to) < 2 || len(to) > maxTo || to[0] != '/' || to[1] == '/' {
		return home
	}
	for i := range len(to) {
		if c := to[i]; c <= 0x20 || c == 0x7f || c == '\\' {
			return home
		}
	}
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	// Some readers decode before they resolve, so what is behind the escapes counts too.
	decoded := u.Path
	for range 3 {
		for i := range len(decoded) {
			if c := decoded[i]; c < 0x20 || c == 0x7f || c == '\\' {
				return home
			}
		}
		if strings.Contains(decoded, "//") || strings.HasPrefix(path.Clean(decoded), "//") {
			return home
		}
		if ru.ours(decoded) {
			return home
		}
		next, err := url.PathUnescape(decoded)
		if err != nil || next == decoded {
			break
		}
		decoded = next
	}
	return u.String()
}

// ours reports whether a path is a page of ours that is no place to be sent to.
func (ru rules) ours(p string) bool {
	clean := strings.ToLower(path.Clean(p))
	prefix := strings.ToLower(ru.prefix)
	if !below(prefix, clean) {
		return false
	}
	switch rest := clean[len(prefix):]; {
	case rest == "/companies", rest == "/account":
		return false
	case strings.HasPrefix(rest, "/reports/"), strings.HasPrefix(rest, "/staff/"), rest == "/staff":
		return false
	}
	return true
}

const (
	maxTo   = 4 << 10  // bytes of a `to`
	maxHeld = 64 << 10 // bytes of a form that is held for who isn't signed in
)
