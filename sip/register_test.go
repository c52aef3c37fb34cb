package sip_test

import (
	"strings"
	"testing"

	"bellhop/sip"
)

func TestRegisterByPath(t *testing.T) { // RFC 3327 §5.2, row 38
	for _, tcp := range []bool{false, true} {
		t.Run(map[bool]string{false: "UDP", true: "TCP"}[tcp], func(t *testing.T) {
			play(t, func(s *scene) {
				phone := s.phone
				if tcp {
					phone = s.tcp(otherAt.Addr())
				}
				register := phone.request("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>", "Contact: <sip:101@10.0.0.5:5060>;expires=60", "Supported: outbound")
				phone.sends(register)
				got := s.pbx.gets("sent on", "REGISTER")
				equal(t, "Supported: path is added", strings.Join(got.all("Supported"), "|"), "path|outbound")
				equal(t, "Contact is not touched", got.one("Contact"), "<sip:101@10.0.0.5:5060>;expires=60")
				path := got.all("Path")
				if len(path) != 1 || !strings.HasSuffix(path[0], "@192.0.2.1:5060;lr>") {
					t.Fatalf("Path: %q", path)
				}
				ok := s.pbx.answer(got, "200 OK", "Contact: <sip:101@10.0.0.5:5060>;expires=60", "Path: "+path[0])
				s.pbx.sends(ok)
				back := phone.gets("answer", "SIP/2.0 200")
				equal(t, "Path comes back untouched", back.one("Path"), path[0])

				// A call comes in, with the Route twice as Asterisk sends it in a dialog.
				for _, routes := range [][]string{{"Route: " + path[0]}, {"Route: " + path[0], "Route: " + path[0]}, {"Route: " + path[0] + "," + path[0]}} {
					s.pbx.sends(s.pbx.request("INVITE", "sip:101@10.0.0.5:5060", routes...))
					invite := phone.gets("the call comes in", "INVITE sip:101@10.0.0.5:5060 SIP/2.0")
					equal(t, "our Route is off", strings.Join(invite.all("Route"), "|"), "")
					phone.replies(invite, "200 OK")
					ok := s.pbx.gets("answer", "SIP/2.0 200")
					s.pbx.sends(s.pbx.within(ok, "ACK"))
					phone.gets("its ACK", "ACK")
					s.pbx.sends(s.pbx.within(ok, "BYE"))
					phone.replies(phone.gets("the PBX hangs up", "BYE"), "200 OK")
					s.pbx.gets("answer", "SIP/2.0 200")
				}
				s.after(0)
				for len(s.watch) > 0 {
					if m := <-s.watch; m.Method == "INVITE" && m.Request() {
						equal(t, "whose binding it is", m.AOR, "101@pbx.example")
					}
				}
			})
		})
	}
}

func TestAPathOfOthersStays(t *testing.T) { // RFC 3327 §5.2
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "Path: <sip:edge.example;lr>"))
		got := s.pbx.gets("sent on", "REGISTER")
		paths := got.all("Path")
		if len(paths) != 2 || paths[1] != "<sip:edge.example;lr>" {
			t.Errorf("ours goes on top of it: %q", paths)
		}
		s.pbx.replies(got, "200 OK")
	})
}

func TestRegisterByContact(t *testing.T) { // row 38: for PBXs without Path
	for _, tt := range []struct {
		name, contact, want string
		called              string
	}{
		{"in brackets", "<sip:101@10.0.0.5:5060>;expires=60", "<sip:101@192.0.2.1:5060;bellhop=TOKEN>;expires=60", "sip:101@10.0.0.5:5060"},
		{"with a name", `"A, B" <sip:101@10.0.0.5;transport=udp>;q=0.5`, `"A, B" <sip:101@192.0.2.1:5060;bellhop=TOKEN>;q=0.5`, "sip:101@10.0.0.5;transport=udp"},
		{"bare", "sip:101@10.0.0.5:5060;expires=60", "<sip:101@192.0.2.1:5060;bellhop=TOKEN>;expires=60", "sip:101@10.0.0.5:5060"},
		{"without user", "<sip:10.0.0.5>", "<sip:192.0.2.1:5060;bellhop=TOKEN>", "sip:10.0.0.5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>", "Contact: "+tt.contact))
				got := s.pbx.gets("sent on", "REGISTER")
				_, token, _ := strings.Cut(got.one("Contact"), "bellhop=")
				token, _, _ = strings.Cut(token, ">")
				equal(t, "Contact", got.one("Contact"), strings.Replace(tt.want, "TOKEN", token, 1))
				equal(t, "no Path", got.one("Path")+got.one("Supported"), "")
				s.pbx.replies(got, "200 OK", "Contact: "+got.one("Contact")+";expires=59, <sip:101@192.0.2.77>")
				back := s.phone.gets("answer", "SIP/2.0 200").one("Contact")
				want := strings.Replace(got.one("Contact"), bracketed(got.one("Contact")), tt.called, 1)
				equal(t, "the phone's own comes back", back, want+";expires=59, <sip:101@192.0.2.77>")

				s.pbx.sends(s.pbx.request("OPTIONS", bracketed(got.one("Contact"))))
				s.phone.replies(s.phone.gets("whether it is there the phone says", "OPTIONS "+tt.called+" SIP/2.0"), "486 Busy Here")
				s.pbx.gets("answer", "SIP/2.0 486")

				s.pbx.sends(s.pbx.request("INVITE", bracketed(got.one("Contact"))))
				invite := s.phone.gets("the call comes in", "INVITE "+tt.called+" SIP/2.0")
				s.phone.replies(invite, "200 OK", "Contact: <"+tt.called+">")
				ok := s.pbx.gets("answer", "SIP/2.0 200")
				s.pbx.sends(s.pbx.within(ok, "BYE"))
				s.phone.replies(s.phone.gets("the PBX hangs up", "BYE "+tt.called+" SIP/2.0"), "200 OK")
				s.pbx.gets("answer", "SIP/2.0 200")
				s.after(0)
				for len(s.watch) > 0 {
					if m := <-s.watch; m.Method == "INVITE" && m.Request() {
						equal(t, "whose binding it is", m.AOR, "101@pbx.example")
					}
				}
				s.pbx.sends(s.pbx.request("MESSAGE", strings.Replace(bracketed(got.one("Contact")), "bellhop=", "bellhop=A", 1)))
				s.pbx.gets("a forged one", "SIP/2.0 403")
			}, register(sip.RegisterContact))
		})
	}
}

func TestSeveralContacts(t *testing.T) {
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example",
			"Contact: <sip:101@10.0.0.5>, <mailto:a@b>;q=0.1 , \"x\" <sip:101@10.0.0.6>", "m: <sip:101@10.0.0.7>"))
		got := s.pbx.gets("sent on", "REGISTER")
		contacts := strings.Join(append(got.all("Contact"), got.all("m")...), ",")
		if strings.Count(contacts, "bellhop=") != 3 || strings.Contains(contacts, "10.0.0.") || !strings.Contains(contacts, " <mailto:a@b>;q=0.1 , \"x\" <sip:") {
			t.Errorf("Contact: %s", contacts)
		}
		s.pbx.replies(got, "200 OK")
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "Contact: *", "Expires: 0"))
		got = s.pbx.gets("sent on", "REGISTER")
		equal(t, "* stays", got.one("Contact"), "*")
		s.pbx.replies(got, "200 OK")
	}, register(sip.RegisterContact))
}

func TestRegisterUntouched(t *testing.T) {
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "Contact: <sip:101@192.0.2.101:5062>"))
		got := s.pbx.gets("sent on", "REGISTER")
		equal(t, "nothing added", got.one("Path")+got.one("Supported")+got.one("Contact"), "<sip:101@192.0.2.101:5062>")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		s.pbx.sends(s.pbx.request("INVITE", "sip:101@192.0.2.101:5062"))
		invite := s.phone.gets("a call by the Request-URI", "INVITE sip:101@192.0.2.101:5062")
		s.phone.replies(invite, "200 OK")
		s.pbx.sends(s.pbx.within(s.pbx.last("answer", "SIP/2.0 200"), "BYE"))
		s.phone.replies(s.phone.gets("the PBX hangs up", "BYE"), "200 OK")
		s.phone.sends(s.phone.back(invite, "BYE"))
		s.pbx.gets("answer", "SIP/2.0 200")
		s.pbx.replies(s.pbx.gets("the phone hangs up", "BYE"), "481 Call/Transaction Does Not Exist")
	}, register(sip.RegisterNone))
}
