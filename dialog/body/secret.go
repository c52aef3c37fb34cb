package body

import "strings"

// secretTypes are words in the media types of bodies that may be secret: pressed keys,
// which may be a PIN, and credentials.
var secretTypes = []string{
	"dtmf",            // application/dtmf, dtmf-relay and x-dtmf, audio/x-dtmf
	"digit",           // application/vnd.nortelnetworks.digits
	"telephone-event", // audio/telephone-event (RFC 4733)
	"kpml",            // application/kpml-request+xml and kpml-response+xml (RFC 4730)
	"jwt", "jose", "passw", "secret", "credential",
}

// IsSecret reports whether a body with a Content-Type may be secret.
func IsSecret(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	for i := range len(kind) {
		for _, word := range secretTypes {
			if len(kind)-i >= len(word) && kind[i]|0x20 == word[0] && strings.EqualFold(kind[i:i+len(word)], word) {
				return true
			}
		}
	}
	return false
}
