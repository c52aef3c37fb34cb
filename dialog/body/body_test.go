package body

import (
	"strings"
	"testing"
)

func TestReadsTextOfMessages(t *testing.T) {
	const outer = "From: <im:101@pbx.example>\r\nTo: <im:102@pbx.example>\r\nSubject: x\r\n\r\n"
	for _, tt := range []struct{ name, contentType, body, kind, text string }{
		{"plain text", "text/plain", "a: b\r\n\r\nc", "text/plain", "a: b\r\n\r\nc"},
		{"CPIM", "message/cpim", outer + "Content-Type: text/plain;charset=utf-8\r\n\r\nSee you\r\n\r\nat ten", "text/plain;charset=utf-8", "See you\r\n\r\nat ten"},
		{"in capitals, with LF", "Message/CPIM; x=y", "From: <im:a@b>\n\ncontent-type: text/html\n\n<b>hi</b>", "text/html", "<b>hi</b>"},
		{"an empty line first", "message/cpim", "\r\n" + outer + "Content-Type: text/plain\r\n\r\nhi", "text/plain", "hi"},
		{"base64", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: Base64\r\n\r\nR3LDvMOf\r\nZQ==\r\n", "text/plain", "Grüße"},
		{"quoted-printable part", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe", "text/plain", "Grüße"},
		{"no base64", "message/cpim", outer + "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n!!", "text/plain", "!!"},
		{"another header field of MIME", "message/cpim", outer + "Content-ID: <1>\r\n\r\nhi", "text/plain", "hi"},
		{"no header fields of MIME", "message/cpim", outer + "hi there", "text/plain", "hi there"},
		{"two paragraphs without", "message/cpim", outer + "hi\r\n\r\nthere", "text/plain", "hi\r\n\r\nthere"},
		{"empty body", "message/cpim", "", "text/plain", ""},
		{"an empty line in place of header fields", "message/cpim", outer + "\r\nhi", "text/plain", "hi"},
		{"ISO 8859-1", "text/plain; charset=ISO-8859-1", "Gr\xfc\xdfe", "text/plain; charset=ISO-8859-1", "Grüße"},
		{"UTF-8 that says ISO 8859-1", "text/plain;charset=iso-8859-1", "Grüße", "text/plain;charset=iso-8859-1", "Grüße"},
		{"no character set", "text/plain", "Gr\xfc\xdfe", "text/plain", "Gr\xfc\xdfe"},
		{"several parts", "multipart/mixed;boundary=b", "--b\r\nContent-Type: text/html\r\n\r\n<i>a</i>\r\n--b\r\nContent-Type: text/plain\r\n\r\na\r\n\r\nb\r\n--b--\r\n", "text/plain", "a\r\n\r\nb"},
		{"no part is text", "multipart/mixed;boundary=b", "--b\r\nContent-Type: image/gif\r\n\r\nGIF\r\n--b--", "multipart/mixed;boundary=b", "--b\r\nContent-Type: image/gif\r\n\r\nGIF\r\n--b--"},
		{"no boundary", "multipart/mixed", "--b\r\n\r\na\r\n--b--", "multipart/mixed", "--b\r\n\r\na\r\n--b--"},
		{"wrapped too deep", "message/cpim", strings.Repeat("\r\nA: b\r\n\r\nContent-Type: message/cpim\r\n\r\n", 9), "message/cpim", strings.Repeat("\r\nA: b\r\n\r\nContent-Type: message/cpim\r\n\r\n", 5)},
	} {
		if kind, text := Text(tt.contentType, tt.body); kind != tt.kind || text != tt.text {
			t.Errorf("%s: got %q %q, want %q %q", tt.name, kind, text, tt.kind, tt.text)
		}
	}
}

// FuzzBody parses any body: the results are part of the body.
func FuzzBody(f *testing.F) {
	f.Add("multipart/mixed;boundary=b", "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=audio 9 RTP/AVP 0\r\nc=IN IP6 ::\r\n--b--")
	f.Add("message/cpim", "From: <sip:a@b>\r\n\r\nContent-Type: text/plain\r\n\r\nhi")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		if part := Part(contentType, body, "application/sdp"); !strings.Contains(body, part) {
			t.Errorf("%q is not of %q", part, body)
		}
		IsReport(contentType)
		IsSecret(contentType)
		if _, text := Text(contentType, body); len(text) > len(body) {
			t.Errorf("%q became longer: %q", body, text)
		}
	})
}
