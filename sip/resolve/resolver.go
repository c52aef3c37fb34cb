// Package resolve finds the addresses at which a SIP server receives requests (RFC 3263):
// by NAPTR, SRV, A and AAAA records.
//
// A caller never waits. [Resolver.Lookup] returns an answer of the cache, or calls a
// function later. A [Watch] follows a name of the configuration. It resolves the name
// ahead and again before the answer expires, so that [Watch.Load] always returns the
// newest addresses at once, without a lock.
//
// # Time
//
// An answer is valid for the shortest TTL of its records, from 5 seconds to 1 hour. The
// answer that a name has no address is valid for at most 30 seconds. While no name server
// answers, the last addresses stay in use for up to 24 hours after they have expired. An
// expired answer is replaced within 1 second or used once more. The addresses that a
// watched name had before stay known as its sources for 1 hour.
//
// # Memory
//
// A Resolver keeps the answers of a bounded number of names. It evicts the one that was
// not asked for the longest time. The lookups under way, the callers that wait for them,
// and the records and questions of a lookup are bounded too. Nothing survives a restart.
//
// # Trust
//
// DNS is not authenticated. An answer proves nothing about the server at its addresses:
// TLS must verify the name that was looked up. The caller decides which addresses it may
// send to. A response of a name server is used only if it comes from the address that was
// asked and repeats the ID and the question. A panic during a lookup fails that lookup.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Config is the configuration of a [Resolver].
type Config struct {
	// Servers are the name servers. Empty: those that /etc/resolv.conf lists at the time.
	Servers []netip.AddrPort

	// Families are the address families in which each transport is usable. A transport
	// that is missing is never chosen.
	Families map[Transport]Families

	Log *slog.Logger // nil: slog.Default()

	// Dial opens a socket to a name server; network is "udp" or "tcp". nil: the operating
	// system's. Tests set it.
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
}

// Limits of a Resolver. Watched names count in maxNames but are never refused.
const (
	maxNames     = 1024
	maxLookups   = 32   // under way at once, without those of watched names
	maxWaiters   = 4096 // callers that wait for a lookup
	maxQuestions = 64   // questions that wait for a name server at once
)

// The times of an answer.
const (
	minTTL      = 5 * time.Second
	maxTTL      = time.Hour
	maxNegative = 30 * time.Second // for the answer that a record or a name does not exist
	maxStale    = 24 * time.Hour   // use of an expired answer while no name server answers
	staleWait   = time.Second      // wait for a new answer before the expired one is used
	minRetry    = 5 * time.Second  // until the next lookup after one that failed; doubles
	maxRetry    = 30 * time.Second

	// lookupTimeout bounds a lookup: the questions for NAPTR, SRV and addresses, each of
	// which waits for questionTimeout at most. It is longer than a request waits, because
	// a late answer serves the next request.
	lookupTimeout = 3*questionTimeout + time.Second
)

// A Resolver looks up names and keeps the answers. Its methods may be called from any
// goroutine and never wait for a name server.
type Resolver struct {
	cfg     Config
	log     *slog.Logger
	ctx     context.Context // of all lookups
	cancel  context.CancelFunc
	wake    chan struct{} // tells Run that a watch was added or a lookup has ended
	servers serverList

	entries     sync.Map    // key → *entry; read without mu
	unreachable atomic.Bool // no name server answered the last question
	goroutines  sync.WaitGroup
	asking      chan struct{} // one value for each question that waits for a name server

	mu      sync.Mutex // guards the fields below and the marked ones of entries
	names   int        // entries
	lookups int        // under way, of names that nobody watches
	waiting int        // waiters of all entries
	closed  bool
	watched map[*entry]bool
}

// An entry is the cached answer of one name.
type entry struct {
	key    key
	set    atomic.Pointer[set] // nil before the first lookup has ended
	usedAt atomic.Int64        // second of the last Lookup

	// Guarded by Resolver.mu.
	startedAt time.Time // start of the lookup that is under way; zero: there is none
	counted   bool      // in Resolver.lookups
	outdated  bool      // Reload was called during the lookup that is under way
	failures  int       // lookups in a row that failed
	waiters   []waiter
	watches   []*Watch
}

// underWay reports whether a lookup is under way. The caller holds mu.
func (e *entry) underWay() bool { return !e.startedAt.IsZero() }

// A waiter gets the answer of a lookup that is under way.
type waiter struct {
	port uint16
	done func(Answer)
}

// Answers without a lookup.
var (
	errBusy   = errors.New("too many lookups are under way")
	errClosed = errors.New("the resolver has been stopped")
)

// New returns a Resolver. Names are looked up at once, watched names while Run runs.
func New(cfg Config) *Resolver {
	r := &Resolver{
		cfg:     cfg,
		log:     cfg.Log,
		wake:    make(chan struct{}, 1),
		asking:  make(chan struct{}, maxQuestions),
		watched: map[*entry]bool{},
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if r.cfg.Dial == nil {
		r.cfg.Dial = dialSystem
	}
	r.servers.configured, r.servers.file = cfg.Servers, "/etc/resolv.conf"
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// dialSystem opens a socket of the operating system to a name server.
func dialSystem(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, server.String())
}

// Run keeps the answers of watched names fresh until ctx ends. Lookups that are under way
// then fail, and later ones too. Run returns when every goroutine of r has ended.
func (r *Resolver) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
			r.close()
			return nil
		}
		timer.Reset(r.refreshWatched(time.Now()))
	}
}

// Reload asks the given name servers from now on; none: those of the machine. It looks up
// all watched names again, and the other names when they are needed. Until the new answer
// has come, the last one stays in use.
func (r *Resolver) Reload(servers []netip.AddrPort) {
	r.servers.configure(servers)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.entries.Range(func(_, v any) bool {
		e := v.(*entry)
		if s := e.set.Load(); s != nil {
			e.set.Store(s.expire(now))
		}
		e.outdated = e.underWay()
		return true
	})
	r.wakeRun()
}

// close ends all lookups and waits for their goroutines.
func (r *Resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.goroutines.Wait()
}

// Lookup returns the cached answer for t. If there is none, it starts a lookup and returns
// a pending answer. done is then called exactly once with the answer, on another
// goroutine. It must not block. Callers that ask for the same name share one lookup.
//
// The addresses of a numeric host, and a failure that needs no lookup, are returned at
// once.
func (r *Resolver) Lookup(t Target, done func(Answer)) Answer {
	if s := r.lookupNumeric(t); s != nil {
		return Answer{s, t.Port}
	}
	k, err := r.keyOf(t)
	if err != nil {
		return failedAnswer(err)
	}
	now := time.Now()
	if v, ok := r.entries.Load(k); ok {
		e := v.(*entry)
		e.usedAt.Store(now.Unix())
		if s := e.set.Load(); s != nil && now.Before(s.expires) {
			return Answer{s, t.Port}
		}
	}
	return r.joinLookup(now, k, waiter{t.Port, done})
}

// joinLookup adds a waiter to the lookup of k, and starts the lookup if none is under
// way. It returns an answer instead if one has arrived meanwhile, if a limit is reached,
// or if an expired one may be used and the name servers do not answer in staleWait.
func (r *Resolver) joinLookup(now time.Time, k key, w waiter) Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var e *entry
	if _, known := r.entries.Load(k); known || r.lookups < maxLookups { // a flood of names evicts nothing
		e = r.addEntry(now, k)
	}
	if e == nil {
		return failedAnswer(fmt.Errorf("lookup %s: %w", k.host, errBusy))
	}
	s := e.set.Load()
	if s != nil && now.Before(s.expires) {
		return Answer{s, w.port}
	}
	old := s.extend(now, minRetry)
	err := r.startLookup(now, e)
	late := r.unreachable.Load() || now.Sub(e.startedAt) >= staleWait
	switch {
	case old != nil && (err != nil || late || r.waiting >= maxWaiters):
		return Answer{old, w.port}
	case err == nil && r.waiting >= maxWaiters:
		err = errBusy
	}
	if err != nil {
		return failedAnswer(fmt.Errorf("lookup %s: %w", k.host, err))
	}
	e.waiters = append(e.waiters, w)
	r.waiting++
	return Answer{}
}

// addEntry returns the entry of a name. If there is no room for a new one, it evicts the
// name that was not asked for the longest time. It returns nil if every name is in use.
// The caller holds mu.
func (r *Resolver) addEntry(now time.Time, k key) *entry {
	if v, ok := r.entries.Load(k); ok {
		return v.(*entry)
	}
	if r.names >= maxNames && !r.evictName() {
		return nil
	}
	e := &entry{key: k}
	e.usedAt.Store(now.Unix())
	r.entries.Store(k, e)
	r.names++
	return e
}

// evictName removes the name that was not asked for the longest time. It returns false if
// every name is watched or has a lookup under way. The caller holds mu.
func (r *Resolver) evictName() bool {
	var oldest *entry
	r.entries.Range(func(_, v any) bool {
		if e := v.(*entry); !e.underWay() && len(e.watches) == 0 && (oldest == nil || e.usedAt.Load() < oldest.usedAt.Load()) {
			oldest = e
		}
		return true
	})
	if oldest == nil {
		return false
	}
	r.entries.Delete(oldest.key)
	r.names--
	return true
}

// startLookup starts a lookup of e if none is under way. It returns an error if there are
// too many. The caller holds mu.
func (r *Resolver) startLookup(now time.Time, e *entry) error {
	switch {
	case r.closed:
		return errClosed
	case e.underWay():
		return nil
	case len(e.watches) == 0 && r.lookups >= maxLookups:
		return errBusy
	}
	e.startedAt, e.counted, e.outdated = now, len(e.watches) == 0, false
	if e.counted {
		r.lookups++
	}
	r.goroutines.Go(func() { r.runLookup(e) })
	return nil
}

// runLookup looks up the name of e and publishes the answer. If an expired answer may
// still be used, waiters get it after staleWait.
func (r *Resolver) runLookup(e *entry) {
	stale := time.AfterFunc(staleWait, func() { r.answerStale(e) })
	defer stale.Stop()
	ctx, cancel := context.WithTimeout(r.ctx, lookupTimeout)
	defer cancel()
	l := &lookup{resolver: r, ctx: ctx, key: e.key}
	found, err := l.runRecovering()
	if err != nil && r.ctx.Err() != nil {
		err = errClosed
	}
	r.finishLookup(e, found, err)
}

// runRecovering runs the lookup. A panic becomes an error.
func (l *lookup) runRecovering() (found outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = l.resolver.panicError(p)
		}
	}()
	return l.run()
}

// panicError logs a recovered panic and returns it as an error.
func (r *Resolver) panicError(p any) error {
	r.log.Error("panic recovered", "part", "lookup", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
	return errors.New("the lookup panicked: see the log")
}

// answerStale gives the expired answer of e, if it may still be used, to all waiters of
// the lookup that is under way.
func (r *Resolver) answerStale(e *entry) {
	r.mu.Lock()
	old := e.set.Load().extend(time.Now(), minRetry)
	var ws []waiter
	if old != nil {
		ws = r.takeWaiters(e)
	}
	r.mu.Unlock()
	callWaiters(ws, old)
}

// takeWaiters removes and returns the waiters of e. The caller holds mu.
func (r *Resolver) takeWaiters(e *entry) []waiter {
	ws := e.waiters
	e.waiters = nil
	r.waiting -= len(ws)
	return ws
}

// callWaiters passes an answer to waiters.
func callWaiters(ws []waiter, s *set) {
	for _, w := range ws {
		w.done(Answer{s, w.port})
	}
}

// finishLookup publishes the outcome of a lookup to waiters and watches. After a failure,
// the last answer stays in use as long as it may.
func (r *Resolver) finishLookup(e *entry, found outcome, err error) {
	now := time.Now()
	r.mu.Lock()
	e.startedAt = time.Time{}
	if e.counted {
		r.lookups--
	}
	old := e.set.Load()
	var s *set
	if err == nil {
		e.failures = 0
		s = newSet(now, found)
	} else {
		retry := min(minRetry<<min(e.failures, 3), maxRetry)
		e.failures++
		err = fmt.Errorf("lookup %s: %w", e.key.host, err)
		if s = old.extend(now, retry); s == nil {
			s = failedSet(now, retry, err)
		}
	}
	if e.outdated {
		s = s.expire(now)
	}
	e.set.Store(s)
	ws := r.takeWaiters(e)
	isWatched := len(e.watches) > 0
	changed := r.updateWatches(now, e)
	r.mu.Unlock()
	if isWatched {
		r.logOutcome(e.key, old, s, err)
	}
	callWaiters(ws, s)
	notifyWatches(changed)
	r.wakeRun()
}

// wakeRun makes Run compute again when it must refresh the next name.
func (r *Resolver) wakeRun() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
