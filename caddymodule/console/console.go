// Package console has the pages of the firm's staff: whom to help (console.go), why a contact doesn't
// get in and what to do (contact.go), and which companies' old links ask for sign-in (companies.go).
//
// The pages hold no logic of their own: they call the actions of package admin, as the commands do, and
// say what happened in the words of package explain. The gate's route table names the handlers. Who isn't
// staff gets the page that says that there is none.
package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Handlers are the pages of one firm for its staff. Set its fields in one literal before use.
type Handlers struct {
	Firm      admin.Firm
	Overviews *admin.Overviews // of Firm
	Answers   *web.Answers
	Visitors  *visitor.Visitors
	Now       func() time.Time
}

const (
	// recent is how long ago somebody may have signed in who changes something.
	recent = 12 * time.Hour
	// upgradedState is the state of a company whose old links ask for sign-in.
	upgradedState = "upgraded"
	// atOnce is how many contacts or companies a page lists.
	atOnce = 50
)

var errOldSession = &web.Failure{Status: http.StatusForbidden, Page: web.MessagePage{Title: "Please sign in again",
	Text: "You signed in more than 12 hours ago. To change something here, please sign out, and sign in again.", Link: "Go on"}}

// staff returns who makes the request, if it is one of the firm's staff.
func (h *Handlers) staff(r *http.Request) (*visitor.Visitor, error) {
	v, err := h.Visitors.Of(r)
	if err == nil && !v.IsStaff() {
		return nil, web.ErrNotFound
	}
	return v, err
}

// mayChange returns who makes the request, and what they sent, if they may change something.
func (h *Handlers) mayChange(w http.ResponseWriter, r *http.Request) (by admin.By, get func(string) string, err error) {
	if by, err = h.changes(r); err != nil {
		return by, nil, err
	}
	f, err := web.ReadForm(w, r)
	return by, f.Get, err
}

// read returns what staff sent in a form that changes nothing.
func (h *Handlers) read(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if _, err := h.staff(r); err != nil {
		return nil, err
	}
	return web.ReadForm(w, r)
}

// changes returns who makes the request, if they may change something.
func (h *Handlers) changes(r *http.Request) (by admin.By, err error) {
	v, err := h.staff(r)
	if err != nil {
		return by, err
	}
	if h.Now().Sub(v.Live.Begun) > recent {
		again := *errOldSession
		again.Page.URL = h.Answers.Prefix + "/sign-out"
		return by, &again
	}
	return admin.By{Who: "staff", Staff: v.Contact.ID}, nil
}

// GetContacts lists the first contacts.
func (h *Handlers) GetContacts(w http.ResponseWriter, r *http.Request) error {
	return h.listContacts(w, r, "", "", listDone[web.OnlyValue(r.URL.Query()["done"])])
}

// listDone maps the parameter done of the list's URL to the message after a change.
var listDone = map[string]string{"remove": "The contact is removed."}

// PostContacts lists the contacts that a search finds. What is searched for is in no URL: it may be an address.
func (h *Handlers) PostContacts(w http.ResponseWriter, r *http.Request) error {
	f, err := h.read(w, r)
	if err != nil {
		return err
	}
	return h.listContacts(w, r, strings.TrimSpace(f.Get("q")), f.Get("after"), "")
}

func (h *Handlers) listContacts(w http.ResponseWriter, r *http.Request, text, after, done string) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	h.Firm.Directory.WarmSearch() // they are likely to search next
	ctx := r.Context()
	list, err := h.Firm.ListContacts(ctx, admin.ListContacts{ListRequest: admin.ListRequest{Text: text, After: after, Limit: atOnce}})
	if err != nil {
		return err
	}
	page := web.StaffContactsPage{Query: text, Next: list.Next, Done: done}
	for _, c := range list.Contacts {
		row, err := h.rowOf(ctx, c)
		if err != nil {
			return err
		}
		page.Contacts = append(page.Contacts, row)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// rowOf is a contact as the pages show it.
func (h *Handlers) rowOf(ctx context.Context, c directory.Contact) (web.ContactRow, error) {
	var names []string
	for _, id := range c.Companies {
		company, err := h.Firm.Directory.Company(ctx, id)
		switch {
		case errors.Is(err, directory.ErrUnknown):
		case err != nil:
			return web.ContactRow{}, err
		case company.Name != "":
			names = append(names, company.Name)
		default:
			names = append(names, id)
		}
	}
	return web.ContactRow{ID: c.ID, Name: c.Name(), Email: c.Email().Display(), Companies: strings.Join(names, ", "),
		Disabled: c.Disabled, Staff: c.Role == directory.Staff}, nil
}

// problemOf says on a page why something wasn't done; what nobody expected is an error still.
func problemOf(err error) (string, error) {
	if err == nil {
		return "", nil
	}
	e := admin.ErrorOf(err)
	if e.Status >= http.StatusInternalServerError {
		return "", err
	}
	reason := []rune(e.Reason)
	reason[0] = unicode.ToUpper(reason[0])
	return strings.TrimSuffix(string(reason), ".") + ".", nil
}
