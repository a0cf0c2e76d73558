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
	// GuessesPerHour is how many codes of one contact may be compared with what is typed
	// in any hour, in all browsers together that the contact hasn't signed in on, and on each
	// device where they have: one hit in three million years of guessing.
	GuessesPerHour = 40

	nobodies = 1024 // records that stand in for contacts that there aren't
)

// tries are when codes of a contact were tried, in the last hour.
type tries struct {
	At []time.Time `json:"at"`
}

// reserve counts a guess at the codes of each request's contact, and marks the requests
// whose contact had too many. It costs the same whether or not there is a contact, one
// record for each address: nobodies share some. The Ops are to be applied before
// anything is compared.
func (t *Tokens) reserve(ctx context.Context, browser string, all []counted) (ops []store.Op, err error) {
	paid := map[address.Address]bool{}
	over := map[string]bool{} // by ID of the record
	for i := range all {
		a := all[i].Address
		contact := contactAt(all, a)
		record := recordOf(all, contact)
		if !paid[a] {
			paid[a] = true
			id := record
			if _, twice := over[id]; id == "" || twice {
				id = t.nobody(browser, a)
			}
			if _, twice := over[id]; !twice {
				op, full, err := t.try(ctx, id, codesOf(all, contact))
				if err != nil {
					return nil, err
				}
				ops, over[id] = append(ops, op), full
			}
		}
		all[i].over = contact != "" && over[record] // no contact's ID is a nobody's
	}
	return ops, nil
}

// contactAt returns the contact that an address turned out to be, or "".
func contactAt(all []counted, a address.Address) string {
	for _, one := range all {
		if one.Address == a && one.Contact != "" {
			return one.Contact
		}
	}
	return ""
}

// recordOf returns the ID of the record of a contact's tries in a browser that made these
// requests: one apart where they have signed in there, which others can't use up.
func recordOf(all []counted, contact string) string {
	for _, one := range all {
		if contact != "" && one.Contact == contact && one.Known && one.Device != "" {
			return contact + "/" + one.Device
		}
	}
	return contact
}

// codesOf counts the requests with a code of the contact; one for nobody.
func codesOf(all []counted, contact string) (n int) {
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

// nobody returns the ID of the record for an address that is no contact's, as far as is
// known yet. It is no contact's ID, nor is it more than one of a few. Which one it is depends on the
// browser and the secret: who guesses at one record in many browsers must not feel in another one
// whether its guesses meet these, which those at a contact's codes don't.
func (t *Tokens) nobody(browser string, a address.Address) string {
	h := fnv.New32a()
	h.Write([]byte(t.Keys.MAC(nobodyPurpose, t.Firm, browser, string(a))))
	return fmt.Sprintf("nobody-%d", h.Sum32()%nobodies)
}

// try returns the Op that counts n more, or, where these would be too many, one that
// changes nothing.
func (t *Tokens) try(ctx context.Context, id string, n int) (op store.Op, full bool, err error) {
	was, err := t.guesses().Get(ctx, id)
	had, now := was.Value, t.now()
	if errors.Is(err, sealed.ErrUntrusted) {
		// Nobody knows how many there were, so there were too many, for an hour from now on.
		had = tries{At: slices.Repeat([]time.Time{now.UTC().Round(0)}, GuessesPerHour)}
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Op{}, false, err
	}
	had.At = slices.DeleteFunc(had.At, func(at time.Time) bool {
		// What is in the future was written before the clock was set back.
		return now.Sub(at) >= time.Hour || now.Sub(at) < -skew
	})
	if full = len(had.At)+n > GuessesPerHour; !full {
		for range n {
			had.At = append(had.At, now.UTC().Round(0))
		}
	}
	op, err = t.guesses().Write(was, had, now.Add(time.Hour))
	return op, full, err
}
