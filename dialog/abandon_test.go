package dialog

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestSurvivesPanicsInAnyCall plays conversations with a tracker that panics in the middle
// of its work, each time it asks for the E.164 form of an nth number. Whichever call is
// current then, each dial has one hangup, the events of a call are numbered without gaps,
// calls of other numbers emit all their events, and no state is left in the end.
func TestSurvivesPanicsInAnyCall(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := testConfig()
		c.Extensions = []Declared{{Number: "600", Kind: Queue}}
		asked, at := 0, rapid.IntRange(1, 12).Draw(rt, "panics at every")
		c.E164 = func(number string) string {
			if asked++; asked%at == 0 {
				panic("a bug")
			}
			return "+" + number
		}
		tracker := New(c)
		w := eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}}
		panics := 0
		guarded := func(do func() []Event) {
			var emitted []Event
			func() {
				defer func() {
					if recover() != nil {
						panics++
						emitted = tracker.AbandonCall()
					}
				}()
				emitted = do()
			}()
			w.checkEvents(emitted)
		}
		kept := map[string][]byte{}
		for _, m := range disorderMessages(rt, drawConversations(rt)) {
			guarded(func() []Event { return tracker.Advance(m.At) })
			guarded(func() []Event { return tracker.Observe(m) })
			for _, change := range tracker.Changed(m.At) {
				if kept[change.Call] = change.Record; change.Record == nil {
					delete(kept, change.Call)
				}
			}
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			guarded(func() []Event { return tracker.Advance(next) })
			for _, change := range tracker.Changed(next) {
				if kept[change.Call] = change.Record; change.Record == nil {
					delete(kept, change.Call)
				}
			}
		}
		for id, p := range w.parties {
			if !p.over {
				rt.Errorf("party %s had a dial and no hangup", id)
			}
		}
		if n := stateLeft(tracker) + len(kept); n != 0 {
			rt.Errorf("%d entries are left after %d panics", n, panics)
		}
	})
}

// TestAbandonEndsOnlyTheCurrentCall checks that a panic in one message ends only the
// current call. Its earlier events are returned, its parties have their hangups, and
// another call goes on.
func TestAbandonEndsOnlyTheCurrentCall(t *testing.T) {
	c := testConfig()
	c.E164 = func(number string) string {
		if strings.HasPrefix(number, "666") {
			panic("a bug")
		}
		return ""
	}
	tracker := New(c)
	tracker.Changed(start)
	bad, good := legFromPhone("101", "6667777", "bad"), legFromPhone("102", "104", "good")
	good.branch = "z9hG4bK-good"
	for _, m := range []Message{good.invite(), good.response(200), legFromPhone("101", "103", "bad").invite(), legFromPhone("101", "103", "bad").response(180)} {
		tracker.Observe(m)
	}
	tracker.Changed(start)
	bad.branch, bad.cseq = "z9hG4bK-6667", 2
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("it did not panic")
			}
		}()
		tracker.Observe(bad.invite())
	}()
	emitted := tracker.AbandonCall()
	if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Extension.User != "101" || emitted[0].Status != Unknown || emitted[0].HangupBy != BySystem {
		t.Errorf("got %+v, want the hangup of 101", emitted)
	}
	if tracker.index.callByCallID["bad"] != nil || len(tracker.deadlines) != 1 {
		t.Errorf("%d calls are left, want one", len(tracker.deadlines))
	}
	changes := tracker.Changed(start)
	if len(changes) != 1 || changes[0].Record != nil {
		t.Errorf("got %d changes, want that the call is over", len(changes))
	}
	if emitted := tracker.AbandonCall(); len(emitted) != 0 {
		t.Errorf("abandoned again: %v", emitted)
	}
	if emitted := tracker.Observe(good.bye(true)); len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Status != Answered {
		t.Errorf("the other call emitted %+v", emitted)
	}
	if emitted := tracker.Observe(legFromPhone("101", "103", "bad").bye(true)); len(emitted) != 0 {
		t.Errorf("a straggler emitted %v", emitted)
	}
}
