package dialog

import (
	"slices"
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
