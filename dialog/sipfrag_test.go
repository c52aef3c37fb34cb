package dialog

import "testing"

func TestReadsStatusLines(t *testing.T) {
	for _, tt := range []struct {
		body, phrase string
		code         int
	}{
		{"SIP/2.0 200 OK\r\n", "OK", 200},
		{"SIP/2.0 486 Busy Here\r\nReason: SIP;cause=486\r\n", "Busy Here", 486},
		{"SIP/2.0 200", "", 200},
		{"SIP/2.0 200 \r\n", "", 200},
		{"sip/2.0 404 Not Found", "Not Found", 404},
		{"\r\n SIP/2.0  603   Decline \r\n", "Decline", 603},
		{"SIP/2.0 200 OK\nTo: <sip:101@pbx.example>", "OK", 200},
		{"", "", 0},
		{"SIP/2.0", "", 0},
		{"SIP/2.0 OK", "", 0},
		{"SIP/2.0 99 Low", "", 0},
		{"SIP/2.0 700 High", "", 0},
		{"SIP/2.0 -200 OK", "", 0},
		{"SIP/3.0 200 OK", "", 0},
		{"HTTP/1.1 200 OK", "", 0},
		{"INVITE sip:101@pbx.example SIP/2.0", "", 0},
	} {
		if code, phrase := readStatusLine(tt.body); code != tt.code || phrase != tt.phrase {
			t.Errorf("%q: %d %q, want %d %q", tt.body, code, phrase, tt.code, tt.phrase)
		}
	}
}
