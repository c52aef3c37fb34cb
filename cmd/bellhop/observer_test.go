package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/trace"
)

// TestObservesFirstMessageAtOnce checks that the tracker gets each message within a
// millisecond at fewer than 200 calls a second, at random times, and in large batches at
// a thousand.
func TestObservesFirstMessageAtOnce(t *testing.T) {
	for _, tt := range []struct {
		calls   int // a second, of 14 messages each
		longest time.Duration
		looks   int // a second; 0: any number
	}{
		{20, time.Millisecond, 0},
		{199, time.Millisecond, 0},
		{1000, 10 * time.Millisecond, 110},
	} {
		t.Run(fmt.Sprintf("%d calls a second", tt.calls), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var longest time.Duration
				looks := make(map[time.Time]bool)
				begin := time.Now()
				watch := make(chan dialog.Message, observeQueueSize)
				f := &observer{
					clock:   func() (time.Time, time.Duration) { return time.Now(), 0 },
					tracker: dialog.New(dialog.Config{Pattern: regexp.MustCompile(`.`)}),
					traces:  trace.New(0), messages: watch, queries: make(chan func()),
					publish: func(events []dialog.Event) {
						for _, e := range events {
							longest = max(longest, time.Since(e.At))
						}
						if time.Since(begin) > time.Second { // it is known by then how many come
							looks[time.Now()] = true
						}
					},
					storeChanges: func([]dialog.Change, time.Time, time.Time) {},
				}
				stop := store.StartTask(func(ctx context.Context) { f.run(ctx) })
				random := rand.New(rand.NewPCG(1, 2))
				for i := range 3 * tt.calls * 14 {
					m := dialog.Message{At: time.Now(), Src: dialog.PBX, Dst: dialog.Edge, Method: "OPTIONS", CallID: fmt.Sprint(i), FromTag: "1", Branch: "b"}
					if i%14 == 0 {
						m.Method = "INVITE"
					}
					m.Head = m.Method + " sip:101@phone SIP/2.0\r\nFrom: <sip:102@pbx>;tag=1\r\nTo: <sip:101@pbx>\r\n"
					watch <- m
					time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second) / float64(14*tt.calls)))
				}
				time.Sleep(time.Second)
				stop()
				if longest > tt.longest {
					t.Errorf("a message waited %v, want %v at most", longest, tt.longest)
				}
				if n := len(looks) / 2; tt.looks > 0 && n > tt.looks || n == 0 {
					t.Errorf("%d looks a second, want %d at most", n, tt.looks)
				}
			})
		})
	}
}
