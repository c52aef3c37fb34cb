package trace

import (
	"encoding/binary"
	"net/netip"
)

// linkTypeRaw is LINKTYPE_RAW: each packet begins with its IP header.
const linkTypeRaw = 101

// PCAP returns the messages as a capture file in the classic format. Each message is
// one IP packet, with the addresses and ports at which bellhop received it or, if Own,
// sent it. A TCP stream consists of the segments with these messages only, numbered as
// if nothing else had been sent.
func (c *Call) PCAP() []byte {
	b := make([]byte, 0, 24+len(c.Messages)*1500)
	b = binary.LittleEndian.AppendUint32(b, 0xa1b2c3d4) // times are in microseconds
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, 1<<16)
	b = binary.LittleEndian.AppendUint32(b, linkTypeRaw)
	sent := map[[2]netip.AddrPort]uint32{} // bytes by sender and receiver of a stream
	for i := range c.Messages {
		m := &c.Messages[i]
		from, to := m.From, m.Local
		if m.Own {
			from, to = m.Local, m.To
		}
		from, to = unifyFamilies(from, to)
		text := m.Text()
		var segment []byte
		if m.Stream {
			forward, reverse := [2]netip.AddrPort{from, to}, [2]netip.AddrPort{to, from}
			segment = tcpSegment(from, to, 1+sent[forward], 1+sent[reverse], text)
			sent[forward] += uint32(len(text))
		} else {
			segment = udpDatagram(from, to, text)
		}
		packet := ipPacket(from.Addr(), to.Addr(), m.Stream, uint16(i), segment)
		b = binary.LittleEndian.AppendUint32(b, uint32(m.At.Unix()))
		b = binary.LittleEndian.AppendUint32(b, uint32(m.At.Nanosecond()/1000))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(packet)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(packet)))
		b = append(b, packet...)
	}
	return b
}

// unifyFamilies converts two addresses to the same family. Their families differ if the
// socket is on [::], which also receives IPv4. An unknown address becomes 0.0.0.0.
func unifyFamilies(a, b netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
	known := func(p netip.AddrPort) netip.Addr {
		if !p.IsValid() {
			return netip.IPv4Unspecified()
		}
		return p.Addr().Unmap()
	}
	x, y := known(a), known(b)
	switch {
	case x.Is4() && y == netip.IPv6Unspecified():
		y = netip.IPv4Unspecified()
	case x.Is4() != y.Is4():
		x, y = netip.AddrFrom16(x.As16()), netip.AddrFrom16(y.As16())
	}
	return netip.AddrPortFrom(x, a.Port()), netip.AddrPortFrom(y, b.Port())
}

const (
	protoTCP = 6
	protoUDP = 17
)

// ipPacket returns payload with an IPv4 or IPv6 header; stream means TCP, else UDP.
func ipPacket(from, to netip.Addr, stream bool, id uint16, payload []byte) []byte {
	proto := byte(protoUDP)
	if stream {
		proto = protoTCP
	}
	var b []byte
	if from.Is4() {
		b = []byte{0x45, 0}
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(payload)))
		b = binary.BigEndian.AppendUint16(b, id)
		b = append(b, 0x40, 0, 64, proto, 0, 0) // don't fragment
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], checksum(b, 0))
	} else {
		b = []byte{0x60, 0, 0, 0}
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		b = append(b, proto, 64)
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	}
	return append(b, payload...)
}

// udpDatagram returns text with a UDP header.
func udpDatagram(from, to netip.AddrPort, text string) []byte {
	b := make([]byte, 0, 8+len(text))
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(text)))
	b = append(append(b, 0, 0), text...)
	sum := checksum(b, pseudoHeaderSum(from.Addr(), to.Addr(), protoUDP, len(b)))
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 means none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// tcpSegment returns text with a TCP header.
func tcpSegment(from, to netip.AddrPort, seq, ack uint32, text string) []byte {
	b := make([]byte, 0, 20+len(text))
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, 0x18, 0xff, 0xff, 0, 0, 0, 0) // ACK, PSH
	b = append(b, text...)
	binary.BigEndian.PutUint16(b[16:], checksum(b, pseudoHeaderSum(from.Addr(), to.Addr(), protoTCP, len(b))))
	return b
}

// pseudoHeaderSum returns the sum of the pseudo-header that UDP and TCP checksums
// cover: RFC 768, RFC 9293 §3.1, RFC 8200 §8.1.
func pseudoHeaderSum(from, to netip.Addr, proto byte, length int) uint32 {
	return sumWords(from.AsSlice()) + sumWords(to.AsSlice()) + uint32(proto) + uint32(length)
}

// sumWords returns the sum of b as big-endian 16-bit words.
func sumWords(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

// checksum returns the Internet checksum (RFC 1071) of b and of other data, whose sum is
// before.
func checksum(b []byte, before uint32) uint16 {
	s := before + sumWords(b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
