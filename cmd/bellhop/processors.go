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

// loadInterval is the time between two measurements of the load. It is so long that a
// garbage collection alone does not count as load.
const loadInterval = time.Second

// scaleDownDelay is how long the load must stay lower before GOMAXPROCS shrinks.
const scaleDownDelay = 5 * time.Second

// scaleUpLoad is the utilization at which GOMAXPROCS grows by one. An additional
// processor itself causes work by its wakeups. scaleUpLoad is below 1 so that this work
// alone does not keep the processor.
const scaleUpLoad = 0.7

// If the admin API gets burstRequests requests within loadInterval, GOMAXPROCS is set
// to its maximum at once, so that SIP does not wait for the next measurement.
const burstRequests = 10

// A processorScaler adapts GOMAXPROCS to the load.
type processorScaler struct {
	requests atomic.Int32 // since the last measurement
	burst    chan struct{}
}

// newProcessorScaler returns a scaler. runScaling starts it.
func newProcessorScaler() *processorScaler { return &processorScaler{burst: make(chan struct{}, 1)} }

// countRequests returns a handler that counts the requests to h.
func (p *processorScaler) countRequests(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.requests.Add(1) == burstRequests {
			select {
			case p.burst <- struct{}{}:
			default:
			}
		}
		h.ServeHTTP(w, r)
	})
}

// runScaling keeps GOMAXPROCS near what the load needs, until ctx ends. With a higher
// value, each message would wake an idle second processor in vain. On 2026-12-03, with two
// processors, a call cost 25 % more processor time with GOMAXPROCS=2 than with runScaling
// at 500 calls/s, and 28 % more at 100 calls/s. runScaling does nothing if the environment
// sets GOMAXPROCS.
//
// A value on full means that messages wait for a worker. runScaling then sets
// GOMAXPROCS to its maximum at once. It receives from full once within loadInterval, so
// that a flood does not wake this goroutine for each message.
func (p *processorScaler) runScaling(ctx context.Context, full <-chan struct{}) {
	most := runtime.GOMAXPROCS(0)
	if most == 1 || os.Getenv("GOMAXPROCS") != "" {
		return
	}
	defer runtime.GOMAXPROCS(most)
	tick := time.NewTicker(loadInterval)
	defer tick.Stop()
	c := processorCount{limit: most, now: most}
	before, began := usedProcessorTime(), time.Now()
	signals := full
	for {
		var load float64
		select {
		case <-p.burst:
			load = float64(most)
		case <-signals:
			load, signals = float64(most), nil
		case <-tick.C:
			used, at := usedProcessorTime(), time.Now()
			load = float64(used-before) / float64(at.Sub(began))
			before, began, signals = used, at, full
			p.requests.Store(0)
		case <-ctx.Done():
			return
		}
		if n := c.nextCount(load, time.Now()); n != runtime.GOMAXPROCS(0) {
			runtime.GOMAXPROCS(n)
		}
	}
}

// A processorCount computes GOMAXPROCS from the measured load.
type processorCount struct {
	limit, now int
	peak       int       // largest count needed since the time since
	since      time.Time // when the load became lower; zero: it is not lower
}

// nextCount takes the load, in processors. It returns a number of processors whose
// utilization stays below scaleUpLoad, up to limit. The number grows at once and
// shrinks after scaleDownDelay.
func (c *processorCount) nextCount(load float64, at time.Time) int {
	need := min(1+int(load/scaleUpLoad), c.limit)
	switch {
	case need >= c.now:
		c.now, c.since = need, time.Time{}
	case c.since.IsZero():
		c.peak, c.since = need, at
	case at.Sub(c.since) < scaleDownDelay:
		c.peak = max(c.peak, need)
	default:
		c.now, c.since = max(c.peak, need), time.Time{}
	}
	return c.now
}

// usedProcessorTime returns the processor time that this process has used so far.
func usedProcessorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
