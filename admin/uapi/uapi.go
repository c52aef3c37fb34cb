// Package uapi is the UnifiedAPI dialect of the HTTP API: phoneCallEvents below /uapi.
//
// Its responses and errors are those of the original. An event is a subscription to one
// event type, see package dialect. A request deletes more than one event only if its path
// has no event id, and the request has neither a query nor a body.
package uapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/notify"
)

// types are the event types of the UnifiedAPI.
var types = []dialect.Type{
	{Name: "0", Word: "dial-in"},
	{Name: "1", Word: "dial-out"},
	{Name: "2", Word: "hangup"},
	{Name: "3", Word: "answer-in"},
	{Name: "4", Word: "answer-out"},
}

// phoneCallEvent is an event in the JSON of the UnifiedAPI, where all values are
// strings. Its ID is that of its subscription; ID and Type together identify it.
type phoneCallEvent struct {
	Type     string            `json:"type"`
	ID       string            `json:"id"`
	Method   string            `json:"method"` // 0 GET, 1 POST
	Note     string            `json:"note"`
	URL      string            `json:"url"`
	Status   string            `json:"status"` // 0 disabled, 1 enabled
	Modified string            `json:"modified"`
	Links    map[string]string `json:"links"`
}

// apiError is an error with its HTTP status and its code in the UnifiedAPI.
type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return e.message }

func badRequest(code, message string) *apiError {
	return &apiError{http.StatusBadRequest, code, message}
}

var (
	errType    = badRequest("pce_type_invalid", "type must be 0 (dial-in), 1 (dial-out), 2 (hangup), 3 (answer of an incoming call) or 4 (answer of an outgoing call)")
	errNewType = badRequest("pcet_type_invalid", errType.message)
	errID      = badRequest("pce_id_invalid", "the extension has no event with this id and type")
)

func (e *apiError) write(w http.ResponseWriter) {
	dialect.WriteJSON(w, e.status, map[string]any{"error": map[string]string{"code": e.code, "message": e.message}})
}

// WriteError writes an error that did not come from this package, in the format of the
// UnifiedAPI. It is the [access.ErrorWriter] of the dialect.
func WriteError(w http.ResponseWriter, status int, detail string) {
	e := apiError{status, "request_invalid", cmp.Or(detail, http.StatusText(status))}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.code = "access_denied"
	case http.StatusTooManyRequests:
		e.code = "too_many_requests"
	case http.StatusInternalServerError, http.StatusServiceUnavailable:
		e.code = "internal_server_error"
	}
	e.write(w)
}

// API serves the UnifiedAPI dialect. The context of each request has its client.
type API struct {
	ops  *ops.Operations
	auth *access.Authenticator
}

// New returns an API that calls the operations o and identifies clients with auth.
func New(o *ops.Operations, auth *access.Authenticator) *API { return &API{o, auth} }

// Identify identifies the client by its bearer token. Without one, it uses the cookie vn,
// which holds the id of a session of the page, or a token; see pairedCookie. The results
// are those of [access.Authenticator.Identify].
func (a *API) Identify(r *http.Request, now time.Time) (client *access.Client, ok bool) {
	vn := pairedCookie(r)
	if vn == "" || access.Bearer(r) != "" {
		return a.auth.IdentifyBearer(r, now)
	}
	if client := a.auth.IdentifySession(vn, now); client != nil {
		return client, true
	}
	return a.auth.Identify(r, vn, now)
}

// pairedCookie returns the value of the cookie vn if the header field X-Xsrf-Token equals
// the cookie xsrf-token, else "". A page of another origin cannot send such a request,
// because it cannot read the cookie.
func pairedCookie(r *http.Request) string {
	vn, err := r.Cookie("vn")
	xsrf, err2 := r.Cookie("xsrf-token")
	if err != nil || err2 != nil || xsrf.Value == "" || r.Header.Get("X-Xsrf-Token") != xsrf.Value {
		return ""
	}
	if plain, err := url.PathUnescape(vn.Value); err == nil {
		return plain
	}
	return vn.Value
}

// request is a request below /uapi with its parsed path.
type request struct {
	*http.Request
	user, extension string
	typ             *dialect.Type // nil: any type
	id              string        // "": any
	malformed       *apiError     // error of the path after phoneCallEvents, or nil
}

// ServeHTTP serves /uapi.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v, err := a.answer(r)
	if err != nil {
		a.errorOf(err).write(w)
		return
	}
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	dialect.WriteJSON(w, http.StatusOK, v)
}

// answer returns the answer to a request; nil: no body.
func (a *API) answer(r *http.Request) (any, error) {
	u, err := parseRequest(r)
	if err != nil {
		return nil, err
	}
	asks := access.Required(r)
	switch client := access.ClientOf(r.Context()); {
	case !client.Permits(asks):
		return nil, &apiError{http.StatusForbidden, "access_denied", access.Missing[asks]}
	case !client.CanSee(u.extension):
		return nil, &apiError{http.StatusForbidden, "access_denied", "this token is not bound to this extension: use another token"}
	}
	switch r.Method {
	case http.MethodPost:
		return a.createEvent(u)
	case http.MethodGet, http.MethodHead:
		return a.listEvents(u)
	case http.MethodPut:
		return a.updateEvent(u)
	case http.MethodDelete:
		return a.deleteEvents(u)
	}
	return nil, &apiError{http.StatusNotImplemented, "request_not_implemented", "method not implemented: use GET, POST, PUT or DELETE"}
}

// parseRequest parses the path of a request.
func parseRequest(r *http.Request) (*request, error) {
	path := dialect.Path(r.URL)
	if len(path) < 5 || path[1] != "extensions" || path[4] != "phoneCallEvents" {
		return nil, &apiError{http.StatusNotImplemented, "request_not_implemented", "not implemented: of the UnifiedAPI, bellhop has /uapi/extensions/{userId}/{extension}/phoneCallEvents only"}
	}
	u := &request{Request: r, user: path[2], extension: path[3]}
	if u.user == "" || u.user[0] == '@' && !slices.Contains([]string{"@me", "@viewer", "@owner"}, u.user) {
		return nil, badRequest("user_invalid", "the user must be @me, @viewer, @owner or an id")
	}
	if strings.HasPrefix(u.extension, "@") {
		return nil, badRequest("extension_invalid", "name the extension, for example 210 or 0003*210")
	}
	if err := dialect.CheckExtension(u.extension); err != nil {
		return nil, err
	}
	u.parseEventPath(path[5:])
	return u, nil
}

// parseEventPath parses the path after phoneCallEvents: nothing, a type, an id, or
// both. A single digit is a type and everything else an id, so that no typing error in
// an id selects more than one event.
func (u *request) parseEventPath(rest []string) {
	if len(rest) > 0 && (len(rest) > 1 || len(rest[0]) == 1 && rest[0][0] >= '0' && rest[0][0] <= '9') {
		if u.typ = findType(rest[0]); u.typ == nil {
			u.malformed = errType
			return
		}
		rest = rest[1:]
	}
	switch {
	case len(rest) > 1 || len(rest) == 1 && rest[0] == "":
		u.malformed = errID
	case len(rest) == 1:
		u.id = rest[0]
	}
}

func findType(name string) *dialect.Type {
	i := slices.IndexFunc(types, func(t dialect.Type) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return &types[i]
}

// selectEvents returns the events that the path of a request selects. If the path has an
// id that no event has, it returns errID.
func (a *API) selectEvents(u *request) ([]dialect.Event, error) {
	if u.malformed != nil {
		return nil, u.malformed
	}
	es := slices.DeleteFunc(dialect.Events(u.Context(), a.ops, dialect.Selector{Extension: u.extension}, types), func(e dialect.Event) bool {
		return u.typ != nil && e.Type != *u.typ || u.id != "" && e.Subscription.ID != u.id
	})
	if u.id != "" && len(es) == 0 {
		return nil, errID
	}
	return es, nil
}

// selectEvent returns the only event that the path of a request selects by its id.
// Without an id, or if several events have it, it returns an error.
func (a *API) selectEvent(u *request) (dialect.Event, error) {
	es, err := a.selectEvents(u)
	switch {
	case err != nil:
		return dialect.Event{}, err
	case u.id == "":
		return dialect.Event{}, badRequest("pce_id_invalid", "put the id of the event into the path")
	case len(es) > 1:
		return dialect.Event{}, badRequest("pce_id_invalid", "several events have this id: put the type before the id in the path")
	}
	return es[0], nil
}

func (a *API) createEvent(u *request) (any, error) {
	body, err := parseBody(u.Request)
	if err != nil {
		return nil, err
	}
	typ, given, ok := body.textField("type")
	switch {
	case !ok:
		return nil, errNewType
	case u.id != "" && u.typ != nil:
		return nil, badRequest("pce_id_invalid", "a new event must have no id: the server assigns it")
	case u.typ == nil && (u.id != "" || u.malformed != nil): // the segment is no type
		return nil, errNewType
	case u.malformed != nil:
		return nil, u.malformed
	case u.typ == nil:
		u.typ = findType(typ)
	case given && typ != u.typ.Name:
		return nil, badRequest("pcet_type_invalid", "the types in the path and in the body differ")
	}
	if u.typ == nil {
		return nil, errNewType
	}
	sub := notify.Subscription{Extension: u.extension, Types: []string{u.typ.Word}, Method: http.MethodGet, Dialect: notify.Unified, Active: true}
	if err := body.apply(&sub); err != nil {
		return nil, err
	}
	sub, err = a.ops.CreateSubscription(u.Context(), sub)
	if err != nil {
		return nil, err
	}
	return u.wrapEvent(dialect.Event{Type: *u.typ, Subscription: sub}), nil
}

func (a *API) updateEvent(u *request) (any, error) {
	e, err := a.selectEvent(u)
	if err != nil {
		return nil, err
	}
	body, err := parseBody(u.Request)
	if err != nil {
		return nil, err
	}
	if typ, given, ok := body.textField("type"); !ok || given && typ != e.Name {
		return nil, badRequest("pce_type_invalid", "the type of an event cannot be changed")
	}
	if id, given, ok := body.textField("id"); !ok || given && id != u.id {
		return nil, badRequest("pce_id_invalid", "the id of an event cannot be changed")
	}
	if e, err = dialect.Change(u.Context(), a.ops, e, body.apply); err != nil {
		return nil, err
	}
	return u.wrapEvent(e), nil
}

func (a *API) deleteEvents(u *request) (any, error) {
	var es []dialect.Event
	if u.id == "" && u.malformed == nil {
		if !dialect.IsBare(u.Request) {
			return nil, badRequest("pce_id_invalid", "to delete one event, put its id into the path; to delete all, send no query and no body")
		}
		es, _ = a.selectEvents(u)
	} else {
		e, err := a.selectEvent(u)
		if err != nil {
			return nil, err
		}
		es = []dialect.Event{e}
	}
	dropped, err := dialect.RemoveAll(u.Context(), a.ops, es)
	if err != nil || len(dropped) == 0 {
		return nil, err
	}
	ids := make([]map[string]string, len(dropped))
	for i, e := range dropped {
		ids[i] = map[string]string{"id": e.Subscription.ID}
	}
	return ids, nil
}

// renderEvent returns an event in the JSON of the UnifiedAPI.
func (u *request) renderEvent(e dialect.Event) phoneCallEvent {
	event := phoneCallEvent{
		Type: e.Name, ID: e.Subscription.ID, Method: "1", Note: e.Subscription.Note, URL: e.Subscription.URL, Status: "0",
		Links: map[string]string{"self": u.selfLink(e)},
	}
	if e.Subscription.Method == http.MethodGet {
		event.Method = "0"
	}
	if e.Subscription.Active {
		event.Status = "1"
	}
	if !e.Subscription.Modified.IsZero() { // zero for a subscription of the config file
		event.Modified = e.Subscription.Modified.Format("2006-01-02T15:04:05-07:00")
	}
	return event
}

func (u *request) wrapEvent(e dialect.Event) any {
	return map[string]phoneCallEvent{"PhoneCallEvent": u.renderEvent(e)}
}

// selfLink returns the URL of an event. A * in the extension is not escaped.
func (u *request) selfLink(e dialect.Event) string {
	scheme := "http"
	if u.TLS != nil {
		scheme = "https"
	}
	extension := strings.ReplaceAll(url.PathEscape(u.extension), "%2A", "*")
	return scheme + "://" + u.Host + "/uapi/extensions/" + url.PathEscape(u.user) + "/" + extension + "/phoneCallEvents/" + e.Name + "/" + e.Subscription.ID
}

// fields is the body of a request. Unknown fields are ignored.
type fields map[string]any

func parseBody(r *http.Request) (body fields, err error) {
	if b := bytes.TrimSpace(limit.Body(r)); len(b) > 0 && json.Unmarshal(b, &body) != nil {
		return nil, badRequest("request_invalid", "the body is not a JSON object")
	}
	return body, nil
}

// textField returns a field as a string; a number is converted. given is false if the
// field is absent or null. ok is false if its value is neither a string nor a number.
func (f fields) textField(name string) (value string, given, ok bool) {
	switch v := f[name].(type) {
	case nil:
		return "", false, true
	case string:
		return v, true, true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true, true
	}
	return "", true, false
}

// apply sets the fields of the body in a subscription. Absent ones keep their values.
func (f fields) apply(sub *notify.Subscription) error {
	switch method, given, ok := f.textField("method"); {
	case !given:
	case ok && method == "0":
		sub.Method = http.MethodGet
	case ok && method == "1":
		sub.Method = http.MethodPost
	default:
		return badRequest("pce_method_invalid", "method must be 0 (GET) or 1 (POST)")
	}
	switch address, given, ok := f.textField("url"); {
	case !ok:
		return badRequest("pce_url_invalid", "url must be a string")
	case given:
		sub.URL = address
	}
	switch status, given, ok := f.textField("status"); {
	case !given:
	case ok && (status == "0" || status == "1"):
		sub.Active = status == "1"
	default:
		return badRequest("pce_status_invalid", "status must be 0 (disabled) or 1 (enabled)")
	}
	switch note, given, ok := f.textField("note"); {
	case !ok:
		return badRequest("request_invalid", "note must be a string")
	case given:
		sub.Note = note
	}
	return nil
}

// errorOf returns err as an error of the UnifiedAPI.
func (a *API) errorOf(err error) *apiError {
	var known *apiError
	if errors.As(err, &known) {
		return known
	}
	switch refused := a.ops.Explain(ops.UAPI, err); {
	case refused.Kind == ops.Invalid:
		codes := map[string]string{"extension": "extension_invalid", "method": "pce_method_invalid", "types": "pce_type_invalid"}
		return badRequest(cmp.Or(codes[refused.Field], "pce_url_invalid"), refused.Text)
	case refused.Kind == ops.NotFound:
		return errID
	case refused.Kind == ops.Failed:
		return &apiError{refused.Status, "internal_server_error", refused.Text}
	default:
		return &apiError{refused.Status, "access_denied", refused.Text}
	}
}
