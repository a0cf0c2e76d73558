package console

import (
	"net/http"
	"strconv"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetPreview shows an email as clients get it, with made-up data.
func (h *Handlers) GetPreview(w http.ResponseWriter, r *http.Request) error {
	v, err := h.staff(r)
	if err != nil {
		return err
	}
	all, at, err := h.previewOf(r)
	if err != nil {
		return err
	}
	one := all.Mails[at]
	page := web.StaffPreviewPage{Email: v.Contact.Email().Display(), Kind: one.Kind, Language: one.Language, Variant: strconv.Itoa(at), From: one.From, Subject: one.Subject, Text: one.Text}
	for _, kind := range all.Kinds {
		page.Kinds = append(page.Kinds, web.Option{Value: kind, Label: explain.Email(kind)})
	}
	for _, tag := range all.Languages {
		page.Languages = append(page.Languages, web.Option{Value: tag, Label: tag})
	}
	for i, m := range all.Mails {
		label := m.Variant
		if label == "" {
			label = "usual"
		}
		page.Variants = append(page.Variants, web.Option{Value: strconv.Itoa(i), Label: label})
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// GetPreviewFrame shows the email itself, for a frame.
func (h *Handlers) GetPreviewFrame(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	all, at, err := h.previewOf(r)
	if err != nil {
		return err
	}
	h.Answers.Pages.WriteMailHTML(w, []byte(all.Mails[at].HTML))
	return nil
}

// previewOf returns the variants of the email that the URL names, and which of them it names.
func (h *Handlers) previewOf(r *http.Request) (all admin.Previewed, at int, err error) {
	query := r.URL.Query()
	in := admin.PreviewMails{Kind: web.OnlyValue(query["kind"]), Language: web.OnlyValue(query["language"])}
	if in.Kind == "" {
		in.Kind = "sign-in"
	}
	if in.Language == "" {
		in.Language = "en"
	}
	all, err = h.Firm.Preview(r.Context(), in)
	if err != nil && admin.ErrorOf(err).Status == http.StatusBadRequest || err == nil && len(all.Mails) == 0 {
		return all, 0, web.ErrNotFound
	}
	if n, wrong := strconv.Atoi(web.OnlyValue(query["variant"])); wrong == nil && n >= 0 && n < len(all.Mails) {
		at = n
	}
	return all, at, err
}
