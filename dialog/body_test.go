package dialog

import (
	"strings"
	"testing"
	"time"
)

func TestReadsTextOfMessages(t *testing.T) {
	const outer = "From: <im:101@pbx.example>\r\nTo: <im:102@pbx.example>\r\nSubject: x\r\n\r\n"
	for _, tt := range []struct{ name, contentType, body, kind, text string }{
		{"plain", "text/plain", "a: b\r\n\r\nc", "text/plain", "a: b\r\n\r\nc"},
		{"CPIM", "message/cpim", outer + "Content-Type: text/plain;charset=utf-8\r\n\r\nSee you\r\n\r\nat ten", "text/plain;charset=utf-8", "See you\r\n\r\nat ten"},
		{"in capitals, with LF", "Message/CPIM; x=y", "From: <im:a@b>\n\ncontent-type: text/html\n\n<b>hi</b>", "text/html", "<b>hi</b>"},
		{"an empty line first", "message/cpim", "\r\n" + outer + "Content-Type: text/plain\r\n\r\nhi", "text/plain", "hi"},
		{"base64", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: Base64\r\n\r\nR3LDvMOf\r\nZQ==\r\n", "text/plain", "Grüße"},
		{"quoted", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe", "text/plain", "Grüße"},
		{"no base64", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n!!", "text/plain", "!!"},
		{"another header field of MIME", "message/cpim", outer + "Content-ID: <1>\r\n\r\nhi", "text/plain", "hi"},
		{"no header fields of MIME", "message/cpim", outer + "hi there", "text/plain", "hi there"},
		{"two paragraphs without", "message/cpim", outer + "hi\r\n\r\nthere", "text/plain", "hi\r\n\r\nthere"},
		{"nothing", "message/cpim", "", "text/plain", ""},
		{"an empty line in place of header fields", "message/cpim", outer + "\r\nhi", "text/plain", "hi"},
		{"ISO 8859-1", "text/plain; charset=ISO-8859-1", "Gr\xfc\xdfe", "text/plain; charset=ISO-8859-1", "Grüße"},
		{"UTF-8 that says ISO 8859-1", "text/plain;charset=iso-8859-1", "Grüße", "text/plain;charset=iso-8859-1", "Grüße"},
		{"no character set", "text/plain", "Gr\xfc\xdfe", "text/plain", "Gr\xfc\xdfe"},
		{"parts", "multipart/mixed;boundary=b", "--b\r\nContent-Type: text/html\r\n\r\n<i>a</i>\r\n--b\r\nContent-Type: text/plain\r\n\r\na\r\n\r\nb\r\n--b--\r\n", "text/plain", "a\r\n\r\nb"},
		{"no part is text", "multipart/mixed;boundary=b", "--b\r\nContent-Type: image/gif\r\n\r\nGIF\r\n--b--", "multipart/mixed;boundary=b", "--b\r\nContent-Type: image/gif\r\n\r\nGIF\r\n--b--"},
		{"no boundary", "multipart/mixed", "--b\r\n\r\na\r\n--b--", "multipart/mixed", "--b\r\n\r\na\r\n--b--"},
		{"wrapped too deep", "message/cpim", strings.Repeat("\r\nA: b\r\n\r\nContent-Type: message/cpim\r\n\r\n", 9), "message/cpim", strings.Repeat("\r\nA: b\r\n\r\nContent-Type: message/cpim\r\n\r\n", 5)},
	} {
		if kind, text := readText(tt.contentType, tt.body); kind != tt.kind || text != tt.text {
			t.Errorf("%s: got %q %q, want %q %q", tt.name, kind, text, tt.kind, tt.text)
		}
	}
}

// TestTextToSeveralDevicesIsOneMessage has a PBX send texts to devices of 102, and counts
// the messages.
func TestTextToSeveralDevicesIsOneMessage(t *testing.T) {
	type text struct {
		device, from, body string
		after              time.Duration
		status             int
	}
	for _, tt := range []struct {
		name  string
		texts []text
		want  int
	}{
		{"one", []text{{"a", "101", "hi", 0, 200}}, 1},
		{"two devices", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", 0, 202}}, 1},
		{"the first refuses", []text{{"a", "101", "hi", 0, 480}, {"b", "101", "hi", 0, 200}}, 1},
		{"both refuse", []text{{"a", "101", "hi", 0, 480}, {"b", "101", "hi", 0, 404}}, 0},
		{"twice to one", []text{{"a", "101", "hi", 0, 200}, {"a", "101", "hi", 0, 200}}, 2},
		{"twice to two", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", 0, 200}, {"a", "101", "hi", time.Second, 200}, {"b", "101", "hi", 0, 200}}, 2},
		{"other text", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "ho", 0, 200}}, 2},
		{"other sender", []text{{"a", "101", "hi", 0, 200}, {"b", "103", "hi", 0, 200}}, 2},
		{"later", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", forksWithin + time.Second, 200}}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			at := start
			ids := map[string]bool{}
			for i, x := range tt.texts {
				at = at.Add(x.after)
				l := legToPhone(x.from, "102", "text-"+string(rune('a'+i)))
				l.uri = "sip:102@" + x.device + ".example"
				l.at = at
				m := l.message(PBX, "MESSAGE", 0, "Content-Type: text/plain\r\n")
				m.Body = x.body
				for _, e := range append(tracker.Observe(m), tracker.Observe(l.message(Edge, "MESSAGE", x.status, ""))...) {
					if e.Type != MessageIn || e.Extension.User != "102" || ids[e.ID] {
						t.Errorf("got %+v", e)
					}
					ids[e.ID] = true
				}
			}
			if len(ids) != tt.want {
				t.Errorf("%d messages, want %d", len(ids), tt.want)
			}
		})
	}
}
