package sip

import (
	"crypto/tls"
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
	connectInterval    = instant(250 * time.Millisecond) // see responseContext.tryOtherConnection
	writeTimeout       = 5 * time.Second
	lingerTime         = time.Second                     // how long the peer may go on sending after our last message
	firstByteTimeout   = 10 * time.Second                // from the connection to its first byte
	messageTimeout     = 30 * time.Second                // from the first byte of a message to its last
	idleTimeout        = 3605 * time.Second              // without a byte between messages
	maxOutBytes        = 1 << 20                         // bytes that wait for a slow peer
	maxIdleWriters     = 32                              // goroutines that wait for messages to write
	smallReadBuffer    = 512                             // first size of a read buffer
	freeReadBuffer     = 4 << 10                         // size that every connection may have
	maxLargeReadBytes  = 64 << 20                        // bytes of all read buffers beyond that size
	maxPingGap         = instant(250 * time.Millisecond) // longest time between the two CRLFs of a ping
	refusalLogInterval = time.Minute
	maxRefusedAddrs    = 1024 // addresses whose refusals are logged in one refusalLogInterval
)

// A peer that has vanished is noticed: by tcpKeepAlive if the connection is idle, and by
// userTimeout if something was sent, early enough for a response to the request: see
// closedCheckTime.
//
// On a socket with a user timeout, Linux ignores Count: the first probe without an answer
// ends the connection as soon as nothing has come for userTimeout. So userTimeout is not
// shorter than the time of all probes. With 10 seconds, one lost probe ended the connection
// of an idle phone (Linux 6.18, December 2026).
var tcpKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 3 * time.Second, Count: 3}

const userTimeout = 29 * time.Second

// stream is one connection. One goroutine reads it. Another writes the messages that workers
// queue, while there are any.
type stream struct {
	table     *streamTable
	id        uint32
	listener  *listener
	peer      netip.AddrPort
	local     netip.AddrPort // set once the connection is open
	outQueue  outQueue
	done      chan struct{}
	closeOnce sync.Once
	dialed    bool         // opened by the proxy, so the peer listens at its port
	since     instant      // start of the stream, or of opening it
	openedAt  atomic.Int64 // instant from which messages can be exchanged; 0: it is not open yet
	host      string       // configured name of the peer, to which the proxy opens it; "": none
	client    *tls.Config  // with which the proxy opens it; nil: without TLS, or accepted
	trunk     string       // name of the trunk that the peer has proved to be by its certificate, or ""

	hasPhones bool                      // a phone has registered on it; used by the reading goroutine only
	aliasRead bool                      // see noteAlias; used by the reading goroutine only
	alias     atomic.Pointer[streamKey] // further port of the peer, or nil

	writeTo net.Conn // conn, or TLS above it; set by serve

	mu   sync.Mutex
	conn net.Conn // below TLS, so that closing it never waits; nil until it is open
}

// key returns the key of the stream in the table.
func (s *stream) key() streamKey { return streamKey{s.listener.proto, s.peer, s.client} }

// queueMessage queues a copy of b. It returns false if the stream is closed, or if there
// is no room. It closes a stream without room, because its peer does not read. id is the
// id of the client transaction that is informed if b cannot be written, or 0.
func (s *stream) queueMessage(b []byte, id uint64) bool {
	return s.enqueue(s.encoding(), b, id)
}

// enqueue queues what encode appends for b, as queueMessage does.
func (s *stream) enqueue(encode func(dst, b []byte) []byte, b []byte, id uint64) bool {
	switch s.outQueue.add(encode, b, id) {
	case addedFirst:
		s.table.startWriter(s)
		return true
	case added:
		return true
	case full:
		s.close()
	}
	return false
}

// appendBytes appends b to dst.
func appendBytes(dst, b []byte) []byte { return append(dst, b...) }

// closeWhenWritten closes the stream after the queued messages are written. It removes the
// stream from the table at once, so that the next request to the peer opens another one, or
// finds the flow closed.
func (s *stream) closeWhenWritten() {
	s.leaveTable()
	if s.outQueue.end() {
		s.table.startWriter(s)
	}
}

// close closes the stream and removes it from the table. It informs the client transactions
// whose requests are still queued that the requests were not sent.
func (s *stream) close() {
	s.closeOnce.Do(func() {
		close(s.done)
		s.leaveTable()
		s.mu.Lock()
		if s.conn != nil {
			s.conn.Close()
		}
		s.mu.Unlock()
		s.reportFailed(s.outQueue.abandon(), 0)
	})
}

// leaveTable removes the stream from the table.
func (s *stream) leaveTable() {
	s.table.byPeer.CompareAndDelete(s.key(), s)
	s.removeAlias()
}

// isOpen reports whether messages can be exchanged, or could be before close was called.
func (s *stream) isOpen() bool { return s.openedAt.Load() != 0 }

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
	defer func() { s.table.untrackConn(s.conn) }()
	c, err := s.openConn()
	if err != nil {
		s.table.proxy.log.Info("connection failed", "peer", s.peer, "err", err)
		return
	}
	s.serve(c, nil)
}

// openConn opens the connection, and makes the TLS handshake if the transport has one.
func (s *stream) openConn() (net.Conn, error) {
	c, err := s.table.proxy.cfg.Net.Dial(s.listener.addr.Addr(), s.peer)
	if err != nil {
		return nil, err
	}
	s.local = addrPortOf(c.LocalAddr())
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	if !s.table.trackConn(c) || s.closed() {
		c.Close()
	}
	if s.client == nil {
		return c, nil
	}
	t := tls.Client(c, s.client)
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := t.Handshake(); err != nil {
		s.table.proxy.stats.handshakesFailed.Add(1)
		return nil, err
	}
	return t, nil
}

// serve reads and writes until the stream is closed. first holds bytes that were read
// before. A panic closes the stream.
func (s *stream) serve(c net.Conn, first []byte) {
	s.listener.connections.Add(1)
	defer s.listener.connections.Add(-1)
	defer s.close()
	defer s.table.proxy.recoverPanic("stream")
	s.writeTo = c
	s.openedAt.Store(max(int64(s.table.proxy.now()), 1))
	s.table.startWriter(s)
	if s.listener.proto.webSocket() {
		s.readFrames(c, first)
	} else {
		s.readMessages(c, first)
	}
	if t, ok := c.(*tls.Conn); ok {
		t.Close() // with an alert, without which a peer takes the end for an attack
	}
}

// reportFailed informs the client transactions of a batch of which only some bytes were
// written.
func (s *stream) reportFailed(batch outBatch, written int) {
	for _, tx := range batch.txs {
		if tx.until > written {
			s.table.proxy.reportFailedTx(tx.id)
		}
	}
}

// writeQueued writes queued messages until there are none, or the stream is closed.
// Messages that wait together are written together. A panic closes the stream.
func (s *stream) writeQueued() {
	defer func() {
		if r := recover(); r != nil {
			s.table.proxy.logPanic("stream", r)
			s.close()
		}
	}()
	for batch, ok := s.outQueue.take(); ok; batch, ok = s.outQueue.take() {
		written, err := writeAll(s.writeTo, batch.b)
		if err == nil && !batch.end {
			continue
		}
		if err == nil {
			s.linger()
		}
		s.close()
		s.reportFailed(batch, written)
		return
	}
}

// writeAll writes b to c, and returns how much was written. The peer may take writeTimeout
// for each part of maxMessage bytes.
func writeAll(c net.Conn, b []byte) (written int, err error) {
	for written < len(b) && err == nil {
		var n int
		c.SetWriteDeadline(time.Now().Add(writeTimeout))
		n, err = c.Write(b[written:min(written+maxMessage, len(b))])
		written += n
	}
	return written, err
}

// linger closes the connection for writing, and discards for lingerTime what the peer
// still sends. Closing at once would reset the connection, and the peer could lose our
// last message. It ends by closing the stream, because the goroutine that reads the
// connection replaces any deadline whenever the peer sends something.
func (s *stream) linger() {
	if h, ok := s.writeTo.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		defer time.AfterFunc(lingerTime, s.close).Stop()
		io.Copy(io.Discard, s.writeTo)
	}
}
