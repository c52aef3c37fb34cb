package dialog

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// A snapshotCodec encodes or decodes the fields of a snapshot. One list of fields serves
// both directions, so that neither can miss a field. A snapshot is a JSON object; zero
// fields are left out, unknown ones ignored.
//
// Legs and parties refer to each other by their index in two lists. Before encoding, the
// codec passes over the fields once to collect these lists.
type snapshotCodec struct {
	mode codecMode
	out  []byte         // JSON that is encoded
	in   map[string]any // object that is decoded
	err  error          // first error while decoding

	offset time.Duration // offset of the wall clock, which stored times use, from the steady clock

	legs    []*leg
	parties []*party
	refers  []storedRefer
}

// A codecMode is what a snapshotCodec does with the fields that it passes over.
type codecMode uint8

const (
	modeList codecMode = iota // collects legs and parties
	modeWrite
	modeRead
)

// beginMember starts a member of the object that is encoded.
func (s *snapshotCodec) beginMember(name string) {
	if s.out[len(s.out)-1] != '{' {
		s.out = append(s.out, ',')
	}
	s.out = append(s.out, '"')
	s.out = append(s.out, name...)
	s.out = append(s.out, '"', ':')
}

// setError keeps the first error: the member and its invalid value.
func (s *snapshotCodec) setError(name string, v any) {
	if s.err == nil {
		s.err = fmt.Errorf("invalid %s: %v", name, v)
	}
}

// readMember returns the value of a member of the object that is decoded.
func readMember[T any](s *snapshotCodec, name string) (v T, ok bool) {
	got, ok := s.in[name]
	if !ok {
		return v, false
	}
	if v, ok = got.(T); !ok {
		s.setError(name, got)
	}
	return v, ok
}

func codeText[T ~string](s *snapshotCodec, name string, v *T) {
	switch s.mode {
	case modeWrite:
		if *v != "" {
			s.beginMember(name)
			s.writeQuoted(string(*v))
		}
	case modeRead:
		if got, ok := readMember[string](s, name); ok {
			*v = T(got)
		}
	}
}

func (s *snapshotCodec) writeQuoted(v string) {
	for i := range len(v) {
		if c := v[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(v) // strings always marshal
			s.out = append(s.out, quoted...)
			return
		}
	}
	s.out = append(s.out, '"')
	s.out = append(s.out, v...)
	s.out = append(s.out, '"')
}

func codeNumber[T ~int | ~int64 | ~uint8 | ~uint32](s *snapshotCodec, name string, v *T) {
	switch s.mode {
	case modeWrite:
		if *v != 0 {
			s.beginMember(name)
			s.out = strconv.AppendInt(s.out, int64(*v), 10)
		}
	case modeRead:
		if got, ok := readMember[float64](s, name); ok {
			if *v = T(got); float64(*v) != got {
				s.setError(name, got)
			}
		}
	}
}

func codeFlag(s *snapshotCodec, name string, v *bool) {
	switch s.mode {
	case modeWrite:
		if *v {
			s.beginMember(name)
			s.out = append(s.out, "true"...)
		}
	case modeRead:
		if got, ok := readMember[bool](s, name); ok {
			*v = got
		}
	}
}

func codeAddr(s *snapshotCodec, name string, v *netip.AddrPort) {
	switch s.mode {
	case modeWrite:
		if v.IsValid() {
			s.beginMember(name)
			s.out = append(s.out, '"')
			s.out = v.AppendTo(s.out)
			s.out = append(s.out, '"')
		}
	case modeRead:
		if got, ok := readMember[string](s, name); ok {
			a, err := netip.ParseAddrPort(got)
			if err != nil {
				s.setError(name, got)
			}
			*v = a
		}
	}
}

func codeTime(s *snapshotCodec, name string, v *time.Time) {
	switch s.mode {
	case modeWrite:
		if !v.IsZero() {
			s.beginMember(name)
			s.out = append(s.out, '"')
			s.out = v.Add(s.offset).UTC().AppendFormat(s.out, time.RFC3339Nano)
			s.out = append(s.out, '"')
		}
	case modeRead:
		if got, ok := readMember[string](s, name); ok {
			t, err := time.Parse(time.RFC3339Nano, got)
			if err != nil {
				s.setError(name, got)
			}
			*v = t.Add(-s.offset)
		}
	}
}

// codeWallTime codes a time that is by the wall clock already.
func codeWallTime(s *snapshotCodec, name string, v *time.Time) {
	offset := s.offset
	s.offset = 0
	codeTime(s, name, v)
	s.offset = offset
}

func codeExtension(s *snapshotCodec, name, domain string, v *Extension) {
	codeText(s, name, &v.User)
	codeText(s, domain, &v.Domain)
}

func codeTexts(s *snapshotCodec, name string, v *[]string) {
	switch s.mode {
	case modeWrite:
		if len(*v) > 0 {
			s.beginMember(name)
			quoted, _ := json.Marshal(*v) // strings always marshal
			s.out = append(s.out, quoted...)
		}
	case modeRead:
		got, _ := readMember[[]any](s, name)
		for _, e := range got {
			if text, ok := e.(string); ok {
				*v = append(*v, text)
			} else {
				s.setError(name, got)
			}
		}
	}
}

func codePairs(s *snapshotCodec, name string, v *[][2]string) {
	var flat []string
	for _, p := range *v {
		flat = append(flat, p[0], p[1])
	}
	codeTexts(s, name, &flat)
	if s.mode == modeRead {
		for p := range slices.Chunk(flat, 2) {
			if len(p) != 2 {
				s.setError(name, flat)
				return
			}
			*v = append(*v, [2]string(p))
		}
	}
}

// codeObject codes *v as an object of its own, and a nil one not at all.
func codeObject[T any](s *snapshotCodec, name string, v **T, fields func(*T, *snapshotCodec)) {
	switch s.mode {
	case modeRead:
		if _, ok := s.in[name]; ok {
			*v = new(T)
			codeNested(s, name, *v, fields)
		}
	default:
		if *v != nil {
			codeNested(s, name, *v, fields)
		}
	}
}

// codeValue codes *v as an object of its own, and a zero one not at all.
func codeValue[T comparable](s *snapshotCodec, name string, v *T, fields func(*T, *snapshotCodec)) {
	var zero T
	if s.mode == modeRead || *v != zero {
		codeNested(s, name, v, fields)
	}
}

// codeNested codes the fields of *v within an object of its own.
func codeNested[T any](s *snapshotCodec, name string, v *T, fields func(*T, *snapshotCodec)) {
	switch s.mode {
	case modeList:
		fields(v, s)
	case modeWrite:
		s.beginMember(name)
		s.out = append(s.out, '{')
		fields(v, s)
		s.out = append(s.out, '}')
	case modeRead:
		if got, ok := readMember[map[string]any](s, name); ok {
			outer := s.in
			s.in = got
			fields(v, s)
			s.in = outer
		}
	}
}

// codeList codes the elements of a list, each as an object.
func codeList[T any](s *snapshotCodec, name string, v *[]T, fields func(*T, *snapshotCodec)) {
	switch s.mode {
	case modeList:
		for i := range *v {
			fields(&(*v)[i], s)
		}
	case modeWrite:
		if len(*v) == 0 {
			return
		}
		s.beginMember(name)
		s.out = append(s.out, '[')
		for i := range *v {
			if i > 0 {
				s.out = append(s.out, ',')
			}
			s.out = append(s.out, '{')
			fields(&(*v)[i], s)
			s.out = append(s.out, '}')
		}
		s.out = append(s.out, ']')
	case modeRead:
		got, _ := readMember[[]any](s, name)
		if len(got) == 0 {
			return
		}
		if len(*v) != len(got) {
			*v = make([]T, len(got))
		}
		outer := s.in
		for i := range got {
			var ok bool
			if s.in, ok = got[i].(map[string]any); !ok {
				s.setError(name, got[i])
				break
			}
			fields(&(*v)[i], s)
		}
		s.in = outer
	}
}

// codeLeg codes a reference to a leg, codeParty one to a party.
func codeLeg(s *snapshotCodec, name string, v **leg)     { codeReference(s, name, v, &s.legs) }
func codeParty(s *snapshotCodec, name string, v **party) { codeReference(s, name, v, &s.parties) }

// codeReference codes a pointer into a list as the index there, from 1.
func codeReference[T any](s *snapshotCodec, name string, v **T, in *[]*T) {
	place := 0
	if *v != nil {
		for i, o := range *in {
			if o == *v {
				place = i + 1
				break
			}
		}
		if place == 0 { // only while listing
			*in = append(*in, *v)
			place = len(*in)
		}
	}
	codeNumber(s, name, &place)
	switch {
	case s.mode != modeRead || place == 0:
	case place < 1 || place > len(*in):
		s.setError(name, place)
	default:
		*v = (*in)[place-1]
	}
}
