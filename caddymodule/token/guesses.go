package token

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// GuessesPerHour is how many guesses at the codes of one contact are compared within an hour:
	// in all browsers together that the contact hasn't signed in on, and on each device where they
	// have. On average one guess succeeds in three million years.
	GuessesPerHour = 40

	dummyRecords = 1024 // dummy records, for addresses without a contact
)

// tries are the times of guesses at a contact's codes within the last hour.
type tries struct {
	At []time.Time `json:"at"`
}

// countByContact counts a guess for the contact of each request, and marks the requests whose
// contact had too many. It costs the same whether or not there is a contact: one record for each
// address, where addresses without a contact share dummy records. Apply the Ops before comparing
// anything.
func (t *Tokens) countByContact(ctx context.Context, browser string, all []counted) (ops []store.Op, err error) {
	seen := map[address.Address]bool{}
	over := map[string]bool{} // by ID of the record
	for i := range all {
		a := all[i].Address
		contact := contactOf(all, a)
		record := recordID(all, contact)
		if !seen[a] {
			seen[a] = true
			id := record
			if _, twice := over[id]; id == "" || twice {
				id = t.dummyID(browser, a)
			}
			if _, twice := over[id]; !twice {
				op, full, err := t.addGuesses(ctx, id, codeCount(all, contact))
				if err != nil {
					return nil, err
				}
				ops, over[id] = append(ops, op), full
			}
		}
		all[i].blocked = contact != "" && over[record] // dummy IDs are no contact's
	}
	return ops, nil
}

// contactOf returns the contact of an address, if one of the requests found it, or "".
func contactOf(all []counted, a address.Address) string {
	for _, one := range all {
		if one.Address == a && one.Contact != "" {
			return one.Contact
		}
	}
	return ""
}

// recordID returns the ID of the record that counts a contact's guesses in the browser of these
// requests. Devices that the contact has signed in on have their own record, which others can't
// fill.
func recordID(all []counted, contact string) string {
	for _, one := range all {
		if contact != "" && one.Contact == contact && one.Known && one.Device != "" {
			return contact + "/" + one.Device
		}
	}
	return contact
}

// codeCount returns the number of requests with a code of the contact; 1 if there is no contact.
func codeCount(all []counted, contact string) (n int) {
	for _, one := range all {
		if one.Contact == contact {
			n++
		}
	}
	if contact == "" {
		return 1
	}
	return n
}

// dummyID returns the ID of the dummy record for an address without a known contact. It is no
// contact's ID. It depends on the browser and a secret: guesses at one dummy record in many
// browsers must not measurably slow down guesses in another browser, since guesses at a contact's
// codes don't.
func (t *Tokens) dummyID(browser string, a address.Address) string {
	h := fnv.New32a()
	h.Write([]byte(t.Keys.MAC(dummyPurpose, t.Firm, browser, string(a))))
	return fmt.Sprintf("nobody-%d", h.Sum32()%dummyRecords)
}

// addGuesses returns the Op that counts n more guesses. If these are too many, full is true and the
// Op changes nothing.
func (t *Tokens) addGuesses(ctx context.Context, id string, n int) (op store.Op, full bool, err error) {
	was, err := t.guesses().Get(ctx, id)
	had, now := was.Value, t.now()
	if errors.Is(err, sealed.ErrUntrusted) {
		// The number of guesses is unknown, so assume too many during the next hour.
		had = tries{At: slices.Repeat([]time.Time{now.UTC().Round(0)}, GuessesPerHour)}
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Op{}, false, err
	}
	had.At = slices.DeleteFunc(had.At, func(at time.Time) bool {
		// Times in the future were written before the clock was set back.
		return now.Sub(at) >= time.Hour || now.Sub(at) < -maxClockSkew
	})
	if full = len(had.At)+n > GuessesPerHour; !full {
		for range n {
			had.At = append(had.At, now.UTC().Round(0))
		}
	}
	op, err = t.guesses().Write(was, had, now.Add(time.Hour))
	return op, full, err
}
