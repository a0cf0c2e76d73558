package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	bucket    = "session"    // ID → Session
	byContact = "session-of" // contact "/" ID → when it began; ends with the session
	version   = '1'          // first byte of every value of ours
)

// read returns the session with the ID, or ErrNone.
func (s *Sessions) read(ctx context.Context, id string) (Session, error) {
	rec, err := s.Store.Get(ctx, s.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return Session{}, ErrNone
	} else if err != nil {
		return Session{}, err
	}
	as, err := decode(rec)
	if err == nil && !s.now().Before(s.Ends(as)) {
		err = ErrNone
	}
	return as, err
}

// Ends is when a session that was last seen then is over if it makes no further request.
// For a Live one ask ExpiresAt, which knows of requests that the store doesn't yet.
func (s *Sessions) Ends(as Session) time.Time {
	idle, most := as.Seen.Add(s.Idle), as.Begun.Add(s.most(as.Shared))
	if idle.Before(most) {
		return idle
	}
	return most
}

// indexed is a session of a contact in the index, which may have ended by now.
type indexed struct {
	id    string
	begun int64 // Unix milliseconds
}

// index returns the sessions of a contact, the earliest sign-in first.
func (s *Sessions) index(ctx context.Context, contact string) ([]indexed, error) {
	prefix := contact + "/"
	var all []indexed
	for after := ""; ; {
		const page = 500
		recs, err := s.Store.Scan(ctx, s.Firm, byContact, prefix, after, page)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			after = rec.Key.ID
			if len(rec.Value) == 0 || rec.Value[0] != version {
				return nil, foreign(byContact)
			}
			begun, err := strconv.ParseInt(string(rec.Value[1:]), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("reading when a session began: %w", err)
			}
			all = append(all, indexed{id: after[len(prefix):], begun: begun})
		}
		if len(recs) < page {
			break
		}
	}
	slices.SortFunc(all, func(a, b indexed) int { return cmp.Compare(a.begun, b.begun) })
	return all, nil
}

func (s *Sessions) indexOp(as Session) store.Op {
	value := strconv.AppendInt([]byte{version}, as.Begun.UnixMilli(), 10)
	return store.Put(s.indexKey(as.Contact, as.ID), value, s.Ends(as))
}

func (s *Sessions) deletes(contact, id string) []store.Op {
	return []store.Op{store.Delete(s.key(id)), store.Delete(s.indexKey(contact, id))}
}

func (s *Sessions) key(id string) store.Key { return store.Key{Firm: s.Firm, Bucket: bucket, ID: id} }

func (s *Sessions) indexKey(contact, id string) store.Key {
	return store.Key{Firm: s.Firm, Bucket: byContact, ID: contact + "/" + id}
}

func encode(as Session) ([]byte, error) {
	b, err := json.Marshal(as)
	if err != nil {
		return nil, fmt.Errorf("writing a session record: %w", err)
	}
	return append([]byte{version}, b...), nil
}

// decode reads a record. It says itself whose it is: an answer that belongs to another
// question (CVE-2025-29923) signs nobody in as somebody else.
func decode(rec store.Record) (Session, error) {
	var as Session
	if len(rec.Value) == 0 || rec.Value[0] != version {
		return as, foreign(bucket)
	}
	if err := json.Unmarshal(rec.Value[1:], &as); err != nil {
		return Session{}, fmt.Errorf("reading a session record: %w", err)
	}
	if as.ID != rec.Key.ID || as.Contact == "" {
		return Session{}, fmt.Errorf("the store returned another session than was asked for: %w", store.ErrUnavailable)
	}
	return as, nil
}

func foreign(bucket string) error {
	return fmt.Errorf("%s record of another version: %w", bucket, store.ErrUnavailable)
}
