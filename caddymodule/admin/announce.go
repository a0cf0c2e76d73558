package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// Announce asks that contacts are told by email that old links ask for sign-in, each of them once.
type Announce struct {
	Companies []string `json:"companies,omitempty"` // whose contacts, by ids; none: those of all companies
	Again     bool     `json:"again,omitempty"`     // also those who were told before
	Resume    bool     `json:"resume,omitempty"`    // go on with the one that was stopped; alone
	DryRun    bool     `json:"dry_run,omitempty"`   // only say who would be told
	Key       string   `json:"key,omitempty"`       // with that of the latest announcement none begins
}

// takeKey takes the key of the header Idempotency-Key, if there is one.
func (a *Announce) takeKey(h http.Header) error {
	n := Notify{Key: a.Key}
	err := n.takeKey(h)
	a.Key = n.Key
	return err
}

func (a Announce) fields() (names []string) {
	if a.Again {
		names = append(names, "again")
	}
	if a.Resume {
		names = append(names, "resume")
	}
	return names
}

// AnnouncementState is how far an announcement is.
type AnnouncementState = action.AnnouncementState

// Unsent is a contact whose email of an announcement wasn't sent.
type Unsent = action.Unsent

// Announced answers an Announce.
type Announced struct {
	DryRun bool  `json:"dry_run"`
	Begun  bool  `json:"begun"` // it is this request that began it
	Plan   *Plan `json:"plan,omitempty"`

	Announcement *AnnouncementState `json:"announcement,omitempty"` // without dry_run
}

// Plan says who would be told.
type Plan struct {
	Contacts int              `json:"contacts"`
	First    []Recipient      `json:"first"`   // of them
	Skipped  map[string]int   `json:"skipped"` // how many are not, by why: staff, disabled, no_company, already
	Left     []action.Skipped `json:"skipped_first"`
}

// Recipient is a contact who would be told.
type Recipient struct {
	Email     string   `json:"email"`
	Name      string   `json:"name"`
	Companies []string `json:"companies"` // ids
}

func (a Announced) changed() audit.Event {
	if !a.Begun {
		return audit.Event{}
	}
	return audit.Event{Count: a.Announcement.Queued + a.Announcement.Remaining}
}

// Announce begins an announcement, goes on with the one that was stopped, or says who would be told.
func (f Firm) Announce(ctx context.Context, in Announce) (out Announced, err error) {
	if in.Resume && (len(in.Companies) > 0 || in.Again || in.DryRun) {
		return out, &Error{Status: 400, Code: "invalid", Field: "resume", Reason: "stands together with others", Remedy: "send it alone: it goes on with what was stopped"}
	}
	what := action.Announce{Companies: in.Companies, Again: in.Again, Key: in.Key}
	var state AnnouncementState
	switch {
	case in.DryRun:
		plan, err := f.Announcements.Plan(ctx, what)
		if err != nil {
			return out, f.announceError(ctx, in, err)
		}
		out.DryRun, out.Plan = true, &Plan{Contacts: plan.Contacts, First: []Recipient{}, Skipped: plan.Skipped, Left: plan.Left}
		for _, c := range plan.First {
			out.Plan.First = append(out.Plan.First, Recipient{string(c.Email()), c.Name(), c.Companies})
		}
		return out, nil
	case in.Resume:
		state, out.Begun, err = f.Announcements.Resume(ctx)
	default:
		state, out.Begun, err = f.Announcements.Start(ctx, what)
	}
	if err != nil {
		return out, f.announceError(ctx, in, err)
	}
	out.Announcement = &state
	return out, nil
}

// announceError says what to do about an error of package action.
func (f Firm) announceError(ctx context.Context, in Announce, err error) error {
	switch {
	case errors.Is(err, directory.ErrUnknown):
		for _, id := range in.Companies {
			if _, err := f.Directory.Company(ctx, id); errors.Is(err, directory.ErrUnknown) {
				unknown := f.unknownCompany(ctx, id)
				unknown.Field = "companies"
				return unknown
			}
		}
	case errors.Is(err, action.ErrAnnouncing):
		return &Error{Status: 409, Code: "announcing", Reason: "another announcement is going out", Remedy: "wait until it is done, which announce --status says, or stop it with announce --stop"}
	case errors.Is(err, action.ErrNotStopped):
		return &Error{Status: 409, Code: "not_stopped", Field: "resume", Reason: "no announcement was stopped", Remedy: "announce --status says how far the latest one is"}
	case errors.Is(err, action.ErrNoAnnouncement):
		return &Error{Status: 404, Code: "unknown", Reason: "there was no announcement yet", Remedy: "begin one with announce"}
	}
	return err
}

// AnnouncementStopped answers a request to stop the announcement that is running.
type AnnouncementStopped struct {
	Announcement AnnouncementState `json:"announcement"`

	was string // its state before
}

func (a AnnouncementStopped) changed() audit.Event {
	if a.was == a.Announcement.State {
		return audit.Event{}
	}
	return audit.Event{Count: a.Announcement.Sent}
}

// AnnouncementStatus answers a request for how far the latest announcement is.
type AnnouncementStatus struct {
	Announcement *AnnouncementState `json:"announcement"` // null: there was none yet
}

// AnnounceStatus says how far the latest announcement is.
func (f Firm) AnnounceStatus(ctx context.Context, _ struct{}) (out AnnouncementStatus, err error) {
	state, err := f.Announcements.State(ctx)
	switch {
	case errors.Is(err, action.ErrNoAnnouncement):
		return out, nil
	case err != nil:
		return out, err
	}
	return AnnouncementStatus{&state}, nil
}

// AnnounceStop ends the announcement that is running. Emails of it that the mail server hasn't been given aren't sent.
func (f Firm) AnnounceStop(ctx context.Context, _ struct{}) (out AnnouncementStopped, err error) {
	was, err := f.Announcements.State(ctx)
	if err == nil {
		out.was = was.State
		out.Announcement, err = f.Announcements.Stop(ctx)
	}
	return out, f.announceError(ctx, Announce{}, err)
}
