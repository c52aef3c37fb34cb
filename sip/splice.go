package sip

import "slices"

// splice is a list of edits to a message. Bytes that no edit covers stay unchanged.
// A worker reuses one splice for all its messages.
type splice struct {
	edits []spliceEdit
	text  []byte // inserted text of all edits, concatenated
}

// spliceEdit replaces the bytes from:to of the message by text[textFrom:textTo].
type spliceEdit struct {
	from, to         int32
	textFrom, textTo int32
}

// reset removes all edits.
func (s *splice) reset() {
	s.edits = s.edits[:0]
	s.text = s.text[:0]
}

// replace puts text in the place of v. Edits at the same place are applied in the order
// of the calls.
func (s *splice) replace(v span, text ...string) {
	n := int32(len(s.text))
	for _, t := range text {
		s.text = append(s.text, t...)
	}
	s.edits = append(s.edits, spliceEdit{v.from, v.to, n, int32(len(s.text))})
}

// insert puts text before the byte at index at.
func (s *splice) insert(at int32, text ...string) { s.replace(span{at, at}, text...) }

// remove deletes v.
func (s *splice) remove(v span) { s.replace(v) }

// dropWithin discards the edits that start within v, including insertions before its
// first byte. An edit that replaces exactly v stays.
func (s *splice) dropWithin(v span) {
	s.edits = slices.DeleteFunc(s.edits, func(e spliceEdit) bool {
		return e.from >= v.from && e.from < v.to && (span{e.from, e.to}) != v
	})
}

// takeReplacement discards the edit that replaces v, and returns its text.
func (s *splice) takeReplacement(v span) (text string, ok bool) {
	for i, e := range s.edits {
		if e.from == v.from && e.to == v.to {
			s.edits = slices.Delete(s.edits, i, i+1)
			return string(s.text[e.textFrom:e.textTo]), true
		}
	}
	return "", false
}

// apply appends b with the edits to dst.
func (s *splice) apply(dst, b []byte) []byte {
	slices.SortStableFunc(s.edits, func(a, b spliceEdit) int { return int(a.from - b.from) })
	pos := int32(0)
	for _, e := range s.edits {
		if e.from > pos { // else an earlier edit has removed these bytes
			dst = append(dst, b[pos:e.from]...)
		}
		dst = append(dst, s.text[e.textFrom:e.textTo]...)
		pos = max(pos, e.to)
	}
	return append(dst, b[pos:]...)
}
