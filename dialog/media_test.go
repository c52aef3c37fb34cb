package dialog

import (
	"testing"

	"bellhop/dialog/sdp"
)

// TestReadsDescriptionByType checks that a session description is found in the body by its
// media type.
func TestReadsDescriptionByType(t *testing.T) {
	const description = "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\ns=-\r\nm=audio 40000 RTP/AVP 0\r\n"
	for _, tt := range []struct {
		name, contentType, body string
		want                    sdp.Direction
	}{
		{"its type", "Application/SDP; charset=x", description + "a=sendonly", sdp.Held},
		{"another type", "application/dtmf-relay", description + "a=sendonly", sdp.Unknown},
		{"one part of several", `multipart/mixed;boundary=b`, "intro\r\n--b\r\nContent-Type: text/plain\r\n\r\na=sendrecv\r\n--b\r\nc: application/sdp\r\n\r\n" + description + "a=sendonly\r\n" + "--b--", sdp.Held},
		{"blanks around the slash", `Multipart / Mixed ; boundary="b"`, "--b\r\nContent-Type: application / SDP\r\n\r\n" + description + "a=sendonly\r\n" + "--b--", sdp.Held},
		{"no such part", `multipart/mixed;boundary=b`, "--b\r\nContent-Type: text/plain\r\n\r\n" + "m=audio 40000 RTP/AVP 0\r\n" + "--b--", sdp.Unknown},
		{"no boundary", `multipart/mixed`, description, sdp.Unknown},
	} {
		m := &Message{Head: "INVITE sip:x SIP/2.0\r\nContent-Type: " + tt.contentType + "\r\n", Body: tt.body}
		if got := readDirection(m); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
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
