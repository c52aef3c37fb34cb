package dialog

import (
	"bellhop/dialog/siptext"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recentRefers are the REFERs of the last seconds that a new leg may follow, oldest first.
type recentRefers []*refer

// maxRefers is the number of REFERs that may be waiting for the calls they cause.
const maxRefers = 1 << 10

// add adds a REFER, and removes those that are too old.
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

// last returns the last REFER that a phone of the call has sent within progressWindow to
// have a number called; nil: none.
func (s *recentRefers) last(c *call, now time.Time) *refer {
	for _, r := range slices.Backward(*s) {
		if r.leg.call == c && r.replaces == "" && now.Sub(r.sentAt) <= progressWindow {
			return r
		}
	}
	return nil
}

// maxOpenRefers is the number of REFERs of a leg without an outcome, beside the last one.
const maxOpenRefers = 8

// openRefers returns the REFERs of a leg whose outcome is not known, the oldest first.
func (l *leg) openRefers() []*refer {
	if l.lastRefer == nil {
		return l.earlierRefers
	}
	return append(l.earlierRefers[:len(l.earlierRefers):len(l.earlierRefers)], l.lastRefer)
}

// referOf returns the open REFER with a CSeq; nil: none.
func (l *leg) referOf(cseq uint32) *refer {
	for _, r := range l.openRefers() {
		if r.cseq == cseq {
			return r
		}
	}
	return nil
}

// referOfEvent returns the open REFER that a NOTIFY with an Event header field is about;
// nil: none. The id is the CSeq of the REFER; only the first REFER of a dialog may omit it
// (RFC 3515 §2.4.6). If the leg had only one, any id matches.
func (l *leg) referOfEvent(event string) *refer {
	kind, params, _ := strings.Cut(event, ";")
	if kind = strings.TrimSpace(kind); kind != "" && !strings.EqualFold(kind, "refer") {
		return nil
	}
	id, ok := siptext.Param(params, "id")
	if !ok || l.refersSent < 2 {
		if open := l.openRefers(); len(open) > 0 {
			return open[0]
		}
		return nil
	}
	cseq, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return nil
	}
	return l.referOf(uint32(cseq))
}

// dropRefer removes a REFER from the open ones.
func (l *leg) dropRefer(r *refer) {
	if l.lastRefer == r {
		l.lastRefer = nil
		return
	}
	if len(l.earlierRefers) == 0 {
		return
	}
	l.earlierRefers = slices.DeleteFunc(slices.Clone(l.earlierRefers), func(o *refer) bool { return o == r })
}

// restoreRefer adds an open REFER to a leg that is restored. The latest one becomes
// lastRefer.
func (l *leg) restoreRefer(r *refer) {
	open := append(l.openRefers(), r)
	slices.SortStableFunc(open, func(a, b *refer) int { return a.sentAt.Compare(b.sentAt) })
	n := len(open) - 1
	l.lastRefer, l.earlierRefers = open[n], open[:n:n]
}

// isOpenRefer reports whether a REFER of a leg has no outcome yet.
func (l *leg) isOpenRefer(r *refer) bool { return slices.Contains(l.openRefers(), r) }
