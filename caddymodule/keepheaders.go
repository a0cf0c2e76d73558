package caddymodule

import (
	"io"
	"net/http"
	"reflect"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Caddy's header handler changes an answer as it is sent where it deletes a field or is told to wait
// (deferred): then it stands between the gate and the client, and would replace what the gate has
// just set. So the gate's own headers are noted before and put back behind it.

// keepHeaders returns the ResponseWriter that the gate is to use: w itself, or, where handlers in
// front of the gate may change headers as they are sent, one that keeps those of the gate.
func keepHeaders(w http.ResponseWriter) http.ResponseWriter {
	var last *caddyhttp.ResponseWriterWrapper // of all, that nearest to the client
	for at := w; ; {
		wrapper, ok := at.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		if changes(at) {
			last = reflect.ValueOf(at).Elem().FieldByName(wrapperField).Interface().(*caddyhttp.ResponseWriterWrapper)
		}
		at = wrapper.Unwrap()
	}
	if last == nil {
		return w
	}
	k := &headerKeeper{ResponseWriter: w}
	last.ResponseWriter = &keptWriter{last.ResponseWriter, k}
	return k
}

// wrapperField is the field that Caddy's own writers embed.
const wrapperField = "ResponseWriterWrapper"

// changers has by type whether a writer may change headers; see changes.
var changers sync.Map

// changes reports whether a writer is one of a handler's that could change headers: each that
// embeds Caddy's wrapper, but for the recorder of the access log.
func changes(w http.ResponseWriter) bool {
	t := reflect.TypeOf(w)
	if known, ok := changers.Load(t); ok {
		return known.(bool)
	}
	yes := false
	if _, recorder := w.(caddyhttp.ResponseRecorder); !recorder && t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		field, ok := t.Elem().FieldByName(wrapperField)
		yes = ok && field.Anonymous && field.Type == reflect.TypeFor[*caddyhttp.ResponseWriterWrapper]()
	}
	changers.Store(t, yes)
	return yes
}

// headerKeeper is the ResponseWriter of the gate. It implements upstream.HeaderKeeper.
type headerKeeper struct {
	http.ResponseWriter
	keep func(name string) bool // nil: nothing is kept
	mend func(http.Header)      // nil: nothing is changed
	kept http.Header            // what it says to keep, as the gate has sent it; nil: nothing was sent yet
}

func (k *headerKeeper) Keep(keep func(name string) bool) { k.keep = keep }

func (k *headerKeeper) Mend(fix func(http.Header)) { k.mend = fix }

func (k *headerKeeper) Unwrap() http.ResponseWriter { return k.ResponseWriter }

func (k *headerKeeper) WriteHeader(status int) {
	k.note()
	k.ResponseWriter.WriteHeader(status)
}

func (k *headerKeeper) Write(b []byte) (int, error) {
	k.noteOnce()
	return k.ResponseWriter.Write(b)
}

func (k *headerKeeper) ReadFrom(r io.Reader) (int64, error) {
	k.noteOnce()
	return io.Copy(k.ResponseWriter, r)
}

func (k *headerKeeper) FlushError() error {
	k.noteOnce()
	return http.NewResponseController(k.ResponseWriter).Flush()
}

func (k *headerKeeper) noteOnce() {
	if k.kept == nil {
		k.note()
	}
}

// note remembers the headers to keep, in values of its own.
func (k *headerKeeper) note() {
	k.kept = http.Header{}
	if k.keep == nil {
		return
	}
	for name, values := range k.Header() {
		if k.keep(name) {
			k.kept[name] = append([]string(nil), values...)
		}
	}
}

// restore puts them back.
func (k *headerKeeper) restore(h http.Header) {
	if k.keep == nil || k.kept == nil {
		return
	}
	for name := range h {
		if _, kept := k.kept[name]; !kept && k.keep(name) {
			delete(h, name)
		}
	}
	for name, values := range k.kept {
		h[name] = values
	}
}

// keptWriter stands behind all handlers that may have changed headers.
type keptWriter struct {
	http.ResponseWriter
	keeper *headerKeeper
}

func (w *keptWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *keptWriter) WriteHeader(status int) {
	w.keeper.restore(w.Header())
	if w.keeper.mend != nil {
		w.keeper.mend(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *keptWriter) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return from.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
}

func (w *keptWriter) Push(target string, opts *http.PushOptions) error {
	if p, ok := w.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}
