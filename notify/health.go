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
