package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/dialog/trace"
)

// clockSteps are the amounts by which the clock is set.
var clockSteps = []time.Duration{
	30 * time.Second, -30 * time.Second, time.Hour, -time.Hour, 5 * time.Hour, -5 * time.Hour,
}

// clockFlow is a call in parts; the clock is set before one of them. Where parts meet, a
// callback waits for its next attempt. The call also has a ringing callback, which the
// flow does not list.
var clockFlow = []string{`Somebody sets the clock.

-- after 1s --
`, `-- phone -> bellhop --
INVITE sip:102@pbx.example SIP/2.0
-- bellhop -> pbx --
INVITE sip:102@pbx.example SIP/2.0
-- after 200ms --
-- bellhop -> phone --
SIP/2.0 100 Trying
`, `-- pbx -> bellhop --
SIP/2.0 180 Ringing
-- bellhop -> phone --
SIP/2.0 180 Ringing
-- after 1s --
`, `-- pbx -> bellhop --
SIP/2.0 200 OK
-- bellhop -> phone --
SIP/2.0 200 OK
-- phone -> bellhop --
ACK
-- bellhop -> pbx --
ACK
-- after 1s --
`, `-- after 9s --
-- phone -> bellhop --
BYE
-- bellhop -> pbx --
BYE
-- pbx -> bellhop --
SIP/2.0 200 OK
-- bellhop -> phone --
SIP/2.0 200 OK
-- after 1s --
`, `-- after 1m0s --
-- callback --
dial-out 101 EventTime=%v
answer 101 EventTime=%v SetupTime=200ms RingDuration=1s
hangup 101 CallStatus=ANSWER EventTime=%v Duration=10s SetupTime=200ms RingDuration=1s
`}

// flowWithStep returns clockFlow with a step of the clock before a part.
func flowWithStep(t *testing.T, by time.Duration, place int) *flowtest.Flow {
	t.Helper()
	times := []any{time.Second, 2200 * time.Millisecond, 12200 * time.Millisecond}
	for i, part := range []int{1, 3, 4} { // that cause the events
		if part >= place {
			times[i] = times[i].(time.Duration) + by
		}
	}
	var text strings.Builder
	for i, part := range clockFlow {
		if i == place {
			fmt.Fprintf(&text, "-- clock %v --\n", by)
		}
		if i == len(clockFlow)-1 {
			part = fmt.Sprintf(part, times...)
		}
		text.WriteString(part)
	}
	f, err := flowtest.Parse("clock", []byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSetClockLosesNoCallback sets the clock before, during and after a call whose every
// callback fails once. Each event arrives once and in order, with the clock's time at
// the event and the right duration, and no callback expires.
func TestSetClockLosesNoCallback(t *testing.T) {
	for _, by := range clockSteps {
		for place := 1; place < len(clockFlow); place++ {
			t.Run(fmt.Sprintf("%v before part %d", by, place), func(t *testing.T) {
				f, dir := flowWithStep(t, by, place), t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					h := newTestPipeline(t, f.Config, dir)
					h.fails = true
					flowtest.Play(t, f, h)
					if s := h.rooms.notifier.Stats(); s.Expired > 0 || s.Delivered != 4 || s.Failed != 4 {
						t.Errorf("%d callbacks were delivered, %d attempts failed, %d callbacks expired; want 4, 4, 0", s.Delivered, s.Failed, s.Expired)
					}
					h.stop()
				})
			})
		}
	}
}

// restarting is a testPipeline that restarts whenever its clock is set.
type restarting struct{ *testPipeline }

func (h restarting) SetClock(by time.Duration) {
	h.testPipeline.SetClock(by)
	h.again()
}

// TestSetClockAcrossRestart also restarts bellhop after the clock was set. A restart
// cuts off ringing calls, so both happen later in the call. The callback of the hangup
// then waits for its next attempt. A live callback that waits across a restart is as old
// as the clock says.
func TestSetClockAcrossRestart(t *testing.T) {
	for _, by := range clockSteps {
		for place := 4; place < len(clockFlow); place++ {
			t.Run(fmt.Sprintf("%v before part %d", by, place), func(t *testing.T) {
				f, dir := flowWithStep(t, by, place), t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					h := newTestPipeline(t, f.Config, dir)
					h.fails = place > 4
					flowtest.Play(t, f, restarting{h})
					h.stop()
				})
			})
		}
	}
}

// TestObserverUsesMessageClock checks that timers fire on time while the wall clock is
// five hours behind because it was set back.
func TestObserverUsesMessageClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const back = 5 * time.Hour
		began := time.Now().Round(0).Add(back)
		clock := func() (time.Time, time.Duration) { return time.Now().Round(0).Add(back), -back }
		watch := make(chan dialog.Message, 2)
		said, put := make(chan dialog.Event, 9), make(chan [2]time.Time, 9)
		tracker := dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`)})
		tracker.Changed(began)
		f := &observer{
			tracker: tracker, traces: trace.New(1), messages: watch, clock: clock, unbatched: true, queries: make(chan func()),
			publish: func(events []dialog.Event) {
				for _, e := range events {
					said <- e
				}
			},
			storeChanges: func(_ []dialog.Change, now, upTo time.Time) { put <- [2]time.Time{now, upTo} },
		}
		stop := store.StartTask(f.run)
		invite := dialog.Message{
			At: began, WallOffset: -back, Src: dialog.Edge, Dst: dialog.PBX, Method: "INVITE", CallID: "a", CSeq: 1, FromTag: "f", Branch: "z9hG4bK1",
			Head: "INVITE sip:102@pbx.example SIP/2.0\r\nFrom: <sip:101@pbx.example>;tag=f\r\nTo: <sip:102@pbx.example>\r\n",
		}
		trying := invite
		trying.Src, trying.Dst, trying.Status, trying.Head = dialog.PBX, dialog.Edge, 100, "SIP/2.0 100 Trying\r\n"
		watch <- invite
		watch <- trying
		time.Sleep(499 * time.Millisecond)
		synctest.Wait()
		if len(said) > 0 {
			t.Errorf("said %v, before the attempt counts as a call", <-said)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		stop() // publishes no further event
		if len(said) != 1 {
			t.Fatalf("%d events were said, want one", len(said))
		}
		if e := <-said; e.Type != dialog.DialOut || !e.At.Equal(began.Add(-back)) {
			t.Errorf("said %v, want a dial-out at %v", e, began.Add(-back))
		}
		if k := <-put; !k[0].Equal(began.Add(snapshotAge)) || !k[1].Equal(began) {
			t.Errorf("calls were kept at %v, want at %v what was by %v", k, began.Add(snapshotAge), began)
		}
	})
}
