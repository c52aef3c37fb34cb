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

// A stuckWriter is a response to a client that does not read: a Write blocks until
// its deadline.
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

// When all queues together are too long, that of the slowest client is closed, and
// no other.
func TestSlowestStreamIsClosedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreams()
		defer s.end()
		s.room = 100
		begin := time.Now()
		var streams sync.WaitGroup
		send := func(bytes int, want error, after time.Duration) {
			q := s.newQueue(newStuckWriter())
			streams.Go(func() {
				defer q.remove()
				if err := q.send(make([]byte, bytes)); err != want || time.Since(begin) != after {
					t.Errorf("a queue of %d bytes: %v after %v, want %v after %v", bytes, err, time.Since(begin), want, after)
				}
				if err := q.send(nil); want == errSlowest && err != want {
					t.Errorf("a closed queue takes more: %v", err)
				}
			})
			synctest.Wait()
		}
		send(30, os.ErrDeadlineExceeded, s.patience)
		send(60, errSlowest, time.Second) // the longest, when the next come
		send(10, os.ErrDeadlineExceeded, s.patience)
		time.Sleep(time.Second)
		send(50, os.ErrDeadlineExceeded, s.patience+time.Second)
		send(10, os.ErrDeadlineExceeded, s.patience+time.Second)
		streams.Wait()
		if s.queued != 0 || len(s.queues) != 0 {
			t.Errorf("%d bytes of %d queues are left", s.queued, len(s.queues))
		}
	})
}

// A pipeListener accepts connections that have no buffer.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// aged has what is queued wait since an hour ago, so that no reader is taken for
// slower, and reports whether no queue is empty.
func (s *streams) aged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := 0
	for q := range s.queues {
		if q.bytes == 0 {
			empty++
		}
		q.since = time.Now().Add(-time.Hour)
	}
	return empty == 0
}

// Streams that nobody reads take little memory, and take nothing from who reads.
func TestStreamsThatNobodyReads(t *testing.T) {
	r := newRig(t, Config{})
	r.running()
	r.server.streams.patience = time.Hour
	r.server.streams.room = 1 << 20
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
	r.wait("every stream that nobody reads waits, or is closed", r.server.streams.aged)
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
	if after := heap(); after > before+64<<20 { // the last events, 16 MB, are in memory for all
		t.Errorf("the heap grew from %d MB to %d MB", before>>20, after>>20)
	}
	s := r.server.streams
	s.mu.Lock()
	if s.queued > s.room {
		t.Errorf("%d bytes are queued", s.queued)
	}
	for q := range s.queues {
		if q.bytes > maxQueue {
			t.Errorf("%d bytes are in one queue", q.bytes)
		}
	}
	if open := len(s.queues); open > 1+s.room/size || open < s.room/maxQueue {
		t.Errorf("%d streams are open", open)
	}
	s.mu.Unlock()
	h.Close()
	<-served
}

// A page of events has a bound in bytes, too, and goes on where it ended.
func TestPageOfLargeEvents(t *testing.T) {
	r := newRig(t, Config{})
	const all = 40
	var events []dialog.Event
	for i := range all {
		e := event(i, "101")
		e.Call, e.MessageText = "c", strings.Repeat("x", 60_000)
		events = append(events, e)
	}
	r.say(events...)
	got, pages, next := 0, 0, ""
	for more := true; more; more = next != "" {
		resp, text := r.raw("GET", "/v1/events?limit=1000&since="+next, nil)
		if resp.StatusCode != 200 || len(text) > maxPage+100_000 {
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
