package sip

import (
	"net/netip"
	"strings"

	"bellhop/dialog/siptext"
)

// listeners are the addresses that the proxy listens on, and the hosts and ports that name
// the proxy in a URI. They do not change after Listen, so any goroutine may use them.
type listeners struct {
	all   []*listener
	names map[hostPort]bool
}

// hostPort is a host and port as a URI names them, in lower case and without brackets.
type hostPort struct {
	host string
	port int
}

// addName adds a host and port to the names of the proxy.
func (ls *listeners) addName(n HostPort) {
	ls.names[hostPort{strings.ToLower(strings.Trim(n.Host, "[]")), int(n.Port)}] = true
}

// isName reports whether a URI with this host and port names the proxy. Port 0 is
// 5060.
func (ls *listeners) isName(host string, port int) bool {
	if port == 0 {
		port = 5060
	}
	return ls.names[hostPort{strings.ToLower(strings.Trim(host, "[]")), port}]
}

// haveHost reports whether the proxy listens on an IP address, on any port.
func (ls *listeners) haveHost(ip netip.Addr) bool {
	for _, l := range ls.all {
		own := l.addr.Addr()
		if own == ip || l.local.Addr() == ip || own.IsUnspecified() && ip.IsLoopback() {
			return true
		}
	}
	return false
}

// haveAddr reports whether a message to an address would come back to the proxy.
func (ls *listeners) haveAddr(a netip.AddrPort) bool {
	for _, l := range ls.all {
		own := l.addr.Addr()
		if l.addr.Port() == a.Port() && (own == a.Addr() || l.local.Addr() == a.Addr() || own.IsUnspecified() && a.Addr().IsLoopback()) {
			return true
		}
	}
	return false
}

// find returns the listener from which to reach an address: came, on which the
// message was received, if it can, else the first with the right transport and address
// family. It returns nil if there is none.
func (ls *listeners) find(proto Proto, ip netip.Addr, came *listener) *listener {
	if came != nil && came.proto == proto && came.canReach(ip) {
		return came
	}
	for _, l := range ls.all {
		if l.proto == proto && l.canReach(ip) {
			return l
		}
	}
	return nil
}

// findForFlow returns the UDP listener that a flow names: by index and port or, after
// a change of the configuration, by port alone.
func (ls *listeners) findForFlow(fl flow, came *listener) *listener {
	ip := fl.peer.Addr()
	var found *listener
	for _, l := range ls.all {
		if l.proto != UDP || l.addr.Port() != fl.listenerPort || !l.canReach(ip) {
			continue
		}
		if l.index == fl.listenerIndex {
			return l
		}
		if found == nil {
			found = l
		}
	}
	if found != nil {
		return found
	}
	return ls.find(UDP, ip, came)
}

// areNamedBy reports whether a URI names one of our listeners, by host or by maddr.
func (ls *listeners) areNamedBy(u *siptext.URI) bool {
	if u.Scheme != "sip" && u.Scheme != "sips" {
		return false
	}
	h := u.Host
	if v, _ := u.Param("maddr"); v != "" {
		h = v
	}
	return ls.isName(h, uriPort(u))
}

// areAskedBy reports whether an OPTIONS is addressed to the proxy itself. One to a Contact
// that the proxy has rewritten is addressed to a phone, even if the phone's Contact has
// no user.
func (ls *listeners) areAskedBy(m *message) bool {
	var u siptext.URI
	return parseURI(string(m.text(m.uri)), &u) == nil && u.User == "" && ls.areNamedBy(&u) && !hasParam(&u, contactParam) && !m.hasField(hRoute)
}
