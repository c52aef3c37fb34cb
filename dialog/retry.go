package dialog

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// retryWithin is how long after a final response that asks for another INVITE that
// INVITE continues the attempt: the Call-ID and the From tag are the same, the CSeq is
// higher. It is no second call.
const retryWithin = 30 * time.Second

// isChallenge reports whether a final response asks for credentials (RFC 3261 §22).
func isChallenge(status int) bool { return status == 401 || status == 407 }

// asksAgain reports whether the caller on leg l answers the final response m with
// another INVITE: with a longer session interval (RFC 4028 §6), with security (RFC
// 3329), with more digits (RFC 3578), or with another offer (RFC 3261 §8.1.3.5). More
// digits complete a number that the PBX itself found too short, before it called
// anybody.
func (l *leg) asksForRetry(m *Message) bool {
	switch {
	case m.Own || l.canceled:
		return false
	case m.Status == 484:
		return l.origin == Edge && l.state == calling && !slices.ContainsFunc(l.call.legs, func(o *leg) bool {
			return o.origin == PBX && o.callID != l.callID
		})
	}
	return m.Status == 422 || m.Status == 494 || refusesOffer(m.Status)
}

// asksForLess reports whether a final response refuses what the INVITE offers or
// requires, and not the call.
func refusesOffer(status int) bool {
	return status == 413 || status == 415 || status == 420 || status == 421
}

// asks sums up what an INVITE offers and requires, so that a changed one is known. It
// adds a value to the sum of those before.
func addToSum(sum uint32, value string) uint32 {
	for i := range len(value) {
		sum = (sum ^ uint32(value[i])) * 16777619 // FNV-1a
	}
	return (sum ^ 10) * 16777619
}

// asksBody adds the body of an INVITE. The origin of a session changes with each
// attempt and offers nothing (RFC 8866 §5.2).
func addBodyToSum(sum uint32, body string) uint32 {
	for line := range strings.SplitSeq(body, "\n") {
		if !strings.HasPrefix(line, "o=") {
			sum = addToSum(sum, line)
		}
	}
	return sum
}

// continues reports whether an INVITE with the facts f is the one that the leg's
// final response asked for.
func (l *leg) continuesWith(f *inviteFacts) bool {
	return !refusesOffer(l.refusal.code) || l.offerSum != f.offerSum
}

// repeat shows a leg its INVITE again, as a final response asked for it.
func (t *Tracker) repeatInvite(l *leg, m *Message, f *inviteFacts) {
	l.state, l.lastHeard = calling, m.At
	l.branch, l.cseq = cloneString(m.Branch), m.CSeq
	l.credentials, l.triedByPBX, l.offerSum = f.credentials, false, f.offerSum
	l.toTag = ""
	l.peer = m.phone()
	if f.calledUser != l.calledUser && f.calledUser != "" {
		t.redialLeg(l, m, f)
	}
}

// redial notes that the INVITE that continues an attempt dials another number: more
// digits of it.
func (t *Tracker) redialLeg(l *leg, m *Message, f *inviteFacts) {
	t.unindexLeg(l)
	l.calledUser, l.calledRaw, l.calledHost, l.calledDID = cloneString(f.calledUser), cloneString(f.calledRaw), cloneString(f.calledHost), cloneString(f.calledDID)
	l.calledE164 = t.toE164(l.calledUser, m.At)
	if l.origin == Edge {
		l.calledExt = t.directory.dialedExtension(cmp.Or(l.calledDID, l.calledUser), l.calledHost, m.At)
		if h := l.service; h != nil && !h.dialed {
			l.call.parties = slices.DeleteFunc(l.call.parties, func(p *party) bool { return p == h })
			l.service = nil
		}
		if l.service == nil {
			t.addService(l)
		}
	}
	t.indexLeg(l, l.phoneNumber)
}

// endAttempts ends the attempts with the Call-ID of an INVITE that begins another.
func (t *Tracker) endAttempts(c *call, m *Message) {
	for _, l := range c.legs {
		if l.state == challenged && !isChallenge(l.refusal.code) && l.origin == m.Src && l.callID == m.CallID && l.fromTag != m.FromTag {
			t.endRefused(l, m.At)
		}
	}
}

// endRefused ends a leg whose INVITE did not come again.
func (t *Tracker) endRefused(l *leg, at time.Time) {
	if !isChallenge(l.refusal.code) { // those who only ever met one have not called
		t.emitPendingDials(l)
	}
	t.endLeg(l, at, l.refusal)
}
