package dialog

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// A line generates the messages of one leg, as a phone or PBX would send them.
type line struct {
	at            time.Time
	callID        string
	origin        Side
	from, to      string // tags
	branch, trunk string
	cseq          uint32
	uri, fromURI  string
	peer          netip.AddrPort // of the edge side
}

func caller() *line {
	return &line{
		at: start, callID: "a@phone", origin: Edge, from: "f1", to: "t1", branch: "z9hG4bK1", cseq: 1,
		uri: "sip:102@pbx.example", fromURI: "sip:101@pbx.example",
	}
}

func callee() *line {
	return &line{
		at: start, callID: "b@pbx", origin: PBX, from: "f2", to: "t2", branch: "z9hG4bK2", cseq: 1,
		uri: "sip:102@192.0.2.12:5060", fromURI: "sip:101@pbx.example",
	}
}

func (l *line) message(src Side, method string, status int, headers string) Message {
	m := Message{
		At: l.at, Src: src, Dst: otherSide(src), Trunk: l.trunk, Method: method, Status: status,
		CallID: l.callID, CSeq: l.cseq, FromTag: l.from, Branch: l.branch,
	}
	if src == Edge {
		m.From = l.peer
	} else {
		m.To = l.peer
	}
	first := method + " " + l.uri + " SIP/2.0"
	if status != 0 {
		first = fmt.Sprintf("SIP/2.0 %d Phrase", status)
	}
	m.Head = first + "\r\nFrom: <" + l.fromURI + ">;tag=" + l.from + "\r\nTo: <" + l.uri + ">\r\n" + headers
	return m
}

func otherSide(s Side) Side { return Edge + PBX - s }

func (l *line) invite(headers ...string) Message {
	return l.message(l.origin, "INVITE", 0, strings.Join(headers, ""))
}

func (l *line) response(status int, headers ...string) Message {
	m := l.message(otherSide(l.origin), "INVITE", status, strings.Join(headers, ""))
	if status > 100 {
		m.ToTag = l.to
	}
	return m
}

func (l *line) cancel(headers ...string) Message {
	return l.message(l.origin, "CANCEL", 0, strings.Join(headers, ""))
}

// bye returns the BYE of the leg's caller, or of its callee.
func (l *line) bye(byCaller bool, headers ...string) Message {
	m := l.message(l.origin, "BYE", 0, strings.Join(headers, ""))
	m.ToTag, m.Branch, m.CSeq = l.to, "z9hG4bK-bye", l.cseq+1
	if !byCaller {
		m.Src, m.Dst = m.Dst, m.Src
		m.From, m.To = m.To, m.From
		m.FromTag, m.ToTag = m.ToTag, m.FromTag
	}
	return m
}

func (l *line) later(d time.Duration) *line {
	l.at = l.at.Add(d)
	return l
}

func testConfig() Config {
	return Config{Pattern: regexp.MustCompile(`^[0-9]{2,5}$`), Learn: true}
}

// lastEvent plays messages and returns the last event that they cause.
func lastEvent(t *testing.T, c Config, messages ...Message) Event {
	t.Helper()
	tracker := New(c)
	var events []Event
	for _, m := range messages {
		events = append(events, tracker.Observe(m)...)
	}
	if len(events) == 0 {
		t.Fatal("no event was emitted")
	}
	return events[len(events)-1]
}

func TestStatusOfFinalResponses(t *testing.T) {
	q850 := func(cause int) string { return fmt.Sprintf("Reason: Q.850;cause=%d;text=\"x\"\r\n", cause) }
	for _, tt := range []struct {
		code   int
		rang   bool
		reason string
		want   Status
	}{
		{486, false, "", Busy},
		{600, true, "", Busy},
		{603, true, "", Busy},
		{408, true, "", NoAnswer},
		{480, true, "", NoAnswer},
		{408, false, "", ChanUnavail},
		{480, false, "", ChanUnavail},
		{302, false, "", ChanUnavail},
		{302, true, "", NoAnswer},
		{302, false, "Contact: <sip:5550001@pbx.example>\r\n", Forwarded},
		{301, true, "m: <sip:5550001@pbx.example>\r\n", Forwarded},
		{302, false, "Contact: <sip:5550001@pbx.example>\r\n" + q850(17), Busy},
		{404, true, "", ChanUnavail},
		{430, false, "", ChanUnavail},
		{430, true, "", ChanUnavail},
		{410, false, "", ChanUnavail},
		{484, false, "", ChanUnavail},
		{485, false, "", ChanUnavail},
		{604, false, "", ChanUnavail},
		{487, true, "", Canceled},
		{500, false, "", Congestion},
		{503, false, "", Congestion},
		{403, false, "", Congestion},
		{488, false, "", Congestion},
		{606, false, "", Congestion},
		{500, false, q850(17), Busy},
		{480, false, q850(18), NoAnswer},
		{480, false, q850(19), NoAnswer},
		{480, true, q850(20), ChanUnavail},
		{500, false, q850(1), ChanUnavail},
		{500, false, q850(3), ChanUnavail},
		{480, true, q850(21), Busy},
		{480, true, q850(34), Congestion},
		{480, true, q850(38), Congestion},
		{480, true, q850(41), Congestion},
		{480, true, q850(42), Congestion},
		{480, true, q850(44), Congestion},
		{480, true, q850(25), Congestion},
		{404, true, q850(27), Congestion},
		{486, true, q850(47), Congestion},
		{404, true, q850(88), Congestion},
		{603, true, q850(16), Busy},
		{480, true, q850(26), Canceled},
		{402, true, "", Answered}, // by the configured status
		{402, true, q850(17), Busy},
	} {
		t.Run(fmt.Sprintf("%d rang=%v %s", tt.code, tt.rang, tt.reason), func(t *testing.T) {
			c := testConfig()
			c.Status = map[int]Status{402: Answered}
			l := caller()
			messages := []Message{l.invite()}
			if tt.rang {
				messages = append(messages, l.response(180))
			}
			messages = append(messages, l.later(time.Second).response(tt.code, tt.reason))
			// The INVITE might come again after some.
			messages = append(messages, Message{At: l.later(retryWithin).at, Method: "OPTIONS"})
			e := lastEvent(t, c, messages...)
			if e.Type != Hangup || e.Status != tt.want || e.SipCode != tt.code || e.SipReason != "Phrase" {
				t.Errorf("got %s %s %d %q, want hangup %s", e.Type, e.Status, e.SipCode, e.SipReason, tt.want)
			}
		})
	}
}

func TestWhyCalleesAreCanceled(t *testing.T) {
	spiral := callee()
	spiral.callID, spiral.from = "a@phone", "f1"
	beside := callee()
	beside.callID, beside.from, beside.branch, beside.uri = "a@phone", "f1", "z9hG4bK3", "sip:103@192.0.2.14"
	for _, tt := range []struct {
		name      string
		before    []Message // in the same call
		reason    string
		want      Status
		by        HangupBy
		elsewhere bool
	}{
		{"no reason", nil, "", NoAnswer, BySystem, false},
		{"left the queue", nil, "Reason: Q.850;cause=0\r\n", NoAnswer, BySystem, false},
		{"caller gave up", nil, "Reason: Q.850;cause=127\r\n", Canceled, ByCaller, false},
		{"hung up, nobody answered", nil, "Reason: Q.850;cause=16\r\n", NoAnswer, BySystem, false},
		{"hung up, only the caller answered", []Message{caller().invite(), caller().response(200)}, "Reason: Q.850;cause=16\r\n", NoAnswer, BySystem, false},
		{"caller canceled, elsewhere", []Message{caller().invite(), caller().cancel()}, "Reason: Q.850;cause=26\r\n", Canceled, ByCaller, false},
		{"elsewhere", nil, "Reason: Q.850;cause=26\r\n", Canceled, BySystem, true},
		{"elsewhere, in SIP", nil, "Reason: SIP ;cause=200 ;text=\"Call completed elsewhere\"\r\n", Canceled, BySystem, true},
		{"both in one", nil, "Reason: Q.850;cause=16, SIP;cause=200\r\n", Canceled, BySystem, true},
		{"caller known and waiting", []Message{caller().invite()}, "", NoAnswer, BySystem, false},
		{"caller canceled", []Message{caller().invite(), caller().cancel()}, "", Canceled, ByCaller, false},
		{"caller canceled, other reason", []Message{caller().invite(), caller().cancel()}, "Reason: Q.850;cause=16\r\n", Canceled, ByCaller, false},
		{"another answered", []Message{beside.invite(), beside.response(200)}, "", Canceled, BySystem, true},
		{"another answered, other reason", []Message{beside.invite(), beside.response(200)}, "Reason: Q.850;cause=0\r\n", NoAnswer, BySystem, false},
		{"caller answered", []Message{caller().invite(), caller().response(200)}, "", Canceled, BySystem, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := lastEvent(t, testConfig(), append(tt.before, spiral.invite(), spiral.response(180), spiral.cancel(tt.reason), spiral.response(487))...)
			if e.Type != Hangup || e.Flow != In || e.Status != tt.want || e.HangupBy != tt.by || e.Elsewhere != tt.elsewhere {
				t.Errorf("got %s %s %s by %s, elsewhere %v; want %s by %s, elsewhere %v",
					e.Type, e.Flow, e.Status, e.HangupBy, e.Elsewhere, tt.want, tt.by, tt.elsewhere)
			}
			if e.Missed == nil || *e.Missed == tt.elsewhere {
				t.Errorf("missed is %v, want %v", e.Missed, !tt.elsewhere)
			}
		})
	}
}

func TestCallerHasStatusOfCallees(t *testing.T) {
	leg := func(n int, messages ...func(l *line) Message) (all []Message) {
		l := callee()
		l.callID, l.from, l.branch = "a@phone", "f1", fmt.Sprintf("z9hG4bK-%d", n)
		l.uri = fmt.Sprintf("sip:20%d@192.0.2.12", n)
		all = append(all, l.invite())
		for _, f := range messages {
			all = append(all, f(l))
		}
		return all
	}
	got := func(code int) func(*line) Message { return func(l *line) Message { return l.response(code) } }
	for _, tt := range []struct {
		name    string
		callees [][]Message
		want    Status
	}{
		{"none known", nil, Busy},
		{"still ringing", [][]Message{leg(1, got(180))}, NoAnswer},
		{"all busy", [][]Message{leg(1, got(486)), leg(2, got(486))}, Busy},
		{"one busy, one rang", [][]Message{leg(1, got(486)), leg(2, got(180), got(480))}, NoAnswer},
		{"never reached a phone", [][]Message{leg(1, got(408))}, ChanUnavail},
		{"nothing heard of it", [][]Message{leg(1)}, ChanUnavail},
		{"one answered", [][]Message{leg(1, got(486)), leg(2, got(200))}, Answered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := caller()
			messages := []Message{l.invite()}
			for _, c := range tt.callees {
				messages = append(messages, c...)
			}
			e := lastEvent(t, testConfig(), append(messages, l.response(603))...)
			if e.Type != Hangup || e.Flow != Out || e.Status != tt.want {
				t.Errorf("got %s %s %s, want hangup out %s", e.Type, e.Flow, e.Status, tt.want)
			}
		})
	}
}

func TestWhenDialOutIsEmitted(t *testing.T) {
	trying := func(l *line) Message { return l.response(100) }
	own := func(l *line, status int) Message {
		m := l.response(status)
		m.Own = true
		return m
	}
	credentials := "Proxy-Authorization: Digest username=\"101\"\r\n"
	for _, tt := range []struct {
		name string
		play func(l *line) []Message
		wait time.Duration
		want bool
	}{
		{"no response", func(l *line) []Message { return []Message{l.invite()} }, time.Hour, false},
		{"100", func(l *line) []Message { return []Message{l.invite(), trying(l)} }, 499 * time.Millisecond, false},
		{"100 and half a second", func(l *line) []Message { return []Message{l.invite(), trying(l)} }, 500 * time.Millisecond, true},
		{"100 with credentials", func(l *line) []Message { return []Message{l.invite(credentials), trying(l)} }, 0, true},
		{"our own 100", func(l *line) []Message { return []Message{l.invite(credentials), own(l, 100)} }, time.Second, false},
		{"180", func(l *line) []Message { return []Message{l.invite(), l.response(180)} }, 0, true},
		{"our own 408", func(l *line) []Message { return []Message{l.invite(), own(l, 408)} }, 0, true},
		{"our own 503", func(l *line) []Message { return []Message{l.invite(), own(l, 503)} }, 0, true},
		{"401", func(l *line) []Message { return []Message{l.invite(), l.response(401)} }, time.Hour, false},
		{"100, 407", func(l *line) []Message { return []Message{l.invite(), trying(l), l.response(407)} }, time.Hour, false},
		{"401, CANCEL", func(l *line) []Message { return []Message{l.invite(), l.response(401), l.cancel()} }, time.Hour, false},
		{"401, BYE", func(l *line) []Message { return []Message{l.invite(), l.response(401), l.bye(true)} }, time.Hour, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			dialed := false
			hear := func(events []Event) {
				for _, e := range events {
					if e.Type == DialOut && e.At.Equal(start) {
						dialed = true
					}
				}
			}
			for _, m := range tt.play(caller()) {
				hear(tracker.Observe(m))
			}
			hear(tracker.Advance(start.Add(tt.wait)))
			if dialed != tt.want {
				t.Errorf("dial-out emitted: %v, want %v", dialed, tt.want)
			}
		})
	}
}

// TestLegsEndAtTheirLimits checks each deadline: no event comes a microsecond before it.
func TestLegsEndAtTheirLimits(t *testing.T) {
	short := testConfig()
	short.MaxDuration = time.Minute
	l := caller()
	for _, tt := range []struct {
		name     string
		config   Config
		messages []Message
		after    time.Duration
		status   Status
	}{
		{"silence", testConfig(), []Message{callee().invite()}, ringLimit, Unknown},
		{"rings for ever", testConfig(), []Message{l.invite(), l.response(180)}, ringLimit, Unknown},
		{"talks for ever", testConfig(), []Message{l.invite(), l.response(200)}, 4 * time.Hour, Unknown},
		{"max_duration", short, []Message{l.invite(), l.response(200)}, time.Minute, Unknown},
		{"challenged after the dial", testConfig(), []Message{callee().invite(), callee().response(407)}, retryWithin, Congestion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(tt.config)
			for _, m := range tt.messages {
				tracker.Observe(m)
			}
			due := start.Add(tt.after)
			if next, ok := tracker.Next(); !ok || next.After(due) {
				t.Errorf("next is %v %v, want %v at the latest", next, ok, due)
			}
			if events := tracker.Advance(due.Add(-time.Microsecond)); len(events) > 0 {
				t.Errorf("a microsecond early: %v", events)
			}
			if next, ok := tracker.Next(); !ok || !next.Equal(due) {
				t.Errorf("next is %v %v, want %v", next, ok, due)
			}
			events := tracker.Advance(due)
			if len(events) != 1 || events[0].Type != Hangup || events[0].Status != tt.status || !events[0].At.Equal(due) {
				t.Errorf("got %v, want one hangup %s", events, tt.status)
			}
			if n := len(tracker.Calls()); n != 0 {
				t.Errorf("%d live calls, want none", n)
			}
			tracker.Advance(due.Add(lingerTime - time.Microsecond))
			if len(tracker.index.callByCallID) != 1 {
				t.Error("the call was removed before its stragglers can be gone")
			}
			tracker.Advance(due.Add(lingerTime))
			wantEmpty(t, tracker)
		})
	}
}

// stateLeft returns the number of entries that calls have in a tracker.
func stateLeft(t *Tracker) int {
	return len(t.index.callByCallID) + len(t.index.keyHolders) + len(t.numbers.legsByNumber) + len(t.numbers.callersByDialed) + len(*t.refers) + len(t.deadlines)
}

func wantEmpty(t *testing.T, tracker *Tracker) {
	t.Helper()
	if n := stateLeft(tracker); n != 0 {
		t.Errorf("%d Call-IDs, %d keys, %d + %d numbers, %d REFERs and %d calls are left, want none",
			len(tracker.index.callByCallID), len(tracker.index.keyHolders), len(tracker.numbers.legsByNumber), len(tracker.numbers.callersByDialed), len(*tracker.refers), len(tracker.deadlines))
	}
	if n := len(tracker.registrar.expiries); n != 0 {
		t.Errorf("%d registrations are due, want none", n)
	}
}

func TestSameAgentRungAgain(t *testing.T) {
	tracker := New(testConfig())
	l := callee()
	first := tracker.Observe(l.invite())
	tracker.Observe(l.later(time.Second).response(486))
	l.branch = "z9hG4bK-again"
	second := tracker.Observe(l.later(time.Second).invite())
	if len(first) != 1 || len(second) != 1 || second[0].Type != DialIn {
		t.Fatalf("got %v and %v, want a dial-in each", first, second)
	}
	if first[0].Party == second[0].Party || first[0].Call != second[0].Call || second[0].Seq != 3 {
		t.Errorf("got %v, then %v: want another party, the same call, number 3", first[0], second[0])
	}
}

func TestDeadDeviceDoesNotProlongCall(t *testing.T) {
	tracker := New(testConfig())
	alive, dead := callee(), callee()
	dead.branch, dead.uri = "z9hG4bK-dead", "sip:102@192.0.2.13"
	for _, m := range []Message{alive.invite(), dead.invite(), alive.response(200), dead.cancel()} {
		tracker.Observe(m)
	}
	events := tracker.Observe(alive.later(time.Second).bye(true))
	if len(events) != 1 || events[0].Type != Hangup || events[0].Duration != time.Second {
		t.Fatalf("got %v, want the hangup after a second", events)
	}
	late := dead.later(40 * time.Second).response(408)
	late.Own = true
	if events := tracker.Observe(late); len(events) > 0 {
		t.Errorf("after the hangup: %v", events)
	}
}

// TestDirectByeEndsBothLegs checks the BYE with a PBX that does not record-route: it goes
// from phone to phone, and ends both legs.
func TestDirectByeEndsBothLegs(t *testing.T) {
	tracker := New(testConfig())
	out, in := caller(), callee()
	in.callID, in.from, in.to = out.callID, out.from, out.to
	for _, m := range []Message{out.invite(), in.invite(), in.response(200), out.response(200)} {
		tracker.Observe(m)
	}
	bye := out.later(time.Second).bye(true)
	bye.Dst = Edge
	if events := tracker.Observe(bye); len(events) != 2 {
		t.Errorf("got %v, want two hangups", events)
	}
}

func TestForeignByeIsIgnored(t *testing.T) {
	for name, change := range map[string]func(*Message){
		"other Call-ID":  func(m *Message) { m.CallID = "c@phone" },
		"other From tag": func(m *Message) { m.FromTag = "x" },
		"other To tag":   func(m *Message) { m.ToTag = "x" },
		"other side":     func(m *Message) { m.Src, m.Dst = m.Dst, m.Src },
	} {
		t.Run(name, func(t *testing.T) {
			tracker := New(testConfig())
			l := caller()
			tracker.Observe(l.invite())
			tracker.Observe(l.response(200))
			m := l.bye(true)
			change(&m)
			if events := tracker.Observe(m); len(events) > 0 {
				t.Errorf("got %v", events)
			}
		})
	}
}

func TestTimerCMeansNoAnswer(t *testing.T) {
	l := caller()
	e := lastEvent(t, testConfig(), l.invite(), l.response(180), l.later(timerC).response(487))
	if e.Status != NoAnswer || e.HangupBy != BySystem {
		t.Errorf("got %s by %s, want NOANSWER by system", e.Status, e.HangupBy)
	}
}

func TestIDsAreDerived(t *testing.T) {
	play := func() (all []Event) {
		tracker := New(testConfig())
		l := caller()
		for _, m := range []Message{l.invite(), l.response(180), l.response(200), l.bye(false)} {
			all = append(all, tracker.Observe(m)...)
		}
		return all
	}
	a, b := play(), play()
	seen := map[string]bool{}
	for i, e := range a {
		if e.ID != b[i].ID || e.Party != b[i].Party || e.Call != b[i].Call {
			t.Errorf("%s: another node emits %v, not %v", e.Type, b[i], e)
		}
		if len(e.ID) != 32 || len(e.Party) != 32 || len(e.Call) != 32 {
			t.Errorf("%s: ids %q %q %q are not 32 digits", e.Type, e.ID, e.Party, e.Call)
		}
		if seen[e.ID] {
			t.Errorf("%s: id %s is used twice", e.Type, e.ID)
		}
		seen[e.ID] = true
	}
	if len(a) != 4 {
		t.Errorf("%d events, want dial-out, ringing, answer, hangup", len(a))
	}
}

func TestCallsListsLiveCalls(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	tracker.Observe(l.invite())
	if n := len(tracker.Calls()); n != 0 {
		t.Errorf("%d calls before the dial, want none", n)
	}
	for _, tt := range []struct {
		m     Message
		state string
	}{
		{l.response(183), "ringing"},
		{l.response(200), "talking"},
	} {
		tracker.Observe(tt.m)
		calls := tracker.Calls()
		if len(calls) != 1 || calls[0].State != tt.state || len(calls[0].Parties) != 1 || calls[0].Parties[0].CalledNumber != "102" {
			t.Errorf("got %+v, want one %s call", calls, tt.state)
		}
	}
	tracker.Observe(l.bye(true))
	if n := len(tracker.Calls()); n != 0 {
		t.Errorf("%d calls after the hangup, want none", n)
	}
}

// TestFloodsLeaveNoMemory observes tens of thousands of messages of strangers.
func TestFloodsLeaveNoMemory(t *testing.T) {
	const n = 2 * maxAttempts
	register := func(i int) Message {
		l := callee()
		m := l.message(Edge, "REGISTER", 0, "Contact: <sip:x@192.0.2.99>\r\n")
		m.CallID = fmt.Sprint(i)
		return m
	}
	for _, tt := range []struct {
		name string
		send func(i int) []Message
	}{
		{"INVITE, 401", func(i int) []Message {
			l := caller()
			l.callID = fmt.Sprint(i)
			return []Message{l.invite(), l.response(401)}
		}},
		{"INVITE, 401, in one Call-ID", func(i int) []Message {
			l := caller()
			l.branch, l.from = fmt.Sprint(i), fmt.Sprint(i)
			return []Message{l.invite(), l.response(401)}
		}},
		{"REGISTER", func(i int) []Message { return []Message{register(i)} }},
		{"REGISTER, 401", func(i int) []Message {
			m := register(i)
			m.Src, m.Dst, m.Status = PBX, Edge, 401
			return []Message{register(i), m}
		}},
		{"2xx to REGISTER, from outside", func(i int) []Message {
			m := register(i)
			m.Status = 200
			return []Message{m}
		}},
		{"OPTIONS", func(i int) []Message {
			l := caller()
			l.callID = fmt.Sprint(i)
			return []Message{l.message(Edge, "OPTIONS", 0, "")}
		}},
		{"responses without requests", func(i int) []Message {
			l := caller()
			l.callID = fmt.Sprint(i)
			return []Message{l.response(180), l.response(200), l.bye(true), l.cancel()}
		}},
		{"MESSAGE", func(i int) []Message {
			l := caller()
			l.callID = fmt.Sprint(i)
			return []Message{l.message(Edge, "MESSAGE", 0, "")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			for i := range n {
				for _, m := range tt.send(i) {
					if events := tracker.Observe(m); len(events) > 0 {
						t.Fatalf("got %v, want nothing emitted", events)
					}
				}
			}
			wantEmpty(t, tracker)
			if tracker.attempts.challenged.Len() > maxAttempts || tracker.texts.pending.Len() > maxMessages || tracker.directory.aors.Len() > 0 {
				t.Errorf("%d attempts, %d messages and %d addresses are left", tracker.attempts.challenged.Len(), tracker.texts.pending.Len(), tracker.directory.aors.Len())
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				if emitted := tracker.Advance(next); len(emitted) > 0 || next.After(start.Add(time.Hour)) {
					t.Fatalf("at %v got %v, want nothing emitted", next, emitted)
				}
			}
			if tracker.attempts.challenged.Len() > 0 {
				t.Errorf("%d attempts are left that can no longer be repeated", tracker.attempts.challenged.Len())
			}
		})
	}
}

func TestLegsOfOneCallAreBounded(t *testing.T) {
	tracker := New(testConfig())
	l := callee()
	dials := 0
	for i := range 10 * maxLegs {
		l.branch, l.uri = fmt.Sprint(i), fmt.Sprintf("sip:%d@192.0.2.12", 100+i)
		dials += len(tracker.Observe(l.invite()))
	}
	if dials != maxLegs {
		t.Errorf("%d dials, want %d", dials, maxLegs)
	}
	hangups := 0
	for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
		hangups += len(tracker.Advance(next))
	}
	if hangups != dials {
		t.Errorf("%d hangups, want %d", hangups, dials)
	}
	wantEmpty(t, tracker)
}

// TestLongWaitKeepsMemoryBounded has an agent rung again and again for a caller that waits
// in a queue for hours: the memory of the call does not grow.
func TestLongWaitKeepsMemoryBounded(t *testing.T) {
	c := testConfig()
	c.Extensions = []Declared{{Number: "600", Kind: Queue}}
	tracker := New(c)
	waiting := legFromPhone("101", "600", "phone-1")
	tracker.Observe(waiting.invite())
	tracker.Observe(waiting.response(200))
	dials := 0
	for n := range 500 {
		l := legToPhone("101", "102", fmt.Sprintf("pbx-%d", n))
		l.at = start.Add(time.Duration(n) * 20 * time.Second)
		for _, m := range []Message{l.invite(), l.response(180), l.later(15 * time.Second).cancel("Reason: Q.850;cause=0\r\n"), l.response(487)} {
			for _, e := range tracker.Observe(m) {
				if e.Type == DialIn {
					dials++
				}
			}
		}
	}
	call := tracker.index.callByCallID["phone-1"]
	if dials != 500 || len(tracker.deadlines) != 1 {
		t.Errorf("%d dial-ins in %d calls, want 500 in one", dials, len(tracker.deadlines))
	}
	if n := max(len(call.legs), len(call.parties), len(call.callIDs), len(tracker.index.callByCallID), len(tracker.numbers.legsByNumber["102"])); n > 6 {
		t.Errorf("%d legs, parties or Call-IDs are in memory, want those of the last 32 s", n)
	}
}

// TestCredentialsAreNotCopied checks that no event has the credentials of a phone, whatever
// header fields the configuration names.
func TestCredentialsAreNotCopied(t *testing.T) {
	c := testConfig()
	c.Headers = []string{"X-A", "authorization", "Proxy-Authorization", "x-bellhop-trunk"}
	c.RecID, c.Tag, c.CallBackID, c.CallAPIID = "Authorization", "Proxy-Authorization", "AUTHORIZATION", "proxy-authorization"
	l := caller()
	e := lastEvent(t, c, l.invite("X-A: 1\r\nAuthorization: Digest response=\"hush\"\r\nProxy-Authorization: Digest response=\"hush\"\r\nX-Bellhop-Trunk: hush\r\n"), l.response(180))
	if got := fmt.Sprintf("%+v", e); strings.Contains(got, "hush") || len(e.Headers) != 1 || e.Headers[0] != [2]string{"X-A", "1"} {
		t.Errorf("emitted %s", got)
	}
	if len(c.Headers) != 4 {
		t.Error("the caller's slice was changed")
	}
}
