package v1

import (
	"context"
	"net/url"
	"time"

	"bellhop/admin/ops"
)

// banResponse is the answer to the creation of a ban.
type banResponse struct {
	Location string `header:"Location"`
	Body     ops.Ban
}

func (a *API) listBans(_ context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
}) (*listResponse[ops.Ban], error) {
	if err := checkCursor(in.Cursor); err != nil {
		return nil, err
	}
	return pageAfter(a.ops.Bans(), in.Cursor, in.Limit, func(b ops.Ban) string { return cursorOf(b.Since, b.Source) }), nil
}

// newBan is the body of a request that bans a source.
type newBan struct {
	Source string    `json:"source" doc:"IPv4 address, IPv6 address or /64 network of IPv6. An IPv6 address stands for its /64 network"`
	Until  time.Time `json:"until,omitzero" doc:"Time at which the ban ends, at most 10 years ahead; absent: after guard.ban_time of the config"`
}

func (a *API) addBan(ctx context.Context, in *struct{ Body newBan }) (*banResponse, error) {
	b, err := a.ops.AddBan(ctx, in.Body.Source, in.Body.Until)
	if err != nil {
		return nil, a.problem(err)
	}
	return &banResponse{"/v1/bans/" + url.PathEscape(b.Source), b}, nil
}

func (a *API) getBan(_ context.Context, in *struct {
	Source string `path:"source" doc:"Source of the ban, or an address in its network"`
}) (*struct{ Body ops.Ban }, error) {
	b, err := a.ops.Ban(in.Source)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body ops.Ban }{b}, nil
}

func (a *API) removeBan(ctx context.Context, in *struct {
	Source string `path:"source" doc:"Source of the ban, or an address in its network"`
}) (*struct{}, error) {
	if err := a.ops.RemoveBan(ctx, in.Source); err != nil {
		return nil, a.problem(err)
	}
	return nil, nil
}
