package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// spareFiles is how many of the open files connections over TCP leave: to the
// store, the admin API and callbacks.
const spareFiles = 512

// openFiles is how many files this process may have open.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(l.Cur)
}

// allConnections returns how many connections over TCP there may be in all if
// want are wanted, 0 for any number, and whether open files allow no more.
func allConnections(want, files int) (n int, capped bool) {
	room := max(files-spareFiles, files/4, 1)
	if want > 0 && want <= room {
		return want, false
	}
	return room, want > room
}

// memoryLimit is the memory from which on the collector runs more often. What
// lives is bounded to less than half of it in a flood; without the limit three
// times of that would be used. The bound grows with the processors, as the
// hop's does.
func memoryLimit(processors int) int64 { return 224 << 20 * int64(max(processors, 2)) }

// Giving memory back.
const (
	memoryEvery = 10 * time.Second
	muchMemory  = 16 << 20 // more than half as much again as is in use at rest
	longestRest = 30       // times memoryEvery, after attempts that gave back little
)

// giveBack returns memory to the system after a flood, until ctx ends. The
// collector runs when much was allocated, else every two minutes, and what it
// frees the runtime returns over minutes: a process that is quiet after a flood
// keeps all of it.
func giveBack(ctx context.Context) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	look := func() (used, allocated uint64) {
		metrics.Read(samples)
		return samples[0].Value.Uint64() - samples[1].Value.Uint64(), samples[2].Value.Uint64()
	}
	var m memory
	m.least, m.allocated = look()
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			used, allocated := look()
			if m.idle(used, allocated) {
				debug.FreeOSMemory()
				left, _ := look()
				m.gaveBack(used, left)
			}
		case <-ctx.Done():
			return
		}
	}
}

// memory is what is known of the memory in use.
type memory struct {
	least     uint64 // bytes in use at rest: the fewest seen
	allocated uint64 // bytes, all in all
	rest      int    // looks until memory may be given back again
	pause     int    // rest after the last attempt
}

// idle takes the memory in use and what was allocated so far, and reports whether
// much could be given back that the collector will not free soon by itself.
func (m *memory) idle(used, allocated uint64) bool {
	since := allocated - m.allocated
	m.allocated = allocated
	m.least = min(m.least, used)
	if used <= m.least+m.least/2+muchMemory || since >= used/4 {
		m.pause, m.rest = 0, 0
		return false
	}
	m.rest--
	return m.rest < 0
}

// gaveBack takes how much was in use before and after. Where little came back,
// what is in use is needed: the next attempt is later each time.
func (m *memory) gaveBack(used, left uint64) {
	m.least = min(m.least, left)
	if left > used/10*9 {
		m.pause = min(max(2*m.pause, 1), longestRest)
	} else {
		m.pause = 0
	}
	m.rest = m.pause
}
