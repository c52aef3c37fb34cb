package payload

import (
	"math/rand/v2"
	"strings"

	"bellhop/dialog"
)

// traceparent returns the W3C trace context of a callback. It is the header field
// traceparent of the INVITE, if calls.headers copies that field into events. Otherwise
// the trace id is the id of the event, and each attempt is a new span. The result is ""
// if the id of the event is no trace id.
func traceparent(e *dialog.Event) string {
	for _, h := range e.Headers {
		if strings.EqualFold(h[0], "traceparent") && validTrace(h[1]) {
			return h[1]
		}
	}
	b := make([]byte, 0, 55)
	b = append(append(append(b, "00-"...), e.ID...), '-')
	span := rand.Uint64() | 1 // never zero
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[span>>shift&0xf])
	}
	if s := string(append(b, "-01"...)); validTrace(s) {
		return s
	}
	return ""
}

// validTrace reports whether s is a traceparent of version 00.
func validTrace(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for _, part := range []string{s[3:35], s[36:52], s[53:]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
