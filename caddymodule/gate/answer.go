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

// portalWriter is the response on its way from the portal: it may not set our cookies,
// and what was meant for one person isn't left for a shared cache to give to another.
type portalWriter struct {
	http.ResponseWriter
	gate    *forwarder
	private bool           // for one person, or one visit
	open    bool           // though private, of a path that is open to everyone: caches do what the portal says
	shared  bool           // on a computer that others use
	key     bool           // the page's URL may be an open company's old link
	holder  upstream.Owner // for whom the portal's session cookies are bound
	apart   bool           // a session cookie of theirs was kept back, as it began at a page of no company
	passed  Passed         // nothing: nobody is signed in
	old     outgoing       // nothing: there are no old links to rewrite
	visit   *http.Cookie   // our own of a visit, that goes with the answer; nil: none
	sent    []string       // the request's lines of cookies
	ctx     context.Context
	done    bool
	headers int // how many were sent
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
	// What has been added by now are trailers, in which no browser looks for cookies, and no cache for
	// what it may keep. But a proxy in front of us may make headers of them.
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
		owners = w.gate.bound.OwnersGone(w.sent, lines)
		host := w.gate.answers.Sites.At(w.old.host).Hostname()
		for i, line := range lines {
			out, owner := w.gate.bound.Seal(w.ctx, line, host, w.holder)
			if w.apart && (out != line || owner != "") {
				w.gate.bound.AdviseApart(line)
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

// withinSite is the Referrer-Policy by which browsers tell this site a page's whole URL, and
// others its origin alone.
const withinSite = "strict-origin-when-cross-origin"

// keepWithinSite has browsers keep a page's URL within this site, where nothing else was said.
func keepWithinSite(h http.Header) {
	if len(h["Referrer-Policy"]) == 0 {
		h.Set("Referrer-Policy", withinSite)
	}
}

// keepKeyWithinSite has browsers tell no other site the URL of a page that may be an old link.
func keepKeyWithinSite(h http.Header) {
	if slices.ContainsFunc(h["Referrer-Policy"], tellsAll) {
		h["Referrer-Policy"] = []string{withinSite}
	}
}

// tellsAll reports whether by a Referrer-Policy browsers tell other sites a page's whole URL.
func tellsAll(policy string) bool {
	policy = strings.ToLower(policy)
	return strings.Contains(policy, "unsafe-url") || strings.Contains(policy, "no-referrer-when-downgrade")
}

// clearOthers is for a portal that has the browser forget everything, such as at its
// sign-out: that would be our cookies as well, which a portal can't take away. So those
// that the browser has sent are taken away one by one, but for ours; owners of the portal's are, too.
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
	h["Set-Cookie"] = append(gone, h["Set-Cookie"]...) // what the portal sets beside it holds
}
