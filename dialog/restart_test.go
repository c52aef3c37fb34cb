package dialog_test

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
)

// A listener collects the events of the messages that bellhop forwards in a flow.
type listener struct {
	flowtest.Hop
	emitted []dialog.Event
	given   int // number of events that the flow has received
	asked   int // number of events at the last INVITE or REFER
}

func (l *listener) Send(from flowtest.Peer, msg []byte) error {
	before := len(l.listen())
	err := l.Hop.Send(from, msg)
	if bytes.HasPrefix(msg, []byte("INVITE ")) || bytes.HasPrefix(msg, []byte("REFER ")) {
		l.asked = before
	}
	return err
}

func (l *listener) listen() []dialog.Event {
	l.emitted = append(l.emitted, l.Hop.Events()...)
	return l.emitted
}

func (l *listener) Events() []dialog.Event {
	emitted := l.listen()[l.given:]
	l.given += len(emitted)
	return emitted
}

// end is later than anything in a test.
var end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// TestRestartedFlows plays every flow as often as it has messages. Each time it replaces
// the tracker before another message by one that has restored the calls. The events must be
// the same.
func TestRestartedFlows(t *testing.T) {
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
			whole := &listener{Hop: flowtest.NewTrackerHop(f.Config)}
			flowtest.Play(t, f, whole)
			for n := 1; ; n++ {
				shown, kept := 0, map[string]dialog.Change{}
				hop := &listener{Hop: flowtest.NewTrackerHopWith(f.Config, func(old *dialog.Tracker) *dialog.Tracker {
					storeChanges(kept, old.Changed(end))
					if shown++; shown != n || len(kept) == 0 {
						return old
					}
					fresh := dialog.New(f.Config.Dialog)
					fresh.InheritClock(old)
					if err := fresh.Restore("", slices.Collect(maps.Values(kept)), nil); err != nil {
						t.Errorf("message %d: %v", n, err)
					}
					fresh.Inherit(old)
					fresh.Uncut()
					return fresh
				})}
				flowtest.Play(t, f, hop)
				if n > shown {
					break
				}
				if diff := cmp.Diff(withoutRecovered(whole.emitted), withoutRecovered(hop.emitted)); diff != "" {
					t.Errorf("restarted before message %d (- want, + got):\n%s", n, diff)
					break
				}
			}
		})
	}
}

// TestRestartedFromTheLog is TestRestartedFlows without snapshots: each new tracker
// continues from the events that were emitted. Each dial has its hangup, once; the hangup
// of a party that was answered before the restart is the same.
func TestRestartedFromTheLog(t *testing.T) {
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
			whole := &listener{Hop: flowtest.NewTrackerHop(f.Config)}
			flowtest.Play(t, f, whole)
			for n := 1; ; n++ {
				shown, before, asked := 0, 0, 0
				var restarted time.Time
				var hop *listener
				hop = &listener{Hop: flowtest.NewTrackerHopWith(f.Config, func(old *dialog.Tracker) *dialog.Tracker {
					if shown++; shown != n {
						return old
					}
					before, asked, restarted = len(hop.listen()), hop.asked, hop.Now()
					fresh := dialog.New(f.Config.Dialog)
					fresh.InheritClock(old)
					if err := fresh.Restore("", nil, hop.emitted); err != nil {
						t.Errorf("message %d: %v", n, err)
					}
					fresh.Inherit(old)
					return fresh
				})}
				flowtest.Rewrite(f, hop) // its messages may take another route
				if n > shown {
					break
				}
				hop.Sleep(24 * time.Hour)
				hop.listen()
				for _, e := range hop.emitted[:before] {
					is := func(typ dialog.Type) func(dialog.Event) bool {
						return func(o dialog.Event) bool { return o.Party == e.Party && o.Type == typ }
					}
					if e.Type != dialog.DialIn && e.Type != dialog.DialOut {
						continue
					}
					i := slices.IndexFunc(hop.emitted, is(dialog.Hangup))
					if i < 0 || slices.ContainsFunc(hop.emitted[i+1:], is(dialog.Hangup)) {
						t.Errorf("restarted before message %d: %s of %s has no hangup, or two", n, e.Type, e.Extension)
						continue
					}
					if slices.Contains(unlogged, f.Name) {
						continue
					}
					if i < before || !slices.ContainsFunc(hop.emitted[:before], is(dialog.Answer)) {
						continue
					}
					j := slices.IndexFunc(whole.emitted, is(dialog.Hangup))
					if j < 0 || whole.emitted[j].Status == dialog.Unknown {
						continue
					}
					got, want := hop.emitted[i], whole.emitted[j]
					if !want.Observed.After(restarted) {
						continue // the message that ended it came before the restart, and its event later
					}
					goesOn := func(o dialog.Event) bool { return o.Call == e.Call && o.Type != dialog.DialIn }
					rings := func(o dialog.Event) bool { // its phone's answer is lost, as is the transaction
						return o.Call == e.Call && o.Type == dialog.DialIn && o.Leg.Origin == dialog.PBX &&
							!slices.ContainsFunc(hop.emitted[:before], func(a dialog.Event) bool {
								return a.Party == o.Party && (a.Type == dialog.Answer || a.Type == dialog.Hangup)
							})
					}
					if want.Flow == dialog.Out && (!slices.ContainsFunc(hop.emitted[asked:before], goesOn) || slices.ContainsFunc(hop.emitted[:before], rings)) {
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
