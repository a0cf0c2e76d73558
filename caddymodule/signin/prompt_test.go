package signin

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const acceptHTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func TestAnswerFor(t *testing.T) {
	origin, _ := url.Parse("https://portal.example")
	h := &Handlers{Answers: &web.Answers{Sites: &site.Sites{URL: origin}}}
	const form = "application/x-www-form-urlencoded"
	page := []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	with := func(pairs ...string) []string { return append(append([]string{}, page...), pairs...) }
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		length  int64
		want    answer
	}{
		{"a page load", "GET", page, 0, prompt},
		{"the head of one", "HEAD", page, 0, prompt},
		{"a page load in a frame", "GET", with("Sec-Fetch-Dest", "iframe"), 0, frame},
		{"a script", "GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 0, bare},
		{"a form", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), 9, held},
		{"a form that a service worker passes on", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "empty"), 9, held},
		{"a form of a browser without Sec-Fetch", "POST", []string{"Accept", acceptHTML, "Content-Type", form, "Origin", "https://portal.example"}, 9, held},
		{"as large a form as is kept", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), maxHeld, held},
		{"a larger form", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), maxHeld + 1, notSent},
		{"a form of unknown length", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), -1, notSent},
		{"a form from another site", "POST", with("Content-Type", form, "Sec-Fetch-Site", "cross-site", "Origin", "https://portal.example"), 9, notSent},
		{"a form from a sibling", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-site"), 9, notSent},
		{"a form from an unknown page", "POST", []string{"Accept", acceptHTML, "Content-Type", form}, 9, notSent},
		{"an upload", "POST", with("Content-Type", "multipart/form-data; boundary=x", "Sec-Fetch-Site", "same-origin"), 9, notSent},
		{"a text form", "POST", with("Content-Type", "text/plain", "Sec-Fetch-Site", "same-origin"), 9, notSent},
		{"a form in a frame", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "iframe"), 9, notSentFramed},
		{"a form that a script sends", "POST", []string{"Accept", "*/*", "Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 9, bare},
		{"a program's form", "POST", []string{"Accept", "*/*", "Content-Type", form}, 9, bare},
		{"a PUT", "PUT", []string{"Accept", acceptHTML}, 9, bare},
	} {
		r := httptest.NewRequest(c.method, "/x", nil)
		r.Header, r.ContentLength = headerOf(c.headers...), c.length
		if got := h.answerFor(r); got != c.want {
			t.Errorf("answerFor(%s) = %d; want %d", c.name, got, c.want)
		}
	}
}

func headerOf(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}
