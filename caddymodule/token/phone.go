package token

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// PhoneLife is how long a code works that staff read out over the phone.
	PhoneLife = 10 * time.Minute
	// PhoneWindow is how long ago a browser may have requested a mail to get such a code.
	PhoneWindow = 30 * time.Minute
	// ByPhone is the AuthResult.Method of a sign-in by such a code.
	ByPhone = "phone-code"

	phoneKey = "phone" // limit key of such codes
)

// WaitingBrowser is a browser whose page waits for a sign-in mail to an address.
type WaitingBrowser struct {
	Request MailRequest // its latest
	browser string
}

// WaitingFor returns the browsers whose latest request, within PhoneWindow, is for a sign-in mail to one of the
// addresses, the latest first. It reads all flows, of which the ring bounds the number.
func (t *Tokens) WaitingFor(ctx context.Context, addresses []address.Address) (all []WaitingBrowser, err error) {
	for rec, err := range t.flows().All(ctx, "", "") {
		if err != nil {
			return nil, err
		}
		f := rec.Value
		if len(f.Requests) == 0 {
			continue
		}
		last := f.Requests[len(f.Requests)-1].MailRequest
		age := t.now().Sub(last.At)
		if last.purpose() != SignIn || !slices.Contains(addresses, last.Address) || age >= PhoneWindow || age < -maxClockSkew {
			continue
		}
		placed, _, err := t.hasSlot(ctx, rec.ID, f.Slot) // else its page waits no more
		if err != nil {
			return nil, err
		}
		if placed {
			all = append(all, WaitingBrowser{Request: last, browser: rec.ID})
		}
	}
	slices.SortStableFunc(all, func(a, b WaitingBrowser) int { return cmp.Compare(b.Request.At.UnixNano(), a.Request.At.UnixNano()) })
	return all, nil
}

// IssueByPhone makes a code for a browser that waits, in place of the contact's earlier ones of this kind. The code is
// compared as a mailed one is, by Guess, and only there, has its own MaxGuesses, and works for PhoneLife. known says
// that the contact has signed in on the browser's device before. The caller applies the Ops together with the event
// that says who made the code. ErrUnknown: the browser doesn't wait any more. For store.ErrConflict see Issue.
func (t *Tokens) IssueByPhone(ctx context.Context, in WaitingBrowser, known bool, to Recipient) (Issued, error) {
	now := t.now().UTC().Round(0)
	out := Issued{ID: t.Keys.MAC(linkPurpose, t.Firm, newLinkSecret()), Code: newCode()} // nobody has the link's secret
	wasFlow, err := t.flows().Find(ctx, in.browser)
	if err != nil {
		return Issued{}, err
	}
	f := wasFlow.Value
	if len(f.Requests) == 0 || f.Requests[len(f.Requests)-1].ID != in.Request.ID {
		return Issued{}, ErrUnknown
	}
	one := request{MailRequest: f.Requests[len(f.Requests)-1].MailRequest, Contact: to.Contact, Generation: to.Generation, Link: out.ID, Phone: true}
	one.At, one.Known = now, known
	one.Code = t.Keys.MAC(one.codePurpose(), t.Firm, in.browser, one.ID, out.Code)
	f.Phone = &one

	was, err := t.active().Find(ctx, to.Contact)
	if err != nil {
		return Issued{}, err
	}
	var l activeLinks
	if l.Links, err = t.stillActive(ctx, was.Value.Links); err != nil {
		return Issued{}, err
	}
	l.Links = slices.DeleteFunc(l.Links, func(one activeLink) bool { return one.LimitKey == phoneKey })
	l.Links = append(l.Links, activeLink{ID: out.ID, Browser: in.browser, LimitKey: phoneKey, RequestedAt: now, Consumed: true, Life: PhoneLife})

	activeOp, err := t.writeActive(was, l)
	if err != nil {
		return Issued{}, err
	}
	given, err := t.putHandover(Link{ID: out.ID, RequestedAt: now, Life: PhoneLife}, handover{state: delivered, at: now})
	if err != nil {
		return Issued{}, err
	}
	kept, err := t.keepFlow(ctx, in.browser, &f)
	if err != nil {
		return Issued{}, err
	}
	flowOp, err := t.writeFlow(wasFlow, f)
	out.Ops = append([]store.Op{activeOp, given, flowOp}, kept...)
	return out, err
}
