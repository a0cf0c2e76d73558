package gate

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// portalWriter filters the portal's response: the portal can't set the gate's cookies, and shared
// caches don't store responses for one person.
type portalWriter struct {
	http.ResponseWriter
	gate    *forwarder
	private bool           // for one person or one visit
	open    bool           // although private, of a public path: caches follow the portal's headers
	shared  bool           // on a shared computer
	key     bool           // the page's URL may be an open company's old link
	owner   upstream.Owner // owner to whom the portal's session cookies are bound
	apart   bool           // a session cookie was withheld because it began at a page of no company
	passed  Passed         // zero if nobody is signed in
	old     outgoing       // zero if there are no old links to rewrite
	visit   *http.Cookie   // the visit's cookie to set with the response; nil if none
	sent    []string       // the request's Cookie lines
	ctx     context.Context
	done    bool
	headers int // number of headers that were sent
}

// Unwrap gives http.ResponseController access to Flush, Hijack and the deadlines.
func (w *portalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *portalWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.done = true
		w.clean()
		w.ResponseWriter.WriteHeader(status)
		return
	}
	// Informational responses set no cookies; those of the final response may be in the header
	// already.
	h := w.Header()
	cookies := h["Set-Cookie"]
	delete(h, "Set-Cookie")
	w.old.rewrite(w.ctx, h)
	if w.private && !w.open {
		web.KeepPersonal(h, w.shared)
	}
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

// ReadFrom lets the kernel send a file without copying it through this process.
func (w *portalWriter) ReadFrom(src io.Reader) (int64, error) {
	if !w.done {
		w.done = true
		w.clean()
	}
	return io.Copy(w.ResponseWriter, src)
}

// FlushError sends buffered data. A handler may flush before it writes; the header is sent then,
// too.
func (w *portalWriter) FlushError() error {
	if !w.done {
		w.done = true
		w.clean()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// serve runs the portal. A portal that writes nothing has answered, too.
func (w *portalWriter) serve(portal http.Handler, r *http.Request) {
	if k, ok := w.ResponseWriter.(upstream.HeaderKeeper); ok {
		k.Keep(nil)
		if w.private && !w.open {
			k.Keep(web.IsCacheHeader)
		}
		if w.key {
			k.Mend(keepKeyWithinSite)
		}
	}
	portal.ServeHTTP(w, r)
	if !w.done {
		w.clean()
		return
	}
	// Headers added from now on are trailers, in which browsers ignore cookies and caches ignore
	// cache headers. But a proxy in front may turn them into headers.
	h := w.Header()
	if len(h) == w.headers && h["Trailer"] == nil {
		return
	}
	for name := range h {
		field := strings.TrimPrefix(name, http.TrailerPrefix)
		if field == "Set-Cookie" || w.private && !w.open && web.IsCacheHeader(field) {
			delete(h, name)
		}
	}
}

func (w *portalWriter) clean() {
	h := w.Header()
	w.gate.cookies.DropSet(h)
	var owners []string
	if lines := h["Set-Cookie"]; len(lines) > 0 {
		owners = w.gate.bound.ObsoleteOwners(w.sent, lines)
		host := w.gate.answers.Sites.At(w.old.host).Hostname()
		for i, line := range lines {
			out, owner := w.gate.bound.Seal(w.ctx, line, host, w.owner)
			if w.apart && (out != line || owner != "") {
				w.gate.bound.NoteSeparateSession(line)
			}
			if owner != "" {
				owners = append(owners, owner)
			}
			lines[i] = out
		}
	}
	w.old.rewrite(w.ctx, h)
	if owners != nil {
		h["Set-Cookie"] = append(h["Set-Cookie"], owners...)
	}
	if h["Clear-Site-Data"] != nil {
		w.clearOthers(h)
	}
	if w.key {
		keepKeyWithinSite(h)
	}
	if w.visit != nil {
		http.SetCookie(w.ResponseWriter, w.visit)
	}
	switch {
	case w.private && !w.open:
		web.KeepPersonal(h, w.shared)
	case w.private && len(h["Cache-Control"]) == 0 && len(h["Expires"]) == 0:
		h["Cache-Control"] = []string{"private"}
	}
	w.headers = len(h)
}

// withinSite is the Referrer-Policy with which browsers send a page's whole URL only within this
// site, and its origin to others.
const withinSite = "strict-origin-when-cross-origin"

// keepWithinSite sets withinSite unless another policy is set.
func keepWithinSite(h http.Header) {
	if len(h["Referrer-Policy"]) == 0 {
		h.Set("Referrer-Policy", withinSite)
	}
}

// keepKeyWithinSite makes browsers send the URL of a page that may be an old link to no other site.
func keepKeyWithinSite(h http.Header) {
	if slices.ContainsFunc(h["Referrer-Policy"], tellsAll) {
		h["Referrer-Policy"] = []string{withinSite}
	}
}

// tellsAll reports whether a Referrer-Policy makes browsers send a page's whole URL to other sites.
func tellsAll(policy string) bool {
	policy = strings.ToLower(policy)
	return strings.Contains(policy, "unsafe-url") || strings.Contains(policy, "no-referrer-when-downgrade")
}

// clearOthers handles a portal that makes the browser delete all cookies, such as at its sign-out:
// that would include the gate's cookies, which a portal must not delete. So the cookies that the
// browser has sent are deleted one by one, except the gate's; owner cookies are deleted too.
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
	if w.gate.cookies.Secure {
		secure = "; Secure"
	}
	for _, line := range w.sent {
		for pair := range strings.SplitSeq(line, ";") {
			name, _, ok := strings.Cut(pair, "=")
			if name = textproto.TrimString(name); ok && name != "" && (!w.gate.cookies.IsOurs(name) || w.gate.cookies.IsOwner(name)) {
				gone = append(gone, name+"=; Path=/; Max-Age=0"+secure)
			}
		}
	}
	h["Set-Cookie"] = append(gone, h["Set-Cookie"]...) // cookies that the portal sets in the same response stay
}
