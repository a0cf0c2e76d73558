// Package legacy handles the old one-click links of a portal: it parses the operator's patterns,
// classifies request URLs by them, and rewrites links between the old form, which contains a
// secret, and the new one, which doesn't. The package has no state and no I/O; it doesn't know
// which tokens, companies or contacts exist.
//
// # Words
//
//	old link    /one-click/{token}/*    a URL whose token gives access; the portal knows it
//	new link    /portal/{company}/*     the URL without a secret that replaces it
//	token       the secret of an old link, decoded once; compared byte by byte
//	tail        the part of a URL that matches /*, as sent
//	plain path  a path that all portals parse alike: once decoded it has no `;`, `\`, `%`
//	            or control character, no escaped slash, no segment that path cleaning would
//	            change or that ends with a dot or a space
//	odd path    a path that all portals split into the same segments, although some read
//	            less in one of them; a path that they split differently shifts, see traits.go
//	near        of a URL or a parameter's name: no pattern matches it, but some portal
//	            could read it as one that matches
//
// # Guarantees
//
// A URL is classified as an old link, a new link or a company's path only if all portals would
// agree. If only some would, it is Bad. A token in a place where no pattern has one, but where a
// portal could still read one, is among the MisplacedTokens of a Verdict, for the caller to look up. So the
// token that was checked is always the token that the portal reads.
//
//	Match        classifies a URL
//	NewURL       returns the new link for an old one, without its token
//	OldURL       returns the URL for the portal that replaces a new link
//	Body         filters a form: replaces tokens that the sender may not use
//	Outgoing     rewrites old links in the portal's response headers
package legacy

import (
	"fmt"
	"slices"
)

// Config are the operator's settings.
type Config struct {
	Prefix       string // of the gate's own pages, such as "/-"
	Links        []Link
	CompanyPaths []string // such as "/files/{company}/*"
	Home         string   // such as "/portal/{company}"; "" if unset
}

// Link is a pair of patterns.
type Link struct {
	// Old is the form with the secret: a path and optionally a query, with {token} once, such as
	// "/one-click/{token}/*" or "/view?client={token}". Required.
	Old string `json:"old"`

	// New is the form without the secret: a path with the segment {company} once, such as
	// "/portal/{company}/*". It ends with /* if and only if Old's path does. Required.
	New string `json:"new"`

	// ForwardNew means that the portal knows the new links and receives them. By default it
	// receives the old ones.
	ForwardNew bool `json:"forward_new,omitempty"`
}

// Error reports an invalid pattern, and what to write instead.
type Error struct {
	Setting string // legacy_link, company_path or home
	Index   int    // among the patterns of the setting, from 0
	Reason  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %d: %s", e.Setting, e.Index+1, e.Reason) }

// Rules are the checked patterns of one firm. They are safe for concurrent use. A nil *Rules
// matches nothing.
type Rules struct {
	links     []link
	companies []*pattern // of company_path
	home      *pattern   // nil if unset
	all       []*pattern // of links and companies
	variants  []*pattern // of all
	literals  literals
}

type link struct {
	old, to    *pattern
	forwardNew bool
}

// Compile parses the patterns and checks them against each other. Errors are *Error.
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
		old.portalHas, to.portalHas = true, l.ForwardNew
		r.links = append(r.links, link{old, to, l.ForwardNew})
		r.all = append(r.all, old, to)
	}
	for i, text := range c.CompanyPaths {
		s, err := parse(text, companySlot)
		if err != nil {
			return nil, &Error{"company_path", i, err.Error()}
		}
		s.portalHas = true
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
		r.variants = append(r.variants, s.variants()...)
	}
	r.literals = literalsOf(slices.Concat(r.all, r.variants))
	return r, nil
}

// HasLinks reports whether the firm has patterns of old links.
func (r *Rules) HasLinks() bool { return r != nil && len(r.links) > 0 }

// Home returns the path to which a contact of the company is redirected from /, or "".
func (r *Rules) Home(company string) string {
	if r == nil || r.home == nil {
		return ""
	}
	return r.home.path(company, "")
}

// Page returns the company's main page: its home, otherwise the first new link or company path, or
// "".
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
