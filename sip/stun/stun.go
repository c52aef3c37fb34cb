// Package stun answers STUN Binding requests (RFC 8489), by which a SIP client keeps its
// UDP flow open and learns its public address (RFC 5626 §3.5.2).
//
// A response contains the source of the request, in XOR-MAPPED-ADDRESS, and nothing else.
// Authentication and all other attributes of the request are ignored, because the response
// reveals only what the sender of the request may know. The package does no I/O.
package stun

import (
	"encoding/binary"
	"net/netip"
)

const (
	headerLen   = 20
	magicCookie = 0x2112A442

	bindingRequest   = 0x0001
	bindingResponse  = 0x0101
	xorMappedAddress = 0x0020

	familyIPv4 = 1
	familyIPv6 = 2
)

// MaxResponse is the length of the longest response, that to an IPv6 address.
const MaxResponse = headerLen + 4 + 4 + 16

// IsMessage reports whether a datagram is a STUN message and not one of SIP: it has a
// magic cookie, and the length in its header is its own (RFC 8489 §5).
func IsMessage(b []byte) bool {
	return len(b) >= headerLen && b[0]&0xC0 == 0 && binary.BigEndian.Uint32(b[4:]) == magicCookie &&
		int(binary.BigEndian.Uint16(b[2:])) == len(b)-headerLen && len(b)%4 == 0
}

// AppendResponse appends the response to a message from a source to dst. It appends
// nothing if the message is no Binding request, or if its attributes do not fill it.
func AppendResponse(dst, message []byte, source netip.AddrPort) []byte {
	if !IsMessage(message) || binary.BigEndian.Uint16(message) != bindingRequest || !hasAttributes(message[headerLen:]) {
		return dst
	}
	ip, family := source.Addr().Unmap(), byte(familyIPv4)
	if ip.Is6() {
		family = familyIPv6
	}
	address := ip.AsSlice()
	if len(address) == 0 {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, bindingResponse)
	dst = binary.BigEndian.AppendUint16(dst, uint16(8+len(address)))
	dst = append(dst, message[4:headerLen]...) // cookie and transaction id
	dst = binary.BigEndian.AppendUint16(dst, xorMappedAddress)
	dst = binary.BigEndian.AppendUint16(dst, uint16(4+len(address)))
	dst = append(dst, 0, family)
	dst = binary.BigEndian.AppendUint16(dst, source.Port()^magicCookie>>16)
	for i, b := range address {
		dst = append(dst, b^message[4+i]) // RFC 8489 §14.2: an IPv6 address reaches into the transaction id
	}
	return dst
}

// hasAttributes reports whether b is a sequence of attributes, each padded to a multiple
// of four bytes.
func hasAttributes(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		n := 4 + (int(binary.BigEndian.Uint16(b[2:]))+3)&^3
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return true
}
