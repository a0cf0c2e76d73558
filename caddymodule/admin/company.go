package admin

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// CompanyDetails is a company with its contacts and the use of its old links.
type CompanyDetails struct {
	Company CompanyInfo `json:"company"`
	Used
	Weeks        []usage.Week     `json:"weeks"`                  // of the use of old links, from the oldest on
	CountedSince time.Time        `json:"counted_since,omitzero"` // uses before aren't known
	Contacts     []CompanyContact `json:"contacts"`               // the first 100, in the order in which they were added
	More         int              `json:"more"`                   // further ones
}

// CompanyContact is a contact of a company.
type CompanyContact struct {
	directory.Contact
	Unread *notice.Latest `json:"unread,omitempty"` // the latest notice about the company since they last opened its page
}

// MarshalJSON implements json.Marshaler. The embedded contact has one of its own.
func (c CompanyContact) MarshalJSON() ([]byte, error) { return c.Contact.MarshalJSON() }

// membersShown is how many contacts a CompanyDetails has.
const membersShown = 100

// ShowCompany returns a company with its contacts and the use of its old links.
func (f Firm) ShowCompany(ctx context.Context, in ByID) (out CompanyDetails, err error) {
	c, err := f.Directory.Company(ctx, in.ID)
	if errors.Is(err, directory.ErrUnknown) {
		return out, f.unknownCompany(ctx, in.ID)
	} else if err != nil {
		return out, err
	}
	out = CompanyDetails{Company: f.infoOf(c), Contacts: []CompanyContact{}}
	members, more, err := f.Directory.Members(ctx, c.ID, membersShown)
	out.More = more
	if err != nil {
		return out, err
	}
	for _, m := range members {
		one := CompanyContact{Contact: m}
		if f.Notices != nil {
			unread, err := f.Notices.Unread.Of(ctx, m.ID)
			if err != nil {
				return out, err
			}
			if n, ok := unread[c.ID]; ok {
				one.Unread = &n
			}
		}
		out.Contacts = append(out.Contacts, one)
	}
	if f.Usage == nil {
		return out, nil
	}
	u, err := f.Usage.Company(ctx, c.ID)
	if err == nil {
		out.Used = usedOf(u)
		out.Weeks, err = f.Usage.WeeksOf(ctx, c.ID)
	}
	if err == nil {
		out.CountedSince, err = f.Usage.Since(ctx)
	}
	return out, err
}
