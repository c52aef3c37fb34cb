package sip

import (
	"sync"
	"testing"
)

// A message that is queued while the stream closes does not stay in the queue, so that its
// transaction learns that the message was not sent.
func TestNoMessageStaysInAClosedStream(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	for range 50000 {
		s := w.proxy.streams.addStream(nil, barePhone, w.proxy.listeners.all[1], nil)
		var closing sync.WaitGroup
		closing.Go(func() { // as when a connection fails
			s.close()
			s.failQueued()
		})
		s.queueMessage([]byte("x"), 0)
		closing.Wait()
		if len(s.outQueue) > 0 {
			t.Fatal("a message stays")
		}
	}
}
