package action

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// AnnouncementLife is how long it is tried to hand over each mail of an announcement.
	AnnouncementLife = 48 * time.Hour

	announceBatch   = 50   // mails that are queued in one step
	announceLook    = 1000 // contacts that are looked at in one step
	announceWaiting = 1000 // mails that wait when no more are queued, whatever keeps them
	announceFirst   = 10   // contacts that are named in an answer
	announcePause   = 5 * time.Second
	announceLease   = 15 * time.Second // after which another process goes on with an announcement
	sourceLife      = 60 * 24 * time.Hour
	unsentLife      = 90 * 24 * time.Hour

	// kindAnnouncement is the kind of the source of an announcement's mails.
	kindAnnouncement = "announcement"
)

var (
	// ErrAnnouncing: an announcement's mails are on their way, so no other one can begin.
	ErrAnnouncing = errors.New("action: an announcement is going out")
	// ErrNotStopped: there is no announcement that was stopped.
	ErrNotStopped = errors.New("action: no announcement was stopped")
	// ErrNoAnnouncement: there was none yet.
	ErrNoAnnouncement = errors.New("action: there was no announcement")
)

// Announcements mail contacts that the portal has changed, once each. What they were mailed is in the store, so
// that neither a crash nor a second command repeats it. A source in the outbox (see outbox.NewSourceID) queues the
// mails bit by bit. Set its fields in one literal before use.
type Announcements struct {
	Firm      string
	Store     store.Store
	Keys      *secret.Keyring
	Directory *directory.Directory
	Queue     *outbox.Queue
	Audit     *audit.Log
	Now       func() time.Time // the clock; nil: time.Now

	// OnUntrusted is told of records that are none of ours; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)

	lease, pause time.Duration // default announceLease, announcePause
	owner        string        // of the lease; see feeds
}

// Announce says who is to be mailed.
type Announce struct {
	Companies []string // whose contacts; nil: those of all companies
	Again     bool     // also those who were mailed before

	// Key stands for the announcement: with that of the latest one none begins. "": none does.
	Key string
}

// The states of an announcement.
const (
	AnnouncementRunning = "running" // mails wait to be sent, or to be queued
	AnnouncementStopped = "stopped"
	AnnouncementDone    = "done"
)

// AnnouncementState is how far an announcement is. Of the contacts who are to be mailed, Sent + Waiting + NotSent +
// Remaining is everybody.
type AnnouncementState struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	Companies []string  `json:"companies,omitempty"` // missing: all
	Again     bool      `json:"again,omitempty"`
	Begun     time.Time `json:"begun_at"`
	Ended     time.Time `json:"ended_at,omitzero"`

	Queued    int            `json:"queued"`    // mails that were made so far
	Sent      int            `json:"sent"`      // … of which the mail server has taken so many
	Waiting   int            `json:"waiting"`   // … and so many wait in the outbox
	NotSent   int            `json:"not_sent"`  // … and so many ended unsent
	Remaining int            `json:"remaining"` // contacts who are still to be mailed
	Skipped   map[string]int `json:"skipped"`   // contacts who aren't, by one of Skipped…

	Unsent []Unsent `json:"unsent"` // the first whose mail wasn't sent
}

// Unsent is a contact whose mail of an announcement wasn't sent. A later announcement mails them.
type Unsent struct {
	Contact string          `json:"contact"` // ID
	Email   address.Address `json:"email,omitempty"`
	Code    string          `json:"code"`   // one of Unsent…
	Reason  string          `json:"reason"` // the mail server's words, or ours
}

// Why the mail of an announcement wasn't sent.
const (
	UnsentRefused = "refused" // the mail server has refused it for good
	UnsentLate    = "late"    // the mail server didn't take it in time
	UnsentStopped = "stopped" // the announcement was stopped
	UnsentGone    = "gone"    // the contact was removed or disabled, or left its companies
)

// Why a contact isn't mailed, beside SkippedDisabled.
const (
	SkippedStaff     = "staff"      // works for the firm
	SkippedNoCompany = "no_company" // belongs to no company
	SkippedAlready   = "already"    // was mailed before
)

// AnnouncementPlan says who would be mailed.
type AnnouncementPlan struct {
	Contacts int
	First    []directory.Contact
	Skipped  map[string]int
	Left     []Skipped // the first of those
}

// announcement is the record of the latest announcement.
type announcement struct {
	ID        string         `json:"id"`
	Companies []string       `json:"companies,omitempty"`
	Again     bool           `json:"again,omitempty"`
	State     string         `json:"state"`
	Begun     time.Time      `json:"begun"`
	Ended     time.Time      `json:"ended,omitzero"`
	Key       string         `json:"key,omitempty"`
	Resumed   bool           `json:"resumed,omitempty"`
	Source    string         `json:"source"`          // ID of the request that queues the mails
	After     string         `json:"after,omitempty"` // ID of the contact up to whom all are done
	Total     int            `json:"total"`           // how many were to be mailed at the beginning, with those who were before
	Queued    int            `json:"queued"`
	Skipped   map[string]int `json:"skipped,omitempty"`

	Owner string    `json:"owner,omitempty"` // the process that queues,
	Until time.Time `json:"until,omitzero"`  // at least until then
}

// announced is the record of the last announcement that a contact was mailed.
type announced struct {
	Announcement string    `json:"announcement"`
	Request      string    `json:"request"` // ID
	At           time.Time `json:"at"`
}

// announcementRequest is the payload of a request for the mail to one contact.
type announcementRequest struct {
	Announcement string    `json:"announcement"`
	Contact      string    `json:"contact"`
	At           time.Time `json:"at"`
}

// latest is the ID of the record of the latest announcement.
const latest = "latest"

func (s *Announcements) announcements() *sealed.Bucket[announcement] {
	return &sealed.Bucket[announcement]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "announcement", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

// announced has what each contact was mailed, by ID. These records don't expire: whoever was mailed isn't mailed
// once more.
func (s *Announcements) announced() *sealed.Bucket[announced] {
	return &sealed.Bucket[announced]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "announced", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

// unsent has whose mails weren't sent, by the ID of the announcement, "/" and that of the contact.
func (s *Announcements) unsent() *sealed.Bucket[Unsent] {
	return &sealed.Bucket[Unsent]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "announcement-unsent", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (s *Announcements) Reseal(ctx context.Context) error {
	_, err := s.announcements().Reseal(ctx)
	if err == nil {
		_, err = s.announced().Reseal(ctx)
	}
	if err == nil {
		_, err = s.unsent().Reseal(ctx)
	}
	return err
}

// decide returns whether a contact is to be mailed ("") or why not. audience reports whether they are meant
// at all. had is what they were mailed last.
func (a announcement) decide(c directory.Contact, had announced) (audience bool, skip string) {
	if a.Companies != nil && !slices.ContainsFunc(a.Companies, func(id string) bool { return slices.Contains(c.Companies, id) }) {
		return false, ""
	}
	switch {
	case c.Role == directory.Staff:
		return true, SkippedStaff
	case c.Disabled:
		return true, SkippedDisabled
	case len(c.Companies) == 0:
		return true, SkippedNoCompany
	case had.Announcement == "" || a.Again && had.Announcement != a.ID:
		return true, ""
	}
	return true, SkippedAlready
}

// skipReasons are the reasons in words.
var skipReasons = map[string]string{
	SkippedStaff: "works for the firm", SkippedDisabled: "is disabled", SkippedNoCompany: "belongs to no company", SkippedAlready: "was mailed before",
}

// Plan says who would be mailed. The error is directory.ErrUnknown for a company, or the store's.
func (s *Announcements) Plan(ctx context.Context, in Announce) (AnnouncementPlan, error) {
	plan := AnnouncementPlan{Skipped: map[string]int{}, First: []directory.Contact{}, Left: []Skipped{}}
	for _, id := range in.Companies {
		if _, err := s.Directory.Company(ctx, id); err != nil {
			return plan, err
		}
	}
	a := announcement{Companies: in.Companies, Again: in.Again}
	for after := ""; ; {
		some, err := s.Directory.Contacts(ctx, "", after, announceLook)
		if err != nil {
			return plan, err
		}
		had, err := s.had(ctx, some)
		if err != nil {
			return plan, err
		}
		for _, c := range some {
			after = c.ID
			switch meant, skip := a.decide(c, had[c.ID].Value); {
			case !meant:
			case skip != "":
				if plan.Skipped[skip]++; len(plan.Left) < announceFirst {
					plan.Left = append(plan.Left, Skipped{Email: c.Email(), Code: skip, Reason: skipReasons[skip]})
				}
			default:
				if plan.Contacts++; len(plan.First) < announceFirst {
					plan.First = append(plan.First, c)
				}
			}
		}
		if len(some) < announceLook {
			return plan, nil
		}
	}
}

// had returns what contacts, who are in the order of their IDs, were mailed last.
func (s *Announcements) had(ctx context.Context, some []directory.Contact) (map[string]sealed.Record[announced], error) {
	all := make(map[string]sealed.Record[announced], len(some))
	if len(some) == 0 {
		return all, nil
	}
	for rec, err := range s.announced().All(ctx, "", before(some[0].ID)) {
		if err != nil && !errors.Is(err, sealed.ErrUntrusted) {
			return nil, err
		}
		if rec.ID > some[len(some)-1].ID {
			break
		}
		all[rec.ID] = rec
	}
	return all, nil
}

// before returns an ID that sorts before the given one, and behind nearly all others that do.
func before(id string) string { return id[:len(id)-1] }

// Start begins an announcement, unless there is nobody to mail. One that is running already, of the same
// contacts or with the same Key, is returned as it is. The error is ErrAnnouncing where it is another one,
// directory.ErrUnknown for a company, or the store's.
func (s *Announcements) Start(ctx context.Context, in Announce) (state AnnouncementState, begun bool, err error) {
	in.Companies = slices.Compact(slices.Sorted(slices.Values(in.Companies)))
	if len(in.Companies) == 0 {
		in.Companies = nil
	}
	plan, err := s.Plan(ctx, in)
	if err != nil {
		return state, false, err
	}
	was, err := s.announcements().Find(ctx, latest)
	if err != nil {
		return state, false, err
	}
	if old := was.Value; old.ID != "" {
		if state, err = s.state(ctx, old); err != nil {
			return state, false, err
		}
		switch {
		case in.Key != "" && in.Key == old.Key:
			return state, false, nil
		case state.State == AnnouncementRunning && slices.Equal(old.Companies, in.Companies) && old.Again == in.Again:
			return state, false, nil
		case state.State == AnnouncementRunning:
			return state, false, ErrAnnouncing
		}
	}
	now := s.now().UTC()
	a := announcement{ID: strings.ToLower(rand.Text()), Companies: in.Companies, Again: in.Again, State: AnnouncementRunning, Begun: now, Key: in.Key, Total: plan.Contacts}
	if plan.Contacts == 0 {
		a.ID, a.State, a.Skipped = "", AnnouncementDone, plan.Skipped
		state, err := s.state(ctx, a)
		return state, false, err
	}
	return s.begin(ctx, was, a)
}

// Resume goes on with the announcement that was stopped. The error is ErrNotStopped, or the store's.
func (s *Announcements) Resume(ctx context.Context) (state AnnouncementState, begun bool, err error) {
	was, err := s.announcements().Find(ctx, latest)
	a := was.Value
	switch {
	case err != nil:
		return state, false, err
	case a.State != AnnouncementStopped:
		return state, false, ErrNotStopped
	}
	a.State, a.Ended, a.After, a.Skipped, a.Owner, a.Resumed = AnnouncementRunning, time.Time{}, "", nil, "", true
	return s.begin(ctx, was, a)
}

// begin writes the record of an announcement together with the source of its mails.
func (s *Announcements) begin(ctx context.Context, was sealed.Record[announcement], a announcement) (AnnouncementState, bool, error) {
	now := s.now()
	a.Source = outbox.NewSourceID(kindAnnouncement, now)
	known, err := s.announcements().Write(was, a, time.Time{})
	if err != nil {
		return AnnouncementState{}, false, err
	}
	if err := s.Store.Apply(ctx, known, s.Queue.Add(outbox.Request{ID: a.Source, Kind: kindAnnouncement, Asked: now, NotAfter: now.Add(sourceLife)})); err != nil {
		return AnnouncementState{}, false, err
	}
	s.Queue.Wake(a.Source)
	state, err := s.state(ctx, a)
	return state, true, err
}

// Stop ends the announcement that is running: mails of it that aren't on their way to the mail server aren't sent, and a later
// announcement mails these contacts. The error is ErrNoAnnouncement, or the store's.
func (s *Announcements) Stop(ctx context.Context) (AnnouncementState, error) {
	var a announcement
	err := s.announcements().Swap(ctx, latest, func(was announcement) (announcement, time.Time, []store.Op, error) {
		if a = was; a.ID == "" {
			return a, time.Time{}, nil, ErrNoAnnouncement
		}
		state, err := s.state(ctx, a)
		if err == nil && state.State != AnnouncementRunning {
			err = errNothingToStop
		}
		a.State, a.Ended = AnnouncementStopped, s.now().UTC()
		return a, time.Time{}, nil, err
	})
	switch {
	case errors.Is(err, errNothingToStop):
		return s.State(ctx)
	case err != nil:
		return AnnouncementState{}, err
	}
	return s.state(ctx, a)
}

var errNothingToStop = errors.New("action: the announcement isn't running")

// State returns how far the latest announcement is. The error is ErrNoAnnouncement, or the store's.
func (s *Announcements) State(ctx context.Context) (AnnouncementState, error) {
	rec, err := s.announcements().Find(ctx, latest)
	switch {
	case err != nil:
		return AnnouncementState{}, err
	case rec.Value.ID == "":
		return AnnouncementState{}, ErrNoAnnouncement
	}
	return s.state(ctx, rec.Value)
}

func (s *Announcements) state(ctx context.Context, a announcement) (AnnouncementState, error) {
	out := AnnouncementState{ID: a.ID, State: a.State, Companies: a.Companies, Again: a.Again, Begun: a.Begun, Ended: a.Ended, Queued: a.Queued, Skipped: maps.Clone(a.Skipped), Unsent: []Unsent{}}
	if out.Skipped == nil {
		out.Skipped = map[string]int{}
	}
	if a.ID == "" {
		return out, nil
	}
	var err error
	if out.Waiting, err = s.Queue.Count(ctx, kindAnnouncement); err != nil {
		return out, err
	}
	for rec, err := range s.unsent().All(ctx, a.ID+"/", "") {
		if errors.Is(err, sealed.ErrUntrusted) {
			continue
		} else if err != nil {
			return out, err
		}
		out.NotSent++
		if len(out.Unsent) == announceFirst || rec.Value.Code == UnsentStopped {
			continue
		}
		if c, err := s.Directory.ByID(ctx, rec.Value.Contact); err == nil {
			rec.Value.Email = c.Email()
		}
		out.Unsent = append(out.Unsent, rec.Value)
	}
	out.Waiting = min(out.Waiting, max(out.Queued-out.NotSent, 0))
	out.Sent = out.Queued - out.NotSent - out.Waiting
	if out.State == AnnouncementDone && out.Waiting > 0 {
		out.State, out.Ended = AnnouncementRunning, time.Time{} // some mails are still to be sent
	}
	if out.State != AnnouncementDone {
		out.Remaining = max(a.Total-a.Queued, 0)
	}
	return out, nil
}

// feed queues the next mails of the announcement whose source r is.
func (s *Announcements) feed(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	was, err := s.announcements().Find(ctx, latest)
	a := was.Value
	now := s.now()
	switch {
	case err != nil:
		return outbox.Prepared{}, err
	case a.Source != r.ID || a.State != AnnouncementRunning:
		return outbox.Prepared{}, nil // it was stopped
	case s.Queue.Known(kindAnnouncement) > announceWaiting || !s.feeds(&a, now):
		return outbox.Prepared{Later: now.Add(cmp.Or(s.pause, announcePause))}, nil
	}
	some, err := s.Directory.Contacts(ctx, "", a.After, announceLook)
	if err != nil {
		return outbox.Prepared{}, err
	}
	had, err := s.had(ctx, some)
	if err != nil {
		return outbox.Prepared{}, err
	}
	a.Skipped = maps.Clone(a.Skipped)
	if a.Skipped == nil {
		a.Skipped = map[string]int{}
	}
	out := outbox.Prepared{Later: now}
	var events []audit.Event
	looked := 0
	for _, c := range some {
		meant, skip := a.decide(c, had[c.ID].Value)
		if meant && skip == "" {
			if len(events) == announceBatch {
				break
			}
			event, ops, err := s.queue(ctx, &a, c, had[c.ID], now)
			if err != nil {
				return outbox.Prepared{}, err
			}
			events, out.Ops = append(events, event), append(out.Ops, ops...)
		}
		if a.After = c.ID; meant && skip != "" && had[c.ID].Value.Announcement != a.ID {
			a.Skipped[skip]++
		}
		looked++
	}
	if looked < len(some) || len(some) == announceLook { // there may be more
		known, err := s.announcements().Write(was, a, time.Time{})
		out.Ops = append(out.Ops, known)
		out.Done = func() { s.queued(ctx, events) }
		return out, err
	}
	a.State, a.Ended, a.Owner, a.Until = AnnouncementDone, now.UTC(), "", time.Time{}
	known, err := s.announcements().Write(was, a, time.Time{})
	return outbox.Prepared{Ops: append(out.Ops, known), Done: func() { s.queued(ctx, events) }}, err
}

// feeds reports whether this process is the one that queues, and notes that in a. Others would only be in
// one another's way.
func (s *Announcements) feeds(a *announcement, now time.Time) bool {
	if s.Queue.Process != nil { // there are no others
		return true
	}
	lease := cmp.Or(s.lease, announceLease)
	if a.Owner != "" && a.Owner != s.owner && a.Until.After(now) && a.Until.Sub(now) <= lease {
		return false
	}
	if s.owner == "" {
		s.owner = rand.Text()
	}
	a.Owner, a.Until = s.owner, now.Add(lease).UTC()
	return true
}

// queue returns the Ops that queue the mail to a contact, and note that.
func (s *Announcements) queue(ctx context.Context, a *announcement, c directory.Contact, had sealed.Record[announced], now time.Time) (audit.Event, []store.Op, error) {
	id := outbox.NewID(brand.KindPortalUpdate, now)
	payload, err := json.Marshal(announcementRequest{a.ID, c.ID, now})
	if err != nil {
		return audit.Event{}, nil, fmt.Errorf("writing a request: %w", err)
	}
	had.ID = c.ID
	note, err := s.announced().Write(had, announced{a.ID, id, now.UTC()}, time.Time{})
	if err != nil {
		return audit.Event{}, nil, err
	}
	event, ops := s.Audit.With(audit.Event{Kind: audit.Notified, Contact: c.ID, Address: c.Email().Masked(), Request: id, What: brand.KindPortalUpdate})
	ops = append(ops, note, s.Queue.Add(outbox.Request{ID: id, Kind: brand.KindPortalUpdate, Asked: now, NotAfter: now.Add(AnnouncementLife), Payload: payload, Ref: announcementRef(a.ID, c.ID)}))
	var ended sealed.Record[Unsent] // by the stop
	if a.Resumed {
		if ended, err = s.unsent().Find(ctx, a.ID+"/"+c.ID); err != nil {
			return event, nil, err
		}
	}
	if ended.Found() { // it was counted
		return event, append(ops, s.unsent().Remove(ended)), nil
	}
	a.Queued++
	return event, ops, nil
}

// Alone returns the request for the mail of an announcement to one contact, which goes out before announcements and
// counts for none.
func (s *Announcements) Alone(contact string) (outbox.Request, error) {
	now := s.now()
	payload, err := json.Marshal(announcementRequest{Contact: contact, At: now})
	if err != nil {
		return outbox.Request{}, fmt.Errorf("writing a request: %w", err)
	}
	return outbox.Request{ID: outbox.NewID("contact-link", now), Kind: brand.KindPortalUpdate, Asked: now, NotAfter: now.Add(AnnouncementLife), Payload: payload}, nil
}

// queued is called once mails are in the store.
func (s *Announcements) queued(ctx context.Context, events []audit.Event) {
	for _, e := range events {
		s.Audit.Record(ctx, e)
		s.Queue.Wake(e.Request)
	}
}

// announcementRef is the Ref of an announcement's mails.
func announcementRef(announcement, contact string) string {
	return announcementPrefix + announcement + "/" + contact
}

const announcementPrefix = "announcement:"

// parseAnnouncementRef is the reverse of announcementRef.
func parseAnnouncementRef(ref string) (announcement, contact string, ok bool) {
	rest, ok := strings.CutPrefix(ref, announcementPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// wanted reports whether mails of the announcement are still to be sent.
func (s *Announcements) wanted(ctx context.Context, id string) (bool, error) {
	rec, err := s.announcements().Find(ctx, latest)
	return rec.Value.ID == id && rec.Value.State != AnnouncementStopped, err
}

// end returns the Ops that note that a contact's mail wasn't sent, so that a later announcement mails them.
func (s *Announcements) end(ctx context.Context, announcement, contact, code, reason string) ([]store.Op, error) {
	note, err := s.unsent().Put(announcement+"/"+contact, Unsent{Contact: contact, Code: code, Reason: reason}, s.now().Add(unsentLife))
	if err != nil {
		return nil, err
	}
	had, err := s.announced().Find(ctx, contact)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{note}
	if had.Value.Announcement == announcement {
		ops = append(ops, s.announced().Remove(had))
	}
	return ops, nil
}

// retried returns the Ops for a request that ended unsent and is tried once more, or that the mail isn't wanted,
// since the contact has another one by now. For any other request it returns nothing.
func (s *Announcements) retried(ctx context.Context, n announcementRequest, request string) (ops []store.Op, wanted bool, err error) {
	had, err := s.announced().Find(ctx, n.Contact)
	switch {
	case err != nil:
		return nil, false, err
	case had.Value.Request == request:
		return nil, true, nil
	case had.Value.Announcement != "":
		return nil, false, nil
	}
	had.ID = n.Contact
	note, err := s.announced().Write(had, announced{n.Announcement, request, n.At.UTC()}, time.Time{})
	return []store.Op{note, s.unsent().Delete(n.Announcement + "/" + n.Contact)}, true, err
}

func (s *Announcements) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
