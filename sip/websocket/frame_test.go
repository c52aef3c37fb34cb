package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

const testLimit = 65535

// frame returns a masked frame.
func frame(opcode ws.OpCode, fin bool, payload string) []byte {
	f := ws.MaskFrameInPlaceWith(ws.NewFrame(opcode, fin, []byte(payload)), [4]byte{1, 2, 3, 4})
	b, _ := ws.CompileFrame(f)
	return b
}

// decodeAll decodes b, of which chunk bytes arrive at a time, in one buffer. It returns a
// line for each event.
func decodeAll(b []byte, chunk int) (events []string, fault error) {
	d := Decoder{Limit: testLimit}
	var buf []byte // the message so far and the bytes that are not decoded
	size := 0      // of the message so far
	for part := range slices.Chunk(bytes.Clone(b), chunk) {
		buf = append(buf, part...)
		raw := buf[size:]
		for {
			message, n, e, err := d.Decode(buf[:size:len(buf)], raw)
			if err != nil {
				return events, err
			}
			raw, size = raw[n:], len(message)
			switch e.Kind {
			case None:
			case Message:
				events = append(events, "message "+string(message))
				size = 0
			case Close:
				events = append(events, fmt.Sprint("close ", e.Code))
			default:
				events = append(events, fmt.Sprint(map[Kind]string{Ping: "ping ", Pong: "pong "}[e.Kind], string(e.Payload)))
			}
			if e.Kind == None {
				break
			}
		}
		buf = buf[:size+copy(buf[size:], raw)]
	}
	return events, nil
}

func TestFramesBecomeMessages(t *testing.T) {
	long := strings.Repeat("ä", testLimit/2) + "."
	for _, tt := range []struct {
		name string
		in   [][]byte
		want []string
	}{
		{"text", [][]byte{frame(ws.OpText, true, "a")}, []string{"message a"}},
		{"binary", [][]byte{frame(ws.OpBinary, true, "\xff")}, []string{"message \xff"}},
		{"empty", [][]byte{frame(ws.OpText, true, "")}, []string{"message "}},
		{"two messages", [][]byte{frame(ws.OpText, true, "first"), frame(ws.OpText, true, "second")}, []string{"message first", "message second"}},
		{"126 bytes", [][]byte{frame(ws.OpText, true, long[:126])}, []string{"message " + long[:126]}},
		{"65535 bytes", [][]byte{frame(ws.OpText, true, long)}, []string{"message " + long}},
		{"fragments", [][]byte{frame(ws.OpText, false, "a"), frame(ws.OpContinuation, false, ""), frame(ws.OpContinuation, true, "b")}, []string{"message ab"}},
		{"letter in two fragments", [][]byte{frame(ws.OpText, false, "\xc3"), frame(ws.OpContinuation, true, "\xa4")}, []string{"message ä"}},
		{"fragments of 65535 bytes", [][]byte{frame(ws.OpText, false, long[:40000]), frame(ws.OpContinuation, true, long[40000:])}, []string{"message " + long}},
		{"control frames between fragments", [][]byte{frame(ws.OpText, false, "a"), frame(ws.OpPing, true, "x"), frame(ws.OpContinuation, false, "b"), frame(ws.OpPong, true, "\xff"), frame(ws.OpContinuation, true, "c")},
			[]string{"ping x", "pong \xff", "message abc"}},
		{"empty ping", [][]byte{frame(ws.OpPing, true, "")}, []string{"ping "}},
		{"ping of 125 bytes", [][]byte{frame(ws.OpPing, true, long[:125])}, []string{"ping " + long[:125]}},
		{"close", [][]byte{frame(ws.OpClose, true, "")}, []string{"close 0"}},
		{"close with code", [][]byte{frame(ws.OpClose, true, "\x03\xe8bye")}, []string{"close 1000"}},
		{"close with code of an application", [][]byte{frame(ws.OpClose, true, "\x0f\xa0")}, []string{"close 4000"}},
		{"nothing", [][]byte{nil}, nil},
		{"part of a header", [][]byte{{0x81, 0xfe, 1}}, nil},
		{"part of a ping", [][]byte{frame(ws.OpPing, true, "abc")[:7]}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Join(tt.in, nil)
			for _, chunk := range []int{1, 2, 7, 4096, len(b) + 1} {
				if got, err := decodeAll(b, chunk); err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("in parts of %d bytes: %.99q, %v", chunk, got, err)
				}
			}
		})
	}
}

func TestFaultyFramesAreRefused(t *testing.T) {
	long := strings.Repeat("x", testLimit)
	for _, tt := range []struct {
		name string
		in   [][]byte
		code int
	}{
		{"unmasked", [][]byte{ws.MustCompileFrame(ws.NewTextFrame([]byte("a")))}, 1002},
		{"reserved bit", [][]byte{{0xc1, 0x80}}, 1002},
		{"unknown data frame", [][]byte{{0x83, 0x80}}, 1002},
		{"unknown control frame", [][]byte{{0x8b, 0x80}}, 1002},
		{"control frame of 126 bytes", [][]byte{frame(ws.OpPing, true, long[:126])[:2]}, 1002},
		{"fragment of a control frame", [][]byte{frame(ws.OpPing, false, "")[:2]}, 1002},
		{"continuation of nothing", [][]byte{frame(ws.OpContinuation, true, "a")}, 1002},
		{"continuation of a whole message", [][]byte{frame(ws.OpText, true, "a"), frame(ws.OpContinuation, true, "b")}, 1002},
		{"message within a message", [][]byte{frame(ws.OpText, false, "a"), frame(ws.OpText, true, "b")}, 1002},
		{"two bytes for a small length", [][]byte{{0x81, 0xfe, 0, 125, 0, 0, 0, 0}}, 1002},
		{"eight bytes for a small length", [][]byte{{0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}}, 1002},
		{"text that is not UTF-8", [][]byte{frame(ws.OpText, true, "caf\xe9")}, 1007},
		{"text that ends in a letter", [][]byte{frame(ws.OpText, false, "a"), frame(ws.OpContinuation, true, "\xc3")}, 1007},
		{"65536 bytes", [][]byte{{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}}, 1009},
		{"2⁶³ bytes", [][]byte{{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, 1009},
		{"2⁶⁴-1 bytes", [][]byte{{0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0}}, 1009},
		{"fragments of 65536 bytes", [][]byte{frame(ws.OpBinary, false, long), frame(ws.OpContinuation, true, "y")[:6]}, 1009},
		{"close of one byte", [][]byte{frame(ws.OpClose, true, "x")}, 1002},
		{"close with code 999", [][]byte{frame(ws.OpClose, true, "\x03\xe7")}, 1002},
		{"close with code 1005", [][]byte{frame(ws.OpClose, true, "\x03\xed")}, 1002},
		{"close with code 5000", [][]byte{frame(ws.OpClose, true, "\x13\x88")}, 1002},
		{"close with a reason that is not UTF-8", [][]byte{frame(ws.OpClose, true, "\x03\xe8\xff")}, 1007},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Join(tt.in, nil)
			for _, chunk := range []int{1, 4096, len(b)} {
				_, err := decodeAll(b, chunk)
				if f := (*Fault)(nil); !errors.As(err, &f) || f.Code != tt.code {
					t.Errorf("in parts of %d bytes: %v, not %d", chunk, err, tt.code)
				}
			}
		})
	}
}

func TestWrittenFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		got    []byte
		opcode ws.OpCode
		want   string
	}{
		{"text", AppendMessage(nil, []byte("ä")), ws.OpText, "ä"},
		{"Latin-1", AppendMessage(nil, []byte("\xe4")), ws.OpBinary, "\xe4"},
		{"126 bytes", AppendMessage(nil, make([]byte, 126)), ws.OpText, string(make([]byte, 126))},
		{"65536 bytes", AppendMessage(nil, make([]byte, 65536)), ws.OpText, string(make([]byte, 65536))},
		{"ping", AppendPing(nil), ws.OpPing, ""},
		{"pong", AppendPong(nil, []byte("x")), ws.OpPong, "x"},
		{"close", AppendClose(nil, 1009), ws.OpClose, "\x03\xf1"},
		{"close without a code", AppendClose(nil, 0), ws.OpClose, ""},
	} {
		r := bytes.NewReader(tt.got)
		h, err := ws.ReadHeader(r)
		if err != nil || h.Masked || !h.Fin || h.OpCode != tt.opcode || int(h.Length) != r.Len() || !bytes.HasSuffix(tt.got, []byte(tt.want)) || r.Len() != len(tt.want) {
			t.Errorf("%s: %+v, %v", tt.name, h, err)
		}
		if len(tt.got)-len(tt.want) > FrameOverhead {
			t.Errorf("%s: header of %d bytes", tt.name, len(tt.got)-len(tt.want))
		}
	}
}

// FuzzDecode checks that the events do not depend on how the bytes arrive, and that they
// are those that package ws reads.
func FuzzDecode(f *testing.F) {
	f.Add(bytes.Join([][]byte{frame(ws.OpText, false, "a"), frame(ws.OpPing, true, "x"), frame(ws.OpContinuation, true, "b"), frame(ws.OpClose, true, "\x03\xe8")}, nil), 3)
	f.Add(frame(ws.OpBinary, true, strings.Repeat("\xff", 300)), 1)
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 5)
	f.Fuzz(func(t *testing.T, b []byte, chunk int) {
		whole, fault := decodeAll(b, len(b)+1)
		parts, partsFault := decodeAll(b, max(chunk, 1)%256+1)
		if !slices.Equal(whole, parts) || fault != partsFault {
			t.Fatalf("whole: %q, %v\nin parts: %q, %v", whole, fault, parts, partsFault)
		}
		if read := readAll(b); len(read) < len(whole) || !slices.Equal(read[:len(whole)], whole) {
			t.Fatalf("decoded: %q\nread by package ws: %q", whole, read)
		}
	})
}

// readAll reads the frames in b with package ws, and returns lines like those of
// decodeAll.
func readAll(b []byte) (events []string) {
	var message []byte
	for r := bytes.NewReader(b); ; {
		h, err := ws.ReadHeader(r)
		if err != nil || h.Length > int64(r.Len()) {
			return events
		}
		payload := make([]byte, h.Length)
		r.Read(payload)
		ws.Cipher(payload, h.Mask, 0)
		switch {
		case h.OpCode == ws.OpPing:
			events = append(events, "ping "+string(payload))
		case h.OpCode == ws.OpPong:
			events = append(events, "pong "+string(payload))
		case h.OpCode == ws.OpClose && len(payload) < 2:
			events = append(events, "close 0")
		case h.OpCode == ws.OpClose:
			events = append(events, fmt.Sprint("close ", int(payload[0])<<8|int(payload[1])))
		default:
			if message = append(message, payload...); h.Fin {
				events, message = append(events, "message "+string(message)), nil
			}
		}
	}
}
