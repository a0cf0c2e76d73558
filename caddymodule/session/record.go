package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Two sealed records say that a session is one: its own, and the roster of its contact,
// which lists those that go on. Who is on no roster is signed out: what a lost or damaged
// roster costs is a sign-in, and a record that somebody puts back after its end is none.
// An end of all the sessions of a contact also changes the contact's generation, which is
// kept by whoever keeps the contacts: so it holds for a roster that is put back, and for
// what is in memory here and elsewhere.
const (
	sessionBucket = "sessions"       // ID → Session
	rosterBucket  = "roster"         // contact → roster
	endedBucket   = "sessions-ended" // time "-" random → IDs of sessions that ended then

	format = 1 // of all three
)

// ahead is how far in the future a session may have begun, by the clock of the process
// that asks. One that began later was begun by a clock that was wrong, and would outlive
// both limits by as much; what is less is borne, so that a clock that is set back signs
// nobody out.
const ahead = 48 * time.Hour

// roster lists the sessions of a contact that go on, the earliest sign-in first.
type roster struct {
	Sessions []active `json:"sessions"`
}

// active is a session on a roster. Its times are as the store knows them.
type active struct {
	ID    string    `json:"id"`
	Begun time.Time `json:"begun"`
	Ends  time.Time `json:"ends"`
}

func (r roster) find(id string) int {
	return slices.IndexFunc(r.Sessions, func(a active) bool { return a.ID == id })
}

// without returns the roster less the session.
func (r roster) without(id string) roster {
	return roster{slices.DeleteFunc(slices.Clone(r.Sessions), func(a active) bool { return a.ID == id })}
}

// ends is when the last of them does.
func (r roster) ends() (end time.Time) {
	for _, a := range r.Sessions {
		if a.Ends.After(end) {
			end = a.Ends
		}
	}
	return end
}

func (s *Sessions) records() *sealed.Bucket[Session] {
	return &sealed.Bucket[Session]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: sessionBucket, Now: s.now, Format: format, Alarm: s.Alarm}
}

func (s *Sessions) rosters() *sealed.Bucket[roster] {
	return &sealed.Bucket[roster]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: rosterBucket, Now: s.now, Format: format, Alarm: s.Alarm}
}

// read returns the session with the ID, or ErrNone: also for a record that is none of ours.
func (s *Sessions) read(ctx context.Context, id string) (Session, error) {
	rec, err := s.record(ctx, id)
	if err != nil {
		return Session{}, err
	}
	on, err := s.roster(ctx, rec.Value.Contact)
	if err == nil && on.Value.find(id) < 0 {
		err = ErrNone
	}
	return rec.Value, err
}

// record returns the record of a session whose time isn't over, or ErrNone. Whether the
// session is on its contact's roster is another question.
func (s *Sessions) record(ctx context.Context, id string) (sealed.Record[Session], error) {
	rec, err := s.records().Get(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return rec, ErrNone
	case errors.Is(err, sealed.ErrUntrusted):
		return rec, fmt.Errorf("%w: %w", ErrNone, err)
	case err != nil:
		return rec, err
	}
	rec.Value.ID = id
	now := s.now()
	if rec.Value.Seen.After(now.Add(ahead)) {
		rec.Value.Seen = rec.Value.Begun // a clock that was wrong saw it, at a time that nobody knows
	}
	if rec.Value.Begun.After(now.Add(ahead)) || !now.Before(s.Ends(rec.Value)) {
		err = ErrNone
	}
	return rec, err
}

// roster returns that of a contact, less what is over; an empty one where there is none
// that can be trusted.
func (s *Sessions) roster(ctx context.Context, contact string) (sealed.Record[roster], error) {
	rec, err := s.rosters().Find(ctx, contact)
	now := s.now()
	rec.Value.Sessions = slices.DeleteFunc(rec.Value.Sessions, func(a active) bool {
		return !now.Before(a.Ends) || a.Begun.After(now.Add(ahead))
	})
	return rec, err
}

// write returns the Ops that put a roster in the place of another. They are a
// store.ErrConflict when another session of the contact has begun or ended meanwhile.
func (s *Sessions) write(was sealed.Record[roster], now roster) ([]store.Op, error) {
	switch {
	case len(now.Sessions) > 0:
		slices.SortStableFunc(now.Sessions, func(a, b active) int { return a.Begun.Compare(b.Begun) })
		op, err := s.rosters().Write(was, now, now.ends())
		return []store.Op{op}, err
	case was.Found():
		return []store.Op{s.rosters().Remove(was)}, nil
	}
	return nil, nil
}

func (s *Sessions) active(as Session) active { return active{as.ID, as.Begun, s.Ends(as)} }

// Ends is when a session that was last seen then is over if it makes no further request.
// For a Live one ask ExpiresAt, which knows of requests that the store doesn't yet.
func (s *Sessions) Ends(as Session) time.Time {
	idle, most := as.Seen.Add(s.idle(as.Shared)), as.Begun.Add(s.most(as.Shared))
	if idle.Before(most) {
		return idle
	}
	return most
}

// Reseal seals with the newest secret what older ones have sealed: afterwards these may go
// without signing anybody out.
func (s *Sessions) Reseal(ctx context.Context) error {
	if _, err := s.records().Reseal(ctx); err != nil {
		return err
	}
	_, err := s.rosters().Reseal(ctx)
	return err
}
