package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
)

// CreateToken asks for a service token.
type CreateToken struct {
	Name   string               `json:"name,omitempty"` // for people, such as "portal"
	Scopes []servicetoken.Scope `json:"scopes"`
}

// TokenCreated has a new service token, which nobody can see again.
type TokenCreated struct {
	servicetoken.Token
	Text string `json:"token"` // what a program sends as Authorization: Bearer …
}

func (t TokenCreated) changed() audit.Event { return audit.Event{Token: t.ID} }

// TokenList is the service tokens of a firm, the oldest first.
type TokenList struct {
	Tokens []servicetoken.Token `json:"tokens"`
}

// RevokeToken asks that a service token ends.
type RevokeToken struct {
	ID string `json:"id"`
}

// TokenRevoked has what the token was.
type TokenRevoked struct {
	servicetoken.Token
}

func (t TokenRevoked) changed() audit.Event { return audit.Event{Token: t.ID} }

// CreateToken makes a service token.
func (f Firm) CreateToken(ctx context.Context, in CreateToken) (TokenCreated, error) {
	t, text, err := f.ServiceTokens.Create(ctx, in.Name, in.Scopes)
	switch {
	case errors.Is(err, servicetoken.ErrInvalid):
		var all []string
		for _, s := range servicetoken.Scopes {
			all = append(all, string(s))
		}
		err = &Error{Status: 400, Code: "invalid", Field: "scopes", Reason: strings.TrimPrefix(err.Error(), servicetoken.ErrInvalid.Error()+": "), Remedy: "choose among " + strings.Join(all, ", ")}
	case errors.Is(err, servicetoken.ErrTooMany):
		err = &Error{Status: 409, Code: "limited", Field: "scopes", Reason: fmt.Sprintf("there are %d tokens already", servicetoken.MaxTokens), Remedy: "revoke those that nothing uses; tokens list shows when each was last used"}
	}
	return TokenCreated{t, text}, err
}

// ListTokens returns the service tokens.
func (f Firm) ListTokens(ctx context.Context, _ struct{}) (TokenList, error) {
	all, err := f.ServiceTokens.List(ctx)
	return TokenList{all}, err
}

// RevokeToken ends a service token at once.
func (f Firm) RevokeToken(ctx context.Context, in RevokeToken) (TokenRevoked, error) {
	t, err := f.ServiceTokens.Revoke(ctx, in.ID)
	if errors.Is(err, servicetoken.ErrUnknown) {
		id := in.ID
		if strings.HasPrefix(id, servicetoken.Prefix) { // the token itself, which no log is to have
			id = "of that text"
		}
		err = &Error{Status: 404, Code: "unknown", Field: "id", Reason: fmt.Sprintf("there is no service token %s", id), Remedy: "tokens list shows the ids"}
	}
	return TokenRevoked{t}, err
}
