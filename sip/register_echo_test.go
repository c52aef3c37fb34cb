package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

// registerContacts registers Contacts. The PBX answers with those that lists returns for
// the Contacts it received. The result is the Contacts that come back.
func (p *peer) registerContacts(lists func(got []string) []string, contacts ...string) []string {
	p.s.t.Helper()
	lines := []string{"To: <sip:101@pbx.example>"}
	for _, c := range contacts {
		lines = append(lines, "Contact: "+c)
	}
	p.send(p.newRequest("REGISTER", "sip:pbx.example", lines...))
	got := p.s.pbx.expect("the REGISTER goes on", "REGISTER")
	listed := []string{}
	for _, c := range lists(got.fieldValues("Contact")) {
		listed = append(listed, "Contact: "+c)
	}
	if len(listed) == 0 {
		listed = append(listed, "Contact:") // none
	}
	p.s.pbx.respond(got, "200 OK", listed...)
	return p.expect("the answer comes back", "SIP/2.0 200").fieldValues("Contact")
}

// listAsSent lists the Contacts as the PBX received them.
func listAsSent(got []string) []string { return got }

// elsewhereAt is the address of a phone behind another NAT.
var elsewhereAt = netip.MustParseAddrPort("198.51.100.7:5062")

// The Contacts in the PBX's 2xx come back as the phones wrote them, whatever the PBX
// lists.
func TestContactsComeBackAsThePhoneWroteThem(t *testing.T) { // RFC 3261 §10.3 step 8
	const desk = "<sip:101@10.0.0.5:5062>"
	for _, tt := range []struct {
		name    string
		sent    []string
		lists   func(got []string) []string
		want    string
		watcher string // "": want
	}{
		{"as it was sent", []string{desk + ";expires=60"}, listAsSent, desk + ";expires=60", ""},
		{"removed, and repeated", []string{desk + ";expires=0"}, listAsSent, desk + ";expires=0", ""},
		{"removed, and none is left", []string{desk + ";expires=0"}, func([]string) []string { return nil }, "", ""},
		{"all in one line", []string{desk + ";q=0.7, <sip:101@10.0.0.6>;expires=0 ,<sip:101@10.0.0.7;transport=udp>"}, listAsSent,
			desk + ";q=0.7, <sip:101@10.0.0.6>;expires=0 ,<sip:101@10.0.0.7;transport=udp>", ""},
		{"in lines of their own, answered in one", []string{desk, "<sip:101@10.0.0.6>;expires=0"},
			func(got []string) []string { return []string{strings.Join(got, ", ")} }, desk + ", <sip:101@10.0.0.6>;expires=0", ""},
		{"with a name, and an instance", []string{`"Desk, \"2\" <a>; b" <sip:101@10.0.0.5;ob>;q=0.5;+sip.instance="<urn:uuid:0, 1>";reg-id=1`}, listAsSent,
			`"Desk, \"2\" <a>; b" <sip:101@10.0.0.5;ob>;q=0.5;+sip.instance="<urn:uuid:0, 1>";reg-id=1`, ""},
		{"without brackets, with an instance", []string{`sip:101@10.0.0.5 ;expires=60;+sip.instance="<urn:uuid:2>"`}, listAsSent,
			`<sip:101@10.0.0.5> ;expires=60;+sip.instance="<urn:uuid:2>"`, ""},
		{"others, not through us", []string{desk}, func(got []string) []string {
			return []string{"<sip:101@192.0.2.77>;expires=9, " + got[0] + ";expires=60,<mailto:a@b>"}
		}, "<sip:101@192.0.2.77>;expires=9, " + desk + ";expires=60,<mailto:a@b>", ""},
		{"a star", []string{"*"}, func([]string) []string { return []string{"*"} }, "*", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				assertEqual(t, "the phone sees", strings.Join(s.phone.registerContacts(tt.lists, tt.sent...), "|"), tt.want)
				assertEqual(t, "the directory sees", s.listedContacts(), tt.want)
			}, withRegister(sip.RegisterContact))
		})
	}
}

// listedContacts returns the Contacts of the last observed 2xx to a REGISTER.
func (s *testbed) listedContacts() (contacts string) {
	s.advance(0)
	for len(s.observations) > 0 {
		if m := <-s.observations; !m.Request() && m.Method == "REGISTER" {
			contacts = strings.Join(text(m.Head).fieldValues("Contact"), "|")
		}
	}
	return contacts
}

// A phone registers the same Contact on a new connection. The PBX keeps the binding of
// the old connection until it expires, and lists it before, between and after the new
// one; the phone would take it for its own.
func TestOlderBindingOfAContactIsNotListed(t *testing.T) {
	const desk, mobile = "<sip:101@10.0.0.5:5062>", "<sip:101@10.0.0.6:5062>"
	for _, tt := range []struct {
		name string
		list string // older, newer and other stand for the Contacts
		want string
	}{
		{"older one in front", "older;expires=9, newer;expires=60", desk + ";expires=60"},
		{"older one last", "newer;expires=60 , older;expires=9", desk + ";expires=60"},
		{"older one between", "other;expires=5, older;expires=9, newer;expires=60", mobile + ";expires=5, " + desk + ";expires=60"},
		{"older one twice at the end", "newer;expires=60, older;expires=9, older;expires=8", desk + ";expires=60"},
		{"older one twice in front", "older;expires=9,older;expires=8,newer;expires=60", desk + ";expires=60"},
		{"in a line of its own", "older;expires=9|newer;expires=60|older;expires=8", desk + ";expires=60"},
		{"older one alone", "older;expires=9", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				var older, other string
				first := s.dialTCPPeer(phoneAt.Addr())
				first.registerContacts(func(got []string) []string { older, other = got[0], got[1]; return got }, desk, mobile)
				first.close()
				second := s.dialTCPPeer(phoneAt.Addr())
				got := second.registerContacts(func(got []string) []string {
					if got[0] == older {
						t.Error("the connections are not told apart")
					}
					list := strings.NewReplacer("older", older, "newer", got[0], "other", other).Replace(tt.list)
					return strings.Split(list, "|")
				}, desk)
				assertEqual(t, "the phone sees", strings.Join(got, "|"), tt.want)
				assertEqual(t, "the directory sees", s.listedContacts(), tt.want)
			}, withRegister(sip.RegisterContact))
		})
	}
}

// Two phones of one address-of-record have the same Contact behind different NATs. When
// one unregisters, the other stays registered, and the Contact listed for the other can
// be sent back as it is.
func TestSameContactBehindAnotherNATStays(t *testing.T) {
	const both = "<sip:101@10.0.0.5:5062>"
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(elsewhereAt)
		var a, b string
		s.phone.registerContacts(func(got []string) []string { a = got[0]; return got }, both)
		got := other.registerContacts(func(got []string) []string { b = got[0]; return []string{a, b} }, both)
		assertEqual(t, "the other sees", strings.Join(got, "|"), a+"|"+both)
		assertEqual(t, "the directory sees", s.listedContacts(), a+"|"+both)
		got = s.phone.registerContacts(func([]string) []string { return []string{b} }, both+";expires=0")
		assertEqual(t, "who has signed off sees", strings.Join(got, "|"), b)
		assertEqual(t, "the directory sees the other", s.listedContacts(), b)
		got = s.phone.registerContacts(func(got []string) []string {
			assertEqual(t, "it is sent on as it is", strings.Join(got, "|"), b+";expires=0")
			return nil
		}, b+";expires=0")
		assertEqual(t, "none is left", fmt.Sprint(got), "[]")
		got = s.phone.registerContacts(func(got []string) []string { return got }, strings.Replace(b, "101@", "7@", 1))
		assertEqual(t, "it is the same under another name", strings.Join(got, "|"), both)
	}, withRegister(sip.RegisterContact))
}

// The nodes of a cluster share one key, so a Contact that another node or an earlier
// configuration has written is restored too.
func TestContactOfAnotherNodeIsRestored(t *testing.T) {
	runScenario(t, func(s *testbed) {
		got := s.phone.registerContacts(func(got []string) []string {
			return []string{strings.Replace(got[0], proxyAt.String(), "192.0.2.9:5070", 1), "<sip:102@192.0.2.9:5070;bellhop=AAAA>"}
		}, "<sip:101@10.0.0.5>")
		assertEqual(t, "the phone sees", strings.Join(got, "|"), "<sip:101@10.0.0.5>|<sip:102@192.0.2.9:5070;bellhop=AAAA>")
	}, withRegister(sip.RegisterContact))
}
