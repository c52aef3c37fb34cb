package resolve

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// How long an address that a watched name had before stays a source of that name, and how
// many such addresses are kept. A server that moves may still have calls at its old
// address.
const (
	formerTime = time.Hour
	maxFormer  = 64
)

// maxSleep is the longest wait of Run, when no watched name is due.
const maxSleep = time.Hour

// A Watch follows the addresses of one target of the configuration.
type Watch struct {
	target   Target
	resolver *Resolver
	entry    *entry // nil if the target is numeric
	changed  func(*Watch)
	view     atomic.Pointer[View]
}

// A View is what is known of a watched target. It never changes. Its Answer has no
// addresses until the first lookup has ended.
type View struct {
	Answer
	former []formerAddr
}

// A formerAddr is an address that a name had before.
type formerAddr struct {
	ip    netip.Addr
	until time.Time
}

// Watch follows the addresses of t until [Watch.Stop]. It starts the first lookup and
// returns at once. It returns an error if t can never have an address.
//
// changed, if not nil, is called after the addresses or sources have changed, on another
// goroutine. It must not block. It reads the new state with [Watch.Load].
func (r *Resolver) Watch(t Target, changed func(*Watch)) (*Watch, error) {
	w := &Watch{target: t, resolver: r, changed: changed}
	if s := r.lookupNumeric(t); s != nil {
		w.view.Store(&View{Answer: Answer{s, t.Port}})
		return w, s.err
	}
	k, err := r.keyOf(t)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.addEntry(time.Now(), k)
	if e == nil { // every name is in use; the configuration takes precedence
		e = &entry{key: k}
		r.entries.Store(k, e)
		r.names++
	}
	w.entry = e
	e.watches = append(e.watches, w)
	r.watched[e] = true
	w.view.Store(&View{Answer: Answer{e.set.Load(), t.Port}})
	r.wakeRun()
	return w, nil
}

// Load returns what is known of the target now. It takes no lock and never returns nil.
func (w *Watch) Load() *View { return w.view.Load() }

// Stop ends the watch. Load goes on returning the last state.
func (w *Watch) Stop() {
	if w.entry == nil {
		return
	}
	r, e := w.resolver, w.entry
	r.mu.Lock()
	defer r.mu.Unlock()
	e.watches = slices.DeleteFunc(e.watches, func(o *Watch) bool { return o == w })
	if len(e.watches) == 0 {
		delete(r.watched, e)
	}
}

// HasSource reports whether messages from ip come from the target: it has the address now
// or had it within the last hour.
func (v *View) HasSource(ip netip.Addr) bool {
	if v.set != nil && v.set.contains(ip) {
		return true
	}
	for i := range v.former {
		if v.former[i].ip == ip {
			return true
		}
	}
	return false
}

// refreshWatched starts the lookups of watched names that are due, and removes former
// addresses whose time is over. It returns how long Run may sleep.
func (r *Resolver) refreshWatched(now time.Time) time.Duration {
	next := now.Add(maxSleep)
	var changed []*Watch
	r.mu.Lock()
	for e := range r.watched {
		s := e.set.Load()
		switch {
		case e.underWay(): // Run wakes when the lookup has ended
		case s == nil || !now.Before(s.refreshAt):
			r.startLookup(now, e)
		case s.refreshAt.Before(next):
			next = s.refreshAt
		}
		changed = append(changed, r.updateWatches(now, e)...)
		for _, w := range e.watches {
			for _, f := range w.view.Load().former {
				if f.until.Before(next) {
					next = f.until
				}
			}
		}
	}
	r.mu.Unlock()
	notifyWatches(changed)
	return next.Sub(now)
}

// updateWatches publishes the state of e to its watches, and returns those whose addresses
// or sources have changed. The caller holds mu.
func (r *Resolver) updateWatches(now time.Time, e *entry) (changed []*Watch) {
	s := e.set.Load()
	if s == nil {
		return nil
	}
	for _, w := range e.watches {
		old := w.view.Load()
		former := nextFormer(now, old, s)
		moved := !slices.EqualFunc(old.hosts(), s.hosts, host.equal) || len(former) != len(old.former)
		if moved || old.set != s {
			w.view.Store(&View{Answer{s, w.target.Port}, former})
		}
		if moved {
			changed = append(changed, w)
		}
	}
	return changed
}

// hosts returns the hosts of an answer, if there are any.
func (a Answer) hosts() []host {
	if a.set == nil {
		return nil
	}
	return a.set.hosts
}

// nextFormer returns the addresses that a target no longer has after a lookup with the
// result s, and that may still be used. old is the view before the lookup. The addresses
// are the former ones of old whose time is not over, and those that old has and s has not.
// nextFormer returns at most the last maxFormer.
func nextFormer(now time.Time, old *View, s *set) []formerAddr {
	var former []formerAddr
	for _, f := range old.former {
		if now.Before(f.until) && !s.contains(f.ip) {
			former = append(former, f)
		}
	}
	for _, h := range old.hosts() {
		for _, ip := range slices.Concat(h.ipv6, h.ipv4) {
			known := slices.ContainsFunc(former, func(f formerAddr) bool { return f.ip == ip })
			if !known && !s.contains(ip) {
				former = append(former, formerAddr{ip, now.Add(formerTime)})
			}
		}
	}
	return former[max(len(former)-maxFormer, 0):]
}

// notifyWatches calls the functions of watches that have changed.
func notifyWatches(ws []*Watch) {
	for _, w := range ws {
		if w.changed != nil {
			w.changed(w)
		}
	}
}

// logOutcome logs that the lookups of a watched name have begun to fail or succeed, and
// new addresses.
func (r *Resolver) logOutcome(k key, old, s *set, err error) {
	switch failedBefore := old != nil && (old.failing || old.err != nil); {
	case err != nil && !failedBefore:
		r.log.Warn("name lookup failed", "name", k.host, "stale", len(s.hosts) > 0, "err", err)
	case s.err != nil && (old == nil || old.err == nil):
		r.log.Warn("name has no address", "name", k.host, "err", s.err)
	case err == nil && s.err == nil && (failedBefore || old == nil || !slices.EqualFunc(old.hosts, s.hosts, host.equal)):
		r.log.Info("name resolved", "name", k.host, "addresses", Answer{set: s}.AppendAddrs(nil, func(int) int { return 0 }))
	}
}
