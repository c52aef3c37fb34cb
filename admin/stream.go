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

// maxStreams is how many clients may follow the event log at a time, beside those
// with the token of the config: these always have their places. maxOfToken is how
// many may with one token, and streamsFull how many seconds one waits that may not.
const (
	maxStreams  = 200
	maxOfToken  = 100
	streamsFull = "10"
)

// gather is how long events wait at most for more of them after others were
// written to a stream. It is chance, so that many streams are not written to at
// the same time.
const gather = 250 * time.Millisecond

// maxQueue bounds the bytes that are encoded for one stream and not sent yet; one
// event may be larger. maxQueues bounds those of all streams together: beyond it
// the stream of the slowest client is closed.
const (
	maxQueue  = 256 << 10
	maxQueues = 64 << 20
)

// errSlowest ends the stream of the slowest client.
var errSlowest = errors.New("its client is the slowest while all queues are full")

// streams are the clients that follow the event log.
type streams struct {
	quiet    time.Duration   // after which a client is told that there is nothing
	patience time.Duration   // after which one that does not read is disconnected
	room     int             // bytes of all queues; see maxQueues
	ending   context.Context // ends them all
	end      context.CancelFunc

	mu     sync.Mutex
	open   map[string]int // by the id of the token
	queues map[*queue]bool
	queued int // bytes of all queues

	renders chan struct{} // has room for those who make a part of a page
}

// maxRenders is how many parts of pages are made at once: the memory that one
// takes while it is made is not its queue's.
const maxRenders = 4

func newStreams() *streams {
	s := &streams{
		quiet: 15 * time.Second, patience: 10 * time.Second, room: maxQueues,
		open: make(map[string]int), queues: make(map[*queue]bool), renders: make(chan struct{}, maxRenders),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

// A queue is what a stream has to send. The stream's handler writes it, blocking.
type queue struct {
	streams *streams
	rc      *http.ResponseController
	w       io.Writer

	// streams.mu guards these.
	bytes  int
	since  time.Time // when the first of them was queued
	closed bool      // to make room
}

// load is how much a queue keeps from others: its bytes, the more the longer they
// wait. So a client that reads is not taken for the slowest because much came at
// once.
func (q *queue) load(now time.Time) float64 {
	return float64(q.bytes) * max(now.Sub(q.since), time.Millisecond).Seconds()
}

// newQueue returns the queue of a stream that is answered with w. The caller
// removes it.
func (s *streams) newQueue(w http.ResponseWriter) *queue {
	q := &queue{streams: s, rc: http.NewResponseController(w), w: w}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queues[q] = true
	return q
}

func (q *queue) remove() {
	q.set(0)
	q.streams.mu.Lock()
	defer q.streams.mu.Unlock()
	delete(q.streams.queues, q)
}

// send writes b to the client and returns when the kernel has taken all of it. It
// returns [os.ErrDeadlineExceeded] if the client does not read, and errSlowest if
// the queue was closed to make room.
func (q *queue) send(b []byte) error {
	defer q.set(0)
	if q.set(len(b)) {
		return errSlowest
	}
	if err := q.rc.SetWriteDeadline(time.Now().Add(q.streams.patience)); err != nil {
		return err
	}
	if q.isClosed() { // since; its deadline was before ours
		return errSlowest
	}
	_, err := q.w.Write(b)
	if err == nil {
		err = q.rc.Flush()
	}
	if err != nil && q.isClosed() {
		return errSlowest
	}
	return err
}

// set notes how many bytes are queued, closes the queues of the slowest clients
// while all are beyond their room, and reports whether q is closed.
func (q *queue) set(bytes int) (closed bool) {
	s := q.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.closed {
		return true
	}
	now := time.Now()
	s.queued += bytes - q.bytes
	q.bytes, q.since = bytes, now
	for s.queued > s.room {
		slowest := q
		for other := range s.queues {
			if other.load(now) > slowest.load(now) {
				slowest = other
			}
		}
		s.queued -= slowest.bytes
		slowest.bytes, slowest.closed = 0, true
		slowest.rc.SetWriteDeadline(now) // ends its Write
	}
	return q.closed
}

func (q *queue) isClosed() bool {
	q.streams.mu.Lock()
	defer q.streams.mu.Unlock()
	return q.closed
}

// take takes a place for one more with a token, if there is any.
func (s *streams) take(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token != configID && s.all()-s.open[configID] >= maxStreams || s.open[token] >= maxOfToken {
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
				"Events that come soon after another are written together, a quarter of a second later at most, 2 s while calls need the machine. " +
				"After 15 s without an event there is a comment. A client that does not read for 10 s is disconnected, " +
				"and so is the slowest one when more than 64 MiB wait to be read by all together: it resumes with Last-Event-ID."}},
		},
	}}
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
	q := notify.Query{Extension: in.Extension, Type: in.Type, Call: in.Call, Extensions: accessOf(ctx).extensions, Limit: in.Limit}
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
		leaveTurn(ctx)
		c.BodyWriter().Write(b.Bytes()) // a client that is gone needs no more
	}}, nil
}

// eventPages are buffers to write pages of events to: some 100 KB each, and little
// more than maxPage at most.
var eventPages = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPage is how many bytes of events a page has before it ends early.
const maxPage = 1 << 20

// writePage writes a list[Event] as JSON, and ends it early at maxPage.
func (s *Server) writePage(b *bytes.Buffer, events []*dialog.Event, next string) {
	b.WriteString(`{"items":[`)
	for i, e := range events {
		if b.Len() > maxPage {
			next = events[i-1].ID
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(s.lines.of(e))
		yield(i + 1)
	}
	b.WriteString(`],"next":`)
	line(b, next)
	b.Truncate(b.Len() - 1) // the end of the line
	b.WriteString("}\n")
}

// maxLines is how many of the events last read are kept as JSON: some 3 MB. One
// of more than maxLine bytes is not.
const (
	maxLines = 4096
	maxLine  = 4 << 10
)

// lines are events as JSON, by their ids: each is written once for all who read
// it, and anew when its extensions have got numbers since.
type lines struct {
	kept   *lru.Cache[string, eventLine]
	number func(user string) uint64 // allots none
}

type eventLine struct {
	text []byte
	ids  extensionIDs
}

func newLines(n *notify.Notifier) lines {
	return lines{newCache[string, eventLine](maxLines), n.KnownNumber}
}

// of is the JSON of an event, on one line that has no end.
func (l lines) of(e *dialog.Event) []byte {
	var ids extensionIDs
	if e.CallerExtension != nil {
		ids.caller = l.number(e.CallerExtension.User)
	}
	if e.CalledExtension != nil {
		ids.called = l.number(e.CalledExtension.User)
	}
	if kept, ok := l.kept.Get(e.ID); ok && kept.ids == ids {
		return kept.text
	}
	var b bytes.Buffer
	line(&b, eventOf(*e, ids))
	text := bytes.TrimRight(b.Bytes(), "\n")
	if len(text) <= maxLine {
		l.kept.Add(e.ID, eventLine{text, ids})
	}
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
		if err := s.stream(w, r, tail); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errSlowest) {
			s.log.Warn("stream closed: the client does not read", "peer", r.RemoteAddr, "err", err)
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

	q := s.streams.newQueue(w)
	defer q.remove()
	// The limits of the server are of requests that end.
	if err := q.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", streamType)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
	if err := q.send(nil); err != nil {
		return err
	}
	leaveTurn(ctx)
	for wrote := (time.Time{}); ; {
		pause(ctx, time.Until(wrote.Add(rand.N(s.gate.pace(gather)))))
		waiting, cancel := context.WithTimeout(ctx, s.streams.quiet)
		events, _ := tail.Next(waiting)
		cancel()
		if ctx.Err() != nil || !s.tokens.good(who, time.Now()) {
			return nil
		}
		wrote = time.Now()
		if err := s.sendEvents(q, events); err != nil {
			return err
		}
	}
}

// sendEvents sends events as a stream has them, maxQueue bytes at a time; none,
// as a comment.
func (s *Server) sendEvents(q *queue, events []*dialog.Event) error {
	if len(events) == 0 {
		return q.send([]byte(":\n\n"))
	}
	var lines [][]byte
	var size int
	for len(events) > 0 {
		lines, size = lines[:0], 0
		for _, e := range events {
			line := s.lines.of(e)
			if size > 0 && size+len(line) > maxQueue {
				break
			}
			lines, size = append(lines, line), size+len(line)+len(e.ID)+len(e.Type)+len("id: \nevent: \ndata: \n\n")
			yield(len(lines))
		}
		text := bytes.NewBuffer(make([]byte, 0, size)) // no larger than what is counted
		for i, line := range lines {
			fmt.Fprintf(text, "id: %s\nevent: %s\ndata: %s\n\n", events[i].ID, events[i].Type, line)
		}
		events = events[len(lines):]
		clear(lines)
		if err := q.send(text.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
