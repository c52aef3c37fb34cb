package limit

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Limits of the connections to the API: in all, from addresses other than loopback, and
// from one such network (an IPv4 address or an IPv6 /64). The difference stays free for an
// operator who connects over loopback.
const (
	maxConns           = 1024
	maxConnsRemote     = 768
	maxConnsPerNetwork = 256
)

// connWriteBuffer is the size in bytes of the kernel's send buffer of a connection.
const connWriteBuffer = 256 << 10

// refusalLogInterval is the minimum time between log lines about refused connections.
const refusalLogInterval = 10 * time.Second

// Conns counts the open connections to the API and refuses those beyond the limits.
type Conns struct {
	log *slog.Logger

	mu         sync.Mutex
	open       map[net.Conn]netip.Addr
	perNetwork map[netip.Addr]int // remote connections by network
	remote     int
	refused    uint64
	lastLogged time.Time
}

// NewConns returns a Conns without connections.
func NewConns(log *slog.Logger) *Conns {
	return &Conns{log: log, open: make(map[net.Conn]netip.Addr), perNetwork: make(map[netip.Addr]int)}
}

// admit counts a connection as open and returns true. If the limits allow no more, it
// counts the connection as refused and returns false.
func (cs *Conns) admit(c net.Conn) bool {
	peer := Network(connAddr(c))
	cs.mu.Lock()
	defer cs.mu.Unlock()
	remote := !peer.IsLoopback()
	if len(cs.open) >= maxConns || remote && (cs.remote >= maxConnsRemote || cs.perNetwork[peer] >= maxConnsPerNetwork) {
		cs.refused++
		if now := time.Now(); now.Sub(cs.lastLogged) >= refusalLogInterval {
			cs.lastLogged = now
			cs.log.Warn("admin connections refused", "peer", c.RemoteAddr().String(), "open", len(cs.open), "refused", cs.refused)
		}
		return false
	}
	cs.open[c] = peer
	if remote {
		cs.remote++
		cs.perNetwork[peer]++
	}
	return true
}

// StateChanged is the ConnState of the [http.Server]. It stops counting a connection
// that is closed or hijacked.
func (cs *Conns) StateChanged(c net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	peer, known := cs.open[c]
	delete(cs.open, c)
	if !known || peer.IsLoopback() {
		return
	}
	cs.remote--
	if cs.perNetwork[peer]--; cs.perNetwork[peer] == 0 {
		delete(cs.perNetwork, peer)
	}
}

// Count returns the number of open connections, and of those refused so far.
func (cs *Conns) Count() (open int, refused uint64) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open), cs.refused
}

// connAddr returns the address of the peer.
func connAddr(c net.Conn) netip.Addr {
	peer, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return peer.Addr()
}

// boundedListener accepts connections within the limits, and answers 503 to others.
type boundedListener struct {
	net.Listener
	conns *Conns
}

// Listener returns a listener that accepts l's connections within the limits. The
// [http.Server] that uses it must have StateChanged as its ConnState.
func (cs *Conns) Listener(l net.Listener) net.Listener { return boundedListener{l, cs} }

func (l boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.conns.admit(c) {
			if tcp, ok := unwrapTLS(c).(*net.TCPConn); ok {
				tcp.SetWriteBuffer(connWriteBuffer)
			}
			return c, nil
		}
		refuseConn(c)
	}
}

// unwrapTLS returns the connection below TLS, or c itself without TLS.
func unwrapTLS(c net.Conn) net.Conn {
	if c, ok := c.(*tls.Conn); ok {
		return c.NetConn()
	}
	return c
}

const tooManyConnsResponse = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/problem+json\r\nContent-Length: 91\r\n\r\n" +
	`{"title":"Service Unavailable","status":503,"detail":"too many connections: wait a moment"}`

// refuseConn closes a connection, after a 503 if it has no TLS. It does not wait for
// the client.
func refuseConn(c net.Conn) {
	if plain := unwrapTLS(c); plain != c {
		plain.Close()
		return
	}
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	io.WriteString(c, tooManyConnsResponse) // does not block: a new connection's buffer has room for it
	c.Close()
}

// Network returns an IPv4 address as it is, and an IPv6 address as its /64 network.
func Network(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() && !ip.IsLoopback() {
		network, _ := ip.Prefix(64)
		ip = network.Addr()
	}
	return ip
}
