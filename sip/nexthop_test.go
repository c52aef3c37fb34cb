package sip

import (
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"bellhop/dialog/siptext"
)

// recordingNetwork keeps every datagram sent and the address of every connection opened.
type recordingNetwork struct {
	recordingSocket
	sent   []sentDatagram
	dialed chan netip.AddrPort
}

type sentDatagram struct {
	to      netip.AddrPort
	request bool
	b       []byte
}

func (s *recordingNetwork) ListenPacket(netip.AddrPort) (PacketConn, error) { return s, nil }
func (s *recordingNetwork) Dial(_ netip.Addr, to netip.AddrPort) (net.Conn, error) {
	s.dialed <- to
	return nil, net.ErrClosed
}
func (s *recordingNetwork) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.sent = append(s.sent, sentDatagram{to, !bytes.HasPrefix(b, []byte("SIP/2.0 ")), bytes.Clone(b)})
	return len(b), nil
}

// lastRecordRoute returns the Record-Route of the last request that has one.
func (s *recordingNetwork) lastRecordRoute(tb testing.TB) string {
	tb.Helper()
	var m message
	for i := len(s.sent) - 1; i >= 0; i-- {
		if s.sent[i].request && m.index(s.sent[i].b, false) && m.hasField(hRecordRoute) {
			return string(m.text(m.firstField(hRecordRoute).value))
		}
	}
	tb.Fatal("nothing was record-routed")
	return ""
}

// FuzzNextHop checks where messages of the edge side go: a request to the PBX, to a trunk,
// or to the other end of a dialog that the PBX has left; a response to the source of its
// request. This holds for any Route, Request-URI, Contact and tags, and for any tokens of
// ours in them.
func FuzzNextHop(f *testing.F) {
	var (
		stranger  = netip.MustParseAddrPort("198.51.100.66:5060")
		called    = netip.MustParseAddrPort("192.0.2.102:5062") // the PBX leaves the dialog with it to the caller
		profile   = netip.MustParseAddrPort("192.0.2.2:5080")   // another SIP port of the PBX
		trunk     = netip.MustParseAddrPort("198.51.100.9:5060")
		registrar = netip.MustParseAddrPort("192.0.2.12:5060") // a PBX over TCP
	)
	for _, s := range []struct{ routes, uri string }{
		{"T0", "sip:x@203.0.113.66"},
		{"T0, <sip:203.0.113.66;lr>", "sip:x@203.0.113.66;transport=tcp"},
		{"T0, <sip:203.0.113.66>", "sip:x@192.0.2.2:22;transport=tcp"},
		{"T1, T2", "sip:x@127.0.0.1:5038;transport=tcp"},
		{"T2, T1", "sip:x@192.0.2.102:1"},
		{"T2", "sip:x@[::1]:5060"},
		{"T3", "sip:x@192.0.2.2:22;transport=tcp"},
		{"T4, T5", "sip:x@192.0.2.1;bellhop=T6"},
		{"<sip:192.0.2.1;lr>, T1", "sip:x@192.0.2.1;maddr=203.0.113.66"},
		{"<sip:203.0.113.66;lr>", "U1"},
		{"<sip:192.0.2.2;lr>, <sip:203.0.113.66;lr>", "U2"},
	} {
		for dialog := range 6 {
			f.Add(s.routes, s.uri, "MESSAGE", uint8(dialog))
			f.Add(s.routes, s.uri, "INVITE", uint8(dialog|8))
		}
	}
	f.Fuzz(func(t *testing.T, routes, uri, method string, bits uint8) {
		net := &recordingNetwork{dialed: make(chan netip.AddrPort, 64)}
		w, _ := newBareWorker(t, func(c *Config) {
			c.Net = net
			c.PBX = append(c.PBX, Addr{Proto: TCP, AddrPort: registrar})
			c.PBXSources = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")}
			c.Trunks = []Trunk{{Name: "carrier", Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}}}
		})
		show := func(from netip.AddrPort, b string) {
			if p := w.receivePacket([]byte(b), from); p != nil {
				w.handleMessage(w.now(), p)
			}
		}
		initial := func(from netip.AddrPort, uri, call, more string) {
			show(from, "INVITE "+uri+" SIP/2.0\r\nVia: SIP/2.0/UDP "+from.String()+";branch=z9hG4bK"+call+from.String()+"\r\nFrom: <sip:101@x>;tag="+call+
				"\r\nTo: <sip:102@x>\r\nCall-ID: "+call+"\r\nCSeq: 1 INVITE\r\nContact: <sip:c@"+from.String()+">\r\n"+more+"\r\n")
		}
		tokens := make([]string, 7)
		initial(stranger, "sip:102@pbx.example", "c0", "")
		tokens[0] = net.lastRecordRoute(t)
		initial(barePhone, "sip:102@pbx.example", "c1", "")
		tokens[1] = net.lastRecordRoute(t)
		initial(barePBX, "sip:102@"+called.String(), "c1", "Record-Route: "+tokens[1]+"\r\n")
		tokens[2] = net.lastRecordRoute(t)
		initial(profile, "sip:101@"+barePhone.String(), "c3", "")
		tokens[3] = net.lastRecordRoute(t)
		toCalled := flow{proto: UDP, listenerPort: 5060, peer: called}
		path := string(w.composer.sealer.sealToken(nil, token{use: inPath, flow: toCalled, text: "102@x"}))
		tokens[4] = "<sip:" + path + "@192.0.2.1;lr>"
		tokens[5] = "<sip:" + sealOldToken(testKey, token{use: inRoute, flow: toCalled}) + "@192.0.2.1;lr>"
		tokens[6] = string(w.composer.sealer.sealToken(nil, token{use: inContact, flow: toCalled, text: "102@x sip:102@" + called.String()}))
		for i, tok := range tokens {
			routes = strings.ReplaceAll(routes, "T"+strconv.Itoa(i), tok)
			user := strings.TrimSuffix(strings.TrimPrefix(tok, "<"), ">")
			uri = strings.ReplaceAll(strings.ReplaceAll(uri, "T"+strconv.Itoa(i), tok), "U"+strconv.Itoa(i), user)
		}

		from := []netip.AddrPort{stranger, barePhone, called, trunk}[bits>>4&3]
		call := "c" + strconv.Itoa(int(bits&7)%4)
		tags := [2]string{call, "x"}
		if bits&8 != 0 {
			tags = [2]string{"x", call}
		}
		net.sent = nil
		show(from, method+" "+uri+" SIP/2.0\r\nVia: SIP/2.0/UDP "+from.String()+";branch=z9hG4bKfuzz\r\nRoute: "+routes+"\r\nFrom: <sip:a@x>;tag="+tags[0]+
			"\r\nTo: <sip:b@x>;tag="+tags[1]+"\r\nCall-ID: "+call+"\r\nCSeq: 9 "+method+"\r\nContact: <"+uri+">\r\n\r\n")

		allowed := map[netip.AddrPort]bool{barePBX: true, profile: true, registrar: true}
		if call == "c1" && from != called {
			allowed[called] = true
		}
		if call == "c1" && from != barePhone {
			allowed[barePhone] = true
		}
		for _, d := range net.sent {
			atCalled := call == "c1" && d.to.Addr() == called.Addr() // its remote target may have another port
			switch {
			case !d.request && d.to != from:
				t.Errorf("a response leaves for %s:\n%q", d.to, d.b)
			case d.request && !allowed[d.to] && !atCalled:
				t.Errorf("a request of %s leaves for %s:\n%q", from, d.to, d.b)
			}
		}
		w.proxy.streams.close()
		for len(net.dialed) > 0 {
			if to := <-net.dialed; to != registrar && !(call == "c1" && to.Addr() == called.Addr()) {
				t.Errorf("a connection is opened to %s", to)
			}
		}
		if n := w.proxy.stats.panics.Load(); n > 0 {
			t.Error("a panic")
		}
	})
}

// An IPv4-mapped IPv6 address is treated as the IPv4 address: of this machine, the PBX
// or a trunk.
func TestMappedAddressesCountAsIPv4(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	w.proxy.listeners.all[0].addr = netip.AddrPortFrom(netip.IPv6Unspecified(), bareProxy.Port()) // IPv4 too, as the system has it
	p := w.receivePacket(numberedRequest("MESSAGE", 1, ""), barePBX)
	for uri, want := range map[string]*fault{
		"sip:x@[::ffff:0.0.0.0]:9":   nextHopNotAllowed,
		"sip:x@[::ffff:127.0.0.1]:9": nextHopNotAllowed,
		"sip:x@[::ffff:" + bareProxy.Addr().String() + "]:" + strconv.Itoa(int(bareProxy.Port())): noBinding,
	} {
		var u siptext.URI
		if f := parseURI(uri, &u); f != nil {
			t.Fatalf("%s: %v", uri, f)
		}
		a, ok := uriAddr(&u)
		if !ok {
			t.Fatalf("%s is no address", uri)
		}
		var r routeDecision
		if f := w.router.routeToEdge(p, &r, a); f != want {
			t.Errorf("%s leads to %v, %v, want %v", uri, r.nextHop.addr, f, want)
		}
	}
}
