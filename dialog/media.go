package dialog

import (
	"net/netip"
	"strings"

	"bellhop/dialog/siptext"
)

// A mediaDirection is the direction of voice in a session description, as seen by its
// sender.
type mediaDirection uint8

const (
	directionUnknown mediaDirection = iota
	directionOpen                   // to the sender at least, so not a hold
	directionHeld                   // only away from the sender, or none
)

// An sdpLevel is the session level of a session description, or one of its streams.
type sdpLevel struct {
	kind      string // media of the m= line, such as audio
	port      string
	direction mediaDirection
	silent    bool   // its sender sends no voice
	address   string // of the last c= line
	ice       bool
	bundled   bool // port 0 only means that it uses another stream's port (RFC 9143 §6)
}

// readDirection returns the direction in a session description (RFC 8866): that of the
// first audio stream in use, or of the first stream if there is no audio. A stream has the
// direction of the session unless it has its own. It is held with sendonly or inactive (RFC
// 3264 §8.4), with the null address, and with port 0 unless an image replaces the voice,
// as for fax.
func readDirection(m *Message) mediaDirection {
	way, _ := readMedia(m)
	return way
}

// readMedia returns the direction that readDirection describes, and whether the sender of
// the session description sends no voice.
func readMedia(m *Message) (way mediaDirection, silent bool) {
	body := m.Body
	if contentType := siptext.Field(m.Head, "Content-Type"); contentType != "" {
		body = findPart(contentType, body, "application/sdp")
	}
	var session, level, first, voice sdpLevel
	at := &session
	image := false
	streams := 0
	done := func() {
		if at == &session {
			return
		}
		streams++
		if streams == 1 {
			first = level
		}
		image = image || level.kind == "image" && level.port != "0"
		if level.kind == "audio" && (voice.kind == "" || voice.port == "0" && level.port != "0") {
			voice = level
		}
	}
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimRight(line, "\r \t")
		if len(line) < 2 || line[1] != '=' {
			continue
		}
		switch value := line[2:]; line[0] {
		case 'm':
			done()
			words := strings.Fields(value)
			level, at = sdpLevel{}, &level
			if len(words) > 1 {
				level.kind = words[0]
				level.port, _, _ = strings.Cut(words[1], "/")
			}
		case 'c':
			if words := strings.Fields(value); len(words) == 3 {
				at.address, _, _ = strings.Cut(words[2], "/")
			}
		case 'a':
			at.readAttribute(value)
		}
	}
	done()
	if voice.kind == "" {
		voice = first
	}
	if voice.direction == directionUnknown {
		voice.direction, voice.silent = session.direction, session.silent
	}
	off := voice.kind == "audio" && voice.port == "0" && !voice.bundled
	switch {
	case streams == 0, off && image:
		return directionUnknown, false
	case off:
		return directionHeld, true
	case voice.hasNullAddress(&session):
		return directionHeld, voice.silent
	case voice.direction != directionUnknown:
		return voice.direction, voice.silent
	}
	return directionOpen, false
}

// readAttribute applies the value of an a= line.
func (l *sdpLevel) readAttribute(value string) {
	name, rest, _ := strings.Cut(value, ":")
	switch name {
	case "sendonly", "inactive":
		l.direction, l.silent = directionHeld, name == "inactive"
	case "sendrecv", "recvonly":
		l.direction, l.silent = directionOpen, name == "recvonly"
	case "bundle-only":
		l.bundled = true
	case "ice-ufrag":
		l.ice = true
	case "ice-options":
		for option := range strings.FieldsSeq(rest) {
			l.ice = l.ice || option == "trickle"
		}
	}
}

// hasNullAddress reports whether a stream has the null address, 0.0.0.0 or ::. With ICE
// that address with port 9 is that of a sender without a candidate yet (RFC 8839 §4.1, RFC
// 8840 §4.3.1).
func (l *sdpLevel) hasNullAddress(session *sdpLevel) bool {
	address := l.address
	if address == "" {
		address = session.address
	}
	if (l.ice || session.ice) && l.port == "9" {
		return false
	}
	a, err := netip.ParseAddr(address)
	return err == nil && a.Unmap().IsUnspecified()
}
