package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// spareFiles is the number of open files that are reserved for the store, the admin API
// and callbacks. TCP connections of SIP cannot use them.
const spareFiles = 512

// openFileLimit returns how many files this process may have open.
func openFileLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(l.Cur)
}

// capConnections returns the limit of TCP connections in total. want is the configured
// limit, or 0 for none; files is the limit of open files. capped reports that files
// allows fewer connections than want.
func capConnections(want, files int) (n int, capped bool) {
	room := max(files-spareFiles, files/4, 1)
	if want > 0 && want <= room {
		return want, false
	}
	return room, want > room
}

// memoryLimit returns the memory use from which the garbage collector runs more often.
// In a flood, live memory stays below half of it; without the limit a flood would use
// three times as much. The limit grows with the number of processors, as the memory
// limit of SIP transactions does.
func memoryLimit(processors int) int64 { return 224 << 20 * int64(max(processors, 2)) }

// Parameters of [releaseMemory].
const (
	memoryInterval   = 10 * time.Second
	releaseThreshold = 16 << 20 // bytes beyond one and a half times the use at rest
	maxSkip          = 30       // most intervals to skip after attempts that released little
)

// releaseMemory returns memory to the operating system after a flood, until ctx ends.
// Without it, a process that is quiet after a flood would keep the memory: the garbage
// collector runs only after much was allocated or every two minutes, and the runtime
// returns freed memory over minutes.
func releaseMemory(ctx context.Context) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	look := func() (used, allocated uint64) {
		metrics.Read(samples)
		return samples[0].Value.Uint64() - samples[1].Value.Uint64(), samples[2].Value.Uint64()
	}
	var m memoryUse
	m.least, m.allocated = look()
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			used, allocated := look()
			if m.canRelease(used, allocated) {
				debug.FreeOSMemory()
				left, _ := look()
				m.recordRelease(used, left)
			}
		case <-ctx.Done():
			return
		}
	}
}

// memoryUse decides when to return memory.
type memoryUse struct {
	least     uint64 // bytes in use at rest: the lowest measured
	allocated uint64 // bytes allocated in total
	skip      int    // intervals until the next attempt
	backoff   int    // intervals skipped after the last attempt
}

// canRelease takes the memory in use and the bytes allocated so far. It reports whether
// an attempt to release memory is due: much more is in use than at rest, so little is
// allocated that the garbage collector will not run soon, and no interval is left to
// skip.
func (m *memoryUse) canRelease(used, allocated uint64) bool {
	since := allocated - m.allocated
	m.allocated = allocated
	m.least = min(m.least, used)
	if used <= m.least+m.least/2+releaseThreshold || since >= used/4 {
		m.backoff, m.skip = 0, 0
		return false
	}
	m.skip--
	return m.skip < 0
}

// recordRelease takes the memory in use before and after a release. If little was
// released, the memory is needed, and the time to the next attempt doubles.
func (m *memoryUse) recordRelease(used, left uint64) {
	m.least = min(m.least, left)
	if left > used/10*9 {
		m.backoff = min(max(2*m.backoff, 1), maxSkip)
	} else {
		m.backoff = 0
	}
	m.skip = m.backoff
}
