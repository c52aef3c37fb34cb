package v1

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/admin/ops"
	"bellhop/notify"
	"bellhop/notify/subscription"
)

// change is the body of a request that creates or changes a subscription. A field that
// is absent keeps its value, or has its default in a new subscription. Package notify
// validates the result.
type change struct{ fields subscription.Change }

func (c *change) UnmarshalJSON(b []byte) error { return c.fields.UnmarshalJSON(b) }

// Schema describes the fields of a subscription that a request may set. The schema has
// the name Change.
func (change) Schema(r huma.Registry) *huma.Schema {
	ref := &huma.Schema{Ref: "#/components/schemas/Change"}
	if r.Map()["Change"] != nil {
		return ref
	}
	body := &huma.Schema{Type: huma.TypeObject, Properties: make(map[string]*huma.Schema), AdditionalProperties: false}
	for _, f := range subscription.Fields {
		field := *r.Schema(f.Type, false, "")
		field.Description, field.WriteOnly, field.Nullable = f.Doc, f.Secret, false
		for word := range strings.SplitSeq(f.Tag.Get("enum"), ",") {
			if word != "" {
				field.Enum = append(field.Enum, word)
			}
		}
		body.Properties[f.Name] = &field
	}
	body.PrecomputeMessages()
	r.Map()["Change"] = body
	return ref
}

// subscriptionResponse is the answer with one subscription. Its ETag is the revision.
type subscriptionResponse struct {
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     notify.Subscription
}

// respondSubscription returns the answer with a subscription.
func respondSubscription(sub notify.Subscription) *subscriptionResponse {
	return &subscriptionResponse{ETag: `"` + strconv.FormatUint(sub.Revision, 10) + `"`, Body: sub}
}

// matchRevision returns the revision that If-Match requires of a subscription, or 0 if it
// requires none. For a single entity tag, it returns the revision in the tag, which the
// operation compares with the stored one. For several tags, it returns the stored
// revision if one of them has it, and notify.ErrConflict otherwise.
func (a *API) matchRevision(ctx context.Context, id, ifMatch string) (uint64, error) {
	if ifMatch == "" || ifMatch == "*" {
		return 0, nil
	}
	tags := entityTags(ifMatch)
	if len(tags) > 1 {
		sub, err := a.ops.Subscription(ctx, id)
		if err != nil {
			return 0, err
		}
		own := strconv.FormatUint(sub.Revision, 10)
		if !slices.Contains(tags, own) {
			return 0, notify.ErrConflict
		}
		tags = []string{own}
	}
	if len(tags) == 1 {
		if n, err := strconv.ParseUint(tags[0], 10, 64); err == nil && n != 0 {
			return n, nil
		}
	}
	return 0, notify.ErrConflict // not an ETag of bellhop
}

// entityTags returns the entity tags of If-Match without their quotes (RFC 9110
// §13.1.1). A weak tag keeps its W/, so that it equals no revision: in If-Match it must
// never match. A tag may contain a comma.
func entityTags(ifMatch string) (tags []string) {
	for rest := strings.TrimSpace(ifMatch); rest != ""; {
		n := strings.IndexByte(rest, ',')
		if strings.HasPrefix(rest, `"`) {
			if end := strings.IndexByte(rest[1:], '"'); end >= 0 {
				if n = strings.IndexByte(rest[end+2:], ','); n >= 0 {
					n += end + 2
				}
			}
		}
		if n < 0 {
			n = len(rest)
		}
		if tag := strings.Trim(strings.TrimSpace(rest[:n]), `"`); tag != "" {
			tags = append(tags, tag)
		}
		rest = strings.TrimSpace(rest[min(n+1, len(rest)):])
	}
	return tags
}

func (a *API) listSubscriptions(ctx context.Context, in *struct {
	Cursor    string `query:"cursor" doc:"next from the previous page"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
	Extension string `query:"extension" doc:"Only subscriptions to exactly this extension"`
	Type      string `query:"type" doc:"Only subscriptions whose types contain this one"`
	Active    string `query:"active" enum:"true,false" doc:"Only active, or only inactive, subscriptions"`
}) (*listResponse[notify.Subscription], error) {
	if err := cmp.Or(checkEventType(in.Type), checkCursor(in.Cursor)); err != nil {
		return nil, err
	}
	subs := slices.DeleteFunc(a.ops.Subscriptions(ctx), func(sub notify.Subscription) bool {
		return in.Extension != "" && sub.Extension != in.Extension ||
			in.Type != "" && !slices.Contains(sub.Types, in.Type) ||
			in.Active != "" && sub.Active != (in.Active == "true")
	})
	return pageAfter(subs, in.Cursor, in.Limit, func(sub notify.Subscription) string {
		return cursorOf(sub.Created, sub.ID)
	}), nil
}

func (a *API) createSubscription(ctx context.Context, in *struct{ Body change }) (*subscriptionResponse, error) {
	sub := notify.NewSubscription()
	if err := in.Body.fields.ApplyTo(&sub); err != nil {
		return nil, a.problem(err)
	}
	sub, err := a.ops.CreateSubscription(ctx, sub)
	if err != nil {
		return nil, a.problem(err)
	}
	out := respondSubscription(sub)
	out.Location = "/v1/subscriptions/" + sub.ID
	return out, nil
}

func (a *API) getSubscription(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the subscription"`
}) (*subscriptionResponse, error) {
	sub, err := a.ops.Subscription(ctx, in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	return respondSubscription(sub), nil
}

func (a *API) changeSubscription(ctx context.Context, in *struct {
	ID      string `path:"id" doc:"ID of the subscription"`
	IfMatch string `header:"If-Match" doc:"Apply the change only if the subscription still has this ETag"`
	Body    change
}) (*subscriptionResponse, error) {
	old, err := a.matchRevision(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, a.problem(err)
	}
	sub, err := a.ops.ChangeSubscription(ctx, in.ID, old, in.Body.fields.ApplyTo)
	if err != nil {
		return nil, a.problem(err)
	}
	return respondSubscription(sub), nil
}

func (a *API) deleteSubscription(ctx context.Context, in *struct {
	ID      string `path:"id" doc:"ID of the subscription"`
	IfMatch string `header:"If-Match" doc:"Apply the change only if the subscription still has this ETag"`
}) (*struct{}, error) {
	old, err := a.matchRevision(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, a.problem(err)
	}
	if err := a.ops.DeleteSubscription(ctx, in.ID, old); err != nil {
		return nil, a.problem(err)
	}
	return nil, nil
}

func (a *API) rotateSecret(ctx context.Context, in *struct {
	ID      string `path:"id" doc:"ID of the subscription"`
	IfMatch string `header:"If-Match" doc:"Rotate only if the subscription still has this ETag"`
}) (*subscriptionResponse, error) {
	old, err := a.matchRevision(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, a.problem(err)
	}
	sub, err := a.ops.RotateSecret(ctx, in.ID, old)
	if err != nil {
		return nil, a.problem(err)
	}
	return respondSubscription(sub), nil
}

// Replayed is the answer to a replay.
type Replayed struct {
	Events int `json:"events" doc:"Number of events in the time range; those still waiting are not sent twice"`
}

func (a *API) replay(ctx context.Context, in *struct {
	ID   string `path:"id" doc:"ID of the subscription"`
	Body ops.Replay
}) (*struct{ Body Replayed }, error) {
	events, err := a.ops.Replay(ctx, in.ID, in.Body)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body Replayed }{Replayed{events}}, nil
}
