package schedule

import (
	"math/rand/v2"
	"time"
)

// liveSchedule and durableSchedule are the waits before the 2nd, 3rd … attempt of a delivery.
// A wait counts from the end of the attempt before it. The last live wait repeats until the
// event expires; the last durable wait is followed by one final attempt.
var (
	liveSchedule    = [...]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
	durableSchedule = [...]time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
)

// MaxWait is the longest wait of the retry schedule, with jitter.
const MaxWait = 24 * time.Hour * 6 / 5

const (
	liveTTL       = 60 * time.Second // age at which a live event expires
	maxRetryAfter = 24 * time.Hour   // the longest Retry-After that is honored
)

// jitter lengthens a wait by up to a fifth, so that deliveries that failed together are not
// retried together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// A backoff is why and until when a delivery waits for its next attempt.
type backoff struct {
	reason backoffReason
	until  time.Time     // when the next attempt is due if no breaker blocks it; zero: at once, as none was made
	wait   time.Duration // from the last attempt to until
}

// backoffReason is why a delivery waits. It decides when the delivery is due, and whether
// it may be sent earlier as a probe.
//
//	reason         due                            probe
//	noBackoff      at once                        -
//	bySchedule     at until                       yes
//	byRetryAfter   at until                       no: the receiver asked for the wait
//	byGroup        at until                       yes
//	byBreaker      when the breaker has closed    yes, before all others
type backoffReason uint8

const (
	noBackoff    backoffReason = iota // it does not wait
	bySchedule                        // the last attempt failed: see durableSchedule
	byRetryAfter                      // the receiver sent Retry-After
	byGroup                           // other events of its call may follow: see Result.NotBefore
	byBreaker                         // a circuit breaker is open
)

// backoffEnd returns when d stops waiting: when it is due or expires. A delivery that
// waits for a breaker to close has no due time, so that only its expiry counts.
func (d *delivery) backoffEnd() time.Time {
	deadline, ok := d.deadline()
	held := d.backoff.reason == byBreaker
	switch {
	case ok && (held || deadline.Before(d.backoff.until)):
		return deadline
	case held:
		return farFuture
	}
	return d.backoff.until
}

// farFuture is later than all due times.
var farFuture = time.Unix(1<<40, 0)

// backoffHeap is a heap of queues by the end of the backoff of their first delivery.
type backoffHeap []*queue

func (h backoffHeap) Len() int { return len(h) }
func (h backoffHeap) Less(i, j int) bool {
	return h[i].deliveries[0].backoffEnd().Before(h[j].deliveries[0].backoffEnd())
}
func (h backoffHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

func (h *backoffHeap) Push(x any) {
	q := x.(*queue)
	q.heapIndex = len(*h)
	*h = append(*h, q)
}

func (h *backoffHeap) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	q.heapIndex = -1
	return q
}
