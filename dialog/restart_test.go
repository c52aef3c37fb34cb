package dialog_test

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/sip/flowhop"
)

// end is later than anything in a test.
var end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// replayFlow shows a new tracker the inputs of a flow. It calls before with the index of each
// input first, which may replace the tracker.
func replayFlow(c dialog.Config, inputs []flowhop.Input, before func(i int, o *flowhop.Observer)) *flowhop.Observer {
	o := &flowhop.Observer{Tracker: dialog.New(c)}
	for i, in := range inputs {
		before(i, o)
		o.Show(in)
	}
	return o
}

// forEachFlow runs a test with every flow of testdata/flows, in parallel.
func forEachFlow(t *testing.T, test func(*testing.T, *flowtest.Flow)) {
	t.Helper()
	paths, err := filepath.Glob("../testdata/flows/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no flows: %v", err)
	}
	for _, path := range paths {
		f, err := flowtest.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}

// TestRestartedFlows shows a tracker the messages of every flow, as often as there are
// messages. Each time it replaces the tracker before another message by one that has restored
// the calls. The events must be the same.
func TestRestartedFlows(t *testing.T) {
	forEachFlow(t, func(t *testing.T, f *flowtest.Flow) {
		inputs := flowhop.Record(t, f)
		whole := replayFlow(f.Config.Dialog, inputs, func(int, *flowhop.Observer) {})
		for n := range inputs {
			kept := map[string]dialog.Change{}
			again := replayFlow(f.Config.Dialog, inputs, func(i int, o *flowhop.Observer) {
				storeChanges(kept, o.Tracker.Changed(end))
				if i != n || len(kept) == 0 {
					return
				}
				fresh := dialog.New(f.Config.Dialog)
				fresh.InheritClock(o.Tracker)
				if err := fresh.Restore("", slices.Collect(maps.Values(kept)), nil); err != nil {
					t.Errorf("message %d: %v", n, err)
				}
				fresh.Inherit(o.Tracker)
				fresh.Uncut()
				o.Tracker = fresh
			})
			if diff := cmp.Diff(withoutRecovered(whole.Events), withoutRecovered(again.Events)); diff != "" {
				t.Errorf("restarted before message %d (- want, + got):\n%s", n, diff)
				break
			}
		}
	})
}

// TestRestartedFromTheLog is TestRestartedFlows without snapshots: each new tracker
// continues from the events that were emitted. Each dial has its hangup, once; the hangup
// of a party that was answered before the restart is the same.
func TestRestartedFromTheLog(t *testing.T) {
	forEachFlow(t, func(t *testing.T, f *flowtest.Flow) {
		inputs := flowhop.Record(t, f)
		whole := replayFlow(f.Config.Dialog, inputs, func(int, *flowhop.Observer) {})
		for n := range inputs {
			before, asked := 0, 0 // numbers of events: before the restart, and before the last INVITE or REFER before that
			var restarted time.Time
			again := replayFlow(f.Config.Dialog, inputs, func(i int, o *flowhop.Observer) {
				if m := inputs[i].Message; i < n && m != nil && m.Request() && (m.Method == "INVITE" || m.Method == "REFER") {
					asked = len(o.Events)
				}
				if i != n {
					return
				}
				before, restarted = len(o.Events), o.Now
				fresh := dialog.New(f.Config.Dialog)
				fresh.InheritClock(o.Tracker)
				if err := fresh.Restore("", nil, slices.Values(o.Events)); err != nil {
					t.Errorf("message %d: %v", n, err)
				}
				fresh.Inherit(o.Tracker)
				o.Tracker = fresh
			})
			last := inputs[len(inputs)-1]
			again.Show(flowhop.Input{At: last.At.Add(24 * time.Hour), WallOffset: last.WallOffset})
			for _, e := range again.Events[:before] {
				is := func(typ dialog.Type) func(dialog.Event) bool {
					return func(o dialog.Event) bool { return o.Party == e.Party && o.Type == typ }
				}
				if e.Type != dialog.DialIn && e.Type != dialog.DialOut {
					continue
				}
				i := slices.IndexFunc(again.Events, is(dialog.Hangup))
				if i < 0 || slices.ContainsFunc(again.Events[i+1:], is(dialog.Hangup)) {
					t.Errorf("restarted before message %d: %s of %s has no hangup, or two", n, e.Type, e.Extension)
					continue
				}
				if slices.Contains(unlogged, f.Name) {
					continue
				}
				if i < before || !slices.ContainsFunc(again.Events[:before], is(dialog.Answer)) {
					continue
				}
				j := slices.IndexFunc(whole.Events, is(dialog.Hangup))
				if j < 0 || whole.Events[j].Status == dialog.Unknown {
					continue
				}
				got, want := again.Events[i], whole.Events[j]
				if !want.Observed.After(restarted) {
					continue // the message that ended it came before the restart, and its event later
				}
				goesOn := func(o dialog.Event) bool { return o.Call == e.Call && o.Type != dialog.DialIn }
				rings := func(o dialog.Event) bool { // its phone's answer is lost, as is the transaction
					return o.Call == e.Call && o.Type == dialog.DialIn && o.Leg.Origin == dialog.PBX &&
						!slices.ContainsFunc(again.Events[:before], func(a dialog.Event) bool {
							return a.Party == o.Party && (a.Type == dialog.Answer || a.Type == dialog.Hangup)
						})
				}
				if want.Flow == dialog.Out && (!slices.ContainsFunc(again.Events[asked:before], goesOn) || slices.ContainsFunc(again.Events[:before], rings)) {
					want.CalledExtension = got.CalledExtension // no event has the target of a REFER just before, nor its outcome
				}
				if !got.Recovered {
					t.Errorf("restarted before message %d: the hangup of %s is not marked as recovered", n, e.Extension)
				}
				if diff := cmp.Diff(want, got, ignored); diff != "" {
					t.Errorf("restarted before message %d (- want, + got):\n%s", n, diff)
				}
			}
		}
	})
}

// unlogged are flows whose end depends on messages without events.
var unlogged = []string{
	"kamailio-blind-transfer",                // a party goes on over another leg
	"forked-first-is-left",                   // a leg goes on in another dialog
	"forked-doubtful-one-outlasts-the-other", // likewise
}

// ignored are the fields that the log alone does not have: those from legs without events,
// and from messages of a leg between its events.
var ignored = cmpopts.IgnoreFields(dialog.Event{}, "Recovered", "Seq", "Correlation", "RecID", "RemoteNumber", "HangupBy", "ANI")

// storeChanges writes changes to a bucket.
func storeChanges(bucket map[string]dialog.Change, changes []dialog.Change) {
	for _, c := range changes {
		if c.Record == nil {
			delete(bucket, c.Call)
		} else {
			bucket[c.Call] = c
		}
	}
}

// withoutRecovered returns events without the fields that only a restart changes.
func withoutRecovered(events []dialog.Event) []dialog.Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Recovered = false
	}
	return events
}
