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

// MaxStreams is the number of event streams at a time, beside those with the exempt
// token, which are not limited by others. MaxStreamsPerToken is the number with one
// token.
const (
	MaxStreams         = 200
	MaxStreamsPerToken = 100
)

// maxBufferedBytes limits the bytes that are encoded for all streams together and not
// sent yet: beyond it, the stream of the slowest client is closed.
const maxBufferedBytes = 64 << 20

// ErrSlowestClient ends the stream of the slowest client.
var ErrSlowestClient = errors.New("the client is the slowest, and all send buffers are full")

// Streams counts the open streams and bounds their memory. Its exported fields have
// defaults, and change before the first stream is opened only.
type Streams struct {
	KeepAlive    time.Duration    // interval of comments while there is no event; 15 s
	WriteTimeout time.Duration    // a client that does not read for so long is disconnected; 10 s
	MaxBuffered  int              // bytes buffered for all streams, see maxBufferedBytes
	Now          func() time.Time // the clock that ages buffered bytes

	exempt   string          // the token whose streams those of others do not limit
	strained func() bool     // reports whether SIP waits for processors; nil: never
	closing  context.Context // ends all streams
	closeAll context.CancelFunc

	mu       sync.Mutex
	perToken map[string]int // open streams by token id
	streams  map[*Stream]bool
	buffered int // bytes
}

// NewStreams returns Streams of which none is open. exempt is the id of a token whose
// streams those of others do not limit. strained reports whether SIP waits for
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

// Stream is a response with server-sent events. Its handler writes them, blocking;
// [Streams] counts the bytes that are still to be written.
type Stream struct {
	all  *Streams
	rc   *http.ResponseController
	w    io.Writer
	ctx  context.Context // see context
	stop func()

	// all.mu guards the fields below.
	bytes  int
	since  time.Time // time at which the bytes were buffered
	closed bool      // closed to make room
}

// weight is the share of the common room that a stream takes from others: its bytes
// times the seconds they have waited. A client that reads is thus not taken for the
// slowest because much came at once.
func (q *Stream) weight(now time.Time) float64 {
	return float64(q.bytes) * max(now.Sub(q.since), time.Millisecond).Seconds()
}

// CloseAll ends all streams, for good.
func (s *Streams) CloseAll() { s.closeAll() }

// Open makes the response to a request a stream, which the caller closes. The turn of
// the request at the [Gate] ends.
func (s *Streams) Open(w http.ResponseWriter, r *http.Request) (*Stream, error) {
	q := &Stream{all: s, rc: http.NewResponseController(w), w: w}
	if err := q.rc.SetReadDeadline(time.Time{}); err != nil { // the server's deadline is for requests that end
		return nil, err
	}
	w.Header().Set("Content-Type", EventStream)
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
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
// the stream was closed to make room.
func (q *Stream) Send(b []byte) error {
	defer q.setSize(0)
	if q.setSize(len(b)) {
		return ErrSlowestClient
	}
	if err := q.rc.SetWriteDeadline(time.Now().Add(q.all.WriteTimeout)); err != nil {
		return err
	}
	if q.isClosed() { // closed meanwhile: our deadline has overwritten that of the closing
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

// setSize sets the number of buffered bytes. While all streams together exceed the
// limit, it closes the one with the greatest weight. It reports whether q is closed.
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

// isClosed reports whether the stream was closed to make room.
func (q *Stream) isClosed() bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return q.closed
}

// strainFactor multiplies the waits of streams under strain.
const strainFactor = 8

// Pace returns how long a stream waits under the current strain if it waits for d
// without.
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

// Acquire counts one more stream of a token, and reports whether there is room for
// it.
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

// countLocked is count for a caller that holds mu.
func (s *Streams) countLocked() (n int) {
	for _, of := range s.perToken {
		n += of
	}
	return n
}

// EventStream is the media type of server-sent events.
const EventStream = "text/event-stream"

// AcceptsStream reports whether an Accept names server-sent events, and does not name
// JSON.
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
