package directory

import (
	"context"
	"slices"
)

// clientsOnly is the key of a context of ClientsOnly's.
type clientsOnly struct{}

// ClientsOnly returns a context in which AddContact, SetContact, Enable, Disable and RemoveContact change no contact who
// is staff, or would be: the error is then ErrNotClient, in a *FieldError. It is for callers who may manage clients
// alone, and is checked in the step that makes the change.
func ClientsOnly(ctx context.Context) context.Context {
	return context.WithValue(ctx, clientsOnly{}, true)
}

// checkClientsOnly refuses a change of staff in a context of ClientsOnly.
func (b *Directory) checkClientsOnly(ctx context.Context, before, after *storedContact) error {
	if ctx.Value(clientsOnly{}) == nil {
		return nil
	}
	for _, c := range []*storedContact{before, after} {
		if c != nil && (c.Role == Staff || slices.ContainsFunc(c.Emails, b.isStaff)) {
			return &FieldError{Field: fRole.String(), Reason: "the contact is staff, or would be", Err: ErrNotClient}
		}
	}
	return nil
}
