package sip

import (
	"bytes"
	"net"
	"time"

	"bellhop/dialog/siptext"
)

var (
	pong = []byte("\r\n")
	ping = []byte("\r\n\r\n")
)

// readMessages cuts the stream into messages (RFC 3261 §18.3) and dispatches them. Each
// byte is searched once for the end of a header section, and each header section is
// indexed once, even if it arrives byte by byte.
func (s *stream) readMessages(c net.Conn, first []byte) {
	px := s.table.proxy
	buf := append(make([]byte, 0, smallReadBuffer), first...)
	defer func() { s.table.resizeReadBuffer(cap(buf), 0) }()
	var m message
	var known bool  // m is a SIP message
	var sane bool   // whole is the length of the message; else of its header section
	var whole int   // 0: the header section is incomplete
	var scanned int // bytes without the end of a header section
	var pings pingDetector
	deadline := time.Now().Add(idleTimeout)
	if first != nil {
		deadline = time.Now().Add(messageTimeout)
	}
	for {
		c.SetReadDeadline(deadline)
		if len(buf) == cap(buf) {
			if len(buf) > maxMessage || !s.table.resizeReadBuffer(cap(buf), 2*cap(buf)) {
				return
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		if n == 0 && err != nil {
			return
		}
		if len(buf) == 0 {
			deadline = time.Now().Add(messageTimeout)
		}
		buf = buf[:len(buf)+n]
		at := px.now()
		rest := buf
		for {
			if whole == 0 {
				for len(rest) > 0 && rest[0] == '\r' {
					pings.beginCRLF(at)
					if !bytes.HasPrefix(rest, crlf) {
						break
					}
					rest, scanned = rest[2:], 0
					if pings.endCRLF(at) {
						s.queueMessage(pong, 0)
					}
				}
				end := bytes.Index(rest[scanned:], ping)
				if end < 0 {
					if len(rest) > maxMessage {
						return
					}
					scanned = max(len(rest)-len(ping)+1, 0)
					break
				}
				end += scanned + len(ping)
				pings, scanned = pingDetector{}, 0
				known = m.indexHead(rest[:end])
				whole, sane = messageLength(&m)
				start, _, _ := bytes.Cut(rest, crlf)
				if !known && (!sane || !bytes.Contains(start, version)) {
					return
				}
			}
			if sane && len(rest) < whole {
				break
			}
			p := newPacket(rest[:whole])
			p.msg, m = m, message{fields: p.msg.fields}
			p.msg.cutBody(p.buf, true)
			p.listener, p.conn, p.peer, p.receivedAt, p.endsStream = s.listener, s, s.peer, at, !sane
			s.dispatchMessage(p, known)
			if !sane {
				<-s.done // the worker answers and closes the stream
				return
			}
			rest, whole = rest[whole:], 0
			deadline = time.Now().Add(messageTimeout)
		}
		if len(rest) < len(buf) {
			buf = buf[:copy(buf, rest)]
		}
		if len(buf) == 0 {
			deadline = time.Now().Add(idleTimeout)
			if cap(buf) > freeReadBuffer {
				s.table.resizeReadBuffer(cap(buf), smallReadBuffer)
				buf = make([]byte, 0, smallReadBuffer)
			}
		}
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

// dispatchMessage dispatches a message, or drops it if it is not SIP. A panic costs this
// message only, and closes the stream if nothing can be read after it.
func (s *stream) dispatchMessage(p *packet, known bool) {
	defer s.table.proxy.recoverPanic("message")
	if !known {
		s.table.proxy.stats.malformed.Add(1)
		p.release()
		return
	}
	if p.endsStream {
		defer func() {
			if r := recover(); r != nil {
				s.close()
				panic(r)
			}
		}()
	}
	s.table.proxy.dispatch(p, false)
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

// messageLength returns the length of the message whose header section is m, and whether
// it is certain. If it is not, the stream cannot be read further, and the header section
// is all there is to answer. Every message on a stream has a Content-Length (RFC 3261
// §20.14); only a response without a body may lack it.
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

// hasContentType reports whether a header section has a Content-Type, as that of every
// message with a body does (RFC 3261 §20.15).
func hasContentType(head []byte) bool {
	for line := range bytes.Lines(head) {
		n, _, _ := bytes.Cut(line, []byte(":"))
		if n = bytes.TrimRight(n, " \t"); siptext.EqualFold(n, "content-type") || siptext.EqualFold(n, "c") {
			return true
		}
	}
	return false
}
