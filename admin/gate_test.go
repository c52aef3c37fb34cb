package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	v1 "bellhop/admin/v1"
)

// newGatedHandler returns a function that sends a request to a server behind a gate,
// where a request takes as long as work.
func newGatedHandler(strained func() bool, work func(context.Context)) func(method, token string) *httptest.ResponseRecorder {
	s := &Server{gate: limit.NewGate(strained)}
	h := s.queueReads(v1.WriteError, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { work(r.Context()) }))
	return func(method, token string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/", nil)
		h.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), &access.Client{ID: token})))
		return w
	}
}

// A selectContext calls selected when somebody starts to wait for its end. [limit.Gate] does
// so once it has counted the request.
type selectContext struct {
	context.Context
	selected func()
}

func (c selectContext) Done() <-chan struct{} {
	c.selected()
	return c.Context.Done()
}

// fillGate has a request take its turn, and as many wait as may. free ends them.
func fillGate(t *testing.T, g *limit.Gate) (free func()) {
	t.Helper()
	leave, ok := g.Acquire(t.Context(), "first")
	if !ok {
		t.Fatal("the gate is full")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var counted, waiting sync.WaitGroup
	for i := range limit.MaxWaiting {
		counted.Add(1)
		waiting.Go(func() {
			g.Acquire(selectContext{ctx, sync.OnceFunc(counted.Done)}, fmt.Sprint("waiting ", i))
		})
	}
	counted.Wait()
	return func() { cancel(); waiting.Wait(); leave() }
}

// Reading requests are served one at a time, changes at once.
func TestReadsAreServedOneByOne(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		strained     bool
		most         int
		took         time.Duration
	}{
		{"readers without strain", "GET", false, 1, 10 * time.Millisecond},
		{"readers of heads", "HEAD", false, 1, 10 * time.Millisecond},
		{"readers under strain", "GET", true, 1, 10*time.Millisecond + 10*limit.StrainPause},
		{"writers without strain", "POST", false, 10, time.Millisecond},
		{"writers under strain", "DELETE", true, 10, time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var now, most int
				ask := newGatedHandler(func() bool { return tt.strained }, func(context.Context) {
					mu.Lock()
					now++
					most = max(most, now)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					now--
					mu.Unlock()
				})
				begin := time.Now()
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() {
						if w := ask(tt.method, "a"); w.Code != 200 {
							t.Errorf("answered %d", w.Code)
						}
					})
				}
				all.Wait()
				if took := time.Since(begin); most != tt.most || took != tt.took {
					t.Errorf("%d at a time, in %v; want %d, in %v", most, took, tt.most, tt.took)
				}
			})
		})
	}
}

// A reading request is refused if too many wait, and one token cannot take all places.
func TestExcessReadsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		ask := newGatedHandler(nil, func(context.Context) { <-done })
		var all sync.WaitGroup
		var served atomic.Int32
		come := func(n int, token string) {
			for range n {
				all.Go(func() {
					if ask("GET", token).Code == 200 {
						served.Add(1)
					}
				})
			}
			synctest.Wait()
		}
		refused := func(token string) {
			t.Helper()
			if w := ask("GET", token); w.Code != 503 || w.Header().Get("Retry-After") != "1" {
				t.Errorf("with token %s: %d %v, want 503 with Retry-After", token, w.Code, w.Header())
			}
		}
		come(1, "a") // has the turn
		come(limit.MaxWaitingPerToken, "a")
		refused("a")
		come(limit.MaxWaiting-limit.MaxWaitingPerToken, "b")
		refused("b")
		refused("c")
		close(done)
		all.Wait()
		if served.Load() != 1+limit.MaxWaiting {
			t.Errorf("%d were served, want %d", served.Load(), 1+limit.MaxWaiting)
		}
		if w := ask("GET", "a"); w.Code != 200 {
			t.Errorf("afterwards: %d", w.Code)
		}
	})
}

// Waiting page requests keep no stream out, and opening a stream does not pause under
// strain.
func TestStreamsOpenBesideWaitingPages(t *testing.T) {
	for _, tt := range []struct {
		path, accept string
		opens        bool
	}{
		{"/v1/events", limit.EventStream, true},
		{"/v1/events", limit.EventStream + "; q=0.9, */*", true},
		{"/live/calls", limit.EventStream, true},
		{"/v1/events", "application/json", false},
		{"/v1/events", "", false},
		{"/v1/calls", limit.EventStream, false},
	} {
		t.Run(tt.path+" "+tt.accept, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{gate: limit.NewGate(func() bool { return true }), streamGate: limit.NewGate(nil)}
				defer fillGate(t, s.gate)()
				h := s.queueReads(v1.WriteError, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				r := httptest.NewRequest("GET", tt.path, nil)
				r.Header.Set("Accept", tt.accept)
				w, begin := httptest.NewRecorder(), time.Now()
				h.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), &access.Client{ID: "a"})))
				if opened := w.Code == 200; opened != tt.opens || time.Since(begin) != 0 {
					t.Errorf("answered %d after %v", w.Code, time.Since(begin))
				}
			})
		})
	}
}

// A reading request that waits for something else loses its turn.
func TestLongReadLosesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang, stop := context.WithCancel(t.Context())
		first := true
		ask := newGatedHandler(nil, func(context.Context) {
			if first {
				first = false
				<-hang.Done()
			}
		})
		var all sync.WaitGroup
		all.Go(func() { ask("GET", "a") })
		synctest.Wait()
		begin := time.Now()
		ask("GET", "a")
		if took := time.Since(begin); took != limit.MaxTurn {
			t.Errorf("another was served after %v, want %v", took, limit.MaxTurn)
		}
		stop()
		all.Wait()

		// A stream releases its turn when it begins.
		streamed := make(chan struct{})
		ask = newGatedHandler(nil, func(ctx context.Context) {
			limit.ReleaseTurn(ctx)
			<-streamed
		})
		begin = time.Now()
		for range 3 {
			all.Go(func() { ask("GET", "a") })
		}
		synctest.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %v", took)
		}
		close(streamed)
		all.Wait()
	})
}

// Under strain, each API refuses excess requests in its own format, and streams wait
// longer.
func TestStrainSlowsReadsAndStreams(t *testing.T) {
	var strained atomic.Bool
	r := newRig(t, Config{Strained: strained.Load})
	g := r.server.gate
	if r.server.streams.Pace(250*time.Millisecond) != 250*time.Millisecond {
		t.Error("streams rest longer without strain")
	}
	strained.Store(true)
	if r.server.streams.Pace(250*time.Millisecond) != 2*time.Second {
		t.Errorf("streams rest %v under strain", r.server.streams.Pace(250*time.Millisecond))
	}
	r.want(200, "GET", "/v1/status", nil) // slowly, but it is served

	free := fillGate(t, g)
	r.wantProblem(503, "", "GET", "/v1/events", nil)
	r.wantTelphin(503, "GET", "/extension/101/event/", nil)
	r.wantUAPI(503, "internal_server_error", "GET", "/uapi/extensions/@me/101/phoneCallEvents", nil)
	if resp, _ := r.raw("GET", "/v1/calls", nil); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if resp, _ := r.raw("GET", path, nil); resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	r.want(201, "POST", "/extension/101/event/", object{"url": "http://a.example/", "event_type": "hangup"})
	free()
	r.want(200, "GET", "/v1/calls", nil)
	if g.RefusedCount() != 4 {
		t.Errorf("%d were refused, want 4", g.RefusedCount())
	}
}
