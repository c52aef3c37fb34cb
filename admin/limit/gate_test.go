package limit

import (
	"context"
	"testing"
)

// A request whose client disconnects takes no turn.
func TestDisconnectedClientTakesNoTurn(t *testing.T) {
	g := NewGate(nil)
	leave, _ := g.Acquire(t.Context(), "a")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := g.Acquire(gone, "a"); ok {
		t.Error("who is gone is served")
	}
	leave()
	leave()
	if _, ok := g.Acquire(t.Context(), "a"); !ok || g.waitingTotal != 0 || len(g.waiting) != 0 || g.RefusedCount() != 0 {
		t.Errorf("afterwards %d wait, %v, %d refused", g.waitingTotal, g.waiting, g.RefusedCount())
	}
}
