// Package telphin is the Telphin dialect of the HTTP API: events of extensions, below
// /api/ver1.0 and at the root, with access tokens of OAuth.
//
// Its responses and errors are those of the original. An event is a subscription to one
// event type, see package dialect. A request deletes more than one event only if its path
// has no event id, and the request has neither a query nor a body.
package telphin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

// types are the event types of the Telphin dialect. Never change their order,
// only add: the numbers of events depend on it.
var types = []dialect.Type{
	{Name: "dial-in", Word: "dial-in"},
	{Name: "dial-out", Word: "dial-out"},
	{Name: "hangup", Word: "hangup"},
	{Name: "answer", Word: "answer"},
	{Name: "message-in", Word: "message-in"},
	{Name: "message-out", Word: "message-out"},
	{Name: "voicemail", Word: "voicemail"},
}

// API serves the Telphin dialect, and issues access tokens. The context of each request
// to ServeHTTP has its client.
type API struct {
	ops  *ops.Operations
	auth *access.Authenticator
}

// New returns an API that calls the operations o. With auth, it identifies clients that
// request an access token.
func New(o *ops.Operations, auth *access.Authenticator) *API { return &API{o, auth} }

// allPhones selects the subscriptions with the extension_regex .*: in this dialect, the
// events of all phones.
var allPhones = dialect.Selector{Regex: ".*"}

// event is an event in the JSON of the Telphin dialect.
type event struct {
	URL       string `json:"url"`
	Method    string `json:"method"`
	EventType string `json:"event_type"`
	ID        uint64 `json:"id"`
}

func renderEvent(e dialect.Event) event {
	return event{e.Subscription.URL, e.Subscription.Method, e.Name, eventNumber(e)}
}

// eventNumber returns the id of an event in the Telphin dialect, where ids are numbers.
// The number is computed from the id of the subscription, so that a subscription that
// was created in another dialect has one too, and no number must be stored. If the
// subscription has one type, the number does not depend on the type, and thus stays
// when the type is changed. If it has several, the event of each type has another number.
//
// A number is below 2^31, because clients keep it in 32 bits. If two events of one
// extension have the same number, a request with it is refused; see errTwoEvents.
func eventNumber(e dialect.Event) uint64 {
	if e.Sole {
		return numberBase(e)
	}
	return numberBase(e) + 1 + uint64(e.Place)
}

// hasNumber reports whether n is the number of an event, or was its number while its
// subscription had other types too. It also accepts the numbers of older versions.
func hasNumber(e dialect.Event, n uint64) bool {
	for _, base := range [...]uint64{numberBase(e), legacyNumberBase(e)} {
		if e.Sole && n == base || n == base+1+uint64(e.Place) {
			return true
		}
	}
	return false
}

// numberBase returns the number of an event that is the only type of its subscription. It
// is a multiple of 16. If a subscription has several types, their events have the numbers
// above the base.
func numberBase(e dialect.Event) uint64 {
	// Never change it: clients keep these numbers.
	return idHash(e) >> 37 << 4 // room for 15 types
}

// legacyNumberBase returns the numberBase of older versions, which was below 2^44.
// Clients may have kept such numbers.
func legacyNumberBase(e dialect.Event) uint64 { return idHash(e) >> 24 << 4 }

func idHash(e dialect.Event) uint64 {
	sum := sha256.Sum256([]byte(e.Subscription.ID))
	return binary.BigEndian.Uint64(sum[:])
}

// apiError is an error with its HTTP status.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return e.message }

// WriteError writes an error of the Telphin dialect.
func WriteError(w http.ResponseWriter, status int, detail string) {
	message := cmp.Or(detail, http.StatusText(status))
	switch status {
	case http.StatusUnauthorized:
		dialect.WriteJSON(w, status, map[string]any{"status": status, "message": http.StatusText(status)})
	case http.StatusTooManyRequests:
		dialect.WriteJSON(w, status, map[string]any{"status": "rate_limit_exceeded", "message": message})
	default:
		dialect.WriteJSON(w, status, map[string]any{"message": message})
	}
}

// Trim removes /api/ver1.0 from the segments of a path if it begins with that, and
// reports whether the path belongs to the Telphin dialect.
func Trim(path []string) (_ []string, ok bool) {
	if len(path) > 1 && path[0] == "api" && path[1] == "ver1.0" {
		return path[2:], true
	}
	return path, slices.Contains([]string{"oauth", "user", "extension", "client", "limit"}, path[0])
}

// ServeHTTP serves /api/ver1.0, and the same paths at the root.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, v, err := a.answer(w, r)
	switch {
	case err != nil:
		a.respondError(w, err)
	case v == nil:
		w.WriteHeader(status)
	default:
		dialect.WriteJSON(w, status, v)
	}
}

// answer returns the answer to a request; nil: no body.
func (a *API) answer(w http.ResponseWriter, r *http.Request) (status int, v any, err error) {
	to, rest, err := a.parsePath(r)
	if err != nil {
		return 0, nil, err
	}
	asks := access.Required(r)
	switch client := access.ClientOf(r.Context()); {
	case !client.Permits(asks):
		return 0, nil, &apiError{http.StatusForbidden, access.Missing[asks]}
	case to != allPhones && !client.CanSee(to.Extension):
		return 0, nil, &apiError{http.StatusForbidden, "this token is not bound to this extension: use another token"}
	}
	var allow string
	switch {
	case len(rest) == 1 && rest[0] == "user":
		if asks == access.PermitRead {
			return http.StatusOK, userOf(access.ClientOf(r.Context())), nil
		}
		allow = "GET"
	case len(rest) > 0 && len(rest) < 3 && rest[0] == "extension":
		if asks == access.PermitRead {
			v, err := a.answerExtension(r, rest[1:])
			return http.StatusOK, v, err
		}
		allow = "GET"
	case len(rest) == 1 && rest[0] == "limit":
		if asks == access.PermitRead {
			return http.StatusOK, a.limits(r.Context(), to), nil
		}
		allow = "GET"
	case len(rest) == 1 && rest[0] == "event":
		switch {
		case asks == access.PermitRead:
			return http.StatusOK, a.listEvents(r.Context(), to), nil
		case r.Method == http.MethodPost:
			return a.createEvent(r, to)
		case r.Method == http.MethodDelete:
			return a.deleteEvents(r, to)
		}
		allow = "GET, POST, DELETE"
	case len(rest) == 2 && rest[0] == "event":
		e, err := a.findEvent(r.Context(), to, rest[1])
		switch {
		case err != nil:
			return 0, nil, err
		case asks == access.PermitRead:
			return http.StatusOK, renderEvent(e), nil
		case r.Method == http.MethodPut:
			return a.updateEvent(r, e)
		case r.Method == http.MethodDelete:
			return http.StatusNoContent, nil, dialect.Remove(r.Context(), a.ops, e)
		}
		allow = "GET, PUT, DELETE"
	default:
		return 0, nil, errPath
	}
	w.Header().Set("Allow", allow)
	return 0, nil, &apiError{http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)}
}

// parsePath returns the selector for the client or extension that the path of a request
// begins with, and the rest of the path: user, limit, extension or event first.
func (a *API) parsePath(r *http.Request) (to dialect.Selector, rest []string, err error) {
	path, _ := Trim(dialect.Path(r.URL))
	switch {
	case len(path) == 1 && (path[0] == "limit" || path[0] == "user"):
		return allPhones, path, nil
	case len(path) > 2 && path[0] == "client" && path[2] == "extension":
		return allPhones, path[2:], nil
	case len(path) > 2 && path[0] == "client" && path[2] == "phone_events":
		return allPhones, append([]string{"event"}, path[3:]...), nil
	case len(path) > 2 && path[0] == "extension":
		to.Extension, err = a.resolveExtension(r.Context(), path[1])
		return to, path[2:], err
	}
	return to, nil, errPath
}

var errPath = &apiError{http.StatusNotFound, http.StatusText(http.StatusNotFound)}

// resolveExtension returns the extension that a path segment names. If the segment begins
// with @, the rest is the name. Else the segment is the number of an extension, or a name
// if no extension has this number. A segment that is the number of one extension and the
// name of another is refused.
func (a *API) resolveExtension(ctx context.Context, id string) (string, error) {
	name, named := strings.CutPrefix(id, "@")
	if err := dialect.CheckExtension(name); err != nil || strings.HasPrefix(name, "@") || named && (name == "me" || name == "self") {
		return "", &apiError{http.StatusBadRequest, "name the extension by its id, or by its name such as @200 or 0003*210"}
	}
	n, err := strconv.ParseUint(name, 10, 63)
	if named || err != nil || strconv.FormatUint(n, 10) != name {
		return name, nil
	}
	numbered, err := a.ops.ExtensionNumbered(ctx, n)
	if err != nil || numbered == "" || numbered == name {
		return name, err
	}
	switch known, err := a.ops.IsKnown(ctx, name); {
	case err != nil:
		return "", err
	case known:
		return "", &apiError{http.StatusBadRequest, fmt.Sprintf("%s is the id of extension %s and the name of another: use @%s or @%s", name, numbered, numbered, name)}
	}
	return numbered, nil
}

// findEvent returns the event with an id.
func (a *API) findEvent(ctx context.Context, to dialect.Selector, id string) (dialect.Event, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	es := dialect.Events(ctx, a.ops, to, types)
	if err != nil {
		return dialect.Event{}, notify.ErrNotFound
	}
	return soleEvent(slices.DeleteFunc(es, func(e dialect.Event) bool { return !hasNumber(e, n) }))
}

func (a *API) listEvents(ctx context.Context, to dialect.Selector) []event {
	events := []event{}
	for _, e := range dialect.Events(ctx, a.ops, to, types) {
		events = append(events, renderEvent(e))
	}
	return events
}

// limits returns the maximum number of subscriptions to one extension, and the number of
// those that the selector selects.
func (a *API) limits(ctx context.Context, to dialect.Selector) any {
	used := 0
	for _, sub := range a.ops.Subscriptions(ctx) {
		if to.Selects(sub) {
			used++
		}
	}
	return map[string]any{"event": map[string]int{"limit": a.ops.MaxSubscriptions(), "used": used}}
}

// change is the body of a request. Unknown fields are ignored.
type change struct {
	URL       *string `json:"url"`
	EventType *string `json:"event_type"`
	Method    *string `json:"method"`
}

func parseBody(r *http.Request) (c change, err error) {
	err = json.Unmarshal(limit.Body(r), &c)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		return c, &apiError{http.StatusBadRequest, kind.Field + " must be a string"}
	case err != nil:
		return c, &apiError{http.StatusBadRequest, "the body must be a JSON object with url, event_type and method"}
	}
	return c, nil
}

// apply sets the fields of the body in a subscription. Absent ones keep their values.
func (c *change) apply(sub *notify.Subscription, o *ops.Operations) error {
	if c.EventType != nil {
		if !slices.ContainsFunc(types, func(t dialect.Type) bool { return t.Name == *c.EventType }) {
			return &apiError{http.StatusBadRequest, "event_type must be dial-in, dial-out, hangup, answer, message-in, message-out or voicemail"}
		}
		if strings.HasPrefix(*c.EventType, "message-") && o.ExtensionKind(sub.Extension) != dialog.Phone {
			return &apiError{http.StatusBadRequest, "event_type " + *c.EventType + " requires an extension of type phone"}
		}
		if left := dialect.RemoveType(sub.Types, *c.EventType); len(sub.Types) == 0 || len(left) > 0 {
			sub.Types = []string{*c.EventType}
		} // else the subscription has only this type, or one flow of it: keep it
	}
	if c.Method != nil {
		method := strings.ToUpper(*c.Method)
		if method != http.MethodGet && method != http.MethodPost && method != sub.Method {
			return &apiError{http.StatusBadRequest, "method must be GET or POST"}
		}
		sub.Method = method
	}
	if c.URL != nil {
		sub.URL = *c.URL
	}
	return nil
}

func (a *API) createEvent(r *http.Request, to dialect.Selector) (int, any, error) {
	body, err := parseBody(r)
	if err != nil {
		return 0, nil, err
	}
	if body.EventType == nil {
		return 0, nil, &apiError{http.StatusBadRequest, "event_type is missing"}
	}
	sub := notify.Subscription{Extension: to.Extension, ExtensionRegex: to.Regex, Method: http.MethodGet, Dialect: notify.Telphin, Active: true}
	if err := body.apply(&sub, a.ops); err != nil {
		return 0, nil, err
	}
	sub, err = a.ops.CreateSubscription(r.Context(), sub)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, renderEvent(dialect.EventsOf(sub, types)[0]), nil
}

func (a *API) updateEvent(r *http.Request, e dialect.Event) (int, any, error) {
	body, err := parseBody(r)
	if err != nil {
		return 0, nil, err
	}
	e, err = dialect.Change(r.Context(), a.ops, e, func(sub *notify.Subscription) error { return body.apply(sub, a.ops) })
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, renderEvent(dialect.EventsOf(e.Subscription, types)[0]), nil
}

func (a *API) deleteEvents(r *http.Request, to dialect.Selector) (int, any, error) {
	if !dialect.IsBare(r) {
		return 0, nil, &apiError{http.StatusBadRequest, "to delete one event, put its id into the path; to delete all, send no query and no body"}
	}
	_, err := dialect.RemoveAll(r.Context(), a.ops, dialect.Events(r.Context(), a.ops, to, types))
	return http.StatusNoContent, nil, err
}

// respondError answers with err.
func (a *API) respondError(w http.ResponseWriter, err error) {
	var known *apiError
	if errors.As(err, &known) {
		WriteError(w, known.status, known.message)
		return
	}
	refused := a.ops.Explain(ops.Telphin, err)
	if errors.Is(err, notify.ErrNotFound) {
		refused.Text = "no such event"
	}
	WriteError(w, refused.Status, refused.Text)
}
