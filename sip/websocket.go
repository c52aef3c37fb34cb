package sip

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"bellhop/dialog/siptext"
	"bellhop/sip/guard"
	"bellhop/sip/websocket"
)

// frameReader makes messages of the frames of a WebSocket stream (RFC 7118 §5), each of
// which is one SIP message. Content-Length may be missing, as in a datagram.
type frameReader struct {
	stream    *stream
	decoder   websocket.Decoder
	keepalive websocket.Keepalive
	buf       []byte    // the payload of the message so far, then bytes that are not decoded
	size      int       // of that payload
	deadline  time.Time // at which the message must be complete; zero: none has begun
}

// readFrames reads the messages of a WebSocket stream and dispatches them, until the stream
// ends or cannot be read further. first holds bytes that were read before.
func (s *stream) readFrames(c net.Conn, first []byte) {
	fr := frameReader{
		stream: s, decoder: websocket.Decoder{Limit: maxMessage}, keepalive: websocket.NewKeepalive(time.Now()),
		buf: append(make([]byte, 0, max(smallReadBuffer, len(first))), first...),
	}
	if !s.table.resizeReadBuffer(0, cap(fr.buf)) {
		return
	}
	defer func() { s.table.resizeReadBuffer(cap(fr.buf), 0) }()
	for fr.decodeFrames(s.table.proxy.now()) && fr.readMore(c) {
	}
}

// readMore reads bytes into the buffer, and pings a silent client. It returns false at the
// end of the stream, or if there is no room for a longer message.
func (fr *frameReader) readMore(c net.Conn) bool {
	if size := cap(fr.buf); len(fr.buf) == size {
		if size > 2*maxMessage || !fr.stream.table.resizeReadBuffer(size, 2*size) {
			return false
		}
		fr.buf = append(make([]byte, 0, 2*size), fr.buf...)
	}
	for {
		deadline := fr.keepalive.Deadline()
		if !fr.deadline.IsZero() && fr.deadline.Before(deadline) {
			deadline = fr.deadline
		}
		c.SetReadDeadline(deadline)
		n, err := c.Read(fr.buf[len(fr.buf):cap(fr.buf)])
		now := time.Now()
		switch {
		case n > 0:
			fr.buf = fr.buf[:len(fr.buf)+n]
			return true
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded), !fr.deadline.IsZero() && !now.Before(fr.deadline):
			return false
		case !now.Before(fr.keepalive.Deadline()):
			if !fr.keepalive.Expire(now) || !fr.stream.queueFrame(websocket.AppendPing(nil)) {
				return false
			}
		}
	}
}

// decodeFrames decodes the frames that are complete, and handles them. It returns false if
// the stream cannot be read further.
func (fr *frameReader) decodeFrames(at instant) bool {
	rest := fr.buf[fr.size:]
	for {
		message, n, e, err := fr.decoder.Decode(fr.buf[:fr.size], rest)
		rest, fr.size = rest[n:], len(message)
		if err != nil {
			fr.endFaulty(err)
			return false
		}
		if e.Kind == websocket.None {
			break
		}
		fr.keepalive.NoteReceived(time.Now(), e.Kind)
		switch e.Kind {
		case websocket.Message:
			fr.stream.dispatchFrame(message, at)
			fr.size = 0
		case websocket.Ping:
			fr.stream.queueFrame(websocket.AppendPong(nil, e.Payload))
		case websocket.Close:
			fr.end(e.Code)
			return false
		}
		if !fr.decoder.Pending() {
			fr.deadline = time.Time{}
		}
	}
	fr.keepRest(rest)
	return true
}

// endFaulty ends a stream that cannot be decoded further, because of an error of the decoder.
func (fr *frameReader) endFaulty(err error) {
	fr.stream.table.proxy.stats.malformed.Add(1)
	if f := (*websocket.Fault)(nil); errors.As(err, &f) {
		fr.end(f.Code)
	}
}

// end sends a Close with a status code, and returns when the stream is closed.
func (fr *frameReader) end(code int) {
	fr.stream.queueFrame(websocket.AppendClose(nil, code))
	fr.stream.closeWhenWritten()
	<-fr.stream.done
}

// keepRest moves the bytes that are not decoded behind the message so far. If a message has
// begun, it must be complete within messageTimeout. Otherwise the buffer is shrunk.
func (fr *frameReader) keepRest(rest []byte) {
	fr.buf = fr.buf[:fr.size+copy(fr.buf[fr.size:], rest)]
	switch {
	case len(fr.buf) > 0 || fr.decoder.Pending():
		if fr.deadline.IsZero() {
			fr.deadline = time.Now().Add(messageTimeout)
		}
	case cap(fr.buf) > freeReadBuffer:
		fr.stream.table.resizeReadBuffer(cap(fr.buf), smallReadBuffer)
		fr.buf = make([]byte, 0, smallReadBuffer)
	}
}

// dispatchFrame dispatches the message in b, answers a ping, or drops what is not SIP. A
// panic costs this message only.
func (s *stream) dispatchFrame(b []byte, at instant) {
	px := s.table.proxy
	defer px.recoverPanic("message")
	if bytes.Equal(b, ping) {
		s.queueMessage(pong, 0)
		return
	}
	for bytes.HasPrefix(b, crlf) {
		b = b[len(crlf):] // RFC 3261 §7.5
	}
	if len(b) == 0 {
		return // a keep-alive
	}
	p := newPacket(b)
	p.listener, p.conn, p.peer, p.receivedAt = s.listener, s, s.peer, at
	if !p.msg.index(p.buf, false) {
		px.stats.malformed.Add(1)
		p.release()
		return
	}
	px.dispatch(p, false)
}

// encoding returns the function that appends a message in the form in which the stream
// carries it.
func (s *stream) encoding() func(dst, b []byte) []byte {
	if s.listener.proto.webSocket() {
		return websocket.AppendMessage
	}
	return appendBytes
}

// queueFrame queues a control frame. It returns false if the stream is closed, or has no
// room for it.
func (s *stream) queueFrame(b []byte) bool { return s.enqueue(appendBytes, b, 0) }

// splitTransports decides between SIP and WebSocket on an accepted connection. first holds
// bytes that were read before. A client that begins with GET must open a WebSocket; one
// that begins like a SIP message exchanges SIP. It returns the listener of that transport,
// and the bytes of the first message that were read. ok is false if the connection is to be
// closed.
func (ss *streamTable) splitTransports(c net.Conn, first []byte, peer netip.AddrPort, l *listener) (of *listener, rest []byte, ok bool) {
	sip, ws := l, l.twin
	if l.proto.webSocket() {
		sip, ws = l.twin, l
	}
	if ws == nil {
		return l, first, true
	}
	get := []byte("GET ")
	for len(first) < len(get) && bytes.HasPrefix(get, first) {
		var b [4]byte
		n, err := c.Read(b[:len(get)-len(first)])
		if first = append(first[:len(first):len(first)], b[:n]...); n == 0 && err != nil {
			return nil, nil, false
		}
	}
	px := ss.proxy
	if !bytes.Equal(first, get) {
		if ok = siptext.IsTokenChar(first[0]) || first[0] == '\r' || first[0] == '\n'; !ok {
			px.notePoint(px.now(), l, nil, peer.Addr(), guard.BanNotSIP)
		}
		return sip, first, sip != nil && ok
	}
	c.SetDeadline(time.Now().Add(firstByteTimeout))
	rest, err := websocket.Accept(c, first, ws.origins)
	if err != nil {
		px.stats.malformed.Add(1)
		px.log.Debug("WebSocket handshake failed", "peer", peer, "err", err)
		if page := (*websocket.PageError)(nil); !errors.As(err, &page) {
			px.notePoint(px.now(), l, nil, peer.Addr(), guard.BanHandshake)
		}
		return nil, nil, false
	}
	return ws, rest, true
}
