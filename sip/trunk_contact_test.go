package sip_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog/siptext"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// sbcName is the advertised name of bellhop, and teamsName that of Teams. teamsAt is its
// address.
const (
	sbcName   = "sip.example.com"
	teamsName = "sip.pstnhub.example"
)

var teamsAt = netip.MustParseAddrPort("203.0.113.9:5061")

// teams is a stub of Microsoft Teams Direct Routing, over TLS with certificates on both
// ends. It answers 403 to what Microsoft does not accept: a Contact or topmost
// Record-Route without the name in the certificate of the SBC, sips, and calls of an SBC
// that has not sent OPTIONS.
type teams struct {
	*peer
	bed      *tlsBed
	sbc      atomic.Pointer[string] // name in the certificate that bellhop has presented last
	opened   *atomic.Int32
	knowsSBC bool // an OPTIONS was good
}

// newTeams returns a stub at teamsAt.
func newTeams(s *testbed, b *tlsBed) *teams {
	q := &teams{bed: b}
	q.peer, q.opened = s.addTLSListener(teamsAt, &tls.Config{
		Certificates: []tls.Certificate{q.certificate()},
		ClientAuth:   tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			leaf := cs.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: b.ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				return err
			}
			q.sbc.Store(&leaf.DNSNames[0])
			return nil
		},
	})
	q.name = "teams"
	return q
}

// certificate returns a certificate of Teams, for servers and not for clients.
func (q *teams) certificate() tls.Certificate {
	return q.bed.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{teamsName}, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// fault returns why a message is not acceptable, or "".
func (q *teams) fault(m text) string {
	isSBC := func(value string) bool {
		u := siptext.ParseURI(bracketedURI(value))
		return u.Scheme == "sip" && u.Host == *q.sbc.Load() && net.ParseIP(u.Host) == nil
	}
	switch {
	case strings.Contains(strings.ToLower(string(m)), "sips:"):
		return "sips"
	case len(m.fieldValues("Contact")) != 1 || !isSBC(m.fieldValue("Contact")):
		return "Contact: " + m.fieldValue("Contact")
	case strings.HasPrefix(m.startLine(), "SIP/2.0"):
		return ""
	case m.method() == "OPTIONS" && m.fieldValue("Allow") == "":
		return "no Allow"
	case m.fieldValue("Record-Route") != "" && !isSBC(m.fieldValue("Record-Route")):
		return "Record-Route: " + m.fieldValue("Record-Route")
	case m.method() == "INVITE" && m.fieldValue("Record-Route") == "":
		return "no Record-Route"
	case m.method() == "INVITE" && !q.knowsSBC:
		return "no OPTIONS before"
	}
	return ""
}

// check reports an error if a message is not acceptable.
func (q *teams) check(m text) {
	q.s.t.Helper()
	if why := q.fault(m); why != "" {
		q.s.t.Errorf("Teams refuses: %s\n%s", why, m)
	}
}

// accept returns the next request if it is acceptable, else refuses it.
func (q *teams) accept(method string) (m text, ok bool) {
	q.s.t.Helper()
	m = q.expect("teams", method+" ")
	if why := q.fault(m); why != "" {
		q.respond(m, "403 Forbidden", "Reason: Q.850;cause=63;text=\""+why+"\"")
		return m, false
	}
	return m, true
}

// mustAccept is accept. It fails the test if the request is refused.
func (q *teams) mustAccept(method string) text {
	q.s.t.Helper()
	m, ok := q.accept(method)
	if !ok {
		q.s.t.Fatalf("Teams refuses: %s\n%s", q.fault(m), m)
	}
	return m
}

// acceptOptions answers the OPTIONS that bellhop sends first.
func (q *teams) acceptOptions() {
	q.s.t.Helper()
	q.s.advance(time.Minute) // the stub may not have listened before
	q.respond(q.mustAccept("OPTIONS"), "200 OK")
	q.knowsSBC = true
	q.discardReceived()
}

// teamsConfig is the config of a trunk to Teams.
func teamsConfig(b *tlsBed, contact bool) func(*sip.Config) {
	return func(c *sip.Config) {
		b.listen(c)
		for i := range c.Listen {
			c.Listen[i].Advertise = sip.HostPort{Host: sbcName}
		}
		own := b.issue("trunk.tls_cert", siptest.CertificateRequest{Hosts: []string{sbcName}})
		c.LocalNets = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} // it gets the name all the same
		c.Trunks = []sip.Trunk{{Name: "teams", Secret: "0123456789abcdef",
			To: []sip.Addr{{Proto: sip.TLS, AddrPort: teamsAt}}, TLSNames: []string{teamsName}, TLS: b.newClient(teamsName, &own),
			Probe: time.Minute, OwnContact: contact}}
	}
}

// runTeams runs a script with the stub.
func runTeams(t *testing.T, contact bool, script func(s *testbed, q *teams)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &tlsBed{}
		s := newTestbed(t, teamsConfig(b, contact))
		defer s.closeAll()
		script(s, newTeams(s, b))
		if n := s.proxy.Stats().Panics; n != 0 {
			t.Errorf("%d panics: %s", n, s.log)
		}
	})
}

// callTeams sends an INVITE of the PBX to Teams.
func (s *testbed) callTeams(lines ...string) text {
	invite := s.pbx.newInvite(lines...).replaced("sip:102@pbx.example SIP", fmt.Sprintf("sip:+4930@%s;transport=tls SIP", teamsAt))
	s.pbx.send(invite)
	return invite
}

const ownContact = "<sip:+49;phone-context=a@192.0.2.2:5060;x=y>;isfocus"

// The PBX calls Teams. All requests of the dialog arrive from either end, with the PBX's own
// Contact as their Request-URI.
func TestPBXCallsTeams(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		s.callTeams("Contact: " + ownContact)
		invite := q.mustAccept("INVITE")
		if got := invite.fieldValue("Contact"); !strings.HasPrefix(got, "<sip:+49;phone-context=a@sip.example.com:5061;transport=tls;bellhop=") || !strings.HasSuffix(got, ">;isfocus") {
			t.Errorf("Contact: %s", got)
		}
		q.respond(invite, "183 Session Progress")
		s.pbx.expect("early media", "SIP/2.0 183")
		q.send(q.calleeRequest(invite, "UPDATE"))
		update := s.pbx.expect("an UPDATE of Teams", "UPDATE "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.respond(update, "200 OK", "Contact: "+ownContact)
		q.check(q.expect("its answer", "SIP/2.0 200"))
		q.respond(invite, "200 OK")
		ok := s.pbx.expect("the answer", "SIP/2.0 200")
		assertEqual(t, "Teams' Contact stays", bracketedURI(ok.fieldValue("Contact")), bracketedURI(q.contact()))
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		q.expect("the ACK", "ACK")
		s.pbx.send(s.pbx.callerRequest(ok, "INVITE", "Contact: "+ownContact))
		reinvite := q.mustAccept("INVITE")
		q.respond(reinvite, "200 OK")
		s.pbx.send(s.pbx.callerRequest(s.pbx.expect("answered", "SIP/2.0 200"), "ACK"))
		q.expect("the ACK", "ACK")
		q.send(q.calleeRequest(invite, "INVITE"))
		got := s.pbx.expect("a re-INVITE of Teams", "INVITE "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.respond(got, "200 OK", "Contact: "+ownContact)
		q.check(q.expect("answered", "SIP/2.0 200"))
		q.send(q.calleeRequest(invite, "BYE"))
		s.pbx.respond(s.pbx.expect("Teams hangs up", "BYE "+bracketedURI(ownContact)+" SIP/2.0"), "200 OK")
		q.expect("the answer", "SIP/2.0 200")
	})
}

// Teams calls the PBX.
func TestTeamsCallsPBX(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		invite := q.newInvite().replaced("sip:102@pbx.example SIP", "sip:+4940@sip.example.com:5061;transport=tls SIP")
		q.send(invite)
		got := s.pbx.expect("the call comes in", "INVITE sip:+4940@sip.example.com:5061;transport=tls SIP/2.0")
		assertEqual(t, "Teams' Contact stays", got.fieldValue("Contact"), q.contact())
		for _, status := range []string{"180 Ringing", "200 OK"} {
			s.pbx.respond(got, status, "Contact: "+ownContact)
		}
		for _, status := range []string{"180", "200"} {
			ok := q.expect("answered", "SIP/2.0 "+status)
			q.check(ok)
			if status == "200" {
				q.send(q.callerRequest(ok, "ACK"))
				s.pbx.expect("the ACK", "ACK "+bracketedURI(ownContact)+" SIP/2.0")
				q.send(q.callerRequest(ok, "INFO"))
				s.pbx.respond(s.pbx.expect("an INFO", "INFO "+bracketedURI(ownContact)+" SIP/2.0"), "200 OK")
				q.expect("the answer", "SIP/2.0 200")
			}
		}
		s.pbx.send(s.pbx.calleeRequest(got, "INVITE", "Contact: "+ownContact))
		q.respond(q.mustAccept("INVITE"), "200 OK")
		s.pbx.expect("answered", "SIP/2.0 200")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		q.respond(q.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
	})
}

// Teams calls the Contact that it got in an earlier call, and cancels. The CANCEL of
// bellhop has the Request-URI of the INVITE of bellhop.
func TestTeamsCancelsCall(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		s.callTeams("Contact: " + ownContact)
		uri := bracketedURI(q.mustAccept("INVITE").fieldValue("Contact"))
		invite := q.newInvite().replaced("sip:102@pbx.example SIP", uri+" SIP")
		q.send(invite)
		got := s.pbx.expect("a call to our Contact", "INVITE "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.respond(got, "180 Ringing", "Contact: "+ownContact)
		q.expect("it rings", "SIP/2.0 180")
		q.sendCancel(invite)
		q.expect("taken", "SIP/2.0 200")
		cancel := s.pbx.expect("Teams gives up", "CANCEL "+bracketedURI(ownContact)+" SIP/2.0")
		assertEqual(t, "its branch", cancel.viaBranch(), got.viaBranch())
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		q.sendACK(invite, q.expect("the answer", "SIP/2.0 487"))
		s.pbx.expect("its ACK", "ACK "+bracketedURI(ownContact)+" SIP/2.0")
	})
}

// The PBX gives up a call before Teams answers.
func TestPBXCancelsCallToTeams(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		sent := s.callTeams("Contact: " + ownContact)
		invite := q.mustAccept("INVITE")
		q.respond(invite, "180 Ringing")
		s.pbx.expect("it rings", "SIP/2.0 180")
		s.pbx.sendCancel(sent)
		s.pbx.expect("taken", "SIP/2.0 200")
		cancel := q.expect("the PBX gives up", "CANCEL "+invite.requestURI()+" SIP/2.0")
		assertEqual(t, "its branch", cancel.viaBranch(), invite.viaBranch())
		q.respond(cancel, "200 OK")
		q.respond(invite, "487 Request Terminated")
		s.pbx.sendACK(sent, s.pbx.expect("the answer", "SIP/2.0 487"))
		q.expect("its ACK", "ACK")
	})
}

// Bellhop is started again while a call is up. Requests of either end arrive.
func TestOwnContactOutlivesRestart(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		s.callTeams("Contact: " + ownContact)
		invite := q.mustAccept("INVITE")
		q.respond(invite, "200 OK")
		ok := s.pbx.expect("the answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		q.expect("the ACK", "ACK")

		s.stop()
		s.restartProxy()
		s.advance(time.Minute)
		q.discardReceived() // OPTIONS
		q.send(q.calleeRequest(invite, "INVITE"))
		got := s.pbx.expect("a re-INVITE of Teams", "INVITE "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.respond(got, "200 OK", "Contact: "+ownContact)
		q.check(q.expect("answered", "SIP/2.0 200"))
		q.send(q.calleeRequest(invite, "ACK"))
		s.pbx.expect("the ACK", "ACK "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.send(s.pbx.callerRequest(ok, "UPDATE", "Contact: "+ownContact))
		update := q.expect("an UPDATE of the PBX", "UPDATE ")
		q.check(update)
		q.respond(update, "200 OK")
		s.pbx.expect("answered", "SIP/2.0 200")
		q.send(q.calleeRequest(invite, "BYE"))
		s.pbx.respond(s.pbx.expect("Teams hangs up", "BYE "+bracketedURI(ownContact)+" SIP/2.0"), "200 OK")
		q.expect("the answer", "SIP/2.0 200")
	})
}

// Teams opens a connection of its own for a call. Its certificate makes it the trunk, and
// all requests of the call take that connection.
func TestTeamsCallsOverItsOwnConnection(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		opened := q.opened.Load()
		own := s.dialTLSPeer(netip.MustParseAddr("198.51.100.61"), q.bed, q.certificate())
		own.send(own.newRequest("OPTIONS", "sip:"+sbcName+":5061;transport=tls"))
		answer := own.expect("its OPTIONS", "SIP/2.0 200")
		q.check(answer)
		if answer.fieldValue("Allow") == "" {
			t.Errorf("the answer to its OPTIONS has no Allow:\n%s", answer)
		}
		invite := own.newRequest("INVITE", "sip:+4940@"+sbcName+":5061;transport=tls")
		own.send(invite)
		got := s.pbx.expect("the call comes in", "INVITE ")
		assertEqual(t, "taken for the trunk", got.fieldValue("X-Bellhop-Trunk"), "0123456789abcdef")
		s.pbx.respond(got, "200 OK", "Contact: "+ownContact)
		ok := own.expectLast("answered", "SIP/2.0 200")
		q.check(ok)
		own.send(own.callerRequest(ok, "ACK"))
		s.pbx.expect("the ACK", "ACK "+bracketedURI(ownContact)+" SIP/2.0")
		s.pbx.send(s.pbx.calleeRequest(got, "INVITE", "Contact: "+ownContact))
		reinvite := own.expect("a re-INVITE", "INVITE ")
		q.check(reinvite)
		own.respond(reinvite, "200 OK")
		s.pbx.expect("answered", "SIP/2.0 200")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		own.respond(own.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
		if n := q.opened.Load(); n != opened {
			t.Errorf("bellhop has opened %d more connections", n-opened)
		}
	})
}

// The stub refuses calls of an SBC that has sent no OPTIONS, and calls with the PBX's own
// Contact.
func TestTeamsRefusesOthers(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		s.advance(time.Minute)
		q.discardReceived()
		s.callTeams()
		if _, ok := q.accept("INVITE"); ok {
			t.Error("accepted without OPTIONS")
		}
		s.pbx.expect("refused", "SIP/2.0 403")
	})
	runTeams(t, false, func(s *testbed, q *teams) {
		q.knowsSBC = true
		s.advance(time.Minute)
		q.discardReceived()
		s.callTeams()
		if _, ok := q.accept("INVITE"); ok {
			t.Error("accepted with the PBX's Contact")
		}
		s.pbx.expect("refused", "SIP/2.0 403")
	})
}

// Bellhop replaces no Contact of a redirection, of a message to a phone, or of another
// scheme than sip.
func TestContactsOfOthersStay(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		invite := q.newInvite()
		q.send(invite)
		s.pbx.respond(s.pbx.expect("the call comes in", "INVITE"), "302 Moved Temporarily", "Contact: <sip:103@192.0.2.7>")
		assertEqual(t, "of a redirection", q.expect("the answer", "SIP/2.0 302").fieldValue("Contact"), "<sip:103@192.0.2.7>")
		s.pbx.discardReceived()

		s.callTeams("Contact: <mailto:x@y>")
		assertEqual(t, "of another scheme", q.expect("to Teams", "INVITE").fieldValue("Contact"), "<mailto:x@y>")

		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@"+phoneAt.String(), "Contact: "+ownContact))
		assertEqual(t, "to a phone", s.phone.expect("to a phone", "MESSAGE").fieldValue("Contact"), ownContact)

		s.phone.send(s.phone.newInvite())
		s.pbx.respond(s.pbx.expect("a phone calls", "INVITE"), "200 OK", "Contact: "+ownContact)
		assertEqual(t, "to a phone", s.phone.expect("the answer", "SIP/2.0 200").fieldValue("Contact"), ownContact)
	})
}

// A request to our Contact goes to the PBX, also if a stranger sends it. A request to a
// Contact with a changed token is refused.
func TestTokenOfPBXContactLeadsToPBX(t *testing.T) {
	runTeams(t, true, func(s *testbed, q *teams) {
		q.acceptOptions()
		s.callTeams("Contact: " + ownContact)
		uri := bracketedURI(q.mustAccept("INVITE").fieldValue("Contact"))
		s.phone.send(s.phone.newRequest("MESSAGE", uri))
		s.pbx.respond(s.pbx.expect("a stranger's request", "MESSAGE "+bracketedURI(ownContact)+" SIP/2.0"), "403 Forbidden")
		s.phone.expect("the answer", "SIP/2.0 403")
		s.phone.send(s.phone.newRequest("MESSAGE", uri[:len(uri)-1]+"!"))
		s.phone.expect("a changed token", "SIP/2.0 403 Forged Route")
	})
}

// A PBX registers at its carrier through bellhop. The carrier's calls go to that PBX: to the
// Contact that bellhop has replaced, or else to the PBX that the Request-URI names.
func TestPBXRegistersAtCarrier(t *testing.T) {
	second := netip.MustParseAddrPort("192.0.2.3:5060")
	for _, ours := range []bool{true, false} {
		for _, at := range []netip.AddrPort{pbxAt, second} {
			t.Run(fmt.Sprintf("contact ours %v, PBX %v", ours, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newTestbed(t, withTrunk(sip.Trunk{OwnContact: ours}), func(c *sip.Config) {
						c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: second})
						for i := range c.Listen {
							c.Listen[i].Advertise = sip.HostPort{Host: sbcName}
						}
					})
					defer s.closeAll()
					carrier := s.addUDPPeer(carrierAt)
					pbx := s.allPBXs[0]
					if at == second {
						pbx = s.allPBXs[1]
					}
					pbx.discardReceived() // OPTIONS
					contact := fmt.Sprintf("<sip:line1@%s>", at)
					pbx.send(pbx.newRequest("REGISTER", "sip:"+carrierAt.String(), "To: <sip:line1@carrier.example>", "Contact: "+contact+";expires=300"))
					register := carrier.expect("to the carrier", "REGISTER sip:203.0.113.9:5060 SIP/2.0")
					bound := register.fieldValue("Contact")
					if got := strings.HasPrefix(bound, "<sip:line1@sip.example.com:5060;bellhop="); got != ours || !strings.HasSuffix(bound, ">;expires=300") {
						t.Errorf("Contact: %s", bound)
					}
					if register.fieldValue("Path") != "" {
						t.Errorf("with a Path:\n%s", register)
					}
					carrier.respond(register, "200 OK", "Contact: <sip:line1@198.51.100.77>;expires=60, "+bound)
					assertEqual(t, "the PBX gets its own Contact", pbx.expect("the answer", "SIP/2.0 200").fieldValue("Contact"),
						"<sip:line1@198.51.100.77>;expires=60, "+contact+";expires=300")

					carrier.send(carrier.newRequest("INVITE", bracketedURI(bound), "To: <sip:line1@carrier.example>"))
					invite := pbx.expect("a call comes in", "INVITE "+bracketedURI(contact)+" SIP/2.0")
					pbx.respond(invite, "200 OK", "Contact: "+contact)
					ok := carrier.expect("the answer", "SIP/2.0 200")
					carrier.send(carrier.callerRequest(ok, "ACK"), carrier.callerRequest(ok, "BYE"))
					pbx.expect("its ACK", "ACK "+bracketedURI(contact)+" SIP/2.0")
					pbx.respond(pbx.expect("the carrier hangs up", "BYE "+bracketedURI(contact)+" SIP/2.0"), "200 OK")
					carrier.expect("the answer", "SIP/2.0 200")
				})
			})
		}
	}
}

// Only a trunk chooses a PBX by its Request-URI.
func TestStrangerChoosesNoPBX(t *testing.T) {
	second := netip.MustParseAddrPort("192.0.2.3:5060")
	synctest.Test(t, func(t *testing.T) {
		s := newTestbed(t, func(c *sip.Config) { c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: second}) })
		defer s.closeAll()
		s.pbx.discardReceived()
		s.phone.send(s.phone.newRequest("INVITE", "sip:line1@"+second.String()))
		s.pbx.expect("the first PBX that is up", "INVITE sip:line1@192.0.2.3:5060 SIP/2.0")
	})
}

// A trunk registers at the PBX. The answer lists its own Contacts, which stay.
func TestContactsOfRegisteredTrunkStay(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				carrier := s.addUDPPeer(carrierAt)
				contact := "<sip:carrier@203.0.113.9:5060>;expires=300"
				carrier.send(carrier.newRequest("REGISTER", "sip:pbx.example", "Contact: "+contact))
				register := s.pbx.expect("the REGISTER goes on", "REGISTER")
				s.pbx.respond(register, "200 OK", "Contact: "+register.fieldValue("Contact"))
				assertEqual(t, "Contact", carrier.expect("the answer", "SIP/2.0 200").fieldValue("Contact"), contact)
			}, withTrunk(sip.Trunk{OwnContact: true}), withRegister(mode))
		})
	}
}
