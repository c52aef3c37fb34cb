package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/notify"
)

// uapiTypes are the event types of the UnifiedAPI.
var uapiTypes = []dialectType{
	{"0", "dial-in"},
	{"1", "dial-out"},
	{"2", "hangup"},
	{"3", "answer-in"},
	{"4", "answer-out"},
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

// uapiError is an error with its HTTP status and its code in the UnifiedAPI.
type uapiError struct {
	status        int
	code, message string
}

func (e *uapiError) Error() string { return e.message }

func badRequest(code, message string) *uapiError {
	return &uapiError{http.StatusBadRequest, code, message}
}

var (
	errUAPIType    = badRequest("pce_type_invalid", "type must be 0 (dial-in), 1 (dial-out), 2 (hangup), 3 (answer of an incoming call) or 4 (answer of an outgoing call)")
	errUAPINewType = badRequest("pcet_type_invalid", errUAPIType.message)
	errUAPIID      = badRequest("pce_id_invalid", "the extension has no event with this id and type")
)

func (e *uapiError) write(w http.ResponseWriter) {
	writeJSON(w, e.status, map[string]any{"error": map[string]string{"code": e.code, "message": e.message}})
}

// writeUAPIError writes an error that no handler of the UnifiedAPI made.
func writeUAPIError(w http.ResponseWriter, status int, detail string) {
	e := uapiError{status, "request_invalid", cmp.Or(detail, http.StatusText(status))}
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

// identifyByBearerOrCookies identifies the client by its bearer token, or by the cookie
// pair of the UnifiedAPI: the cookie vn holds a session of the page, or a token.
func (s *Server) identifyByBearerOrCookies(r *http.Request, now time.Time) (client *access.Client, ok bool) {
	vn := pairedCookie(r)
	if vn == "" || access.Bearer(r) != "" {
		return s.auth.IdentifyBearer(r, now)
	}
	if client := s.auth.IdentifySession(vn, now); client != nil {
		return client, true
	}
	return s.auth.Identify(r, vn, now)
}

// pairedCookie returns the cookie vn if the request proves, with an X-Xsrf-Token header
// equal to the cookie xsrf-token, that it does not come from a page of another origin;
// else "".
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

// uapiRequest is a request below /uapi with its parsed path.
type uapiRequest struct {
	*http.Request
	user, extension string
	typ             *dialectType // nil: any type
	id              string       // "": any
	malformed       *uapiError   // error of the path after phoneCallEvents
}

// serveUAPI serves /uapi.
func (s *Server) serveUAPI(w http.ResponseWriter, r *http.Request) {
	v, err := s.answerUAPI(r)
	if err != nil {
		s.uapiErrorOf(err).write(w)
		return
	}
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// answerUAPI returns the answer to a request; nil: no body.
func (s *Server) answerUAPI(r *http.Request) (any, error) {
	u, err := parseUAPIRequest(r)
	if err != nil {
		return nil, err
	}
	asks := access.Required(r)
	switch client := access.ClientOf(r.Context()); {
	case !client.Permits(asks):
		return nil, &uapiError{http.StatusForbidden, "access_denied", access.Missing[asks]}
	case !client.CanSee(u.extension):
		return nil, &uapiError{http.StatusForbidden, "access_denied", "this token is not bound to this extension: use another token"}
	}
	switch r.Method {
	case http.MethodPost:
		return s.createUAPIEvent(u)
	case http.MethodGet, http.MethodHead:
		return s.listUAPIEvents(u)
	case http.MethodPut:
		return s.updateUAPIEvent(u)
	case http.MethodDelete:
		return s.deleteUAPIEvents(u)
	}
	return nil, &uapiError{http.StatusNotImplemented, "request_not_implemented", "method not implemented: use GET, POST, PUT or DELETE"}
}

// parseUAPIRequest parses the path of a request.
func parseUAPIRequest(r *http.Request) (*uapiRequest, error) {
	path := pathSegments(r.URL)
	if len(path) < 5 || path[1] != "extensions" || path[4] != "phoneCallEvents" {
		return nil, &uapiError{http.StatusNotImplemented, "request_not_implemented", "not implemented: of the UnifiedAPI, bellhop has /uapi/extensions/{userId}/{extension}/phoneCallEvents only"}
	}
	u := &uapiRequest{Request: r, user: path[2], extension: path[3]}
	if u.user == "" || u.user[0] == '@' && !slices.Contains([]string{"@me", "@viewer", "@owner"}, u.user) {
		return nil, badRequest("user_invalid", "the user must be @me, @viewer, @owner or an id")
	}
	if strings.HasPrefix(u.extension, "@") {
		return nil, badRequest("extension_invalid", "name the extension, for example 210 or 0003*210")
	}
	if err := checkExtension(u.extension); err != nil {
		return nil, err
	}
	u.parseEventPath(path[5:])
	return u, nil
}

// parseEventPath parses the path after phoneCallEvents: nothing, a type, an id, or
// both. A single digit is a type and everything else an id, so that no typing error in
// an id selects more than one event.
func (u *uapiRequest) parseEventPath(rest []string) {
	if len(rest) > 0 && (len(rest) > 1 || len(rest[0]) == 1 && rest[0][0] >= '0' && rest[0][0] <= '9') {
		if u.typ = findUAPIType(rest[0]); u.typ == nil {
			u.malformed = errUAPIType
			return
		}
		rest = rest[1:]
	}
	switch {
	case len(rest) > 1 || len(rest) == 1 && rest[0] == "":
		u.malformed = errUAPIID
	case len(rest) == 1:
		u.id = rest[0]
	}
}

func findUAPIType(name string) *dialectType {
	i := slices.IndexFunc(uapiTypes, func(t dialectType) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return &uapiTypes[i]
}

// uapiEvents returns the events that a request selects. An unknown id is an error.
func (s *Server) uapiEvents(u *uapiRequest) ([]dialectEvent, error) {
	if u.malformed != nil {
		return nil, u.malformed
	}
	es := slices.DeleteFunc(s.visibleDialectEvents(u.Context(), extensionSelector{extension: u.extension}, uapiTypes), func(e dialectEvent) bool {
		return u.typ != nil && e.dialectType != *u.typ || u.id != "" && e.sub.ID != u.id
	})
	if u.id != "" && len(es) == 0 {
		return nil, errUAPIID
	}
	return es, nil
}

// uapiEvent returns the one event that a request changes or deletes.
func (s *Server) uapiEvent(u *uapiRequest) (dialectEvent, error) {
	es, err := s.uapiEvents(u)
	switch {
	case err != nil:
		return dialectEvent{}, err
	case u.id == "":
		return dialectEvent{}, badRequest("pce_id_invalid", "put the id of the event into the path")
	case len(es) > 1:
		return dialectEvent{}, badRequest("pce_id_invalid", "several events have this id: put the type before the id in the path")
	}
	return es[0], nil
}

func (s *Server) createUAPIEvent(u *uapiRequest) (any, error) {
	body, err := parseUAPIBody(u.Request)
	if err != nil {
		return nil, err
	}
	typ, given, ok := body.textField("type")
	switch {
	case !ok:
		return nil, errUAPINewType
	case u.id != "" && u.typ != nil:
		return nil, badRequest("pce_id_invalid", "a new event must have no id: the server assigns it")
	case u.typ == nil && (u.id != "" || u.malformed != nil): // the segment is no type
		return nil, errUAPINewType
	case u.malformed != nil:
		return nil, u.malformed
	case u.typ == nil:
		u.typ = findUAPIType(typ)
	case given && typ != u.typ.name:
		return nil, badRequest("pcet_type_invalid", "the types in the path and in the body differ")
	}
	if u.typ == nil {
		return nil, errUAPINewType
	}
	sub := notify.Subscription{Extension: u.extension, Types: []string{u.typ.word}, Method: http.MethodGet, Dialect: notify.Unified, Active: true}
	if err := body.apply(&sub); err != nil {
		return nil, err
	}
	sub, err = s.addSubscription(u.Context(), sub)
	if err != nil {
		return nil, err
	}
	return u.wrapEvent(dialectEvent{dialectType: *u.typ, sub: sub}), nil
}

func (s *Server) updateUAPIEvent(u *uapiRequest) (any, error) {
	e, err := s.uapiEvent(u)
	if err != nil {
		return nil, err
	}
	body, err := parseUAPIBody(u.Request)
	if err != nil {
		return nil, err
	}
	if typ, given, ok := body.textField("type"); !ok || given && typ != e.name {
		return nil, badRequest("pce_type_invalid", "the type of an event cannot be changed")
	}
	if id, given, ok := body.textField("id"); !ok || given && id != u.id {
		return nil, badRequest("pce_id_invalid", "the id of an event cannot be changed")
	}
	if e, err = s.changeDialectEvent(u.Context(), e, body.apply); err != nil {
		return nil, err
	}
	return u.wrapEvent(e), nil
}

func (s *Server) deleteUAPIEvents(u *uapiRequest) (any, error) {
	var es []dialectEvent
	if u.id == "" && u.malformed == nil {
		if !isBareRequest(u.Request) {
			return nil, badRequest("pce_id_invalid", "to delete one event, put its id into the path; to delete all, send no query and no body")
		}
		es, _ = s.uapiEvents(u)
	} else {
		e, err := s.uapiEvent(u)
		if err != nil {
			return nil, err
		}
		es = []dialectEvent{e}
	}
	dropped, err := s.removeDialectEvents(u.Context(), es)
	if err != nil || len(dropped) == 0 {
		return nil, err
	}
	ids := make([]map[string]string, len(dropped))
	for i, e := range dropped {
		ids[i] = map[string]string{"id": e.sub.ID}
	}
	return ids, nil
}

// listUAPIEvents returns a page of the events, by URL.
func (s *Server) listUAPIEvents(u *uapiRequest) (any, error) {
	q, err := parseUAPIQuery(u.URL.Query())
	if err != nil {
		return nil, err
	}
	es, err := s.uapiEvents(u)
	if err != nil {
		return nil, err
	}
	events := make([]phoneCallEvent, 0, len(es))
	for _, e := range es {
		if event := u.renderEvent(e); q.matches(&event) {
			events = append(events, event)
		}
	}
	slices.SortStableFunc(events, func(a, b phoneCallEvent) int {
		if q.descending {
			a, b = b, a
		}
		return strings.Compare(a.URL, b.URL)
	})
	total := len(events)
	events = events[min(q.start, total):min(q.start+q.count, total)]
	if len(events) == 0 {
		return nil, nil
	}
	page := uapiPage{Start: q.start, Total: total, Count: q.count, Filtered: true, Sorted: true}
	for i := range events {
		page.Entry = append(page.Entry, q.selectFields(&events[i]))
	}
	return []uapiPage{page}, nil
}

// uapiPage is a page of a list.
type uapiPage struct {
	Start    int   `json:"startIndex"`
	Total    int   `json:"totalResults"`
	Count    int   `json:"itemsPerPage"`
	Filtered bool  `json:"filtered"`
	Sorted   bool  `json:"sorted"`
	Entry    []any `json:"entry"`
}

// uapiQuery is the query of a list.
type uapiQuery struct {
	count, start int
	by, value    string // by "": no filter
	fields       []string
	descending   bool
}

// parseUAPIQuery parses the query of a list. It ignores unknown parameters.
func parseUAPIQuery(v url.Values) (q uapiQuery, err error) {
	q.by, q.value = v.Get("filterBy"), v.Get("filterValue")
	var ok bool
	if q.count, ok = parseIntParam(v, "count", 1, 4999, 20); !ok {
		return q, badRequest("count_invalid", "count must be between 1 and 4999")
	}
	if q.start, ok = parseIntParam(v, "startIndex", 0, 5000, 0); !ok {
		return q, badRequest("startindex_invalid", "startIndex must be between 0 and 5000")
	}
	var event phoneCallEvent
	known := event.fields()
	if _, ok := known[q.by].(string); q.by != "" && !ok || q.by == "" && v.Has("filterValue") {
		return q, badRequest("filterby_invalid", "filterBy must be id, method, modified, note, status, type or url")
	}
	if q.by != "" && !v.Has("filterValue") {
		return q, badRequest("filtervalue_invalid", "filterValue is missing")
	}
	if fields := v.Get("fields"); fields != "" {
		q.fields = strings.Split(fields, ",")
	}
	for _, name := range q.fields {
		if _, ok := known[name]; !ok {
			return q, badRequest("fields_invalid", "fields must be a comma-separated list of id, links, method, modified, note, status, type and url")
		}
	}
	// The official client misspells sortOrder.
	switch cmp.Or(v.Get("sortOrder"), v.Get("sortOder"), "asc") {
	case "asc", "ascending":
	case "desc", "descending":
		q.descending = true
	default:
		return q, badRequest("sortorder_invalid", "sortOrder must be asc or desc")
	}
	return q, nil
}

// parseIntParam parses an integer of a query between low and high; without one it is
// unset.
func parseIntParam(v url.Values, key string, low, high, unset int) (n int, ok bool) {
	text := v.Get(key)
	if text == "" {
		return unset, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= low && n <= high
}

// matches reports whether an event passes the filter. A note, URL or time must contain
// the value; other fields must equal it.
func (q *uapiQuery) matches(event *phoneCallEvent) bool {
	value, _ := event.fields()[q.by].(string)
	switch q.by {
	case "":
		return true
	case "note", "url", "modified":
		return strings.Contains(value, q.value)
	}
	return value == q.value
}

// selectFields returns an event with the requested fields.
func (q *uapiQuery) selectFields(event *phoneCallEvent) any {
	if q.fields == nil {
		return event
	}
	all := event.fields()
	some := make(map[string]any, len(q.fields))
	for _, name := range q.fields {
		some[name] = all[name]
	}
	return some
}

func (event *phoneCallEvent) fields() map[string]any {
	return map[string]any{
		"type": event.Type, "id": event.ID, "method": event.Method, "note": event.Note,
		"url": event.URL, "status": event.Status, "modified": event.Modified, "links": event.Links,
	}
}

// renderEvent returns an event in the JSON of the UnifiedAPI.
func (u *uapiRequest) renderEvent(e dialectEvent) phoneCallEvent {
	event := phoneCallEvent{
		Type: e.name, ID: e.sub.ID, Method: "1", Note: e.sub.Note, URL: e.sub.URL, Status: "0",
		Links: map[string]string{"self": u.selfLink(e)},
	}
	if e.sub.Method == http.MethodGet {
		event.Method = "0"
	}
	if e.sub.Active {
		event.Status = "1"
	}
	if !e.sub.Modified.IsZero() { // zero for a subscription of the config file
		event.Modified = e.sub.Modified.Format("2006-01-02T15:04:05-07:00")
	}
	return event
}

func (u *uapiRequest) wrapEvent(e dialectEvent) any {
	return map[string]phoneCallEvent{"PhoneCallEvent": u.renderEvent(e)}
}

// selfLink returns the URL of an event, with a readable * in the extension.
func (u *uapiRequest) selfLink(e dialectEvent) string {
	scheme := "http"
	if u.TLS != nil {
		scheme = "https"
	}
	extension := strings.ReplaceAll(url.PathEscape(u.extension), "%2A", "*")
	return scheme + "://" + u.Host + "/uapi/extensions/" + url.PathEscape(u.user) + "/" + extension + "/phoneCallEvents/" + e.name + "/" + e.sub.ID
}

// uapiFields is the body of a request. Unknown fields are ignored.
type uapiFields map[string]any

func parseUAPIBody(r *http.Request) (body uapiFields, err error) {
	b, err := io.ReadAll(r.Body) // in memory, see limitBody
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		err = json.Unmarshal(b, &body)
	}
	if err != nil {
		return nil, badRequest("request_invalid", "the body is not a JSON object")
	}
	return body, nil
}

// textField returns a field that must be a string; a number is accepted as one.
func (f uapiFields) textField(name string) (value string, given, ok bool) {
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

// apply sets the fields of a body in a subscription.
func (f uapiFields) apply(sub *notify.Subscription) error {
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

// uapiErrorOf returns err as an error of the UnifiedAPI. An error that is not the
// client's is logged, and its text hidden.
func (s *Server) uapiErrorOf(err error) *uapiError {
	var known *uapiError
	var invalid *notify.Invalid
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &invalid):
		codes := map[string]string{"extension": "extension_invalid", "method": "pce_method_invalid", "types": "pce_type_invalid"}
		return badRequest(cmp.Or(codes[invalid.Field], "pce_url_invalid"), invalid.Field+" "+invalid.Why)
	case errors.Is(err, notify.ErrNotFound):
		return errUAPIID
	case errors.Is(err, notify.ErrDeclared), errors.Is(err, errSharedSubscription), errors.Is(err, errNotBound):
		return &uapiError{http.StatusForbidden, "access_denied", err.Error()}
	case errors.As(err, new(*quotaError)):
		return &uapiError{http.StatusForbidden, "access_denied", err.Error()}
	case errors.Is(err, notify.ErrLimit):
		return &uapiError{http.StatusForbidden, "access_denied", err.Error() + " (set by notify.max_subscriptions in the config)"}
	}
	if isFailure(err) {
		s.log.Error("admin request failed", "err", err)
	}
	return &uapiError{http.StatusInternalServerError, "internal_server_error", "the store is not writable, or bellhop is too busy; see /readyz"}
}
