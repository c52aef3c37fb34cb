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
	nextCheck          time.Time // when the call is checked next: at the deadline, or earlier
	heapIndex          int       // index in Tracker.deadlines
	legs               []*leg    // in order of their INVITEs
	parties            []*party  // in order of their dials
	callIDs            []string  // Call-IDs of its legs, under which it is in callByCallID
	keys               []key     // under which it is in keyHolders
	caller             *leg      // first leg of the edge side; nil: there was none
	endedCalleesStatus Status    // status with the highest calleeWeight of the callees' legs that are over
	callback           *party    // party of an extension that the PBX calls back; nil: the call is no callback
	handedOnTo         string    // Call-ID of another call, with whose callee a transfer connects the other end of this call; "": none
	leavingParty       *party    // party whose legs have ended before the outcome of its REFER is known; nil: none
	correlation        string    // method:confidence by which the last leg was joined to the call; "": no leg was

	changedAt time.Time // time of the first change that Changed has not returned yet; zero: none
	stored    bool      // Changed has returned a snapshot of it

	bridgedSince time.Time     // since when at least one callee talks with the caller; zero: none talks
	wasBridged   bool          // a callee has talked with the caller before
	pickedUp     bool          // the caller talks with a phone whose leg is in another call
	bridgedFor   time.Duration // total time that callees talked with the caller before bridgedSince

	lastTalker   Extension // extension of the called party that talked last, kept when a leg is removed; no user: none
	shownOutside string    // the caller's number on the first leg to a trunk, kept when that leg is removed; "": none
}

// live reports whether the call has a leg that is not over.
func (c *call) live() bool {
	return slices.ContainsFunc(c.legs, func(l *leg) bool { return l.state != over })
}

// otherLegAnswered reports whether another leg of the call was answered between the
// INVITE and the CANCEL of l. Only such an answer can be why the PBX canceled l. If the
// CANCEL has the cause of a pickup, the caller's leg does not count, because the PBX
// itself may have answered it.
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

// calleesStatus returns the status with the highest calleeWeight of all callees' legs, or
// "" if there is no callee. A leg that is talking counts as Answered. A leg that still
// rings counts as if the PBX gave it up.
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

// isUntaggedReinvite reports whether the INVITE m is a re-INVITE although it has no To
// tag. It is one if the other end of its dialog uses no tag (RFC 3261 §12.1.1, RFC 2543).
func (c *call) isUntaggedReinvite(m *Message) bool {
	return c != nil && slices.ContainsFunc(c.legs, func(l *leg) bool {
		return l.state == talking && l.toTag == "" && !l.transactionLost && l.callID == m.CallID && m.CSeq > l.cseq && l.inDialog(m)
	})
}

// legOfInvite returns the leg to whose INVITE m belongs: m is that INVITE, a response to
// it or the CANCEL of it. It returns nil if m belongs to another transaction, such as a
// re-INVITE.
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

// findRepeated returns the challenged leg that the INVITE m continues, or nil. m has the
// leg's Call-ID and From tag and a higher CSeq (RFC 3261 §22.2). stale reports that m is
// to be ignored, because a leg has m's transaction or a later one. If again is nil and
// stale is false, m begins another leg: a fork or another attempt.
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

// unfinished reports whether a call may still emit events: a leg is not over, or a dialed
// party has no hangup yet. Such a party may outlast its last leg.
func (c *call) unfinished() bool {
	return c.live() || slices.ContainsFunc(c.parties, func(p *party) bool { return p.dialed && !p.over })
}

// cloneString returns a copy of s. Storing a part of a message instead of a copy would
// keep the whole message in memory.
func cloneString(s string) string { return strings.Clone(s) }
