package flowhop

import (
	"bytes"
	"fmt"
	"slices"

	"bellhop/dialog/flowtest"
	"bellhop/sip/siptest"
)

// Peers are the sockets of a flow's peers, by name, on a network in memory.
type Peers map[string]*siptest.PacketConn

// ListenPeers opens a socket at each address of a peer.
func ListenPeers(network *siptest.Network) (Peers, error) {
	peers := Peers{}
	for _, p := range slices.Concat(flowtest.Peers, flowtest.PBXAddresses) {
		c, err := network.ListenPacketConn(p.Addr)
		if err != nil {
			peers.Close()
			return nil, fmt.Errorf("listen as %s: %w", p.Name, err)
		}
		peers[p.Name] = c
	}
	return peers, nil
}

// Close closes all sockets.
func (p Peers) Close() {
	for _, c := range p {
		c.Close()
	}
}

// Send sends a message of a peer to bellhop. It does not wait until bellhop has read it.
func (p Peers) Send(from flowtest.Peer, msg []byte) error {
	_, err := p[from.Name].WriteToUDPAddrPort(msg, flowtest.Bellhop)
	return err
}

// Receive returns the oldest unread message to a peer, if there is one.
func (p Peers) Receive(to flowtest.Peer) (msg []byte, ok bool) {
	msg, _, ok = p[to.Name].TryRead()
	return msg, ok
}

// Unread returns the start lines of all unread messages, and marks them as read.
func (p Peers) Unread() (lines []string) {
	for name, c := range p {
		for {
			b, _, ok := c.TryRead()
			if !ok {
				break
			}
			line, _, _ := bytes.Cut(b, []byte("\r\n"))
			lines = append(lines, fmt.Sprintf("%s got %s", name, line))
		}
	}
	return lines
}
