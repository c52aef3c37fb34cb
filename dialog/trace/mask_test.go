package trace

import (
	"strings"
	"testing"
	"testing/quick"
)

func TestSecretsAreMasked(t *testing.T) {
	for _, tt := range []struct{ name, head, body, want string }{
		{"Digest credentials", "REGISTER sip:pbx SIP/2.0\r\nAuthorization: Digest username=\"101\", realm=\"pbx\", nonce=\"n0,nce\", uri=\"sip:pbx\", response=\"0123\", algorithm=MD5, cnonce=\"c\\\"n\", opaque=op, qop=auth, nc=00000001\r\n\r\n", "",
			"REGISTER sip:pbx SIP/2.0\r\nAuthorization: Digest username=\"101\", realm=\"pbx\", nonce=\"xxxxxx\", uri=\"sip:pbx\", response=\"xxxx\", algorithm=MD5, cnonce=\"xx\"x\", opaque=xx, qop=auth, nc=00000001\r\n\r\n"},
		{"Proxy-Authorization in mixed case, folded", "A\r\npROXY-aUTHORIZATION :\tdIGEST Response=0123 ,\r\n username=\"1\",Nonce=\"a\r\n b\"\r\nX: y\r\n", "",
			"A\r\npROXY-aUTHORIZATION :\tdIGEST Response=xxxxx,\r\n username=\"1\",Nonce=\"x\r\nxx\"\r\nX: y\r\n"},
		{"Digest challenge", "A\r\nWWW-Authenticate: Digest realm=\"pbx\", nonce=\"abc\", stale=true, qop=\"auth\"\r\n", "",
			"A\r\nWWW-Authenticate: Digest realm=\"pbx\", nonce=\"xxx\", stale=true, qop=\"auth\"\r\n"},
		{"Authentication-Info", "A\r\nAuthentication-Info: nextnonce=\"abc\", qop=auth\r\n", "",
			"A\r\nAuthentication-Info: xxxxxxxxxx\"xxx\"xxxxxxxxxx\r\n"},
		{"other schemes", "A\r\nAuthorization: Bearer ey.J.x\r\nProxy-Authorization: Basic dXNlcg==\r\nAuthorization: raw\r\nAuthorization: a=\"b\" c\r\nAuthorization:\r\n", "",
			"A\r\nAuthorization: Bearer xxxxxx\r\nProxy-Authorization: Basic xxxxxxxx\r\nAuthorization: xxx\r\nAuthorization: xx\"x\"xx\r\nAuthorization:\r\n"},
		{"Digest with a missing quote", "A\r\nAuthorization: Digest response=\"ab, nonce=c\r\n", "",
			"A\r\nAuthorization: Digest response=\"xxxxxxxxxxx\r\n"},
		{"signed identity", "A\r\nIdentity: ey.J;info=<x>\r\ny: ey.J\r\nP-Asserted-Identity: <sip:1@a>\r\n", "",
			"A\r\nIdentity: xxxxxxxxxxxxx\r\ny: xxxx\r\nP-Asserted-Identity: <sip:1@a>\r\n"},
		{"keys and tokens", "A\r\nX-API-Key: k1\r\nx-apikey: k2\r\nX-Auth: k3\r\nX-Session-Token: k4\r\nCookie: a=b\r\nX-Client-Secret: k\r\nX-Password: pw\r\nX-Tok: en\r\n", "",
			"A\r\nX-API-Key: xx\r\nx-apikey: xx\r\nX-Auth: xx\r\nX-Session-Token: xx\r\nCookie: xxx\r\nX-Client-Secret: x\r\nX-Password: xx\r\nX-Tok: en\r\n"},
		{"passwords in URIs", "INVITE sips:a:pw@b:5060 SIP/2.0\r\nTo: \"sip:no:body@home\" <sip:bob:p@ss@c;x=y>\r\nContact: <sip:1@d:5060>,<sip:h:5061>;x=@\r\nCall-ID: a:b@c\r\n", "",
			"INVITE sips:a:xx@b:5060 SIP/2.0\r\nTo: \"sip:no:xxxx@home\" <sip:bob:xxxx@c;x=y>\r\nContact: <sip:1@d:5060>,<sip:h:5061>;x=@\r\nCall-ID: a:b@c\r\n"},
		{"media keys", "A\r\nContent-Type: application/sdp\r\n\r\n", "v=0\r\nk=clear:pw\r\nm=audio 1 RTP/SAVP 0\r\na=crypto:1 AES inline:Key|2^20|1:4 inline:K2\r\na=crypto:2 X\r\na=ice-ufrag:u\r\na=ice-pwd:secret\na=key-mgmt:mikey A",
			"A\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nk=xxxxxxxx\r\nm=audio 1 RTP/SAVP 0\r\na=crypto:1 AES inline:xxxxxxxxxxxxxxxxxxxxxx\r\na=crypto:xxx\r\na=ice-ufrag:u\r\na=ice-pwd:xxxxxx\na=key-mgmt:xxxxxxx"},
		{"DTMF digits", "INFO a\r\nc: application/dtmf-relay\r\n\r\n", "Signal=5\r\nDuration=160", "INFO a\r\nc: application/dtmf-relay\r\n\r\nxxxxxxxx\r\nxxxxxxxxxxxx"},
		{"no secret", "INVITE sip:1@b SIP/2.0\r\nAllow: INVITE\r\nSubject: Authorization: Digest x\r\n\r\n", "v=0\r\n", "INVITE sip:1@b SIP/2.0\r\nAllow: INVITE\r\nSubject: Authorization: Digest x\r\n\r\nv=0\r\n"},
	} {
		head, body := maskMessage(tt.head, tt.body, false)
		if got := head + body; got != tt.want {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// TestMaskingKeepsLengths masks random messages: masking does not panic, and lengths and
// line ends stay the same.
func TestMaskingKeepsLengths(t *testing.T) {
	pieces := []string{"Authorization:", "Digest ", "response=\"", "\"", ",", "\\", "\r\n", "\n", " ", "\t", "sip:", "a", ":", "@", "=", "Identity:", "a=crypto:", "inline:", "k=", "c: application/dtmf", "y:"}
	check := func(picks []byte, split uint8) bool {
		var b strings.Builder
		for _, p := range picks {
			b.WriteString(pieces[int(p)%len(pieces)])
		}
		text := b.String()
		n := min(int(split), len(text))
		head, body := maskMessage(text[:n], text[n:], split%2 == 0)
		return len(head) == n && len(head)+len(body) == len(text) && strings.Count(head+body, "\n") == strings.Count(text, "\n")
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
}

// TestMaskingIsLinear masks hostile messages of a megabyte: with quadratic time the test
// would take hours.
func TestMaskingIsLinear(t *testing.T) {
	for _, piece := range []string{"@", "sip:a:b@", ":", "\"", ",", "a=", "\n ", "Authorization:", "?", "<@", "?a=b&", "sip:", "\n\n", "kpm"} {
		head := "A\r\nX-Token: Digest " + strings.Repeat(piece, 1<<20/len(piece))
		maskMessage(head, head, false)
		maskMessage("A\r\nc: multipart/mixed;boundary=b\r\n", strings.Repeat("--b\r\n"+piece, 1<<19/len(piece)), false)
		maskMessage("A\r\nc: message/sipfrag\r\n", head, false)
	}
}

// TestTextWithoutSecretIsNotCopied: most messages have no secret.
func TestTextWithoutSecretIsNotCopied(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { maskMessage(plainINVITE, sdp, false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

const sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\ns=-\r\nc=IN IP4 192.0.2.11\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n"

const plainINVITE = "INVITE sip:102@pbx.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bK776asdhds;rport\r\nMax-Forwards: 70\r\n" +
	"From: \"Alice\" <sip:101@pbx.example>;tag=1928301774\r\nTo: <sip:102@pbx.example>\r\nCall-ID: a84b4c76e66710@192.0.2.11\r\nCSeq: 314159 INVITE\r\n" +
	"Contact: <sip:101@192.0.2.11:5060>\r\nUser-Agent: Phone/1.0\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY, REFER, UPDATE\r\n" +
	"Supported: replaces, timer\r\nContent-Type: application/sdp\r\nContent-Length: 230\r\n\r\n"

func BenchmarkMaskMessage(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		maskMessage(plainINVITE, sdp, false)
	}
}
