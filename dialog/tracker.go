// Package dialog follows SIP calls and emits an event for each thing that happens to an
// extension in them.
//
// A [Tracker] observes every SIP message that bellhop forwards, and returns the [Event]s
// that each message causes. It does no I/O, starts no goroutine and never reads the clock:
// the caller passes the time in. A test of a four-hour call therefore takes a microsecond.
//
// A call consists of legs. A leg is one INVITE dialog on one side of the PBX. The legs of
// one extension in one direction are a party. Events are emitted per party.
//
// # Correlation: which legs are one call
//
// Legs with the same Call-ID are one call: a PBX that is a proxy does not change the
// Call-ID. A PBX that is a B2BUA gives each leg a Call-ID of its own. The tracker then
// matches legs by ids in the INVITE, by a transfer, or else by numbers and times (see
// [Config.Correlate]). An event names the method and its confidence. A leg whose number
// matches no caller is joined to the only call that it can belong to: the PBX may hide the
// caller's number, or show a number of the company. Where two calls fit equally well, the
// leg is joined to neither and begins a call of its own: a wrong call is worse than none. A
// call keeps its id; two calls are never merged later.
//
// # Trust: which message counts
//
// The PBX and the trunks may name the caller, the diverting number and the call that an
// INVITE belongs to. A phone, or a stranger that poses as one, speaks for itself only. Its
// extension is the account that it authenticates as, if that is an extension; else the user
// of its From. It can refer to a call only by an X-CID that bellhop has authenticated, or
// by both tags of a dialog. An INVITE that has the Call-ID of a call, but comes from
// elsewhere than the call's legs, is not followed. A request within a dialog counts at once
// if it comes from the PBX or over the leg's own flow and has a new CSeq; any other request
// counts once it is accepted.
//
// # Guarantees
//
// A party has at most one dial-in or dial-out, then at most one answer, and exactly one
// hangup if and only if it had a dial; no event of the party follows the hangup. This holds
// for any sequence of messages: lost, duplicated, reordered or forged. A party whose end
// was never observed ends when its time limit passes. A transfer comes before the hangup of
// the party that transfers. Where a PBX reports a REFER as successful before it calls
// anybody, as FreeSWITCH does, both events come at most 200 ms after that party's BYE.
//
// The events of one call are numbered from 1 without gaps, in order. Their times never
// decrease while the wall clock is not set, except for a dial-out, which has the time of
// its INVITE. Events of different calls are not ordered against each other.
//
// At is the wall clock's reading at the moment of an event. If the clock is set, even by
// hours, events before and after it follow different clocks, and nothing else changes:
// order, durations and limits use the steady clock of [Message.At]. A step of less than 100
// ms is ignored.
//
// The Duration of a hangup is exactly the time since the answer: its At minus the At of the
// answer, unless the clock was set between them. Times are whole microseconds.
//
// # Memory
//
// A call of two legs takes about 4 KB (BenchmarkLiveCalls). A leg stays in memory from its
// INVITE until 32 s after its end, the first leg of a party until 32 s after the party's
// end, and a call as long as one of its legs. The same INVITE, received after that, begins
// another call with the same ids.
//
// Every state has a deadline, so nothing stays in memory forever. The limits are:
//
//   - 131,072 calls of 256 legs each. INVITEs beyond that are forwarded, but not followed.
//   - 16,384 challenged attempts. An INVITE that only met 401 or 407 is removed with
//     that response and leaves one entry in this table. An INVITE that met 422, 484
//     or another response that asks for another INVITE waits 30 s for it; then its
//     events are emitted.
//   - 30 attempts per source that are refused before a phone rings, and whose
//     extension has no registration from that source; then one attempt every two
//     seconds. [Tracker.Suppressed] counts the others, which are removed at once.
//   - 65,536 addresses of record and 65,536 contacts, learned only from responses of
//     the PBX, and as many numbers that the PBX shows for extensions.
//   - 1,024 entries each of MESSAGEs that await their 2xx, REFERs that await their
//     new leg, texts that may go to another device of an extension, and REGISTERs of
//     at most 4 KiB that await their response.
//   - 65,536 addresses of record followed for registered and unregistered, and
//     65,536 mailboxes. The least recently used entry is evicted without an event.
//
// Other methods leave no state.
//
// # What a restart loses
//
// Nothing that [Tracker.Changed] has returned and [Tracker.Restore] is given. These calls
// continue with the same ids, and their events are marked as recovered. An answered party
// gets its hangup with the BYE. A party whose BYE was missed gets an UNKNOWN hangup when
// its limit passes. Transactions are lost: a leg that was ringing ends with its CANCEL or
// BYE, or at its limit. Bindings are learned again as phones refresh them, and a challenged
// INVITE counts from its repetition.
//
// Stored times follow the wall clock, and a restored call has the age that the wall clock
// gives: if the clock was set while no process ran, the age changes by as much. A call
// never begins in the future: if the clock was set back, its age is the one at its last
// message.
//
// Ids are derived from the messages alone, so another node that observes the same call
// gives its events the same ids.
//
// The first NOTIFY of a mailbox sets its message count and emits no event. Messages that
// arrived since the last NOTIFY before the restart are therefore not reported.
//
// A registration that is up seems to begin when the phone refreshes it. A phone keeps its
// Call-ID, so registered then has the same id as before, and an event log that accepts an
// id once does not store it again. The same rule hides, after a restart, a registration
// that did end and began anew with its earlier Call-ID. It repeats a registration that
// another Call-ID refreshes first: that of another device of the extension, or of the phone
// after its own restart. Between two restarts there is exactly one of each. Unregistered is
// never hidden, but is not emitted for a registration that ended while no process ran. Each
// of several nodes follows the registrations that pass through it.
package dialog

import (
	"cmp"
	"container/heap"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// Config holds the settings of a Tracker that it cannot learn from messages.
type Config struct {
	Pattern    *regexp.Regexp // matches users that are extensions even before they register; nil: none
	Learn      bool           // a user that registers successfully is an extension
	Extensions []Declared     // extensions that cannot be learned

	// Correlate lists the methods that match legs with different Call-IDs to one call, in
	// order, as named in the configuration; nil: [DefaultCorrelate].
	Correlate []string

	// E164 returns the E.164 form of a dialed number, "" if it has none; nil: events carry
	// no E.164 numbers.
	E164 func(number string) string

	IgnorePrivacy bool // events carry the number of a caller that asks for privacy

	MaxDuration time.Duration  // an answered leg without a BYE ends after this time; 0: 4 hours
	Status      map[int]Status // status words for final responses; they override the built-in table

	// CallAPIID, CallBackID, RecID and Tag are names of header fields; empty: none. A name
	// that [CarriesCredentials] reports is ignored.
	CallAPIID, CallBackID, RecID, Tag string
	Headers                           []string // header fields of the INVITE, copied into its events
}

// CarriesCredentials reports whether a header field carries its sender's credentials (RFC
// 3261 §22), or is bellhop's own mark of messages from a trunk.
func CarriesCredentials(name string) bool {
	return siptext.SameName(name, "Authorization") || siptext.SameName(name, "Proxy-Authorization") || siptext.SameName(name, "X-Bellhop-Trunk")
}

// talkLimit returns how long a leg may be answered before it ends without a BYE.
func (c *Config) talkLimit() time.Duration {
	if c.MaxDuration <= 0 {
		return 4 * time.Hour
	}
	return c.MaxDuration
}

// A Declared extension is one that the configuration names.
type Declared struct {
	Number string
	Kind   Kind     // "": Phone
	DID    []string // public numbers that lead to it
}

// A Tracker follows calls and returns their events. It is not safe for concurrent use,
// except where a method's comment permits it.
//
// It is the sum of the parts below, each with the state of one concern, and asks them in
// order. A part knows only those that it is given in [New].
type Tracker struct {
	config    Config
	clock     clock
	deadlines callHeap // all calls
	current   *call    // the call that is being changed, for AbandonCall; nil: none

	emitter    *emitter         // the events of the method that runs
	changes    *changes         // calls with a newer state than their last snapshot
	directory  *directory       // extensions and their bindings
	registrar  *registrar       // registration periods
	mailboxes  *mailboxes       // voicemail
	texts      *textTracker     // MESSAGEs
	attempts   *attempts        // challenged and refused INVITEs
	index      *callIndex       // calls by their ids
	refers     *recentRefers    // REFERs that a new leg may follow
	numbers    *numberMatcher   // calls by their callers' numbers
	correlator *correlator      // the call of an INVITE
	parties    *partyTracker    // parties and their events
	transfers  *transferTracker // REFERs and their outcomes
	judge      *judge           // why a leg ended
	legs       *legTracker      // dialogs
}

// New returns a Tracker that has observed nothing yet.
func New(c Config) *Tracker {
	t := &Tracker{changes: &changes{}, directory: newDirectory(), attempts: newAttempts(), index: newCallIndex(), refers: &recentRefers{}}
	config := &t.config
	t.emitter = &emitter{clock: &t.clock}
	t.registrar = newRegistrar(t.emitter, t.directory, t.attempts)
	t.mailboxes = newMailboxes(config, t.emitter, t.directory)
	t.texts = newTextTracker(t.emitter, t.directory)
	t.numbers = newNumberMatcher(t.directory, t.refers)
	t.correlator = &correlator{index: t.index, refers: t.refers, numbers: t.numbers}
	t.parties = &partyTracker{config: config, emitter: t.emitter, changes: t.changes, directory: t.directory, index: t.index}
	t.transfers = &transferTracker{changes: t.changes, directory: t.directory, index: t.index, refers: t.refers, parties: t.parties}
	t.judge = &judge{config: config, directory: t.directory}
	t.legs = &legTracker{
		config: config, deadlines: &t.deadlines, changes: t.changes, directory: t.directory, attempts: t.attempts, index: t.index,
		refers: t.refers, numbers: t.numbers, parties: t.parties, transfers: t.transfers, judge: t.judge,
	}
	t.Configure(c)
	return t
}

// Configure applies another configuration. Legs that have begun keep their extensions.
func (t *Tracker) Configure(c Config) {
	c.Headers = slices.DeleteFunc(slices.Clone(c.Headers), CarriesCredentials)
	for _, name := range []*string{&c.CallAPIID, &c.CallBackID, &c.RecID, &c.Tag} {
		if CarriesCredentials(*name) {
			*name = ""
		}
	}
	t.config = c
	t.index.methods = parseMethods(c.Correlate)
	t.directory.configure(&t.config)
}

// Observe processes one message and returns the events that it causes, in order; nil if
// there are none.
func (t *Tracker) Observe(m Message) []Event {
	t.emitter.events, t.current = nil, nil
	t.observeMessage(&m)
	t.current = nil
	return t.emitter.events
}

// observeMessage runs what is due at m's time, and then passes m on to the methods for its
// SIP method.
func (t *Tracker) observeMessage(m *Message) {
	m.At = m.At.Truncate(time.Microsecond)
	t.updateClock(m.At, m.WallOffset)
	t.expireDue(m.At) // deadlines that have passed come before the message
	switch m.Method {
	case "REGISTER":
		t.registrar.observeRegister(m)
		return
	case "MESSAGE":
		t.texts.observeText(m)
	case "INVITE", "UPDATE", "REFER", "INFO", "OPTIONS", "SUBSCRIBE":
	case "ACK", "PRACK":
		if m.Body == "" {
			return
		}
	case "BYE":
	case "CANCEL":
		if !m.Request() {
			return
		}
	case "NOTIFY":
		if m.Request() {
			t.mailboxes.observeSummary(m)
		}
	default:
		return
	}
	c := t.findCall(m)
	switch {
	case m.Method == "INVITE" && m.Request() && m.ToTag == "" && !c.isUntaggedReinvite(m):
		c = t.observeInvite(c, m)
	case c == nil:
		return
	case m.Method == "INVITE" && !m.Request():
		if l := c.legOfInvite(m.Origin(), m); l != nil {
			rings := l.origin == PBX && (l.state == calling || l.state == ringing)
			t.legs.observeInviteResponse(l, m)
			if rings && m.Status/100 == 3 && l.state == over {
				t.numbers.noteRedirect(l, m)
			}
		} else {
			t.legs.observeInDialog(c, m)
		}
	case m.Method == "CANCEL":
		l := c.legOfInvite(m.Src, m)
		if l == nil || !m.trusted() && !l.matchesHost(m.From) {
			break
		}
		l.observeCancel(m)
		l.pickedUp = l.cancelReason.q850 == causePickedUp && t.judge.pickupAnswered(l)
		if l.transactionLost && l.canceled {
			t.legs.endLeg(l, m.At, t.judge.judgeLostCancel(l))
		}
	default:
		t.legs.observeInDialog(c, m)
	}
	if c != nil {
		t.changes.markChanged(c)
		if len(c.legs) > 0 {
			t.deadlines.schedule(c, t.config.talkLimit())
		}
	}
}

// isUntaggedReinvite reports whether the INVITE m is a re-INVITE although it has no To tag:
// the other end of its dialog uses no tag (RFC 3261 §12.1.1, RFC 2543).
func (c *call) isUntaggedReinvite(m *Message) bool {
	return c != nil && slices.ContainsFunc(c.legs, func(l *leg) bool {
		return l.state == talking && l.toTag == "" && !l.transactionLost && l.callID == m.CallID && m.CSeq > l.cseq && l.inDialog(m)
	})
}

// findCall returns the live call that has m's Call-ID, advanced to m's time; nil if there
// is none.
func (t *Tracker) findCall(m *Message) *call {
	c := t.index.callByCallID[m.CallID]
	if c == nil || !t.advanceCallTo(c, m) {
		return nil
	}
	return c
}

// advanceCallTo runs what is due in a call at m's time. It moves m.At forward if needed:
// time never decreases within a call. It returns false if the call has ended by then.
func (t *Tracker) advanceCallTo(c *call, m *Message) bool {
	if m.At.Before(c.lastHeard) {
		m.At = c.lastHeard
	}
	t.current = c
	t.legs.advanceCall(c, m.At)
	c.lastHeard = m.At
	return len(c.legs) > 0
}

// observeInDialog applies a message of a transaction within a dialog to the legs of its
// call.
func (t *legTracker) observeInDialog(c *call, m *Message) {
	for _, l := range c.legs {
		l.selectFork(m)
		t.followFlow(l, m)
	}
	vouched := c.fromDialogEnd(m)
	for _, l := range c.legs {
		if !l.inDialog(m) {
			continue
		}
		if m.Method == "ACK" { // an ACK has the CSeq of its INVITE
			if vouched {
				t.observeOfferAnswer(l, m)
			}
			continue
		}
		switch {
		case !m.Request() && m.Method == "BYE":
			t.observeByeResponse(l, m)
			continue
		case !m.Request() && l.requestTrusted(m, vouched):
		case m.Request():
			if !vouched || l.staleCSeq(m) {
				t.holdRequest(l, m)
				continue
			}
		default:
			if c.fromAcceptor(m) {
				t.observeAcceptance(l, m)
			}
			continue
		}
		if l.clearDialogLoss(m); t.noteDialogLoss(l, m) {
			continue
		}
		switch m.Method {
		case "PRACK":
			t.observeOfferAnswer(l, m)
		case "BYE":
			t.observeBye(l, m)
		case "INVITE", "UPDATE":
			t.observeReinvite(l, m)
		case "REFER":
			t.transfers.observeRefer(l, m)
		case "NOTIFY":
			if m.Request() {
				t.transfers.observeReferNotify(l, m)
			}
		}
	}
}

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
	f, ext, isExt := t.directory.readInvite(m, &k)
	if again != nil {
		// The credentials may identify another caller than the INVITE before.
		p := again.party
		if same := p == nil || again.origin == PBX || !isExt || p.ext.User == ext.User; same && again.continuesWith(&f) {
			t.legs.repeatInvite(again, m, &f)
			t.numbers.addRecentCaller(again, m.At)
			return c
		}
		t.legs.endRefused(again, m.At)
	} else if c != nil {
		t.legs.endAttempts(c, m)
	}
	i := inviteMatch{Message: m, links: &k, target: f.calledUser, diversion: f.diversion}
	if m.Src == PBX && isExt {
		i.target, i.toExtension = ext.User, true
	}
	joined := "call-id" + exact
	if c == nil {
		if c, joined = t.correlator.correlateInvite(&i); c != nil && !t.advanceCallTo(c, m) {
			c, joined = nil, ""
		}
	}
	id := t.index.ownID(m)
	if c == nil && id == "" {
		id = deriveID(m.CallID, m.FromTag)
	}
	if relived := t.index.keyHolders[key{callKey, id}].call; c == nil && relived != nil && t.advanceCallTo(relived, m) {
		c, joined = relived, "call-id"+exact
	}
	switch {
	case c != nil && len(c.legs) >= maxLegs:
		return c
	case c == nil && len(t.deadlines) >= maxCalls:
		return nil
	case c == nil:
		c = &call{id: cloneString(id), began: m.At, lastHeard: m.At, deadline: m.At.Add(ringLimit), nextCheck: m.At.Add(ringLimit)}
		heap.Push(&t.deadlines, c)
	}
	t.current = c
	t.index.indexCall(c, m, &k)
	l := &leg{
		call:   c,
		origin: m.Src,
		trunk:  m.Trunk != "",
		callID: m.CallID, fromTag: m.FromTag, branch: m.Branch,
		cseq:  m.CSeq,
		began: m.At, lastHeard: m.At,
		peer:        m.phone(),
		inviteFacts: f,
		correlation: joined,
	}
	if a := c.caller; k.fromHistoryInfo && a != nil && m.Src == PBX && sameNumber(l.diversion, cmp.Or(a.calledDID, a.calledUser)) {
		l.diversion = "" // the called number did not divert the call
	}
	l.cloneStrings(&l.callID, &l.fromTag, &l.branch, &ext.User, &ext.Domain)
	l.callerE164, l.calledE164 = t.directory.toE164(l.callerNum, m.At), t.directory.toE164(l.calledUser, m.At)
	r := t.refers.last(c, m.At)
	if o := i.refer; o != nil && o.leg.call != c && strings.HasPrefix(joined, "replaces") {
		r = o // REFER of a phone that has picked the call up
		c.leavePickup(o)
	}
	if r != nil {
		l.referredTo = r.target
		if m.Src == PBX {
			t.transfers.noteReferFollowed(r, m.At)
		}
	} else if m.Src == PBX {
		l.referredTo = c.serviceNumber()
	}
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
	if l.origin == PBX {
		t.parties.dialCallback(l, ext)
		t.numbers.learnShownNumber(l, &i)
		kind := t.directory.kindOf(l.callerNum, m.At) // a queue, IVR or conference calls on the caller's behalf
		l.otherCaller = c.caller != nil && !i.eliminated && l.callerNum != c.caller.callerNum && !c.caller.hasNumber(l.callerNum) && kind != "" && !kind.isService()
	}
	switch {
	case isExt && l.origin == Edge:
		t.parties.joinParty(l, ext, Out)
	case isExt && c.caller == nil && len(c.legs) == 1 && t.directory.isShownAs(ext.User, l.callerNum):
		t.parties.addCallback(l, ext)
	case isExt && c.awaitsCallback(ext) && t.directory.isShownAs(ext.User, l.callerNum):
		l.party = c.callback
	case isExt:
		t.parties.joinParty(l, ext, In)
	default:
		if by, ok := t.numbers.forwardingExtension(c, &i, &f, r); ok {
			t.parties.joinParty(l, by, Out)
			l.party.transferred = true
		}
	}
	if l.origin == PBX {
		t.numbers.indexLeg(l, ext.User)
		t.numbers.indexCalleeNumbers(l, &i)
	} else {
		by := cmp.Or(identifyingNumber(k.numbers[identity]), k.numbers[asserted])
		switch by {
		case "":
			by = ext.User
		case l.callerNum:
			by = l.callerNum // equal, and already in the leg's own memory
		default:
			by = cloneString(by)
		}
		t.numbers.indexLeg(l, by)
		t.parties.addService(l)
		t.numbers.indexCallerNumbers(l)
		t.numbers.addRecentCaller(l, m.At)
	}
	return c
}

// joinParty assigns a leg to the open party of the same extension and direction, or to a
// new party.
func (t *partyTracker) joinParty(l *leg, ext Extension, flow Flow) {
	for _, p := range l.call.parties {
		if !p.over && p.flow == flow && p.ext == ext && p.kind == "" {
			l.party, p.leftAt = p, time.Time{}
			return
		}
	}
	l.party = l.newParty(ext, flow)
	if flow == In {
		t.emitDial(l.party, DialIn, l.began)
	}
}

// newParty adds a party of an extension to the leg's call, with the leg as its first one.
func (l *leg) newParty(ext Extension, flow Flow) *party {
	c := l.call
	p := &party{
		id:        deriveID(c.id, string(flow), l.origin.String(), ext.User, ext.Domain, l.callID, l.fromTag, l.partySeed),
		ext:       ext,
		flow:      flow,
		firstLeg:  l,
		userAgent: l.userAgent,
		recID:     l.recID,
	}
	if flow == In {
		p.dialedNumber = l.referredTo
	}
	c.parties = append(c.parties, p)
	return p
}

// CallOf returns the id of the call that has a leg with this Call-ID, "" if there is none,
// and whether any leg of the call is up.
func (t *Tracker) CallOf(callID string) (id string, up bool) {
	c := t.index.callByCallID[callID]
	if c == nil {
		return "", false
	}
	return c.id, c.live()
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

// learnTransaction sets the INVITE transaction of a leg that was restored from the event
// log alone, when its INVITE is repeated or canceled by its sender. Final responses other
// than 2xx are ignored: a lost transaction gets no response, so they answer a re-INVITE.
func (l *leg) learnTransaction(m *Message) {
	if l.branch == "" && l.transactionLost && l.state < talking && m.Status < 300 && (!m.Request() || m.trusted() || l.matchesHost(m.From)) {
		l.branch, l.cseq = cloneString(m.Branch), m.CSeq
	}
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

// Next returns a time before which Advance has nothing to do, on the clock of [Message.At];
// false if no deadline is set.
func (t *Tracker) Next() (time.Time, bool) {
	next, ok := t.registrar.nextExpiry()
	if len(t.deadlines) > 0 && (!ok || t.deadlines[0].nextCheck.Before(next)) {
		next, ok = t.deadlines[0].nextCheck, true
	}
	if end, some := t.attempts.nextExpiry(); some && (!ok || end.Before(next)) {
		next, ok = end, true
	}
	return next, ok
}

// Advance processes the deadlines that have passed at now, on the clock of [Message.At],
// and returns the events that they cause.
func (t *Tracker) Advance(now time.Time) []Event {
	t.emitter.events, t.current = nil, nil
	t.expireDue(now)
	return t.emitter.events
}

// expireDue processes all deadlines that have passed at now: of registrations, challenged
// attempts and calls.
func (t *Tracker) expireDue(now time.Time) {
	t.registrar.expireBindings(now)
	t.attempts.expire(now)
	for len(t.deadlines) > 0 && !t.deadlines[0].nextCheck.After(now) {
		c := t.deadlines[0]
		t.current = c
		t.legs.advanceCall(c, now)
		if len(c.legs) > 0 {
			t.deadlines.schedule(c, t.config.talkLimit())
			c.nextCheck = c.deadline
			heap.Fix(&t.deadlines, c.heapIndex)
		}
	}
	t.current = nil
}

// advanceCall processes the deadlines of a call's legs up to now, the earliest first. This
// may remove legs, and removes the call with its last leg.
func (t *legTracker) advanceCall(c *call, now time.Time) {
	talk := t.config.talkLimit()
	for !c.deadline.After(now) && len(c.legs) > 0 {
		var next *leg
		for _, l := range c.legs {
			if next == nil || l.stateDeadline(talk).Before(next.stateDeadline(talk)) {
				next = l
			}
		}
		if c.deadline = next.stateDeadline(talk); c.deadline.After(now) {
			return
		}
		if c.lastHeard.Before(c.deadline) {
			c.lastHeard = c.deadline
		}
		t.changes.markChanged(c)
		t.expireLeg(next, c.lastHeard)
	}
}

// removeLeg removes a leg, with its party if no other leg carries it, and with its call if
// no leg is left.
func (t *legTracker) removeLeg(l *leg) {
	c := l.call
	if p := c.talkingParty(); p != nil && p.over {
		c.lastTalker = p.ext
	}
	if l.origin == PBX && l.trunk && c.shownOutside == "" {
		c.shownOutside = cloneString(l.callerNum)
	}
	c.legs = slices.DeleteFunc(c.legs, func(o *leg) bool { return o == l })
	c.parties = slices.DeleteFunc(c.parties, func(p *party) bool {
		return !slices.ContainsFunc(c.legs, func(o *leg) bool { return o.carries(p) })
	})
	t.numbers.unindexLeg(l)
	if !slices.ContainsFunc(c.legs, func(o *leg) bool { return o.callID == l.callID }) {
		t.index.removeCallID(c, l.callID)
	}
	if l == c.caller && l.state != over {
		c.caller = nil // an attempt that was only challenged
	}
	if len(c.legs) > 0 {
		return
	}
	heap.Remove(t.deadlines, c.heapIndex)
	t.index.unindexCall(c)
	t.refers.removeCall(c)
}

// schedule sets a call's deadline to the earliest of its legs' deadlines. Most messages
// postpone a deadline; the heap is then left as it is, and the call is only checked too
// early.
func (d *callHeap) schedule(c *call, talk time.Duration) {
	c.deadline = c.legs[0].stateDeadline(talk)
	for _, l := range c.legs[1:] {
		if d := l.stateDeadline(talk); d.Before(c.deadline) {
			c.deadline = d
		}
	}
	if c.deadline.Before(c.nextCheck) {
		c.nextCheck = c.deadline
		heap.Fix(d, c.heapIndex)
	}
}

// callHeap is a heap of calls by the time of their next check.
type callHeap []*call

func (d callHeap) Len() int           { return len(d) }
func (d callHeap) Less(i, j int) bool { return d[i].nextCheck.Before(d[j].nextCheck) }
func (d callHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapIndex, d[j].heapIndex = i, j
}
func (d *callHeap) Push(x any) {
	c := x.(*call)
	c.heapIndex = len(*d)
	*d = append(*d, c)
}
func (d *callHeap) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return c
}

// A Call is the state of one live call, for the API. All its times are by the wall clock as
// it is set now: the present minus Since is the call's age, even if the clock was set
// meanwhile.
type Call struct {
	ID       string    `json:"call_id"`
	State    string    `json:"state"` // calling, ringing or talking
	Since    time.Time `json:"since"`
	Answered time.Time `json:"answered,omitzero"`
	Parties  []Party   `json:"parties"`
}

// A Party is the state of one extension in a live call.
type Party struct {
	ID           string    `json:"sub_call_id"`
	Extension    Extension `json:"extension"`
	Flow         Flow      `json:"flow"`
	Status       Status    `json:"status"` // CALLING or ANSWER; after its hangup: the status of the hangup
	Since        time.Time `json:"since"`
	Answered     time.Time `json:"answered,omitzero"`
	Over         bool      `json:"over,omitempty"` // the party has had its hangup
	CallerNum    string    `json:"caller_num,omitempty"`
	CallerName   string    `json:"caller_name,omitempty"`
	CalledNumber string    `json:"called_number,omitempty"`
}

// Calls returns the calls in which a party was dialed and has not ended, the oldest first.
func (t *Tracker) Calls() []Call {
	calls := []Call{}
	for _, c := range t.deadlines {
		if s, live := c.viewCall(&t.clock); live {
			calls = append(calls, s)
		}
	}
	slices.SortFunc(calls, func(a, b Call) int {
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return calls
}

// viewCall returns the state of a call for the API, and whether any of its parties is live.
func (c *call) viewCall(k *clock) (s Call, live bool) {
	s = Call{ID: c.id, State: calling.String(), Since: k.wallAsSet(c.began)}
	for _, p := range c.parties {
		if !p.dialed {
			continue
		}
		status := Calling
		switch {
		case p.over:
			status = p.outcome.status
		case !p.answered.IsZero():
			status, live = Answered, true
			s.State = talking.String()
			if at := k.wallAsSet(p.answered); s.Answered.IsZero() || at.Before(s.Answered) {
				s.Answered = at
			}
		default:
			live = true
			if !p.rang.IsZero() && s.State == calling.String() {
				s.State = ringing.String()
			}
		}
		number, _ := p.calledNumber()
		s.Parties = append(s.Parties, Party{
			ID: p.id, Extension: p.ext, Flow: p.flow, Status: status,
			Since: k.wallAsSet(p.firstLeg.began), Answered: k.wallAsSet(p.answered), Over: p.over,
			CallerNum: p.firstLeg.callerNum, CallerName: p.firstLeg.callerName, CalledNumber: number,
		})
	}
	return s, live
}

// recordingID returns the value of the configured header field for recording ids, or "".
func (c *Config) recordingID(m *Message) string {
	if c.RecID == "" {
		return ""
	}
	return siptext.Field(m.Head, c.RecID)
}

// cloneString returns a copy of s: a part of a message would keep the whole message in
// memory.
func cloneString(s string) string { return strings.Clone(s) }
