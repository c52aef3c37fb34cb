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

// Token returns a Record-Route token of version 1 without a flow, made with key.
func Token(key []byte) string {
	return sealOldToken(key, token{use: inRoute})
}

// OldToken returns a Record-Route token of version 1 for a phone over TCP.
func OldToken(key []byte, listener uint8, port uint16, phone netip.AddrPort, conn uint32) string {
	return sealOldToken(key, token{use: inRoute, flow: flow{proto: TCP, listenerIndex: listener, listenerPort: port, peer: phone, connID: conn}})
}

// sealOldToken returns a token of version 1.
func sealOldToken(key []byte, t token) string {
	b := t.flow.appendTo([]byte{unboundVersion, byte(t.use)})
	b = append(b, t.text...)
	return tokenEncoding.EncodeToString(append(b, newSealer(key).computeMAC(macLen, b)...))
}

// Prove notes a source's address as proven, as an accepted REGISTER does.
func (px *Proxy) Prove(ip netip.Addr) { px.sources.proven.add(ip, px.now()) }
