package sip

import (
	"slices"
	"sync/atomic"
)

// trunkSet are the configured trunks. It does not change. [Proxy.SetTrunks] replaces it.
type trunkSet struct {
	all            []*Trunk
	probes         []*trunkProbe
	wantOwnContact bool // a trunk has OwnContact
}

// newTrunkSet returns the set of configured trunks. A trunk keeps its count of refused
// calls, and its callRate if the limit is the same, from the trunk of its name in old.
func (px *Proxy) newTrunkSet(configured []Trunk, old *trunkSet) *trunkSet {
	set := &trunkSet{}
	for _, t := range configured {
		t.rate, t.refused = newCallRate(t.MaxCPS), &atomic.Uint64{}
		if o := old.named(t.Name); o != nil {
			t.refused = o.refused
			if o.MaxCPS == t.MaxCPS {
				t.rate = o.rate
			}
		}
		set.all = append(set.all, &t)
		set.wantOwnContact = set.wantOwnContact || t.OwnContact
	}
	set.probes = newTrunkProbes(&px.cfg, set.all, old.probes)
	return set
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
	set := px.newTrunkSet(configured, old)
	px.peers.trunks.Store(set)
	for _, b := range old.probes {
		if !slices.Contains(set.probes, b) {
			b.stop()
		}
	}
	w.startTrunkProbes()
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
