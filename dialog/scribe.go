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

// A scribe goes over the fields of what is kept, and writes each down or reads
// it back: there is one list of fields, so that neither side forgets one. What
// is written is a JSON object; a field that is zero is left out, one that is
// unknown is passed over.
//
// Legs and parties refer to each other by their places in two lists. Before
// it writes, a scribe goes over the fields once to make these lists.
type scribe struct {
	doing doing
	out   []byte
	in    map[string]any
	err   error

	offset time.Duration // of the wall clock, by which times are kept, from the steady one

	legs    []*leg
	parties []*party
	refers  []keptRefer
}

type doing uint8

const (
	listing doing = iota
	writing
	reading
)

// key begins a member of the object that is written.
func (s *scribe) key(name string) {
	if s.out[len(s.out)-1] != '{' {
		s.out = append(s.out, ',')
	}
	s.out = append(s.out, '"')
	s.out = append(s.out, name...)
	s.out = append(s.out, '"', ':')
}

func (s *scribe) fail(name string, v any) {
	if s.err == nil {
		s.err = fmt.Errorf("%s is %v", name, v)
	}
}

// read returns the value of a member of the object that is read.
func read[T any](s *scribe, name string) (v T, ok bool) {
	got, ok := s.in[name]
	if !ok {
		return v, false
	}
	if v, ok = got.(T); !ok {
		s.fail(name, got)
	}
	return v, ok
}

func keepText[T ~string](s *scribe, name string, v *T) {
	switch s.doing {
	case writing:
		if *v != "" {
			s.key(name)
			s.quote(string(*v))
		}
	case reading:
		if got, ok := read[string](s, name); ok {
			*v = T(got)
		}
	}
}

func (s *scribe) quote(v string) {
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

func keepNumber[T ~int | ~int64 | ~uint8 | ~uint32](s *scribe, name string, v *T) {
	switch s.doing {
	case writing:
		if *v != 0 {
			s.key(name)
			s.out = strconv.AppendInt(s.out, int64(*v), 10)
		}
	case reading:
		if got, ok := read[float64](s, name); ok {
			if *v = T(got); float64(*v) != got {
				s.fail(name, got)
			}
		}
	}
}

func keepFlag(s *scribe, name string, v *bool) {
	switch s.doing {
	case writing:
		if *v {
			s.key(name)
			s.out = append(s.out, "true"...)
		}
	case reading:
		if got, ok := read[bool](s, name); ok {
			*v = got
		}
	}
}

func keepAddr(s *scribe, name string, v *netip.AddrPort) {
	switch s.doing {
	case writing:
		if v.IsValid() {
			s.key(name)
			s.out = append(s.out, '"')
			s.out = v.AppendTo(s.out)
			s.out = append(s.out, '"')
		}
	case reading:
		if got, ok := read[string](s, name); ok {
			a, err := netip.ParseAddrPort(got)
			if err != nil {
				s.fail(name, got)
			}
			*v = a
		}
	}
}

func keepTime(s *scribe, name string, v *time.Time) {
	switch s.doing {
	case writing:
		if !v.IsZero() {
			s.key(name)
			s.out = append(s.out, '"')
			s.out = v.Add(s.offset).UTC().AppendFormat(s.out, time.RFC3339Nano)
			s.out = append(s.out, '"')
		}
	case reading:
		if got, ok := read[string](s, name); ok {
			t, err := time.Parse(time.RFC3339Nano, got)
			if err != nil {
				s.fail(name, got)
			}
			*v = t.Add(-s.offset)
		}
	}
}

// keepWall keeps a time that is by the wall clock already.
func keepWall(s *scribe, name string, v *time.Time) {
	offset := s.offset
	s.offset = 0
	keepTime(s, name, v)
	s.offset = offset
}

func keepExtension(s *scribe, name, domain string, v *Extension) {
	keepText(s, name, &v.User)
	keepText(s, domain, &v.Domain)
}

func keepTexts(s *scribe, name string, v *[]string) {
	switch s.doing {
	case writing:
		if len(*v) > 0 {
			s.key(name)
			quoted, _ := json.Marshal(*v) // strings always marshal
			s.out = append(s.out, quoted...)
		}
	case reading:
		got, _ := read[[]any](s, name)
		for _, e := range got {
			if text, ok := e.(string); ok {
				*v = append(*v, text)
			} else {
				s.fail(name, got)
			}
		}
	}
}

func keepPairs(s *scribe, name string, v *[][2]string) {
	var flat []string
	for _, p := range *v {
		flat = append(flat, p[0], p[1])
	}
	keepTexts(s, name, &flat)
	if s.doing == reading {
		for p := range slices.Chunk(flat, 2) {
			if len(p) != 2 {
				s.fail(name, flat)
				return
			}
			*v = append(*v, [2]string(p))
		}
	}
}

// keepObject goes over the fields of *v as an object of its own; of a nil one there
// are none.
func keepObject[T any](s *scribe, name string, v **T, fields func(*T, *scribe)) {
	switch s.doing {
	case reading:
		if _, ok := s.in[name]; ok {
			*v = new(T)
			keepNested(s, name, *v, fields)
		}
	default:
		if *v != nil {
			keepNested(s, name, *v, fields)
		}
	}
}

// keepPart goes over the fields of *v as an object of its own; of a zero one there
// are none.
func keepPart[T comparable](s *scribe, name string, v *T, fields func(*T, *scribe)) {
	var zero T
	if s.doing == reading || *v != zero {
		keepNested(s, name, v, fields)
	}
}

func keepNested[T any](s *scribe, name string, v *T, fields func(*T, *scribe)) {
	switch s.doing {
	case listing:
		fields(v, s)
	case writing:
		s.key(name)
		s.out = append(s.out, '{')
		fields(v, s)
		s.out = append(s.out, '}')
	case reading:
		if got, ok := read[map[string]any](s, name); ok {
			outer := s.in
			s.in = got
			fields(v, s)
			s.in = outer
		}
	}
}

// keepList goes over the fields of each of a list.
func keepList[T any](s *scribe, name string, v *[]T, fields func(*T, *scribe)) {
	switch s.doing {
	case listing:
		for i := range *v {
			fields(&(*v)[i], s)
		}
	case writing:
		if len(*v) == 0 {
			return
		}
		s.key(name)
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
	case reading:
		got, _ := read[[]any](s, name)
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
				s.fail(name, got[i])
				break
			}
			fields(&(*v)[i], s)
		}
		s.in = outer
	}
}

// keepLeg goes over a reference to a leg, keepParty over one to a party.
func keepLeg(s *scribe, name string, v **leg)     { keepPlace(s, name, v, &s.legs) }
func keepParty(s *scribe, name string, v **party) { keepPlace(s, name, v, &s.parties) }

// keepPlace goes over a reference to one of a list: its place there, from 1.
func keepPlace[T any](s *scribe, name string, v **T, in *[]*T) {
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
	keepNumber(s, name, &place)
	switch {
	case s.doing != reading || place == 0:
	case place < 1 || place > len(*in):
		s.fail(name, place)
	default:
		*v = (*in)[place-1]
	}
}
