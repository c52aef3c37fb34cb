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
	maxWaiting   = 32
	maxWaitingOf = 24
)

// strainPause is how long a request under strain waits at its turn: 10 are served a
// second. Streams rest strainPace times as long then.
const (
	strainPause = 100 * time.Millisecond
	strainPace  = 8
)

// longTurn is when a request loses its turn: it waits, for the store or for a client
// that does not read, and takes no processor from SIP.
const longTurn = time.Second

// sliceOf is how many events are encoded before other goroutines run.
const sliceOf = 16

// A gate lets requests that read have their turns.
type gate struct {
	strained func() bool   // SIP waits for processors
	turn     chan struct{} // full while a request has its turn

	mu      sync.Mutex
	waiting map[string]int // by the id of the token
	all     int
	refused uint64
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
func (g *gate) enter(ctx context.Context, token string) (leave func(), ok bool) {
	if !g.wait(token) {
		return nil, false
	}
	defer g.served(token)
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	leave = sync.OnceFunc(func() { <-g.turn })
	if g.strained() {
		pause(ctx, strainPause)
	}
	return leave, true
}

func (g *gate) wait(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= maxWaiting || g.waiting[token] >= maxWaitingOf {
		g.refused++
		return false
	}
	g.all++
	g.waiting[token]++
	return true
}

func (g *gate) served(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.waiting[token]--; g.waiting[token] == 0 {
		delete(g.waiting, token)
	}
}

// refusals is how many requests were refused.
func (g *gate) refusals() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// pace returns how long a stream rests that rests for d without strain.
func (g *gate) pace(d time.Duration) time.Duration {
	if g.strained() {
		return strainPace * d
	}
	return d
}

type turnKey struct{}

// leaveTurn ends the turn of the request of ctx, which goes on without.
func leaveTurn(ctx context.Context) {
	if leave, ok := ctx.Value(turnKey{}).(func()); ok {
		leave()
	}
}

// inTurn has next serve requests that read at their turn, and answers 503 if too
// many wait. What changes something is served at once: it is rare, and waits for the
// store.
func (s *Server) inTurn(refuse refusal, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if askedBy(r) != toRead {
			next.ServeHTTP(w, r)
			return
		}
		gate := s.gate
		if opensStream(r) {
			gate = s.streamGate
		}
		leave, ok := gate.enter(r.Context(), accessOf(r.Context()).id)
		if !ok {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "too many requests are waiting, and calls go first: try again")
			return
		}
		defer leave()
		defer time.AfterFunc(longTurn, leave).Stop()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), turnKey{}, leave)))
	})
}

// opensStream reports whether r asks for the event stream, or for a live part of a page.
func opensStream(r *http.Request) bool {
	return accepts(r.Header.Get("Accept"), streamType) &&
		(r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/live/"))
}

// yield has other goroutines run after each sliceOf events, the first being 1.
func yield(event int) {
	if event%sliceOf == 0 {
		runtime.Gosched()
	}
}
