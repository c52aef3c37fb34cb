// Package sdp reads from a session description (RFC 8866) in which direction its sender
// wants voice to flow. A phone that puts the other end on hold does not want to receive
// voice.
//
// The package accepts any text, allocates little and never fails. It ignores what it does
// not understand.
package sdp

import (
	"net/netip"
	"strings"
)

// A Direction is the direction of voice in a session description, as seen by its sender.
// Its value is stored: add values, never change one.
type Direction uint8

const (
	Unknown Direction = iota // there is no stream, or a fax has replaced the voice
	Open                     // voice flows to the sender at least, so this is no hold
	Held                     // voice flows only away from the sender, or not at all
)

// A description is the parts of a session description that decide the direction.
type description struct {
	session level
	stream  level // the stream that is being read
	first   level // the first stream
	voice   level // the first audio stream in use, or else the first audio stream
	streams int
	image   bool // a stream carries images, as for fax
}

// A level is the session level of a session description, or one of its streams.
type level struct {
	kind      string // media of the m= line, such as audio
	port      string
	direction Direction
	silent    bool   // its sender sends no voice
	address   string // of the last c= line
	ice       bool
	bundled   bool // port 0 only means that it uses another stream's port (RFC 9143 §6)
}

// Read returns the direction of voice in a session description: that of the first audio
// stream in use, or of the first stream if there is no audio. A stream without a
// direction has that of the session.
//
// A stream is held if it has sendonly or inactive (RFC 3264 §8.4), or the null address. A
// stream with port 0 is held too, unless an image replaces the voice, as for fax. silent
// reports whether the sender of the description sends no voice.
func Read(text string) (way Direction, silent bool) {
	var d description
	at := &d.session
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimRight(line, "\r \t")
		if len(line) < 2 || line[1] != '=' {
			continue
		}
		switch value := line[2:]; line[0] {
		case 'm':
			if at == &d.stream {
				d.endStream()
			}
			at = &d.stream
			*at = level{}
			if words := strings.Fields(value); len(words) > 1 {
				at.kind = words[0]
				at.port, _, _ = strings.Cut(words[1], "/")
			}
		case 'c':
			if words := strings.Fields(value); len(words) == 3 {
				at.address, _, _ = strings.Cut(words[2], "/")
			}
		case 'a':
			at.readAttribute(value)
		}
	}
	if at == &d.stream {
		d.endStream()
	}
	return d.direction()
}

// endStream adds the stream that was read to the description.
func (d *description) endStream() {
	d.streams++
	if d.streams == 1 {
		d.first = d.stream
	}
	d.image = d.image || d.stream.kind == "image" && d.stream.port != "0"
	if d.stream.kind == "audio" && (d.voice.kind == "" || d.voice.port == "0" && d.stream.port != "0") {
		d.voice = d.stream
	}
}

// direction returns the results of Read, once all streams were added.
func (d *description) direction() (way Direction, silent bool) {
	voice := d.voice
	if voice.kind == "" {
		voice = d.first
	}
	if voice.direction == Unknown {
		voice.direction, voice.silent = d.session.direction, d.session.silent
	}
	off := voice.kind == "audio" && voice.port == "0" && !voice.bundled
	switch {
	case d.streams == 0, off && d.image:
		return Unknown, false
	case off:
		return Held, true
	case voice.hasNullAddress(&d.session):
		return Held, voice.silent
	case voice.direction != Unknown:
		return voice.direction, voice.silent
	}
	return Open, false
}

// readAttribute applies the value of an a= line.
func (l *level) readAttribute(value string) {
	name, rest, _ := strings.Cut(value, ":")
	switch name {
	case "sendonly", "inactive":
		l.direction, l.silent = Held, name == "inactive"
	case "sendrecv", "recvonly":
		l.direction, l.silent = Open, name == "recvonly"
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

// hasNullAddress reports whether a stream has the null address, 0.0.0.0 or ::. With ICE,
// the null address with port 9 does not count, because it is that of a sender without a
// candidate yet (RFC 8839 §4.1, RFC 8840 §4.3.1).
func (l *level) hasNullAddress(session *level) bool {
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
