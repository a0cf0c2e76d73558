package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// AcceptStore asks that the store be the one from now on.
type AcceptStore struct {
	// Reopen lets old links of companies that were upgraded open again, where the store says so.
	Reopen bool `json:"reopen,omitempty"`
}

// StoreAccepted says what became of an AcceptStore.
type StoreAccepted struct {
	AllUpgraded   bool     `json:"all_upgraded"`   // every company stays upgraded
	Upgraded      []string `json:"upgraded"`       // companies that stay upgraded, beside those that the store has so
	SessionsEnded int      `json:"sessions_ended"` // that were in the store
}

func (a StoreAccepted) changed() audit.Event { return audit.Event{Count: max(1, a.SessionsEnded)} }

// AcceptStore has the firm use the store from now on, whatever it was before. Sessions and
// links that are in it end: they may have been ended since it was right. Companies that
// were upgraded stay so, unless reopen says otherwise. A *Error where the store is trusted,
// or can't be taken over as it is.
func (f Firm) AcceptStore(ctx context.Context, in AcceptStore) (done StoreAccepted, err error) {
	loss, _ := errors.AsType[*anchor.Loss](f.Anchor.Err())
	if loss == nil {
		return done, &Error{Status: 409, Code: "trusted", Reason: "the store is the one of last time, so there is nothing to accept", Remedy: "caddy doorpost doctor says what else is wrong"}
	}
	var stays anchor.Closed
	err = f.Anchor.Accept(ctx, in.Reopen, func(ctx context.Context) (err error) {
		stays = *f.Anchor.Closed()
		if _, err = f.Directory.RestoreUpgrades(ctx); err != nil {
			return err
		}
		if done.SessionsEnded, err = f.Sessions.EndEverybody(ctx); err != nil {
			return err
		}
		if f.Announcements != nil { // an older copy doesn't know who was told since
			if _, err := f.Announcements.Stop(ctx); err != nil && !errors.Is(err, action.ErrNoAnnouncement) {
				return err
			}
		}
		return f.Tokens.EndEverything(ctx)
	})
	if loss, ok := errors.AsType[*anchor.Loss](err); ok {
		return done, &Error{Status: 409, Code: "untrusted", Reason: loss.What, Remedy: loss.Do}
	}
	done.Upgraded = []string{}
	if !in.Reopen {
		if done.AllUpgraded = stays.All; !stays.All {
			done.Upgraded = append(done.Upgraded, stays.IDs...)
		}
	}
	return done, err
}

// Finding is the result of one check of the doctor.
type Finding struct {
	Check string `json:"check"`          // what was looked at, such as "store"
	Firm  string `json:"firm,omitempty"` // "": it is about the whole server
	OK    bool   `json:"ok"`
	What  string `json:"what"`         // in a sentence
	Do    string `json:"do,omitempty"` // what to do about it
}

// Diagnosis answers GET /doorpost/doctor.
type Diagnosis struct {
	OK       bool      `json:"ok"` // of all findings
	Findings []Finding `json:"findings"`
}

func (h *Handler) getDoctor(w http.ResponseWriter, r *http.Request) {
	out := Diagnosis{OK: true, Findings: []Finding{}}
	if h.Doctor != nil {
		out.Findings = append(out.Findings, h.Doctor(r.Context())...)
	}
	for _, f := range out.Findings {
		out.OK = out.OK && f.OK
	}
	writeJSON(w, http.StatusOK, out)
}
