package sip

import (
	"bytes"
	"math"

	"bellhop/dialog/siptext"
)

// Limits of a message. A message beyond one of them is malformed.
const (
	maxMessage      = 65535
	maxFieldLen     = 8 << 10 // one header field, folds included
	maxStartLine    = 2 << 10 // start line; the Request-URI is most of it
	maxHeaderFields = 256
	maxRoutes       = 64 // Via, Route and Record-Route header fields, each; Route values
)

// span is a range of a message's bytes.
type span struct{ from, to int32 }

func (s span) empty() bool        { return s.from == s.to }
func (s span) of(b []byte) []byte { return b[s.from:s.to] }

// fieldName is a header field that the proxy reads. All others are forwarded unread.
type fieldName uint8

const (
	otherField fieldName = iota
	hVia
	hFrom
	hTo
	hCallID
	hCSeq
	hMaxForwards
	hRoute
	hRecordRoute
	hContact
	hPath
	hSupported
	hExpires
	hContentLength
	hProxyRequire
	hXCID
	hTrunkMark
	hAssertedIdentity
	hRemotePartyID
	hDiversion
	hAuthorization // also Proxy-Authorization
	hAuthSource    // X-AUTH-IP, X-AUTH-PORT
	hAuthenticate  // WWW-Authenticate, Proxy-Authenticate
	hUserAgent
	fieldNameCount // number of names
)

// singleFields are the header fields that a message may have at most once. With two of
// them, the next element could be made to read another message than the proxy does.
var singleFields = [fieldNameCount]bool{hFrom: true, hTo: true, hCallID: true, hCSeq: true, hMaxForwards: true, hContentLength: true}

// field is one header field line, with its continuation lines.
type field struct {
	name  fieldName
	line  span // from the name up to and including the final CRLF
	value span // without white space at its ends; continuation lines are included
}

// fault is the error in a request: status and reason phrase of the response to it.
type fault struct {
	status int
	phrase string
}

var (
	badSyntax  = &fault{400, "Malformed"}
	badVersion = &fault{505, "Version Not Supported"}
	badScheme  = &fault{416, "Unsupported URI Scheme"}
	badLength  = &fault{400, "Bad Content-Length"}
	noLength   = &fault{400, "Missing Content-Length"}
	twoLengths = &fault{400, "Doubled Content-Length"}
	badHops    = &fault{400, "Malformed Max-Forwards"}
)

// malformedFault returns a 400 with the given phrase.
func malformedFault(what string) *fault { return &fault{400, what} }

// message is an index of a SIP message: the bytes as received, and the places of the
// parts that a proxy needs. Indexing changes and copies no bytes, so it is faster than
// package siptext, with which the tracker reads the same message. FuzzGrammar checks that
// both read the same.
type message struct {
	b             []byte // header section and body; bytes after the body are cut off
	headLen       int    // length of start line and header section, with the empty line
	contentLength int    // Content-Length; -1 if there is none
	fault         *fault // first error found; nil if there is none
	ambiguous     bool   // other elements may read another dialog or method in it

	method span // of a request
	uri    span
	status int // of a response; 0 in a request

	fields []field // named header fields, in order

	via         viaValue // topmost Via
	callID      span
	cseq        uint32
	cseqMethod  span // method in CSeq
	from        span // value of From
	to          span
	fromTag     span // empty if there is none
	toTag       span
	maxForwards int // -1 if there is none
}

func (m *message) isRequest() bool               { return m.status == 0 }
func (m *message) isMethod(meth string) bool     { return string(m.methodName()) == meth }
func (m *message) text(s span) []byte            { return m.b[s.from:s.to] }
func (m *message) methodName() []byte            { return m.text(m.cseqMethod) }
func (m *message) initial() bool                 { return m.toTag.empty() }
func (m *message) firstField(n fieldName) *field { return m.nextField(n, 0) }
func (m *message) hasField(n fieldName) bool     { return m.firstField(n) != nil }
func (m *message) answerable() bool              { return m.isRequest() && m.via.ok && !m.isMethod("ACK") }

// hasNextVia reports whether there is a Via below the topmost.
func (m *message) hasNextVia() bool {
	vias := 0
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hVia {
			if vias++; vias > 1 || m.via.value.to < f.value.to {
				return true
			}
		}
	}
	return false
}

// noteFault records an error; only the first is kept. Every error but one in
// Content-Length or Max-Forwards makes the message ambiguous.
func (m *message) noteFault(f *fault) {
	m.ambiguous = m.ambiguous || f != badLength && f != noLength && f != twoLengths && f != badHops
	if m.fault == nil {
		m.fault = f
	}
}

// nextField returns the first field with that name at or after index i of fields, or
// nil.
func (m *message) nextField(n fieldName, i int) *field {
	for ; i < len(m.fields); i++ {
		if m.fields[i].name == n {
			return &m.fields[i]
		}
	}
	return nil
}

// fieldAfter returns the next field with the same name as f, or nil.
func (m *message) fieldAfter(f *field) *field {
	for i := range m.fields {
		if &m.fields[i] == f {
			return m.nextField(f.name, i+1)
		}
	}
	return nil
}

// index indexes b in m and reports whether the start line is one of SIP. It makes one
// pass over the header section, and allocates nothing once m.fields has grown.
//
// It is strict where the next element might read the message differently (RFC 3261
// §7.3.1, §18.3, §25.1): line ends, doubled fields, lengths. It does not look at parts
// that only other elements need to understand. An error is left in m.fault, and the rest
// is filled in as far as possible, so that a bad request can be answered and a stream
// read further.
//
// stream reports that b came from a stream and was cut by its Content-Length.
func (m *message) index(b []byte, stream bool) bool {
	ok := m.indexHead(b)
	m.cutBody(b, stream)
	return ok
}

// indexHead reads the header section of b into m. The body may still be to come;
// [message.cutBody] completes the index.
func (m *message) indexHead(b []byte) bool {
	*m = message{b: b, contentLength: -1, maxForwards: -1, fields: m.fields[:0]}
	end := bytes.Index(b, crlfcrlf)
	if end < 0 {
		end = len(b)
		m.noteFault(malformedFault("No End Of Header Section"))
		m.headLen = end
	} else {
		end += 2
		m.headLen = end + 2
	}
	head := b[:end]
	if nul := bytes.IndexByte(head, 0); nul >= 0 && !quotedNUL(head) {
		m.noteFault(malformedFault("NUL In Header Section"))
	}
	eol := bytes.Index(head, crlf)
	if eol < 0 {
		return false
	}
	ok := m.indexStartLine(head[:eol])
	lines := 0
	for pos := eol + 2; pos < end; {
		next := m.indexField(head, pos)
		if lines++; lines > maxHeaderFields {
			m.noteFault(malformedFault("Too Many Header Fields"))
			break
		}
		pos = next
	}
	m.checkFields()
	return ok
}

// quotedNUL reports whether every NUL in b is a quoted-pair, the only valid place of one
// (RFC 3261 §25.1).
func quotedNUL(b []byte) bool {
	for i, c := range b {
		if c == 0 && (i == 0 || b[i-1] != '\\') {
			return false
		}
	}
	return true
}

var (
	crlf     = []byte("\r\n")
	crlfcrlf = []byte("\r\n\r\n")
	version  = []byte("SIP/2.0")
)

// indexStartLine reads the request line or status line, and reports whether it is one of
// SIP.
func (m *message) indexStartLine(l []byte) bool {
	if len(l) > maxStartLine || bytes.IndexByte(l, '\n') >= 0 || bytes.IndexByte(l, '\r') >= 0 {
		m.noteFault(badSyntax)
	}
	if len(l) >= 8 && siptext.EqualFold(l[:4], "sip/") {
		return m.indexStatusLine(l)
	}
	sp := bytes.IndexByte(l, ' ')
	last := bytes.LastIndexByte(bytes.TrimRight(l, " "), ' ')
	if sp <= 0 || !siptext.IsToken(l[:sp]) || last <= sp {
		return false
	}
	m.method = span{0, int32(sp)}
	m.cseqMethod = m.method // until CSeq is read and found equal
	m.uri = span{int32(sp + 1), int32(last)}
	v := l[last+1:]
	switch {
	case len(v) > 4 && siptext.EqualFold(v[:4], "sip/") && !siptext.EqualFold(v, "sip/2.0"):
		if len(bytes.TrimRight(v, " ")) != len(v) {
			m.noteFault(malformedFault("Malformed Request-Line"))
		}
		m.noteFault(badVersion)
	case !siptext.EqualFold(v, "sip/2.0"):
		if !bytes.HasPrefix(bytes.ToUpper(v), version) {
			return false
		}
		m.noteFault(malformedFault("Malformed Request-Line"))
	}
	uri := m.text(m.uri)
	if len(uri) == 0 || bytes.IndexByte(uri, ' ') >= 0 || bytes.IndexByte(uri, '\t') >= 0 || uri[0] == '<' {
		m.noteFault(malformedFault("Malformed Request-URI"))
	}
	return true
}

// indexStatusLine reads a status line, and reports whether it is one of SIP. More than
// one space before the status is accepted: RFC 3665 §3.9 has an example.
func (m *message) indexStatusLine(l []byte) bool {
	if !siptext.EqualFold(l[:7], "sip/2.0") || l[7] != ' ' {
		return false
	}
	l = bytes.TrimLeft(l[8:], " ")
	if len(l) < 3 || len(l) > 3 && l[3] != ' ' {
		return false
	}
	code, ok := parseNumber(l[:3], 699)
	if !ok || code < 100 {
		return false
	}
	m.status = code
	return true
}

// indexField reads the header field at pos and returns where the next one begins.
func (m *message) indexField(head []byte, pos int) int {
	end := pos
	for {
		nl := bytes.IndexByte(head[end:], '\n')
		if nl < 0 {
			m.noteFault(badSyntax)
			return len(head)
		}
		if nl == 0 || head[end+nl-1] != '\r' || bytes.IndexByte(head[end:end+nl-1], '\r') >= 0 {
			m.noteFault(malformedFault("Bare CR Or LF In Header Section"))
		}
		end += nl + 1
		if end >= len(head) || head[end] != ' ' && head[end] != '\t' {
			break
		}
	}
	if end-pos > maxFieldLen {
		m.noteFault(malformedFault("Header Field Too Long"))
		return end
	}
	l := head[pos:end]
	colon := bytes.IndexByte(l, ':')
	if colon < 0 {
		m.noteFault(malformedFault("Header Field Without Colon"))
		return end
	}
	n := bytes.TrimRight(l[:colon], " \t")
	if len(n) == 0 || !siptext.IsToken(n) {
		m.noteFault(malformedFault("Malformed Header Field Name"))
		return end
	}
	k := lookUpFieldName(n)
	if k == otherField {
		return end
	}
	v := span{int32(pos + colon + 1), int32(end)}
	for v.from < v.to && siptext.IsSpace(head[v.from]) {
		v.from++
	}
	for v.to > v.from && siptext.IsSpace(head[v.to-1]) {
		v.to--
	}
	m.fields = append(m.fields, field{k, span{int32(pos), int32(end)}, v})
	return end
}

// checkFields reads the fields that every message must have (RFC 3261 §8.1.1, §16.3),
// and records their errors.
func (m *message) checkFields() {
	var seen [fieldNameCount]int
	for i := range m.fields {
		f := &m.fields[i]
		if seen[f.name]++; seen[f.name] > 1 && singleFields[f.name] {
			if f.name == hContentLength {
				m.noteFault(twoLengths)
			} else {
				m.noteFault(malformedFault("Doubled Header Field"))
			}
			continue
		}
		v := m.text(f.value)
		switch f.name {
		case hVia:
			if seen[hVia] == 1 {
				m.via = parseVia(m.b, f.value)
			}
		case hFrom:
			m.from = f.value
			m.fromTag = m.readTag(f.value)
		case hTo:
			m.to = f.value
			m.toTag = m.readTag(f.value)
		case hCallID:
			m.callID = f.value
			if len(v) == 0 || bytes.ContainsAny(v, " \t\r\n") {
				m.noteFault(malformedFault("Malformed Call-ID"))
			}
		case hCSeq:
			m.readCSeq(f.value)
		case hMaxForwards:
			n, ok := parseNumber(v, 255)
			if !ok {
				m.noteFault(badHops)
				continue
			}
			m.maxForwards = n
		case hContentLength:
			n, ok := parseNumber(v, math.MaxInt32)
			if !ok {
				m.noteFault(badLength)
				continue
			}
			m.contentLength = n
		}
	}
	m.checkCounts(&seen)
}

// checkCounts records an error if a required field is missing, the topmost Via is
// malformed, or there are more than maxRoutes Via, Route or Record-Route fields.
func (m *message) checkCounts(seen *[fieldNameCount]int) {
	switch {
	case seen[hVia] == 0 || !m.via.ok || m.via.malformed:
		m.noteFault(malformedFault("Missing Or Malformed Via"))
	case seen[hFrom] == 0:
		m.noteFault(malformedFault("Missing From"))
	case seen[hTo] == 0:
		m.noteFault(malformedFault("Missing To"))
	case seen[hCallID] == 0:
		m.noteFault(malformedFault("Missing Call-ID"))
	case seen[hCSeq] == 0:
		m.noteFault(malformedFault("Missing CSeq"))
	case seen[hVia] > maxRoutes || seen[hRoute] > maxRoutes || seen[hRecordRoute] > maxRoutes:
		m.noteFault(malformedFault("Too Many Hops Listed"))
	}
}

// cutBody sets m.b to the message in b, without the bytes after the body. A message on a
// stream without Content-Length has no body. cutBody records a body that is too short.
func (m *message) cutBody(b []byte, stream bool) {
	m.b = b
	switch body := len(m.b) - m.headLen; {
	case m.contentLength > body:
		m.noteFault(badLength)
	case m.contentLength >= 0:
		m.b = m.b[:m.headLen+m.contentLength] // RFC 3261 §18.3: bytes after the body are not part of the message
	case stream:
		m.b = m.b[:m.headLen]
	}
}

// readCSeq reads the number and the method of a CSeq value.
func (m *message) readCSeq(v span) {
	b := m.text(v)
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	n, ok := parseNumber(b[:i], math.MaxUint32)
	j := i
	for j < len(b) && siptext.IsSpace(b[j]) {
		j++
	}
	met := span{v.from + int32(j), v.to}
	if !ok || i == j || !siptext.IsToken(m.text(met)) {
		m.noteFault(malformedFault("Malformed CSeq"))
		return
	}
	m.cseq = uint32(n)
	if m.isRequest() && !bytes.Equal(m.text(met), m.text(m.method)) {
		m.noteFault(malformedFault("CSeq Method Mismatch"))
		return
	}
	m.cseqMethod = met
}

// readTag returns the tag parameter of a From or To value.
func (m *message) readTag(v span) span {
	_, params, ok := splitNameAddr(m.b, v)
	if !ok {
		m.noteFault(malformedFault("Malformed From Or To"))
		return span{}
	}
	t, _ := findParam(m.b, params, "tag")
	return t
}
