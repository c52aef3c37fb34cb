package dialog

import (
	"slices"
	"time"
)

// A phone that picks up a call dials a code. The PBX answers that INVITE itself,
// connects the phone with the caller, and cancels the legs that rang. No header field
// names the call that was picked up: only the time does.

// pickupGap is how long after it has answered the phone that picks up a PBX cancels
// the legs that rang. Asterisk takes 2 to 15 ms.
const pickupGap = 20 * time.Millisecond

// maxPickups is how many legs are kept that may have picked up a call.
const maxPickups = 64

// notePickup keeps a leg that was just answered if it may have picked up a call: an
// extension calls, and its number leads neither to a phone nor to a queue, menu or
// conference.
func (t *Tracker) notePickup(l *leg) {
	if l.origin != Edge || l.party == nil || l.host != nil || t.names.registered(l.calledExt.User, l.answered) {
		return
	}
	if len(t.pickups) >= maxPickups {
		t.pickups = slices.Delete(t.pickups, 0, len(t.pickups)-maxPickups+1)
	}
	t.pickups = append(t.pickups, l)
}

// pickedUp reports whether a phone was answered just before the callee's leg l was
// canceled, and nobody was called for it.
func (t *Tracker) pickedUp(l *leg) bool {
	return slices.ContainsFunc(t.pickups, func(o *leg) bool {
		after := l.canceledAt.Sub(o.answered)
		return o != l.call.caller && after >= 0 && after <= pickupGap && !o.answered.Before(l.began) && !o.call.calls(o)
	})
}

// calls reports whether a callee's leg of the call is not older than its caller's
// leg l.
func (c *call) calls(l *leg) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && !o.began.Before(l.began) })
}
