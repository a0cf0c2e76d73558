package directory

import (
	"context"
	"errors"
	"slices"
)

// Members returns the first contacts that belong to the company, up to limit, in the order in which they were added, and how
// many further ones there are. Unlike ContactsOf it doesn't read all contacts, but looks into the index of Search, which may
// be some seconds behind other processes: it is for showing, not for deciding.
func (b *Directory) Members(ctx context.Context, company string, limit int) (first []Contact, more int, err error) {
	var ids []string
	if err := b.withIndex(ctx, func(x *contactIndex) { ids = x.members(company) }); err != nil {
		return nil, 0, err
	}
	for i, id := range ids {
		if len(first) == limit {
			return first, len(ids) - i, nil
		}
		c, err := b.ByID(ctx, id)
		if errors.Is(err, ErrUnknown) || err == nil && !slices.Contains(c.Companies, company) {
			continue // they have left it meanwhile
		} else if err != nil {
			return nil, 0, err
		}
		first = append(first, c)
	}
	return first, 0, nil
}
