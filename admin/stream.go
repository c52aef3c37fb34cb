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

// maxStreams is the number of event streams at a time, beside those with the token of
// the config, which are not limited by others. maxStreamsPerToken is the number with
// one token. streamRetryAfter is the Retry-After, in seconds, of a refused stream.
const (
	maxStreams         = 200
	maxStreamsPerToken = 100
	streamRetryAfter   = "10"
)

// batchDelay is the maximum time that events wait for more of them after a write to the
// stream. The actual time is random, so that not all streams are written at once.
const batchDelay = 250 * time.Millisecond

// maxBatchBytes limits the bytes that are encoded for one stream and not sent yet; a
// single event may be larger. maxBufferedBytes limits those of all streams together:
// beyond it, the stream of the slowest client is closed.
const (
	maxBatchBytes    = 256 << 10
	maxBufferedBytes = 64 << 20
)

// errSlowestClient ends the stream of the slowest client.
var errSlowestClient = errors.New("the client is the slowest, and all send buffers are full")

// streamRegistry counts the open streams and bounds their memory.
type streamRegistry struct {
	keepAlive    time.Duration   // interval of comments while there is no event
	writeTimeout time.Duration   // a client that does not read for so long is disconnected
	maxBuffered  int             // bytes of all buffers, see maxBufferedBytes
	closing      context.Context // ends all streams
	closeAll     context.CancelFunc

	mu       sync.Mutex
	perToken map[string]int // open streams by token id
	buffers  map[*sendBuffer]bool
	buffered int // bytes of all buffers

	renders chan struct{} // slots of renders in progress
}

// maxRenders is the number of page parts that are rendered at a time. The memory of a
// render is not counted in its stream's buffer.
const maxRenders = 4

// newStreamRegistry returns a registry without streams.
func newStreamRegistry() *streamRegistry {
	s := &streamRegistry{
		keepAlive: 15 * time.Second, writeTimeout: 10 * time.Second, maxBuffered: maxBufferedBytes,
		perToken: make(map[string]int), buffers: make(map[*sendBuffer]bool), renders: make(chan struct{}, maxRenders),
	}
	s.closing, s.closeAll = context.WithCancel(context.Background())
	return s
}

// sendBuffer holds the bytes that a stream has to send. The stream's handler writes
// them, blocking.
type sendBuffer struct {
	registry *streamRegistry
	rc       *http.ResponseController
	w        io.Writer

	// registry.mu guards the fields below.
	bytes  int
	since  time.Time // time at which the bytes were buffered
	closed bool      // closed to make room
}

// weight is the share of the common room that a buffer takes from others: its bytes
// times the seconds they have waited. A client that reads is thus not taken for the
// slowest because much came at once.
func (q *sendBuffer) weight(now time.Time) float64 {
	return float64(q.bytes) * max(now.Sub(q.since), time.Millisecond).Seconds()
}

// newBuffer returns the buffer of a stream that is answered with w. The caller removes
// it.
func (s *streamRegistry) newBuffer(w http.ResponseWriter) *sendBuffer {
	q := &sendBuffer{registry: s, rc: http.NewResponseController(w), w: w}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffers[q] = true
	return q
}

// remove takes the buffer out of the registry.
func (q *sendBuffer) remove() {
	q.setSize(0)
	q.registry.mu.Lock()
	defer q.registry.mu.Unlock()
	delete(q.registry.buffers, q)
}

// send writes b to the client and returns when the kernel has accepted all of it. It
// returns [os.ErrDeadlineExceeded] if the client does not read, and errSlowestClient if
// the buffer was closed to make room.
func (q *sendBuffer) send(b []byte) error {
	defer q.setSize(0)
	if q.setSize(len(b)) {
		return errSlowestClient
	}
	if err := q.rc.SetWriteDeadline(time.Now().Add(q.registry.writeTimeout)); err != nil {
		return err
	}
	if q.isClosed() { // closed meanwhile: our deadline has overwritten that of the closing
		return errSlowestClient
	}
	_, err := q.w.Write(b)
	if err == nil {
		err = q.rc.Flush()
	}
	if err != nil && q.isClosed() {
		return errSlowestClient
	}
	return err
}

// setSize sets the number of buffered bytes. While all buffers together exceed the
// limit, it closes the one with the greatest weight. It reports whether q is closed.
func (q *sendBuffer) setSize(bytes int) (closed bool) {
	s := q.registry
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.closed {
		return true
	}
	now := time.Now()
	s.buffered += bytes - q.bytes
	q.bytes, q.since = bytes, now
	for s.buffered > s.maxBuffered {
		slowest := q
		for other := range s.buffers {
			if other.weight(now) > slowest.weight(now) {
				slowest = other
			}
		}
		s.buffered -= slowest.bytes
		slowest.bytes, slowest.closed = 0, true
		slowest.rc.SetWriteDeadline(now) // ends its blocked Write
	}
	return q.closed
}

// isClosed reports whether the buffer was closed to make room.
func (q *sendBuffer) isClosed() bool {
	q.registry.mu.Lock()
	defer q.registry.mu.Unlock()
	return q.closed
}

// acquireSlot counts one more stream of a token, and reports whether there is room for
// it.
func (s *streamRegistry) acquireSlot(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token != configID && s.countLocked()-s.perToken[configID] >= maxStreams || s.perToken[token] >= maxStreamsPerToken {
		return false
	}
	s.perToken[token]++
	return true
}

// releaseSlot removes a stream that acquireSlot has counted.
func (s *streamRegistry) releaseSlot(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perToken[token]--; s.perToken[token] == 0 {
		delete(s.perToken, token)
	}
}

// count returns the number of open streams.
func (s *streamRegistry) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countLocked()
}

// countLocked is count for a caller that holds mu.
func (s *streamRegistry) countLocked() (n int) {
	for _, of := range s.perToken {
		n += of
	}
	return n
}

const streamType = "text/event-stream"

// describeEventStream completes the description of an operation that answers with a
// list of events, or with a stream of them.
func describeEventStream(api huma.API, op huma.Operation) huma.Operation {
	events := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[list[Event]](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page of the event log; with Accept: text/event-stream, the event log as it grows",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: events},
			streamType: {Schema: &huma.Schema{Type: huma.TypeString, Description: "Server-sent events: " +
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

func (s *Server) listEvents(ctx context.Context, in *struct {
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
	q := notify.Query{Extension: in.Extension, Type: in.Type, Call: in.Call, Extensions: accessOf(ctx).extensions, Limit: in.Limit}
	var ok bool
	if q.Since, ok = parseTime(in.Since); !ok {
		q.After = in.Since
	}
	if acceptsMediaType(in.Accept, streamType) {
		return s.respondEventStream(ctx, q, in.LastEventID)
	}
	return s.respondEventPage(ctx, q)
}

// acceptsMediaType reports whether an Accept names a media type, and does not name
// JSON.
func acceptsMediaType(accept, want string) bool {
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

// respondEventPage answers with a page of the event log.
func (s *Server) respondEventPage(ctx context.Context, q notify.Query) (*rawResponse, error) {
	events, more, err := s.config.Notifier.Events(ctx, q)
	if err != nil {
		return nil, s.apiError(err)
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
		s.writeEventPage(b, events, next)
		releaseTurn(ctx)
		c.BodyWriter().Write(b.Bytes()) // an error means that the client has left
	}}, nil
}

// pageBuffers are buffers to write pages of events to: about 100 KB each, and little
// more than maxPageBytes at most.
var pageBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPageBytes is the size at which a page of events ends early.
const maxPageBytes = 1 << 20

// writeEventPage writes a list[Event] as JSON, and ends it early at maxPageBytes.
func (s *Server) writeEventPage(b *bytes.Buffer, events []*dialog.Event, next string) {
	b.WriteString(`{"items":[`)
	for i, e := range events {
		if b.Len() > maxPageBytes {
			next = events[i-1].ID
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(s.lines.encode(e))
		yieldAfter(i + 1)
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

// lineCache caches events as JSON by their ids. Each is encoded once for all readers,
// and again when one of its extensions has got a number since.
type lineCache struct {
	byID   *lru.Cache[string, cachedLine]
	number func(user string) uint64 // returns 0 if none is allotted
}

type cachedLine struct {
	text []byte
	ids  extensionIDs
}

// newLineCache returns an empty cache.
func newLineCache(n *notify.Notifier) lineCache {
	return lineCache{newLRU[string, cachedLine](maxCachedLines), n.KnownNumber}
}

// encode returns an event as JSON on one line, without the line's end.
func (l lineCache) encode(e *dialog.Event) []byte {
	var ids extensionIDs
	if e.CallerExtension != nil {
		ids.caller = l.number(e.CallerExtension.User)
	}
	if e.CalledExtension != nil {
		ids.called = l.number(e.CalledExtension.User)
	}
	if kept, ok := l.byID.Get(e.ID); ok && kept.ids == ids {
		return kept.text
	}
	var b bytes.Buffer
	writeLine(&b, eventOf(*e, ids))
	text := bytes.TrimRight(b.Bytes(), "\n")
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
func (s *Server) respondEventStream(ctx context.Context, q notify.Query, last string) (*rawResponse, error) {
	if last != "" {
		q.After = last
	}
	token := accessOf(ctx).id
	if !s.streams.acquireSlot(token) {
		return nil, huma.ErrorWithHeaders(
			huma.Error503ServiceUnavailable(fmt.Sprintf("too many event streams: at most %d, and %d with one token", maxStreams, maxStreamsPerToken)),
			http.Header{"Retry-After": {streamRetryAfter}})
	}
	tail, err := s.config.Notifier.Tail(ctx, q)
	if err != nil {
		s.streams.releaseSlot(token)
		if last != "" && errors.Is(err, notify.ErrNoEvent) {
			return nil, unprocessable("header.Last-Event-ID", "is not the id of an event in the event log")
		}
		return nil, s.apiError(err)
	}
	return &rawResponse{func(c huma.Context) {
		defer s.streams.releaseSlot(token)
		defer tail.Close()
		r, w := humago.Unwrap(c)
		if err := s.writeStream(w, r, tail); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errSlowestClient) {
			s.log.Warn("stream of slow client closed", "peer", r.RemoteAddr, "err", err)
		}
	}}, nil
}

// writeStream writes the events of a tail until the client disconnects, its token
// becomes invalid or the server shuts down. It returns an error if the client does not
// read.
func (s *Server) writeStream(w http.ResponseWriter, r *http.Request, tail *notify.Tail) error {
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(s.streams.closing, stop)()
	client := accessOf(ctx)

	q := s.streams.newBuffer(w)
	defer q.remove()
	// The server's deadline is for requests that end.
	if err := q.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", streamType)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
	if err := q.send(nil); err != nil {
		return err
	}
	releaseTurn(ctx)
	for wrote := (time.Time{}); ; {
		sleepContext(ctx, time.Until(wrote.Add(rand.N(s.gate.pace(batchDelay)))))
		waiting, cancel := context.WithTimeout(ctx, s.streams.keepAlive)
		events, _ := tail.Next(waiting)
		cancel()
		if ctx.Err() != nil || !s.tokens.stillValid(client, time.Now()) {
			return nil
		}
		wrote = time.Now()
		if err := s.sendEvents(q, events); err != nil {
			return err
		}
	}
}

// sendEvents sends events in the format of a stream, maxBatchBytes at a time. Without
// events it sends a comment.
func (s *Server) sendEvents(q *sendBuffer, events []*dialog.Event) error {
	if len(events) == 0 {
		return q.send([]byte(":\n\n"))
	}
	var lines [][]byte
	var size int
	for len(events) > 0 {
		lines, size = lines[:0], 0
		for _, e := range events {
			line := s.lines.encode(e)
			if size > 0 && size+len(line) > maxBatchBytes {
				break
			}
			lines, size = append(lines, line), size+len(line)+len(e.ID)+len(e.Type)+len("id: \nevent: \ndata: \n\n")
			yieldAfter(len(lines))
		}
		text := bytes.NewBuffer(make([]byte, 0, size)) // exactly the bytes that setSize counts
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
