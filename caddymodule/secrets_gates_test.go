//go:build servers

package caddymodule_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// While gates of one store disagree on the newest secret, as between two steps of a change, neither
// reseals what the other one has sealed, and neither says that a secret can be removed. Once they
// agree, everything is resealed.
func TestGatesThatDisagreeOnTheNewestSecretSealNothingAgain(t *testing.T) {
	s1, s2 := twoSecrets(t)
	redis := startRedis(t)
	mails := startMailServer(t)
	gate := func() (s *server, with func(secrets string)) {
		own := mails.app() + "\nsecret " + s1 + "\n"
		s = newServer(t, own+redis.lines(t, own, t.TempDir()), manyContacts(3))
		config := strings.Replace(s.config, "admin off", "admin unix/"+s.path("admin.sock"), 1)
		return s, func(secrets string) {
			if s.cmd != nil {
				s.kill()
			}
			s.write("Caddyfile", strings.Replace(config, "secret "+s1, "secret "+secrets, 1))
			s.start()
		}
	}
	// said is the doctor's output about secrets at the gate.
	said := func(s *server) string {
		out, _ := s.caddy("doorpost", "doctor", "--address", "unix/"+s.path("admin.sock")).Output() // exit code 1 if something is wrong
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, " secret (example)") {
				return strings.TrimSpace(line)
			}
		}
		return fmt.Sprintf("nothing of secrets: %s", out)
	}
	until := func(s *server, wants string) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			got := said(s)
			if strings.Contains(got, wants) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the doctor says %q; want %q", got, wants)
			}
		}
	}
	first, firstWith := gate()
	second, secondWith := gate()
	firstWith(s1 + " " + s2)
	secondWith(s1 + " " + s2)
	firstWith(s2 + " " + s1)
	const apart = "another machine seals with another secret"
	until(first, apart)
	until(second, apart)
	secondWith(s2 + " " + s1)
	until(first, "can be taken out of")
	until(second, "can be taken out of")
	firstWith(s2)
	secondWith(s2)
}
