package sip

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

var testKey = bytes.Repeat([]byte("k"), 32)

func TestTokensOpenAsTheyWereSealed(t *testing.T) {
	s := newSealer(testKey)
	for _, tok := range []token{
		{use: inPath, flow: flow{TCP, 255, 1, netip.MustParseAddrPort("[2001:db8::1]:1"), 1<<32 - 1, netip.MustParseAddr("2001:db8::2")}, binding: bindingID{7: 1}, text: "101@pbx.example"},
		{use: inPath, flow: flow{UDP, 0, 5060, netip.MustParseAddrPort("192.0.2.1:1"), 0, netip.MustParseAddr("192.0.2.2")}},
		{use: inPath, flow: flow{TCP, 0, 5060, netip.MustParseAddrPort("192.0.2.1:1"), 1, netip.Addr{}}, byURI: true, binding: bindingID{1}},
		{use: inContact, text: "101@pbx.example sip:101@10.0.0.5;transport=udp"},
	} {
		text := string(s.sealToken(nil, tok))
		got, ok := s.openToken(text, tok.use)
		if !ok || got != tok {
			t.Errorf("got %+v %v, want %+v", got, ok, tok)
		}
		if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("%s does not fit into a user part", text)
		}
		for _, u := range []tokenUse{inRoute, inPath, inContact} {
			if _, ok := s.openToken(text, u); ok != (u == tok.use) {
				t.Errorf("a token for %c is good for %c: %v", tok.use, u, ok)
			}
		}
		if _, ok := newSealer(bytes.Repeat([]byte("x"), 32)).openToken(text, tok.use); ok {
			t.Error("another key opens it")
		}
		for i := range text {
			for _, c := range []byte{'A', 'B', '_', '=', '\n'} {
				forged := []byte(text)
				if forged[i] == c {
					continue
				}
				forged[i] = c
				if got, ok := s.openToken(string(forged), tok.use); ok {
					t.Errorf("with %q at %d it opens as %+v", c, i, got)
				}
			}
			if _, ok := s.openToken(text[:i], tok.use); ok {
				t.Errorf("%d characters of it are enough", i)
			}
		}
	}
}

// requestWithin returns a request within a dialog.
func requestWithin(callID, fromTag, toTag string) *message {
	m := new(message)
	m.index([]byte("BYE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a>;tag="+fromTag+"\r\nTo: <sip:b>;tag="+toTag+
		"\r\nCall-ID: "+callID+"\r\nCSeq: 1 BYE\r\n\r\n"), false)
	return m
}

func TestRouteTokensOpenInTheirDialogAlone(t *testing.T) {
	s := newSealer(testKey)
	pbx := Addr{Proto: UDP, AddrPort: netip.MustParseAddrPort("192.0.2.2:5060")}
	for _, tok := range []token{
		{},
		{flow: flow{UDP, 7, 5060, netip.MustParseAddrPort("192.0.2.1:65535"), 0, netip.Addr{}}, pbx: newPBXID(pbx)},
		{flow: flow{TCP, 255, 1, netip.MustParseAddrPort("[2001:db8::1]:1"), 1<<32 - 1, netip.MustParseAddr("2001:db8::2")}, binding: bindingID{1}, fromPBX: true, target: pbx},
		{flow: flow{UDP, 0, 1, netip.MustParseAddrPort("192.0.2.1:1"), 0, netip.MustParseAddr("192.0.2.2")}, next: routeID{1}},
		{fromPBX: true, direct: true, byURI: true, next: routeID{1}, target: Addr{Proto: TCP, AddrPort: netip.MustParseAddrPort("[2001:db8::1]:5060")}},
		{byURI: true, next: routeID{2}},
	} {
		tok.use = inRoute
		text := string(s.sealRouteToken(nil, tok, []byte("call"), []byte("from")))
		for _, tt := range []struct {
			m    *message
			want bool
		}{
			{requestWithin("call", "from", "to"), true},
			{requestWithin("call", "to", "from"), true},
			{requestWithin("call", "to", "other"), false},
			{requestWithin("cal", "from", "to"), false},
			{requestWithin("callf", "rom", "to"), false},
			{requestWithin("CALL", "from", "to"), false},
		} {
			got, ok := s.openRouteToken(text, tt.m)
			if ok != tt.want || ok && got != tok {
				t.Errorf("in %q it opens: %v, as %+v, want %+v", tt.m.b, ok, got, tok)
			}
		}
		m := requestWithin("call", "from", "to")
		if _, ok := newSealer(bytes.Repeat([]byte("x"), 32)).openRouteToken(text, m); ok {
			t.Error("another key opens it")
		}
		for _, u := range []tokenUse{inRoute, inPath, inContact} {
			if _, ok := s.openToken(text, u); ok {
				t.Errorf("it opens outside of a dialog, for %c", u)
			}
		}
		for i := range text {
			for _, c := range []byte{'A', 'B', '_', '=', '\n'} {
				forged := []byte(text)
				forged[i] = c
				if got, ok := s.openRouteToken(string(forged), m); ok && string(forged) != text {
					t.Errorf("with %q at %d it opens as %+v", c, i, got)
				}
			}
			if _, ok := s.openRouteToken(text[:i], m); ok {
				t.Errorf("%d characters of it are enough", i)
			}
		}
	}
}

// oldTokens were made by earlier versions of bellhop, with testKey.
var oldTokens = []struct {
	text string
	want token
}{
	{"AXICARPEnEEEwAACZQAAAAmzxRrQpIXLqw", token{
		use: inRoute, unbound: true, flow: flow{proto: TCP, listenerIndex: 1, listenerPort: 5060, peer: netip.MustParseAddrPort("192.0.2.101:40001"), connID: 9}}},
	{"AXABABPEE8YQIAENuAAAAAAAAAAAAAAAAQAAAAAxMDFAcGJ4LmV4YW1wbGWqCUqJzxOHxQ", token{
		use: inPath, flow: flow{proto: UDP, listenerPort: 5060, peer: netip.MustParseAddrPort("[2001:db8::1]:5062")}, text: "101@pbx.example"}},
	{"AWMAAAAAAAAAAAAAADEwMUBwYnguZXhhbXBsZSBzaXA6MTAxQDEwLjAuMC41O3RyYW5zcG9ydD11ZHAtnhwlue4kGg", token{
		use: inContact, text: "101@pbx.example sip:101@10.0.0.5;transport=udp"}},
	{"AnIAAgETxJxBBMAAAmUAAAAJzwBqFXKQnlnU1BsNSPjguQ", token{
		use: inRoute, flow: flow{proto: TCP, listenerIndex: 1, listenerPort: 5060, peer: netip.MustParseAddrPort("192.0.2.101:40001"), connID: 9}, pbx: newPBXID(Addr{Proto: UDP, AddrPort: barePBX})}},
	{"AnIPAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAhPEECABDbgAAAAAAAAAAAAAAAG4WUVoX9urzA", token{
		use: inRoute, fromPBX: true, direct: true, byURI: true, next: routeID{1}, target: Addr{Proto: TCP, AddrPort: netip.MustParseAddrPort("[2001:db8::1]:5060")}}},
}

func TestTokensOfEarlierVersionsOpen(t *testing.T) {
	s := newSealer(testKey)
	for _, tt := range oldTokens {
		for _, u := range []tokenUse{inRoute, inPath, inContact} {
			open := func() (token, bool) { return s.openToken(tt.text, u) }
			if u == inRoute {
				open = func() (token, bool) { return s.openRouteToken(tt.text, requestWithin("call", "from", "to")) }
			}
			if got, ok := open(); ok != (u == tt.want.use) || ok && got != tt.want {
				t.Errorf("%s opens for %c: %v, as %+v, want %+v", tt.text, u, ok, got, tt.want)
			}
		}
		if tok, ok := s.openRouteToken(tt.text, requestWithin("other", "from", "to")); ok != tt.want.unbound {
			t.Errorf("%s opens in another dialog: %v, as %+v", tt.text, ok, tok)
		}
	}
}

// A Record-Route token stays bound to its dialog if a stranger writes what its MAC covers
// beside the token into the token.
func TestRouteTokenCannotBeUnbound(t *testing.T) {
	s := newSealer(testKey)
	for _, old := range []string{"", oldTokens[3].text} {
		text := old
		if old == "" {
			text = string(s.sealRouteToken(nil, token{flow: flow{proto: UDP, peer: barePhone}}, []byte("call"), []byte("from")))
		}
		raw, err := tokenEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		b, mac := raw[:len(raw)-macLen], raw[len(raw)-macLen:]
		forged := append(append(bytes.Clone(b), "callfrom"...), 0, 0, 0, byte(len(b)), 0, 0, 0, 4)
		forged = append(forged, mac...)
		if tok, ok := s.openRouteToken(tokenEncoding.EncodeToString(forged), requestWithin("another", "x", "y")); ok {
			t.Errorf("it opens in any dialog, as %+v", tok)
		}
		for _, u := range []tokenUse{inRoute, inPath, inContact} {
			if tok, ok := s.openToken(tokenEncoding.EncodeToString(forged), u); ok {
				t.Errorf("it opens for %c, as %+v", u, tok)
			}
		}
	}
}

func TestOnlyOwnCorrelationIDsAreAccepted(t *testing.T) {
	s := newSealer(testKey)
	cid := s.appendCID(nil, []byte("call"), []byte("tag"))
	if got, want := s.openCID(cid), string(cid[:cidLen]); got != want || len(got) != 32 {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range cid {
		forged := bytes.Clone(cid)
		forged[i] ^= 1
		if got := s.openCID(forged); got != "" {
			t.Errorf("forged at %d it is taken for %q", i, got)
		}
	}
	for _, no := range []string{"", "0", string(cid[:cidLen]), string(cid) + "0", strings.ToUpper(string(cid))} {
		if got := s.openCID([]byte(no)); got != "" {
			t.Errorf("%q is taken for %q", no, got)
		}
	}
	if other := s.appendCID(nil, []byte("cal"), []byte("ltag")); bytes.Equal(other, cid) {
		t.Error("two attempts have the same id")
	}
}
