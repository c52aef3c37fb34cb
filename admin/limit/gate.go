// Package limit bounds what the clients of the HTTP API take from SIP and from each
// other: connections, requests a second, processor time, and memory of event streams.
//
// Each limit is in memory and counts on this node only. All types are safe for
// concurrent use.
package limit

import (
	"context"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// Reading requests get only the processor time that SIP leaves: they are served one at
// a time, and under strain with a pause before each. At most MaxWaiting requests wait
// for their turn, MaxWaitingPerToken of one token; a further one is answered 503.
// Requests that open a stream have a gate of their own, which does not pause: opening
// costs little, and page requests that wait would keep streams out.
const (
	MaxWaiting         = 32
	MaxWaitingPerToken = 24
)

// StrainPause is the pause before each reading request under strain, which limits them
// to 10 a second.
const StrainPause = 100 * time.Millisecond

// MaxTurn ends the turn of a request that is still being served: it waits for the store
// or for a slow client, and takes no processor time from SIP.
const MaxTurn = time.Second

// yieldEvery is the number of events that are encoded before other goroutines run.
const yieldEvery = 16

// Gate queues requests and lets one at a time have its turn.
type Gate struct {
	strained func() bool   // reports whether SIP waits for processors
	turn     chan struct{} // full while a request has its turn

	mu           sync.Mutex
	waiting      map[string]int // by token id
	waitingTotal int
	refused      uint64
}

// NewGate returns a gate that pauses while strained reports true; nil: it never does.
func NewGate(strained func() bool) *Gate {
	if strained == nil {
		strained = func() bool { return false }
	}
	return &Gate{strained: strained, turn: make(chan struct{}, 1), waiting: make(map[string]int)}
}

// Acquire waits for the turn of a request with a token. The caller calls leave when it
// is done, once or more. Acquire returns false if too many requests wait, or ctx ends.
func (g *Gate) Acquire(ctx context.Context, token string) (leave func(), ok bool) {
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
		Sleep(ctx, StrainPause)
	}
	return leave, true
}

// startWaiting counts a request as waiting, and reports whether there is room for it.
func (g *Gate) startWaiting(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waitingTotal >= MaxWaiting || g.waiting[token] >= MaxWaitingPerToken {
		g.refused++
		return false
	}
	g.waitingTotal++
	g.waiting[token]++
	return true
}

// stopWaiting removes a request that startWaiting has counted.
func (g *Gate) stopWaiting(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waitingTotal--
	if g.waiting[token]--; g.waiting[token] == 0 {
		delete(g.waiting, token)
	}
}

// WaitingCount returns the number of requests that wait for their turn.
func (g *Gate) WaitingCount() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waitingTotal
}

// RefusedCount returns the number of refused requests.
func (g *Gate) RefusedCount() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// Sleep sleeps until d has passed or ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

type turnKey struct{}

// Serve lets next serve a request with a token in its turn, which ends after MaxTurn at
// the latest. It returns false, without an answer, if too many requests wait or the
// client disconnects.
func (g *Gate) Serve(next http.Handler, w http.ResponseWriter, r *http.Request, token string) bool {
	leave, ok := g.Acquire(r.Context(), token)
	if !ok {
		return false
	}
	defer leave()
	defer time.AfterFunc(MaxTurn, leave).Stop()
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), turnKey{}, leave)))
	return true
}

// ReleaseTurn ends the turn of the request of ctx, which is served on without one.
func ReleaseTurn(ctx context.Context) {
	if leave, ok := ctx.Value(turnKey{}).(func()); ok {
		leave()
	}
}

// YieldAfter lets other goroutines run after every yieldEvery-th event; the first event
// is 1.
func YieldAfter(event int) {
	if event%yieldEvery == 0 {
		runtime.Gosched()
	}
}
