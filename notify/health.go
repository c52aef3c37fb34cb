package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// A standing is how deliveries to a subscription go that do not go well. The JSON
// form is what the store keeps: fields are only ever added.
type healthState struct {
	Failing time.Time `json:"failing,omitzero"`  // since when there are failures only
	Paused  time.Time `json:"paused,omitzero"`   // since when a circuit breaker is open; zero: none is
	Why     string    `json:"why,omitempty"`     // the last failure that is known
	Breaker string    `json:"breaker,omitempty"` // whose breaker is open; "": an older version wrote it, or none is
}

// The scopes of a circuit breaker. The words are stored: never change one, only add.
const (
	breakerEndpoint     = "endpoint"
	breakerSubscription = "subscription"
)

// patience is how long a subscription fails before its standing is kept.
const healthDelay = time.Minute

// standings are what the nodes know of how subscriptions stand: who delivers
// writes it, and all read it. Who is not in it stands well.
type healthStates struct {
	kv     jetstream.KeyValue
	nc     *nats.Conn
	wakeup chan struct{} // has room for one: there is something to write

	mu      sync.Mutex
	known   map[string]healthState  // by subscription
	unsaved map[string]*healthState // to be written; nil: to be deleted
}

// openStandings opens the bucket of standings: id of the subscription to JSON.
// One that is deleted leaves a marker, which stays: without it, a server that was
// killed could find the deleted one again.
func openHealthStates(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return openBucket(ctx, js, c, jetstream.KeyValueConfig{
		Bucket:      "bellhop_standings",
		Description: "subscriptions whose deliveries fail",
	})
}

func (h *healthStates) get(id string) (healthState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st, ok := h.known[id]
	return st, ok
}

// set notes how a subscription stands, and has it written. nil: well.
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
	signal(h.wakeup)
}

// watch applies what the bucket holds and, if it is to go on, every change
// until ctx ends. What is still to be written is newer.
func (h *healthStates) watch(ctx context.Context, forever bool) error {
	return watchBucket(ctx, h.kv, forever, h.applyEntry)
}

func (h *healthStates) applyEntry(e jetstream.KeyValueEntry) error {
	var st healthState
	if e.Operation() == jetstream.KeyValuePut {
		if err := json.Unmarshal(e.Value(), &st); err != nil {
			return fmt.Errorf("standing of %s: %w", e.Key(), err)
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

// write writes what is set until ctx ends, and then what is left, for 2 s at
// most.
func (h *healthStates) saveChanges(ctx context.Context) error {
	last, cancel := withDrainTime(ctx, h.nc)
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

func (h *healthStates) saveState(ctx context.Context, id string, st *healthState) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var err error
	if st == nil {
		err = h.kv.Delete(ctx, id)
	} else {
		b, _ := json.Marshal(st) // strings and times of this century
		_, err = h.kv.Put(ctx, id, b)
	}
	if err != nil {
		return fmt.Errorf("standing of %s: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unsaved[id] == st {
		delete(h.unsaved, id)
	}
	return nil
}

// reason is why s is paused: which circuit breaker is open, and the failure that
// opened it.
func (st *healthState) pauseReason(s *Subscription) string {
	if st.Breaker == breakerEndpoint {
		u, _ := url.Parse(urlBeforeVariables(s.URL)) // Validate has parsed both
		return "endpoint " + endpointKey(u) + " is down: " + st.Why
	}
	return "the URL of the subscription fails: " + st.Why
}

// shown is s as it stands.
func (h *healthStates) withHealth(s Subscription) Subscription {
	if st, ok := h.get(s.ID); ok && s.Active && !st.Paused.IsZero() {
		s.State = StatePaused
		s.Why = "paused since " + st.Paused.UTC().Format(time.RFC3339) + ", but for a probe every 30 s at most: " + st.pauseReason(&s)
	}
	return s
}

// stateEvent is the operator event that says how a subscription stands. Its
// extension is the one that the subscription names, or its expression.
func stateEvent(s *Subscription, state State, why string, at time.Time) dialog.Event {
	user, domain, _ := strings.Cut(s.Extension, "@")
	if s.Extension == "" {
		user = s.ExtensionRegex
	}
	sum := sha256.Sum256([]byte(s.ID + " " + string(state) + " " + at.UTC().Format(time.RFC3339Nano)))
	return dialog.Event{
		ID: hex.EncodeToString(sum[:16]), At: at, Type: dialog.SubscriptionState,
		Extension:    dialog.Extension{User: user, Domain: domain},
		Subscription: &dialog.Subscription{ID: s.ID, State: string(state), Why: why},
	}
}
