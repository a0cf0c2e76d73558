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

// A session is valid if two sealed records agree: its own, and the roster of its contact,
// which lists the contact's sessions. A session that is missing from the roster is signed out.
// So a lost or damaged roster costs the contact a new sign-in, and a session record that is
// put back after its end is worthless.
//
// When all sessions of a contact end, the contact's generation changes too. Generations are
// stored with the contacts, so sessions stay ended even if a roster is put back, in this
// process's memory and in other processes.
const (
	sessionBucket    = "sessions"       // ID → Session
	rosterBucket     = "roster"         // contact → roster
	revocationBucket = "sessions-ended" // time "-" random → IDs of the sessions that ended then

	format = 1 // of all three
)

// maxClockAhead is how far in the future a session may have begun, by this process's clock. A
// session that began later than that was begun by a wrong clock and would outlast both limits
// by the same amount. Smaller differences are allowed, so that setting a clock back signs
// nobody out.
const maxClockAhead = 48 * time.Hour

// roster lists the current sessions of a contact, the earliest sign-in first.
type roster struct {
	Sessions []active `json:"sessions"`
}

// active is a session on a roster. Its times are those in the store.
type active struct {
	ID    string    `json:"id"`
	Begun time.Time `json:"begun"`
	Ends  time.Time `json:"ends"`
}

func (r roster) find(id string) int {
	return slices.IndexFunc(r.Sessions, func(a active) bool { return a.ID == id })
}

// without returns the roster without the session.
func (r roster) without(id string) roster {
	return roster{slices.DeleteFunc(slices.Clone(r.Sessions), func(a active) bool { return a.ID == id })}
}

// ends returns when the last session ends.
func (r roster) ends() (end time.Time) {
	for _, a := range r.Sessions {
		if a.Ends.After(end) {
			end = a.Ends
		}
	}
	return end
}

func (s *Sessions) records() *sealed.Bucket[Session] {
	return &sealed.Bucket[Session]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: sessionBucket, Now: s.now, Format: format, OnUntrusted: s.OnUntrusted}
}

func (s *Sessions) rosters() *sealed.Bucket[roster] {
	return &sealed.Bucket[roster]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: rosterBucket, Now: s.now, Format: format, OnUntrusted: s.OnUntrusted}
}

// read returns the session with the ID. It returns ErrNone if the session has ended or its
// record is not sealed by Doorpost.
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

// record returns the record of a session that is within its limits, or ErrNone. It doesn't
// check the contact's roster.
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
	if rec.Value.Seen.After(now.Add(maxClockAhead)) {
		rec.Value.Seen = rec.Value.Begun // a wrong clock recorded it, so the true time is unknown
	}
	if rec.Value.Begun.After(now.Add(maxClockAhead)) || !now.Before(s.Ends(rec.Value)) {
		err = ErrNone
	}
	return rec, err
}

// roster returns the roster of a contact without sessions that have run out. It is empty if no
// roster that can be trusted is stored.
func (s *Sessions) roster(ctx context.Context, contact string) (sealed.Record[roster], error) {
	rec, err := s.rosters().Find(ctx, contact)
	now := s.now()
	rec.Value.Sessions = slices.DeleteFunc(rec.Value.Sessions, func(a active) bool {
		return !now.Before(a.Ends) || a.Begun.After(now.Add(maxClockAhead))
	})
	return rec, err
}

// writeRoster returns the Ops that replace one roster with another. Applying them returns
// store.ErrConflict if another session of the contact has begun or ended meanwhile.
func (s *Sessions) writeRoster(was sealed.Record[roster], now roster) ([]store.Op, error) {
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

// Ends returns when a session ends if it makes no request after as.Seen. For a Live, call
// ExpiresAt, which includes requests that are not stored yet.
func (s *Sessions) Ends(as Session) time.Time {
	idle, most := as.Seen.Add(s.idle(as.Shared)), as.Begun.Add(s.maxAge(as.Shared))
	if idle.Before(most) {
		return idle
	}
	return most
}

// Reseal seals all records again with the newest secret. Afterwards older secrets can be
// removed without signing anybody out.
func (s *Sessions) Reseal(ctx context.Context) error {
	if _, err := s.records().Reseal(ctx); err != nil {
		return err
	}
	_, err := s.rosters().Reseal(ctx)
	return err
}
