package sip

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var seeds = []string{
	typicalINVITE,
	"INVITE sip:102@[2001:db8::1]:5060;lr SIP/2.0\r\nv : SIP / 2.0 / UDP a ;rport ;branch = \"z\",\r\n SIP/2.0/TCP b\r\nf:\"a\\\"\" <sip:a>;tag=1;x=\"y;tag=2\"\r\nt:sip:b;tag=3\r\ni:c\r\nCSEQ:1\r\n INVITE\r\nRoute: \"a,\" <sip:192.0.2.1;lr>,\r\n\t<sip:192.0.2.2>\r\nl:2\r\n\r\nabc",
	"REGISTER sip:pbx.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1;received=1.2.3.4;rport=9\r\nFrom: sip:a;tag=1\r\nTo: sip:a\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\nContact: sip:a@b;x, <sip:c>\r\nPath: <sip:p;lr>\r\n\r\n",
	"SIP/2.0 503  \r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKbh00000000.000000000000.00000000, SIP/2.0/UDP x\r\nFrom: a;tag=1\r\nTo: b;tag=2\r\nCall-ID: 1\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
	"ACK sip:a;maddr=192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nMax-Forwards: 0255\r\nTo: b\r\nFrom: c\r\nCall-ID: 1\r\nCSeq: 1 ACK\r\n\r\n",
	"\r\n\r\n\x00 : \r\r\n",
}

// FuzzIndex checks that indexing never panics and stays within the message, and that
// another proxy reads a forwarded message in the same way.
func FuzzIndex(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	w, _ := newBareWorker(f, func(c *Config) { c.AddCID = true })
	contact, _ := newBareWorker(f, func(c *Config) { c.Register = RegisterContact })
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxMessage {
			return
		}
		var m message
		for _, stream := range []bool{false, true} {
			if !m.index(bytes.Clone(b), stream) {
				continue
			}
			checkSpans(t, &m)
		}
		for _, w := range []*worker{w, contact} {
			for _, from := range []netip.AddrPort{barePhone, barePBX} {
				if p := w.receivePacket(b, from); p != nil {
					forwardPacket(t, w, p)
				}
			}
		}
	})
}

// checkSpans fails the test if a span of m is reversed or outside the message.
func checkSpans(t *testing.T, m *message) {
	spans := []span{m.method, m.uri, m.callID, m.cseqMethod, m.from, m.to, m.fromTag, m.toTag,
		m.via.value, m.via.proto, m.via.host, m.via.branch, m.via.rport, m.via.received, {int32(m.headLen), int32(len(m.b))}}
	for _, f := range m.fields {
		spans = append(spans, f.line, f.value)
	}
	for i, s := range spans {
		if s.from < 0 || s.to < s.from || int(s.to) > len(m.b) {
			t.Fatalf("span %d is %v of %d bytes", i, s, len(m.b))
		}
	}
}

// forwardPacket forwards a packet, if it is valid, and indexes the result.
func forwardPacket(t *testing.T, w *worker, p *packet) {
	m := &p.msg
	if m.fault != nil {
		if m.answerable() {
			w.composer.makeResponse(p, m.fault.status, m.fault.phrase, "")
		}
		return
	}
	if !m.isRequest() {
		w.composer.rewriteResponse(p, destination{})
		return
	}
	if m.maxForwards == 0 {
		return
	}
	r, fault := w.router.routeRequest(p)
	if fault != nil {
		return
	}
	out := bytes.Clone(w.composer.rewriteRequest(p, &r, w.proxy.branchSalt.appendBranch(nil, 1, 2)))
	var next message
	if len(out) > maxMessage || m.hasField(hVia) && countVias(m) >= maxRoutes {
		return // it grew beyond the bounds
	}
	if !next.index(out, false) || next.fault != nil && next.fault.phrase != "Too Many Header Fields" && next.fault.phrase != "Header Field Too Long" && next.fault != badSyntax {
		t.Fatalf("accepted:\n%q\nbut not what left:\n%q: %v", m.b, out, next.fault)
	}
	if next.fault != nil {
		return
	}
	for what, pair := range map[string][2][]byte{
		"method":   {m.text(m.method), next.text(next.method)},
		"Call-ID":  {m.text(m.callID), next.text(next.callID)},
		"From tag": {m.text(m.fromTag), next.text(next.fromTag)},
		"To tag":   {m.text(m.toTag), next.text(next.toTag)},
		"body":     {m.b[m.headLen:], next.b[next.headLen:]},
	} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Fatalf("%s is %q, then %q in\n%q", what, pair[0], pair[1], out)
		}
	}
	if next.cseq != m.cseq || m.maxForwards > 0 && next.maxForwards != m.maxForwards-1 || m.maxForwards < 0 && next.maxForwards != 70 {
		t.Fatalf("CSeq or Max-Forwards is wrong in\n%q", out)
	}
	if got := countVias(&next); got != countVias(m)+1 {
		t.Fatalf("%d Vias after %d", got, countVias(m))
	}
	w.composer.makeResponseTo(out, 500, "x")
	w.composer.makeACK(out, &next)
	w.composer.makeCancel(out, cancelFields(m, true))
}

// FuzzRoute checks that a forwarded request has the Routes that it came with, whatever
// they and the Request-URI contain, without those removed at either end.
func FuzzRoute(f *testing.F) {
	f.Add("<sip:192.0.2.1;lr>", "<sip:192.0.2.2;lr>", "sip:102@pbx.example")
	f.Add(`"a, \"b" <sip:192.0.2.1;lr>;x="y,z" , <sip:192.0.2.1:5060;transport=tcp>`, "sip:192.0.2.2", "sip:102@pbx.example;maddr=192.0.2.1")
	f.Add("<sip:192.0.2.1;lr>,<sip:192.0.2.2;lr> ,\r\n <sip:a>", "<sip:192.0.2.1>,", "tel:1")
	f.Add("<sip:192.0.2.2:5060>,<sip:192.0.2.1>", "", "sip:TOKEN@192.0.2.1;lr")
	f.Add("<sip:TOKEN@192.0.2.1;lr>,<sip:10.0.0.1;lr>", "", "sip:192.0.2.1;bellhop=TOKEN")
	w, _ := newBareWorker(f, nil)
	tok := string(w.composer.sealer.sealRouteToken(nil, token{flow: flow{proto: UDP, listenerPort: 5060, peer: barePhone}}, []byte("1"), []byte("1")))
	f.Fuzz(func(t *testing.T, one, two, uri string) {
		b := "BYE " + uri + " SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1\r\nRoute: " + one + "\r\nFrom: a;tag=1\r\nRoute: " + two +
			"\r\nTo: b;tag=2\r\nCall-ID: 1\r\nCSeq: 1 BYE\r\n\r\n"
		b = strings.ReplaceAll(b, "TOKEN", tok)
		for _, from := range []netip.AddrPort{barePhone, barePBX} {
			p := w.receivePacket([]byte(b), from)
			if p == nil || p.msg.fault != nil {
				return
			}
			came, fault := routeTexts(&p.msg)
			if fault {
				return
			}
			was := string(p.msg.text(p.msg.uri))
			r, f := w.router.routeRequest(p)
			if f != nil {
				continue
			}
			out := bytes.Clone(w.composer.rewriteRequest(p, &r, w.proxy.branchSalt.appendBranch(nil, 1, 2)))
			var next message
			if !next.index(out, false) || next.fault != nil {
				t.Fatalf("%q became\n%q: %v", b, out, next.fault)
			}
			left, fault := routeTexts(&next)
			if fault {
				t.Fatalf("%q became\n%q", b, out)
			}
			is := string(next.text(next.uri))
			if len(left) > 0 && is != was && slices.Contains(came, is) {
				// The sender, the next hop or both are strict routers.
				if isRun(came, left[:len(left)-1]) {
					continue
				}
			}
			if !isRun(came, left) {
				t.Fatalf("Routes %q became %q", came, left)
			}
		}
	})
}

// isRun reports whether some is a contiguous part of all.
func isRun(all, some []string) bool {
	for i := 0; i+len(some) <= len(all); i++ {
		if slices.Equal(all[i:i+len(some)], some) {
			return true
		}
	}
	return false
}

func routeTexts(m *message) (uris []string, fault bool) {
	var rs routeSet
	if rs.read(m, nil) != nil {
		return nil, true
	}
	for _, r := range rs.values {
		uris = append(uris, string(m.text(r.uriText)))
	}
	return uris, false
}

// FuzzToken checks that only sealed tokens open, and that no text panics.
func FuzzToken(f *testing.F) {
	s := newSealer(testKey)
	fl := flow{UDP, 0, 5060, barePhone, 7, bareProxy.Addr()}
	f.Add(string(s.sealRouteToken(nil, token{flow: fl, binding: bindingID{1}, target: Addr{Proto: UDP, AddrPort: barePBX}}, []byte("call"), []byte("tag"))), "call", "tag")
	f.Add(string(s.sealToken(nil, token{use: inPath, flow: fl, binding: bindingID{1}, text: "101@pbx.example"})), "", "")
	for _, tt := range oldTokens {
		f.Add(tt.text, "call", "from")
	}
	f.Add("AXI", "", "")
	f.Fuzz(func(t *testing.T, text, callID, tag string) {
		s.openCID([]byte(text))
		for _, u := range []tokenUse{inRoute, inPath, inContact} {
			tok, ok := s.openToken(text, u)
			if !ok {
				continue
			}
			again := sealOldToken(testKey, tok)
			if u != inRoute {
				again = string(s.sealToken(nil, tok))
			}
			if again, ok := s.openToken(again, u); !ok || again != tok {
				t.Fatalf("%q opens as %+v, and sealed again as %+v", text, tok, again)
			}
		}
		m := requestWithin(callID, tag, "x")
		if tok, ok := s.openRouteToken(text, m); ok && !tok.unbound {
			if again, ok := s.openRouteToken(string(s.sealRouteToken(nil, tok, m.text(m.callID), m.text(m.fromTag))), m); !ok || again != tok {
				t.Fatalf("%q opens as %+v, and sealed again as %+v", text, tok, again)
			}
		}
	})
}

// FuzzStream checks that the messages in a stream do not depend on how it is cut.
func FuzzStream(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s+"\r\n\r\n"+s), []byte{1})
		f.Add([]byte(s+"OPTIONS sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n"+s), []byte{3, 100, 7})
	}
	w, _ := newBareWorker(f, nil)
	f.Cleanup(w.proxy.streams.close)
	w.proxy.sources.accepted.add(barePhone.Addr(), w.now()) // all its messages are in one queue
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		if len(b) > 8<<10 {
			return
		}
		want := readStream(w, b, nil)
		if got := readStream(w, b, cuts); !slices.Equal(got, want) {
			t.Fatalf("cut by %v it is %q, at once %q", cuts, got, want)
		}
	})
}

// readStream reads b from a stream in pieces of the given sizes, or in one piece, and
// returns the messages.
func readStream(w *worker, b, cuts []byte) (messages []string) {
	ours, theirs := net.Pipe()
	s := w.proxy.streams.addStream(ours, barePhone, w.proxy.listeners.all[1], nil)
	served := make(chan struct{})
	go func() {
		s.serve(ours, nil)
		close(served)
	}()
	go func() { // the client reads its pongs
		for buf := make([]byte, 512); ; {
			if _, err := theirs.Read(buf); err != nil {
				return
			}
		}
	}()
	go func() {
		defer theirs.Close()
		for i := 0; len(b) > 0; i++ {
			n := len(b)
			if len(cuts) > 0 {
				n = min(n, 1+int(cuts[i%len(cuts)]))
			}
			if _, err := theirs.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
	}()
	took := func(in workItem) {
		w.queue.bytes.Add(-in.queuedSize())
		messages = append(messages, string(in.packet.buf))
		in.packet.release()
	}
	for {
		select {
		case in := <-w.queue.items:
			took(in)
		case <-served:
			for len(w.queue.items) > 0 {
				took(<-w.queue.items)
			}
			return messages
		}
	}
}

func countVias(m *message) (n int) {
	for i := range m.fields {
		if m.fields[i].name == hVia {
			n++
		}
	}
	return n
}
