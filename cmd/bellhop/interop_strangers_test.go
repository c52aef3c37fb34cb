//go:build interop

package main

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	trunkSecret   = "f3c1d0a95b7e4426"
	falseNumber   = "5557777"
	falseIdentity = "P-Asserted-Identity: \"Bank\" <sip:5557777@bank.example>\r\n" +
		"Remote-Party-ID: \"Bank\" <sip:5557777@bank.example>;party=calling\r\n" +
		"Diversion: <sip:5557777@bank.example>;reason=unconditional\r\n"
)

// TestInteropStrangers attacks a real Asterisk behind bellhop. Asterisk identifies the
// trunk by the secret header, as in sip/README.md.
func TestInteropStrangers(t *testing.T) {
	p := newStrangersPBX(t)
	p.start()
	s := newInteropSite(t)
	s.configure(fmt.Sprintf("[[trunk]]\nname = \"carrier\"\nsources = [\"127.0.0.21\"]\nsecret = %q\n", trunkSecret))
	hop := s.serve()
	s.subscribe("json", "POST", interopTypes...)

	caller := newRawAgent(t, "127.0.0.11:5060", s.hop)
	callee := newRawAgent(t, "127.0.0.12:5060", s.hop)
	trunk := newRawAgent(t, "127.0.0.21:5060", s.hop)
	stranger := newRawAgent(t, "127.0.0.66:5060", s.hop)
	register := rawRequest{method: "REGISTER", uri: "sip:127.0.0.1", from: "<sip:102@127.0.0.1>", to: "<sip:102@127.0.0.1>", fields: "Expires: 300\r\n"}
	if answer := callee.wait(t, callee.challenged(t, register, "102")); status(answer) != 200 {
		t.Fatalf("REGISTER of 102: %s", answer)
	}

	t.Run("stranger is refused", func(t *testing.T) { refuseStrangers(t, stranger, callee) })
	t.Run("trunk is served", func(t *testing.T) { serveTrunk(t, trunk, callee) })
	t.Run("phone is reported by its account", func(t *testing.T) { reportPhone(t, s, caller, callee) })
	t.Run("nothing is relayed", func(t *testing.T) { relayNothing(t, stranger, caller, callee) })
	hop.stop()
}

// newStrangersPBX copies the folder of the PBX, and configures the copy's Asterisk to
// identify the trunk by the secret header.
func newStrangersPBX(t *testing.T) *pbxFolder {
	t.Helper()
	p := copyPBXFolder(t)
	p.edit("pjsip.conf", `(?m)^endpoint_identifier_order *=.*$`, "endpoint_identifier_order = header,username")
	p.edit("pjsip.conf", `(?m)^#include edge-trunk.inc$`, `outbound_proxy = sip:127.0.0.1:5060\;lr`+"\nidentify_by = header")
	p.edit("pjsip.conf", `(?m)^#include edge-identify.inc$`, "[trunk]\ntype = identify\nendpoint = trunk\nmatch_header = X-Bellhop-Trunk: "+trunkSecret)
	return p
}

// copyPBXFolder copies the folder named by the environment variable PBX.
func copyPBXFolder(t *testing.T) *pbxFolder {
	t.Helper()
	p := openPBXFolder(t)
	folder := p.path
	p.path = t.TempDir()
	for _, name := range []string{"conf", "bin"} {
		if err := os.CopyFS(filepath.Join(p.path, name), os.DirFS(filepath.Join(folder, name))); err != nil {
			t.Fatal(err)
		}
	}
	scripts, err := filepath.Glob(filepath.Join(folder, "*.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		b, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.path, filepath.Base(script)), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// edit replaces what a regular expression matches in a config file of Asterisk.
func (p *pbxFolder) edit(name, old, with string) {
	p.t.Helper()
	file := filepath.Join(p.path, "conf", "asterisk", name)
	b, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	expr := regexp.MustCompile(old)
	if !expr.Match(b) {
		p.t.Fatalf("%s has no line %s", file, old)
	}
	if err := os.WriteFile(file, expr.ReplaceAllLiteral(b, []byte(with)), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// refuseStrangers calls 102 without credentials in every way that once made a stranger
// the trunk. callee is 102, which must not ring.
func refuseStrangers(t *testing.T, stranger, callee *rawAgent) {
	for _, c := range []struct{ name, from, fields string }{
		{"unknown number", "<sip:15550001111@example.com>", ""},
		{"false identity", "<sip:15550001111@example.com>", falseIdentity},
		{"anonymous with false identity", "<sip:anonymous@anonymous.invalid>", falseIdentity},
		{"no user", "<sip:example.com>", ""},
		{"name of the trunk's endpoint", "<sip:trunk@127.0.0.1>", ""},
		{"name of a phone", "<sip:101@127.0.0.1>", ""},
		{"guessed secret", "<sip:15550001111@example.com>", "X-Bellhop-Trunk: guess\r\n"},
		{"leaked secret", "<sip:15550001111@example.com>", "X-Bellhop-Trunk: " + trunkSecret + "\r\n"},
		{"leaked secret in lower case", "<sip:15550001111@example.com>", "x-bellhop-trunk: " + trunkSecret + "\r\n"},
		{"leaked secret with a space before the colon", "<sip:15550001111@example.com>", "X-Bellhop-Trunk : " + trunkSecret + "\r\n"},
		{"leaked secret folded", "<sip:15550001111@example.com>", "X-Bellhop-Trunk:\r\n " + trunkSecret + "\r\n"},
		{"guessed and leaked secret", "<sip:15550001111@example.com>", "X-Bellhop-Trunk: guess\r\nX-Bellhop-Trunk: " + trunkSecret + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := stranger.send(rawRequest{method: "INVITE", uri: "sip:5551234@127.0.0.1", from: c.from, fields: c.fields, body: rawSDP})
			select {
			case answer := <-sent.final:
				if code := status(answer); code != 401 && code != 403 && code != 407 {
					t.Errorf("the answer is %s, want 401, 403 or 407", answer)
				}
				stranger.acknowledge(sent, answer)
			case invite := <-callee.requests:
				t.Errorf("102 rings:\n%s", invite)
				callee.reply(invite, 486, "")
				stranger.acknowledge(sent, stranger.wait(t, sent))
			case <-time.After(patience):
				t.Error("no answer")
			}
		})
	}
}

// serveTrunk calls 102 from the trunk, without a password, and hangs up.
func serveTrunk(t *testing.T, trunk, callee *rawAgent) {
	call := rawRequest{method: "INVITE", uri: "sip:5551234@127.0.0.1", from: "<sip:101@carrier.example>", body: rawSDP,
		fields: "P-Asserted-Identity: <sip:15552223333@carrier.example>\r\n"}
	sent := trunk.send(call)
	invite := callee.ringing(t, sent)
	if from := header(invite, "From"); !strings.Contains(from, "sip:15552223333@") {
		t.Errorf("102 is called from %s, want the identity that the trunk asserts", from)
	}
	if strings.Contains(strings.ToLower(invite), "x-bellhop-trunk") {
		t.Errorf("the secret reaches 102:\n%s", invite)
	}
	endCall(t, trunk, callee, sent, invite)
}

// reportPhone calls 102 from 101, which has a password and asserts a false
// identity. 102 and the callbacks name 101.
func reportPhone(t *testing.T, s *site, caller, callee *rawAgent) {
	s.settled(time.Now(), nil)
	begin := time.Now()
	sent := caller.challenged(t, rawRequest{method: "INVITE", uri: "sip:102@127.0.0.1", from: "<sip:101@127.0.0.1>", body: rawSDP,
		fields: falseIdentity + "X-Bellhop-Trunk: " + trunkSecret + "\r\n"}, "101")
	invite := callee.ringing(t, sent)
	if from := header(invite, "From"); !strings.Contains(from, "sip:101@") {
		t.Errorf("102 is called from %s, want 101", from)
	}
	if strings.Contains(invite, falseNumber) {
		t.Errorf("102 is told the false number:\n%s", invite)
	}
	endCall(t, caller, callee, sent, invite)
	came, differences := s.settled(begin, nil)
	for _, d := range differences {
		t.Error(d)
	}
	dialedIn := false
	for _, c := range came {
		for name, value := range c.fields {
			if strings.Contains(value, falseNumber) {
				t.Errorf("%s of %s has %s = %s, want nothing of the false number", c.fields["event_type"], c.extension(), name, value)
			}
		}
		dialedIn = dialedIn || c.fields["event_type"] == "dial-in" && c.extension() == "102" && c.fields["caller_id_num"] == "101"
	}
	if !dialedIn {
		t.Errorf("no dial-in of 102 has the caller 101:\n%s", strings.Join(texts(lines(came)), "\n"))
	}
}

// relayNothing sends requests along the tokens of a refused call and of a live call to
// addresses that the stranger chose.
func relayNothing(t *testing.T, stranger, caller, callee *rawAgent) {
	refused := stranger.send(rawRequest{method: "INVITE", uri: "sip:102@127.0.0.1", from: "<sip:101@127.0.0.1>", body: rawSDP})
	answer := stranger.wait(t, refused)
	stranger.acknowledge(refused, answer)

	sent := caller.challenged(t, rawRequest{method: "INVITE", uri: "sip:102@127.0.0.1", from: "<sip:101@127.0.0.1>", body: rawSDP}, "101")
	invite := callee.ringing(t, sent)
	ok := answerCall(t, caller, callee, sent, invite)

	theirs := map[string][]string{
		"the token of a refused INVITE": headerValues(answer, "Record-Route"),
		"the caller's token":            headerValues(ok, "Record-Route"),
		"the callee's token":            headerValues(invite, "Record-Route"),
	}
	for _, name := range []string{"the caller's token", "the callee's token"} {
		if len(theirs[name]) == 0 {
			t.Fatalf("the call has no %s", strings.TrimPrefix(name, "the "))
		}
	}
	victim := newVictim(t, "127.0.0.99")
	neighbor := newVictim(t, "127.0.0.2") // another port of the PBX's host
	for name, routes := range theirs {
		of := rawRequest{callID: refused.callID, fromTag: refused.fromTag}
		switch name {
		case "the caller's token":
			of = rawRequest{callID: sent.callID, fromTag: sent.fromTag, toTag: tagOf(header(ok, "To"))}
		case "the callee's token":
			of = rawRequest{callID: header(invite, "Call-ID"), fromTag: callee.tag, toTag: tagOf(header(invite, "From"))}
		}
		for _, method := range []string{"MESSAGE", "INVITE", "BYE", "OPTIONS", "NOTIFY"} {
			for _, transport := range []string{"", ";transport=tcp"} {
				r := rawRequest{method: method, routes: routes, uri: "sip:x@" + victim.at.String() + transport}
				victim.attack(t, name+" in another dialog, "+method+transport, stranger, r)
				if of.toTag == "" || method != "BYE" && method != "INVITE" { // these would change the call
					r.callID, r.fromTag, r.toTag = of.callID, of.fromTag, of.toTag
					victim.attack(t, name+" in its dialog, "+method+transport, stranger, r)
				}
			}
		}
		victim.attack(t, name+" and a second Route", stranger,
			rawRequest{method: "MESSAGE", uri: "sip:102@127.0.0.1", routes: append(routes[:len(routes):len(routes)], "<sip:"+victim.at.String()+";lr>")})
		neighbor.attack(t, name+" to another port of the PBX", stranger,
			rawRequest{method: "MESSAGE", uri: "sip:x@" + neighbor.at.String() + ";transport=tcp", routes: routes})
	}
	both := append(headerValues(ok, "Record-Route"), headerValues(invite, "Record-Route")...)
	past := stranger.send(rawRequest{method: "MESSAGE", uri: "sip:102@" + callee.at.String(), routes: both})
	select {
	case request := <-callee.requests:
		t.Errorf("a stranger reaches 102 past the PBX:\n%s", request)
	case answer := <-past.final:
		if status(answer) < 400 {
			t.Errorf("past the PBX: %s", answer)
		}
	case <-time.After(patience):
		t.Error("past the PBX: no answer")
	}
	hangUp(t, caller, callee, sent, ok)
	victim.untouched(t)
	neighbor.untouched(t)
}

// A victim listens on UDP and TCP, and records what arrives.
type victim struct {
	at      netip.AddrPort
	udp     *net.UDPConn
	arrived chan string
}

func newVictim(t *testing.T, ip string) *victim {
	t.Helper()
	v := &victim{at: freePort(t, ip), arrived: make(chan string, 64)}
	var err error
	if v.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(v.at)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", v.at.String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 65535)
		for {
			n, from, err := v.udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			v.note(fmt.Sprintf("%v sent %q", from, buf[:n]))
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			v.note(fmt.Sprintf("%v connected", c.RemoteAddr()))
			c.Close()
		}
	}()
	t.Cleanup(func() {
		v.udp.Close()
		l.Close()
		<-done
		<-done
	})
	return v
}

func (v *victim) note(what string) {
	select {
	case v.arrived <- what:
	default:
	}
}

// attack sends a request and checks that the victim gets no byte and no connection. A
// request outside live dialogs must be refused.
func (v *victim) attack(t *testing.T, name string, stranger *rawAgent, r rawRequest) {
	t.Helper()
	if r.toTag == "" {
		r.toTag = "any"
	}
	r.from = "<sip:101@127.0.0.1>"
	sent := stranger.send(r)
	select {
	case what := <-v.arrived:
		t.Errorf("%s: %s", name, what)
	case answer := <-sent.final:
		if status(answer) < 400 && r.toTag == "any" {
			t.Errorf("%s: %s", name, answer)
		}
		stranger.acknowledge(sent, answer)
	case <-time.After(patience):
		t.Errorf("%s: no answer", name)
	}
}

// untouched checks that nothing arrived late.
func (v *victim) untouched(t *testing.T) {
	t.Helper()
	if n := len(v.arrived); n > 0 {
		t.Errorf("%d more arrived at %v: %s", n, v.at, <-v.arrived)
	}
}

const rawSDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.66\r\ns=-\r\nc=IN IP4 127.0.0.66\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"

// A rawAgent sends and receives SIP over UDP as text, also messages that no phone sends.
// It does not retransmit.
type rawAgent struct {
	at       netip.AddrPort
	hop      netip.AddrPort
	conn     *net.UDPConn
	tag      string      // To tag of its responses
	requests chan string // that it got, except ACK, OPTIONS, NOTIFY and repetitions
	serial   int

	mu   sync.Mutex
	sent map[string]*rawSent // by branch
}

// A rawRequest is sent with defaults for empty fields.
type rawRequest struct {
	method, uri, from, to, callID, fromTag, toTag, fields, body string

	routes []string
	cseq   int
}

type rawSent struct {
	rawRequest
	branch string
	final  chan string // the final response
	heard  atomic.Bool // a response has come
}

func newRawAgent(t *testing.T, at string, hop netip.AddrPort) *rawAgent {
	t.Helper()
	a := &rawAgent{at: netip.MustParseAddrPort(at), hop: hop, tag: "raw" + at[strings.LastIndexByte(at, '.')+1:strings.IndexByte(at, ':')],
		requests: make(chan string, 64), sent: map[string]*rawSent{}}
	var err error
	if a.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(a.at)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.read()
	}()
	t.Cleanup(func() {
		a.conn.Close()
		<-done
	})
	return a
}

func (a *rawAgent) read() {
	seen := map[string]bool{}
	buf := make([]byte, 65535)
	for {
		n, _, err := a.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := string(buf[:n])
		if !strings.HasPrefix(m, "SIP/2.0 ") {
			method, _, _ := strings.Cut(m, " ")
			key := branchOf(m) + method
			switch {
			case method == "ACK":
			case method == "OPTIONS" || method == "NOTIFY": // the PBX checks its phones, and reports voice messages
				a.reply(m, 200, "")
			case !seen[key]:
				seen[key] = true
				a.requests <- m
			}
			continue
		}
		a.mu.Lock()
		s := a.sent[branchOf(m)]
		a.mu.Unlock()
		if s != nil {
			s.heard.Store(true)
		}
		if s != nil && status(m) >= 200 {
			select {
			case s.final <- m:
			default: // a repetition
			}
		}
	}
}

// send sends a request.
func (a *rawAgent) send(r rawRequest) *rawSent {
	a.serial++
	unique := fmt.Sprintf("%s-%d-%x", a.tag, a.serial, time.Now().UnixNano())
	if r.to == "" {
		r.to = "<sip:102@127.0.0.1>"
	}
	if r.callID == "" {
		r.callID = unique
	}
	if r.fromTag == "" {
		r.fromTag = unique
	}
	r.cseq = max(r.cseq, 1)
	s := &rawSent{rawRequest: r, branch: "z9hG4bK" + unique, final: make(chan string, 1)}
	a.mu.Lock()
	a.sent[s.branch] = s
	a.mu.Unlock()
	a.write(r, s.branch)
	if r.method == "INVITE" {
		a.repeat(s, 500*time.Millisecond)
	}
	return s
}

// repeat retransmits an INVITE until a response arrives, by Timer A (RFC 3261
// §17.1.1.2). To an unknown source bellhop sends no failure that is larger than the
// request.
func (a *rawAgent) repeat(s *rawSent, pause time.Duration) {
	time.AfterFunc(pause, func() {
		if !s.heard.Load() && pause <= 8*time.Second {
			a.write(s.rawRequest, s.branch)
			a.repeat(s, 2*pause)
		}
	})
}

func (a *rawAgent) write(r rawRequest, branch string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %v;branch=%s;rport\r\n", r.method, r.uri, a.at, branch)
	for _, route := range r.routes {
		fmt.Fprintf(&b, "Route: %s\r\n", route)
	}
	fmt.Fprintf(&b, "From: %s;tag=%s\r\nTo: %s", r.from, r.fromTag, r.to)
	if r.toTag != "" {
		fmt.Fprintf(&b, ";tag=%s", r.toTag)
	}
	fmt.Fprintf(&b, "\r\nCall-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\nContact: <sip:x@%v>\r\n%s", r.callID, r.cseq, r.method, a.at, r.fields)
	if r.body != "" {
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	a.conn.WriteToUDPAddrPort([]byte(b.String()), a.hop)
}

// wait waits for the final response.
func (a *rawAgent) wait(t *testing.T, s *rawSent) string {
	t.Helper()
	select {
	case answer := <-s.final:
		return answer
	case <-time.After(patience):
		t.Fatalf("%s %s has no answer", s.method, s.uri)
		panic("unreachable")
	}
}

// acknowledge sends the ACK of a refused INVITE.
func (a *rawAgent) acknowledge(s *rawSent, answer string) {
	if s.method != "INVITE" || status(answer) < 300 {
		return
	}
	ack := s.rawRequest
	ack.method, ack.toTag, ack.fields, ack.body = "ACK", tagOf(header(answer, "To")), "", ""
	a.write(ack, s.branch)
}

// challenged sends a request, and again with the credentials that the PBX asks for. The
// passwords of the PBX are "pw" followed by the user.
func (a *rawAgent) challenged(t *testing.T, r rawRequest, user string) *rawSent {
	t.Helper()
	first := a.send(r)
	answer := a.wait(t, first)
	a.acknowledge(first, answer)
	again := first.rawRequest
	again.cseq++
	again.fields += digestField(answer, r.method, r.uri, user, "pw"+user)
	return a.send(again)
}

// ringing waits for the INVITE of another agent's call.
func (a *rawAgent) ringing(t *testing.T, call *rawSent) string {
	t.Helper()
	select {
	case m := <-a.requests:
		if !strings.HasPrefix(m, "INVITE ") {
			t.Fatalf("%v got no INVITE, but:\n%s", a.at, m)
		}
		return m
	case answer := <-call.final:
		t.Fatalf("%v does not ring: %s", a.at, answer)
	case <-time.After(patience):
		t.Fatalf("%v does not ring", a.at)
	}
	panic("unreachable")
}

// reply answers a request.
func (a *rawAgent) reply(request string, code int, body string) {
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d Answer\r\n", code)
	for _, name := range []string{"Via", "Record-Route", "From", "To", "Call-ID", "CSeq"} {
		for _, value := range headerValues(request, name) {
			if name == "To" && tagOf(value) == "" {
				value += ";tag=" + a.tag
			}
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	fmt.Fprintf(&b, "Contact: <sip:x@%v>\r\n", a.at)
	if body != "" {
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	a.conn.WriteToUDPAddrPort([]byte(b.String()), a.hop)
}

// answerCall answers as the callee, and returns the 200 that the caller gets.
func answerCall(t *testing.T, caller, callee *rawAgent, sent *rawSent, invite string) string {
	t.Helper()
	callee.reply(invite, 200, rawSDP)
	ok := caller.wait(t, sent)
	if status(ok) != 200 {
		t.Fatalf("the call is not answered: %s", ok)
	}
	ack := within(sent, ok, "ACK")
	ack.cseq = sent.cseq
	caller.write(ack, "z9hG4bKack"+sent.branch)
	return ok
}

// hangUp ends a call as the caller, and checks that it ends at the callee.
func hangUp(t *testing.T, caller, callee *rawAgent, sent *rawSent, ok string) {
	t.Helper()
	bye := caller.send(within(sent, ok, "BYE"))
	if answer := caller.wait(t, bye); status(answer) != 200 {
		t.Errorf("BYE: %s", answer)
	}
	select {
	case m := <-callee.requests:
		callee.reply(m, 200, "")
		if !strings.HasPrefix(m, "BYE ") {
			t.Errorf("the callee got no BYE, but:\n%s", m)
		}
	case <-time.After(patience):
		t.Error("the callee gets no BYE")
	}
}

func endCall(t *testing.T, caller, callee *rawAgent, sent *rawSent, invite string) {
	t.Helper()
	hangUp(t, caller, callee, sent, answerCall(t, caller, callee, sent, invite))
}

// within returns a request in the dialog of an answered call.
func within(sent *rawSent, ok, method string) rawRequest {
	uri := header(ok, "Contact")
	if _, rest, found := strings.Cut(uri, "<"); found {
		uri, _, _ = strings.Cut(rest, ">")
	}
	return rawRequest{method: method, uri: uri, from: sent.from, to: sent.to, callID: sent.callID, fromTag: sent.fromTag,
		toTag: tagOf(header(ok, "To")), routes: headerValues(ok, "Record-Route"), cseq: sent.cseq + 1}
}

// headerValues returns the values of a header of a message. The messages of these tests
// have no folded lines and no compact header names.
func headerValues(m, name string) (values []string) {
	head, _, _ := strings.Cut(m, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(n), name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

func header(m, name string) string {
	if values := headerValues(m, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

func tagOf(value string) string {
	_, rest, _ := strings.Cut(value, ";tag=")
	tag, _, _ := strings.Cut(rest, ";")
	return tag
}

func branchOf(m string) string {
	_, rest, _ := strings.Cut(header(m, "Via"), ";branch=")
	branch, _, _ := strings.Cut(rest, ";")
	return branch
}

// status returns the status of a response, or 0 for anything else.
func status(m string) (code int) {
	fmt.Sscanf(m, "SIP/2.0 %d", &code)
	return code
}

var challengeParam = regexp.MustCompile(`(\w+)="([^"]*)"`)

// digestField returns the Authorization for a challenge (RFC 2617, MD5, qop auth).
func digestField(answer, method, uri, user, password string) string {
	p := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(header(answer, "WWW-Authenticate"), -1) {
		p[m[1]] = m[2]
	}
	sum := func(s string) string {
		b := md5.Sum([]byte(s))
		return hex.EncodeToString(b[:])
	}
	response := sum(sum(user+":"+p["realm"]+":"+password) + ":" + p["nonce"] + ":00000001:1:auth:" + sum(method+":"+uri))
	return fmt.Sprintf("Authorization: Digest username=%q, realm=%q, nonce=%q, uri=%q, response=%q, opaque=%q, algorithm=MD5, qop=auth, nc=00000001, cnonce=\"1\"\r\n",
		user, p["realm"], p["nonce"], uri, response, p["opaque"])
}
