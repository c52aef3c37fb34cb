package main

import (
	"math"
	"runtime/metrics"
	"testing"
)

func TestTooSlow(t *testing.T) {
	buckets := []float64{math.Inf(-1), 0, 0.001, 0.005, 0.02, math.Inf(1)}
	for _, tt := range []struct {
		name        string
		before, now []uint64
		want        bool
	}{
		{"nothing", []uint64{0, 0, 0, 0, 0}, []uint64{0, 0, 0, 0, 0}, false},
		{"quick", []uint64{0, 0, 0, 0, 0}, []uint64{0, 1000, 500, 0, 0}, false},
		{"one slow wait", []uint64{0, 0, 0, 0, 0}, []uint64{0, 10, 0, 1, 0}, false},
		{"a few of many", []uint64{0, 0, 0, 0, 0}, []uint64{0, 1000, 0, 3, 4}, false},
		{"a hundredth", []uint64{0, 0, 0, 0, 0}, []uint64{0, 900, 90, 5, 5}, true},
		{"very slow", []uint64{0, 0, 0, 0, 0}, []uint64{0, 0, 0, 0, 2}, true},
		{"slow before, not now", []uint64{0, 0, 0, 100, 100}, []uint64{0, 500, 0, 101, 100}, false},
		{"slow now, not before", []uint64{0, 100_000, 0, 0, 0}, []uint64{0, 100_100, 0, 2, 0}, true},
	} {
		if got := tooSlow(tt.before, &metrics.Float64Histogram{Counts: tt.now, Buckets: buckets}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// The runtime counts waits as strain reads them.
func TestStrainReads(t *testing.T) {
	s := newStrain()
	s.strained()
	if len(s.before) == 0 || s.looked.IsZero() {
		t.Fatal("the runtime does not count how long goroutines wait")
	}
	if s.is {
		t.Error("the waits of the start are strain")
	}
}
