package caddymodule_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
)

// openLibrary opens a house with a folder for reports, and returns the folder.
func openLibrary(t *testing.T, l layout) (h *house, folder string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "reports")
	l.admin, l.firm = freeAddress(t), l.firm+"\n\t\treports "+folder
	return openHouse(t, l), folder
}

// publish publishes a report and returns its path on the site.
func (h *house) publish(company, title, name, content string) (id, path string) {
	h.t.Helper()
	out, err := h.office().PublishReport(h.t.Context(), "example", admin.PublishReport{Company: company, Title: title, Name: name, Body: strings.NewReader(content)})
	if err != nil {
		h.t.Fatal(err)
	}
	path, ok := strings.CutPrefix(out.Report.URL, h.url)
	if !ok {
		h.t.Fatalf("the report's URL is %s; want one of %s", out.Report.URL, h.url)
	}
	return out.Report.ID, path
}

func TestReportsAreForTheContactsOfTheirCompany(t *testing.T) {
	h, _ := openLibrary(t, layout{})
	_, first := h.publish("acme", "June statement", "june.pdf", "%PDF june")
	_, second := h.publish("birch", "Tax <b>return</b>", "Übersicht.xlsx", "birch's")
	_, third := h.publish("acme", "", "july.pdf", "%PDF july")
	list := func(b *browser) string {
		t.Helper()
		a := b.open("/-/reports/")
		if a.StatusCode != http.StatusOK {
			t.Fatalf("GET /-/reports/ = %d\n%s", a.StatusCode, a.body)
		}
		return a.body
	}
	inOrder := func(body string, want ...string) bool {
		for _, s := range want {
			_, after, found := strings.Cut(body, s)
			if !found {
				return false
			}
			body = after
		}
		return true
	}
	ann, bob, nobody, owner := h.browser(), h.browser(), h.browser(), h.browser()
	for b, email := range map[*browser]string{ann: "ann@example.com", bob: "bob@example.com", nobody: "nameless@example.com", owner: "owner@example.com"} {
		b.signIn(email)
	}
	if body := list(ann); !inOrder(body, third, ">july", "New", "Acme Ltd", second, "Tax &lt;b&gt;return", "New", "Birch &amp; Sons", first, "June statement", "New", "</ul>") {
		t.Errorf("Ann's list:\n%s\nwant hers, the newest first, all new", body)
	}
	if body := list(bob); !inOrder(body, third, first, "</ul>") || strings.Contains(body, second) || strings.Contains(body, "Acme Ltd") {
		t.Errorf("Bob's list:\n%s\nwant those of his one company, without its name", body)
	}
	if body := list(nobody); strings.Contains(body, "<li>") || !strings.Contains(body, "There is no report for you yet") {
		t.Errorf("the list of somebody without a company:\n%s", body)
	}
	if body := list(owner); !inOrder(body, third, "Acme Ltd", second, "Birch &amp; Sons", first) || strings.Contains(body, ">New<") {
		t.Errorf("the list of staff:\n%s\nwant all, with companies", body)
	}
	if a := bob.open("/-/companies"); !strings.Contains(a.body, `href="/-/reports/"`) || !strings.Contains(a.body, "2 new") {
		t.Errorf("Bob's companies don't lead to the reports:\n%s", a.body)
	}
	if a := bob.open("/-/account"); !strings.Contains(a.body, `href="/-/reports/"`) {
		t.Errorf("Bob's account doesn't lead to the reports:\n%s", a.body)
	}
	if a := nobody.open("/-/account"); strings.Contains(a.body, `href="/-/reports/"`) {
		t.Errorf("the account of somebody without reports leads there:\n%s", a.body)
	}
	if a := nobody.open("/-/reports"); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/-/reports/" {
		t.Errorf("GET /-/reports = %d to %s", a.StatusCode, a.Header.Get("Location"))
	}

	a := bob.open(third)
	want := map[string]string{"Content-Type": "application/pdf", "Content-Disposition": `attachment; filename="july.pdf"`, "Content-Length": "9", "Accept-Ranges": "bytes",
		"Cache-Control": "private, no-cache, no-transform", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
		"Content-Security-Policy": "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
	if a.StatusCode != http.StatusOK || a.body != "%PDF july" {
		t.Errorf("GET a report = %d, %q", a.StatusCode, a.body)
	}
	for name, value := range want {
		if got := a.Header.Get(name); got != value {
			t.Errorf("a report's %s is %q; want %q", name, got, value)
		}
	}
	if body := list(bob); strings.Count(body, ">New<") != 1 || strings.Count(list(ann), ">New<") != 3 {
		t.Errorf("after one download Bob's list is\n%s\nwant one new; and Ann's is as before", body)
	}
	if a := owner.open(second); a.StatusCode != http.StatusOK || a.body != "birch's" || a.Header.Get("Content-Disposition") != `attachment; filename="_bersicht.xlsx"; filename*=UTF-8''%C3%9Cbersicht.xlsx` {
		t.Errorf("staff's GET = %d, %q, %v", a.StatusCode, a.body, a.Header)
	}

	// Another company's report and an unknown one get the same response.
	foreign, unknown := bob.open(second), bob.open("/-/reports/"+strings.Repeat("v", 25))
	for _, h := range []http.Header{foreign.Header, unknown.Header} {
		h.Del("Date")
	}
	if foreign.StatusCode != http.StatusNotFound || foreign.body != unknown.body || fmt.Sprint(foreign.Header) != fmt.Sprint(unknown.Header) {
		t.Errorf("another company's report = %d, %v\n%s\nan unknown one = %d, %v\n%s", foreign.StatusCode, foreign.Header, foreign.body, unknown.StatusCode, unknown.Header, unknown.body)
	}
	for _, path := range []string{"/-/reports/x/../" + third[len("/-/reports/"):], "/-/reports/" + strings.ToUpper(third[len("/-/reports/"):]), third + "/", third + ".part", "/-/reports/..%2f" + third[len("/-/reports/"):], "/-/reports/" + strings.Repeat("0", 600)} {
		if a := bob.open(path); a.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s = %d; want 404", path, a.StatusCode)
		}
	}
	if a := bob.send(third, url.Values{}); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST a report = %d, Allow %q", a.StatusCode, a.Header.Get("Allow"))
	}

	// A visitor who isn't signed in gets the prompt, and then the report.
	new := h.browser()
	if a := new.open(third); a.StatusCode != http.StatusUnauthorized || strings.Contains(a.body, "july") || !strings.Contains(a.body, `value="`+third+`"`) {
		t.Errorf("GET a report, signed out = %d\n%s", a.StatusCode, a.body)
	}
	if a := new.open(third, "Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.Header.Get("Content-Type"), "problem+json") {
		t.Errorf("a program's GET of a report, signed out = %d, %s", a.StatusCode, a.Header.Get("Content-Type"))
	}
	if a := new.open(new.ask("bob@example.com", third).link); a.Header.Get("Location") != third {
		t.Errorf("the sign-in leads to %q; want %s", a.Header.Get("Location"), third)
	}

	// The history has the downloads with their contacts.
	h.eventually("the downloads are in the history", func() bool {
		var told []string
		for _, e := range h.history() {
			if e.Kind == audit.Fetched {
				told = append(told, e.Company+" "+e.Title)
			}
		}
		return fmt.Sprint(told) == "[acme july birch Tax <b>return</b>]"
	})
}

func TestReportsComeInPartsAndNotTwice(t *testing.T) {
	h, folder := openLibrary(t, layout{})
	content := strings.Repeat("0123456789", 20_000)
	id, path := h.publish("acme", "", "numbers.txt", content)
	b := h.browser()
	b.signIn("bob@example.com")
	whole := b.open(path)
	tag, date := whole.Header.Get("ETag"), whole.Header.Get("Last-Modified")
	if whole.body != content || tag == "" || date == "" {
		t.Fatalf("GET = %d bytes, ETag %q, Last-Modified %q", len(whole.body), tag, date)
	}
	for _, c := range []struct {
		headers []string
		status  int
		body    string
	}{
		{[]string{"Range", "bytes=99990-100009"}, 206, "01234567890123456789"},
		{[]string{"Range", "bytes=-5"}, 206, "56789"},
		{[]string{"Range", "bytes=199999-"}, 206, "9"},
		{[]string{"Range", "bytes=200000-"}, 416, "invalid range: failed to overlap\n"},
		{[]string{"Range", "bytes=0-0", "If-Range", tag}, 206, "0"},
		{[]string{"Range", "bytes=0-0", "If-Range", `"another"`}, 200, content},
		{[]string{"If-None-Match", tag}, 304, ""},
		{[]string{"If-None-Match", `"another"`}, 200, content},
		{[]string{"If-Modified-Since", date}, 304, ""},
		{[]string{"If-Match", `"another"`}, 412, ""},
	} {
		if a := b.open(path, c.headers...); a.StatusCode != c.status || a.body != c.body {
			t.Errorf("GET with %q = %d and %d bytes; want %d and %d", c.headers, a.StatusCode, len(a.body), c.status, len(c.body))
		}
	}
	if a := b.do(b.request("HEAD", path, nil)); a.StatusCode != http.StatusOK || a.body != "" || a.ContentLength != int64(len(content)) || a.Header.Get("ETag") != tag {
		t.Errorf("HEAD = %d, %d bytes said, %v", a.StatusCode, a.ContentLength, a.Header)
	}
	if a := b.open(path, "Range", "bytes=0-1,100000-100001"); a.StatusCode != http.StatusPartialContent || !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/byteranges") || !strings.Contains(a.body, "\r\n01\r\n") {
		t.Errorf("GET of two parts = %d, %s", a.StatusCode, a.Header.Get("Content-Type"))
	}

	shared := h.browser()
	shared.signInShared("bob@example.com")
	if a := shared.open(path); a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "private, no-store, no-transform" {
		t.Errorf("on a shared computer: %d, Cache-Control %q; want no copy kept", a.StatusCode, a.Header.Get("Cache-Control"))
	}

	// Without its file the report is listed, and contacts who may download it are told what is
	// wrong.
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	if a := b.open(path); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.body, "can’t be opened right now") {
		t.Errorf("GET without the folder = %d\n%s", a.StatusCode, a.body)
	}
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	if a := b.open(path); a.body != content {
		t.Errorf("GET with the folder back = %d", a.StatusCode)
	}
	if _, err := h.office().RemoveReport(t.Context(), "example", id); err != nil {
		t.Fatal(err)
	}
	if a := b.open(path, "If-None-Match", tag); a.StatusCode != http.StatusNotFound {
		t.Errorf("GET of a removed report that the browser has kept = %d; want 404", a.StatusCode)
	}
	if _, err := os.Stat(filepath.Join(folder, "example", id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a removed report is there: %v", err)
	}
}

// With Notify, the contacts who may download the report get an email with a link to the list.
func TestContactsAreToldOfAReport(t *testing.T) {
	h, _ := openLibrary(t, layout{})
	out, err := h.office().PublishReport(t.Context(), "example", admin.PublishReport{Company: "acme", Title: "July <statement>", Name: "july.pdf", Body: strings.NewReader("july"), Notify: true})
	if err != nil || out.Told == nil || len(out.Told.Queued) != 2 || out.Contacts != 2 {
		t.Fatalf("PublishReport = %+v, %v; want Ann and Bob told", out, err)
	}
	l := h.nextLetter("bob@example.com", 0)
	list := h.url + "/-/reports/"
	if !strings.HasPrefix(l.Get("Subject"), "New report for Acme Ltd (") || !strings.Contains(l.text, "July <statement>") || !strings.Contains(l.html, "July &lt;statement&gt;") ||
		!strings.Contains(l.text, list+"\n") && !strings.Contains(l.text, list+"\r\n") || !strings.Contains(l.html, `href="`+list+`"`) {
		t.Errorf("the email says %q\n%s\n%s", l.Get("Subject"), l.text, l.html)
	}
	b := h.browser()
	if a := b.open("/-/reports/"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.body, `value="/-/reports/"`) {
		t.Errorf("the email's link, signed out = %d\n%s", a.StatusCode, a.body)
	}
	if a := b.open(b.ask("ann@example.com", "/-/reports/").link); a.Header.Get("Location") != "/-/reports/" {
		t.Errorf("the sign-in leads to %q; want the list", a.Header.Get("Location"))
	}
	if a := b.open("/-/companies"); strings.Contains(a.body, "News since") || !strings.Contains(a.body, "1 new") {
		t.Errorf("the list of companies tells of the report twice, or not:\n%s", a.body)
	}
}

// A program of the firm publishes with a service token, and nothing with one that is revoked while the file comes.
func TestAProgramPublishesReports(t *testing.T) {
	h, folder := openLibrary(t, layout{})
	const form = "multipart/form-data; boundary=b"
	const head = "--b\r\nContent-Disposition: form-data; name=\"company\"\r\n\r\nacme\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\ncontent"
	const end = "\r\n--b--\r\n"
	p, other := h.program(servicetoken.Reports), h.program(servicetoken.Notify)
	if status, out := other.do(other.request("reports/publish", head+end, "Content-Type", form)); status != http.StatusForbidden || out["code"] != "scope" {
		t.Errorf("without the scope: %d, %v", status, out)
	}
	if status, out := p.do(p.request("reports/publish", head+end, "Content-Type", form, "Sec-Fetch-Site", "same-origin")); status != http.StatusForbidden {
		t.Errorf("by a browser: %d, %v", status, out)
	}
	if status, out := p.do(p.request("reports/publish", head, "Content-Type", form)); status != http.StatusBadRequest {
		t.Errorf("cut off: %d, %v", status, out)
	}
	status, out := p.do(p.request("reports/publish", head+end, "Content-Type", form))
	report, _ := out["report"].(map[string]any)
	if status != http.StatusOK || report["title"] != "a" {
		t.Fatalf("reports/publish = %d, %v", status, out)
	}
	b := h.browser()
	b.signIn("bob@example.com")
	if a := b.open(fmt.Sprint(report["url"])); a.body != "content" {
		t.Errorf("GET what was published = %d, %q", a.StatusCode, a.body)
	}

	in, send := io.Pipe()
	r := p.request("reports/publish", "", "Content-Type", form)
	r.Body, r.ContentLength = in, -1
	answer := make(chan int)
	go func() {
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			answer <- 0
			return
		}
		resp.Body.Close()
		answer <- resp.StatusCode
	}()
	if _, err := io.WriteString(send, head); err != nil {
		t.Fatal(err)
	}
	files := func() int { all, _ := filepath.Glob(filepath.Join(folder, "example", "*")); return len(all) }
	h.eventually("the upload is under way", func() bool { return files() == 2 })
	if _, err := h.office().RevokeToken(t.Context(), "example", p.id); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(send, end)
	send.Close()
	if status := <-answer; status != http.StatusUnauthorized {
		t.Errorf("a token revoked while the file came: %d; want 401", status)
	}
	h.eventually("what there is of it is removed", func() bool { return files() == 1 })
}

// download is a download in progress: the browser reads nothing until goesOn.
type download struct {
	conn net.Conn
	size int64 // of the whole response
	got  int64
}

// downloads begins to download a report over its own connection.
func (b *browser) downloads(path string) *download {
	b.h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.h.url, "http://"))
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.h.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: portal=%s\r\n\r\n", path, strings.TrimPrefix(b.h.url, "http://"), b.cookie("portal"))
	in := bufio.NewReaderSize(conn, 4<<10)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.h.t.Fatalf("a download begins with %v, %v", resp, err)
	}
	return &download{conn, resp.ContentLength, int64(in.Buffered())}
}

// goesOn reads what arrives, like a fast network, and reports whether it is complete.
func (d *download) goesOn() (whole bool) {
	_ = d.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	part := make([]byte, 64<<10)
	for d.got < d.size {
		n, err := d.conn.Read(part)
		d.got += int64(n)
		if err != nil {
			return false
		}
		time.Sleep(5 * time.Millisecond) // about 10 MB per second
	}
	return true
}

func TestDownloadsBreakOffWithTheirReport(t *testing.T) {
	h, _ := openLibrary(t, layout{contacts: manyContacts(4)})
	content := strings.Repeat("0123456789abcdef", 4<<20) // more than a browser receives in seconds
	removed, first := h.publish("acme", "", "large.bin", content)
	_, second := h.publish("acme", "", "large too.bin", content)
	var people [4]*browser
	for i := range people {
		people[i] = h.browser()
		people[i].signIn(contact(i))
	}
	office, none := h.office(), []string{}
	for _, c := range []struct {
		name, path string
		who        int
		cut        func() error
	}{
		{"report removed", first, 0, func() error { _, err := office.RemoveReport(t.Context(), "example", removed); return err }},
		{"session revoked", second, 0, func() error { _, err := office.RevokeSessions(t.Context(), "example", contact(0)); return err }},
		{"signed out", second, 1, func() error { people[1].send("/-/sign-out", url.Values{}); return nil }},
		{"company taken away", second, 2, func() error {
			_, err := office.SetContact(t.Context(), "example", contact(2), directory.Change{Companies: &none})
			return err
		}},
		{"company removed", second, 3, func() error { _, err := office.RemoveCompany(t.Context(), "example", "acme"); return err }},
	} {
		d := people[c.who].downloads(c.path)
		if err := c.cut(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if moment := time.Now(); d.goesOn() {
			t.Errorf("%s: all %d bytes came, %v after that; want the download to break off", c.name, d.got, time.Since(moment))
		}
		if a := people[c.who].open(c.path); a.StatusCode == http.StatusOK {
			t.Errorf("%s: GET = 200", c.name)
		}
	}
}

func TestUploadsAreTakenWholeOrNotAtAll(t *testing.T) {
	h, folder := openLibrary(t, layout{})
	at := "http://" + h.admin + "/doorpost/example/reports/publish"
	const head = "--b\r\nContent-Disposition: form-data; name=\"company\"\r\n\r\nacme\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\ncontent"
	const end = "\r\n--b--\r\n"
	send := func(kind, body string, headers ...string) (status int, text string) {
		t.Helper()
		r, err := http.NewRequest("POST", at, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(data)
	}
	const form = "multipart/form-data; boundary=b"
	for _, c := range []struct {
		name, kind, body string
		headers          []string
		status           int
		say              string
	}{
		{"cut off", form, head, nil, 400, "broke off"},
		{"cut off in a field", form, head[:60], nil, 400, "broke off"},
		{"no form", "application/json", "{}", nil, 415, "multipart"},
		{"no file", form, "--b\r\nContent-Disposition: form-data; name=\"company\"\r\n\r\nacme" + end, nil, 400, "missing"},
		{"a field behind the file", form, head + "\r\n--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nx" + end, nil, 400, "goes on behind the file"},
		{"an unknown field", form, "--b\r\nContent-Disposition: form-data; name=\"firm\"\r\n\r\nx\r\n" + head + end, nil, 400, "isn't known"},
		{"a long title", form, "--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\n" + strings.Repeat("x", 5000) + "\r\n" + head + end, nil, 400, "too long"},
		{"no company", form, strings.Replace(head, "acme", "nobody", 1) + end, nil, 404, "no company"},
		{"another site's page", form, head + end, []string{"Sec-Fetch-Site", "cross-site", "Origin", "http://" + h.admin}, 403, ""},
		{"whole", form, head + end, nil, 200, `"title":"a"`},
	} {
		status, text := send(c.kind, c.body, c.headers...)
		if status != c.status || !strings.Contains(text, c.say) {
			t.Errorf("%s: %d, %s; want %d, %q", c.name, status, text, c.status, c.say)
		}
	}
	// A client that disconnects in the middle.
	conn, err := net.Dial("tcp", h.admin)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /doorpost/example/reports/publish HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: 100000\r\n\r\n%s", h.admin, form, head)
	files := func() []string {
		all, _ := filepath.Glob(filepath.Join(folder, "example", "*"))
		return all
	}
	h.eventually("the upload is under way", func() bool { return len(files()) == 2 })
	conn.Close()
	h.eventually("what there is of it is removed", func() bool { return len(files()) == 1 })
	list, err := h.office().Reports(t.Context(), "example", admin.ListReports{})
	if err != nil || len(list.Reports) != 1 || list.Reports[0].Size != int64(len("content")) {
		t.Errorf("the reports are %+v, %v; want the whole one", list, err)
	}
	h.eventually("the history tells of one", func() bool {
		n := 0
		for _, e := range h.history() {
			if e.What == "reports/publish" && e.Title == "a" && e.Report == list.Reports[0].ID {
				n++
			}
		}
		return n == 1
	})
	// A folder that isn't writable is reported to the person who publishes.
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	h.change(folder, h.path("gone/reports"))
	if err := os.WriteFile(h.path("gone"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, text := send(form, head+end); status != 503 || !strings.Contains(text, "reports") {
		t.Errorf("without a folder: %d, %s; want 503", status, text)
	}
}
