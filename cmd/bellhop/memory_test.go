package main

import "testing"

func TestCapsConnections(t *testing.T) {
	for _, tt := range []struct {
		want, files, n int
		capped         bool
	}{
		{20000, 1 << 20, 20000, false},
		{20000, 20512, 20000, false},
		{20000, 20000, 19488, true},
		{20000, 1024, 512, true},
		{100, 256, 64, true},
		{0, 1024, 512, false},
		{10, 1024, 10, false},
	} {
		if n, capped := capConnections(tt.want, tt.files); n != tt.n || capped != tt.capped {
			t.Errorf("%d of %d files: %d, %v, want %d, %v", tt.want, tt.files, n, capped, tt.n, tt.capped)
		}
	}
	if openFileLimit() < 3 {
		t.Errorf("%d files may be open", openFileLimit())
	}
}

// TestReleasesMemoryAfterFlood checks that memory is released when much is in use and
// little is being allocated: while a process allocates much, its garbage collector runs
// anyway. Attempts that release little become rare.
func TestReleasesMemoryAfterFlood(t *testing.T) {
	const mb = 1 << 20
	m := memoryUse{least: 40 * mb, allocated: 0}
	total := uint64(0)
	step := func(used, allocated, left uint64) {
		t.Helper()
		total += allocated * mb
		if got := m.canRelease(used*mb, total); got != (left > 0) {
			t.Errorf("%d MB used, %d MB allocated, at rest %d MB: %v", used, allocated, m.least/mb, got)
		}
		if left > 0 {
			m.recordRelease(used*mb, left*mb)
		}
	}
	step(41, 1, 0)
	step(400, 900, 0) // the flood
	step(400, 1, 200) // transactions are still there
	step(200, 1, 60)
	step(60, 1, 0)
	step(76, 10, 0)
	step(77, 10, 38)
	step(300, 500, 0)  // many calls
	step(300, 50, 290) // which go on, and are quiet
	step(290, 50, 0)
	step(290, 50, 289)
	step(289, 50, 0)
	step(289, 50, 0)
	step(289, 50, 289)
	step(300, 500, 0)
	step(300, 50, 45) // they are over
	step(45, 1, 0)
}
