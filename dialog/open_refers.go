package dialog

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxOpenRefers is how many REFERs of a leg, beside the last, may be without an
// outcome.
const maxOpenRefers = 8

// openRefers returns the REFERs of a leg whose outcome is not known, the oldest first.
func (l *leg) openRefers() []*refer {
	if l.lastRefer == nil {
		return l.earlierRefers
	}
	return append(l.earlierRefers[:len(l.earlierRefers):len(l.earlierRefers)], l.lastRefer)
}

// referOf returns the open REFER with a CSeq; nil: there is none.
func (l *leg) referOf(cseq uint32) *refer {
	for _, r := range l.openRefers() {
		if r.cseq == cseq {
			return r
		}
	}
	return nil
}

// referOfEvent returns the open REFER that a NOTIFY with an Event header field is
// about; nil: there is none. The id is the CSeq of the REFER; only the first REFER of a
// dialog may do without (RFC 3515 §2.4.6). Where there was one only, any id is its.
func (l *leg) referOfEvent(event string) *refer {
	kind, params, _ := strings.Cut(event, ";")
	if kind = strings.TrimSpace(kind); kind != "" && !strings.EqualFold(kind, "refer") {
		return nil
	}
	id, ok := paramValue(params, "id")
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

// drop takes a REFER from the open ones.
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

// settle notes the outcome of an open REFER. One that failed after the phone had sent
// another is not told: the phone itself has given it up.
func (t *Tracker) settleRefer(r *refer, at time.Time, code int, phrase string) {
	if r != r.leg.lastRefer && code >= 300 {
		r.leg.dropRefer(r)
		t.removeRecentRefer(r)
		return
	}
	t.emitTransfer(r, at, code, phrase, "")
}

// keepOpen gives a leg that is restored its open REFERs back: the last by time is
// the one that no other has followed.
func (l *leg) restoreRefer(r *refer) {
	open := append(l.openRefers(), r)
	slices.SortStableFunc(open, func(a, b *refer) int { return a.at.Compare(b.at) })
	n := len(open) - 1
	l.lastRefer, l.earlierRefers = open[n], open[:n:n]
}

// isOpen reports whether the outcome of a leg's REFER is not known.
func (l *leg) isOpenRefer(r *refer) bool { return slices.Contains(l.openRefers(), r) }
