package admin

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Reading the API takes what SIP leaves: requests that read are served one at a
// time, and under strain with a pause before each. The others wait for their turn;
// beyond these numbers, in all and with one token, a request is answered 503. Requests
// that open a stream have a gate of their own, which does not pause: opening costs
// little, and pages that wait would keep streams out.
const (
	maxWaiting         = 32
	maxWaitingPerToken = 24
)

// strainPause is how long a request under strain waits at its turn: 10 are served a
// second. Streams rest strainPace times as long then.
const (
	strainPause  = 100 * time.Millisecond
	strainFactor = 8
)

// longTurn is when a request loses its turn: it waits, for the store or for a client
// that does not read, and takes no processor from SIP.
const maxTurn = time.Second

// sliceOf is how many events are encoded before other goroutines run.
const yieldEvery = 16

// A gate lets requests that read have their turns.
type gate struct {
	strained func() bool   // SIP waits for processors
	turn     chan struct{} // full while a request has its turn

	mu           sync.Mutex
	waiting      map[string]int // by the id of the token
	waitingTotal int
	refused      uint64
}

func newGate(strained func() bool) *gate {
	if strained == nil {
		strained = func() bool { return false }
	}
	return &gate{strained: strained, turn: make(chan struct{}, 1), waiting: make(map[string]int)}
}

// enter waits for the turn of a request with a token. The caller leaves when it is
// done; leave may be called more than once. It reports false if too many wait, or
// ctx ends.
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

func (g *gate) stopWaiting(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waitingTotal--
	if g.waiting[token]--; g.waiting[token] == 0 {
		delete(g.waiting, token)
	}
}

// refusals is how many requests were refused.
func (g *gate) refusedCount() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// pace returns how long a stream rests that rests for d without strain.
func (g *gate) pace(d time.Duration) time.Duration {
	if g.strained() {
		return strainFactor * d
	}
	return d
}

type turnKey struct{}

// leaveTurn ends the turn of the request of ctx, which goes on without.
func releaseTurn(ctx context.Context) {
	if leave, ok := ctx.Value(turnKey{}).(func()); ok {
		leave()
	}
}

// inTurn has next serve requests that read at their turn, and answers 503 if too
// many wait. What changes something is served at once: it is rare, and waits for the
// store.
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

// opensStream reports whether r asks for the event stream, or for a live part of a page.
func opensStream(r *http.Request) bool {
	return acceptsMediaType(r.Header.Get("Accept"), streamType) &&
		(r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/live/"))
}

// yield has other goroutines run after each sliceOf events, the first being 1.
func yieldAfter(event int) {
	if event%yieldEvery == 0 {
		runtime.Gosched()
	}
}
