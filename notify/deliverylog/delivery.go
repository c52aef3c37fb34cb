package deliverylog

import (
	"cmp"
	"slices"
	"time"

	"bellhop/dialog"
)

// A Delivery is one event owed to one subscription, with its attempts.
type Delivery struct {
	ID           string // the webhook-id
	Subscription string
	Event        string // id of the event
	Type         dialog.Type
	Call         string
	Extension    string    // with its domain, if known
	EventTime    time.Time // time of the event
	State        string    // Waiting, Delivered …
	Next         time.Time // when the next attempt is due, if it waits for one
	Attempts     []Attempt // oldest first

	Seq uint64 // position of the event in the log; 0: unknown
}

// ID returns the webhook-id of a delivery.
func ID(event, subscription string) string { return event + "-" + subscription }

// EndedAt returns the time of the attempt that ended d, or zero if none has. After a
// redelivery, several attempts may have ended d; the last one counts.
func (d *Delivery) EndedAt() (at time.Time) {
	for _, a := range d.Attempts {
		if a.Ended() {
			at = a.At
		}
	}
	return at
}

// newDelivery returns the Delivery of a record.
func newDelivery(subscription string, l *Stored) Delivery {
	d := Delivery{ID: ID(l.Event, subscription), Subscription: subscription, Event: l.Event}
	d.addRecord(l)
	return d
}

// addRecord adds a record of the delivery log to d.
func (d *Delivery) addRecord(l *Stored) {
	d.Seq, d.Type, d.EventTime = l.Seq, l.Type, time.UnixMicro(l.EventTime)
	d.Call, d.Extension = cmp.Or(d.Call, l.Call), cmp.Or(d.Extension, l.Extension)
	d.Attempts = append(d.Attempts, l.Attempt())
}

// SortAttempts sorts the attempts by time, removes records that were written twice, and
// derives the state of d from them.
func (d *Delivery) SortAttempts() {
	slices.SortStableFunc(d.Attempts, func(a, b Attempt) int { return a.At.Compare(b.At) })
	d.Attempts = slices.CompactFunc(d.Attempts, func(a, b Attempt) bool {
		return a.At.Equal(b.At) && a.Number == b.Number && a.ByHand == b.ByHand && a.Outcome == b.Outcome
	})
	if d.State == Waiting {
		return
	}
	for _, a := range d.Attempts {
		if a.Ended() {
			d.State = a.Outcome
		}
	}
}

// HasQueueAttempt reports whether the attempts include one that the scheduler made. If
// not, the delivery succeeded at the first attempt, whose record is not read yet, or was
// redelivered before its first attempt.
func (d *Delivery) HasQueueAttempt() bool {
	return slices.ContainsFunc(d.Attempts, func(a Attempt) bool { return !a.ByHand })
}
