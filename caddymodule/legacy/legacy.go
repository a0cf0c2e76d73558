// Package legacy knows the old one-click links of a portal: it reads the patterns that
// an operator writes, says what a request's URL is by them, and rewrites between the old
// form of a link, which holds a secret, and the new one, which doesn't. It is pure: it
// keeps nothing, asks nobody, and knows neither people nor companies.
//
// # Words
//
//	old link    /one-click/{token}/*    a URL whose token was the key; the portal knows it
//	new link    /portal/{company}/*     the clean URL in its place
//	token       the secret of an old link, decoded once; compared byte by byte
//	tail        what a `/*` stands for, as it was sent
//	plain path  one that everybody reads alike: no `;`, `\`, `%` or control behind the
//	            escapes, no escaped slash, nothing that cleaning would change, no segment
//	            that ends with a dot or a space
//	odd path    one whose segments everybody finds in the same places, though some readers
//	            see less in one of them; any other shifts, see look.go
//	near        of a URL or a parameter's name: no pattern matches it, and yet some
//	            portal could read it as one that does
//
// # What it holds
//
// A URL is an old link, a new one or a company's path only if every reader would say so.
// What only some would is Bad. What stands where no pattern expects a token, and could yet
// be one to the portal, is among the Strays of a Verdict, to be looked up. So a token that
// was judged is the one that the portal sees.
//
//	Match        what is this URL?
//	NewURL       where an old link leads, without its token
//	OldURL       what the portal gets in the place of a new link
//	Body         a form as the portal gets it, without other companies' tokens
//	Outgoing     the headers of the portal's answer, old links made new
package legacy

import (
	"fmt"
	"slices"
)

// Config is what the operator wrote.
type Config struct {
	Prefix       string // of the gate's own pages, such as "/-"
	Links        []Link
	CompanyPaths []string // such as "/files/{company}/*"
	Home         string   // such as "/portal/{company}"; "": none
}

// Link is one pair of patterns.
type Link struct {
	// Old is the form with the secret: a path and perhaps a query, with {token} once,
	// such as "/one-click/{token}/*" or "/view?client={token}". Required.
	Old string `json:"old"`

	// New is the form without: a path with the segment {company} once, such as
	// "/portal/{company}/*". It ends with /* if Old's path does. Required.
	New string `json:"new"`

	// ForwardNew says that the portal knows the new links. Default: it receives the
	// old one.
	ForwardNew bool `json:"forward_new,omitempty"`
}

// Error is a pattern that can't stand, and what to write instead.
type Error struct {
	Setting string // legacy_link, company_path or home
	Index   int    // among those of the setting, from 0
	Reason  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %d: %s", e.Setting, e.Index+1, e.Reason) }

// Rules are the patterns of one firm, checked. They are safe for use by many goroutines;
// nil matches nothing.
type Rules struct {
	links     []link
	companies []*shape // of company_path
	home      *shape   // nil: none
	all       []*shape // of links and companies
	kin       []*shape // of all
	anchors   anchors
}

type link struct {
	old, to    *shape
	forwardNew bool
}

// Compile reads the patterns and checks them against each other. An error is an *Error.
func Compile(c Config) (*Rules, error) {
	r := &Rules{}
	for i, l := range c.Links {
		old, err := parse(l.Old, tokenSlot)
		if err != nil {
			return nil, &Error{"legacy_link", i, err.Error()}
		}
		to, err := parse(l.New, companySlot)
		if err == nil {
			err = checkPair(old, to)
		}
		if err != nil {
			return nil, &Error{"legacy_link", i, err.Error()}
		}
		old.known, to.known = true, l.ForwardNew
		r.links = append(r.links, link{old, to, l.ForwardNew})
		r.all = append(r.all, old, to)
	}
	for i, text := range c.CompanyPaths {
		s, err := parse(text, companySlot)
		if err != nil {
			return nil, &Error{"company_path", i, err.Error()}
		}
		s.known = true
		r.companies = append(r.companies, s)
		r.all = append(r.all, s)
	}
	if c.Home != "" {
		s, err := parse(c.Home, companySlot)
		if err == nil && s.tail {
			err = fmt.Errorf("%s is no one page; write it without the *", s.text)
		}
		if err != nil {
			return nil, &Error{"home", 0, err.Error()}
		}
		r.home = s
	}
	if err := r.check(c.Prefix); err != nil {
		return nil, err
	}
	for _, s := range r.all {
		r.kin = append(r.kin, s.kinOf()...)
	}
	r.anchors = anchorsOf(slices.Concat(r.all, r.kin))
	return r, nil
}

// HasLinks reports whether the firm has old links at all.
func (r *Rules) HasLinks() bool { return r != nil && len(r.links) > 0 }

// Home returns the path that `/` leads a contact of the company to, or "".
func (r *Rules) Home(company string) string {
	if r == nil || r.home == nil {
		return ""
	}
	return r.home.path(company, "")
}

// Page returns the company's own page: its home, else the first new link or company
// path, or "".
func (r *Rules) Page(company string) string {
	switch {
	case r == nil:
		return ""
	case r.home != nil:
		return r.home.path(company, "")
	case len(r.links) > 0:
		return r.links[0].to.path(company, "")
	case len(r.companies) > 0:
		return r.companies[0].path(company, "")
	}
	return ""
}
