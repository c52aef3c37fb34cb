package limit

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// MaxStreams limits how many streams of all tokens together are open at a time. The
// streams of the exempt token (see NewStreams) do not count. MaxStreamsPerToken limits
// the streams of each token, including the exempt one.
const (
	MaxStreams         = 200
	MaxStreamsPerToken = 100
)

// maxBufferedBytes limits the bytes that are encoded for all streams together and not
// sent yet. If there are more, the stream of the slowest client is closed.
const maxBufferedBytes = 64 << 20

// ErrSlowestClient is the error of a stream that was closed to bound the buffered bytes,
// because its client was the slowest.
var ErrSlowestClient = errors.New("the client is the slowest, and all send buffers are full")

// Streams counts the open streams and bounds their memory. Its exported fields have
// defaults, and may be set only before the first stream is opened.
type Streams struct {
	KeepAlive    time.Duration    // interval of comments while there is no event; default 15 s
	WriteTimeout time.Duration    // after which a client that does not read is disconnected; default 10 s
	MaxBuffered  int              // maximum bytes buffered for all streams; default maxBufferedBytes
	Now          func() time.Time // clock for the age of buffered bytes; default [time.Now]

	exempt   string          // id of the token whose streams do not count for MaxStreams
	strained func() bool     // reports whether SIP waits for processors; nil: never
	closing  context.Context // when it ends, all streams end
	closeAll context.CancelFunc

	mu       sync.Mutex
	perToken map[string]int // open streams by token id
	streams  map[*Stream]bool
	buffered int // bytes
}

// NewStreams returns Streams without an open stream. exempt is the id of the token whose
// streams do not count for MaxStreams. strained reports whether SIP waits for
// processors; nil: it never does.
func NewStreams(exempt string, strained func() bool) *Streams {
	s := &Streams{
		exempt: exempt, strained: strained,
		KeepAlive: 15 * time.Second, WriteTimeout: 10 * time.Second, MaxBuffered: maxBufferedBytes, Now: time.Now,
		perToken: make(map[string]int), streams: make(map[*Stream]bool),
	}
	s.closing, s.closeAll = context.WithCancel(context.Background())
	return s
}

// Stream is a response with server-sent events. Its handler writes the events with
// Send, which blocks. [Streams] counts the bytes that are not written yet.
type Stream struct {
	all  *Streams
	rc   *http.ResponseController
	w    io.Writer
	ctx  context.Context // see Context
	stop func()

	// all.mu guards the fields below.
	bytes  int       // buffered
	since  time.Time // time at which the bytes were buffered
	closed bool      // closed to bound the buffered bytes, see setSize
}

// weight returns the buffered bytes of a stream times the seconds since they were
// buffered. The stream with the greatest weight has the slowest client. The age counts
// because a fast client, too, has many bytes buffered after many events at once.
func (q *Stream) weight(now time.Time) float64 {
	return float64(q.bytes) * max(now.Sub(q.since), time.Millisecond).Seconds()
}

// CloseAll ends all streams, also those that are opened later.
func (s *Streams) CloseAll() { s.closeAll() }

// Open starts a stream as the response to a request, and ends the request's turn at the
// [Gate]. The caller closes the stream.
func (s *Streams) Open(w http.ResponseWriter, r *http.Request) (*Stream, error) {
	q := &Stream{all: s, rc: http.NewResponseController(w), w: w}
	if err := q.rc.SetReadDeadline(time.Time{}); err != nil { // the server's deadline would end the stream
		return nil, err
	}
	w.Header().Set("Content-Type", EventStream)
	w.Header().Set("X-Accel-Buffering", "no") // else nginx would buffer the events
	ReleaseTurn(r.Context())
	ctx, stop := context.WithCancel(r.Context())
	stopAtClosing := context.AfterFunc(s.closing, stop)
	q.ctx, q.stop = ctx, func() { stopAtClosing(); stop() }
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[q] = true
	return q, nil
}

// Context ends when the client disconnects, or the stream is closed, by its handler or
// by [Streams.CloseAll].
func (q *Stream) Context() context.Context { return q.ctx }

// Close ends the stream.
func (q *Stream) Close() {
	q.stop()
	q.setSize(0)
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	delete(q.all.streams, q)
}

// Send writes b to the client and returns when the kernel has accepted all of it. It
// returns [os.ErrDeadlineExceeded] if the client does not read, and ErrSlowestClient if
// the stream was closed to bound the buffered bytes.
func (q *Stream) Send(b []byte) error {
	defer q.setSize(0)
	if q.setSize(len(b)) {
		return ErrSlowestClient
	}
	if err := q.rc.SetWriteDeadline(time.Now().Add(q.all.WriteTimeout)); err != nil {
		return err
	}
	if q.isClosed() { // setSize set an earlier deadline, which the line above may have replaced
		return ErrSlowestClient
	}
	_, err := q.w.Write(b)
	if err == nil {
		err = q.rc.Flush()
	}
	if err != nil && q.isClosed() {
		return ErrSlowestClient
	}
	return err
}

// setSize sets the number of buffered bytes of q. While all streams together have more
// than MaxBuffered, it closes the one with the greatest weight. It reports whether q is
// closed.
func (q *Stream) setSize(bytes int) (closed bool) {
	s := q.all
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.closed {
		return true
	}
	now := s.Now()
	s.buffered += bytes - q.bytes
	q.bytes, q.since = bytes, now
	for s.buffered > s.MaxBuffered {
		slowest := q
		for other := range s.streams {
			if other.weight(now) > slowest.weight(now) {
				slowest = other
			}
		}
		s.buffered -= slowest.bytes
		slowest.bytes, slowest.closed = 0, true
		slowest.rc.SetWriteDeadline(time.Now()) // ends its blocked Write
	}
	return q.closed
}

// isClosed reports whether setSize has closed the stream.
func (q *Stream) isClosed() bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return q.closed
}

// strainFactor is the factor by which Pace lengthens the pauses between the writes of a
// stream while SIP is short of processor time.
const strainFactor = 8

// Pace returns how long a stream waits: strainFactor times d while SIP waits for
// processors, else d.
func (s *Streams) Pace(d time.Duration) time.Duration {
	if s.strained != nil && s.strained() {
		return strainFactor * d
	}
	return d
}

// Sizes returns the number of bytes that are buffered for each open stream.
func (s *Streams) Sizes() (sizes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.streams {
		sizes = append(sizes, q.bytes)
	}
	return sizes
}

// Acquire counts one more stream of a token and returns true. If the limits allow no
// more, it returns false.
func (s *Streams) Acquire(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token != s.exempt && s.countLocked()-s.perToken[s.exempt] >= MaxStreams || s.perToken[token] >= MaxStreamsPerToken {
		return false
	}
	s.perToken[token]++
	return true
}

// Release removes a stream that Acquire has counted.
func (s *Streams) Release(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perToken[token]--; s.perToken[token] == 0 {
		delete(s.perToken, token)
	}
}

// Count returns the number of open streams.
func (s *Streams) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countLocked()
}

// countLocked is Count for a caller that holds mu.
func (s *Streams) countLocked() (n int) {
	for _, of := range s.perToken {
		n += of
	}
	return n
}

// EventStream is the media type of server-sent events.
const EventStream = "text/event-stream"

// AcceptsStream reports whether an Accept header field names server-sent events and does
// not name JSON.
func AcceptsStream(accept string) bool {
	found := false
	for entry := range strings.SplitSeq(accept, ",") {
		name, _, _ := strings.Cut(entry, ";")
		switch name = strings.TrimSpace(name); {
		case strings.EqualFold(name, EventStream):
			found = true
		case strings.EqualFold(name, "application/json"):
			return false
		}
	}
	return found
}
