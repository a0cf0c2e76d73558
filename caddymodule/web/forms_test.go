package web

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Each field of one of the gate's forms appears once, under a name that no application reads as
// another, and the form is read the same when it is sent again.
func FuzzReadForm(f *testing.F) {
	for _, seed := range []string{"email=ann%40example.com&to=/", "email=a&email=b", "email[]=a", "email%5b%5d=a", "email=a%00", "email=a;b=c", "&&&", "=", "e%6dail=x", "%", "+=+", "email=a&Email=b", "\xff=\xfe",
		strings.Repeat("a=b&", 20), "email=" + strings.Repeat("x", maxForm), "\xff\xfee\x00m\x00a\x00i\x00l\x00"} {
		f.Add(seed, "application/x-www-form-urlencoded")
	}
	for _, kind := range []string{"application/x-www-form-urlencoded; charset=utf-16", "multipart/form-data; boundary=x", "text/plain", "", "APPLICATION/X-WWW-FORM-URLENCODED ;", "application/x-www-form-urlencoded, text/plain"} {
		f.Add("email=ann%40example.com", kind)
	}
	f.Add("email", "application/x-www-form-urlencoded")
	read := func(body, kind string) (url.Values, error) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header["Content-Type"] = []string{kind}
		return ReadForm(httptest.NewRecorder(), r)
	}
	f.Fuzz(func(t *testing.T, body, kind string) {
		form, err := read(body, kind)
		if err != nil {
			if err != ErrBadForm && err != ErrTooLarge {
				t.Fatalf("ReadForm(%q) = %v", body, err)
			}
			return
		}
		if media, _, _ := strings.Cut(kind, ";"); strings.ToLower(strings.TrimSpace(media)) != "application/x-www-form-urlencoded" || len(body) > maxForm || len(form) > maxFields {
			t.Fatalf("ReadForm(%.100q…, %q) = %d fields", body, kind, len(form))
		}
		for name, values := range form {
			if len(values) != 1 || strings.ContainsAny(name, "[]") || strings.ContainsAny(values[0], "\x00") {
				t.Fatalf("ReadForm(%q) = %q: %q", body, name, values)
			}
			// PHP's names, and names of readers that search the text in the bytes.
			decoded, _ := url.QueryUnescape(body)
			if name == "email" && values[0] != "" && !strings.Contains(decoded, "email=") {
				t.Fatalf("ReadForm(%q) has an email", body)
			}
		}
		if again := form.Encode(); len(again) <= maxForm {
			if got, err := read(again, kind); err != nil || got.Encode() != again {
				t.Fatalf("ReadForm(%q) = %q; of that: %q, %v", body, form, got, err)
			}
		}
	})
}
