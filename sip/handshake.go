package sip

import (
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

// handshakes limits the number of TLS handshakes that are under way. If the limit is
// reached, a new handshake takes the slot of one that has waited too long for its peer,
// so that peers that stop in the middle keep nobody out. How long is too long depends on
// the sources: see replaceSlow.
//
// Handshakes compute on half of the processors at most, so that the messages of open
// connections are still handled when all phones connect again at once.
type handshakes struct {
	slots   chan struct{} // one value for each handshake under way
	compute chan struct{} // one value for each handshake that computes

	mu        sync.Mutex
	running   []*handshakeConn // in the order of their start
	perSource map[netip.Prefix]int
	loggedAt  time.Time // time of the last log line about a certificate
}

// newHandshakes returns handshakes with none under way.
func newHandshakes() *handshakes {
	return &handshakes{slots: make(chan struct{}, maxHandshakes), compute: make(chan struct{}, max(runtime.NumCPU()/2, 1)), perSource: map[netip.Prefix]int{}}
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
	all    *handshakes
	source netip.Prefix // see guard.SourceOf
	first  []byte       // bytes that were read before
	over   bool
	wrote  bool        // the peer was answered, so it may have seen the certificate
	ended  atomic.Bool // another handshake has taken its place

	// The fields below are guarded by handshakes.mu.
	waited       time.Duration // for the peer, until waitingSince
	waitingSince time.Time     // zero: it does not wait for the peer now
}

// Read returns the bytes that were read before, and then those of the connection.
func (c *handshakeConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	if c.over {
		return c.Conn.Read(b)
	}
	defer c.pause()()
	return c.Conn.Read(b)
}

// Write writes to the connection.
func (c *handshakeConn) Write(b []byte) (int, error) {
	if !c.over {
		c.wrote = true
		defer c.pause()()
	}
	return c.Conn.Write(b)
}

// pause lets another handshake compute until resume is called. Meanwhile c waits for its
// peer.
func (c *handshakeConn) pause() (resume func()) {
	c.setWaiting(true)
	<-c.all.compute
	return func() {
		c.setWaiting(false)
		c.all.compute <- struct{}{}
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
	c := &handshakeConn{Conn: raw, all: h, source: guard.SourceOf(from), first: first}
	if !h.start(c, deadline) {
		return nil, errHandshakesFull
	}
	defer h.end(c)
	h.compute <- struct{}{}
	defer func() {
		c.over = true
		<-h.compute
	}()
	t := tls.Server(c, config)
	if err := t.Handshake(); err != nil {
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

// start waits for a slot and adds c to the handshakes under way. It returns false if
// there is no slot before the deadline.
func (h *handshakes) start(c *handshakeConn, deadline time.Time) bool {
	c.SetDeadline(deadline)
	for now := time.Now(); now.Before(deadline); now = time.Now() {
		select {
		case h.slots <- struct{}{}:
			h.add(c)
			return true
		default:
		}
		wait, replaced := h.replaceSlow(c, now)
		if replaced {
			return true
		}
		select {
		case h.slots <- struct{}{}:
			h.add(c)
			return true
		case <-time.After(min(wait, deadline.Sub(now))):
		}
	}
	return false
}

// add adds c to the handshakes under way. c must have a slot.
func (h *handshakes) add(c *handshakeConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.insert(c)
}

// insert adds c to the handshakes under way, like add. The caller holds mu.
func (h *handshakes) insert(c *handshakeConn) {
	h.running = append(h.running, c)
	h.perSource[c.source]++
}

// replaceSlow gives c the slot of the oldest handshake that has waited too long for its
// peer, and ends that handshake. A handshake may wait for fairHandshakeTime, but only for
// crowdHandshakeTime if its source has more handshakes under way than the source of c.
//
// If no handshake has waited too long, wait is the time until one may have.
func (h *handshakes) replaceSlow(c *handshakeConn, now time.Time) (wait time.Duration, replaced bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = crowdHandshakeTime
	for _, r := range h.running {
		if r.waitingSince.IsZero() {
			continue // it computes, or waits for a processor
		}
		limit := fairHandshakeTime
		if h.perSource[r.source] > h.perSource[c.source]+1 {
			limit = crowdHandshakeTime
		}
		left := limit - r.peerTime(now)
		if left <= 0 {
			r.ended.Store(true)
			r.SetDeadline(now)
			h.remove(r)
			h.insert(c)
			return 0, true
		}
		wait = min(wait, left)
	}
	return wait, false
}

// remove removes c from the handshakes under way, and reports whether it was one of them.
// The caller holds mu.
func (h *handshakes) remove(c *handshakeConn) bool {
	i := slices.Index(h.running, c)
	if i < 0 {
		return false
	}
	h.running = slices.Delete(h.running, i, i+1)
	if h.perSource[c.source]--; h.perSource[c.source] == 0 {
		delete(h.perSource, c.source)
	}
	return true
}

// end removes c from the handshakes under way, and frees its slot if no other has taken it.
func (h *handshakes) end(c *handshakeConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.remove(c) {
		<-h.slots
	}
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
// The failure counts against the source of the peer, with two exceptions: the proxy
// itself has ended the handshake, or the peer may have refused our certificate. If our
// certificate has expired, phones repeat the handshake until it is renewed.
func (px *Proxy) noteFailedHandshake(peer netip.AddrPort, l *listener, err error) {
	px.stats.handshakesFailed.Add(1)
	px.log.Debug("TLS handshake failed", "peer", peer, "err", err)
	if !errors.Is(err, errHandshakesFull) && !errors.Is(err, errHandshakeEnded) && !errors.Is(err, errCertificateRefused) {
		px.notePoint(px.now(), l, nil, peer.Addr(), guard.BanHandshake)
	}
}
