package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
)

// ContactView is what a contact sees of the firm after a sign-in.
type ContactView struct {
	Contact   directory.Contact
	Companies []ViewedCompany // by name
	Reports   bool            // there are reports for them
	Unread    int             // reports that they haven't downloaded, of the newest ones
}

// ViewedCompany is a company in the list that a contact sees.
type ViewedCompany struct {
	Name   string
	Notice *notice.Latest // since they last opened its page; nil: none
}

// reportsSeen is how many of the newest reports count as unread.
const reportsSeen = 50

// ViewAs returns what the contact sees. It begins no session, and changes nothing.
func (f Firm) ViewAs(ctx context.Context, id string) (out ContactView, err error) {
	out.Contact, err = f.Directory.ByID(ctx, id)
	if errors.Is(err, directory.ErrUnknown) {
		return out, &Error{Status: http.StatusNotFound, Code: "unknown", Field: "contact", Reason: "there is no such contact", Remedy: "look for the right one with contacts list"}
	} else if err != nil {
		return out, err
	}
	unread := map[string]notice.Latest{}
	if f.Notices != nil {
		if unread, err = f.Notices.Unread.Of(ctx, id); err != nil {
			return out, err
		}
	}
	var theirs []reports.Company
	for _, id := range out.Contact.Companies {
		c, err := f.Directory.Company(ctx, id)
		if errors.Is(err, directory.ErrUnknown) {
			continue
		} else if err != nil {
			return out, err
		}
		one := ViewedCompany{Name: c.Name}
		if n, ok := unread[id]; ok {
			one.Notice = &n
		}
		out.Companies, theirs = append(out.Companies, one), append(theirs, CompanyOf(c))
	}
	slices.SortFunc(out.Companies, func(a, b ViewedCompany) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	list, _, err := f.Reports.List(ctx, theirs, "", reportsSeen)
	if err != nil {
		return out, err
	}
	out.Reports = len(list) > 0
	out.Unread, err = f.Reports.Unread(ctx, list, out.Contact.ID)
	return out, err
}
