package dialog

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// A call is the legs that belong to one conversation.
type call struct {
	id                 string
	seq                int       // Seq of the last event
	began              time.Time // time of the first INVITE
	lastHeard          time.Time // time of the last message; it never decreases
	deadline           time.Time // earliest deadline of a leg
	nextCheck          time.Time // when the heap checks the deadline: then, or earlier
	heapIndex          int       // index in Tracker.deadlines
	legs               []*leg    // in order of their INVITEs
	parties            []*party  // in order of their dials
	callIDs            []string  // Call-IDs of its legs, under which it is in callByCallID
	keys               []key     // under which it is in keyHolders
	caller             *leg      // first leg of the edge side; nil: there was none
	endedCalleesStatus Status    // heaviest status of the callees' legs that are over
	callback           *party    // party of an extension that the PBX calls back; nil: the call is no callback
	handedOnTo         string    // Call-ID of the call to whose callee a transfer connects the other end of this one; "": none
	leavingParty       *party    // its legs have ended, and the outcome of its REFER is not known yet; nil: none
	correlation        string    // method:confidence by which the last leg was joined; "": none was

	changedAt time.Time // first change since Changed returned it; zero: none
	stored    bool      // Changed has returned a snapshot of it

	bridgedSince time.Time     // since when a callee talks with the caller; zero: none does
	wasBridged   bool          // a callee has talked with the caller before
	pickedUp     bool          // the caller talks with a phone whose leg is in another call
	bridgedFor   time.Duration // total time that callees talked with the caller before bridgedSince

	lastTalker   Extension // extension of the last called party that talked, and whose legs are removed; no user: none
	shownOutside string    // the caller's number on the first leg to a trunk, kept when that leg is removed; "": none
}

// live reports whether a leg of the call is not over.
func (c *call) live() bool {
	return slices.ContainsFunc(c.legs, func(l *leg) bool { return l.state != over })
}

// otherLegAnswered reports whether another leg was answered while l rang: only then can
// that answer be why l was canceled. If the CANCEL has the cause of a pickup, the caller's
// leg does not count, because the PBX itself may have answered it.
func (c *call) otherLegAnswered(l *leg) bool {
	for _, o := range c.legs {
		if o == l || o == c.caller && l.cancelReason.q850 == causePickedUp {
			continue
		}
		if !o.answered.Before(l.began) && !o.answered.After(l.canceledAt) {
			return true
		}
	}
	return false
}

// calleesStatus returns the heaviest status of the callees' legs, "" if none is known. An
// answered leg counts as answered, and a leg that still rings as given up.
func (c *call) calleesStatus() Status {
	s := c.endedCalleesStatus
	for _, l := range c.legs {
		w := Status("")
		switch {
		case l.origin != PBX || l.state == over:
		case l.state == talking:
			w = Answered
		case l.state == challenged:
			w = l.refusal.status
		default:
			w = l.unansweredStatus()
		}
		if calleeWeight(w) > calleeWeight(s) {
			s = w
		}
	}
	if s == Forwarded {
		return ChanUnavail // forwarded, but nobody was called
	}
	return s
}

// deriveID derives an id of 32 hex digits from parts that are the same on every node.
func deriveID(parts ...string) string {
	var buf [256]byte
	b := buf[:0]
	for _, p := range parts {
		b = append(b, p...)
		b = append(b, 0)
	}
	sum := sha256.Sum256(b)
	var text [32]byte
	hex.Encode(text[:], sum[:16])
	return string(text[:])
}

// isUntaggedReinvite reports whether the INVITE m is a re-INVITE although it has no To tag:
// the other end of its dialog uses no tag (RFC 3261 §12.1.1, RFC 2543).
func (c *call) isUntaggedReinvite(m *Message) bool {
	return c != nil && slices.ContainsFunc(c.legs, func(l *leg) bool {
		return l.state == talking && l.toTag == "" && !l.transactionLost && l.callID == m.CallID && m.CSeq > l.cseq && l.inDialog(m)
	})
}

// legOfInvite returns the leg whose INVITE is m, or is answered or canceled by m; nil: m
// belongs to a transaction within a dialog.
func (c *call) legOfInvite(origin Side, m *Message) *leg {
	for _, l := range slices.Backward(c.legs) {
		if l.origin == origin && l.fromTag == m.FromTag && l.callID == m.CallID {
			l.learnTransaction(m)
			if l.branch == m.Branch {
				return l
			}
		}
	}
	return nil
}

// findRepeated returns the leg that the INVITE m continues: a leg of the same caller that
// was challenged, or refused with a response that asks for another INVITE (RFC 3261 §22.2:
// same Call-ID and From tag, higher CSeq). stale reports that a leg has m's transaction or
// a later one, so m is to be ignored. If again is nil and stale is false, m begins another
// leg: a fork or another attempt.
func (c *call) findRepeated(m *Message) (again *leg, stale bool) {
	for _, l := range c.legs {
		if l.origin != m.Src || l.fromTag != m.FromTag || l.callID != m.CallID {
			continue
		}
		l.learnTransaction(m)
		switch {
		case l.cseq > m.CSeq, l.cseq == m.CSeq && l.branch == m.Branch:
			l.transactionLost = l.transactionLost && l.cseq > m.CSeq // the INVITE was retransmitted after a restart
			return nil, true
		case l.state == challenged && l.cseq < m.CSeq:
			again = l
		}
	}
	return again, false
}

// unfinished reports whether a call may still emit events, such as the hangup of a party
// whose last leg was just refused.
func (c *call) unfinished() bool {
	return c.live() || slices.ContainsFunc(c.parties, func(p *party) bool { return p.dialed && !p.over })
}

// cloneString returns a copy of s: a part of a message would keep the whole message in
// memory.
func cloneString(s string) string { return strings.Clone(s) }
