package sip

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of streams.
const (
	dialTimeout        = 5 * time.Second
	writeTimeout       = 5 * time.Second
	lingerTime         = time.Second                     // how long the peer may go on sending after our last message
	firstByteTimeout   = 10 * time.Second                // from the connection to its first byte
	messageTimeout     = 30 * time.Second                // from the first byte of a message to its last
	idleTimeout        = 3605 * time.Second              // without a byte between messages
	maxOutMessages     = 256                             // messages that wait for a slow peer
	maxOutBytes        = 1 << 20                         // bytes of these messages
	smallReadBuffer    = 512                             // first size of a read buffer
	freeReadBuffer     = 4 << 10                         // size that every connection may have
	maxLargeReadBytes  = 64 << 20                        // bytes of all read buffers beyond that size
	maxPingGap         = instant(250 * time.Millisecond) // longest time between the two CRLFs of a ping
	refusalLogInterval = time.Minute
	maxRefusedAddrs    = 1024 // addresses whose refusals are logged in one refusalLogInterval
)

// streamTable holds the open connections. Workers look them up without a lock.
type streamTable struct {
	proxy          *Proxy
	byPeer         sync.Map     // netip.AddrPort of the peer → *stream
	count          atomic.Int64 // connections, including those that have sent nothing
	largeReadBytes atomic.Int64 // see maxLargeReadBytes
	lastID         atomic.Uint32
	goroutines     sync.WaitGroup

	mu          sync.Mutex
	perPeer     map[netip.Addr]int
	silentConns map[net.Conn]bool        // accepted, without a first byte so far
	refusedAt   map[netip.Addr]time.Time // time of the last log line about a refused connection
	closed      bool
}

// newStreamTable returns an empty streamTable.
func newStreamTable(px *Proxy) *streamTable {
	return &streamTable{proxy: px, perPeer: map[netip.Addr]int{}, silentConns: map[net.Conn]bool{}, refusedAt: map[netip.Addr]time.Time{}}
}

// stream is one connection. One goroutine reads it; another writes the messages that
// workers queue.
type stream struct {
	table     *streamTable
	id        uint32
	listener  *listener
	peer      netip.AddrPort
	local     netip.AddrPort // set once the connection is open
	outQueue  chan outgoing
	outBytes  atomic.Int64 // bytes in outQueue
	done      chan struct{}
	closeOnce sync.Once
	dialed    bool // opened by the proxy, so the peer listens at its port

	hasPhones bool // a phone has registered on it; used by the reading goroutine only

	mu   sync.Mutex
	conn net.Conn // nil until it is open
}

// outgoing is one message to write. tx is the id of the client transaction that is
// informed if the message cannot be written, or 0. An outgoing without bytes closes the
// stream.
type outgoing struct {
	b  []byte
	tx uint64
}

// findStream returns the open stream to a peer, or nil. id 0 matches any stream.
func (ss *streamTable) findStream(peer netip.AddrPort, id uint32) *stream {
	v, ok := ss.byPeer.Load(peer)
	if !ok {
		return nil
	}
	if s := v.(*stream); id == 0 || s.id == id {
		return s
	}
	return nil
}

// openTo returns the stream to a peer. If there is none, it starts to open one. Messages
// wait in the queue of the stream until it is open. If a limit of connections is reached,
// the returned stream is closed.
func (ss *streamTable) openTo(peer netip.AddrPort, l *listener) *stream {
	if s := ss.findStream(peer, 0); s != nil {
		return s
	}
	s := ss.addStream(nil, peer, l)
	if !ss.admitConn(peer) {
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

// addStream adds a stream to the table. c is nil if the connection of the stream is still
// to be opened.
func (ss *streamTable) addStream(c net.Conn, peer netip.AddrPort, l *listener) *stream {
	s := &stream{
		table: ss, id: ss.lastID.Add(1), listener: l, peer: peer, conn: c, dialed: c == nil,
		outQueue: make(chan outgoing, maxOutMessages), done: make(chan struct{}),
	}
	if c != nil {
		s.local = addrPortOf(c.LocalAddr())
	}
	ss.byPeer.Store(peer, s)
	return s
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

// acceptConns accepts connections until the listener is closed. Any other error, such as
// too many open files, is logged, and accepting goes on after 100 ms.
func (ss *streamTable) acceptConns(ctx context.Context, l *listener) {
	for {
		c, err := l.stream.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			ss.proxy.log.Warn("connection not accepted", "listener", Addr{l.proto, l.addr}.String(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		peer := addrPortOf(c.RemoteAddr())
		if !ss.admitConn(peer) {
			c.Close()
			continue
		}
		if !ss.startGoroutine(func() {
			defer ss.releaseConn(peer)
			ss.serveConn(c, peer, l)
		}) {
			ss.releaseConn(peer)
			c.Close()
		}
	}
}

// serveConn waits for the first byte of a connection and only then makes a stream of it.
// A connection that sends nothing, such as a health check's, takes little memory.
func (ss *streamTable) serveConn(c net.Conn, peer netip.AddrPort, l *listener) {
	defer c.Close()
	if !ss.markSilent(c, true) {
		return
	}
	c.SetReadDeadline(time.Now().Add(firstByteTimeout))
	var first [1]byte
	n, _ := c.Read(first[:])
	if ss.markSilent(c, false); n == 0 {
		return
	}
	ss.addStream(c, peer, l).serve(c, first[:])
}

// markSilent records whether a connection has sent nothing so far, so that
// streamTable.close also closes the connections that are not yet streams. It returns
// false if the table is closed.
func (ss *streamTable) markSilent(c net.Conn, silent bool) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if silent {
		ss.silentConns[c] = true
	} else {
		delete(ss.silentConns, c)
	}
	return !ss.closed
}

// admitConn counts a connection and returns true if it is within the limits, else refuses
// it. The limit for one address does not apply to PBX and trunks, but the limit of all
// connections does.
func (ss *streamTable) admitConn(peer netip.AddrPort) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	each, all := ss.proxy.cfg.Connections, ss.proxy.cfg.AllConnections
	switch ip := peer.Addr(); {
	case all > 0 && ss.count.Load() >= int64(all):
		ss.refuseConn(ip, "guard.all_connections", all)
	case each > 0 && ss.perPeer[ip] >= each && !ss.proxy.peers.isConfigured(ip):
		ss.refuseConn(ip, "guard.connections", each)
	default:
		ss.count.Add(1)
		ss.perPeer[ip]++
		return true
	}
	return false
}

// refuseConn counts a refused connection, and logs it at most once a minute for each
// address. The caller holds mu.
func (ss *streamTable) refuseConn(ip netip.Addr, key string, limit int) {
	ss.proxy.stats.refused.Add(1)
	now := time.Now()
	if at, told := ss.refusedAt[ip]; told && now.Sub(at) < refusalLogInterval {
		return
	}
	if len(ss.refusedAt) >= maxRefusedAddrs {
		for ip, at := range ss.refusedAt {
			if now.Sub(at) >= refusalLogInterval {
				delete(ss.refusedAt, ip)
			}
		}
		if len(ss.refusedAt) >= maxRefusedAddrs {
			return
		}
	}
	ss.refusedAt[ip] = now
	ss.proxy.log.Warn("connection refused", "source", ip, "limit", key, "connections", limit)
}

// releaseConn uncounts a connection that admitConn has counted.
func (ss *streamTable) releaseConn(peer netip.AddrPort) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.count.Add(-1)
	if ss.perPeer[peer.Addr()]--; ss.perPeer[peer.Addr()] == 0 {
		delete(ss.perPeer, peer.Addr())
	}
}

// close closes all streams and waits for their goroutines.
func (ss *streamTable) close() {
	ss.mu.Lock()
	ss.closed = true
	for c := range ss.silentConns {
		c.Close()
	}
	ss.mu.Unlock()
	ss.byPeer.Range(func(_, v any) bool {
		v.(*stream).close()
		return true
	})
	ss.goroutines.Wait()
}

// queueMessage queues a copy of b. It returns false if the stream is closed, or if there
// is no room. It closes a stream without room, because its peer does not read. id is the
// id of the client transaction that is informed if b cannot be written, or 0.
func (s *stream) queueMessage(b []byte, id uint64) bool {
	if s.closed() {
		return false
	}
	if s.outBytes.Add(int64(len(b))) <= maxOutBytes {
		select {
		case s.outQueue <- outgoing{append([]byte(nil), b...), id}:
			if s.closed() {
				s.failQueued() // it was closed meanwhile, and nobody looks into the queue again
			}
			return true
		default:
		}
	}
	s.close()
	return false
}

// closeWhenWritten closes the stream after the queued messages are written.
func (s *stream) closeWhenWritten() {
	select {
	case s.outQueue <- outgoing{}:
	default:
		s.close()
	}
}

// close closes the stream and removes it from the table.
func (s *stream) close() {
	s.closeOnce.Do(func() {
		s.table.byPeer.CompareAndDelete(s.peer, s)
		close(s.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != nil {
			s.conn.Close()
		}
	})
}

// closed reports whether close has been called.
func (s *stream) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// dialPeer opens the connection and serves it.
func (s *stream) dialPeer() {
	defer s.close()
	c, err := s.table.proxy.cfg.Net.Dial(s.listener.addr.Addr(), s.peer)
	if err != nil {
		s.table.proxy.log.Info("connection failed", "peer", s.peer, "err", err)
		s.close()
		s.failQueued()
		return
	}
	s.local = addrPortOf(c.LocalAddr())
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	if s.closed() {
		c.Close()
	}
	s.serve(c, nil)
}

// serve reads and writes until the stream is closed. first holds bytes that were read
// before. A panic closes the stream.
func (s *stream) serve(c net.Conn, first []byte) {
	var writer sync.WaitGroup
	writer.Go(func() {
		defer s.close()
		defer s.table.proxy.recoverPanic("stream")
		s.writeQueued(c)
	})
	func() {
		defer s.close()
		defer s.table.proxy.recoverPanic("stream")
		s.readMessages(c, first)
	}()
	writer.Wait()
	s.failQueued()
}

// failQueued informs the client transactions whose requests are still queued that the
// requests were not sent.
func (s *stream) failQueued() {
	for {
		select {
		case o := <-s.outQueue:
			s.table.proxy.reportFailedTx(o.tx)
		default:
			return
		}
	}
}

// writeQueued writes queued messages until the stream is closed. Messages that wait
// together are written together.
func (s *stream) writeQueued(c net.Conn) {
	var buf []byte
	var ids []uint64
	for {
		select {
		case o := <-s.outQueue:
			var last bool
			if cap(buf) > maxPooledBuffer {
				buf = nil
			}
			buf, ids, last = s.gatherQueued(o, buf[:0], ids[:0])
			c.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err := c.Write(buf)
			if err == nil && !last {
				continue
			}
			if last {
				linger(c)
			}
			s.close()
			if err != nil {
				for _, id := range ids {
					s.table.proxy.reportFailedTx(id)
				}
			}
			return
		case <-s.done:
			return
		}
	}
}

// linger closes the connection for writing, and discards for lingerTime what the peer
// still sends. Closing at once would reset the connection, and the peer could lose our
// last message.
func linger(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		c.SetReadDeadline(time.Now().Add(lingerTime))
		io.Copy(io.Discard, c)
	}
}

// gatherQueued appends o and the queued messages to buf, up to about maxMessage bytes.
// last reports that the stream is to be closed after them.
func (s *stream) gatherQueued(o outgoing, buf []byte, ids []uint64) (_ []byte, _ []uint64, last bool) {
	for o.b != nil {
		buf, ids = append(buf, o.b...), append(ids, o.tx)
		s.outBytes.Add(-int64(len(o.b)))
		if len(buf) >= maxMessage {
			return buf, ids, false
		}
		select {
		case o = <-s.outQueue:
		default:
			return buf, ids, false
		}
	}
	return buf, ids, true
}
