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

// A testRecorder is a Recorder with its tracker and a virtual clock.
type testRecorder struct {
	*testing.T
	*Recorder
	tracker *dialog.Tracker
	now     time.Time
	events  []dialog.Event
}

func newTestRecorder(t *testing.T, calls int) *testRecorder {
	tracker := dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`), Learn: true})
	return &testRecorder{T: t, Recorder: New(calls), tracker: tracker, now: start}
}

// observe shows a message to the Recorder, 10 ms after the previous one.
func (r *testRecorder) observe(m dialog.Message) {
	r.now = r.now.Add(10 * time.Millisecond)
	m.At = r.now
	r.events = append(r.events, r.Recorder.Observe(r.tracker, m)...)
}

// A testLeg composes the messages of one leg between an end and the PBX.
type testLeg struct {
	origin dialog.Side
	callID string
	at     netip.AddrPort
	from   string // From header field, without tag
	to     string
	head   string // further header fields of each message
	body   string
	cid    string
	stream bool
}

func (d testLeg) message(method string, status int, byOrigin bool) dialog.Message {
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

func (d testLeg) request(method string) dialog.Message { return d.message(method, 0, true) }

func (d testLeg) response(method string, status int) dialog.Message {
	return d.message(method, status, false)
}

func callerLeg(callID string) testLeg {
	return testLeg{origin: dialog.Edge, callID: callID, at: phoneAt, from: "\"Alice\" <sip:101@pbx.example>", to: "<sip:102@pbx.example>"}
}

// calleeLeg is the leg that a B2BUA creates for a caller's leg. cid is the X-CID that it
// passes on.
func calleeLeg(callID, cid string) testLeg {
	return testLeg{origin: dialog.PBX, callID: callID, at: bobAt, from: "<sip:101@192.0.2.1>", to: "<sip:102@192.0.2.12>", cid: cid}
}

const cid = "0123456789abcdef0123456789abcdef"

// playCall plays a call of two legs, from the INVITE to the BYE, and returns its id.
func (r *testRecorder) playCall(a, b testLeg) string {
	a.cid, b.cid = cid, cid
	for _, m := range []dialog.Message{
		a.request("INVITE"), a.response("INVITE", 100),
		b.request("INVITE"), b.response("INVITE", 180), a.response("INVITE", 180),
		b.response("INVITE", 200), a.response("INVITE", 200), a.request("ACK"), b.request("ACK"),
		a.request("BYE"), a.response("BYE", 200), b.request("BYE"), b.response("BYE", 200),
	} {
		r.observe(m)
	}
	return r.events[len(r.events)-1].Call
}

func (r *testRecorder) wantRecorded(id string) Call {
	r.Helper()
	c, ok := r.Recorder.Call(r.tracker, id)
	if !ok {
		r.Fatalf("call %s is not recorded", id)
	}
	return c
}

func (r *testRecorder) wantNotRecorded(id string) {
	r.Helper()
	if _, ok := r.Recorder.Call(r.tracker, id); ok {
		r.Errorf("call %s is still recorded", id)
	}
}

func TestBothLegsAreInOneCall(t *testing.T) {
	r := newTestRecorder(t, 10)
	c := r.wantRecorded(r.playCall(callerLeg("one"), calleeLeg("two", cid)))
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

func TestOwnAnswersAreDrawnFromBellhop(t *testing.T) {
	r := newTestRecorder(t, 10)
	a := callerLeg("one")
	r.observe(a.request("INVITE"))
	r.observe(a.response("INVITE", 100))
	own := a.response("INVITE", 486)
	own.Own = true
	r.observe(own)
	id, _ := r.tracker.CallOf("one")
	c := r.wantRecorded(id)
	l := c.buildLadder()
	for i, want := range []string{"0 2 [1]", "2 1 []", "1 0 []"} {
		from, to, through := l.arrowPath(&c.Messages[i])
		if got := fmt.Sprint(from, to, through); got != want {
			t.Errorf("message %d goes %s, want %s", i, got, want)
		}
	}
}

func TestChallengeBelongsToTheNextCall(t *testing.T) {
	r := newTestRecorder(t, 10)
	a := callerLeg("one")
	r.observe(a.request("INVITE"))
	r.observe(a.response("INVITE", 401))
	r.observe(a.request("ACK")) // the tracker has dropped the challenged attempt
	if _, up := r.tracker.CallOf("one"); up || len(r.live) != 0 || r.eventless.Len() != 1 {
		t.Errorf("%d calls are live, %d ended without an event", len(r.live), r.eventless.Len())
	}
	again := a.request("INVITE")
	again.CSeq, again.Branch = 2, "z9hG4bK2"
	again.Head = strings.Replace(again.Head, "CSeq:", "Authorization: Digest username=\"101\", response=\"5ec2e7\"\r\nCSeq:", 1)
	r.observe(again)
	id, _ := r.tracker.CallOf("one")
	c := r.wantRecorded(id)
	if len(c.Messages) != 4 || len(c.Legs) != 1 || !c.Up || r.eventless.Len() != 0 {
		t.Errorf("%d messages, %d legs, live %v", len(c.Messages), len(c.Legs), c.Up)
	}
	if text := c.Messages[3].Text(); strings.Contains(text, "5ec2e7") || !strings.Contains(text, `response="xxxxxx"`) {
		t.Errorf("the response is not masked in\n%s", text)
	}
}

func TestOldestEndedCallIsEvicted(t *testing.T) {
	r := newTestRecorder(t, 3)
	var ids []string
	for i := range 5 {
		a := callerLeg(fmt.Sprint("one", i))
		r.observe(a.request("INVITE"))
		r.observe(a.response("INVITE", 180))
		ids = append(ids, r.events[len(r.events)-1].Call)
		r.observe(a.response("INVITE", 486))
		r.observe(a.request("ACK"))
	}
	for i, id := range ids {
		if i < 2 {
			r.wantNotRecorded(id)
		} else if n := len(r.wantRecorded(id).Messages); n != 4 {
			t.Errorf("call %d has %d messages", i, n)
		}
	}
	if len(r.byCallID) != 3 || len(r.live) != 0 {
		t.Errorf("%d Call-IDs and %d live calls are known", len(r.byCallID), len(r.live))
	}
	// Calls of scanners evict no call with events.
	for i := range 100 {
		a := callerLeg(fmt.Sprint("scan", i))
		r.observe(a.request("INVITE"))
		r.observe(a.response("INVITE", 401))
	}
	r.wantRecorded(ids[2])
	if r.eventless.Len() != 1 || len(r.byCallID) != 4 {
		t.Errorf("%d calls without events and %d Call-IDs are known", r.eventless.Len(), len(r.byCallID))
	}
	r.Configure(1)
	r.wantNotRecorded(ids[3])
	r.wantRecorded(ids[4])
	r.observe(callerLeg("up").request("INVITE"))
	r.Configure(0)
	r.wantNotRecorded(ids[4])
	if r.bytes != 0 || len(r.byCallID) != 0 || len(r.live) != 0 {
		t.Errorf("%d bytes, %d Call-IDs and %d live calls are left after Configure(0)", r.bytes, len(r.byCallID), len(r.live))
	}
	r.observe(callerLeg("off").request("INVITE"))
	if len(r.live) != 0 {
		t.Error("a call is recorded after Configure(0)")
	}
}

func TestLiveCallIsNeverEvicted(t *testing.T) {
	r := newTestRecorder(t, 2)
	var ids []string
	for _, callID := range []string{"one", "two", "three"} {
		r.observe(callerLeg(callID).request("INVITE"))
		id, _ := r.tracker.CallOf(callID)
		ids = append(ids, id)
	}
	r.wantRecorded(ids[0])
	r.wantRecorded(ids[1])
	r.wantNotRecorded(ids[2])
	// They ended at a deadline, without a message or an event: their places are free.
	r.now = r.now.Add(time.Hour)
	r.Recorder.Advance(r.tracker, r.now)
	if len(r.live) != 2 {
		t.Errorf("%d calls are up", len(r.live))
	}
	r.observe(callerLeg("four").request("INVITE"))
	id, _ := r.tracker.CallOf("four")
	if !r.wantRecorded(id).Up || len(r.live) != 1 {
		t.Errorf("%d calls are up", len(r.live))
	}
}

func TestCallEndsAtItsDeadline(t *testing.T) {
	r := newTestRecorder(t, 2)
	a := callerLeg("one")
	r.observe(a.request("INVITE"))
	r.observe(a.response("INVITE", 100))
	if events := r.Recorder.Advance(r.tracker, r.now.Add(time.Second)); len(events) != 1 || len(r.live) != 1 {
		t.Fatalf("events %v, %d live calls", events, len(r.live))
	}
	events := r.Recorder.Advance(r.tracker, r.now.Add(time.Hour))
	if len(events) != 1 || len(r.live) != 0 || r.ended.Len() != 1 || r.wantRecorded(events[0].Call).Up {
		t.Errorf("events %v, %d live calls, %d ended", events, len(r.live), r.ended.Len())
	}
}

func TestLeftOutMessagesAreCounted(t *testing.T) {
	r := newTestRecorder(t, 2)
	long := callerLeg("long")
	long.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 600)
	r.observe(long.request("INVITE"))
	id, _ := r.tracker.CallOf("long")
	c := r.wantRecorded(id)
	if m := c.Messages[0]; !m.Truncated || len(m.Text()) != maxMessageBytes {
		t.Errorf("cut %v, %d bytes", m.Truncated, len(m.Text()))
	}
	body := callerLeg("body")
	body.body = strings.Repeat("x", maxBodyBytes)
	r.observe(body.request("INVITE"))
	other, _ := r.tracker.CallOf("body")
	if m := r.wantRecorded(other).Messages[0]; !m.Truncated || len(m.Body) != maxBodyBytes {
		t.Errorf("cut %v, %d bytes of body", m.Truncated, len(m.Body))
	}
	r.observe(body.response("INVITE", 486))
	for range 40 {
		r.observe(long.response("INVITE", 180))
	}
	if c = r.wantRecorded(id); c.LeftOut == 0 || c.LeftOut+len(c.Messages) != 41 || r.live[id].bytes > maxCallBytes {
		t.Errorf("%d kept, %d left out, %d bytes", len(c.Messages), c.LeftOut, r.live[id].bytes)
	}
	for range maxMessages + 44 {
		r.observe(callerLeg("many").request("INVITE"))
	}
	id, _ = r.tracker.CallOf("many")
	if c = r.wantRecorded(id); len(c.Messages) != maxMessages || c.LeftOut != 44 {
		t.Errorf("%d kept, %d left out", len(c.Messages), c.LeftOut)
	}
}

// TestEndsAreBounded: a sender that knows a Call-ID can use it from many addresses.
func TestEndsAreBounded(t *testing.T) {
	r := newTestRecorder(t, 2)
	r.observe(callerLeg("one").request("INVITE"))
	for i := range maxEnds + 8 {
		m := callerLeg("one").request("BYE")
		m.From = netip.AddrPortFrom(phoneAt.Addr(), uint16(6000+i))
		r.observe(m)
	}
	r.observe(callerLeg("one").response("INVITE", 180))
	id, _ := r.tracker.CallOf("one")
	c := r.wantRecorded(id)
	if last := c.Messages[len(c.Messages)-1]; len(c.Ends) != 1+maxEnds || c.LeftOut != 9 || last.Status != 180 {
		t.Errorf("%d ends, %d messages left out, the last kept is %s", len(c.Ends), c.LeftOut, last.Summary())
	}
}

// TestLateMessageEvictsAnotherCall: when memory is full, a message of the oldest ended
// call evicts another call, not its own.
func TestLateMessageEvictsAnotherCall(t *testing.T) {
	r := newTestRecorder(t, 2)
	a, b := callerLeg("one"), callerLeg("two")
	for _, d := range []testLeg{a, b} {
		r.observe(d.request("INVITE"))
		r.observe(d.response("INVITE", 180))
		r.observe(d.response("INVITE", 486))
	}
	full := maxTotalBytes - r.bytes
	r.bytes += full
	r.observe(a.request("ACK"))
	r.bytes -= full
	if c := r.wantRecorded(r.events[0].Call); len(c.Messages) != 4 {
		t.Errorf("%d messages are kept", len(c.Messages))
	}
	r.wantNotRecorded(r.events[len(r.events)-1].Call)
	if want := r.ended.Values()[0].bytes; r.bytes != want {
		t.Errorf("%d bytes are counted, want %d", r.bytes, want)
	}
}

func TestMessagesAreSortedByTime(t *testing.T) {
	r := newTestRecorder(t, 2)
	r.observe(callerLeg("one").request("INVITE"))
	r.observe(callerLeg("one").response("INVITE", 180))
	r.now = r.now.Add(-15 * time.Millisecond) // it was observed later than its successor
	r.observe(callerLeg("one").response("INVITE", 100))
	id, _ := r.tracker.CallOf("one")
	if c := r.wantRecorded(id); c.Messages[1].Status != 100 || c.Messages[2].Status != 180 {
		t.Errorf("%d came before %d", c.Messages[1].Status, c.Messages[2].Status)
	}
}

// TestScannersUseLittleMemory records attempts with long messages that are challenged:
// few of them stay, and they evict no call with events.
func TestScannersUseLittleMemory(t *testing.T) {
	r := newTestRecorder(t, 1000)
	r.observe(callerLeg("real").request("INVITE"))
	r.observe(callerLeg("real").response("INVITE", 180))
	id, _ := r.tracker.CallOf("real")
	r.observe(callerLeg("real").response("INVITE", 486))
	unsaid := func() (n int) {
		for _, c := range r.eventless.Values() {
			n += c.bytes
		}
		return n
	}
	for i := range 300 {
		a := callerLeg(fmt.Sprint("scan", i))
		a.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 70+i%20)
		r.observe(a.request("INVITE"))
		r.observe(a.response("INVITE", 401))
		r.observe(a.request("ACK"))
		if n := unsaid(); n > maxEventlessBytes || n != r.eventlessBytes {
			t.Fatalf("%d bytes in %d attempts, %d are counted", n, r.eventless.Len(), r.eventlessBytes)
		}
	}
	if unsaid() < maxEventlessBytes*9/10 {
		t.Errorf("%d bytes in attempts, want nearly %d", unsaid(), maxEventlessBytes)
	}
	r.wantRecorded(id)
	r.Configure(0)
	if r.eventlessBytes != 0 {
		t.Errorf("%d bytes are counted after Configure(0)", r.eventlessBytes)
	}
}

// TestMemoryIsBounded fills a Recorder with long messages and measures the heap.
func TestMemoryIsBounded(t *testing.T) {
	r := newTestRecorder(t, 1000)
	before := heapBytes()
	for i := range 1200 {
		a := callerLeg(fmt.Sprint("call", i))
		a.at = netip.AddrPortFrom(a.at.Addr(), uint16(1000+i))
		a.head = strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 80+i%20)
		r.observe(a.request("INVITE"))
		for range 20 {
			r.observe(a.response("INVITE", 180))
		}
		if i%3 == 0 {
			r.observe(a.response("INVITE", 486))
		}
	}
	took := heapBytes() - before - 8<<20 // an allowance for the tracker's memory
	if r.bytes > maxTotalBytes || r.bytes < maxTotalBytes*9/10 || took > maxTotalBytes {
		t.Errorf("%d bytes are counted, the heap grew by %d, the bound is %d", r.bytes, took, maxTotalBytes)
	}
	sum := 0
	for _, c := range r.live {
		sum += c.bytes
	}
	for _, c := range append(r.ended.Values(), r.eventless.Values()...) {
		sum += c.bytes
	}
	if sum != r.bytes {
		t.Errorf("the calls have %d bytes, counted are %d", sum, r.bytes)
	}
	t.Logf("%d calls up, %d over: %d bytes counted, %d taken; a message is %d and its text", len(r.live), r.ended.Len(), r.bytes, took, unsafe.Sizeof(Message{}))
	runtime.KeepAlive(r)
}

func heapBytes() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestReturnedCallDoesNotChange(t *testing.T) {
	r := newTestRecorder(t, 2)
	a := callerLeg("one")
	r.observe(a.request("INVITE"))
	id, _ := r.tracker.CallOf("one")
	c := r.wantRecorded(id)
	r.observe(a.response("INVITE", 180))
	r.observe(a.response("INVITE", 200))
	if len(c.Messages) != 1 || c.Ends[1].Name != "101" {
		t.Errorf("%d messages of %s", len(c.Messages), c.Ends[1].Name)
	}
}

// TestSecretLeavesMemory: no record refers to the memory of a message that had a secret
// or was too long.
func TestSecretLeavesMemory(t *testing.T) {
	for name, more := range map[string]string{
		"credentials": "Authorization: Digest username=\"101\", response=\"5ec2e7\"\r\n",
		"too long":    strings.Repeat("X-Pad: "+strings.Repeat("x", 93)+"\r\n", 200),
	} {
		r := newTestRecorder(t, 10)
		memory := func() weak.Pointer[[64 << 10]byte] {
			a := callerLeg("one")
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
			r.observe(m)
			return weak.Make(b)
		}()
		runtime.GC()
		if memory.Value() != nil {
			t.Errorf("%s: the message is still in memory", name)
		}
		if len(r.live) != 1 {
			t.Errorf("%s: %d calls are recorded", name, len(r.live))
		}
	}
}

func TestEndsAreNamedFromHeaders(t *testing.T) {
	for _, tt := range []struct{ head, from, to string }{
		{"INVITE sip:x@y SIP/2.0\r\nTo: \"<sip:no@x>\" <sip:102@y>;tag=<\r\nFrom : <sip:101:pw@x;user=phone>;tag=1\r\n", "101", "102"},
		{"A\r\nt: <sip:102;phone-context=y@x>\r\nF: Alice <sips:101@x>\r\n", "101", "102"},
		{"A\r\nTo: <sip:pbx.example>\r\nFrom: <tel:+49>\r\n", "+49", ""},
		{"A\r\nTo: \r\n:\r\n", "", ""},
		{"A\r\nFrom: <sip:" + strings.Repeat("1", 100) + "@x>\r\n", strings.Repeat("1", maxName), ""},
	} {
		m := &dialog.Message{Head: tt.head}
		if from, to := initialName(m, true), initialName(m, false); from != tt.from || to != tt.to {
			t.Errorf("%q names %q and %q, want %q and %q", tt.head, from, to, tt.from, tt.to)
		}
	}
	if got := initialName(&dialog.Message{AOR: "102@pbx.example", Head: "A\r\nTo: <sip:x@y>\r\n"}, false); got != "102" {
		t.Errorf("a registered callee is named %q", got)
	}
}

// TestOrderSurvivesClockChange: the time of a message is the wall clock's at its arrival.
// The order of messages, and their times after the first one, do not depend on it.
func TestOrderSurvivesClockChange(t *testing.T) {
	r, a := newTestRecorder(t, 1), callerLeg("one")
	r.observe(a.request("INVITE"))
	set := func(m dialog.Message, by time.Duration) {
		m.WallOffset = by
		r.observe(m)
	}
	set(a.response("INVITE", 180), 5*time.Hour)
	set(a.response("INVITE", 200), -time.Hour)
	crossed := a.request("ACK") // observed after the 200 and received before it
	crossed.WallOffset, r.now = -time.Hour, r.now.Add(-15*time.Millisecond)
	r.observe(crossed)
	c, ok := r.Call(r.tracker, r.events[0].Call)
	if !ok || !c.Began.Equal(start.Add(10*time.Millisecond)) {
		t.Fatalf("the call is %+v", c)
	}
	var got []string
	for _, m := range c.Messages {
		got = append(got, fmt.Sprint(m.arrowLabel(), " ", m.After, " ", m.At.Sub(start)))
	}
	want := []string{"INVITE 0s 10ms", "180 Ringing 10ms 5h0m0.02s", "ACK 15ms -59m59.975s", "200 OK 20ms -59m59.97s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// BenchmarkRecordMessage records the messages of calls of two legs without a tracker.
// The times are per message.
func BenchmarkRecordMessage(b *testing.B) {
	x, y := callerLeg("one"), calleeLeg("two", cid)
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
		id := fmt.Sprint(n / len(ms)) // used for the Call-ID of each leg too
		m := &ms[n%len(ms)]
		c := r.findOrCreateRecord(tracker, id, true, m)
		r.addMessage(tracker, c, m)
		if n++; n%len(ms) == 0 {
			c.hasEvent = true
			r.moveToList(c, false)
		}
	}
}

// TestRecorderRecoversFromPanics: a panic of the Recorder discards its records and loses
// no event.
func TestRecorderRecoversFromPanics(t *testing.T) {
	for name, breakIt := range map[string]func(*testRecorder){
		"a message": func(r *testRecorder) { r.Recorder.live = nil },
		"a deadline": func(r *testRecorder) {
			r.Recorder.ended = nil
			r.Recorder.Advance(r.tracker, r.now.Add(5*time.Hour))
		},
		"a reader": func(r *testRecorder) { r.Recorder.ended = nil; r.Recorder.Call(r.tracker, "none") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRecorder(t, 10)
			var stacks [][]byte
			r.Recorder.OnPanic = func(_ any, stack []byte) { stacks = append(stacks, stack) }
			r.observe(callerLeg("up").request("INVITE"))
			breakIt(r)
			said := len(r.events)
			whole := newTestRecorder(t, 0)
			r.playCall(callerLeg("a"), calleeLeg("b", cid))
			whole.playCall(callerLeg("a"), calleeLeg("b", cid))
			if len(r.events)-said != len(whole.events) || len(whole.events) == 0 {
				t.Errorf("%d events were emitted, want %d", len(r.events)-said, len(whole.events))
			}
			if len(stacks) != 1 || r.Recorder.Panics() != 1 || !strings.Contains(string(stacks[0]), "trace.go") {
				t.Errorf("%d calls of OnPanic, %d panics counted", len(stacks), r.Recorder.Panics())
			}
			id := r.playCall(callerLeg("c"), calleeLeg("d", cid))
			if c, ok := r.Recorder.Call(r.tracker, id); !ok || len(c.Messages) == 0 {
				t.Error("calls after the panic are not recorded")
			}
		})
	}
}
