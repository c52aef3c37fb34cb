package sip

import (
	"bytes"
	"net/netip"
	"strconv"

	"bellhop/dialog/siptext"
)

// viaValue is one value of a Via header field (RFC 3261 §20.42), as places in its
// message.
type viaValue struct {
	ok        bool // sent-by is readable, so a response can be sent
	malformed bool // the syntax breaks RFC 3261, even if ok

	value  span // whole value, up to the comma or the end of the field
	proto  span // UDP, TCP, …, as the peer wrote it
	host   span
	port   int // 0 if it names none
	branch span

	rport    span // value of rport; empty if it has none
	hasRport bool
	received span
}

// parseVia reads the first value of the Via field value v. It accepts white space where
// RFC 3261 §25.1 does, and does not check parameters that the proxy does not need.
func parseVia(b []byte, v span) (r viaValue) {
	r.value = v
	i := v.from
	for n := range 3 { // SIP / 2.0 / UDP
		i = skipSpace(b, i, v.to)
		start := i
		for i < v.to && siptext.IsTokenChar(b[i]) {
			i++
		}
		word := span{start, i}
		switch {
		case word.empty(), n == 0 && !siptext.EqualFold(word.of(b), "sip"):
			return r
		case n == 1:
			r.malformed = string(word.of(b)) != "2.0"
		case n == 2:
			r.proto = word
			if i == v.to || !siptext.IsSpace(b[i]) {
				return r
			}
		}
		i = skipSpace(b, i, v.to)
		if n < 2 {
			if i == v.to || b[i] != '/' {
				return r
			}
			i++
		}
	}
	if i, r.ok = r.readSentBy(b, i, v.to); !r.ok {
		return r
	}
	params := span{i, i}
	for i < v.to && b[i] != ',' {
		if b[i] == '"' {
			q := closingQuote(b, i, v.to)
			if q < 0 {
				r.malformed = true
				return r
			}
			i = q
		}
		i++
	}
	params.to = i
	r.value.to = i
	for r.value.to > params.from && siptext.IsSpace(b[r.value.to-1]) {
		r.value.to--
	}
	if p := bytes.TrimSpace(params.of(b)); len(p) > 0 && (p[0] != ';' || bytes.Contains(p, []byte(";;"))) {
		r.malformed = true
	}
	params.from = min(params.from+1, params.to) // the first semicolon
	r.branch, _ = findParam(b, params, "branch")
	r.rport, r.hasRport = findParam(b, params, "rport")
	r.received, _ = findParam(b, params, "received")
	return r
}

// readSentBy reads host [ ":" port ] and returns where it ends.
func (r *viaValue) readSentBy(b []byte, i, end int32) (int32, bool) {
	start := i
	if i < end && b[i] == '[' {
		n := bytes.IndexByte(b[i:end], ']')
		if n < 0 {
			return i, false
		}
		i += int32(n) + 1
	} else {
		for i < end && siptext.IsTokenChar(b[i]) {
			i++
		}
	}
	r.host = span{start, i}
	if r.host.empty() {
		return i, false
	}
	j := skipSpace(b, i, end)
	if j < end && b[j] == ':' {
		j = skipSpace(b, j+1, end)
		k := j
		for k < end && b[k] >= '0' && b[k] <= '9' {
			k++
		}
		n, ok := parseNumber(b[j:k], 65535)
		if !ok || n == 0 {
			return i, false
		}
		r.port = n
		i = k
	}
	return skipSpace(b, i, end), true
}

// cookie begins every branch of RFC 3261. A branch without it, or with nothing after
// it, is matched by the rules of RFC 2543 (RFC 3261 §17.2.3).
const cookie = "z9hG4bK"

// hasCookie reports whether the branch is one of RFC 3261.
func (r *viaValue) hasCookie(b []byte) bool {
	return len(r.branch.of(b)) > len(cookie) && siptext.EqualFold(b[r.branch.from:r.branch.from+int32(len(cookie))], "z9hg4bk")
}

// hasAlias reports whether the Via has the parameter alias (RFC 5923).
func (r *viaValue) hasAlias(b []byte) bool {
	params := span{r.host.to, r.value.to}
	for params.from < params.to && b[params.from] != ';' {
		params.from++
	}
	_, found := findParam(b, span{min(params.from+1, params.to), params.to}, "alias")
	return found
}

// fixVia notes the edits that write the source address into the topmost Via. If the Via
// has rport, it gets received and the value of rport (RFC 3581 §4). Otherwise it gets
// received if the source address differs from sent-by (RFC 3261 §18.2.1). A wrong
// received is corrected.
func fixVia(s *splice, m *message, peer netip.AddrPort) {
	v := &m.via
	ip := peer.Addr()
	if v.hasRport {
		port := strconv.Itoa(int(peer.Port()))
		if v.rport.empty() {
			if v.rport.from > 0 && m.b[v.rport.from-1] == '=' {
				s.insert(v.rport.from, port)
			} else {
				s.insert(v.rport.from, "=", port)
			}
		} else if string(m.text(v.rport)) != port {
			s.replace(v.rport, port)
		}
	}
	if !v.received.empty() {
		if got, err := netip.ParseAddr(string(bytes.Trim(m.text(v.received), "[]"))); err != nil || got != ip {
			s.replace(v.received, ip.String())
		}
		return
	}
	if v.hasRport || !isHost(m.text(v.host), ip) {
		s.insert(v.value.to, ";received=", ip.String())
	}
}

// isHost reports whether the host h of a Via is the address ip.
func isHost(h []byte, ip netip.Addr) bool {
	var buf [64]byte
	if ip.Is4() {
		return bytes.Equal(ip.AppendTo(buf[:0]), h)
	}
	got, err := netip.ParseAddr(string(bytes.Trim(h, "[]")))
	return err == nil && got == ip
}
