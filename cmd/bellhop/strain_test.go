package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A late timer is strain for a second.
func TestStrain(t *testing.T) {
	s, now := newStrain(), time.Now()
	if s.at(now) {
		t.Error("there is strain at the start")
	}
	for _, tt := range []struct {
		late  time.Duration
		after time.Duration
		want  bool
	}{
		{0, 0, false},
		{slowTimer - 1, 0, false},
		{slowTimer, 0, true},
		{0, strainFor - 1, true},
		{0, 1, false},
		{time.Second, 0, true},
		{0, strainFor / 2, true},
		{slowTimer, 0, true},
		{0, strainFor / 2, true},
		{0, strainFor / 2, false},
	} {
		now = now.Add(tt.after)
		s.saw(tt.late, now)
		if got := s.at(now); got != tt.want {
			t.Errorf("late by %v, %v after: %v, want %v", tt.late, tt.after, got, tt.want)
		}
	}
}

// It looks while it is asked, and is quiet when it is not: in virtual time no timer is
// late.
func TestStrainIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrain()
		stop := start(func(ctx context.Context) { s.run(ctx) })
		defer stop()
		for range 3 {
			time.Sleep(time.Hour)
			if s.strained() {
				t.Error("a timer that is in time is strain")
			}
			synctest.Wait()
			if len(s.asked) != 0 {
				t.Error("it does not hear that it is asked")
			}
			time.Sleep(strainAsked / 2)
			if s.strained() {
				t.Error("a timer that is in time is strain")
			}
		}
	})
}
