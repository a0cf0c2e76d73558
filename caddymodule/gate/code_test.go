package gate

import (
	"context"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// overtaken is a store in which other requests win against the next few sign-ins.
type overtaken struct {
	store.Store
	left int
}

func (o *overtaken) Apply(ctx context.Context, ops ...store.Op) error {
	if o.left > 0 && slices.ContainsFunc(ops, func(op store.Op) bool { return op.Key.Bucket == "sessions" }) {
		o.left--
		return store.ErrConflict
	}
	return o.Store.Apply(ctx, ops...)
}

// wrongCode is the beginning of the response to a wrong code.
const wrongCode = "That code doesn’t work."

// The right code isn't called wrong, on the page or in the history, if the record changes at the
// same time.
func TestTheRightCodeIsNeverToldToBeWrong(t *testing.T) {
	h := openAwayHouse(t)
	o := &overtaken{Store: h.store.Store, left: 3}
	h.store.Store = o
	if status, problem := h.typeCode(h.code); status != 503 || problem != "" || o.left != 0 {
		t.Errorf("the right code, with %d more conflicts to come = %d %q; want 503", o.left, status, problem)
	}
	if log := h.log.String(); strings.Contains(log, "wrong-code") {
		t.Errorf("the right code is in the history as a wrong one:\n%s", log)
	}
	if resp := h.do("/-/code", "code="+h.code, h.flow); resp.StatusCode != 303 {
		t.Errorf("the right code once more = %d; want 303", resp.StatusCode)
	}
}

// Nor is an active link called inactive.
func TestTheRightLinkIsNeverToldToBeOver(t *testing.T) {
	h := openAwayHouse(t)
	h.store.Store = &overtaken{Store: h.store.Store, left: 8}
	for _, want := range []int{503, 303, 303} { // the third is a double click
		if resp := h.do("/-/link?t="+h.token, "", h.flow); resp.StatusCode != want {
			t.Errorf("the link = %d; want %d", resp.StatusCode, want)
		}
	}
	if log := h.log.String(); strings.Contains(log, "opened-old") {
		t.Errorf("the link is in the history as one that is over:\n%s", log)
	}
}

// typeCode sends a code and returns the status and the text beside the field.
func (h *awayHouse) typeCode(code string) (status int, problem string) {
	h.t.Helper()
	resp := h.do("/-/code", url.Values{"code": {code}}.Encode(), h.flow)
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(resp.Header["Set-Cookie"]) != 0 {
		h.t.Errorf("code %.20q sets %q; want nothing", code, resp.Header["Set-Cookie"])
	}
	for _, n := range nodes(h.t, string(page)) {
		if attr(n, "id") == "problem" {
			problem = n.FirstChild.Data
		}
	}
	return resp.StatusCode, problem
}

// T11: text that can't be a code uses up none of the five attempts, and its problem is shown; a
// wrong code and a blocked one get the same response.
func TestT11_ACodeOfTheWrongShapeIsNoTry(t *testing.T) {
	h := openAwayHouse(t)
	shapes := func() {
		for typed, want := range map[string]string{
			"":                        "Please enter the code from the email.",
			" - ":                     "Please enter the code from the email.",
			"a":                       "eight letters and digits; this has 1.",
			"abc":                     "eight letters and digits; this has 3.",
			"abcd-efg":                "eight letters and digits; this has 7.",
			"abcd-efghj":              "eight letters and digits; this is longer.",
			"My code is abcd-efgh":    "eight letters and digits; this is longer.",
			strings.Repeat("x", 1000): "eight letters and digits; this is longer.",
			"abcd-efgu":               "never in a code",
		} {
			if status, problem := h.typeCode(typed); status != 400 || !strings.Contains(problem, want) {
				t.Errorf("code %.20q = %d %q; want 400 and %q", typed, status, problem, want)
			}
		}
	}
	shapes()
	for range token.MaxGuesses {
		if status, problem := h.typeCode("0000-0000"); status != 403 || !strings.HasPrefix(problem, wrongCode) {
			t.Errorf("a wrong code = %d %q; want 403 %q", status, problem, wrongCode)
		}
	}
	shapes()
	if status, problem := h.typeCode(h.code); status != 403 || !strings.HasPrefix(problem, wrongCode) {
		t.Errorf("the right code after five wrong ones = %d %q; want 403 %q", status, problem, wrongCode)
	}

	h = openAwayHouse(t)
	for range token.MaxGuesses - 1 {
		h.typeCode("0000-0000")
	}
	shapes()
	if resp := h.do("/-/code", "code="+h.code, h.flow); resp.StatusCode != 303 {
		t.Errorf("the right code at the fifth try = %d; want 303", resp.StatusCode)
	}
}
