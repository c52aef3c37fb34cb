package dialog

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"
)

// A Change is the new state of a live call, for the store.
type Change struct {
	Call   string // its id
	Record []byte // snapshot from which Restore continues the call, a JSON object; nil: the call is over
}

// Changed returns the calls that have changed since Changed last returned them. It leaves
// out a call if the first of these changes is after until. The tracker collects changes
// from the first use of Changed on. A call that is over and was never returned is left
// out.
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
// follow. offset is how far the wall clock is ahead of the steady clock.
func (c *call) encodeSnapshot(refers []*refer, offset time.Duration) []byte {
	w := snapshotWriter{offset: offset, legs: slices.Clone(c.legs), parties: slices.Clone(c.parties)}
	s := w.callSnapshot(c)
	for _, r := range refers {
		if r.leg.call == c {
			s.Refers = append(s.Refers, w.referSnapshot(r, true, slices.Contains(r.leg.refers.all(), r)))
		}
	}
	for _, l := range c.legs {
		for _, r := range l.refers.all() {
			if !slices.Contains(refers, r) {
				s.Refers = append(s.Refers, w.referSnapshot(r, false, true))
			}
		}
	}
	for _, p := range c.parties {
		if r := p.takenRefer; r != nil && !slices.Contains(refers, r) { // its leg has ended
			s.Refers = append(s.Refers, w.referSnapshot(r, false, false))
		}
	}
	s.Legs, s.Parties = make([]legSnapshot, 0, len(w.legs)), make([]partySnapshot, 0, len(w.parties))
	for len(s.Legs) < len(w.legs) || len(s.Parties) < len(w.parties) { // each may refer to removed ones
		if n := len(s.Legs); n < len(w.legs) {
			s.Legs = append(s.Legs, w.legSnapshot(w.legs[n]))
		} else {
			s.Parties = append(s.Parties, w.partySnapshot(w.parties[len(s.Parties)]))
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.Encode(s) // cannot fail: all fields are plain
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// A snapshotWriter makes the snapshot of a call. legs and parties are those of the call,
// followed by removed ones to which they still refer.
type snapshotWriter struct {
	offset  time.Duration // of the wall clock from the steady clock
	legs    []*leg
	parties []*party
}

// stamp returns the stamp of a time of the steady clock.
func (w *snapshotWriter) stamp(at time.Time) stamp {
	if at.IsZero() {
		return ""
	}
	return wallStamp(at.Add(w.offset))
}

// wallStamp returns the stamp of a time of the wall clock.
func wallStamp(at time.Time) stamp {
	if at.IsZero() {
		return ""
	}
	return stamp(at.UTC().Format(time.RFC3339Nano))
}

// legRef returns the reference to a leg, partyRef that to a party.
func (w *snapshotWriter) legRef(l *leg) int     { return reference(&w.legs, l) }
func (w *snapshotWriter) partyRef(p *party) int { return reference(&w.parties, p) }

// reference returns the position of v in a list, counted from 1. It appends v if the list
// lacks it. For nil it returns 0.
func reference[T any](in *[]*T, v *T) int {
	if v == nil {
		return 0
	}
	i := slices.Index(*in, v)
	if i < 0 {
		i = len(*in)
		*in = append(*in, v)
	}
	return i + 1
}

func (w *snapshotWriter) callSnapshot(c *call) *callSnapshot {
	s := &callSnapshot{
		ID: c.id, Seq: c.seq, Began: w.stamp(c.began), LastHeard: w.stamp(c.lastHeard), CallIDs: c.callIDs,
		Caller: w.legRef(c.caller), CalleesStatus: c.endedCalleesStatus, Callback: w.partyRef(c.callback), LeavingParty: w.partyRef(c.leavingParty),
		Correlation: c.correlation, BridgedSince: w.stamp(c.bridgedSince), WasBridged: c.wasBridged, PickedUp: c.pickedUp, BridgedFor: c.bridgedFor,
		HandedOnTo: c.handedOnTo, LastTalker: c.lastTalker.User, LastTalkerDomain: c.lastTalker.Domain, ShownOutside: c.shownOutside,
		HasLegs: len(c.legs), HasParties: len(c.parties),
	}
	for _, k := range c.keys {
		s.Keys = append(s.Keys, keySnapshot{k.method, k.value})
	}
	return s
}

func (w *snapshotWriter) legSnapshot(l *leg) legSnapshot {
	s := legSnapshot{
		Party: w.partyRef(l.party), Service: w.partyRef(l.service), Origin: l.origin, Trunk: l.trunk, State: l.state,
		CallID: l.callID, FromTag: l.fromTag, ToTag: l.toTag, Branch: l.branch, PartySeed: l.partySeed, CSeq: l.cseq,
		Began: w.stamp(l.began), Rang: w.stamp(l.rang), LastHeard: w.stamp(l.lastHeard), DialAt: w.stamp(l.dialAt),
		Answered: w.stamp(l.answered), Ended: w.stamp(l.ended), Expires: w.stamp(l.expires),
		Offer: l.offer, OfferSeq: l.offerSeq, EarlyDirection: l.earlyDirection, PBXOfferCSeq: l.pbxOfferCSeq, PhoneOfferCSeq: l.phoneOfferCSeq, Muted: l.muted,
		Canceled: l.canceled, CanceledAt: w.stamp(l.canceledAt), CancelReason: reasonSnapshot{l.cancelReason.q850, l.cancelReason.sip, l.cancelReason.q850Zero}, PickedUp: l.pickedUp,
		ByeTag: l.byeTag, EndedBy: l.endedBy, Refusal: l.refusal.snapshot(), inviteSnapshot: l.inviteFacts.snapshot(),
		CalledExt: l.calledExt.User, CalledExtDomain: l.calledExt.Domain, NotAgent: l.notAgent, OtherCaller: l.otherCaller,
		ReferredTo: l.referredTo, Correlation: l.correlation, PhoneNumber: l.phoneNumber, OtherNumbers: l.otherNumbers, Ambiguous: l.ambiguous,
		RedirectUsers: l.redirectUsers, CallerGoneAt: w.stamp(l.callerGoneAt), TransactionLost: l.transactionLost, TriedByPBX: l.triedByPBX,
		HasReferred: l.hasReferred, RefersSent: l.refers.sent, Peer: l.peer, UACSeq: l.uacSeq, UASSeq: l.uasSeq, Loss: w.lossSnapshot(l.loss),
	}
	if k := l.unverified; k != nil {
		s.Unverified = &unverifiedSnapshot{k.branch, w.stamp(k.sentAt), k.eventSeq, k.q850, k.rec, k.offer}
	}
	for _, f := range l.forks {
		s.Forks = append(s.Forks, forkSnapshot{f.toTag, f.uacSeq, f.uasSeq, f.over, w.lossSnapshot(f.loss)})
	}
	return s
}

func (w *snapshotWriter) lossSnapshot(d *dialogLoss) *lossSnapshot {
	if d == nil {
		return nil
	}
	return &lossSnapshot{w.stamp(d.at), d.eventSeq, d.side, d.code, d.phrase}
}

func (f *inviteFacts) snapshot() inviteSnapshot {
	return inviteSnapshot{
		CallerNum: f.callerNum, CallerName: f.callerName, Verstat: f.verstat, CalledUser: f.calledUser, CalledHost: f.calledHost, CalledDID: f.calledDID,
		Diversion: f.diversion, CallAPIID: f.callAPIID, ClientAPIID: f.clientAPIID, CallBackID: f.callBackID, Tag: f.tag, RecID: f.recID,
		UserAgent: f.userAgent, Headers: flattenPairs(f.headers), CallerE164: f.callerE164, CalledE164: f.calledE164, Credentials: f.credentials,
		Hidden: f.hidden, OfferSum: f.offerSum, CallerNumRaw: f.callerNumRaw, CalledRaw: f.calledRaw, Private: f.private, Withheld: f.withheld,
	}
}

func (o *outcome) snapshot() outcomeSnapshot {
	return outcomeSnapshot{o.status, o.code, o.phrase, o.q850, o.by, o.elsewhere}
}

// flattenPairs returns pairs as one list in which each name is followed by its value.
func flattenPairs(pairs [][2]string) (flat []string) {
	for _, p := range pairs {
		flat = append(flat, p[0], p[1])
	}
	return flat
}

// referSnapshot returns the snapshot of a REFER. awaited reports that a new leg may
// follow the REFER. open reports that the leg of the REFER waits for the outcome.
func (w *snapshotWriter) referSnapshot(r *refer, awaited, open bool) referSnapshot {
	return referSnapshot{
		Leg: w.legRef(r.leg), Awaited: awaited, Open: open, ByParty: r.awaitedByParty(), SentAt: w.stamp(r.sentAt), CSeq: r.cseq,
		ReferredBy: r.referredBy, Target: r.target, Contact: r.contact, TargetExt: r.targetExt.User, TargetExtDomain: r.targetExt.Domain,
		Replaces: r.replaces, OtherCall: r.otherCall, Accepted: r.accepted, Emitted: r.emitted, Progressed: r.progressed,
		EarlyStatus: r.earlyStatus, EarlyPhrase: r.earlyPhrase,
	}
}

func (w *snapshotWriter) partySnapshot(p *party) partySnapshot {
	s := partySnapshot{
		ID: p.id, Ext: p.ext.User, ExtDomain: p.ext.Domain, Flow: p.flow, FirstLeg: w.legRef(p.firstLeg), Kind: p.kind,
		DialedNumber: p.dialedNumber, DialedE164: p.dialedE164, Dialed: p.dialed, Rang: w.stamp(p.rang), Answered: w.stamp(p.answered), AnsweredWall: wallStamp(p.answeredWall),
		Over: p.over, LeftAt: w.stamp(p.leftAt), Outcome: p.outcome.snapshot(), UserAgent: p.userAgent, RecID: p.recID,
		RemoteNumber: p.remoteNumber, CallAPIID: p.callAPIID, Distributor: p.distributor, Transferee: p.transferee, Transferred: p.transferred,
		Holding: p.holding, RepeatedEvents: p.repeatedEvents,
	}
	if e := p.template; e != nil {
		s.Template = &templateSnapshot{
			CallerNum: e.CallerNum, CallerName: e.CallerName, CallerExtension: e.CallerExtension, CalledNumber: e.CalledNumber,
			CalledExtension: e.CalledExtension, CalledDID: e.CalledDID, CallAPIID: e.CallAPIID, Diversion: e.Diversion, ClientAPIID: e.ClientAPIID,
			Correlation: e.Correlation, UserAgent: e.UserAgent, Verstat: e.Verstat, Transferred: e.Transferred, CallBackID: e.CallBackID,
			RemoteNumber: e.RemoteNumber, ANI: e.ANI, Tag: e.Tag, Headers: flattenPairs(e.Headers), CallerE164: e.CallerE164, CalledE164: e.CalledE164,
			CallerNumRaw: e.CallerNumRaw, CalledNumberRaw: e.CalledNumberRaw, Privacy: e.Privacy, Distributor: e.Distributor,
		}
	}
	return s
}
