package sip

import (
	"bytes"
	"hash/maphash"
)

// branchLen is the length of our branches: cookie, "bh", the salt of the process, the id of
// the client transaction and the loop hash. A branch is unique in space and time and cannot
// be guessed (RFC 3261 §16.6 item 8).
//
//	z9hG4bKbh 1f2e3d4c . 00000001a2b3 . 9c8d7e6f
const branchLen = len(cookie) + 2 + 8 + 1 + 12 + 1 + 8

// branchSalt is the part of every branch that tells our transactions from those of an
// earlier process.
type branchSalt uint32

// appendBranch appends the branch of a client transaction to dst. hash is its loop hash.
func (s branchSalt) appendBranch(dst []byte, id uint64, hash uint32) []byte {
	dst = append(dst, cookie+"bh"...)
	dst = appendHex(dst, uint64(s), 8)
	dst = append(dst, '.')
	dst = appendHex(dst, id, 12)
	dst = append(dst, '.')
	return appendHex(dst, uint64(hash), 8)
}

// openBranch reads a branch that this process made; ok is false for any other.
func (s branchSalt) openBranch(b []byte) (id uint64, hash uint32, ok bool) {
	if len(b) != branchLen || string(b[:len(cookie)+2]) != cookie+"bh" {
		return 0, 0, false
	}
	b = b[len(cookie)+2:]
	salt, ok1 := readHex(b[:8])
	id, ok2 := readHex(b[9:21])
	sum, ok3 := readHex(b[22:])
	return id, uint32(sum), ok1 && ok2 && ok3 && uint32(salt) == uint32(s)
}

const hexDigits = "0123456789abcdef"

// appendHex appends the n low hex digits of v to dst.
func appendHex(dst []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, hexDigits[v>>(4*i)&15])
	}
	return dst
}

// readHex reads lower-case hex digits.
func readHex(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// loopHash hashes the fields that identify a request and those that decide where it goes.
// A request that comes back with the same hash is in a loop; one with another hash is in
// a spiral (RFC 5393 §4.2).
func (w *worker) loopHash(m *message) uint32 {
	h := &w.hash
	h.Reset()
	h.Write(m.text(m.uri))
	h.WriteByte(0)
	h.Write(m.text(m.fromTag))
	h.WriteByte(0)
	h.Write(m.text(m.toTag))
	h.WriteByte(0)
	h.Write(m.text(m.callID))
	maphash.WriteComparable(h, m.cseq)
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hRoute || f.name == hProxyRequire {
			h.Write(m.text(f.value))
		}
	}
	return uint32(h.Sum64())
}

// isLoop reports whether the same request has passed this process before, because a Via
// of m is ours and has the same loop hash.
func (s branchSalt) isLoop(m *message, hash uint32) bool {
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hVia {
			continue
		}
		for v := m.text(f.value); ; {
			at := bytes.Index(v, []byte(cookie+"bh"))
			if at < 0 {
				break
			}
			v = v[at:]
			if len(v) >= branchLen {
				if _, h, ok := s.openBranch(v[:branchLen]); ok && h == hash {
					return true
				}
			}
			v = v[len(cookie):]
		}
	}
	return false
}
