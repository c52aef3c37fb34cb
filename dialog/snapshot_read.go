package dialog

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"bellhop/dialog/siptext"
)

// A snapshotReader makes the call of a snapshot.
type snapshotReader struct {
	offset  time.Duration // of the wall clock, which stored times use, from the steady clock
	legs    []*leg
	parties []*party
	err     error // the first one
}

// decodeSnapshot returns the call in a snapshot, and the REFERs that a new leg may follow.
func (t *Tracker) decodeSnapshot(record []byte) (c *call, refers []*refer, err error) {
	var s callSnapshot
	if err := json.Unmarshal(record, &s); err != nil {
		return nil, nil, err
	}
	if s.HasLegs < 1 || s.HasLegs > len(s.Legs) || s.HasParties < 0 || s.HasParties > len(s.Parties) {
		return nil, nil, fmt.Errorf("invalid legs and parties: %d of %d, %d of %d", s.HasLegs, len(s.Legs), s.HasParties, len(s.Parties))
	}
	var r snapshotReader
	heard := r.wall(s.LastHeard)
	r.offset = heard.Sub(t.clock.steadyTime(heard)) // if the clock was set back, all times of the call move
	for range s.Legs {
		r.legs = append(r.legs, &leg{})
	}
	for range s.Parties {
		r.parties = append(r.parties, &party{})
	}
	c = r.call(&s)
	for i := range s.Legs {
		r.fillLeg(r.legs[i], &s.Legs[i])
		r.legs[i].call = c
	}
	for i := range s.Parties {
		r.fillParty(r.parties[i], &s.Parties[i])
	}
	for i := range s.Refers {
		if o := r.refer(&s.Refers[i]); o != nil && s.Refers[i].Awaited {
			refers = append(refers, o)
		}
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	return c, refers, nil
}

// setError keeps the first error: a name and its invalid value.
func (r *snapshotReader) setError(name string, v any) {
	if r.err == nil {
		r.err = fmt.Errorf("invalid %s: %v", name, v)
	}
}

// wall returns the time of a stamp, zero if there is none.
func (r *snapshotReader) wall(s stamp) time.Time {
	if s == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		r.setError("time", s)
	}
	return at
}

// steady returns the time of a stamp by the steady clock.
func (r *snapshotReader) steady(s stamp) time.Time {
	if s == "" {
		return time.Time{}
	}
	return r.wall(s).Add(-r.offset)
}

// leg returns the leg to which ref refers, and party the party; nil if ref is 0.
func (r *snapshotReader) leg(name string, ref int) *leg { return dereference(r, name, ref, r.legs) }
func (r *snapshotReader) party(name string, ref int) *party {
	return dereference(r, name, ref, r.parties)
}

func dereference[T any](r *snapshotReader, name string, ref int, in []*T) *T {
	switch {
	case ref == 0:
		return nil
	case ref < 0 || ref > len(in):
		r.setError(name, ref)
		return nil
	}
	return in[ref-1]
}

// pairs returns the pairs of a list in which each name is followed by its value.
func (r *snapshotReader) pairs(name string, flat []string) (pairs [][2]string) {
	if len(flat)%2 != 0 {
		r.setError(name, flat)
		return nil
	}
	for p := range slices.Chunk(flat, 2) {
		pairs = append(pairs, [2]string(p))
	}
	return pairs
}

func (r *snapshotReader) call(s *callSnapshot) *call {
	c := &call{
		id: s.ID, seq: s.Seq, began: r.steady(s.Began), lastHeard: r.steady(s.LastHeard), callIDs: s.CallIDs,
		legs: r.legs[:s.HasLegs:s.HasLegs], parties: r.parties[:s.HasParties:s.HasParties],
		caller: r.leg("caller", s.Caller), endedCalleesStatus: s.CalleesStatus, callback: r.party("back", s.Callback), leavingParty: r.party("leaving", s.LeavingParty),
		correlation: s.Correlation, bridgedSince: r.steady(s.BridgedSince), wasBridged: s.WasBridged, pickedUp: s.PickedUp, bridgedFor: s.BridgedFor,
		handedOnTo: s.HandedOnTo, lastTalker: Extension{s.LastTalker, s.LastTalkerDomain}, shownOutside: s.ShownOutside,
		stored: true,
	}
	for _, k := range s.Keys {
		c.keys = append(c.keys, key{k.Method, k.Value})
	}
	return c
}

func (r *snapshotReader) fillLeg(l *leg, s *legSnapshot) {
	*l = leg{
		party: r.party("party", s.Party), service: r.party("host", s.Service), origin: s.Origin, trunk: s.Trunk, state: s.State,
		callID: s.CallID, fromTag: s.FromTag, toTag: s.ToTag, branch: s.Branch, partySeed: s.PartySeed, cseq: s.CSeq,
		began: r.steady(s.Began), rang: r.steady(s.Rang), lastHeard: r.steady(s.LastHeard), dialAt: r.steady(s.DialAt),
		answered: r.steady(s.Answered), ended: r.steady(s.Ended), expires: r.steady(s.Expires),
		offer: s.Offer, offerSeq: s.OfferSeq, earlyDirection: s.EarlyDirection, pbxOfferCSeq: s.PBXOfferCSeq, phoneOfferCSeq: s.PhoneOfferCSeq, muted: s.Muted,
		canceled: s.Canceled, canceledAt: r.steady(s.CanceledAt), cancelReason: reason{s.CancelReason.Q850, s.CancelReason.SIP, s.CancelReason.Q850Zero}, pickedUp: s.PickedUp,
		byeTag: s.ByeTag, endedBy: s.EndedBy, refusal: s.Refusal.outcome(), inviteFacts: r.inviteFacts(&s.inviteSnapshot),
		calledExt: Extension{s.CalledExt, siptext.LowerHost(s.CalledExtDomain)}, // older versions stored it as written
		notAgent:  s.NotAgent, otherCaller: s.OtherCaller,
		referredTo: s.ReferredTo, correlation: s.Correlation, phoneNumber: s.PhoneNumber, otherNumbers: s.OtherNumbers, ambiguous: s.Ambiguous,
		redirectUsers: s.RedirectUsers, callerGoneAt: r.steady(s.CallerGoneAt), transactionLost: s.TransactionLost, triedByPBX: s.TriedByPBX,
		hasReferred: s.HasReferred, refers: openRefers{sent: s.RefersSent}, peer: s.Peer, uacSeq: s.UACSeq, uasSeq: s.UASSeq, loss: r.loss(s.Loss),
	}
	if k := s.Unverified; k != nil {
		l.unverified = &unverifiedRequest{branch: k.Branch, sentAt: r.steady(k.SentAt), eventSeq: k.EventSeq, q850: k.Q850, rec: k.RecID, offer: k.Offer}
	}
	for _, f := range s.Forks {
		l.forks = append(l.forks, fork{f.ToTag, f.UACSeq, f.UASSeq, f.Over, r.loss(f.Loss)})
	}
	if l.state > over {
		r.setError("state", uint8(l.state))
	}
}

func (r *snapshotReader) loss(s *lossSnapshot) *dialogLoss {
	if s == nil {
		return nil
	}
	return &dialogLoss{r.steady(s.At), s.EventSeq, s.Side, s.Code, s.Phrase}
}

func (r *snapshotReader) inviteFacts(s *inviteSnapshot) inviteFacts {
	return inviteFacts{
		callerNum: s.CallerNum, callerName: s.CallerName, verstat: s.Verstat, calledUser: s.CalledUser, calledHost: s.CalledHost, calledDID: s.CalledDID,
		diversion: s.Diversion, callAPIID: s.CallAPIID, clientAPIID: s.ClientAPIID, callBackID: s.CallBackID, tag: s.Tag, recID: s.RecID,
		userAgent: s.UserAgent, headers: r.pairs("headers", s.Headers), callerE164: s.CallerE164, calledE164: s.CalledE164, credentials: s.Credentials,
		hidden: s.Hidden, offerSum: s.OfferSum, callerNumRaw: s.CallerNumRaw, calledRaw: s.CalledRaw, private: s.Private, withheld: s.Withheld,
	}
}

func (s *outcomeSnapshot) outcome() outcome {
	return outcome{s.Status, s.Code, s.Phrase, s.Q850, s.By, s.Elsewhere}
}

// refer returns the REFER of a snapshot, and assigns it to the leg and the party that
// wait for its outcome; nil: the snapshot has no leg for it.
func (r *snapshotReader) refer(s *referSnapshot) *refer {
	l := r.leg("leg of a REFER", s.Leg)
	if l == nil {
		r.setError("leg of a REFER", s.Leg)
		return nil
	}
	o := &refer{
		leg: l, sentAt: r.steady(s.SentAt), cseq: s.CSeq,
		referredBy: s.ReferredBy, target: s.Target, contact: s.Contact, targetExt: Extension{s.TargetExt, s.TargetExtDomain},
		replaces: s.Replaces, otherCall: s.OtherCall, accepted: s.Accepted, emitted: s.Emitted, progressed: s.Progressed,
		earlyStatus: s.EarlyStatus, earlyPhrase: s.EarlyPhrase,
	}
	if s.Open {
		l.refers.restore(o)
	}
	if p := l.party; s.ByParty && p != nil {
		p.takenRefer = o
	}
	return o
}

func (r *snapshotReader) fillParty(p *party, s *partySnapshot) {
	*p = party{
		id: s.ID, ext: Extension{s.Ext, siptext.LowerHost(s.ExtDomain)}, flow: s.Flow, firstLeg: r.leg("first", s.FirstLeg), kind: s.Kind,
		dialedNumber: s.DialedNumber, dialedE164: s.DialedE164, dialed: s.Dialed, rang: r.steady(s.Rang), answered: r.steady(s.Answered),
		answeredWall: r.wall(s.AnsweredWall), over: s.Over, leftAt: r.steady(s.LeftAt), outcome: s.Outcome.outcome(), userAgent: s.UserAgent, recID: s.RecID,
		remoteNumber: s.RemoteNumber, callAPIID: s.CallAPIID, distributor: s.Distributor, transferee: s.Transferee, transferred: s.Transferred,
		holding: s.Holding, repeatedEvents: s.RepeatedEvents,
	}
	if p.firstLeg == nil {
		r.setError("first leg of a party", s.FirstLeg)
	}
	if p.answeredWall.IsZero() && !p.answered.IsZero() { // the snapshot is of an older version
		p.answeredWall = r.wall(s.Answered)
	}
	if e := s.Template; e != nil {
		p.template = &Event{
			CallerNum: e.CallerNum, CallerName: e.CallerName, CallerExtension: e.CallerExtension, CalledNumber: e.CalledNumber,
			CalledExtension: e.CalledExtension, CalledDID: e.CalledDID, CallAPIID: e.CallAPIID, Diversion: e.Diversion, ClientAPIID: e.ClientAPIID,
			Correlation: e.Correlation, UserAgent: e.UserAgent, Verstat: e.Verstat, Transferred: e.Transferred, CallBackID: e.CallBackID,
			RemoteNumber: e.RemoteNumber, ANI: e.ANI, Tag: e.Tag, Headers: r.pairs("headers", e.Headers), CallerE164: e.CallerE164, CalledE164: e.CalledE164,
			CallerNumRaw: e.CallerNumRaw, CalledNumberRaw: e.CalledNumberRaw, Privacy: e.Privacy, Distributor: e.Distributor,
		}
	}
}
