package ops

import (
	"context"

	"bellhop/admin/access"
)

// Tokens returns all tokens but that of the config, oldest first.
func (o *Operations) Tokens() []access.Token { return o.tokens.All() }

// Token returns a token, or [access.ErrNotFound].
func (o *Operations) Token(id string) (access.Token, error) { return o.tokens.Get(id) }

// CreateToken creates a token, which the caller has validated, and returns it with its
// secret.
func (o *Operations) CreateToken(ctx context.Context, t access.Token) (access.Token, error) {
	t, err := o.tokens.Create(ctx, t)
	if err == nil {
		made := t
		made.Secret = ""
		o.record(ctx, "create-token", t.ID, nil, made)
	}
	return t, err
}

// RevokeToken revokes a token.
func (o *Operations) RevokeToken(ctx context.Context, id string) error {
	t, err := o.tokens.Revoke(ctx, id)
	if err == nil {
		o.record(ctx, "revoke-token", t.ID, t, nil)
	}
	return err
}
