package caddymodule_test

import (
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// Mails are in the contact's language, else in that of the browser that asked; notices without either are in English. A
// language file of the firm's own covers mails.
func TestMailsAreInTheContactsLanguage(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t), contacts: "email,first_name,companies,locale\nann@example.com,Ann,acme,\nbob@example.com,Bob,acme,\nzoe@example.com,Zoé,acme,fr-CH\ndan@example.com,Dan,acme,\n"})
	h.write("templates/languages/de.json", `{"Sign in": "Anmelden", "Hello {1},": "Guten Tag {1},", "at {1} from {2}": "um {1} mit {2}"}`)
	ask := func(email, accept string) letter {
		t.Helper()
		before := len(h.mails(email))
		h.browser().send("/-/sign-in", form("email", email), "Accept-Language", accept)
		h.eventually("a mail to "+email, func() bool { return len(h.mails(email)) > before })
		return h.nextLetter(email, before)
	}
	for _, c := range []struct{ email, accept, hello, button string }{
		{"ann@example.com", "", "Hello Ann,", ">Sign in</a>"},
		{"bob@example.com", "es-MX,es;q=0.9,en;q=0.8", "Hola, Bob:", ">Iniciar sesión</a>"},
		{"zoe@example.com", "es", "Bonjour Zoé,", ">Se connecter</a>"},
	} {
		l := ask(c.email, c.accept)
		if !strings.Contains(l.text, c.hello) || !strings.Contains(l.html, c.button) {
			t.Errorf("the mail to %s is\n%s\n%s\nwant %q and %q", c.email, l.text, l.html, c.hello, c.button)
		}
	}
	notified := func(email string) letter {
		t.Helper()
		before := len(h.mails(email))
		if _, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", To: []string{email}}); err != nil {
			t.Fatal(err)
		}
		return h.nextLetter(email, before)
	}
	if l := notified("zoe@example.com"); !strings.Contains(l.text, "Vous avez de nouvelles questions concernant Acme Ltd.") || !strings.Contains(l.Get("Subject"), "Nouvelles") {
		t.Errorf("the notice to Zoé is %s\n%s", l.Get("Subject"), l.text)
	}
	h.change("contacts "+h.path("contacts.csv"), "templates "+h.path("templates")+"\n\t\tcontacts "+h.path("contacts.csv"))
	h.start()
	if l := ask("dan@example.com", "de-DE,de;q=0.9"); !strings.Contains(l.text, "Guten Tag Dan,") || !strings.Contains(l.html, ">Anmelden</a>") || !strings.Contains(l.text, " um ") {
		t.Errorf("the mail in the firm's own language is\n%s", l.text)
	}
}
