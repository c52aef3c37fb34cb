package sip

import (
	"cmp"
	"slices"
	"time"

	"bellhop/sip/certs"
	"bellhop/sip/resolve"
)

// pbxSet is the set of configured PBXs. It does not change: [Proxy.SetPBXs] replaces it.
type pbxSet struct {
	all     []*pbx
	former  []formerPBX
	known   []*pbx // all, and then the former ones
	probers []*prober
	tls     *certs.Client // see [Config.PBXTLS]
}

// formerPBX is a PBX that is no longer configured. Until its time is over, it is still on
// the PBX side, and requests within its dialogs go to it. It gets no new requests.
type formerPBX struct {
	*pbx
	until instant
}

// How long a former PBX is remembered, and how many are.
const (
	formerPBXTime = instant(3600e9)
	maxFormerPBXs = 16
)

// newPBXSet returns the set of the PBXs at the configured addresses. A PBX with an address
// that it has had in old stays the same. The other PBXs of old become former ones. A new
// PBX has no targets yet.
func newPBXSet(configured []Addr, client *certs.Client, old *pbxSet, now instant) *pbxSet {
	set := &pbxSet{tls: cmp.Or(client, old.tls)}
	for _, a := range configured {
		i := slices.IndexFunc(old.known, func(p *pbx) bool { return p.config == a })
		if i >= 0 {
			set.all = append(set.all, old.known[i])
			continue
		}
		p := &pbx{id: newPBXID(a)}
		p.config, p.remote.pbx = a, p
		p.view.Store(&remoteView{})
		set.all = append(set.all, p)
	}
	for _, p := range old.all {
		if !slices.Contains(set.all, p) {
			set.former = append(set.former, formerPBX{p, now + formerPBXTime})
		}
	}
	for _, f := range old.former {
		if !slices.Contains(set.all, f.pbx) && f.until > now && len(set.former) < maxFormerPBXs {
			set.former = append(set.former, f)
		}
	}
	set.known = slices.Clone(set.all)
	for _, f := range set.former {
		set.known = append(set.known, f.pbx)
	}
	if set.several() {
		set.probers = newPBXProbers(set.all, old.probers)
	}
	return set
}

// newPBXProbers returns a prober for each PBX. It reuses the probers in old.
func newPBXProbers(pbxs []*pbx, old []*prober) (probers []*prober) {
	for _, p := range pbxs {
		b := &prober{remote: &p.remote, interval: probeInterval, timeout: probeTimeout}
		if i := slices.IndexFunc(old, func(o *prober) bool { return o.remote == &p.remote }); i >= 0 {
			b = old[i]
		}
		probers = append(probers, b)
	}
	return probers
}

// several reports whether there can be more than one target of PBXs.
func (s *pbxSet) several() bool {
	return len(s.all) > 1 || len(s.all) == 1 && s.all[0].config.Host != ""
}

// severalTargets reports whether there is more than one target of PBXs now.
func (s *pbxSet) severalTargets() bool { return s.countTargets() > 1 }

// countTargets returns how many targets the PBXs have now.
func (s *pbxSet) countTargets() (n int) {
	for _, p := range s.all {
		n += len(p.view.Load().targets)
	}
	return n
}

// SetPBXs replaces the configured PBXs. The client is for those with a TLS address; if it
// is nil, the former client stays in use for calls that are up. A new PBX with a name gets
// requests as soon as the name has been looked up, or after maxNameWait. Until then,
// SetPBXs waits.
//
// A PBX that is no longer configured gets no new requests. For an hour, it stays on the PBX
// side, and its calls go on there. If a PBX cannot be used, SetPBXs changes nothing and
// returns an error. It may be called while the proxy runs, but not twice at once.
func (px *Proxy) SetPBXs(configured []Addr, client *certs.Client) error {
	old := px.peers.pbxs.Load()
	set := newPBXSet(configured, client, old, px.now())
	var opened []*remote
	for _, p := range set.all {
		if slices.Contains(old.all, p) {
			continue
		}
		if err := px.openRemote(&p.remote); err != nil {
			stopWatches(opened)
			return err
		}
		opened = append(opened, &p.remote)
	}
	px.awaitNames(opened)
	px.warnReachableAddrs(configured)
	w := px.workers[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	px.storePBXs(set)
	for _, f := range set.former {
		stopWatches([]*remote{&f.remote})
	}
	px.peers.expiry.start(w, set)
	w.startProbers()
	w.resetTimer()
	return nil
}

// storePBXs replaces the set of PBXs, and stops the probers that the new set does not have.
// The caller holds the mutex of the first worker.
func (px *Proxy) storePBXs(set *pbxSet) {
	old := px.peers.pbxs.Swap(set)
	for _, b := range old.probers {
		if !slices.Contains(set.probers, b) {
			b.stop()
		}
	}
	if !set.several() {
		for _, t := range set.all[0].view.Load().targets {
			t.endProbes(px)
		}
	}
}

// stopWatches stops to follow the names of remotes. Their targets stay.
func stopWatches(remotes []*remote) {
	for _, r := range remotes {
		if r.watch != nil {
			r.watch.Stop()
		}
	}
}

// awaitNames waits until the names of remotes have been looked up, but for maxNameWait at
// most, and sets the targets of the remotes.
func (px *Proxy) awaitNames(remotes []*remote) {
	timeout := time.After(time.Duration(maxNameWait))
	for _, r := range remotes {
		if r.watch == nil {
			continue
		}
		found := make(chan struct{}, 1)
		answer := px.resolver.Lookup(r.lookupTarget(), func(resolve.Answer) { found <- struct{}{} })
		if answer.Pending() {
			select {
			case <-found:
			case <-timeout:
				return
			}
		}
		px.follow(r, r.watch)
	}
}

// warnReachableAddrs logs the listeners on all addresses whose name for the PBX would be
// another one after a restart, because the first PBX is reached from another address.
func (px *Proxy) warnReachableAddrs(pbxs []Addr) {
	for _, l := range px.listeners.all {
		if at := reachableAddr(l.addr.Addr(), pbxs); at != l.local.Addr() {
			px.log.Warn("name of a listener kept until the next start", "listener", Addr{Proto: l.proto, AddrPort: l.addr}.String(),
				"name", l.local.Addr(), "next", at, "why", "the PBX is reached from another address of this machine")
		}
	}
}

// pbxExpiry removes former PBXs whose time is over. The first worker owns it.
type pbxExpiry struct {
	proxy *Proxy
	timer timer
}

// start sets the timer to the end of the first former PBX of a set.
func (e *pbxExpiry) start(w *worker, set *pbxSet) {
	w.wheel.stop(&e.timer)
	if len(set.former) == 0 {
		return
	}
	e.timer.owner, e.proxy = e, w.proxy
	next := slices.MinFunc(set.former, func(a, b formerPBX) int { return int(a.until - b.until) })
	w.wheel.start(&e.timer, next.until)
}

// handleTimer removes the former PBXs whose time is over.
func (e *pbxExpiry) handleTimer(now instant) {
	old := e.proxy.peers.pbxs.Load()
	var configured []Addr
	for _, p := range old.all {
		configured = append(configured, p.config)
	}
	set := newPBXSet(configured, old.tls, old, now)
	e.proxy.storePBXs(set)
	e.start(e.proxy.workers[0], set)
}
