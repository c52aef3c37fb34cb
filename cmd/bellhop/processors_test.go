package main

import (
	"net/http"
	"testing"
	"time"
)

func TestProcessorsFitTheLoad(t *testing.T) {
	f := fit{most: 4, now: 4}
	at := time.Now()
	step := func(load float64, after time.Duration, want int) {
		t.Helper()
		at = at.Add(after)
		if got := f.next(load, at); got != want {
			t.Errorf("load %.1f: %d processors, want %d", load, got, want)
		}
	}
	step(0.1, 0, 4)
	step(0.1, lull-1, 4) // not quiet for long enough
	step(0.1, 1, 1)
	step(0.6, lookEvery, 1)
	step(0.7, lookEvery, 2) // at once
	step(9.9, lookEvery, 4) // not more than there are
	step(0.1, lookEvery, 4)
	step(1.5, lookEvery, 4) // the quiet was not so quiet
	step(0.1, lull, 3)
	step(1.5, lookEvery, 3)
	step(0.1, lookEvery, 3)
	step(1.5, lookEvery, 3) // as much as there is: the quiet begins anew
	step(0.1, lull, 3)
	step(0.1, lull, 1)
}

// Many requests within a moment are a crowd, once.
func TestCrowd(t *testing.T) {
	p := newProcessors()
	served := 0
	h := p.counting(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	for range crowd - 1 {
		h.ServeHTTP(nil, nil)
	}
	if len(p.crowded) != 0 {
		t.Error("a few are a crowd")
	}
	for range 2 * crowd {
		h.ServeHTTP(nil, nil)
	}
	if len(p.crowded) != 1 || served != 3*crowd-1 {
		t.Errorf("of %d requests %d were served, and are no crowd", 3*crowd-1, served)
	}
}
