package admin

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
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	lru "github.com/hashicorp/golang-lru/v2"

	"bellhop/dialog"
	"bellhop/notify"
)

// maxStreams is how many clients may follow the event log at a time, maxOfToken
// how many of them with one token, and streamsFull how many seconds one waits that
// may not.
const (
	maxStreams  = 200
	maxOfToken  = 100
	streamsFull = "10"
)

// gather is how long events wait at most for more of them after others were
// written to a stream. It is chance, so that many streams are not written to at
// the same time.
const gather = 250 * time.Millisecond

// streams are the clients that follow the event log.
type streams struct {
	quiet    time.Duration   // after which a client is told that there is nothing
	patience time.Duration   // after which one that does not read is disconnected
	ending   context.Context // ends them all
	end      context.CancelFunc

	mu   sync.Mutex
	open map[string]int // by the id of the token
}

func newStreams() *streams {
	s := &streams{quiet: 15 * time.Second, patience: 10 * time.Second, open: make(map[string]int)}
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

// take takes a place for one more with a token, if there is any.
func (s *streams) take(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all() >= maxStreams || s.open[token] >= maxOfToken {
		return false
	}
	s.open[token]++
	return true
}

// give gives a place back.
func (s *streams) give(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[token]--; s.open[token] == 0 {
		delete(s.open, token)
	}
}

// count is how many there are.
func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all()
}

func (s *streams) all() (n int) {
	for _, of := range s.open {
		n += of
	}
	return n
}

const streamType = "text/event-stream"

// eventStream completes the description of an operation that answers with a list
// of events, or with a stream of them.
func eventStream(api huma.API, op huma.Operation) huma.Operation {
	events := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[list[Event]](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page of the log, or with Accept: text/event-stream all of it as it grows",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: events},
			streamType: {Schema: &huma.Schema{Type: huma.TypeString, Description: "Server-sent events: " +
				"id is the event_id, event the event_type, data an item of the list on one line. " +
				"Without since or Last-Event-ID it begins now. It has no end, and no limit. " +
				"Events that come soon after another are written together, a quarter of a second later at most. " +
				"After 15 s without an event there is a comment. Who does not read for 10 s is disconnected."}},
		},
	}}
	op.Errors = append(op.Errors, http.StatusServiceUnavailable)
	return op
}

// answered is the answer of an operation that writes it itself.
type answered struct{ Body func(huma.Context) }

func (s *Server) listEvents(ctx context.Context, in *struct {
	Since     string `query:"since" doc:"Events said at this RFC 3339 time or later, or after the event with this id"`
	Extension string `query:"extension"`
	Type      string `query:"type"`
	Call      string `query:"call" doc:"Of this call_id"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`

	Accept      string `header:"Accept" hidden:"true"`
	LastEventID string `header:"Last-Event-ID" doc:"Of a stream: events after that with this id; goes before since"`
}) (*answered, error) {
	if err := checkType(in.Type); err != nil {
		return nil, err
	}
	q := notify.Query{Extension: in.Extension, Type: in.Type, Call: in.Call, Among: accessOf(ctx).extensions, Limit: in.Limit}
	var ok bool
	if q.Since, ok = parseTime(in.Since); !ok {
		q.After = in.Since
	}
	if accepts(in.Accept, streamType) {
		return s.followEvents(ctx, q, in.LastEventID)
	}
	return s.readEvents(ctx, q)
}

// accepts reports whether an Accept names a media type and not JSON.
func accepts(accept, want string) bool {
	found := false
	for entry := range strings.SplitSeq(accept, ",") {
		name, _, _ := strings.Cut(entry, ";")
		switch name = strings.TrimSpace(name); {
		case strings.EqualFold(name, want):
			found = true
		case strings.EqualFold(name, "application/json"):
			return false
		}
	}
	return found
}

// readEvents answers with a page of the log.
func (s *Server) readEvents(ctx context.Context, q notify.Query) (*answered, error) {
	events, more, err := s.config.Notifier.Events(ctx, q)
	if err != nil {
		return nil, s.problem(err)
	}
	var next string
	if more {
		next = events[len(events)-1].ID
	}
	return &answered{func(c huma.Context) {
		c.SetHeader("Content-Type", "application/json")
		b := eventPages.Get().(*bytes.Buffer)
		defer eventPages.Put(b)
		b.Reset()
		s.writePage(b, events, next)
		c.BodyWriter().Write(b.Bytes()) // a client that is gone needs no more
	}}, nil
}

// eventPages are buffers to write pages of events to: some 100 KB each.
var eventPages = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writePage writes a list[Event] as JSON.
func (s *Server) writePage(b *bytes.Buffer, events []*dialog.Event, next string) {
	b.WriteString(`{"items":[`)
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(s.lines.of(e))
	}
	b.WriteString(`],"next":`)
	line(b, next)
	b.Truncate(b.Len() - 1) // the end of the line
	b.WriteString("}\n")
}

// maxLines is how many of the events last read are kept as JSON: some 3 MB.
const maxLines = 4096

// lines are events as JSON, by their ids: each is written once for all who read
// it.
type lines struct{ kept *lru.Cache[string, []byte] }

func newLines() lines { return lines{newCache[string, []byte](maxLines)} }

// of is the JSON of an event, on one line that has no end.
func (l lines) of(e *dialog.Event) []byte {
	if text, ok := l.kept.Get(e.ID); ok {
		return text
	}
	var b bytes.Buffer
	line(&b, eventOf(*e))
	text := bytes.TrimRight(b.Bytes(), "\n")
	l.kept.Add(e.ID, text)
	return text
}

// line writes a value as JSON on one line.
func line(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v) // a client that is gone needs no more
}

// followEvents answers with the log as it grows, after the last event that the
// client has had, if it says so.
func (s *Server) followEvents(ctx context.Context, q notify.Query, last string) (*answered, error) {
	if last != "" {
		q.After = last
	}
	token := accessOf(ctx).id
	if !s.streams.take(token) {
		return nil, huma.ErrorWithHeaders(
			huma.Error503ServiceUnavailable(fmt.Sprintf("at most %d clients follow the events, %d with one token", maxStreams, maxOfToken)),
			http.Header{"Retry-After": {streamsFull}})
	}
	tail, err := s.config.Notifier.Tail(ctx, q)
	if err != nil {
		s.streams.give(token)
		if last != "" && errors.Is(err, notify.ErrNoEvent) {
			return nil, unprocessable("header.Last-Event-ID", "is not the id of an event in the log")
		}
		return nil, s.problem(err)
	}
	return &answered{func(c huma.Context) {
		defer s.streams.give(token)
		defer tail.Close()
		r, w := humago.Unwrap(c)
		if err := s.stream(w, r, tail); errors.Is(err, os.ErrDeadlineExceeded) {
			s.log.Warn("a client that follows the events does not read: it is disconnected", "peer", r.RemoteAddr)
		}
	}}, nil
}

// stream writes what a tail reads until the client goes, its token is good no
// more or the server stops. It returns an error if the client does not take it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, tail *notify.Tail) error {
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(s.streams.ending, stop)()
	who := accessOf(ctx)

	// The limits of the server are of requests that end.
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", streamType)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
	var text bytes.Buffer
	for wrote := (time.Time{}); ; {
		if err := rc.SetWriteDeadline(time.Now().Add(s.streams.patience)); err != nil {
			return err
		}
		if _, err := w.Write(text.Bytes()); err != nil {
			return err
		}
		if err := rc.Flush(); err != nil {
			return err
		}
		pause(ctx, time.Until(wrote.Add(rand.N(gather))))
		waiting, cancel := context.WithTimeout(ctx, s.streams.quiet)
		events, _ := tail.Next(waiting)
		cancel()
		if ctx.Err() != nil || !s.tokens.good(who, time.Now()) {
			return nil
		}
		wrote = time.Now()
		text.Reset()
		s.writeEvents(&text, events)
	}
}

// writeEvents writes events as a stream has them; none, as a comment.
func (s *Server) writeEvents(b *bytes.Buffer, events []*dialog.Event) {
	if len(events) == 0 {
		b.WriteString(":\n\n")
	}
	for _, e := range events {
		fmt.Fprintf(b, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Type, s.lines.of(e))
	}
}
