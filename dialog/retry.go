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
func (l *leg) asksAgain(m *Message) bool {
	switch {
	case m.Own || l.canceled:
		return false
	case m.Status == 484:
		return l.origin == Edge && l.state == calling && !slices.ContainsFunc(l.call.legs, func(o *leg) bool {
			return o.origin == PBX && o.callID != l.callID
		})
	}
	return m.Status == 422 || m.Status == 494 || asksForLess(m.Status)
}

// asksForLess reports whether a final response refuses what the INVITE offers or
// requires, and not the call.
func asksForLess(status int) bool {
	return status == 413 || status == 415 || status == 420 || status == 421
}

// asks sums up what an INVITE offers and requires, so that a changed one is known. It
// adds a value to the sum of those before.
func asks(sum uint32, value string) uint32 {
	for i := range len(value) {
		sum = (sum ^ uint32(value[i])) * 16777619 // FNV-1a
	}
	return (sum ^ 10) * 16777619
}

// asksBody adds the body of an INVITE. The origin of a session changes with each
// attempt and offers nothing (RFC 8866 §5.2).
func asksBody(sum uint32, body string) uint32 {
	for line := range strings.SplitSeq(body, "\n") {
		if !strings.HasPrefix(line, "o=") {
			sum = asks(sum, line)
		}
	}
	return sum
}

// continues reports whether an INVITE with the facts f is the one that the leg's
// final response asked for.
func (l *leg) continues(f *facts) bool {
	return !asksForLess(l.refused.code) || l.asked != f.asked
}

// repeat shows a leg its INVITE again, as a final response asked for it.
func (t *Tracker) repeat(l *leg, m *Message, f *facts) {
	l.state, l.heard = calling, m.At
	l.branch, l.cseq = clone(m.Branch), m.CSeq
	l.credentials, l.tried, l.asked = f.credentials, false, f.asked
	l.toTag = ""
	l.peer = m.phone()
	if f.called != l.called && f.called != "" {
		t.redial(l, m, f)
	}
}

// redial notes that the INVITE that continues an attempt dials another number: more
// digits of it.
func (t *Tracker) redial(l *leg, m *Message, f *facts) {
	t.unreach(l)
	l.called, l.calledRaw, l.calledHost, l.did = clone(f.called), clone(f.calledRaw), clone(f.calledHost), clone(f.did)
	l.calledE164 = t.e164(l.called, m.At)
	if l.origin == Edge {
		l.calledExt = t.names.dialed(cmp.Or(l.did, l.called), l.calledHost, m.At)
		if h := l.host; h != nil && !h.dialed {
			l.call.parties = slices.DeleteFunc(l.call.parties, func(p *party) bool { return p == h })
			l.host = nil
		}
		if l.host == nil {
			t.host(l)
		}
	}
	t.reach(l, l.number)
}

// endAttempts ends the attempts with the Call-ID of an INVITE that begins another.
func (t *Tracker) endAttempts(c *call, m *Message) {
	for _, l := range c.legs {
		if l.state == challenged && !isChallenge(l.refused.code) && l.origin == m.Src && l.callID == m.CallID && l.fromTag != m.FromTag {
			t.endRefused(l, m.At)
		}
	}
}

// endRefused ends a leg whose INVITE did not come again.
func (t *Tracker) endRefused(l *leg, at time.Time) {
	if !isChallenge(l.refused.code) { // those who only ever met one have not called
		t.takenUp(l)
	}
	t.end(l, at, l.refused)
}
