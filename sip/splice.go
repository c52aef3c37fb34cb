package sip

import "slices"

// A splice is a list of edits to a message: what is not edited leaves as it
// came, byte for byte. It is used again and again by the worker that owns it.
type splice struct {
	edits []spliceEdit
	text  []byte // what is inserted, all edits' after each other
}

// An edit replaces the bytes from at to end by text[from:to].
type spliceEdit struct {
	from, to         int32
	textFrom, textTo int32
}

func (s *splice) reset() {
	s.edits = s.edits[:0]
	s.text = s.text[:0]
}

// replace puts text in the place of v. Edits of one place come out in the
// order they were made in.
func (s *splice) replace(v span, text ...string) {
	n := int32(len(s.text))
	for _, t := range text {
		s.text = append(s.text, t...)
	}
	s.edits = append(s.edits, spliceEdit{v.from, v.to, n, int32(len(s.text))})
}

// insert puts text before the byte at.
func (s *splice) insert(at int32, text ...string) { s.replace(span{at, at}, text...) }

// remove takes v out.
func (s *splice) remove(v span) { s.replace(v) }

// apply appends b, edited, to dst.
func (s *splice) apply(dst, b []byte) []byte {
	slices.SortStableFunc(s.edits, func(a, b spliceEdit) int { return int(a.from - b.from) })
	pos := int32(0)
	for _, e := range s.edits {
		if e.from > pos { // not where text was removed before
			dst = append(dst, b[pos:e.from]...)
		}
		dst = append(dst, s.text[e.textFrom:e.textTo]...)
		pos = max(pos, e.to)
	}
	return append(dst, b[pos:]...)
}
