package dialog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// from is a leg of the edge side with a caller and a number dialed of its own.
func from(number, dialed, callID string) *line {
	l := caller()
	l.fromURI, l.uri, l.callID = "sip:"+number+"@pbx.example", "sip:"+dialed+"@pbx.example", callID
	l.from, l.branch = "from-"+callID, "z9hG4bK-"+callID
	return l
}

// to is a leg of the PBX to the phone of an extension, in the name of a caller.
func to(number, ext, callID string) *line {
	l := callee()
	l.fromURI, l.uri, l.callID = "sip:"+number+"@pbx.example", "sip:"+ext+"@192.0.2.12:5060", callID
	l.from, l.branch = "from-"+callID, "z9hG4bK-"+callID
	return l
}

// toTrunk is a leg of the PBX to a carrier.
func toTrunk(number, dialed, callID string) *line {
	l := to(number, dialed, callID)
	l.trunk = "carrier"
	return l
}

// fromTrunk is a leg of a carrier to the PBX.
func fromTrunk(number, dialed, callID string) *line {
	l := from(number, dialed, callID)
	l.trunk = "carrier"
	return l
}

// TestCorrelate shows a new INVITE after others: which call is it found to be,
// and by which method?
func TestCorrelate(t *testing.T) {
	const (
		uuid1 = "a0b1c2d3e4f5a0b1c2d3e4f5a0b1c2d3"
		uuid2 = "00112233445566778899aabbccddeeff"
		null  = "00000000000000000000000000000000"
	)
	a := from("101", "102", "phone-1") // who calls in most cases
	ringing := []Message{a.invite(), a.response(180)}
	withID := func(m Message, id string) Message { m.CID = id; return m }
	later := func(l *line, d time.Duration) *line { c := *l; return c.later(d) }
	answered := func(l *line) []Message { return []Message{l.invite(), l.response(200)} }
	b := to("101", "102", "pbx-1")
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
		belongsTo string // the Call-ID whose call it is; "": a call of its own
	}{
		{name: "own id", before: []Message{withID(a.invite(), uuid1)}, invite: withID(to("999", "102", "pbx-1").invite(), uuid1),
			want: "x-cid:exact", belongsTo: "phone-1"},
		{name: "own id of a call that is over", before: []Message{withID(a.invite(), uuid1), a.response(486)}, invite: withID(to("999", "102", "pbx-1").invite(), uuid1),
			want: "x-cid:exact", belongsTo: "phone-1"},
		{name: "own id, after a tie", config: Config{Correlate: []string{"numbers", "header:X-CID"}},
			before: []Message{withID(from("101", "710", "phone-1").invite(), uuid1), from("101", "711", "phone-2").invite()},
			invite: withID(to("101", "102", "pbx-1").invite(), uuid1), want: "numbers:tie"},
		{name: "own id of nobody", before: []Message{withID(a.invite(), uuid1)}, invite: withID(to("999", "103", "pbx-1").invite(), uuid2)},
		{name: "header with the same value", config: Config{Correlate: []string{"header:X-Call"}},
			before: []Message{from("101", "102", "phone-1").invite("X-Call: 77\r\n")}, invite: to("999", "103", "pbx-1").invite("X-Call: 77\r\n"),
			want: "x-call:exact", belongsTo: "phone-1"},
		{name: "header with the caller's Call-ID", config: Config{Correlate: []string{"header:X-Call"}},
			before: ringing, invite: to("999", "103", "pbx-1").invite("X-Call: phone-1\r\n"),
			want: "x-call:exact", belongsTo: "phone-1"},
		{name: "Session-ID", before: []Message{a.invite("Session-ID: " + uuid1 + ";remote=" + null + "\r\n")},
			invite: to("999", "103", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + uuid1 + "\r\n"),
			want:   "session-id:exact", belongsTo: "phone-1"},
		{name: "Session-ID of nobody", before: []Message{a.invite("Session-ID: " + uuid1 + ";remote=" + null + "\r\n")},
			invite: to("999", "103", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + null + "\r\n")},
		{name: "Session-ID of two", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), from("103", "104", "phone-2").invite("Session-ID: " + uuid2 + "\r\n")},
			invite: to("101", "102", "pbx-1").invite("Session-ID: " + uuid2 + ";remote=" + uuid1 + "\r\n"),
			want:   "session-id:tie"},
		{name: "Replaces", before: ringing, invite: from("103", "102", "phone-2").invite("Replaces: phone-1;to-tag=t1;from-tag=from-phone-1\r\n"),
			want: "replaces:exact", belongsTo: "phone-1"},
		{name: "REFER", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: to("102", "103", "pbx-1").invite(),
			want: "replaces:likely", belongsTo: "phone-1"},
		{name: "REFER, and a number that is nobody's", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: to("5551000", "103", "pbx-1").invite(),
			want: "replaces:possible", belongsTo: "phone-1"},
		{name: "REFER of the caller, whose other line dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), from("101", "104", "phone-2").invite()),
			invite: to("101", "104", "pbx-2").invite(), want: "replaces:tie"},
		{name: "REFER of the caller, and another dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), from("103", "104", "phone-2").invite()),
			invite: to("101", "104", "pbx-2").invite(), want: "replaces:likely", belongsTo: "phone-1"},
		{name: "another dialed the number to which a REFER leads", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), from("103", "104", "phone-2").invite()),
			invite: to("103", "104", "pbx-2").invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "REFER, another dialed the number, and the PBX shows neither", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), from("103", "104", "phone-2").invite()),
			invite: to("anonymous", "104", "pbx-2").invite(), want: "replaces:tie"},
		{name: "REFER that was followed, and then the other line dialed the number",
			before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), to("101", "104", "pbx-2").invite(), later(from("101", "104", "phone-2"), time.Second).invite()),
			invite: later(to("101", "104", "pbx-3"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "REFER to a trunk, and another dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:5559999@pbx.example>\r\n"), from("103", "5559999", "phone-2").invite()),
			invite: toTrunk("5551000", "5559999", "pbx-2").invite(), want: "replaces:tie"},
		{name: "Referred-By, and the other line dialed the number", before: append(talk, refer(b, false, "Refer-To: <sip:104@pbx.example>\r\n"), from("101", "104", "phone-2").invite()),
			invite: to("101", "104", "pbx-2").invite("Referred-By: <sip:102@pbx.example>\r\n"), want: "replaces:exact", belongsTo: "phone-1"},
		{name: "REFER to somebody else", before: append(answered(a), refer(a, true, "Refer-To: <sip:104@pbx.example>\r\n")), invite: to("105", "103", "pbx-1").invite()},
		{name: "REFER long ago", before: append(answered(a), refer(a, true, "Refer-To: <sip:103@pbx.example>\r\n")), invite: later(to("105", "103", "pbx-1"), time.Minute).invite()},
		{name: "Referred-By", before: append(answered(a), refer(a, true, "Refer-To: <sip:710@pbx.example>\r\n")),
			invite: to("105", "103", "pbx-1").invite("Referred-By: <sip:101@pbx.example>\r\n"), want: "replaces:exact", belongsTo: "phone-1"},
		{name: "Session-ID of a call that is over", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), a.response(486)},
			invite: to("103", "102", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n")},
		{name: "Session-ID of one that is over and one that is not", before: []Message{a.invite("Session-ID: " + uuid1 + "\r\n"), a.response(486), from("103", "104", "phone-2").invite("Session-ID: " + uuid1 + "\r\n")},
			invite: to("105", "106", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n"), want: "session-id:exact", belongsTo: "phone-2"},
		{name: "header with the Call-ID of a call that is over", config: Config{Correlate: []string{"header:X-Call"}},
			before: append(ringing, a.response(486)), invite: to("999", "103", "pbx-1").invite("X-Call: phone-1\r\n")},
		{name: "icid", before: []Message{a.invite("P-Charging-Vector: icid-value=\"abc\";orig-ioi=x\r\n")},
			invite: to("999", "103", "pbx-1").invite("P-Charging-Vector: orig-ioi=y;icid-value=abc\r\n"), want: "icid:exact", belongsTo: "phone-1"},
		{name: "Call-ID with an end", before: []Message{from("101", "102", "3848276298220188511@host").invite()},
			invite: to("999", "103", "3848276298220188511@host_b2b-1").invite(), want: "call-id:likely", belongsTo: "3848276298220188511@host"},
		{name: "Call-ID with a beginning", before: []Message{from("101", "102", "3848276298220188511@host").invite()},
			invite: to("999", "103", "pbx-3848276298220188511@host").invite(), want: "call-id:likely", belongsTo: "3848276298220188511@host"},
		{name: "Call-IDs with the same start", before: []Message{from("101", "102", "0123456789-0123456789-0123456789-phone").invite()},
			invite: to("999", "103", "0123456789-0123456789-0123456789-pbx").invite(), want: "call-id:likely", belongsTo: "0123456789-0123456789-0123456789-phone"},
		{name: "Call-IDs of the PBX's own making", before: []Message{to("101", "102", "0123456789-0123456789-0123456789-1").invite()},
			invite: to("105", "103", "0123456789-0123456789-0123456789-2").invite()},
		{name: "short Call-ID", before: []Message{from("101", "102", "1").invite()}, invite: to("999", "103", "1-2").invite()},

		{name: "caller and number", before: ringing, invite: to("101", "102", "pbx-1").invite(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "caller, another number", before: ringing, invite: to("101", "103", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "another caller", before: ringing, invite: to("104", "102", "pbx-1").invite()},
		{name: "the caller's number in the display name", before: ringing,
			invite: func() Message {
				l := to("104", "102", "pbx-1")
				m := l.invite()
				m.Head = strings.Replace(m.Head, "From: <", `From: "101" <`, 1)
				return m
			}(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "the caller's number in Remote-Party-ID", before: ringing, invite: to("104", "102", "pbx-1").invite("Remote-Party-ID: <sip:101@pbx.example>\r\n"),
			want: "numbers:likely", belongsTo: "phone-1"},
		{name: "anonymous", before: []Message{from("anonymous", "102", "phone-1").invite()}, invite: to("anonymous", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "unavailable", before: []Message{from("unavailable", "102", "phone-1").invite()}, invite: to("Unavailable", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "unavailable, and the other one is anonymous", before: []Message{from("unavailable", "102", "phone-1").invite()}, invite: to("anonymous", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "number with and without prefix", before: []Message{fromTrunk("+441632960123", "5551234", "trunk-1").invite()},
			invite: to("01632960123", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "trunk-1"},
		{name: "too long ago", before: ringing, invite: later(to("101", "102", "pbx-1"), progressWindow+time.Microsecond).invite()},
		{name: "just in time", before: ringing, invite: later(to("101", "102", "pbx-1"), progressWindow).invite(), want: "numbers:likely", belongsTo: "phone-1"},
		{name: "from a phone", before: ringing, invite: from("101", "103", "phone-2").invite()},
		{name: "refused before", before: append(ringing, a.response(486)), invite: to("101", "102", "pbx-1").invite()},
		{name: "waiting in a queue", config: Config{Extensions: queue}, before: answered(from("101", "600", "phone-1")),
			invite: later(to("101", "103", "pbx-1"), time.Hour).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "hears a menu that nobody declared", before: answered(from("101", "700", "phone-1")),
			invite: later(to("101", "103", "pbx-1"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "left by the other, and connected with somebody else", before: append(talk, a.bye(true)),
			invite: later(to("102", "103", "pbx-2"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "referred to a group", before: append(talk, refer(a, true, "Refer-To: <sip:710@pbx.example>\r\n")),
			invite: to("102", "103", "pbx-2").invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "talks", before: talk, invite: to("102", "103", "pbx-2").invite()},
		{name: "called back", before: []Message{to("101", "101", "pbx-1").invite(), to("101", "101", "pbx-1").response(200)},
			invite: to("101", "102", "pbx-2").invite(), want: "numbers:possible", belongsTo: "pbx-1"},

		// Two calls, of which one fits better.
		{name: "the first is ringing whom it dialed", before: []Message{from("101", "103", "phone-1").invite(), to("101", "103", "pbx-1").invite(), from("101", "102", "phone-2").invite()},
			invite: to("101", "102", "pbx-2").invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "the same number comes before one that is alike", before: []Message{fromTrunk("15551000123", "5551234", "trunk-1").invite(), fromTrunk("25551000123", "5551234", "trunk-2").invite()},
			invite: to("25551000123", "102", "pbx-1").invite(), want: "numbers:possible", belongsTo: "trunk-2"},
		// Two calls that fit equally well.
		{name: "two of one caller", before: []Message{from("101", "710", "phone-1").invite(), from("101", "711", "phone-2").invite()},
			invite: to("101", "102", "pbx-1").invite(), want: "numbers:tie"},
		{name: "two of numbers that are alike", before: []Message{fromTrunk("15551000123", "5551234", "trunk-1").invite(), fromTrunk("25551000123", "5551234", "trunk-2").invite()},
			invite: to("1000123", "102", "pbx-1").invite(), want: "numbers:tie"},
		{name: "one of them dialed the number, the other a group", before: []Message{from("101", "710", "phone-1").invite(), from("101", "102", "phone-2").invite()},
			invite: to("101", "102", "pbx-1").invite(), want: "numbers:tie"},

		// One caller waits, and dials on another line.
		{name: "one line in a menu, the other dialed the number", before: append(answered(from("101", "77", "phone-1")), later(from("101", "104", "phone-2"), time.Second).invite()),
			invite: later(to("101", "104", "pbx-1"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "one line in a queue, the other dialed the number", config: Config{Extensions: queue},
			before: append(answered(from("101", "600", "phone-1")), later(from("101", "104", "phone-2"), time.Second).invite()),
			invite: later(to("101", "104", "pbx-1"), time.Second).invite(), want: "numbers:likely", belongsTo: "phone-2"},
		{name: "one line in a queue that rings its agents, the other dialed one of them", config: Config{Extensions: queue},
			before: append(answered(from("101", "600", "phone-1")), to("101", "103", "pbx-1").invite(), from("101", "104", "phone-2").invite()),
			invite: to("101", "104", "pbx-2").invite(), want: "numbers:tie"},
		{name: "one line in a queue, the other has its leg", config: Config{Extensions: queue},
			before: append(answered(from("101", "600", "phone-1")), later(from("101", "104", "phone-2"), time.Second).invite(), later(to("101", "104", "pbx-1"), time.Second).invite()),
			invite: later(to("101", "104", "pbx-2"), 2*time.Second).invite(), want: "numbers:tie"},
		{name: "a queue's caller who talks with an agent", config: Config{Extensions: queue}, before: append(answered(from("101", "600", "phone-1")), answered(to("101", "103", "pbx-1"))...),
			invite: later(to("101", "104", "pbx-2"), time.Second).invite()},

		// No number tells.
		{name: "anonymous, one waits and one dialed the number", config: Config{Extensions: queue},
			before: append(answered(fromTrunk("anonymous", "600", "trunk-1")), later(fromTrunk("anonymous", "104", "trunk-2"), time.Second).invite()),
			invite: later(to("anonymous", "104", "pbx-1"), time.Second).invite(), want: "numbers:possible", belongsTo: "trunk-2"},
		{name: "anonymous, two wait", config: Config{Extensions: queue},
			before: append(answered(fromTrunk("anonymous", "600", "trunk-1")), answered(fromTrunk("anonymous", "600", "trunk-2"))...),
			invite: to("anonymous", "104", "pbx-1").invite(), want: "numbers:tie"},
		{name: "unavailable, two wait", config: Config{Extensions: queue},
			before: append(answered(fromTrunk("unavailable", "600", "trunk-1")), answered(fromTrunk("unavailable", "600", "trunk-2"))...),
			invite: to("unavailable", "104", "pbx-1").invite(), want: "numbers:tie"},
		{name: "anonymous, to another phone that has registered",
			before: []Message{registered(start, "sip:103@pbx.example", "Contact: <sip:103@192.0.2.14>\r\n"), from("anonymous", "103", "phone-1").invite()},
			invite: to("anonymous", "104", "pbx-1").invite()},
		{name: "hidden by the PBX", before: []Message{from("101", "74", "phone-1").invite()}, invite: to("anonymous", "104", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "hidden by the PBX, too late", before: []Message{from("101", "74", "phone-1").invite()}, invite: later(to("anonymous", "104", "pbx-1"), promptGap+time.Microsecond).invite()},
		{name: "a name that has not registered", before: []Message{from("alice", "122", "phone-1").invite()}, invite: to("121", "104", "pbx-1").invite()},
		{name: "in a menu, to a trunk", config: Config{Extensions: []Declared{{Number: "700", Kind: IVR}}}, before: answered(from("101", "700", "phone-1")),
			invite: later(toTrunk("5551000", "5559999", "pbx-1"), time.Minute).invite(), want: "numbers:possible", belongsTo: "phone-1"},
		{name: "in a conference, to a trunk", config: Config{Extensions: []Declared{{Number: "801", Kind: Conference}}}, before: answered(from("101", "801", "phone-1")),
			invite: later(toTrunk("5551000", "5559999", "pbx-1"), time.Second).invite()},
		{name: "heard something an hour ago, to a trunk", before: answered(from("101", "77", "phone-1")),
			invite: later(toTrunk("5551000", "5559999", "pbx-1"), time.Hour).invite()},
		{name: "another extension in a menu, to a trunk", before: answered(from("101", "77", "phone-1")),
			invite: toTrunk("104", "5559999", "pbx-1").invite()},

		// Calls that the PBX begins.
		{name: "the number that it has shown", before: answered(to("5557777", "104", "pbx-1")), invite: later(toTrunk("5551000", "5557777", "pbx-2"), time.Second).invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "the number that it has shown to two", before: []Message{to("5557777", "104", "pbx-1").invite(), to("5557777", "105", "pbx-2").invite(), to("5557777", "104", "pbx-1").response(200)},
			invite: later(toTrunk("5551000", "5557777", "pbx-3"), time.Second).invite()},
		{name: "shown again at once", before: answered(to("5551000", "104", "pbx-1")), invite: later(to("5551000", "105", "pbx-2"), forkGap).invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "shown again later", before: answered(to("5551000", "104", "pbx-1")), invite: later(to("5551000", "105", "pbx-2"), time.Second).invite()},
		{name: "calls an extension back, to a trunk", before: answered(to("104", "104", "pbx-1")), invite: toTrunk("5551000", "5557777", "pbx-2").invite(),
			want: "numbers:possible", belongsTo: "pbx-1"},
		{name: "calls two extensions back, to a trunk", before: append(answered(to("104", "104", "pbx-1")), to("105", "105", "pbx-2").invite()),
			invite: toTrunk("5551000", "5557777", "pbx-3").invite(), want: "numbers:tie"},

		// To a trunk.
		{name: "caller kept", before: []Message{from("101", "5559999", "phone-1").invite()}, invite: toTrunk("101", "5559999", "pbx-1").invite(),
			want: "numbers:likely", belongsTo: "phone-1"},
		{name: "caller replaced", before: []Message{from("101", "5559999", "phone-1").invite()}, invite: toTrunk("5551000", "5559999", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "caller replaced, two dialed it", before: []Message{from("101", "5559999", "phone-1").invite(), from("103", "5559999", "phone-2").invite()},
			invite: toTrunk("5551000", "5559999", "pbx-1").invite(), want: "numbers:tie"},
		{name: "caller replaced, prefix taken off", before: []Message{from("101", "005559999", "phone-1").invite()}, invite: toTrunk("5551000", "5559999", "pbx-1").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "caller replaced, prefix taken off one of two", before: []Message{from("101", "005559999", "phone-1").invite(), from("103", "00441555559999", "phone-2").invite()},
			invite: toTrunk("5551000", "5559999", "pbx-1").invite(), want: "numbers:tie"},
		{name: "caller replaced, another number", before: []Message{from("101", "5558888", "phone-1").invite()}, invite: toTrunk("5551000", "5559999", "pbx-1").invite()},
		{name: "caller replaced, another short number", before: []Message{from("101", "9112", "phone-1").invite()}, invite: toTrunk("5551000", "112", "pbx-1").invite()},
		{name: "another extension's", before: []Message{from("101", "5559999", "phone-1").invite()}, invite: toTrunk("103", "5559999", "pbx-1").invite()},
		{name: "the Contact of a 302", before: []Message{a.invite(), b.invite(), b.response(302, "Contact: <sip:5559999@pbx.example>\r\n")}, invite: toTrunk("5551000", "5559999", "pbx-2").invite(),
			want: "numbers:possible", belongsTo: "phone-1"},
		{name: "not the Contact of a 302", before: []Message{registered(start, "sip:102@pbx.example", "Contact: <sip:102@192.0.2.12>\r\n"), a.invite(), b.invite(), b.response(302, "Contact: <sip:5559999@pbx.example>\r\n")}, invite: toTrunk("5551000", "5558888", "pbx-2").invite()},
		{name: "diverted", before: ringing, invite: toTrunk("5551000", "5559999", "pbx-1").invite("Diversion: <sip:102@pbx.example>;reason=unconditional\r\n"),
			want: "numbers:possible", belongsTo: "phone-1"},

		{name: "methods that are left out", config: Config{Correlate: []string{}}, before: []Message{withID(a.invite("Session-ID: "+uuid1+"\r\n"), uuid1)},
			invite: withID(to("101", "102", "pbx-1").invite("Session-ID: "+uuid1+"\r\n"), uuid1)},
		{name: "order", config: Config{Correlate: []string{"numbers", "session-id"}}, before: []Message{a.invite(), from("103", "104", "phone-2").invite("Session-ID: " + uuid1 + "\r\n")},
			invite: to("101", "102", "pbx-1").invite("Session-ID: " + uuid1 + "\r\n"), want: "numbers:likely", belongsTo: "phone-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.Pattern = testConfig().Pattern
			tracker := New(c)
			for _, m := range tt.before {
				tracker.Observe(m)
			}
			want := tracker.callByCallID[tt.belongsTo]
			tracker.Observe(tt.invite)
			found := tracker.callByCallID[tt.invite.CallID]
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

// TestLookAlikes has many pairs of calls begin in the same second, of callers
// whose numbers end alike, to the same number: no leg may end up with a stranger.
func TestLookAlikes(t *testing.T) {
	tracker := New(testConfig())
	calls := map[string]string{} // by caller
	for i := range 50 {
		l := fromTrunk(fmt.Sprintf("49%03d123456", i), "5551234", fmt.Sprint("trunk-", i))
		tracker.Observe(l.invite())
		calls[l.fromURI] = tracker.callByCallID[l.callID].id
	}
	for i := range 50 {
		whole := to(fmt.Sprintf("49%03d123456", i), "102", fmt.Sprint("pbx-", i))
		if e := tracker.Observe(whole.invite())[0]; e.Call != calls[whole.fromURI] || e.Correlation != "numbers:possible" {
			t.Errorf("%s was joined to another's call, by %s", whole.fromURI, e.Correlation)
		}
		cut := to("123456", "103", fmt.Sprint("cut-", i))
		e := tracker.Observe(cut.invite())[0]
		for number, id := range calls {
			if e.Call == id {
				t.Errorf("a leg that may be anybody's was joined to the call of %s", number)
			}
		}
		if e.Correlation != "numbers:tie" {
			t.Errorf("a leg that may be anybody's says %q, want numbers:tie", e.Correlation)
		}
	}
}
