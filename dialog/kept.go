package dialog

import (
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Change says how a call now stands, for whoever keeps the live calls.
type Change struct {
	Call   string // its id
	Record []byte // what must be known to go on with it, a JSON object; nil: it is over
}

// Changed returns the calls that have changed by until since they were last
// returned, the first time since it was called first. A call that was over
// before it was ever returned is not.
func (t *Tracker) Changed(until time.Time) (changes []Change) {
	t.keeping, t.said = true, nil
	n := 0
	for _, c := range t.changed {
		if c.changed.After(until) {
			break
		}
		n++
		t.at = c
		switch {
		case c.up():
			changes = append(changes, Change{c.id, c.record(t.refers, t.clock.offset())})
		case c.kept:
			changes = append(changes, Change{Call: c.id})
		}
	}
	t.at = nil
	for _, c := range t.changed[:n] { // a panic before has changed nothing
		c.changed, c.kept = time.Time{}, c.up()
	}
	clear(t.changed[:n])
	if t.changed = t.changed[n:]; len(t.changed) == 0 {
		t.changed = nil
	}
	return changes
}

// Unkept returns when the oldest change was that Changed has not returned; false
// if there is none.
func (t *Tracker) Unkept() (time.Time, bool) {
	if len(t.changed) == 0 {
		return time.Time{}, false
	}
	return t.changed[0].changed, true
}

// touch notes that a call has changed, or may have.
func (t *Tracker) touch(c *call) {
	if t.keeping && c.changed.IsZero() {
		c.changed = c.heard
		t.changed = append(t.changed, c)
	}
}

// up reports whether a call still has something to say: also the hangup of a party
// whose last leg was refused a moment ago.
func (c *call) up() bool {
	return c.live() || slices.ContainsFunc(c.parties, func(p *party) bool { return p.dialed && !p.over })
}

// record writes down what is kept of a call; refers are the REFERs that a new
// leg may follow, and the wall clock is ahead by offset.
func (c *call) record(refers []*refer, offset time.Duration) []byte {
	s := scribe{offset: offset, legs: slices.Clone(c.legs), parties: slices.Clone(c.parties)}
	for _, r := range refers {
		if r.leg.call == c {
			s.refers = append(s.refers, keptRefer{r, true, r.leg.isOpen(r), r.pending()})
		}
	}
	for _, l := range c.legs {
		for _, r := range l.openRefers() {
			if !slices.Contains(refers, r) {
				s.refers = append(s.refers, keptRefer{r, false, true, r.pending()})
			}
		}
	}
	c.fields(&s)
	s.doing, s.out = writing, append(make([]byte, 0, 1024), '{')
	c.fields(&s)
	return append(s.out, '}')
}

// fields are what is kept of a call, its legs and its parties. A name is for
// good: never change one, only add.
func (c *call) fields(s *scribe) {
	keepText(s, "id", &c.id)
	keepNumber(s, "seq", &c.seq)
	keepTime(s, "began", &c.began)
	keepTime(s, "heard", &c.heard)
	keepTexts(s, "call_ids", &c.callIDs)
	keepList(s, "keys", &c.keys, (*key).fields)
	keepLeg(s, "caller", &c.caller)
	keepText(s, "callees", &c.callees)
	keepParty(s, "back", &c.back)
	keepParty(s, "leaving", &c.leaving)
	keepText(s, "joined", &c.joined)
	keepTime(s, "bridged", &c.bridged)
	keepFlag(s, "was_bridged", &c.wasBridged)
	keepFlag(s, "picked_up", &c.pickedUp)
	keepText(s, "handed_on", &c.handed)
	keepNumber(s, "talked", &c.talked)
	keepExtension(s, "last_talker", "last_talker_domain", &c.lastTalker)
	keepText(s, "shown", &c.shown)

	// After the legs and parties that the call has come those that it has
	// forgotten but for what they tell.
	legs, parties := len(c.legs), len(c.parties)
	keepNumber(s, "has_legs", &legs)
	keepNumber(s, "has_parties", &parties)
	keepList(s, "refers", &s.refers, (*keptRefer).fields)
	if s.doing == listing {
		for i, j := 0, 0; i < len(s.legs) || j < len(s.parties); {
			if i < len(s.legs) {
				s.legs[i].fields(s)
				i++
			} else {
				s.parties[j].fields(s)
				j++
			}
		}
		return
	}
	keepList(s, "legs", &s.legs, func(l **leg, s *scribe) { (*l).fields(s) })
	keepList(s, "parties", &s.parties, func(p **party, s *scribe) { (*p).fields(s) })
	if s.doing == reading {
		if legs > len(s.legs) || parties > len(s.parties) || legs < 1 || parties < 0 {
			s.fail("legs and parties", []int{legs, parties})
			return
		}
		c.legs, c.parties = s.legs[:legs:legs], s.parties[:parties:parties]
	}
}

func (k *key) fields(s *scribe) {
	keepText(s, "by", &k.by)
	keepText(s, "value", &k.value)
}

func (l *leg) fields(s *scribe) {
	keepParty(s, "party", &l.party)
	keepParty(s, "host", &l.host)
	keepNumber(s, "origin", &l.origin)
	keepFlag(s, "trunk", &l.trunk)
	keepNumber(s, "state", &l.state)
	keepText(s, "call_id", &l.callID)
	keepText(s, "from_tag", &l.fromTag)
	keepText(s, "to_tag", &l.toTag)
	keepText(s, "branch", &l.branch)
	keepText(s, "turn", &l.turn)
	keepNumber(s, "cseq", &l.cseq)
	keepTime(s, "began", &l.began)
	keepTime(s, "rang", &l.rang)
	keepTime(s, "heard", &l.heard)
	keepTime(s, "dial_at", &l.dialAt)
	keepTime(s, "answered", &l.answered)
	keepTime(s, "ended", &l.ended)
	keepTime(s, "expires", &l.expires)
	keepNumber(s, "offer", &l.offer)
	keepNumber(s, "offer_seq", &l.offerSeq)
	keepNumber(s, "early", &l.early)
	keepFlag(s, "canceled", &l.canceled)
	keepTime(s, "canceled_at", &l.canceledAt)
	keepPart(s, "why", &l.why, (*reason).fields)
	keepFlag(s, "picked_up", &l.pickedUp)
	keepText(s, "bye_tag", &l.byeTag)
	keepText(s, "by", &l.by)
	keepPart(s, "refused", &l.refused, (*outcome).fields)
	l.facts.fields(s)
	keepExtension(s, "called_ext", "called_ext_domain", &l.calledExt)
	keepFlag(s, "no_agent", &l.noAgent)
	keepFlag(s, "stranger", &l.stranger)
	keepText(s, "referred_to", &l.referredTo)
	keepText(s, "joined", &l.joined)
	keepText(s, "number", &l.number)
	keepTexts(s, "also", &l.also)
	keepFlag(s, "contested", &l.contested)
	keepText(s, "moved_to", &l.movedTo)
	keepTime(s, "forsaken", &l.forsaken)
	keepFlag(s, "cut", &l.cut)
	keepFlag(s, "tried", &l.tried)
	keepFlag(s, "refers", &l.refers)
	keepAddr(s, "peer", &l.peer)
	keepNumber(s, "near_seq", &l.nearSeq)
	keepNumber(s, "far_seq", &l.farSeq)
	keepObject(s, "claim", &l.claim, (*claim).fields)
	keepNumber(s, "refers_sent", &l.refersSent)
	keepNumber(s, "asked_pbx", &l.askedPBX)
	keepNumber(s, "asked_phone", &l.askedPhone)
	keepFlag(s, "muted", &l.muted)
	keepList(s, "forks", &l.forks, (*fork).fields)
	keepObject(s, "doubt", &l.doubt, (*doubt).fields)
	if l.state > over {
		s.fail("state", l.state)
	}
}

func (f *facts) fields(s *scribe) {
	keepText(s, "num", &f.num)
	keepText(s, "name", &f.name)
	keepText(s, "verstat", &f.verstat)
	keepText(s, "called", &f.called)
	keepText(s, "called_host", &f.calledHost)
	keepText(s, "did", &f.did)
	keepText(s, "diversion", &f.diversion)
	keepText(s, "callapi", &f.callAPI)
	keepText(s, "client_api", &f.clientAPI)
	keepText(s, "callback", &f.callBack)
	keepText(s, "tag", &f.tag)
	keepText(s, "rec", &f.rec)
	keepText(s, "agent", &f.agent)
	keepPairs(s, "headers", &f.headers)
	keepText(s, "num_e164", &f.numE164)
	keepText(s, "called_e164", &f.calledE164)
	keepFlag(s, "credentials", &f.credentials)
	keepFlag(s, "hidden", &f.hidden)
	keepNumber(s, "asked", &f.asked)
	keepText(s, "num_raw", &f.numRaw)
	keepText(s, "called_raw", &f.calledRaw)
	keepFlag(s, "private", &f.private)
	keepFlag(s, "withheld", &f.withheld)
}

// fields leave out a REFER: until it is accepted it is of no account, and after a
// restart it never is.
func (k *claim) fields(s *scribe) {
	keepText(s, "branch", &k.branch)
	keepTime(s, "at", &k.at)
	keepNumber(s, "seq", &k.seq)
	keepNumber(s, "q850", &k.q850)
	keepText(s, "rec", &k.rec)
	keepNumber(s, "offer", &k.offer)
}

func (r *reason) fields(s *scribe) {
	keepNumber(s, "q850", &r.q850)
	keepNumber(s, "sip", &r.sip)
	keepFlag(s, "zero", &r.zero)
}

func (o *outcome) fields(s *scribe) {
	keepText(s, "status", &o.status)
	keepNumber(s, "code", &o.code)
	keepText(s, "phrase", &o.phrase)
	keepNumber(s, "q850", &o.q850)
	keepText(s, "by", &o.by)
	keepFlag(s, "elsewhere", &o.elsewhere)
}

// A keptRefer is a REFER of a call's.
type keptRefer struct {
	*refer
	awaited bool // a new leg may follow it
	open    bool // its leg waits to hear what became of it
	sends   bool // its party, whose leg has ended, waits for that
}

func (r *keptRefer) fields(s *scribe) {
	if s.doing == reading {
		r.refer = &refer{}
	}
	keepLeg(s, "leg", &r.leg)
	keepFlag(s, "awaited", &r.awaited)
	keepFlag(s, "open", &r.open)
	keepFlag(s, "sends", &r.sends)
	r.refer.fields(s)
	if r.leg == nil {
		s.fail("leg of a REFER", nil)
	}
}

func (r *refer) fields(s *scribe) {
	keepTime(s, "at", &r.at)
	keepNumber(s, "cseq", &r.cseq)
	keepText(s, "by", &r.by)
	keepText(s, "to", &r.to)
	keepText(s, "contact", &r.contact)
	keepExtension(s, "ext", "ext_domain", &r.ext)
	keepText(s, "replaces", &r.replaces)
	keepText(s, "other", &r.other)
	keepFlag(s, "accepted", &r.accepted)
	keepFlag(s, "told", &r.told)
	keepFlag(s, "begun", &r.begun)
	keepNumber(s, "taken", &r.taken)
	keepText(s, "taken_phrase", &r.takenPhrase)
}

func (p *party) fields(s *scribe) {
	keepText(s, "id", &p.id)
	keepExtension(s, "ext", "ext_domain", &p.ext)
	keepText(s, "flow", &p.flow)
	keepLeg(s, "first", &p.first)
	keepText(s, "kind", &p.kind)
	keepText(s, "called", &p.called)
	keepText(s, "called_e164", &p.calledE164)
	keepFlag(s, "dialed", &p.dialed)
	keepTime(s, "rang", &p.rang)
	keepTime(s, "answered", &p.answered)
	keepWall(s, "answered_at", &p.answeredAt)
	keepFlag(s, "over", &p.over)
	keepTime(s, "left", &p.left)
	keepPart(s, "outcome", &p.outcome, (*outcome).fields)
	keepText(s, "agent", &p.agent)
	keepText(s, "rec", &p.rec)
	keepText(s, "remote", &p.remote)
	keepText(s, "callapi", &p.callAPI)
	keepObject(s, "through", &p.through, extensionFields)
	keepFlag(s, "transferred", &p.transferred)
	keepFlag(s, "holds", &p.holds)
	keepNumber(s, "repeated", &p.repeated)
	keepObject(s, "like", &p.like, likeFields)
}

// likeFields are what say takes from an event.
func likeFields(e *Event, s *scribe) {
	keepText(s, "caller_num", &e.CallerNum)
	keepText(s, "caller_name", &e.CallerName)
	keepObject(s, "caller_extension", &e.CallerExtension, extensionFields)
	keepText(s, "called_number", &e.CalledNumber)
	keepObject(s, "called_extension", &e.CalledExtension, extensionFields)
	keepText(s, "called_did", &e.CalledDID)
	keepText(s, "callapi_id", &e.CallAPIID)
	keepText(s, "diversion", &e.Diversion)
	keepText(s, "client_api_id", &e.ClientAPIID)
	keepText(s, "correlation", &e.Correlation)
	keepText(s, "user_agent", &e.UserAgent)
	keepText(s, "verstat", &e.Verstat)
	keepFlag(s, "transferred", &e.Transferred)
	keepText(s, "callback_id", &e.CallBackID)
	keepText(s, "remote_number", &e.RemoteNumber)
	keepText(s, "ani", &e.ANI)
	keepText(s, "tag", &e.Tag)
	keepPairs(s, "headers", &e.Headers)
	keepText(s, "caller_e164", &e.CallerE164)
	keepText(s, "called_e164", &e.CalledE164)
	keepText(s, "caller_num_raw", &e.CallerNumRaw)
	keepText(s, "called_number_raw", &e.CalledNumberRaw)
	keepFlag(s, "privacy", &e.Privacy)
	keepObject(s, "distributor", &e.Distributor, extensionFields)
}

func extensionFields(e *Extension, s *scribe) { keepExtension(s, "user", "domain", e) }

// Restore takes up calls from what Changed returned of them, and from the
// events of the log since then, in its order. It is called before anything is
// observed. A call that cannot be read is an error; the others are taken up. node
// names this process in the log from here on, if others share it: what they follow
// is not taken up. SetClock comes before it.
//
// What happened between the last record and the restart only the log knows: a
// party whose dial is in no record goes on from there. Its hangup tells what
// the events in the log did.
//
// A restart has cut the transactions: no response to an INVITE comes any more.
// The phone that calls sends CANCEL, or the one that is called BYE, and that
// ends a leg that was not answered.
func (t *Tracker) Restore(node string, records []Change, log []Event) error {
	t.node, t.keeping = node, true
	var errs []error
	calls := make(map[string]*call, len(records))
	for _, r := range records {
		if len(t.due)+len(calls) >= maxCalls {
			errs = append(errs, errors.New("there are more calls than can be followed"))
			break
		}
		c, refers, err := t.readCall(r.Record)
		if err == nil && calls[c.id] != nil {
			err = errors.New("it is there twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("call %s: %w", r.Call, err))
			continue
		}
		calls[c.id] = c
		t.adopt(c)
		t.refers = append(t.refers, refers...)
	}
	for i := range log {
		t.relive(calls, &log[i])
	}
	talk := t.config.talk()
	for _, c := range calls {
		for _, l := range c.legs {
			l.cut = l.state == calling || l.state == ringing
			if d := l.deadline(talk); c.due.IsZero() || d.Before(c.due) {
				c.due = d
			}
		}
		for _, p := range c.parties {
			p.recovered = true
		}
		c.look = c.due
		heap.Push(&t.due, c)
	}
	slices.SortFunc(t.refers, func(a, b *refer) int { return a.at.Compare(b.at) })
	slices.SortFunc(t.dialers, func(a, b dialer) int { return a.at.Compare(b.at) })
	slices.SortFunc(t.moved, func(a, b *leg) int { return a.ended.Compare(b.ended) })
	return errors.Join(errs...)
}

// readCall makes a call of its record, and returns the REFERs that a new leg may
// follow.
func (t *Tracker) readCall(record []byte) (c *call, refers []*refer, err error) {
	s := scribe{doing: reading}
	if err := json.Unmarshal(record, &s.in); err != nil {
		return nil, nil, err
	}
	var heard time.Time
	keepWall(&s, "heard", &heard)
	s.offset = heard.Sub(t.clock.steady(heard)) // all of a call moves, if the clock was set back since
	c = &call{kept: true}
	legs, _ := read[[]any](&s, "legs")
	for range legs {
		s.legs = append(s.legs, &leg{call: c})
	}
	parties, _ := read[[]any](&s, "parties")
	for range parties {
		s.parties = append(s.parties, &party{})
	}
	c.fields(&s)
	for _, l := range s.legs {
		l.calledExt.Domain = lower(l.calledExt.Domain) // older versions kept it as it was written
	}
	for _, p := range s.parties {
		p.ext.Domain = lower(p.ext.Domain)
		if p.first == nil {
			s.fail("first leg of a party", nil)
		}
		if p.answeredAt.IsZero() && !p.answered.IsZero() { // an older version wrote it
			p.answeredAt = p.answered.Add(s.offset)
		}
	}
	if s.err != nil {
		return nil, nil, s.err
	}
	for _, r := range s.refers {
		if r.open {
			r.leg.keepOpen(r.refer)
		}
		if p := r.leg.party; r.sends && p != nil {
			p.sends = r.refer
		}
		if r.awaited {
			refers = append(refers, r.refer)
		}
	}
	return c, refers, nil
}

// adopt lets a call that was read be found.
func (t *Tracker) adopt(c *call) {
	c.callIDs = slices.DeleteFunc(c.callIDs, func(id string) bool { return t.byCallID[id] != nil })
	for _, id := range c.callIDs {
		t.byCallID[id] = c
	}
	keys := c.keys
	c.keys = nil
	for _, k := range keys {
		t.give(c, k)
	}
	for _, l := range c.legs {
		if l.state != over {
			t.reach(l, l.number)
			if l.origin == Edge && l.waits() {
				t.dialers = append(t.dialers, dialer{l, l.heard})
			}
		} else if l.movedTo != "" {
			t.moved = append(t.moved, l)
		}
		if l.state == talking {
			t.notePickup(l)
		}
	}
}

// relive takes from an event what its call's record does not say yet.
func (t *Tracker) relive(calls map[string]*call, e *Event) {
	c, at := calls[e.Call], t.clock.steady(e.At)
	if c == nil {
		if e.Type != DialIn && e.Type != DialOut || e.Leg.Node != t.node || len(calls) >= maxCalls {
			return
		}
		c = &call{id: e.Call, began: at, heard: at}
		calls[c.id] = c
		t.give(c, key{callKey, c.id})
	}
	if e.Seq > c.seq {
		c.seq = e.Seq
		t.touch(c)
	}
	if at.After(c.heard) {
		c.heard = at
	}
	var p *party
	if i := slices.IndexFunc(c.parties, func(p *party) bool { return p.id == e.Party }); i >= 0 {
		p = c.parties[i]
	}
	switch e.Type {
	case DialIn, DialOut:
		if p == nil {
			p = t.relivedParty(c, e)
		}
		p.dialed = true
	}
	if p == nil || p.over {
		return
	}
	l := c.dialog(e.Leg, func(l *leg) bool { return l.has(p) || p == c.back })
	switch e.Type {
	case Ringing:
		if p.rang.IsZero() {
			p.rang = at
		}
		if !p.left.IsZero() && p.left.Before(at) { // another phone was rung since
			p.left = at
		}
	case Answer:
		if !p.answered.IsZero() {
			return
		}
		p.answered, p.answeredAt, p.agent = at, e.At, e.UserAgent
		if e.RingDuration > 0 { // the clock may have been set since the event that told of it
			p.rang = at.Add(-e.RingDuration)
		}
		if p.like != nil {
			like := *e
			p.like = &like
			p.first.began = at.Add(-e.RingDuration - e.SetupTime)
		}
		if l == nil { // another phone's than the first
			l = t.relivedLeg(c, e)
			l.party = p
		}
		if l.state < talking {
			l.state, l.answered, l.toTag = talking, at, e.Leg.ToTag
			if l.origin == PBX && l.party != c.back {
				c.bridge(l, at)
			}
		}
	case Hold, Resume, Transfer:
		if id := p.eventID(e.Type); id != e.ID {
			p.repeated--
		} else if e.Type != Transfer {
			p.holds = e.Type == Hold
		}
	case Hangup:
		p.over = true
		p.outcome = outcome{e.Status, e.SipCode, e.SipReason, e.Q850, e.HangupBy, e.Elsewhere}
		for _, l := range c.legs {
			switch {
			case l.state == over || l.party != p && l.host != p:
			case l.outlasts(p):
				if l.host == p {
					l.host = nil // its turn alone is over
				}
			default:
				l.state, l.ended, l.by, l.refer, l.earlier = over, at, e.HangupBy, nil, nil
				t.unreach(l)
				if l.origin == PBX && e.Elsewhere && !l.canceled {
					l.canceled, l.canceledAt = true, at
					c.bridgeElsewhere(l)
				}
				if l.origin == PBX {
					c.unbridge(at)
				}
			}
		}
	}
}

// outlasts reports whether a leg goes on when its party p is over, as it carries another
// that is not. A host is passed to the legs of its callees, if there are any.
func (l *leg) outlasts(p *party) bool {
	if l.host == p {
		return l.party != nil && !l.party.over
	}
	return l.host != nil && !l.host.over && !l.passHost()
}

// relivedParty is the party whose dial only the log knows, on the leg that it
// says.
func (t *Tracker) relivedParty(c *call, e *Event) *party {
	like := *e // e shares memory with all of the log
	p := &party{id: e.Party, ext: Extension{e.Extension.User, lower(e.Extension.Domain)}, flow: e.Flow, agent: e.UserAgent, like: &like}
	hosted := e.Flow == In && (e.Leg.Origin == Edge || t.names.declared[p.ext.User].hosts())
	l := c.dialog(e.Leg, func(l *leg) bool {
		return l.state != over && (hosted && (l.host == nil || l.host.over) || !hosted && l.party == nil)
	})
	if l == nil {
		l = t.relivedLeg(c, e)
	}
	if c.caller == nil && l.origin == Edge {
		c.caller = l
	}
	p.first = l
	c.parties = append(c.parties, p)
	if hosted {
		l.host, p.kind = p, t.names.declared[p.ext.User]
		c.awaitAgent()
	} else {
		l.party = p
	}
	return p
}

// relivedLeg is the leg that only the log knows.
func (t *Tracker) relivedLeg(c *call, e *Event) *leg {
	at := t.clock.steady(e.At)
	l := &leg{
		call: c, origin: e.Leg.Origin,
		callID: e.Leg.CallID, fromTag: e.Leg.FromTag, toTag: e.Leg.ToTag,
		began: at, heard: at,
		facts: facts{num: e.CallerNum, name: e.CallerName, called: e.CalledNumber},
	}
	l.peer, _ = netip.ParseAddrPort(e.Leg.Peer)
	c.legs = append(c.legs, l)
	if t.byCallID[l.callID] == nil {
		t.byCallID[l.callID] = c
		c.callIDs = append(c.callIDs, l.callID)
	}
	number := l.num
	if l.origin == PBX {
		number = e.Extension.User
	}
	t.reach(l, number)
	return l
}

// dialog returns the leg that an event names, of those that are such.
func (c *call) dialog(id LegID, such func(*leg) bool) *leg {
	for _, l := range slices.Backward(c.legs) {
		if l.origin == id.Origin && l.callID == id.CallID && l.fromTag == id.FromTag && such(l) {
			return l
		}
	}
	return nil
}

// as tells in e what another event of its party told.
func (e *Event) as(o *Event) {
	e.CallerNum, e.CallerName, e.CallerExtension, e.CallerE164 = o.CallerNum, o.CallerName, o.CallerExtension, o.CallerE164
	e.CalledNumber, e.CalledExtension, e.CalledDID, e.CalledE164 = o.CalledNumber, o.CalledExtension, o.CalledDID, o.CalledE164
	e.CallAPIID, e.ClientAPIID, e.CallBackID, e.Tag = o.CallAPIID, o.ClientAPIID, o.CallBackID, o.Tag
	e.Diversion, e.Verstat, e.Headers, e.ANI = o.Diversion, o.Verstat, o.Headers, o.ANI
	e.Correlation, e.Transferred = o.Correlation, o.Transferred
	e.CallerNumRaw, e.CalledNumberRaw, e.Privacy = o.CallerNumRaw, o.CalledNumberRaw, o.Privacy
	e.Distributor = o.Distributor
}
