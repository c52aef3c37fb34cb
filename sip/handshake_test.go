package sip

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Sources of the connections in these tests.
var (
	handshakeFrom  = netip.MustParseAddr("192.0.2.101")
	handshakeFrom2 = netip.MustParseAddr("192.0.2.102")
)

// newHandshakeConn returns a connection whose handshake has not started and whose peer
// sends nothing.
func newHandshakeConn(t *testing.T, h *handshakes, from netip.Addr) *handshakeConn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	return h.newConn(server, from, nil, time.Now().Add(handshakeTimeout))
}

// startHandshakes starts n handshakes of a source. None of them waits for its peer.
func startHandshakes(t *testing.T, h *handshakes, from netip.Addr, n int) (all []*handshakeConn) {
	for range n {
		c := newHandshakeConn(t, h, from)
		if !h.start(c) {
			t.Fatal("a handshake does not start")
		}
		all = append(all, c)
	}
	return all
}

// isAdmitted reports whether the handshake of c may start.
func (c *handshakeConn) isAdmitted() bool {
	synctest.Wait()
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	for _, r := range c.all.running {
		if r == c {
			return true
		}
	}
	return false
}

// expectNoHandshakes ends handshakes and checks that nothing is left of them.
func (h *handshakes) expectNoHandshakes(t *testing.T, all ...*handshakeConn) {
	t.Helper()
	for _, c := range all {
		h.end(c)
	}
	synctest.Wait()
	if len(h.compute) != 0 || len(h.running) != 0 || len(h.sources) != 0 || h.idle.Len() != 0 || h.busy.Len() != 0 {
		t.Errorf("left: %d that compute, %d handshakes, %d sources, %d and %d turns", len(h.compute), len(h.running), len(h.sources), h.idle.Len(), h.busy.Len())
	}
}

// A handshake that waits for a processor and not for its peer gives way to nobody, however
// long that takes.
func TestHandshakeThatWaitsForAProcessorGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes()
		all := startHandshakes(t, h, handshakeFrom, maxHandshakes)
		next := newHandshakeConn(t, h, handshakeFrom)
		go h.start(next)
		time.Sleep(2 * time.Second)
		if next.isAdmitted() {
			t.Error("a handshake was ended that has not waited for its peer")
		}
		all[9].setWaiting(true)
		time.Sleep(fairHandshakeTime - 1)
		all[9].setWaiting(false)
		time.Sleep(time.Second)
		if next.isAdmitted() {
			t.Error("a handshake was ended while it computed")
		}
		all[9].setWaiting(true)
		time.Sleep(crowdHandshakeTime)
		if !next.isAdmitted() || !all[9].ended.Load() {
			t.Error("the handshake that waits for its peer goes on")
		}
		h.expectNoHandshakes(t, append(all, next)...)
	})
}

// A handshake that has given way to another ends at once, also if all processors are busy.
// Otherwise the handshakes of a flood would keep those of others waiting after they have
// ended.
func TestEndedHandshakeWaitsForNoProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes()
		client, server := net.Pipe()
		defer client.Close()
		result := make(chan error, 1)
		go func() {
			_, err := h.accept(server, handshakeFrom, nil, &tls.Config{}, time.Now().Add(handshakeTimeout))
			result <- err
		}()
		synctest.Wait()
		for range cap(h.compute) {
			h.compute <- struct{}{}
		}
		all := startHandshakes(t, h, handshakeFrom2, maxHandshakes-1)
		time.Sleep(fairHandshakeTime)
		last := startHandshakes(t, h, handshakeFrom2, 1)
		synctest.Wait()
		select {
		case err := <-result:
			if !errors.Is(err, errHandshakeEnded) {
				t.Errorf("the handshake ended with %v", err)
			}
		default:
			t.Error("the handshake that has ended waits for a processor")
			<-h.compute
			<-result
			return
		}
		for range cap(h.compute) {
			<-h.compute
		}
		h.expectNoHandshakes(t, append(all, last...)...)
	})
}

// A handshake that finds no processor before its deadline ends then. That is no fault of
// the peer.
func TestHandshakeWithoutProcessorEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes()
		for range cap(h.compute) {
			h.compute <- struct{}{}
		}
		client, server := net.Pipe()
		defer client.Close()
		start := time.Now()
		time.AfterFunc(handshakeTimeout+1, func() {
			for range cap(h.compute) {
				<-h.compute
			}
		})
		_, err := h.accept(server, handshakeFrom, nil, &tls.Config{}, start.Add(handshakeTimeout))
		if took := time.Since(start); !errors.Is(err, errHandshakesFull) || took != handshakeTimeout {
			t.Errorf("the handshake ended after %v with %v", took, err)
		}
		time.Sleep(time.Second)
		h.expectNoHandshakes(t)
	})
}

// Sources take turns: one connection does not wait behind all those of another source.
func TestHandshakesOfSourcesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes()
		all := startHandshakes(t, h, handshakeFrom, maxHandshakes)
		var crowd []*handshakeConn
		for range 1000 {
			c := newHandshakeConn(t, h, handshakeFrom)
			crowd = append(crowd, c)
			go h.start(c)
		}
		synctest.Wait()
		other := newHandshakeConn(t, h, handshakeFrom2)
		second := newHandshakeConn(t, h, handshakeFrom2)
		go h.start(other)
		synctest.Wait()
		go h.start(second)
		synctest.Wait()
		h.end(all[0])
		if !other.isAdmitted() {
			t.Error("the handshake of the other source does not come first")
		}
		h.end(all[1])
		h.end(all[2])
		if !second.isAdmitted() {
			t.Error("the sources do not take turns")
		}
		time.Sleep(handshakeTimeout)
		synctest.Wait() // none of the crowd waits any more
		h.expectNoHandshakes(t, append(append(append(all[3:], crowd...), other), second)...)
	})
}
