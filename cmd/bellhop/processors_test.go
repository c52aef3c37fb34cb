package main

import (
	"net/http"
	"testing"
	"time"
)

func TestProcessorsFollowLoad(t *testing.T) {
	f := processorCount{limit: 4, now: 4}
	at := time.Now()
	step := func(load float64, after time.Duration, want int) {
		t.Helper()
		at = at.Add(after)
		if got := f.nextCount(load, at); got != want {
			t.Errorf("load %.1f: %d processors, want %d", load, got, want)
		}
	}
	step(0.1, 0, 4)
	step(0.1, scaleDownDelay-1, 4) // not quiet for long enough
	step(0.1, 1, 1)
	step(0.6, loadInterval, 1)
	step(0.7, loadInterval, 2) // at once
	step(9.9, loadInterval, 4) // not more than there are
	step(0.1, loadInterval, 4)
	step(1.5, loadInterval, 4) // the quiet was not so quiet
	step(0.1, scaleDownDelay, 3)
	step(1.5, loadInterval, 3)
	step(0.1, loadInterval, 3)
	step(1.5, loadInterval, 3) // as much as there is: the quiet begins anew
	step(0.1, scaleDownDelay, 3)
	step(0.1, scaleDownDelay, 1)
}

// TestBurstSetsAllProcessors counts requests: a burst is signaled once.
func TestBurstSetsAllProcessors(t *testing.T) {
	p := newProcessorScaler()
	served := 0
	h := p.countRequests(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	for range burstRequests - 1 {
		h.ServeHTTP(nil, nil)
	}
	if len(p.burst) != 0 {
		t.Error("a few are a crowd")
	}
	for range 2 * burstRequests {
		h.ServeHTTP(nil, nil)
	}
	if len(p.burst) != 1 || served != 3*burstRequests-1 {
		t.Errorf("of %d requests %d were served, and are no crowd", 3*burstRequests-1, served)
	}
}
