// Package sip forwards every SIP message faithfully, and shows each to whoever
// watches.
//
// A [Proxy] stands between the edge side, phones and trunks, and the PBX side.
// It is a transaction-stateful proxy (RFC 3261 §16, with RFC 3581, 4320, 5393,
// 5658 and 6026). What it forwards are the bytes that came: it adds a Via, a
// Record-Route and what the registration mode asks for, counts Max-Forwards
// down, takes its own Route off, and touches nothing else.
//
// # Order and waiting
//
// A message goes to the worker that its Call-ID hashes to; a worker owns its
// transactions and timers and does one thing at a time, so the messages of a
// call keep their order. Nothing on the way of a message waits for a disk, a
// peer or another call: a full queue drops and counts. New requests of unknown
// sources wait until those of known ones are done, and are dropped first; known
// are the PBX, trunks, and who got a 2xx to a REGISTER or INVITE within the hour.
//
// # Memory
//
// Live transactions only, and these have a bound: see [Stats]. After a final
// response one keeps what a retransmission needs. Requests within a dialog are routed by what they
// carry: a token in our Record-Route and Path URIs, authenticated with
// [Config.Key]. A process that has just started routes the BYE of a call that
// an earlier one set up.
//
// # Panics
//
// A panic costs the message that caused it, or the connection it came on when
// that cannot be read further, and is logged and counted.
//
// # Reflection
//
// A source over UDP may be forged. Until it proves that it gets our responses,
// an INVITE brings it each response of the PBX once, two repetitions of a 2xx,
// and of our own responses and of repetitions no more bytes than it sent.
package sip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/dialog"
)

// A Proxy is a running proxy. Make one with [Listen].
type Proxy struct {
	cfg             Config
	log             *slog.Logger
	epoch           time.Time
	branchSalt      uint32       // in every branch: tells our transactions from those of a process before us
	hashSeed        maphash.Seed // of loop hashes: secret, so that no response can be forged
	listeners       []*listener
	ownNames        map[hostPort]bool // what names us in a URI
	workers         []*worker
	streams         *streamTable
	pbx             []*pbx
	serverKeySecret [32]byte      // in the keys of server transactions
	acceptedSources *sourceSet    // whose REGISTER or INVITE was accepted
	phoneSources    *sourceSet    // whose REGISTER was accepted
	provenSources   *sourceSet    // that cannot be forged: they know what a response said
	backlog         chan struct{} // see Crowded
	draining        atomic.Bool
	stats           counters
	goroutines      sync.WaitGroup
}

// A pbx is one configured PBX.
type pbx struct {
	addr          Addr
	id            pbxID
	sharesOurAddr bool        // bellhop is reached at the same address: not all that comes from there is the PBX's
	down          atomic.Bool // said so by its silence to OPTIONS; never set of a single one

	diagnosis diagnosis
}

type hostPort struct {
	host string
	port int
}

// A listener is one address we are reached at.
type listener struct {
	proxy  *Proxy
	index  uint8 // place among the listeners
	proto  Proto
	addr   netip.AddrPort // as bound
	local  netip.AddrPort // as reached from the PBX
	sentBy string         // host:port in our Via
	uri    string         // host:port;transport=… in our URIs
	packet PacketConn     // UDP
	stream net.Listener   // TCP
}

// Stats are counts since the start.
type Stats struct {
	Received     uint64 `json:"received"`     // messages that were SIP
	Malformed    uint64 `json:"malformed"`    // refused or dropped for their syntax
	Stray        uint64 `json:"stray"`        // responses to nothing
	Dropped      uint64 `json:"dropped"`      // for a full queue
	Unobserved   uint64 `json:"unobserved"`   // forwarded, but the watcher's queue was full
	Shed         uint64 `json:"shed"`         // new requests dropped or refused: transactions held all the memory they may
	Withheld     uint64 `json:"withheld"`     // responses not sent to sources over UDP that have not proved to be there
	Refused      uint64 `json:"refused"`      // connections refused for their number
	Panics       uint64 `json:"panics"`       // messages that were lost to a bug
	Transactions int64  `json:"transactions"` // alive now
	Streams      int64  `json:"streams"`      // connections open now
}

type counters struct {
	received, malformed, stray, dropped, unobserved, panics atomic.Uint64
	shed, withheld, refused                                 atomic.Uint64
	transactions                                            atomic.Int64
}

// Stats returns the counts. It may be called at any time.
func (h *Proxy) Stats() Stats {
	return Stats{
		Received:     h.stats.received.Load(),
		Malformed:    h.stats.malformed.Load(),
		Stray:        h.stats.stray.Load(),
		Dropped:      h.stats.dropped.Load(),
		Unobserved:   h.stats.unobserved.Load(),
		Shed:         h.stats.shed.Load(),
		Withheld:     h.stats.withheld.Load(),
		Refused:      h.stats.refused.Load(),
		Panics:       h.stats.panics.Load(),
		Transactions: h.stats.transactions.Load(),
		Streams:      h.streams.count.Load(),
	}
}

// Listen opens the listeners. Nothing is read before [Proxy.Run].
func Listen(cfg Config) (*Proxy, error) {
	if len(cfg.Key) < 32 {
		return nil, errors.New("sip: the key has fewer than 32 bytes")
	}
	if len(cfg.Listen) == 0 || len(cfg.PBX) == 0 {
		return nil, errors.New("sip: a listener and a PBX are needed")
	}
	h := &Proxy{cfg: cfg, log: cfg.Log, epoch: time.Now(), hashSeed: maphash.MakeSeed(), ownNames: map[hostPort]bool{}}
	if h.log == nil {
		h.log = slog.Default()
	}
	if h.cfg.Net == nil {
		h.cfg.Net = systemNetwork{}
	}
	if h.cfg.Workers <= 0 {
		h.cfg.Workers = runtime.GOMAXPROCS(0)
	}
	var salt [4]byte
	rand.Read(salt[:])
	h.branchSalt = binary.BigEndian.Uint32(salt[:])
	rand.Read(h.serverKeySecret[:])
	h.acceptedSources, h.phoneSources, h.provenSources = newSources(acceptedLifetime), newSources(phoneLifetime), newSources(acceptedLifetime)
	h.backlog = make(chan struct{}, 1)
	for _, a := range cfg.PBX {
		h.pbx = append(h.pbx, &pbx{addr: a, id: newPBXID(a)})
	}
	for _, a := range cfg.Listen {
		l, err := h.openListener(a)
		if err != nil {
			h.Close()
			return nil, err
		}
		h.listeners = append(h.listeners, l)
	}
	for _, p := range h.pbx {
		p.sharesOurAddr = h.listensOnHost(p.addr.Addr())
		if h.listenerFor(p.addr.Proto, p.addr.Addr(), nil) == nil {
			h.Close()
			return nil, fmt.Errorf("sip: the PBX is %s, but nothing listens on %s: it could not send us requests of its own", p.addr, p.addr.Proto)
		}
	}
	h.streams = newStreams(h)
	for i := range h.cfg.Workers {
		h.workers = append(h.workers, newWorker(h, i))
	}
	return h, nil
}

func (h *Proxy) openListener(a Addr) (*listener, error) {
	l := &listener{proxy: h, index: uint8(len(h.listeners)), proto: a.Proto}
	switch a.Proto {
	case UDP:
		c, err := h.cfg.Net.ListenPacket(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.packet = c
		l.addr = addrPortOf(c.LocalAddr())
	case TCP:
		c, err := h.cfg.Net.Listen(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.stream = c
		l.addr = addrPortOf(c.Addr())
	}
	l.local = netip.AddrPortFrom(h.reachableAddr(l.addr.Addr()), l.addr.Port())
	name := HostPort{Host: uriHost(l.local.Addr()), Port: l.addr.Port()}
	h.addOwnName(name)
	if ad := h.cfg.Advertise; ad.Host != "" {
		name.Host = ad.Host
		if ad.Port != 0 {
			name.Port = ad.Port
		}
		h.addOwnName(name)
	}
	l.sentBy = name.String()
	l.uri = l.sentBy
	if l.proto == TCP {
		l.uri += ";transport=tcp"
	}
	return l, nil
}

func listenError(a Addr, err error) error {
	if isInUse(err) {
		return fmt.Errorf("cannot listen on %s: the port is in use by another process", a)
	}
	return fmt.Errorf("cannot listen on %s: %w", a, err)
}

// reachable is the address others know a listener by: for 0.0.0.0 the one that
// this machine uses towards the PBX.
func (h *Proxy) reachableAddr(ip netip.Addr) netip.Addr {
	if !ip.IsUnspecified() {
		return ip
	}
	c, err := net.Dial("udp", h.cfg.PBX[0].AddrPort.String()) // sends nothing
	if err != nil {
		return ip
	}
	defer c.Close()
	return addrPortOf(c.LocalAddr()).Addr()
}

func (h *Proxy) addOwnName(n HostPort) {
	h.ownNames[hostPort{strings.ToLower(strings.Trim(n.Host, "[]")), int(n.Port)}] = true
}

// named reports whether host and port, as in a URI, are ours.
func (h *Proxy) isOwnName(host string, port int) bool {
	if port == 0 {
		port = 5060
	}
	return h.ownNames[hostPort{strings.ToLower(strings.Trim(host, "[]")), port}]
}

// Addrs are the addresses listened on, ports resolved.
func (h *Proxy) Addrs() []Addr {
	var as []Addr
	for _, l := range h.listeners {
		as = append(as, Addr{l.proto, l.addr})
	}
	return as
}

// Run forwards until ctx ends. Then it closes the listeners and all streams,
// and returns when every goroutine of the hop has ended.
func (h *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, w := range h.workers {
		h.goroutines.Go(func() { w.run(ctx) })
	}
	for _, l := range h.listeners {
		switch l.proto {
		case UDP:
			h.goroutines.Go(func() { h.readPackets(ctx, l) })
		case TCP:
			h.goroutines.Go(func() { h.streams.acceptConns(ctx, l) })
		}
	}
	<-ctx.Done()
	h.Close()
	h.streams.close()
	h.goroutines.Wait()
	return nil
}

// Drain refuses new calls with 503 from now on, and returns when no
// transaction is under way any more or ctx ends.
func (h *Proxy) Drain(ctx context.Context) {
	h.draining.Store(true)
	for h.stats.transactions.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Backlog tells that a worker's queue is a quarter full: more processors would
// help. It holds one value at most, and nothing waits for it to be read.
func (h *Proxy) Backlog() <-chan struct{} { return h.backlog }

func (h *Proxy) signalBacklog() {
	select {
	case h.backlog <- struct{}{}:
	default:
	}
}

// recovers, deferred, has a panic cost no more than what its function was at.
func (h *Proxy) recoverPanic(what string) {
	if r := recover(); r != nil {
		h.logPanic(what, r)
	}
}

func (h *Proxy) logPanic(what string, r any) {
	h.stats.panics.Add(1)
	h.log.Error("panic", "in", what, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// PBXReachable reports whether a PBX is there to send calls to.
func (h *Proxy) PBXReachable() bool {
	_, ok := h.firstAlivePBX()
	return ok
}

// Close frees the listeners. A Proxy that runs does so itself.
func (h *Proxy) Close() {
	for _, l := range h.listeners {
		if l.packet != nil {
			l.packet.Close()
		}
		if l.stream != nil {
			l.stream.Close()
		}
	}
}

// now is the time since the hop began.
func (h *Proxy) now() instant { return instant(time.Since(h.epoch)) }

// Clock reads the steady clock that messages are stamped with, see
// [dialog.Message], and how far the wall clock is ahead of it. The steady clock
// begins as the wall clock in Listen; nobody sets it. It may be called from any
// goroutine.
func (h *Proxy) Clock() (now time.Time, wallOffset time.Duration) {
	wall := time.Now() // it reads both clocks
	since := wall.Sub(h.epoch)
	if h.cfg.Wall != nil {
		wall = h.cfg.Wall()
	}
	return h.epoch.Add(since), time.Duration(wall.UnixNano()-h.epoch.UnixNano()) - since
}

// sideOf says which side the message p came from. Phones may share the address of a
// PBX that is reached over UDP, as behind one NAT: a connection from there on which
// one registers is theirs.
func (h *Proxy) sideOf(p *packet) dialog.Side {
	for _, pbx := range h.pbx {
		if !pbx.isSource(p.listener.proto, p.peer) {
			continue
		}
		if p.conn != nil && pbx.addr.Proto == UDP {
			if p.msg.isRequest() && p.msg.isMethod("REGISTER") {
				p.conn.hasPhones = true
			}
			if p.conn.hasPhones {
				continue
			}
		}
		return pbxSide
	}
	return h.sourceSide(p.peer)
}

// sideAt says which side an address is on that requests are sent to.
func (h *Proxy) sideAt(a Addr) dialog.Side {
	for _, p := range h.pbx {
		if p.addr.Proto == a.Proto && (p.addr.AddrPort == a.AddrPort || a.Proto == TCP && p.addr.Addr() == a.Addr()) {
			return pbxSide
		}
	}
	return h.sourceSide(a.AddrPort)
}

func (h *Proxy) sourceSide(peer netip.AddrPort) dialog.Side {
	for _, s := range h.cfg.PBXSources {
		if s.Contains(peer.Addr()) {
			return pbxSide
		}
	}
	return edgeSide
}

// livesAt reports whether bellhop listens at an address.
func (h *Proxy) listensOnHost(ip netip.Addr) bool {
	for _, l := range h.listeners {
		own := l.addr.Addr()
		if own == ip || l.local.Addr() == ip || own.IsUnspecified() && ip.IsLoopback() {
			return true
		}
	}
	return false
}

// pbxHost reports whether a PBX lives at that address, on whatever port.
func (h *Proxy) isPBXHost(ip netip.Addr) bool {
	for _, p := range h.pbx {
		if p.addr.Addr() == ip {
			return true
		}
	}
	for _, s := range h.cfg.PBXSources {
		if s.Contains(ip) {
			return true
		}
	}
	return false
}

// trunkAt is the [Trunk] that a peer belongs to, nil if none.
func (h *Proxy) trunkAt(ip netip.Addr) *Trunk {
	for i := range h.cfg.Trunks {
		for _, s := range h.cfg.Trunks[i].Sources {
			if s.Contains(ip) {
				return &h.cfg.Trunks[i]
			}
		}
	}
	return nil
}

// sends reports whether what comes from a peer is from this PBX. It is known by its
// address, whatever transport it sends a request over: some choose another than the
// one they are reached by, as for a large one (RFC 3261 §18.1.1). A source port is
// looked at where others may send from the address too: over UDP unless the PBX is
// reached over TCP, and where bellhop has the same address.
func (p *pbx) isSource(proto Proto, peer netip.AddrPort) bool {
	switch {
	case p.addr.AddrPort == peer:
		return true
	case p.addr.Addr() != peer.Addr():
		return false
	case p.sharesOurAddr:
		return p.addr.Proto == TCP && proto == TCP
	}
	return p.addr.Proto == TCP || proto == TCP
}

// namesPBX returns the configured PBX at an address, nil if there is none. A URI
// seldom says which transport; the configuration does.
func (h *Proxy) pbxOfAddr(a Addr) (found *pbx) {
	for _, p := range h.pbx {
		if p.addr.AddrPort == a.AddrPort {
			if p.addr.Proto == a.Proto {
				return p
			}
			found = p
		}
	}
	return found
}

// alive is the first PBX that answers.
func (h *Proxy) firstAlivePBX() (*pbx, bool) {
	for _, p := range h.pbx {
		if !p.down.Load() {
			return p, true
		}
	}
	return nil, false
}

// listensAt reports whether a message to an address would come back to us.
func (h *Proxy) listensAt(a netip.AddrPort) bool {
	for _, l := range h.listeners {
		own := l.addr.Addr()
		if l.addr.Port() == a.Port() && (own == a.Addr() || l.local.Addr() == a.Addr() || own.IsUnspecified() && a.Addr().IsLoopback()) {
			return true
		}
	}
	return false
}

// listenerFor picks the listener to reach an address from: the one the message
// came on when it can, else the first that speaks the transport and is of the
// address's kind.
func (h *Proxy) listenerFor(proto Proto, ip netip.Addr, came *listener) *listener {
	if came != nil && came.proto == proto && came.canReach(ip) {
		return came
	}
	for _, l := range h.listeners {
		if l.proto == proto && l.canReach(ip) {
			return l
		}
	}
	return nil
}

// reaches reports whether packets from l can get to ip: the same family, and
// loopback only to loopback.
func (l *listener) canReach(ip netip.Addr) bool {
	own := l.addr.Addr()
	return own.Is4() == ip.Is4() && (own.IsUnspecified() || own.IsLoopback() == ip.IsLoopback())
}

// udpListener is the listener that a flow names: by its place and port or,
// where the configuration has changed, by its port.
func (h *Proxy) listenerOfFlow(fl flow, came *listener) *listener {
	ip := fl.peer.Addr()
	var found *listener
	for _, l := range h.listeners {
		if l.proto != UDP || l.addr.Port() != fl.listenerPort || !l.canReach(ip) {
			continue
		}
		if l.index == fl.listenerIndex {
			return l
		}
		if found == nil {
			found = l
		}
	}
	if found != nil {
		return found
	}
	return h.listenerFor(UDP, ip, came)
}

// addrPort is the address in a net.Addr, IPv4 as IPv4.
func addrPortOf(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapAddr(ap)
}

func unmapAddr(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
