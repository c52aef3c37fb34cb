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

// A listener takes down what a hop says.
type listener struct {
	flowtest.Hop
	said  []dialog.Event
	given int // of said, to who plays the flow
	asked int // of said, when the last INVITE or REFER came
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
	l.said = append(l.said, l.Hop.Events()...)
	return l.said
}

func (l *listener) Events() []dialog.Event {
	said := l.listen()[l.given:]
	l.given += len(said)
	return said
}

// end is later than anything in a test.
var end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// TestRestartedFlows plays every flow as often as it has messages, and each time
// puts another tracker in the place of the first, before another message: one
// that has restored the calls. It must say the same.
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
					keep(kept, old.Changed(end))
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
				if diff := cmp.Diff(unrecovered(whole.said), unrecovered(hop.said)); diff != "" {
					t.Errorf("restarted before message %d (- want, + got):\n%s", n, diff)
					break
				}
			}
		})
	}
}

// TestRestartedFromTheLog plays every flow likewise, but nothing was kept: the
// tracker goes on from the events that were said. Each dial has its hangup, once;
// that of a party that was answered before the restart is the same.
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
					if err := fresh.Restore("", nil, hop.said); err != nil {
						t.Errorf("message %d: %v", n, err)
					}
					fresh.Inherit(old)
					return fresh
				})}
				flowtest.Rewrite(f, hop) // it may go another way
				if n > shown {
					break
				}
				hop.Sleep(24 * time.Hour)
				hop.listen()
				for _, e := range hop.said[:before] {
					is := func(typ dialog.Type) func(dialog.Event) bool {
						return func(o dialog.Event) bool { return o.Party == e.Party && o.Type == typ }
					}
					if e.Type != dialog.DialIn && e.Type != dialog.DialOut {
						continue
					}
					i := slices.IndexFunc(hop.said, is(dialog.Hangup))
					if i < 0 || slices.ContainsFunc(hop.said[i+1:], is(dialog.Hangup)) {
						t.Errorf("restarted before message %d: %s of %s has no hangup, or two", n, e.Type, e.Extension)
						continue
					}
					if slices.Contains(unlogged, f.Name) {
						continue
					}
					if i < before || !slices.ContainsFunc(hop.said[:before], is(dialog.Answer)) {
						continue
					}
					j := slices.IndexFunc(whole.said, is(dialog.Hangup))
					if j < 0 || whole.said[j].Status == dialog.Unknown {
						continue
					}
					got, want := hop.said[i], whole.said[j]
					if !want.Observed.After(restarted) {
						continue // what ended it was seen before the restart, and told later
					}
					goesOn := func(o dialog.Event) bool { return o.Call == e.Call && o.Type != dialog.DialIn }
					rings := func(o dialog.Event) bool { // its phone's answer is lost, as is the transaction
						return o.Call == e.Call && o.Type == dialog.DialIn && o.Leg.Origin == dialog.PBX &&
							!slices.ContainsFunc(hop.said[:before], func(a dialog.Event) bool {
								return a.Party == o.Party && (a.Type == dialog.Answer || a.Type == dialog.Hangup)
							})
					}
					if want.Flow == dialog.Out && (!slices.ContainsFunc(hop.said[asked:before], goesOn) || slices.ContainsFunc(hop.said[:before], rings)) {
						want.CalledExtension = got.CalledExtension // whom a REFER just before leads to, and whether it will, no event tells
					}
					if !got.Recovered {
						t.Errorf("restarted before message %d: the hangup of %s does not say that it was", n, e.Extension)
					}
					if diff := cmp.Diff(want, got, ignored); diff != "" {
						t.Errorf("restarted before message %d (- want, + got):\n%s", n, diff)
					}
				}
			}
		})
	}
}

// unlogged are flows whose end follows from what no event tells.
var unlogged = []string{
	"kamailio-blind-transfer",                // a party goes on over another leg
	"forked-first-is-left",                   // a leg goes on in another dialog
	"forked-doubtful-one-outlasts-the-other", // likewise
}

// ignored is what the log alone does not tell: what legs without events said, and
// what was heard of a leg between its events.
var ignored = cmpopts.IgnoreFields(dialog.Event{}, "Recovered", "Seq", "Correlation", "RecID", "RemoteNumber", "HangupBy", "ANI")

// keep writes changes to a bucket.
func keep(bucket map[string]dialog.Change, changes []dialog.Change) {
	for _, c := range changes {
		if c.Record == nil {
			delete(bucket, c.Call)
		} else {
			bucket[c.Call] = c
		}
	}
}

// unrecovered is events without what only a restart makes of them.
func unrecovered(events []dialog.Event) []dialog.Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Recovered = false
	}
	return events
}
