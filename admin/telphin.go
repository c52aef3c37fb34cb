package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"bellhop/admin/access"
	"bellhop/dialog"
	"bellhop/notify"
)

// telphinTypes are the event types of the Telphin dialect. Never change their order,
// only add: the numbers of events depend on it.
var telphinTypes = []dialectType{
	{"dial-in", "dial-in"},
	{"dial-out", "dial-out"},
	{"hangup", "hangup"},
	{"answer", "answer"},
	{"message-in", "message-in"},
	{"message-out", "message-out"},
	{"voicemail", "voicemail"},
}

// telphinEvent is an event in the JSON of the Telphin dialect.
type telphinEvent struct {
	URL       string `json:"url"`
	Method    string `json:"method"`
	EventType string `json:"event_type"`
	ID        uint64 `json:"id"`
}

func telphinEventOf(e dialectEvent) telphinEvent {
	return telphinEvent{e.sub.URL, e.sub.Method, e.name, e.eventNumber()}
}

// eventNumber returns the id of an event in the Telphin dialect, where ids are numbers.
// It is derived from the id of the subscription, so that every subscription has one in
// any dialect, and nothing must be stored. With one type it stays when the type
// changes; each of several types has its own.
//
// A number is below 2^31, because clients keep it in 32 bits. If two subscriptions to
// one extension have the same number, a request that names it is refused; see
// errTwoEvents.
func (e dialectEvent) eventNumber() uint64 {
	if e.sole {
		return e.numberBase()
	}
	return e.numberBase() + 1 + uint64(e.place)
}

// hasNumber reports whether n is the number of an event, or was while its subscription
// had other types too.
func (e dialectEvent) hasNumber(n uint64) bool {
	for _, base := range [...]uint64{e.numberBase(), e.legacyNumberBase()} {
		if e.sole && n == base || n == base+1+uint64(e.place) {
			return true
		}
	}
	return false
}

// numberBase is the number of an event that is alone in its subscription.
func (e dialectEvent) numberBase() uint64 {
	// Never change it: clients keep these numbers.
	return e.idHash() >> 37 << 4 // room for 15 types
}

// legacyNumberBase is the numberBase of older versions, below 2^44.
func (e dialectEvent) legacyNumberBase() uint64 { return e.idHash() >> 24 << 4 }

func (e dialectEvent) idHash() uint64 {
	sum := sha256.Sum256([]byte(e.sub.ID))
	return binary.BigEndian.Uint64(sum[:])
}

// telphinError is an error with its HTTP status.
type telphinError struct {
	status  int
	message string
}

func (e *telphinError) Error() string { return e.message }

// writeTelphinError writes an error of the Telphin dialect.
func writeTelphinError(w http.ResponseWriter, status int, detail string) {
	message := cmp.Or(detail, http.StatusText(status))
	switch status {
	case http.StatusUnauthorized:
		writeJSON(w, status, map[string]any{"status": status, "message": http.StatusText(status)})
	case http.StatusTooManyRequests:
		writeJSON(w, status, map[string]any{"status": "rate_limit_exceeded", "message": message})
	default:
		writeJSON(w, status, map[string]any{"message": message})
	}
}

// trimTelphinPrefix returns the path of a request below /api/ver1.0 or below the root,
// and whether it belongs to the Telphin dialect.
func trimTelphinPrefix(path []string) (_ []string, ok bool) {
	if len(path) > 1 && path[0] == "api" && path[1] == "ver1.0" {
		return path[2:], true
	}
	return path, slices.Contains([]string{"oauth", "user", "extension", "client", "limit"}, path[0])
}

// serveTelphin serves /api/ver1.0, and the same paths at the root.
func (s *Server) serveTelphin(w http.ResponseWriter, r *http.Request) {
	status, v, err := s.answerTelphin(w, r)
	switch {
	case err != nil:
		s.respondTelphinError(w, err)
	case v == nil:
		w.WriteHeader(status)
	default:
		writeJSON(w, status, v)
	}
}

// answerTelphin returns the answer to a request; nil: no body.
func (s *Server) answerTelphin(w http.ResponseWriter, r *http.Request) (status int, v any, err error) {
	to, rest, err := s.parseTelphinPath(r)
	if err != nil {
		return 0, nil, err
	}
	asks := access.Required(r)
	switch client := access.ClientOf(r.Context()); {
	case !client.Permits(asks):
		return 0, nil, &telphinError{http.StatusForbidden, access.Missing[asks]}
	case to != allExtensions && !client.CanSee(to.extension):
		return 0, nil, &telphinError{http.StatusForbidden, "this token is not bound to this extension: use another token"}
	}
	var allow string
	switch {
	case len(rest) == 1 && rest[0] == "user":
		if asks == access.PermitRead {
			return http.StatusOK, telphinUserOf(access.ClientOf(r.Context())), nil
		}
		allow = "GET"
	case len(rest) > 0 && len(rest) < 3 && rest[0] == "extension":
		if asks == access.PermitRead {
			v, err := s.answerTelphinExtension(r, rest[1:])
			return http.StatusOK, v, err
		}
		allow = "GET"
	case len(rest) == 1 && rest[0] == "limit":
		if asks == access.PermitRead {
			return http.StatusOK, s.telphinLimits(r.Context(), to), nil
		}
		allow = "GET"
	case len(rest) == 1 && rest[0] == "event":
		switch {
		case asks == access.PermitRead:
			return http.StatusOK, s.listTelphinEvents(r.Context(), to), nil
		case r.Method == http.MethodPost:
			return s.createTelphinEvent(r, to)
		case r.Method == http.MethodDelete:
			return s.deleteTelphinEvents(r, to)
		}
		allow = "GET, POST, DELETE"
	case len(rest) == 2 && rest[0] == "event":
		e, err := s.findTelphinEvent(r.Context(), to, rest[1])
		switch {
		case err != nil:
			return 0, nil, err
		case asks == access.PermitRead:
			return http.StatusOK, telphinEventOf(e), nil
		case r.Method == http.MethodPut:
			return s.updateTelphinEvent(r, e)
		case r.Method == http.MethodDelete:
			return http.StatusNoContent, nil, s.removeDialectEvent(r.Context(), e)
		}
		allow = "GET, PUT, DELETE"
	default:
		return 0, nil, errTelphinPath
	}
	w.Header().Set("Allow", allow)
	return 0, nil, &telphinError{http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)}
}

// parseTelphinPath returns the extensions that the path of a request is about, and the
// rest of the path.
func (s *Server) parseTelphinPath(r *http.Request) (to extensionSelector, rest []string, err error) {
	path, _ := trimTelphinPrefix(pathSegments(r.URL))
	switch {
	case len(path) == 1 && (path[0] == "limit" || path[0] == "user"):
		return allExtensions, path, nil
	case len(path) > 2 && path[0] == "client" && path[2] == "extension":
		return allExtensions, path[2:], nil
	case len(path) > 2 && path[0] == "client" && path[2] == "phone_events":
		return allExtensions, append([]string{"event"}, path[3:]...), nil
	case len(path) > 2 && path[0] == "extension":
		to.extension, err = s.resolveTelphinExtension(r.Context(), path[1])
		return to, path[2:], err
	}
	return to, nil, errTelphinPath
}

var errTelphinPath = &telphinError{http.StatusNotFound, http.StatusText(http.StatusNotFound)}

// resolveTelphinExtension returns the extension that a path segment names: by its
// number, by its name after an @, or by its name alone if that is no extension's
// number. A segment that is the number of one extension and the name of another is
// refused.
func (s *Server) resolveTelphinExtension(ctx context.Context, id string) (string, error) {
	name, named := strings.CutPrefix(id, "@")
	if err := checkExtension(name); err != nil || strings.HasPrefix(name, "@") || named && (name == "me" || name == "self") {
		return "", &telphinError{http.StatusBadRequest, "name the extension by its id, or by its name such as @200 or 0003*210"}
	}
	n, err := strconv.ParseUint(name, 10, 63)
	if named || err != nil || strconv.FormatUint(n, 10) != name {
		return name, nil
	}
	client := access.ClientOf(ctx)
	numbered, err := s.config.Notifier.ExtensionNumbered(ctx, n)
	switch {
	case err != nil, numbered == "", numbered == name, !client.CanSee(numbered):
		return name, err
	case !client.CanSee(name):
		return numbered, nil
	}
	known, err := s.config.Notifier.ExtensionNumber(ctx, name)
	if err != nil {
		return "", err
	}
	if known != 0 || slices.ContainsFunc(s.config.Notifier.Subscriptions(), func(sub notify.Subscription) bool { return sub.Extension == name }) {
		return "", &telphinError{http.StatusBadRequest, fmt.Sprintf("%s is the id of extension %s and the name of another: use @%s or @%s", name, numbered, numbered, name)}
	}
	return numbered, nil
}

// findTelphinEvent returns the event with an id.
func (s *Server) findTelphinEvent(ctx context.Context, to extensionSelector, id string) (dialectEvent, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	es := s.visibleDialectEvents(ctx, to, telphinTypes)
	if err != nil {
		return dialectEvent{}, notify.ErrNotFound
	}
	return soleEvent(slices.DeleteFunc(es, func(e dialectEvent) bool { return !e.hasNumber(n) }))
}

func (s *Server) listTelphinEvents(ctx context.Context, to extensionSelector) []telphinEvent {
	events := []telphinEvent{}
	for _, e := range s.visibleDialectEvents(ctx, to, telphinTypes) {
		events = append(events, telphinEventOf(e))
	}
	return events
}

// telphinLimits returns the maximum number of subscriptions, and the current one.
func (s *Server) telphinLimits(ctx context.Context, to extensionSelector) any {
	used := 0
	for _, sub := range s.config.Notifier.Subscriptions() {
		if (extensionSelector{sub.Extension, sub.ExtensionRegex}) == to && access.ClientOf(ctx).CanSee(sub.Extension) {
			used++
		}
	}
	return map[string]any{"event": map[string]int{"limit": s.config.Notifier.MaxSubscriptions(), "used": used}}
}

// telphinChange is the body of a request. Unknown fields are ignored.
type telphinChange struct {
	URL       *string `json:"url"`
	EventType *string `json:"event_type"`
	Method    *string `json:"method"`
}

func parseTelphinBody(r *http.Request) (c telphinChange, err error) {
	b, err := io.ReadAll(r.Body) // in memory, see limitBody
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		return c, &telphinError{http.StatusBadRequest, kind.Field + " must be a string"}
	case err != nil:
		return c, &telphinError{http.StatusBadRequest, "the body must be a JSON object with url, event_type and method"}
	}
	return c, nil
}

// apply sets the fields of a body in a subscription.
func (c *telphinChange) apply(sub *notify.Subscription, s *Server) error {
	if c.EventType != nil {
		if !slices.ContainsFunc(telphinTypes, func(t dialectType) bool { return t.name == *c.EventType }) {
			return &telphinError{http.StatusBadRequest, "event_type must be dial-in, dial-out, hangup, answer, message-in, message-out or voicemail"}
		}
		if strings.HasPrefix(*c.EventType, "message-") && s.extensionKind(sub.Extension) != dialog.Phone {
			return &telphinError{http.StatusBadRequest, "event_type " + *c.EventType + " requires an extension of type phone"}
		}
		if left := removeType(sub.Types, *c.EventType); len(sub.Types) == 0 || len(left) > 0 {
			sub.Types = []string{*c.EventType}
		} // else the subscription has only this type, or one flow of it: keep it
	}
	if c.Method != nil {
		method := strings.ToUpper(*c.Method)
		if method != http.MethodGet && method != http.MethodPost && method != sub.Method {
			return &telphinError{http.StatusBadRequest, "method must be GET or POST"}
		}
		sub.Method = method
	}
	setIfGiven(&sub.URL, c.URL)
	return nil
}

// extensionKind returns the kind of an extension; that of all extensions is phone.
func (s *Server) extensionKind(extension string) dialog.Kind {
	user, _, _ := strings.Cut(extension, "@")
	if s.config.Kind == nil || user == "" {
		return dialog.Phone
	}
	return cmp.Or(s.config.Kind(user), dialog.Phone)
}

func (s *Server) createTelphinEvent(r *http.Request, to extensionSelector) (int, any, error) {
	body, err := parseTelphinBody(r)
	if err != nil {
		return 0, nil, err
	}
	if body.EventType == nil {
		return 0, nil, &telphinError{http.StatusBadRequest, "event_type is missing"}
	}
	sub := notify.Subscription{Extension: to.extension, ExtensionRegex: to.regex, Method: http.MethodGet, Dialect: notify.Telphin, Active: true}
	if err := body.apply(&sub, s); err != nil {
		return 0, nil, err
	}
	sub, err = s.addSubscription(r.Context(), sub)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, telphinEventOf(dialectEventsOf(sub, telphinTypes)[0]), nil
}

func (s *Server) updateTelphinEvent(r *http.Request, e dialectEvent) (int, any, error) {
	body, err := parseTelphinBody(r)
	if err != nil {
		return 0, nil, err
	}
	e, err = s.changeDialectEvent(r.Context(), e, func(sub *notify.Subscription) error { return body.apply(sub, s) })
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, telphinEventOf(dialectEventsOf(e.sub, telphinTypes)[0]), nil
}

func (s *Server) deleteTelphinEvents(r *http.Request, to extensionSelector) (int, any, error) {
	if !isBareRequest(r) {
		return 0, nil, &telphinError{http.StatusBadRequest, "to delete one event, put its id into the path; to delete all, send no query and no body"}
	}
	_, err := s.removeDialectEvents(r.Context(), s.visibleDialectEvents(r.Context(), to, telphinTypes))
	return http.StatusNoContent, nil, err
}

// respondTelphinError answers with err. An error that is not the client's is logged,
// and its text hidden.
func (s *Server) respondTelphinError(w http.ResponseWriter, err error) {
	var known *telphinError
	var invalid *notify.Invalid
	switch {
	case errors.As(err, &known):
		writeTelphinError(w, known.status, known.message)
	case errors.As(err, &invalid):
		writeTelphinError(w, http.StatusBadRequest, invalid.Field+" "+invalid.Why)
	case errors.Is(err, notify.ErrNotFound):
		writeTelphinError(w, http.StatusNotFound, "no such event")
	case errors.As(err, new(*quotaError)):
		writeTelphinError(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, notify.ErrLimit):
		writeTelphinError(w, http.StatusBadRequest, err.Error()+" (set by notify.max_subscriptions in the config)")
	case errors.Is(err, errNotBound):
		writeTelphinError(w, http.StatusForbidden, err.Error())
	case errors.Is(err, notify.ErrDeclared), errors.Is(err, errSharedSubscription), errors.Is(err, notify.ErrConflict):
		writeTelphinError(w, http.StatusConflict, err.Error())
	default:
		if isFailure(err) {
			s.log.Error("admin request failed", "err", err)
		}
		writeTelphinError(w, http.StatusInternalServerError, "the store is not writable, or bellhop is too busy; see /readyz")
	}
}
