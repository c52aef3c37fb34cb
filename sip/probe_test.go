package sip

import "testing"

// A target that is down is up after two answers, each time: also if a call has found that it
// cannot be reached, and it had answered before.
func TestTargetIsUpAfterTwoAnswers(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	to := w.proxy.peers.configured()[0].view.Load().targets[0]
	answer := func() { to.countProbe(&message{status: 200}, 0) }
	miss := func() { to.countProbe(nil, silent) }
	for round := range 3 {
		to.down.Store(true) // a request could not be sent
		for _, step := range []struct {
			name  string
			probe func()
			up    bool
		}{{"one answer", answer, false}, {"a miss", miss, false}, {"one answer", answer, false}, {"two answers", answer, true}, {"three", answer, true}, {"a miss", miss, true}, {"two misses", miss, false}} {
			if step.probe(); to.up() != step.up {
				t.Errorf("round %d: after %s, up is %t", round, step.name, to.up())
			}
		}
		answer()
		answer()
	}
}
