package dialog

import (
	"slices"
	"time"
)

// A phone that picks up a call dials a code. The PBX answers that INVITE itself,
// connects the phone with the caller, and cancels the legs that rang. No header field
// names the call that was picked up: only the time identifies it.

// pickupGap is the longest time between the PBX's answer to the phone that picks up and the
// CANCELs to the legs that rang. An idle Asterisk 22 takes 2 to 15 ms, one on a machine
// with a load of 30 more than 20 (December 2026). If the PBX has answered the caller in
// between, slowPickupGap applies.
const (
	pickupGap     = 100 * time.Millisecond
	slowPickupGap = time.Second
)

// maxPickups is the number of legs in memory that may have picked up a call.
const maxPickups = 64

// notePickup keeps the leg l, which was just answered, if it may have picked up a call.
// It may if an extension calls, and the dialed number is neither that of a registered
// phone nor that of a queue, IVR or conference.
func (j *judge) notePickup(l *leg) {
	if l.origin != Edge || l.party == nil || l.service != nil || j.directory.registered(l.calledExt.User, l.answered) {
		return
	}
	if len(j.pickups) >= maxPickups {
		j.pickups = slices.Delete(j.pickups, 0, len(j.pickups)-maxPickups+1)
	}
	j.pickups = append(j.pickups, l)
}

// pickupAnswered reports whether a phone that may pick up calls was answered just before
// the callee's leg l was canceled, and the PBX called nobody for that phone.
func (j *judge) pickupAnswered(l *leg) bool {
	caller := l.call.caller
	return slices.ContainsFunc(j.pickups, func(o *leg) bool {
		gap := pickupGap
		if caller != nil && !caller.answered.Before(o.answered) && !caller.answered.After(l.canceledAt) {
			gap = slowPickupGap
		}
		after := l.canceledAt.Sub(o.answered)
		return o != caller && after >= 0 && after <= gap && !o.answered.Before(l.began) && !o.call.hasCalleeFor(o)
	})
}

// hasCalleeFor reports whether the PBX has called somebody in the call since the caller's
// leg l began.
func (c *call) hasCalleeFor(l *leg) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && !o.began.Before(l.began) })
}
