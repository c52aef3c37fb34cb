package main

import (
	"math"
	"runtime/metrics"
	"sync"
	"time"
)

// A strain says whether goroutines, and among them those of SIP, wait for processors:
// because this process has too much to do, or because the machine has. It costs nothing
// while nobody asks.
type strain struct {
	mu     sync.Mutex
	looked time.Time
	before []uint64 // the counts of the histogram then
	sample [1]metrics.Sample
	is     bool
}

// strainEvery is how long an answer is good. A hundredth of the waits in that time, and
// strainWaits at least, being slowWait or longer is strain: as many messages would be as
// late.
const (
	strainEvery = 200 * time.Millisecond
	slowWait    = 5 * time.Millisecond
	strainShare = 0.01
	strainWaits = 2
)

func newStrain() *strain {
	return &strain{sample: [1]metrics.Sample{{Name: "/sched/latencies:seconds"}}}
}

// strained reports whether there is strain. It may be called at any time.
func (s *strain) strained() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < strainEvery {
		return s.is
	}
	metrics.Read(s.sample[:])
	waits := s.sample[0].Value.Float64Histogram()
	s.is = s.before != nil && tooSlow(s.before, waits) // not of the start
	s.before = append(s.before[:0], waits.Counts...)
	s.looked = time.Now()
	return s.is
}

// tooSlow reports whether too many of the waits that a histogram counts beyond those
// before were slow.
func tooSlow(before []uint64, waits *metrics.Float64Histogram) bool {
	var all, slow uint64
	for i, n := range waits.Counts {
		n -= before[i]
		all += n
		if from := waits.Buckets[i]; from >= slowWait.Seconds() && !math.IsInf(from, 0) {
			slow += n
		}
	}
	return slow >= strainWaits && float64(slow) >= strainShare*float64(all)
}
