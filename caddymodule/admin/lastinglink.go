package admin

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// LastingLink is the link that leads a contact to their pages at any time. It holds no secret.
type LastingLink struct {
	Contact directory.Contact `json:"contact"`
	Link    string            `json:"link"`
}

// LastingLink returns the contact's lasting link.
func (f Firm) LastingLink(ctx context.Context, in ByEmail) (out LastingLink, err error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return out, err
	}
	c, err := f.Directory.ByEmail(ctx, email)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		return out, unknownContact(email)
	case err != nil:
		return out, err
	case f.Portal == nil:
		return out, &Error{Status: 503, Code: "unavailable", Reason: "the portal's links aren't known here"}
	}
	return LastingLink{c, f.Portal.LastingLink(c)}, nil
}
