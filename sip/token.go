package sip

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net/netip"
)

// A token is what bellhop writes into its own Record-Route, Path and Contact
// URIs so that a request that comes back finds its way in a process that
// remembers nothing: the flow to the peer on the edge side (RFC 5626 §5.3).
// It is authenticated, so nobody but us chooses a next hop with it.
//
// On the wire, before base64url:
//
//	version | use | proto | listener | local port | peer port | peer address | connection | text | mac
//	      1 |   1 |     1 |        1 |          2 |         2 |      4 or 16 |          4 |  ... |   8
type token struct {
	flow flow
	use  use
	text string // path: the AOR that registered; contact: the Contact's own URI
}

// use says in which header field a token stands. One is never good for
// another.
type use byte

const (
	inRoute   use = 'r' // Record-Route
	inPath    use = 'p' // Path of a REGISTER
	inContact use = 'c' // Contact of a REGISTER, rewritten
)

// A flow is a way to a peer: over which of our sockets, to what address, and
// for a stream, on which connection. The zero flow is none: the URI decides.
type flow struct {
	proto Proto
	nth   uint8  // the listener's place among ours
	port  uint16 // the listener's
	peer  netip.AddrPort
	conn  uint32 // number of the connection
}

const (
	tokenVersion = 1
	macLen       = 8
)

// encoding is strict: a token has one text only.
var encoding = base64.RawURLEncoding.Strict()

// A sealer makes and opens tokens. It belongs to one worker.
type sealer struct {
	mac hash.Hash
	sum []byte
	buf []byte
}

func newSealer(key []byte) *sealer {
	return &sealer{mac: hmac.New(sha256.New, key), sum: make([]byte, 0, sha256.Size), buf: make([]byte, 0, 256)}
}

// sign returns the first n bytes of the MAC over parts, valid until the next call.
func (s *sealer) sign(n int, parts ...[]byte) []byte {
	s.mac.Reset()
	for _, p := range parts {
		s.mac.Write(p)
	}
	s.sum = s.mac.Sum(s.sum[:0])
	return s.sum[:n]
}

// seal appends the token's text to dst.
func (s *sealer) seal(dst []byte, t token) []byte {
	b := append(s.buf[:0], tokenVersion, byte(t.use), byte(t.flow.proto), t.flow.nth)
	b = binary.BigEndian.AppendUint16(b, t.flow.port)
	b = binary.BigEndian.AppendUint16(b, t.flow.peer.Port())
	ip := t.flow.peer.Addr()
	switch {
	case ip.Is4():
		a := ip.As4()
		b = append(append(b, 4), a[:]...)
	case ip.Is6():
		a := ip.As16()
		b = append(append(b, 16), a[:]...)
	default:
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint32(b, t.flow.conn)
	b = append(b, t.text...)
	b = append(b, s.sign(macLen, b)...)
	s.buf = b
	return encoding.AppendEncode(dst, b)
}

// open reads a token for that use, and reports whether it is one of ours.
func (s *sealer) open(text string, u use) (t token, ok bool) {
	b, err := encoding.AppendDecode(s.buf[:0], []byte(text))
	s.buf = b[:0]
	if err != nil || len(b) < 13+macLen {
		return token{}, false
	}
	b, mac := b[:len(b)-macLen], b[len(b)-macLen:]
	if !hmac.Equal(mac, s.sign(macLen, b)) {
		return token{}, false
	}
	if b[0] != tokenVersion || b[1] != byte(u) {
		return token{}, false
	}
	t.use = u
	t.flow.proto = Proto(b[2])
	t.flow.nth = b[3]
	t.flow.port = binary.BigEndian.Uint16(b[4:])
	port, n := binary.BigEndian.Uint16(b[6:]), int(b[8])
	if b = b[9:]; len(b) < n+4 {
		return token{}, false
	}
	if ip, found := netip.AddrFromSlice(b[:n]); found {
		t.flow.peer = netip.AddrPortFrom(ip, port)
	} else {
		t.flow = flow{}
	}
	t.flow.conn = binary.BigEndian.Uint32(b[n:])
	t.text = string(b[n+4:])
	return t, true
}

// An X-CID value is a correlation id, 32 hex digits, and 16 more that prove it
// is one of ours: only those correlate.
const cidLen = 32

// newCID appends an X-CID value for the attempt that Call-ID and From tag
// name. Every node makes the same one.
func (s *sealer) newCID(dst, callID, fromTag []byte) []byte {
	id := s.sign(cidLen/2, []byte("cid"), callID, []byte{0}, fromTag)
	start := len(dst)
	dst = hex.AppendEncode(dst, id)
	return hex.AppendEncode(dst, s.sign(8, []byte("x-cid"), dst[start:]))
}

// openCID returns the id in an X-CID value, or "" when it is none of ours.
func (s *sealer) openCID(v []byte) string {
	if len(v) != cidLen+16 {
		return ""
	}
	var want [16]byte
	hex.Encode(want[:], s.sign(8, []byte("x-cid"), v[:cidLen]))
	if !hmac.Equal(want[:], v[cidLen:]) {
		return ""
	}
	return string(v[:cidLen])
}
