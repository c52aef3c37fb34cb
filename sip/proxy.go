// Package sip forwards SIP messages between phones and a PBX, and passes a copy of each to
// an observer.
//
// A [Proxy] has two sides: the edge side, with phones and trunks, and the PBX side. It is
// a transaction-stateful proxy (RFC 3261 §16, with RFC 3581, 4320, 5393, 5658 and 6026).
// It forwards the bytes that it received. It edits only what a proxy must edit (Via,
// Record-Route, Route, Request-URI and Max-Forwards) and the header fields that [Config]
// names. It adds a missing Content-Length on a stream, and forwards a 503 as 500.
//
// # Path of a message
//
// A listener reads a datagram (udp.go), or a message from a stream (stream.go, framing.go,
// websocket.go). The message is indexed (index.go) and passed to a worker, which finds its
// transaction or starts one (dispatch.go, client_tx.go). The worker routes a request
// (route.go, route_from_pbx.go), observes it (observe.go), edits it (rewrite.go) and sends
// it (send.go).
//
// # Order and waiting
//
// A worker owns the transactions and timers of the calls whose Call-ID hashes to it, and
// handles one message or timer at a time. The messages of a call therefore keep their
// order. A worker never waits for a disk or a peer. If its queue is full, a datagram is
// dropped and counted, and a stream is not read until there is room.
//
// Known sources are the PBX, trunks, and addresses that got a 2xx to a REGISTER or INVITE
// within the last hour. New requests of unknown sources wait until all other queued
// messages are handled, and are dropped first.
//
// # Memory
//
// A Proxy keeps transactions, up to a limit of memory (see Shed in [Stats]), but no
// dialogs. After a final response a transaction keeps what a retransmission needs. A
// request within a dialog is routed by a token in our Record-Route URI, and a request to
// a registered phone by a token in our Path or Contact URI. [Config.Key] authenticates
// the tokens. Therefore a process that has just started can route the BYE of a call that
// an earlier process set up. A Proxy also remembers over which flow each phone registered
// last. It needs that memory only for phones that have moved to another flow since.
//
// # Panics
//
// A panic is logged and counted. The message that caused it is lost. Its connection is
// closed if nothing can be read after that message.
//
// # Reflection
//
// The source address of a UDP datagram may be forged. Until a source has proved that it
// gets our responses, its INVITE causes these responses in any case: each provisional
// response of the PBX once, the final response after a provisional one, a 2xx, and two
// further 2xx. Any other response is sent only if all responses together are then no
// larger than the INVITE and its retransmissions.
package sip

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/sip/guard"
	"bellhop/sip/resolve"
)

// A Proxy forwards SIP between the edge side and the PBX side. Make one with [Listen].
type Proxy struct {
	cfg             Config
	log             *slog.Logger
	epoch           time.Time
	branchSalt      branchSalt
	hashSeed        maphash.Seed // of loop hashes and of the choice of a worker; secret
	listeners       listeners
	peers           peers
	workers         []*worker
	streams         *streamTable
	serverKeySecret [32]byte // part of the keys of server transactions
	sources         sources
	bindings        *bindings
	resolver        *resolve.Resolver
	affinities      *affinities
	guard           *guard.Guard
	recount         chan struct{} // asks runGuard to count bindings
	suspects        chan suspect  // sources to ban
	backlog         chan struct{} // see Backlog
	draining        atomic.Bool
	stats           counters
	goroutines      sync.WaitGroup
}

// Listen opens the listeners. Nothing is read before [Proxy.Run].
func Listen(cfg Config) (*Proxy, error) {
	if len(cfg.Key) < 32 {
		return nil, fmt.Errorf("sip: key has %d bytes: use at least 32", len(cfg.Key))
	}
	if len(cfg.Listen) == 0 || len(cfg.PBX) == 0 {
		return nil, errors.New("sip: no listener or no PBX: configure at least one of each")
	}
	px := &Proxy{cfg: cfg, log: cfg.Log, epoch: time.Now(), hashSeed: maphash.MakeSeed()}
	if px.log == nil {
		px.log = slog.Default()
	}
	if px.cfg.Net == nil {
		px.cfg.Net = systemNetwork{px.log}
	}
	px.cfg.Register = cmp.Or(px.cfg.Register, RegisterPath)
	if px.cfg.Workers <= 0 {
		px.cfg.Workers = runtime.GOMAXPROCS(0)
	}
	var salt [4]byte
	rand.Read(salt[:])
	px.branchSalt = branchSalt(binary.BigEndian.Uint32(salt[:]))
	rand.Read(px.serverKeySecret[:])
	px.sources = newSources(&px.peers)
	px.bindings = newBindings()
	px.guard = guard.New(cfg.Guard)
	px.recount, px.suspects = make(chan struct{}, 1), make(chan suspect, maxSuspects)
	px.backlog = make(chan struct{}, 1)
	px.peers.configure(&px.cfg)
	px.affinities = newAffinities()
	for _, a := range cfg.Listen {
		l, err := px.openListener(a)
		if err != nil {
			px.Close()
			return nil, err
		}
		px.listeners.all = append(px.listeners.all, l)
	}
	px.resolver = px.newResolver()
	for _, r := range px.peers.remotes() {
		if err := px.openRemote(r); err != nil {
			px.Close()
			return nil, err
		}
	}
	px.streams = newStreamTable(px)
	for i := range px.cfg.Workers {
		px.workers = append(px.workers, newWorker(px, i))
	}
	return px, nil
}

// Addrs returns the addresses listened on, with the ports that the system chose.
func (px *Proxy) Addrs() []Addr {
	var as []Addr
	for _, l := range px.listeners.all {
		as = append(as, Addr{Proto: l.proto, AddrPort: l.addr})
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
	px.goroutines.Go(func() { px.resolver.Run(ctx) })
	px.goroutines.Go(func() { px.runGuard(ctx) })
	for _, l := range px.listeners.all {
		if l.stream != nil {
			px.goroutines.Go(func() { px.streams.acceptConns(ctx, l) })
		} else if l.packet != nil {
			px.goroutines.Go(func() { l.readPackets(ctx) })
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

// Backlog returns a channel that receives a value whenever the queues of a worker are an
// eighth full, because more processors would help then. The channel holds at most one
// value. The proxy never waits for a reader.
func (px *Proxy) Backlog() <-chan struct{} { return px.backlog }

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

// PBXReachable reports whether a PBX is up. A single PBX always counts as up, unless it has
// a name without an address.
func (px *Proxy) PBXReachable() bool { return px.peers.anyPBXUp() }

// ReloadNames asks other name servers from now on; none: those of the machine. It looks up
// the configured names again at once. Their addresses stay in use until the answers have
// come.
func (px *Proxy) ReloadNames(servers []netip.AddrPort) { px.resolver.Reload(servers) }

// Close closes the listeners. Run does so itself when it ends.
func (px *Proxy) Close() {
	for _, l := range px.listeners.all {
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
// and how far the wall clock is ahead of it. Listen sets the steady clock to the time of
// the wall clock; it is never adjusted later. Clock may be called from any goroutine.
func (px *Proxy) Clock() (now time.Time, wallOffset time.Duration) {
	wall := time.Now() // reads the wall clock and the monotonic clock
	since := wall.Sub(px.epoch)
	if px.cfg.WallClock != nil {
		wall = px.cfg.WallClock()
	}
	return px.epoch.Add(since), time.Duration(wall.UnixNano()-px.epoch.UnixNano()) - since
}
