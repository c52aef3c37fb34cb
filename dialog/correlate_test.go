package dialog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// legFromPhone returns a leg of the edge side with a caller and a dialed number of its own.
func legFromPhone(number, dialed, callID string) *line {
	l := caller()
	l.fromURI, l.uri, l.callID = "sip:"+number+"@pbx.example", "sip:"+dialed+"@pbx.example", callID
	l.from, l.branch = "from-"+callID, "z9hG4bK-"+callID
	return l
}

// legToPhone returns a leg of the PBX to the phone of an extension, in the name of a
// caller.
func legToPhone(number, ext, callID string) *line {
	l := callee()
	l.fromURI, l.uri, l.callID = "sip:"+number+"@pbx.example", "sip:"+ext+"@192.0.2.12:5060", callID
	l.from, l.branch = "from-"+callID, "z9hG4bK-"+callID
	return l
}

// legToTrunk returns a leg of the PBX to a carrier.
func legToTrunk(number, dialed, callID string) *line {
	l := legToPhone(number, dialed, callID)
	l.trunk = "carrier"
	return l
}

// legFromTrunk returns a leg of a carrier to the PBX.
func legFromTrunk(number, dialed, callID string) *line {
	l := legFromPhone(number, dialed, callID)
	l.trunk = "carrier"
	return l
}

// TestCorrelatesNewInvites observes a new INVITE after other messages, and checks to which
// call it is joined, and by which method.
func TestCorrelatesNewInvites(t *testing.T) {
	const (
		uuid1 = "a0b1c2d3e4f5a0b1c2d3e4f5a0b1c2d3"
		uuid2 = "00112233445566778899aabbccddeeff"
		null  = "00000000000000000000000000000000"
	)
	a := legFromPhone("101", "102", "phone-1") // the caller in most cases
	ringing := []Message{a.invite(), a.response(180)}
	withID := func(m Message, id string) Message { m.CID = id; return m }
	later := func(l *line, d time.Duration) *line { c := *l; return c.later(d) }
	answered := func(l *line) []Message { return []Message{l.invite(), l.response(200)} }
	b := legToPhone("101", "102", "pbx-1")
	talk := slices.Concat(answered(a), answered(b)) // a's call, and its callee
	talk = slices.Clip(talk)
	queue := []Declared{{Number: "600", Kind: Queue}}
	refer := func(l *line, byCaller bool, headers string) Message {
		m := l.bye(byCaller)
		m.Method = "REFER"
		m.Head = "REFER sip:x SIP/2.0\r\n" + headers
		return m
	}
	for _, tt := range []struct {
		name      string
		before    []Message
		invite    Message
		config    Config
		want      string // method:confidence
		belongsTo string // Call-ID of a leg in the same call; "": a call of its own
	}{
		{name: "own id", before: []Message{withID(a.invite(), uuid1)}, invite: withID(legToPhone("999", "102", "pbx-1").invite(), uuid1),
			want: "x-cid:exact", belongsTo: "phone-1"},
		{name: "own id of a call that is over", before: []Message{withID(a.invite(), uuid1), a.response(486)}, invite: withID(legToPhone("999", "102", "pbx-1").invite(), uuid1),
			want: "x-cid:exact", belongsTo: "phone-1"},
		{name: "own id, after a tie", config: Config{Correlate: []string{"numbers", "header:X-CID"}},
			before: []Message{withID(legFromPhone("101", "710", "phone-1").invite(), uuid1), legFromPhone("101", "711", "phone-2").invite()},
			invite: withID(legToPhone("101", "102", "pbx-1").invite(), uuid1), want: "numbers:tie"},
		{name: "own id of nobody", before: []Message{withID(a.invite(), uuid1)}, invite: withID(legToPhone("999", "103", "pbx-1").invite(), uuid2)},
		{name: "header with the same value", config: Config{Correlate: []string{"header:X-Call"}},
			before: []Message{legFromPhone("101", "102", "phone-1").invite("X-Call: 77\r\n")}, invite: legToPhone("999", "103", "pbx-1").invite("X-Call: 77\r\n"),
			want: "x-call:exact", belongsTo: "phone-1"},
		{name: "header with the caller's Call-ID", config: Config{Correlate: []string{"header:X-Call"}},
			before: ringing, invite: legToPhone("999", "103", "pbx-1").invite("X-Call: phone-1\r\n"),
			want: "x-call:exact", belongsTo: "phone-1"},
		{name: "Session-ID", before: []Message{a.invite("Session-ID: " + uuid1 + ";remote=" + null + "\r\n")},
			invite: legToPhone("999", "103", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + uuid1 + "\r\n"),
			want:   "session-id:exact", belongsTo: "phone-1"},
		{name: "Session-ID of nobody", before: []Message{a.invite("Session-ID: " + uuid1 + ";remote=" + null + "\r\n")},
			invite: legToPhone("999", "103", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + null + "\r\n")},
		{name: "Session-ID of two", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), legFromPhone("103", "104", "phone-2").invite("Session-ID: " + uuid2 + "\r\n")},
			invite: legToPhone("101", "102", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + uuid1 + "\r\n"),
			want:   "session-id:tie"},
		{name: "Replaces of a dialog", before: ringing, invite: legFromPhone("103", "102", "phone-2").invite("Replaces: phone-1;to-tag=t1;from-tag=from-phone-1\r\n"),
			want: "replaces:exact", belongsTo: "phone-1"},
		{name: "REFER of a phone", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: legToPhone("102", "103", "pbx-1").invite(),
			want: "replaces:likely", belongsTo: "phone-1"},
		{name: "REFER, and a number that is nobody's", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: legToPhone("5551000", "103", "pbx-1").invite(),
			want: "replaces:possible", belongsTo: "phone-1"},
		{name: "REFER of the caller, whose other line dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legFromPhone("101", "104", "phone-2").invite()),
			invite: legToPhone("101", "104", "pbx-2").invite(), want: "replaces:tie"},
		{name: "REFER of the caller, and another dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legFromPhone("103", "104", "phone-2").invite()),
			invite: legToPhone("101", "104", "pbx-2").invite(), want: "replaces:likely", belongsTo: "phone-1"},
		{name: "another dialed the number to which a REFER leads", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legFromPhone("103", "104", "phone-2").invite()),
			invite: legToPhone("103", "104", "pbx-2").invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "REFER, another dialed the number, and the PBX shows neither", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legFromPhone("103", "104", "phone-2").invite()),
			invite: legToPhone("anonymous", "104", "pbx-2").invite(), want: "replaces:tie"},
		{name: "REFER that was followed, and then the other line dialed the number",
			before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legToPhone("101", "104", "pbx-2").invite(), later(legFromPhone("101", "104", "phone-2"), time.Second).invite()),
			invite: later(legToPhone("101", "104", "pbx-3"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "REFER to a trunk, and another dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:5559999@pbx.example>\r\n"), legFromPhone("103", "5559999", "phone-2").invite()),
			invite: legToTrunk("5551000", "5559999", "pbx-2").invite(), want: "replaces:tie"},
		{name: "Referred-By, and the other line dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), legFromPhone("101", "104", "phone-2").invite()),
			invite: legToPhone("101", "104", "pbx-2").invite("Referred-By: <sip:102@pbx.example>\r\n"), want: "replaces:exact", belongsTo: "phone-1"},
		{name: "REFER to somebody else", before: append(answered(a), refer(a, true, "Refer-To: <sip:104@pbx.example>\r\n")), invite: legToPhone("105", "103", "pbx-1").invite()},
		{name: "REFER long ago", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: later(legToPhone("105", "103", "pbx-1"), time.Minute).invite()},
		{name: "Referred-By", before: append(answered(a), refer(a, true, "Refer-To: <sip:710@pbx.example>\r\n")),
			invite: legToPhone("105", "103", "pbx-1").invite("Referred-By: <sip:101@pbx.example>\r\n"), want: "replaces:exact", belongsTo: "phone-1"},
		{name: "Session-ID of a call that is over", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), a.response(486)},
			invite: legToPhone("103", "102", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n")},
		{name: "Session-ID of one that is over and one that is not", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), a.response(486), legFromPhone("103", "104", "phone-2").invite("Session-ID: " + uuid1 + "\r\n")},
			invite: legToPhone("105", "106", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n"), want: "session-id:exact", belongsTo: "phone-2"},
		{name: "header with the Call-ID of a call that is over", config: Config{Correlate: []string{"header:X-Call"}},
			before: append(ringing, a.response(486)), invite: legToPhone("999", "103", "pbx-1").invite("X-Call: phone-1\r\n")},
		{name: "ICID of the call", before: []Message{a.invite("P-Charging-Vector: icid-value=\"abc\";orig-ioi=x\r\n")},
			invite: legToPhone("999", "103", "pbx-1").invite("P-Charging-Vector: orig-ioi=y;icid-value=abc\r\n"), want: "icid:exact", belongsTo: "phone-1"},
		{name: "Call-ID with an end", before: []Message{legFromPhone("101", "102", "3848276298220188511@host").invite()},
			invite: legToPhone("999", "103", "3848276298220188511@host_b2b-1").invite(), want: "call-id:likely", belongsTo: "3848276298220188511@host"},
		{name: "Call-ID with a beginning", before: []Message{legFromPhone("101", "102", "3848276298220188511@host").invite()},
			invite: legToPhone("999", "103", "pbx-3848276298220188511@host").invite(), want: "call-id:likely", belongsTo: "3848276298220188511@host"},
		{name: "Call-IDs with the same start", before: []Message{legFromPhone("101", "102", "0123456789-0123456789-0123456789-phone").invite()},
			invite: legToPhone("999", "103", "0123456789-0123456789-0123456789-pbx").invite(), want: "call-id:likely", belongsTo: "0123456789-0123456789-0123456789-phone"},
		{name: "Call-IDs of the PBX's own making", before: []Message{legToPhone("101", "102", "0123456789-0123456789-0123456789-1").invite()},
			invite: legToPhone("105", "103", "0123456789-0123456789-0123456789-2").invite()},
		{name: "short Call-ID", before: []Message{legFromPhone("101", "102", "1").invite()}, invite: legToPhone("999", "103", "1-2").invite()},

		{name: "caller and number", before: ringing, invite: legToPhone("101", "102", "pbx-1").invite(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "caller, another number", before: ringing, invite: legToPhone("101", "103", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "another caller", before: ringing, invite: legToPhone("104", "102", "pbx-1").invite()},
		{name: "the caller's number in the display name", before: ringing,
			invite: func() Message {
				l := legToPhone("104", "102", "pbx-1")
				m := l.invite()
				m.Head = strings.Replace(m.Head, "From: <", `From: "101" <`, 1)
				return m
			}(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "the caller's number in Remote-Party-ID", before: ringing, invite: legToPhone("104", "102", "pbx-1").invite("Remote-Party-ID: <sip:101@pbx.example>\r\n"),
			want: "numbers:likely", belongsTo: "phone-1"},
		{name: "anonymous caller", before: []Message{legFromPhone("anonymous", "102", "phone-1").invite()}, invite: legToPhone("anonymous", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "unavailable caller", before: []Message{legFromPhone("unavailable", "102", "phone-1").invite()}, invite: legToPhone("Unavailable", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "unavailable, and the other one is anonymous", before: []Message{legFromPhone("unavailable", "102", "phone-1").invite()}, invite: legToPhone("anonymous", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "number with and without prefix", before: []Message{legFromTrunk("+441632960123", "5551234", "trunk-1").invite()},
			invite: legToPhone("01632960123", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "trunk-1"},
		{name: "too long ago", before: ringing, invite: later(legToPhone("101", "102", "pbx-1"), progressWindow+time.Microsecond).invite()},
		{name: "just in time", before: ringing, invite: later(legToPhone("101", "102", "pbx-1"), progressWindow).invite(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "from a phone", before: ringing, invite: legFromPhone("101", "103", "phone-2").invite()},
		{name: "refused before", before: append(ringing, a.response(486)), invite: legToPhone("101", "102", "pbx-1").invite()},
		{name: "waiting in a queue", config: Config{Extensions: queue}, before: answered(legFromPhone("101", "600", "phone-1")),
			invite: later(legToPhone("101", "103", "pbx-1"), time.Hour).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "hears a menu that nobody declared", before: answered(legFromPhone("101", "700", "phone-1")),
			invite: later(legToPhone("101", "103", "pbx-1"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "left by the other, and connected with somebody else", before: append(talk, a.bye(true)),
			invite: later(legToPhone("102", "103", "pbx-2"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "referred to a group", before: append(talk, refer(a, true, "Refer-To: <sip:710@pbx.example>\r\n")),
			invite: legToPhone("102", "103", "pbx-2").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "callee talks already", before: talk, invite: legToPhone("102", "103", "pbx-2").invite()},
		{name: "called back", before: []Message{legToPhone("101", "101", "pbx-1").invite(), legToPhone("101", "101", "pbx-1").response(200)},
			invite: legToPhone("101", "102", "pbx-2").invite(), want: "numbers:possible", belongsTo: "pbx-1"},

		// Two calls, of which one fits better.
		{name: "the first is ringing whom it dialed", before: []Message{legFromPhone("101", "103", "phone-1").invite(), legToPhone("101", "103", "pbx-1").invite(), legFromPhone("101", "102", "phone-2").invite()},
			invite: legToPhone("101", "102", "pbx-2").invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "the same number comes before one that is alike", before: []Message{legFromTrunk("15551000123", "5551234", "trunk-1").invite(), legFromTrunk("25551000123", "5551234", "trunk-2").invite()},
			invite: legToPhone("25551000123", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "trunk-2"},
		// Two calls that fit equally well.
		{name: "two of one caller", before: []Message{legFromPhone("101", "710", "phone-1").invite(), legFromPhone("101", "711", "phone-2").invite()},
			invite: legToPhone("101", "102", "pbx-1").invite(), want: "numbers:tie"},
		{name: "two of numbers that are alike", before: []Message{legFromTrunk("15551000123", "5551234", "trunk-1").invite(), legFromTrunk("25551000123", "5551234", "trunk-2").invite()},
			invite: legToPhone("1000123", "102", "pbx-1").invite(), want: "numbers:tie"},
		{name: "one of them dialed the number, the other a group", before: []Message{legFromPhone("101", "710", "phone-1").invite(), legFromPhone("101", "102", "phone-2").invite()},
			invite: legToPhone("101", "102", "pbx-1").invite(), want: "numbers:tie"},

		// One caller waits, and dials on another line.
		{name: "one line in a menu, the other dialed the number", before: append(answered(legFromPhone("101", "77", "phone-1")), later(legFromPhone("101", "104", "phone-2"), time.Second).invite()),
			invite: later(legToPhone("101", "104", "pbx-1"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "one line in a queue, the other dialed the number", config: Config{Extensions: queue},
			before: append(answered(legFromPhone("101", "600", "phone-1")), later(legFromPhone("101", "104", "phone-2"), time.Second).invite()),
			invite: later(legToPhone("101", "104", "pbx-1"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "one line in a queue that rings its agents, the other dialed one of them", config: Config{Extensions: queue},
			before: append(answered(legFromPhone("101", "600", "phone-1")), legToPhone("101", "103", "pbx-1").invite(), legFromPhone("101", "104", "phone-2").invite()),
			invite: legToPhone("101", "104", "pbx-2").invite(), want: "numbers:tie"},
		{name: "one line in a queue, the other has its leg", config: Config{Extensions: queue},
			before: append(answered(legFromPhone("101", "600", "phone-1")), later(legFromPhone("101", "104", "phone-2"), time.Second).invite(), later(legToPhone("101", "104", "pbx-1"), time.Second).invite()),
			invite: later(legToPhone("101", "104", "pbx-2"), 2*time.Second).invite(), want: "numbers:tie"},
		{name: "a queue's caller who talks with an agent", config: Config{Extensions: queue}, before: append(answered(legFromPhone("101", "600", "phone-1")), answered(legToPhone("101", "103", "pbx-1"))...),
			invite: later(legToPhone("101", "104", "pbx-2"), time.Second).invite()},

		// No number identifies the caller.
		{name: "anonymous, one waits and one dialed the number", config: Config{Extensions: queue},
			before: append(answered(legFromTrunk("anonymous", "600", "trunk-1")), later(legFromTrunk("anonymous", "104", "trunk-2"), time.Second).invite()),
			invite: later(legToPhone("anonymous", "104", "pbx-1"), time.Second).invite(), want: "numbers:possible", belongsTo: "trunk-2"},
		{name: "anonymous, two wait", config: Config{Extensions: queue},
			before: append(answered(legFromTrunk("anonymous", "600", "trunk-1")), answered(legFromTrunk("anonymous", "600", "trunk-2"))...),
			invite: legToPhone("anonymous", "104", "pbx-1").invite(), want: "numbers:tie"},
		{name: "unavailable, two wait", config: Config{Extensions: queue},
			before: append(answered(legFromTrunk("unavailable", "600", "trunk-1")), answered(legFromTrunk("unavailable", "600", "trunk-2"))...),
			invite: legToPhone("unavailable", "104", "pbx-1").invite(), want: "numbers:tie"},
		{name: "anonymous, to another phone that has registered",
			before: []Message{registerResponse(start, "sip:103@pbx.example", "Contact: <sip:103@192.0.2.14>\r\n"), legFromPhone("anonymous", "103", "phone-1").invite()},
			invite: legToPhone("anonymous", "104", "pbx-1").invite()},
		{name: "hidden by the PBX", before: []Message{legFromPhone("101", "74", "phone-1").invite()}, invite: legToPhone("anonymous", "104", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "hidden by the PBX, too late", before: []Message{legFromPhone("101", "74", "phone-1").invite()}, invite: later(legToPhone("anonymous", "104", "pbx-1"), promptGap+time.Microsecond).invite()},
		{name: "a name that has not registered", before: []Message{legFromPhone("alice", "122", "phone-1").invite()}, invite: legToPhone("121", "104", "pbx-1").invite()},
		{name: "in a menu, to a trunk", config: Config{Extensions: []Declared{{Number: "700", Kind: IVR}}}, before: answered(legFromPhone("101", "700", "phone-1")),
			invite: later(legToTrunk("5551000", "5559999", "pbx-1"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "in a conference, to a trunk", config: Config{Extensions: []Declared{{Number: "801", Kind: Conference}}}, before: answered(legFromPhone("101", "801", "phone-1")),
			invite: later(legToTrunk("5551000", "5559999", "pbx-1"), time.Second).invite()},
		{name: "heard something an hour ago, to a trunk", before: answered(legFromPhone("101", "77", "phone-1")),
			invite: later(legToTrunk("5551000", "5559999", "pbx-1"), time.Hour).invite()},
		{name: "another extension in a menu, to a trunk", before: answered(legFromPhone("101", "77", "phone-1")),
			invite: legToTrunk("104", "5559999", "pbx-1").invite()},

		// Calls that the PBX begins.
		{name: "the number that it has shown", before: answered(legToPhone("5557777", "104", "pbx-1")), invite: later(legToTrunk("5551000", "5557777", "pbx-2"), time.Second).invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "the number that it has shown to two", before: []Message{legToPhone("5557777", "104", "pbx-1").invite(), legToPhone("5557777", "105", "pbx-2").invite(), legToPhone("5557777", "104", "pbx-1").response(200)},
			invite: later(legToTrunk("5551000", "5557777", "pbx-3"), time.Second).invite()},
		{name: "shown again at once", before: answered(legToPhone("5551000", "104", "pbx-1")), invite: later(legToPhone("5551000", "105", "pbx-2"), forkGap).invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "shown again later", before: answered(legToPhone("5551000", "104", "pbx-1")), invite: later(legToPhone("5551000", "105", "pbx-2"), time.Second).invite()},
		{name: "calls an extension back, to a trunk", before: answered(legToPhone("104", "104", "pbx-1")), invite: legToTrunk("5551000", "5557777", "pbx-2").invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "calls two extensions back, to a trunk", before: append(answered(legToPhone("104", "104", "pbx-1")), legToPhone("105", "105", "pbx-2").invite()),
			invite: legToTrunk("5551000", "5557777", "pbx-3").invite(), want: "numbers:tie"},

		// To a trunk.
		{name: "caller kept", before: []Message{legFromPhone("101", "5559999", "phone-1").invite()}, invite: legToTrunk("101", "5559999", "pbx-1").invite(),
			want: "numbers:likely", belongsTo: "phone-1"},
		{name: "caller replaced", before: []Message{legFromPhone("101", "5559999", "phone-1").invite()}, invite: legToTrunk("5551000", "5559999", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "caller replaced, two dialed it", before: []Message{legFromPhone("101", "5559999", "phone-1").invite(), legFromPhone("103", "5559999", "phone-2").invite()},
			invite: legToTrunk("5551000", "5559999", "pbx-1").invite(), want: "numbers:tie"},
		{name: "caller replaced, prefix taken off", before: []Message{legFromPhone("101", "005559999", "phone-1").invite()}, invite: legToTrunk("5551000", "5559999", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "caller replaced, prefix taken off one of two", before: []Message{legFromPhone("101", "005559999", "phone-1").invite(), legFromPhone("103", "00441555559999", "phone-2").invite()},
			invite: legToTrunk("5551000", "5559999", "pbx-1").invite(), want: "numbers:tie"},
		{name: "caller replaced, another number", before: []Message{legFromPhone("101", "5558888", "phone-1").invite()}, invite: legToTrunk("5551000", "5559999", "pbx-1").invite()},
		{name: "caller replaced, another short number", before: []Message{legFromPhone("101", "9112", "phone-1").invite()}, invite: legToTrunk("5551000", "112", "pbx-1").invite()},
		{name: "another extension's", before: []Message{legFromPhone("101", "5559999", "phone-1").invite()}, invite: legToTrunk("103", "5559999", "pbx-1").invite()},
		{name: "the Contact of a 302", before: []Message{a.invite(), b.invite(), b.response(302, "Contact: <sip:5559999@pbx.example>\r\n")}, invite: legToTrunk("5551000", "5559999", "pbx-2").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "not the Contact of a 302", before: []Message{registerResponse(start, "sip:102@pbx.example", "Contact: <sip:102@192.0.2.12>\r\n"), a.invite(), b.invite(), b.response(302, "Contact: <sip:5559999@pbx.example>\r\n")}, invite: legToTrunk("5551000", "5558888", "pbx-2").invite()},
		{name: "diverted call", before: ringing, invite: legToTrunk("5551000", "5559999", "pbx-1").invite("Diversion: <sip:102@pbx.example>;reason=unconditional\r\n"),
			want: "numbers:possible", belongsTo: "phone-1"},

		{name: "methods that are left out", config: Config{Correlate: []string{}}, before: []Message{withID(a.invite("Session-ID: "+uuid1+"\r\n"), uuid1)},
			invite: withID(legToPhone("101", "102", "pbx-1").invite("Session-ID: "+uuid1+"\r\n"), uuid1)},
		{name: "order of methods", config: Config{Correlate: []string{"numbers", "session-id"}}, before: []Message{a.invite(), legFromPhone("103", "104", "phone-2").invite("Session-ID: " + uuid1 + "\r\n")},
			invite: legToPhone("101", "102", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n"), want: "numbers:likely", belongsTo: "phone-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.Pattern = testConfig().Pattern
			tracker := New(c)
			for _, m := range tt.before {
				tracker.Observe(m)
			}
			want := tracker.index.callByCallID[tt.belongsTo]
			tracker.Observe(tt.invite)
			found := tracker.index.callByCallID[tt.invite.CallID]
			if found == nil {
				t.Fatal("the INVITE is not followed")
			}
			l := found.legs[len(found.legs)-1]
			if l.correlation != tt.want {
				t.Errorf("joined by %q, want %q", l.correlation, tt.want)
			}
			if tt.belongsTo != "" && found != want {
				t.Errorf("not a leg of the call of %s", tt.belongsTo)
			}
			if tt.belongsTo == "" && len(found.legs) != 1 {
				t.Error("joined to a call, want a call of its own")
			}
			for _, c := range tracker.deadlines {
				if c != found && c.id == found.id {
					t.Error("two calls have one id")
				}
			}
		})
	}
}

// TestSimilarNumbersJoinNoStranger begins many pairs of calls in the same second, of
// callers whose numbers have similar ends, to the same number: no leg may be joined to the
// call of another caller.
func TestSimilarNumbersJoinNoStranger(t *testing.T) {
	tracker := New(testConfig())
	calls := map[string]string{} // by caller
	for i := range 50 {
		l := legFromTrunk(fmt.Sprintf("49%03d123456", i), "5551234", fmt.Sprint("trunk-", i))
		tracker.Observe(l.invite())
		calls[l.fromURI] = tracker.index.callByCallID[l.callID].id
	}
	for i := range 50 {
		whole := legToPhone(fmt.Sprintf("49%03d123456", i), "102", fmt.Sprint("pbx-", i))
		if e := tracker.Observe(whole.invite())[0]; e.Call != calls[whole.fromURI] || e.Correlation != "numbers:possible" {
			t.Errorf("%s was joined to another's call, by %s", whole.fromURI, e.Correlation)
		}
		cut := legToPhone("123456", "103", fmt.Sprint("cut-", i))
		e := tracker.Observe(cut.invite())[0]
		for number, id := range calls {
			if e.Call == id {
				t.Errorf("an ambiguous leg was joined to the call of %s", number)
			}
		}
		if e.Correlation != "numbers:tie" {
			t.Errorf("an ambiguous leg has correlation %q, want numbers:tie", e.Correlation)
		}
	}
}
