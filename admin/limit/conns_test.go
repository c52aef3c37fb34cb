package limit

import (
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// peer is a connection from an address, with the bytes that were written to it.
type peer struct {
	net.Conn
	at    net.Addr
	wrote strings.Builder
}

func (p *peer) RemoteAddr() net.Addr        { return p.at }
func (p *peer) Write(b []byte) (int, error) { return p.wrote.Write(b) }
func (p *peer) Close() error                { return p.Conn.Close() }
func newConnFrom(t *testing.T, address string) *peer {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return &peer{Conn: a, at: &net.TCPAddr{IP: net.ParseIP(address), Port: 1000}}
}

// Connections are limited for each network and in all, and remote ones cannot take the
// share of this machine.
func TestConnectionsAreBounded(t *testing.T) {
	cs := NewConns(slog.New(slog.DiscardHandler))
	open := func(address string, want int) (admitted []*peer) {
		t.Helper()
		for range want + 1 {
			if p := newConnFrom(t, address); cs.admit(p) {
				admitted = append(admitted, p)
			}
		}
		if len(admitted) != want {
			t.Errorf("%d connections from %s, want %d", len(admitted), address, want)
		}
		return admitted
	}
	one := open("192.0.2.1", maxConnsPerNetwork)
	open("192.0.2.2", maxConnsPerNetwork)
	v6 := open("2001:db8::1", maxConnsPerNetwork)
	open("2001:db8::2", 0) // the same network
	open("192.0.2.3", 0)   // the limit of remote connections is reached
	here := open("127.0.0.1", maxConns-maxConnsRemote)
	for _, p := range append(one, v6...) {
		cs.StateChanged(p, http.StateActive)
		cs.StateChanged(p, http.StateClosed)
		cs.StateChanged(p, http.StateClosed)
	}
	open("192.0.2.3", maxConnsPerNetwork)
	open("192.0.2.1", maxConnsPerNetwork)
	for _, p := range here {
		cs.StateChanged(p, http.StateClosed)
	}
	if n, refused := cs.Count(); n != maxConnsRemote || refused == 0 || len(cs.perNetwork) != 3 {
		t.Errorf("%d are open, %d were refused, %d addresses are known", n, refused, len(cs.perNetwork))
	}
}

// A refused connection is answered 503.
func TestRefusedConnectionIsAnswered(t *testing.T) {
	cs := NewConns(slog.New(slog.DiscardHandler))
	for range maxConnsPerNetwork {
		cs.admit(newConnFrom(t, "192.0.2.1"))
	}
	listener := make(chanListener, 2)
	refused, other := newConnFrom(t, "192.0.2.1"), newConnFrom(t, "192.0.2.2")
	listener <- refused
	listener <- other
	if c, err := cs.Listener(listener).Accept(); err != nil || c != other {
		t.Errorf("accepted %v: %v", c, err)
	}
	head, body, _ := strings.Cut(refused.wrote.String(), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 503 ") || !strings.Contains(head, "Retry-After") || !strings.Contains(head, "Content-Length: "+strconv.Itoa(len(body))) {
		t.Errorf("it is told %q", refused.wrote.String())
	}
	if _, err := refused.Read(make([]byte, 1)); err == nil {
		t.Error("it is open still")
	}
}

// chanListener accepts the connections that are sent to it.
type chanListener chan net.Conn

func (l chanListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l chanListener) Close() error   { close(l); return nil }
func (l chanListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
