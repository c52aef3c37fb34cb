package admin

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Reading requests get only the processor time that SIP leaves: they are served one at
// a time, and under strain with a pause before each. At most maxWaiting requests wait
// for their turn, maxWaitingPerToken of one token; a further one is answered 503.
// Requests that open a stream have a gate of their own, which does not pause: opening
// costs little, and page requests that wait would keep streams out.
const (
	maxWaiting         = 32
	maxWaitingPerToken = 24
)

// strainPause is the pause before each reading request under strain, which limits them
// to 10 a second. strainFactor multiplies the waits of streams under strain.
const (
	strainPause  = 100 * time.Millisecond
	strainFactor = 8
)

// maxTurn ends the turn of a request that is still being served: it waits for the store
// or for a slow client, and takes no processor time from SIP.
const maxTurn = time.Second

// yieldEvery is the number of events that are encoded before other goroutines run.
const yieldEvery = 16

// gate queues requests and lets one at a time have its turn.
type gate struct {
	strained func() bool   // reports whether SIP waits for processors
	turn     chan struct{} // full while a request has its turn

	mu           sync.Mutex
	waiting      map[string]int // by token id
	waitingTotal int
	refused      uint64
}

// newGate returns a gate that pauses while strained reports true; nil: it never does.
func newGate(strained func() bool) *gate {
	if strained == nil {
		strained = func() bool { return false }
	}
	return &gate{strained: strained, turn: make(chan struct{}, 1), waiting: make(map[string]int)}
}

// acquire waits for the turn of a request with a token. The caller calls leave when it
// is done, once or more. acquire returns false if too many requests wait, or ctx ends.
func (g *gate) acquire(ctx context.Context, token string) (leave func(), ok bool) {
	if !g.startWaiting(token) {
		return nil, false
	}
	defer g.stopWaiting(token)
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	leave = sync.OnceFunc(func() { <-g.turn })
	if g.strained() {
		sleepContext(ctx, strainPause)
	}
	return leave, true
}

// startWaiting counts a request as waiting, and reports whether there is room for it.
func (g *gate) startWaiting(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waitingTotal >= maxWaiting || g.waiting[token] >= maxWaitingPerToken {
		g.refused++
		return false
	}
	g.waitingTotal++
	g.waiting[token]++
	return true
}

// stopWaiting removes a request that startWaiting has counted.
func (g *gate) stopWaiting(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waitingTotal--
	if g.waiting[token]--; g.waiting[token] == 0 {
		delete(g.waiting, token)
	}
}

// refusedCount returns the number of refused requests.
func (g *gate) refusedCount() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// pace returns how long a stream waits under the current strain if it waits for d
// without.
func (g *gate) pace(d time.Duration) time.Duration {
	if g.strained() {
		return strainFactor * d
	}
	return d
}

type turnKey struct{}

// releaseTurn ends the turn of the request of ctx, which is served on without one.
func releaseTurn(ctx context.Context) {
	if leave, ok := ctx.Value(turnKey{}).(func()); ok {
		leave()
	}
}

// queueReads lets next serve reading requests one at a time, and answers 503 if too
// many wait. Changes are served at once: they are rare, and wait for the store anyway.
func (s *Server) queueReads(refuse errorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requiredPermission(r) != permitRead {
			next.ServeHTTP(w, r)
			return
		}
		gate := s.gate
		if opensStream(r) {
			gate = s.streamGate
		}
		leave, ok := gate.acquire(r.Context(), accessOf(r.Context()).id)
		if !ok {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "too many requests are waiting, and calls go first: try again")
			return
		}
		defer leave()
		defer time.AfterFunc(maxTurn, leave).Stop()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), turnKey{}, leave)))
	})
}

// opensStream reports whether r asks for the event stream, or for a live part of a
// page.
func opensStream(r *http.Request) bool {
	return acceptsMediaType(r.Header.Get("Accept"), streamType) &&
		(r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/live/"))
}

// yieldAfter lets other goroutines run after every yieldEvery-th event; the first event
// is 1.
func yieldAfter(event int) {
	if event%yieldEvery == 0 {
		runtime.Gosched()
	}
}
