package admin

import (
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
)

// backup sends a copy of the store. Where it breaks off, the connection does too, so
// that nobody takes a part for the whole.
func (h *Handler) backup(w http.ResponseWriter, r *http.Request) {
	var nothing struct{}
	if err := decode(w, r, &nothing); err != nil {
		h.fail(w, r, err)
		return
	}
	out := &begun{ResponseWriter: w}
	err := h.Backup(out)
	switch {
	case err == nil:
		for _, f := range h.Firms {
			f.note(r.Context(), By{Who: "admin"}, actionOf(r), audit.Event{})
		}
	case !out.yes:
		h.fail(w, r, err)
	default:
		if h.Log != nil {
			h.Log.ErrorContext(r.Context(), "the backup broke off", "error", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// begun is an answer whose type is told with its first byte.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.Header().Set("Content-Type", "application/octet-stream")
		b.Header().Set("Cache-Control", "no-store")
	}
	return b.ResponseWriter.Write(p)
}
