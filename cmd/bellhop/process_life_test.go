package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// A peer is a UDP socket for hand-written SIP.
type peer struct {
	t      *testing.T
	c      *net.UDPConn
	source netip.AddrPort // of the last message
}

func newPeer(t *testing.T, at netip.AddrPort) *peer {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t: t, c: c}
}

func (p *peer) send(to netip.AddrPort, lines ...string) {
	p.t.Helper()
	msg := strings.Join(append(lines, "Content-Length: 0", "", ""), "\r\n")
	if _, err := p.c.WriteToUDPAddrPort([]byte(msg), to); err != nil {
		p.t.Fatal(err)
	}
}

// gets waits for a message with this start, and returns its lines.
func (p *peer) gets(begin string) []string {
	p.t.Helper()
	lines, came := p.getsBy(time.Now().Add(patience), begin)
	if !came {
		p.t.Fatalf("no %s", begin)
	}
	return lines
}

// getsBy is gets with a deadline: it reports whether the message came before it.
func (p *peer) getsBy(end time.Time, begin string) (lines []string, came bool) {
	p.t.Helper()
	p.c.SetReadDeadline(end)
	b := make([]byte, 65536)
	for {
		n, source, err := p.c.ReadFromUDPAddrPort(b)
		p.source = source
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, false
		}
		if err != nil {
			p.t.Fatalf("no %s: %v", begin, err)
		}
		if msg := string(b[:n]); strings.HasPrefix(msg, begin) {
			return strings.Split(msg, "\r\n"), true
		}
	}
}

// A streamPeer is a connection for hand-written SIP without bodies.
type streamPeer struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

// newStreamPeer returns a streamPeer on a connection, which is closed with the test.
func newStreamPeer(t *testing.T, c net.Conn) *streamPeer {
	t.Cleanup(func() { c.Close() })
	return &streamPeer{c, t, bufio.NewReader(c)}
}

// gets waits for a message with this start, and returns its lines.
func (c *streamPeer) gets(begin string) (lines []string) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("no %s: %v", begin, err)
		}
		switch line = strings.TrimSpace(line); {
		case line != "":
			lines = append(lines, line)
		case len(lines) > 0 && strings.HasPrefix(lines[0], begin):
			return lines
		default:
			lines = nil
		}
	}
}

// send sends a message.
func (c *streamPeer) send(lines ...string) {
	c.t.Helper()
	if _, err := c.Write([]byte(strings.Join(append(lines, "Content-Length: 0", "", ""), "\r\n"))); err != nil {
		c.t.Fatal(err)
	}
}

// invite calls 102 through bellhop.
func (p *peer) invite(s *site, call string) {
	p.t.Helper()
	p.send(s.hop, "INVITE sip:102@pbx.example SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-%s", p.c.LocalAddr(), call),
		"From: <sip:101@pbx.example>;tag="+call, "To: <sip:102@pbx.example>", "Call-ID: "+call, "CSeq: 1 INVITE",
		"Max-Forwards: 70", fmt.Sprintf("Contact: <sip:101@%v>", p.c.LocalAddr()))
}

// askOptions sends an OPTIONS to bellhop itself, with a Call-ID of its own.
func (p *peer) askOptions(s *site, call string) {
	p.t.Helper()
	p.send(s.hop, fmt.Sprintf("OPTIONS sip:%v SIP/2.0", s.hop),
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-%s;rport", p.c.LocalAddr(), call),
		"From: <sip:probe@upstream.example>;tag="+call, fmt.Sprintf("To: <sip:%v>", s.hop), "Call-ID: "+call, "CSeq: 1 OPTIONS",
		"Max-Forwards: 70", "User-Agent: an upstream that looks whether calls are taken")
}

// fieldsOf returns the lines of a message that have one of some header fields.
func fieldsOf(message []string, names ...string) (lines []string) {
	for _, line := range message {
		for _, name := range names {
			if strings.HasPrefix(line, name+": ") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// inDialog returns a request of the caller in a dialog, made of the 2xx that the caller got,
// or of the callee, made of the INVITE that the callee got.
func inDialog(method string, of []string, caller bool, from net.Addr, proto string) []string {
	target := fieldsOf(of, "Contact")[0]
	lines := []string{method + " " + target[len("Contact: <"):len(target)-1] + " SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/%s %v;branch=z9hG4bK-%s-%s;rport", proto, from, method, fieldsOf(of, "Call-ID")[0][len("Call-ID: "):]),
		"Max-Forwards: 70", fieldsOf(of, "Call-ID")[0]}
	routes := fieldsOf(of, "Record-Route")
	for i := range routes {
		route := routes[i]
		if caller {
			route = routes[len(routes)-1-i]
		}
		lines = append(lines, route[len("Record-"):])
	}
	own, other := fieldsOf(of, "From")[0][len("From: "):], fieldsOf(of, "To")[0][len("To: "):]
	if !caller {
		own, other = other+";tag=pbx", own
	}
	number := 2
	if method == "ACK" {
		number = 1
	}
	return append(lines, "From: "+own, "To: "+other, fmt.Sprintf("CSeq: %d %s", number, method))
}

// reply answers a request.
func (p *peer) reply(s *site, request []string, status string) {
	p.t.Helper()
	lines := []string{"SIP/2.0 " + status}
	for _, line := range request {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Via", "From", "Call-ID", "CSeq", "Record-Route":
			lines = append(lines, line)
		case "To":
			if !strings.Contains(line, ";tag=") {
				line += ";tag=pbx"
			}
			lines = append(lines, line)
		}
	}
	p.send(s.hop, lines...)
}

// TestDrainsOnSIGTERM stops bellhop while a phone rings and another call is up: new calls
// are refused, OPTIONS tells upstreams to go elsewhere, the ringing call continues, and
// bellhop exits after its end.
func TestDrainsOnSIGTERM(t *testing.T) {
	t.Parallel()
	for range 10 {
		if drains(t) {
			return
		}
	}
	t.Fatal("in none of 10 tries the call that rang had its end within drainFor")
}

// drains is one run of TestDrainsOnSIGTERM. It returns false if the run took longer than
// bellhop waits.
func drains(t *testing.T) (inTime bool) {
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	pbx := newPeer(t, s.pbx.AddrPort)
	phone := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0"))
	talker := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0"))
	talker.invite(s, "talks")
	pbx.reply(s, pbx.gets("INVITE "), "200 OK")
	talker.gets("SIP/2.0 200 ")
	upstream := newPeer(t, netip.MustParseAddrPort("127.0.0.7:0"))
	upstream.askOptions(s, "before")
	upstream.gets("SIP/2.0 200 ")
	phone.invite(s, "rings")
	rings := pbx.gets("INVITE ")
	pbx.reply(s, rings, "180 Ringing")
	phone.gets("SIP/2.0 180 ")

	end := time.Now().Add(drainTimeout) // at the earliest
	p.signal(syscall.SIGTERM)
	tooLate := func() bool { return !time.Now().Before(end) }
	s.eventually("bellhop is no longer ready", func() bool {
		return s.status("/readyz") == http.StatusServiceUnavailable || tooLate()
	})
	if got := s.status("/healthz"); got != http.StatusOK && !tooLate() {
		t.Errorf("/healthz is %d while draining", got)
	}
	late := 0
	s.eventually("new calls are refused", func() bool {
		late++
		phone.invite(s, fmt.Sprintf("late-%d", late))
		answer, came := phone.getsBy(end, "SIP/2.0 ")
		if !came {
			return true
		}
		if strings.Contains(answer[0], " 503 ") && !strings.Contains(strings.Join(answer, "\n"), "\nRetry-After: ") {
			t.Errorf("a call is refused without Retry-After: %q", answer)
		}
		return strings.Contains(answer[0], " 503 ")
	})
	upstream.askOptions(s, "after")
	answer, probed := upstream.getsBy(end, "SIP/2.0 ")
	if probed && (!strings.Contains(answer[0], " 503 ") || !strings.Contains(strings.Join(answer, "\n"), "\nRetry-After: ")) {
		t.Errorf("OPTIONS is answered %q", answer)
	}
	select {
	case <-p.done:
		if !tooLate() {
			t.Fatal("bellhop did not wait for the call that rings")
		}
	default:
	}
	pbx.reply(s, rings, "486 Busy Here")
	_, acked := pbx.getsBy(end, "ACK ")
	_, refused := phone.getsBy(end, "SIP/2.0 486 ")
	p.exits(0, patience)
	return acked && refused && probed
}

// TestDrainEnds stops bellhop while a phone keeps ringing and a receiver does not
// answer: bellhop exits within the 10 s after which a service manager kills.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.receiver.down()
	silent, err := net.Listen("tcp", s.receiver.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.subscribe("json", "POST", "dial-out")
	pbx := newPeer(t, s.pbx.AddrPort)
	newPeer(t, netip.MustParseAddrPort("127.0.0.2:0")).invite(s, "rings")
	pbx.reply(s, pbx.gets("INVITE "), "180 Ringing")
	attempt, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer attempt.Close()
	p.stop()
}

// TestNoPBX places a call without a PBX at the configured address. Over TCP the kernel
// knows at once, and so do the caller and the subscriber. Over UDP the INVITE is
// retransmitted, and a PBX that was only restarting gets it.
func TestNoPBX(t *testing.T) {
	for _, proto := range []sip.Proto{sip.UDP, sip.TCP} {
		t.Run(proto.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, sip.UDP, proto)
			p := s.serve()
			s.subscribe("json", "POST", "dial-out", "hangup")
			phone := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0"))
			begin := time.Now()
			phone.invite(s, "lost")
			status, by := "CONGESTION", "system"
			if proto == sip.UDP {
				status, by = "BUSY", "callee"
				phone.gets("SIP/2.0 100 ")
				pbx := newPeer(t, s.pbx.AddrPort)
				pbx.reply(s, pbx.gets("INVITE "), "486 Busy Here")
				phone.gets("SIP/2.0 486 ")
			} else {
				phone.gets("SIP/2.0 500 ")
				if took := time.Since(begin); *soak && took > 5*time.Second {
					t.Errorf("the caller had to wait for %v", took)
				}
			}
			s.receiver.wait("a dial-out and a hangup", patience, func(came []received) bool { return len(came) == 2 })
			p.stop()
			for _, c := range s.once(1, "dial-out 1", "hangup 2") {
				if c.get("EventType") == "hangup" && (c.get("CallStatus") != status || c.get("hangup_by") != by) {
					t.Errorf("hangup is %v", c.fields)
				}
			}
		})
	}
}

// status requests a public page and returns the status, or 0 without an answer.
func (s *site) status(path string) int {
	res, err := client.Get("http://" + s.admin.String() + path)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// TestReloadsOnSIGHUPDuringTheStart sends SIGHUP while bellhop reads its config for the
// first time, from a named pipe. bellhop reads the config again once it is ready.
func TestReloadsOnSIGHUPDuringTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	text, err := os.ReadFile(filepath.Join(s.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(s.dir, "pipe.toml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := bellhop(t, "serve", "--config", pipe)
	open := func(what string) (w *os.File) {
		s.eventually(what, func() bool {
			select {
			case <-p.done:
				t.Fatalf("bellhop ended: %v", p.err)
			default:
			}
			w, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			return err == nil // bellhop has opened the other end
		})
		return w
	}
	w := open("bellhop reads its config")
	p.signal(syscall.SIGHUP)
	w.Write(text)
	w.Close()
	s.eventually("bellhop is ready", func() bool { return strings.Contains(p.out.String(), `"ready"`) })
	w = open("bellhop reads its config again")
	w.Write(text)
	w.Close()
	s.eventually("the config is reloaded", func() bool { return strings.Contains(p.out.String(), `"config reloaded"`) })
}

// TestReloadsOnSIGHUP makes bellhop read its config again. The log lists the applied
// keys and those that need a restart.
func TestReloadsOnSIGHUP(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	says := func(words ...string) {
		t.Helper()
		p.signal(syscall.SIGHUP)
		s.eventually(fmt.Sprintf("one line has %q", words), func() bool {
			for line := range strings.Lines(p.out.String()) {
				found := true
				for _, w := range words {
					found = found && strings.Contains(line, w)
				}
				if found {
					return true
				}
			}
			return false
		})
	}
	unadvertised, err := os.ReadFile(filepath.Join(s.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("config.toml", strings.Replace(string(unadvertised), "[sip]\n", "[sip]\nadvertise = \"sip.example.com\"\n", 1))
	says(`"config reloaded"`, `"applied":"sip.advertise"`, `"needs_restart":""`)
	s.configure("level = \"debug\"\n[extensions]\npattern = '^9[0-9]$'\n[calls]\nadd_cid = false\n")
	says(`"config reloaded"`, `"applied":"sip.advertise extensions.pattern log.level"`, `"needs_restart":"calls.add_cid"`)
	s.write("config.toml", "[sip]\nlisten = 5060\n")
	says(`"config reload rejected"`, "config.toml:2:")
	if got := s.status("/readyz"); got != http.StatusOK {
		t.Errorf("/readyz is %d after a reload", got)
	}
	p.stop()
}

// TestReloadsGuard changes the User-Agents that are dropped while bellhop runs. /metrics
// counts what was dropped.
func TestReloadsGuard(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	drop := func(name string) { s.configure(fmt.Sprintf("[guard]\nuser_agents = [%q]\n", name)) }
	drop("first-scanner")
	p := s.serve()
	scanner := newPeer(t, netip.MustParseAddrPort("127.0.0.5:0"))
	scan := func(name string) {
		scanner.send(s.hop, "OPTIONS sip:"+s.hop.String()+" SIP/2.0",
			fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-%s", scanner.c.LocalAddr(), name),
			"From: <sip:100@pbx.example>;tag=1", "To: <sip:100@pbx.example>", "Call-ID: "+name, "CSeq: 1 OPTIONS",
			"Max-Forwards: 70", "User-Agent: "+name)
	}
	const dropped = `bellhop_guard_dropped_total{reason="user_agent"}`
	scan("first-scanner")
	s.eventually("the first scanner is dropped", func() bool { return s.metric(dropped) == 1 })
	scan("second-scanner")
	scanner.gets("SIP/2.0 ")
	drop("second-scanner")
	p.signal(syscall.SIGHUP)
	s.eventually("the change is in force", func() bool {
		return strings.Contains(p.out.String(), `"applied":"guard.user_agents","needs_restart":""`)
	})
	scan("second-scanner-again")
	s.eventually("the second scanner is dropped", func() bool { return s.metric(dropped) == 2 })
	p.stop()
}

// TestAPIShowsExtensionKinds checks the kinds of extensions in the API, also after a
// reload: only a phone has messages.
func TestAPIShowsExtensionKinds(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	s.configure("[[extension]]\nnumber = '600'\nkind = 'queue'\n")
	p := s.serve()
	post := func() int {
		t.Helper()
		status, _ := s.request("POST", "/extension/600/event/", map[string]any{"url": "http://" + s.receiver.addr + "/", "event_type": "message-in"})
		return status
	}
	if got := post(); got != http.StatusBadRequest {
		t.Errorf("messages of a queue: %d, want 400", got)
	}
	s.configure("")
	p.signal(syscall.SIGHUP)
	s.eventually("it is no queue any more", func() bool { return post() == http.StatusCreated })
	p.stop()
}

// TestReloadsDeclaredSubscriptions declares one subscription in the config file, then
// another, then none.
func TestReloadsDeclaredSubscriptions(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	declare := func(dialect, method string) string {
		return fmt.Sprintf("\n[[subscription]]\nextension_regex = '.*'\ntypes = ['dial-out']\nurl = 'http://%s/%s'\ndialect = '%[2]s'\nmethod = '%s'\n", s.receiver.addr, dialect, method)
	}
	s.configure(declare("json", "POST"))
	p := s.serve()
	pbx := newPeer(t, s.pbx.AddrPort)
	phone := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0"))
	var list struct {
		Items []struct{ ID, URL, Declared string }
	}
	call := func(id, dialect string) {
		t.Helper()
		phone.invite(s, id)
		rings := pbx.gets("INVITE ")
		pbx.reply(s, rings, "180 Ringing")
		s.receiver.wait("a dial-out", patience, func(came []received) bool { return len(came) == 1 })
		if got := s.receiver.take()[0].dialect; got != dialect {
			t.Errorf("call %s came as %s, want %s", id, got, dialect)
		}
		pbx.reply(s, rings, "486 Busy Here")
		pbx.gets("ACK ")
		s.api("GET", "/v1/subscriptions", nil, &list)
		if len(list.Items) != 1 || list.Items[0].Declared != "[[subscription]] 1" || !strings.HasSuffix(list.Items[0].URL, dialect) {
			t.Errorf("listed are %v", list.Items)
		}
	}
	reload := func(more string, items int) {
		t.Helper()
		s.configure(more)
		p.signal(syscall.SIGHUP)
		s.eventually("the config is reloaded", func() bool {
			s.api("GET", "/v1/subscriptions", nil, &list)
			return len(list.Items) == items && (items == 0 || strings.Contains(more, list.Items[0].URL+"'"))
		})
	}
	call("first", "json")
	reload(declare("unified", "GET"), 1)
	call("second", "unified")
	id := list.Items[0].ID
	reload("", 0)
	p.stop()
	if came := s.receiver.take(); len(came) > 0 {
		t.Errorf("beyond what was declared came %v", came)
	}

	s.configure(declare("unified", "GET"))
	p = s.serve()
	call("third", "unified")
	if list.Items[0].ID != id {
		t.Errorf("its id is %s after a restart, was %s", list.Items[0].ID, id)
	}
	p.stop()
}

// TestReportsPortInUse starts bellhops with a port or store in use: each exits with one
// line that names it.
func TestReportsPortInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	refused := func(want string) {
		t.Helper()
		p := bellhop(t, "serve", "--config", filepath.Join(s.dir, "config.toml"))
		p.exits(1, patience)
		if got := p.out.String(); got != "bellhop: "+want+"\n" {
			t.Errorf("got %q\nwant %q", got, "bellhop: "+want+"\n")
		}
	}
	data := filepath.Join(s.dir, "data")

	udp := newPeer(t, s.hop)
	refused(fmt.Sprintf("cannot listen on udp://%v: the port is in use by another process", s.hop))
	udp.c.Close()

	for at, want := range map[netip.AddrPort]string{
		s.hop:   "cannot listen on tcp://%v: the port is in use by another process",
		s.admin: "listen on %v for the admin API: the port is in use by another process",
	} {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		refused(fmt.Sprintf(want, at))
		l.Close()
	}

	p := s.serve()
	other := newSite(t, sip.UDP, sip.UDP)
	config, err := os.ReadFile(filepath.Join(other.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("config.toml", strings.ReplaceAll(string(config), filepath.Join(other.dir, "data"), data))
	refused(fmt.Sprintf("open store %s: in use by another bellhop: stop that one, or set another store.dir", data))
	p.stop()
}
