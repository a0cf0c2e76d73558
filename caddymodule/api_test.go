package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
)

// program is one of the firm's own programs, which uses a service token.
type program struct {
	h     *house
	token string
	id    string // ID of the token
}

// program creates a token with the scopes.
func (h *house) program(scopes ...servicetoken.Scope) program {
	h.t.Helper()
	out, err := h.office().CreateToken(h.t.Context(), "example", admin.CreateToken{Name: "portal", Scopes: scopes})
	if err != nil {
		h.t.Fatal(err)
	}
	return program{h, out.Text, out.ID}
}

// request returns a POST of JSON to a path of the API.
func (p program) request(path, body string, headers ...string) *http.Request {
	p.h.t.Helper()
	r, err := http.NewRequestWithContext(p.h.t.Context(), "POST", p.h.url+"/-/api/"+path, strings.NewReader(body))
	if err != nil {
		p.h.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+p.token)
	for i := 0; i+1 < len(headers); i += 2 {
		if r.Header.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			r.Header.Del(headers[i])
		}
	}
	return r
}

// do returns the status, and the answer's JSON.
func (p program) do(r *http.Request) (int, map[string]any) {
	p.h.t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.h.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(body, &out); err != nil {
		p.h.t.Fatalf("%s %s = %d %s: %v", r.Method, r.URL.Path, resp.StatusCode, body, err)
	}
	want := "application/json"
	if resp.StatusCode >= 400 {
		want = "application/problem+json"
	}
	if got := resp.Header.Get("Content-Type"); got != want || resp.Header.Get("Cache-Control") != "no-store" || len(resp.Header["Set-Cookie"]) > 0 {
		p.h.t.Errorf("%s = %d with Content-Type %q, Cache-Control %q, and cookies %v; want %s, no-store, and none", r.URL.Path, resp.StatusCode, got, resp.Header.Get("Cache-Control"), resp.Header["Set-Cookie"], want)
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			p.h.t.Errorf("%s has %s, which lets other origins read it", r.URL.Path, name)
		}
	}
	return resp.StatusCode, out
}

func (p program) post(path, body string, headers ...string) (int, map[string]any) {
	p.h.t.Helper()
	return p.do(p.request(path, body, headers...))
}

// With a token, a portal sends notices and updates contacts and companies.
func TestPortalCallsWithAServiceToken(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global, admin: freeAddress(t), firm: "staff boss@example.com\n\t\thome /portal/{company}"})
	all := h.program(servicetoken.Notify, servicetoken.DirectoryRead, servicetoken.DirectoryWrite)
	ok := func(path, body string) map[string]any {
		t.Helper()
		status, out := all.post(path, body)
		if status != 200 {
			t.Fatalf("POST %s %s = %d %v; want 200", path, body, status, out)
		}
		return out
	}
	// Repeating the update changes nothing.
	for range 2 {
		ok("companies/upsert", `{"id":"cedar","change":{"name":"Cedar LLC"}}`)
		ok("contacts/upsert", `{"email":"dana@example.com","change":{"first_name":"Dana","companies":["cedar"]}}`)
	}
	for range 2 {
		ok("contacts/upsert", `{"email":"dana@example.com","change":{"email":"dana.d@example.com"}}`)
	}
	if dana := h.contactOf("dana.d@example.com"); dana.FirstName != "Dana" || !slices.Equal(dana.Companies, []string{"cedar"}) {
		t.Errorf("Dana is %+v", dana)
	}
	if found := ok("contacts/list", `{"text":"dana"}`); len(found["contacts"].([]any)) != 1 {
		t.Errorf("contacts/list = %v; want Dana once", found)
	}
	status, first := all.post("notify", `{"company":"cedar","data":{"count":2,"urgent":true}}`, "Idempotency-Key", `"q-7"`)
	_, again := all.post("notify", `{"company":"cedar","data":{"count":2,"urgent":true},"key":"q-7"}`)
	if status != 200 || fmt.Sprint(first) != fmt.Sprint(again) || len(first["queued"].([]any)) != 1 {
		t.Errorf("notify = %d %v, and again %v", status, first, again)
	}
	if l := h.nextLetter("dana.d@example.com", 0); !strings.Contains(l.text, "2 new questions") {
		t.Errorf("the email is\n%s", l.text)
	}
	dana := h.in("dana.d@example.com")
	ok("contacts/disable", `{"email":"dana.d@example.com"}`)
	if dana.me() != nil {
		t.Error("Dana is signed in, though disabled")
	}
	ok("contacts/enable", `{"email":"dana.d@example.com"}`)
	ok("contacts/remove", `{"email":"dana.d@example.com"}`)
	ok("companies/remove", `{"id":"cedar"}`)

	// No token can create or change staff, sign them out, or change their address.
	olive := h.in("owner@example.com")
	for _, c := range [][2]string{
		{"contacts/upsert", `{"email":"mallory@example.com","change":{"role":"staff"}}`},
		{"contacts/upsert", `{"email":"ann@example.com","change":{"role":"staff"}}`},
		{"contacts/upsert", `{"email":"owner@example.com","change":{"first_name":"Oscar"}}`},
		{"contacts/upsert", `{"email":"owner@example.com","change":{"email":"mallory@example.com"}}`},
		{"contacts/upsert", `{"email":"owner@example.com","change":{"add_emails":["mallory@example.com"]}}`},
		{"contacts/upsert", `{"email":"owner@example.com","change":{"role":"client"}}`},
		{"contacts/upsert", `{"email":"mallory@example.com","change":{"email":"owner@example.com","first_name":"Mallory"}}`},
		{"contacts/upsert", `{"email":"boss@example.com","change":{"add_emails":["mallory@example.com"]}}`},
		{"contacts/disable", `{"email":"owner@example.com"}`},
		{"contacts/remove", `{"email":"owner@example.com"}`},
	} {
		if status, out := all.post(c[0], c[1]); status != 403 || out["code"] != "not_client" || out["remedy"] == nil {
			t.Errorf("POST %s %s = %d %v; want 403 not_client, with what to do", c[0], c[1], status, out)
		}
	}
	if status, out := all.post("contacts/upsert", `{"email":"ann@example.com","change":{"add_emails":["boss@example.com"]}}`); status == 200 {
		t.Errorf("Ann has an address of staff now: %v", out)
	}
	if olive.me() == nil || h.contactOf("owner@example.com").FirstName != "Olive" {
		t.Error("staff were signed out or changed")
	}

	// A rejected request names what is allowed.
	reader := h.program(servicetoken.DirectoryRead)
	for _, c := range []struct {
		what   string
		r      *http.Request
		status int
		code   string
	}{
		{"another scope", reader.request("notify", `{"company":"acme"}`), 403, "scope"},
		{"a path that isn't there", all.request("sessions/list", `{}`), 404, "not_found"},
		{"no JSON", all.request("notify", `company=acme`), 400, "bad_request"},
		{"another type", all.request("notify", `{"company":"acme"}`, "Content-Type", "text/plain"), 415, "media_type"},
		{"an unknown field", all.request("notify", `{"company":"acme","form":1}`), 400, "bad_request"},
		{"data that is a list", all.request("notify", `{"company":"acme","data":{"x":[1]}}`), 400, "bad_request"},
		{"too much", all.request("notify", `{"company":"`+strings.Repeat("a", 1<<20)+`"}`, "Expect", "100-continue"), 413, "too_large"},
		{"an unknown company", all.request("notify", `{"company":"acne"}`), 404, "unknown"},
		{"two keys", all.request("notify", `{"company":"acme","key":"a"}`, "Idempotency-Key", "b"), 400, "invalid"},
		{"a used key", all.request("notify", `{"company":"acme","key":"q-7"}`), 422, "key_used"},
		{"no token", all.request("notify", `{"company":"acme"}`, "Authorization", ""), 401, "no_token"},
		{"a session in place of a token", all.request("notify", `{"company":"acme"}`, "Authorization", "", "Cookie", "portal="+olive.cookie("portal")), 401, "no_token"},
		{"a password", all.request("notify", `{"company":"acme"}`, "Authorization", "Basic "+all.token), 401, "no_token"},
		{"a wrong token", program{h, all.token[:len(all.token)-1] + "-", ""}.request("notify", `{}`), 401, "no_token"},
		{"a browser's page", all.request("notify", `{"company":"acme"}`, "Sec-Fetch-Mode", "cors"), 403, "browser"},
		{"another site's page", all.request("notify", `{"company":"acme"}`, "Origin", "https://elsewhere.example"), 403, "browser"},
		{"our own page", all.request("notify", `{"company":"acme"}`, "Origin", h.url), 403, "browser"},
	} {
		status, out := all.do(c.r)
		if status != c.status || out["code"] != c.code && c.what != "a wrong token" || out["detail"] == "" || float64(status) != out["status"] {
			t.Errorf("%s = %d %v; want %d %s", c.what, status, out, c.status, c.code)
		}
	}
	if _, out := reader.post("notify", `{"company":"acme"}`); !strings.Contains(fmt.Sprint(out["detail"]), "notify") {
		t.Errorf("without the scope it says %v; want the scope's name", out)
	}
	for _, method := range []string{"GET", "OPTIONS", "PUT"} {
		r := all.request("notify", "")
		r.Method = method
		if method == "OPTIONS" {
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Origin", "https://elsewhere.example")
		}
		if status, out := all.do(r); status != 405 && status != 403 {
			t.Errorf("%s = %d %v; want it refused", method, status, out)
		}
	}

	// Neither the portal, nor a log or the history, ever contains a token.
	if _, err := http.DefaultClient.Do(all.request("../../assets/x", `{}`)); err != nil {
		t.Fatal(err)
	}
	r := olive.request("GET", "/x", nil, "Authorization", "Bearer "+all.token)
	olive.do(r)
	if seen, _ := h.portal.last(); seen.Header.Get("Authorization") != "" || seen.URI != "/x" {
		t.Errorf("the portal got %s with %v", seen.URI, seen.Header)
	}
	olive.do(olive.request("GET", "/x", nil, "Authorization", "Bearer of-the-portal"))
	if seen, _ := h.portal.last(); seen.Header.Get("Authorization") != "Bearer of-the-portal" {
		t.Error("the portal doesn't get its own token")
	}
	history, err := json.Marshal(h.history())
	if err != nil {
		t.Fatal(err)
	}
	secret := all.token[len(servicetoken.Prefix)+9:]
	if lines, err := os.ReadFile(log.path); err != nil || strings.Contains(string(lines), secret) || strings.Contains(string(history), secret) {
		t.Errorf("the log or the history has the token (%v)", err)
	}
	if !strings.Contains(string(history), `"by":"token","token":"`+all.id+`"`) {
		t.Errorf("the history doesn't say that it was by the token: %s", history)
	}
	list, err := h.office().ServiceTokens(t.Context(), "example")
	if err != nil || len(list.Tokens) != 2 || list.Tokens[0].LastUsed.IsZero() {
		t.Errorf("tokens list = %+v, %v; want two that were used", list, err)
	}
	if _, err := h.office().RevokeToken(t.Context(), "example", all.id); err != nil {
		t.Fatal(err)
	}
	if status, out := all.post("contacts/list", `{}`); status != 401 {
		t.Errorf("a revoked token = %d %v; want 401", status, out)
	}
	if status, _ := reader.post("contacts/list", `{}`); status != 200 {
		t.Errorf("the other token = %d; want 200", status)
	}
}

// A token revoked during its request does nothing more.
func TestATokenRevokedInFlightDoesNothing(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	p := h.program(servicetoken.DirectoryWrite)
	body := `{"email":"ann@example.com"}`
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /-/api/contacts/remove HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		strings.TrimPrefix(h.url, "http://"), p.token, len(body), body[:5])
	h.eventually("the server has begun to read it", func() bool {
		list, err := h.office().ServiceTokens(t.Context(), "example")
		return err == nil && !list.Tokens[0].LastUsed.IsZero()
	})
	if _, err := h.office().RevokeToken(t.Context(), "example", p.id); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, body[5:])
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 401 ") {
		t.Errorf("the request = %s, %v; want 401", answer, err)
	}
	if c := h.contactOf("ann@example.com"); c.ID == "" {
		t.Error("Ann was removed")
	}
}

// Guessing tokens is limited by network, and a program with a token by its token.
func TestServiceTokensAreLimited(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	p := h.program(servicetoken.DirectoryRead)
	begun := time.Now()
	refused := 0
	for n := range 800 {
		if status, _ := p.post("contacts/list", `{"limit":1}`); status == 429 {
			refused = n
			break
		}
	}
	if slow := time.Since(begun) > 15*time.Second; refused == 0 && !slow || refused > 0 && refused < 600 {
		t.Errorf("the token was refused at request %d, after %v; want after 600 at once", refused, time.Since(begun))
	}
	wrong := program{h, servicetoken.Prefix + "aaaaaaaa_" + strings.Repeat("a", 32), ""}
	last := 0
	for range 151 {
		last, _ = wrong.post("contacts/list", `{}`)
	}
	if last != 429 {
		t.Errorf("wrong token 151 = %d; want 429", last)
	}
	caddymodule.Advance(t, time.Hour)
	if status, _ := p.post("contacts/list", `{}`); status != 200 {
		t.Errorf("an hour later the right token = %d; want 200", status)
	}
}
