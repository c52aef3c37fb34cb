package payload

import (
	"net/http"
	"strings"
	"time"
)

// setCloudEvent sets the context attributes of CloudEvents 1.0 in the binary mode of the
// HTTP binding. The source is the extension of the event, the subject is the call.
func (v *View) setCloudEvent(h http.Header) {
	h["Ce-Specversion"] = []string{"1.0"}
	h["Ce-Id"] = []string{v.ID}
	h["Ce-Source"] = []string{escapeAttribute("sip:" + escapeSIPUser(v.clean(v.Extension.String())))}
	h["Ce-Type"] = []string{eventName(v.Type)}
	h["Ce-Time"] = []string{v.At.UTC().Format(time.RFC3339Nano)}
	if v.Call != "" {
		h["Ce-Subject"] = []string{escapeAttribute(v.Call)}
	}
}

// escapeSIPUser escapes characters that may not stand in a SIP URI (RFC 3261 §25.1).
func escapeSIPUser(s string) string { return percentEncode(s, "%\"<>\\^`{|}#[]/?") }

// escapeAttribute escapes the value of an attribute for its header field.
func escapeAttribute(s string) string { return percentEncode(s, "%\"") }

// percentEncode writes as %XX the bytes of s that are spaces, not printable ASCII, or in
// special.
func percentEncode(s, special string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(special, c) >= 0 {
			b.Write([]byte{'%', hex[c>>4], hex[c&0xf]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
