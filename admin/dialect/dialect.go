// Package dialect is the common code of packages uapi and telphin, the two dialects of
// the HTTP API that imitate the APIs of other products.
//
// In these APIs an "event" is a subscription to one event type, but a
// [notify.Subscription] may have several types. A dialect therefore shows a subscription
// as one [Event] for each of its types that the dialect knows. It neither shows nor
// changes other types. The events of one subscription share its extension, URL, method
// and note. An event can be changed only if its subscription has no other type. It can
// be deleted at any time; the subscription is deleted with its last type.
package dialect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

// Type is an event type in a dialect.
type Type struct {
	Name string // name in the dialect
	Word string // word in [notify.Subscription.Types]
}

// Event is one type of a subscription, as a dialect shows it.
type Event struct {
	Type
	Subscription notify.Subscription
	Place        int  // index of the type in the dialect
	Sole         bool // the subscription has no other type
}

// Selector selects the subscriptions to an extension, or those with an extension_regex.
// The other field is "".
type Selector struct{ Extension, Regex string }

// Selects reports whether a subscription has exactly the extension and the
// extension_regex of s.
func (s Selector) Selects(sub notify.Subscription) bool {
	return sub.Extension == s.Extension && sub.ExtensionRegex == s.Regex
}

// errLastType ends an edit that would leave no types.
var errLastType = errors.New("the subscription has no other type")

// expandType returns the types that a word of a subscription stands for: answer stands
// for answer-in and answer-out, every other word for itself.
func expandType(word string) []string {
	if word == string(dialog.Answer) {
		return []string{"answer-in", "answer-out"}
	}
	return []string{word}
}

// RemoveType returns types without those that word stands for. If it removes answer-in
// from answer, answer-out is left, and vice versa.
func RemoveType(types []string, word string) (left []string) {
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

// EventsOf returns one Event for each type of a subscription that is in types, the types
// of a dialect.
func EventsOf(sub notify.Subscription, types []Type) (es []Event) {
	for place, t := range types {
		left := RemoveType(sub.Types, t.Word)
		if !slices.Equal(left, sub.Types) {
			es = append(es, Event{t, sub, place, len(left) == 0})
		}
	}
	return es
}

// Events returns the events of the subscriptions that match the selector and that the
// client may see, oldest subscription first. types are the types of the dialect.
func Events(ctx context.Context, o *ops.Operations, to Selector, types []Type) (es []Event) {
	for _, sub := range o.Subscriptions(ctx) {
		if to.Selects(sub) {
			es = append(es, EventsOf(sub, types)...)
		}
	}
	return es
}

// Change changes the subscription of an event. It returns [ops.ErrShared] if the
// subscription has other types too.
func Change(ctx context.Context, o *ops.Operations, e Event, change func(*notify.Subscription) error) (Event, error) {
	sub, err := o.ChangeSubscription(ctx, e.Subscription.ID, 0, func(sub *notify.Subscription) error {
		if len(RemoveType(sub.Types, e.Word)) > 0 {
			return ops.ErrShared
		}
		return change(sub)
	})
	e.Subscription = sub
	return e, err
}

// Remove removes the type of an event from its subscription, or deletes the
// subscription if there is no other type. It tries again if another request changes the
// subscription meanwhile.
func Remove(ctx context.Context, o *ops.Operations, e Event) (err error) {
	for range 20 {
		if err = removeOnce(ctx, o, e); err != notify.ErrConflict {
			return err
		}
		limit.Sleep(ctx, 100*time.Millisecond) // the change of another node arrives soon
	}
	return err
}

// removeOnce is Remove without the retry: it returns [notify.ErrConflict] if the
// subscription changes meanwhile.
func removeOnce(ctx context.Context, o *ops.Operations, e Event) error {
	var last uint64
	_, err := o.ChangeSubscription(ctx, e.Subscription.ID, 0, func(sub *notify.Subscription) error {
		left := RemoveType(sub.Types, e.Word)
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
		return o.DeleteSubscription(ctx, e.Subscription.ID, last)
	}
	return err
}

// RemoveAll removes events, and returns those that it removed. It skips the events of
// subscriptions that the config declares. If that leaves no event to remove, it returns
// [notify.ErrDeclared]. Any other error ends it.
func RemoveAll(ctx context.Context, o *ops.Operations, es []Event) (removed []Event, err error) {
	var declared error
	for _, e := range es {
		switch err := Remove(ctx, o, e); {
		case errors.Is(err, notify.ErrDeclared):
			declared = err
		case errors.Is(err, notify.ErrNotFound): // removed meanwhile
		case err != nil:
			return removed, err
		default:
			removed = append(removed, e)
		}
	}
	if len(removed) == 0 {
		return nil, declared
	}
	return removed, nil
}

// IsBare reports whether a request has neither a query nor a body. A request to delete
// all events must be bare, because a client that sends a query or a body may mean only
// some of them.
func IsBare(r *http.Request) bool {
	return r.URL.RawQuery == "" && len(bytes.TrimSpace(limit.Body(r))) == 0
}

// Path returns the unescaped segments of a path, without the slash at its end.
func Path(u *url.URL) []string {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	all := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, segment := range all {
		if plain, err := url.PathUnescape(segment); err == nil {
			all[i] = plain
		}
	}
	return all
}

// CheckExtension returns the error with which package notify refuses name as the
// extension of a subscription, or nil.
func CheckExtension(name string) error {
	sub := notify.NewSubscription()
	sub.Extension, sub.Types, sub.URL = name, []string{string(dialog.Hangup)}, "http://any"
	return sub.Validate()
}

// IntParam parses the parameter key of a query as an integer from low to high. ok is
// false if it is something else. If it is missing, IntParam returns unset and true.
func IntParam(v url.Values, key string, low, high, unset int) (n int, ok bool) {
	text := v.Get(key)
	if text == "" {
		return unset, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= low && n <= high
}

// WriteJSON answers with a value as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
