package trace

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"bellhop/dialog"
)

var update = flag.Bool("update", false, "rewrite the ladders in testdata")

// TestTextMatchesGoldenLadder compares a ladder with the reviewed one in testdata.
func TestTextMatchesGoldenLadder(t *testing.T) {
	r := newTestRecorder(t, 10)
	a, b := callerLeg("one"), calleeLeg("two", cid)
	a.body = sdp
	c := r.wantRecorded(r.playCall(a, b))
	const file = "testdata/call.txt"
	if *update {
		if err := os.WriteFile(file, []byte(c.Text()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Text(); got != string(want) {
		t.Errorf("got\n%s", got)
	}
}

const attackText = `<img src=x onerror=alert(1)>`

// recordHostileCall records a call with markup and control characters wherever a peer
// can put them.
func recordHostileCall(t *testing.T) Call {
	r := newTestRecorder(t, 10)
	a := callerLeg("one")
	a.from = `"` + attackText + `" <sip:` + "\x1b]0;x\x07\u202e\xff\"'&lt;]]>-->" + `@pbx.example>`
	a.head = "X: </svg><script>alert(1)</script>\x1b[2J\r\n"
	r.observe(a.request("INVITE"))
	m := a.response("INVITE", 180)
	m.Head = strings.Replace(m.Head, "Ringing", attackText+"\x1b[31m\x00", 1)
	r.observe(m)
	odd := a.request(`INFO`)
	odd.Method = attackText
	odd.Head = attackText + " sip:x SIP/2.0\r\n" + odd.Head
	r.observe(odd)
	id, _ := r.tracker.CallOf("one")
	c := r.wantRecorded(id)
	c.Ends[1].Name = attackText + c.Ends[1].Name
	c.Ends[0].Name = `"/><script>`
	return c
}

// TestPictureIsInert: the picture of a hostile call is well-formed XML with drawing
// elements only, and with the requested links.
func TestPictureIsInert(t *testing.T) {
	draws := map[string]string{
		"a": "href target", "svg": "xmlns class role width height viewBox", "title": "", "style": "", "g": "class",
		"rect": "class x y width height rx", "text": "class x y", "path": "class d", "circle": "class cx cy r", "tspan": "class dx",
	}
	c := recordHostileCall(t)
	picture := c.SVG(`/"` + attackText)
	d := xml.NewDecoder(strings.NewReader(picture))
	texts, links := "", 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		switch e := token.(type) {
		case xml.StartElement:
			attributes, ok := draws[e.Name.Local]
			if !ok {
				t.Errorf("the picture has a <%s>", e.Name.Local)
			}
			for _, a := range e.Attr {
				if !strings.Contains(" "+attributes+" ", " "+a.Name.Local+" ") {
					t.Errorf("<%s> has a %s", e.Name.Local, a.Name.Local)
				}
				if a.Name.Local == "href" {
					if want := fmt.Sprintf(`/"%s%d`, attackText, links); a.Value != want {
						t.Errorf("it links to %q, want %q", a.Value, want)
					}
					links++
				}
			}
		case xml.CharData:
			texts += string(e)
		case xml.Comment, xml.ProcInst, xml.Directive:
			t.Errorf("the picture has a %T", e)
		}
	}
	if links != len(c.Messages) || strings.Contains(c.SVG(""), "<a ") {
		t.Errorf("%d links for %d messages, or links although none are wanted", links, len(c.Messages))
	}
	if !strings.Contains(texts, attackText) {
		t.Error("the display name is not shown")
	}
	for _, bad := range []string{"\x1b", "\x00", "\u202e", attackText, "<script"} {
		if strings.Contains(picture, bad) {
			t.Errorf("the picture contains %q", bad)
		}
	}
}

func TestTextHasNoControlCharacters(t *testing.T) {
	c := recordHostileCall(t)
	for _, r := range c.Text() {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e {
			t.Errorf("the text contains %q", r)
		}
	}
}

// TestUnusualLaddersAreDrawn draws calls that are not from a phone to a phone.
func TestUnusualLaddersAreDrawn(t *testing.T) {
	for _, tt := range []struct {
		name    string
		see     func(*testRecorder)
		columns string
	}{
		{"no callee", func(r *testRecorder) { r.observe(callerLeg("one").request("INVITE")) }, "101 bellhop pbx"},
		{"no caller", func(r *testRecorder) { r.observe(calleeLeg("one", "").request("INVITE")) }, "pbx bellhop 102"},
		{"PBX to itself", func(r *testRecorder) {
			m := calleeLeg("one", "").request("INVITE")
			m.Dst, m.To = dialog.PBX, pbxAt
			r.observe(m)
			r.observe(m)
			if n := len(r.byCallID["one"].Legs); n != 1 {
				t.Errorf("%d legs from the PBX to itself", n)
			}
		}, "bellhop pbx"},
		{"past the PBX", func(r *testRecorder) {
			r.observe(callerLeg("one").request("INVITE"))
			m := callerLeg("one").request("BYE")
			m.Dst, m.To = dialog.Edge, bobAt
			r.observe(m)
		}, "101 bellhop pbx bellhop 102"},
		{"a trunk", func(r *testRecorder) {
			m := callerLeg("one").request("INVITE")
			m.Trunk = "carrier"
			r.observe(m)
			m = callerLeg("one").response("INVITE", 180)
			m.Trunk, m.To = "carrier", bobAt
			r.observe(m)
		}, "carrier bellhop pbx"},
	} {
		r := newTestRecorder(t, 10)
		tt.see(r)
		id, _ := r.tracker.CallOf("one")
		c := r.wantRecorded(id)
		var names []string
		l := c.buildLadder()
		for _, col := range l.columns {
			names = append(names, col.name)
		}
		if got := strings.Join(names, " "); got != tt.columns {
			t.Errorf("%s: columns %s, want %s", tt.name, got, tt.columns)
		}
		if err := xml.Unmarshal([]byte(c.SVG("")), new(struct{})); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if n := strings.Count(c.Text(), "▶") + strings.Count(c.Text(), "◀"); n != len(c.Messages) {
			t.Errorf("%s: %d arrows in\n%s", tt.name, n, c.Text())
		}
		c.PCAP()
	}
	empty := Call{Ends: []End{{Name: "pbx", Side: dialog.PBX}}}
	empty.Text()
	empty.SVG("#m")
	empty.PCAP()
}

// A packet is a parsed packet of a capture file.
type packet struct {
	usec     int64
	from, to netip.AddrPort
	stream   bool
	seq, ack uint32
	text     string
}

// parseCapture parses a capture file. It fails the test where Wireshark would warn.
func parseCapture(t *testing.T, b []byte) (ps []packet) {
	t.Helper()
	le, be := binary.LittleEndian, binary.BigEndian
	if le.Uint32(b) != 0xa1b2c3d4 || le.Uint16(b[4:]) != 2 || le.Uint16(b[6:]) != 4 || le.Uint32(b[20:]) != 101 {
		t.Fatalf("the file begins % x", b[:24])
	}
	for b = b[24:]; len(b) > 0; {
		n := le.Uint32(b[8:])
		if n != le.Uint32(b[12:]) || int(n) > len(b)-16 {
			t.Fatalf("a packet has %d bytes of %d", n, le.Uint32(b[12:]))
		}
		p := packet{usec: int64(le.Uint32(b))*1e6 + int64(le.Uint32(b[4:]))}
		ip := b[16 : 16+n]
		b = b[16+n:]
		var src, dst netip.Addr
		var proto byte
		var rest, pseudo []byte
		switch ip[0] >> 4 {
		case 4:
			if onesComplementSum(ip[:20]) != 0xffff || int(be.Uint16(ip[2:])) != len(ip) {
				t.Errorf("IP header % x of %d bytes", ip[:20], len(ip))
			}
			src, _ = netip.AddrFromSlice(ip[12:16])
			dst, _ = netip.AddrFromSlice(ip[16:20])
			proto, rest, pseudo = ip[9], ip[20:], append([]byte{}, ip[12:20]...)
		case 6:
			if int(be.Uint16(ip[4:])) != len(ip)-40 {
				t.Errorf("IP header % x of %d bytes", ip[:40], len(ip))
			}
			src, _ = netip.AddrFromSlice(ip[8:24])
			dst, _ = netip.AddrFromSlice(ip[24:40])
			proto, rest, pseudo = ip[6], ip[40:], append([]byte{}, ip[8:40]...)
		default:
			t.Fatalf("IP version %d", ip[0]>>4)
		}
		pseudo = append(pseudo, 0, proto)
		pseudo = be.AppendUint16(pseudo, uint16(len(rest)))
		if onesComplementSum(append(pseudo, rest...)) != 0xffff {
			t.Errorf("the checksum over %s to %s is wrong", src, dst)
		}
		p.from, p.to = netip.AddrPortFrom(src, be.Uint16(rest)), netip.AddrPortFrom(dst, be.Uint16(rest[2:]))
		switch proto {
		case 17:
			if int(be.Uint16(rest[4:])) != len(rest) || be.Uint16(rest[6:]) == 0 {
				t.Errorf("UDP header % x of %d bytes", rest[:8], len(rest))
			}
			p.text = string(rest[8:])
		case 6:
			p.stream, p.seq, p.ack = true, be.Uint32(rest[4:]), be.Uint32(rest[8:])
			if rest[12]>>4 != 5 || rest[13] != 0x18 {
				t.Errorf("TCP header % x", rest[:20])
			}
			p.text = string(rest[20:])
		default:
			t.Fatalf("protocol %d", proto)
		}
		ps = append(ps, p)
	}
	return ps
}

// onesComplementSum returns the ones' complement sum of b, computed in another way than
// checksum does.
func onesComplementSum(b []byte) (s uint16) {
	for i := range b {
		v := uint16(b[i])
		if i%2 == 0 {
			v <<= 8
		}
		if s += v; s < v {
			s++ // end-around carry
		}
	}
	return s
}

func TestCaptureHoldsTheMessages(t *testing.T) {
	r := newTestRecorder(t, 10)
	a, b := callerLeg("one"), calleeLeg("two", cid)
	a.stream = true
	a.body = "odd"
	id := r.playCall(a, b)
	own := a.message("BYE", 486, false)
	own.Own = true
	r.observe(own)
	c := r.wantRecorded(id)
	ps := parseCapture(t, c.PCAP())
	if len(ps) != len(c.Messages) {
		t.Fatalf("%d packets of %d messages", len(ps), len(c.Messages))
	}
	next := map[string]uint32{}
	for i, p := range ps {
		m := &c.Messages[i]
		from, to := m.From, m.Local
		if m.Own {
			from, to = m.Local, m.To
		}
		if p.text != m.Text() || p.from != from || p.to != to || p.stream != m.Stream || p.usec != m.At.UnixMicro() {
			t.Errorf("packet %d is %+v, of the message %+v", i, p, *m)
		}
		if !p.stream {
			continue
		}
		forward, reverse := fmt.Sprint(p.from, p.to), fmt.Sprint(p.to, p.from)
		if p.seq != next[forward]+1 || p.ack != next[reverse]+1 {
			t.Errorf("packet %d has sequence numbers %d and %d, want %d and %d", i, p.seq, p.ack, next[forward]+1, next[reverse]+1)
		}
		next[forward] += uint32(len(p.text))
	}
}

// TestZeroChecksumIsSentAsOnes: a UDP checksum of 0 would mean no checksum.
func TestZeroChecksumIsSentAsOnes(t *testing.T) {
	c := Call{Ends: []End{{}}, Messages: []Message{{From: phoneAt, Local: hopAt}}}
	for i := range 1 << 16 {
		c.Messages[0].Head = string([]byte{byte(i >> 8), byte(i)})
		if b := c.PCAP(); b[24+16+26] == 0xff && b[24+16+27] == 0xff {
			parseCapture(t, b)
			return
		}
	}
	t.Error("no text has the checksum 0xffff")
}

func TestCaptureMixesAddressFamilies(t *testing.T) {
	for _, tt := range []struct{ from, local, wantFrom, wantLocal string }{
		{"[2001:db8::1]:5060", "[2001:db8::5]:5060", "[2001:db8::1]:5060", "[2001:db8::5]:5060"},
		{"192.0.2.9:5062", "[::]:5060", "192.0.2.9:5062", "0.0.0.0:5060"},
		{"192.0.2.9:5062", "[2001:db8::5]:5060", "[::ffff:192.0.2.9]:5062", "[2001:db8::5]:5060"},
	} {
		c := Call{Ends: []End{{}}, Messages: []Message{{From: netip.MustParseAddrPort(tt.from), Local: netip.MustParseAddrPort(tt.local), Head: "x"}}}
		for _, c.Messages[0].Stream = range []bool{false, true} {
			p := parseCapture(t, c.PCAP())[0]
			if p.from.String() != tt.wantFrom || p.to.String() != tt.wantLocal {
				t.Errorf("%s to %s is captured as %s to %s", tt.from, tt.local, p.from, p.to)
			}
		}
	}
}
