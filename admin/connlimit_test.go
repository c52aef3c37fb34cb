package admin

import (
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
	r := newRig(t, Config{})
	cs := r.server.conns
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
	before, _ := cs.count() // connections of the rig
	one := open("192.0.2.1", maxConnsPerNetwork)
	open("192.0.2.2", maxConnsPerNetwork)
	v6 := open("2001:db8::1", maxConnsPerNetwork)
	open("2001:db8::2", 0) // the same network
	open("192.0.2.3", 0)   // the limit of remote connections is reached
	here := open("127.0.0.1", maxConns-maxConnsRemote-before)
	for _, p := range append(one, v6...) {
		cs.stateChanged(p, http.StateActive)
		cs.stateChanged(p, http.StateClosed)
		cs.stateChanged(p, http.StateClosed)
	}
	open("192.0.2.3", maxConnsPerNetwork)
	open("192.0.2.1", maxConnsPerNetwork)
	for _, p := range here {
		cs.stateChanged(p, http.StateClosed)
	}
	if n, refused := cs.count(); n != before+maxConnsRemote || refused == 0 || len(cs.perNetwork) != 3 {
		t.Errorf("%d are open, %d were refused, %d addresses are known", n, refused, len(cs.perNetwork))
	}
}

// A refused connection is answered 503.
func TestRefusedConnectionIsAnswered(t *testing.T) {
	r := newRig(t, Config{})
	cs := r.server.conns
	for range maxConnsPerNetwork {
		cs.admit(newConnFrom(t, "192.0.2.1"))
	}
	listener := make(pipeListener, 2)
	refused, other := newConnFrom(t, "192.0.2.1"), newConnFrom(t, "192.0.2.2")
	listener <- refused
	listener <- other
	if c, err := r.server.Listener(listener).Accept(); err != nil || c != other {
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

// A connection of the server is counted until it is closed.
func TestConnectionsAreCounted(t *testing.T) {
	r := newRig(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := r.server.HTTPServer()
	served := make(chan error)
	go func() { served <- h.Serve(r.server.Listener(l)) }()
	r.url = "http://" + l.Addr().String()
	f := r.follow("")
	if n, _ := r.server.conns.count(); n != 1 {
		t.Errorf("%d connections are counted, want 1", n)
	}
	f.stop()
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
	if n, _ := r.server.conns.count(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
