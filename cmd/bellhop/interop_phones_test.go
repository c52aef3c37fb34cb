//go:build interop

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// A softphone is a phone of others that a test operates. It answers every call.
type softphone interface {
	dial(number string)
	hold()
	resume()
	transfer(number string) // without asking the other party
	hangup()
	calls() int     // that it has now
	registers() int // how often a registration was accepted
}

// A softphonePlace says where a softphone runs, and how it reaches bellhop.
type softphonePlace struct {
	command   []string // enters the network namespace; empty: that of the test
	ip        string   // its own address
	server    string   // bellhop's address and port; linphone knows no address in a certificate
	transport string
	ca        string // PEM file
}

// softphoneStories are what a person does with the phone of 101. 102 and 103 are phones
// over UDP that answer. The events of each are in testdata/interop/phones. No story in
// which 101 is called follows one in which it comes back: a PBX whose OPTIONS found no
// phone in between does not call it until its next OPTIONS.
var softphoneStories = []struct {
	name string
	play func(d *desk)
}{
	{"calls", func(d *desk) { d.connect(d.own, "102"); d.own.hangup() }},
	{"calls, callee hangs up", func(d *desk) { d.connect(d.own, "102"); d.others["102"].hangup() }},
	{"is called", func(d *desk) { d.connect(d.others["102"], "101"); d.own.hangup() }},
	{"is called, caller hangs up", func(d *desk) { d.connect(d.others["102"], "101"); d.others["102"].hangup() }},
	{"holds", func(d *desk) {
		d.connect(d.own, "102")
		d.own.hold()
		d.comes("hold", "101")
		d.own.resume()
		d.comes("resume", "101")
		d.own.hangup()
	}},
	{"transfers", func(d *desk) {
		d.connect(d.own, "102")
		d.own.transfer("103")
		d.comes("transfer", "101")
		d.comes("answer", "103")
		d.others["102"].hangup()
	}},
	{"is called, comes back, caller hangs up", func(d *desk) {
		d.connect(d.others["102"], "101")
		d.loseConnection()
		d.others["102"].hangup()
	}},
	{"comes back, callee hangs up", func(d *desk) { d.connect(d.own, "102"); d.loseConnection(); d.others["102"].hangup() }},
	{"comes back, hangs up", func(d *desk) { d.connect(d.own, "102"); d.loseConnection(); d.own.hangup() }},
}

// A desk has the phone of 101, and those that it speaks with.
type desk struct {
	*site
	own    softphone
	others map[string]softphone // by extension
	cut    func()               // takes the connection from the phone of 101
}

// comes waits until an event of an extension has come.
func (d *desk) comes(typ, extension string) {
	d.t.Helper()
	d.within(time.Minute, "the event "+typ+" of "+extension+" has come", func() bool {
		d.receiver.mu.Lock()
		defer d.receiver.mu.Unlock()
		return slices.ContainsFunc(d.receiver.came, func(c received) bool { return c.fields["event_type"] == typ && c.extension() == extension })
	})
}

// connect lets a phone call an extension, and waits until both have answered.
func (d *desk) connect(from softphone, number string) {
	d.t.Helper()
	from.dial(number)
	d.comes("answer", "101")
	d.comes("answer", "102")
	d.within(time.Minute, "the phone of 101 is in a call", func() bool { return d.own.calls() == 1 })
	<-time.After(500 * time.Millisecond) // the ACK of the callee passes bellhop last
}

// loseConnection takes the connection from the phone of 101, and waits until the phone has
// registered again.
func (d *desk) loseConnection() {
	d.t.Helper()
	before := d.own.registers()
	d.cut()
	d.within(2*time.Minute, "the phone registers again", func() bool { return d.own.registers() > before })
}

// play plays a story, and compares the events with those expected. A client that makes
// the PBX send something else has a file of its own.
func (d *desk) play(report *report, client, name string, story func(d *desk)) {
	path := filepath.Join("..", "..", "testdata", "interop", "phones", strings.NewReplacer(",", "", " ", "-").Replace(name))
	program, _, _ := strings.Cut(client, " ")
	file := path + "-" + program + ".txt"
	if _, err := os.Stat(file); err != nil {
		file = path + ".txt"
	}
	want, err := readExpectation(file)
	if err != nil {
		d.t.Fatal(err)
	}
	r := result{scenario: client + ": " + name, want: want}
	begin := time.Now()
	story(d)
	r.came, r.differences = d.settled(begin, nil)
	for ext, p := range d.others {
		d.within(time.Minute, "the call of "+ext+" has ended", func() bool { return p.calls() == 0 })
	}
	d.within(time.Minute, "the call of 101 has ended", func() bool { return d.own.calls() == 0 })
	report.add(d.t, r, file)
}

// TestInteropPhones has real phones register, call, be called, hold, transfer, hang up,
// and lose their connection in a call, through bellhop and a real Asterisk.
func TestInteropPhones(t *testing.T) {
	p := openPBXFolder(t)
	p.start()
	s := newInteropSite(t)
	inPhones := s.openNAT()
	ca := s.configurePhones()
	hop := s.serve()
	s.subscribe("json", "POST", interopTypes...)
	others := map[string]softphone{}
	for _, ext := range []string{"102", "103"} {
		others[ext] = s.startBaresip(ext, softphonePlace{ip: "127.0.0.1" + ext[2:], server: "127.0.0.1:5060", transport: "udp"})
	}
	s.registered("102", "103")

	report := newReport(t)
	for _, tt := range []struct {
		client string
		start  func(s *site, ext string, at softphonePlace) softphone
		at     softphonePlace
	}{
		{"baresip over UDP", startBaresip, softphonePlace{ip: "127.0.0.11", server: "127.0.0.1:5060", transport: "udp"}},
		{"baresip over TCP", startBaresip, softphonePlace{ip: "127.0.0.11", server: "127.0.0.1:5060", transport: "tcp"}},
		{"baresip over TLS", startBaresip, softphonePlace{ip: "127.0.0.11", server: "127.0.0.1:5061", transport: "tls", ca: ca}},
		{"linphone over TLS", startLinphone, softphonePlace{ip: "127.0.0.11", server: "localhost:5061", transport: "tls", ca: ca}},
		{"baresip behind a NAT over UDP", startBaresip, softphonePlace{command: inPhones, ip: natPhone, server: natAddr + ":5060", transport: "udp"}},
		{"baresip behind a NAT over TLS", startBaresip, softphonePlace{command: inPhones, ip: natPhone, server: natAddr + ":5061", transport: "tls", ca: ca}},
	} {
		t.Run(tt.client, func(t *testing.T) {
			s := *s
			s.t = t
			own := tt.start(&s, "101", tt.at)
			s.registered("101")
			for _, story := range softphoneStories {
				t.Run(story.name, func(t *testing.T) {
					s := s
					s.t = t
					d := &desk{site: &s, own: own, others: others, cut: func() { s.cutConnections(tt.at) }}
					if tt.at.ip == natPhone {
						d.cut = s.resetNAT
						if strings.HasPrefix(story.name, "is called") {
							<-time.After(natForgets * 3 / 2) // bellhop keeps the NAT open
						}
					}
					d.play(report, tt.client, story.name, story.play)
				})
			}
		})
		s.receiver.take() // the phone has unregistered
	}
	t.Run("SIPp through stunnel", func(t *testing.T) {
		s := *s
		s.t = t
		s.startStunnel(ca)
		for _, story := range softphoneStories[:4] { // calls, and is called
			t.Run(story.name, func(t *testing.T) {
				s := s
				s.t = t
				own := &sippPhone{site: &s}
				if strings.HasPrefix(story.name, "is called") {
					own.start("registers", "-oocsf", stunnelScenario("answers"), "-m", "2", "-l", "1")
					s.registered("101")
				}
				d := &desk{site: &s, own: own, others: others}
				d.play(report, "SIPp through stunnel", story.name, story.play)
				own.exits(0, time.Minute)
				s.receiver.take() // the phone has unregistered
			})
		}
	})
	hop.stop()
}

// configurePhones writes a config with listeners for TLS and for phones behind the NAT,
// and returns the file of the authority of its certificate.
func (s *site) configurePhones() (ca string) {
	authority := siptest.NewAuthority("phones")
	cert, key := authority.Issue(siptest.CertificateRequest{Hosts: []string{s.hop.Addr().String(), "localhost", natAddr}})
	for name, b := range map[string][]byte{"phones.crt": cert, "phones.key": key, "ca.crt": authority.PEM()} {
		s.write(name, string(b))
	}
	config := asteriskConfig() + "[nat]\nkeepalive = \"5s\"\n[[listener]]\nlisten = \"udp://" + natAddr + ":5060\"\n"
	for _, ip := range []string{s.hop.Addr().String(), natAddr} {
		config += fmt.Sprintf("[[listener]]\nlisten = \"tls://%s:5061\"\ntls_cert = ['file:%s']\ntls_key = ['file:%s']\n",
			ip, filepath.Join(s.dir, "phones.crt"), filepath.Join(s.dir, "phones.key"))
	}
	s.configure(config)
	return filepath.Join(s.dir, "ca.crt")
}

// registered waits for the registrations of phones, and takes their events.
func (s *site) registered(extensions ...string) {
	s.t.Helper()
	for _, ext := range extensions {
		(&desk{site: s}).comes("registered", ext)
	}
	s.receiver.take()
}

// cutConnections takes the connection from the phone at a place: both ends of a stream get
// a reset. A phone over UDP is unreachable for a while.
func (s *site) cutConnections(at softphonePlace) {
	s.t.Helper()
	if at.transport != "udp" {
		_, port, _ := net.SplitHostPort(at.server)
		s.shell("ss", "--kill", "--tcp", "state", "established", "( sport = "+port+" or dport = "+port+" )")
		return
	}
	s.shell("nft", "table ip bellhop_cut { chain output { type filter hook output priority 0; ip saddr "+at.ip+" drop; ip daddr "+at.ip+" drop; }; }")
	<-time.After(3 * time.Second)
	s.shell("nft", "delete table ip bellhop_cut")
}

// shell runs a command.
func (s *site) shell(args ...string) {
	s.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// A baresip is a baresip process.
type baresip struct {
	*process
	conn net.Conn
	host string // of the URIs that it calls; it adds the transport of its account

	mu       sync.Mutex
	accepted int
	answers  chan string
}

// startBaresip is site.startBaresip for the table of clients.
func startBaresip(s *site, ext string, at softphonePlace) softphone { return s.startBaresip(ext, at) }

// startBaresip starts baresip as the phone of an extension.
func (s *site) startBaresip(ext string, at softphonePlace) *baresip {
	s.t.Helper()
	dir := s.t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	ca := ""
	if at.ca != "" {
		ca = "sip_cafile " + at.ca + "\n"
	}
	port := 30000 + 100*int(ext[2]-'0')
	write("config", fmt.Sprintf(`poll_method epoll
sip_listen %[1]s:5060
net_interface %[1]s
call_local_timeout 120
call_max_calls 4
audio_player aubridge,nil
audio_source ausine,440
ausrc_srate 48000
ausrc_channels 2
audio_alert aubridge,nil2
audio_path %[2]s
rtp_ports %[3]d-%[4]d
module_path /usr/lib/baresip/modules
module g711.so
module ausine.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen %[1]s:4444
menu_bell no
ringback_disabled yes
%[5]s`, at.ip, dir, port, port+99, ca))
	write("accounts", fmt.Sprintf("\"Phone %[1]s\" <sip:%[1]s@%[2]s;transport=%[3]s>;auth_user=%[1]s;auth_pass=pw%[1]s;answermode=auto;regint=30\n", ext, at.server, at.transport))
	write("contacts", "")
	path, err := exec.LookPath("baresip")
	if err != nil {
		s.t.Fatal("this test needs baresip: as root, run: apt-get update && apt-get install -y baresip-core")
	}
	args := append(slices.Clone(at.command), path, "-f", dir, "-v")
	b := &baresip{process: launch(s.t, "baresip "+ext, exec.Command(args[0], args[1:]...)), host: at.server, answers: make(chan string, 100)}
	s.eventually("baresip is ready", func() bool {
		b.conn, err = net.Dial("tcp", at.ip+":4444")
		return err == nil
	})
	go b.read()
	s.t.Cleanup(func() {
		b.order("quit", "")
		b.conn.Close()
		b.exits(0, time.Minute)
	})
	return b
}

// read reads the answers and events of baresip: netstrings of JSON.
func (b *baresip) read() {
	r := bufio.NewReader(b.conn)
	for {
		size, err := r.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(size, ":"))
		if err != nil {
			return
		}
		text := make([]byte, n+1) // with the comma
		if _, err := io.ReadFull(r, text); err != nil {
			return
		}
		var m struct {
			Response bool
			Type     string
			Data     string
		}
		if json.Unmarshal(text[:n], &m) != nil {
			continue
		}
		if m.Type == "REGISTER_OK" {
			b.mu.Lock()
			b.accepted++
			b.mu.Unlock()
		}
		if m.Response {
			b.answers <- m.Data
		}
	}
}

// order has baresip do something.
func (b *baresip) order(command, params string) {
	text, err := json.Marshal(map[string]string{"command": command, "params": params})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(b.conn, "%d:%s,", len(text), text); err != nil {
		b.t.Errorf("baresip: %v", err)
	}
}

// ask is order with an answer.
func (b *baresip) ask(command, params string) string {
	b.order(command, params)
	select {
	case answer := <-b.answers:
		return answer
	case <-time.After(time.Minute):
		b.t.Errorf("%s did not answer the command %s", b.name, command)
		return ""
	}
}

func (b *baresip) dial(number string)     { b.ask("dial", "sip:"+number+"@"+b.host) }
func (b *baresip) hold()                  { b.ask("hold", "") }
func (b *baresip) resume()                { b.ask("resume", "") }
func (b *baresip) transfer(number string) { b.ask("transfer", "sip:"+number+"@"+b.host) }
func (b *baresip) hangup()                { b.ask("hangup", "") }

func (b *baresip) calls() int { return strings.Count(b.ask("listcalls", ""), "sip:") }

func (b *baresip) registers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

// A linphone is a linphonec process.
type linphone struct {
	*process
	in   io.Writer
	host string // of the URIs that it calls, with the transport
	log  string // file
}

// startLinphone starts linphonec as the phone of an extension.
func startLinphone(s *site, ext string, at softphonePlace) softphone {
	s.t.Helper()
	dir := s.t.TempDir()
	rc := fmt.Sprintf(`[sip]
sip_port=-1
sip_tcp_port=-1
sip_tls_port=-1
use_ipv6=0
default_proxy=0
guess_hostname=0
contact="Phone %[1]s" <sip:%[1]s@%[2]s>
root_ca=%[4]s
verify_server_certs=1
verify_server_cn=1
keepalive_period=0
[rtp]
audio_rtp_port=%[5]d
[net]
mtu=0
[video]
enabled=0
capture=0
display=0
[auth_info_0]
username=%[1]s
passwd=pw%[1]s
realm=asterisk
[proxy_0]
reg_proxy=<sip:%[3]s;transport=%[6]s>
reg_route=<sip:%[3]s;transport=%[6]s;lr>
reg_identity="Phone %[1]s" <sip:%[1]s@%[7]s>
reg_expires=30
reg_sendregister=1
publish=0
`, ext, at.ip, at.server, at.ca, 30000+100*int(ext[2]-'0'), at.transport, s.hop.Addr())
	if err := os.WriteFile(filepath.Join(dir, "rc"), []byte(rc), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".local", "share", "linphone"), 0o700); err != nil { // it starts no network without its database
		s.t.Fatal(err)
	}
	s.shell("ip", "route", "replace", "default", "dev", "lo", "src", at.ip) // linphone takes its address from there, and 127.0.0.1 for no network
	s.t.Cleanup(func() { s.shell("ip", "route", "delete", "default", "dev", "lo") })
	path, err := exec.LookPath("linphonec")
	if err != nil {
		s.t.Fatal("this test needs linphonec: as root, run: apt-get update && apt-get install -y linphone-cli")
	}
	cmd := exec.Command(path, "-a", "-c", filepath.Join(dir, "rc"), "-d", "3", "-l", filepath.Join(dir, "log"))
	cmd.Env = append(os.Environ(), "HOME="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	l := &linphone{process: launch(s.t, "linphonec "+ext, cmd), in: in, host: at.server + ";transport=" + at.transport, log: filepath.Join(dir, "log")}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			if b, err := os.ReadFile(filepath.Join(dir, "log")); err == nil {
				s.t.Logf("linphonec %s:\n%s", ext, tail(string(b)))
			}
		}
		l.order("quit")
		l.exits(0, time.Minute)
	})
	l.order("soundcard use files /usr/share/sounds/linphone/hello8000.wav")
	return l
}

func (l *linphone) order(line string) {
	if _, err := fmt.Fprintln(l.in, line); err != nil {
		l.t.Errorf("linphonec: %v", err)
	}
}

func (l *linphone) dial(number string)     { l.order("call sip:" + number + "@" + l.host) }
func (l *linphone) resume()                { l.order("resume") }
func (l *linphone) transfer(number string) { l.order("transfer sip:" + number + "@" + l.host) }
func (l *linphone) hangup()                { l.order("terminate all") }

// hold also waits until the call is paused: before, linphonec does not resume it.
func (l *linphone) hold() {
	l.order("pause")
	(&site{t: l.t}).within(time.Minute, "the call of "+l.name+" is paused", func() bool { return strings.Contains(l.list(), "| Paused ") })
}

func (l *linphone) calls() int {
	answer := l.list()
	if answer == "" {
		return -1
	}
	return strings.Count(answer, "sip:")
}

// list returns the calls that linphonec lists, or "" if it does not answer.
func (l *linphone) list() string {
	before := len(l.out.String())
	l.order("calls")
	for range 100 {
		<-time.After(20 * time.Millisecond)
		answer := l.out.String()[before:]
		if strings.Contains(answer, "No active call") {
			return "none"
		}
		if strings.Contains(answer, "Call states") {
			<-time.After(50 * time.Millisecond)
			return l.out.String()[before:]
		}
	}
	return ""
}

// registers counts the accepted REGISTERs in the log. linphonec itself reports only the
// first of them.
func (l *linphone) registers() (n int) {
	b, err := os.ReadFile(l.log)
	if err != nil {
		l.t.Errorf("linphonec: %v", err)
	}
	for _, part := range strings.Split(string(b), "SIP/2.0 200 ")[1:] {
		head, _, _ := strings.Cut(strings.ReplaceAll(part, "\r\n", "\n"), "\n\n")
		if strings.Contains(head, " REGISTER\n") {
			n++
		}
	}
	return n
}

// startStunnel starts a stunnel that passes what comes to 127.0.0.11:5070 on to bellhop's
// listener for TLS. It verifies bellhop's certificate.
func (s *site) startStunnel(ca string) {
	s.t.Helper()
	path, err := exec.LookPath("stunnel4")
	if err != nil {
		s.t.Fatal("this test needs stunnel: as root, run: apt-get update && apt-get install -y stunnel4")
	}
	config := filepath.Join(s.t.TempDir(), "stunnel.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `foreground = yes
pid =
[sip]
client = yes
accept = 127.0.0.11:5070
connect = %[1]v:5061
CAfile = %[2]s
verifyChain = yes
checkIP = %[1]v
`, s.hop.Addr(), ca), 0o600); err != nil {
		s.t.Fatal(err)
	}
	p := launch(s.t, "stunnel", exec.Command(path, config))
	s.t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		<-p.done
	})
	s.eventually("stunnel is ready", func() bool {
		return bound(s.t, sip.Addr{Proto: sip.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.11:5070")})
	})
}

// stunnelScenario returns the file of a scenario of SIPp for the phone of 101.
func stunnelScenario(name string) string {
	return filepath.Join("..", "..", "testdata", "interop", "stunnel", name+".xml")
}

// A sippPhone is SIPp as the phone of 101, which reaches bellhop through stunnel. It hangs
// up by itself if the other end does not.
type sippPhone struct {
	*site
	*process
	messages string // file of all that it sent and got
}

// start starts SIPp with a scenario.
func (p *sippPhone) start(scenario string, args ...string) {
	p.site.t.Helper()
	path, err := exec.LookPath("sipp")
	if err != nil {
		p.site.t.Fatal("this test needs SIPp: as root, run: apt-get update && apt-get install -y sip-tester")
	}
	dir := p.site.t.TempDir()
	p.messages = filepath.Join(dir, "messages")
	cmd := exec.Command(path, append([]string{
		"-sf", stunnelScenario(scenario), "-i", "127.0.0.11", "-mi", "127.0.0.11", "-p", "5072", "-t", "t1", "-nostdin",
		"-timeout", "60s", "-timeout_error", "-trace_err", "-error_file", filepath.Join(dir, "errors"),
		"-trace_msg", "-message_file", p.messages,
	}, append(args, "127.0.0.11:5070")...)...)
	cmd.Stdout = io.Discard // pictures of its counters
	t := p.site.t
	t.Cleanup(func() { // after launch's, so that it has ended
		if t.Failed() {
			for _, name := range []string{"errors", "messages"} {
				if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					t.Logf("%s of %s:\n%s", name, scenario, tail(string(b)))
				}
			}
		}
	})
	p.process = launch(t, "sipp "+scenario, cmd)
}

func (p *sippPhone) dial(string)     { p.start("calls", "-m", "1") } // it calls 102
func (p *sippPhone) hangup()         {}
func (p *sippPhone) hold()           { p.site.t.Fatal("SIPp does not hold") }
func (p *sippPhone) resume()         { p.site.t.Fatal("SIPp does not resume") }
func (p *sippPhone) transfer(string) { p.site.t.Fatal("SIPp does not transfer") }
func (p *sippPhone) registers() int  { return 0 }

// calls reports the call as over once SIPp has sent or got a BYE.
func (p *sippPhone) calls() int {
	b, err := os.ReadFile(p.messages)
	if err != nil || !strings.Contains(string(b), "CSeq: 4 ACK") && !strings.Contains(string(b), "\nACK sip:101") || strings.Contains(string(b), "\nBYE ") {
		return 0
	}
	return 1
}
