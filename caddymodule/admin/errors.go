package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// Error is why a request wasn't done, for an operator to read. It never repeats a
// token of an old link.
type Error struct {
	Status int                  `json:"-"`     // the HTTP status
	Reason string               `json:"error"` // what is wrong
	Code   string               `json:"code"`  // what a program goes by; see the package's doc. "": not from a Handler
	Field  string               `json:"field,omitempty"`
	Remedy string               `json:"remedy,omitempty"` // what to do now
	Rows   []directory.RowError `json:"rows,omitempty"`   // the bad rows of a file, the first hundred
	More   int                  `json:"more,omitempty"`   // how many further ones there are
}

func (e *Error) Error() string {
	switch e.Code {
	case "unknown", "staff", "disabled", "limited", "changed", "not_waiting", "choose": // whose reasons name the thing itself
		return e.Reason
	}
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

// Write answers a request with the error.
func (e *Error) Write(w http.ResponseWriter) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	writeJSON(w, e.Status, e)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // the one error here is that nobody listens any more
}

// ErrorOf returns what the operator is told of an error: of one that isn't an Error yet, with a status of 500 if nobody expected it.
func ErrorOf(err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	if rows, ok := errors.AsType[*directory.RowErrors](err); ok {
		return &Error{Status: 400, Code: "rows", Reason: "the file has rows that can't be taken, so nothing was changed",
			Remedy: "correct them and import the file again", Rows: rows.Rows, More: rows.More}
	}
	if field, ok := errors.AsType[*directory.FieldError](err); ok {
		return fieldError(field)
	}
	if size, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Status: 413, Code: "too_large", Reason: fmt.Sprintf("the body is larger than %d MiB", size.Limit>>20), Remedy: "split it in two"}
	}
	switch {
	case errors.Is(err, directory.ErrChanged):
		return &Error{Status: 409, Code: "changed", Field: "version", Reason: "somebody has changed this since then, so nothing was changed",
			Remedy: "read it again, see what is different, and send the change with the version that it has now"}
	case errors.Is(err, store.ErrConflict):
		return &Error{Status: 409, Code: "conflict", Reason: "others changed the same thing at the same time, so nothing was changed", Remedy: "try again"}
	case errors.Is(err, anchor.ErrUntrusted):
		out := &Error{Status: 503, Code: "untrusted_store", Reason: err.Error(), Remedy: "caddy doorpost doctor says more"}
		if loss, ok := errors.AsType[*anchor.Loss](err); ok {
			out.Reason, out.Remedy = loss.What, loss.Do
		}
		return out
	case errors.Is(err, store.ErrUnavailable):
		return &Error{Status: 503, Code: "unavailable", Reason: err.Error(), Remedy: "look whether the disk is full or the store is damaged, then try again"}
	}
	return &Error{Status: 500, Code: "internal", Reason: err.Error(), Remedy: "the server's log says more"}
}

// fieldError says what to do about a field that can't be taken.
func fieldError(err *directory.FieldError) *Error {
	out := &Error{Status: 400, Code: "invalid", Field: err.Field, Reason: err.Reason}
	switch {
	case errors.Is(err, directory.ErrTaken):
		out.Status, out.Code = 409, "taken"
		switch err.Field {
		case "id":
			out.Remedy = "change that company with companies set, or choose another id"
		case "legacy_tokens":
			out.Remedy = "an old link leads to one company; take it from that one first"
		default:
			out.Remedy = "an address belongs to one contact; change that one with contacts set, or remove it first"
		}
	case errors.Is(err, directory.ErrStaff):
		out.Status, out.Code, out.Remedy = 409, "staff", "take the address out of staff in the Caddyfile and reload; then do this again"
	case errors.Is(err, directory.ErrNotClient):
		out.Status, out.Code, out.Remedy = 403, "not_client", "a service token changes clients only; change staff with the commands or on the staff pages"
	case errors.Is(err, directory.ErrCaddyfile):
		out.Status, out.Code, out.Remedy = 409, "caddyfile", "take it out of upgraded in the Caddyfile and reload; then do this again"
	case errors.Is(err, directory.ErrUnknown):
		out.Remedy = "companies list shows which there are; companies add adds one"
	}
	return out
}

func unknownContact(a address.Address) *Error {
	return &Error{Status: 404, Code: "unknown", Field: "email", Reason: fmt.Sprintf("no contact has the address %s", a),
		Remedy: "look for the right one with contacts list"}
}

// unknownCompany is the error of a company that there is none of.
func (f Firm) unknownCompany(ctx context.Context, id string) *Error {
	out := &Error{Status: 404, Code: "unknown", Field: "id", Reason: fmt.Sprintf("there is no company with the id %q", id),
		Remedy: "look for the right one with companies list"}
	if meant, err := f.Directory.SimilarCompanies(ctx, id); err == nil && meant != "" {
		out.Reason += "; did you mean " + meant + "?"
	}
	return out
}

// parseAddress reads an address of a request.
func parseAddress(s string) (address.Address, error) {
	a, err := address.Parse(s)
	if err != nil {
		return "", &Error{Status: 400, Code: "invalid", Field: "email", Reason: err.Error(), Remedy: "write it as name@example.com"}
	}
	return a, nil
}
