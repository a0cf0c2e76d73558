package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/typo"
)

// Suggestions for likely typing mistakes.

// mailDomains are the domains for which a likely typing mistake is reported.
var mailDomains = []string{"gmail.com", "googlemail.com", "hotmail.com", "outlook.com", "yahoo.com", "icloud.com",
	"mail.com", "ymail.com", "email.com"}

// topDomains maps typing mistakes in top-level domains to the right ones. None of the mistyped ones
// exists.
var topDomains = map[string]string{"con": "com", "cmo": "com", "ocm": "com", "comm": "com", "vom": "com", "xom": "com", "coom": "com", "nte": "net", "ent": "net", "nett": "net", "ogr": "org", "orgg": "org"}

// LikelyDomain returns the domain that was most likely meant, or "" if the domain of the address
// looks right.
func LikelyDomain(a address.Address) string {
	domain := a.Domain()
	i := strings.LastIndexByte(domain, '.')
	if i < 0 || slices.Contains(mailDomains, domain) {
		return ""
	}
	if right := topDomains[domain[i+1:]]; right != "" {
		domain = domain[:i+1] + right
	}
	for _, known := range mailDomains {
		if !slices.Contains(mailDomains, domain) && typo.Count(domain, known) == 1 {
			return known
		}
	}
	if domain != a.Domain() {
		return domain
	}
	return ""
}

// legalForms are words in company names that people leave out or write differently.
var legalForms = map[string]bool{"ltd": true, "limited": true, "llc": true, "inc": true, "incorporated": true, "corp": true, "corporation": true, "co": true, "company": true,
	"gmbh": true, "ag": true, "kg": true, "ug": true, "plc": true, "llp": true, "lp": true, "sa": true, "sl": true, "srl": true, "bv": true, "pty": true, "the": true, "and": true}

// coreName returns a company's name without punctuation and legal form.
func coreName(name string) string {
	words := strings.FieldsFunc(nameKey(name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	kept := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return legalForms[w] })
	if len(kept) == 0 {
		kept = words
	}
	return strings.Join(kept, " ")
}

// maxSuggestions limits the unknown names of one file for which similar ones are searched.
const maxSuggestions = 200

// suggest returns the companies that were most likely meant, at most three, formatted for an error
// message.
func (n *companyNames) suggest(written string) string {
	if n.suggested++; n.suggested > maxSuggestions {
		return ""
	}
	core := coreName(written)
	if core == "" {
		return ""
	}
	slips := min(2, len(core)/3) // none in very short names
	var exact, near []string
	for id, name := range n.display {
		c := coreName(name)
		switch {
		case c == core || coreName(id) == core:
			exact = append(exact, id)
		case len(core) >= 4 && (strings.HasPrefix(c, core+" ") || strings.HasPrefix(core, c+" ") && len(c) >= 4) || typo.Count(c, core) <= slips || typo.Count(id, nameKey(written)) <= slips:
			near = append(near, id)
		}
	}
	slices.Sort(exact)
	slices.Sort(near)
	found := append(exact, near...)
	var all []string
	for _, id := range found[:min(len(found), 3)] {
		if name := n.display[id]; name != id {
			all = append(all, fmt.Sprintf("%q (%s)", name, id))
		} else {
			all = append(all, id)
		}
	}
	return strings.Join(all, " or ")
}

// unknown returns the error for a company that doesn't exist.
func (n *companyNames) unknown(written string) error {
	if parts := strings.Split(written, ","); len(parts) > 1 {
		all := true
		for _, p := range parts {
			key := nameKey(p)
			all = all && (n.ids[key] || len(n.names[key]) == 1)
		}
		if all {
			return fmt.Errorf("%s is no company; several are separated by a semicolon: %s", quoted(written), strings.Join(trimmed(parts), "; "))
		}
	}
	if meant := n.suggest(written); meant != "" {
		return fmt.Errorf("%s is no company; did you mean %s? Else add it first", quoted(written), meant)
	}
	return fmt.Errorf("%s is no company; add it first", quoted(written))
}

func trimmed(parts []string) (out []string) {
	for _, p := range parts {
		out = append(out, strings.TrimSpace(p))
	}
	return out
}

// SimilarCompanies returns the companies that were most likely meant, formatted for an error
// message, or "" if there are none.
func (b *Directory) SimilarCompanies(ctx context.Context, written string) (string, error) {
	n, err := b.companyNames(ctx)
	if err != nil {
		return "", err
	}
	return n.suggest(written), nil
}
