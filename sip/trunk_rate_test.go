package sip

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// Several workers ask at once, with clocks that differ a little. No second has more calls
// than allowed, and the limit is used up.
func TestCallRateIsExact(t *testing.T) {
	for _, limit := range []int{1, 2, 30} {
		c := newCallRate(limit)
		var mu sync.Mutex
		var allowed []instant
		var workers sync.WaitGroup
		const ask = 4000
		for w := range 4 {
			workers.Go(func() {
				for i := range ask {
					now := instant(i)*instant(time.Millisecond) + instant(w)*instant(300*time.Microsecond)
					if c.allow(now) {
						mu.Lock()
						allowed = append(allowed, now)
						mu.Unlock()
					}
				}
			})
		}
		workers.Wait()
		slices.Sort(allowed)
		for i := limit; i < len(allowed); i++ {
			if d := allowed[i] - allowed[i-limit]; d < instant(time.Second) {
				t.Fatalf("limit %d: %d calls within %v", limit, limit+1, time.Duration(d))
			}
		}
		if n := len(allowed); n < limit || n > 4*limit {
			t.Errorf("limit %d: %d calls in 4 s", limit, n)
		}
	}
}

// One caller gets the whole limit, over many rounds of the ring.
func TestCallRateIsUsedUp(t *testing.T) {
	for _, limit := range []int{1, 3} {
		c := newCallRate(limit)
		n := 0
		for now := instant(0); now < instant(100*time.Second); now += instant(50 * time.Millisecond) {
			if c.allow(now) {
				n++
			}
		}
		if want := limit * 95; n < want || n > limit*100 { // a call may wait for the next 50 ms
			t.Errorf("limit %d: %d calls in 100 s", limit, n)
		}
	}
}
