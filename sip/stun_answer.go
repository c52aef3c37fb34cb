package sip

import (
	"net/netip"
	"time"

	"bellhop/sip/guard"
	"bellhop/sip/stun"
)

// answerSTUN answers a STUN request to the port of a UDP listener. The number of answers
// to one source is limited, because the source may be forged. local is the address to
// which the request was sent, see datagramHandler.
func (l *listener) answerSTUN(request []byte, from netip.AddrPort, local netip.Addr) {
	px := l.proxy
	if !px.guard.AllowsAnswer(from.Addr(), guard.STUNAnswer, time.Duration(px.now())) {
		return
	}
	var buf [stun.MaxResponse]byte
	if b := stun.AppendResponse(buf[:0], request, from); len(b) > 0 {
		l.writeDatagram(b, local, from)
	}
}
