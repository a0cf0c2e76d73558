package explain

import (
	"fmt"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// Progress says how far an announcement is: "120 of 400 sent, 280 to go".
func Progress(a admin.AnnouncementState) string {
	out := []string{fmt.Sprintf("%d of %d sent", a.Sent, a.Queued+a.Remaining)}
	for _, part := range []struct {
		n    int
		what string
	}{{a.Waiting + a.Remaining, "to go"}, {a.NotSent, "not sent"}} {
		if part.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(out, ", ")
}

// SkippedContacts says how many contacts an announcement leaves out, and why, in a fixed order.
func SkippedContacts(skipped map[string]int) (lines []string) {
	for _, one := range []struct{ code, one, many string }{
		{"already", "was told before", "were told before"},
		{"disabled", "is disabled", "are disabled"},
		{"no_company", "belongs to no company", "belong to no company"},
		{"staff", "works for the firm", "work for the firm"},
	} {
		if n := skipped[one.code]; n > 0 {
			lines = append(lines, Count(n, "contact ", "contacts ")+Plural(n, one.one, one.many))
		}
	}
	return lines
}

// NotSent says whose email of an announcement wasn't sent, and why.
func NotSent(u admin.Unsent) string {
	who := "somebody who was removed"
	if u.Email != "" {
		who = string(u.Email)
	}
	switch u.Code {
	case "gone":
		return who + ", who was disabled or removed, or left their companies"
	case "late":
		return who + ", since our mail server didn't take it in time" + words(u.Reason)
	case "refused":
		return who + ", since our mail server refused it for good" + words(u.Reason)
	}
	return who
}

func words(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + Printable(reason) + ")"
}

// Plural returns one for 1, else many.
func Plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// TimeLeft says about how long an announcement goes on by its pace so far, such as "about 3 hours"; "": that isn't known.
func TimeLeft(a admin.AnnouncementState, now time.Time) string {
	if a.Sent < 20 || a.State != "running" {
		return ""
	}
	left := time.Duration(float64(now.Sub(a.Begun)) / float64(a.Sent) * float64(a.Waiting+a.Remaining))
	switch {
	case left < 90*time.Second:
		return "about a minute"
	case left < 90*time.Minute:
		return fmt.Sprintf("about %d minutes", int(left.Round(time.Minute)/time.Minute))
	}
	return fmt.Sprintf("about %d hours", int(left.Round(time.Hour)/time.Hour))
}
