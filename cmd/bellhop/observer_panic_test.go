package main

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/trace"
)

// TestObserverSurvivesPanics causes panics in the tracker, in a query and in the
// receiver of events. Each costs only its own message, query or events; other calls have
// all their events.
func TestObserverSurvivesPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watch := make(chan dialog.Message, observeQueueSize)
		var said []string
		sayPanics := false
		f := &observer{
			clock: func() (time.Time, time.Duration) { return time.Now(), 0 },
			tracker: dialog.New(dialog.Config{
				Pattern: regexp.MustCompile(`^[0-9]{3}$`),
				E164: func(number string) string {
					if strings.HasPrefix(number, "666") {
						panic("a bug")
					}
					return ""
				},
			}),
			traces:   trace.New(10),
			messages: watch,
			publish: func(events []dialog.Event) {
				if sayPanics {
					sayPanics = false
					panic("a bug")
				}
				for _, e := range events {
					said = append(said, fmt.Sprint(e.Type, " ", e.Extension.User))
				}
			},
			storeChanges: func([]dialog.Change, time.Time, time.Time) {},
			queries:      make(chan func()),
			log:          slog.New(slog.DiscardHandler),
		}
		stop := store.StartTask(f.run)
		show := func(callID, from, to string, status int, method string) {
			m := dialog.Message{
				At: time.Now(), Src: dialog.Edge, Dst: dialog.PBX, Method: method, Status: status,
				CallID: callID, FromTag: callID, Branch: callID, CSeq: 1,
			}
			first := method + " sip:" + to + "@pbx.example SIP/2.0"
			if status > 0 {
				m.Src, m.Dst, m.ToTag = dialog.PBX, dialog.Edge, "p"
				first = fmt.Sprint("SIP/2.0 ", status, " Phrase")
			}
			if method == "BYE" {
				m.CSeq, m.ToTag = 2, "p"
			}
			m.Head = first + "\r\nFrom: <sip:" + from + "@pbx.example>\r\nTo: <sip:" + to + "@pbx.example>\r\n"
			watch <- m
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		show("good", "101", "102", 0, "INVITE")
		show("good", "101", "102", 200, "INVITE")
		for i := range 20 {
			show(fmt.Sprint("bad", i), "103", "6667777", 0, "INVITE")
			show(fmt.Sprint("bad", i), "103", "6667777", 180, "INVITE")
		}
		if err := f.queryTracker(context.Background(), func(*dialog.Tracker) { panic("a bug") }); err == nil {
			t.Error("a query that panics does not fail")
		}
		sayPanics = true
		show("lost", "104", "105", 0, "INVITE")
		show("lost", "104", "105", 180, "INVITE")
		show("good", "101", "102", 0, "BYE")
		show("next", "105", "106", 0, "INVITE")
		show("next", "105", "106", 486, "INVITE")
		if calls, err := f.liveCalls(context.Background()); err != nil || len(calls) != 1 {
			t.Errorf("got %d calls, %v; want the one whose dial was lost", len(calls), err)
		}
		stop()
		if got := f.panics.Load(); got != 22 {
			t.Errorf("%d panics are counted, want 22", got)
		}
		want := []string{"dial-out 101", "answer 101", "hangup 101", "dial-out 105", "hangup 105"}
		if !slices.Equal(said, want) {
			t.Errorf("said %q, want %q", said, want)
		}
	})
}
