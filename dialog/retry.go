package dialog

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// retryWithin is how long after a final response such as 401 the caller may repeat the
// INVITE, with the same Call-ID and From tag and a higher CSeq. A repetition within this
// time continues the attempt. A later one is a second call.
const retryWithin = 30 * time.Second

// isChallenge reports whether a final response asks for credentials (RFC 3261 §22).
func isChallenge(status int) bool { return status == 401 || status == 407 }

// asksForRetry reports whether the caller on leg l is expected to answer the final
// response m with another INVITE: with a longer session interval (RFC 4028 §6), with
// security (RFC 3329), with more digits (RFC 3578), or with another offer (RFC 3261
// §8.1.3.5). More digits are expected only if the PBX itself found the number too short,
// before it called anybody.
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

// refusesOffer reports whether a final response refuses only what the INVITE offers or
// requires, and not the call itself.
func refusesOffer(status int) bool {
	return status == 413 || status == 415 || status == 420 || status == 421
}

// addToSum adds a value to the sum of what an INVITE offers and requires. A changed
// INVITE is recognized by another sum.
func addToSum(sum uint32, value string) uint32 {
	for i := range len(value) {
		sum = (sum ^ uint32(value[i])) * 16777619 // FNV-1a
	}
	return (sum ^ 10) * 16777619
}

// addBodyToSum adds the body of an INVITE to the sum. It leaves out the origin line, which
// changes with each attempt and offers nothing (RFC 8866 §5.2).
func addBodyToSum(sum uint32, body string) uint32 {
	for line := range strings.SplitSeq(body, "\n") {
		if !strings.HasPrefix(line, "o=") {
			sum = addToSum(sum, line)
		}
	}
	return sum
}

// continuesWith reports whether an INVITE with the facts f can be the one that the leg's
// final response asked for. It cannot if the response refused the offer and the INVITE
// has the same offer.
func (l *leg) continuesWith(f *inviteFacts) bool {
	return !refusesOffer(l.refusal.code) || l.offerSum != f.offerSum
}

// repeatInvite applies the INVITE m that continues the leg's attempt after a final
// response.
func (t *legTracker) repeatInvite(l *leg, m *Message, f *inviteFacts) {
	l.state, l.lastHeard = calling, m.At
	l.branch, l.cseq = cloneString(m.Branch), m.CSeq
	l.credentials, l.triedByPBX, l.offerSum = f.credentials, false, f.offerSum
	l.toTag = ""
	l.peer = m.phone()
	if f.calledUser != l.calledUser && f.calledUser != "" {
		t.redialLeg(l, m, f)
	}
}

// redialLeg applies the longer number of an INVITE that continues an attempt.
func (t *legTracker) redialLeg(l *leg, m *Message, f *inviteFacts) {
	t.numbers.unindexLeg(l)
	l.calledUser, l.calledRaw, l.calledHost, l.calledDID = cloneString(f.calledUser), cloneString(f.calledRaw), cloneString(f.calledHost), cloneString(f.calledDID)
	l.calledE164 = t.directory.toE164(l.calledUser, m.At)
	if l.origin == Edge {
		l.calledExt = t.directory.dialedExtension(cmp.Or(l.calledDID, l.calledUser), l.calledHost, m.At)
		if h := l.service; h != nil && !h.dialed {
			l.call.removeParty(h)
			l.service = nil
		}
		if l.service == nil {
			t.parties.addService(l)
		}
	}
	t.numbers.indexLeg(l, l.phoneNumber)
}

// endAttempts ends the attempts that wait for another INVITE after a response other than
// a challenge, if they have the Call-ID of m and another From tag. The caller begins a
// new attempt with m instead.
func (t *legTracker) endAttempts(c *call, m *Message) {
	for _, l := range c.legs {
		if l.state == challenged && !isChallenge(l.refusal.code) && l.origin == m.Src && l.callID == m.CallID && l.fromTag != m.FromTag {
			t.endRefused(l, m.At)
		}
	}
}

// endRefused ends a leg whose INVITE was not repeated.
func (t *legTracker) endRefused(l *leg, at time.Time) {
	if !isChallenge(l.refusal.code) { // an attempt that met only challenges is no call
		t.parties.emitPendingDials(l)
	}
	t.endLeg(l, at, l.refusal)
}
