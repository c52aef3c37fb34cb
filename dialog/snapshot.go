package dialog

import (
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"bellhop/dialog/siptext"
)

// A Change is the new state of a live call, for the store.
type Change struct {
	Call   string // its id
	Record []byte // snapshot from which Restore continues the call, a JSON object; nil: the call is over
}

// Changed returns the calls that have changed by until since they were last returned; at
// its first call, it starts to collect changes. It leaves out a call that was over before
// it was ever returned.
func (t *Tracker) Changed(until time.Time) (changes []Change) {
	t.changes.on, t.emitter.events = true, nil
	n := 0
	for _, c := range t.changes.calls {
		if c.changedAt.After(until) {
			break
		}
		n++
		t.current = c
		switch {
		case c.unfinished():
			changes = append(changes, Change{c.id, c.encodeSnapshot(*t.refers, t.clock.offset())})
		case c.stored:
			changes = append(changes, Change{Call: c.id})
		}
	}
	t.current = nil
	t.changes.removeFirst(n) // last, so that a panic above changes nothing
	return changes
}

// OldestChange returns the time of the oldest change that Changed has not returned; false
// if there is none.
func (t *Tracker) OldestChange() (time.Time, bool) {
	return t.changes.oldest()
}

// encodeSnapshot returns the snapshot of a call. refers are the REFERs that a new leg may
// follow; offset is how far the wall clock is ahead.
func (c *call) encodeSnapshot(refers []*refer, offset time.Duration) []byte {
	s := snapshotCodec{offset: offset, legs: slices.Clone(c.legs), parties: slices.Clone(c.parties)}
	for _, r := range refers {
		if r.leg.call == c {
			s.refers = append(s.refers, storedRefer{r, true, r.leg.isOpenRefer(r), r.awaitedByParty()})
		}
	}
	for _, l := range c.legs {
		for _, r := range l.openRefers() {
			if !slices.Contains(refers, r) {
				s.refers = append(s.refers, storedRefer{r, false, true, r.awaitedByParty()})
			}
		}
	}
	c.codeFields(&s)
	s.mode, s.out = modeWrite, append(make([]byte, 0, 1024), '{')
	c.codeFields(&s)
	return append(s.out, '}')
}

// codeFields codes the fields of a call, its legs and its parties. Stored names are
// permanent: add names, never change one.
func (c *call) codeFields(s *snapshotCodec) {
	codeText(s, "id", &c.id)
	codeNumber(s, "seq", &c.seq)
	codeTime(s, "began", &c.began)
	codeTime(s, "heard", &c.lastHeard)
	codeTexts(s, "call_ids", &c.callIDs)
	codeList(s, "keys", &c.keys, (*key).codeFields)
	codeLeg(s, "caller", &c.caller)
	codeText(s, "callees", &c.endedCalleesStatus)
	codeParty(s, "back", &c.callback)
	codeParty(s, "leaving", &c.leavingParty)
	codeText(s, "joined", &c.correlation)
	codeTime(s, "bridged", &c.bridgedSince)
	codeFlag(s, "was_bridged", &c.wasBridged)
	codeFlag(s, "picked_up", &c.pickedUp)
	codeText(s, "handed_on", &c.handedOnTo)
	codeNumber(s, "talked", &c.bridgedFor)
	codeExtension(s, "last_talker", "last_talker_domain", &c.lastTalker)
	codeText(s, "shown", &c.shownOutside)

	// The lists hold the legs and parties of the call first, then removed ones
	// to which others still refer.
	legs, parties := len(c.legs), len(c.parties)
	codeNumber(s, "has_legs", &legs)
	codeNumber(s, "has_parties", &parties)
	codeList(s, "refers", &s.refers, (*storedRefer).codeFields)
	if s.mode == modeList {
		for i, j := 0, 0; i < len(s.legs) || j < len(s.parties); {
			if i < len(s.legs) {
				s.legs[i].codeFields(s)
				i++
			} else {
				s.parties[j].codeFields(s)
				j++
			}
		}
		return
	}
	codeList(s, "legs", &s.legs, func(l **leg, s *snapshotCodec) { (*l).codeFields(s) })
	codeList(s, "parties", &s.parties, func(p **party, s *snapshotCodec) { (*p).codeFields(s) })
	if s.mode == modeRead {
		if legs > len(s.legs) || parties > len(s.parties) || legs < 1 || parties < 0 {
			s.setError("legs and parties", []int{legs, parties})
			return
		}
		c.legs, c.parties = s.legs[:legs:legs], s.parties[:parties:parties]
	}
}

func (k *key) codeFields(s *snapshotCodec) {
	codeText(s, "by", &k.method)
	codeText(s, "value", &k.value)
}

func (l *leg) codeFields(s *snapshotCodec) {
	codeParty(s, "party", &l.party)
	codeParty(s, "host", &l.service)
	codeNumber(s, "origin", &l.origin)
	codeFlag(s, "trunk", &l.trunk)
	codeNumber(s, "state", &l.state)
	codeText(s, "call_id", &l.callID)
	codeText(s, "from_tag", &l.fromTag)
	codeText(s, "to_tag", &l.toTag)
	codeText(s, "branch", &l.branch)
	codeText(s, "turn", &l.partySeed)
	codeNumber(s, "cseq", &l.cseq)
	codeTime(s, "began", &l.began)
	codeTime(s, "rang", &l.rang)
	codeTime(s, "heard", &l.lastHeard)
	codeTime(s, "dial_at", &l.dialAt)
	codeTime(s, "answered", &l.answered)
	codeTime(s, "ended", &l.ended)
	codeTime(s, "expires", &l.expires)
	codeNumber(s, "offer", &l.offer)
	codeNumber(s, "offer_seq", &l.offerSeq)
	codeNumber(s, "early", &l.earlyDirection)
	codeFlag(s, "canceled", &l.canceled)
	codeTime(s, "canceled_at", &l.canceledAt)
	codeValue(s, "why", &l.cancelReason, (*reason).codeFields)
	codeFlag(s, "picked_up", &l.pickedUp)
	codeText(s, "bye_tag", &l.byeTag)
	codeText(s, "by", &l.endedBy)
	codeValue(s, "refused", &l.refusal, (*outcome).codeFields)
	l.inviteFacts.codeFields(s)
	codeExtension(s, "called_ext", "called_ext_domain", &l.calledExt)
	codeFlag(s, "no_agent", &l.notAgent)
	codeFlag(s, "stranger", &l.otherCaller)
	codeText(s, "referred_to", &l.referredTo)
	codeText(s, "joined", &l.correlation)
	codeText(s, "number", &l.phoneNumber)
	codeTexts(s, "also", &l.otherNumbers)
	codeFlag(s, "contested", &l.ambiguous)
	codeText(s, "moved_to", &l.redirectUsers)
	codeTime(s, "forsaken", &l.callerGoneAt)
	codeFlag(s, "cut", &l.transactionLost)
	codeFlag(s, "tried", &l.triedByPBX)
	codeFlag(s, "refers", &l.hasReferred)
	codeAddr(s, "peer", &l.peer)
	codeNumber(s, "near_seq", &l.uacSeq)
	codeNumber(s, "far_seq", &l.uasSeq)
	codeObject(s, "claim", &l.unverified, (*unverifiedRequest).codeFields)
	codeNumber(s, "refers_sent", &l.refersSent)
	codeNumber(s, "asked_pbx", &l.pbxOfferCSeq)
	codeNumber(s, "asked_phone", &l.phoneOfferCSeq)
	codeFlag(s, "muted", &l.muted)
	codeList(s, "forks", &l.forks, (*fork).codeFields)
	codeObject(s, "doubt", &l.loss, (*dialogLoss).codeFields)
	if l.state > over {
		s.setError("state", l.state)
	}
}

func (f *inviteFacts) codeFields(s *snapshotCodec) {
	codeText(s, "num", &f.callerNum)
	codeText(s, "name", &f.callerName)
	codeText(s, "verstat", &f.verstat)
	codeText(s, "called", &f.calledUser)
	codeText(s, "called_host", &f.calledHost)
	codeText(s, "did", &f.calledDID)
	codeText(s, "diversion", &f.diversion)
	codeText(s, "callapi", &f.callAPIID)
	codeText(s, "client_api", &f.clientAPIID)
	codeText(s, "callback", &f.callBackID)
	codeText(s, "tag", &f.tag)
	codeText(s, "rec", &f.recID)
	codeText(s, "agent", &f.userAgent)
	codePairs(s, "headers", &f.headers)
	codeText(s, "num_e164", &f.callerE164)
	codeText(s, "called_e164", &f.calledE164)
	codeFlag(s, "credentials", &f.credentials)
	codeFlag(s, "hidden", &f.hidden)
	codeNumber(s, "asked", &f.offerSum)
	codeText(s, "num_raw", &f.callerNumRaw)
	codeText(s, "called_raw", &f.calledRaw)
	codeFlag(s, "private", &f.private)
	codeFlag(s, "withheld", &f.withheld)
}

// codeFields leaves out a REFER: before it is accepted it has no effect, and after a
// restart its acceptance can no longer be matched.
func (k *unverifiedRequest) codeFields(s *snapshotCodec) {
	codeText(s, "branch", &k.branch)
	codeTime(s, "at", &k.sentAt)
	codeNumber(s, "seq", &k.eventSeq)
	codeNumber(s, "q850", &k.q850)
	codeText(s, "rec", &k.rec)
	codeNumber(s, "offer", &k.offer)
}

func (r *reason) codeFields(s *snapshotCodec) {
	codeNumber(s, "q850", &r.q850)
	codeNumber(s, "sip", &r.sip)
	codeFlag(s, "zero", &r.q850Zero)
}

func (o *outcome) codeFields(s *snapshotCodec) {
	codeText(s, "status", &o.status)
	codeNumber(s, "code", &o.code)
	codeText(s, "phrase", &o.phrase)
	codeNumber(s, "q850", &o.q850)
	codeText(s, "by", &o.by)
	codeFlag(s, "elsewhere", &o.elsewhere)
}

// A storedRefer is a REFER of a call in its snapshot.
type storedRefer struct {
	*refer
	awaited bool // a new leg may follow it
	open    bool // its leg waits for its outcome
	byParty bool // its party, whose legs have ended, waits for its outcome
}

func (r *storedRefer) codeFields(s *snapshotCodec) {
	if s.mode == modeRead {
		r.refer = &refer{}
	}
	codeLeg(s, "leg", &r.leg)
	codeFlag(s, "awaited", &r.awaited)
	codeFlag(s, "open", &r.open)
	codeFlag(s, "sends", &r.byParty)
	r.refer.codeFields(s)
	if r.leg == nil {
		s.setError("leg of a REFER", nil)
	}
}

func (r *refer) codeFields(s *snapshotCodec) {
	codeTime(s, "at", &r.sentAt)
	codeNumber(s, "cseq", &r.cseq)
	codeText(s, "by", &r.referredBy)
	codeText(s, "to", &r.target)
	codeText(s, "contact", &r.contact)
	codeExtension(s, "ext", "ext_domain", &r.targetExt)
	codeText(s, "replaces", &r.replaces)
	codeText(s, "other", &r.otherCall)
	codeFlag(s, "accepted", &r.accepted)
	codeFlag(s, "told", &r.emitted)
	codeFlag(s, "begun", &r.progressed)
	codeNumber(s, "taken", &r.earlyStatus)
	codeText(s, "taken_phrase", &r.earlyPhrase)
}

func (p *party) codeFields(s *snapshotCodec) {
	codeText(s, "id", &p.id)
	codeExtension(s, "ext", "ext_domain", &p.ext)
	codeText(s, "flow", &p.flow)
	codeLeg(s, "first", &p.firstLeg)
	codeText(s, "kind", &p.kind)
	codeText(s, "called", &p.dialedNumber)
	codeText(s, "called_e164", &p.dialedE164)
	codeFlag(s, "dialed", &p.dialed)
	codeTime(s, "rang", &p.rang)
	codeTime(s, "answered", &p.answered)
	codeWallTime(s, "answered_at", &p.answeredWall)
	codeFlag(s, "over", &p.over)
	codeTime(s, "left", &p.leftAt)
	codeValue(s, "outcome", &p.outcome, (*outcome).codeFields)
	codeText(s, "agent", &p.userAgent)
	codeText(s, "rec", &p.recID)
	codeText(s, "remote", &p.remoteNumber)
	codeText(s, "callapi", &p.callAPIID)
	codeObject(s, "through", &p.distributor, codeExtensionFields)
	codeFlag(s, "transferred", &p.transferred)
	codeFlag(s, "holds", &p.holding)
	codeNumber(s, "repeated", &p.repeatedEvents)
	codeObject(s, "like", &p.template, codeTemplate)
}

// codeTemplate codes the fields of an event that copyFrom copies.
func codeTemplate(e *Event, s *snapshotCodec) {
	codeText(s, "caller_num", &e.CallerNum)
	codeText(s, "caller_name", &e.CallerName)
	codeObject(s, "caller_extension", &e.CallerExtension, codeExtensionFields)
	codeText(s, "called_number", &e.CalledNumber)
	codeObject(s, "called_extension", &e.CalledExtension, codeExtensionFields)
	codeText(s, "called_did", &e.CalledDID)
	codeText(s, "callapi_id", &e.CallAPIID)
	codeText(s, "diversion", &e.Diversion)
	codeText(s, "client_api_id", &e.ClientAPIID)
	codeText(s, "correlation", &e.Correlation)
	codeText(s, "user_agent", &e.UserAgent)
	codeText(s, "verstat", &e.Verstat)
	codeFlag(s, "transferred", &e.Transferred)
	codeText(s, "callback_id", &e.CallBackID)
	codeText(s, "remote_number", &e.RemoteNumber)
	codeText(s, "ani", &e.ANI)
	codeText(s, "tag", &e.Tag)
	codePairs(s, "headers", &e.Headers)
	codeText(s, "caller_e164", &e.CallerE164)
	codeText(s, "called_e164", &e.CalledE164)
	codeText(s, "caller_num_raw", &e.CallerNumRaw)
	codeText(s, "called_number_raw", &e.CalledNumberRaw)
	codeFlag(s, "privacy", &e.Privacy)
	codeObject(s, "distributor", &e.Distributor, codeExtensionFields)
}

func codeExtensionFields(e *Extension, s *snapshotCodec) { codeExtension(s, "user", "domain", e) }

// Restore continues calls from the snapshots that Changed has returned, and from the events
// that the event log has since then, in its order. Call it after SetClock and before any
// message is observed. It returns an error for each call that it cannot read, and restores
// the others. node is the name of this process in the event log from then on, if other
// nodes share it: calls that they follow are not restored.
//
// Only the event log has what happened between the last snapshot and the restart. A party
// whose dial is in no snapshot continues from its dial event, and its hangup repeats the
// fields of its events in the log.
//
// A restart loses the transactions: no response to an INVITE will come. The calling phone
// sends CANCEL, or the called one BYE, and that ends a leg that was not answered.
func (t *Tracker) Restore(node string, records []Change, log []Event) error {
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
	for i := range log {
		t.restoreFromEvent(calls, &log[i])
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

// decodeSnapshot returns the call in a snapshot, and the REFERs that a new leg may follow.
func (t *Tracker) decodeSnapshot(record []byte) (c *call, refers []*refer, err error) {
	s := snapshotCodec{mode: modeRead}
	if err := json.Unmarshal(record, &s.in); err != nil {
		return nil, nil, err
	}
	var heard time.Time
	codeWallTime(&s, "heard", &heard)
	s.offset = heard.Sub(t.clock.steadyTime(heard)) // if the clock was set back, all times of the call move
	c = &call{stored: true}
	legs, _ := readMember[[]any](&s, "legs")
	for range legs {
		s.legs = append(s.legs, &leg{call: c})
	}
	parties, _ := readMember[[]any](&s, "parties")
	for range parties {
		s.parties = append(s.parties, &party{})
	}
	c.codeFields(&s)
	for _, l := range s.legs {
		l.calledExt.Domain = siptext.LowerHost(l.calledExt.Domain) // older versions stored it as written
	}
	for _, p := range s.parties {
		p.ext.Domain = siptext.LowerHost(p.ext.Domain)
		if p.firstLeg == nil {
			s.setError("first leg of a party", nil)
		}
		if p.answeredWall.IsZero() && !p.answered.IsZero() { // the snapshot is of an older version
			p.answeredWall = p.answered.Add(s.offset)
		}
	}
	if s.err != nil {
		return nil, nil, s.err
	}
	for _, r := range s.refers {
		if r.open {
			r.leg.restoreRefer(r.refer)
		}
		if p := r.leg.party; r.byParty && p != nil {
			p.takenRefer = r.refer
		}
		if r.awaited {
			refers = append(refers, r.refer)
		}
	}
	return c, refers, nil
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

// restoreFromEvent applies an event of the event log to its call: the changes that the
// call's snapshot does not have yet. It adds a call that has no snapshot.
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
		t.changes.markChanged(c)
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
	case Hold, Resume, Transfer:
		if id := p.eventID(e.Type); id != e.ID {
			p.repeatedEvents--
		} else if e.Type != Transfer {
			p.holding = e.Type == Hold
		}
	case Hangup:
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
				l.state, l.ended, l.endedBy, l.lastRefer, l.earlierRefers = over, at, e.HangupBy, nil, nil
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
}

// outlastsParty reports whether a leg goes on when its party p has ended, because it
// carries another party that has not. The party of a queue, IVR or conference moves to the
// legs of its callees, if there are any.
func (l *leg) outlastsParty(p *party) bool {
	if l.service == p {
		return l.party != nil && !l.party.over
	}
	return l.service != nil && !l.service.over && !l.passService()
}

// partyFromEvent adds the party of a dial event that no snapshot has, on the leg that the
// event names.
func (t *Tracker) partyFromEvent(c *call, e *Event) *party {
	like := *e // e shares memory with the whole log
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

// legOfDialog returns the last leg that has the dialog id and for which accepts returns true; nil:
// none.
func (c *call) legOfDialog(id LegID, accepts func(*leg) bool) *leg {
	for _, l := range slices.Backward(c.legs) {
		if l.origin == id.Origin && l.callID == id.CallID && l.fromTag == id.FromTag && accepts(l) {
			return l
		}
	}
	return nil
}
