// Package api serves POST {prefix}/api/…, by which a firm's own programs, such as its portal, send notices and keep
// contacts and companies in step, with a service token. The JSON is that of package admin, whose actions it calls.
//
// It is for programs alone: requests of browsers are refused, cookies count for nothing, and no other origin may read an
// answer.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Path follows the prefix in the path of every request.
const Path = "/api/"

// maxBody is how many bytes of JSON a request may have.
const maxBody = 1 << 20

// Handler answers the requests of one firm. Set its fields in one literal before use.
type Handler struct {
	Firm     admin.Firm
	Networks *limit.Networks
	ClientIP func(*http.Request) netip.Addr // invalid where it isn't known
	Insecure func(*http.Request) bool       // it comes without TLS, though it is to come with it
	Log      *slog.Logger
}

// operation is the operation of a path.
type operation struct {
	scope servicetoken.Scope
	do    func(ctx context.Context, f admin.Firm, by admin.By, action string, r *http.Request, body []byte) (any, error) // nil: the body is a report
}

// operations are all there are, by the path behind Path.
var operations = map[string]operation{
	"notify":            {servicetoken.Notify, act(admin.Firm.Notify)},
	"contacts/list":     {servicetoken.DirectoryRead, act(admin.Firm.ListContacts)},
	"contacts/upsert":   {servicetoken.DirectoryWrite, act(admin.Firm.UpsertContact)},
	"contacts/disable":  {servicetoken.DirectoryWrite, act(admin.Firm.DisableContact)},
	"contacts/enable":   {servicetoken.DirectoryWrite, act(admin.Firm.EnableContact)},
	"contacts/remove":   {servicetoken.DirectoryWrite, act(admin.Firm.RemoveContact)},
	"companies/list":    {servicetoken.DirectoryRead, act(admin.Firm.ListCompanies)},
	"companies/upsert":  {servicetoken.DirectoryWrite, act(admin.Firm.UpsertCompany)},
	"companies/remove":  {servicetoken.DirectoryWrite, act(admin.Firm.RemoveCompany)},
	"companies/restore": {servicetoken.DirectoryWrite, act(admin.Firm.RestoreCompany)},
	"reports/publish":   {servicetoken.Reports, nil},
	"reports/list":      {servicetoken.Reports, act(admin.Firm.ListReports)},
	"reports/remove":    {servicetoken.Reports, act(admin.Firm.RemoveReport)},
}

// act makes an operation of an action.
func act[In, Out any](do func(admin.Firm, context.Context, In) (Out, error)) func(context.Context, admin.Firm, admin.By, string, *http.Request, []byte) (any, error) {
	return func(ctx context.Context, f admin.Firm, by admin.By, action string, r *http.Request, body []byte) (any, error) {
		var in In
		if err := admin.Decode(r, body, &in); err != nil {
			return nil, err
		}
		return admin.Do(ctx, f, by, action, do, in)
	}
}

var (
	errNoToken = &admin.Error{Status: http.StatusUnauthorized, Code: "no_token", Reason: "there is no service token that is good here",
		Remedy: "send the header Authorization: Bearer TOKEN; caddy doorpost tokens create makes one"}
	errBrowser = &admin.Error{Status: http.StatusForbidden, Code: "browser", Reason: "this is for programs of the firm, not for browsers",
		Remedy: "call it from the server, where the token is safe"}
	errInsecure = &admin.Error{Status: http.StatusForbidden, Code: "insecure", Reason: "the request came without TLS, so that others could read the token",
		Remedy: "use the https:// URL; make a new token, and revoke this one"}
	errNetwork = &admin.Error{Status: http.StatusTooManyRequests, Code: "limited", Reason: "many requests with wrong tokens came from this network", Remedy: "correct the token, and try again in a few minutes"}
	errRate    = &admin.Error{Status: http.StatusTooManyRequests, Code: "limited", Reason: "this token was used very often just now", Remedy: "wait a second, then go on; 10 requests a second are allowed, and 600 at once"}
)

// ServeHTTP answers the request for a path behind Path.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, path string) {
	out, err := h.serve(w, r, path)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err != nil {
		h.fail(w, r, path, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the one error here is that nobody listens any more
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, path string) (any, error) {
	op, found := operations[path]
	switch {
	case isBrowser(r.Header):
		return nil, errBrowser
	case !found:
		return nil, &admin.Error{Status: http.StatusNotFound, Code: "not_found", Reason: "there is nothing under this path", Remedy: "docs/notices.md lists the paths"}
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return nil, &admin.Error{Status: http.StatusMethodNotAllowed, Code: "method", Reason: "this isn't the method here", Remedy: "use POST"}
	case h.Insecure(r):
		return nil, errInsecure
	}
	ctx := r.Context()
	text, ok := bearer(r.Header)
	if !ok {
		return nil, errNoToken
	}
	ip := h.ClientIP(r)
	if !h.Networks.Allow(limit.ServiceToken, ip) { // counted before anything comes of it
		return nil, errNetwork
	}
	token, proof, err := h.verify(ctx, text)
	if err != nil {
		return nil, err
	}
	h.Networks.Refund(limit.ServiceToken, ip)
	h.Firm.ServiceTokens.Used(token.ID)
	switch {
	case !token.Has(op.scope):
		return nil, &admin.Error{Status: http.StatusForbidden, Code: "scope", Reason: "this token may not do that: it has no scope " + string(op.scope),
			Remedy: "make one that may, with: caddy doorpost tokens create --scope " + string(op.scope)}
	case !h.Networks.AllowServiceToken(token.ID):
		return nil, errRate
	}
	if op.do == nil {
		return h.publish(w, r, token, text)
	}
	body, err := web.ReadBody(w, r, maxBody)
	if err != nil {
		return nil, bodyError(err)
	}
	if token, proof, err = h.verify(ctx, text); err != nil { // a body may take its time
		return nil, err
	}
	f := h.Firm
	f.Proof = []store.Op{proof}
	out, err := op.do(directory.ClientsOnly(ctx), f, admin.By{Who: "token", Token: token.ID}, path, r, []byte(body))
	if errors.Is(err, store.ErrConflict) {
		if _, _, gone := h.verify(ctx, text); gone != nil {
			return nil, gone
		}
	}
	return out, err
}

// publish takes a report as it comes. The token has to be good still when all of it is there.
func (h *Handler) publish(w http.ResponseWriter, r *http.Request, token servicetoken.Token, text string) (any, error) {
	out, err := h.Firm.PublishFrom(w, r, admin.By{Who: "token", Token: token.ID}, func(ctx context.Context) ([]store.Op, error) {
		_, proof, err := h.verify(ctx, text)
		return []store.Op{proof}, err
	})
	if errors.Is(err, store.ErrConflict) {
		if _, _, gone := h.verify(r.Context(), text); gone != nil {
			return nil, gone
		}
	}
	return out, err
}

func (h *Handler) verify(ctx context.Context, text string) (servicetoken.Token, store.Op, error) {
	token, proof, err := h.Firm.ServiceTokens.Verify(ctx, text)
	if errors.Is(err, servicetoken.ErrUnknown) {
		err = errNoToken
	}
	return token, proof, err
}

// isBrowser reports whether a browser made the request: programs send none of these headers, and no script can
// leave them out.
func isBrowser(h http.Header) bool {
	return h.Get("Origin") != "" || h.Get("Sec-Fetch-Mode") != "" || h.Get("Sec-Fetch-Site") != "" || h.Get("Sec-Fetch-Dest") != ""
}

// bearer returns the token of the header Authorization.
func bearer(h http.Header) (text string, ok bool) {
	lines := h.Values("Authorization")
	if len(lines) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(lines[0], " ")
	text = strings.TrimSpace(text)
	return text, strings.EqualFold(scheme, "Bearer") && text != ""
}

func bodyError(err error) error {
	failure, ok := errors.AsType[*web.Failure](err)
	switch {
	case ok && failure.Status == http.StatusRequestEntityTooLarge:
		return &admin.Error{Status: failure.Status, Code: "too_large", Reason: "the body is larger than 1 MiB", Remedy: "split it in two"}
	case ok && failure.Status == http.StatusRequestTimeout:
		return &admin.Error{Status: failure.Status, Code: "too_slow", Reason: "the body took longer than 10 seconds", Remedy: "try again"}
	}
	return &admin.Error{Status: http.StatusBadRequest, Code: "bad_request", Reason: "the body can't be read", Remedy: "send JSON"}
}

// problem is an error as RFC 9457 writes it, with what package admin's errors say beside that.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Field  string `json:"field,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, path string, err error) {
	e := admin.ErrorOf(err)
	if e.Status >= 500 {
		if r.Context().Err() == nil {
			h.Log.ErrorContext(r.Context(), "request with a service token failed", "action", path, "error", err)
		}
		if e.Code == "internal" || e.Code == "untrusted_store" {
			e = &admin.Error{Status: e.Status, Code: e.Code, Reason: "the server can't do this now", Remedy: "try again; its log says more"}
		}
	}
	header := w.Header()
	switch e.Status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Bearer realm="api"`)
	case http.StatusTooManyRequests:
		header.Set("Retry-After", "2")
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "5")
	}
	header.Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(problem{"about:blank", http.StatusText(e.Status), e.Status, e.Error(), e.Code, e.Field, e.Remedy})
}
