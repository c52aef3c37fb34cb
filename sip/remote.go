package sip

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/dialog"
	"bellhop/sip/resolve"
)

// remote is a configured element that requests are sent to: a PBX, or an address in
// [Trunk.To]. Its targets are its addresses. If it is configured by name, they follow the
// name in the DNS.
type remote struct {
	config  Addr   // as configured
	pbx     *pbx   // nil: the remote is a trunk's
	carrier string // name of the trunk, or a name that is not configured; "": the remote is a PBX's
	view    atomic.Pointer[remoteView]
	mu      sync.Mutex     // serializes changes of view
	watch   *resolve.Watch // of the name; nil: the remote has none
}

// remoteView is what is known of a remote. It does not change.
type remoteView struct {
	targets []*target
	former  []*target      // targets within the last hour that its name does not lead to any more
	answer  resolve.Answer // of the name; gives the order of targets

	emptySince instant // time since which there are no targets; 0: there are some
	unusable   string  // why the configured address, or one of its name, is no target; "": all are
}

// target is one address of a remote. Its atomic fields may be used by any goroutine. They
// keep their value while the name of the remote leads to the address.
type target struct {
	Addr
	remote        *remote
	sharesOurAddr bool // the proxy has the same IP address, so phones may send from it too

	down        atomic.Bool  // of a PBX: it does not answer OPTIONS, or a transport error has shown so
	refusing    atomic.Bool  // it answers OPTIONS with 503; a PBX then gets no new requests
	probeFailed atomic.Bool  // of a trunk: the last OPTIONS had no response, or 403
	restsUntil  atomic.Int64 // instant until which other targets are tried first
	probed      probeCount

	// The fields below serve only the status of the target.
	failing    atomic.Bool  // the last request had no response, and there was no other target
	answeredAt atomic.Int64 // instant of the last response, within reportInterval; 0: none
	roundTrip  atomic.Int64 // nanoseconds to the response to the last answered OPTIONS; 0: none
	report     atomic.Pointer[targetReport]
}

// newTarget returns a target of a remote.
func (px *Proxy) newTarget(r *remote, a Addr) *target {
	return &target{Addr: a, remote: r, sharesOurAddr: px.listeners.haveHost(a.Addr())}
}

// openRemote sets the targets of a remote. For a name that is not in the cache of the
// resolver it starts the first lookup, and does not wait for it.
func (px *Proxy) openRemote(r *remote) error {
	if r.config.Host == "" {
		if l := px.listeners.receiverOf(r.config); l != nil {
			return fmt.Errorf("sip: %s %s is the listener %s://%s of bellhop: calls would loop: use the address of the %[1]s", r.kind(), r.config, l.proto, l.addr)
		}
		r.view.Store(&remoteView{targets: []*target{px.newTarget(r, r.config)}})
		if px.listeners.find(r.config.Proto, r.side(), r.config.Addr(), nil) == nil {
			return fmt.Errorf("sip: no listener can reach %s %s: add a %s listener of its address family", r.kind(), r.config, r.config.Proto)
		}
		return nil
	}
	if !px.listeners.have(r.config.Proto, r.side()) {
		return fmt.Errorf("sip: no listener can reach %s %s: add a %s listener", r.kind(), r.config, r.config.Proto)
	}
	var err error
	if r.watch, err = px.resolver.Watch(r.lookupTarget(), func(w *resolve.Watch) { px.follow(r, w) }); err != nil {
		return fmt.Errorf("sip: %s %s: %w", r.kind(), r.config, err)
	}
	px.follow(r, r.watch)
	return nil
}

// lookupTarget returns what is looked up for a remote with a name.
func (r *remote) lookupTarget() resolve.Target {
	return resolve.Target{Host: r.config.Host, Port: r.config.Port(), Transport: resolveTransport(r.config.Proto)}
}

// side returns the side that a remote is on.
func (r *remote) side() dialog.Side {
	if r.pbx == nil {
		return edgeSide
	}
	return pbxSide
}

// kind returns what a remote is.
func (r *remote) kind() string {
	if r.pbx == nil {
		return "trunk"
	}
	return "PBX"
}

// follow sets the targets of a remote to the addresses that its name has now. An address
// that it no longer has stays a former target, from which messages may come, for as long
// as the resolver remembers it.
func (px *Proxy) follow(r *remote, w *resolve.Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, now := r.view.Load(), w.Load()
	v := &remoteView{answer: now.Answer}
	ignore := func(a Addr, why string) {
		v.unusable = a.String() + ": " + why
		px.log.Warn("address of a name ignored", "name", r.config.String(), "address", a.String(), "err", why)
	}
	known := slices.Concat(old.targets, old.former)
	for _, a := range now.AppendAddrs(nil, func(int) int { return 0 }) {
		to := r.config
		to.AddrPort = a.AddrPort
		if px.listeners.receiverOf(to) != nil {
			ignore(to, "it is a listener of bellhop: calls would loop")
			continue
		}
		if px.listeners.find(to.Proto, r.side(), to.Addr(), nil) == nil {
			ignore(to, "no listener reaches it")
			continue
		}
		i := slices.IndexFunc(known, func(t *target) bool { return t.Addr == to })
		if i >= 0 {
			v.targets = append(v.targets, known[i])
		} else {
			v.targets = append(v.targets, px.newTarget(r, to))
		}
	}
	for _, t := range known {
		if !slices.Contains(v.targets, t) && now.HasSource(t.Addr.Addr()) && len(v.former) < maxFormerTargets {
			v.former = append(v.former, t)
		}
	}
	if len(v.targets) == 0 {
		v.emptySince = cmp.Or(old.emptySince, max(px.now(), 1))
	}
	r.view.Store(v)
}

// maxFormerTargets limits the former targets of a remote.
const maxFormerTargets = 64

// appendTargets appends the targets of a remote to dst in the order in which a request
// should try them. Requests with the same key get the same order.
func (r *remote) appendTargets(dst []*target, addrs []resolve.Addr, key []byte) ([]*target, []resolve.Addr) {
	v := r.view.Load()
	if len(v.targets) < 2 {
		return append(dst, v.targets...), addrs
	}
	addrs = v.answer.AppendAddrs(addrs[:0], stableRandom(key, r.config.Host))
	for _, a := range addrs {
		if i := slices.IndexFunc(v.targets, func(t *target) bool { return t.AddrPort == a.AddrPort }); i >= 0 {
			dst = append(dst, v.targets[i])
		}
	}
	return dst, addrs
}

// stableRandom returns a function that returns numbers from 0 to n-1, which depend on a key
// and a text only.
func stableRandom(key []byte, text string) func(n int) int {
	h := stableHash(key, text)
	return func(n int) int {
		h = stableHash([]byte{byte(h), byte(h >> 8), byte(h >> 16), byte(h >> 24)}, "")
		return int(h>>33) % n
	}
}

// stableHash returns the FNV-1a hash of a key and a text. It is the same in every process.
func stableHash(key []byte, text string) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, b := range key {
		h = (h ^ uint64(b)) * prime
	}
	h *= prime
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * prime
	}
	h ^= h >> 29
	return h * 0xbf58476d1ce4e5b9
}

// hasIP reports whether a remote has an IP address, or had it within the last hour.
func (r *remote) hasIP(ip netip.Addr) bool {
	v := r.view.Load()
	for _, t := range v.targets {
		if t.Addr.Addr() == ip {
			return true
		}
	}
	for _, t := range v.former {
		if t.Addr.Addr() == ip {
			return true
		}
	}
	return false
}

// targetAt returns the target of a remote at an address, or nil. One with the same
// transport is preferred. One with another transport is taken too, because a URI seldom
// names it.
func (r *remote) targetAt(a Addr) (found *target) {
	for _, t := range r.view.Load().targets {
		if t.AddrPort == a.AddrPort {
			if t.Proto == a.Proto {
				return t
			}
			found = t
		}
	}
	return found
}

// isNamed reports whether the host and port of a URI are those in the configuration. If the
// URI names no port, the host decides. A configured name without a port has the default port.
func (r *remote) isNamed(host string, port int) bool {
	if r.config.Host == "" || !strings.EqualFold(r.config.Host, strings.TrimSuffix(host, ".")) {
		return false
	}
	return port == 0 || port == int(cmp.Or(r.config.Port(), r.config.Proto.defaultPort()))
}

// isServerOf reports whether two targets are one server: they have the same transport and
// address, and over TLS the same name, by which the server is verified.
func (t *target) isServerOf(o *target) bool {
	return t.Proto == o.Proto && t.AddrPort == o.AddrPort && (!t.Proto.secure() || t.Host == o.Host)
}

// oneOfEachServer removes the targets whose server is that of an earlier one.
func oneOfEachServer(targets []*target) []*target {
	kept := targets[:0]
	for _, t := range targets {
		if !slices.ContainsFunc(kept, t.isServerOf) {
			kept = append(kept, t)
		}
	}
	return kept
}

// up reports whether new requests may go to a target.
func (t *target) up() bool { return !t.down.Load() && !t.refusing.Load() }

// resting reports whether the target has failed a short time ago, so that other targets
// are tried first.
func (t *target) resting(now instant) bool { return instant(t.restsUntil.Load()) > now }

// avoided reports whether other targets are tried first: the target rests, or OPTIONS have
// shown that it is down or refuses calls.
func (t *target) avoided(now instant) bool {
	return t.resting(now) || !t.up() || t.probeFailed.Load()
}

// isSource reports whether a message that came from peer over proto comes from this
// target of a PBX. The IP address must be the same. The transport may be another one,
// because some PBXs send large requests over TCP instead of UDP (RFC 3261 §18.1.1).
//
// The source port must be the same too in two cases, because another sender may have the
// IP address: if both transports are UDP, or if the proxy has the IP address and the
// message did not come over a stream of the target's transport.
func (t *target) isSource(proto Proto, peer netip.AddrPort) bool {
	switch {
	case t.AddrPort == peer:
		return true
	case t.Addr.Addr() != peer.Addr():
		return false
	case t.sharesOurAddr:
		return proto.stream() && proto == t.Proto
	}
	return t.Proto.stream() || proto.stream()
}

// resolveTransport returns the transport of the resolver for proto, or 0.
func resolveTransport(proto Proto) resolve.Transport {
	for _, t := range []resolve.Transport{resolve.UDP, resolve.TCP, resolve.TLS} {
		if t.String() == proto.String() {
			return t
		}
	}
	return 0
}

// protoOf returns the transport of a transport of the resolver.
func protoOf(t resolve.Transport) Proto {
	switch t {
	case resolve.TCP:
		return TCP
	case resolve.TLS:
		return TLS
	}
	return UDP
}

// families returns the address families in which requests can be sent over each transport.
func (ls *listeners) families() map[resolve.Transport]resolve.Families {
	fs := map[resolve.Transport]resolve.Families{}
	for _, l := range ls.all {
		t := resolveTransport(l.proto)
		f := fs[t]
		if l.addr.Addr().Is4() {
			f.IPv4 = true
		} else {
			f.IPv6 = true
		}
		fs[t] = f
	}
	return fs
}

// newResolver returns the resolver of the proxy.
func (px *Proxy) newResolver() *resolve.Resolver {
	return resolve.New(resolve.Config{
		Servers:  px.cfg.NameServers,
		Families: px.listeners.families(),
		Log:      px.log,
		Dial:     px.cfg.DialNameServer,
	})
}

// UnresolvedNames returns the configured names that have no address at the moment. It may
// be called from any goroutine at any time.
func (px *Proxy) UnresolvedNames() (names []string) {
	for _, r := range px.peers.remotes() {
		if len(r.view.Load().targets) == 0 {
			names = append(names, r.config.String())
		}
	}
	return names
}

// failoverAfter returns Config.FailoverAfter, or its default.
func (px *Proxy) failoverAfter() instant {
	if px.cfg.FailoverAfter > 0 {
		return instant(px.cfg.FailoverAfter)
	}
	return instant(2 * time.Second)
}
