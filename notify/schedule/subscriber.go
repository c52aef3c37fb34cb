package schedule

import (
	"container/heap"
	"net/url"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

const (
	maxInFlight         = 4       // attempts at once, per subscription
	maxEndpointAttempts = 64      // attempts at once, per endpoint
	maxCachedMatches    = 100_000 // extensions whose subscribers are cached
)

// A subscriber is an active subscription with its delivery queues and its circuit breaker.
type subscriber struct {
	sub      *subscription.Subscription // never changed, only replaced
	url      *url.URL
	filter   subscription.Filter
	gone     bool // deleted or disabled
	endpoint *endpoint

	queues     map[queueKey]*queue
	pending    int             // deliveries that have not ended
	due        fifo[*delivery] // due deliveries, each the first of its queue
	dueReplays fifo[*delivery] // likewise, of queues of replayed events; attempted when due is empty
	inFlight   int             // attempts
	enqueued   bool            // in dueSubscribers of its endpoint

	failing      time.Time // since when all attempts fail; zero: the last one succeeded
	breaker                // counts the statuses and the missing responses of its own URL
	missedAnswer bool      // its last attempt got no response

	reads []*logRead // its log reads that have not ended
	lag   *logRead   // the read by which it catches up; nil: it does not lag

	newCalls map[string]NewCall // by party or groupKey; for the dialect cti only
}

// apply sets the current form of the subscription.
func (sr *subscriber) apply(sub *subscription.Subscription) {
	sr.sub, sr.filter, sr.url = sub, sub.Filter(), sub.BaseURL()
}

// maxAttempts returns how many attempts of sr may be in flight. If its endpoint has
// several subscribers, each may take at most half of the slots of the endpoint, so that a
// slow URL leaves room for the others.
func (sr *subscriber) maxAttempts() int {
	limit := sr.sub.MaxInFlight
	if limit == 0 {
		limit = maxInFlight
	}
	if len(sr.endpoint.subscribers) > 1 {
		return min(limit, maxEndpointAttempts/2)
	}
	return limit
}

// queueOf returns the queue of sr with key k, and creates it if it does not exist.
func (sr *subscriber) queueOf(k queueKey) *queue {
	q := sr.queues[k]
	if q == nil {
		q = &queue{queueKey: k, subscriber: sr, heapIndex: -1}
		sr.queues[k] = q
	}
	return q
}

// pendingSeqs returns the log positions of all pending deliveries of sr.
func (sr *subscriber) pendingSeqs() map[uint64]bool {
	pending := make(map[uint64]bool, sr.pending)
	for _, q := range sr.queues {
		for _, d := range q.deliveries {
			pending[d.seq] = true
		}
	}
	return pending
}

// blockedByEndpoint reports whether the circuit breaker of the endpoint blocks sr. A
// breaker that opened for missing responses blocks only a subscriber whose last attempt
// got none.
func (sr *subscriber) blockedByEndpoint() bool {
	e := sr.endpoint
	return e.open() && (sr.missedAnswer || !e.noAnswers)
}

// openBreaker returns the circuit breaker that pauses sr, and its scope: EndpointBreaker or
// SubscriptionBreaker. It returns nil if sr is not paused.
func (sr *subscriber) openBreaker() (b *breaker, of string) {
	switch {
	case sr.blockedByEndpoint():
		return &sr.endpoint.breaker, EndpointBreaker
	case sr.open():
		return &sr.breaker, SubscriptionBreaker
	}
	return nil, ""
}

// health returns the health of sr.
func (sr *subscriber) health() Health {
	h := Health{Subscription: sr.sub, Failing: sr.failing}
	if b, of := sr.openBreaker(); b != nil {
		h.Paused, h.Why, h.Breaker = b.openSince, b.reason, of
	}
	return h
}

// Has reports whether a subscription is active.
func (s *Scheduler) Has(subscription string) bool { return s.subscribers[subscription] != nil }

// ApplySubscription adds a subscription or applies its changes. If the subscription is
// not active, it is removed and its pending deliveries are canceled. failing is used only
// for a subscription that is added. It is the time since when all attempts failed, as an
// earlier process stored it, or zero.
func (s *Scheduler) ApplySubscription(sub subscription.Subscription, failing time.Time) {
	sr := s.subscribers[sub.ID]
	if sr != nil && !sub.Active {
		s.cancelSubscriber(sr)
	}
	if !sub.Active {
		return
	}
	edited := false
	if sr == nil {
		sr = &subscriber{queues: make(map[queueKey]*queue), failing: failing}
		s.subscribers[sub.ID] = sr
	} else {
		s.extensions.remove(sr)
		edited = sub.URL != sr.sub.URL || sub.Revision != sr.sub.Revision
		if sub.LiveTTL != sr.sub.LiveTTL {
			defer heap.Init(&s.dispatch.backoffs)
		}
		if sub.URL != sr.sub.URL {
			sr.failing = time.Time{}
		}
		if !sub.AskedSince().Equal(sr.sub.AskedSince()) {
			sr.clearURLs()
		}
	}
	sr.apply(&sub)
	s.extensions.add(sr)
	s.attachEndpoint(sr)
	if edited { // earlier failures do not concern the new form
		s.breakers.closeSubscriber(sr)
	}
	s.dispatch.enqueueSubscriber(sr)
}

// cancelSubscriber removes sr and cancels its pending deliveries. An attempt in flight
// continues, and its delivery ends with the result. If the result is that the attempt
// must be retried, the delivery is canceled.
func (s *Scheduler) cancelSubscriber(sr *subscriber) {
	sr.gone = true
	s.extensions.remove(sr)
	delete(s.subscribers, sr.sub.ID)
	delete(s.breakers.subscribers, sr)
	for _, r := range slices.Clone(sr.reads) {
		s.catchUp.endRead(r)
	}
	for _, q := range sr.queues {
		for _, d := range slices.Clone(q.deliveries) {
			switch d.state {
			case queued, due, backingOff:
				s.endDelivery(d, Canceled)
			case inFlight, ended:
			}
		}
	}
	s.leaveEndpoint(sr, sr.endpoint)
}

// Health returns the health of a subscription; ok is false if it is not active.
func (s *Scheduler) Health(subscription string) (h Health, ok bool) {
	sr := s.subscribers[subscription]
	if sr == nil {
		return h, false
	}
	return sr.health(), true
}

// An endpoint is a scheme, host and port: a server that is up or down as a whole.
type endpoint struct {
	key            string
	subscribers    map[*subscriber]bool // none: it is no longer used
	dueSubscribers fifo[*subscriber]    // that can start an attempt; they take turns
	inFlight       int                  // attempts
	enqueued       bool                 // in dueEndpoints

	breaker                   // counts failed connections and missing responses
	firstFailed   *subscriber // the subscriber of the first failure since the last response
	severalFailed bool        // another subscriber has failed since then too
	noAnswers     bool        // the breaker opened for a missing response, not for a failed connection
}

// EndpointKey returns scheme, host and port of a URL; a default port is left out.
func EndpointKey(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

// noteFailed records that sr got no response from e. Call it before the failure is
// counted: failures is 0 if this is the first one since the last response.
func (e *endpoint) noteFailed(sr *subscriber) {
	if e.failures == 0 {
		e.firstFailed, e.severalFailed = sr, false
	}
	e.severalFailed = e.severalFailed || e.firstFailed != sr
}

// attachEndpoint moves sr to the endpoint of its URL.
func (s *Scheduler) attachEndpoint(sr *subscriber) {
	key := EndpointKey(sr.url)
	old, e := sr.endpoint, s.endpoints[key]
	if old != nil && old == e {
		return
	}
	if e == nil {
		e = &endpoint{key: key, subscribers: make(map[*subscriber]bool)}
		s.endpoints[key] = e
	}
	e.subscribers[sr] = true
	sr.endpoint, sr.enqueued = e, false
	if old == nil {
		return
	}
	s.dispatch.releaseHeld(sr)
	s.dispatch.holdDue(sr)
	if old.open() {
		s.dispatch.scheduleProbe(old.nextProbe) // the probe of old may have been a delivery of sr
	}
	s.leaveEndpoint(sr, old)
	if old.open() || e.open() {
		s.breakers.reportHealth(sr)
	}
}

// leaveEndpoint removes sr from e, and removes e if it has no other subscriber.
func (s *Scheduler) leaveEndpoint(sr *subscriber, e *endpoint) {
	delete(e.subscribers, sr)
	if len(e.subscribers) == 0 && s.endpoints[e.key] == e {
		delete(s.endpoints, e.key)
		delete(s.breakers.endpoints, e)
	}
}

// An extensionIndex finds the subscribers of an extension.
type extensionIndex struct {
	byUser  map[string][]*subscriber           // subscribers of one extension, by its user part
	byRegex []*subscriber                      // subscribers of a regular expression
	cache   map[dialog.Extension][]*subscriber // cleared whenever a subscription changes
}

// newExtensionIndex returns an empty index.
func newExtensionIndex() extensionIndex {
	return extensionIndex{byUser: make(map[string][]*subscriber), cache: make(map[dialog.Extension][]*subscriber)}
}

// add adds sr under the extension or expression of its subscription.
func (x *extensionIndex) add(sr *subscriber) {
	clear(x.cache)
	if sr.sub.ExtensionRegex != "" {
		x.byRegex = append(x.byRegex, sr)
		return
	}
	user, _, _ := strings.Cut(sr.sub.Extension, "@")
	x.byUser[user] = append(x.byUser[user], sr)
}

// remove removes sr; its subscription must be the one under which it was added.
func (x *extensionIndex) remove(sr *subscriber) {
	clear(x.cache)
	is := func(other *subscriber) bool { return other == sr }
	user, _, _ := strings.Cut(sr.sub.Extension, "@")
	x.byRegex = slices.DeleteFunc(x.byRegex, is)
	if x.byUser[user] = slices.DeleteFunc(x.byUser[user], is); len(x.byUser[user]) == 0 {
		delete(x.byUser, user)
	}
}

// match returns the subscribers whose subscription covers an extension.
func (x *extensionIndex) match(e dialog.Extension) []*subscriber {
	matched, ok := x.cache[e]
	if ok {
		return matched
	}
	for _, sr := range slices.Concat(x.byUser[e.User], x.byRegex) {
		if sr.filter.Covers(e) {
			matched = append(matched, sr)
		}
	}
	if len(x.cache) >= maxCachedMatches {
		clear(x.cache)
	}
	x.cache[e] = matched
	return matched
}
