package admin

import (
	"context"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
)

// SearchEvents asks for events, the latest first.
type SearchEvents struct {
	Contact string       `json:"contact,omitempty"` // ID; "": of anybody
	Company string       `json:"company,omitempty"` // ID; "": about any, or none
	Kinds   []audit.Kind `json:"kinds,omitempty"`   // none: all
	Since   time.Time    `json:"since,omitzero"`    // not before; zero: from the beginning
	Before  string       `json:"before,omitempty"`  // Next of the page before; "": the first page
	Limit   int          `json:"limit,omitempty"`   // 1 to 1000; 0: 100
}

// FoundEvents is one page of events, the latest first.
type FoundEvents struct {
	Events []Event   `json:"events"`
	Next   string    `json:"next,omitempty"` // where the next page begins; "": there is none
	Back   time.Time `json:"back,omitzero"`  // with Next: the search has seen everything since then
}

// SearchEvents looks for events from the latest on. A page may have fewer than Limit, or none, and a Next.
func (f Firm) SearchEvents(ctx context.Context, in SearchEvents) (FoundEvents, error) {
	out := FoundEvents{Events: []Event{}}
	limit, err := ListRequest{Limit: in.Limit}.limit()
	if err != nil {
		return out, err
	}
	found, err := f.Audit.Before(ctx, in.Before, in.Since, limit, in.wants)
	for _, e := range found.Events {
		out.Events = append(out.Events, eventOf(e))
	}
	out.Next, out.Back = found.Next, found.Back
	return out, err
}

func (in SearchEvents) wants(e audit.Event) bool {
	return (in.Contact == "" || e.Contact == in.Contact || e.Staff == in.Contact) && (in.Company == "" || e.Company == in.Company) &&
		(len(in.Kinds) == 0 || slices.Contains(in.Kinds, e.Kind))
}

// EachEvent calls do for the events of a search in the order of time. Before and Limit don't count.
func (f Firm) EachEvent(ctx context.Context, in SearchEvents, do func(Event) error) error {
	for after := ""; ; {
		page, next, err := f.Audit.Events(ctx, in.Since, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range page {
			if in.wants(e) {
				if err := do(eventOf(e)); err != nil {
					return err
				}
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}
