package sip

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net/netip"
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
)

// token is the routing state that the proxy writes into its own Record-Route, Path and
// Contact URIs: the flow to the peer on the edge side (RFC 5626 §5.3), the binding of that
// peer and, within a dialog, the PBX. A process that has just started can route by the
// tokens of an earlier one. A MAC authenticates each token, so that nobody else can choose
// a next hop.
//
// A Record-Route token is bound to its dialog, because its MAC covers the Call-ID and the
// From tag of the request to which the token was added. The token itself contains
// neither. It is valid only in requests of that dialog, from either end.
//
// The encoding before base64url is version 3. Its second line is that of Record-Route, its
// third line that of Path and Contact:
//
//	version | use | flags | proto | listener | local port | peer port | peer address | connection | binding | local address
//	    pbx | next | target | mac
//	   text | mac
//	      1 |   1 |     1 |     1 |        1 |          2 |         2 |  1 + 4 or 16 |          4 |  0 or 8 | 0, 1 + 4 or 16
//	      8 | 0, 8 |   ... |   8
//	    ... |   8
//
// Earlier versions of bellhop made tokens of versions 1 and 2, which stay readable.
// Version 2 is Record-Route of version 3 without binding and local address. Version 1 is
// Path and Contact of version 3 without flags, binding and local address. A Record-Route
// token of version 1 has an empty text and is bound to no dialog.
type token struct {
	flow    flow
	use     tokenUse
	binding bindingID // binding that the flow belongs to; zero: none
	byURI   bool      // unless the flow is an open stream, the URI gives the address; see limitTarget for Record-Route
	text    string    // Path: the address-of-record; Contact: that and the phone's own URI, or the id and URI of a PBX

	// The fields below are of Record-Route tokens only.
	pbx     pbxID   // PBX of the dialog; zero: target is its address
	target  Addr    // address of the PBX, if it is not a configured one
	next    routeID // the only Route allowed after ours, if not zero, besides configured PBXs
	fromPBX bool    // the PBX sent the request
	direct  bool    // the PBX sent the request and left the dialog: later requests go from phone to phone
	unbound bool    // version 1: the edge side may use it only in dialogs of RestoreDialogs
}

// tokenUse is the header field that a token was made for. Requests return the token in a
// Route or in the Request-URI. A token made for one use is not valid for another.
type tokenUse byte

const (
	inRoute   tokenUse = 'r' // Record-Route
	inPath    tokenUse = 'p' // Path of a REGISTER
	inContact tokenUse = 'c' // Contact of a REGISTER, rewritten

	inPBXContact tokenUse = 'b' // Contact of the PBX towards a trunk, rewritten
)

// pbxID is a hash of a PBX's configured address. It stays the same when other PBXs are
// added or removed.
type pbxID [8]byte

// newPBXID returns the id of a PBX with a configured address.
func newPBXID(a Addr) (id pbxID) {
	sum := sha256.Sum256([]byte(a.String()))
	copy(id[:], sum[:])
	return id
}

// routeID is a hash of the host and port of a Route.
type routeID [8]byte

// newRouteID returns the id of the Route with URI u.
func newRouteID(u *siptext.URI) (id routeID) {
	sum := sha256.Sum256([]byte(strings.ToLower(u.Host) + ":" + strconv.Itoa(uriPort(u))))
	copy(id[:], sum[:])
	return id
}

// bindingID is a keyed hash of a binding's address-of-record and instance.
type bindingID [8]byte

// flow is the connection or socket pair over which a peer is reached: our listener, the
// peer's address and, for a stream, the connection. With the zero flow, the URI of the
// request gives the address.
type flow struct {
	proto         Proto
	listenerIndex uint8  // position of the listener in the configuration
	listenerPort  uint16 // port of the listener
	peer          netip.AddrPort
	connID        uint32     // number of the connection; 0 over UDP, or if the peer listens at its port
	local         netip.Addr // our address in the flow, if the listener has several; else the zero address
}

// addr returns the address of the peer of a flow.
func (fl flow) addr() Addr { return Addr{Proto: fl.proto, AddrPort: fl.peer} }

// isAt reports whether the peer of a flow is at an address. The name of the address does
// not count.
func (fl flow) isAt(a Addr) bool { return a.Proto == fl.proto && a.AddrPort == fl.peer }

const (
	unboundVersion = 1 // Path, Contact and Record-Route of earlier versions of bellhop
	boundVersion   = 2 // Record-Route of earlier versions of bellhop
	tokenVersion   = 3
	macLen         = 8

	flagFromPBX = 1 << 0
	flagDirect  = 1 << 1
	flagByURI   = 1 << 2
	flagNext    = 1 << 3
	flagBinding = 1 << 4
	flagLocal   = 1 << 5
)

// tokenEncoding is strict, so that each token has exactly one text.
var tokenEncoding = base64.RawURLEncoding.Strict()

// sealer makes and opens tokens. It belongs to one worker and is not safe for concurrent
// use.
type sealer struct {
	mac hash.Hash
	sum []byte
	buf []byte

	lengths [8]byte // input of computeBoundMAC
}

// newSealer returns a sealer with a key of at least 32 bytes.
func newSealer(key []byte) *sealer {
	return &sealer{mac: hmac.New(sha256.New, key), sum: make([]byte, 0, sha256.Size), buf: make([]byte, 0, 256)}
}

// computeMAC returns the first n bytes of the MAC over parts, valid until the next call.
func (s *sealer) computeMAC(n int, parts ...[]byte) []byte {
	s.mac.Reset()
	for _, p := range parts {
		s.mac.Write(p)
	}
	s.sum = s.mac.Sum(s.sum[:0])
	return s.sum[:n]
}

// computeBoundMAC returns the MAC of a Record-Route token b in the dialog of callID and
// tag, valid until the next call. The MAC covers the lengths too, which keep the three
// parts apart.
func (s *sealer) computeBoundMAC(b, callID, tag []byte) []byte {
	binary.BigEndian.PutUint32(s.lengths[:], uint32(len(b)))
	binary.BigEndian.PutUint32(s.lengths[4:], uint32(len(callID)))
	return s.computeMAC(macLen, b, callID, tag, s.lengths[:])
}

// sealToken appends the text of a Path or Contact token to dst.
func (s *sealer) sealToken(dst []byte, t token) []byte {
	b := t.appendStart(s.buf[:0])
	b = append(b, t.text...)
	b = append(b, s.computeMAC(macLen, b)...)
	s.buf = b
	return tokenEncoding.AppendEncode(dst, b)
}

// sealRouteToken appends the text of a Record-Route token to dst, bound to the dialog of
// callID and fromTag.
func (s *sealer) sealRouteToken(dst []byte, t token, callID, fromTag []byte) []byte {
	t.use = inRoute
	b := t.appendStart(s.buf[:0])
	b = append(b, t.pbx[:]...)
	if t.next != (routeID{}) {
		b = append(b, t.next[:]...)
	}
	b = t.target.appendTo(b)
	b = append(b, s.computeBoundMAC(b, callID, fromTag)...)
	s.buf = b
	return tokenEncoding.AppendEncode(dst, b)
}

// appendStart appends the part of the encoding that all tokens have to b.
func (t *token) appendStart(b []byte) []byte {
	flags := flagIf(t.fromPBX, flagFromPBX) | flagIf(t.direct, flagDirect) | flagIf(t.byURI, flagByURI) | flagIf(t.next != routeID{}, flagNext) |
		flagIf(t.binding != bindingID{}, flagBinding) | flagIf(t.flow.local.IsValid(), flagLocal)
	b = append(b, tokenVersion, byte(t.use), flags)
	b = t.flow.appendTo(b)
	if t.binding != (bindingID{}) {
		b = append(b, t.binding[:]...)
	}
	if t.flow.local.IsValid() {
		b = appendIP(b, t.flow.local)
	}
	return b
}

// flagIf returns bit if set is true, else 0.
func flagIf(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// openToken reads a Path or Contact token. ok reports whether the token is ours and was
// made for use u. For Record-Route it reads tokens of version 1 alone, because the others
// are bound to a dialog.
func (s *sealer) openToken(text string, u tokenUse) (t token, ok bool) {
	b, mac, ok := s.decodeToken(text)
	if !ok || len(b) < 3 || b[1] != byte(u) || b[0] != unboundVersion && (b[0] != tokenVersion || u == inRoute) || !hmac.Equal(mac, s.computeMAC(macLen, b)) {
		return token{}, false
	}
	if b, _, ok = t.readStart(b); !ok {
		return token{}, false
	}
	t.text = string(b)
	return t, true
}

// openRouteToken reads the Record-Route token in a Route of m. ok reports whether the
// token is ours, and either was made in m's dialog or is of version 1.
func (s *sealer) openRouteToken(text string, m *message) (t token, ok bool) {
	b, mac, ok := s.decodeToken(text)
	if !ok || len(b) < 3 || b[1] != byte(inRoute) {
		return token{}, false
	}
	if b[0] == unboundVersion {
		t, ok = s.openToken(text, inRoute)
		t.unbound = true
		return t, ok
	}
	callID := m.text(m.callID)
	if b[0] != boundVersion && b[0] != tokenVersion ||
		!hmac.Equal(mac, s.computeBoundMAC(b, callID, m.text(m.fromTag))) && !hmac.Equal(mac, s.computeBoundMAC(b, callID, m.text(m.toTag))) {
		return token{}, false
	}
	b, flags, ok := t.readStart(b)
	if !ok || len(b) < len(t.pbx) {
		return token{}, false
	}
	t.pbx, b = pbxID(b), b[len(t.pbx):]
	if flags&flagNext != 0 {
		if len(b) < len(t.next) {
			return token{}, false
		}
		t.next, b = routeID(b), b[len(t.next):]
	}
	t.target, ok = readAddr(b)
	return t, ok
}

// readStart reads the start of the encoding b, which is the same for all tokens of a
// version. It returns the rest of b and the flags. b has at least three bytes.
func (t *token) readStart(b []byte) (rest []byte, flags byte, ok bool) {
	version := b[0]
	t.use, b = tokenUse(b[1]), b[2:]
	if version != unboundVersion {
		flags, b = b[0], b[1:]
	}
	t.fromPBX, t.direct, t.byURI = flags&flagFromPBX != 0, flags&flagDirect != 0, flags&flagByURI != 0
	if b, ok = t.flow.readFrom(b); !ok {
		return nil, 0, false
	}
	if flags&flagBinding != 0 {
		if len(b) < len(t.binding) {
			return nil, 0, false
		}
		t.binding, b = bindingID(b), b[len(t.binding):]
	}
	if flags&flagLocal != 0 {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return nil, 0, false
		}
		end := 1 + int(b[0])
		t.flow.local, ok = netip.AddrFromSlice(b[1:end])
		b = b[end:]
	}
	return b, flags, ok
}

// decodeToken splits a token into the bytes that its MAC covers, and the MAC. Both are
// valid until the next call.
func (s *sealer) decodeToken(text string) (b, mac []byte, ok bool) {
	b, err := tokenEncoding.AppendDecode(s.buf[:0], []byte(text))
	s.buf = b[:0]
	if err != nil || len(b) < macLen {
		return nil, nil, false
	}
	return b[:len(b)-macLen], b[len(b)-macLen:], true
}

// appendTo appends the encoding of a flow in a token to b.
func (f flow) appendTo(b []byte) []byte {
	b = append(b, byte(f.proto), f.listenerIndex)
	b = binary.BigEndian.AppendUint16(b, f.listenerPort)
	b = binary.BigEndian.AppendUint16(b, f.peer.Port())
	b = appendIP(b, f.peer.Addr())
	return binary.BigEndian.AppendUint32(b, f.connID)
}

// readFrom reads the flow at the start of b, and returns the rest of b.
func (f *flow) readFrom(b []byte) (rest []byte, ok bool) {
	if len(b) < 7 {
		return nil, false
	}
	f.proto, f.listenerIndex = Proto(b[0]), b[1]
	f.listenerPort = binary.BigEndian.Uint16(b[2:])
	port, n := binary.BigEndian.Uint16(b[4:]), int(b[6])
	if b = b[7:]; len(b) < n+4 {
		return nil, false
	}
	if ip, found := netip.AddrFromSlice(b[:n]); found {
		f.peer = netip.AddrPortFrom(ip, port)
	} else {
		*f = flow{}
	}
	f.connID = binary.BigEndian.Uint32(b[n:])
	return b[n+4:], true
}

// appendTo appends the encoding of an address in a token to b; the zero address has
// none.
func (a Addr) appendTo(b []byte) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(b, byte(a.Proto))
	b = binary.BigEndian.AppendUint16(b, a.Port())
	return appendIP(b, a.Addr())
}

// readAddr reads the encoded address that fills b; an empty b is the zero address.
func readAddr(b []byte) (a Addr, ok bool) {
	if len(b) == 0 {
		return Addr{}, true
	}
	if len(b) < 4 {
		return Addr{}, false
	}
	ip, found := netip.AddrFromSlice(b[4:])
	return Addr{Proto: Proto(b[0]), AddrPort: netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[1:]))}, found && len(b) == 4+int(b[3])
}

// appendIP appends an IP address with its length in front to b.
func appendIP(b []byte, ip netip.Addr) []byte {
	switch {
	case ip.Is4():
		a := ip.As4()
		return append(append(b, 4), a[:]...)
	case ip.Is6():
		a := ip.As16()
		return append(append(b, 16), a[:]...)
	}
	return append(b, 0)
}

// cidLen is the length of the correlation id in an X-CID value, in hex digits. 16 more
// digits authenticate it, because only our own values may correlate calls.
const cidLen = 32

// appendCorrelationID appends the correlation id of the INVITE with this Call-ID and From
// tag to dst. All nodes make the same id, because they have the same [Config.Key].
func (s *sealer) appendCorrelationID(dst, callID, fromTag []byte) []byte {
	return hex.AppendEncode(dst, s.computeMAC(cidLen/2, []byte("cid"), callID, []byte{0}, fromTag))
}

// appendCID appends the X-CID value of that INVITE to dst: its correlation id, and a MAC.
func (s *sealer) appendCID(dst, callID, fromTag []byte) []byte {
	start := len(dst)
	dst = s.appendCorrelationID(dst, callID, fromTag)
	return hex.AppendEncode(dst, s.computeMAC(8, []byte("x-cid"), dst[start:]))
}

// openCID returns the correlation id in an X-CID value, or "" if the value is not ours.
func (s *sealer) openCID(v []byte) string {
	if len(v) != cidLen+16 {
		return ""
	}
	var want [16]byte
	hex.Encode(want[:], s.computeMAC(8, []byte("x-cid"), v[:cidLen]))
	if !hmac.Equal(want[:], v[cidLen:]) {
		return ""
	}
	return string(v[:cidLen])
}
