package admin

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

func (s *Server) listTokens(_ context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
}) (*listResponse[access.Token], error) {
	if err := checkCursor(in.Cursor); err != nil {
		return nil, err
	}
	return pageAfter(s.auth.Tokens.All(), in.Cursor, in.Limit, func(t access.Token) string { return cursorOf(t.Created, t.ID) }), nil
}

// newToken is the body of a request that creates a token.
type newToken struct {
	Note       string       `json:"note,omitempty" maxLength:"1000" doc:"Note for people: the user of the token, and its purpose"`
	Scope      access.Scope `json:"scope" enum:"read,write,admin" doc:"read: GET only; write: also change subscriptions and resend deliveries; admin: everything"`
	Extensions []string     `json:"extensions,omitempty" nullable:"false" minItems:"1" maxItems:"100" doc:"Bind the token to these extensions: it sees and changes nothing else. 101 is user 101 of any domain, 101@pbx.example of that one"`
	Expires    time.Time    `json:"expires,omitzero" doc:"Time from which the token is rejected; absent: never"`
}

func (s *Server) createToken(ctx context.Context, in *struct{ Body newToken }) (*tokenResponse, error) {
	t := access.Token{Note: in.Body.Note, Scope: in.Body.Scope, Extensions: in.Body.Extensions, Expires: in.Body.Expires.UTC()}
	if field, why := t.Validate(); why != "" {
		return nil, unprocessable("body."+field, why)
	}
	t, err := s.issueToken(ctx, t)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &tokenResponse{"/v1/tokens/" + t.ID, t}, nil
}

// issueToken creates a token for the request of ctx, and records it in the audit log.
func (s *Server) issueToken(ctx context.Context, t access.Token) (access.Token, error) {
	t, err := s.auth.Tokens.Create(ctx, t)
	if err == nil {
		made := t
		made.Secret = ""
		s.recordAudit(ctx, "create-token", t.ID, nil, made)
	}
	return t, err
}

func (s *Server) getToken(_ context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{ Body access.Token }, error) {
	t, err := s.auth.Tokens.Get(in.ID)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &struct{ Body access.Token }{t}, nil
}

func (s *Server) revokeToken(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{}, error) {
	if err := s.withdrawToken(ctx, in.ID); err != nil {
		return nil, s.apiError(err)
	}
	return nil, nil
}

// withdrawToken revokes a token for the request of ctx, and records it in the audit
// log.
func (s *Server) withdrawToken(ctx context.Context, id string) error {
	t, err := s.auth.Tokens.Revoke(ctx, id)
	if err == nil {
		s.recordAudit(ctx, "revoke-token", t.ID, t, nil)
	}
	return err
}
