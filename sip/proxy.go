// Package sip forwards SIP messages between phones and a PBX, and passes a copy of each to
// an observer.
//
// A [Proxy] has two sides: the edge side, with phones and trunks, and the PBX side. It is
// a transaction-stateful proxy (RFC 3261 §16, with RFC 3581, 4320, 5393, 5658 and 6026).
// It forwards the bytes that it received. It adds a Via, a Record-Route and the header
// fields of the registration mode, decrements Max-Forwards, removes its own Route, and
// changes nothing else.
//
// # Order and waiting
//
// A worker owns the transactions and timers of the calls whose Call-ID hashes to it, and
// handles one message or timer at a time. The messages of a call therefore keep their
// order. No message waits for a disk, a peer or another call: a message for a full queue
// is dropped and counted.
//
// Known sources are the PBX, trunks, and addresses that got a 2xx to a REGISTER or INVITE
// within the last hour. New requests of unknown sources wait until those of known sources
// are handled, and are dropped first.
//
// # Memory
//
// A Proxy keeps live transactions only, within a limit: see [Stats]. After a final
// response a transaction keeps what a retransmission needs. Requests within a dialog are
// routed by a token in our Record-Route and Path URIs, authenticated with [Config.Key].
// A process that has just started routes the BYE of a call that an earlier one set up.
//
// # Panics
//
// A panic is logged and counted. It costs the message that caused it, or the connection
// if nothing can be read after that message.
//
// # Reflection
//
// The source address of a UDP datagram may be forged. Until a source proves that it gets
// our responses, its INVITE causes at most each response of the PBX once, two repetitions
// of a 2xx, and no more bytes of our own responses and of other repetitions than the
// source sent.
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

// A Proxy forwards SIP between the edge side and the PBX side. Make one with [Listen].
type Proxy struct {
	cfg             Config
	log             *slog.Logger
	epoch           time.Time
	branchSalt      uint32       // part of every branch: tells our transactions from those of an earlier process
	hashSeed        maphash.Seed // of loop hashes; secret, so that no response can be forged
	listeners       []*listener
	ownNames        map[hostPort]bool // hosts and ports that name the proxy in a URI
	workers         []*worker
	streams         *streamTable
	pbx             []*pbx
	serverKeySecret [32]byte      // part of the keys of server transactions
	acceptedSources *sourceSet    // sources whose REGISTER or INVITE was accepted
	phoneSources    *sourceSet    // sources whose REGISTER was accepted
	provenSources   *sourceSet    // sources that have proved their address: they know the content of a response
	backlog         chan struct{} // see Backlog
	draining        atomic.Bool
	stats           counters
	goroutines      sync.WaitGroup
}

// pbx is one configured PBX.
type pbx struct {
	addr          Addr
	id            pbxID
	sharesOurAddr bool        // the proxy has the same IP address, so phones may send from it too
	down          atomic.Bool // it did not answer OPTIONS, or answered 503; never set for a single PBX

	diagnosis diagnosis
}

// hostPort is a host and port as a URI names them, in lower case and without brackets.
type hostPort struct {
	host string
	port int
}

// listener is one address that the proxy listens on.
type listener struct {
	proxy  *Proxy
	index  uint8 // position in the configuration
	proto  Proto
	addr   netip.AddrPort // as bound
	local  netip.AddrPort // as the PBX reaches it
	sentBy string         // host:port in our Via
	uri    string         // host:port;transport=… in our URIs
	packet PacketConn     // UDP
	stream net.Listener   // TCP
}

// Stats are counts since the start of the proxy, except Transactions and Streams, which
// are current.
type Stats struct {
	Received     uint64 `json:"received"`     // SIP messages
	Malformed    uint64 `json:"malformed"`    // messages refused or dropped for their syntax
	Stray        uint64 `json:"stray"`        // responses without a transaction
	Dropped      uint64 `json:"dropped"`      // messages dropped because a queue was full
	Unobserved   uint64 `json:"unobserved"`   // messages forwarded while the observation channel was full
	Shed         uint64 `json:"shed"`         // new requests dropped or refused because transactions held too much memory
	Withheld     uint64 `json:"withheld"`     // responses not sent to UDP sources that have not proved their address
	Refused      uint64 `json:"refused"`      // connections refused because there were too many
	Panics       uint64 `json:"panics"`       // messages lost to a bug
	Transactions int64  `json:"transactions"` // client transactions without a final response
	Streams      int64  `json:"streams"`      // open connections
}

type counters struct {
	received, malformed, stray, dropped, unobserved, panics atomic.Uint64
	shed, withheld, refused                                 atomic.Uint64
	transactions                                            atomic.Int64
}

// Stats returns the current counts. It may be called from any goroutine at any time.
func (px *Proxy) Stats() Stats {
	return Stats{
		Received:     px.stats.received.Load(),
		Malformed:    px.stats.malformed.Load(),
		Stray:        px.stats.stray.Load(),
		Dropped:      px.stats.dropped.Load(),
		Unobserved:   px.stats.unobserved.Load(),
		Shed:         px.stats.shed.Load(),
		Withheld:     px.stats.withheld.Load(),
		Refused:      px.stats.refused.Load(),
		Panics:       px.stats.panics.Load(),
		Transactions: px.stats.transactions.Load(),
		Streams:      px.streams.count.Load(),
	}
}

// Listen opens the listeners. Nothing is read before [Proxy.Run].
func Listen(cfg Config) (*Proxy, error) {
	if len(cfg.Key) < 32 {
		return nil, fmt.Errorf("sip: key has %d bytes: use at least 32", len(cfg.Key))
	}
	if len(cfg.Listen) == 0 || len(cfg.PBX) == 0 {
		return nil, errors.New("sip: no listener or no PBX: configure at least one of each")
	}
	px := &Proxy{cfg: cfg, log: cfg.Log, epoch: time.Now(), hashSeed: maphash.MakeSeed(), ownNames: map[hostPort]bool{}}
	if px.log == nil {
		px.log = slog.Default()
	}
	if px.cfg.Net == nil {
		px.cfg.Net = systemNetwork{}
	}
	if px.cfg.Workers <= 0 {
		px.cfg.Workers = runtime.GOMAXPROCS(0)
	}
	var salt [4]byte
	rand.Read(salt[:])
	px.branchSalt = binary.BigEndian.Uint32(salt[:])
	rand.Read(px.serverKeySecret[:])
	px.acceptedSources, px.phoneSources, px.provenSources = newSourceSet(acceptedLifetime), newSourceSet(phoneLifetime), newSourceSet(acceptedLifetime)
	px.backlog = make(chan struct{}, 1)
	for _, a := range cfg.PBX {
		px.pbx = append(px.pbx, &pbx{addr: a, id: newPBXID(a)})
	}
	for _, a := range cfg.Listen {
		l, err := px.openListener(a)
		if err != nil {
			px.Close()
			return nil, err
		}
		px.listeners = append(px.listeners, l)
	}
	for _, p := range px.pbx {
		p.sharesOurAddr = px.listensOnHost(p.addr.Addr())
		if px.listenerFor(p.addr.Proto, p.addr.Addr(), nil) == nil {
			px.Close()
			return nil, fmt.Errorf("sip: no listener can reach PBX %s: add a %s listener of its address family", p.addr, p.addr.Proto)
		}
	}
	px.streams = newStreamTable(px)
	for i := range px.cfg.Workers {
		px.workers = append(px.workers, newWorker(px, i))
	}
	return px, nil
}

// openListener opens the socket of one configured address.
func (px *Proxy) openListener(a Addr) (*listener, error) {
	l := &listener{proxy: px, index: uint8(len(px.listeners)), proto: a.Proto}
	switch a.Proto {
	case UDP:
		c, err := px.cfg.Net.ListenPacket(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.packet = c
		l.addr = addrPortOf(c.LocalAddr())
	case TCP:
		c, err := px.cfg.Net.Listen(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.stream = c
		l.addr = addrPortOf(c.Addr())
	}
	l.local = netip.AddrPortFrom(px.reachableAddr(l.addr.Addr()), l.addr.Port())
	name := HostPort{Host: uriHost(l.local.Addr()), Port: l.addr.Port()}
	px.addOwnName(name)
	if ad := px.cfg.Advertise; ad.Host != "" {
		name.Host = ad.Host
		if ad.Port != 0 {
			name.Port = ad.Port
		}
		px.addOwnName(name)
	}
	l.sentBy = name.String()
	l.uri = l.sentBy
	if l.proto == TCP {
		l.uri += ";transport=tcp"
	}
	return l, nil
}

// listenError returns the error for a socket that cannot be opened.
func listenError(a Addr, err error) error {
	if isInUse(err) {
		return fmt.Errorf("cannot listen on %s: the port is in use by another process", a)
	}
	return fmt.Errorf("cannot listen on %s: %w", a, err)
}

// reachableAddr returns the address at which others reach a listener. For an unspecified
// address such as 0.0.0.0 it is the one that this machine uses towards the PBX.
func (px *Proxy) reachableAddr(ip netip.Addr) netip.Addr {
	if !ip.IsUnspecified() {
		return ip
	}
	c, err := net.Dial("udp", px.cfg.PBX[0].AddrPort.String()) // sends nothing
	if err != nil {
		return ip
	}
	defer c.Close()
	return addrPortOf(c.LocalAddr()).Addr()
}

// addOwnName adds a host and port to the names of the proxy.
func (px *Proxy) addOwnName(n HostPort) {
	px.ownNames[hostPort{strings.ToLower(strings.Trim(n.Host, "[]")), int(n.Port)}] = true
}

// isOwnName reports whether a URI with this host and port names the proxy. Port 0 is
// 5060.
func (px *Proxy) isOwnName(host string, port int) bool {
	if port == 0 {
		port = 5060
	}
	return px.ownNames[hostPort{strings.ToLower(strings.Trim(host, "[]")), port}]
}

// Addrs returns the addresses listened on, with the ports that the system chose.
func (px *Proxy) Addrs() []Addr {
	var as []Addr
	for _, l := range px.listeners {
		as = append(as, Addr{l.proto, l.addr})
	}
	return as
}

// Run forwards messages until ctx ends. It then closes the listeners and all streams,
// and returns when every goroutine of the proxy has ended.
func (px *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, w := range px.workers {
		px.goroutines.Go(func() { w.run(ctx) })
	}
	for _, l := range px.listeners {
		switch l.proto {
		case UDP:
			px.goroutines.Go(func() { px.readPackets(ctx, l) })
		case TCP:
			px.goroutines.Go(func() { px.streams.acceptConns(ctx, l) })
		}
	}
	<-ctx.Done()
	px.Close()
	px.streams.close()
	px.goroutines.Wait()
	return nil
}

// Drain refuses new calls with 503 from now on. It returns when no transaction is under
// way or ctx ends.
func (px *Proxy) Drain(ctx context.Context) {
	px.draining.Store(true)
	for px.stats.transactions.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Backlog returns a channel that receives a value when the queues of a worker are an
// eighth full: more processors would help. It holds at most one value, and nothing waits
// for it to be read.
func (px *Proxy) Backlog() <-chan struct{} { return px.backlog }

// signalBacklog puts a value into the channel of Backlog if it is empty.
func (px *Proxy) signalBacklog() {
	select {
	case px.backlog <- struct{}{}:
	default:
	}
}

// recoverPanic, when deferred, recovers a panic, logs it and counts it. what names the
// work that is lost.
func (px *Proxy) recoverPanic(what string) {
	if r := recover(); r != nil {
		px.logPanic(what, r)
	}
}

// logPanic logs and counts a recovered panic r.
func (px *Proxy) logPanic(what string, r any) {
	px.stats.panics.Add(1)
	px.log.Error("panic recovered", "part", what, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// PBXReachable reports whether a PBX is up. A single PBX always counts as up.
func (px *Proxy) PBXReachable() bool {
	_, ok := px.firstAlivePBX()
	return ok
}

// Close closes the listeners. Run does so itself when it ends.
func (px *Proxy) Close() {
	for _, l := range px.listeners {
		if l.packet != nil {
			l.packet.Close()
		}
		if l.stream != nil {
			l.stream.Close()
		}
	}
}

// now returns the time since the proxy was made.
func (px *Proxy) now() instant { return instant(time.Since(px.epoch)) }

// Clock returns the steady clock by which messages are stamped (see [dialog.Message]),
// and how far the wall clock is ahead of it. The steady clock starts as the wall clock
// in Listen and is never adjusted. Clock may be called from any goroutine.
func (px *Proxy) Clock() (now time.Time, wallOffset time.Duration) {
	wall := time.Now() // it reads both clocks
	since := wall.Sub(px.epoch)
	if px.cfg.WallClock != nil {
		wall = px.cfg.WallClock()
	}
	return px.epoch.Add(since), time.Duration(wall.UnixNano()-px.epoch.UnixNano()) - since
}

// sideOf returns the side that the message p came from. Phones may share the address of
// a PBX that is reached over UDP, for example behind one NAT: a connection from that
// address on which a phone registers is on the edge side.
func (px *Proxy) sideOf(p *packet) dialog.Side {
	for _, pbx := range px.pbx {
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
	return px.sourceSide(p.peer)
}

// sideAt returns the side of an address that requests are sent to.
func (px *Proxy) sideAt(a Addr) dialog.Side {
	for _, p := range px.pbx {
		if p.addr.Proto == a.Proto && (p.addr.AddrPort == a.AddrPort || a.Proto == TCP && p.addr.Addr() == a.Addr()) {
			return pbxSide
		}
	}
	return px.sourceSide(a.AddrPort)
}

// sourceSide returns the PBX side for addresses in Config.PBXSources, else the edge
// side.
func (px *Proxy) sourceSide(peer netip.AddrPort) dialog.Side {
	for _, s := range px.cfg.PBXSources {
		if s.Contains(peer.Addr()) {
			return pbxSide
		}
	}
	return edgeSide
}

// listensOnHost reports whether the proxy listens on an IP address, on any port.
func (px *Proxy) listensOnHost(ip netip.Addr) bool {
	for _, l := range px.listeners {
		own := l.addr.Addr()
		if own == ip || l.local.Addr() == ip || own.IsUnspecified() && ip.IsLoopback() {
			return true
		}
	}
	return false
}

// isPBXHost reports whether a PBX is configured at an IP address, on any port.
func (px *Proxy) isPBXHost(ip netip.Addr) bool {
	for _, p := range px.pbx {
		if p.addr.Addr() == ip {
			return true
		}
	}
	for _, s := range px.cfg.PBXSources {
		if s.Contains(ip) {
			return true
		}
	}
	return false
}

// trunkAt returns the trunk that an address belongs to, or nil.
func (px *Proxy) trunkAt(ip netip.Addr) *Trunk {
	for i := range px.cfg.Trunks {
		for _, s := range px.cfg.Trunks[i].Sources {
			if s.Contains(ip) {
				return &px.cfg.Trunks[i]
			}
		}
	}
	return nil
}

// isSource reports whether a message from peer comes from this PBX.
//
// The IP address decides, whatever transport the PBX is configured with: some PBXs
// choose another one, for a large request for example (RFC 3261 §18.1.1). The source
// port must match as well where other senders may have the same address: over UDP unless
// the PBX is reached over TCP, and where the proxy has the address too.
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

// pbxOfAddr returns the configured PBX at an address, or nil. One with the same
// transport is preferred: a URI seldom names the transport, the configuration does.
func (px *Proxy) pbxOfAddr(a Addr) (found *pbx) {
	for _, p := range px.pbx {
		if p.addr.AddrPort == a.AddrPort {
			if p.addr.Proto == a.Proto {
				return p
			}
			found = p
		}
	}
	return found
}

// firstAlivePBX returns the first PBX that answers.
func (px *Proxy) firstAlivePBX() (*pbx, bool) {
	for _, p := range px.pbx {
		if !p.down.Load() {
			return p, true
		}
	}
	return nil, false
}

// listensAt reports whether a message to an address would come back to the proxy.
func (px *Proxy) listensAt(a netip.AddrPort) bool {
	for _, l := range px.listeners {
		own := l.addr.Addr()
		if l.addr.Port() == a.Port() && (own == a.Addr() || l.local.Addr() == a.Addr() || own.IsUnspecified() && a.Addr().IsLoopback()) {
			return true
		}
	}
	return false
}

// listenerFor returns the listener from which to reach an address: came, on which the
// message was received, if it can, else the first with the right transport and address
// family. It returns nil if there is none.
func (px *Proxy) listenerFor(proto Proto, ip netip.Addr, came *listener) *listener {
	if came != nil && came.proto == proto && came.canReach(ip) {
		return came
	}
	for _, l := range px.listeners {
		if l.proto == proto && l.canReach(ip) {
			return l
		}
	}
	return nil
}

// canReach reports whether packets from l can reach ip: the address families are the
// same, and a loopback address reaches loopback only.
func (l *listener) canReach(ip netip.Addr) bool {
	own := l.addr.Addr()
	return own.Is4() == ip.Is4() && (own.IsUnspecified() || own.IsLoopback() == ip.IsLoopback())
}

// listenerOfFlow returns the UDP listener that a flow names: by index and port or, after
// a change of the configuration, by port alone.
func (px *Proxy) listenerOfFlow(fl flow, came *listener) *listener {
	ip := fl.peer.Addr()
	var found *listener
	for _, l := range px.listeners {
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
	return px.listenerFor(UDP, ip, came)
}

// addrPortOf returns the address in a net.Addr; an IPv4-mapped address becomes IPv4.
func addrPortOf(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapAddr(ap)
}

// unmapAddr turns an IPv4-mapped IPv6 address into IPv4.
func unmapAddr(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
