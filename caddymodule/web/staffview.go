package web

import (
	"bytes"
	"net/http"
	"regexp"
)

// StaffViewPage shows a page as a contact sees it, in a frame: {prefix}/staff/view/frame with id, page.
type StaffViewPage struct {
	ID, Name string
	Views    []Option // pages that there are to look at
	Shown    string   // Value of the one in the frame
}

func (StaffViewPage) file() string { return "staff-view.html" }

// Section implements StaffSection.
func (StaffViewPage) Section() Section { return SectionContacts }

func staffViewSamples() []Page {
	return []Page{StaffViewPage{ID: "7", Name: "Ann Lee", Views: []Option{{"prompt", "The sign-in page"}, {"companies", "Their companies"}}, Shown: "companies"}}
}

// active is what a browser would follow, send or run.
var active = regexp.MustCompile(`(?s)<script\b.*?</script>| (href|action|formaction|name|autofocus)(="[^"]*")?`)

// WriteInert answers with a page in a contact's language for a frame of a page of staff: as it looks, without links, forms and
// scripts that do something, in an opaque origin. The error is that of rendering it.
func (p *Pages) WriteInert(w http.ResponseWriter, page Page, locale string) error {
	e := p.editionIn(locale)
	buf := new(bytes.Buffer)
	if err := e.render(buf, page); err != nil {
		return err
	}
	head, body, _ := bytes.Cut(buf.Bytes(), []byte("<body>")) // the icon and the style are in the head
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+cspHash(string(e.firmFor(page.file()).CSS))+"; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "no-referrer")
	writeHTML(w, http.StatusOK, append(append(head[:len(head):len(head)], "<body>"...), active.ReplaceAll(body, nil)...))
	return nil
}
