package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/dialog"
	"bellhop/notify"
)

// In the two dialects, /uapi and /api/ver1.0, an event has one type, while a
// subscription may have several. A dialect therefore shows a subscription as one
// event for each of its types that the dialect knows. It neither shows nor changes
// other types. The events of one subscription share its extension, URL, method and
// note. An event can be changed while it is the only one of its subscription, and
// deleted at any time. The subscription is deleted with its last type.

// dialectType is an event type in a dialect.
type dialectType struct {
	name string // name in the dialect
	word string // word in [notify.Subscription.Types]
}

// dialectEvent is a subscription, seen through one of its types.
type dialectEvent struct {
	dialectType
	sub   notify.Subscription
	place int  // index of the type in the dialect
	sole  bool // the subscription has no other type
}

// extensionSelector is the extension, or the expression, of a subscription.
type extensionSelector struct{ extension, regex string }

// allExtensions selects the events of all phones in the Telphin dialect.
var allExtensions = extensionSelector{regex: ".*"}

// errSharedSubscription refuses to change one event because others of the same
// subscription would change with it.
var errSharedSubscription = errors.New("this event shares a subscription with others: change it at /v1/subscriptions, or delete this event and create another")

// errLastType ends an edit that would leave no types.
var errLastType = errors.New("the subscription has no other type")

// expandType returns the types that a word of a subscription stands for.
func expandType(word string) []string {
	if word == string(dialog.Answer) {
		return []string{"answer-in", "answer-out"}
	}
	return []string{word}
}

// removeType returns types without word.
func removeType(types []string, word string) (left []string) {
	gone := expandType(word)
	for _, t := range types {
		kept := slices.DeleteFunc(expandType(t), func(a string) bool { return slices.Contains(gone, a) })
		if len(kept) == len(expandType(t)) {
			kept = []string{t}
		}
		left = append(left, kept...)
	}
	return left
}

// dialectEventsOf returns the events of a subscription in a dialect.
func dialectEventsOf(sub notify.Subscription, types []dialectType) (es []dialectEvent) {
	for place, t := range types {
		left := removeType(sub.Types, t.word)
		if !slices.Equal(left, sub.Types) {
			es = append(es, dialectEvent{t, sub, place, len(left) == 0})
		}
	}
	return es
}

// visibleDialectEvents returns the events of a dialect for one selector that the
// request of ctx may see, oldest subscription first.
func (s *Server) visibleDialectEvents(ctx context.Context, to extensionSelector, types []dialectType) (es []dialectEvent) {
	for _, sub := range s.config.Notifier.Subscriptions() {
		if (extensionSelector{sub.Extension, sub.ExtensionRegex}) == to && access.ClientOf(ctx).CanSee(sub.Extension) {
			es = append(es, dialectEventsOf(sub, types)...)
		}
	}
	return es
}

// changeDialectEvent changes the subscription of an event, unless it has other types
// too.
func (s *Server) changeDialectEvent(ctx context.Context, e dialectEvent, change func(*notify.Subscription) error) (dialectEvent, error) {
	sub, err := s.editSubscription(ctx, e.sub.ID, 0, func(sub *notify.Subscription) error {
		if len(removeType(sub.Types, e.word)) > 0 {
			return errSharedSubscription
		}
		return change(sub)
	})
	e.sub = sub
	return e, err
}

// removeDialectEvent removes the type of an event from its subscription, or deletes the
// subscription if there is no other type.
func (s *Server) removeDialectEvent(ctx context.Context, e dialectEvent) (err error) {
	for range 20 {
		if err = s.removeDialectEventOnce(ctx, e); err != notify.ErrConflict {
			return err
		}
		limit.Sleep(ctx, 100*time.Millisecond) // the change of another node arrives soon
	}
	return err
}

// removeDialectEventOnce is removeDialectEvent, but returns [notify.ErrConflict] if the
// subscription changes meanwhile.
func (s *Server) removeDialectEventOnce(ctx context.Context, e dialectEvent) error {
	var last uint64
	_, err := s.editSubscription(ctx, e.sub.ID, 0, func(sub *notify.Subscription) error {
		left := removeType(sub.Types, e.word)
		switch {
		case slices.Equal(left, sub.Types):
			return notify.ErrNotFound // removed meanwhile
		case len(left) == 0:
			last = sub.Revision
			return errLastType
		}
		sub.Types = left
		return nil
	})
	if err == errLastType {
		return s.removeSubscription(ctx, e.sub.ID, last)
	}
	return err
}

// removeDialectEvents removes the events that can be removed, and returns them. It
// returns an error if it removed none because the config declares them.
func (s *Server) removeDialectEvents(ctx context.Context, es []dialectEvent) (dropped []dialectEvent, err error) {
	var declared error
	for _, e := range es {
		switch err := s.removeDialectEvent(ctx, e); {
		case errors.Is(err, notify.ErrDeclared):
			declared = err
		case errors.Is(err, notify.ErrNotFound): // removed meanwhile
		case err != nil:
			return dropped, err
		default:
			dropped = append(dropped, e)
		}
	}
	if len(dropped) == 0 {
		return nil, declared
	}
	return dropped, nil
}

// isBareRequest reports whether a request has neither a query nor a body. A request
// that deletes many events must be bare: with anything else it may mean fewer.
func isBareRequest(r *http.Request) bool {
	body, err := io.ReadAll(r.Body) // in memory, see limitBody
	return r.URL.RawQuery == "" && err == nil && len(strings.TrimSpace(string(body))) == 0
}

// serveDialects serves the paths of the two dialects, and lets next serve the others.
// It takes paths as they are, because a client may have a slash in a name; one slash at
// the end is ignored.
func (s *Server) serveDialects(next http.Handler) http.Handler {
	api := func(find func(*http.Request, time.Time) (*access.Client, bool), refuse access.ErrorWriter, h http.HandlerFunc) http.Handler {
		return s.guardHandler(refuse, s.authenticate(find, refuse, s.queueReads(refuse, decodeCharset(h))))
	}
	uapi := api(s.identifyByBearerOrCookies, writeUAPIError, s.serveUAPI)
	telphin := api(s.auth.IdentifyBearer, writeTelphinError, s.serveTelphin)
	token := s.guardHandler(writeTelphinError, http.HandlerFunc(s.serveOAuthToken))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := next
		if path := pathSegments(r.URL); path[0] == "uapi" {
			h = uapi
		} else if path, ok := trimTelphinPrefix(path); ok {
			h = telphin
			if len(path) == 2 && path[0] == "oauth" && (path[1] == "token" || path[1] == "token.php") {
				h = token // UnifiedAPI's own client uses token.php
			}
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// pathSegments returns the unescaped segments of a path.
func pathSegments(u *url.URL) []string {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	all := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, segment := range all {
		if plain, err := url.PathUnescape(segment); err == nil {
			all[i] = plain
		}
	}
	return all
}

// checkExtension returns an error if name cannot be an extension, as package notify
// does.
func checkExtension(name string) error {
	sub := notify.Subscription{Extension: name, Types: []string{string(dialog.Hangup)}, URL: "http://any"}
	return sub.Validate()
}
