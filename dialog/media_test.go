package dialog

import (
	"strings"
	"testing"
)

func TestReadsDirectionByGrammar(t *testing.T) {
	const audio = "m=audio 40000 RTP/AVP 0\r\n"
	sdp := func(lines ...string) string {
		return "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\ns=-\r\n" + strings.Join(lines, "")
	}
	for _, tt := range []struct {
		name, contentType, body string
		want                    mediaDirection
		silent                  bool
	}{
		{"null address of IPv6", "", sdp("c=IN IP6 ::\r\n", audio), directionHeld, false},
		{"written long", "", sdp("c=IN IP6 0:0:0:0:0:0:0:0\r\n", audio), directionHeld, false},
		{"mapped", "", sdp("c=IN IP6 ::ffff:0.0.0.0\r\n", audio), directionHeld, false},
		{"with a TTL", "", sdp("c=IN IP4 0.0.0.0/127\r\n", audio), directionHeld, false},
		{"with blanks", "", sdp("c=IN  IP4 0.0.0.0 \r\n", audio), directionHeld, false},
		{"of another stream", "", sdp(audio, "m=video 1 RTP/AVP 9\r\nc=IN IP6 ::\r\n"), directionOpen, false},
		{"a host", "", sdp("c=IN IP4 phone.example\r\n", audio), directionOpen, false},
		{"an address that only ends so", "", sdp("c=IN IP4 10.0.0.0\r\n", audio), directionOpen, false},
		{"blanks behind the attribute", "", sdp(audio, "a=inactive \t\r\n"), directionHeld, true},
		{"attribute with a value", "", sdp(audio, "a=sendonly:x\r\n"), directionHeld, false},
		{"another attribute", "", sdp(audio, "a=sendonly2\r\n"), directionOpen, false},
		{"receives only", "", sdp(audio, "a=recvonly\r\n"), directionOpen, true},
		{"session inactive", "", sdp("a=inactive\r\n", audio), directionHeld, true},
		{"voice behind video", "", sdp("m=video 1 RTP/AVP 9\r\na=inactive\r\n", audio), directionOpen, false},
		{"voice behind video, held", "", sdp("m=video 1 RTP/AVP 9\r\n", audio, "a=sendonly\r\n"), directionHeld, false},
		{"video alone", "", sdp("m=video 1 RTP/AVP 9\r\na=sendonly\r\n"), directionHeld, false},
		{"voice off", "", sdp("m=audio 0 RTP/AVP 0\r\n"), directionHeld, true},
		{"one voice off, the other on", "", sdp("m=audio 0 RTP/AVP 0\r\na=inactive\r\n", audio), directionOpen, false},
		{"one voice on, the other off", "", sdp(audio, "m=audio 0 RTP/AVP 0\r\na=inactive\r\n"), directionOpen, false},
		{"fax for voice", "", sdp("m=audio 0 RTP/AVP 0\r\n", "m=image 1 udptl t38\r\n"), directionUnknown, false},
		{"fax off too", "", sdp("m=audio 0 RTP/AVP 0\r\n", "m=image 0 udptl t38\r\n"), directionHeld, true},
		{"ICE without candidates", "", sdp("c=IN IP4 0.0.0.0\r\n", "m=audio 9 RTP/AVP 0\r\na=ice-ufrag:x\r\n"), directionOpen, false},
		{"trickle", "", sdp("c=IN IP4 0.0.0.0\r\na=ice-options:a trickle\r\n", "m=audio 9 RTP/AVP 0\r\n"), directionOpen, false},
		{"ICE of another kind", "", sdp("c=IN IP4 0.0.0.0\r\na=ice-options:rtp+ecn\r\n", "m=audio 9 RTP/AVP 0\r\n"), directionHeld, false},
		{"port 9 without ICE", "", sdp("c=IN IP4 0.0.0.0\r\n", "m=audio 9 RTP/AVP 0\r\n"), directionHeld, false},
		{"ICE with a port", "", sdp("c=IN IP4 0.0.0.0\r\n", "m=audio 40000 RTP/AVP 0\r\na=ice-ufrag:x\r\n"), directionHeld, false},
		{"its type", "Application/SDP; charset=x", sdp(audio, "a=sendonly"), directionHeld, false},
		{"another type", "application/dtmf-relay", sdp(audio, "a=sendonly"), directionUnknown, false},
		{"one part of several", `multipart/mixed;boundary=b`, "intro\r\n--b\r\nContent-Type: text/plain\r\n\r\na=sendrecv\r\n--b\r\nc: application/sdp\r\n\r\n" + sdp(audio, "a=sendonly\r\n") + "--b--", directionHeld, false},
		{"no such part", `multipart/mixed;boundary=b`, "--b\r\nContent-Type: text/plain\r\n\r\n" + audio + "--b--", directionUnknown, false},
		{"no boundary", `multipart/mixed`, sdp(audio), directionUnknown, false},
		{"no lines", "", "\r\n\r\nm\r\na\n=", directionUnknown, false},
	} {
		m := &Message{Head: "INVITE sip:x SIP/2.0\r\n", Body: tt.body}
		if tt.contentType != "" {
			m.Head += "Content-Type: " + tt.contentType + "\r\n"
		}
		if got, silent := readMedia(m); got != tt.want || silent != tt.silent {
			t.Errorf("%s: got %v, silent %v, want %v, %v", tt.name, got, silent, tt.want, tt.silent)
		}
	}
}

func TestReadsAcknowledgedCSeq(t *testing.T) {
	for _, tt := range []struct {
		rack string
		want uint32
	}{{"5 2 INVITE", 2}, {" 5\t2  INVITE ", 2}, {"5 2 BYE", 0}, {"5 2", 0}, {"5 x INVITE", 0}, {"", 0}} {
		if got := acknowledgedCSeq(&Message{Head: "PRACK sip:x SIP/2.0\r\nRAck: " + tt.rack + "\r\n"}); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.rack, got, tt.want)
		}
	}
}

// FuzzBody parses any body: the results are part of the body.
func FuzzBody(f *testing.F) {
	f.Add("multipart/mixed;boundary=b", "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=audio 9 RTP/AVP 0\r\nc=IN IP6 ::\r\n--b--")
	f.Add("message/cpim", "From: <sip:a@b>\r\n\r\nContent-Type: text/plain\r\n\r\nhi")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		if part := findPart(contentType, body, "application/sdp"); !strings.Contains(body, part) {
			t.Errorf("%q is not of %q", part, body)
		}
		readMedia(&Message{Head: "X\r\nContent-Type: " + contentType, Body: body})
		readMedia(&Message{Body: body})
		if _, text := readText(contentType, body); len(text) > len(body) {
			t.Errorf("%q became longer: %q", body, text)
		}
	})
}
