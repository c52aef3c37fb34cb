//go:build interop

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"bellhop/sip"
)

// The tests in this file run pages with JsSIP and SIP.js in Chromium. `make browsers`
// runs them.

// TestBrowsers lets pages call each other over wss:// through bellhop and the small PBX of
// tests, which knows no hold and no transfer.
func TestBrowsers(t *testing.T) {
	s := newSite(t, sip.TCP, sip.UDP)
	s.startPBX()
	s.playBrowsers("small")
}

// mediaAddress is the address of Asterisk's media, which `make browsers` adds to its network
// namespace: Asterisk offers no ICE candidate of 127.0.0.0/8.
const mediaAddress = "192.0.2.1"

// TestBrowsersAtAsterisk lets pages call each other over wss:// through bellhop and a real
// Asterisk. The folder named by the environment variable PBX sets it up:
// testdata/README.md lists its files.
func TestBrowsersAtAsterisk(t *testing.T) {
	p := copyPBXFolder(t)
	p.edit("modules.conf", `(?m)^noload => res_pjsip_transport_websocket.so$`, "")
	p.edit("rtp.conf", `(?m)^icesupport=no$`, "icesupport=yes")
	p.edit("pjsip.conf", `(?m)^media_address=.*$`, "media_address="+mediaAddress)
	p.edit("pjsip.conf", `(?m)^\[phone\]\(!\)$`, "[phone](!)\nwebrtc=yes")
	p.start()
	s := newSite(t, sip.TCP, sip.UDP)
	s.pbx.AddrPort = netip.MustParseAddrPort("127.0.0.2:5060")
	s.playBrowsers("asterisk")
}

// browserStories are what a person does with the page of 101. 102 and 103 are pages too.
// The events of each story are in testdata/interop/browsers, in a folder for each PBX.
var browserStories = []struct {
	name string
	play func(p *phonePages)
}{
	{"calls", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.hangUp()
	}},
	{"calls-callee-hangs-up", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.two.hangUp()
	}},
	{"is-called", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.one.hangUp()
	}},
	{"is-called-caller-hangs-up", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.two.hangUp()
	}},
	{"holds", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.hold()
		p.one.do("it takes the call back", "phone.last().resume()")
		p.one.until("the call goes on", "!phone.last().held")
		p.one.hangUp()
	}},
	{"transfers", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.one.transfer(p.three)
		p.talk(p.two, p.three)
		p.three.hangUp()
	}},
	{"transfers-attended", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.one.hold()
		p.connect(p.one, p.three)
		p.one.do("it transfers the call", "phone.calls.at(-2).transferTo(phone.last())")
		p.one.until("the calls are joined", "phone.calls.at(-2).referred === 200")
		p.one.do("it hangs up", "phone.calls.at(-2).hangUp()")
		p.one.until("its calls have ended", `phone.calls.every(c => c.state === "ended")`)
		p.talk(p.two, p.three)
		p.three.hangUp()
	}},
	{"comes-back-hangs-up", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.reconnect(true)
		p.talk(p.one, p.two)
		p.one.hangUp()
	}},
	{"comes-back-callee-hangs-up", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.reconnect(true)
		p.talk(p.one, p.two)
		p.two.hangUp()
	}},
	{"comes-back-unnoticed-callee-hangs-up", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.reconnect(false)
		p.talk(p.one, p.two)
		p.two.hangUp()
	}},
	{"is-called-comes-back-caller-hangs-up", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.one.reconnect(true)
		p.talk(p.one, p.two)
		p.two.hangUp()
	}},
	{"comes-back-holds", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.reconnect(true)
		p.one.hold()
		p.one.hangUp()
	}},
	{"comes-back-transfers", func(p *phonePages) {
		p.connect(p.two, p.one)
		p.one.reconnect(true)
		p.one.transfer(p.three)
		p.talk(p.two, p.three)
		p.two.hangUp()
	}},
	{"comes-back-too-late", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.loseConnection(true)
		p.two.hangUp()
		p.one.waitForHangup()
		p.one.comeBack()
		p.one.hangUp()
	}},
	{"closes-in-a-call", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.close()
		p.two.hangUp()
	}},
	{"closes-and-hangs-up", func(p *phonePages) {
		p.connect(p.one, p.two)
		p.one.browser.until("it hangs up and is closed", `(phone.last().hangUp(), location.replace("about:blank"), true)`)
	}},
	{"closes-while-it-rings", func(p *phonePages) {
		p.one.answers(false)
		p.two.call(p.one)
		p.one.until("it rings", `phone.last()?.state === "ringing"`)
		p.one.close()
		p.two.hangUp()
	}},
	{"closes-while-it-calls", func(p *phonePages) {
		p.two.answers(false)
		p.one.call(p.two)
		p.two.until("it rings", `phone.last()?.state === "ringing"`)
		p.one.close()
		p.two.hangUp()
	}},
	{"closes-before-the-answer", func(p *phonePages) {
		p.two.answers(false)
		p.one.call(p.two)
		p.two.until("it rings", `phone.last()?.state === "ringing"`)
		p.one.close()
		p.two.do("it answers", "phone.last().answer()")
		p.two.until("the call is up", `phone.last().state === "up"`)
		p.two.hangUp()
	}},
}

// playBrowsers plays the stories that a PBX has events for, with each library as the phone
// of 101. 102 has the other library.
func (s *site) playBrowsers(pbx string) {
	origin := servePages(s.t, readPhones(s.t))
	cert, key := newCertificate(s.t, 1, s.hop.Addr().AsSlice())
	listener := freePort(s.t, "127.0.0.4")
	s.configure(fmt.Sprintf("[guard]\nallow = [\"127.0.0.0/8\"]\n[[listener]]\nlisten = \"wss://%v\"\norigins = [%q]\ntls_cert = ['''%s''']\ntls_key = ['''%s''']\n", listener, origin, cert, key))
	hop := s.serve()
	s.subscribe("json", "POST", interopTypes...)

	p := &phonePages{site: s, one: s.newPhonePage(origin, listener, "101"), two: s.newPhonePage(origin, listener, "102"), three: s.newPhonePage(origin, listener, "103")}
	p.three.library = "JsSIP"
	report := newReport(s.t)
	for _, libraries := range [][2]string{{"JsSIP", "SIP.js"}, {"SIP.js", "JsSIP"}} {
		p.one.library, p.two.library = libraries[0], libraries[1]
		for _, story := range browserStories {
			file := filepath.Join("..", "..", "testdata", "interop", "browsers", pbx, story.name+".txt")
			want, err := readExpectation(file)
			if os.IsNotExist(err) {
				continue // this PBX cannot do it
			}
			if err != nil {
				s.t.Fatal(err)
			}
			s.t.Run(libraries[0]+"/"+story.name, func(t *testing.T) {
				p := p.in(t)
				for _, page := range []*phonePage{p.one, p.two, p.three} {
					page.open()
				}
				p.site.settled(time.Now(), nil)
				begin := time.Now()
				story.play(p)
				r := result{scenario: libraries[0] + " " + story.name, want: want}
				r.came, r.differences = p.site.settled(begin, nil)
				report.add(t, r, file)
			})
		}
	}
	hop.stop()
}

// readPhones returns the script that `make browsers` has made of testdata/browsers.
func readPhones(t *testing.T) string {
	b, err := os.ReadFile(os.Getenv("PHONES"))
	if err != nil {
		t.Fatalf("the environment variable PHONES does not name the script of the pages: run make browsers: %v", err)
	}
	return string(b)
}

// phonePages are the pages of 101, 102 and 103.
type phonePages struct {
	site            *site
	one, two, three *phonePage
}

// in returns the pages as those of a subtest.
func (p phonePages) in(t *testing.T) *phonePages {
	s := *p.site
	s.t = t
	move := func(page *phonePage) *phonePage {
		moved, b := *page, *page.browser
		b.site = &s
		moved.browser = &b
		return &moved
	}
	return &phonePages{&s, move(p.one), move(p.two), move(p.three)}
}

// connect lets a page call another, and waits until they talk.
func (p *phonePages) connect(caller, callee *phonePage) {
	p.site.t.Helper()
	caller.call(callee)
	p.talk(caller, callee)
}

// talk waits until voice arrives at two pages.
func (p *phonePages) talk(pages ...*phonePage) {
	p.site.t.Helper()
	for _, page := range pages {
		page.until("the call is up", `phone.last()?.state === "up"`)
		page.do("it counts packets", "phone.last().talked = phone.last().packets")
		page.until("voice arrives", "phone.last().packets > phone.last().talked + 20")
	}
}

// A phonePage is a Chromium whose page is the phone of an extension.
type phonePage struct {
	*browser
	origin             string
	extension, library string
	network            *network
}

func (s *site) newPhonePage(origin string, hop netip.AddrPort, extension string) *phonePage {
	b := s.startChromium("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream", "ignore-certificate-errors", "allow-loopback-in-peer-connection",
		"disable-back-forward-cache") // a page in that cache keeps its connection
	return &phonePage{browser: b, origin: origin, extension: extension, network: newNetwork(s.t, hop)}
}

// open loads the page anew, and waits until its phone is registered.
func (p *phonePage) open() {
	p.t.Helper()
	p.network.restore()
	p.browser.do(chromedp.Navigate(p.origin))
	p.browser.until("the page is loaded", `typeof start === "function"`)
	p.do("it starts", fmt.Sprintf("start(%q, %q, %q)", p.library, p.extension, "wss://"+p.network.listener.Addr().String()+"/"))
	p.until("it is registered", "phone.registrations > 0")
}

// do runs a statement in the page.
func (p *phonePage) do(what, statement string) {
	p.t.Helper()
	p.until(what, "("+statement+", true)")
}

// until waits until an expression is true in the page.
func (p *phonePage) until(what, expression string) {
	p.t.Helper()
	p.browser.until(fmt.Sprintf("on the page of %s with %s, %s", p.extension, p.library, what), expression)
}

// answers says whether the page answers calls at once.
func (p *phonePage) answers(answers bool) {
	p.t.Helper()
	p.do("it is set up", fmt.Sprintf("phone.answers = %v", answers))
}

func (p *phonePage) call(callee *phonePage) {
	p.t.Helper()
	p.do("it calls", fmt.Sprintf("phone.call(%q)", callee.extension))
}

func (p *phonePage) hold() {
	p.t.Helper()
	p.do("it holds the call", "phone.last().hold()")
	p.until("the call is held", "phone.last().held")
}

// transfer transfers the call of the page, and hangs up when the PBX has accepted.
func (p *phonePage) transfer(target *phonePage) {
	p.t.Helper()
	p.do("it transfers the call", fmt.Sprintf("phone.last().transfer(%q)", target.extension))
	p.until("the PBX has transferred the call", "phone.last().referred === 200")
	p.hangUp()
}

func (p *phonePage) hangUp() {
	p.t.Helper()
	p.do("it hangs up", "phone.last().hangUp()")
	p.until("the call has ended", `phone.last().state === "ended"`)
}

// waitForHangup waits for the event that the call of the page has ended.
func (p *phonePage) waitForHangup() {
	p.t.Helper()
	p.site.receiver.wait("the hangup of "+p.extension, patience, func(came []received) bool {
		return slices.ContainsFunc(came, func(c received) bool { return c.fields["event_type"] == "hangup" && c.extension() == p.extension })
	})
}

// close leaves the page, without a word to the phone, and waits until its connection is
// closed.
func (p *phonePage) close() {
	p.t.Helper()
	p.browser.do(chromedp.Navigate("about:blank"))
	p.eventually("the connection of the page of "+p.extension+" is closed", func() bool { return p.network.open.Load() == 0 })
}

// loseConnection takes the connection from the page. bellhop loses it too if it notices.
func (p *phonePage) loseConnection(noticed bool) {
	p.t.Helper()
	p.network.lose(noticed)
	p.until("the connection is lost", "!phone.connected")
}

// reconnect takes the connection from the page, and waits until it is back.
func (p *phonePage) reconnect(noticed bool) {
	p.loseConnection(noticed)
	p.comeBack()
}

// comeBack waits until the page has connected and registered again.
func (p *phonePage) comeBack() {
	p.t.Helper()
	p.do("it counts registrations", "phone.before = phone.registrations")
	p.network.restore()
	p.until("it is registered again", "phone.registrations > phone.before")
}

// A network carries connections from a page to bellhop, and can lose them.
type network struct {
	t        *testing.T
	listener net.Listener
	to       netip.AddrPort
	carriers sync.WaitGroup
	open     atomic.Int32 // connections that their pages have not closed

	mu    sync.Mutex
	lost  bool
	conns []net.Conn // of pages and of bellhop, in turn
}

func newNetwork(t *testing.T, to netip.AddrPort) *network {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, listener: l, to: to}
	n.carriers.Go(n.accept)
	t.Cleanup(func() {
		l.Close()
		n.lose(true)
		n.carriers.Wait()
	})
	return n
}

func (n *network) accept() {
	for {
		page, err := n.listener.Accept()
		if err != nil {
			return
		}
		hop, err := net.Dial("tcp4", n.to.String())
		if err != nil {
			page.Close()
			continue
		}
		n.mu.Lock()
		if n.lost {
			reset(page, hop)
		}
		n.conns = append(n.conns, page, hop)
		n.mu.Unlock()
		n.open.Add(1)
		n.carriers.Go(func() {
			carry(hop, page)
			n.open.Add(-1)
		})
		n.carriers.Go(func() { carry(page, hop) })
	}
}

// carry copies what arrives until one connection ends, and ends the other alike.
func carry(to, from net.Conn) {
	if _, err := io.Copy(to, from); err == nil {
		to.(*net.TCPConn).CloseWrite()
	}
}

// lose resets the connections of the page, and those to bellhop too if it should notice.
// New connections fail until restore.
func (n *network) lose(noticed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = true
	for i, c := range n.conns {
		if noticed || i%2 == 0 {
			reset(c)
		}
	}
	if noticed {
		n.conns = nil
	}
}

func (n *network) restore() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = false
}

// reset ends connections as a lost network does: without a farewell.
func reset(conns ...net.Conn) {
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
