package caddymodule_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// TestPagesSpeakTheReadersLanguage: what the browser accepts decides before the sign-in, and the
// contact's own locale after it.
func TestPagesSpeakTheReadersLanguage(t *testing.T) {
	h := openHouse(t, layout{})
	spanish := []string{"Accept-Language", "es-MX,es;q=0.9,en;q=0.5"}
	b := h.browser()
	page := b.open("/orders/7", spanish...)
	if page.StatusCode != 401 || !strings.Contains(page.body, `<html lang="es">`) || !strings.Contains(page.body, "Enviarme un enlace") {
		t.Errorf("the prompt for a Spanish browser is %d, %s", page.StatusCode, page.body)
	}
	if vary := page.Header.Get("Vary"); !strings.Contains(vary, "Accept-Language") {
		t.Errorf("Vary = %q; want Accept-Language in it", vary)
	}
	wrong := b.send("/-/sign-in", url.Values{"email": {"ann@example"}, "to": {"/"}}, spanish...)
	if !strings.Contains(wrong.body, "No parece una dirección de correo completa.") {
		t.Errorf("the page for half an address: %s", wrong.body)
	}
	b.signIn("ann@example.com")
	if got := b.open("/-/account", spanish...).body; !strings.Contains(got, "Su cuenta") || !strings.Contains(got, "Safari en iPhone") {
		t.Errorf("the account page of a contact without a locale: %s", got)
	}
	locale := "fr-CH"
	if _, err := caddymodule.BookOf(t, "example").SetContact(t.Context(), "ann@example.com", directory.Change{Locale: &locale}); err != nil {
		t.Fatal(err)
	}
	if got := b.open("/-/account", spanish...).body; !strings.Contains(got, `<html lang="fr">`) || !strings.Contains(got, "Votre compte") {
		t.Errorf("the account page of a contact with locale fr-CH: %s", got)
	}
	if got := b.open("/-/no-such-page", spanish...); got.StatusCode != 404 || !strings.Contains(got.body, "Aquí no hay ninguna página") {
		t.Errorf("a page that isn't there: %d, %s", got.StatusCode, got.body)
	}
}
