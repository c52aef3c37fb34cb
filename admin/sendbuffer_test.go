package admin

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// stuckWriter is the response to a client that does not read: a Write blocks until its
// deadline.
type stuckWriter struct {
	http.ResponseWriter
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{}
}

func newStuckWriter() *stuckWriter { return &stuckWriter{expired: make(chan struct{})} }

func (w *stuckWriter) SetWriteDeadline(at time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(time.Until(at), sync.OnceFunc(func() { close(w.expired) }))
	return nil
}

func (w *stuckWriter) Write([]byte) (int, error) {
	<-w.expired
	return 0, os.ErrDeadlineExceeded
}

func (w *stuckWriter) Flush() {}

// If all send buffers together are too large, the one of the slowest client is closed,
// and no other.
func TestSlowestStreamIsClosedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamRegistry()
		defer s.closeAll()
		s.maxBuffered = 100
		begin := time.Now()
		var streams sync.WaitGroup
		send := func(bytes int, want error, after time.Duration) {
			q := s.newBuffer(newStuckWriter())
			streams.Go(func() {
				defer q.remove()
				if err := q.send(make([]byte, bytes)); err != want || time.Since(begin) != after {
					t.Errorf("a queue of %d bytes: %v after %v, want %v after %v", bytes, err, time.Since(begin), want, after)
				}
				if err := q.send(nil); want == errSlowestClient && err != want {
					t.Errorf("a closed queue takes more: %v", err)
				}
			})
			synctest.Wait()
		}
		send(30, os.ErrDeadlineExceeded, s.writeTimeout)
		send(60, errSlowestClient, time.Second) // the largest when the next ones come
		send(10, os.ErrDeadlineExceeded, s.writeTimeout)
		time.Sleep(time.Second)
		send(50, os.ErrDeadlineExceeded, s.writeTimeout+time.Second)
		send(10, os.ErrDeadlineExceeded, s.writeTimeout+time.Second)
		streams.Wait()
		if s.buffered != 0 || len(s.buffers) != 0 {
			t.Errorf("%d bytes of %d queues are left", s.buffered, len(s.buffers))
		}
	})
}

// pipeListener accepts connections without a kernel buffer.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// ageBuffers dates buffered bytes back by an hour, so that no reading client is slower
// than the stuck ones. It reports whether no buffer is empty.
func (s *streamRegistry) ageBuffers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := 0
	for q := range s.buffers {
		if q.bytes == 0 {
			empty++
		}
		q.since = time.Now().Add(-time.Hour)
	}
	return empty == 0
}

// Streams that are not read take little memory, and do not disturb others.
func TestUnreadStreamsTakeLittleMemory(t *testing.T) {
	r := newRig(t, Config{})
	r.startNotifier()
	r.server.streams.writeTimeout = time.Hour
	r.server.streams.maxBuffered = 1 << 20
	listener := make(pipeListener)
	h := r.server.HTTPServer()
	served := make(chan error)
	go func() { served <- h.Serve(listener) }()
	const streams, all, size = 64, 150, 40_000
	for range streams {
		client, server := net.Pipe()
		listener <- server
		defer client.Close()
		fmt.Fprintf(client, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n", r.token)
		if _, err := http.ReadResponse(bufio.NewReaderSize(client, 16), nil); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	say := func(i int) {
		e := event(3*i+2, "101")
		e.Call, e.MessageText = "c", strings.Repeat("x", size)
		r.notifier.Publish([]dialog.Event{e})
	}
	say(0)
	r.waitUntil("every stream that nobody reads waits, or is closed", r.server.streams.ageBuffers)
	reader := r.follow("")
	var got sync.WaitGroup
	got.Go(func() {
		for i := 1; i < all; i++ {
			if b, err := reader.read(); err != nil || b.id != idOf(3*i+2) {
				t.Errorf("event %d: got %s: %v", i, b.id, err)
				return
			}
		}
	})
	for i := 1; i < all; i++ {
		say(i)
	}
	got.Wait()
	if after := heap(); after > before+64<<20 { // the last events, 16 MB, are in memory once for all streams
		t.Errorf("the heap grew from %d MB to %d MB", before>>20, after>>20)
	}
	s := r.server.streams
	s.mu.Lock()
	if s.buffered > s.maxBuffered {
		t.Errorf("%d bytes are queued", s.buffered)
	}
	for q := range s.buffers {
		if q.bytes > maxBatchBytes {
			t.Errorf("%d bytes are in one queue", q.bytes)
		}
	}
	if open := len(s.buffers); open > 1+s.maxBuffered/size || open < s.maxBuffered/maxBatchBytes {
		t.Errorf("%d streams are open", open)
	}
	s.mu.Unlock()
	h.Close()
	<-served
}

// A page of events is limited in bytes too, and the next page continues it.
func TestEventPageIsBoundedInBytes(t *testing.T) {
	r := newRig(t, Config{})
	const all = 40
	var events []dialog.Event
	for i := range all {
		e := event(i, "101")
		e.Call, e.MessageText = "c", strings.Repeat("x", 60_000)
		events = append(events, e)
	}
	r.publishEvents(events...)
	got, pages, next := 0, 0, ""
	for more := true; more; more = next != "" {
		resp, text := r.raw("GET", "/v1/events?limit=1000&since="+next, nil)
		if resp.StatusCode != 200 || len(text) > maxPageBytes+100_000 {
			t.Fatalf("%d, %d bytes", resp.StatusCode, len(text))
		}
		out := r.want(200, "GET", "/v1/events?limit=1000&since="+next, nil)
		for _, item := range out["items"].([]any) {
			if id := item.(object)["event_id"]; id != idOf(got) {
				t.Fatalf("event %d is %v", got, id)
			}
			got++
		}
		next, pages = out["next"].(string), pages+1
	}
	if got != all || pages < 3 {
		t.Errorf("%d events on %d pages", got, pages)
	}
}
