package dialog

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	phoneAddr    = netip.MustParseAddrPort("192.0.2.11:5060")
	roamedAddr   = netip.MustParseAddrPort("192.0.2.11:40001") // the phone, behind its NAT
	strangerAddr = netip.MustParseAddrPort("198.51.100.66:5060")
)

// requestInDialog returns a request in the dialog of l from an edge address.
func requestInDialog(l *line, method string, byCaller bool, peer netip.AddrPort, cseq uint32, branch string) Message {
	m := l.bye(byCaller)
	m.Method, m.CSeq, m.Branch = method, cseq, branch
	if m.Src == Edge {
		m.From = peer
	} else {
		m.To = peer
	}
	m.Head = strings.Replace(m.Head, "BYE ", method+" ", 1)
	return m
}

// responseTo returns the response of the other side to a request.
func responseTo(m Message, status int, after time.Duration) Message {
	m.At = m.At.Add(after)
	m.Src, m.Dst, m.From, m.To = m.Dst, m.Src, m.To, m.From
	m.Status, m.Head, m.Body = status, fmt.Sprintf("SIP/2.0 %d Phrase\r\n", status), ""
	return m
}

// TestWhenByeCounts sends a BYE in an answered call, and its response 300 ms later, and
// checks when the call is over.
func TestWhenByeCounts(t *testing.T) {
	const (
		atOnce     = 10 * time.Second
		atResponse = 10*time.Second + 300*time.Millisecond
		never      = 4 * time.Hour
	)
	trunk := func(l *line) { l.trunk = "carrier" }
	for _, tt := range []struct {
		name     string
		change   func(*line)
		byCaller bool
		calleeIs bool // the leg is a callee's: the PBX sent its INVITE
		peer     netip.AddrPort
		cseq     uint32
		status   int
		own      bool
		at       []string // extensions that register from peer during the call, and the end in seconds
		want     time.Duration
		by       HangupBy
		code     int
	}{
		{name: "own flow", byCaller: true, peer: phoneAddr, cseq: 2, status: 200, want: atOnce, by: ByCaller},
		{name: "own flow, no response", byCaller: true, peer: phoneAddr, cseq: 2, want: atOnce, by: ByCaller},
		{name: "own flow, refused", byCaller: true, peer: phoneAddr, cseq: 2, status: 403, want: atOnce, by: ByCaller},
		{name: "another port, accepted", byCaller: true, peer: roamedAddr, cseq: 2, status: 200, want: atOnce, by: ByCaller},
		{name: "another port, no response", byCaller: true, peer: roamedAddr, cseq: 2, want: never, by: BySystem},
		{name: "another port, the dialog is gone", byCaller: true, peer: roamedAddr, cseq: 2, status: 481, want: atResponse, by: BySystem, code: 481},
		{name: "stranger, refused", byCaller: true, peer: strangerAddr, cseq: 2, status: 403, want: never, by: BySystem},
		{name: "stranger, challenged", byCaller: true, peer: strangerAddr, cseq: 2, status: 401, want: never, by: BySystem},
		{name: "stranger, nobody answers", byCaller: true, peer: strangerAddr, cseq: 2, status: 408, own: true, want: never, by: BySystem},
		{name: "stranger, and the hop says the dialog is gone", byCaller: true, peer: strangerAddr, cseq: 2, status: 481, own: true, want: never, by: BySystem},
		{name: "stranger, accepted", byCaller: true, peer: strangerAddr, cseq: 2, status: 200, want: atOnce, by: ByCaller},
		{name: "BYE of the PBX", byCaller: false, peer: phoneAddr, cseq: 2, want: atOnce, by: ByCallee},
		{name: "PBX, to another address", byCaller: false, peer: roamedAddr, cseq: 2, want: atOnce, by: ByCallee},
		{name: "old CSeq, refused", byCaller: true, peer: phoneAddr, cseq: 1, status: 500, want: never, by: BySystem},
		{name: "old CSeq, accepted all the same", byCaller: true, peer: phoneAddr, cseq: 1, status: 200, want: atOnce, by: ByCaller},
		{name: "callee's own flow", calleeIs: true, peer: phoneAddr, cseq: 2, want: atOnce, by: ByCallee},
		{name: "stranger as the callee, refused", calleeIs: true, peer: strangerAddr, cseq: 2, status: 403, want: never, by: BySystem},
		{name: "callee at another port, accepted", calleeIs: true, peer: roamedAddr, cseq: 2, status: 200, want: atOnce, by: ByCallee},
		{name: "another address of the carrier", change: trunk, calleeIs: true, peer: strangerAddr, cseq: 2, want: atOnce, by: ByCallee},
		{name: "where it has registered since, refused", byCaller: true, peer: roamedAddr, cseq: 2, status: 500, at: []string{"101", "60"}, want: atOnce, by: ByCaller},
		{name: "where it has registered since, no response", byCaller: true, peer: roamedAddr, cseq: 2, at: []string{"101", "60"}, want: atOnce, by: ByCaller},
		{name: "where it has registered since, gone", byCaller: true, peer: roamedAddr, cseq: 2, status: 481, at: []string{"101", "60"}, want: atOnce, by: ByCaller},
		{name: "where the callee has registered since", calleeIs: true, peer: roamedAddr, cseq: 2, status: 500, at: []string{"102", "60"}, want: atOnce, by: ByCallee},
		{name: "where another has registered", byCaller: true, peer: roamedAddr, cseq: 2, status: 500, at: []string{"102", "60"}, want: never, by: BySystem},
		{name: "where it was registered", byCaller: true, peer: roamedAddr, cseq: 2, status: 500, at: []string{"101", "3"}, want: never, by: BySystem},
		{name: "where it has signed off", byCaller: true, peer: roamedAddr, cseq: 2, status: 500, at: []string{"101", "60", "101", "0"}, want: never, by: BySystem},
		{name: "of a call whose peer is not known", change: func(l *line) { l.peer = netip.AddrPort{} }, byCaller: true, peer: strangerAddr, cseq: 2, want: atOnce, by: ByCaller},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := caller()
			if tt.calleeIs {
				l = callee()
			}
			l.peer = phoneAddr
			c := testConfig()
			if tt.change != nil {
				tt.change(l)
			}
			if l.trunk != "" { // a party outside: 102 sends the call on
				l.uri = "sip:5559999@192.0.2.21"
			}
			tracker := New(c)
			w := eventChecker{t: t, parties: map[string]*checkedParty{}, seq: map[string]int{}}
			headers := "Diversion: <sip:102@pbx.example>\r\n"
			if l.trunk == "" {
				headers = ""
			}
			w.checkEvents(tracker.Observe(l.invite(headers)))
			w.checkEvents(tracker.Observe(l.response(200)))
			for at := tt.at; len(at) > 0; at = at[2:] {
				ok := registerResponse(l.at.Add(5*time.Second), "sip:"+at[0]+"@pbx.example", "Contact: <sip:x@192.0.2.11>;expires="+at[1]+"\r\n")
				ok.To = tt.peer
				tracker.Observe(ok)
			}
			m := requestInDialog(l.later(10*time.Second), "BYE", tt.byCaller, tt.peer, tt.cseq, "z9hG4bK-x")
			emitted := tracker.Observe(m)
			if tt.status != 0 {
				r := responseTo(m, tt.status, 300*time.Millisecond)
				r.Own = tt.own
				emitted = append(emitted, tracker.Observe(r)...)
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				emitted = append(emitted, tracker.Advance(next)...)
			}
			emitted = slices.DeleteFunc(emitted, func(e Event) bool { return e.Type == Unregistered })
			w.checkEvents(emitted)
			if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Duration != tt.want || emitted[0].HangupBy != tt.by || emitted[0].SipCode != tt.code {
				t.Errorf("got %+v, want one hangup by %s after %v with %d", emitted, tt.by, tt.want, tt.code)
			}
			wantEmpty(t, tracker)
		})
	}
}

// TestByeCountsFromItsRequest, unless the call has emitted an event since: then its hangup
// comes after that.
func TestByeCountsFromItsRequest(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	l.peer = phoneAddr
	tracker.Observe(l.invite())
	tracker.Observe(l.response(200))
	bye := requestInDialog(l.later(10*time.Second), "BYE", true, roamedAddr, 2, "z9hG4bK-x")
	tracker.Observe(bye)
	other := legToPhone("101", "103", "pbx-9")
	other.at = l.later(time.Second).at
	if emitted := tracker.Observe(other.invite("Session-ID: x\r\n")); len(emitted) != 1 || emitted[0].Call != tracker.index.callByCallID[l.callID].id {
		t.Fatalf("got %v, want a dial-in of the same call", emitted)
	}
	emitted := tracker.Observe(responseTo(bye, 200, 2*time.Second))
	if len(emitted) != 1 || emitted[0].Duration != 12*time.Second {
		t.Errorf("got %+v, want a hangup after 12 s", emitted)
	}
}

// TestProxyResponseEndsNoDialog checks that a 481 of a PBX that is a proxy ends no dialog:
// the proxy keeps no dialogs, and is not their other end.
func TestProxyResponseEndsNoDialog(t *testing.T) {
	tracker := New(testConfig())
	out, in := caller(), callee()
	in.callID, in.from, in.to = out.callID, out.from, out.to
	out.peer, in.peer = phoneAddr, netip.MustParseAddrPort("192.0.2.12:5060")
	for _, m := range []Message{out.invite(), in.invite(), in.response(200), out.response(200)} {
		tracker.Observe(m)
	}
	forged := requestInDialog(out.later(time.Second), "BYE", true, strangerAddr, 9, "z9hG4bK-x")
	if emitted := append(tracker.Observe(forged), tracker.Observe(responseTo(forged, 481, 0))...); len(emitted) > 0 {
		t.Errorf("a stranger's BYE ended it: %v", emitted)
	}
	if emitted := tracker.Observe(requestInDialog(out, "BYE", true, phoneAddr, 2, "z9hG4bK-y")); len(emitted) != 1 {
		t.Errorf("got %v, want the hangup of 101", emitted)
	}
}

// TestForgedRequestsInDialog observes requests of a stranger in a call, and then the PBX's
// response to each.
func TestForgedRequestsInDialog(t *testing.T) {
	held := "v=0\r\nm=audio 1 RTP/AVP 0\r\na=sendonly\r\n"
	for _, tt := range []struct {
		method string
		status int
		own    bool
		want   []Type
	}{
		{"UPDATE", 403, false, nil},
		{"UPDATE", 408, true, nil},
		{"UPDATE", 408, false, nil},
		{"UPDATE", 481, true, nil},
		{"UPDATE", 481, false, []Type{Hangup}},
		{"UPDATE", 200, false, []Type{Hold}},
		{"INVITE", 403, false, nil},
		{"INVITE", 200, false, []Type{Hold}},
		{"REFER", 403, false, nil},
		{"REFER", 202, false, nil},
	} {
		t.Run(fmt.Sprint(tt.method, tt.status, tt.own), func(t *testing.T) {
			tracker := New(testConfig())
			l := caller()
			l.peer = phoneAddr
			tracker.Observe(l.invite())
			tracker.Observe(l.response(200, "Session-Expires: 1800\r\n"))
			m := requestInDialog(l.later(time.Second), tt.method, true, strangerAddr, 2, "z9hG4bK-x")
			m.Body = held
			m.Head += "Refer-To: <sip:103@pbx.example>\r\n"
			if emitted := tracker.Observe(m); len(emitted) > 0 || len(*tracker.refers) > 0 {
				t.Errorf("counted at once: %v", emitted)
			}
			r := responseTo(m, tt.status, time.Second)
			r.Own = tt.own
			emitted := tracker.Observe(r)
			if len(emitted) != len(tt.want) || len(emitted) > 0 && emitted[0].Type != tt.want[0] {
				t.Errorf("got %v, want %v", emitted, tt.want)
			}
			if accepted := tt.method == "REFER" && tt.status == 202; accepted != (len(*tracker.refers) == 1) {
				t.Errorf("%d REFERs may be followed", len(*tracker.refers))
			}
			if len(tt.want) > 0 && tt.want[0] == Hangup {
				return
			}
			if next := tracker.index.callByCallID[l.callID].legs[0].stateDeadline(4 * time.Hour); tt.status != 200 && !next.Equal(start.Add(1800*time.Second+lingerTime)) {
				t.Errorf("the session lasts until %v", next)
			}
			// Requests of the phone itself count: its new registration made this flow its own.
			peer := phoneAddr
			if tt.status/100 == 2 {
				peer = strangerAddr
			}
			if emitted := tracker.Observe(requestInDialog(l.later(time.Minute), "BYE", true, peer, 3, "z9hG4bK-y")); len(emitted) == 0 {
				t.Error("the BYE of the phone does not count")
			}
		})
	}
}

// TestRequestsAcceptedAnywhereMoveNoPhone checks requests that a PBX accepts from any
// sender, with any tags: they do not change the phone's address.
func TestRequestsAcceptedAnywhereMoveNoPhone(t *testing.T) {
	for _, method := range []string{"OPTIONS", "MESSAGE", "SUBSCRIBE", "NOTIFY"} {
		t.Run(method, func(t *testing.T) {
			tracker := New(testConfig())
			l := caller()
			l.peer = phoneAddr
			tracker.Observe(l.invite())
			tracker.Observe(l.response(200))
			m := requestInDialog(l.later(time.Second), method, true, strangerAddr, 2, "z9hG4bK-x")
			tracker.Observe(m)
			tracker.Observe(responseTo(m, 200, 0))
			forged := requestInDialog(l, "BYE", true, strangerAddr, 3, "z9hG4bK-y")
			if emitted := append(tracker.Observe(forged), tracker.Observe(responseTo(forged, 403, 0))...); len(emitted) > 0 {
				t.Errorf("a stranger's BYE ended it: %v", emitted)
			}
			if emitted := tracker.Observe(requestInDialog(l, "BYE", true, phoneAddr, 2, "z9hG4bK-z")); len(emitted) != 1 {
				t.Errorf("got %v, want the hangup of 101", emitted)
			}
		})
	}
}

// TestStrangersInviteJoinsNoCall checks that an INVITE from another source with the Call-ID
// of a call is no leg of it, whatever its tags are.
func TestStrangersInviteJoinsNoCall(t *testing.T) {
	for _, tag := range []string{"f1", "x", "t1"} {
		for _, answered := range []bool{false, true} {
			tracker := New(testConfig())
			l := caller()
			l.peer = phoneAddr
			tracker.Observe(l.invite())
			if answered {
				tracker.Observe(l.response(200))
			}
			x := caller()
			x.peer, x.from, x.branch, x.cseq, x.fromURI = strangerAddr, tag, "z9hG4bK-x", 7, "sip:105@pbx.example"
			for _, m := range []Message{x.invite(), x.response(100), x.response(401), x.cancel(), x.bye(true)} {
				if emitted := tracker.Observe(m); len(emitted) > 0 {
					t.Errorf("tag %s, answered %v: %s emitted %v", tag, answered, m.Method, emitted)
				}
			}
			c := tracker.index.callByCallID[l.callID]
			if c == nil || len(c.legs) != 1 || c.legs[0].canceled || c.legs[0].state == over || c.legs[0].branch != l.branch {
				t.Errorf("tag %s, answered %v: the call is not as it was", tag, answered)
			}
		}
	}
}

// TestReplacesNeedsBothTags checks that a phone must name both tags of the dialog that it
// replaces.
func TestReplacesNeedsBothTags(t *testing.T) {
	for value, want := range map[string]bool{
		"a@phone;to-tag=t1;from-tag=f1":            true,
		"a@phone;from-tag=t1;to-tag=f1;early-only": true,
		"a@phone;to-tag=t1;from-tag=x":             false,
		"a@phone;to-tag=x;from-tag=f1":             false,
		"a@phone;to-tag=t1":                        false,
		"a@phone;to-tag=f1;from-tag=f1":            false,
		"a@phone":                                  false,
		"b@phone;to-tag=t1;from-tag=f1":            false,
	} {
		tracker := New(testConfig())
		l := caller()
		tracker.Observe(l.invite())
		tracker.Observe(l.response(180))
		tracker.Observe(legFromPhone("103", "102", "phone-3").invite("Replaces: " + value + "\r\n"))
		if got := tracker.index.callByCallID["phone-3"] == tracker.index.callByCallID["a@phone"]; got != want {
			t.Errorf("%s: joined %v, want %v", value, got, want)
		}
	}
}

// TestReferredPhoneJoinsItsCall checks that an INVITE which a REFER asks for is joined to
// its call if it comes from a phone of that call.
func TestReferredPhoneJoinsItsCall(t *testing.T) {
	for _, tt := range []struct {
		name   string
		peer   netip.AddrPort
		dialed string
		want   bool
	}{
		{"the phone that was referred", netip.MustParseAddrPort("192.0.2.12:5060"), "103", true},
		{"a stranger", strangerAddr, "103", false},
		{"to somebody else", netip.MustParseAddrPort("192.0.2.12:5060"), "104", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			out, in := caller(), callee()
			in.callID, in.from, in.to = out.callID, out.from, out.to
			out.peer, in.peer = phoneAddr, netip.MustParseAddrPort("192.0.2.12:5060")
			refer := requestInDialog(out, "REFER", true, phoneAddr, 2, "z9hG4bK-r")
			refer.Head += "Refer-To: <sip:103@pbx.example>\r\n"
			for _, m := range []Message{out.invite(), in.invite(), in.response(200), out.response(200), refer, responseTo(refer, 202, 0)} {
				tracker.Observe(m)
			}
			l := legFromPhone("102", tt.dialed, "phone-2")
			l.peer = tt.peer
			tracker.Observe(l.invite("Referred-By: <sip:101@pbx.example>\r\n"))
			if got := tracker.index.callByCallID["phone-2"] == tracker.index.callByCallID[out.callID]; got != tt.want {
				t.Errorf("joined %v, want %v", got, tt.want)
			}
		})
	}
}

// TestStrangerTakesNoCallKey checks that a stranger that uses an id of a call neither takes
// the id from it nor makes it ambiguous.
func TestStrangerTakesNoCallKey(t *testing.T) {
	const uuid = "a0b1c2d3e4f5a0b1c2d3e4f5a0b1c2d3"
	c := testConfig()
	c.Correlate = []string{"header:X-Call", "session-id", "icid"}
	for _, header := range []string{"Session-ID: " + uuid, "P-Charging-Vector: icid-value=1", "X-Call: 1"} {
		tracker := New(c)
		for i, m := range []Message{
			legFromPhone("101", "102", "phone-1").invite(header + "\r\n"),
			legFromPhone("105", "106", "phone-2").invite(header + "\r\n"),
			legToPhone("999", "102", "pbx-1").invite(header + "\r\n"),
			legFromTrunk("5550001", "103", "trunk-1").invite(header + "\r\n"),
		} {
			tracker.Observe(m)
			joined := tracker.index.callByCallID[m.CallID] == tracker.index.callByCallID["phone-1"]
			if want := i != 1; joined != want {
				t.Errorf("%s of %s: joined %v, want %v", header, m.CallID, joined, want)
			}
		}
	}
}

// TestFindsCallerOfPhonesInvite observes an INVITE of a phone, and checks its extension and
// number.
func TestFindsCallerOfPhonesInvite(t *testing.T) {
	c := testConfig()
	registered := callee().message(PBX, "REGISTER", 200, "Contact: <sip:1%307@192.0.2.11:5060>\r\n")
	registered.Head = strings.Replace(registered.Head, "To: <sip:102@192.0.2.12:5060>", "To: <sip:10%37@pbx.example>", 1)
	digest := func(user string) string {
		return "Authorization: Digest username=\"" + user + "\", realm=\"x\", response=\"0\"\r\n"
	}
	for _, tt := range []struct {
		name, from, headers string
		want, num           string
	}{
		{"From", "sip:101@pbx.example", "", "101@pbx.example", "101"},
		{"account of the phone", "sip:101@pbx.example", digest("101"), "101@pbx.example", "101"},
		{"another account", "sip:102@pbx.example", digest("101"), "101@pbx.example", "101"},
		{"another account, with a domain", "sip:102@pbx.example", digest("101@tenant.example"), "101@tenant.example", "101"},
		{"account that is no extension", "sip:101@pbx.example", digest("alice"), "101@pbx.example", "101"},
		{"two accounts, one an extension", "sip:102@pbx.example", digest("alice") + "Proxy-" + digest("101"), "101@pbx.example", "101"},
		{"public number in From", "sip:+441632960123@pbx.example", digest("101"), "101", "+441632960123"},
		{"hidden caller", "sip:anonymous@anonymous.invalid", digest("101"), "101", "anonymous"},
		{"hidden, and somebody else preferred", "sip:anonymous@anonymous.invalid", digest("101") + "P-Preferred-Identity: <sip:102@pbx.example>\r\n", "101", "anonymous"},
		{"hidden, and preferred", "sip:anonymous@anonymous.invalid", digest("101") + "P-Preferred-Identity: <sip:101@pbx.example>\r\n", "101@pbx.example", "anonymous"},
		{"somebody else's contact", "sip:anonymous@anonymous.invalid", digest("101") + "Contact: <sip:107@192.0.2.11:5060>\r\n", "101", "anonymous"},
		{"registered contact", "sip:anonymous@anonymous.invalid", "Contact: <sip:%3107@192.0.2.11:5060>\r\n", "107@pbx.example", "anonymous"},
		{"escaped From", "sip:1%301@pbx.example", "", "101@pbx.example", "101"},
		{"escaped tel", "tel:1%301", "", "101", "101"},
		{"escaped account", "sip:102@pbx.example", digest("1%301"), "101@pbx.example", "101"},
		{"asserted by a phone", "sip:101@pbx.example", "P-Asserted-Identity: <sip:102@pbx.example>\r\nRemote-Party-ID: <sip:103@pbx.example>\r\n", "101@pbx.example", "101"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(c)
			tracker.Observe(registered)
			l := caller()
			l.fromURI, l.uri = tt.from, "sip:104@pbx.example"
			tracker.Observe(l.invite(tt.headers))
			emitted := tracker.Observe(l.response(180))
			if len(emitted) == 0 || emitted[0].Type != DialOut || emitted[0].Extension.String() != tt.want || emitted[0].CallerNum != tt.num {
				t.Errorf("got %+v, want a dial-out of %s, number %s", emitted, tt.want, tt.num)
			}
		})
	}
}

// TestCredentialsNameAnotherCaller checks a first INVITE that counts as a call of the
// number in its From until its events are emitted; then credentials identify another
// caller.
func TestCredentialsNameAnotherCaller(t *testing.T) {
	tracker := New(testConfig())
	w := eventChecker{t: t, parties: map[string]*checkedParty{}, seq: map[string]int{}}
	l := caller()
	l.fromURI = "sip:102@pbx.example"
	var emitted []Event
	see := func(events []Event) {
		w.checkEvents(events)
		emitted = append(emitted, events...)
	}
	see(tracker.Observe(l.invite()))
	see(tracker.Observe(l.response(100)))
	see(tracker.Observe(l.later(time.Second).response(401)))
	l.cseq, l.branch = 2, "z9hG4bK-again"
	see(tracker.Observe(l.invite("Authorization: Digest username=\"101\"\r\n")))
	see(tracker.Observe(l.response(180)))
	see(tracker.Observe(l.response(486)))
	var got []string
	for _, e := range emitted {
		if e.Type != Ringing {
			got = append(got, string(e.Type)+" "+e.Extension.User)
		}
	}
	if want := "dial-out 102, hangup 102, dial-out 101, hangup 101"; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
}

// TestPhonesNameNoOthers checks that events have the diversion and verification in INVITEs
// of the PBX and of trunks, but not of phones.
func TestPhonesNameNoOthers(t *testing.T) {
	headers := "Diversion: <sip:109@pbx.example>\r\n"
	history := "History-Info: <sip:109@pbx.example>;index=1, <sip:102@pbx.example>;index=1.1\r\n"
	c := testConfig()
	c.Extensions = []Declared{{Number: "600", Kind: Queue}}
	for _, h := range []string{headers, history} {
		for _, l := range []*line{legFromPhone("101", "600", "phone-1"), legFromTrunk("5550001", "600", "trunk-1"), legToPhone("5550001", "102", "pbx-1")} {
			l.fromURI = strings.Replace(l.fromURI, "@", ";verstat=TN-Validation-Passed@", 1)
			tracker := New(c)
			emitted := tracker.Observe(l.invite(h))
			emitted = append(emitted, tracker.Observe(l.response(180))...)
			for _, e := range emitted {
				if e.Type == Ringing {
					continue
				}
				believed := e.Diversion == "109" && e.Verstat != ""
				if want := l.callID != "phone-1"; believed != want {
					t.Errorf("%s of %s: diversion %q, verstat %q", e.Type, l.callID, e.Diversion, e.Verstat)
				}
			}
			if len(emitted) == 0 {
				t.Errorf("no event of %s", l.callID)
			}
		}
	}
}

// TestReadsEscapedAOR checks that the address of record in a Path token may be escaped.
func TestReadsEscapedAOR(t *testing.T) {
	l := callee()
	l.uri = "sip:x7f3@192.0.2.12"
	m := l.invite()
	m.AOR = "1%302@pbx.example"
	if e := lastEvent(t, testConfig(), m); e.Extension.String() != "102@pbx.example" {
		t.Errorf("dial-in of %s, want 102@pbx.example", e.Extension)
	}
}

// TestCallIDIsLookedUpFewTimes checks that the number of lookups of a Call-ID does not grow
// with its length, and that each Call-ID that a PBX derives is found.
func TestCallIDIsLookedUpFewTimes(t *testing.T) {
	for _, id := range []string{strings.Repeat("-", 60_000), strings.Repeat("a.", 30_000), strings.Repeat("a", 60_000), "", "a-b"} {
		n := 0
		for range innerCallIDs(id) {
			n++
		}
		if n > 2*maxSeparators {
			t.Errorf("%d bytes of %.4q are looked up %d times, want %d at most", len(id), id, n, 2*maxSeparators)
		}
	}
}

// TestAsymmetricPhonePutsOnHold checks that a phone that sends from another port than it
// listens on, and asks for no rport, puts the other end on hold, whichever end it is.
func TestAsymmetricPhonePutsOnHold(t *testing.T) {
	hears, sends := phoneAddr, roamedAddr
	for _, l := range []*line{caller(), callee()} {
		t.Run(l.origin.String(), func(t *testing.T) {
			tracker := New(testConfig())
			l.peer = hears
			m := l.invite()
			if l.origin == Edge {
				m.From = sends
			}
			tracker.Observe(m)
			m = l.response(200)
			if l.origin == PBX {
				m.From = sends
			}
			tracker.Observe(m)
			var got []Type
			for i, sdp := range []string{"m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n", "m=audio 4000 RTP/AVP 0\r\n", "m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n"} {
				m := requestInDialog(l.later(time.Second), "INVITE", l.origin == Edge, sends, uint32(2+i), fmt.Sprintf("z9hG4bK-%d", i))
				m.Body = sdp
				emitted := tracker.Observe(m)
				m = responseTo(m, 200, 100*time.Millisecond)
				m.To = hears
				for _, e := range append(emitted, tracker.Observe(m)...) {
					got = append(got, e.Type)
				}
			}
			if want := []Type{Hold, Resume, Hold}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
