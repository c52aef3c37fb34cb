package sdp

import (
	"strings"
	"testing"
)

func TestReadsMediaDirection(t *testing.T) {
	describe := func(session, stream string) string {
		return "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\ns=-\r\nt=0 0\r\n" + session + "m=audio 40000 RTP/AVP 0\r\n" + stream
	}
	for _, tt := range []struct {
		name, body string
		want       Direction
	}{
		{"no body", "", Unknown},
		{"no stream", "v=0\r\na=sendonly\r\n", Unknown},
		{"nothing emitted", describe("c=IN IP4 192.0.2.11\r\n", ""), Open},
		{"sendrecv", describe("", "c=IN IP4 192.0.2.11\r\na=sendrecv\r\n"), Open},
		{"recvonly", describe("", "a=recvonly\r\n"), Open},
		{"sendonly", describe("", "a=sendonly\r\n"), Held},
		{"inactive", describe("", "a=inactive\r\n"), Held},
		{"for the session", describe("a=sendonly\r\n", ""), Held},
		{"the stream says otherwise", describe("a=sendonly\r\n", "a=sendrecv\r\n"), Open},
		{"address 0.0.0.0", describe("c=IN IP4 0.0.0.0\r\n", ""), Held},
		{"address 0.0.0.0 of the stream", describe("c=IN IP4 192.0.2.11\r\n", "c=IN IP4 0.0.0.0\r\n"), Held},
		{"the stream has an address", describe("c=IN IP4 0.0.0.0\r\n", "c=IN IP4 192.0.2.11\r\n"), Open},
		{"only the video is held", describe("", "a=sendrecv\r\nm=video 40002 RTP/AVP 99\r\nc=IN IP4 0.0.0.0\r\na=sendonly\r\n"), Open},
		{"lines that end with LF", strings.ReplaceAll(describe("", "a=sendonly\r\n"), "\r", ""), Held},
	} {
		if got, _ := Read(tt.body); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestReadsDirectionByGrammar(t *testing.T) {
	const audio = "m=audio 40000 RTP/AVP 0\r\n"
	describe := func(lines ...string) string {
		return "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\ns=-\r\n" + strings.Join(lines, "")
	}
	for _, tt := range []struct {
		name, body string
		want       Direction
		silent     bool
	}{
		{"null address of IPv6", describe("c=IN IP6 ::\r\n", audio), Held, false},
		{"written long", describe("c=IN IP6 0:0:0:0:0:0:0:0\r\n", audio), Held, false},
		{"mapped", describe("c=IN IP6 ::ffff:0.0.0.0\r\n", audio), Held, false},
		{"with a TTL", describe("c=IN IP4 0.0.0.0/127\r\n", audio), Held, false},
		{"with blanks", describe("c=IN  IP4 0.0.0.0 \r\n", audio), Held, false},
		{"of another stream", describe(audio, "m=video 1 RTP/AVP 9\r\nc=IN IP6 ::\r\n"), Open, false},
		{"a host", describe("c=IN IP4 phone.example\r\n", audio), Open, false},
		{"an address that only ends so", describe("c=IN IP4 10.0.0.0\r\n", audio), Open, false},
		{"blanks behind the attribute", describe(audio, "a=inactive \t\r\n"), Held, true},
		{"attribute with a value", describe(audio, "a=sendonly:x\r\n"), Held, false},
		{"another attribute", describe(audio, "a=sendonly2\r\n"), Open, false},
		{"receives only", describe(audio, "a=recvonly\r\n"), Open, true},
		{"session inactive", describe("a=inactive\r\n", audio), Held, true},
		{"voice behind video", describe("m=video 1 RTP/AVP 9\r\na=inactive\r\n", audio), Open, false},
		{"voice behind video, held", describe("m=video 1 RTP/AVP 9\r\n", audio, "a=sendonly\r\n"), Held, false},
		{"video alone", describe("m=video 1 RTP/AVP 9\r\na=sendonly\r\n"), Held, false},
		{"voice off", describe("m=audio 0 RTP/AVP 0\r\n"), Held, true},
		{"one voice off, the other on", describe("m=audio 0 RTP/AVP 0\r\na=inactive\r\n", audio), Open, false},
		{"one voice on, the other off", describe(audio, "m=audio 0 RTP/AVP 0\r\na=inactive\r\n"), Open, false},
		{"fax for voice", describe("m=audio 0 RTP/AVP 0\r\n", "m=image 1 udptl t38\r\n"), Unknown, false},
		{"fax off too", describe("m=audio 0 RTP/AVP 0\r\n", "m=image 0 udptl t38\r\n"), Held, true},
		{"ICE without candidates", describe("c=IN IP4 0.0.0.0\r\n", "m=audio 9 RTP/AVP 0\r\na=ice-ufrag:x\r\n"), Open, false},
		{"trickle", describe("c=IN IP4 0.0.0.0\r\na=ice-options:a trickle\r\n", "m=audio 9 RTP/AVP 0\r\n"), Open, false},
		{"ICE of another kind", describe("c=IN IP4 0.0.0.0\r\na=ice-options:rtp+ecn\r\n", "m=audio 9 RTP/AVP 0\r\n"), Held, false},
		{"port 9 without ICE", describe("c=IN IP4 0.0.0.0\r\n", "m=audio 9 RTP/AVP 0\r\n"), Held, false},
		{"ICE with a port", describe("c=IN IP4 0.0.0.0\r\n", "m=audio 40000 RTP/AVP 0\r\na=ice-ufrag:x\r\n"), Held, false},
		{"no lines", "\r\n\r\nm\r\na\n=", Unknown, false},
	} {
		if got, silent := Read(tt.body); got != tt.want || silent != tt.silent {
			t.Errorf("%s: got %v, silent %v, want %v, %v", tt.name, got, silent, tt.want, tt.silent)
		}
	}
}

// FuzzRead reads any description, with any line ends.
func FuzzRead(f *testing.F) {
	f.Add("v=0\r\nm=audio 9 RTP/AVP 0\r\nc=IN IP6 ::\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		way, silent := Read(text)
		if again, s := Read(strings.ReplaceAll(text, "\n", "\r\n")); again != way || s != silent {
			t.Errorf("got %v, %v with CRLF, %v, %v without", again, s, way, silent)
		}
	})
}
