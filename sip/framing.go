package sip

import (
	"bytes"
	"net"
	"time"

	"bellhop/dialog/siptext"
	"bellhop/sip/guard"
)

var (
	pong = []byte("\r\n")
	ping = []byte("\r\n\r\n")
)

// framer cuts the bytes of a stream into messages (RFC 3261 §18.3). Each byte is searched
// once for the end of a header section, and each header section is indexed once, even if
// it arrives byte by byte.
type framer struct {
	stream   *stream
	buf      []byte    // bytes that were read and not dispatched
	deadline time.Time // of the next read
	pings    pingDetector
	scanned  int // first bytes of buf, in which no header section ends

	// The fields below describe the message at the start of buf.
	head   message // its header section; complete if length is not 0
	known  bool    // it is a SIP message
	length int     // of the message if sane, else of its header section
	sane   bool    // the stream can be read after the message
}

// readMessages reads the messages of a stream and dispatches them, until the stream ends
// or cannot be read further. first holds bytes that were read before.
func (s *stream) readMessages(c net.Conn, first []byte) {
	fr := framer{stream: s, buf: append(make([]byte, 0, smallReadBuffer), first...), deadline: time.Now().Add(idleTimeout)}
	if first != nil {
		fr.deadline = time.Now().Add(messageTimeout)
	}
	defer func() { s.table.resizeReadBuffer(cap(fr.buf), 0) }()
	for fr.readMore(c) && fr.dispatchMessages(s.table.proxy.now()) {
	}
	if (fr.length == 0 || !fr.known) && !beginsLikeSIP(fr.buf) {
		s.table.proxy.notePoint(s.table.proxy.now(), s.listener, s, s.peer.Addr(), guard.BanNotSIP)
	}
}

// readMore reads bytes into the buffer. It returns false at the end of the stream, or if
// there is no room for a longer message.
func (fr *framer) readMore(c net.Conn) bool {
	c.SetReadDeadline(fr.deadline)
	if size := cap(fr.buf); len(fr.buf) == size {
		if size > maxMessage || !fr.stream.table.resizeReadBuffer(size, 2*size) {
			return false
		}
		fr.buf = append(make([]byte, 0, 2*size), fr.buf...)
	}
	n, err := c.Read(fr.buf[len(fr.buf):cap(fr.buf)])
	if n == 0 && err != nil {
		return false
	}
	if len(fr.buf) == 0 {
		fr.deadline = time.Now().Add(messageTimeout)
	}
	fr.buf = fr.buf[:len(fr.buf)+n]
	return true
}

// dispatchMessages dispatches the messages that are complete. It returns false if the
// stream cannot be read further.
func (fr *framer) dispatchMessages(at instant) bool {
	rest := fr.buf
	for {
		if fr.length == 0 {
			rest = fr.skipCRLFs(rest, at)
			end := bytes.Index(rest[fr.scanned:], ping)
			if end < 0 {
				fr.scanned = max(len(rest)-len(ping)+1, 0)
				if len(rest) > maxMessage {
					return false
				}
				break
			}
			if !fr.indexHead(rest, fr.scanned+end+len(ping)) {
				return false
			}
		}
		if fr.sane && len(rest) < fr.length {
			break
		}
		fr.dispatchFirst(rest, at)
		if !fr.sane {
			<-fr.stream.done // the worker answers and closes the stream
			return false
		}
		rest, fr.length = rest[fr.length:], 0
		fr.deadline = time.Now().Add(messageTimeout)
	}
	fr.keepRest(rest)
	return true
}

// skipCRLFs returns b without the CRLFs at its start, and answers pings.
func (fr *framer) skipCRLFs(b []byte, at instant) []byte {
	for len(b) > 0 && b[0] == '\r' {
		fr.pings.beginCRLF(at)
		if !bytes.HasPrefix(b, crlf) {
			break
		}
		b, fr.scanned = b[2:], 0
		if fr.pings.endCRLF(at) {
			fr.stream.queueMessage(pong, 0)
		}
	}
	return b
}

// indexHead indexes the header section b[:end]. It returns false if the stream cannot be
// read further. That is so if the section is not SIP and either its start line does not
// contain SIP/2.0 or the length of its message is uncertain.
func (fr *framer) indexHead(b []byte, end int) bool {
	fr.pings, fr.scanned = pingDetector{}, 0
	fr.known = fr.head.indexHead(b[:end])
	fr.length, fr.sane = messageLength(&fr.head)
	start, _, _ := bytes.Cut(b, crlf)
	return fr.known || fr.sane && bytes.Contains(start, version)
}

// dispatchFirst dispatches the message at the start of b, or drops it if it is not SIP. A
// panic costs this message only, and closes the stream if nothing can be read after it.
func (fr *framer) dispatchFirst(b []byte, at instant) {
	s, px := fr.stream, fr.stream.table.proxy
	defer func() {
		if r := recover(); r != nil {
			px.logPanic("message", r)
			if !fr.sane {
				s.close()
			}
		}
	}()
	if !fr.known {
		px.stats.malformed.Add(1)
		return
	}
	p := newPacket(b[:fr.length])
	p.msg, fr.head = fr.head, message{fields: p.msg.fields}
	p.msg.cutBody(p.buf, true)
	p.listener, p.conn, p.peer, p.local, p.receivedAt, p.endsStream = s.listener, s, s.peer, s.localAddr(), at, !fr.sane
	px.dispatch(p, false)
}

// keepRest moves the bytes that are left to the start of the buffer. If none are left, it
// shrinks the buffer and allows the stream to be idle for idleTimeout.
func (fr *framer) keepRest(rest []byte) {
	if len(rest) < len(fr.buf) {
		fr.buf = fr.buf[:copy(fr.buf, rest)]
	}
	if len(fr.buf) > 0 {
		return
	}
	fr.deadline = time.Now().Add(idleTimeout)
	if cap(fr.buf) > freeReadBuffer {
		fr.stream.table.resizeReadBuffer(cap(fr.buf), smallReadBuffer)
		fr.buf = make([]byte, 0, smallReadBuffer)
	}
}

// pingDetector finds pings between the messages of a stream: two CRLFs, one directly after
// the other (RFC 5626 §3.5.1). A single CRLF, which some clients send to keep a NAT
// binding, is ignored like one before a start line (RFC 3261 §7.5). The zero
// pingDetector has seen no CRLF.
type pingDetector struct {
	seenCRLF bool    // one CRLF has come; a second one makes a ping
	crlfAt   instant // time of its LF
	inCRLF   bool    // a CR has come, its LF has not
	crAt     instant // time of that CR
}

// beginCRLF notes the CR of a CRLF. Calls before the next endCRLF have no effect.
func (p *pingDetector) beginCRLF(now instant) {
	if !p.inCRLF {
		p.inCRLF, p.crAt = true, now
	}
}

// endCRLF notes the LF of a CRLF, and reports whether it completes a ping.
func (p *pingDetector) endCRLF(now instant) bool {
	ping := p.seenCRLF && p.crAt-p.crlfAt <= maxPingGap
	*p = pingDetector{seenCRLF: !ping, crlfAt: now}
	return ping
}

// resizeReadBuffer counts the change of a read buffer's size, and reports whether the
// limit of all buffers allows it.
func (ss *streamTable) resizeReadBuffer(from, to int) bool {
	more := int64(max(to-freeReadBuffer, 0) - max(from-freeReadBuffer, 0))
	if ss.largeReadBytes.Add(more) > maxLargeReadBytes && more > 0 {
		ss.largeReadBytes.Add(-more)
		return false
	}
	return true
}

// messageLength returns the length of the message whose header section is m. sane reports
// whether that length is certain and allowed. Otherwise the stream cannot be read
// further, and the length is that of the header section. Every message on a stream must
// have a Content-Length (RFC 3261 §20.14); only a response without Content-Type may lack
// it.
func messageLength(m *message) (whole int, sane bool) {
	lengths := 0
	for i := range m.fields {
		if m.fields[i].name == hContentLength {
			lengths++
		}
	}
	if lengths == 0 && (m.isRequest() || hasContentType(m.b[:m.headLen])) {
		m.noteFault(noLength)
		return m.headLen, false
	}
	whole = m.headLen + max(m.contentLength, 0)
	if lengths > 1 || lengths == 1 && m.contentLength < 0 || whole > maxMessage {
		return m.headLen, false
	}
	return whole, true
}

// hasContentType reports whether a header section has a Content-Type. Every message with
// a body has one (RFC 3261 §20.15).
func hasContentType(head []byte) bool {
	for line := range bytes.Lines(head) {
		n, _, _ := bytes.Cut(line, []byte(":"))
		if n = bytes.TrimRight(n, " \t"); siptext.EqualFold(n, "content-type") || siptext.EqualFold(n, "c") {
			return true
		}
	}
	return false
}

// beginsLikeSIP reports whether the bytes that are left of a stream may be the start of a
// SIP message: text whose first line, if it is complete, contains the version of SIP.
func beginsLikeSIP(b []byte) bool {
	line, _, complete := bytes.Cut(b, crlf)
	for _, c := range line {
		if c < ' ' && c != '\t' && c != '\r' {
			return false
		}
	}
	return len(line) <= maxStartLine && (!complete || len(line) == 0 || bytes.Contains(bytes.ToUpper(line), version))
}
