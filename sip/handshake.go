package sip

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bellhop/sip/certs"
	"bellhop/sip/guard"
)

// Limits of TLS handshakes of accepted connections. The last two are times for which the
// proxy waits for a peer: after that, the handshake gives way if others wait.
const (
	handshakeTimeout   = 10 * time.Second
	maxHandshakes      = 256
	fairHandshakeTime  = 500 * time.Millisecond
	crowdHandshakeTime = 250 * time.Millisecond // if the source of the other has fewer handshakes under way
)

// handshakes limits the number of TLS handshakes that are under way. Further connections
// wait. The next one is of a source that has no handshake under way, if there is one, and
// the sources take turns, so that a source with many connections keeps no other out.
//
// If the limit is reached, a new handshake takes the place of one that has waited too long
// for its peer. How long is too long depends on the sources: see endSlow.
//
// Handshakes compute on half of the processors at most, so that the messages of open
// connections are still handled when all phones connect again at once.
type handshakes struct {
	compute chan struct{} // one value for each handshake that computes

	mu       sync.Mutex
	running  []*handshakeConn // in the order of their start
	sources  map[netip.Prefix]*handshakeSource
	idle     list.List // of the *handshakeSource with connections that wait and no handshake under way
	busy     list.List // of the other *handshakeSource with connections that wait
	timerSet bool      // a timer will call admit
	loggedAt time.Time // time of the last log line about a certificate
}

// handshakeSource counts the handshakes of one source. Its fields are guarded by
// handshakes.mu.
type handshakeSource struct {
	running int
	waiting []*handshakeConn
	turns   *list.List // idle or busy; nil: no connection waits
	turn    *list.Element
}

// newHandshakes returns handshakes with none under way.
func newHandshakes() *handshakes {
	return &handshakes{compute: make(chan struct{}, max(runtime.NumCPU()/2, 1)), sources: map[netip.Prefix]*handshakeSource{}}
}

// Failures of handshakes that are no fault of the peer.
var (
	errHandshakesFull     = errors.New("too many handshakes")
	errHandshakeEnded     = errors.New("ended to make room for others")
	errCertificateRefused = errors.New("the peer left after it was answered: it may not accept the certificate")
)

// handshakeConn is a connection during its handshake. While it waits for the peer, another
// handshake computes. After the handshake it only passes the calls on.
type handshakeConn struct {
	net.Conn
	all       *handshakes
	source    netip.Prefix    // see guard.SourceOf
	first     []byte          // bytes that were read before
	ctx       context.Context // ends at the deadline, or when another handshake takes the place
	cancel    context.CancelFunc
	admitted  chan struct{} // closed when the handshake may start
	over      bool
	computing bool        // it has put a value into handshakes.compute
	wrote     bool        // the peer was answered, so it may have seen the certificate
	ended     atomic.Bool // another handshake has taken its place

	// The fields below are guarded by handshakes.mu.
	waited       time.Duration // for the peer, until waitingSince
	waitingSince time.Time     // zero: it does not wait for the peer now
}

// newConn returns a connection whose handshake has not started. The caller calls end. See
// accept for the parameters.
func (h *handshakes) newConn(raw net.Conn, from netip.Addr, first []byte, deadline time.Time) *handshakeConn {
	c := &handshakeConn{Conn: raw, all: h, source: guard.SourceOf(from), first: first, admitted: make(chan struct{})}
	c.ctx, c.cancel = context.WithDeadline(context.Background(), deadline)
	c.SetDeadline(deadline)
	return c
}

// Read returns the bytes that were read before, and then those of the connection.
func (c *handshakeConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.waitForPeer(func() (int, error) { return c.Conn.Read(b) })
}

// Write writes to the connection.
func (c *handshakeConn) Write(b []byte) (int, error) {
	c.wrote = true
	return c.waitForPeer(func() (int, error) { return c.Conn.Write(b) })
}

// waitForPeer calls read or write of the connection. During the handshake it lets another
// one compute meanwhile.
func (c *handshakeConn) waitForPeer(transfer func() (int, error)) (n int, err error) {
	if c.over {
		return transfer()
	}
	err = c.pauseFor(func() (err error) {
		n, err = transfer()
		return err
	})
	return n, err
}

// pauseFor calls wait, and lets another handshake compute meanwhile. If wait fails, the
// handshake has failed too and computes no more.
func (c *handshakeConn) pauseFor(wait func() error) error {
	c.setWaiting(true)
	c.endComputing()
	err := wait()
	c.setWaiting(false)
	if err == nil {
		err = c.startComputing()
	}
	return err
}

// startComputing waits until the handshake may compute. It fails at the deadline, or when
// another handshake has taken the place.
func (c *handshakeConn) startComputing() error {
	select {
	case c.all.compute <- struct{}{}:
		c.computing = true
		return nil
	case <-c.ctx.Done():
		return errHandshakesFull
	}
}

// endComputing lets another handshake compute.
func (c *handshakeConn) endComputing() {
	if c.computing {
		c.computing = false
		<-c.all.compute
	}
}

// setWaiting notes whether c waits for its peer from now on.
func (c *handshakeConn) setWaiting(waiting bool) {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	now := time.Now()
	c.waited, c.waitingSince = c.peerTime(now), time.Time{}
	if waiting {
		c.waitingSince = now
	}
}

// peerTime returns how long c has waited for its peer. The caller holds handshakes.mu.
func (c *handshakeConn) peerTime(now time.Time) time.Duration {
	if c.waitingSince.IsZero() {
		return c.waited
	}
	return c.waited + now.Sub(c.waitingSince)
}

// accept makes the TLS handshake of a connection that was accepted from an address. first
// holds bytes that were read before. It ends at the deadline.
func (h *handshakes) accept(raw net.Conn, from netip.Addr, first []byte, config *tls.Config, deadline time.Time) (*tls.Conn, error) {
	c := h.newConn(raw, from, first, deadline)
	defer h.end(c)
	if !h.start(c) {
		return nil, errHandshakesFull
	}
	t := tls.Server(c, config)
	err := c.startComputing()
	if err == nil {
		err = t.Handshake()
	}
	if err != nil {
		return nil, c.failure(err)
	}
	return t, nil
}

// failure returns why a handshake has failed with an error: one of the failures above, or
// an error that the peer has caused.
func (c *handshakeConn) failure(err error) error {
	var op *net.OpError
	left := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case c.ended.Load():
		return errHandshakeEnded
	case errors.As(err, &op) && op.Op == "remote error", left && c.wrote:
		return fmt.Errorf("%w: %w", errCertificateRefused, err)
	}
	return err
}

// start waits until the handshake of c may start. It returns false if that is not before
// the deadline.
func (h *handshakes) start(c *handshakeConn) bool {
	h.mu.Lock()
	h.enqueue(c)
	h.admit(time.Now())
	h.mu.Unlock()
	select {
	case <-c.admitted:
		return true
	case <-c.ctx.Done():
		return !h.abandon(c)
	}
}

// enqueue adds c to the connections that wait. The caller holds mu.
func (h *handshakes) enqueue(c *handshakeConn) {
	s := h.sources[c.source]
	if s == nil {
		s = &handshakeSource{}
		h.sources[c.source] = s
	}
	s.waiting = append(s.waiting, c)
	h.update(c.source, s)
}

// update puts a source into the list in which it belongs, behind the others, or removes it.
// The caller holds mu.
func (h *handshakes) update(source netip.Prefix, s *handshakeSource) {
	turns := &h.idle
	switch {
	case len(s.waiting) == 0:
		turns = nil
	case s.running > 0:
		turns = &h.busy
	}
	if turns != s.turns {
		if s.turns != nil {
			s.turns.Remove(s.turn)
		}
		if s.turns, s.turn = turns, nil; turns != nil {
			s.turn = turns.PushBack(s)
		}
	}
	if s.running == 0 && len(s.waiting) == 0 {
		delete(h.sources, source)
	}
}

// abandon removes c from the connections that wait. It returns false if the handshake of c
// was admitted.
func (h *handshakes) abandon(c *handshakeConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sources[c.source]
	if s == nil {
		return false
	}
	i := slices.Index(s.waiting, c)
	if i < 0 {
		return false
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	h.update(c.source, s)
	return true
}

// next returns the connection whose turn it is, or nil. The caller holds mu.
func (h *handshakes) next() *handshakeConn {
	for _, turns := range []*list.List{&h.idle, &h.busy} {
		if e := turns.Front(); e != nil {
			return e.Value.(*handshakeSource).waiting[0]
		}
	}
	return nil
}

// admit lets handshakes start while there is room, or while others have waited too long
// for their peers. The caller holds mu.
func (h *handshakes) admit(now time.Time) {
	for c := h.next(); c != nil; c = h.next() {
		if len(h.running) >= maxHandshakes {
			if h.timerSet {
				return
			}
			if wait, ended := h.endSlow(c.source, now); !ended {
				h.timerSet = true
				time.AfterFunc(wait, h.admitLate)
				return
			}
		}
		s := h.sources[c.source]
		s.waiting = s.waiting[1:]
		s.running++
		h.running = append(h.running, c)
		if s.turns == &h.busy {
			h.busy.MoveToBack(s.turn)
		}
		h.update(c.source, s)
		close(c.admitted)
	}
}

// admitLate calls admit when the timer fires.
func (h *handshakes) admitLate() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timerSet = false
	h.admit(time.Now())
}

// endSlow ends the oldest handshake that has waited too long for its peer, in favor of a
// handshake of a source. A handshake may wait for fairHandshakeTime, but only for
// crowdHandshakeTime if its source has more handshakes under way than the other source.
// The caller holds mu.
//
// If no handshake has waited too long, wait is the time until one may have.
func (h *handshakes) endSlow(source netip.Prefix, now time.Time) (wait time.Duration, ended bool) {
	wait = crowdHandshakeTime
	for _, r := range h.running {
		if r.waitingSince.IsZero() {
			continue // it computes, or waits for a processor
		}
		limit := fairHandshakeTime
		if h.sources[r.source].running > h.sources[source].running+1 {
			limit = crowdHandshakeTime
		}
		left := limit - r.peerTime(now)
		if left <= 0 {
			r.ended.Store(true)
			r.cancel()
			r.SetDeadline(now)
			h.remove(r)
			return 0, true
		}
		wait = min(wait, left)
	}
	return wait, false
}

// remove removes c from the handshakes under way, if it is one of them. The caller holds
// mu.
func (h *handshakes) remove(c *handshakeConn) {
	i := slices.Index(h.running, c)
	if i < 0 {
		return
	}
	h.running = slices.Delete(h.running, i, i+1)
	s := h.sources[c.source]
	s.running--
	h.update(c.source, s)
}

// end removes c from the handshakes under way, and admits another in its place. From then
// on, c holds no more memory than it must while the connection is open.
func (h *handshakes) end(c *handshakeConn) {
	c.over = true
	c.endComputing()
	c.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(c)
	c.ctx, c.cancel, c.admitted = nil, nil, nil
	h.admit(time.Now())
}

// acceptTLS makes the handshake of an accepted connection, and returns the trunk that the
// peer has proved to be, if any. A failure is counted and ends this connection only.
func (ss *streamTable) acceptTLS(raw net.Conn, first []byte, peer netip.AddrPort, l *listener) (c net.Conn, trunk *Trunk, ok bool) {
	px := ss.proxy
	t, err := ss.handshakes.accept(raw, peer.Addr(), first, l.tls, time.Now().Add(handshakeTimeout))
	if err != nil {
		px.noteFailedHandshake(peer, l, err)
		return nil, nil, false
	}
	if t.ConnectionState().NegotiatedProtocol == challengeProtocol {
		t.Close() // the authority has seen what it wanted to
		return nil, nil, false
	}
	trunk, err = px.peers.trunkOfCertificate(t.ConnectionState().PeerCertificates, time.Now())
	if err != nil && ss.handshakes.logsCertificate(time.Now()) {
		px.log.Info("client certificate not accepted", "peer", peer, "err", err)
	}
	return t, trunk, true
}

// logsCertificate reports whether a refused certificate is logged now. It allows one log
// line a second.
func (h *handshakes) logsCertificate(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.loggedAt) < time.Second {
		return false
	}
	h.loggedAt = now
	return true
}

// noteFailedHandshake counts and logs a failed TLS handshake. The level of the line is
// debug, because scanners cause many.
//
// The failure counts against the source of the peer, except if it is no fault of the peer:
// the proxy itself has ended the handshake or has no certificate yet, or the peer may have
// refused our certificate. If our certificate has expired, phones repeat the handshake
// until it is renewed.
func (px *Proxy) noteFailedHandshake(peer netip.AddrPort, l *listener, err error) {
	px.stats.handshakesFailed.Add(1)
	px.log.Debug("TLS handshake failed", "peer", peer, "err", err)
	if !errors.Is(err, errHandshakesFull) && !errors.Is(err, errHandshakeEnded) && !errors.Is(err, errCertificateRefused) && !errors.Is(err, certs.ErrNotIssued) {
		px.notePoint(px.now(), l, nil, peer.Addr(), guard.BanHandshake)
	}
}
