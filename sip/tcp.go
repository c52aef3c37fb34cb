package sip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of streams.
const (
	dialTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Second
	lingerTime   = time.Second      // for a peer that goes on sending after our last words
	firstByte    = 10 * time.Second // after the connection came
	wholeMessage = 30 * time.Second // after a message's first byte
	idle         = 3605 * time.Second
	outQueue     = 256   // messages that wait for a slow peer
	perPeer      = 64    // connections of one edge-side address
	allStreams   = 10000 // connections in all
)

// streams are the open connections. Workers look them up without a lock.
type streams struct {
	hop    *Hop
	open   sync.Map // netip.AddrPort of the peer → *stream
	n      atomic.Int64
	lastID atomic.Uint32
	run    sync.WaitGroup

	mu      sync.Mutex
	perPeer map[netip.Addr]int
	closed  bool
}

func newStreams(h *Hop) *streams {
	return &streams{hop: h, perPeer: map[netip.Addr]int{}}
}

// A stream is one connection: one goroutine reads it, another writes what
// workers queue.
type stream struct {
	of    *streams
	id    uint32
	on    *listener
	peer  netip.AddrPort
	local netip.AddrPort // once the connection is open
	out   chan outgoing
	done  chan struct{}
	end   sync.Once

	mu   sync.Mutex
	conn net.Conn // nil while it is being opened
}

// outgoing is one message to write. id names the client transaction to tell
// when it cannot be. Without bytes it ends the stream.
type outgoing struct {
	b  []byte
	id uint64
}

// find returns the open stream to a peer; id 0 is any.
func (ss *streams) find(peer netip.AddrPort, id uint32) *stream {
	v, ok := ss.open.Load(peer)
	if !ok {
		return nil
	}
	if s := v.(*stream); id == 0 || s.id == id {
		return s
	}
	return nil
}

// to returns the stream to a peer, and begins to open one if there is none:
// what is sent meanwhile waits in its queue.
func (ss *streams) to(peer netip.AddrPort, l *listener) *stream {
	if s := ss.find(peer, 0); s != nil {
		return s
	}
	admitted := ss.admit(peer)
	s := ss.add(nil, peer, l)
	if !admitted || !ss.start(func() {
		defer ss.leave(peer)
		s.dial()
	}) {
		s.close()
	}
	return s
}

func (ss *streams) add(c net.Conn, peer netip.AddrPort, l *listener) *stream {
	s := &stream{
		of: ss, id: ss.lastID.Add(1), on: l, peer: peer, conn: c,
		out: make(chan outgoing, outQueue), done: make(chan struct{}),
	}
	if c != nil {
		s.local = addrPort(c.LocalAddr())
	}
	ss.open.Store(peer, s)
	ss.n.Add(1)
	return s
}

// start runs f unless the hop is closing.
func (ss *streams) start(f func()) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closed {
		return false
	}
	ss.run.Go(f)
	return true
}

// accept takes connections until the listener is closed. An error such as too
// many open files passes.
func (ss *streams) accept(ctx context.Context, l *listener) {
	for {
		c, err := l.stream.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			ss.hop.log.Warn("cannot accept a connection", "listener", l.sentBy, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		peer := addrPort(c.RemoteAddr())
		if !ss.admit(peer) {
			c.Close()
			continue
		}
		s := ss.add(c, peer, l)
		if !ss.start(func() {
			defer ss.leave(peer)
			s.serve(c, true)
		}) {
			s.close()
		}
	}
}

// admit counts a connection and reports whether it may stay.
func (ss *streams) admit(peer netip.AddrPort) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.n.Load() >= allStreams {
		return false
	}
	if ss.perPeer[peer.Addr()] >= perPeer && !ss.hop.pbxHost(peer.Addr()) {
		return false
	}
	ss.perPeer[peer.Addr()]++
	return true
}

func (ss *streams) leave(peer netip.AddrPort) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.perPeer[peer.Addr()]--; ss.perPeer[peer.Addr()] == 0 {
		delete(ss.perPeer, peer.Addr())
	}
}

// close ends all streams and waits for their goroutines.
func (ss *streams) close() {
	ss.mu.Lock()
	ss.closed = true
	ss.mu.Unlock()
	ss.open.Range(func(_, v any) bool {
		v.(*stream).close()
		return true
	})
	ss.run.Wait()
}

// send queues a copy of b and reports whether there was room.
func (s *stream) send(b []byte, id uint64) bool {
	select {
	case <-s.done:
		return false
	default:
	}
	select {
	case s.out <- outgoing{append([]byte(nil), b...), id}:
		return true
	default:
		s.close() // a peer that does not read
		return false
	}
}

// finish ends the stream once what is queued is written.
func (s *stream) finish() {
	select {
	case s.out <- outgoing{}:
	default:
		s.close()
	}
}

// close ends the stream; nobody finds it any more.
func (s *stream) close() {
	s.end.Do(func() {
		s.of.open.CompareAndDelete(s.peer, s)
		s.of.n.Add(-1)
		close(s.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != nil {
			s.conn.Close()
		}
	})
}

// dial opens the connection, then serves it.
func (s *stream) dial() {
	c, err := s.of.hop.cfg.Net.Dial(s.on.addr.Addr(), s.peer)
	if err != nil {
		s.of.hop.log.Info("cannot connect", "peer", s.peer, "err", err)
		s.close()
		s.refuse()
		return
	}
	s.local = addrPort(c.LocalAddr())
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	select {
	case <-s.done:
		c.Close()
	default:
	}
	s.serve(c, false)
}

// serve reads and writes until the stream ends.
func (s *stream) serve(c net.Conn, accepted bool) {
	var writer sync.WaitGroup
	writer.Go(func() { s.write(c) })
	s.read(c, accepted)
	s.close()
	writer.Wait()
	s.refuse()
}

// refuse tells the transactions whose requests are still in the queue.
func (s *stream) refuse() {
	for {
		select {
		case o := <-s.out:
			s.of.hop.failed(o.id)
		default:
			return
		}
	}
}

// write writes what is queued; messages that wait together leave together.
func (s *stream) write(c net.Conn) {
	var buf []byte
	var ids []uint64
	for {
		select {
		case o := <-s.out:
			var last bool
			buf, ids, last = s.gather(o, buf[:0], ids[:0])
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
					s.of.hop.failed(id)
				}
			}
			return
		case <-s.done:
			return
		}
	}
}

// linger says that nothing more is written, and throws away what the peer is
// still sending: to close at once would take our last words from it.
func linger(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		c.SetReadDeadline(time.Now().Add(lingerTime))
		io.Copy(io.Discard, c)
	}
}

// gather takes o and what waits behind it. last says that the stream ends there.
func (s *stream) gather(o outgoing, buf []byte, ids []uint64) (_ []byte, _ []uint64, last bool) {
	for o.b != nil {
		buf, ids = append(buf, o.b...), append(ids, o.id)
		if len(buf) >= maxMessage {
			return buf, ids, false
		}
		select {
		case o = <-s.out:
		default:
			return buf, ids, false
		}
	}
	return buf, ids, true
}

var (
	pong = []byte("\r\n")
	ping = []byte("\r\n\r\n")
)

// read cuts the stream into messages (RFC 3261 §18.3) and hands them on.
func (s *stream) read(c net.Conn, accepted bool) {
	h := s.of.hop
	buf := make([]byte, 0, 4096)
	var m message
	breaks := 0 // CRLFs since the last message: two are a ping (RFC 5626 §3.5.1)
	wait := idle
	if accepted {
		wait = firstByte
	}
	deadline := time.Now().Add(wait)
	for {
		c.SetReadDeadline(deadline)
		if len(buf) == cap(buf) {
			if len(buf) > maxMessage {
				return
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		if n == 0 && err != nil {
			return
		}
		if len(buf) == 0 {
			deadline = time.Now().Add(wholeMessage)
		}
		buf = buf[:len(buf)+n]
		at := h.now()
		rest := buf
		for {
			for bytes.HasPrefix(rest, crlf) {
				rest = rest[2:]
				if breaks++; breaks == 2 {
					breaks = 0
					s.send(pong, 0)
				}
			}
			end := bytes.Index(rest, ping)
			if end < 0 {
				if len(rest) > maxMessage {
					return
				}
				break
			}
			breaks = 0
			known := m.index(rest[:end+4], true)
			whole, sane := measure(&m)
			start, _, _ := bytes.Cut(rest, crlf)
			if !known && (!sane || !bytes.Contains(start, version)) {
				return
			}
			if sane && len(rest) < whole {
				break
			}
			p := newPacket(rest[:whole])
			p.on, p.conn, p.peer, p.at, p.last = s.on, s, s.peer, at, !sane
			h.dispatch(p, false)
			if !sane {
				<-s.done // the worker answers and ends the stream
				return
			}
			rest = rest[whole:]
			deadline = time.Now().Add(wholeMessage)
		}
		buf = buf[:copy(buf, rest)]
		if len(buf) == 0 {
			deadline = time.Now().Add(idle)
		}
	}
}

// measure returns the length of the message whose header section is m, and
// whether it can be told at all. If not, the stream cannot be read further and
// the header section is all there is to answer.
func measure(m *message) (whole int, sane bool) {
	lengths := 0
	for i := range m.fields {
		if m.fields[i].name == hContentLength {
			lengths++
		}
	}
	whole = m.head + max(m.length, 0)
	if lengths > 1 || lengths == 1 && m.length < 0 || whole > maxMessage {
		return m.head, false
	}
	return whole, true
}
