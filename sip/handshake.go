package sip

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bellhop/sip/guard"
)

// Limits of TLS handshakes of accepted connections.
const (
	handshakeTimeout  = 10 * time.Second
	maxHandshakes     = 256
	fairHandshakeTime = time.Second            // after which a handshake ends if others wait
	handshakeRetry    = 100 * time.Millisecond // how often those that wait look for a slow one
)

// handshakes limits the TLS handshakes that are under way. If there are too many, the
// oldest of those that have lasted for fairHandshakeTime are ended, so that peers that
// stop in the middle keep nobody out.
//
// Handshakes compute on half of the processors at most, so that messages of open
// connections do not wait for the others when all phones come back at once.
type handshakes struct {
	slots   chan struct{} // one value for each handshake under way
	compute chan struct{} // one value for each handshake that computes

	mu       sync.Mutex
	running  []*handshakeConn // in the order of their start
	loggedAt time.Time        // time of the last log line about a certificate
}

// newHandshakes returns handshakes with none under way.
func newHandshakes() *handshakes {
	return &handshakes{slots: make(chan struct{}, maxHandshakes), compute: make(chan struct{}, max(runtime.NumCPU()/2, 1))}
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
	all     *handshakes
	first   []byte // bytes that were read before
	started time.Time
	over    bool
	wrote   bool        // the peer was answered, so it may have seen the certificate
	ended   atomic.Bool // by endOldest
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

// pause lets another handshake compute until resume is called.
func (c *handshakeConn) pause() (resume func()) {
	<-c.all.compute
	return func() { c.all.compute <- struct{}{} }
}

// accept makes the TLS handshake of an accepted connection. first holds bytes that were
// read before. It ends at the deadline.
func (h *handshakes) accept(raw net.Conn, first []byte, config *tls.Config, deadline time.Time) (*tls.Conn, error) {
	c := &handshakeConn{Conn: raw, all: h, first: first}
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

// start waits until c is under way, or returns false at the deadline.
func (h *handshakes) start(c *handshakeConn, deadline time.Time) bool {
	if !h.waitForSlot(deadline) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c.started = time.Now()
	c.SetDeadline(deadline)
	h.running = append(h.running, c)
	return true
}

// waitForSlot takes a slot, or returns false at the deadline. As long as there is none, it
// ends slow handshakes.
func (h *handshakes) waitForSlot(deadline time.Time) bool {
	select {
	case h.slots <- struct{}{}:
		return true
	default:
	}
	for now := time.Now(); now.Before(deadline); now = time.Now() {
		h.endOldest(now)
		select {
		case h.slots <- struct{}{}:
			return true
		case <-time.After(handshakeRetry):
		}
	}
	return false
}

// endOldest ends the handshake that has been under way for the longest time, if that is at
// least fairHandshakeTime.
func (h *handshakes) endOldest(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.running) > 0 && now.Sub(h.running[0].started) >= fairHandshakeTime {
		h.running[0].ended.Store(true)
		h.running[0].SetDeadline(now)
		h.running = h.running[1:]
	}
}

// end removes c from the handshakes under way.
func (h *handshakes) end(c *handshakeConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, r := range h.running {
		if r == c {
			h.running = append(h.running[:i:i], h.running[i+1:]...)
			break
		}
	}
	<-h.slots
}

// acceptTLS makes the handshake of an accepted connection, and returns the trunk that the
// peer has proved to be, if any. A failure is counted and ends this connection only.
func (ss *streamTable) acceptTLS(raw net.Conn, first []byte, peer netip.AddrPort, l *listener) (c net.Conn, trunk *Trunk, ok bool) {
	px := ss.proxy
	t, err := ss.handshakes.accept(raw, first, l.tls, time.Now().Add(handshakeTimeout))
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

// logsCertificate reports whether a certificate that was not accepted is logged: one in a
// second is.
func (h *handshakes) logsCertificate(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.loggedAt) < time.Second {
		return false
	}
	h.loggedAt = now
	return true
}

// noteFailedHandshake counts and logs a TLS handshake that has failed. Scanners cause many,
// so the log line is one of level debug. It is a fault of the peer, unless the proxy has
// ended it, or the peer may not accept our certificate: phones repeat that until the
// certificate is renewed.
func (px *Proxy) noteFailedHandshake(peer netip.AddrPort, l *listener, err error) {
	px.stats.handshakesFailed.Add(1)
	px.log.Debug("TLS handshake failed", "peer", peer, "err", err)
	if !errors.Is(err, errHandshakesFull) && !errors.Is(err, errHandshakeEnded) && !errors.Is(err, errCertificateRefused) {
		px.notePoint(px.now(), l, nil, peer.Addr(), guard.BanHandshake)
	}
}
