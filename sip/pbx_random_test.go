package sip_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// What a randomPBX does.
const (
	accepts = "accepts"
	drains  = "drains"  // it refuses OPTIONS and calls with 503
	refuses = "refuses" // it answers OPTIONS, and refuses calls with 503
	silent  = "silent"
	closed  = "closed" // nothing listens at its port
)

// A PBX that changes is known to accept calls after upTime, with two answers to OPTIONS, and to
// accept none after drainTime.
const (
	upTime    = 10100 * ms
	drainTime = 5100 * ms
)

// A randomPBX is a PBX whose behavior changes at random.
type randomPBX struct {
	*peer
	at    sip.Addr
	does  string
	since time.Time
}

// open opens the port of a PBX.
func (p *randomPBX) open(s *testbed, name string) {
	if p.at.Proto == sip.TCP {
		p.peer = s.addTCPListener(p.at.AddrPort)
	} else {
		p.peer = s.addUDPPeer(p.at.AddrPort)
	}
	p.name = name
}

// hasAccepted reports whether a PBX accepts calls now, and has done so since a time.
func (p *randomPBX) hasAccepted(since time.Time) bool {
	return p.does == accepts && !p.since.After(since)
}

// A randomPBXCall is a call of the phone to one of the PBXs.
type randomPBXCall struct {
	sent, invite, ok text
	at               *randomPBX // that has accepted it
	began            time.Time
	over             bool
	answered         bool // the last request within the call
}

// randomPBXs is several PBXs and the calls of the phone.
type randomPBXs struct {
	s     *testbed
	r     *rand.Rand
	pbxs  []*randomPBX
	calls map[string]*randomPBXCall // by Call-ID
	steps []string
}

// logStep notes an event for the report of a failure.
func (f *randomPBXs) logStep(format string, args ...any) {
	f.steps = append(f.steps, time.Now().Format("04:05.0 ")+fmt.Sprintf(format, args...))
}

// errorf reports a failure, and notes when it was.
func (f *randomPBXs) errorf(format string, args ...any) {
	f.logStep("ERROR: "+format, args...)
	f.s.t.Errorf(format, args...)
}

// upSince returns a PBX that has accepted calls since a time, or nil.
func (f *randomPBXs) upSince(t time.Time) *randomPBX {
	for _, p := range f.pbxs {
		if p.hasAccepted(t) {
			return p
		}
	}
	return nil
}

// change gives a PBX another behavior.
func (f *randomPBXs) change(p *randomPBX, does string) {
	if p.does == does {
		return
	}
	f.logStep("%s %s", p.name, does)
	if does == closed {
		p.close()
	} else if p.does == closed {
		p.open(f.s, p.name)
	}
	p.does, p.since = does, time.Now()
}

// exchangeMessages lets PBXs and phone handle their messages until there are none.
func (f *randomPBXs) exchangeMessages() {
	for busy := true; busy; {
		busy = false
		synctest.Wait()
		for _, p := range f.pbxs {
			for m, ok := p.nextMessage(); ok && p.does != closed; m, ok = p.nextMessage() {
				busy = true
				f.handleAtPBX(p, m)
			}
		}
		for m, ok := f.s.phone.nextMessage(); ok; m, ok = f.s.phone.nextMessage() {
			busy = true
			f.handleAtPhone(m)
		}
	}
}

// handleAtPBX handles a message that a PBX has got.
func (f *randomPBXs) handleAtPBX(p *randomPBX, m text) {
	tag := m.toTag()
	switch c := f.calls[m.fieldValue("Call-ID")]; {
	case strings.HasPrefix(string(m), "SIP/2.0 "), strings.HasSuffix(string(m), "<closed>"):
	case c == nil && p.does == drains:
		p.respond(m, "503 Shutting Down")
	case c == nil && p.does != silent:
		p.respond(m, "200 OK")
	case c == nil:
	case tag != "" && tag != "to-"+p.name:
		f.errorf("%s got a request of a call with %s:\n%s", p.name, tag, m)
	case p.does == silent, m.method() == "ACK":
	case tag != "":
		p.respond(m, "200 OK")
	case p.does == accepts && c.at == nil:
		f.logStep("%s has the call %s", p.name, m.fieldValue("Call-ID"))
		c.at, c.invite = p, m
		p.respond(m, "200 OK")
	case p.does == accepts && c.at != p:
		f.errorf("%s got a call that %s has accepted", p.name, c.at.name)
	case p.does == accepts:
	default:
		if up := f.upSince(c.began.Add(-upTime)); up != nil && p.does == drains && c.began.Sub(p.since) > drainTime {
			f.errorf("%s drains and got a call, while %s is up", p.name, up.name)
		}
		p.respond(m, "503 Service Unavailable", fmt.Sprintf("Retry-After: %d", f.r.IntN(200)))
	}
}

// handleAtPhone handles a message that the phone has got.
func (f *randomPBXs) handleAtPhone(m text) {
	c := f.calls[m.fieldValue("Call-ID")]
	switch status := strings.Fields(m.startLine())[1]; {
	case status < "200":
	case m.method() != "INVITE" || c.ok != "":
		c.answered = status == "200"
	case status == "200":
		c.ok = m
		f.s.phone.send(f.s.phone.callerRequest(m, "ACK"))
	default:
		f.logStep("the call %s fails with %s", m.fieldValue("Call-ID"), status)
		f.s.phone.sendACK(c.sent, m)
		c.over = true
		f.expectCallFails(c)
	}
}

// expectCallFails checks that a call that has failed could not succeed: no PBX was up.
func (f *randomPBXs) expectCallFails(c *randomPBXCall) {
	if up := f.upSince(c.began.Add(-upTime)); up != nil {
		f.errorf("the call %s fails, while %s is up", c.sent.fieldValue("Call-ID"), up.name)
	}
}

// takeStep makes one random event happen, and lets time pass.
func (f *randomPBXs) takeStep() {
	var up []*randomPBXCall
	for _, c := range f.calls {
		if c.ok != "" && !c.over {
			up = append(up, c)
		}
	}
	slices.SortFunc(up, func(a, b *randomPBXCall) int { return strings.Compare(string(a.sent), string(b.sent)) })
	switch n := f.r.IntN(10); {
	case n < 3:
		f.change(f.pbxs[f.r.IntN(len(f.pbxs))], []string{accepts, accepts, accepts, accepts, drains, refuses, silent, closed}[f.r.IntN(8)])
	case n < 7:
		c := &randomPBXCall{sent: f.s.phone.newInvite(fmt.Sprintf("From: <sip:%d@pbx.example>;tag=1", 100+f.r.IntN(20))), began: time.Now()}
		f.calls[c.sent.fieldValue("Call-ID")] = c
		f.logStep("the phone calls: %s", c.sent.fieldValue("Call-ID"))
		f.s.phone.send(c.sent)
	case len(up) > 0:
		c := up[f.r.IntN(len(up))]
		method := []string{"INFO", "BYE", "INVITE"}[f.r.IntN(3)]
		f.logStep("%s in the call %s at %s", method, c.sent.fieldValue("Call-ID"), c.at.name)
		c.answered, c.over = false, method == "BYE"
		m := f.s.phone.callerRequest(c.ok, method)
		f.s.phone.send(m)
		if f.exchangeMessages(); !c.answered && c.at.does != silent && c.at.does != closed {
			f.errorf("no answer to %s", method)
		}
		if method == "INVITE" && c.answered {
			f.s.phone.send(f.s.phone.callerRequest(c.ok, "ACK"))
		}
	}
	f.exchangeMessages()
	for range []int{1, 5, 10, 30, 100}[f.r.IntN(5)] {
		f.s.advance(100 * ms)
		f.exchangeMessages()
	}
	for _, c := range f.calls {
		if c.ok == "" && !c.over && time.Since(c.began) > 10*time.Second {
			f.expectCallFails(c)
		}
	}
}

// PBXs drain, refuse, fall silent and come back at random. A call succeeds if a PBX is up all the
// time, and every request within it goes to the PBX that has accepted it.
func TestRandomPBXs(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 12
	}
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 2))
			server := resolvetest.NewServer(t, `_sip._udp.pbx.example. 600 SRV 10 5 5060 a.pbx.example.
				_sip._udp.pbx.example. 600 SRV 10 5 5060 b.pbx.example.
				_sip._udp.pbx.example. 600 SRV 20 0 5060 c.pbx.example.
				a.pbx.example. 600 A 192.0.2.2
				b.pbx.example. 600 A 192.0.2.12
				c.pbx.example. 600 A 192.0.2.22`)
			named := r.IntN(3) == 0
			addrs := udpAddrs(pbxAt, secondAt, netip.MustParseAddrPort("192.0.2.22:5060"))
			if !named {
				addrs[r.IntN(3)].Proto = sip.TCP
			}
			runScenario(t, func(s *testbed) {
				f := &randomPBXs{s: s, r: r, calls: map[string]*randomPBXCall{}}
				for i, a := range addrs {
					p := &randomPBX{at: a, does: accepts, since: time.Now()}
					if i < len(s.allPBXs) {
						p.peer = s.allPBXs[i]
					} else {
						p.open(s, "")
					}
					p.name = fmt.Sprintf("PBX%d", i+1)
					f.pbxs = append(f.pbxs, p)
				}
				for range 160 {
					s.advance(100 * ms)
					f.exchangeMessages()
				}
				for range 60 {
					f.takeStep()
				}
				if t.Failed() {
					t.Logf("named %t:\n%s", named, strings.Join(f.steps, "\n"))
				}
			}, func(c *sip.Config) {
				c.PBX = addrs
				if named {
					namedPBX(server)(c)
				}
				c.PBXMode = []sip.PBXMode{sip.FirstPBX, sip.SpreadPBX}[r.IntN(2)]
			})
		})
	}
}
