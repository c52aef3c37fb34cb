package dialog

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// recentRefers are the REFERs of the last seconds that a new leg may follow, oldest first.
type recentRefers []*refer

// maxRefers is the number of recent REFERs in memory.
const maxRefers = 1 << 10

// add adds a REFER. It removes those that are older by more than progressWindow, and the
// oldest one if there are maxRefers.
func (s *recentRefers) add(r *refer) {
	for len(*s) > 0 && (len(*s) >= maxRefers || r.sentAt.Sub((*s)[0].sentAt) > progressWindow) {
		*s = (*s)[1:]
	}
	*s = append(*s, r)
}

// remove removes a REFER.
func (s *recentRefers) remove(r *refer) {
	if i := slices.Index(*s, r); i >= 0 {
		*s = append((*s)[:i:i], (*s)[i+1:]...)
	}
}

// removeCall removes the REFERs of a call.
func (s *recentRefers) removeCall(c *call) {
	*s = slices.DeleteFunc(*s, func(r *refer) bool { return r.leg.call == c })
}

// last returns the last REFER without Replaces that a phone of the call has sent within
// progressWindow; nil: none.
func (s *recentRefers) last(c *call, now time.Time) *refer {
	for _, r := range slices.Backward(*s) {
		if r.leg.call == c && r.replaces == "" && now.Sub(r.sentAt) <= progressWindow {
			return r
		}
	}
	return nil
}

// openRefers are the REFERs of a leg's phone whose outcome is not known yet.
type openRefers struct {
	last    *refer   // last REFER that the phone has sent; nil: none, or its outcome is known
	earlier []*refer // REFERs before that, oldest first
	sent    int      // number of REFERs that the phone has sent
}

// maxOpenRefers is the number of open REFERs of a leg beside the last one.
const maxOpenRefers = 8

// add adds a REFER that the phone has sent. If there are too many then, it removes the
// oldest one and returns it.
func (s *openRefers) add(r *refer) (evicted *refer) {
	if s.last != nil {
		s.earlier = append(s.earlier, s.last)
	}
	if len(s.earlier) > maxOpenRefers {
		evicted = s.earlier[0]
		s.earlier = s.earlier[1:]
	}
	s.last = r
	s.sent++
	return evicted
}

// all returns the open REFERs, the oldest first.
func (s *openRefers) all() []*refer {
	if s.last == nil {
		return s.earlier
	}
	return append(s.earlier[:len(s.earlier):len(s.earlier)], s.last)
}

// ofCSeq returns the open REFER with a CSeq; nil: none.
func (s *openRefers) ofCSeq(cseq uint32) *refer {
	for _, r := range s.all() {
		if r.cseq == cseq {
			return r
		}
	}
	return nil
}

// ofEvent returns the open REFER that a NOTIFY with an Event header field is about; nil:
// none. The parameter id is the CSeq of the REFER. Only the first REFER of a dialog may
// omit it (RFC 3515 §2.4.6). If id is absent, or the phone has sent only one REFER,
// ofEvent returns the oldest open REFER.
func (s *openRefers) ofEvent(event string) *refer {
	kind, params, _ := strings.Cut(event, ";")
	if kind = strings.TrimSpace(kind); kind != "" && !strings.EqualFold(kind, "refer") {
		return nil
	}
	id, ok := siptext.Param(params, "id")
	if !ok || s.sent < 2 {
		if open := s.all(); len(open) > 0 {
			return open[0]
		}
		return nil
	}
	cseq, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return nil
	}
	return s.ofCSeq(uint32(cseq))
}

// drop removes a REFER, because its outcome is known or no longer matters.
func (s *openRefers) drop(r *refer) {
	if s.last == r {
		s.last = nil
		return
	}
	if len(s.earlier) == 0 {
		return
	}
	s.earlier = slices.DeleteFunc(slices.Clone(s.earlier), func(o *refer) bool { return o == r })
}

// dropAll removes all REFERs, because the leg has ended.
func (s *openRefers) dropAll() { s.last, s.earlier = nil, nil }

// restore adds an open REFER of a snapshot. The latest one becomes the last.
func (s *openRefers) restore(r *refer) {
	open := append(s.all(), r)
	slices.SortStableFunc(open, func(a, b *refer) int { return a.sentAt.Compare(b.sentAt) })
	n := len(open) - 1
	s.last, s.earlier = open[n], open[:n:n]
}
