package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// floodSender is the environment variable that makes this binary send a flood: name,
// address of bellhop and duration, separated by bars.
const floodSender = "FLOOD_SENDER"

func init() { otherMains[floodSender] = sendFlood }

// A floodTally counts what a sender has done.
type floodTally struct {
	Sent, Bytes int64 // to bellhop
	Got         int64 // bytes that came back
	Registered  int64 // phones whose REGISTER was answered by the PBX
}

// A sender floods bellhop until ctx ends.
type sender struct {
	ctx   context.Context
	hop   netip.AddrPort
	tally floodTally
	run   sync.WaitGroup
}

// sendFlood sends the flood, and prints its tally.
func sendFlood(what string) {
	words := strings.Split(what, "|")
	length, err := time.ParseDuration(words[2])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	s := &sender{ctx: ctx, hop: netip.MustParseAddrPort(words[1])}
	send, ok := senders[words[0]]
	if !ok {
		panic("no flood is called " + words[0])
	}
	send(s)
	s.run.Wait()
	json.NewEncoder(os.Stdout).Encode(&s.tally)
}

var senders = map[string]func(*sender){
	"streams that do not read": func(s *sender) {
		for i := range 128 {
			s.run.Go(func() { s.unreadStream(source(i / 32)) })
		}
	},
	"large INVITEs that only meet 401": func(s *sender) {
		filler := largeHead("Subject", 56<<10)
		s.spray(1000, 1000, true, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "INVITE", "sip:102@pbx", at, i, filler, "")
		})
	},
	"streams byte by byte": func(s *sender) {
		for i := range 50 {
			s.run.Go(func() { s.drippingStream(source(i)) })
		}
	},
	"phones behind one address": func(s *sender) {
		for i := range phonesBehindOne {
			s.run.Go(func() { s.phone(netip.AddrFrom4([4]byte{127, 77, 0, 1}), i) })
		}
	},
	"connections beyond the bound": func(s *sender) {
		for i := range 50 {
			s.run.Go(func() {
				for k := range maxConnectionsTried / 50 {
					c := s.dial(source(i*4 + k/60))
					if c == nil {
						return
					}
					defer c.Close()
					atomic.AddInt64(&s.tally.Sent, 1)
				}
				<-s.ctx.Done()
			})
		}
	},
	"refused calls from one source": func(s *sender) {
		s.spray(1000, 1, true, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "INVITE", fmt.Sprintf("sip:40%d@pbx", 3+i%2), at, i, "", sdp)
		})
	},
	"5,000 INVITE a second": func(s *sender) {
		s.spray(5000, 5000, true, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "INVITE", "sip:102@pbx", at, i, "", sdp)
		})
	},
	"INVITEs from forged sources": func(s *sender) {
		s.spray(200, 20_000, false, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "INVITE", "sip:102@pbx", at, i, "", sdp)
		})
	},
	"20,000 packets a second from 65,000 sources": func(s *sender) {
		methods := []string{"INVITE", "REGISTER", "OPTIONS", "SUBSCRIBE", "MESSAGE", "BYE", "ACK", "CANCEL"}
		s.spray(20_000, 65_000, false, func(b []byte, i int, at netip.AddrPort) []byte {
			switch i % 10 {
			case 8:
				return appendResponse(b, i, at)
			case 9:
				return append(b, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...)
			}
			return appendRequest(b, methods[i%8], "sip:102@pbx", at, i, "", "")
		})
	},
	"forged responses": func(s *sender) {
		s.spray(10_000, 65_000, false, func(b []byte, i int, at netip.AddrPort) []byte { return appendResponse(b, i, at) })
	},
	"REGISTERs with new Call-IDs": func(s *sender) {
		s.spray(5000, 65_000, false, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "REGISTER", "sip:pbx", at, i, "", "")
		})
	},
	"SUBSCRIBEs with new Call-IDs": func(s *sender) {
		s.spray(5000, 65_000, false, func(b []byte, i int, at netip.AddrPort) []byte {
			return appendRequest(b, "SUBSCRIBE", "sip:102@pbx", at, i, "Event: presence\r\nExpires: 3600\r\n", "")
		})
	},
}

const sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0 8 9 18 101\r\na=rtpmap:0 PCMU/8000\r\n" +
	"a=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\na=rtpmap:18 G729/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n"

// source returns the nth address of strangers.
func source(n int) netip.Addr {
	n += 256
	return netip.AddrFrom4([4]byte{127, byte(100 + n>>16), byte(n >> 8), byte(n)})
}

// appendRequest appends the ith request of a stranger. Call-ID, tag and branch are new;
// the caller is one of a thousand.
func appendRequest(b []byte, method, uri string, at netip.AddrPort, i int, more, body string) []byte {
	user := 2000 + i%1000
	b = fmt.Appendf(b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKf%d\r\nMax-Forwards: 70\r\nFrom: <sip:%d@pbx>;tag=f%d\r\nTo: <%s>\r\nCall-ID: flood-%d-%d\r\nCSeq: 1 %s\r\nContact: <sip:%d@%s>\r\n%s",
		method, uri, at, i, user, i, uri, os.Getpid(), i, method, user, at, more)
	if body != "" {
		b = append(b, "Content-Type: application/sdp\r\n"...)
	}
	return fmt.Appendf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
}

// appendResponse appends a response to a request that bellhop never sent. The branch has
// the form of bellhop's.
func appendResponse(b []byte, i int, at netip.AddrPort) []byte {
	return fmt.Appendf(b, "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.4:5060;branch=z9hG4bKbh%08x.%012x.%08x\r\nVia: SIP/2.0/UDP 127.0.0.2:5060;branch=z9hG4bK%d\r\n"+
		"From: <sip:101@pbx>;tag=1\r\nTo: <sip:102@pbx>;tag=2\r\nCall-ID: flood-%d\r\nCSeq: 1 INVITE\r\nContact: <sip:102@%s>\r\nContent-Length: 0\r\n\r\n",
		rand.Uint32(), rand.Uint64N(1<<48), rand.Uint32(), i, i, at)
}

// largeHead returns n bytes of headers, each as long as permitted.
func largeHead(name string, n int) string {
	const line = 7 << 10
	var b strings.Builder
	for b.Len() < n {
		k := min(line, n-b.Len())
		b.WriteString(name + ": " + strings.Repeat("x", max(k-len(name)-4, 1)) + "\r\n")
	}
	return b.String()
}

// sprayPorts is the number of sockets that a spray sends from, shared by all addresses.
const sprayPorts = 16

// spray sends rate datagrams a second from as many sources, in turn. With ack it
// acknowledges final responses to INVITEs.
func (s *sender) spray(rate, sources int, ack bool, build func(b []byte, i int, at netip.AddrPort) []byte) {
	var sockets [sprayPorts]*net.UDPConn
	var ports [sprayPorts]uint16
	for i := range sockets {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{})
		if err != nil {
			panic(err)
		}
		bigBuffer(c)
		sockets[i], ports[i] = c, uint16(c.LocalAddr().(*net.UDPAddr).Port)
		s.run.Go(func() { s.receive(c, ack) })
	}
	s.run.Go(func() {
		defer func() {
			for _, c := range sockets {
				c.Close()
			}
		}()
		began := time.Now()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		var b []byte
		for i := 0; s.ctx.Err() == nil; <-tick.C {
			for due := min(int(time.Since(began).Seconds()*float64(rate)), i+rate/10); i < due; i++ {
				n := i % sources
				port := n % sprayPorts
				at := netip.AddrPortFrom(source(n/sprayPorts), ports[port])
				b = build(b[:0], i, at)
				s.write(sockets[port], at.Addr(), b)
			}
		}
		if !ack {
			time.Sleep(4 * time.Second) // what comes back late counts
		}
	})
}

// write sends a datagram from any local address.
func (s *sender) write(c *net.UDPConn, from netip.Addr, b []byte) {
	var oob [syscall.SizeofCmsghdr + syscall.SizeofInet4Pktinfo + 4]byte
	h := (*syscall.Cmsghdr)(unsafe.Pointer(&oob))
	h.Level, h.Type = syscall.IPPROTO_IP, syscall.IP_PKTINFO
	h.SetLen(syscall.CmsgLen(syscall.SizeofInet4Pktinfo))
	info := (*syscall.Inet4Pktinfo)(unsafe.Pointer(&oob[syscall.CmsgLen(0)]))
	info.Spec_dst = from.As4()
	n, _, err := c.WriteMsgUDPAddrPort(b, oob[:syscall.CmsgSpace(syscall.SizeofInet4Pktinfo)], s.hop)
	if err == nil {
		atomic.AddInt64(&s.tally.Sent, 1)
		atomic.AddInt64(&s.tally.Bytes, int64(n))
	}
}

// receive counts the datagrams that arrive.
func (s *sender) receive(c *net.UDPConn, ack bool) {
	b := make([]byte, 64<<10)
	for {
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		atomic.AddInt64(&s.tally.Got, int64(n))
		if ack && hasAnyPrefix(b[:n], "SIP/2.0 4") {
			s.acknowledge(c, b[:n])
		}
	}
}

func (s *sender) acknowledge(c *net.UDPConn, response []byte) {
	via := fieldValue(response, "Via")
	host, _, _ := bytes.Cut(bytes.TrimPrefix(via, []byte("SIP/2.0/UDP ")), []byte(";"))
	at, err := netip.ParseAddrPort(string(host))
	if err != nil || !bytes.HasSuffix(fieldValue(response, "CSeq"), []byte("INVITE")) {
		return
	}
	s.write(c, at.Addr(), fmt.Appendf(nil, "ACK sip:102@pbx SIP/2.0\r\nVia: %s\r\nMax-Forwards: 70\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n",
		via, fieldValue(response, "From"), fieldValue(response, "To"), fieldValue(response, "Call-ID")))
}

// dial opens a connection from an address, or returns nil.
func (s *sender) dial(from netip.Addr) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 5 * time.Second}
	c, err := d.DialContext(s.ctx, "tcp4", s.hop.String())
	if err != nil {
		return nil
	}
	return c
}

func (s *sender) writeStream(c net.Conn, b []byte) bool {
	n, err := c.Write(b)
	atomic.AddInt64(&s.tally.Bytes, int64(n))
	return err == nil
}

// unreadStream sends requests that bellhop answers itself with a copy of their headers,
// and does not read the responses.
func (s *sender) unreadStream(from netip.Addr) {
	vias := largeHead("Via: SIP/2.0/TCP x;x", 50<<10)
	for i := 0; s.ctx.Err() == nil; {
		c := s.dial(from)
		if c == nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		stop := context.AfterFunc(s.ctx, func() { c.Close() })
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		at := netip.MustParseAddrPort(c.LocalAddr().String())
		for ok := true; ok; i++ {
			b := appendRequest(nil, "OPTIONS", "sip:"+s.hop.String(), at, i, vias, "")
			b = bytes.ReplaceAll(b, []byte("SIP/2.0/UDP"), []byte("SIP/2.0/TCP"))
			if ok = s.writeStream(c, b); ok {
				atomic.AddInt64(&s.tally.Sent, 1)
			}
		}
		stop()
		c.Close()
	}
}

// drippingStream sends a message with many headers and a large body byte by byte.
func (s *sender) drippingStream(from netip.Addr) {
	for i := 0; s.ctx.Err() == nil; i++ {
		c := s.dial(from)
		if c == nil {
			return
		}
		stop := context.AfterFunc(s.ctx, func() { c.Close() })
		at := netip.MustParseAddrPort(c.LocalAddr().String())
		more := strings.Repeat("X-Field: <sip:a@b;lr>;x=y\r\n", 200)
		b := appendRequest(nil, "MESSAGE", "sip:102@pbx", at, i, more, strings.Repeat("x", 40<<10))
		b = bytes.ReplaceAll(b, []byte("SIP/2.0/UDP"), []byte("SIP/2.0/TCP"))
		body := bytes.Index(b, []byte("\r\n\r\n")) + 4
		s.writeStream(c, b[:body])
		for ; body < len(b) && s.writeStream(c, b[body:body+1]); body++ {
			time.Sleep(100 * time.Microsecond) // each byte is a segment
		}
		atomic.AddInt64(&s.tally.Sent, 1)
		stop()
		c.Close()
	}
}

// phone registers a phone over TCP and keeps its connection.
func (s *sender) phone(from netip.Addr, i int) {
	c := s.dial(from)
	if c == nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(s.ctx, func() { c.Close() })
	defer stop()
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	b := appendRequest(nil, "REGISTER", "sip:pbx", at, i, "", "")
	s.writeStream(c, bytes.ReplaceAll(b, []byte("SIP/2.0/UDP"), []byte("SIP/2.0/TCP")))
	atomic.AddInt64(&s.tally.Sent, 1)
	in := make([]byte, 4096)
	if n, err := c.Read(in); err == nil && hasAnyPrefix(in[:n], "SIP/2.0 401") { // the PBX was asked
		atomic.AddInt64(&s.tally.Registered, 1)
	}
	<-s.ctx.Done()
}
