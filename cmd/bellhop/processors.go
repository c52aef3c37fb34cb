package main

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// lookEvery is how often the load is looked at: a collection alone is no load.
const lookEvery = time.Second

// lull is how long the load must have been lower before processors are given up.
const lull = 5 * time.Second

// strained is the load of a processor at which another is wanted. The work that a
// second one makes by being woken must not be the reason to keep it.
const strained = 0.7

// crowd is how many requests to the admin API within lookEvery are reason to have
// all processors: SIP does not wait until their load is seen.
const crowd = 10

// processors are those that goroutines run on.
type processors struct {
	asked   atomic.Int32 // requests since the load was last looked at
	crowded chan struct{}
}

func newProcessors() *processors { return &processors{crowded: make(chan struct{}, 1)} }

// counting counts the requests that h gets.
func (p *processors) counting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.asked.Add(1) == crowd {
			select {
			case p.crowded <- struct{}{}:
			default:
			}
		}
		h.ServeHTTP(w, r)
	})
}

// fit keeps the number of processors near what the load needs, until ctx ends.
// Each message wakes an idle second processor in vain, which costs a quarter of
// all work while one has most of its time to spare. Who sets GOMAXPROCS decides
// alone.
//
// full tells that messages wait for a worker: all processors are there at once.
// It is heard once within lookEvery, so that a flood does not wake us for each
// message.
func (p *processors) fit(ctx context.Context, full <-chan struct{}) {
	most := runtime.GOMAXPROCS(0)
	if most == 1 || os.Getenv("GOMAXPROCS") != "" {
		return
	}
	defer runtime.GOMAXPROCS(most)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	f := fit{most: most, now: most}
	before, began := processorTime(), time.Now()
	hear := full
	for {
		var load float64
		select {
		case <-p.crowded:
			load = float64(most)
		case <-hear:
			load, hear = float64(most), nil
		case <-tick.C:
			used, at := processorTime(), time.Now()
			load = float64(used-before) / float64(at.Sub(began))
			before, began, hear = used, at, full
			p.asked.Store(0)
		case <-ctx.Done():
			return
		}
		if n := f.next(load, time.Now()); n != runtime.GOMAXPROCS(0) {
			runtime.GOMAXPROCS(n)
		}
	}
}

// A fit is how many processors there are, and should be.
type fit struct {
	most, now int
	enough    int       // what the most loaded moment since then would have needed
	since     time.Time // zero: now are needed
}

// next takes the load, in processors, and returns how many there should be: so
// many that none is strained. More are there at once, fewer after a while.
func (f *fit) next(load float64, at time.Time) int {
	need := min(1+int(load/strained), f.most)
	switch {
	case need >= f.now:
		f.now, f.since = need, time.Time{}
	case f.since.IsZero():
		f.enough, f.since = need, at
	case at.Sub(f.since) < lull:
		f.enough = max(f.enough, need)
	default:
		f.now, f.since = max(f.enough, need), time.Time{}
	}
	return f.now
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
