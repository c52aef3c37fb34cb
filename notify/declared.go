package notify

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"bellhop/notify/subscription"
)

// ErrDeclared reports that a subscription cannot be changed here because the config file
// declares it.
var ErrDeclared = errors.New("the subscription is declared in the config file: change it there, and send SIGHUP")

// Declare replaces the declared subscriptions by subs, those that the config file now
// declares. They must be normalized and valid, and their Declared field names the place
// in the file. They are not stored: each node has those of its own config file.
//
// The ID of each is derived from its extension and its URL, so its pending deliveries
// survive a restart and changes of other fields. A subscription that is no longer
// declared is removed, and its pending deliveries are canceled. One that was disabled
// because its receiver refused or failed stays disabled until the next Declare.
func (n *Notifier) Declare(subs []Subscription) {
	declared := make(map[string]Subscription, len(subs))
	for _, s := range subs {
		s = s.Clone()
		for twin := 0; s.ID == "" || declared[s.ID].ID != ""; twin++ {
			s.ID = declaredID(&s, twin)
		}
		s.State, s.Why = StateActive, ""
		if !s.Active {
			s.State, s.Why = StateDisabled, "switched off"
		}
		s.Revision = declaredRevision(&s)
		declared[s.ID] = s
	}
	n.registry.replaceDeclared(declared)
}

// replaceDeclared replaces the declared subscriptions, by id.
func (r *registry) replaceDeclared(declared map[string]Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.subs {
		if _, still := declared[id]; s.Declared != "" && !still {
			delete(r.subs, id)
			r.markChanged(id)
		}
	}
	for id, s := range declared {
		switch old, known := r.subs[id]; {
		case known && !s.AsksAnew(&old):
			s.Began = old.Began
		case r.declaredOnce:
			s.Began = time.Now()
		} // else it may have been declared before the start, at an unknown time
		r.subs[id] = s
		r.namedTypes.Or(uint32(subscription.MaskOf(s.Types...)))
		r.markChanged(id)
	}
	r.declaredOnce = true
}

// disableDeclared disables a declared subscription until the next Declare. It does
// nothing if the subscription has another URL meanwhile.
func (r *registry) disableDeclared(id, url, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.subs[id]
	if s.Declared == "" || s.URL != url {
		return
	}
	s.Active, s.State, s.Why = false, StateDisabled, why
	s.Revision = declaredRevision(&s)
	r.subs[id] = s
	r.markChanged(id)
}

// declaredID returns 30 characters of [A-Za-z0-9] for a declared subscription. twin is
// the number of subscriptions before it with the same extension and URL.
func declaredID(s *Subscription, twin int) string {
	// Never change this: the outbox stores deliveries under this id.
	sum := sha256.Sum256([]byte(strings.Join([]string{s.Extension, s.ExtensionRegex, s.URL, fmt.Sprint(twin)}, "\x00")))
	id := make([]byte, 30)
	for i := range id {
		id[i] = idChars[int(sum[i])%len(idChars)]
	}
	return string(id)
}

// declaredRevision returns a revision for a declared subscription. It changes whenever a
// visible field changes.
func declaredRevision(s *Subscription) uint64 {
	h := fnv.New64a()
	json.NewEncoder(h).Encode(s.Redacted()) // cannot fail: strings and numbers only
	return h.Sum64() | 1                    // 0 means no revision
}
