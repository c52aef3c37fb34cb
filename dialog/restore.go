package dialog

import (
	"container/heap"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"bellhop/dialog/siptext"
)

// Restore restores the calls of records, which Changed has returned, and applies the
// events that the event log has stored since then, in its order. It reads events once, and
// retains none of them; nil: there are none. Call Restore after SetClock and before any
// message is observed. It returns an error for each call that it cannot read, and restores
// the others. node is the name of this process in the event log from then on. If several
// nodes share the log, a call without a record is restored only if its dial event names
// node.
//
// Only the event log has the events between the last snapshot and the restart. A
// party whose dial is in no snapshot continues from its dial event, and its hangup
// repeats the fields of its events in the log.
//
// A restart loses the transactions, so no response to an INVITE will come. A leg that was
// not answered ends when the calling phone sends a CANCEL, or the called phone a BYE.
func (t *Tracker) Restore(node string, records []Change, events iter.Seq[Event]) error {
	t.parties.node, t.changes.on = node, true
	var errs []error
	calls := make(map[string]*call, len(records))
	for _, r := range records {
		if len(t.deadlines)+len(calls) >= maxCalls {
			errs = append(errs, fmt.Errorf("restore calls: limit of %d reached: the others are dropped", maxCalls))
			break
		}
		c, refers, err := t.decodeSnapshot(r.Record)
		if err == nil && calls[c.id] != nil {
			err = errors.New("duplicate id")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore call %s: %w", r.Call, err))
			continue
		}
		calls[c.id] = c
		t.indexRestored(c)
		*t.refers = append(*t.refers, refers...)
	}
	if events != nil {
		for e := range events {
			t.restoreFromEvent(calls, &e)
		}
	}
	talk := t.config.talkLimit()
	for _, c := range calls {
		for _, l := range c.legs {
			l.transactionLost = l.state == calling || l.state == ringing
			if d := l.stateDeadline(talk); c.deadline.IsZero() || d.Before(c.deadline) {
				c.deadline = d
			}
		}
		for _, p := range c.parties {
			p.recovered = true
		}
		c.nextCheck = c.deadline
		heap.Push(&t.deadlines, c)
	}
	slices.SortFunc(*t.refers, func(a, b *refer) int { return a.sentAt.Compare(b.sentAt) })
	slices.SortFunc(t.numbers.recentCallers, func(a, b recentCaller) int { return a.at.Compare(b.at) })
	slices.SortFunc(t.numbers.redirectedLegs, func(a, b *leg) int { return a.ended.Compare(b.ended) })
	return errors.Join(errs...)
}

// indexRestored adds a restored call to the indexes, so that messages find it.
func (t *Tracker) indexRestored(c *call) {
	c.callIDs = slices.DeleteFunc(c.callIDs, func(id string) bool { return t.index.callByCallID[id] != nil })
	for _, id := range c.callIDs {
		t.index.callByCallID[id] = c
	}
	keys := c.keys
	c.keys = nil
	for _, k := range keys {
		t.index.addKey(c, k)
	}
	for _, l := range c.legs {
		if l.state != over {
			t.numbers.indexLeg(l, l.phoneNumber)
			if l.origin == Edge && l.awaitsAnswer() {
				t.numbers.recentCallers = append(t.numbers.recentCallers, recentCaller{l, l.lastHeard})
			}
		} else if l.redirectUsers != "" {
			t.numbers.redirectedLegs = append(t.numbers.redirectedLegs, l)
		}
		if l.state == talking {
			t.judge.notePickup(l)
		}
	}
}

// restoreFromEvent applies an event of the event log to its call, as far as the call's
// snapshot does not include it. If the call has no snapshot, a dial event of this node
// adds the call, and any other event is ignored.
func (t *Tracker) restoreFromEvent(calls map[string]*call, e *Event) {
	c, at := calls[e.Call], t.clock.steadyTime(e.At)
	if c == nil {
		if e.Type != DialIn && e.Type != DialOut || e.Leg.Node != t.parties.node || len(calls) >= maxCalls {
			return
		}
		c = &call{id: e.Call, began: at, lastHeard: at}
		calls[c.id] = c
		t.index.addKey(c, key{callKey, c.id})
	}
	if e.Seq > c.seq {
		c.seq = e.Seq
		t.changes.mark(c)
	}
	if at.After(c.lastHeard) {
		c.lastHeard = at
	}
	var p *party
	if i := slices.IndexFunc(c.parties, func(p *party) bool { return p.id == e.Party }); i >= 0 {
		p = c.parties[i]
	}
	switch e.Type {
	case DialIn, DialOut:
		if p == nil {
			p = t.partyFromEvent(c, e)
		}
		p.dialed = true
	}
	if p == nil || p.over {
		return
	}
	l := c.legOfDialog(e.Leg, func(l *leg) bool { return l.carries(p) || p == c.callback })
	switch e.Type {
	case Ringing:
		if p.rang.IsZero() {
			p.rang = at
		}
		if !p.leftAt.IsZero() && p.leftAt.Before(at) { // another phone rang since
			p.leftAt = at
		}
	case Answer:
		t.restoreAnswer(p, l, e, at)
	case Hold, Resume, Transfer:
		if id := p.eventID(e.Type); id != e.ID {
			p.repeatedEvents--
		} else if e.Type != Transfer {
			p.holding = e.Type == Hold
		} else if p.flow == Out && e.Status == Answered {
			p.noteTransferee(c.talkingParty())
		}
	case Hangup:
		t.restoreHangup(p, e, at)
	}
}

// restoreAnswer applies an answer event of party p. l is the leg that it names; nil: no
// snapshot has it.
func (t *Tracker) restoreAnswer(p *party, l *leg, e *Event, at time.Time) {
	c := p.firstLeg.call
	if !p.answered.IsZero() {
		return
	}
	p.answered, p.answeredWall, p.userAgent = at, e.At, e.UserAgent
	if e.RingDuration > 0 { // the clock may have been set since the ringing event
		p.rang = at.Add(-e.RingDuration)
	}
	if p.template != nil {
		like := *e
		p.template = &like
		p.firstLeg.began = at.Add(-e.RingDuration - e.SetupTime)
	}
	if l == nil { // another phone than the first answered
		l = t.legFromEvent(c, e)
		l.party = p
	}
	if l.state < talking {
		l.state, l.answered, l.toTag = talking, at, e.Leg.ToTag
		if l.origin == PBX && l.party != c.callback {
			c.startBridge(l, at)
		}
	}
}

// restoreHangup applies a hangup event of party p to it and to the legs that carry it.
func (t *Tracker) restoreHangup(p *party, e *Event, at time.Time) {
	c := p.firstLeg.call
	p.over = true
	p.outcome = outcome{e.Status, e.SipCode, e.SipReason, e.Q850, e.HangupBy, e.Elsewhere}
	for _, l := range c.legs {
		switch {
		case l.state == over || l.party != p && l.service != p:
		case l.outlastsParty(p):
			if l.service == p {
				l.service = nil // only the service's party is over
			}
		default:
			l.state, l.ended, l.endedBy = over, at, e.HangupBy
			l.refers.dropAll()
			t.numbers.unindexLeg(l)
			if l.origin == PBX && e.Elsewhere && !l.canceled {
				l.canceled, l.canceledAt = true, at
				c.bridgeElsewhere(l)
			}
			if l.origin == PBX {
				c.stopBridge(at)
			}
		}
	}
}

// outlastsParty reports whether leg l stays up after the end of its party p. It stays up
// if its other party is not over. But if that is the party of a queue, IVR or conference,
// outlastsParty passes it to the callees' legs, and l stays up only if there is none.
func (l *leg) outlastsParty(p *party) bool {
	if l.service == p {
		return l.party != nil && !l.party.over
	}
	return l.service != nil && !l.service.over && !l.passService()
}

// partyFromEvent adds the party of a dial event that no snapshot has, on the leg that the
// event names.
func (t *Tracker) partyFromEvent(c *call, e *Event) *party {
	like := *e // e is not retained
	p := &party{id: e.Party, ext: Extension{e.Extension.User, siptext.LowerHost(e.Extension.Domain)}, flow: e.Flow, userAgent: e.UserAgent, template: &like}
	hosted := e.Flow == In && (e.Leg.Origin == Edge || t.directory.declared[p.ext.User].isService())
	l := c.legOfDialog(e.Leg, func(l *leg) bool {
		return l.state != over && (hosted && (l.service == nil || l.service.over) || !hosted && l.party == nil)
	})
	if l == nil {
		l = t.legFromEvent(c, e)
	}
	if c.caller == nil && l.origin == Edge {
		c.caller = l
	}
	p.firstLeg = l
	c.parties = append(c.parties, p)
	if hosted {
		l.service, p.kind = p, t.directory.declared[p.ext.User]
		c.awaitAgent()
	} else {
		l.party = p
	}
	return p
}

// legFromEvent adds a leg that no snapshot has, from an event that names its dialog.
func (t *Tracker) legFromEvent(c *call, e *Event) *leg {
	at := t.clock.steadyTime(e.At)
	l := &leg{
		call: c, origin: e.Leg.Origin,
		callID: e.Leg.CallID, fromTag: e.Leg.FromTag, toTag: e.Leg.ToTag,
		began: at, lastHeard: at,
		inviteFacts: inviteFacts{callerNum: e.CallerNum, callerName: e.CallerName, calledUser: e.CalledNumber},
	}
	l.peer, _ = netip.ParseAddrPort(e.Leg.Peer)
	c.legs = append(c.legs, l)
	if t.index.callByCallID[l.callID] == nil {
		t.index.callByCallID[l.callID] = c
		c.callIDs = append(c.callIDs, l.callID)
	}
	number := l.callerNum
	if l.origin == PBX {
		number = e.Extension.User
	}
	t.numbers.indexLeg(l, number)
	return l
}

// legOfDialog returns the last leg with the origin, Call-ID and From tag of id for which
// accepts returns true; nil: none.
func (c *call) legOfDialog(id LegID, accepts func(*leg) bool) *leg {
	for _, l := range slices.Backward(c.legs) {
		if l.origin == id.Origin && l.callID == id.CallID && l.fromTag == id.FromTag && accepts(l) {
			return l
		}
	}
	return nil
}
