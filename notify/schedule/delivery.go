package schedule

import (
	"time"

	"bellhop/dialog"
)

// A delivery is one event owed to one subscription.
//
//	queued ──first in queue──▶ due ──slot──▶ inFlight ──2xx, 410──▶ ended
//	                            ▲               │
//	                            └─ backingOff ◀─┘ failed
//
// In any state but inFlight, a delivery also ends when it expires or when its
// subscription is deleted or disabled. While a circuit breaker blocks the delivery, it
// stays backingOff for the reason byBreaker, unless it is the probe.
type delivery struct {
	queue    *queue
	seq      uint64 // position of the event in the log
	id       string // of the event; "": the outbox did not have it
	kind     dialog.Type
	at       time.Time     // time of the event by the wall clock
	observed time.Time     // at on the monotonic clock, by which the event expires; zero: use at
	event    *dialog.Event // nil: to be read from the log

	state       state
	backoff     backoff
	attempts    int     // all attempts begun
	failures    int     // failed attempts that count in the retry schedule
	redelivered bool    // delivered by a redelivery
	outcome     Outcome // set when it has ended
	reason      string  // why it ended; "": the last attempt or the outcome explains it

	dependency dependency

	entry      outboxEntry
	checkpoint *checkpoint // nil: it has ended, or is in the outbox
}

// state is the state of a delivery; see its diagram.
type state uint8

const (
	queued     state = iota // other deliveries are before it in its queue
	due                     // waits for a free slot of its endpoint and subscription
	inFlight                // an attempt is being made
	backingOff              // waits for its next attempt; see backoff
	ended                   // see outcome
)

// Outcome is the result of an attempt or of a delivery.
type Outcome int

const (
	WillRetry Outcome = iota // there will be another attempt
	Delivered                // the receiver answered 2xx
	Expired                  // too old, or the retry schedule is over
	Refused                  // the receiver answered 410
	Canceled                 // the subscription is deleted or disabled, or another event of its group was sent instead

	Outcomes // how many there are
)

// String returns the word for o in the delivery log. The words are stored: never change
// one.
func (o Outcome) String() string {
	return [...]string{"waiting", "delivered", "expired", "refused", "canceled"}[o]
}

// newDelivery returns a delivery of event e at position seq. c is its checkpoint.
func newDelivery(seq uint64, e *dialog.Event, c *checkpoint) *delivery {
	return &delivery{seq: seq, id: e.ID, kind: e.Type, at: e.At, observed: e.Observed, event: e, checkpoint: c}
}

// live reports whether d is useful for seconds only, because its event reports a passing
// state such as ringing. The delivery of a replayed event is never live.
func (d *delivery) live() bool { return d.kind.Live() && !d.queue.replays }

// deadline returns when d expires. ok is false if d is not live: it then expires only at
// the end of its retry schedule. If the time of the event is known on the monotonic
// clock, setting the wall clock does not move the deadline.
func (d *delivery) deadline() (at time.Time, ok bool) {
	if !d.live() {
		return at, false
	}
	if at = d.observed; at.IsZero() {
		at = d.at
	}
	if ttl := time.Duration(d.queue.subscriber.sub.LiveTTL); ttl != 0 {
		return at.Add(ttl), true
	}
	return at.Add(liveTTL), true
}

// expired reports whether the deadline of d has passed.
func (d *delivery) expired(now time.Time) bool {
	deadline, ok := d.deadline()
	return ok && !now.Before(deadline)
}

// end returns the End of d with outcome o. Call it before d.state becomes ended, because
// Recorded depends on the state.
func (d *delivery) end(o Outcome) End {
	return End{
		Seq: d.seq, EventID: d.id, Type: d.kind, At: d.at, Subscription: d.queue.subscriber.sub.ID, Queue: d.queue.storedName(),
		Failures: d.failures, Outcome: o, Reason: d.reason, Recorded: d.state == inFlight || d.redelivered,
	}
}

// verdict returns whether d has ended after an attempt, and if not, when its next attempt
// is.
func (d *delivery) verdict() Verdict {
	v := Verdict{Ended: d.state == ended, Outcome: d.outcome, Redelivered: d.redelivered}
	if !v.Ended {
		v.Next = d.backoff.until
		if b, _ := d.queue.subscriber.openBreaker(); b != nil && d.backoff.reason == byBreaker {
			v.Next = b.nextProbe
		}
	}
	return v
}
