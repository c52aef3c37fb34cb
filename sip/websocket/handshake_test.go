package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// handshake is a complete opening handshake without its blank line.
const handshake = "GET /ws?x=1 HTTP/1.1\r\nHost: phones.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

const offersSIP = "Sec-WebSocket-Protocol: chat, sip\r\n"

// accept lets Accept read b and returns what it has answered.
func accept(r io.Reader, first string, origins ...string) (answer string, rest []byte, err error) {
	var w bytes.Buffer
	rest, err = Accept(struct {
		io.Reader
		io.Writer
	}{r, &w}, []byte(first), origins)
	return w.String(), rest, err
}

func TestHandshakeIsAccepted(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		origins    []string
	}{
		{"any origin", handshake + offersSIP + "Origin: https://a.example\r\n", nil},
		{"no origin", handshake + offersSIP, nil},
		{"allowed origin", handshake + offersSIP + "Origin: https://A.example\r\n", []string{"https://b.example", "https://a.example"}},
		{"subprotocol in capitals", handshake + "Sec-WebSocket-Protocol: SIP\r\n", nil},
		{"two lists of subprotocols", handshake + "Sec-WebSocket-Protocol: sip\r\nSec-WebSocket-Protocol: chat\r\n", nil},
		{"extensions are not taken", handshake + offersSIP + "Sec-WebSocket-Extensions: permessage-deflate\r\n", nil},
		{"8 KiB", pad(handshake+offersSIP, maxHandshake-2), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for at := range 5 { // bytes that were read before
				r := iotest.OneByteReader(strings.NewReader(tt.head[at:] + "\r\n"))
				answer, rest, err := accept(r, tt.head[:at], tt.origins...)
				if err != nil || len(rest) > 0 {
					t.Fatalf("%v, rest %q", err, rest)
				}
				wantStatus(t, answer, "101 Switching Protocols")
				for _, line := range []string{"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "sip"} {
					if !strings.Contains(strings.ToLower(answer), strings.ToLower(line)) {
						t.Errorf("the answer has no %q:\n%s", line, answer)
					}
				}
				for _, line := range []string{"Extensions", "Security-Policy"} {
					if strings.Contains(answer, line) {
						t.Errorf("the answer has %s:\n%s", line, answer)
					}
				}
			}
		})
	}
}

func TestBytesAfterTheHandshakeAreKept(t *testing.T) {
	for _, first := range []string{"", "G", handshake + offersSIP + "\r\nmore"} {
		all := handshake + offersSIP + "\r\nmore"
		answer, rest, err := accept(strings.NewReader(all[len(first):]), first)
		if err != nil || string(rest) != "more" {
			t.Errorf("%q: rest %q, %v", first, rest, err)
		}
		wantStatus(t, answer, "101 Switching Protocols")
	}
}

func TestHandshakeIsRefused(t *testing.T) {
	one := []string{"https://a.example"}
	for _, tt := range []struct {
		name, head, status string
		origins            []string
	}{
		{"no subprotocol", handshake, "400 Bad Request", nil},
		{"other subprotocol", handshake + "Sec-WebSocket-Protocol: chat, sips\r\n", "400 Bad Request", nil},
		{"malformed subprotocol", handshake + "Sec-WebSocket-Protocol: ,;,\"\r\n", "400 Bad Request", nil},
		{"other origin", handshake + offersSIP + "Origin: https://b.example\r\n", "403 Forbidden", one},
		{"other scheme", handshake + offersSIP + "Origin: http://a.example\r\n", "403 Forbidden", one},
		{"other port", handshake + offersSIP + "Origin: https://a.example:8443\r\n", "403 Forbidden", one},
		{"no origin", handshake + offersSIP, "403 Forbidden", one},
		{"opaque origin", handshake + offersSIP + "Origin: null\r\n", "403 Forbidden", one},
		{"two origins", handshake + offersSIP + "Origin: https://a.example\r\nOrigin: https://a.example\r\n", "403 Forbidden", one},
		{"other origin without subprotocol", handshake + "Origin: https://b.example\r\n", "403 Forbidden", one},
		{"POST", strings.Replace(handshake, "GET", "POST", 1) + offersSIP, "405 Method Not Allowed", nil},
		{"HTTP/1.0", strings.Replace(handshake, "HTTP/1.1", "HTTP/1.0", 1) + offersSIP, "505 HTTP Version Not Supported", nil},
		{"old version", strings.Replace(handshake, "Version: 13", "Version: 8", 1) + offersSIP, "426 Upgrade Required", nil},
		{"a page", "GET / HTTP/1.1\r\nHost: phones.example.com\r\n", "400 Bad Request", nil},
		{"no host", strings.Replace(handshake, "Host:", "X:", 1) + offersSIP, "400 Bad Request", nil},
		{"short key", strings.Replace(handshake, "dGhl", "", 1) + offersSIP, "400 Bad Request", nil},
		{"line without colon", handshake + offersSIP + "x\r\n", "400 Bad Request", nil},
		{"line without CR", handshake + "x: y\n" + offersSIP, "400 Bad Request", nil},
		{"more than 8 KiB", pad(handshake+offersSIP, maxHandshake-1), "431 Request Header Fields Too Large", nil},
		{"endless", handshake + strings.Repeat("x", 3*maxHandshake), "431 Request Header Fields Too Large", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, _, err := accept(strings.NewReader(tt.head+"\r\n"), "", tt.origins...)
			if err == nil {
				t.Error("it is accepted")
			}
			wantStatus(t, answer, tt.status)
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestHandshakeThatEndsIsNotAnswered(t *testing.T) {
	answer, _, err := accept(strings.NewReader(handshake), "")
	if answer != "" || !errors.Is(err, io.EOF) {
		t.Errorf("answered %q, %v", answer, err)
	}
}

func TestRefusedOriginIsNamed(t *testing.T) {
	_, _, err := accept(strings.NewReader(handshake+offersSIP+"Origin: https://b.example\r\n\r\n"), "", "https://a.example")
	if err == nil || !strings.Contains(err.Error(), `"https://b.example"`) {
		t.Error(err)
	}
}

func TestParseOrigin(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"https://phone.example.com", "https://phone.example.com", ""},
		{"HTTPS://Phone.Example.com:443", "https://phone.example.com", ""},
		{"http://localhost:80", "http://localhost", ""},
		{"http://localhost:8080", "http://localhost:8080", ""},
		{"https://[2001:db8::1]", "https://[2001:db8::1]", ""},
		{"capacitor://localhost", "capacitor://localhost", ""},
		{"phone.example.com", "", `origin "phone.example.com" has no scheme: write https://phone.example.com`},
		{"//phone.example.com", "", `origin "//phone.example.com" has no scheme: write https://phone.example.com`},
		{"null", "", `has no scheme`},
		{"*", "", `has no scheme`},
		{"", "", `has no scheme`},
		{"https://", "", `is not scheme://host[:port]`},
		{"https://a b", "", `is not scheme://host[:port]`},
		{"https://a.example/", "", `origin "https://a.example/" has more than scheme, host and port: write https://a.example`},
		{"https://a.example/x?y", "", `write https://a.example`},
		{"https://u@a.example", "", `write https://a.example`},
		{"https://bücher.example", "", `xn--`},
		{"https://*.a.example", "", `origin "https://*.a.example" has a wildcard: list each host`},
		{"https://a.example:", "", `is not scheme://host[:port]`},
	} {
		got, err := ParseOrigin(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %v", tt.in, got, err)
		}
	}
}

// pad appends a header field to head so that it has size bytes.
func pad(head string, size int) string {
	return head + "X: " + strings.Repeat("x", size-len(head)-5) + "\r\n"
}

// wantStatus fails the test if an HTTP response has another status.
func wantStatus(t *testing.T, answer, status string) {
	t.Helper()
	if line, _, _ := strings.Cut(answer, "\r\n"); line != "HTTP/1.1 "+status {
		t.Errorf("answered %q, not %s", line, status)
	}
}
