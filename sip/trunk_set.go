package sip

import (
	"slices"
	"strings"
	"sync/atomic"
)

// trunkSet is the set of configured trunks. It does not change: [Proxy.SetTrunks]
// replaces it.
type trunkSet struct {
	all            []*Trunk
	probers        []*prober
	wantOwnContact bool // a trunk has OwnContact
}

// newTrunkSet returns the set of configured trunks. A trunk keeps from the trunk of its
// name in old: its count of refused calls, its callRate if the limit is the same, and the
// remotes that are configured as before. Other remotes have no targets yet.
func newTrunkSet(cfg *Config, configured []Trunk, old *trunkSet) *trunkSet {
	set := &trunkSet{}
	for _, t := range configured {
		t.rate, t.refused = newCallRate(t.MaxCPS), &atomic.Uint64{}
		o := old.named(t.Name)
		if o != nil {
			t.refused = o.refused
			if o.MaxCPS == t.MaxCPS {
				t.rate = o.rate
			}
		}
		t.remotes = nil
		for _, a := range t.To {
			r := o.remoteAt(a)
			if r == nil {
				r = &remote{config: a, carrier: t.Name}
				r.view.Store(&remoteView{})
			}
			t.remotes = append(t.remotes, r)
		}
		set.all = append(set.all, &t)
		set.wantOwnContact = set.wantOwnContact || t.OwnContact
	}
	set.probers = newTrunkProbers(cfg, set.all, old.probers)
	return set
}

// remoteAt returns the remote of a trunk with a configured address, or nil. t may be nil.
func (t *Trunk) remoteAt(a Addr) *remote {
	i := slices.IndexFunc(remotesOf(t), func(r *remote) bool { return r.config == a })
	if i < 0 {
		return nil
	}
	return t.remotes[i]
}

// remotes returns the remotes of all trunks.
func (s *trunkSet) remotes() (all []*remote) {
	for _, t := range s.all {
		all = append(all, t.remotes...)
	}
	return all
}

// named returns the trunk with a name, or nil.
func (s *trunkSet) named(name string) *Trunk {
	i := slices.IndexFunc(s.all, func(t *Trunk) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return s.all[i]
}

// SetTrunks replaces the configured trunks. Connections and calls that are up go on; a
// connection whose certificate made it that of a trunk belongs to the trunk of that name
// from now on. Listeners ask clients for certificates as they did before. SetTrunks may be
// called while the proxy runs, but not twice at once.
func (px *Proxy) SetTrunks(configured []Trunk) {
	w := px.workers[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	old := px.peers.trunks.Load()
	set := newTrunkSet(&px.cfg, configured, old)
	for _, r := range set.remotes() {
		if slices.Contains(old.remotes(), r) {
			continue
		}
		if err := px.openRemote(r); err != nil {
			px.log.Error("address of a trunk unusable", "address", r.config.String(), "err", err)
			if len(r.view.Load().targets) == 0 {
				r.view.Store(&remoteView{emptySince: max(px.now(), 1), unusable: strings.TrimPrefix(err.Error(), "sip: ")})
			}
		}
	}
	px.peers.trunks.Store(set)
	for _, b := range old.probers {
		if !slices.Contains(set.probers, b) {
			b.stop()
		}
		probed := slices.ContainsFunc(set.probers, func(n *prober) bool { return n.remote == b.remote })
		if !probed && slices.Contains(set.remotes(), b.remote) {
			for _, t := range b.remote.view.Load().targets {
				t.endProbes(px)
			}
		}
	}
	stopWatches(slices.DeleteFunc(old.remotes(), func(r *remote) bool { return slices.Contains(set.remotes(), r) }))
	w.startProbers()
	w.resetTimer()
}

// trunkOfConn returns the trunk that the peer of a connection has proved to be by its
// certificate, or nil. s may be nil.
func (ps *peers) trunkOfConn(s *stream) *Trunk {
	if s == nil || s.trunk == "" {
		return nil
	}
	return ps.trunks.Load().named(s.trunk)
}
