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

	"bellhop/dialog"
	"bellhop/notify"
)

// The two dialects of the API, /uapi and /api/ver1.0, know no subscriptions with
// several types: to them, one type is one event. So a subscription is an entry
// for each of its types that a dialect can say, and what the dialect cannot say,
// it neither shows nor changes. The entries of one subscription have its
// extension, URL, method and note in common: they can be changed while there is
// one, and deleted one by one. The last takes the subscription with it.

// An entryType is one type of event as a dialect has it.
type dialectType struct {
	name string // in the dialect
	word string // of [notify.Subscription.Types]
}

// An entry is a subscription in one of its types.
type dialectEvent struct {
	dialectType
	sub   notify.Subscription
	place int  // of the type among those of the dialect
	sole  bool // the subscription has no other type
}

// A target is what subscriptions are to: an extension, or an expression.
type extensionSelector struct{ extension, regex string }

// everybody is what the Telphin dialect calls all phones.
var allExtensions = extensionSelector{regex: ".*"}

// errShared refuses to change one entry and with it others.
var errSharedSubscription = errors.New("this event shares a subscription with others: change it at /v1/subscriptions, or delete this event and create another")

// errLast ends an edit that leaves nothing.
var errLastType = errors.New("the subscription has no other type")

// atoms are the types that a word of a subscription stands for.
func expandType(word string) []string {
	if word == string(dialog.Answer) {
		return []string{"answer-in", "answer-out"}
	}
	return []string{word}
}

// without is what remains of types when word is taken out.
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

// entriesOf are the entries of a subscription in a dialect.
func dialectEventsOf(sub notify.Subscription, types []dialectType) (es []dialectEvent) {
	for place, t := range types {
		left := removeType(sub.Types, t.word)
		if !slices.Equal(left, sub.Types) {
			es = append(es, dialectEvent{t, sub, place, len(left) == 0})
		}
	}
	return es
}

// entries are those of a dialect to one target, of the oldest subscription first,
// that who makes the request of ctx may know of.
func (s *Server) visibleDialectEvents(ctx context.Context, to extensionSelector, types []dialectType) (es []dialectEvent) {
	for _, sub := range s.config.Notifier.Subscriptions() {
		if (extensionSelector{sub.Extension, sub.ExtensionRegex}) == to && accessOf(ctx).canSee(sub.Extension) {
			es = append(es, dialectEventsOf(sub, types)...)
		}
	}
	return es
}

// change changes the subscription of an entry, unless that has other types too.
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

// drop takes an entry out of its subscription, or the subscription away if there
// is no other.
func (s *Server) removeDialectEvent(ctx context.Context, e dialectEvent) (err error) {
	for range 20 {
		if err = s.removeDialectEventOnce(ctx, e); err != notify.ErrConflict {
			return err
		}
		sleepContext(ctx, 100*time.Millisecond) // another node's change is soon heard of
	}
	return err
}

// dropOnce is drop, but returns [notify.ErrConflict] if the subscription changes
// meanwhile.
func (s *Server) removeDialectEventOnce(ctx context.Context, e dialectEvent) error {
	var last uint64
	_, err := s.editSubscription(ctx, e.sub.ID, 0, func(sub *notify.Subscription) error {
		left := removeType(sub.Types, e.word)
		switch {
		case slices.Equal(left, sub.Types):
			return notify.ErrNotFound // any more
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

// dropAll takes away what can be, and returns it. That nothing could be because
// the config declares it is an error.
func (s *Server) removeDialectEvents(ctx context.Context, es []dialectEvent) (dropped []dialectEvent, err error) {
	var declared error
	for _, e := range es {
		switch err := s.removeDialectEvent(ctx, e); {
		case errors.Is(err, notify.ErrDeclared):
			declared = err
		case errors.Is(err, notify.ErrNotFound): // gone since
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

// askedBy is what a request asks for.
func requiredPermission(r *http.Request) permission {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return permitRead
	}
	return permitWrite
}

// bareRequest reports whether a request says nothing but its path. One to delete
// many must be bare: who says more means something else.
func isBareRequest(r *http.Request) bool {
	body, err := io.ReadAll(r.Body) // which is in memory
	return r.URL.RawQuery == "" && err == nil && len(strings.TrimSpace(string(body))) == 0
}

// dialects serves the paths of the two dialects, and has next serve the others.
// It takes paths as they are: nothing that a client wrote into one, as a slash, is
// tidied away, and one slash at the end means nothing.
func (s *Server) serveDialects(next http.Handler) http.Handler {
	api := func(find func(*http.Request, time.Time) (*access, bool), refuse errorWriter, h http.HandlerFunc) http.Handler {
		return s.guardHandler(refuse, s.authenticate(find, refuse, s.queueReads(refuse, decodeCharset(h))))
	}
	uapi := api(s.identifyByBearerOrCookies, writeUAPIError, s.serveUAPI)
	telphin := api(s.identifyByBearer, writeTelphinError, s.serveTelphin)
	token := s.guardHandler(writeTelphinError, http.HandlerFunc(s.serveOAuthToken))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := next
		if path := pathSegments(r.URL); path[0] == "uapi" {
			h = uapi
		} else if path, ok := trimTelphinPrefix(path); ok {
			h = telphin
			if len(path) == 2 && path[0] == "oauth" && (path[1] == "token" || path[1] == "token.php") {
				h = token // UnifiedAPI's own client asks for the second
			}
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// segments splits a path at its slashes.
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

// validExtension says what is wrong with the name of an extension, as notify
// does.
func checkExtension(name string) error {
	sub := notify.Subscription{Extension: name, Types: []string{string(dialog.Hangup)}, URL: "http://any"}
	return sub.Validate()
}
