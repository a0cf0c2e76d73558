package caddymodule_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// twoSecrets makes two secrets in files, and returns their names for a Caddyfile.
func twoSecrets(t *testing.T) (s1, s2 string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"s1", "s2"} {
		if err := os.WriteFile(dir+"/"+name, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "{file." + dir + "/s1}", "{file." + dir + "/s2}"
}

// A firm's first records are written while the configuration with the firm is being loaded, when
// the secrets of the previous configuration still seal. They are resealed like all others.
func TestAFirmThatComesWithANewSecretIsSealedAgain(t *testing.T) {
	log := newLogFile(t)
	s1, s2 := twoSecrets(t)
	other := "http://" + freeAddress(t)
	more := fmt.Sprintf("%s {\n doorpost other {\n url %s\n brand {\n name Other\n from other@example.org\n }\n staff ann@example.com\n }\n respond ok\n}\n", other, other)
	h := openHouse(t, layout{global: log.global, app: startMailServer(t).app() + "\n\t\tsecret " + s1, admin: freeAddress(t)})
	all := h.config + more
	with := func(secrets string) { h.config = strings.Replace(all, "secret "+s1, "secret "+secrets, 1) }

	with(s2 + " " + s1)
	h.start()
	for _, firm := range []string{"example", "other"} { // either may be first
		h.eventually("the log says that firm "+firm+" is sealed with the new secret", func() bool {
			return strings.Contains(log.text(t), `the older ones can be taken out of the Caddyfile","firm":"`+firm+`"`)
		})
	}
	with(s2)
	if err := h.validate(); err != nil {
		t.Errorf("validate with the new secret alone = %v", err)
	}
	if err := h.load(); err != nil {
		t.Errorf("a reload with the new secret alone = %v", err)
	}
	h.stop()
	h.start()
	h.settled()
	if a := h.browser().open(other + "/-/health"); a.StatusCode != http.StatusNoContent {
		t.Errorf("health of the firm after a restart with the new secret alone = %d; want 204", a.StatusCode)
	}
}

// A firm that wasn't configured while the secret changed works again after a reload that names it
// together with the secret of its records.
func TestAFirmComesBackWithItsOlderSecret(t *testing.T) {
	log := newLogFile(t)
	s1, s2 := twoSecrets(t)
	other := "http://" + freeAddress(t)
	more := fmt.Sprintf("%s {\n doorpost other {\n url %s\n brand {\n name Other\n from other@example.org\n }\n staff ann@example.com\n }\n respond ok\n}\n", other, other)
	h := openHouse(t, layout{global: log.global, app: startMailServer(t).app() + "\n\t\tsecret " + s1, admin: freeAddress(t), more: more})
	one := strings.Replace(h.config, more, "", 1)
	with := func(config, secrets string) { h.config = strings.Replace(config, "secret "+s1, "secret "+secrets, 1) }
	all := h.config

	with(one, s2+" "+s1)
	h.start()
	h.eventually("the log says that the firm left out needs the older secret", func() bool { return strings.Contains(log.text(t), `"firms":["other"]`) })
	with(one, s2)
	h.stop()
	h.start()
	h.settled()
	with(all, s2+" "+s1)
	if err := h.load(); err != nil {
		t.Fatalf("a reload that names the firm and its secret again = %v", err)
	}
	h.eventually("the log says that the firm is sealed with the new secret", func() bool {
		return strings.Contains(log.text(t), `the older ones can be taken out of the Caddyfile","firm":"other"`)
	})
	with(all, s2)
	h.start()
	h.settled()
}

// A secret can be changed even if the last change before it has a later time, as after a wrong
// clock, or by the clock of another machine.
func TestASecretChangesAfterTheClockWasAhead(t *testing.T) {
	s1, s2 := twoSecrets(t)
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app() + "\n\t\tsecret " + s1, admin: freeAddress(t)})
	if h.redis != nil {
		t.Skip("the clock of a start is the store's in an embedded store only")
	}
	m.moveInto(h)
	startAt := func(at time.Time) {
		t.Helper()
		h.stop()
		db, err := bolt.Open(h.dbPath(), bolt.Options{})
		if err == nil {
			err = errors.Join(db.Apply(t.Context(), store.Put(store.Key{Bucket: "doorpost", ID: "clock"}, strconv.AppendInt(nil, at.UnixMilli(), 10), time.Time{})), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		h.start()
		h.settled()
	}
	startAt(time.Now().Add(100 * time.Minute))
	h.browser().signIn("ann@example.com")
	startAt(time.Now())
	config := h.config
	h.config = strings.Replace(config, "secret "+s1, "secret "+s2+" "+s1, 1)
	h.start()
	h.sealedAnew()
	h.config = strings.Replace(config, "secret "+s1, "secret "+s2, 1)
	if err := h.validate(); err != nil {
		t.Errorf("validate with the new secret alone = %v", err)
	}
	h.start()
	h.settled()
}
