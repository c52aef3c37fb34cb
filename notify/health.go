package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/schedule"
	"bellhop/notify/stream"
)

// A healthState is the health of a subscription whose deliveries fail. The store keeps its
// JSON form: fields are only ever added.
type healthState struct {
	Failing time.Time `json:"failing,omitzero"`  // since when all attempts fail
	Paused  time.Time `json:"paused,omitzero"`   // since when a circuit breaker is open; zero: none is
	Why     string    `json:"why,omitempty"`     // the last known failure
	Breaker string    `json:"breaker,omitempty"` // scope of the open breaker; "": none, or written by an older version
}

const (
	healthDelay  = time.Minute        // how long a subscription fails before its healthState is stored
	disableAfter = 5 * 24 * time.Hour // a subscription that fails this long without a success is disabled
)

// healthStates holds the health of all subscriptions that fail. The delivering node writes
// it, and all nodes read it. A subscription without an entry is healthy.
type healthStates struct {
	kv     jetstream.KeyValue
	nc     *nats.Conn
	wakeup chan struct{} // capacity 1: unsaved is not empty

	mu      sync.Mutex
	known   map[string]healthState  // by subscription id
	unsaved map[string]*healthState // to be written; nil: to be deleted
}

// openHealthStates opens the bucket of health: JSON by subscription id. The marker of a
// deleted entry is never removed, because without it a server that was killed could
// restore the deleted entry.
func openHealthStates(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return openBucket(ctx, js, c, jetstream.KeyValueConfig{
		Bucket:      "bellhop_standings",
		Description: "subscriptions whose deliveries fail",
	})
}

// get returns the health of a subscription; ok is false if it is healthy.
func (h *healthStates) get(id string) (healthState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st, ok := h.known[id]
	return st, ok
}

// set records the health of a subscription and marks it for writing. A nil st means
// healthy.
func (h *healthStates) set(id string, st *healthState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.known[id]; st == nil && !known {
		return
	}
	h.unsaved[id] = st
	if delete(h.known, id); st != nil {
		h.known[id] = *st
	}
	stream.Signal(h.wakeup)
}

// watch applies all entries of the bucket. If forever is true, it then applies every
// change until ctx ends. It ignores an entry if a newer state of the subscription is
// still to be written.
func (h *healthStates) watch(ctx context.Context, forever bool) error {
	return watchBucket(ctx, h.kv, forever, h.applyEntry)
}

// applyEntry applies one entry of the bucket, unless a newer state is still to be
// written.
func (h *healthStates) applyEntry(e jetstream.KeyValueEntry) error {
	var st healthState
	if e.Operation() == jetstream.KeyValuePut {
		if err := json.Unmarshal(e.Value(), &st); err != nil {
			return fmt.Errorf("decode health of subscription %s: %w", e.Key(), err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ours := h.unsaved[e.Key()]; ours {
		return nil
	}
	if delete(h.known, e.Key()); e.Operation() == jetstream.KeyValuePut {
		h.known[e.Key()] = st
	}
	return nil
}

// saveChanges writes changed states until ctx ends, and then the remaining ones for at
// most 2 s.
func (h *healthStates) saveChanges(ctx context.Context) error {
	last, cancel := stream.WithDrainTime(ctx, h.nc)
	defer cancel()
	for {
		h.mu.Lock()
		changes := maps.Clone(h.unsaved)
		h.mu.Unlock()
		for id, st := range changes {
			if err := h.saveState(last, id, st); err != nil {
				return err
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-h.wakeup:
		case <-ctx.Done():
			return nil
		}
	}
}

// saveState writes the health of one subscription.
func (h *healthStates) saveState(ctx context.Context, id string, st *healthState) error {
	ctx, cancel := context.WithTimeout(ctx, stream.Timeout)
	defer cancel()
	var err error
	if st == nil {
		err = h.kv.Delete(ctx, id)
	} else {
		b, _ := json.Marshal(st) // cannot fail: strings and times of this century
		_, err = h.kv.Put(ctx, id, b)
	}
	if err != nil {
		return fmt.Errorf("store health of subscription %s: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unsaved[id] == st {
		delete(h.unsaved, id)
	}
	return nil
}

// pauseReason returns why s is paused: the open circuit breaker and the failure that opened
// it.
func (st *healthState) pauseReason(s *Subscription) string {
	if st.Breaker == schedule.EndpointBreaker {
		u := s.BaseURL()
		return "endpoint " + schedule.EndpointKey(u) + " is down: " + st.Why
	}
	return "the URL of the subscription fails: " + st.Why
}

// withHealth returns s with the state paused and its reason if s is active and a circuit
// breaker pauses it. Otherwise it returns s unchanged.
func (h *healthStates) withHealth(s Subscription) Subscription {
	if st, ok := h.get(s.ID); ok && s.Active && !st.Paused.IsZero() {
		s.State = StatePaused
		s.Why = st.pauseReason(&s) + "; since " + st.Paused.UTC().Format(time.RFC3339) + " only probes are sent, up to 30 s apart"
	}
	return s
}

// restorePause restores the pause of s that its stored health st records, by opening the
// circuit breaker that paused s. It does nothing if this process already delivered to s
// (known). If s was edited since the pause, restorePause publishes instead that s is
// resumed.
func (l *deliveryLoop) restorePause(s Subscription, st healthState, known bool) {
	h, ok := l.scheduler.Health(s.ID)
	if !ok || known || st.Paused.IsZero() {
		return
	}
	if s.Modified.After(st.Paused) {
		l.publishHealth(h)
		return
	}
	l.scheduler.RestorePause(time.Now(), s.ID, schedule.Health{Paused: st.Paused, Why: st.Why, Breaker: st.Breaker})
}

// updateHealth stores when a subscription began to fail, once it has failed for
// healthDelay, and clears it when the subscription recovers. After disableAfter of
// failures it disables the subscription.
func (l *deliveryLoop) updateHealth(now time.Time, h schedule.Health, why string) {
	id := h.Subscription.ID
	st, known := l.health.get(id)
	switch {
	case h.Failing.IsZero():
		if known && st.Paused.IsZero() {
			l.health.set(id, nil)
		}
	case now.Sub(h.Failing) >= disableAfter:
		l.disableSubscription(h.Subscription, "all attempts failed since "+h.Failing.UTC().Format(time.RFC3339)+"; last failure: "+why)
	case !known && now.Sub(h.Failing) >= healthDelay:
		l.health.set(id, &healthState{Failing: h.Failing, Why: why})
	}
}

// reportBreaker logs that the circuit breaker of an endpoint has opened or closed, and
// counts the openings.
func (l *deliveryLoop) reportBreaker(endpoint string, open bool, why string) {
	if open {
		l.stats.paused.Add(1)
		l.log.Warn("endpoint paused", "endpoint", endpoint, "err", why)
	} else {
		l.log.Info("endpoint resumed", "endpoint", endpoint)
	}
}

// publishHealth publishes and stores that a subscription was paused or resumed. If
// another circuit breaker pauses a paused subscription, it only stores that.
func (l *deliveryLoop) publishHealth(h schedule.Health) {
	id := h.Subscription.ID
	st, _ := l.health.get(id)
	switch {
	case h.Paused.IsZero() && st.Paused.IsZero():
	case h.Paused.IsZero():
		if h.Failing.IsZero() || st.Failing.IsZero() {
			l.health.set(id, nil)
		} else {
			l.health.set(id, &healthState{Failing: h.Failing, Why: st.Why})
		}
		if st.Breaker == schedule.SubscriptionBreaker {
			l.log.Info("subscription resumed", "subscriber", id)
		}
		l.EventLog.Append([]dialog.Event{h.Subscription.StateEvent("resumed", "", time.Now())})
	case st.Paused.IsZero() || st.Breaker != h.Breaker:
		begins := st.Paused.IsZero()
		st := healthState{Failing: h.Failing, Paused: h.Paused, Why: h.Why, Breaker: h.Breaker}
		l.health.set(id, &st)
		if h.Breaker == schedule.SubscriptionBreaker {
			l.stats.ownPaused.Add(1)
			l.log.Warn("subscription paused", "subscriber", id, "err", h.Why)
		}
		if begins {
			l.EventLog.Append([]dialog.Event{h.Subscription.StateEvent("paused", st.pauseReason(h.Subscription), time.Now())})
		}
	}
}

// disableSubscription publishes that a subscription is disabled, and disables it in the
// store in the background. It tries again until that succeeds.
func (l *deliveryLoop) disableSubscription(s *Subscription, why string) {
	if l.disabling[s.ID] {
		return
	}
	l.disabling[s.ID] = true
	id, url := s.ID, s.URL
	l.stats.disabled.Add(1)
	l.log.Warn("subscription disabled", "subscriber", id, "why", why)
	l.EventLog.Append([]dialog.Event{s.StateEvent(StateDisabled, why, time.Now())})
	l.helpers.Go(func() {
		defer l.recoverPanic("disable subscription")
		for l.attemptCtx.Err() == nil {
			ctx, cancel := context.WithTimeout(l.attemptCtx, stream.Timeout)
			err := l.registry.disableSubscription(ctx, id, url, why)
			cancel()
			if err == nil {
				return
			}
			l.log.Error("subscription not disabled", "subscriber", id, "err", err)
			stream.Sleep(l.attemptCtx, stream.Backoff)
		}
	})
}
