package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// A carrier is a trunk over TLS that asks for a certificate.
type carrier struct {
	t     *testing.T
	at    netip.AddrPort
	conns chan *carrierConn // that bellhop has opened
}

// A carrierConn is a connection of a carrier.
type carrierConn struct {
	*streamPeer
	serial int64 // serial number of the certificate that bellhop has presented
}

// newCarrier returns a carrier with a certificate and its key.
func newCarrier(t *testing.T, cert, key string) *carrier {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.6:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := &carrier{t: t, at: l.Addr().(*net.TCPAddr).AddrPort(), conns: make(chan *carrierConn, 10)}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := raw.(*tls.Conn)
			if conn.Handshake() != nil {
				conn.Close()
				continue
			}
			c.conns <- &carrierConn{newStreamPeer(t, conn), conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()}
		}
	}()
	return c
}

// accept returns the next connection, which must be made with the certificate of a serial
// number.
func (c *carrier) accept(what string, serial int64) *carrierConn {
	c.t.Helper()
	select {
	case conn := <-c.conns:
		if conn.serial != serial {
			c.t.Errorf("%s: the certificate has the serial number %d, want %d", what, conn.serial, serial)
		}
		return conn
	case <-time.After(patience):
		c.t.Fatalf("%s: no connection", what)
		return nil
	}
}

// callTrunk lets the PBX call the carrier.
func (p *peer) callTrunk(s *site, c *carrier, call string) {
	p.t.Helper()
	p.send(s.hop, fmt.Sprintf("INVITE sip:5551234@%v;transport=tls SIP/2.0", c.at),
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-%s", p.c.LocalAddr(), call),
		"From: <sip:101@pbx.example>;tag="+call, "To: <sip:5551234@carrier.example>", "Call-ID: "+call, "CSeq: 1 INVITE",
		"Max-Forwards: 70", fmt.Sprintf("Contact: <sip:101@%v>", p.c.LocalAddr()))
}

// answer answers the next INVITE on a connection, and returns it.
func (c *carrierConn) answer() (invite []string) {
	c.t.Helper()
	invite = c.gets("INVITE ")
	c.send(append([]string{"SIP/2.0 200 OK", fmt.Sprintf("Contact: <sip:5551234@%v;transport=tls>", c.LocalAddr()), fieldsOf(invite, "To")[0] + ";tag=pbx"},
		fieldsOf(invite, "Via", "From", "Call-ID", "CSeq", "Record-Route")...)...)
	return invite
}

// TestRenewsCertificateOfTrunk renews the certificate that bellhop presents to a trunk: with
// SIGHUP and without. The next call presents it, over a new connection, and so do requests of
// the PBX within earlier calls. The connection that is open lives on, and takes what the
// trunk sends.
func TestRenewsCertificateOfTrunk(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	at, pbx := freePort(t, "127.0.0.4"), newPeer(t, s.pbx.AddrPort)
	cert, key := newCertificate(t, 100, net.IPv4(127, 0, 0, 6))
	trunk := newCarrier(t, cert, key)
	s.write("ca.pem", cert)
	s.renewCertificate(at.Addr(), 1)
	s.configure(fmt.Sprintf("[[listener]]\nlisten = \"tls://%[1]v\"\ntls_cert = [\"file:%[2]s/ca.pem\"]\ntls_key = [\"file:%[2]s/ca-key.pem\"]\n"+
		"[[trunk]]\nname = \"carrier\"\nto = [\"tls://%[3]v\"]\nprobe = \"0s\"\n"+
		"tls_ca = \"file:%[2]s/ca.pem\"\ntls_cert = \"file:%[2]s/live/cert.pem\"\ntls_key = \"file:%[2]s/live/key.pem\"\n", at, s.dir, trunk.at))
	s.write("ca-key.pem", key)
	p := s.serve()

	pbx.callTrunk(s, trunk, "first")
	open := trunk.accept("the first call", 1)
	invite := open.answer()
	pbx.gets("SIP/2.0 200 ")
	s.renewCertificate(at.Addr(), 2)
	p.signal(syscall.SIGHUP)
	s.eventually("the config is reloaded", func() bool { return strings.Contains(p.out.String(), `"config reloaded"`) })
	pbx.callTrunk(s, trunk, "second")
	trunk.accept("a call after SIGHUP", 2).answer()
	second := pbx.gets("SIP/2.0 200 ")
	reloads := func() int { return strings.Count(p.out.String(), `"certificates reloaded"`) }
	before := reloads()
	s.renewCertificate(at.Addr(), 3)
	s.eventually("the certificate is reloaded", func() bool { return reloads() > before })
	pbx.callTrunk(s, trunk, "third")
	newest := trunk.accept("a call after a renewal", 3)
	newest.answer()
	pbx.gets("SIP/2.0 200 ")
	pbx.send(s.hop, inDialog("BYE", second, true, pbx.c.LocalAddr(), "UDP")...)
	newest.send(append([]string{"SIP/2.0 200 OK"}, fieldsOf(newest.gets("BYE "), "Via", "From", "To", "Call-ID", "CSeq")...)...)
	pbx.gets("SIP/2.0 200 ")

	if status, err := askOptions(open.Conn.(*tls.Conn), at); status != "SIP/2.0 200 OK" {
		t.Errorf("the first connection answers %q, %v", status, err)
	}
	open.send(inDialog("BYE", invite, false, open.LocalAddr(), "TLS")...)
	bye := pbx.gets("BYE ")
	pbx.send(s.hop, append([]string{"SIP/2.0 200 OK"}, fieldsOf(bye, "Via", "From", "To", "Call-ID", "CSeq")...)...)
	open.gets("SIP/2.0 200 ")
	p.stop()
}
