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
// Legs with the same Call-ID are one call, because a PBX that is a proxy does not change
// the Call-ID. A PBX that is a B2BUA gives each leg a Call-ID of its own. The tracker
// then matches legs by ids in the INVITE, by a transfer, or else by numbers and times
// (see [Config.Correlate]). An event names the method and its confidence. A leg whose
// number matches no caller is joined to the only call that it can belong to, because the
// PBX may hide the caller's number, or show a number of the company. If two calls fit
// equally well, the leg is joined to neither and begins a call of its own, because a
// wrong call is worse than none. A call keeps its id, and two calls are never merged
// later.
//
// # Trust: which message counts
//
// The PBX and the trunks may name the caller, the diverting number and the call that an
// INVITE belongs to. A phone, or a stranger that poses as one, may name only itself. Its
// extension is the account that it authenticates as, if that is an extension; else the
// user of its From. It can refer to a call only by an X-CID that bellhop has
// authenticated, or by both tags of a dialog. An INVITE that has the Call-ID of a call,
// but comes from another address than the call's legs, is not followed. A request within
// a dialog counts at once if it has a new CSeq and comes from the PBX or over the leg's
// own flow. Any other request counts once it is accepted.
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
// At is the reading of the wall clock at the moment of an event. If the clock is set,
// even by hours, only At follows it: order, durations and limits use the steady clock of
// [Message.At]. A step of less than 100 ms is ignored.
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
//   - 30 attempts per source that are refused before a phone rings, if the
//     extension has no registration from that source, and then one every two seconds.
//     Further attempts are removed at once, and [Tracker.Suppressed] counts them.
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
// The calls that [Tracker.Changed] has returned and [Tracker.Restore] is given are not
// lost. They continue with the same ids, and their events are marked as recovered. An
// answered party gets its hangup with the BYE. A party whose BYE was missed gets an
// UNKNOWN hangup when its limit passes. Transactions are lost, so a leg that was ringing
// ends with its CANCEL or BYE, or at its limit. Bindings are learned again when phones
// refresh them. A challenged INVITE counts from its repetition.
//
// Stored times follow the wall clock, and a restored call has the age that the wall clock
// gives. If the clock was set while no process ran, the age changes by as much. If the
// clock was set back so far that the call would begin in the future, its age is the one
// at its last message.
//
// Ids are derived from the messages alone, so another node that observes the same call
// gives its events the same ids.
//
// The first NOTIFY of a mailbox sets its message count and emits no event. Messages that
// arrived since the last NOTIFY before the restart are therefore not reported.
//
// After a restart, the first refresh of a registration looks like its beginning, so
// registered is emitted again. If the phone has kept its Call-ID, the event has the same
// id as before, and an event log that accepts an id only once does not store it again.
// There are two exceptions. If a registration ended and began again with its earlier
// Call-ID, the new registered event is not stored either. If the first refresh has
// another Call-ID, because it is of another device of the extension or the phone has
// restarted too, registered is stored twice. Between two restarts each registration
// period has exactly one registered and one unregistered event. Unregistered is always
// stored, but is not emitted for a registration that ended while no process ran. If there
// are several nodes, each follows the registrations that pass through it.
package dialog

import (
	"container/heap"
	"slices"
	"time"
)

// A Tracker follows calls and returns their events. It is not safe for concurrent use,
// except where a method's comment permits it.
//
// It passes each message to its parts, each of which has the state of one concern. A part
// calls only the parts below it:
//
//	registrar ──▶ attempts, directory, emitter
//	mailboxes, texts ──▶ directory, emitter
//	correlator ──▶ numbers ──▶ directory, refers
//	legs ──▶ transfers ──▶ parties ──▶ index, directory, changes, emitter
//	  └────▶ judge, attempts, numbers
type Tracker struct {
	config    Config
	clock     clock
	deadlines callHeap // all calls
	current   *call    // the call that is being changed, for AbandonCall; nil: none
	message   Message  // the message that is being observed, here so that Observe allocates none

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
	t.emitter.events, t.current, t.message = nil, nil, m
	t.observeMessage(&t.message)
	t.current, t.message = nil, Message{}
	return t.emitter.events
}

// observeMessage processes the deadlines that have passed at m's time, and then m.
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
			t.mailboxes.observeNotify(m)
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
		t.legs.observeCancel(c, m)
	default:
		t.legs.observeInDialog(c, m)
	}
	if c != nil {
		t.changes.mark(c)
		if len(c.legs) > 0 {
			t.deadlines.schedule(c, t.config.talkLimit())
		}
	}
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

// advanceCallTo processes the deadlines of the call c up to m.At. If m.At is before
// c.lastHeard, it first sets m.At to c.lastHeard, because time never decreases within a
// call. It returns false if the call has ended by then.
func (t *Tracker) advanceCallTo(c *call, m *Message) bool {
	if m.At.Before(c.lastHeard) {
		m.At = c.lastHeard
	}
	t.current = c
	t.legs.advanceCall(c, m.At)
	c.lastHeard = m.At
	return len(c.legs) > 0
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
