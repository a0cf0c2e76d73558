package caddymodule_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

// A device used for signing in during a change of the secret is known afterwards.
func TestNewDevice_OutlivesTheSecret(t *testing.T) {
	second := secret.Random()
	t.Setenv("FIRST", secret.Random())
	t.Setenv("SECOND", second)
	h := openHouse(t, layout{app: "mail folder " + t.TempDir() + "\nsecret {env.FIRST}"})
	h.brings("ann@example.com", bcryptHash(t, annsPassword, bcrypt.MinCost))
	b := h.browser()
	signIn := func() (device string) {
		t.Helper()
		if a := b.manually("ann@example.com", annsPassword); a.StatusCode != 303 || b.cookie("portal-device") == "" {
			t.Fatalf("the right password = %d; want 303 and a known device\n%s", a.StatusCode, a.body)
		}
		return b.cookie("portal-device")
	}
	before := signIn()
	h.change("secret {env.FIRST}", "secret {env.SECOND} {env.FIRST}")
	keys, err := secret.New([]byte(second))
	if err != nil {
		t.Fatal(err)
	}
	devices := limit.Devices{Firm: "example", Keys: keys}
	if devices.ID(before) != "" {
		t.Errorf("by the new secret alone the device was known before")
	}
	// The new secret seals after its configuration has started, with a short delay.
	h.eventually("the device is known by the new secret alone", func() bool { return devices.ID(signIn()) != "" })
}

// A contact gets a mail at their main address after a sign-in with a password on an unknown device,
// but not after a sign-in by a mail in the same mailbox.
func TestNewDevice_IsReportedByMail(t *testing.T) {
	h := openGuessHouse(t, layout{})
	told := map[string]int{}
	news := func(why, email string, n int) {
		t.Helper()
		told[email] += n
		h.eventually(why, func() bool { return len(h.notifications(email)) >= told[email] })
	}
	with := func(b *browser, email string, shared string) {
		t.Helper()
		if a := b.send("/-/password", url.Values{"email": {email}, "password": {annsPassword}, "to": {"/"}, "shared": {shared}}); a.StatusCode != 303 {
			t.Fatalf("POST /-/password of %s = %d; want 303\n%s", email, a.StatusCode, a.body)
		}
	}

	laptop := h.in("ann@example.com")
	h.in("ann@example.com") // the sign-in mail in the same mailbox already told them
	h.holds("ann@example.com", annsPassword)
	with(laptop, "ann@example.com", "") // known
	phone := h.browser()
	with(phone, "ann.b@example.org", "")
	news("by password, on a phone", "ann@example.com", 1)
	with(phone, "ann@example.com", "")
	l := h.notifications("ann@example.com")[0]
	if !strings.Contains(l.Get("To"), "<ann@example.com>") || !strings.Contains(l.text, "with your password") || !strings.Contains(l.text, h.url+"/-/help") || !strings.Contains(l.html, "It wasn’t me") {
		t.Errorf("the mail of a new device is to %q\n%s", l.Get("To"), l.text)
	}
	for range 2 { // the browser keeps nothing, so the second time is like the first
		shared := h.browser()
		with(shared, "ann@example.com", "1")
		if shared.cookie("portal-device") != "" {
			t.Error("a shared computer is a known device")
		}
	}
	news("on a shared computer, twice", "ann@example.com", 2)

	other := h.browser()
	before := len(h.letters("ann.b@example.org"))
	h.mayMailAgain(3)
	other.send("/-/sign-in", url.Values{"email": {"ann.b@example.org"}, "to": {"/"}})
	if a := other.open(h.nextLetter("ann.b@example.org", before).link); a.StatusCode != 303 {
		t.Fatalf("GET link to the other address = %d; want 303", a.StatusCode)
	}
	news("by a mail to another address", "ann@example.com", 1)
	if l := h.notifications("ann@example.com")[told["ann@example.com"]-1]; strings.Contains(l.text, "your password") || !strings.Contains(l.text, h.url+"/-/account") {
		t.Errorf("the mail of a new device, by a mail elsewhere, is\n%s", l.text)
	}

	h.holds("bob@example.com", annsPassword)
	with(h.browser(), "bob@example.com", "") // the first sign-in ever
	with(h.browser(), "bob@example.com", "")
	news("the second time by password", "bob@example.com", 1)
	h.brings("nameless@example.com", bcryptHash(t, annsPassword, bcrypt.MinCost))
	with(h.browser(), "nameless@example.com", "")
	news("the first time, with a password from elsewhere", "nameless@example.com", 1)

	// A person who has the password can't flood the mailbox, or use up the limit of sign-in mails.
	for range 12 {
		with(h.browser(), "bob@example.com", "")
	}
	news("up to four an hour", "bob@example.com", 3)
	h.in("bob@example.com")
	caddymodule.Advance(t, 30*24*time.Hour)
	with(h.browser(), "bob@example.com", "")
	news("and later again", "bob@example.com", 1)

	h.config = strings.Replace(h.config, "\t\tcontacts ", "\t\tnew_device_mail off\n\t\tcontacts ", 1)
	h.start()
	for range 2 {
		with(h.browser(), "nameless@example.com", "")
	}
	h.config = strings.Replace(h.config, "new_device_mail off", "", 1)
	h.start()
	with(h.browser(), "nameless@example.com", "")
	news("once it is on again", "nameless@example.com", 1)
	for email, n := range told {
		if got := len(h.notifications(email)); got != n {
			t.Errorf("%s got %d mails of new devices; want %d", email, got, n)
		}
	}
}
