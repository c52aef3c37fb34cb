package sip

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// trusts reports whether an address is that of a reverse proxy whose connections to l begin
// with a header of the PROXY protocol.
func (l *listener) trusts(ip netip.Addr) bool {
	for _, n := range l.proxyFrom {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// trustProxy reports whether an address is that of a reverse proxy of any listener.
func (ls *listeners) trustProxy(ip netip.Addr) bool {
	for _, l := range ls.all {
		if l.trusts(ip) {
			return true
		}
	}
	return false
}

// readClient reads the PROXY header of a connection from a reverse proxy and returns the
// client that the header names. From then on, the limits count the connection for the
// client, no longer for the reverse proxy. rest holds the bytes after the header. If ok
// is false, the caller closes the connection, which is still counted for the reverse
// proxy.
func (ss *streamTable) readClient(c net.Conn, from netip.AddrPort, l *listener) (client netip.AddrPort, rest []byte, ok bool) {
	c.SetReadDeadline(time.Now().Add(firstByteTimeout))
	r := bufio.NewReaderSize(c, 256)
	if _, err := r.Peek(1); err != nil {
		return from, nil, false // a health check that only connects
	}
	client, err := readProxyHeader(r, from)
	if err != nil {
		ss.proxy.stats.malformed.Add(1)
		ss.proxy.log.Info("PROXY header not accepted", "peer", from, "err", err)
		return from, nil, false
	}
	if client != from {
		if !ss.admitConn(client, l) {
			return from, nil, false
		}
		ss.releaseConn(from)
	}
	rest, _ = r.Peek(r.Buffered())
	return client, rest, true
}

// readProxyHeader reads a PROXY header and returns the client that it names. A header that
// names none is that of a health check: the reverse proxy is the client itself.
func readProxyHeader(r *bufio.Reader, from netip.AddrPort) (client netip.AddrPort, err error) {
	h, err := proxyproto.Read(r)
	switch {
	case err != nil:
		return from, fmt.Errorf("read PROXY header: %w: let the reverse proxy send one (haproxy: send-proxy-v2; nginx: proxy_protocol on, in stream), or take it off proxy_from", err)
	case h.Command.IsLocal():
		return from, nil
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok || a.Port == 0 {
		return from, errors.New("read PROXY header: it names no TCP address")
	}
	return unmapAddr(a.AddrPort()), nil
}
