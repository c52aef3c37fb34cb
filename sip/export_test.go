package sip

import "net/netip"

// Held counts what the workers of a stopped proxy still hold: transactions, running
// timers and bytes.
func (px *Proxy) Held() (n int) {
	for _, w := range px.workers {
		n += len(w.serverTxs.m) + len(w.clientTxs.m) + len(w.cancelTxs.m) + w.wheel.count + w.memory.heldBytes
	}
	return n
}

// Token returns a Record-Route token of ours without a flow, made with key.
func Token(key []byte) string {
	return string(newSealer(key).sealToken(nil, token{use: inRoute}))
}

// OldToken returns a Record-Route token of version 1 for a phone over TCP.
func OldToken(key []byte, listener uint8, port uint16, phone netip.AddrPort, conn uint32) string {
	return string(newSealer(key).sealToken(nil, token{use: inRoute, flow: flow{TCP, listener, port, phone, conn}}))
}

// Prove notes a source's address as proven, as an accepted REGISTER does.
func (px *Proxy) Prove(ip netip.Addr) { px.sources.proven.add(ip, px.now()) }
