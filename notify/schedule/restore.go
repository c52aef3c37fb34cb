package schedule

import (
	"time"

	"bellhop/notify/subscription"
)

// Start sets the position up to which the log is settled or in the outbox.
func (s *Scheduler) Start(cursor uint64) {
	s.outbox.cursor, s.outbox.savedCursor, s.lastRead = cursor, cursor, cursor
}

// RestoreDelivery queues a delivery of the outbox, of the event at position seq. stored.Due
// is converted to the clock of now, and observed is the time of the event on the monotonic
// clock, or zero. Deliveries are restored in the order of the log, after Start and before
// the first AddEvent. A delivery without a subscription, or whose event the log has lost, is
// canceled.
func (s *Scheduler) RestoreDelivery(subscription string, seq uint64, stored StoredDelivery, observed time.Time, eventLost bool) {
	d := &delivery{
		seq: seq, id: stored.Event, kind: stored.Type, at: stored.At, observed: observed,
		attempts: stored.Attempts, failures: stored.Failures, backoff: backoff{until: stored.Due, wait: stored.Backoff},
	}
	d.dependency.party = stored.Party
	d.entry.stored = true
	sr := s.subscribers[subscription]
	if sr == nil || eventLost {
		d.queue = &queue{name: stored.Queue, replays: stored.Replay, subscriber: goneSubscriber(subscription)}
		s.hooks.Ended(d.end(Canceled))
		d.state, d.outcome = ended, Canceled
		s.outbox.saveDelivery(d)
		return
	}
	if seq > s.settledPosition(sr) {
		s.outbox.restored[deliveryKey{seq, subscription}] = true // AddEvent or addCatchUpEvent will meet the event again
	}
	s.enqueueDelivery(sr.queueNamed(stored.Queue, stored.Replay), d)
}

// RestoreRead restores a log read of the outbox, or starts a replay that was stored there.
// The entry of one without a subscriber is deleted. It must be called after Start and,
// unless it is a replay, before RestoreDelivery.
func (s *Scheduler) RestoreRead(subscription, name string, stored StoredRead) {
	r := &logRead{subscriber: s.subscribers[subscription], name: name, after: stored.After, to: stored.To, types: stored.Types}
	r.entry.stored = true
	if r.subscriber == nil {
		r.subscriber, r.state = goneSubscriber(subscription), readEnded
		s.outbox.saveRead(r)
		return
	}
	s.catchUp.attachRead(r)
	s.catchUp.continueRead(r) // ends a lag that begins above the cursor: AddEvent adds the events from the cursor on
}

// RestorePause opens the circuit breaker that paused a subscription when an earlier
// process, or another node, stopped delivering. Its first probe is due at once.
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

// goneSubscriber returns a subscriber for restored items whose subscription is gone.
func goneSubscriber(id string) *subscriber {
	return &subscriber{sub: &subscription.Subscription{ID: id}, gone: true}
}

// takeRestored reports whether a delivery was restored from the outbox, the first time that
// its event is met in the log.
func (o *outbox) takeRestored(seq uint64, sr *subscriber) bool {
	key := deliveryKey{seq, sr.sub.ID}
	restored := o.restored[key]
	if restored {
		delete(o.restored, key)
	}
	return restored
}
