package admin

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedClient returns the address of the client for which trusted proxies forward a
// request: the last hop that is no trusted proxy, or the first hop if all are. ok is
// false if the request comes from no trusted proxy, or if its X-Forwarded-For and
// Forwarded are missing, malformed or contradictory.
func forwardedClient(r *http.Request, trusted []netip.Prefix) (client netip.Addr, ok bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !containsAddr(trusted, peer.Addr()) {
		return client, false
	}
	var found []netip.Addr // the clients that X-Forwarded-For and Forwarded name
	for _, way := range [...][]string{
		strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ","),
		forwardedFor(r.Header.Values("Forwarded")),
	} {
		if len(way) == 1 && way[0] == "" {
			continue
		}
		for i, text := range slices.Backward(way) {
			if client, ok = parseHopAddr(text); !ok {
				return client, false
			}
			if i == 0 || !containsAddr(trusted, client) {
				break
			}
		}
		found = append(found, client)
	}
	if len(found) == 0 || found[0] != found[len(found)-1] {
		return client, false
	}
	return found[0], true
}

// forwardedFor returns the for parameters of Forwarded (RFC 7239), one per element, and
// "unknown" for an element without one. Without the field, it returns a single "".
func forwardedFor(values []string) []string {
	if len(values) == 0 {
		return []string{""}
	}
	var hops []string
	for element := range strings.SplitSeq(strings.Join(values, ","), ",") {
		hop := "unknown"
		for pair := range strings.SplitSeq(element, ";") {
			name, value, _ := strings.Cut(pair, "=")
			if strings.EqualFold(strings.TrimSpace(name), "for") {
				hop = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		hops = append(hops, hop)
	}
	return hops
}

// parseHopAddr parses an address with or without a port, and an IPv6 address with or
// without brackets.
func parseHopAddr(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if at, err := netip.ParseAddrPort(text); err == nil {
		return at.Addr().Unmap(), true
	}
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		text = text[1 : len(text)-1]
	}
	ip, err := netip.ParseAddr(text)
	return ip.Unmap(), err == nil
}

// containsAddr reports whether one of the prefixes contains an address.
func containsAddr(prefixes []netip.Prefix, ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// isForwardingHeader reports whether a header field shows that a proxy forwarded the
// request. The name is in canonical form.
func isForwardingHeader(name string) bool {
	switch name {
	case "Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "X-Envoy-External-Address":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Original-")
}

// isLocalRequest reports whether a request comes from a client on this machine. It
// returns false if the request has a forwarding header field, because then a proxy on
// this machine may have forwarded it.
func isLocalRequest(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for name := range r.Header {
		if isForwardingHeader(name) {
			return false
		}
	}
	return true
}
