package sip

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/sip/guard"
)

// streamTable holds the open connections. Workers look them up without a lock.
type streamTable struct {
	proxy          *Proxy
	byPeer         sync.Map     // streamKey → *stream
	count          atomic.Int64 // connections, including those that have sent nothing
	largeReadBytes atomic.Int64 // see maxLargeReadBytes
	lastID         atomic.Uint32
	goroutines     sync.WaitGroup
	handshakes     *handshakes
	writers        chan *stream // takes a stream if a goroutine waits for one to write
	idleWriters    atomic.Int32 // these goroutines
	done           chan struct{}

	mu        sync.Mutex
	perSource map[netip.Prefix]int       // connections, see guard.SourceOf
	conns     map[net.Conn]bool          // open, also those that are not in byPeer
	refusedAt map[netip.Prefix]time.Time // time of the last log line about a refused connection
	closed    bool
}

// streamKey identifies a stream. Streams of two transports may have the same peer address,
// and so may streams with different certificates of ours.
type streamKey struct {
	proto  Proto
	peer   netip.AddrPort
	client *tls.Config // with which the proxy has opened it; nil: without TLS, or accepted
}

// newStreamTable returns an empty streamTable.
func newStreamTable(px *Proxy) *streamTable {
	return &streamTable{proxy: px, handshakes: newHandshakes(), writers: make(chan *stream), done: make(chan struct{}), perSource: map[netip.Prefix]int{}, conns: map[net.Conn]bool{}, refusedAt: map[netip.Prefix]time.Time{}}
}

// findStream returns the open stream of a transport to a peer, or nil. id 0 matches any
// stream, but prefers one that the proxy has opened with its certificate.
func (ss *streamTable) findStream(peer Addr, id uint32) *stream {
	key := streamKey{proto: peer.Proto, peer: peer.AddrPort}
	if id == 0 {
		for key.client = range ss.proxy.peers.clientsFor(peer) {
			if v, ok := ss.byPeer.Load(key); ok {
				return v.(*stream)
			}
		}
		key.client = nil
	}
	v, ok := ss.byPeer.Load(key)
	if !ok {
		return nil
	}
	if s := v.(*stream); id == 0 || s.id == id {
		return s
	}
	return nil
}

// openTo returns the stream to an address of the transport of l. If there is none, it starts
// to open one. Messages wait in the queue of the stream until it is open. If a limit of
// connections is reached, or if the proxy opens no connections of that transport to the
// peer, the returned stream is closed.
func (ss *streamTable) openTo(to Addr, l *listener) *stream {
	peer := to.AddrPort
	fits := func(s *stream) bool { return s.listener.side == l.side || s.listener.side == BothSides }
	if s := ss.findStream(to, 0); s != nil && fits(s) {
		return s
	}
	s := ss.newStream(nil, peer, l)
	s.host = to.Host
	if s.client = ss.proxy.peers.clientFor(to); !ss.proxy.peers.canDial(to) {
		s.close()
		return s
	}
	for {
		v, loaded := ss.byPeer.LoadOrStore(s.key(), s)
		if !loaded {
			break
		}
		if other := v.(*stream); fits(other) {
			return other // another worker opens it: some carriers refuse a second connection
		}
		if ss.byPeer.CompareAndSwap(s.key(), v, s) {
			break
		}
	}
	if !ss.admitConn(peer, l) {
		s.close()
	} else if !ss.startGoroutine(func() {
		defer ss.releaseConn(peer)
		s.dialPeer()
	}) {
		ss.releaseConn(peer)
		s.close()
	}
	return s
}

// newStream returns a stream. c is nil if the connection of the stream is still to be
// opened.
func (ss *streamTable) newStream(c net.Conn, peer netip.AddrPort, l *listener) *stream {
	s := &stream{
		table: ss, id: ss.lastID.Add(1), listener: l, peer: peer, conn: c, dialed: c == nil, since: ss.proxy.now(),
		outQueue: outQueue{writer: true}, done: make(chan struct{}),
	}
	if c != nil {
		if s.local = addrPortOf(c.LocalAddr()); l.hasAnyAddr() && s.local.IsValid() {
			l.addAddr(s.local.Addr())
		}
	}
	return s
}

// addStream adds a stream to the table. c is its connection, or nil.
func (ss *streamTable) addStream(c net.Conn, peer netip.AddrPort, l *listener, trunk *Trunk) *stream {
	s := ss.newStream(c, peer, l)
	if trunk != nil {
		s.trunk = trunk.Name
	}
	ss.byPeer.Store(s.key(), s)
	return s
}

// localAddr returns our address that the peer has connected to, if the listener has
// several, else the zero address.
func (s *stream) localAddr() netip.Addr {
	if s.dialed || !s.local.IsValid() {
		return netip.Addr{}
	}
	return s.listener.localAddr(s.local.Addr())
}

// startGoroutine runs f in a goroutine, or returns false if the table is closed. A panic
// of f is logged and ends f only.
func (ss *streamTable) startGoroutine(f func()) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closed {
		return false
	}
	ss.goroutines.Go(func() {
		defer ss.proxy.recoverPanic("stream")
		f()
	})
	return true
}

// startWriter writes what is queued for a stream, in a goroutine that waits for work or else
// in a new one. An idle stream has no goroutine that writes, because its stack would be a
// large part of the memory of the stream.
func (ss *streamTable) startWriter(s *stream) {
	select {
	case ss.writers <- s:
	default:
		if !ss.startGoroutine(func() { ss.runWriter(s) }) {
			s.close()
		}
	}
}

// runWriter writes what is queued for one stream after another. It ends if enough others
// wait for work.
func (ss *streamTable) runWriter(s *stream) {
	for {
		s.writeQueued()
		if ss.idleWriters.Add(1) > maxIdleWriters {
			ss.idleWriters.Add(-1)
			return
		}
		select {
		case s = <-ss.writers:
			ss.idleWriters.Add(-1)
		case <-ss.done:
			return
		}
	}
}

// acceptConns accepts connections until the listener is closed. Any other error, such as
// too many open files, is logged, and accepting goes on after 100 ms.
func (ss *streamTable) acceptConns(ctx context.Context, l *listener) {
	for {
		c, err := l.stream.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			ss.proxy.log.Warn("connection not accepted", "listener", Addr{Proto: l.proto, AddrPort: l.addr}.String(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		peer := addrPortOf(c.RemoteAddr())
		if !ss.admitConn(peer, l) {
			c.Close()
			continue
		}
		if !ss.startGoroutine(func() {
			ss.serveConn(c, peer, l)
		}) {
			ss.releaseConn(peer)
			c.Close()
		}
	}
}

// serveConn waits for the first byte of a connection and only then makes a stream of it.
// A connection that sends nothing, such as a health check's, takes little memory.
func (ss *streamTable) serveConn(raw net.Conn, peer netip.AddrPort, l *listener) {
	defer raw.Close()
	defer func() { ss.releaseConn(peer) }()
	if !ss.trackConn(raw) {
		return
	}
	defer ss.untrackConn(raw)
	var first []byte
	ok := true
	if l.trusts(peer.Addr()) {
		peer, first, ok = ss.readClient(raw, peer, l)
	}
	if ok && len(first) == 0 {
		first = readFirst(raw, time.Now().Add(firstByteTimeout))
		ok = first != nil
	}
	c, trunk := raw, (*Trunk)(nil)
	if ok && l.tls != nil {
		if c, trunk, ok = ss.acceptTLS(raw, first, peer, l); ok {
			first = readFirst(c, time.Now().Add(firstByteTimeout))
			ok = first != nil
		}
	}
	if ok {
		l, first, ok = ss.splitTransports(c, first, peer, l)
	}
	if ok {
		ss.addStream(raw, peer, l, trunk).serve(c, first)
	}
}

// readFirst reads one byte until the deadline, or returns nil.
func readFirst(c net.Conn, deadline time.Time) []byte {
	c.SetReadDeadline(deadline)
	var first [1]byte
	if n, _ := c.Read(first[:]); n == 0 {
		return nil
	}
	return first[:]
}

// trackConn records an open connection, so that streamTable.close closes it. byPeer does
// not have all connections: some are no streams yet, and some have given way to a newer
// stream of the same peer. trackConn returns false if the table is closed.
func (ss *streamTable) trackConn(c net.Conn) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.closed {
		ss.conns[c] = true
	}
	return !ss.closed
}

// untrackConn removes a connection that trackConn has added.
func (ss *streamTable) untrackConn(c net.Conn) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.conns, c)
}

// admitConn counts a connection and returns true if it is within the limits, else refuses
// it. The limit for one source does not apply to PBX, trunks, reverse proxies and
// allowed sources, but the limit of all connections does. A connection of a banned source
// is refused silently.
func (ss *streamTable) admitConn(peer netip.AddrPort, l *listener) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	each, all := ss.proxy.cfg.Connections, ss.proxy.cfg.AllConnections
	switch ip, source := peer.Addr(), guard.SourceOf(peer.Addr()); {
	case ss.proxy.dropsBanned(l, nil, ip, ss.proxy.now()):
	case all > 0 && ss.count.Load() >= int64(all):
		ss.refuseConn(source, "guard.all_connections", all)
	case each > 0 && ss.perSource[source] >= each && !ss.proxy.isFree(l, nil, ip):
		ss.refuseConn(source, "guard.connections", each)
	default:
		ss.count.Add(1)
		ss.perSource[source]++
		return true
	}
	return false
}

// refuseConn counts a refused connection, and logs it at most once a minute for each
// source. The caller holds mu.
func (ss *streamTable) refuseConn(source netip.Prefix, key string, limit int) {
	ss.proxy.stats.refused.Add(1)
	now := time.Now()
	if at, told := ss.refusedAt[source]; told && now.Sub(at) < refusalLogInterval {
		return
	}
	if len(ss.refusedAt) >= maxRefusedAddrs {
		for s, at := range ss.refusedAt {
			if now.Sub(at) >= refusalLogInterval {
				delete(ss.refusedAt, s)
			}
		}
		if len(ss.refusedAt) >= maxRefusedAddrs {
			return
		}
	}
	ss.refusedAt[source] = now
	ss.proxy.log.Warn("connection refused", "source", guard.SourceText(source), "limit", key, "connections", limit)
}

// releaseConn takes a connection out of the counts to which admitConn has added it.
func (ss *streamTable) releaseConn(peer netip.AddrPort) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.count.Add(-1)
	source := guard.SourceOf(peer.Addr())
	if ss.perSource[source]--; ss.perSource[source] == 0 {
		delete(ss.perSource, source)
	}
}

// close closes all streams and waits for their goroutines.
func (ss *streamTable) close() {
	close(ss.done)
	ss.mu.Lock()
	ss.closed = true
	for c := range ss.conns {
		c.Close()
	}
	ss.mu.Unlock()
	ss.byPeer.Range(func(_, v any) bool {
		v.(*stream).close()
		return true
	})
	ss.goroutines.Wait()
}
