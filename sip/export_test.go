package sip

import "net/netip"

// Held counts what the workers of a hop that does not run any more still hold:
// transactions, timers that are set, and bytes.
func (h *Proxy) Held() (n int) {
	for _, w := range h.workers {
		n += len(w.serverTxs.m) + len(w.clientTxs.m) + len(w.cancelTxs.m) + w.wheel.count + w.heldBytes
	}
	return n
}

// Token is one of our Record-Route tokens for no flow in particular, made with
// a key.
func Token(key []byte) string {
	return string(newSealer(key).sealToken(nil, token{use: inRoute}))
}

// OldToken is the Record-Route token of version 1 for a phone over TCP.
func OldToken(key []byte, listener uint8, port uint16, phone netip.AddrPort, conn uint32) string {
	return string(newSealer(key).sealToken(nil, token{use: inRoute, flow: flow{TCP, listener, port, phone, conn}}))
}

// Prove notes that a source has proved to be there, as a REGISTER does.
func (h *Proxy) Prove(ip netip.Addr) { h.provenSources.add(ip, h.now()) }
