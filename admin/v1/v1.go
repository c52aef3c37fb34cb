// Package v1 is bellhop's own dialect of the HTTP API, below /v1, with its OpenAPI
// description. It decodes a request, calls an operation of package ops, and encodes the
// result.
package v1

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// API serves the paths below /v1. The context of each request has its client.
type API struct {
	ops     *ops.Operations
	auth    *access.Authenticator
	streams *limit.Streams
	log     *slog.Logger
	lines   lineCache

	mux         *access.Mux
	once        http.Handler // of the requests with an Idempotency-Key
	description []byte
}

// New returns an API that calls the operations o. It ends a stream when auth no longer
// accepts the token of the stream's client.
func New(o *ops.Operations, auth *access.Authenticator, streams *limit.Streams, log *slog.Logger) *API {
	a := &API{ops: o, auth: auth, streams: streams, log: log, lines: newLineCache(o), mux: access.NewMux(WriteError)}
	api := humago.New(a.mux, newConfig(o.Version()))
	a.register(api)
	a.description = describe(api)
	a.once = newIdempotencyCache().answerOnce(http.HandlerFunc(a.serve))
	return a
}

// ServeHTTP serves the paths below /v1. The response to a POST with an Idempotency-Key may
// be that of an earlier request, see answerOnce.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.Header.Get("Idempotency-Key") != "" {
		a.once.ServeHTTP(w, r)
		return
	}
	a.serve(w, r)
}

// serve calls the operation of a request. It answers 404 if a segment of the path is
// longer than dialog.MaxName bytes, and 422 if a value in the query is longer. A segment
// or value may be the name of an extension, call, event or subscription, which becomes a
// subject or key of the store.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	long := func(name string) bool { return len(name) > dialog.MaxName }
	const detail = "name too long: at most 256 bytes"
	if slices.ContainsFunc(dialect.Path(r.URL), long) {
		WriteError(w, http.StatusNotFound, detail)
		return
	}
	for key, values := range r.URL.Query() {
		if slices.ContainsFunc(values, long) {
			writeProblemModel(w, huma.ErrorModel{
				Status: http.StatusUnprocessableEntity, Title: http.StatusText(http.StatusUnprocessableEntity), Detail: "validation failed",
				Errors: []*huma.ErrorDetail{{Location: "query." + key, Message: detail}},
			})
			return
		}
	}
	a.mux.ServeHTTP(w, r)
}

// Permissions returns the permission of each route, by pattern.
func (a *API) Permissions() map[string]access.Permission { return a.mux.Permissions }

// Description returns the OpenAPI description, as JSON.
func (a *API) Description() []byte { return a.description }

// newConfig returns huma's configuration for /v1.
func newConfig(version string) huma.Config {
	c := huma.DefaultConfig("bellhop", version)
	c.Info.Description = "Manage webhook subscriptions to the extensions of a PBX, and read calls, events and deliveries."
	c.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	c.Info.Contact = &huma.Contact{Name: "Guide to this API: bellhop help api", URL: "/help/api"}
	c.Servers = []*huma.Server{{URL: "/"}} // the server that serves the description
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true // a misspelt filter must not select everything
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "Token of POST /v1/tokens, of the command bellhop token create, or the first one in the file admin.token of the store"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Transformers = []huma.Transformer{dropErrorValues}
	return c
}

// dropErrorValues removes from a problem the values that the client has sent, because
// they may be secret.
func dropErrorValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, e := range m.Errors {
			e.Value = nil
		}
	}
	return v, nil
}

// register adds the operations below /v1.
func (a *API) register(api huma.API) {
	operation := func(asks access.Permission, id, method, path string, status int, summary string, also ...int) huma.Operation {
		a.mux.Permissions[method+" "+path] = asks
		return describeRoute(asks, id, method, path, status, summary, also...)
	}
	huma.Register(api, operation(access.PermitRead, "list-subscriptions", "GET", "/v1/subscriptions", 200, "List subscriptions, oldest first"), a.listSubscriptions)
	huma.Register(api, operation(access.PermitWrite, "create-subscription", "POST", "/v1/subscriptions", 201, "Create a subscription"), a.createSubscription)
	huma.Register(api, operation(access.PermitRead, "get-subscription", "GET", "/v1/subscriptions/{id}", 200, "Get a subscription"), a.getSubscription)
	huma.Register(api, operation(access.PermitWrite, "change-subscription", "PATCH", "/v1/subscriptions/{id}", 200, "Change a subscription", 409, 412), a.changeSubscription)
	huma.Register(api, operation(access.PermitWrite, "delete-subscription", "DELETE", "/v1/subscriptions/{id}", 204, "Delete a subscription", 409, 412), a.deleteSubscription)
	huma.Register(api, operation(access.PermitWrite, "rotate-secret", "POST", "/v1/subscriptions/{id}/rotate-secret", 200, "Rotate the signing secret: the response shows the new one, and for 24 hours callbacks are signed with the old one too", 412), a.rotateSecret)
	huma.Register(api, operation(access.PermitWrite, "test-subscription", "POST", "/v1/subscriptions/{id}/test", 200, "Send a sample callback of each subscribed event type now, and return the responses"), a.testSubscription)
	huma.Register(api, operation(access.PermitWrite, "replay", "POST", "/v1/subscriptions/{id}/replay", 202, "Replay a time range: deliver its events again, each with its original webhook-id"), a.replay)
	huma.Register(api, operation(access.PermitRead, "list-subscription-deliveries", "GET", "/v1/subscriptions/{id}/deliveries", 200, "List the deliveries of a subscription, newest first"), a.listDeliveriesOf)
	huma.Register(api, operation(access.PermitRead, "list-deliveries", "GET", "/v1/deliveries", 200, "List deliveries: the waiting ones, then the ended ones, each newest first"), a.listDeliveries)
	huma.Register(api, operation(access.PermitRead, "get-delivery", "GET", "/v1/deliveries/{id}", 200, "Get a delivery"), a.getDelivery)
	huma.Register(api, operation(access.PermitWrite, "redeliver", "POST", "/v1/deliveries/{id}/redeliver", 200, "Redeliver now, whatever the state of the delivery, and return the response"), a.redeliver)
	huma.Register(api, operation(access.PermitRead, "list-calls", "GET", "/v1/calls", 200, "List live calls, oldest first"), a.listCalls)
	huma.Register(api, operation(access.PermitRead, "get-call", "GET", "/v1/calls/{id}", 200, "Get a live call"), a.getCall)
	huma.Register(api, describeTrace(api, operation(access.PermitReadAll, "trace-call", "GET", "/v1/calls/{id}/trace", 200, "Get the SIP messages of a call, or its ladder diagram")), a.traceCall)
	huma.Register(api, describeEventStream(api, operation(access.PermitRead, "list-events", "GET", "/v1/events", 200, "List events, oldest first, or stream them as they are published")), a.listEvents)
	huma.Register(api, operation(access.PermitRead, "list-extensions", "GET", "/v1/extensions", 200, "List known extensions"), a.listExtensions)
	huma.Register(api, operation(access.PermitRead, "get-extension", "GET", "/v1/extensions/{extension}", 200, "Get an extension"), a.getExtension)
	huma.Register(api, operation(access.PermitReadAll, "get-status", "GET", "/v1/status", 200, "Get the status of this node"), a.getStatus)
	huma.Register(api, operation(access.PermitReadAll, "list-bans", "GET", "/v1/bans", 200, "List banned sources, oldest ban first"), a.listBans)
	huma.Register(api, operation(access.PermitAdmin, "add-ban", "POST", "/v1/bans", 201, "Ban a source: nothing is accepted from it, and its connections are closed"), a.addBan)
	huma.Register(api, operation(access.PermitReadAll, "get-ban", "GET", "/v1/bans/{source}", 200, "Get the ban of a source"), a.getBan)
	huma.Register(api, operation(access.PermitAdmin, "remove-ban", "DELETE", "/v1/bans/{source}", 204, "End the ban of a source, and forget its faults"), a.removeBan)
	huma.Register(api, operation(access.PermitAdmin, "list-tokens", "GET", "/v1/tokens", 200, "List tokens, oldest first"), a.listTokens)
	huma.Register(api, operation(access.PermitAdmin, "create-token", "POST", "/v1/tokens", 201, "Create a token; only this response shows its secret"), a.createToken)
	huma.Register(api, operation(access.PermitAdmin, "get-token", "GET", "/v1/tokens/{id}", 200, "Get a token"), a.getToken)
	huma.Register(api, operation(access.PermitAdmin, "revoke-token", "DELETE", "/v1/tokens/{id}", 204, "Revoke a token"), a.revokeToken)
	huma.Register(api, operation(access.PermitAdmin, "list-audit", "GET", "/v1/audit", 200, "List changes made over the API, newest first"), a.listAudit)
}

// describeRoute returns the OpenAPI description of a route. also are the error statuses
// beyond those that every route with this method and path has.
func describeRoute(asks access.Permission, id, method, path string, status int, summary string, also ...int) huma.Operation {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, DefaultStatus: status, Summary: summary,
		Description:  permissionTexts[asks],
		MaxBodyBytes: -1, // the server limits it, see limit.MaxBody
		Errors: append(also, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
			http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable),
	}
	if method == http.MethodPost || method == http.MethodPatch {
		op.Errors = append(op.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if strings.Contains(path, "{") {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	if method == http.MethodPost {
		limit := maxIdempotencyKey
		op.Errors = append(op.Errors, http.StatusConflict)
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: "Idempotency-Key", In: "header",
			Description: "Any text, for example a UUID. Repeating a request that succeeded with this key in the last 24 hours changes nothing and returns the same response",
			Schema:      &huma.Schema{Type: huma.TypeString, MaxLength: &limit},
		})
	}
	return op
}

// permissionTexts are the sentences about permissions in the descriptions of routes.
var permissionTexts = map[access.Permission]string{
	access.PermitAdmin:   "Requires a token with scope admin.",
	access.PermitRead:    "Requires a token of any scope. A token bound to extensions sees only those.",
	access.PermitWrite:   "Requires a token with scope write or admin. A token bound to extensions gets 404 for anything of another extension.",
	access.PermitReadAll: "Requires a token that is not bound to extensions.",
}

// list is one page of a collection.
type list[T any] struct {
	Items []T    `json:"items" nullable:"false" doc:"Items of the page"`
	Next  string `json:"next" doc:"Cursor of the next page; empty on the last page"`
}

// listResponse is the answer with one page of a collection.
type listResponse[T any] struct{ Body list[T] }

// pageAfter returns up to limit items after a cursor. place returns the cursor of an
// item. The items are sorted by their cursors, each of which is unique. The cursor of the
// next page is that of the last item on this page.
func pageAfter[T any](items []T, cursor string, limit int, place func(T) string) *listResponse[T] {
	i, found := slices.BinarySearchFunc(items, cursor, func(t T, cursor string) int {
		return strings.Compare(place(t), cursor)
	})
	if found {
		i++
	}
	var out listResponse[T]
	rest := items[i:]
	if len(rest) > limit {
		rest = rest[:limit]
		out.Body.Next = place(rest[limit-1])
	}
	out.Body.Items = append([]T{}, rest...)
	return &out
}

// cursorOf returns the cursor of an object with a time and an id. Cursors sort as text by
// time, then by id.
func cursorOf(t time.Time, id string) string { return fmt.Sprintf("%016x-%s", t.UnixMicro(), id) }

// checkCursor returns an error for a text that cannot be a result of cursorOf. With such
// a cursor, the page would be empty or the first page again.
func checkCursor(cursor string) error {
	const digits = len("00063f3c0b1d2a40") // see cursorOf
	if cursor == "" {
		return nil
	}
	if len(cursor) > digits+1 && cursor[digits] == '-' {
		if _, err := strconv.ParseInt(cursor[:digits], 16, 64); err == nil {
			return nil
		}
	}
	return unprocessable("query.cursor", "unknown cursor; use next from the previous page")
}

func (a *API) listCalls(ctx context.Context, in *struct {
	Cursor    string `query:"cursor" doc:"next from the previous page"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
	Extension string `query:"extension" doc:"In which this extension takes part"`
}) (*listResponse[Call], error) {
	if err := checkCursor(in.Cursor); err != nil {
		return nil, err
	}
	live, err := a.ops.Calls(ctx)
	if err != nil {
		return nil, a.problem(err)
	}
	calls := make([]Call, 0, len(live))
	for _, c := range live {
		if in.Extension == "" || slices.ContainsFunc(c.Parties, func(p dialog.Party) bool { return p.Extension.Is(in.Extension) }) {
			calls = append(calls, callOf(c))
		}
	}
	return pageAfter(calls, in.Cursor, in.Limit, func(c Call) string { return cursorOf(c.Since, c.ID) }), nil
}

// parseTime parses an RFC 3339 time of a query. A + in the query may have been decoded as
// a space.
func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, strings.Replace(s, " ", "+", 1))
	return t, err == nil
}

// checkEventType returns a 422 if a filter has an unknown event type; "" is no filter.
func checkEventType(t string) error {
	if t == "" {
		return nil
	}
	if invalid := subscription.CheckTypes([]string{t}); invalid != nil {
		return unprocessable("query.type", invalid.Why)
	}
	return nil
}

// WriteError writes a problem of RFC 9457. It is the access.ErrorWriter of /v1.
func WriteError(w http.ResponseWriter, status int, detail string) {
	writeProblemModel(w, huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail})
}

// writeProblemModel writes a problem of RFC 9457.
func writeProblemModel(w http.ResponseWriter, p huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// unprocessable returns a 422 for one field. location is its place in the request, such
// as query.type.
func unprocessable(location, message string) error {
	return huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: location, Message: message})
}

// problem returns err as a problem of /v1.
func (a *API) problem(err error) error {
	switch refused := a.ops.Explain(ops.V1, err); refused.Kind {
	case ops.Invalid:
		return unprocessable("body."+refused.Field, refused.Text)
	case ops.BadCursor:
		return unprocessable("query.cursor", "unknown cursor; use next from the previous page")
	case ops.NoEvent:
		return unprocessable("query.since", "is neither an RFC 3339 time such as 2026-01-31T09:00:00Z nor the id of an event in the event log")
	case ops.Busy:
		return huma.ErrorWithHeaders(huma.NewError(refused.Status, refused.Text), http.Header{"Retry-After": {"5"}})
	default:
		return huma.NewError(refused.Status, refused.Text)
	}
}

func (a *API) getStatus(ctx context.Context, _ *struct{}) (*struct{ Body ops.Status }, error) {
	return &struct{ Body ops.Status }{a.ops.Status(ctx, a.streams.Count())}, nil
}

func (a *API) listAudit(ctx context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
}) (*listResponse[ops.Entry], error) {
	entries, next, err := a.ops.Audit(ctx, in.Cursor, in.Limit)
	if err != nil {
		return nil, a.problem(err)
	}
	return &listResponse[ops.Entry]{list[ops.Entry]{entries, next}}, nil
}
