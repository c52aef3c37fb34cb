package sip

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A handshake that waits for a processor and not for its peer gives way to nobody, however
// long that takes.
func TestHandshakeThatWaitsForAProcessorGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes()
		deadline := time.Now().Add(handshakeTimeout)
		newConn := func() *handshakeConn {
			client, server := net.Pipe()
			t.Cleanup(func() { client.Close() })
			return &handshakeConn{Conn: server, all: h, source: netip.MustParsePrefix("192.0.2.101/32")}
		}
		var all []*handshakeConn
		for range maxHandshakes {
			c := newConn()
			h.start(c, deadline)
			all = append(all, c)
		}
		time.Sleep(2 * time.Second)
		if _, replaced := h.replaceSlow(newConn(), time.Now()); replaced {
			t.Error("a handshake was ended that has not waited for its peer")
		}
		all[9].setWaiting(true)
		time.Sleep(fairHandshakeTime - 1)
		wait, replaced := h.replaceSlow(newConn(), time.Now())
		if replaced || wait != 1 {
			t.Errorf("replaced %v, then wait %v, want 1ns", replaced, wait)
		}
		time.Sleep(wait)
		all[9].setWaiting(false)
		if _, replaced := h.replaceSlow(newConn(), time.Now()); replaced {
			t.Error("a handshake was ended while it computed")
		}
		all[9].setWaiting(true)
		if _, replaced := h.replaceSlow(newConn(), time.Now()); !replaced || !all[9].ended.Load() {
			t.Error("the handshake that waits for its peer goes on")
		}
		for _, c := range all {
			h.end(c)
		}
		if len(h.slots) != 1 || len(h.running) != 1 || len(h.perSource) != 1 {
			t.Errorf("%d slots, %d handshakes, want the one that took a place", len(h.slots), len(h.running))
		}
	})
}
