package trace

import (
	"fmt"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
	"weak"

	"bellhop/dialog"
)

var (
	phoneAt = netip.MustParseAddrPort("192.0.2.11:5060")
	bobAt   = netip.MustParseAddrPort("192.0.2.12:5062")
	pbxAt   = netip.MustParseAddrPort("192.0.2.1:5060")
	hopAt   = netip.MustParseAddrPort("192.0.2.5:5060")
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A rig is a Recorder with its tracker.
type rig struct {
	*testing.T
	*Recorder
	tracker *dialog.Tracker
	now     time.Time
	said    []dialog.Event
}

func newRig(t *testing.T, calls int) *rig {
	tracker := dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`), Learn: true})
	return &rig{T: t, Recorder: New(calls), tracker: tracker, now: start}
}

// sees shows a message, 10 ms after the one before.
func (r *rig) sees(m dialog.Message) {
	r.now = r.now.Add(10 * time.Millisecond)
	m.At = r.now
	r.said = append(r.said, r.Recorder.Observe(r.tracker, m)...)
}

// A dialogue is one leg between somebody and the PBX.
type dialogue struct {
	origin dialog.Side
	callID string
	at     netip.AddrPort
	from   string // From without its tag
	to     string
	head   string // more header fields of each message
	body   string
	cid    string
	stream bool
}

func (d dialogue) message(method string, status int, byOrigin bool) dialog.Message {
	m := dialog.Message{
		Method: method, Status: status, CallID: d.callID, CSeq: 1, FromTag: "a", Branch: "z9hG4bK" + method,
		Local: hopAt, Stream: d.stream, Body: d.body,
	}
	if method == "BYE" {
		m.CSeq = 2
	}
	to := d.to
	if status > 100 || method == "BYE" || method == "ACK" {
		m.ToTag = "b"
		to += ";tag=b"
	}
	m.Src, m.Dst, m.From, m.To = dialog.Edge, dialog.PBX, d.at, pbxAt
	if (d.origin == dialog.Edge) != byOrigin {
		m.Src, m.Dst, m.From, m.To = dialog.PBX, dialog.Edge, pbxAt, d.at
	}
	line := fmt.Sprintf("SIP/2.0 %d %s", status, map[int]string{100: "Trying", 180: "Ringing", 200: "OK", 401: "Unauthorized", 486: "Busy Here"}[status])
	if status == 0 {
		line = method + " sip:102@pbx.example SIP/2.0"
	}
	m.Head = fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP %s;branch=%s\r\nFrom: %s;tag=a\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\n%sContent-Length: %d\r\n\r\n",
		line, d.at, m.Branch, d.from, to, d.callID, m.CSeq, method, d.head, len(d.body))
	m.CID = d.cid
	return m
}

func (d dialogue) request(method string) dialog.Message { return d.message(method, 0, true) }

func (d dialogue) response(method string, status int) dialog.Message {
	return d.message(method, status, false)
}

func caller(callID string) dialogue {
	return dialogue{origin: dialog.Edge, callID: callID, at: phoneAt, from: "\"Alice\" <sip:101@pbx.example>", to: "<sip:102@pbx.example>"}
}

// callee is the leg that a B2BUA makes of a caller's, whose id it passes on.
func callee(callID, cid string) dialogue {
	return dialogue{origin: dialog.PBX, callID: callID, at: bobAt, from: "<sip:101@192.0.2.1>", to: "<sip:102@192.0.2.12>", cid: cid}
}

const cid = "0123456789abcdef0123456789abcdef"

// call plays a call of two legs and returns its id.
func (r *rig) call(a, b dialogue) string {
	a.cid, b.cid = cid, cid
	for _, m := range []dialog.Message{
		a.request("INVITE"), a.response("INVITE", 100),
		b.request("INVITE"), b.response("INVITE", 180), a.response("INVITE", 180),
		b.response("INVITE", 200), a.response("INVITE", 200), a.request("ACK"), b.request("ACK"),
		a.request("BYE"), a.response("BYE", 200), b.request("BYE"), b.response("BYE", 200),
	} {
		r.sees(m)
	}
	return r.said[len(r.said)-1].Call
}

func (r *rig) kept(id string) Call {
	r.Helper()
	c, ok := r.Recorder.Call(r.tracker, id)
	if !ok {
		r.Fatalf("nothing is kept of call %s", id)
	}
	return c
}

func (r *rig) wantGone(id string) {
	r.Helper()
	if _, ok := r.Recorder.Call(r.tracker, id); ok {
		r.Errorf("call %s is still kept", id)
	}
}

func TestTheLegsOfACallAreSideBySide(t *testing.T) {
	r := newRig(t, 10)
	c := r.kept(r.call(caller("one"), callee("two", cid)))
	if len(c.Legs) != 2 || len(c.Messages) != 13 || c.Up || c.LeftOut != 0 {
		t.Fatalf("%d legs, %d messages, up %v, %d left out", len(c.Legs), len(c.Messages), c.Up, c.LeftOut)
	}
	var ends []string
	for _, e := range c.Ends {
		ends = append(ends, fmt.Sprintf("%s %s %v", e.Name, e.Address, e.Calls))
	}
	if got, want := strings.Join(ends, ", "), "pbx 192.0.2.1:5060 false, 101 192.0.2.11:5060 true, 102 192.0.2.12:5062 false"; got != want {
		t.Errorf("ends are %s, want %s", got, want)
	}
}

func TestWhatABellhopSaysItselfAndKeeps(t *testing.T) {
	r := newRig(t, 10)
	a := caller("one")
	r.sees(a.request("INVITE"))
	r.sees(a.response("INVITE", 100))
	own := a.response("INVITE", 486)
	own.Own = true
	r.sees(own)
	id, _ := r.tracker.CallOf("one")
	c := r.kept(id)
	l := c.ladder()
	for i, want := range []string{"0 2 [1]", "2 1 []", "1 0 []"} {
		from, to, through := l.path(&c.Messages[i])
		if got := fmt.Sprint(from, to, through); got != want {
			t.Errorf("message %d goes %s, want %s", i, got, want)
		}
	}
}

func TestAChallengeIsOfTheCallThatFollows(t *testing.T) {
	r := newRig(t, 10)
	a := caller("one")
	r.sees(a.request("INVITE"))
	r.sees(a.response("INVITE", 401))
	r.sees(a.request("ACK")) // the tracker has forgotten the attempt
	if _, up := r.tracker.CallOf("one"); up || len(r.up) != 0 || r.unsaid.Len() != 1 {
		t.Errorf("%d calls are up, %d were attempts", len(r.up), r.unsaid.Len())
	}
	again := a.request("INVITE")
	again.CSeq, again.Branch = 2, "z9hG4bK2"
	again.Head = strings.Replace(again.Head, "CSeq:", "Authorization: Digest username=\"101\", response=\"5ec2e7\"\r\nCSeq:", 1)
	r.sees(again)
	id, _ := r.tracker.CallOf("one")
	c := r.kept(id)
	if len(c.Messages) != 4 || len(c.Legs) != 1 || !c.Up || r.unsaid.Len() != 0 {
		t.Errorf("%d messages, %d legs, up %v", len(c.Messages), len(c.Legs), c.Up)
	}
	if text := c.Messages[3].Text(); strings.Contains(text, "5ec2e7") || !strings.Contains(text, `response="xxxxxx"`) {
		t.Errorf("kept is %s", text)
	}
}

func TestOldCallsMakeRoom(t *testing.T) {
	r := newRig(t, 3)
	var ids []string
	for i := range 5 {
		a := caller(fmt.Sprint("one", i))
		r.sees(a.request("INVITE"))
		r.sees(a.response("INVITE", 180))
		ids = append(ids, r.said[len(r.said)-1].Call)
		r.sees(a.response("INVITE", 486))
		r.sees(a.request("ACK"))
	}
	for i, id := range ids {
		if i < 2 {
			r.wantGone(id)
		} else if n := len(r.kept(id).Messages); n != 4 {
			t.Errorf("%d messages are kept of call %d", n, i)
		}
	}
	if len(r.callIDs) != 3 || len(r.up) != 0 {
		t.Errorf("%d Call-IDs and %d live calls are known", len(r.callIDs), len(r.up))
	}
	// Scanners push nobody out.
	for i := range 100 {
		a := caller(fmt.Sprint("scan", i))
		r.sees(a.request("INVITE"))
		r.sees(a.response("INVITE", 401))
	}
	r.kept(ids[2])
	if r.unsaid.Len() != 1 || len(r.callIDs) != 4 {
		t.Errorf("%d attempts and %d Call-IDs are known", r.unsaid.Len(), len(r.callIDs))
	}
	r.Configure(1)
	r.wantGone(ids[3])
	r.kept(ids[4])
	r.sees(caller("up").request("INVITE"))
	r.Configure(0)
	r.wantGone(ids[4])
	if r.bytes != 0 || len(r.callIDs) != 0 || len(r.up) != 0 {
		t.Errorf("%d bytes, %d Call-IDs and %d live calls are known of nothing", r.bytes, len(r.callIDs), len(r.up))
	}
	r.sees(caller("off").request("INVITE"))
	if len(r.up) != 0 {
		t.Error("a call is kept, though none is to be")
	}
}

func TestACallThatIsUpIsNeverForgotten(t *testing.T) {
	r := newRig(t, 2)
	var ids []string
	for _, callID := range []string{"one", "two", "three"} {
		r.sees(caller(callID).request("INVITE"))
		id, _ := r.tracker.CallOf(callID)
		ids = append(ids, id)
	}
	r.kept(ids[0])
	r.kept(ids[1])
	r.wantGone(ids[2])
	// They ended, and neither a message nor an event said so: their places are free.
	r.now = r.now.Add(time.Hour)
	r.Recorder.Advance(r.tracker, r.now)
	if len(r.up) != 2 {
		t.Errorf("%d calls are up", len(r.up))
	}
	r.sees(caller("four").request("INVITE"))
	id, _ := r.tracker.CallOf("four")
	if !r.kept(id).Up || len(r.up) != 1 {
		t.Errorf("%d calls are up", len(r.up))
	}
}

func TestACallThatEndsByItselfIsOver(t *testing.T) {
	r := newRig(t, 2)
	a := caller("one")
	r.sees(a.request("INVITE"))
	r.sees(a.response("INVITE", 100))
	if said := r.Recorder.Advance(r.tracker, r.now.Add(time.Second)); len(said) != 1 || len(r.up) != 1 {
		t.Fatalf("%v was said, %d calls are up", said, len(r.up))
	}
	said := r.Recorder.Advance(r.tracker, r.now.Add(time.Hour))
	if len(said) != 1 || len(r.up) != 0 || r.over.Len() != 1 || r.kept(said[0].Call).Up {
		t.Errorf("%v was said, %d calls are up, %d over", said, len(r.up), r.over.Len())
	}
}

func TestWhatIsLeftOutIsCounted(t *testing.T) {
	r := newRig(t, 2)
	long := caller("long")
	long.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 600)
	r.sees(long.request("INVITE"))
	id, _ := r.tracker.CallOf("long")
	c := r.kept(id)
	if m := c.Messages[0]; !m.Cut || len(m.Text()) != maxMessage {
		t.Errorf("cut %v, %d bytes", m.Cut, len(m.Text()))
	}
	body := caller("body")
	body.body = strings.Repeat("x", maxBody)
	r.sees(body.request("INVITE"))
	other, _ := r.tracker.CallOf("body")
	if m := r.kept(other).Messages[0]; !m.Cut || len(m.Body) != maxBody {
		t.Errorf("cut %v, %d bytes of body", m.Cut, len(m.Body))
	}
	r.sees(body.response("INVITE", 486))
	for range 40 {
		r.sees(long.response("INVITE", 180))
	}
	if c = r.kept(id); c.LeftOut == 0 || c.LeftOut+len(c.Messages) != 41 || r.up[id].bytes > maxCall {
		t.Errorf("%d kept, %d left out, %d bytes", len(c.Messages), c.LeftOut, r.up[id].bytes)
	}
	for range maxMessages + 44 {
		r.sees(caller("many").request("INVITE"))
	}
	id, _ = r.tracker.CallOf("many")
	if c = r.kept(id); len(c.Messages) != maxMessages || c.LeftOut != 44 {
		t.Errorf("%d kept, %d left out", len(c.Messages), c.LeftOut)
	}
}

// TestEndsAreBounded: whoever knows a Call-ID can send with it from anywhere.
func TestEndsAreBounded(t *testing.T) {
	r := newRig(t, 2)
	r.sees(caller("one").request("INVITE"))
	for i := range maxEnds + 8 {
		m := caller("one").request("BYE")
		m.From = netip.AddrPortFrom(phoneAt.Addr(), uint16(6000+i))
		r.sees(m)
	}
	r.sees(caller("one").response("INVITE", 180))
	id, _ := r.tracker.CallOf("one")
	c := r.kept(id)
	if last := c.Messages[len(c.Messages)-1]; len(c.Ends) != 1+maxEnds || c.LeftOut != 9 || last.Status != 180 {
		t.Errorf("%d ends, %d messages left out, the last kept is %s", len(c.Ends), c.LeftOut, last.Summary())
	}
}

// TestAStragglerKeepsItsCall: when memory is full, the oldest call that is over
// makes no room for a message of its own.
func TestAStragglerKeepsItsCall(t *testing.T) {
	r := newRig(t, 2)
	a, b := caller("one"), caller("two")
	for _, d := range []dialogue{a, b} {
		r.sees(d.request("INVITE"))
		r.sees(d.response("INVITE", 180))
		r.sees(d.response("INVITE", 486))
	}
	full := maxBytes - r.bytes
	r.bytes += full
	r.sees(a.request("ACK"))
	r.bytes -= full
	if c := r.kept(r.said[0].Call); len(c.Messages) != 4 {
		t.Errorf("%d messages are kept", len(c.Messages))
	}
	r.wantGone(r.said[len(r.said)-1].Call)
	if want := r.over.Values()[0].bytes; r.bytes != want {
		t.Errorf("%d bytes are counted, want %d", r.bytes, want)
	}
}

func TestMessagesAreInTheOrderOfTheirTimes(t *testing.T) {
	r := newRig(t, 2)
	r.sees(caller("one").request("INVITE"))
	r.sees(caller("one").response("INVITE", 180))
	r.now = r.now.Add(-15 * time.Millisecond) // another worker was slower
	r.sees(caller("one").response("INVITE", 100))
	id, _ := r.tracker.CallOf("one")
	if c := r.kept(id); c.Messages[1].Status != 100 || c.Messages[2].Status != 180 {
		t.Errorf("%d came before %d", c.Messages[1].Status, c.Messages[2].Status)
	}
}

// TestScannersTakeLittle has attempts that are challenged, with long messages: few of
// the ladders are kept, and no call's goes for them.
func TestScannersTakeLittle(t *testing.T) {
	r := newRig(t, 1000)
	r.sees(caller("real").request("INVITE"))
	r.sees(caller("real").response("INVITE", 180))
	id, _ := r.tracker.CallOf("real")
	r.sees(caller("real").response("INVITE", 486))
	unsaid := func() (n int) {
		for _, c := range r.unsaid.Values() {
			n += c.bytes
		}
		return n
	}
	for i := range 300 {
		a := caller(fmt.Sprint("scan", i))
		a.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 70+i%20)
		r.sees(a.request("INVITE"))
		r.sees(a.response("INVITE", 401))
		r.sees(a.request("ACK"))
		if n := unsaid(); n > maxUnsaid || n != r.unsaidBytes {
			t.Fatalf("%d bytes are of %d attempts, %d are counted", n, r.unsaid.Len(), r.unsaidBytes)
		}
	}
	if unsaid() < maxUnsaid*9/10 {
		t.Errorf("%d bytes are of attempts, want nearly %d", unsaid(), maxUnsaid)
	}
	r.kept(id)
	r.Configure(0)
	if r.unsaidBytes != 0 {
		t.Errorf("%d bytes are counted of nothing", r.unsaidBytes)
	}
}

// TestMemoryIsBounded fills a Recorder with the worst there is, and measures.
func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t, 1000)
	before := heap()
	for i := range 1200 {
		a := caller(fmt.Sprint("call", i))
		a.at = netip.AddrPortFrom(a.at.Addr(), uint16(1000+i))
		a.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 80+i%20)
		r.sees(a.request("INVITE"))
		for range 20 {
			r.sees(a.response("INVITE", 180))
		}
		if i%3 == 0 {
			r.sees(a.response("INVITE", 486))
		}
	}
	took := heap() - before - 8<<20 // of which the tracker has some
	if r.bytes > maxBytes || r.bytes < maxBytes*9/10 || took > maxBytes {
		t.Errorf("%d bytes are counted, %d were taken, %d is the bound", r.bytes, took, maxBytes)
	}
	sum := 0
	for _, c := range r.up {
		sum += c.bytes
	}
	for _, c := range append(r.over.Values(), r.unsaid.Values()...) {
		sum += c.bytes
	}
	if sum != r.bytes {
		t.Errorf("%d bytes are counted of calls that have %d", r.bytes, sum)
	}
	t.Logf("%d calls up, %d over: %d bytes counted, %d taken; a message is %d and its text", len(r.up), r.over.Len(), r.bytes, took, unsafe.Sizeof(Message{}))
	runtime.KeepAlive(r)
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestWhatWasReadDoesNotChange(t *testing.T) {
	r := newRig(t, 2)
	a := caller("one")
	r.sees(a.request("INVITE"))
	id, _ := r.tracker.CallOf("one")
	c := r.kept(id)
	r.sees(a.response("INVITE", 180))
	r.sees(a.response("INVITE", 200))
	if len(c.Messages) != 1 || c.Ends[1].Name != "101" {
		t.Errorf("%d messages of %s", len(c.Messages), c.Ends[1].Name)
	}
}

// TestASecretIsGone: nothing that is kept holds on to the memory of a message that
// had a secret, or was too long.
func TestASecretIsGone(t *testing.T) {
	for name, more := range map[string]string{
		"credentials": "Authorization: Digest username=\"101\", response=\"5ec2e7\"\r\n",
		"too long":    strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 200),
	} {
		r := newRig(t, 10)
		memory := func() weak.Pointer[[64 << 10]byte] {
			a := caller("one")
			a.head, a.body = more, sdp
			m := a.request("INVITE")
			b := new([64 << 10]byte)
			n := copy(b[:], m.Head+m.Body)
			text := unsafe.String(&b[0], n)
			part := func(s string) string {
				at := strings.Index(text, s)
				return text[at : at+len(s)]
			}
			m.Head, m.Body = text[:len(m.Head)], text[len(m.Head):]
			m.Method, m.CallID, m.FromTag, m.Branch = part("INVITE"), part(": one\r")[2:5], part("=a\r")[1:2], part("z9hG4bKINVITE")
			r.sees(m)
			return weak.Make(b)
		}()
		runtime.GC()
		if memory.Value() != nil {
			t.Errorf("%s: the message is still in memory", name)
		}
		if len(r.up) != 1 {
			t.Errorf("%s: %d calls are kept", name, len(r.up))
		}
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ head, from, to string }{
		{"INVITE sip:x@y SIP/2.0\r\nTo: \"<sip:no@x>\" <sip:102@y>;tag=<\r\nFrom : <sip:101:pw@x;user=phone>;tag=1\r\n", "101", ""},
		{"A\r\nt: sip:102;phone-context=y@x\r\nF: Alice <sips:101@x>\r\n", "101", "102"},
		{"A\r\nTo: <sip:pbx.example>\r\nFrom: <tel:+49>\r\n", "", ""},
		{"A\r\nTo: \r\n:\r\n", "", ""},
		{"A\r\nFrom: <sip:" + strings.Repeat("1", 100) + "@x>\r\n", strings.Repeat("1", maxName), ""},
	} {
		m := &dialog.Message{Head: tt.head}
		if from, to := name(m, true), name(m, false); from != tt.from || to != tt.to {
			t.Errorf("%q is from %q to %q, want %q and %q", tt.head, from, to, tt.from, tt.to)
		}
	}
	if got := name(&dialog.Message{AOR: "102@pbx.example", Head: "A\r\nTo: <sip:x@y>\r\n"}, false); got != "102" {
		t.Errorf("who registered is called %q", got)
	}
}

// TestClockIsSet: a message tells what the clock showed when it came. Their order,
// and how long after the first each came, do not depend on it.
func TestClockIsSet(t *testing.T) {
	r, a := newRig(t, 1), caller("one")
	r.sees(a.request("INVITE"))
	set := func(m dialog.Message, by time.Duration) {
		m.WallOffset = by
		r.sees(m)
	}
	set(a.response("INVITE", 180), 5*time.Hour)
	set(a.response("INVITE", 200), -time.Hour)
	crossed := a.request("ACK") // observed after the 200, and received before
	crossed.WallOffset, r.now = -time.Hour, r.now.Add(-15*time.Millisecond)
	r.sees(crossed)
	c, ok := r.Call(r.tracker, r.said[0].Call)
	if !ok || !c.Began.Equal(start.Add(10*time.Millisecond)) {
		t.Fatalf("the call is %+v", c)
	}
	var got []string
	for _, m := range c.Messages {
		got = append(got, fmt.Sprint(m.label(), " ", m.After, " ", m.At.Sub(start)))
	}
	want := []string{"INVITE 0s 10ms", "180 Ringing 10ms 5h0m0.02s", "ACK 15ms -59m59.975s", "200 OK 20ms -59m59.97s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// BenchmarkRecord records the messages of calls of two legs, without the
// tracker; the times are per message.
func BenchmarkRecord(b *testing.B) {
	x, y := caller("one"), callee("two", cid)
	x.head = "Max-Forwards: 70\r\nContact: <sip:101@192.0.2.11:5060>\r\nUser-Agent: Phone/1.0\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\nSupported: replaces, timer\r\n"
	y.head = x.head
	ms := []dialog.Message{
		x.request("INVITE"), x.response("INVITE", 100), y.request("INVITE"), y.response("INVITE", 180), x.response("INVITE", 180),
		y.response("INVITE", 200), x.response("INVITE", 200), x.request("ACK"), y.request("ACK"),
		x.request("BYE"), x.response("BYE", 200), y.request("BYE"), y.response("BYE", 200),
	}
	for _, i := range []int{0, 2, 5, 6} {
		ms[i].Body = sdp
	}
	tracker := dialog.New(dialog.Config{})
	r := New(1000)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		id := fmt.Sprint(n / len(ms)) // and a Call-ID of each leg
		m := &ms[n%len(ms)]
		c := r.record(tracker, id, true, m)
		r.add(tracker, c, m)
		if n++; n%len(ms) == 0 {
			c.said = true
			r.put(c, false)
		}
	}
}

// A bug of the recorder costs what it has kept, and no event.
func TestRecorderRecovers(t *testing.T) {
	for name, breakIt := range map[string]func(*rig){
		"a message": func(r *rig) { r.Recorder.up = nil },
		"a deadline": func(r *rig) {
			r.Recorder.over = nil
			r.Recorder.Advance(r.tracker, r.now.Add(5*time.Hour))
		},
		"a reader": func(r *rig) { r.Recorder.over = nil; r.Recorder.Call(r.tracker, "none") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 10)
			var stacks [][]byte
			r.Recorder.Panicked = func(_ any, stack []byte) { stacks = append(stacks, stack) }
			r.sees(caller("up").request("INVITE"))
			breakIt(r)
			said := len(r.said)
			whole := newRig(t, 0)
			r.call(caller("a"), callee("b", cid))
			whole.call(caller("a"), callee("b", cid))
			if len(r.said)-said != len(whole.said) || len(whole.said) == 0 {
				t.Errorf("%d events were said, want %d", len(r.said)-said, len(whole.said))
			}
			if len(stacks) != 1 || r.Recorder.Panics() != 1 || !strings.Contains(string(stacks[0]), "trace.go") {
				t.Errorf("%d panics are told, %d counted", len(stacks), r.Recorder.Panics())
			}
			id := r.call(caller("c"), callee("d", cid))
			if c, ok := r.Recorder.Call(r.tracker, id); !ok || len(c.Messages) == 0 {
				t.Error("nothing is recorded any more")
			}
		})
	}
}
