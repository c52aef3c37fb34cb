package schedule

import (
	"time"

	"bellhop/notify/subscription"
)

// Start sets the cursor: each delivery of the events up to it has ended or is in the
// outbox. The log is read from the next event on.
func (s *Scheduler) Start(cursor uint64) {
	s.outbox.cursor, s.outbox.savedCursor, s.lastRead = cursor, cursor, cursor
}

// RestoreDelivery enqueues a delivery that the outbox has, of the event at position seq.
// stored.Due must be converted to the clock of now. observed is the time of the event on
// the monotonic clock, or zero. Deliveries are restored in the order of the log, after
// Start and before the first Run. A delivery is canceled if its subscription is not
// active, or if the log has lost its event.
func (s *Scheduler) RestoreDelivery(subscription string, seq uint64, stored StoredDelivery, observed time.Time, eventLost bool) {
	d := &delivery{
		seq: seq, id: stored.Event, kind: stored.Type, at: stored.At, observed: observed,
		attempts: stored.Attempts, failures: stored.Failures, backoff: backoff{until: stored.Due, wait: stored.Backoff},
	}
	d.dependency.party = stored.Party
	d.entry.stored = true
	sr, k := s.subscribers[subscription], restoreQueueKey(stored.Queue, stored.Replay)
	if sr == nil || eventLost {
		d.queue = &queue{queueKey: k, subscriber: goneSubscriber(subscription)}
		s.hooks.Ended(d.end(Canceled))
		d.state, d.outcome = ended, Canceled
		s.outbox.saveDelivery(d)
		return
	}
	if seq > s.settledPosition(sr) {
		s.outbox.restored[deliveryKey{seq, subscription}] = true // addEvent or addCatchUpEvent will get the event again
	}
	s.enqueueDelivery(sr.queueOf(k), d)
}

// RestoreRead continues a log read that the outbox has, or starts a replay that was
// written there. If the subscription is not active, the entry is deleted. RestoreRead
// must be called after Start and, unless the log read is a replay, before
// RestoreDelivery.
func (s *Scheduler) RestoreRead(subscription, name string, stored StoredRead) {
	r := &logRead{subscriber: s.subscribers[subscription], name: name, after: stored.After, to: stored.To, types: stored.Types}
	r.entry.stored = true
	if r.subscriber == nil {
		r.subscriber, r.state = goneSubscriber(subscription), readEnded
		s.outbox.saveRead(r)
		return
	}
	s.catchUp.attachRead(r)
	s.catchUp.continueRead(r) // this ends a lag that begins above the cursor, because addEvent will add those events
}

// RestorePause opens the circuit breaker that paused a subscription when an earlier
// process, or another node, stopped delivering. The first probe is due at once.
func (s *Scheduler) RestorePause(now time.Time, subscription string, h Health) {
	sr := s.subscribers[subscription]
	if sr == nil {
		return
	}
	b := &sr.breaker
	if h.Breaker == EndpointBreaker {
		b = &sr.endpoint.breaker
	}
	if b.open() {
		return
	}
	*b = breaker{openSince: h.Paused, reason: h.Why, probeInterval: minProbeInterval, nextProbe: now}
	if h.Breaker != EndpointBreaker {
		s.breakers.openSubscriber(sr)
		return
	}
	sr.endpoint.noAnswers = false
	s.breakers.openEndpoint(sr.endpoint)
}

// goneSubscriber returns a subscriber for restored deliveries and log reads whose
// subscription is not active.
func goneSubscriber(id string) *subscriber {
	return &subscriber{sub: &subscription.Subscription{ID: id}, gone: true}
}

// takeRestored reports whether the delivery of the event at seq to sr was restored from
// the outbox, so that it must not be enqueued again. It reports true only once, because
// the event is read from the log only once more.
func (o *outbox) takeRestored(seq uint64, sr *subscriber) bool {
	key := deliveryKey{seq, sr.sub.ID}
	restored := o.restored[key]
	if restored {
		delete(o.restored, key)
	}
	return restored
}
