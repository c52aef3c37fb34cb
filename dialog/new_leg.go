package dialog

import (
	"cmp"
	"container/heap"
	"strconv"
	"strings"
)

// observeInvite processes an INVITE that begins a dialog, or that continues an attempt
// after a response such as 401. c is the call with the INVITE's Call-ID, nil if there is
// none. observeInvite returns the call that the INVITE belongs to; nil: it is not followed.
func (t *Tracker) observeInvite(c *call, m *Message) *call {
	var again *leg
	if c != nil {
		if !c.admitsInvite(m) {
			return c
		}
		stale := false
		if again, stale = c.findRepeated(m); stale {
			return c
		}
	}
	k := callHints{methods: t.index.methods}
	f, ext := t.directory.readInvite(m, &k)
	if again != nil {
		// The credentials may identify another caller than the INVITE before.
		p := again.party
		if same := p == nil || again.origin == PBX || ext.User == "" || p.ext.User == ext.User; same && again.continuesWith(&f) {
			t.legs.repeatInvite(again, m, &f)
			t.numbers.addRecentCaller(again, m.At)
			return c
		}
		t.legs.endRefused(again, m.At)
	} else if c != nil {
		t.legs.endAttempts(c, m)
	}
	i := inviteMatch{Message: m, links: &k, ext: ext, target: f.calledUser, diversion: f.diversion}
	if m.Src == PBX && ext.User != "" {
		i.target, i.toExtension = ext.User, true
	}
	c, joined := t.callOfInvite(c, &i)
	if c == nil || len(c.legs) >= maxLegs {
		return c
	}
	t.current = c
	t.index.indexCall(c, m, &k)
	l := t.addLeg(c, &i, &f, joined)
	t.assignParty(l, &i)
	t.indexNewLeg(l, &i)
	return c
}

// callOfInvite returns the call that an INVITE belongs to, and the method:confidence by
// which it was joined. c is the call with the INVITE's Call-ID. If c is nil, callOfInvite
// returns another call that matches, or else a new one; nil if there are too many calls.
func (t *Tracker) callOfInvite(c *call, i *inviteMatch) (_ *call, joined string) {
	if c != nil {
		return c, "call-id" + exact
	}
	m := i.Message
	if c, joined = t.correlator.correlateInvite(i); c != nil {
		if t.advanceCallTo(c, m) {
			return c, joined
		}
		joined = ""
	}
	id := t.index.ownID(m)
	if id == "" {
		id = deriveID(m.CallID, m.FromTag)
	}
	if restored := t.index.keyHolders[key{callKey, id}].call; restored != nil && t.advanceCallTo(restored, m) {
		return restored, "call-id" + exact
	}
	if len(t.deadlines) >= maxCalls {
		return nil, ""
	}
	c = &call{id: cloneString(id), began: m.At, lastHeard: m.At, deadline: m.At.Add(ringLimit), nextCheck: m.At.Add(ringLimit)}
	heap.Push(&t.deadlines, c)
	return c, joined
}

// addLeg adds a leg to a call for an INVITE with the facts f. joined is the
// method:confidence by which the leg belongs to the call.
func (t *Tracker) addLeg(c *call, i *inviteMatch, f *inviteFacts, joined string) *leg {
	m := i.Message
	l := &leg{
		call:   c,
		origin: m.Src,
		trunk:  m.Trunk != "",
		callID: m.CallID, fromTag: m.FromTag, branch: m.Branch,
		cseq:  m.CSeq,
		began: m.At, lastHeard: m.At,
		peer:        m.phone(),
		inviteFacts: *f,
		correlation: joined,
	}
	if a := c.caller; i.links.fromHistoryInfo && a != nil && m.Src == PBX && sameNumber(l.diversion, cmp.Or(a.calledDID, a.calledUser)) {
		l.diversion = "" // the called number did not divert the call
	}
	ext := i.ext // so that i stays on the stack
	l.cloneStrings(&l.callID, &l.fromTag, &l.branch, &ext.User, &ext.Domain)
	i.ext = ext
	l.callerE164, l.calledE164 = t.directory.toE164(l.callerNum, m.At), t.directory.toE164(l.calledUser, m.At)
	t.noteFollowedRefer(l, i, joined)
	if m.Src == Edge {
		l.calledExt = t.directory.dialedExtension(cmp.Or(l.calledDID, l.calledUser), l.calledHost, m.At)
	}
	if joined != "" && !strings.HasSuffix(joined, ambiguous) && len(c.legs) > 0 {
		c.correlation = joined
	}
	l.partySeed = l.branch + " " + strconv.FormatUint(uint64(l.cseq), 10)
	t.attempts.continueChallenged(l, m.At)
	c.legs = append(c.legs, l)
	if c.caller == nil && l.origin == Edge {
		c.caller = l
	}
	return l
}

// noteFollowedRefer sets i.refer to the REFER that the INVITE of leg l follows, and
// l.referredTo to the target of that REFER. If the INVITE follows no REFER, i.refer is
// nil. An INVITE of the PBX may then come from a service to which an earlier REFER
// transferred the caller, so l.referredTo becomes the number of that service. If a phone
// transfers a call that it had picked up, the pickup ends.
func (t *Tracker) noteFollowedRefer(l *leg, i *inviteMatch, joined string) {
	c := l.call
	if o := i.refer; o != nil && o.leg.call != c && strings.HasPrefix(joined, "replaces") {
		c.leavePickup(o) // REFER of a phone that has picked the call up
	} else {
		i.refer = t.refers.last(c, i.At)
	}
	switch {
	case i.refer != nil:
		l.referredTo = i.refer.target
		if i.Src == PBX {
			t.transfers.noteReferFollowed(i.refer, i.At)
		}
	case i.Src == PBX:
		l.referredTo = c.serviceNumber()
	}
}

// assignParty assigns a new leg to its party, if it has one. That is the party of the
// extension at the leg's phone, or of the extension that the PBX calls back. For a leg to
// a trunk, it is the party of the extension that forwards or transfers the call there.
func (t *Tracker) assignParty(l *leg, i *inviteMatch) {
	c, ext := l.call, i.ext
	if l.origin == PBX {
		t.parties.dialCallback(l, ext)
		t.numbers.learnShownNumber(l, i)
		kind := t.directory.kindOf(l.callerNum, i.At) // a queue, IVR or conference calls on the caller's behalf
		l.otherCaller = c.caller != nil && !i.eliminated && l.callerNum != c.caller.callerNum && !c.caller.hasNumber(l.callerNum) && kind != "" && !kind.isService()
	}
	switch isExt := ext.User != ""; {
	case isExt && l.origin == Edge:
		t.parties.joinParty(l, ext, Out)
	case isExt && c.caller == nil && len(c.legs) == 1 && t.directory.isShownAs(ext.User, l.callerNum):
		t.parties.addCallback(l, ext)
	case isExt && c.awaitsCallback(ext) && t.directory.isShownAs(ext.User, l.callerNum):
		l.party = c.callback
	case isExt:
		t.parties.joinParty(l, ext, In)
	default:
		if by, ok := t.numbers.forwardingExtension(c, i); ok {
			t.parties.joinParty(l, by, Out)
			l.party.transferred = true
		}
	}
}

// indexNewLeg indexes a new leg by its numbers, and adds the party of the service that
// its caller dialed.
func (t *Tracker) indexNewLeg(l *leg, i *inviteMatch) {
	if l.origin == PBX {
		t.numbers.indexLeg(l, i.ext.User)
		t.numbers.indexCalleeNumbers(l, i)
		return
	}
	numbers := &i.links.numbers
	by := cmp.Or(identifyingNumber(numbers[identity]), numbers[asserted])
	switch by {
	case "":
		by = i.ext.User
	case l.callerNum:
		by = l.callerNum // equal, and already in the leg's own memory
	default:
		by = cloneString(by)
	}
	t.numbers.indexLeg(l, by)
	t.parties.addService(l)
	t.numbers.indexCallerNumbers(l)
	t.numbers.addRecentCaller(l, i.At)
}
