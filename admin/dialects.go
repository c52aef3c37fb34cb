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
type entryType struct {
	name string // in the dialect
	word string // of [notify.Subscription.Types]
}

// An entry is a subscription in one of its types.
type entry struct {
	entryType
	sub   notify.Subscription
	place int  // of the type among those of the dialect
	sole  bool // the subscription has no other type
}

// A target is what subscriptions are to: an extension, or an expression.
type target struct{ extension, regex string }

// everybody is what the Telphin dialect calls all phones.
var everybody = target{regex: ".*"}

// errShared refuses to change one entry and with it others.
var errShared = errors.New("this event shares a subscription with others: change it at /v1/subscriptions, or delete this event and create another")

// errLast ends an edit that leaves nothing.
var errLast = errors.New("the subscription has no other type")

// atoms are the types that a word of a subscription stands for.
func atoms(word string) []string {
	if word == string(dialog.Answer) {
		return []string{"answer-in", "answer-out"}
	}
	return []string{word}
}

// without is what remains of types when word is taken out.
func without(types []string, word string) (left []string) {
	gone := atoms(word)
	for _, t := range types {
		kept := slices.DeleteFunc(atoms(t), func(a string) bool { return slices.Contains(gone, a) })
		if len(kept) == len(atoms(t)) {
			kept = []string{t}
		}
		left = append(left, kept...)
	}
	return left
}

// entriesOf are the entries of a subscription in a dialect.
func entriesOf(sub notify.Subscription, types []entryType) (es []entry) {
	for place, t := range types {
		left := without(sub.Types, t.word)
		if !slices.Equal(left, sub.Types) {
			es = append(es, entry{t, sub, place, len(left) == 0})
		}
	}
	return es
}

// entries are those of a dialect to one target, of the oldest subscription first,
// that who makes the request of ctx may know of.
func (s *Server) entries(ctx context.Context, to target, types []entryType) (es []entry) {
	for _, sub := range s.config.Notifier.Subscriptions() {
		if (target{sub.Extension, sub.ExtensionRegex}) == to && accessOf(ctx).sees(sub.Extension) {
			es = append(es, entriesOf(sub, types)...)
		}
	}
	return es
}

// change changes the subscription of an entry, unless that has other types too.
func (s *Server) change(ctx context.Context, e entry, change func(*notify.Subscription) error) (entry, error) {
	sub, err := s.edit(ctx, e.sub.ID, 0, func(sub *notify.Subscription) error {
		if len(without(sub.Types, e.word)) > 0 {
			return errShared
		}
		return change(sub)
	})
	e.sub = sub
	return e, err
}

// drop takes an entry out of its subscription, or the subscription away if there
// is no other.
func (s *Server) drop(ctx context.Context, e entry) (err error) {
	for range 20 {
		if err = s.dropOnce(ctx, e); err != notify.ErrConflict {
			return err
		}
		pause(ctx, 100*time.Millisecond) // another node's change is soon heard of
	}
	return err
}

// dropOnce is drop, but returns [notify.ErrConflict] if the subscription changes
// meanwhile.
func (s *Server) dropOnce(ctx context.Context, e entry) error {
	var last uint64
	_, err := s.edit(ctx, e.sub.ID, 0, func(sub *notify.Subscription) error {
		left := without(sub.Types, e.word)
		switch {
		case slices.Equal(left, sub.Types):
			return notify.ErrNotFound // any more
		case len(left) == 0:
			last = sub.Revision
			return errLast
		}
		sub.Types = left
		return nil
	})
	if err == errLast {
		return s.unsubscribe(ctx, e.sub.ID, last)
	}
	return err
}

// dropAll takes away what can be, and returns it. That nothing could be because
// the config declares it is an error.
func (s *Server) dropAll(ctx context.Context, es []entry) (dropped []entry, err error) {
	var declared error
	for _, e := range es {
		switch err := s.drop(ctx, e); {
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
func askedBy(r *http.Request) right {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return toRead
	}
	return toWrite
}

// bareRequest reports whether a request says nothing but its path. One to delete
// many must be bare: who says more means something else.
func bareRequest(r *http.Request) bool {
	body, err := io.ReadAll(r.Body) // which is in memory
	return r.URL.RawQuery == "" && err == nil && len(strings.TrimSpace(string(body))) == 0
}

// dialects serves the paths of the two dialects, and has next serve the others.
// It takes paths as they are: nothing that a client wrote into one, as a slash, is
// tidied away, and one slash at the end means nothing.
func (s *Server) dialects(next http.Handler) http.Handler {
	api := func(find func(*http.Request, time.Time) (*access, bool), refuse refusal, h http.HandlerFunc) http.Handler {
		return s.guarded(refuse, s.admit(find, refuse, s.inTurn(refuse, inUTF8(h))))
	}
	uapi := api(s.byBearerOrPair, uapiRefuse, s.uapi)
	telphin := api(s.byBearer, telphinRefuse, s.telphin)
	token := s.guarded(telphinRefuse, http.HandlerFunc(s.oauthToken))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := next
		if path := segments(r.URL); path[0] == "uapi" {
			h = uapi
		} else if path, ok := telphinPath(path); ok {
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
func segments(u *url.URL) []string {
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
func validExtension(name string) error {
	sub := notify.Subscription{Extension: name, Types: []string{string(dialog.Hangup)}, URL: "http://any"}
	return sub.Validate()
}
