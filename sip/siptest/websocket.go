package siptest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/gobwas/ws"
)

// A WebSocket is the client's end of a WebSocket with the subprotocol sip. What one Write
// writes is one message. Read returns the bytes of messages, one after the other, and
// answers Pings.
type WebSocket struct {
	net.Conn
	r    *bufio.Reader
	left int64 // bytes of the current frame that are not read
}

// OpenWebSocket makes the opening handshake on a connection. Lines are further lines of the
// handshake, such as Origin.
func OpenWebSocket(c net.Conn, lines ...string) (*WebSocket, error) {
	request := "GET / HTTP/1.1\r\nHost: pbx.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n"
	for _, l := range lines {
		request += l + "\r\n"
	}
	if _, err := io.WriteString(c, request+"\r\n"); err != nil {
		return nil, err
	}
	w := &WebSocket{Conn: c, r: bufio.NewReader(c)}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Protocol") != "sip" {
		return nil, fmt.Errorf("open WebSocket: %s, subprotocol %q", resp.Status, resp.Header.Get("Sec-WebSocket-Protocol"))
	}
	return w, nil
}

// Write sends b as a message in a text frame.
func (w *WebSocket) Write(b []byte) (int, error) {
	return len(b), w.writeFrame(ws.NewTextFrame(b))
}

// writeFrame masks and writes a frame.
func (w *WebSocket) writeFrame(f ws.Frame) error {
	b, err := ws.CompileFrame(ws.MaskFrame(f))
	if err != nil {
		return err
	}
	_, err = w.Conn.Write(b)
	return err
}

// Read reads bytes of messages.
func (w *WebSocket) Read(b []byte) (int, error) {
	for w.left == 0 {
		if err := w.readHeader(); err != nil {
			return 0, err
		}
	}
	n, err := w.r.Read(b[:min(int64(len(b)), w.left)])
	w.left -= int64(n)
	return n, err
}

// readHeader reads the header of the next data frame. A Close ends the stream.
func (w *WebSocket) readHeader() error {
	h, err := ws.ReadHeader(w.r)
	if err != nil {
		return err
	}
	if h.OpCode.IsData() {
		w.left = h.Length
		return nil
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(w.r, payload); err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpPing:
		return w.writeFrame(ws.NewPongFrame(payload))
	case ws.OpClose:
		return io.EOF
	}
	return nil
}
