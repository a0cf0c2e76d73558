//go:build servers

package caddymodule_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// Two gates share an announcement: each contact gets one mail. When the one that feeds the outbox is killed, the
// other goes on.
func TestTwoGatesShareAnAnnouncement(t *testing.T) {
	const contacts = 900
	mails, redis := newSink(t), startRedis(t)
	own := fmt.Sprintf("mail smtp %s {\n tls off\n rate 200/s\n connections 2\n }\n", mails.addr)
	own += redis.lines(t, own, t.TempDir())
	first, second := newServer(t, own, ""), newServer(t, own, "")
	office, elsewhere := first.announces(contacts), second.announces(contacts)
	second.write("Caddyfile", strings.ReplaceAll(second.config, "url "+second.url, "url "+first.url))
	first.start()
	second.start()
	begun := 0
	for _, at := range []*admin.Client{office, elsewhere} {
		out, err := at.Announce(t.Context(), "example", admin.Announce{})
		if err != nil {
			t.Fatal(err)
		}
		if out.Begun {
			begun++
		}
	}
	if begun != 1 {
		t.Errorf("%d requests began the announcement; want one", begun)
	}
	first.eventually("some mails", func() bool { return len(mails.perRecipient()) >= 40 })
	for to, n := range mails.perRecipient() {
		if n != 1 {
			t.Errorf("%s got %d mails, though nothing was killed", to, n)
		}
	}
	first.kill()
	defer second.kill()
	var state admin.AnnouncementStatus
	done := func() bool {
		var err error
		state, err = elsewhere.AnnounceStatus(t.Context(), "example")
		return err == nil && state.Announcement.State == "done"
	}
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) { // the killed gate's leases have to end
		if time.Now().After(end) {
			t.Fatalf("the second gate doesn't come to an end: %+v", state.Announcement)
		}
	}
	twice := 0
	for _, n := range mails.perRecipient() {
		twice += n - 1
	}
	if got := len(mails.perRecipient()); got != contacts || twice > 2 || state.Announcement.Sent != contacts {
		t.Errorf("%d contacts got a mail, %d of them twice, and the state is %+v; want %d, and at most one for each connection of the killed gate", got, twice, state.Announcement, contacts)
	}
}
