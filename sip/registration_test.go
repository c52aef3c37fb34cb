package sip

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// registerAt shows a worker a REGISTER of the phone for an address-of-record and the
// response of the PBX. lines are header field lines of the REGISTER, and response is the
// status line of the response, with further header field lines after it. It returns the
// REGISTER as the PBX got it.
func registerAt(t *testing.T, w *worker, s *recordingSocket, from flow, aor, lines, response string) (sent *message) {
	t.Helper()
	w.lastTxID++ // makes a Call-ID of its own
	p := w.receivePacket(fmt.Appendf(nil, "REGISTER sip:pbx.example SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%d;rport\r\n"+
		"From: <sip:%s>;tag=1\r\nTo: <sip:%s>\r\nCall-ID: %d\r\nCSeq: 1 REGISTER\r\n%s\r\n", from.peer, w.lastTxID, aor, aor, w.lastTxID, lines), from.peer)
	if p == nil || p.msg.fault != nil {
		t.Fatalf("malformed REGISTER: %v", p)
	}
	w.handleMessage(w.now(), p)
	sent = new(message)
	if sent.index(bytes.Clone(s.last), false); s.to != barePBX {
		t.Fatalf("the REGISTER went to %v", s.to)
	}
	status, more, _ := strings.Cut(response, "\r\n")
	var vias strings.Builder
	for i := range sent.fields {
		if f := &sent.fields[i]; f.name == hVia {
			vias.Write(sent.text(f.line))
		}
	}
	w.handleMessage(w.now(), w.receivePacket(fmt.Appendf(nil, "SIP/2.0 %s\r\n%sFrom: <sip:%s>;tag=1\r\nTo: <sip:%s>;tag=2\r\nCall-ID: %s\r\nCSeq: 1 REGISTER\r\n%s\r\n",
		status, vias.String(), aor, aor, sent.text(sent.callID), more), barePBX))
	return sent
}

// sentBinding returns the binding in the token of a REGISTER as the PBX got it.
func sentBinding(t *testing.T, w *worker, sent *message) bindingID {
	t.Helper()
	text, use := "", inPath
	if f := sent.firstField(hPath); f != nil {
		_, text, _ = strings.Cut(string(sent.text(f.value)), "sip:")
		text, _, _ = strings.Cut(text, "@")
	} else {
		use = inContact
		_, text, _ = strings.Cut(string(sent.text(sent.firstField(hContact).value)), contactParam+"=")
		text, _, _ = strings.Cut(text, ">")
	}
	tok, ok := w.router.sealer.openToken(text, use)
	if !ok {
		t.Fatalf("no token in\n%s", sent.b)
	}
	return tok.binding
}

func TestAcceptedRegisterSetsItsBinding(t *testing.T) {
	const desk = "Contact: <sip:101@10.0.0.5:5060>;+sip.instance=\"<urn:uuid:1>\"\r\n"
	for _, mode := range []Register{RegisterPath, RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			w, s := newBareWorker(t, func(c *Config) { c.Register = mode })
			at := func(id bindingID) (fl flow) {
				if b := w.proxy.bindings.newest(id, w.now()); b != nil {
					return b.flow
				}
				return flow{}
			}
			expect := func(why string, id bindingID, want flow) {
				t.Helper()
				if got := at(id); got != want {
					t.Errorf("%s: the binding is at %v, want %v", why, got.peer, want.peer)
				}
			}
			one, two, three := flowFrom(5062), flowFrom(5063), flowFrom(5064)
			const accepted = "200 OK\r\nExpires: 60\r\n"

			id := sentBinding(t, w, registerAt(t, w, s, one, "101@pbx.example", desk, "401 Unauthorized\r\n"))
			expect("challenged", id, flow{})
			registerAt(t, w, s, one, "101@pbx.example", desk, accepted)
			expect("accepted", id, one)
			registerAt(t, w, s, two, "101@PBX.example", strings.Replace(desk, "10.0.0.5", "10.0.0.6", 1), accepted)
			expect("from elsewhere, with another Contact", id, two)
			registerAt(t, w, s, three, "101@pbx.example", desk, "403 Forbidden\r\n")
			expect("refused", id, two)
			other := sentBinding(t, w, registerAt(t, w, s, three, "666@pbx.example", desk, accepted))
			expect("a stranger repeats the instance", id, two)
			expect("and has a binding of its own", other, three)
			registerAt(t, w, s, three, "101@pbx.example", "", accepted)
			expect("asked for only", id, two)
			registerAt(t, w, s, three, "101@pbx.example", desk+"Expires: 0\r\n", "403 Forbidden\r\n")
			expect("its end refused", id, two)
			registerAt(t, w, s, one, "101@pbx.example", desk+"Expires: 0\r\n", accepted)
			expect("ended", id, flow{})

			registerAt(t, w, s, one, "101@pbx.example", strings.Replace(desk, ">;", ">;expires=60;", 1)+"Expires: 0\r\n", accepted)
			expect("the parameter decides", id, one)
			registerAt(t, w, s, two, "102@pbx.example", "Contact: *\r\nExpires: 0\r\n", accepted)
			registerAt(t, w, s, one, "101@pbx.example", "Contact: *\r\nExpires: 60\r\n", accepted)
			expect("nobody has ended it", id, one)
			registerAt(t, w, s, one, "101@pbx.example", "Contact: *\r\nExpires: 0\r\n", accepted)
			expect("all ended", id, flow{})

			registerAt(t, w, s, one, "101@pbx.example", desk, "200 OK\r\nContact: <sip:x@y>;expires=20, <sip:x@z>;expires=50\r\nExpires: 10\r\n")
			w.advanceClock(50*time.Second - time.Second)
			expect("as long as the PBX grants", id, one)
			w.advanceClock(2 * time.Second)
			expect("and no longer", id, flow{})

			lines := "Contact: <sip:101@10.0.0.5>, <sip:101@10.0.0.6>\r\nContact: <sip:101@10.0.0.7>;expires=0\r\n"
			id = sentBinding(t, w, registerAt(t, w, s, one, "101@pbx.example", lines, accepted))
			expect("the first Contact", id, one)
			for uri, want := range map[string]flow{"sip:101@10.0.0.6": one, "sip:101@10.0.0.7": {}} {
				other, byContact := w.router.sealer.bindingID([]byte("101@pbx.example"), []byte(uri), new(message), span{})
				expect(uri, other, want)
				if b := w.proxy.bindings.newest(other, w.now()); b != nil && !(b.byContact && byContact) {
					t.Errorf("%s has an instance", uri)
				}
			}
		})
	}
}

// A client that repeats the Contact of another one, as the PBX lists it, sets no binding
// of that client.
func TestRepeatedContactSetsNoBinding(t *testing.T) {
	w, s := newBareWorker(t, func(c *Config) { c.Register = RegisterContact })
	sent := registerAt(t, w, s, flowFrom(1), "101@pbx.example", "Contact: <sip:101@10.0.0.5>\r\n", "200 OK\r\n")
	registerAt(t, w, s, flowFrom(2), "101@pbx.example", "Contact: <sip:101@10.0.0.6>, "+string(sent.text(sent.firstField(hContact).value))+"\r\n", "200 OK\r\n")
	if b := w.proxy.bindings.newest(sentBinding(t, w, sent), w.now()); b == nil || b.flow != flowFrom(1) {
		t.Errorf("the binding is %+v", b)
	}
}

// A client behind another proxy is reached by its Contact, not over the flow of its binding.
func TestClientBehindAProxyHasNoFlow(t *testing.T) {
	w, s := newBareWorker(t, nil)
	const desk = "Contact: <sip:101@10.0.0.5>;+sip.instance=\"<urn:uuid:1>\"\r\n"
	id := sentBinding(t, w, registerAt(t, w, s, flowFrom(1), "101@pbx.example", desk, "200 OK\r\n"))
	sent := registerAt(t, w, s, flowFrom(2), "101@pbx.example", "Via: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bKx\r\n"+desk, "200 OK\r\n")
	if got := sentBinding(t, w, sent); got != (bindingID{}) {
		t.Errorf("its token has binding %v", got)
	}
	if b := w.proxy.bindings.newest(id, w.now()); b != nil {
		t.Errorf("its binding is at %v", b.flow.peer)
	}
}
