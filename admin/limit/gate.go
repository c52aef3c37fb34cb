// Package limit bounds what each client of the HTTP API uses, so that enough is left for
// SIP and for other clients: connections, requests a second, processor time, and memory
// of event streams.
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

// MaxWaiting is the maximum number of requests that wait for their turn at a [Gate], and
// MaxWaitingPerToken the maximum of one token. A further request is answered 503.
const (
	MaxWaiting         = 32
	MaxWaitingPerToken = 24
)

// StrainPause is the pause before each reading request while SIP waits for processors.
// It limits these requests to 10 a second.
const StrainPause = 100 * time.Millisecond

// MaxTurn is the maximum length of a turn. A request that takes longer is still served,
// but the next one already has its turn, because the longer one waits for the store or
// for a slow client and takes no processor time from SIP.
const MaxTurn = time.Second

// yieldEvery is the number of events that are encoded before other goroutines run.
const yieldEvery = 16

// Gate queues requests and gives one at a time its turn, so that requests get only the
// processor time that SIP leaves. While SIP waits for processors, it pauses before each
// turn.
//
// Reading requests wait at one Gate. Requests that open a stream wait at another, which
// does not pause: opening a stream costs little, and waiting page requests would keep
// streams out.
type Gate struct {
	strained func() bool   // reports whether SIP waits for processors
	turn     chan struct{} // full while a request has its turn

	mu           sync.Mutex
	waiting      map[string]int // by token id
	waitingTotal int
	refused      uint64
}

// NewGate returns a gate that pauses before each turn while strained reports true. If
// strained is nil, it never pauses.
func NewGate(strained func() bool) *Gate {
	if strained == nil {
		strained = func() bool { return false }
	}
	return &Gate{strained: strained, turn: make(chan struct{}, 1), waiting: make(map[string]int)}
}

// Acquire waits for the turn of a request; token is the id of its token. The caller ends
// the turn with leave, which may be called several times. Acquire returns false if too
// many requests wait or ctx ends.
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

// startWaiting counts a request as waiting and returns true. If too many wait, it counts
// the request as refused and returns false.
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

// Serve waits for the turn of a request, and then lets next serve it; token is the id of
// its token. The turn ends when next returns, or after MaxTurn. Serve returns false
// without answering if too many requests wait or the client disconnects.
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

// ReleaseTurn ends the turn of the request with context ctx, so that the [Gate] gives
// the next request its turn. The request itself continues.
func ReleaseTurn(ctx context.Context) {
	if leave, ok := ctx.Value(turnKey{}).(func()); ok {
		leave()
	}
}

// YieldAfter lets other goroutines run if event is a multiple of yieldEvery. event
// counts the encoded events from 1.
func YieldAfter(event int) {
	if event%yieldEvery == 0 {
		runtime.Gosched()
	}
}
