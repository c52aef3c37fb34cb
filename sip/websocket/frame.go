package websocket

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// maxControl is the largest payload of a control frame (RFC 6455 §5.5).
const maxControl = 125

// Kind is the kind of an [Event].
type Kind uint8

const (
	None    Kind = iota // more bytes are needed
	Message             // a data message is complete
	Ping                // to be answered with AppendPong
	Pong
	Close // to be answered with AppendClose
)

// An Event is what a [Decoder] has found.
type Event struct {
	Kind    Kind
	Payload []byte // of a Ping or Pong; it lies in the bytes that were decoded
	Code    int    // of a Close; 0: it has none
}

// A Fault is a reason to close a connection. Code is the status code to close it with (RFC
// 6455 §7.4.1).
type Fault struct {
	Code   int
	Reason string
}

func (f *Fault) Error() string { return fmt.Sprintf("close WebSocket with %d: %s", f.Code, f.Reason) }

// Faults of frames.
var (
	faultUnmasked   = &Fault{1002, "a frame is not masked"}
	faultReserved   = &Fault{1002, "a frame has reserved bits or an unknown opcode"}
	faultControl    = &Fault{1002, "a control frame is fragmented or longer than 125 bytes"}
	faultSequence   = &Fault{1002, "a message begins within another, or continues none"}
	faultLength     = &Fault{1002, "a length has more bytes than it needs"}
	faultStatusCode = &Fault{1002, "a Close has no valid status code"}
	faultUTF8       = &Fault{1007, "a text is not UTF-8"}
	faultTooLarge   = &Fault{1009, "a message is too large"}
)

// A Decoder decodes the frames of one client.
type Decoder struct {
	Limit int // size of the largest message

	opcode ws.OpCode // of the message that is not complete; OpContinuation: there is none
	left   int       // bytes of the payload of the current data frame that are to come
	inData bool      // a data frame has begun and has not ended
	final  bool      // that frame ends its message
	mask   [4]byte   // of that frame
	masked int       // bytes of that frame that are decoded
}

// Pending reports whether a message or one of its frames has begun.
func (d *Decoder) Pending() bool { return d.opcode != ws.OpContinuation || d.inData }

// Decode decodes src up to the end of the first message or control frame in it, or as far
// as it goes. It appends the payload of data frames to message, and returns how many bytes
// of src it has decoded. The caller passes the others again, with more bytes.
//
// message is the message so far. After an event of kind Message it is complete, and the
// next one begins empty. It may lie before src in the same memory and extend into it,
// because no payload is longer than its frame. Decode changes the bytes of src.
//
// An error is a [*Fault]. The rest of the connection cannot be decoded then.
func (d *Decoder) Decode(message, src []byte) (_ []byte, n int, e Event, err error) {
	for {
		if !d.inData {
			h, size, err := readHeader(src[n:])
			switch {
			case err != nil:
				return message, n, Event{}, err
			case size == 0:
				return message, n, Event{}, nil
			case h.OpCode.IsControl():
				end := n + size + int(h.Length)
				if end > len(src) {
					return message, n, Event{}, nil
				}
				e, err := decodeControl(h, src[n+size:end])
				return message, end, e, err
			}
			if err := d.beginFrame(h, len(message)); err != nil {
				return message, n, Event{}, err
			}
			n += size
		}
		part := src[n:min(len(src), n+d.left)]
		message = append(message, part...)
		ws.Cipher(message[len(message)-len(part):], d.mask, d.masked)
		n, d.left, d.masked = n+len(part), d.left-len(part), d.masked+len(part)
		if d.left > 0 {
			return message, n, Event{}, nil
		}
		d.inData = false
		if !d.final {
			continue
		}
		text := d.opcode == ws.OpText
		d.opcode = ws.OpContinuation
		if text && !utf8.Valid(message) {
			return message, n, Event{}, faultUTF8
		}
		return message, n, Event{Kind: Message}, nil
	}
}

// beginFrame begins a data frame of a message that has size bytes so far.
func (d *Decoder) beginFrame(h ws.Header, size int) error {
	begins, pending := h.OpCode != ws.OpContinuation, d.opcode != ws.OpContinuation
	switch {
	case begins == pending:
		return faultSequence
	case h.Length > int64(d.Limit-size):
		return faultTooLarge
	}
	if begins {
		d.opcode = h.OpCode
	}
	d.inData, d.final, d.mask, d.left, d.masked = true, h.Fin, h.Mask, int(h.Length), 0
	return nil
}

// readHeader reads the frame header at the start of b, and refuses it as early as a byte
// of it allows. size is the size of the header, or 0 if it is not complete.
func readHeader(b []byte) (h ws.Header, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h = ws.Header{Fin: b[0]&0x80 != 0, OpCode: ws.OpCode(b[0] & 0x0f), Masked: b[1]&0x80 != 0, Length: int64(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0 || h.OpCode.IsReserved():
		return h, 0, faultReserved
	case !h.Masked:
		return h, 0, faultUnmasked
	case h.OpCode.IsControl() && (!h.Fin || h.Length > maxControl):
		return h, 0, faultControl
	}
	size = 2
	switch h.Length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if len(b) < size+len(h.Mask) {
		return h, 0, nil
	}
	switch h.Length {
	case 126:
		if h.Length = int64(binary.BigEndian.Uint16(b[2:])); h.Length < 126 {
			return h, 0, faultLength
		}
	case 127:
		if h.Length = int64(binary.BigEndian.Uint64(b[2:])); h.Length>>16 == 0 {
			return h, 0, faultLength
		} else if h.Length < 0 {
			return h, 0, faultTooLarge
		}
	}
	h.Mask = [4]byte(b[size:])
	return h, size + len(h.Mask), nil
}

// decodeControl decodes a control frame with header h.
func decodeControl(h ws.Header, payload []byte) (Event, error) {
	ws.Cipher(payload, h.Mask, 0)
	switch h.OpCode {
	case ws.OpPing:
		return Event{Kind: Ping, Payload: payload}, nil
	case ws.OpPong:
		return Event{Kind: Pong, Payload: payload}, nil
	}
	switch len(payload) {
	case 0:
		return Event{Kind: Close}, nil
	case 1:
		return Event{}, faultStatusCode
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	switch {
	case code < 1000 || code >= 5000 || code.IsProtocolReserved():
		return Event{}, faultStatusCode
	case !utf8.Valid(payload[2:]):
		return Event{}, faultUTF8
	}
	return Event{Kind: Close, Code: int(code)}, nil
}

// AppendMessage appends the frame of a message b to dst: a text frame if b is UTF-8, else
// a binary frame, because a client ends a connection on which a text is not UTF-8.
func AppendMessage(dst, b []byte) []byte {
	opcode := ws.OpText
	if !utf8.Valid(b) {
		opcode = ws.OpBinary
	}
	dst = slices.Grow(dst, FrameOverhead+len(b))
	return append(appendHeader(dst, opcode, len(b)), b...)
}

// AppendPing appends an empty Ping to dst.
func AppendPing(dst []byte) []byte { return appendHeader(dst, ws.OpPing, 0) }

// AppendPong appends the Pong that answers a Ping with this payload to dst.
func AppendPong(dst, payload []byte) []byte {
	return append(appendHeader(dst, ws.OpPong, len(payload)), payload...)
}

// AppendClose appends a Close with a status code to dst. Code 0 is none.
func AppendClose(dst []byte, code int) []byte {
	if code == 0 {
		return appendHeader(dst, ws.OpClose, 0)
	}
	return binary.BigEndian.AppendUint16(appendHeader(dst, ws.OpClose, 2), uint16(code))
}

// FrameOverhead is the size of the largest header that the Append functions write.
const FrameOverhead = 10

// appendHeader appends the header of a whole frame to dst. A server does not mask.
func appendHeader(dst []byte, opcode ws.OpCode, length int) []byte {
	dst = append(dst, 0x80|byte(opcode))
	switch {
	case length < 126:
		return append(dst, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
}
