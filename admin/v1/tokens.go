package v1

import (
	"context"
	"time"

	"bellhop/admin/access"
)

// tokenResponse is the answer to the creation of a token.
type tokenResponse struct {
	Location string `header:"Location"`
	Body     access.Token
}

func (a *API) listTokens(_ context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
}) (*listResponse[access.Token], error) {
	if err := checkCursor(in.Cursor); err != nil {
		return nil, err
	}
	return pageAfter(a.ops.Tokens(), in.Cursor, in.Limit, func(t access.Token) string { return cursorOf(t.Created, t.ID) }), nil
}

// newToken is the body of a request that creates a token.
type newToken struct {
	Note       string       `json:"note,omitempty" maxLength:"1000" doc:"Note for people: the user of the token, and its purpose"`
	Scope      access.Scope `json:"scope" enum:"read,write,admin" doc:"read: GET only; write: also change subscriptions and resend deliveries; admin: everything"`
	Extensions []string     `json:"extensions,omitempty" nullable:"false" minItems:"1" maxItems:"100" doc:"Bind the token to these extensions: it sees and changes nothing else. 101 is user 101 of any domain, 101@pbx.example of that one"`
	Expires    time.Time    `json:"expires,omitzero" doc:"Time from which the token is rejected; absent: never"`
}

func (a *API) createToken(ctx context.Context, in *struct{ Body newToken }) (*tokenResponse, error) {
	t := access.Token{Note: in.Body.Note, Scope: in.Body.Scope, Extensions: in.Body.Extensions, Expires: in.Body.Expires.UTC()}
	if field, why := t.Validate(); why != "" {
		return nil, unprocessable("body."+field, why)
	}
	t, err := a.ops.CreateToken(ctx, t)
	if err != nil {
		return nil, a.problem(err)
	}
	return &tokenResponse{"/v1/tokens/" + t.ID, t}, nil
}

func (a *API) getToken(_ context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{ Body access.Token }, error) {
	t, err := a.ops.Token(in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body access.Token }{t}, nil
}

func (a *API) revokeToken(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{}, error) {
	if err := a.ops.RevokeToken(ctx, in.ID); err != nil {
		return nil, a.problem(err)
	}
	return nil, nil
}
