package limit

import (
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuckWriter is the response to a client that does not read: a Write blocks until its
// deadline.
type stuckWriter struct {
	http.ResponseWriter
	mu      sync.Mutex
	header  http.Header
	timer   *time.Timer
	expired chan struct{}
}

func newStuckWriter() *stuckWriter {
	return &stuckWriter{header: make(http.Header), expired: make(chan struct{})}
}

func (w *stuckWriter) Header() http.Header             { return w.header }
func (w *stuckWriter) SetReadDeadline(time.Time) error { return nil }

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

// If too much is buffered for all streams together, the one of the slowest client is
// closed, and no other.
func TestSlowestStreamIsClosedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStreams("config", nil)
		defer s.CloseAll()
		s.MaxBuffered = 100
		begin := time.Now()
		var streams sync.WaitGroup
		send := func(bytes int, want error, after time.Duration) {
			q, err := s.Open(newStuckWriter(), httptest.NewRequest("GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			streams.Go(func() {
				defer q.Close()
				if err := q.Send(make([]byte, bytes)); err != want || time.Since(begin) != after {
					t.Errorf("a stream of %d bytes: %v after %v, want %v after %v", bytes, err, time.Since(begin), want, after)
				}
				if err := q.Send(nil); want == ErrSlowestClient && err != want {
					t.Errorf("a closed stream takes more: %v", err)
				}
			})
			synctest.Wait()
		}
		send(30, os.ErrDeadlineExceeded, s.WriteTimeout)
		send(60, ErrSlowestClient, time.Second) // the largest when the next ones come
		send(10, os.ErrDeadlineExceeded, s.WriteTimeout)
		time.Sleep(time.Second)
		send(50, os.ErrDeadlineExceeded, s.WriteTimeout+time.Second)
		send(10, os.ErrDeadlineExceeded, s.WriteTimeout+time.Second)
		streams.Wait()
		if s.buffered != 0 || len(s.streams) != 0 {
			t.Errorf("%d bytes of %d streams are left", s.buffered, len(s.streams))
		}
	})
}
