//go:build servers

package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// Two gates on one store each watch a file. The same change at both is applied once, a contact that
// it disables is signed out at both, and changes by staff stay, whichever gate loads next.
func TestTwoGatesLoadTheSameFile(t *testing.T) {
	g := openGates(t)
	_, book := g.neighbour(t, true)
	email := contact(0)
	b := g.first.browser()
	b.signIn(email)
	if a := g.at(b, "/x"); a.StatusCode != http.StatusOK {
		t.Fatalf("signed in at one gate, the other answers %d", a.StatusCode)
	}
	both := func(text string) {
		g.first.write("contacts.csv", text)
		g.second.write("contacts.csv", text)
	}
	has := func(email string) bool {
		_, err := book.ByEmail(t.Context(), addressOf(t, email))
		return err == nil
	}
	until2 := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within a minute", what)
			}
		}
	}
	text := "email,phone,disabled\n" + email + ",,yes\n" + contact(1) + ",1,\n"
	both(text)
	until2("who was switched off is out at both", func() bool {
		return b.open("/x").StatusCode == http.StatusUnauthorized && g.at(b, "/x").StatusCode == http.StatusUnauthorized
	})
	phone := "by hand"
	if _, err := book.SetContact(t.Context(), addressOf(t, contact(1)), directory.Change{Phone: &phone}); err != nil {
		t.Fatal(err)
	}
	g.second.write("contacts.csv", text+"new@example.com,,\n")
	until2("the second gate's file is loaded", func() bool { return has("new@example.com") })
	both(text + "new@example.com,,\nnewer@example.com,,\n")
	until2("the file of both is loaded", func() bool { return has("newer@example.com") })
	last, err := book.LastLoad(t.Context(), directory.Contacts)
	if err != nil || last.Added != 1 || len(last.Kept) != 1 || last.Kept[0].Reason != directory.ChangedByHand {
		t.Errorf("the last load = %+v, %v; want 1 added and 1 left alone, by one of the gates", last, err)
	}
	if c, err := book.ByEmail(t.Context(), addressOf(t, contact(1))); err != nil || c.Phone != phone {
		t.Errorf("after both loads the phone is %q, %v; want %q", c.Phone, err, phone)
	}
	g.first.kill()
	g.second.kill()
	if n := strings.Count(g.first.log.String()+g.second.log.String(), "a file was not loaded"); n > 0 {
		t.Errorf("%d loads were refused", n)
	}
}
