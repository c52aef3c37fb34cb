package v1

import (
	"context"
	"slices"

	"bellhop/admin/ops"
)

func (a *API) listExtensions(ctx context.Context, in *struct {
	Cursor     string `query:"cursor" doc:"next from the previous page"`
	Limit      int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
	Registered string `query:"registered" enum:"true,false" doc:"Only registered, or only unregistered, extensions"`
	Busy       string `query:"busy" enum:"true,false" doc:"Only extensions with, or only those without, a live call"`
}) (*listResponse[*ops.Extension], error) {
	all, err := a.ops.Extensions(ctx)
	if err != nil {
		return nil, a.problem(err)
	}
	all = slices.DeleteFunc(all, func(e *ops.Extension) bool {
		return in.Registered != "" && e.Registered != (in.Registered == "true") || in.Busy != "" && e.Busy != (in.Busy == "true")
	})
	return pageAfter(all, in.Cursor, in.Limit, func(e *ops.Extension) string { return e.Extension }), nil
}

func (a *API) getExtension(ctx context.Context, in *struct {
	Extension string `path:"extension" doc:"101, or 101@pbx.example"`
}) (*struct{ Body *ops.Extension }, error) {
	e, err := a.ops.Extension(ctx, in.Extension)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body *ops.Extension }{e}, nil
}

func (a *API) getCall(ctx context.Context, in *struct {
	ID string `path:"id" doc:"The call_id of the call"`
}) (*struct{ Body Call }, error) {
	c, err := a.ops.Call(ctx, in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body Call }{callOf(c)}, nil
}
