package trace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// A secretCarrier is a message with a secret. S stands for the secret, which begins and
// ends with a digit.
type secretCarrier struct{ name, head, body string }

func carrierInBody(contentType, body string) secretCarrier {
	return secretCarrier{contentType, "INFO sip:102@pbx SIP/2.0\r\nContent-Type: " + contentType + "\r\n", body}
}

func carrierInField(line string) secretCarrier {
	return secretCarrier{line, "INVITE sip:102@pbx SIP/2.0\r\nTo: <sip:102@pbx>\r\n" + line + "\r\nMax-Forwards: 70\r\n", ""}
}

func allCarriers() []secretCarrier {
	all := []secretCarrier{
		{"request URI", "INVITE sip:102:S@pbx SIP/2.0\r\n", ""},
		{"no Content-Type", "INFO sip:102@pbx SIP/2.0\r\n", "Signal=S"},
		{"empty Content-Type", "INFO sip:102@pbx SIP/2.0\r\nContent-Type:\r\n", "S"},
		{"two Content-Types", "INFO sip:102@pbx SIP/2.0\r\nContent-Type: text/plain\r\nc: application/dtmf\r\n", "S"},
		{"two alike", "INFO sip:102@pbx SIP/2.0\r\nContent-Type: text/plain\r\nc: text/plain\r\n", "S"},
		{"compact, folded", "INFO sip:102@pbx SIP/2.0\r\nc\t:\r\n application/\r\n\tdtmf-relay\r\n", "S"},
		{"encoded body", "INFO sip:102@pbx SIP/2.0\r\nc: text/plain\r\ne: gzip\r\n", "S"},
		{"SDP, encoded", "INFO sip:102@pbx SIP/2.0\r\ne: x\r\n", "v=0\r\nS"},
	}
	for _, kind := range []string{
		"application/dtmf-relay", "application/dtmf", "APPLICATION/DTMF;x=y", "application / dtmf-relay", "application/x-dtmf", "audio/x-dtmf",
		"audio/telephone-event", "audio/telephone-event;rate=8000", "application/vnd.nortelnetworks.digits",
		"application/vnd.nortelnetworks.digits ; version=\"1", "application/kpml-request+xml", "application/KPML-Response+XML;charset=utf-8",
		"application/dtmf-relay, text/plain", "application", "dtmf", "/", "text/", "te(x)t/plain", "application/jwt", "text/plain\r\n /x",
	} {
		all = append(all, carrierInBody(kind, "Signal=S\r\nDuration=160\r\n"), carrierInBody(kind, "S"))
	}
	all = append(all,
		carrierInBody("text/plain", "Signal=S\r\nDuration=160"),
		carrierInBody("text/plain", " signal = S"),
		carrierInBody("application/xml", `<kpml-response xmlns="urn:ietf:params:xml:ns:kpml-response" code="200" digits="S"/>`),
		carrierInBody("application/sdp", "v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:S|2^20\r\n"),
		carrierInBody("application/sdp", "v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 INLINE:S\r\n"),
		carrierInBody("application/sdp", "v=0\r\n a=key-mgmt:mikey S\r\n"),
		carrierInBody("application/sdp", "v=0\r\nk=clear:S\r\na=ice-pwd:S\r\n"),
		carrierInBody("text/plain", "call sip:bob:S@home"),
		carrierInBody("application/dialog-info+xml", `<target uri="sips:bob:S@home"/>`),
		carrierInBody("message/sipfrag", "SIP/2.0 200 OK\r\nX-Pin: S\r\n"),
		carrierInBody("message/sipfrag", "X-Pin: S\r\n"),
		carrierInBody("message/sip", "INFO sip:1@b SIP/2.0\r\nAuthorization: Digest response=\"S\"\r\nc: application/dtmf\r\n\r\nS"),
		carrierInBody("message/sip", "INFO sip:1@b SIP/2.0\r\nVia: x\r\n\r\nS"),
		carrierInBody("multipart/mixed", "--b\r\nContent-Type: application/dtmf\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=", "--b\r\nContent-Type: text/plain\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=\"b", "--b\r\nContent-Type: text/plain\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=b;boundary=c", "--b\r\nContent-Type: text/plain\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=other", "--b\r\nContent-Type: text/plain\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=b", "S\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\nS"),
		carrierInBody("multipart/mixed;boundary=b", "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n--b\r\nContent-Type: text/plain\r\n\r\nS"),
		carrierInBody("multipart/mixed;boundary=b", "--b\r\n\r\nS\r\n--b--"),
		carrierInBody("multipart/mixed;boundary=b", "--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nS\r\n--b--"),
	)
	for _, part := range []string{
		"Content-Type: application/dtmf-relay\r\n\r\nSignal=S", "c: APPLICATION/vnd.nortelnetworks.digits;version=1\r\n\r\nd=S",
		"Content-Type:\r\n audio/telephone-event\r\n\r\nS", "Content-Type: application/kpml-request+xml\r\n\r\n<x>S</x>",
		"X-Pin: S\r\nContent-Type: text/plain\r\n\r\nx", "Content-Type: application/sdp\r\n\r\nv=0\r\na=crypto:1 A inline:S", "X-A: 1\r\n\r\nS",
		"Content-Type: message/sipfrag\r\n\r\nSIP/2.0 200 OK\r\nX-Token: S",
		"Content-Type: multipart/alternative; boundary=inner\r\n\r\n--inner\r\nc: application/dtmf\r\n\r\nS\r\n--inner--",
		"Content-Type: multipart/alternative; boundary=inner\r\n\r\n--outer\r\nc: text/plain\r\n\r\nS\r\n--outer--",
	} {
		for _, param := range []string{"boundary=b", "Boundary = \"b\"", "type=x; boundary=b; z=1", "\r\n boundary=b"} {
			all = append(all, carrierInBody("multipart/mixed; "+param, "--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\n"+part+"\r\n--b--\r\n"))
		}
		all = append(all, carrierInBody("MULTIPART/Mixed;boundary=b", "--b\n"+strings.ReplaceAll(part, "\r\n", "\n")))
	}
	for _, name := range []string{
		"X-Pin", "X-PIN-Code", "X-UserPin", "X-Pass", "X-Passcode", "X-Passphrase", "X-Password", "Password", "X-Key", "X-Api-Key", "x-apikey", "X-JWT", "X-My-Jwt",
		"X-Signature", "X-Sig", "X-Hmac", "X-Auth-Token", "X-Client-Secret", "X-OTP", "X-Digits", "X-DTMF", "Cookie", "Set-Cookie", "X-Bellhop-Trunk", "x-bellhop-TRUNK",
		"Identity", "y", "Authentication-Info", "X-Credentials", "P-DTMF-Digits", "X-Cvv", "X-Session-Key",
	} {
		all = append(all, carrierInField(name+": S"), carrierInField(name+" : two S words"), carrierInField(name+":\r\n S"), carrierInField(strings.ToUpper(name)+": \"S"))
	}
	for _, name := range []string{"Authorization", "Proxy-Authorization", "WWW-Authenticate", "Proxy-Authenticate"} {
		for _, value := range []string{
			"Digest username=\"101\", response=\"S\"", "Digest realm=\"pbx, response=\"S\"", "Digest realm=\"pbx, response=S, x=\"", "Digest realm=\"pbx\" response=\"S\"",
			"Digest realm=pbx\" response=\"S\"", "Digest realm=\"a\\\", response=S\"", "Basic S", "Bearer S", "Unknown S", "S", "Digest S", "Digest\r\n response=\"S\"", "1234 S",
			"Digest realm=\"pbx\"S", "Digest username=\"x,response=S",
		} {
			all = append(all, carrierInField(name+": "+value))
		}
	}
	for _, uri := range []string{
		"To:sip:bob:S@c", "To: <sip:bob:S@c>;tag=1", "Contact: <sip:a@b>,sip:bob:S@c", "Contact: <SIPS:bob:S@c>", "Refer-To: <sip:b@c?X-Pin=S>",
		"Refer-To: <sip:b@c?Replaces=x&Authorization=S&y=z>", "Refer-To: <sip:b@c?X%2DPin=S>", "Alert-Info: <http://bob:S@c/x>", "To: <sip:bob:a S@c>", "From: \"x<\" sip:bob:S@c",
		"Call-Info: <https://bob:S@c>", "Contact: sip:a@h,sip:bob:S@c",
	} {
		all = append(all, carrierInField(uri))
	}
	return all
}

// TestNoSecretIsShown: a secret appears in no form of a recorded call, wherever it was.
func TestNoSecretIsShown(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range allCarriers() {
		secret := fmt.Sprintf("%d%x%d", 1+random.IntN(9), random.Uint64()|1<<63, 1+random.IntN(9))
		m := dialog.Message{
			At: time.Unix(1, 0), Method: "INFO", CallID: "c", Src: dialog.Edge, Dst: dialog.PBX,
			From: netip.MustParseAddrPort("192.0.2.1:5060"), To: netip.MustParseAddrPort("192.0.2.2:5060"),
			Head: insertSecret(c.head, secret) + "\r\n", Body: insertSecret(c.body, secret),
		}
		if !strings.Contains(m.Head+m.Body, secret) {
			t.Fatalf("%s: no secret", c.name)
		}
		r := New(1)
		kept := &record{Call: Call{ID: "c", Ends: []End{{Name: "pbx", Side: dialog.PBX}}}}
		r.addMessage(nil, kept, &m)
		if len(kept.Messages) != 1 {
			t.Fatalf("%s: not recorded", c.name)
		}
		call, message := &kept.Call, &kept.Messages[0]
		for form, text := range map[string]string{
			"text": call.Text(), "svg": call.SVG("/"), "pcap": string(call.PCAP()), "json": message.Text() + message.Summary() + fmt.Sprint(call.Ends, call.Legs),
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the %s shows the secret:\n%s", c.name, form, message.Text())
			}
		}
	}
}

// insertSecret replaces each S that is a word of its own with secret.
func insertSecret(text, secret string) string {
	var b bytes.Buffer
	for i := range len(text) {
		letter := func(i int) bool { return i >= 0 && i < len(text) && isLetter(text[i]) }
		if text[i] == 'S' && !letter(i-1) && !letter(i+1) && (i+3 >= len(text) || text[i+1:min(i+3, len(text))] != "HA") {
			b.WriteString(secret)
		} else {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// TestPublicTextIsNotMasked: text that is not secret stays as it was received.
func TestPublicTextIsNotMasked(t *testing.T) {
	for _, c := range []secretCarrier{
		carrierInBody("application/sdp", sdp),
		{"SDP without a type", "INVITE sip:1@b SIP/2.0\r\n", sdp},
		carrierInBody("text/plain;charset=utf-8", "hello: see sip:102@pbx"),
		carrierInBody("application/dialog-info+xml", `<dialog id="1"><target uri="sip:102@pbx"/></dialog>`),
		carrierInBody("message/sipfrag;version=2.0", "SIP/2.0 200 OK\r\n"),
		carrierInBody("multipart/mixed; boundary=\"b\"", "--b\r\nContent-Type: application/sdp\r\n\r\n"+sdp+"\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"),
		carrierInField("Shipment: x"), carrierInField("Path: <sip:p;lr>"), carrierInField("Privacy: id"), carrierInField("P-Asserted-Identity: <sip:1@a>"), carrierInField("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKpin"),
		carrierInField("Refer-To: <sip:b@c?Replaces=x%3Bto-tag%3D1>"), carrierInField("Subject: what?"),
	} {
		head, body := maskMessage(c.head, c.body, false)
		if head != c.head || body != c.body {
			t.Errorf("%s:\n%s%s", c.name, head, body)
		}
	}
}
