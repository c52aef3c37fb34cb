package ops

import (
	"context"
	"errors"
	"net/http"

	"bellhop/admin/access"
	"bellhop/notify"
)

// Kind is the kind of an error of an operation.
type Kind int

const (
	Failed     Kind = iota // not the client's fault: it is logged, and its text hidden
	Invalid                // a field is invalid
	NotFound               // nothing has this id, or the client may not see it
	NotBound               // the token may not see the object as created or changed
	ReadOnly               // the object cannot be changed here
	Changed                // the object has another revision
	Limit                  // there are too many objects
	Busy                   // too many operations are in progress
	Impossible             // the state of the object does not allow it
	BadCursor              // unknown cursor
	NoEvent                // unknown event
)

// Dialect is an API of the server, or its page. The same kind of error may have another
// HTTP status in each.
type Dialect int

const (
	V1 Dialect = iota
	UAPI
	Telphin
	Page
)

// statuses are the HTTP statuses of each kind of error, by [Dialect].
var statuses = map[Kind][4]int{
	//          V1   UAPI Telphin Page
	Failed:     {503, 500, 500, 503},
	Invalid:    {422, 400, 400, 422},
	NotFound:   {404, 400, 404, 404},
	NotBound:   {403, 403, 403, 403},
	ReadOnly:   {409, 403, 409, 409},
	Changed:    {412, 500, 409, 409}, // the UnifiedAPI has no error for it
	Limit:      {409, 403, 400, 409},
	Busy:       {429, 429, 429, 429},
	Impossible: {409, 409, 409, 409},
	BadCursor:  {422, 400, 400, 400},
	NoEvent:    {422, 400, 400, 400},
}

// causes are the kinds of the errors that operations return. hint names the setting in
// the config that led to the error; "": there is none.
var causes = []struct {
	err  error
	kind Kind
	hint string
}{
	{notify.ErrNotFound, NotFound, ""},
	{notify.ErrNoDelivery, NotFound, ""},
	{access.ErrNotFound, NotFound, ""},
	{ErrNoTrace, NotFound, ""},
	{ErrNoCall, NotFound, ""},
	{ErrNoExtension, NotFound, ""},
	{ErrNoBan, NotFound, ""},
	{errNotBound, NotBound, ""},
	{notify.ErrDeclared, ReadOnly, ""},
	{ErrShared, ReadOnly, ""},
	{notify.ErrConflict, Changed, ""},
	{notify.ErrLimit, Limit, "set by notify.max_subscriptions in the config"},
	{access.ErrTooMany, Limit, ""},
	{errManyTests, Busy, ""},
	{notify.ErrInactive, Impossible, ""},
	{errNoReceiver, Impossible, ""},
	{notify.ErrEventGone, Impossible, "kept for notify.keep_events, see the config"},
	{notify.ErrCursor, BadCursor, ""},
	{notify.ErrNoEvent, NoEvent, ""},
}

// ErrShared is the error of a change to an event of package dialect whose subscription
// has several events, because the others would change too.
var ErrShared = errors.New("this event shares a subscription with others: change it at /v1/subscriptions, or delete this event and create another")

// KindOf returns the kind of an error.
func KindOf(err error) Kind {
	kind, _ := classify(err)
	return kind
}

// classify returns the kind of an error, and its hint.
func classify(err error) (kind Kind, hint string) {
	switch {
	case errors.As(err, new(*notify.Invalid)):
		return Invalid, ""
	case errors.As(err, new(*quotaError)):
		return Limit, ""
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.kind, c.hint
		}
	}
	return Failed, ""
}

// Refusal is an error as a client gets it.
type Refusal struct {
	Kind   Kind
	Status int    // HTTP status in the dialect
	Field  string // Invalid: the name of the field
	Text   string // except on the page, it includes the hint of causes
}

// Explain returns the status, the field and the text with which dialect d answers an
// error. If the status is 5xx, Explain logs the error and hides its text from the client.
func (o *Operations) Explain(d Dialect, err error) Refusal {
	kind, hint := classify(err)
	r := Refusal{Kind: kind, Status: statuses[kind][d], Text: err.Error()}
	var invalid *notify.Invalid
	switch {
	case r.Status >= http.StatusInternalServerError:
		o.logFailure(d, err)
		r.Kind, r.Text = Failed, "the store is not writable, or bellhop is too busy; see /readyz"
	case errors.As(err, &invalid):
		r.Field, r.Text = invalid.Field, invalid.Field+" "+invalid.Why
	case hint != "" && d != Page:
		r.Text += " (" + hint + ")"
	}
	return r
}

// logFailure logs an error of a request if IsFailure reports true for it.
func (o *Operations) logFailure(d Dialect, err error) {
	switch {
	case !IsFailure(err):
	case d == Page:
		o.log.Error("page request failed", "err", err)
	default:
		o.log.Error("admin request failed", "err", err)
	}
}

// IsFailure reports whether err is a failure that must be logged. A canceled context is
// no failure, because the client has only disconnected.
func IsFailure(err error) bool { return !errors.Is(err, context.Canceled) }
