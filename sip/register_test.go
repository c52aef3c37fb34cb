package sip_test

import (
	"strings"
	"testing"

	"bellhop/sip"
)

func TestRegisterByPath(t *testing.T) { // RFC 3327 §5.2, row 38
	for _, tcp := range []bool{false, true} {
		t.Run(map[bool]string{false: "UDP", true: "TCP"}[tcp], func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.phone
				if tcp {
					phone = s.dialTCPPeer(otherAt.Addr())
				}
				register := phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>", "Contact: <sip:101@10.0.0.5:5060>;expires=60", "Supported: outbound")
				phone.send(register)
				got := s.pbx.expect("sent on", "REGISTER")
				assertEqual(t, "Supported: path is added", strings.Join(got.fieldValues("Supported"), "|"), "path|outbound")
				assertEqual(t, "Contact is not touched", got.fieldValue("Contact"), "<sip:101@10.0.0.5:5060>;expires=60")
				path := got.fieldValues("Path")
				if len(path) != 1 || !strings.HasSuffix(path[0], "@192.0.2.1:5060;lr>") {
					t.Fatalf("Path: %q", path)
				}
				ok := s.pbx.newResponse(got, "200 OK", "Contact: <sip:101@10.0.0.5:5060>;expires=60", "Path: "+path[0])
				s.pbx.send(ok)
				back := phone.expect("answer", "SIP/2.0 200")
				assertEqual(t, "Path comes back untouched", back.fieldValue("Path"), path[0])

				// A call comes in, with the Route twice as Asterisk sends it in a dialog.
				for _, routes := range [][]string{{"Route: " + path[0]}, {"Route: " + path[0], "Route: " + path[0]}, {"Route: " + path[0] + "," + path[0]}} {
					s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@10.0.0.5:5060", routes...))
					invite := phone.expect("the call comes in", "INVITE sip:101@10.0.0.5:5060 SIP/2.0")
					assertEqual(t, "our Route is off", strings.Join(invite.fieldValues("Route"), "|"), "")
					phone.respond(invite, "200 OK")
					ok := s.pbx.expect("answer", "SIP/2.0 200")
					s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
					phone.expect("its ACK", "ACK")
					s.pbx.send(s.pbx.callerRequest(ok, "BYE"))
					phone.respond(phone.expect("the PBX hangs up", "BYE"), "200 OK")
					s.pbx.expect("answer", "SIP/2.0 200")
				}
				s.advance(0)
				for len(s.observations) > 0 {
					if m := <-s.observations; m.Method == "INVITE" && m.Request() {
						assertEqual(t, "whose binding it is", m.AOR, "101@pbx.example")
					}
				}
			})
		})
	}
}

func TestOtherPathValuesStay(t *testing.T) { // RFC 3327 §5.2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "Path: <sip:edge.example;lr>"))
		got := s.pbx.expect("sent on", "REGISTER")
		paths := got.fieldValues("Path")
		if len(paths) != 2 || paths[1] != "<sip:edge.example;lr>" {
			t.Errorf("ours goes on top of it: %q", paths)
		}
		s.pbx.respond(got, "200 OK")
	})
}

func TestRegisterByContact(t *testing.T) { // row 38: for PBXs without Path
	for _, tt := range []struct {
		name, contact, want string
		called              string
	}{
		{"in brackets", "<sip:101@10.0.0.5:5060>;expires=60", "<sip:101@192.0.2.1:5060;bellhop=TOKEN>;expires=60", "sip:101@10.0.0.5:5060"},
		{"with a name", `"A, B" <sip:101@10.0.0.5;transport=udp>;q=0.5`, `"A, B" <sip:101@192.0.2.1:5060;bellhop=TOKEN>;q=0.5`, "sip:101@10.0.0.5;transport=udp"},
		{"bare URI", "sip:101@10.0.0.5:5060;expires=60", "<sip:101@192.0.2.1:5060;bellhop=TOKEN>;expires=60", "sip:101@10.0.0.5:5060"},
		{"without user", "<sip:10.0.0.5>", "<sip:192.0.2.1:5060;bellhop=TOKEN>", "sip:10.0.0.5"},
		{"telephone number", "<tel:101@10.0.0.5>", "<sip:192.0.2.1:5060;bellhop=TOKEN>", "tel:101@10.0.0.5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>", "Contact: "+tt.contact))
				got := s.pbx.expect("sent on", "REGISTER")
				_, token, _ := strings.Cut(got.fieldValue("Contact"), "bellhop=")
				token, _, _ = strings.Cut(token, ">")
				assertEqual(t, "Contact", got.fieldValue("Contact"), strings.Replace(tt.want, "TOKEN", token, 1))
				assertEqual(t, "no Path", got.fieldValue("Path")+got.fieldValue("Supported"), "")
				s.pbx.respond(got, "200 OK", "Contact: "+got.fieldValue("Contact")+";expires=59, <sip:101@192.0.2.77>")
				back := s.phone.expect("answer", "SIP/2.0 200").fieldValue("Contact")
				want := strings.Replace(got.fieldValue("Contact"), bracketedURI(got.fieldValue("Contact")), tt.called, 1)
				assertEqual(t, "the phone's own comes back", back, want+";expires=59, <sip:101@192.0.2.77>")

				s.pbx.send(s.pbx.newRequest("OPTIONS", bracketedURI(got.fieldValue("Contact"))))
				s.phone.respond(s.phone.expect("whether it is there the phone says", "OPTIONS "+tt.called+" SIP/2.0"), "486 Busy Here")
				s.pbx.expect("answer", "SIP/2.0 486")

				s.pbx.send(s.pbx.newRequest("INVITE", bracketedURI(got.fieldValue("Contact"))))
				invite := s.phone.expect("the call comes in", "INVITE "+tt.called+" SIP/2.0")
				s.phone.respond(invite, "200 OK", "Contact: <"+tt.called+">")
				ok := s.pbx.expect("answer", "SIP/2.0 200")
				s.pbx.send(s.pbx.callerRequest(ok, "BYE"))
				s.phone.respond(s.phone.expect("the PBX hangs up", "BYE "+tt.called+" SIP/2.0"), "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
				s.advance(0)
				for len(s.observations) > 0 {
					if m := <-s.observations; m.Method == "INVITE" && m.Request() {
						assertEqual(t, "whose binding it is", m.AOR, "101@pbx.example")
					}
				}
				s.pbx.send(s.pbx.newRequest("MESSAGE", strings.Replace(bracketedURI(got.fieldValue("Contact")), "bellhop=", "bellhop=A", 1)))
				s.pbx.expect("a forged one", "SIP/2.0 403")
			}, withRegister(sip.RegisterContact))
		})
	}
}

func TestRegisterRewritesSeveralContacts(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example",
			"Contact: <sip:101@10.0.0.5>, <mailto:a@b>;q=0.1 , \"x\" <sip:101@10.0.0.6>", "m: <sip:101@10.0.0.7>"))
		got := s.pbx.expect("sent on", "REGISTER")
		contacts := strings.Join(append(got.fieldValues("Contact"), got.fieldValues("m")...), ",")
		if strings.Count(contacts, "bellhop=") != 3 || strings.Contains(contacts, "10.0.0.") || !strings.Contains(contacts, " <mailto:a@b>;q=0.1 , \"x\" <sip:") {
			t.Errorf("Contact: %s", contacts)
		}
		s.pbx.respond(got, "200 OK")
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "Contact: *", "Expires: 0"))
		got = s.pbx.expect("sent on", "REGISTER")
		assertEqual(t, "* stays", got.fieldValue("Contact"), "*")
		s.pbx.respond(got, "200 OK")
	}, withRegister(sip.RegisterContact))
}

func TestModeNoneLeavesRegisterUnchanged(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "Contact: <sip:101@192.0.2.101:5062>"))
		got := s.pbx.expect("sent on", "REGISTER")
		assertEqual(t, "nothing added", got.fieldValue("Path")+got.fieldValue("Supported")+got.fieldValue("Contact"), "<sip:101@192.0.2.101:5062>")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062"))
		invite := s.phone.expect("a call by the Request-URI", "INVITE sip:101@192.0.2.101:5062")
		s.phone.respond(invite, "200 OK")
		s.pbx.send(s.pbx.callerRequest(s.pbx.expectLast("answer", "SIP/2.0 200"), "BYE"))
		s.phone.respond(s.phone.expect("the PBX hangs up", "BYE"), "200 OK")
		s.phone.send(s.phone.calleeRequest(invite, "BYE"))
		s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "481 Call/Transaction Does Not Exist")
	}, withRegister(sip.RegisterNone))
}
