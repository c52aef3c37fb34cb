package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store"
)

// TestDetectsOverload checks that a late timer means overload for a second.
func TestDetectsOverload(t *testing.T) {
	s, now := newOverloadMonitor(), time.Now()
	if s.overloadedAt(now) {
		t.Error("there is strain at the start")
	}
	for _, tt := range []struct {
		late  time.Duration
		after time.Duration
		want  bool
	}{
		{0, 0, false},
		{overloadDelay - 1, 0, false},
		{overloadDelay, 0, true},
		{0, overloadHold - 1, true},
		{0, 1, false},
		{time.Second, 0, true},
		{0, overloadHold / 2, true},
		{overloadDelay, 0, true},
		{0, overloadHold / 2, true},
		{0, overloadHold / 2, false},
	} {
		now = now.Add(tt.after)
		s.recordDelay(tt.late, now)
		if got := s.overloadedAt(now); got != tt.want {
			t.Errorf("late by %v, %v after: %v, want %v", tt.late, tt.after, got, tt.want)
		}
	}
}

// TestMeasuresOverloadOnDemand checks that the monitor measures only while it is
// queried. In virtual time no timer is late.
func TestMeasuresOverloadOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newOverloadMonitor()
		stop := store.StartTask(func(ctx context.Context) { s.run(ctx) })
		defer stop()
		for range 3 {
			time.Sleep(time.Hour)
			if s.overloaded() {
				t.Error("a timer that is in time is strain")
			}
			synctest.Wait()
			if len(s.queried) != 0 {
				t.Error("it does not hear that it is asked")
			}
			time.Sleep(overloadIdle / 2)
			if s.overloaded() {
				t.Error("a timer that is in time is strain")
			}
		}
	})
}
