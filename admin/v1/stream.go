package v1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	lru "github.com/hashicorp/golang-lru/v2"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/notify/payload"
)

// streamRetryAfter is the Retry-After, in seconds, of a refused stream.
const streamRetryAfter = "10"

// batchDelay is the maximum time that a stream waits after a write, so that it sends
// several events at once; see also [limit.Streams.Pace]. The actual time is random, so
// that not all streams are written at the same time.
const batchDelay = 250 * time.Millisecond

// maxBatchBytes is the maximum size of a batch of events that a stream sends at once. A
// batch of a single event may be larger.
const maxBatchBytes = 256 << 10

// describeEventStream completes the description of an operation that answers with a
// list of events, or with a stream of them.
func describeEventStream(api huma.API, op huma.Operation) huma.Operation {
	events := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[list[Event]](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page of the event log; with Accept: text/event-stream, the event log as it grows",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: events},
			limit.EventStream: {Schema: &huma.Schema{Type: huma.TypeString, Description: "Server-sent events: " +
				"id is the event_id, event the event_type, data one item of the list on a line. " +
				"Without since or Last-Event-ID the stream starts now. It has no end, and ignores limit. " +
				"Events are sent in batches, at most 250 ms late, or 2 s while calls need the processor. " +
				"A comment is sent after 15 s without an event. A client that does not read for 10 s is disconnected, " +
				"and so is the slowest client when more than 64 MiB are buffered for all of them; resume with Last-Event-ID."}},
		},
	}}
	return op
}

// rawResponse is an answer that the operation writes itself.
type rawResponse struct{ Body func(huma.Context) }

func (a *API) listEvents(ctx context.Context, in *struct {
	Since     string `query:"since" doc:"Only events published at this RFC 3339 time or later, or after the event with this id"`
	Extension string `query:"extension" doc:"Only events of this extension: 101, or 101@pbx.example"`
	Type      string `query:"type" doc:"Only events of this type"`
	Call      string `query:"call" doc:"Only events of the call with this call_id"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`

	Accept      string `header:"Accept" hidden:"true"`
	LastEventID string `header:"Last-Event-ID" doc:"Streams only: start after the event with this id; overrides since"`
}) (*rawResponse, error) {
	if err := checkEventType(in.Type); err != nil {
		return nil, err
	}
	q := notify.Query{Extension: in.Extension, Type: in.Type, Call: in.Call, Limit: in.Limit}
	var ok bool
	if q.Since, ok = parseTime(in.Since); !ok {
		q.After = in.Since
	}
	if limit.AcceptsStream(in.Accept) {
		return a.respondEventStream(ctx, q, in.LastEventID)
	}
	return a.respondEventPage(ctx, q)
}

// respondEventPage answers with a page of the event log.
func (a *API) respondEventPage(ctx context.Context, q notify.Query) (*rawResponse, error) {
	events, more, err := a.ops.Events(ctx, q)
	if err != nil {
		return nil, a.problem(err)
	}
	var next string
	if more {
		next = events[len(events)-1].ID
	}
	return &rawResponse{func(c huma.Context) {
		c.SetHeader("Content-Type", "application/json")
		b := pageBuffers.Get().(*bytes.Buffer)
		defer pageBuffers.Put(b)
		b.Reset()
		a.writeEventPage(b, events, next)
		limit.ReleaseTurn(ctx)
		c.BodyWriter().Write(b.Bytes()) // an error means that the client has left
	}}, nil
}

// pageBuffers are buffers in which pages of events are encoded. Each usually has about
// 100 KB, and at most about maxPageBytes plus one event.
var pageBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPageBytes is the size above which no further event is added to a page.
const maxPageBytes = 1 << 20

// writeEventPage writes a page of events as the JSON of a list[Event]. next is the cursor
// of the next page. If the page exceeds maxPageBytes, it ends early with another cursor.
func (a *API) writeEventPage(b *bytes.Buffer, events []*dialog.Event, next string) {
	b.WriteString(`{"items":[`)
	for i, e := range events {
		if b.Len() > maxPageBytes {
			next = events[i-1].ID
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(a.lines.encode(e))
		limit.YieldAfter(i + 1)
	}
	b.WriteString(`],"next":`)
	writeLine(b, next)
	b.Truncate(b.Len() - 1) // remove the end of the line
	b.WriteString("}\n")
}

// maxCachedLines is the number of events that are cached as JSON, about 3 MB. An event
// of more than maxCachedLineBytes is not cached.
const (
	maxCachedLines     = 4096
	maxCachedLineBytes = 4 << 10
)

// lineCache caches the JSON of events by their ids. An event is encoded once for all
// readers, and once more after one of its extensions has got a number.
type lineCache struct {
	byID   *lru.Cache[string, cachedLine]
	number func(user string) uint64 // returns 0 if none is allotted
}

type cachedLine struct {
	text []byte
	ids  [2]uint64 // numbers of the caller and the called extension
}

// newLineCache returns an empty cache.
func newLineCache(o *ops.Operations) lineCache {
	byID, err := lru.New[string, cachedLine](maxCachedLines)
	if err != nil {
		panic(err) // impossible: maxCachedLines is above zero
	}
	return lineCache{byID, o.KnownNumber}
}

// encode returns an event as JSON on one line, without the line's end.
func (l lineCache) encode(e *dialog.Event) []byte {
	v := payload.New(e, payload.Format{Dialect: payload.JSON, Method: http.MethodPost})
	if v.Caller != nil {
		v.CallerID = l.number(v.Caller.User)
	}
	if v.Called != nil {
		v.CalledID = l.number(v.Called.User)
	}
	ids := [2]uint64{v.CallerID, v.CalledID}
	if kept, ok := l.byID.Get(e.ID); ok && kept.ids == ids {
		return kept.text
	}
	text := v.AppendEvent(nil)
	if len(text) <= maxCachedLineBytes {
		l.byID.Add(e.ID, cachedLine{text, ids})
	}
	return text
}

// writeLine writes a value as JSON on one line.
func writeLine(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v) // an error means that the client has left
}

// respondEventStream answers with the event log as it grows, after the event with the
// id last, or from the start that q gives if last is "".
func (a *API) respondEventStream(ctx context.Context, q notify.Query, last string) (*rawResponse, error) {
	if last != "" {
		q.After = last
	}
	token := access.ClientOf(ctx).ID
	if !a.streams.Acquire(token) {
		return nil, huma.ErrorWithHeaders(
			huma.Error503ServiceUnavailable(fmt.Sprintf("too many event streams: at most %d, and %d with one token", limit.MaxStreams, limit.MaxStreamsPerToken)),
			http.Header{"Retry-After": {streamRetryAfter}})
	}
	tail, err := a.ops.TailEvents(ctx, q)
	if err != nil {
		a.streams.Release(token)
		if last != "" && errors.Is(err, notify.ErrNoEvent) {
			return nil, unprocessable("header.Last-Event-ID", "is not the id of an event in the event log")
		}
		return nil, a.problem(err)
	}
	return &rawResponse{func(c huma.Context) {
		defer a.streams.Release(token)
		defer tail.Close()
		r, w := humago.Unwrap(c)
		if err := a.writeStream(w, r, tail); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, limit.ErrSlowestClient) {
			a.log.Warn("stream of slow client closed", "peer", r.RemoteAddr, "err", err)
		}
	}}, nil
}

// writeStream writes the events of a tail until the client disconnects, its token
// becomes invalid or the server shuts down. It returns an error if the client does not
// read.
func (a *API) writeStream(w http.ResponseWriter, r *http.Request, tail *notify.Tail) error {
	q, err := a.streams.Open(w, r)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.Send(nil); err != nil {
		return err
	}
	ctx := q.Context()
	client := access.ClientOf(ctx)
	for wrote := (time.Time{}); ; {
		limit.Sleep(ctx, time.Until(wrote.Add(rand.N(a.streams.Pace(batchDelay)))))
		waiting, cancel := context.WithTimeout(ctx, a.streams.KeepAlive)
		events, _ := tail.Next(waiting)
		cancel()
		if ctx.Err() != nil || !a.auth.Tokens.StillValid(client, time.Now()) {
			return nil
		}
		wrote = time.Now()
		if err := a.sendEvents(q, events); err != nil {
			return err
		}
	}
}

// sendEvents sends events in the format of a stream, maxBatchBytes at a time. Without
// events it sends a comment.
func (a *API) sendEvents(q *limit.Stream, events []*dialog.Event) error {
	if len(events) == 0 {
		return q.Send([]byte(":\n\n"))
	}
	var lines [][]byte
	var size int
	for len(events) > 0 {
		lines, size = lines[:0], 0
		for _, e := range events {
			line := a.lines.encode(e)
			if size > 0 && size+len(line) > maxBatchBytes {
				break
			}
			lines, size = append(lines, line), size+len(line)+len(e.ID)+len(e.Type)+len("id: \nevent: \ndata: \n\n")
			limit.YieldAfter(len(lines))
		}
		text := bytes.NewBuffer(make([]byte, 0, size)) // of the capacity that Send counts
		for i, line := range lines {
			fmt.Fprintf(text, "id: %s\nevent: %s\ndata: %s\n\n", events[i].ID, events[i].Type, line)
		}
		events = events[len(lines):]
		clear(lines)
		if err := q.Send(text.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
