package dialog

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// TestClockTranslatesTimes checks that a time has the wall clock's reading of that moment,
// even if readings come out of order.
func TestClockTranslatesTimes(t *testing.T) {
	const s, h = time.Second, time.Hour
	type reading struct{ at, offset time.Duration }
	for _, tt := range []struct {
		name     string
		readings []reading
		moments  map[time.Duration]time.Duration // to the offset
	}{
		{"never read", nil, map[time.Duration]time.Duration{0: 0, 5 * s: 0}},
		{"never set", []reading{{1 * s, 0}, {2 * s, 0}}, map[time.Duration]time.Duration{0: 0, 1 * s: 0, 3 * s: 0}},
		{"set before the first reading", []reading{{1 * s, h}}, map[time.Duration]time.Duration{1: h, 1 * s: h, 9 * s: h}},
		{"set forward, then back", []reading{{1 * s, 0}, {2 * s, h}, {3 * s, h}, {4 * s, -h}},
			map[time.Duration]time.Duration{0: 0, 1 * s: 0, 2 * s: h, 3 * s: h, 4 * s: -h, 5 * s: -h}},
		{"between two readings it may have been set already", []reading{{1 * s, 0}, {9 * s, h}}, map[time.Duration]time.Duration{1 * s: 0, 2 * s: h}},
		{"slewed, or read with a pause between", []reading{{1 * s, 0}, {2 * s, 99 * time.Millisecond}, {3 * s, -99 * time.Millisecond}},
			map[time.Duration]time.Duration{1 * s: 0, 2 * s: 0, 3 * s: 0}},
		{"slewed for long", []reading{{1 * s, 60 * time.Millisecond}, {2 * s, 120 * time.Millisecond}},
			map[time.Duration]time.Duration{1 * s: 0, 2 * s: 120 * time.Millisecond}},
		{"set between two readings of one moment", []reading{{1 * s, 0}, {1 * s, h}}, map[time.Duration]time.Duration{1*s - 1: 0, 1 * s: h, 2 * s: h}},
		{"one of before comes late", []reading{{1 * s, 0}, {9 * s, h}, {5 * s, 0}}, map[time.Duration]time.Duration{4 * s: 0, 5 * s: 0, 6 * s: h, 9 * s: h}},
		{"one of after comes late", []reading{{1 * s, 0}, {9 * s, h}, {5 * s, h}}, map[time.Duration]time.Duration{1 * s: 0, 4 * s: h, 9 * s: h}},
		{"one of long before comes late", []reading{{2 * s, 0}, {9 * s, h}, {1 * s, 0}}, map[time.Duration]time.Duration{1 * s: 0, 2 * s: 0, 3 * s: h}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c clock
			for _, r := range tt.readings {
				c.addReading(start.Add(r.at), r.offset)
			}
			for at, want := range tt.moments {
				if got := c.wallTime(start.Add(at)); !got.Equal(start.Add(at + want)) {
					t.Errorf("at %v the clock was ahead by %v, want %v", at, got.Sub(start.Add(at)), want)
				}
			}
		})
	}
}

// TestClockStepsAreBounded checks that any number of steps takes bounded memory, and that
// the last ones are known.
func TestClockStepsAreBounded(t *testing.T) {
	var c clock
	for i := range 10 * maxSteps {
		c.addReading(start.Add(time.Duration(i)*time.Minute), time.Duration(i%2)*time.Hour)
	}
	if len(c.steps) != maxSteps {
		t.Errorf("%d steps are in memory, want %d", len(c.steps), maxSteps)
	}
	for i := 10*maxSteps - 1; i >= 9*maxSteps-1; i-- {
		at := start.Add(time.Duration(i) * time.Minute)
		if got, want := c.wallTime(at).Sub(at), time.Duration(i%2)*time.Hour; got != want {
			t.Errorf("in minute %d it was ahead by %v, want %v", i, got, want)
		}
	}
}

// TestSetClockChangesNothingElse plays the same conversations, in the same disorder, with a
// clock that is never set and with one that is set at any time. The events are the same, in
// the same order, except for the readings of the clock.
func TestSetClockChangesNothingElse(t *testing.T) {
	steps := []time.Duration{0, 30 * time.Second, -30 * time.Second, time.Hour, -time.Hour, 5 * time.Hour, -5 * time.Hour}
	rapid.Check(t, func(rt *rapid.T) {
		c := testConfig()
		c.Extensions = []Declared{{Number: "600", Kind: Queue}, {Number: "700", Kind: IVR}}
		messages := disorderMessages(rt, drawConversations(rt))
		offset := make([]time.Duration, len(messages))
		at := map[time.Time]time.Duration{}
		for i, m := range messages {
			if i > 0 {
				offset[i] = offset[i-1]
			}
			if rapid.IntRange(0, 9).Draw(rt, "set") == 0 && (i == 0 || m.At.After(messages[i-1].At)) {
				offset[i] = rapid.SampledFrom(steps).Draw(rt, "to")
			}
			at[m.At] = offset[i]
		}
		play := func(set bool) (emitted []Event) {
			tracker := New(c)
			for i, m := range messages {
				if set {
					tracker.SetClock(m.At, offset[i])
					m.WallOffset = offset[i]
				}
				emitted = append(emitted, tracker.Advance(m.At)...)
				emitted = append(emitted, tracker.Observe(m)...)
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				emitted = append(emitted, tracker.Advance(next)...)
			}
			return emitted
		}
		plain, set := play(false), play(true)
		if diff := cmp.Diff(plain, set, cmpopts.IgnoreFields(Event{}, "At", "AnsweredAt")); diff != "" {
			rt.Fatalf("(- the clock is not set, + it is set):\n%s", diff)
		}
		answers := map[string]time.Time{}
		for i, e := range set {
			ahead, known := at[plain[i].At]
			if got := e.At.Sub(e.Observed); known && got != ahead || !known && !slices.Contains(steps, got) {
				rt.Errorf("%s at %v: the event has the clock ahead by %v, want %v", e.Type, e.Observed, got, ahead)
			}
			if e.Type == Answer {
				answers[e.Party] = e.At
			}
			if e.Type == Hangup && !e.AnsweredAt.Equal(answers[e.Party]) {
				rt.Errorf("the hangup has the answer at %v, which was at %v", e.AnsweredAt, answers[e.Party])
			}
		}
	})
}

// TestRestoreWithAnotherClock restores a call in another process, whose steady clock begins
// as its wall clock, after the clock was set: before the snapshot was written, or while no
// process ran. Its answer keeps the time in its event.
func TestRestoreWithAnotherClock(t *testing.T) {
	const s, h = time.Second, time.Hour
	for _, tt := range []struct {
		name       string
		set, later time.Duration // while the call is up, and while nothing runs
		talked     time.Duration // up for 10 s, then no process for 20 s, then up for 5 s
	}{
		{"never set", 0, 0, 35 * s},
		{"set forward in the call", 5 * h, 0, 35 * s},
		{"set back in the call", -5 * h, 0, 35 * s},
		{"set forward between", 0, 30 * s, 65 * s},
		{"set back between by less than nothing ran", 0, -19 * s, 16 * s},
		{"set back between", 0, -5 * h, 5 * s}, // its last message was the answer
		{"set forward, and then back between", 5 * h, -6 * h, 5 * s},
	} {
		for _, from := range []string{"record", "log"} {
			if from == "log" && tt.set != 0 {
				continue // the log has only readings of the wall clock
			}
			t.Run(tt.name+", from the "+from, func(t *testing.T) {
				l, old := caller(), New(testConfig())
				old.Changed(start)
				log := old.Observe(l.invite())
				log = append(log, old.Observe(l.response(180))...)
				log = append(log, old.Observe(l.response(200))...)
				old.SetClock(start.Add(10*s), tt.set)
				records := old.Changed(start.Add(time.Minute))
				if from == "log" {
					records = nil
				}
				begins := start.Add(30*s + tt.set + tt.later) // of the wall clock
				tracker := New(testConfig())
				tracker.SetClock(begins, 0)
				if err := tracker.Restore("", records, slices.Values(log)); err != nil {
					t.Fatal(err)
				}
				if calls := tracker.Calls(); len(calls) != 1 || calls[0].Since.After(begins) {
					t.Errorf("the live calls are %v", calls)
				}
				l.at = begins.Add(5 * s)
				emitted := tracker.Observe(l.bye(true))
				if len(emitted) != 1 || emitted[0].Type != Hangup {
					t.Fatalf("emitted %v", emitted)
				}
				if e := emitted[0]; e.Duration != tt.talked || !e.At.Equal(l.at) || !e.AnsweredAt.Equal(start) {
					t.Errorf("it was answered at %v and talked for %v until %v, want %v, %v, %v", e.AnsweredAt, e.Duration, e.At, start, tt.talked, l.at)
				}
			})
		}
	}
}

// TestSetClockChangesAllSnapshots checks that setting the clock writes every snapshot anew,
// as snapshots have times by the wall clock as it is set.
func TestSetClockChangesAllSnapshots(t *testing.T) {
	tracker := New(testConfig())
	tracker.Changed(start)
	for i := range 3 {
		l := caller()
		l.callID = fmt.Sprint(i)
		tracker.Observe(l.invite())
		tracker.Observe(l.response(180))
	}
	later := start.Add(time.Minute)
	if n := len(tracker.Changed(later)); n != 3 {
		t.Fatalf("%d calls changed, want 3", n)
	}
	tracker.SetClock(later, 50*time.Millisecond)
	if n := len(tracker.Changed(later)); n != 0 {
		t.Errorf("the clock was slewed, and %d calls changed", n)
	}
	tracker.SetClock(later.Add(time.Second), time.Hour)
	if n := len(tracker.Changed(later.Add(time.Second))); n != 3 {
		t.Errorf("the clock was set, and %d calls changed, want 3", n)
	}
}

// TestShownTimesAreAsSet checks that the age of a call, and the rest of a registration, is
// the difference between the shown time and the present of the wall clock.
func TestShownTimesAreAsSet(t *testing.T) {
	l, tracker := caller(), New(testConfig())
	l.fromURI = "sip:101@pbx.example"
	observeAll(tracker, registerWithResponse(start, "a", 1, phoneContact))
	tracker.Observe(l.invite())
	tracker.Observe(l.response(180))
	tracker.Observe(l.later(time.Second).response(200))
	now := start.Add(10 * time.Second)
	tracker.SetClock(now, 5*time.Hour)
	wall := now.Add(5 * time.Hour)
	calls := tracker.Calls()
	if len(calls) != 1 || wall.Sub(calls[0].Since) != 10*time.Second || wall.Sub(calls[0].Answered) != 9*time.Second {
		t.Errorf("at %v the calls are %+v", wall, calls)
	}
	if p := calls[0].Parties[0]; wall.Sub(p.Since) != 10*time.Second || wall.Sub(p.Answered) != 9*time.Second {
		t.Errorf("at %v a party is %+v", wall, p)
	}
	k, ok := tracker.ExtensionInfo("101", now)
	if !ok || len(k.Contacts) != 1 || k.Contacts[0].Until.Sub(wall) != 50*time.Second {
		t.Errorf("at %v 101 is %+v", wall, k)
	}
	if all := tracker.Extensions(now); len(all) != 1 || !all[0].Contacts[0].Until.Equal(k.Contacts[0].Until) {
		t.Errorf("and among all %+v", all)
	}
}

// TestRegistrationsExpireBySteadyClock checks that setting the clock ends no registration,
// and that the event of its end has the time of the wall clock.
func TestRegistrationsExpireBySteadyClock(t *testing.T) {
	tracker := New(testConfig())
	wantOneEvent(t, observeAll(tracker, registerWithResponse(start, "a", 1, phoneContact)), Registered, start)
	tracker.SetClock(start.Add(time.Second), 5*time.Hour)
	if next, ok := tracker.Next(); !ok || !next.Equal(start.Add(time.Minute)) {
		t.Errorf("the registration is looked at at %v, want %v", next, start.Add(time.Minute))
	}
	if emitted := tracker.Advance(start.Add(time.Minute - 1)); len(emitted) > 0 {
		t.Errorf("emitted %v too early", emitted)
	}
	wantOneEvent(t, tracker.Advance(start.Add(time.Minute)), Unregistered, start.Add(time.Minute+5*time.Hour))
}
