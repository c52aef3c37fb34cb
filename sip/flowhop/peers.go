package flowhop

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"

	"bellhop/dialog/flowtest"
	"bellhop/dialog/siptext"
	"bellhop/sip/siptest"
)

// Peers are the sockets of a flow's peers, by name, on a network in memory.
type Peers map[string]socket

// A socket exchanges messages of one peer with bellhop.
type socket interface {
	send(msg []byte) error          // does not wait until bellhop has read msg
	receive() (msg []byte, ok bool) // returns the oldest unread message, if there is one
	disconnect()                    // closes the connection, if the socket has one
	vanish()                        // leaves the connection without closing it, if the socket has one
	Close() error
}

// ListenPeers opens a socket at each address of a peer. transports are those of
// [flowtest.Config].
func ListenPeers(network *siptest.Network, transports map[string]string) (Peers, error) {
	peers := Peers{}
	for _, p := range slices.Concat(flowtest.Peers, flowtest.PBXAddresses) {
		if t := transports[p.Name]; t != "" {
			peers[p.Name] = &connSocket{network: network, peer: p, webSocket: t == "WS"}
			continue
		}
		c, err := network.ListenPacketConn(p.Addr)
		if err != nil {
			peers.Close()
			return nil, fmt.Errorf("listen as %s: %w", p.Name, err)
		}
		peers[p.Name] = packetSocket{c}
	}
	return peers, nil
}

// Close closes all sockets.
func (p Peers) Close() {
	for _, s := range p {
		s.Close()
	}
}

// Send sends a message of a peer to bellhop. It does not wait until bellhop has read it.
func (p Peers) Send(from flowtest.Peer, msg []byte) error { return p[from.Name].send(msg) }

// Disconnect closes the connection of a peer, if it has one.
func (p Peers) Disconnect(from flowtest.Peer) { p[from.Name].disconnect() }

// Vanish makes a peer vanish without closing its connection, if it has one.
func (p Peers) Vanish(from flowtest.Peer) { p[from.Name].vanish() }

// Receive returns the oldest unread message to a peer, if there is one.
func (p Peers) Receive(to flowtest.Peer) (msg []byte, ok bool) { return p[to.Name].receive() }

// Unread returns the start lines of all unread messages, and marks them as read.
func (p Peers) Unread() (lines []string) {
	for name, s := range p {
		for {
			b, ok := s.receive()
			if !ok {
				break
			}
			line, _, _ := bytes.Cut(b, []byte("\r\n"))
			lines = append(lines, fmt.Sprintf("%s got %s", name, line))
		}
	}
	return lines
}

// A packetSocket is a UDP socket.
type packetSocket struct{ *siptest.PacketConn }

func (s packetSocket) send(msg []byte) error {
	_, err := s.WriteToUDPAddrPort(msg, flowtest.Bellhop)
	return err
}

func (s packetSocket) receive() (msg []byte, ok bool) {
	msg, _, ok = s.TryRead()
	return msg, ok
}

func (s packetSocket) disconnect() {}

func (s packetSocket) vanish() {}

// A connSocket is a client over TCP or WebSocket. It opens a connection with the first message, and with the
// first one after the connection was closed.
type connSocket struct {
	network   *siptest.Network
	peer      flowtest.Peer
	webSocket bool
	raw       net.Conn // below WebSocket
	conn      net.Conn // nil: none is open

	mu       sync.Mutex
	received []byte // bytes that receive has not returned
}

func (s *connSocket) send(msg []byte) (err error) {
	if s.conn == nil {
		if s.raw, err = s.network.Dial(s.peer.Addr.Addr(), flowtest.Bellhop); err != nil {
			return err
		}
		if s.conn = s.raw; s.webSocket {
			if s.conn, err = siptest.OpenWebSocket(s.raw); err != nil {
				return err
			}
		}
		go s.read(s.conn)
	}
	_, err = s.conn.Write(msg)
	return err
}

// read keeps what arrives on a connection until it is closed.
func (s *connSocket) read(c net.Conn) {
	buf := make([]byte, 4<<10)
	for {
		n, err := c.Read(buf)
		s.mu.Lock()
		s.received = append(s.received, buf[:n]...)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *connSocket) receive() (msg []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	head, _, ok := bytes.Cut(s.received, []byte("\r\n\r\n"))
	if !ok {
		return nil, false
	}
	length, _ := strconv.Atoi(siptext.Field(string(head)+"\r\n\r\n", "Content-Length"))
	end := len(head) + 4 + length
	if end > len(s.received) {
		return nil, false
	}
	msg, s.received = s.received[:end:end], s.received[end:]
	return msg, true
}

func (s *connSocket) disconnect() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func (s *connSocket) vanish() {
	if s.conn != nil {
		siptest.Vanish(s.raw)
		s.conn = nil
	}
}

func (s *connSocket) Close() error {
	s.disconnect()
	return nil
}
