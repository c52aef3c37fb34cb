// Package dialog follows calls and says what happened to them.
//
// A [Tracker] is shown every SIP message the hop forwards and returns the
// [Event]s that each one causes. It does no I/O, starts no goroutine and never
// reads the clock: the caller passes the time in. That is why a four-hour call
// is tested in a microsecond.
//
// A call is made of legs, a leg is one INVITE dialog on one side of the PBX, and
// the legs of one extension in one direction are a party. Events are said per
// party.
//
// # Which legs are one call
//
// Legs with the same Call-ID are: a PBX that is a proxy leaves it as it is. A PBX
// that is a B2BUA gives each leg its own. Then ids in the INVITE tell, or a
// transfer, or else numbers and times (see [Config.Correlate]); an event says which
// it was, and how sure it is. A leg that no number explains is of the only call that it
// can be of: its number may be hidden, or the company's. Where two calls could be meant,
// the leg is joined to neither, and begins a call of its own: a stranger's is worse than
// none. A call
// keeps its id; none is ever merged with another later.
//
// # Whose word counts
//
// The PBX and the trunks may say who calls, who was meant first and which call an
// INVITE is of. A phone, or whoever poses as one, speaks for itself only: it is the
// account that it logs in with, if that is an extension, else what its From says;
// and it names a call by an X-CID that bellhop has authenticated, or by both tags
// of a dialog. An INVITE with the Call-ID of a call that comes from elsewhere than
// the call's legs is not followed. Within a dialog a request counts at once that
// comes from the PBX or over the leg's own flow, with a CSeq that is new; any other
// counts once it is accepted.
//
// # What is promised
//
// A party has at most one dial-in or dial-out, at most one answer after it, and
// exactly one hangup if and only if it had a dial; nothing is said of it
// afterwards. This holds for any sequence of messages: lost, doubled, out of
// order, or made up. A party whose end nobody saw ends when its limit passes. A
// transfer comes before the hangup of who transfers: where a PBX takes a REFER before
// it calls anybody, as FreeSWITCH does, both are told 200 ms after that BYE at most.
//
// The events of one call are numbered from 1 without gaps: that is their order.
// Their times do not run backwards while nobody sets the clock, but for a dial-out,
// which bears the time of its INVITE. Events of different calls are not ordered
// against each other.
//
// At is what the wall clock showed at the moment of an event. If it is set, be it
// by hours, events before and after tell different clocks, and nothing else
// changes: order, durations and limits go by the steady clock of [Message.At]. A
// step of less than 100 ms is passed over.
//
// The Duration of a hangup is the time that passed since the answer, exactly: its
// At less the answer's, unless the clock was set between. Times are whole
// microseconds.
//
// # Memory
//
// A call of two legs takes about 4 KB (BenchmarkLiveCalls). A leg is remembered
// from its INVITE until 32 s after its end, the first leg of a party until 32 s
// after the party's, and a call as long as one of its legs. An INVITE that comes
// again after that is another, with the same ids.
//
// Every state has a deadline, so nothing stays for good. At most 131,072 calls
// of at most 256 legs are followed at a time; INVITEs beyond that pass by
// unfollowed. An INVITE that only met 401 or 407 is forgotten with that
// response, but for a line in a table of 16,384. One that met 422, 484 or another
// response that asks for another INVITE waits 30 s for it before it is told. Of attempts that are refused
// before a phone rings, and whose extension has no registration from there, 30 of
// one source are told and then one every two seconds: [Tracker.Suppressed] counts
// the others, which are forgotten as soon. Bindings are learnt only from
// what the PBX accepted; 65,536 addresses of record and as many contacts are
// known, and as many numbers that the PBX shows for extensions. Of MESSAGEs that
// await their 2xx, 1,024 are known, of REFERs that await their new leg as many, of
// texts that may go to another device of an extension, and of REGISTERs of at most
// 4 KiB that await their response. 65,536 addresses of record are followed for
// registered and unregistered, and 65,536 mailboxes; what was heard of least
// recently is forgotten without a word. Other methods leave no trace.
//
// # What a restart loses
//
// Nothing that [Tracker.Changed] has returned and [Tracker.Restore] is given: calls
// go on from there, with the same ids, and their events say that they were
// recovered. An answered party gets its hangup with the BYE, one whose BYE was
// missed an UNKNOWN hangup when its limit passes. Transactions are lost: a leg
// that rang ends with its CANCEL or BYE, or at its limit. Bindings are learnt
// again as phones refresh them, and a challenged INVITE counts from its
// repetition.
//
// Times are kept by the wall clock, and a call that is restored is as old as that
// says: if it was set while nothing ran, by so much older. A call is never of the
// future: where the clock was set back, it is as old as when it was last heard of.
//
// Ids are derived from the messages alone, so that another node that sees the
// same call gives its events the same ids.
//
// The first NOTIFY of a mailbox says how many messages it has, and is no event:
// what came to it since the one before the restart is not told.
//
// A registration that is up seems to begin when the phone refreshes it. As a
// phone keeps its Call-ID, registered then has the id that it had before, and a
// log that takes an id once takes it no second time. The same rule hides, after
// a restart, a registration that did end and began anew with the Call-ID it had
// before; it repeats one that another Call-ID refreshes first: another device
// of the extension, or the phone after its own restart. Between two restarts
// there is exactly one of each. Unregistered is never hidden, but not said of a
// registration that ended while nobody watched. Of several nodes, each knows
// the registrations that pass through it.
package dialog

import (
	"cmp"
	"container/heap"
	"crypto/sha256"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Config says what the tracker cannot see on the wire.
type Config struct {
	Pattern    *regexp.Regexp // users that are extensions even before they register; nil: none
	Learn      bool           // whoever registers successfully is an extension
	Extensions []Declared     // extensions that cannot be learnt

	// Correlate is how legs with Call-IDs of their own are found to be one call,
	// in this order, in the words of the config; nil: as [DefaultCorrelate].
	Correlate []string

	// E164 is the E.164 form of a number as dialed, "" if it is none; nil: not
	// asked for.
	E164 func(number string) string

	IgnorePrivacy bool // who asks that its number is not shown is told all the same

	MaxDuration time.Duration  // a call that is up for so long is lost; 0: 4 hours
	Status      map[int]Status // words for final responses, over the built-in table

	// Names of header fields; empty: none. What has [Credentials] is not copied.
	CallAPIID, CallBackID, RecID, Tag string
	Headers                           []string // of the INVITE, copied into its events
}

// Credentials reports whether a header field is what its sender logs in with
// (RFC 3261 §22), or by which bellhop marks what comes from a trunk.
func Credentials(name string) bool {
	return sameHeader(name, "Authorization") || sameHeader(name, "Proxy-Authorization") || sameHeader(name, "X-Bellhop-Trunk")
}

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

// A Tracker follows calls. It belongs to one goroutine.
type Tracker struct {
	config             Config
	directory          *directory
	callByCallID       map[string]*call
	methods            []method
	keyHolders         map[key]keyHolder
	legsByNumber       legIndex       // by the tail of the number at the leg's phone
	callersByDialed    legIndex       // callers' legs
	recentRefers       []*refer       // of the last seconds, oldest first
	pickupCandidates   []*leg         // that may have picked up a call, oldest first
	recentCallers      []recentCaller // of the last moment, oldest first
	redirectedLegs     []*leg         // that were refused with 3xx in the last seconds, oldest first
	deadlines          callHeap
	challengedAttempts *simplelru.LRU[attemptKey, attempt] // INVITEs that were challenged
	pendingTexts       *simplelru.LRU[messageKey, *pendingText]
	textForks          *simplelru.LRU[string, *textFork]
	events             []Event
	clock              clock
	current            *call  // that is at hand, see Abandon; nil: none
	node               string // in the log
	snapshotting       bool
	changedCalls       []*call // that Changed has not returned since, in the order of their changes

	limiter    *attemptLimiter
	suppressed atomic.Uint64

	mailboxes     *simplelru.LRU[mailboxKey, *mailbox]
	phoneNotifies *simplelru.LRU[notifyKey, struct{}] // NOTIFYs of phones that speak of messages
	registrar     *registrar
}

// An attemptKey is the hash of a Call-ID and a From tag: an attempt keeps no memory
// of the message it came with.
type attemptKey [16]byte

func newAttemptKey(callID, fromTag string) attemptKey {
	var buf [256]byte
	b := append(append(append(buf[:0], callID...), 0), fromTag...)
	sum := sha256.Sum256(b)
	return attemptKey(sum[:16])
}

// An attempt is the INVITE that a challenged one repeats.
type attempt struct {
	began     time.Time
	partySeed string
}

const (
	maxAttempts = 1 << 14
	maxMessages = 1 << 10
)

// New returns a Tracker that has seen nothing yet.
func New(c Config) *Tracker {
	attempts, _ := simplelru.NewLRU[attemptKey, attempt](maxAttempts, nil) // fails only without a size
	messages, _ := simplelru.NewLRU[messageKey, *pendingText](maxMessages, nil)
	texts, _ := simplelru.NewLRU[string, *textFork](maxMessages, nil)
	t := &Tracker{
		directory:          newDirectory(),
		callByCallID:       make(map[string]*call),
		keyHolders:         make(map[key]keyHolder),
		legsByNumber:       make(legIndex),
		callersByDialed:    make(legIndex),
		challengedAttempts: attempts,
		pendingTexts:       messages,
		textForks:          texts,

		limiter:       newAttemptLimiter(),
		mailboxes:     newMailboxes(),
		phoneNotifies: newPhoneNotifies(),
		registrar:     newRegistrar(),
	}
	t.Configure(c)
	return t
}

// Configure puts another configuration in force. Legs that have begun keep
// their extensions.
func (t *Tracker) Configure(c Config) {
	c.Headers = slices.DeleteFunc(slices.Clone(c.Headers), Credentials)
	for _, name := range []*string{&c.CallAPIID, &c.CallBackID, &c.RecID, &c.Tag} {
		if Credentials(*name) {
			*name = ""
		}
	}
	t.config = c
	t.methods = parseMethods(c.Correlate)
	t.directory.configure(&t.config)
}

// Observe shows the tracker one message and returns what it means to the
// world, in order; nil if it means nothing new.
func (t *Tracker) Observe(m Message) []Event {
	t.events, t.current = nil, nil
	t.observeMessage(&m)
	t.current = nil
	return t.events
}

func (t *Tracker) observeMessage(m *Message) {
	m.At = m.At.Truncate(time.Microsecond)
	t.updateClock(m.At, m.WallOffset)
	t.expireDue(m.At) // a limit that passed came before the message
	switch m.Method {
	case "REGISTER":
		t.observeRegister(m)
		return
	case "MESSAGE":
		t.observeText(m)
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
			t.observeSummary(m)
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
			t.observeInviteResponse(l, m)
			if rings && m.Status/100 == 3 && l.state == over {
				t.noteRedirect(l, m)
			}
		} else {
			t.observeInDialog(c, m)
		}
	case m.Method == "CANCEL":
		l := c.legOfInvite(m.Src, m)
		if l == nil || !m.trusted() && !l.matchesHost(m.From) {
			break
		}
		l.observeCancel(m)
		l.pickedUp = l.cancelReason.q850 == causePickedUp && t.pickupAnswered(l)
		if l.transactionLost && l.canceled {
			t.endLeg(l, m.At, t.judgeLostCancel(l))
		}
	default:
		t.observeInDialog(c, m)
	}
	if c != nil {
		t.markChanged(c)
		if len(c.legs) > 0 {
			t.scheduleCall(c)
		}
	}
}

// untagged reports whether the INVITE m is a re-INVITE although it has no To tag: of a
// dialog whose other end has given itself none (RFC 3261 §12.1.1, RFC 2543).
func (c *call) isUntaggedReinvite(m *Message) bool {
	return c != nil && slices.ContainsFunc(c.legs, func(l *leg) bool {
		return l.state == talking && l.toTag == "" && !l.transactionLost && l.callID == m.CallID && m.CSeq > l.cseq && l.inDialog(m)
	})
}

// find returns the live call that has m's Call-ID, brought up to m's time; nil
// if there is none.
func (t *Tracker) findCall(m *Message) *call {
	c := t.callByCallID[m.CallID]
	if c == nil || !t.advanceCallTo(c, m) {
		return nil
	}
	return c
}

// catchUp brings a call up to m's time, which does not run backwards in a call.
// It returns false if the call is over by then.
func (t *Tracker) advanceCallTo(c *call, m *Message) bool {
	if m.At.Before(c.lastHeard) {
		m.At = c.lastHeard
	}
	t.current = c
	t.advanceCall(c, m.At)
	c.lastHeard = m.At
	return len(c.legs) > 0
}

// within shows the legs of a call a message of a transaction within a dialog.
func (t *Tracker) observeInDialog(c *call, m *Message) {
	for _, l := range c.legs {
		l.selectFork(m)
		t.followFlow(l, m)
	}
	vouched := c.fromDialogEnd(m)
	for _, l := range c.legs {
		if !l.inDialog(m) {
			continue
		}
		if m.Method == "ACK" { // it has the CSeq of its INVITE
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
			t.observeRefer(l, m)
		case "NOTIFY":
			if m.Request() {
				t.observeReferNotify(l, m)
			}
		}
	}
}

// invite follows an INVITE that begins a dialog, or repeats itself with
// credentials. c is the call with its Call-ID, nil if there is none; invite
// returns the call that the INVITE belongs to.
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
	var k callHints
	f, ext, isExt := t.readInvite(m, &k)
	if again != nil {
		// The credentials may say that somebody else calls than the INVITE before did.
		p := again.party
		if same := p == nil || again.origin == PBX || !isExt || p.ext.User == ext.User; same && again.continuesWith(&f) {
			t.repeatInvite(again, m, &f)
			t.addRecentCaller(again, m.At)
			return c
		}
		t.endRefused(again, m.At)
	} else if c != nil {
		t.endAttempts(c, m)
	}
	i := inviteMatch{Message: m, links: &k, target: f.calledUser, diversion: f.diversion}
	if m.Src == PBX && isExt {
		i.target, i.toExtension = ext.User, true
	}
	joined := "call-id" + exact
	if c == nil {
		if c, joined = t.correlateInvite(&i); c != nil && !t.advanceCallTo(c, m) {
			c, joined = nil, ""
		}
	}
	id := t.ownID(m)
	if c == nil && id == "" {
		id = deriveID(m.CallID, m.FromTag)
	}
	if relived := t.keyHolders[key{callKey, id}].call; c == nil && relived != nil && t.advanceCallTo(relived, m) {
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
	t.indexCall(c, m, &k)
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
		l.diversion = "" // the number that was called
	}
	l.cloneStrings(&l.callID, &l.fromTag, &l.branch, &ext.User, &ext.Domain)
	l.callerE164, l.calledE164 = t.toE164(l.callerNum, m.At), t.toE164(l.calledUser, m.At)
	r := t.recentRefer(c, m.At)
	if o := i.refer; o != nil && o.leg.call != c && strings.HasPrefix(joined, "replaces") {
		r = o // of a phone that has picked the call up
		t.leavePickup(c, o)
	}
	if r != nil {
		l.referredTo = r.target
		if m.Src == PBX {
			t.noteReferFollowed(r, m.At)
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
	if a, ok := t.challengedAttempts.Get(newAttemptKey(l.callID, l.fromTag)); ok && l.origin == Edge {
		t.challengedAttempts.Remove(newAttemptKey(l.callID, l.fromTag))
		if age := m.At.Sub(a.began); age >= 0 && age < retryWithin {
			l.began, l.partySeed = a.began, a.partySeed
		}
	}
	c.legs = append(c.legs, l)
	if c.caller == nil && l.origin == Edge {
		c.caller = l
	}
	if l.origin == PBX {
		t.dialCallback(l, ext)
		t.learnShownNumber(l, &i)
		kind := t.directory.kindOf(l.callerNum, m.At) // a queue, menu or conference calls for the caller
		l.otherCaller = c.caller != nil && !i.eliminated && l.callerNum != c.caller.callerNum && !c.caller.hasNumber(l.callerNum) && kind != "" && !kind.isService()
	}
	switch {
	case isExt && l.origin == Edge:
		t.joinParty(l, ext, Out)
	case isExt && c.caller == nil && len(c.legs) == 1 && t.directory.isShownAs(ext.User, l.callerNum):
		t.addCallback(l, ext)
	case isExt && c.awaitsCallback(ext) && t.directory.isShownAs(ext.User, l.callerNum):
		l.party = c.callback
	case isExt:
		t.joinParty(l, ext, In)
	default:
		if by, ok := t.forwardingExtension(c, &i, &f, r); ok {
			t.joinParty(l, by, Out)
			l.party.transferred = true
		}
	}
	if l.origin == PBX {
		t.indexLeg(l, ext.User)
		t.indexCalleeNumbers(l, &i)
	} else {
		by := cmp.Or(identifyingNumber(k.numbers[identity]), k.numbers[asserted])
		switch by {
		case "":
			by = ext.User
		case l.callerNum:
			by = l.callerNum // in the leg's own memory
		default:
			by = cloneString(by)
		}
		t.indexLeg(l, by)
		t.addService(l)
		t.indexCallerNumbers(l)
		t.addRecentCaller(l, m.At)
	}
	return c
}

// join gives a leg its party: the one of the same extension and direction that
// is not over, else a new one.
func (t *Tracker) joinParty(l *leg, ext Extension, flow Flow) {
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

// newParty begins an extension's turn on a leg.
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

// CallOf returns the id of the call that has a leg with this Call-ID, "" if none
// has, and whether any leg of the call is up.
func (t *Tracker) CallOf(callID string) (id string, up bool) {
	c := t.callByCallID[callID]
	if c == nil {
		return "", false
	}
	return c.id, c.live()
}

// leg returns the leg whose INVITE m is, answers or cancels, and nil if there
// is none: m is then of a transaction within a dialog.
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

// learn gives a leg that only the log knew the transaction of its INVITE, when that
// comes again or is canceled, by who sent it. Of a final response other than 2xx it learns
// nothing: a lost transaction gets none, so that is a re-INVITE's.
func (l *leg) learnTransaction(m *Message) {
	if l.branch == "" && l.transactionLost && l.state < talking && m.Status < 300 && (!m.Request() || m.trusted() || l.matchesHost(m.From)) {
		l.branch, l.cseq = cloneString(m.Branch), m.CSeq
	}
}

// known looks for the legs of the caller that sends the INVITE m. One that was
// challenged, or refused so that it may call again, is repeated by m (RFC 3261 §22.2:
// same Call-ID and From tag, higher CSeq). If one has m's transaction, or a later one, m is stale: a straggler.
// Otherwise m begins another leg: a fork, or another attempt.
func (c *call) findRepeated(m *Message) (again *leg, stale bool) {
	for _, l := range c.legs {
		if l.origin != m.Src || l.fromTag != m.FromTag || l.callID != m.CallID {
			continue
		}
		l.learnTransaction(m)
		switch {
		case l.cseq > m.CSeq, l.cseq == m.CSeq && l.branch == m.Branch:
			l.transactionLost = l.transactionLost && l.cseq > m.CSeq // a transaction has begun anew
			return nil, true
		case l.state == challenged && l.cseq < m.CSeq:
			again = l
		}
	}
	return again, false
}

// Next returns a time before which Advance has nothing to do, on the clock of
// [Message.At]; false if it has nothing to do at all.
func (t *Tracker) Next() (time.Time, bool) {
	next, ok := t.registrar.nextExpiry()
	if len(t.deadlines) > 0 && (!ok || t.deadlines[0].nextCheck.Before(next)) {
		next, ok = t.deadlines[0].nextCheck, true
	}
	if _, a, some := t.challengedAttempts.GetOldest(); some {
		if end := a.began.Add(retryWithin); !ok || end.Before(next) {
			next, ok = end, true
		}
	}
	return next, ok
}

// Advance does what is due at now, on the clock of [Message.At], and returns what
// it means to the world.
func (t *Tracker) Advance(now time.Time) []Event {
	t.events, t.current = nil, nil
	t.expireDue(now)
	return t.events
}

// expireDue does what is due at now.
func (t *Tracker) expireDue(now time.Time) {
	t.expireBindings(now)
	t.expireAttempts(now)
	for len(t.deadlines) > 0 && !t.deadlines[0].nextCheck.After(now) {
		c := t.deadlines[0]
		t.current = c
		t.advanceCall(c, now)
		if len(c.legs) > 0 {
			t.scheduleCall(c)
			c.nextCheck = c.deadline
			heap.Fix(&t.deadlines, c.heapIndex)
		}
	}
	t.current = nil
}

// expireAttempts forgets the challenged INVITEs that nobody has repeated in time.
func (t *Tracker) expireAttempts(now time.Time) {
	for {
		_, a, ok := t.challengedAttempts.GetOldest()
		if !ok || now.Sub(a.began) < retryWithin {
			return
		}
		t.challengedAttempts.RemoveOldest()
	}
}

// advance does what is due in a call, the earliest first, and forgets its legs
// that are done with. A call without legs is forgotten itself.
func (t *Tracker) advanceCall(c *call, now time.Time) {
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
		t.markChanged(c)
		t.expireLeg(next, c.lastHeard)
	}
}

// drop forgets a leg, its party if it was the last one, and its call if it was
// the last one.
func (t *Tracker) removeLeg(l *leg) {
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
	t.unindexLeg(l)
	if !slices.ContainsFunc(c.legs, func(o *leg) bool { return o.callID == l.callID }) {
		t.removeCallID(c, l.callID)
	}
	if l == c.caller && l.state != over {
		c.caller = nil // an attempt that was only challenged
	}
	if len(c.legs) > 0 {
		return
	}
	heap.Remove(&t.deadlines, c.heapIndex)
	t.unindexCall(c)
	t.recentRefers = slices.DeleteFunc(t.recentRefers, func(r *refer) bool { return r.leg.call == c })
}

// schedule notes when a call is due next. Most of what happens puts that off:
// then the call is only looked at too early.
func (t *Tracker) scheduleCall(c *call) {
	talk := t.config.talkLimit()
	c.deadline = c.legs[0].stateDeadline(talk)
	for _, l := range c.legs[1:] {
		if d := l.stateDeadline(talk); d.Before(c.deadline) {
			c.deadline = d
		}
	}
	if c.deadline.Before(c.nextCheck) {
		c.nextCheck = c.deadline
		heap.Fix(&t.deadlines, c.heapIndex)
	}
}

// deadlines is a heap of the calls by when they are looked at.
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

// A Call is how one live call stands. Its times, and its parties', are by the wall
// clock as it is set now: what is between Since and the present is how long it has
// taken, also if the clock was set meanwhile.
type Call struct {
	ID       string    `json:"call_id"`
	State    string    `json:"state"` // calling, ringing, talking
	Since    time.Time `json:"since"`
	Answered time.Time `json:"answered,omitzero"`
	Parties  []Party   `json:"parties"`
}

// A Party is how one extension in a live call stands.
type Party struct {
	ID           string    `json:"sub_call_id"`
	Extension    Extension `json:"extension"`
	Flow         Flow      `json:"flow"`
	Status       Status    `json:"status"` // CALLING, ANSWER; after its hangup: the hangup's
	Since        time.Time `json:"since"`
	Answered     time.Time `json:"answered,omitzero"`
	Over         bool      `json:"over,omitempty"` // it had its hangup
	CallerNum    string    `json:"caller_num,omitempty"`
	CallerName   string    `json:"caller_name,omitempty"`
	CalledNumber string    `json:"called_number,omitempty"`
}

// Calls returns the calls in which a party was dialed and is not over, the
// oldest first.
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

// snapshot says how a call stands, and whether a party of it is live.
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

func (t *Tracker) recordingID(m *Message) string {
	if t.config.RecID == "" {
		return ""
	}
	return headerValue(m.Head, t.config.RecID)
}

// clone gives a string memory of its own: those of a message share theirs.
func cloneString(s string) string { return strings.Clone(s) }
