package sip

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A message that is queued while the stream closes does not stay in the queue: either it is
// refused, or its transaction learns that it was not sent.
func TestNoMessageStaysInAClosedStream(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	for range 50000 {
		s := w.proxy.streams.addStream(nil, barePhone, w.proxy.listeners.all[1], nil)
		var closing sync.WaitGroup
		closing.Go(s.close) // as when a connection fails
		queued := s.queueMessage([]byte("x"), 1)
		closing.Wait()
		failed := 0
		select {
		case in := <-w.queue.items:
			if in.failedTx == 1 {
				failed++
			}
			w.queue.bytes.Add(-in.queuedSize())
		default:
		}
		if len(s.outQueue.waiting.b) > 0 || queued != (failed == 1) {
			t.Fatalf("queued: %v, reported: %d", queued, failed)
		}
	}
}

// failingConn is a connection that accepts some bytes, and then fails.
type failingConn struct {
	panickingConn
	room    int
	written []byte
}

func (*failingConn) SetWriteDeadline(time.Time) error { return nil }

func (c *failingConn) Write(b []byte) (int, error) {
	n := min(len(b), c.room-len(c.written))
	c.written = append(c.written, b[:n]...)
	if n < len(b) {
		return n, net.ErrClosed
	}
	return n, nil
}

func TestMessagesBehindAFailedWriteAreReported(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	c := &failingConn{room: 7}
	s := w.proxy.streams.addStream(nil, barePhone, w.proxy.listeners.all[1], nil)
	for id := range uint64(4) {
		s.queueMessage([]byte("abc"), id)
	}
	s.writeTo = c
	s.writeQueued()
	if s.queueMessage([]byte("abc"), 4) {
		t.Error("a message is queued after the stream has failed")
	}
	var failed []uint64
	for len(w.queue.items) > 0 {
		failed = append(failed, (<-w.queue.items).failedTx)
	}
	if string(c.written) != "abcabca" || !slices.Equal(failed, []uint64{2, 3}) {
		t.Errorf("%q is written, transactions %v are informed", c.written, failed)
	}
}

func TestStreamIsClosedBehindItsLastMessage(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	c := &failingConn{room: 1 << 20}
	s := w.proxy.streams.addStream(nil, barePhone, w.proxy.listeners.all[1], nil)
	long := strings.Repeat("x", 5*maxMessage)
	s.queueMessage([]byte(long), 0)
	s.queueMessage([]byte("last"), 0)
	s.closeWhenWritten()
	if s.queueMessage([]byte("too late"), 0) {
		t.Error("a message behind the last one is queued")
	}
	s.writeTo = c
	s.writeQueued()
	if string(c.written) != long+"last" {
		t.Errorf("%d bytes are written", len(c.written))
	}
}

func TestOutQueueIsBounded(t *testing.T) {
	var q outQueue
	half := make([]byte, maxOutBytes/2)
	add := func(b []byte, want addResult) {
		t.Helper()
		if got := q.add(appendBytes, b, 0); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	add(half, addedFirst)
	q.take() // it is written now
	add(half, added)
	add([]byte{0}, full)
	q.take()
	q.take()
	add(make([]byte, maxOutBytes), addedFirst)
	add([]byte{0}, full)
}

// A stream that is closed after its last message takes no request that comes meanwhile.
func TestNextRequestOpensAnotherStream(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	ss, l := w.proxy.streams, w.proxy.listeners.all[1]
	s := ss.addStream(nil, barePBX, l, nil)
	ss.addAlias(s, streamKey{proto: TCP, peer: barePhone})
	s.queueMessage([]byte("last"), 0)
	s.closeWhenWritten()
	for _, at := range []netip.AddrPort{barePBX, barePhone} {
		if ss.openTo(Addr{Proto: TCP, AddrPort: at}, l) == s {
			t.Errorf("a request to %v waits for the stream that is being closed", at)
		}
	}
	ss.close()
}

// lingeringConn is a connection that can be closed for writing.
type lingeringConn struct{ net.Conn }

func (lingeringConn) CloseWrite() error { return nil }

// A peer that goes on sending does not keep a stream open that is closed after its last
// message.
func TestPeerCannotKeepAStreamOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := newBareWorker(t, nil)
		ss := w.proxy.streams
		ours, theirs := net.Pipe()
		s := ss.addStream(ours, barePhone, w.proxy.listeners.all[1], nil)
		ss.goroutines.Go(func() { s.serve(lingeringConn{ours}, nil) })
		s.closeWhenWritten() // as a ban does
		start := time.Now()
		for range 10 {
			time.Sleep(lingerTime / 2)
			theirs.SetDeadline(time.Now().Add(time.Second))
			if _, err := theirs.Write([]byte("\r\n")); err != nil {
				break
			}
		}
		time.Sleep(time.Second)
		if !s.closed() {
			t.Errorf("the stream is open after %v", time.Since(start))
		}
		theirs.Close()
		ss.close()
	})
}
